"""SearchResult: the answer, how tight the limits were, the front, and where it all came from."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from .._files._reading import guarded, read_document
from .._files._writing import PathLike, write_atomic
from .._html import table, text
from .._types import Rows, Values
from ..errors import CorruptFile, require
from ..spaces._load import space_of_file
from ..spaces._space import Architecture, SearchSpace
from .verify._records import TextRows, Verification

if TYPE_CHECKING:
    import pandas as pd


BY_TABLE = ("latency_ms", "energy_mj")
"""Metrics that a table of a device predicts; all others follow from the network alone."""


def score_text(score: float) -> str:
    """A score as people read it: accuracies with four digits, and counts, which may stand for a score, without any."""
    return f"{score:,.0f}" if abs(score) >= 1000 else f"{score:.4f}"


def _amount(value: float) -> str:
    """A cost as people read it."""
    return f"{value:,.0f}" if abs(value) >= 1e6 else f"{value:,.6g}"


FORMAT = "hwsearch-result"
VERSION = 2
"""Results of version 1 lack ``verification``, and are read like any other."""


class Status(enum.Enum):
    """How a search ended; the value says what it means and what to do next.

    Example:
        >>> import hwsearch
        >>> run = hwsearch.Run(steps=3)
        >>> result = hwsearch.search("resnet_digits", predictor=lambda X: X.sum(axis=1), limits={"macs": 1e6}, run=run)
        >>> result.status.name, result.status.value.partition(".")[0]
        ('BUDGET_SPENT', 'All steps or evaluations were spent and the score may still rise')
    """

    OPTIMAL = "Proven: no architecture within the limits has a better score than this one, up to the gap that is reported."
    EXHAUSTED = "Every architecture of the space was evaluated: this is the best that the predictor knows."
    CONVERGED = "The algorithm found nothing better for a while. Another seed is a cheap check; verify the answer by measuring it."
    BUDGET_SPENT = (
        "All steps or evaluations were spent and the score may still rise. Allow more steps or evaluations, or go on from the saved state."
    )
    VERIFIED = (
        "Prediction and measurement agree: no network is predicted to be better than this one, as measured, by more than the tolerance."
    )
    ROUNDS_SPENT = (
        "The best network that was measured; prediction and measurement do not agree yet. Allow more rounds, or verify more networks, "
        "as long as that brings new ones."
    )


@dataclass(frozen=True, eq=False)
class Front:
    """The networks that no other network found beats in score and all limited metrics at once, best score first.

    Example:
        >>> import hwsearch
        >>> run = hwsearch.Run(steps=3)
        >>> front = hwsearch.search("resnet_digits", predictor=lambda X: X.sum(axis=1), limits={"macs": 1e6}, run=run).front
        >>> macs = front.values["macs"]
        >>> bool(front.scores[0] > front.scores[-1]), bool(macs[0] > macs[-1])  # a better score takes more work
        (True, True)

    Attributes:
        space: their space.
        X: their rows, read-only, shape ``(n, genes)``.
        scores: shape ``(n,)``.
        values: each metric by name, shape ``(n,)``.
    """

    space: SearchSpace
    X: Rows
    scores: Values
    values: Mapping[str, Values]

    def __post_init__(self) -> None:
        self.X.flags.writeable = False
        for array in (self.scores, *self.values.values()):
            array.flags.writeable = False

    def __len__(self) -> int:
        return len(self.X)

    def __repr__(self) -> str:
        columns = {"score": self.scores, **self.values} if len(self) else {}
        ranges = [f"{name} {values.min():.4g} to {values.max():.4g}" for name, values in columns.items()]
        return f"<Front of {self.space.name!r}: {', '.join([f'{len(self)} networks', *ranges])}>"

    def __getitem__(self, index: int) -> Architecture:
        return self.space.architecture(self.X[index])

    def to_frame(self) -> pd.DataFrame:
        """A pandas DataFrame: a row a network, with its score, its metrics and its genes (NaN where inactive).

        Example:
            >>> import hwsearch
            >>> problem = hwsearch.Problem.of("resnet_digits", predictor=lambda X: X.sum(axis=1), limits={"macs": 1e6})
            >>> frame = hwsearch.search(problem, run=hwsearch.Run(steps=3)).front.to_frame()
            >>> list(frame.columns[:3]), bool(frame["macs"].max() <= 1e6)
            (['score', 'macs', 'bitops'], True)

        Raises:
            MissingDependency: pandas is not installed.
        """
        frames = require("pandas", feature="Front.to_frame()", extra="pandas")
        genes = [self.space.decode(row) for row in self.X]
        columns = {choice.name: [values.get(choice.name) for values in genes] for choice in self.space.choices}
        frame: pd.DataFrame = frames.DataFrame({"score": self.scores, **self.values, **columns})
        return frame


@dataclass(frozen=True, eq=False)
class SearchResult:
    """What a search found.

    Example:
        >>> import hwsearch
        >>> run = hwsearch.Run(steps=3)
        >>> result = hwsearch.search("resnet_digits", predictor=lambda X: X.sum(axis=1), limits={"macs": 1e6}, run=run)
        >>> sorted(result.values), result.limits, result.provenance["device"]
        (['bitops', 'macs', 'params', 'peak_memory_mb', 'size_mb'], {'macs': 1000000.0}, None)

    Attributes:
        best: the architecture with the best score within the limits; of a verified search, of those that were measured.
        best_score: its predicted score, or the measured one where it was verified.
        values: its metrics by name, in the units that the names say; its latency as measured where it was verified.
        limits: the most that each limited metric was allowed to be.
        status: how the search ended.
        front: the trade-offs that it came across.
        history: a dictionary a step: ``step``, ``evaluated``, ``feasible``, ``best_score``, and the ``hypervolume`` that the front
            dominates, from the worst score and costs of the search (``None`` with more than two costs).
        seed: of the search.
        provenance: the algorithm with its hyper-parameters, the predictor and the device.
        bound: a score that, proven, no architecture within the limits beats; ``None`` where nothing was proven.
        surrogate_bound: the same of an additive surrogate of the score, by algorithms that search through one.
        cautions: reasons to distrust the best score (the prediction is saturated, extrapolates, or is unsure), and limits that exclude no
            network.
        verification: what became of the predictions, round by round; ``None`` where the search was not verified. Front and history are
            those of the last round, as predicted.
    """

    best: Architecture
    best_score: float
    values: Mapping[str, float]
    limits: Mapping[str, float]
    status: Status
    front: Front = field(repr=False)
    history: tuple[Mapping[str, Any], ...] = field(repr=False)
    seed: int
    provenance: Mapping[str, str | None] = field(repr=False)
    bound: float | None = field(default=None, repr=False)
    surrogate_bound: float | None = field(default=None, repr=False)
    cautions: tuple[str, ...] = ()
    verification: Verification | None = field(default=None, repr=False)

    @property
    def gap(self) -> float | None:
        """How far, as a fraction of the best score, the bound is from it; 0 is proven optimal, ``None`` without a bound."""
        return None if self.bound is None else max(0.0, self.bound - self.best_score) / max(abs(self.best_score), 1e-12)

    @property
    def word(self) -> str:
        """How the score is known: ``"measured"`` where it was verified, else ``"predicted"``."""
        return "predicted" if self.verification is None or "score" not in self.verification.tolerance else "measured"

    @property
    def tightness(self) -> dict[str, float]:
        """Each limited metric as a fraction of its limit; 1 is right at the limit."""
        return {name: self.values[name] / most if most else 1.0 for name, most in self.limits.items()}

    def __repr__(self) -> str:
        limits = ", ".join(f"{name} {self.values[name]:.4g} of {most:g}" for name, most in self.limits.items())
        told = [limits or "no limits", f"{len(self.front)} on the front", self.status.name]
        told += [f"{len(self.cautions)} caution(s)"] if self.cautions else []
        return f"<SearchResult score {score_text(self.best_score)}, {'; '.join(told)}>"

    def _repr_html_(self) -> str:
        front = table(f"Front: {len(self.front)} networks, some of them", *self.front_rows())
        verified = "" if self.verification is None else table("Verified", *self.verification_rows())
        return (
            f"<p><b>Best {self.word} score {score_text(self.best_score)}</b> in space <code>{text(self.best.space.name)}</code>. "
            f"{text(self.verdict)}</p>{table('The answer', *self.limit_rows())}<pre>{text(self.best)}</pre>{verified}{front}"
        )

    @property
    def verdict(self) -> str:
        """How the search ended, how far the answer is proven to be from the best, and reasons to distrust its score, as a text."""
        proven = [] if self.gap is None else [f"Gap: {self.gap:.3%}."]
        return " ".join([self.status.value, *proven, *(f"Caution: {caution}" for caution in self.cautions)])

    def limit_rows(self) -> TextRows:
        """Titles and rows of text: the score, and each metric with its limit and how tight that is; limited metrics first."""
        rows: list[tuple[str, ...]] = [("score", score_text(self.best_score), self.word, "", "")]
        for name in sorted(self.values, key=lambda name: name not in self.limits):
            limited = name in self.limits
            most = _amount(self.limits[name]) if limited else ""
            used = f"{self.tightness[name]:.1%}" if limited else ""
            rows.append((name, _amount(self.values[name]), self._known(name), most, used))
        return ("", "value", "how known", "limit", "used"), rows

    def _known(self, name: str) -> str:
        """How a metric of the answer is known."""
        if self.verification is not None and name in self.verification.tolerance:
            return "measured"
        return "predicted" if name.startswith(BY_TABLE) else "counted"

    def front_rows(self) -> TextRows:
        """Titles and rows of text: up to ten networks from all over the front, with their scores and the metrics that were limited."""
        front = self.front
        shown = [name for name in front.values if name in self.limits] or list(front.values)[:1]
        some = np.unique(np.linspace(0, len(front) - 1, 10).astype(int))
        rows = [(score_text(front.scores[index]), *(f"{front.values[name][index]:,.4g}" for name in shown)) for index in some]
        return ("score", *shown), rows

    def verification_rows(self) -> TextRows:
        """Titles and rows of text: what was verified, a row a network, by round; nothing where the search was not verified."""
        return ((), []) if self.verification is None else self.verification.rows(tuple(map(int, self.best.genes)))

    def to_frame(self) -> pd.DataFrame:
        """The front as a pandas DataFrame (see :meth:`Front.to_frame`)."""
        return self.front.to_frame()

    def to_study(self, *, storage: Any = None, name: str | None = None) -> Any:
        """The front as an Optuna study, for its storages, dashboard and visualisation: a trial a network, metrics as its attributes.

        Example:
            >>> import hwsearch
            >>> problem = hwsearch.Problem.of("resnet_digits", predictor=lambda X: X.sum(axis=1), limits={"macs": 1e6})
            >>> result = hwsearch.search(problem, run=hwsearch.Run(steps=3))
            >>> result.to_study().best_value == result.best_score
            True

        Args:
            storage: an Optuna storage or its address, such as ``"sqlite:///study.db"``; in memory if omitted.
            name: of the study.

        Raises:
            MissingDependency: Optuna is not installed.
        """
        from ..algorithms.optuna import to_study

        return to_study(self.front.space, self.front.X, self.front.scores, self.front.values, name=name, storage=storage)

    def save(self, path: PathLike) -> Path:
        """Write the result as JSON, whole or not at all."""
        document = {
            "format": FORMAT,
            "version": VERSION,
            "best": self.best.document(),
            "best_score": self.best_score,
            "values": self.values,
            "limits": self.limits,
            "status": self.status.name,
            "front": {
                "genes": self.front.X.tolist(),
                "scores": self.front.scores.tolist(),
                "values": {name: values.tolist() for name, values in self.front.values.items()},
            },
            "history": self.history,
            "seed": self.seed,
            "provenance": self.provenance,
            "bound": self.bound,
            "surrogate_bound": self.surrogate_bound,
            "cautions": self.cautions,
            "verification": self.verification,
        }
        write_atomic(path, msgspec.json.encode(document) + b"\n")
        return Path(path)


class _FrontFile(msgspec.Struct, frozen=True):
    genes: list[list[int]]
    scores: list[float]
    values: dict[str, list[float]]


def load_result(path: PathLike, space: SearchSpace | None = None) -> SearchResult:
    """Read a result.

    Args:
        path: a JSON file written by :meth:`SearchResult.save`.
        space: the space it must belong to; found by its name if omitted.

    Raises:
        FileError: the file cannot be read.
        CorruptFile, NewerVersion: it is not a result that this hwsearch can read.
        WrongSpace: it belongs to another space.

    Example:
        >>> import hwsearch
        >>> found = hwsearch.search("resnet_digits", predictor=lambda X: X.sum(axis=1), limits={"macs": 1e6}, run=hwsearch.Run(steps=3))
        >>> hwsearch.load_result(found.save("result.json")).best == found.best
        True
    """
    document = read_document(path, "result", format=FORMAT, version=VERSION)
    with guarded(path, "result"):
        where = space or space_of_file(document["best"]["space"], path)
        best = Architecture.from_document(document["best"], where, path)
        front = msgspec.convert(document["front"], _FrontFile)
        if {len(front.genes), *map(len, front.values.values())} != {len(front.scores)}:
            raise CorruptFile(f"{path}: the columns of its front have different lengths.")
        if not set(document["limits"]) <= set(document["values"]):
            raise CorruptFile(f"{path} has limits of metrics whose values it does not tell.")
        verification = msgspec.convert(document.get("verification"), Verification | None)
        if verification is not None:
            verification.check(where)
        return SearchResult(
            best=best,
            best_score=msgspec.convert(document["best_score"], float),
            values=msgspec.convert(document["values"], dict[str, float]),
            limits=msgspec.convert(document["limits"], dict[str, float]),
            status=Status[document["status"]],
            front=Front(
                where,
                where.check(np.array(front.genes, dtype=np.int64).reshape(len(front.genes), len(where.choices)), "front").copy(),
                np.array(front.scores, dtype=np.float64),
                {name: np.array(values, dtype=np.float64) for name, values in front.values.items()},
            ),
            history=msgspec.convert(document["history"], tuple[dict[str, float | None], ...]),
            seed=msgspec.convert(document["seed"], int),
            provenance=msgspec.convert(document["provenance"], dict[str, str | None]),
            bound=msgspec.convert(document.get("bound"), float | None),
            surrogate_bound=msgspec.convert(document.get("surrogate_bound"), float | None),
            cautions=msgspec.convert(document.get("cautions", []), tuple[str, ...]),
            verification=verification,
        )
