"""SearchState: everything that a search has seen, in memory and in files."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from .._files import _reading, _writing
from .._types import Flags, Rows, Values
from ..algorithms._load import load_algorithm
from ..algorithms._problem import Problem
from ..algorithms.base import Algorithm
from ..algorithms.local import Local
from ..costs._metrics import values_of
from ..errors import InvalidInput, WrongSpace, check_seed
from ..spaces._keys import row_keys

FORMAT = "hwsearch-search"
VERSION = 1
_PROBED = 8
"""Networks that are scored again when a search goes on, to see that the score is still the same."""
_KEPT = ("step", "X", "scores", "costs", "seen", "history", "finishing", "bound", "surrogate_bound", "slack")
"""What a state file holds besides the algorithm's own state."""
_LATER = ("waiting", "told", "failure")
"""What state files hold since evaluations can be counted; older files go without."""
_TOGETHER = (
    ("X", "scores", "tightness", "island", "excess", "searched"),
    ("climbing", "climbed"),
    ("asked", "asked_by", "asked_island"),
    ("samples", "sample_scores"),
)
"""Arrays of algorithms' own states that are as long as each other."""


@dataclass(frozen=True, eq=False)
class SearchState:
    """Everything that a search has seen, and all it takes to go on.

    Example:
        >>> import hwsearch
        >>> problem = hwsearch.Problem.of("resnet_digits", predictor=lambda X: X.sum(axis=1), limits={"macs": 1e6})
        >>> state = hwsearch.init(problem, "random", seed=1)
        >>> while state.evaluations < 100:  # stop when you like
        ...     state = hwsearch.step(state)
        >>> hwsearch.result(state).seed
        1

    Attributes:
        problem: what is searched.
        algorithm: what chooses the rows of the next step.
        seed: of the search; step ``t`` draws from a generator seeded by ``(seed, t)``.
        step: steps taken.
        memory: what the algorithm remembers, or the local search that finishes its work.
        finishing: whether it is the latter.
        bound: a score that no architecture within the limits beats, as far as the algorithm has proven one; infinite otherwise.
        surrogate_bound: the same of the algorithm's surrogate of the score.
        slack: a score that is no further below the bound counts as optimal.
        X: every row evaluated, shape ``(m, genes)``.
        scores: NaN where a limit is exceeded, shape ``(m,)``.
        costs: limited metrics as fractions of their limits, shape ``(m, limits)``.
        seen: hashes of the rows, sorted, shape ``(m,)``.
        history: for each step the rows evaluated so far, those of them that met the limits, and the best score, shape ``(step, 3)``.
        waiting: rows that the algorithm wants to know and that meet the limits, not scored yet; only where evaluations are counted.
        told: how many of the rows the algorithm has been told about.
        failure: what the last evaluation that failed said; a row that meets the limits and has no score has failed.
    """

    problem: Problem = field(repr=False)
    algorithm: Algorithm
    seed: int
    step: int
    memory: Any = field(repr=False)
    X: Rows
    scores: Values
    costs: Values
    seen: npt.NDArray[np.uint64]
    history: Values
    finishing: bool = False
    bound: float = np.inf
    surrogate_bound: float = np.inf
    slack: float = 0.0
    waiting: Rows = field(default_factory=lambda: np.empty((0, 0), dtype=np.uint8), repr=False)
    told: int = 0
    failure: str = ""

    @property
    def chooser(self) -> Algorithm:
        """What chooses the rows of the next step: the algorithm, or the local search that finishes its work."""
        return Local() if self.finishing else self.algorithm

    @property
    def failed(self) -> Flags:
        """Which rows were scored without success, shape ``(m,)``."""
        return np.isnan(self.scores) & (self.costs <= 1.0).all(axis=1)

    @property
    def evaluations(self) -> int:
        """How often the score was computed, without success or with it."""
        return int((self.costs <= 1.0).all(axis=1).sum())


