"""Verification: a search whose best networks are evaluated and measured, and which learns from what it sees.

A search finds what its predictor and its table overrate. So its most hopeful networks are verified, the predictions are corrected
by what they turned out to be, and the search runs again, until its answer is what was predicted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..._files import _reading, _writing
from ..._progress import Advance
from ..._progress import progress as progress_bar
from ..._types import Rows
from ...algorithms._additive import additive
from ...algorithms._load import load_algorithm
from ...algorithms._problem import Problem
from ...algorithms.base import Algorithm
from ...algorithms.exact import Exact
from ...costs._metrics import values_of
from ...devices._table import LatencyTable
from ...errors import Infeasible, InvalidInput, UnknownName, check_count
from ...spaces._keys import row_of_hex
from ...spaces._space import SearchSpace
from .._loop import explore, result
from .._result import SearchResult, Status
from .._run import ONCE, Run
from .._state import SearchState
from ._corrections import Corrected, corrected_latency, corrected_score
from ._records import QUANTITIES, Checked, Round, Verification
from ._uniform import caution, rival
from ._verifier import Measured, Verifier, Verify, verifier_for

FORMAT = "hwsearch-verification"
VERSION = 1
_APART = 3
"""Networks of a round differ in this many genes from each other, or there is little to learn from the second."""


class _Memory:
    """What was measured, on disk as soon as it is known."""

    def __init__(self, verifier: Verifier | Measured, space: SearchSpace, state: _writing.PathLike | None) -> None:
        self.verifier = verifier
        self.known: dict[str, dict[bytes, float]] = {name: {} for name in QUANTITIES}
        self.journal = None if state is None else _writing.Journal(f"{state}.verified.jsonl")
        if self.journal is None:
            return
        header = {"format": FORMAT, "version": VERSION, "space": space.name, "fingerprint": space.fingerprint, "verifier": verifier.name}
        records = iter(self.journal)
        first = next(records, None)
        if first is None:
            self.journal.append(header)
            return
        found = _reading.check_header(first, format=FORMAT, version=VERSION, path=self.journal.path)
        for name in ("fingerprint", "verifier"):
            if found.get(name) != header[name]:
                raise InvalidInput(
                    f"{self.journal.path} holds measurements with {name} {found.get(name)!r}, and this search has {header[name]!r}. "
                    "Use another state file, or remove it."
                )
        for number, record in enumerate(records, start=2):
            with _reading.guarded(f"{self.journal.path}, line {number}", "measurement"):
                known = self.known[record["name"]]
                known.update({row_of_hex(row, space): _measured(record["name"], value) for row, value in record["values"].items()})

    def learn(self, name: str, X: Rows, advance: Advance) -> None:
        """Measure rows that were not; scores one by one, since they are costly, latencies beside each other."""
        known = self.known[name]
        new = np.array([row for row in X if bytes(row) not in known], dtype=np.uint8).reshape(-1, X.shape[1])
        advance(len(X) - len(new))
        for part in np.array_split(new, len(new) if name == "score" else 1) if len(new) else ():
            values = np.asarray(getattr(self.verifier, name)(part), dtype=np.float64)
            if values.shape != (len(part),) or not np.isfinite(values).all() or (name != "score" and (values <= 0).any()):
                raise InvalidInput(
                    f"The verifier's {name} of {len(part)} network(s) is {values!r}; a finite number each was expected, and a positive one "
                    "of a latency."
                )
            known.update(zip(map(bytes, part), values.tolist(), strict=True))
            if self.journal is not None:
                self.journal.append({"name": name, "values": {bytes(row).hex(): known[bytes(row)] for row in part}})
            advance(len(part))


def _measured(name: str, value: object) -> float:
    """A measurement that a journal holds, checked."""
    if not _reading.is_number(value):
        raise InvalidInput(f"{name} must be a number, not {value!r}.")
    if name != "score" and not _reading.is_amount(value):
        raise InvalidInput(f"{name} must be a positive number {_reading.RANGE}, not {value!r}.")
    return float(value)


def promising(now: Problem, found: SearchResult, state: SearchState, known: set[bytes], count: int) -> Rows:
    """The answer of a search, and the networks that may be as good, shape ``(at most count, genes)``.

    These are new, apart from each other, and hopeful: the best by their score plus its standard deviation, if the score knows it.

    Args:
        now: what was searched.
        found: the answer.
        state: all that was seen.
        known: rows that were verified before.
        count: how many at most.
    """
    feasible = np.flatnonzero(~np.isnan(state.scores))
    std = getattr(now.score, "std", None)
    hope = state.scores[feasible] + (0.0 if std is None else std(state.X[feasible]))
    chosen = [found.best.genes]
    for row in state.X[feasible[np.argsort(-hope, kind="stable")]]:
        if len(chosen) == count:
            break
        if bytes(row) not in known and all((row != other).sum() >= _APART for other in chosen):
            chosen.append(row)
    return np.stack(chosen)


@dataclass(frozen=True)
class Checks:
    """What is verified, by what, and how closely.

    Attributes:
        networks: of a round, at most.
        rounds: of searching and verifying, at most.
        tolerance: how far prediction and measurement of the answer may be apart.
        verifier: what evaluates and measures.
        table: of the device whose latencies are verified; ``None`` where they are not.
    """

    networks: int
    rounds: int
    tolerance: Mapping[str, float]
    verifier: Verifier | Measured
    table: LatencyTable | None


def what_to_check(problem: Problem, verify: Verify) -> Checks:
    """What a search shall verify, checked before anything is searched.

    Raises:
        InvalidInput, UnknownName: what was asked for makes no sense.
        HwsearchError: as the verifier.
    """
    check_count("Verify(networks=), the number of networks to verify a round,", verify.networks, least=1)
    check_count("rounds", verify.rounds, least=1)
    table = problem.tables[0] if len(problem.tables) == 1 else None
    measured = table is not None and any(entry.name == "latency_ms" and entry.device == table.device.name for entry in problem.metrics)
    usual = {name: most for name, most in QUANTITIES.items() if name == "score" or measured}
    tolerance = usual if verify.tolerance is None else dict(verify.tolerance)
    for name, most in tolerance.items():
        if name not in QUANTITIES:
            raise UnknownName("quantity in tolerance", name, QUANTITIES)
        if not 0 < most < np.inf:
            raise InvalidInput(f"tolerance[{name!r}] must be a positive number, not {most!r}.")
    if not tolerance:
        raise InvalidInput("tolerance is empty, so there is nothing to verify; name score, latency_ms, or both.")
    if "latency_ms" not in tolerance:
        table = None
    elif not measured:
        raise InvalidInput(
            "Latencies are verified on one device, whose table limits the search (device=...); leave latency_ms out of tolerance."
        )
    return Checks(verify.networks, verify.rounds, tolerance, verifier_for(verify, problem, table, tolerance), table)


def verified_search(
    problem: Problem, checks: Checks, algorithm: str | Algorithm | None = None, *, seed: int = 0, run: Run = ONCE
) -> SearchResult:
    """Search, verify, correct, and search again; the best network found is verified beside the same one in uniform bits.

    Args:
        problem: what is searched.
        checks: what is verified.
        algorithm, seed, run: as in :func:`hwsearch.search`. What was measured is kept in ``<run.state>.verified.jsonl``, to go on after a
            stop, and for other limits and seeds.

    Raises:
        Infeasible: as in :func:`hwsearch.search`, or no network that was measured is within the limits.
        InvalidInput: the verifier's answers make no sense, or the journal holds measurements of another one.
    """
    memory = _Memory(checks.verifier, problem.space, run.state)
    most = next((limit.at_most for limit in problem.limits if limit.metric.name == "latency_ms"), np.inf)
    turns: list[Round] = []
    checked: dict[bytes, Checked] = {}
    uniform: dict[bytes, str] = {}
    once = replace(run, state=None)
    while len(turns) < checks.rounds:
        try:
            now = _corrected(problem, list(checked.values()), checks) if turns else problem
            explored = explore(now, _method(algorithm, now), seed=seed, run=once)
            found = result(explored)
        except Infeasible:
            if _best(checked.values(), most) is None:
                raise
            break
        before, title = len(checked), f"verifying, round {len(turns) + 1}"
        networks = _verified(now, promising(now, found, explored, set(checked), checks.networks), memory, checks, title, run)
        checked = {bytes(np.array(one.genes, dtype=np.uint8)): one for one in networks} | checked
        while (best := _best(checked.values(), most)) is not None:
            beside = rival(now, np.array(best.genes, dtype=np.uint8)) if "score" in checks.tolerance else {}
            uniform |= beside
            fresh = [np.frombuffer(row, dtype=np.uint8) for row in beside if row not in checked]
            if not fresh:
                break
            networks += _verified(now, np.stack(fresh), memory, checks, f"{title}, uniform bits", run)
            checked[bytes(fresh[0])] = networks[-1]
        turns.append(Round(networks, best is not None and _agrees(networks[0], best, checks.tolerance)))
        if turns[-1].agreed or len(checked) == before:
            break
    best = _best(checked.values(), most)
    if best is None:
        nearest = min(one.value("latency_ms") for one in checked.values())
        raise Infeasible(
            f"None of the {len(checked)} measured networks meets latency_ms <= {most:g}; the nearest takes {nearest:.6g} ms. Raise "
            "the limit, verify more networks a round, or allow more rounds."
        )
    told = caution(best, (one for row, one in checked.items() if row not in uniform), uniform)
    return replace(_answer(now, found, best, Verification(dict(checks.tolerance), tuple(turns)), checks.verifier.name), cautions=told)


def _answer(problem: Problem, found: SearchResult, best: Checked, verification: Verification, verifier: str) -> SearchResult:
    """The result of a search whose best network is one that was measured."""
    row = np.array(best.genes, dtype=np.uint8)
    values = dict(zip((entry.name for entry in problem.metrics), values_of(problem.metrics, row[None])[0].tolist(), strict=True))
    return replace(
        found,
        best=problem.space.architecture(row),
        best_score=best.value("score"),
        values=values | {name: value for name, value in best.measured.items() if name != "score"},
        status=Status.VERIFIED if verification.agreed else Status.ROUNDS_SPENT,
        provenance={**found.provenance, "verifier": verifier},
        bound=None,
        surrogate_bound=None,
        verification=verification,
    )


def _method(algorithm: str | Algorithm | None, now: Problem) -> Algorithm:
    """The algorithm, or ``hybrid`` in place of ``exact`` once the corrected score is no longer a sum of tables."""
    method = load_algorithm(algorithm, now)
    learnt = isinstance(now.score, Corrected) and additive(now.score, now.space) is None
    return load_algorithm("hybrid") if learnt and isinstance(method, Exact) else method


def _corrected(problem: Problem, checked: Sequence[Checked], checks: Checks) -> Problem:
    """The problem as it looks after what was measured."""
    X = np.array([one.genes for one in checked], dtype=np.uint8)
    measured = {name: np.array([one.measured[name] for one in checked]) for name in checks.tolerance}
    score = corrected_score(problem.score, problem.space, X, measured["score"]) if "score" in measured else problem.score
    if checks.table is None:
        return problem.having(score)
    latency = next(entry for entry in problem.metrics if entry.name == "latency_ms")
    return problem.having(score, [corrected_latency(latency, checks.table, X, measured["latency_ms"])])


def _verified(now: Problem, X: Rows, memory: _Memory, checks: Checks, title: str, run: Run) -> tuple[Checked, ...]:
    """Networks, measured now if they were not before."""
    with progress_bar(title, len(checks.tolerance) * len(X), run.progress) as advance:
        for name in checks.tolerance:
            memory.learn(name, X, advance)
    return _compared(now, X, memory, checks.tolerance)


def _compared(now: Problem, X: Rows, memory: _Memory, tolerance: Mapping[str, float]) -> tuple[Checked, ...]:
    """Networks as they are predicted, and as they turned out to be."""
    predicted = {"score": np.asarray(now.score(X), dtype=np.float64)}
    predicted |= {entry.name: entry(X) for entry in now.metrics if entry.name in QUANTITIES}
    return tuple(
        Checked(
            tuple(map(int, row)),
            {name: float(values[index]) for name, values in predicted.items()},
            {name: memory.known[name][bytes(row)] for name in tolerance},
        )
        for index, row in enumerate(X)
    )


def _best(checked: Iterable[Checked], most: float) -> Checked | None:
    """The best network that takes at most ``most`` milliseconds, ``None`` if there is none."""
    within = [one for one in checked if most == np.inf or one.value("latency_ms") <= most]
    return max(within, key=lambda one: one.value("score"), default=None)


def _agrees(answer: Checked, best: Checked, tolerance: Mapping[str, float]) -> bool:
    """Whether the answer is what was predicted, and so is the best network that was measured within the limits."""
    reached = abs(best.value("score") - answer.predicted["score"]) <= tolerance.get("score", QUANTITIES["score"])
    return reached and all(abs(answer.error(name)) <= most for name, most in tolerance.items())
