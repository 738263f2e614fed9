"""Decoded images that are evaluated again and again: kept once on disk, and mapped into memory by every process that needs them.

Scoring three hundred networks on two thousand JPEG files would decode each file three hundred times, and in every process anew.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ..._files._cache import cache_folder
from ..._files._lock import temporary
from ..._files._writing import write_atomic
from ...errors import FileError
from ._images import Batch

_SHARE, _MOST = 4, 2e9
"""Images are kept if they take at most a quarter of the room that is left on the disk, and at most 2 GB: 13,000 of 224 px."""


def kept(name: str, count: int, batch: int, decoded: Callable[[], Iterator[Batch]]) -> Iterator[Batch]:
    """Batches of images out of the file in which they are kept, which is written first if there is none.

    Args:
        name: of the images, unique for what they show.
        count: how many they are.
        batch: how many at a time.
        decoded: decodes all of them, in batches of any size.
    """
    folder = cache_folder()
    path = None if folder is None or not count else folder / f"{name}-{count}"
    found = None if path is None else _read(path, count)
    if found is None and path is not None and _write(path, count, decoded()):
        found = _read(path, count)
    if found is None:
        yield from decoded()
        return
    x, y = found
    for start in range(0, count, batch):
        yield torch.from_numpy(x[start : start + batch]), torch.from_numpy(y[start : start + batch])


def _paths(path: Path) -> tuple[Path, Path]:
    return path.with_name(f"{path.name}.labels.npy"), path.with_name(f"{path.name}.images.npy")


def _read(path: Path, count: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]] | None:
    """The images, mapped into memory, and the labels; ``None`` if they are not there, or not whole."""
    labels, images = _paths(path)
    try:
        x, y = np.load(images, mmap_mode="c", allow_pickle=False), np.load(labels, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    whole = x.dtype == np.uint8 and x.ndim == 4 and len(x) == count and y.dtype == np.int64 and y.shape == (count,)
    return (x, y) if whole else None


def _write(path: Path, count: int, batches: Iterator[Batch]) -> bool:
    """Keep images, whole or not at all; false if there is no room for them or no permission."""
    labels, images = _paths(path)
    left: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        found: list[npt.NDArray[np.int64]] = []
        x_all: npt.NDArray[np.uint8] | None = None
        done = 0
        for x, y in batches:
            if x_all is None:
                shape = (count, *x.shape[1:])
                size = float(np.prod(shape, dtype=np.float64))
                if size > min(_MOST, shutil.disk_usage(path.parent).free / _SHARE):
                    return False
                left, file = temporary(images)
                file.close()
                x_all = np.lib.format.open_memmap(left, mode="w+", dtype=np.uint8, shape=shape)
            x_all[done : done + len(y)] = x.numpy()
            found.append(y.numpy().astype(np.int64))
            done += len(y)
        if x_all is None or left is None or done != count:
            return False
        buffer = io.BytesIO()
        np.save(buffer, np.concatenate(found))
        write_atomic(labels, buffer.getvalue(), sync=False)
        x_all.flush()  # type: ignore[attr-defined]
        os.replace(left, images)
        left = None
        return True
    except (OSError, FileError):
        return False
    finally:
        if left is not None:
            left.unlink(missing_ok=True)
