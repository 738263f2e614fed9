"""Tabular benchmarks: every network of a space, measured and trained."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np

from .._files._reading import PathLike, guarded, parse_text, read_bytes, read_json
from .._types import Rows, Values
from ..errors import CorruptFile, InvalidInput, UnknownName
from ..spaces import _tables
from ..spaces._space import SearchSpace
from ..spaces.library import nasbench201 as _nb201
from ..spaces.library import nasbench_macro as _macro
from ._checks import report, some


@dataclass(frozen=True, eq=False)
class _Look:
    """A column looked up by rows; an object and not a function, so that it travels to the workers of an executor."""

    space: SearchSpace
    column: str
    array: Values = field(repr=False)

    def __call__(self, X: Rows) -> Values:
        found: Values = self.array[tuple(self.space.check(X).T)]
        return found


@dataclass(frozen=True, eq=False)
class Benchmark:
    """All networks of a space with what is known of them.

    Example:
        >>> import hwsearch, itertools, json
        >>> from pathlib import Path
        >>> from hwsearch.interop import nasbench_macro
        >>> def entry(n):  # as in the published file, with made-up numbers: the more accurate, the larger
        ...     return {"test_acc": [n, n, n], "mean_acc": n, "std": 0.1, "params": 1e6, "flops": 1e6 * n}
        >>> every = {"".join(map(str, genes)): entry(80 + sum(genes)) for genes in itertools.product(range(3), repeat=8)}
        >>> size = Path("macro.json").write_text(json.dumps(every))
        >>> benchmark = nasbench_macro("macro.json")
        >>> space, accuracy = benchmark.with_costs(macs="flops"), benchmark.score("mean_acc")
        >>> hwsearch.search(space, predictor=accuracy, limits={"macs": 85e6}).best_score
        85.0

    Attributes:
        space: the space.
        columns: name -> array with one axis a gene; NaN where nothing is known.
        problems: what was found wrong in the file.
    """

    space: SearchSpace
    columns: Mapping[str, Values] = field(repr=False)
    problems: tuple[str, ...] = ()

    def score(self, column: str) -> Callable[[Rows], Values]:
        """A column as the score of a search: rows, shape ``(n, genes)``, to values, shape ``(n,)``.

        Raises:
            UnknownName: no such column.
        """
        return _Look(self.space, column, self._column(column))

    def with_costs(self, **costs: str) -> SearchSpace:
        """The space with columns as metrics, such as ``latency_ms="lat_ms.raspi4"``; what is unknown is impossible (infinite).

        Raises:
            UnknownName: no such column.
        """
        genes = tuple(range(len(self.space.choices)))
        tables = {}
        for cost, column in costs.items():
            array = self._column(column)
            tables[cost] = (_tables.table(genes, np.where(np.isnan(array), np.inf, array)),)
        return replace(self.space, costs=tables)

    def _column(self, name: str) -> Values:
        if name not in self.columns:
            raise UnknownName("column", name, self.columns)
        return self.columns[name]


def nasbench201(file: PathLike) -> Benchmark:
    """Read all networks of NAS-Bench-201 with accuracies (percent), latencies (ms) and energies (mJ) on many devices.

    Cells whose output does not depend on their input, and missing numbers, are reported.

    Example:
        >>> import itertools, numpy as np, warnings
        >>> from hwsearch.interop import nasbench201
        >>> operations = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
        >>> cells = map("|{}~0|+|{}~0|{}~1|+|{}~0|{}~1|{}~2|".format, *zip(*itertools.product(operations, repeat=6)))
        >>> lines = [f"{cell},{60 + cell.count('conv')}" for cell in cells]  # made-up accuracies
        >>> np.savetxt("nb201.csv", lines, fmt="%s", header="arch,accuracy", comments="")
        >>> with warnings.catch_warnings(action="ignore"):  # of cells whose output does not depend on their input
        ...     benchmark = nasbench201("nb201.csv")
        >>> benchmark.space.size, list(benchmark.columns)
        (15625, ['accuracy'])

    Args:
        file: CSV, perhaps compressed (gzip), with a column ``arch`` such as ``|none~0|+|none~0|none~1|+|none~0|none~1|none~2|`` and
            columns of numbers.

    Raises:
        FileError: the file cannot be read.
        CorruptFile: it is no such table, or does not hold every network once.
    """
    name = os.fspath(file)
    data = read_bytes(file, "NAS-Bench-201")
    with guarded(name, "table of NAS-Bench-201"):
        text = parse_text(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data, name)
        head, *lines = [line for line in csv.reader(io.StringIO(text, newline="")) if line]
        named = dict(zip(head, zip(*lines, strict=True), strict=True))
        names = named["arch"]
        rows = [_cells()[cell] for cell in names]
        columns = {
            column: [float(value) if value else math.nan for value in values]
            for column, values in named.items()
            if column not in ("arch", "arch_idx")
        }
    dead = [cell for cell, row in zip(names, rows, strict=True) if not _connected(row)]
    return _benchmark(name, _nb201.build(), rows, columns, [f"{some(dead, 1)} whose output does not depend on the input"] if dead else [])


@cache
def _cells() -> Mapping[str, tuple[int, ...]]:
    """Every cell as the benchmark writes it, and the operation indices of its edges in the order of the space's genes."""
    edges = list(_nb201.EDGES)
    starts = ["|" if source == 0 else "" for _, source in edges]  # a node's edges stand between bars, and nodes are joined by a plus
    ends = ["|+" if source == node - 1 else "|" for node, source in edges]
    parts = [
        [f"{start}{operation}~{source}{end}" for operation in _nb201.OPERATIONS]
        for (_, source), start, end in zip(edges, starts, ends, strict=True)
    ]
    genes = itertools.product(range(len(_nb201.OPERATIONS)), repeat=len(edges))
    return {"".join(cell).removesuffix("+"): row for cell, row in zip(itertools.product(*parts), genes, strict=True)}


