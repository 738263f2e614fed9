"""What a search predicted of its best networks, round by round, beside what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..._types import Rows, Values
from ...errors import InvalidInput
from ...spaces._space import SearchSpace

QUANTITIES: Mapping[str, float] = {"score": 0.005, "latency_ms": 0.03}
"""What can be verified, and how far prediction and measurement may be apart where nothing else is asked for: a score by its value (half a
point of accuracy), a latency by a share of the prediction."""

TextRows = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""A table of text: its titles and its rows."""

_WORDING = {
    "score": ("score", "{:.4f}".format, "{:.4f}".format, "{:+.4f}".format),
    "latency_ms": ("ms", "{:.4g}".format, "{:.4g}".format, "{:+.1%}".format),
}
"""How the figures of a verified network are written: what they are, predicted, measured, and the error."""


@dataclass(frozen=True)
class Checked:
    """One network, predicted and measured.

    Example:
        >>> from hwsearch.searching import Checked
        >>> one = Checked((0, 1, 2), predicted={"score": 0.95, "latency_ms": 1.0}, measured={"score": 0.94, "latency_ms": 1.1})
        >>> round(one.error("score"), 3), round(one.error("latency_ms"), 3)  # points of accuracy, and a share of the latency
        (-0.01, 0.1)

    Attributes:
        genes: its row.
        predicted: ``"score"`` and, of a search on one device, ``"latency_ms"``, as the search saw them before it was measured.
        measured: those of them that were verified.
    """

    genes: tuple[int, ...]
    predicted: Mapping[str, float]
    measured: Mapping[str, float]

    def error(self, name: str) -> float:
        """How far the measurement is from the prediction: of a score the difference, of a latency as a share of the prediction."""
        difference = self.measured[name] - self.predicted[name]
        return difference if name == "score" else difference / self.predicted[name]

    def figures(self, name: str) -> tuple[float, float, float]:
        """Predicted, measured, and the error of the prediction."""
        return self.predicted[name], self.measured[name], self.error(name)

    def value(self, name: str) -> float:
        """As measured, or as predicted where it was not verified."""
        return self.measured.get(name, self.predicted[name])


@dataclass(frozen=True)
class Round:
    """One round: a search, and what became of its best networks.

    Example:
        >>> from hwsearch.searching import Checked, Round
        >>> answer = Checked((1, 1), predicted={"score": 0.95}, measured={"score": 0.93})
        >>> other = Checked((0, 1), predicted={"score": 0.94}, measured={"score": 0.94})
        >>> round(Round((answer, other), agreed=False).error("score"), 3)
        0.01

    Attributes:
        networks: the answer of the search first, then others that may be as good, most hopeful first.
        agreed: whether prediction and measurement of the answer agree, and a measured network within the limits is as good.
    """

    networks: tuple[Checked, ...]
    agreed: bool

    def error(self, name: str) -> float:
        """Mean absolute error of the predictions (see :meth:`Checked.error`)."""
        return float(np.mean([abs(one.error(name)) for one in self.networks]))


@dataclass(frozen=True)
class Verification:
    """How a search was verified.

    Example:
        >>> from hwsearch.searching import Checked, Round, Verification
        >>> first = Round((Checked((1, 1), {"score": 0.95}, {"score": 0.93}),), agreed=False)
        >>> second = Round((Checked((0, 1), {"score": 0.94}, {"score": 0.94}),), agreed=True)
        >>> told = Verification({"score": 0.005}, (first, second))
        >>> told.agreed, told.measured("score")[1].tolist()
        (True, [0.93, 0.94])

    Attributes:
        tolerance: what was verified, and how far prediction and measurement of the answer were allowed to be apart.
        rounds: in their order; each but the first searched with what the earlier ones had taught.
    """

    tolerance: Mapping[str, float]
    rounds: tuple[Round, ...]

    def check(self, space: SearchSpace) -> None:
        """Check that these are measurements of networks of a space.

        Raises:
            InvalidInput: there are none, or they are of other rows, of unknown quantities, or impossible.
        """
        if not self.rounds or not all(turn.networks for turn in self.rounds):
            raise InvalidInput("Each round of a verification must hold a network.")
        for one in self.networks:
            space.check(np.array([one.genes], dtype=np.int64), "verification")
            for values in (one.predicted, one.measured):
                if not set(values) <= set(QUANTITIES) or values.get("latency_ms", 1.0) <= 0:
                    raise InvalidInput(f"A verified network holds {dict(values)}; a score and a positive latency_ms were expected.")
            if not set(self.tolerance) <= set(one.measured) <= set(one.predicted):
                raise InvalidInput("A verified network lacks a quantity that was verified.")

    @property
    def agreed(self) -> bool:
        """Whether the last round agreed."""
        return self.rounds[-1].agreed

    @property
    def networks(self) -> tuple[Checked, ...]:
        """All networks, each once, in the order in which they were measured."""
        found: dict[tuple[int, ...], Checked] = {}
        for turn in self.rounds:
            for one in turn.networks:
                found.setdefault(one.genes, one)
        return tuple(found.values())

    def measured(self, name: str = "score") -> tuple[Rows, Values]:
        """What was measured, such as to fit a predictor with: rows, shape ``(n, genes)``, and their values, shape ``(n,)``."""
        X = np.array([one.genes for one in self.networks], dtype=np.uint8)
        return X, np.array([one.measured[name] for one in self.networks], dtype=np.float64)

    def rows(self, best: tuple[int, ...]) -> TextRows:
        """Titles and rows of text: a row a network, by round, the answer of its search first.

        Args:
            best: the row of the answer.
        """
        names = [name for name in _WORDING if name in self.tolerance]
        rows = []
        for number, turn in enumerate(self.rounds, start=1):
            for place, one in enumerate(turn.networks):
                figures = [(words, value) for name in names for words, value in zip(_WORDING[name][1:], one.figures(name), strict=True)]
                cells = [words(value) for words, value in figures]
                rows.append((f"{number}", "predicted best" if place == 0 else "", *cells, "the answer" if one.genes == best else ""))
        titles = [f"{_WORDING[name][0]} {which}" for name in names for which in ("predicted", "measured", "error")]
        return ("round", "", *titles, ""), rows
