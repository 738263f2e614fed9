"""compress(): one dense network made smaller for one device, beside what people do without a table.

MACs do not predict speed, so networks are found in two ways and compared. In two stages, as in MLPerf Inference v0.7's fastest ResNet50:
candidates at a target of MACs and parameters first, then the fastest of them on the device. And in one joint search over latency, MACs
and parameters, which is free to leave what was best on paper. Uniform widths and the search by MACs alone are the baselines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Unpack

import msgspec
import numpy as np

from .._files._writing import PathLike, write_atomic
from .._types import Rows
from ..algorithms._load import load_algorithm
from ..algorithms._problem import Parts, Problem
from ..backends._load import load_backend
from ..costs._limits import together
from ..devices._table import LatencyTable
from ..errors import Infeasible, InvalidInput, UnknownName
from ..profiling._measure import Measurement, measure
from ..spaces._load import load_space
from ..spaces._space import Architecture, SearchSpace
from ._baselines import dense, uniform
from ._cheapest import cheapest, costs_of, named
from ._loop import explore
from ._run import ONCE, Run

FORMAT = "hwsearch-compression"
VERSION = 1


@dataclass(frozen=True)
class Compressed:
    """One network of a comparison.

    Example:
        >>> import hwsearch
        >>> narrow = hwsearch.load_space("resnet_digits").restrict({"resolution": [8], "precision": ["int8"]})
        >>> few = hwsearch.profiling.Effort(max_rounds=1, checks=12, fits=12)
        >>> table = hwsearch.profile(narrow, backend="roofline", out="narrow.json", effort=few, progress=False)
        >>> found = hwsearch.compress(narrow, {"macs": 0.5}, run=hwsearch.Run(steps=5), device=table, predictor=lambda X: X.sum(axis=1))
        >>> [(network.name, network.measured) for network in found.networks]
        [('dense', None), ('uniform', None), ('macs only', None), ('two stages', None), ('joint', None)]

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

    Example:
        >>> import hwsearch
        >>> narrow = hwsearch.load_space("resnet_digits").restrict({"resolution": [8], "precision": ["int8"]})
        >>> few = hwsearch.profiling.Effort(max_rounds=1, checks=12, fits=12)
        >>> table = hwsearch.profile(narrow, backend="roofline", out="narrow.json", effort=few, progress=False)
        >>> found = hwsearch.compress(narrow, {"macs": 0.5}, run=hwsearch.Run(steps=5), device=table, predictor=lambda X: X.sum(axis=1))
        >>> found.best.name in ("two stages", "joint"), found.best.latency_ms < found["dense"].latency_ms
        (True, True)

    Attributes:
        networks: by their names, in the order of the recipe.
        targets: metric -> the most it was to be.
        table: of the device.
        score: name of what predicts the score.
    """

    networks: tuple[Compressed, ...]
    targets: Mapping[str, float]
    table: LatencyTable = field(repr=False)
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
        """A row a network: what it costs, its score, and against the dense one the MAC ratio, the speed-up and their ratio.

        Example:
            >>> import hwsearch
            >>> narrow = hwsearch.load_space("resnet_digits").restrict({"resolution": [8], "precision": ["int8"]})
            >>> few = hwsearch.profiling.Effort(max_rounds=1, checks=12, fits=12)
            >>> table = hwsearch.profile(narrow, backend="roofline", out="narrow.json", effort=few, progress=False)
            >>> found = hwsearch.compress(narrow, {"macs": 0.5}, run=hwsearch.Run(steps=5), device=table, predictor=lambda X: X.sum(axis=1))
            >>> {row["name"]: row["mac_ratio"] >= 2 for row in found.rows()}
            {'dense': False, 'uniform': True, 'macs only': True, 'two stages': True, 'joint': True}
        """
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

    @property
    def device(self) -> str:
        """The name of the device."""
        return self.table.device.name

    def measured(self, *, seed: int = 0) -> Compression:
        """The same networks, measured with random weights on this machine, which must be the device.

        Raises:
            WrongDevice: this machine is another device.
        """
        device = self.table.device
        backend = load_backend(device.runtime, threads=device.threads, batch=device.batch)
        blocks = [network.architecture.blocks() for network in self.networks]
        found = measure(blocks, backend=backend, table=self.table, seed=seed)
        return replace(self, networks=tuple(replace(network, measured=one) for network, one in zip(self.networks, found, strict=True)))

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
    limits: Mapping[str, float] | None = None,
    *,
    score: float | None = None,
    precision: str = "int8",
    edges: bool = False,
    seed: int = 0,
    run: Run = ONCE,
    **parts: Unpack[Parts],
) -> Compression:
    """Compress the largest network of a space for one device.

    Args:
        space: a space or its name; a restricted one (:meth:`hwsearch.SearchSpace.restrict`) keeps what must stay as it is.
        limits: ``macs`` and ``params`` (at least one), as fractions of the dense network's if at most 1, else as counts; and
            ``latency_ms``, which holds for the searched networks, not for the baselines.
        score: the least score that the searched networks keep; if omitted, that of the uniform-width network.
        precision: of every block.
        edges: search only the widths at the right-hand edges of the device's stairs; the baselines have all.
        seed, run: of the searches, of which there are two or three, so that a state file or a budget of evaluations is refused.
        **parts: ``predictor`` and ``device``, a single one, as in :meth:`hwsearch.Problem.of`.

    Returns:
        The dense network, the baselines and the two searched ones; :meth:`Compression.measured` measures them.

    Raises:
        InvalidInput: no limit on MACs or parameters, no device, numbers that make no sense, or a run that only one search can have.
        Infeasible: the limits cannot be met, or no network keeps the score.
        HwsearchError: as :func:`hwsearch.search`.

    Example:
        >>> import hwsearch
        >>> narrow = hwsearch.load_space("resnet_digits").restrict({"resolution": [8], "precision": ["int8"]})
        >>> few = hwsearch.profiling.Effort(max_rounds=1, checks=12, fits=12)
        >>> table = hwsearch.profile(narrow, backend="roofline", out="narrow.json", effort=few, progress=False)
        >>> parts = {"device": table, "predictor": lambda X: X.sum(axis=1)}
        >>> found = hwsearch.compress(narrow, {"macs": 0.5}, run=hwsearch.Run(steps=10), **parts)
        >>> found["joint"].values["macs"] <= 0.5 * found["dense"].values["macs"]
        True
    """
    _check_shared(run)
    where = _at(load_space(space), precision)
    whole = dense(where, precision)
    targets = _targets(whole, limits or {})
    problem = Problem.of(where, limits=targets, **parts)
    table = _table(problem)
    plain = _priced(problem, "uniform", uniform(problem))
    keep = plain.score if score is None else score
    paper, candidates = _on_paper(problem, seed, run)
    joint = problem
    if edges:
        joint = Problem.of(problem.space.restrict(table), limits=targets, **parts)
        _, candidates = _on_paper(joint, seed, run)
    latency = {name: most for name, most in (limits or {}).items() if name not in targets}
    best = cheapest(joint.within(latency), "latency_ms", keep, seed=seed, run=run).best
    others = {"macs only": paper, "two stages": _fastest(problem, candidates, keep), "joint": best}
    networks = (_priced(problem, "dense", whole), plain, *(_priced(problem, *each) for each in others.items()))
    return Compression(networks, {**targets, **latency}, table, problem.sources["predictor"] or "")


def _at(space: SearchSpace, precision: str) -> SearchSpace:
    """The space with one precision in every block, if it chooses precisions."""
    return space.restrict({"precision": [precision]}) if space.with_role("precision") else space


def _check_shared(run: Run) -> None:
    """Refuse what several searches cannot share.

    Raises:
        InvalidInput: a budget of evaluations, or a state file.
    """
    if run.evaluations is not None or run.state is not None:
        raise InvalidInput("compress() runs several searches, so it takes neither evaluations= nor state=. Leave them out, or use steps=.")


def _table(problem: Problem) -> LatencyTable:
    """The latency table of the only device."""
    if len(problem.tables) != 1:
        raise InvalidInput(f"Networks are compressed for one device, not for {len(problem.tables)}: name its latency table (device=...).")
    return problem.tables[0]


def _priced(problem: Problem, name: str, architecture: Architecture) -> Compressed:
    """A network of a comparison with its score and its costs."""
    row = architecture.genes[None]
    return Compressed(name, architecture, float(np.asarray(problem.score(row))[0]), costs_of(problem, row))


def _targets(whole: Architecture, limits: Mapping[str, float]) -> dict[str, float]:
    """The limits on paper as counts, some given as fractions of the dense network."""
    counted = {}
    for name, value in limits.items():
        if name == "latency_ms":
            continue
        if name not in ("macs", "params"):
            raise UnknownName("limit of compress()", name, ("macs", "params", "latency_ms"))
        if not value > 0:
            raise InvalidInput(f"{name} must be positive: a fraction of the dense network's, or a count, not {value!r}.")
        counted[name] = float(value * sum(getattr(block, name) for block in whole.blocks()) if value <= 1 else value)
    if not counted:
        raise InvalidInput("Name a target: limits={'macs': 0.4} asks for at most 40 % of the dense network's MACs.")
    return counted


def _on_paper(problem: Problem, seed: int, run: Run) -> tuple[Architecture, Rows]:
    """Stage one: the network with the best score within targets on paper, and everything within them that was met on the way."""
    state = explore(problem, load_algorithm("evolution"), seed=seed, run=replace(run, polish=False))
    feasible = np.flatnonzero(~np.isnan(state.scores))
    if not len(feasible):
        raise Infeasible(f"No network met {together(problem.limits)}. Raise the targets, or search with more steps.")
    return problem.space.architecture(state.X[feasible[np.argmax(state.scores[feasible])]]), state.X[feasible]


def _fastest(problem: Problem, candidates: Rows, keep: float) -> Architecture:
    """Stage two: the fastest candidate that keeps the score."""
    kept = candidates[np.asarray(problem.score(candidates)) >= keep]
    if not len(kept):
        raise Infeasible(f"No candidate within the targets has a score of at least {keep:g}. Ask for less, or raise the targets.")
    return problem.space.architecture(kept[np.argmin(named(problem, "latency_ms")(kept))])
