"""Parts: what users give of a problem (paths, names, tables, numbers), loaded and checked against each other."""

from __future__ import annotations

import functools
import operator
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from .._files._writing import PathLike
from .._types import Score
from ..costs._limits import Limit, check_limits
from ..costs._metrics import METRICS, Metric, available, metric
from ..devices._table import QUANTITIES, LatencyTable, load_table
from ..errors import InvalidInput, MissingBlocks, SaturationWarning, WrongSpace
from ..scores._predictor import Predictor
from ..scores._predictor_file import load_predictor
from ..spaces._space import SearchSpace

Devices = LatencyTable | PathLike | Sequence[LatencyTable | PathLike]
"""A latency table, its path, or its name in ``latency_tables/``; or several of them."""


_SHIPPED = tuple(Path(__file__).parents[up] / "latency_tables" for up in (1, 2))
"""Where the tables lie that come with hwsearch: inside the package, or beside it in a checkout."""
_RENAMED = {"slopes": "gradient", "doubt": "std", "outside": "extrapolates"}
"""Former names of what a score may know of itself: a score that has only these would be searched less well without a word."""


def scored(predictor: Predictor | PathLike | Score | None, space: SearchSpace) -> tuple[Score, SearchSpace]:
    """What scores the rows of a space, and the space with what a predictor has learned of it.

    Raises:
        InvalidInput: it is neither a predictor nor callable, or has methods of former names only.
        WrongSpace: it belongs to another space.
    """
    found = load_predictor(predictor, space) if isinstance(predictor, str | Path) else predictor
    if not callable(found):
        raise InvalidInput(f"predictor must be a Predictor, the path of one, or a callable from rows to scores, not {predictor!r}.")
    for old, new in _RENAMED.items():
        if callable(getattr(found, old, None)) and not hasattr(found, new):
            raise InvalidInput(f"The predictor has a method {old!r}, which is called {new!r} now. Rename it.")
    if isinstance(found, Predictor) and found.fingerprint != space.fingerprint:
        raise WrongSpace(
            f"The predictor is of space {found.space.name!r} ({found.fingerprint}), not of {space.name!r} ({space.fingerprint})."
        )
    if isinstance(found, Predictor) and found.space.learned:
        return found, space.knowing(found.space.learned)
    return found, space


def moved(metrics: Sequence[Metric], space: SearchSpace) -> list[Metric]:
    """Metrics of the same space, however restricted.

    Raises:
        InvalidInput: one is no metric, or two have the same name.
        WrongSpace: one is of another space.
    """
    names: set[str] = set()
    for place, entry in enumerate(metrics):
        if not isinstance(entry, Metric):
            raise InvalidInput(
                f"metrics[{place}] is {entry!r}, not a hwsearch.costs.Metric. A search has to bound what it limits: make the cost with "
                "Metric.of_blocks() or Metric.from_tables()."
            )
        if entry.space.fingerprint != space.fingerprint:
            raise WrongSpace(f"The metric {entry.name!r} is of space {entry.space.name!r}, not of {space.name!r}.")
        if entry.name in names:
            raise InvalidInput(f"Two metrics are called {entry.name!r}; limits and results would mean either. Give each a name of its own.")
        names.add(entry.name)
    return [replace(entry, space=space) for entry in metrics]


def tables_of(device: Devices | None) -> list[LatencyTable]:
    """The latency tables of one device or several.

    Raises:
        MissingBlocks: one of them holds no block.
    """
    if device is None:
        return []
    found = [find_table(each) for each in (device if isinstance(device, Sequence) and not isinstance(device, str) else [device])]
    for table in found:
        if not table.rows:
            raise MissingBlocks(
                f"{table.source} holds no block, so it says nothing of any network. Profile its device with: hwsearch profile SPACE "
                f"--backend {table.device.runtime} --out TABLE"
            )
    return found


