"""Images as numbers of any usual type and layout, and labels, as the arrays that everything else works with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from ...errors import InvalidInput, UnknownName

Array = npt.NDArray[Any]
OBLONG = ("pad", "crop", "stretch")
"""What may be done to images that are not square, since networks take square ones."""
LABELS = ("label", "labels", "target", "class", "fine_label", "y")
"""Under which of these names rows have their class; in a dataset otherwise under their first whole number."""
_FEW = 4
"""An axis this short, where others are longer, is that of the channels."""


def as_array(given: npt.ArrayLike | torch.Tensor, what: str) -> Array:
    """An array or a tensor, wherever it is, as an array; ``bfloat16``, which numpy lacks, becomes ``float32``.

    Args:
        given: the numbers.
        what: what they are, for the message.

    Raises:
        InvalidInput: it is neither.
    """
    try:
        if not isinstance(given, torch.Tensor):
            return np.asarray(given)
        small = given.is_floating_point() and given.element_size() < 4
        return np.asarray((given.float() if small else given).detach().cpu().numpy())
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{what} cannot be read as an array: {error}.") from error


@dataclass(frozen=True)
class Form:
    """How the numbers of images become pixels: found once, in training images, and the same for all others.

    Attributes:
        layout: ``"nchw"``, ``"nhwc"``, or ``"nhw"`` without an axis for channels.
        kind: of numbers: ``"b"``, ``"i"`` (whole) or ``"f"``.
        low, high: the numbers that become 0 and 255. Normalisation undoes whatever scale that is.
    """

    layout: str
    kind: str
    low: float
    high: float

    @classmethod
    def of(cls, images: Array, what: str) -> Form:
        """The form of training images.

        Truth values and numbers from 0 to 1 are shares of white; other numbers from 0 to 255 are what they are; and all others, be they of
        16 bits or normalised, lie between the least and the largest.

        Args:
            images: shape ``(n, channels, height, width)``, ``(n, height, width, channels)`` or ``(n, height, width)``.
            what: what they are, for messages.

        Raises:
            InvalidInput: they have another shape, or are no finite real numbers.
        """
        _check_numbers(images, what)
        if images.ndim not in (3, 4) or not images.size:
            raise InvalidInput(
                f"{what} must be images of shape (n, channels, height, width), (n, height, width, channels) or (n, height, width), not "
                f"{images.shape}."
            )
        kind = _kind(images)
        least, most = float(images.min()), float(images.max())
        if kind == "b" or (kind == "f" and least >= 0 and most <= 1):
            low, high = 0.0, 1.0
        elif least >= 0 and most <= 255:
            low, high = 0.0, 255.0
        else:
            low, high = least, max(most, least + 1e-12)
        return cls(_layout(images.shape), kind, low, high)

    def __call__(self, images: Array, what: str) -> npt.NDArray[np.uint8]:
        """Images as ``uint8``, shape ``(n, channels, height, width)``.

        Raises:
            InvalidInput: they are of another kind or have another number of axes than the training images.
        """
        _check_numbers(images, what)
        if _kind(images) != self.kind or images.ndim != len(self.layout):
            raise InvalidInput(
                f"{what} must be images of the kind of the training images, {self.layout} of {_WORDS[self.kind]}, not {images.dtype} "
                f"{images.shape}."
            )
        if images.ndim == 3:
            images = images[:, None]
        elif self.layout == "nhwc":
            images = images.transpose(0, 3, 1, 2)
        if images.dtype != np.uint8 and (self.low, self.high) != (0.0, 255.0):
            scaled = (images.astype(np.float32) - np.float32(self.low)) * np.float32(255.0 / (self.high - self.low))
            images = np.clip(np.rint(scaled), 0, 255)
        elif images.dtype.kind == "f":
            images = np.clip(np.rint(images), 0, 255)
        return np.ascontiguousarray(images.astype(np.uint8))


_WORDS = {"b": "truth values", "i": "whole numbers", "f": "floating-point numbers"}


def _kind(images: Array) -> str:
    return "i" if images.dtype.kind == "u" else images.dtype.kind


def _check_numbers(images: Array, what: str) -> None:
    """Check that images are finite real numbers.

    Raises:
        InvalidInput: they are not.
    """
    if images.dtype.kind not in "biuf" or (images.dtype.kind == "f" and not np.isfinite(images).all()):
        raise InvalidInput(f"{what} must be finite real numbers, whole or floating-point, not {images.dtype} with others among them.")


def _layout(shape: tuple[int, ...]) -> str:
    """Where the channels are: the axis that is short, or beside two that are equal; the first one where nothing tells."""
    if len(shape) == 3:
        return "nhw"
    first, last = shape[1] <= _FEW, shape[3] <= _FEW
    if first != last:
        return "nchw" if first else "nhwc"
    return "nhwc" if not first and shape[1] == shape[2] != shape[3] else "nchw"


def squared(images: torch.Tensor, how: str) -> torch.Tensor:
    """Images of shape ``(n, channels, height, width)``, made square if they are not.

    Args:
        images: ``uint8``.
        how: ``"pad"`` with black on both sides, ``"crop"`` the middle, or ``"stretch"`` the shorter side.

    Raises:
        UnknownName: another word.
    """
    if how not in OBLONG:
        raise UnknownName("way to make oblong images square", how, OBLONG)
    height, width = images.shape[2:]
    if height == width:
        return images
    if how == "stretch":
        side = max(height, width)
        larger = F.interpolate(images.float(), size=(side, side), mode="bilinear", antialias=True)
        return larger.round_().clamp_(0, 255).to(torch.uint8)
    side = max(height, width) if how == "pad" else min(height, width)
    above, left = (side - height) // 2, (side - width) // 2  # negative ones cut off
    return F.pad(images, (left, side - width - left, above, side - height - above)).contiguous()


def as_labels(given: Array, what: str) -> npt.NDArray[np.int64]:
    """Labels as whole numbers, shape ``(n,)``; also from a column of them, or from rows that hold a single 1 at the place of the class.

    Args:
        given: the labels.
        what: what they are, for messages.

    Raises:
        InvalidInput: they are others; nothing is rounded.
    """
    if given.dtype.kind not in "biuf":
        raise InvalidInput(f"{what} must be whole numbers, one a class, not {given.dtype}.")
    if given.ndim == 2 and given.shape[1] == 1:
        given = given[:, 0]
    elif given.ndim == 2 and ((given == 0) | (given == 1)).all() and (given.sum(axis=1) == 1).all():
        return np.asarray(given.argmax(axis=1), dtype=np.int64)
    labels = given.astype(np.int64) if given.dtype.kind != "f" or np.isfinite(given).all() else None
    if labels is None or not np.array_equal(labels, given):
        raise InvalidInput(f"{what} must be whole numbers, one a class, and some are not; round them yourself where that is what you mean.")
    return labels


def held_out(labels: npt.NDArray[np.int64], parts: int) -> list[npt.NDArray[np.int64]]:
    """Share images out for good: a tenth of each class, at least one image, for each part but the first, which has the rest.

    Args:
        labels: shape ``(n,)``.
        parts: how many.

    Returns:
        The numbers of the images of each part, ascending.

    Raises:
        InvalidInput: a class has too few images.
    """
    rng = np.random.default_rng(0)
    shares: list[list[npt.NDArray[np.int64]]] = [[] for _ in range(parts)]
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        if len(members) < parts:
            raise InvalidInput(
                f"Class {label} has {len(members)} image(s), and {parts} are needed to hold some out. Give validation and test images too."
            )
        tenth = max(1, len(members) // 10)
        for part in range(1, parts):
            shares[part].append(members[(part - 1) * tenth : part * tenth])
        shares[0].append(members[(parts - 1) * tenth :])
    return [np.sort(np.concatenate(share)) for share in shares]
