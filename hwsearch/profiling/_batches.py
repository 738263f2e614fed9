"""Several batch sizes in one go: a latency table each."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from .._files._writing import PathLike
from ..backends._load import load_backend
from ..backends.base import Backend
from ..devices._table import LatencyTable
from ..errors import InvalidInput
from ..spaces._load import load_space
from ..spaces._space import SearchSpace
from ._profile import profile


def profile_batches(
    space: str | SearchSpace, batches: Iterable[int], *, out: PathLike, backend: str | Backend = "tensorrt", **options: Any
) -> dict[int, LatencyTable]:
    """Profile a space at several batch sizes, one after the other: a GPU that is idle at 1 may be the cheaper one at 64.

    A run that was killed continues where it was when it is started again, and tables that are complete are not measured again.

    Example:
        >>> import hwsearch
        >>> space = hwsearch.load_space("resnet_digits")
        >>> few = hwsearch.profiling.Effort(blocks=space.unique_blocks[:4])
        >>> out = "batch-{batch}.json"
        >>> tables = hwsearch.profiling.profile_batches(space, (1, 8), backend="roofline", out=out, effort=few, progress=False)
        >>> [(size, table.device.batch) for size, table in tables.items()]
        [(1, 1), (8, 8)]

    Args:
        space: a space or its name.
        batches: images at once, such as ``(1, 8, 64, 256)``.
        out: where the tables go; ``{batch}`` in it stands for the batch size.
        backend: a backend or its name; the batch of a backend plays no part.
        **options: as of :func:`hwsearch.profile`.

    Returns:
        Batch size -> table, in ascending order.

    Raises:
        InvalidInput: no batch size, one below 1, or several and no ``{batch}`` in ``out``.
        HwsearchError: as :func:`hwsearch.profile` does.
    """
    sizes, path = sorted(set(batches)), os.fspath(out)
    if not sizes or sizes[0] < 1:
        raise InvalidInput(f"batches must be at least one number, each at least 1, not {sizes}.")
    if len(sizes) > 1 and "{batch}" not in path:
        raise InvalidInput(f"Each batch size has a table of its own: put {{batch}} into the path, such as {path}-{{batch}}.json.")
    where = load_space(space)
    name, given = (backend.name, backend.options) if isinstance(backend, Backend) else (backend, {})
    tables = {}
    for size in sizes:
        # Only a batch above 1 is passed on: not every backend has the option.
        chosen = load_backend(name, **({**given, "batch": size} if size > 1 or "batch" in given else given))
        tables[size] = profile(where, backend=chosen, out=path.replace("{batch}", str(size)), **options)
    return tables