def limits_of(
    space: SearchSpace, tables: Sequence[LatencyTable], known: Sequence[Metric], limits: Mapping[str, float]
) -> tuple[Limit, ...]:
    """The limits on metrics that are known, which may be named without their device; one for each sum whose largest a metric is.

    Raises:
        UnknownName, InvalidLimit: of a limit.
        InvalidInput: a measured metric is limited, and no device is named.
        MissingBlocks: the device's table lacks blocks of the space.
    """
    checked = check_limits(limits, [*METRICS, *(entry.name for entry in known)])
    for name in checked:
        if name in QUANTITIES and all(name != entry.name for entry in known):
            for table in tables:
                if name not in available(space, table):
                    metric(name, space, table)  # raises, and says for which blocks there is none
        if not any(name in (entry.name, _plain(entry)) for entry in known):
            raise InvalidInput(f"{name} is measured: name a device's latency table (device=...).")
    most = {entry.name: checked.get(entry.name, checked.get(_plain(entry))) for entry in known}
    return tuple(Limit(part, value) for entry in known if (value := most[entry.name]) is not None for part in entry.parts)


def told(source: object) -> str | None:
    """Where a part came from: a path as it was given, anything else as it shows itself."""
    return source if source is None or isinstance(source, str) else str(source) if isinstance(source, Path) else repr(source)


def compare_arithmetic(predictor: object, space: SearchSpace, tables: Sequence[LatencyTable]) -> None:
    """Warn if a predictor was fitted to int8 networks with weights of other bits than a device carries."""
    bits = getattr(predictor, "weight_bits", None)
    choices = zip(space.choices, space.allowed, strict=True)
    offered = {choice.values[index] for choice, allowed in choices if choice.is_precision for index in allowed}
    for table in tables if bits is not None and "int8" in offered else ():
        if table.device.weight_bits != bits:
            command, kind = ("", "Probing") if space.learns_alone else (f"hwsearch fit-predictor --device {table.source}, or ", "Sampling")
            warnings.warn(
                f"The predictor was fitted to networks with int8 weights of {bits} bits, and the products of {table.device.name!r} carry "
                f"{table.device.weight_bits}, which is what files for it have. Fit a predictor for this device with: "
                f"{command}fit_predictor(..., sampling={kind}(quantization=Quantization().on(table.device))).",
                SaturationWarning,
                stacklevel=4,
            )


def metrics_of(space: SearchSpace, tables: Sequence[LatencyTable], weights: Sequence[float] | None) -> tuple[Metric, ...]:
    """Everything that is known of a network on some devices."""
    if weights is not None:
        shares = np.asarray(weights)
        if shares.shape != (len(tables),) or shares.dtype.kind not in "biuf" or not (shares >= 0).all() or not 0 < shares.sum() < np.inf:
            raise InvalidInput(f"weights must hold a finite number of at least 0 for each of {len(tables)} devices, not {weights!r}.")
    names = [table.device.name for table in tables]
    if len(set(names)) < len(names):
        raise InvalidInput(f"Several devices must differ in their names, not {names}.")
    known = [available(space, table) for table in tables] or [available(space)]
    found: list[Metric] = []
    for name in dict.fromkeys(name for each in known for name in each):
        each = [metric(name, space, table) for table, has in zip(tables, known, strict=False) if name in has]
        if len(tables) < 2 or each[0].device is None:
            found.append(each[0] if each else metric(name, space))
        elif weights is None:
            found += [replace(entry, name=f"{name}[{entry.device}]") for entry in each]
        elif len(each) == len(tables):
            total = functools.reduce(operator.add, (entry.tables * weight for entry, weight in zip(each, weights, strict=True)))
            found.append(replace(each[0], tables=total, device=" + ".join(f"{w:g} {n}" for w, n in zip(weights, names, strict=True))))
    return tuple(found)


def _plain(entry: Metric) -> str:
    """The name of a metric without the device in it."""
    return entry.name.partition("[")[0]


def shipped_tables() -> list[Path]:
    """The files of the tables that come with hwsearch, by their names."""
    return sorted(path for folder in _SHIPPED if folder.is_dir() for path in folder.glob("*.json"))


def find_table(device: LatencyTable | PathLike) -> LatencyTable:
    """A device's latency table, given itself, its path, or its name: in the folder ``latency_tables/``, or of those that ship.

    Raises:
        FileError: there is no such file, or it is no latency table; the message names what was looked for.
    """
    if isinstance(device, LatencyTable):
        return device
    named = [folder / f"{device}.json" for folder in (Path("latency_tables"), *_SHIPPED)]
    return load_table(next(filter(os.path.exists, (device, *named)), device))