def init(problem: Problem, algorithm: Algorithm | str | None = None, seed: int = 0) -> SearchState:
    """The state of a search before its first step.

    Args:
        problem: what to search.
        algorithm: an algorithm or its name; if omitted, the one that suits the problem (see :func:`hwsearch.search`).
        seed: the same seed gives the same search, bit for bit.

    Example:
        >>> import hwsearch
        >>> problem = hwsearch.Problem.of("resnet_digits", predictor=lambda X: X.sum(axis=1), limits={"macs": 1e6})
        >>> state = hwsearch.init(problem, "random")
        >>> state.step
        0
    """
    method = load_algorithm(algorithm, problem)
    return SearchState(
        problem=problem,
        algorithm=method,
        seed=check_seed(seed),
        step=0,
        memory=method.init(problem),
        X=np.empty((0, len(problem.space.choices)), dtype=np.uint8),
        scores=np.empty(0),
        costs=np.empty((0, len(problem.limits))),
        seen=np.empty(0, dtype=np.uint64),
        history=np.empty((0, 3)),
        waiting=np.empty((0, len(problem.space.choices)), dtype=np.uint8),
    )


def finish(state: SearchState) -> SearchState:
    """Hand the best rows to :class:`~hwsearch.algorithms.local.Local`, with which :func:`step` is to go on from here."""
    local = Local()
    return replace(state, memory=local.stand(local.init(state.problem), state.X, state.scores), finishing=True)


def is_done(state: SearchState) -> bool:
    """Whether no further step can find anything: the algorithm has ended, or every row was evaluated."""
    return state.chooser.done(state.memory) or len(state.X) >= state.problem.space.size


def save_state(state: SearchState, path: _writing.PathLike) -> None:
    """Keep a search in an npz file, written whole or not at all.

    Example:
        >>> import hwsearch
        >>> from hwsearch.searching import load_state, save_state
        >>> problem = hwsearch.Problem.of("resnet_digits", predictor=lambda X: X.sum(axis=1), limits={"macs": 1e6})
        >>> state = hwsearch.step(hwsearch.init(problem, "random"))
        >>> save_state(state, "search.npz")
        >>> load_state("search.npz", problem, state.algorithm, state.seed).step
        1
    """
    arrays = {name: np.asarray(getattr(state, name)) for name in (*_KEPT, *_LATER)}
    arrays |= {f"algorithm.{entry.name}": np.asarray(getattr(state.memory, entry.name)) for entry in fields(state.memory)}
    header = _identity(state.problem, state.algorithm, state.seed)
    _writing.write_arrays(path, header, arrays)


def load_state(path: _writing.PathLike, problem: Problem, algorithm: Algorithm, seed: int, *, costly: bool = False) -> SearchState:
    """Take up a search that :func:`save_state` kept.

    Example:
        >>> import hwsearch
        >>> from hwsearch.searching import load_state, save_state
        >>> problem = hwsearch.Problem.of("resnet_digits", predictor=lambda X: X.sum(axis=1), limits={"macs": 1e6})
        >>> state = hwsearch.step(hwsearch.init(problem, "random"))
        >>> save_state(state, "other.npz")
        >>> load_state("other.npz", problem, state.algorithm, seed=5)
        Traceback (most recent call last):
            ...
        hwsearch.errors.InvalidInput: other.npz is a search with seed 0, and this one has 5. Use another state file, or remove it.

    Args:
        path: of the file.
        problem, algorithm, seed: of the search that shall go on.
        costly: the score is too costly to compute any of it again, so it is not checked that it is still the same one.

    Raises:
        CorruptFile, NewerVersion: it is not a search that this hwsearch can read.
        WrongSpace: it searched another space.
        InvalidInput: it had other limits, another seed, device or algorithm.
    """
    header, arrays = _reading.read_arrays(path, "search state", format=FORMAT, version=VERSION)
    wanted = msgspec.json.decode(msgspec.json.encode(_identity(problem, algorithm, seed)))
    if header.get("fingerprint") != wanted["fingerprint"]:
        raise WrongSpace(f"{path} is a search of space {header.get('space')!r}, not of {problem.space.name!r}.")
    for name, value in wanted.items():
        if header.get(name) != value:
            raise InvalidInput(
                f"{path} is a search with {name} {header.get(name)!r}, and this one has {value!r}. Use another state file, or remove it."
            )
    with _reading.guarded(path, "search state"):
        known: dict[str, Any] = {name: array if array.ndim else array.item() for name, array in arrays.items()}
        own = {name.removeprefix("algorithm."): value for name, value in known.items() if name.startswith("algorithm.")}
        first = init(problem, algorithm, seed)
        first = finish(first) if known["finishing"] else first
        late = {name: known[name] for name in _LATER if name in known} or {"told": len(known["X"])}
        found = replace(first, memory=replace(first.memory, **own), **{name: known[name] for name in _KEPT}, **late)
        _check(found, first)
        if found.told < len(found.X):  # what waits to be told must be what was asked for
            found.chooser.tell(found.memory, found.X[found.told :], found.scores[found.told :], found.costs[found.told :])
    if not costly:
        _check_score(found, path)
    return found