@cache
def _connected(row: tuple[int, ...]) -> bool:
    """Whether a path of operations other than ``none`` leads from the input to the output."""
    reached = {0}
    for (node, source), operation in zip(_nb201.EDGES, row, strict=True):
        if source in reached and _nb201.OPERATIONS[operation] != "none":
            reached.add(node)
    return 3 in reached


def nasbench_macro(file: PathLike) -> Benchmark:
    """Read all networks of NAS-Bench-Macro: CIFAR-10 accuracies (percent) of three trainings, MACs and parameters.

    Example:
        >>> import itertools, json
        >>> from pathlib import Path
        >>> from hwsearch.interop import nasbench_macro
        >>> one = {"test_acc": [93.1, 93.2, 93.3], "mean_acc": 93.2, "std": 0.1, "params": 2e6, "flops": 1e8}
        >>> size = Path("nbmacro.json").write_text(json.dumps({"".join(genes): one for genes in itertools.product("012", repeat=8)}))
        >>> benchmark = nasbench_macro("nbmacro.json")
        >>> benchmark.space.size, sorted(benchmark.columns)
        (6561, ['acc1', 'acc2', 'acc3', 'flops', 'mean_acc', 'params', 'std'])

    Args:
        file: JSON, such as ``{"02012100": {"test_acc": [...], "mean_acc": ..., "std": ..., "params": ..., "flops": ...}, ...}``.

    Raises:
        FileError: the file cannot be read.
        CorruptFile: it is no such table, or does not hold every network once.
    """
    name = os.fspath(file)
    document = read_json(file, "NAS-Bench-Macro")
    space = _macro.build()
    with guarded(name, "table of NAS-Bench-Macro"):
        rows = [[int(digit) for digit in key] for key in document]
        entries = list(document.values())
        columns = {column: [float(entry[column]) for entry in entries] for column in ("mean_acc", "std", "params", "flops")}
        for number in range(3):
            columns[f"acc{number + 1}"] = [float(entry["test_acc"][number]) for entry in entries]
    return _benchmark(name, space, rows, columns, [])


def _benchmark(
    name: str, space: SearchSpace, rows: Sequence[Sequence[int]], columns: Mapping[str, list[float]], found: list[str]
) -> Benchmark:
    try:
        X = space.check(np.array(rows))
    except (InvalidInput, ValueError) as error:
        raise CorruptFile(f"{name}: {error}") from error
    index = np.ravel_multi_index(tuple(X.T), space.sizes)
    if not np.array_equal(np.sort(index), np.arange(np.prod(space.sizes))):
        raise CorruptFile(
            f"{name} holds {len(np.unique(index))} different networks in {len(index)} rows; {np.prod(space.sizes)} were expected."
        )
    arrays = {}
    for column, values in columns.items():
        array = np.full(len(index), np.nan)
        array[index] = values
        if np.isinf(array).any():
            raise CorruptFile(f"{name}: the column {column!r} holds infinite numbers.")
        arrays[column] = array.reshape(space.sizes)
        unknown, negative = int(np.isnan(array).sum()), int((array < 0).sum())
        found += [f"{column}: {unknown} missing"] if unknown else []
        found += [f"{column}: {negative} negative"] if negative else []
    report(name, found)
    return Benchmark(space, arrays, tuple(found))
