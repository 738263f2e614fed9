"""Optuna (Akiba et al., KDD'19): its samplers as algorithms, and results as its studies."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from .._types import Rows, Values
from ..errors import UnknownName, require
from ..spaces._keys import row_keys
from ..spaces._space import SearchSpace

if TYPE_CHECKING:
    from ._problem import Problem

_FEATURE = "The algorithm 'optuna'"
_CONSTRAINTS = "constraints"


@dataclass(frozen=True)
class OptunaState:
    """The trials so far.

    Attributes:
        X: rows, shape ``(n, genes)``.
        scores: NaN if a limit is exceeded, shape ``(n,)``.
        costs: each limited metric as a fraction of its limit, shape ``(n, limits)``.
        notes: what the sampler noted of each trial, as a JSON list.
        asked: keys of the rows just asked for, shape ``(k,)``.
        asked_notes: what the sampler noted of them, as a JSON list.
        step: steps taken.
    """

    X: Rows
    scores: Values
    costs: Values
    notes: str
    asked: npt.NDArray[np.uint64]
    asked_notes: str
    step: int = 0


@dataclass(frozen=True)
class OptunaSearch:
    """Any sampler of Optuna over the same space, limits as its constraints.

    The study is made anew at each step, from the trials so far and a sampler seeded for that step, so that a search can be stopped
    and taken up again. Genes are independent parameters; inactive ones are ignored.

    Example:
        >>> import hwsearch
        >>> from hwsearch.algorithms import OptunaSearch
        >>> parzen = OptunaSearch("TPESampler", population=10, steps=3)
        >>> problem = hwsearch.Problem.of("resnet_digits", predictor=lambda X: X.sum(axis=1), limits={"macs": 2e6})
        >>> hwsearch.search(problem, parzen, run=hwsearch.Run(polish=False)).values["macs"] <= 2e6
        True

    Attributes:
        sampler: the name of a class in ``optuna.samplers``, or a function from a seed to a sampler.
        population: trials a step.
        steps: steps of a search.
    """

    name: ClassVar[str] = "optuna"
    sampler: str | Callable[[int], Any] = "TPESampler"
    population: int = 32
    steps: int = 32

    def init(self, problem: Problem) -> OptunaState:
        """The state before the first trial.

        Raises:
            MissingDependency: Optuna is not installed.
            UnknownName: it has no such sampler.
        """
        _sampler(self.sampler, 0)
        return OptunaState(
            np.empty((0, len(problem.space.choices)), dtype=np.uint8),
            np.empty(0),
            np.empty((0, len(problem.limits))),
            "[]",
            np.empty(0, dtype=np.uint64),
            "[]",
        )

    def ask(self, state: OptunaState, problem: Problem, rng: np.random.Generator) -> tuple[Rows, OptunaState]:
        """What the sampler suggests; the problem's seeds at first."""
        optuna = require("optuna", feature=_FEATURE, extra="optuna")
        space, distributions = problem.space, _distributions(problem.space)
        with _quiet(optuna):
            study = optuna.create_study(direction="maximize", sampler=_sampler(self.sampler, int(rng.integers(2**31))))
            study.add_trials(_trials(space, state.X, _values(state), state.costs - 1.0, msgspec.json.decode(state.notes)))
            rows, notes = [], []
            for _ in range(self.population):
                trial = study.ask(distributions)
                rows.append([space.allowed[gene][trial.params[choice.name]] for gene, choice in enumerate(space.choices)])
                notes.append(_plain(study.get_trials(deepcopy=False)[trial.number].system_attrs))
        X = space.canonical(np.array(rows, dtype=np.uint8))
        if not state.step:
            X, notes = np.concatenate([problem.seeds, X]), [{}] * len(problem.seeds) + notes
        return X, replace(state, asked=row_keys(X), asked_notes=msgspec.json.encode(notes).decode())

    def tell(self, state: OptunaState, X: Rows, scores: Values, costs: Values) -> OptunaState:
        """Add the trials."""
        asked = msgspec.json.decode(state.asked_notes)
        place = {int(key): index for index, key in reversed(list(enumerate(state.asked)))}
        notes = msgspec.json.decode(state.notes) + [asked[place[int(key)]] for key in row_keys(X)]
        return replace(
            state,
            X=np.concatenate([state.X, X]),
            scores=np.concatenate([state.scores, scores]),
            costs=np.concatenate([state.costs, costs]),
            notes=msgspec.json.encode(notes).decode(),
            step=state.step + 1,
        )

    def done(self, state: OptunaState) -> bool:
        """Never."""
        return False


