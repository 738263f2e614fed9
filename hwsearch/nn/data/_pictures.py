"""Image files, and images in shards: each read completely and scaled correctly, or refused by name."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from ..._files._reading import guarded, read_bytes
from ...errors import InvalidInput, require
from ._shards import Member

_TIFF_BITS, _TIFF_MEANING, _WHITE_IS_ZERO = 258, 262, 0
_WIDE = {"PNG", "PPM"}
"""Formats whose grey images of more than 8 bits have 16, whatever numbers they are read into."""


def read_picture(place: str | Member, least: int | None = None) -> Any:
    """The image in a file or in a shard, as a ``PIL.Image`` of mode RGB with 8 bits a channel.

    Sixteen bits a channel are scaled to eight, so that black and white stay what they are. Numbers whose black and white are not known
    (floating point, 32 bits, signed) are refused. Of an animation the first image is taken, and transparency is dropped.

    Args:
        place: the file, or the member of the shard.
        least: a larger JPEG file is decoded at a half, a quarter or an eighth of its size, as far as both sides keep this many pixels: that
            takes less than half of the time, and finds the same damage. If omitted, at its size.

    Raises:
        FileError: it cannot be read.
        CorruptFile: it is damaged, no image, or holds such numbers.
    """
    imaging = require("PIL.Image", feature="folders of images", extra="torch")
    data = place.read() if isinstance(place, Member) else read_bytes(place, "image")
    with guarded(str(place), "image"), imaging.open(io.BytesIO(data)) as image:
        if least is not None:
            image.draft(None, (least, least))
        image.load()
        if image.mode.startswith("I;16") or (image.mode == "I" and image.format in _WIDE):
            return imaging.fromarray(_eight_bits(image)).convert("RGB")
        if image.mode in ("I", "F"):
            what = "floating-point numbers" if image.mode == "F" else "signed or 32-bit numbers"
            raise InvalidInput(
                f"its pixels are {what}, of which nobody can say how bright white is. Save it with 8 or 16 bits a channel, scaled as you "
                "mean it."
            )
        return image.convert("RGB")


def _eight_bits(image: Any) -> Any:
    """Grey pixels of up to 16 bits as ``uint8``, shape ``(height, width)``."""
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(_TIFF_BITS, (16,))[0]
    pixels = np.asarray(image).astype(np.float64) * (255.0 / (2**bits - 1))
    grey = np.rint(pixels).astype(np.uint8)
    return 255 - grey if tags.get(_TIFF_MEANING) == _WHITE_IS_ZERO else grey
