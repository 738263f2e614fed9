"""compress(): one dense network made smaller for one device, beside what people do without a table.

MACs do not predict speed, so networks are found in two ways and compared. In two stages, as in MLPerf Inference v0.7's fastest ResNet50:
candidates at a target of MACs and parameters first, then the fastest of them on the device. And in one joint search over latency, MACs
and parameters, which is free to leave what was best on paper. Uniform widths and the search by MACs alone are the baselines.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from .._files._writing import PathLike, write_atomic
from ..algorithms._load import load_algorithm
from ..algorithms._problem import Problem, Score, find_table, problem
from ..algorithms.base import Algorithm
from ..backends._load import load_backend
from ..backends.base import Backend
from ..costs._metrics import Limit, Metric, evaluate, prove_feasible
from ..devices._table import LatencyTable
from ..errors import Infeasible, InvalidInput, check_seed
from ..profiling._profile import Measurement, measure_many
from ..scores._predictor import Predictor
from ..spaces._load import load_space
from ..spaces._space import Architecture, Rows, SearchSpace, Value
from ._baselines import dense, uniform
from ._loop import advance, solve
from ._result import Front, SearchResult
from ._state import start

Values = npt.NDArray[np.float64]

FORMAT = "hwsearch-compression"
VERSION = 1


def least(
    metric: str,
    space: str | SearchSpace,
    *,
    score: float,
    predictor: Predictor | PathLike | Score,
    device: LatencyTable | PathLike | None = None,
    limits: Mapping[str, float] | None = None,
    algorithm: str | Algorithm | None = None,
    seed: int = 0,
    steps: int | None = None,
) -> SearchResult:
    """Find the network that costs least among those with a score of at least ``score``: :func:`hwsearch.search` turned round.

    Args:
        metric: what to have least of, such as ``"latency_ms"``.
        space, predictor, device, limits, algorithm, seed, steps: as in :func:`hwsearch.search`.
        score: the least predicted score.

    Returns:
        As of :func:`hwsearch.search`, the metric limited to what was reached; its front is the network alone.

    Raises:
        Infeasible: no network that the search came across has such a score within the limits; the message holds the best one.
        HwsearchError: as :func:`hwsearch.search`.
    """
    posed = problem(space, predictor=predictor, device=device, limits=limits)
    cost = _named(posed, metric)
    found = solve(
        replace(_possible(posed, cost), score=_Cheap(posed.score, cost, score)),
        load_algorithm(algorithm),
        seed=seed,
        steps=steps,
        sources={"predictor": predictor, "device": device, "least": metric},
    )
    row = found.best.genes[None]
    reached = float(np.asarray(posed.score(row))[0])
    if reached < score:
        raise Infeasible(
            f"No network with a score of at least {score:g} was found; the best has {reached:g}. Ask for less, or raise limits."
        )
    values = _costs(posed, row)
    front = Front(posed.space, row, np.array([reached]), {name: np.array([value]) for name, value in values.items()})
    return replace(found, best_score=reached, values=values, limits={**found.limits, metric: values[metric]}, front=front)


@dataclass(frozen=True)
class _Cheap:
    """Minus the cost where the score is enough; below all of those, and the lower the more is missing, where it is not."""

    score: Score
    cost: Metric
    enough: float

    def __call__(self, X: Rows) -> Values:
        missing = np.maximum(self.enough - np.asarray(self.score(X), dtype=np.float64), 0.0)
        worst = sum(float(array[np.isfinite(array)].max(initial=0.0)) for _, array in self.cost.tables)
        return np.where(missing > 0, -worst * (1 + missing), -self.cost(X))


def _possible(posed: Problem, cost: Metric) -> Problem:
    """The problem with a limit that keeps out networks of infinite cost, where there are any.

    Raises:
        Infeasible: there are no others within the limits.
    """
    if all(np.isfinite(array).all() for _, array in cost.tables):
        return posed
    finite = [np.abs(array[np.isfinite(array)]).max(initial=0.0) for _, array in cost.tables]
    limits = (*posed.limits, Limit(cost, float(sum(finite))))
    return replace(posed, limits=limits, seeds=prove_feasible(limits).reshape(-1, len(posed.space.choices)))


def _named(posed: Problem, metric: str) -> Metric:
    for entry in posed.metrics:
        if entry.name == metric:
            return entry
    known = ", ".join(entry.name for entry in posed.metrics)
    raise InvalidInput(f"{metric!r} is not known here: {known} are. For what is measured, name a device's latency table.")


def _costs(posed: Problem, row: Rows) -> dict[str, float]:
    """All metrics of one row, shape ``(1, genes)``."""
    return dict(zip((entry.name for entry in posed.metrics), evaluate(posed.metrics, row)[0].tolist(), strict=True))


@dataclass(frozen=True)
class Compressed:
    """One network of a comparison.

    Attributes:
        name: how it was found: ``"dense"``, ``"uniform"``, ``"macs only"``, ``"two stages"`` or ``"joint"``.
        architecture: the network.
        score: predicted.
        values: metric -> value, predicted or counted.
        measured: how long it took on the device, with random weights; ``None`` where it was not measured.
    """

    name: str
    architecture: Architecture
    score: float
    values: Mapping[str, float]
    measured: Measurement | None = None

    @property
    def latency_ms(self) -> float:
        """As measured, or as predicted where it was not."""
        return self.measured.latency_ms if self.measured is not None else self.values["latency_ms"]


@dataclass(frozen=True)
class Compression:
    """The networks of :func:`compress`, the dense one first.

    Attributes:
        networks: by their names, in the order of the recipe.
        targets: metric -> the most it was to be.
        device: name of the device.
        score: name of what predicts the score.
    """

    networks: tuple[Compressed, ...]
    targets: Mapping[str, float]
    device: str
    score: str

    def __getitem__(self, name: str) -> Compressed:
        for network in self.networks:
            if network.name == name:
                return network
        raise InvalidInput(f"There is no network {name!r}; there are {', '.join(network.name for network in self.networks)}.")

    @property
    def best(self) -> Compressed:
        """The faster one of the two searched for the device."""
        return min((self["two stages"], self["joint"]), key=lambda network: network.latency_ms)

    def rows(self) -> list[dict[str, Any]]:
        """A row a network: what it costs, its score, and against the dense one the MAC ratio, the speed-up and their ratio."""
        whole = self["dense"]
        rows = []
        for network in self.networks:
            ratio = whole.values["macs"] / network.values["macs"]
            speedup = whole.latency_ms / network.latency_ms
            rows.append(
                {
                    "name": network.name,
                    "macs": network.values["macs"],
                    "params": network.values["params"],
                    "score": network.score,
                    "latency_ms": network.latency_ms,
                    "predicted_ms": network.values["latency_ms"],
                    "measured": network.measured is not None,
                    "mac_ratio": ratio,
                    "speedup": speedup,
                    "speedup_per_mac_ratio": speedup / ratio,
                }
            )
        return rows

    def save(self, folder: PathLike) -> Path:
        """Write ``compression.json`` with the rows, and an architecture file for each network, such as ``joint.json``."""
        document = {"format": FORMAT, "version": VERSION, "device": self.device, "score": self.score, "targets": dict(self.targets)}
        document |= {"networks": self.rows()}
        for network in self.networks:
            network.architecture.to_json(Path(folder, f"{network.name.replace(' ', '-')}.json"))
        path = Path(folder, "compression.json")
        write_atomic(path, msgspec.json.format(msgspec.json.encode(document)) + b"\n")
        return path


def compress(
    space: str | SearchSpace = "resnet50",
    *,
    device: LatencyTable | PathLike,
    predictor: Predictor | PathLike | Score,
    macs: float | None = None,
    params: float | None = None,
    latency_ms: float | None = None,
    score: float | None = None,
    precision: str = "int8",
    freeze: Mapping[str, Sequence[Value]] | None = None,
    edges: bool = False,
    measure: bool = False,
    seed: int = 0,
    steps: int | None = None,
) -> Compression:
    """Compress the largest network of a space for one device.

    Args:
        space: a space or its name.
        device: the latency table of the device, its path, or its name in ``latency_tables/``.
        predictor: as in :func:`hwsearch.search`.
        macs, params: targets: as fractions of the dense network's where at most 1, counted otherwise.
        latency_ms: the most that the searched networks may take; the baselines do not know of it.
        score: the least score that the searched networks keep; that of the uniform-width network where left out.
        precision: of every block.
        freeze: what stays as it is, as :meth:`SearchSpace.restrict` takes it.
        edges: search only the widths at the right-hand edges of the device's stairs; the baselines have all.
        measure: whether to measure the networks, with random weights, on this machine, which must be the device.
        seed, steps: of the searches.

    Returns:
        The dense network, the baselines and the two searched ones.

    Raises:
        InvalidInput: no target of MACs or parameters, or numbers that make no sense.
        Infeasible: the targets cannot be met, or no network keeps the score.
        WrongDevice: ``measure`` was asked for, and this machine is another device.
        HwsearchError: as :func:`hwsearch.search`.
    """
    seed, table = check_seed(seed), find_table(device)
    where = load_space(space)
    if any(choice.is_precision for choice in where.choices):
        where = where.restrict({"*precision": [precision]})
    whole = dense(where, precision)
    where = where.restrict(freeze) if freeze else where
    targets = _targets(whole, macs=macs, params=params)
    posed = problem(where, predictor=predictor, device=table, limits=targets)

    def found(name: str, architecture: Architecture) -> Compressed:
        row = architecture.genes[None]
        return Compressed(name, architecture, float(np.asarray(posed.score(row))[0]), _costs(posed, row))

    plain = found("uniform", uniform(where, limits=targets, predictor=predictor, device=table))
    keep = plain.score if score is None else score
    inside = where.restrict(table) if edges else where
    paper, candidates = _on_paper(posed, seed, steps)
    if edges:
        _, candidates = _on_paper(replace(posed, space=inside, seeds=inside.sample(1, np.random.default_rng(seed))), seed, steps)
    bounds = {**targets, **({} if latency_ms is None else {"latency_ms": latency_ms})}
    joint = least("latency_ms", inside, score=keep, predictor=predictor, device=table, limits=bounds, seed=seed, steps=steps)
    networks = [found("dense", whole), plain, found("macs only", paper)]
    networks += [found("two stages", _fastest(posed, candidates, keep)), found("joint", joint.best)]
    if measure:
        backend = load_backend(table.device.runtime, threads=table.device.threads, batch=table.device.batch)
        measured = measure_many([network.architecture.blocks() for network in networks], backend=backend, table=table, seed=seed)
        networks = [replace(network, measured=one) for network, one in zip(networks, measured, strict=True)]
    return Compression(tuple(networks), bounds, table.device.name, _words(predictor))


def _targets(whole: Architecture, **targets: float | None) -> dict[str, float]:
    """Counted targets from fractions of the dense network."""
    counted = {}
    for name, value in targets.items():
        if value is not None:
            if not value > 0:
                raise InvalidInput(f"{name} must be positive: a fraction of the dense network's, or a count, not {value}.")
            counted[name] = value * sum(getattr(block, name) for block in whole.blocks()) if value <= 1 else value
    if not counted:
        raise InvalidInput("Name a target: macs=0.4 asks for at most 40 % of the dense network's MACs.")
    return counted


def _on_paper(posed: Problem, seed: int, steps: int | None) -> tuple[Architecture, Rows]:
    """Stage one: the network with the best score within targets on paper, and everything within them that was met on the way."""
    method = load_algorithm("evolution")
    state = start(posed, method, seed)
    while state.step < (method.steps if steps is None else steps) and not method.done(state.algorithm):
        state = advance(posed, method, state)
    feasible = np.flatnonzero(~np.isnan(state.scores))
    if not len(feasible):
        raise Infeasible(f"No network met {' and '.join(map(str, posed.limits))}. Raise the targets, or search with more steps.")
    return posed.space.architecture(state.X[feasible[np.argmax(state.scores[feasible])]]), state.X[feasible]


def _fastest(posed: Problem, candidates: Rows, keep: float) -> Architecture:
    """Stage two: the fastest candidate that keeps the score."""
    kept = candidates[np.asarray(posed.score(candidates)) >= keep]
    if not len(kept):
        raise Infeasible(f"No candidate within the targets has a score of at least {keep:g}. Ask for less, or raise the targets.")
    return posed.space.architecture(kept[np.argmin(_named(posed, "latency_ms")(kept))])


def _words(predictor: object) -> str:
    return os.fspath(predictor) if isinstance(predictor, str | os.PathLike) else repr(predictor)


@dataclass(frozen=True)
class InPlace:
    """One quantised part of a network, measured in place.

    Attributes:
        gene: its precision gene.
        quantized_ms: the network with it.
        float_ms: the same network with this part alone in fp32, and the boundaries that this brings.
        spread_ms: of the greater uncertainty of the two.
    """

    gene: str
    quantized_ms: float
    float_ms: float
    spread_ms: float

    @property
    def slower(self) -> bool:
        """Whether quantising this part costs time."""
        return self.quantized_ms > self.float_ms + self.spread_ms


def quantized_in_place(architecture: Architecture, *, backend: str | Backend = "onnxruntime", rounds: int = 20) -> list[InPlace]:
    """Measure what each quantised part of a network brings where it stands.

    Args:
        architecture: of a space whose precisions include fp32.
        backend: the device.
        rounds: as of :func:`hwsearch.measure_many`.

    Returns:
        One entry for each precision gene that is not fp32.
    """
    values = architecture.values()
    genes = [choice.name for choice in architecture.space.choices if choice.is_precision and values.get(choice.name, "fp32") != "fp32"]
    networks = [architecture.blocks(), *(architecture.at_precision("fp32", [gene]).blocks() for gene in genes)]
    whole, *others = measure_many(networks, backend=backend, rounds=rounds)
    pairs = zip(genes, others, strict=True)
    return [InPlace(gene, whole.latency_ms, one.latency_ms, max(whole.spread_ms, one.spread_ms)) for gene, one in pairs]


def revert_slower(architecture: Architecture, found: Sequence[InPlace]) -> Architecture:
    """The architecture with those parts in fp32 that were measured to be slower quantised."""
    return architecture.at_precision("fp32", [one.gene for one in found if one.slower])