def to_study(space: SearchSpace, X: Rows, scores: Values, values: Mapping[str, Values], *, name: str | None, storage: Any) -> Any:
    """Rows and their scores as an Optuna study.

    Args:
        space: their space.
        X: rows, shape ``(n, genes)``.
        scores: shape ``(n,)``.
        values: metrics, kept as attributes of the trials, each of shape ``(n,)``.
        name: of the study.
        storage: where it is kept: an Optuna storage or its address; in memory if ``None``.

    Raises:
        MissingDependency: Optuna is not installed.
    """
    optuna = require("optuna", feature="SearchResult.to_study()", extra="optuna")
    with _quiet(optuna):
        study = optuna.create_study(direction="maximize", study_name=name, storage=storage)
        trials = _trials(space, X, scores, np.zeros((len(X), 0)), [{}] * len(X), values)
        study.add_trials(trials)
    return study


def _trials(
    space: SearchSpace,
    X: Rows,
    scores: Values,
    excess: Values,
    notes: Sequence[Mapping[str, Any]],
    values: Mapping[str, Values] | None = None,
) -> list[Any]:
    optuna = require("optuna", feature=_FEATURE, extra="optuna")
    distributions = _distributions(space)
    ranks = [{value: rank for rank, value in enumerate(allowed)} for allowed in space.allowed]
    made = []
    for index, row in enumerate(X):
        params = {choice.name: ranks[gene].get(int(row[gene]), 0) for gene, choice in enumerate(space.choices)}
        made.append(
            optuna.trial.create_trial(
                params=params,
                distributions=distributions,
                value=float(scores[index]),
                system_attrs={**notes[index], _CONSTRAINTS: excess[index].tolist()},
                user_attrs={
                    "architecture": {name: str(value) for name, value in space.decode(row).items()},
                    **{name: float(column[index]) for name, column in (values or {}).items()},
                },
            )
        )
    return made


def _values(state: OptunaState) -> Values:
    """Scores; for rows that exceed a limit, something below the worst score."""
    known = state.scores[~np.isnan(state.scores)]
    worst = float(known.min()) if len(known) else 0.0
    over = np.maximum(state.costs - 1.0, 0.0).sum(axis=1)
    return np.where(np.isnan(state.scores), worst - np.minimum(over, 1e6), state.scores)


def _distributions(space: SearchSpace) -> dict[str, Any]:
    """Each gene as the rank among its allowed values."""
    optuna = require("optuna", feature=_FEATURE, extra="optuna")
    return {
        choice.name: optuna.distributions.IntDistribution(0, len(allowed) - 1)
        for choice, allowed in zip(space.choices, space.allowed, strict=True)
    }


def _sampler(sampler: str | Callable[[int], Any], seed: int) -> Any:
    optuna = require("optuna", feature=_FEATURE, extra="optuna")
    if not isinstance(sampler, str):
        return sampler(seed)
    known = [name for name in dir(optuna.samplers) if name.endswith("Sampler") and not name.startswith("Base")]
    if sampler not in known:
        raise UnknownName("sampler of Optuna", sampler, known)
    made = getattr(optuna.samplers, sampler)
    takes = inspect.signature(made).parameters
    options: dict[str, Any] = {"seed": seed} if "seed" in takes else {}
    if "constraints_func" in takes:
        options["constraints_func"] = lambda trial: trial.system_attrs.get(_CONSTRAINTS, ())
    with _quiet(optuna):
        return made(**options)


def _plain(notes: Mapping[str, Any]) -> dict[str, Any]:
    """What can be kept as JSON."""
    kept = {}
    for name, value in notes.items():
        try:
            kept[name] = msgspec.json.decode(msgspec.json.encode(value))
        except (TypeError, ValueError, OverflowError):
            continue
    return kept


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Without Optuna's log lines and its warnings about experimental options."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(level)