def _identity(problem: Problem, algorithm: Algorithm, seed: int) -> dict[str, Any]:
    """What must be the same for a search to go on."""
    probe = problem.space.sample(8, np.random.default_rng(0))
    return {
        "format": FORMAT,
        "version": VERSION,
        "space": problem.space.name,
        "fingerprint": problem.space.fingerprint,
        "seed": seed,
        "algorithm": repr(algorithm),
        "limits": {limit.metric.name: limit.at_most for limit in problem.limits},
        "probe": [float(np.float32(value)) for value in values_of(problem.metrics, probe).ravel()],
    }


def _check_score(state: SearchState, path: _writing.PathLike) -> None:
    """Refuse a state whose scores, as far as a few of them tell, are not those of the problem.

    Raises:
        InvalidInput: they are of another score.
    """
    some = np.flatnonzero(~np.isnan(state.scores))[:_PROBED]
    if len(some):
        now = np.asarray(state.problem.score(state.X[some]), dtype=np.float64)
        if now.shape != some.shape or not np.allclose(now, state.scores[some], rtol=1e-5, atol=1e-8):
            raise InvalidInput(
                f"{path} is a search by another score: what has {state.scores[some[0]]:.6g} there has {now.flat[0]:.6g} here. Use another "
                "state file, or remove it."
            )


def _check(found: SearchState, first: SearchState) -> None:
    """Check that a state could have come of the first one.

    Raises:
        InvalidInput: it holds other rows than it says, or arrays of another length or type.
    """
    own: Any
    usual: Any
    rows = len(found.problem.space.check(found.X))
    wanted = {"scores": (rows,), "costs": (rows, len(found.problem.limits)), "history": (found.step, 3)}
    for name, shape in wanted.items():
        array = getattr(found, name)
        if array.shape != shape or array.dtype != np.float64:
            raise InvalidInput(f"its {name} are {array.dtype} of the shape {array.shape}, where {shape} was expected.")
    if not np.array_equal(found.seen, np.sort(row_keys(found.X))) or found.seen.dtype != np.uint64:
        raise InvalidInput("it has not seen the rows that it holds.")
    for name in ("step", "finishing", "bound", "surrogate_bound", "slack", "told", "failure"):
        own, usual = getattr(found, name), getattr(first, name)
        if type(own) is not type(usual) or own != own or (name in ("step", "told") and own < 0):
            raise InvalidInput(f"its {name} is {own}.")
    if found.told > rows or np.isin(row_keys(found.problem.space.check(found.waiting, "waiting")), found.seen).any():
        raise InvalidInput("rows of it wait that have been scored, or more were told than there are.")
    told = found.history[:, :2]
    if (
        not np.isfinite(told).all()
        or (np.diff(told, axis=0, prepend=0) < 0).any()
        or told.max(initial=0) > rows
        or np.isinf(found.history).any()
    ):
        raise InvalidInput("its history is impossible.")
    for entry in fields(found.memory):
        own, usual = np.asarray(getattr(found.memory, entry.name)), np.asarray(getattr(first.memory, entry.name))
        texts = own.dtype.kind == usual.dtype.kind == "U"  # of which each length is a type of its own
        if own.ndim != usual.ndim or (own.dtype != usual.dtype and not texts):
            raise InvalidInput(f"its algorithm's {entry.name} has {own.ndim} dimensions of {own.dtype}.")
        if own.dtype == np.uint8 and own.ndim == 2 and own.size:
            found.problem.space.check(own, entry.name)
        if own.dtype.kind == "i" and own.ndim == 0 and own < 0:
            raise InvalidInput(f"its algorithm's {entry.name} is {own}.")
    held = {entry.name: np.asarray(getattr(found.memory, entry.name)) for entry in fields(found.memory)}
    for names in _TOGETHER:
        if len({len(held[name]) for name in names if name in held}) > 1:
            raise InvalidInput(f"its algorithm's {', '.join(names)} have different lengths.")
    islands = held.get("islands", np.array(1))
    island = held.get("island", np.empty(0))
    if islands < 1 or island.min(initial=0) < 0 or island.max(initial=0) >= islands:
        raise InvalidInput("its algorithm's rows live on islands that there are not.")
