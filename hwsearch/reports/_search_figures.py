"""Figures of what a search found.

Every figure is a plain :class:`matplotlib.figure.Figure`, made without pyplot, so no screen is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import InvalidInput
from ..searching._result import SearchResult
from ._compared import Compared
from ._palette import BLUE, COMPARED, GREY, SEARCHED, SERIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_Value = Callable[[Compared], float]


def front_figure(result: SearchResult, comparison: Sequence[Compared] = ()) -> Figure:
    """The Pareto front: predicted accuracy against latency, or against the first limited metric if latency has no limit.

    Args:
        result: of a search.
        comparison: finished networks, drawn at their measured latency and test accuracy; the one named ``"searched"`` as a star.

    Returns:
        A figure that notebooks show and that ``savefig`` writes.

    Raises:
        MissingDependency: matplotlib is not installed.

    Example:
        >>> import hwsearch
        >>> from hwsearch.reports import front_figure
        >>> result = hwsearch.search("resnet_digits", predictor=lambda X: X.sum(axis=1), limits={"macs": 1e6}, run=hwsearch.Run(steps=3))
        >>> figure = front_figure(result)
        >>> figure.axes[0].get_xlabel()
        'macs'
        >>> figure.savefig("front.svg")
    """
    from ._canvas import canvas

    front = result.front
    limited = [name for name in front.values if name in result.limits]
    cost = "latency_ms" if "latency_ms" in limited else (limited or list(front.values))[0]
    with canvas() as (figure, axes):
        order = np.argsort(front.values[cost])
        scale, label = _scored(front.scores)
        x, y = front.values[cost][order], scale * front.scores[order]
        axes.plot(x, y, "o", color=BLUE, markersize=4, alpha=0.6, label=f"front, predicted ({len(front)} networks)")
        best = (result.values[cost], scale * result.best_score)
        axes.plot(*best, "o", markersize=11, fillstyle="none", linestyle="none", color=BLUE, label=f"the answer, {result.word}")
        if cost in result.limits:
            axes.axvline(result.limits[cost], color=GREY, linestyle="--", linewidth=1, label=f"limit: {result.limits[cost]:.4g}")
        shown = comparison if cost == "latency_ms" and scale != 1 else ()
        _draw(axes, shown, lambda network: network.measured_ms, lambda network: scale * network.accuracy, spread="xerr")
        axes.set_xlabel(_label(cost))
        axes.set_ylabel(label)
        axes.set_title(f"{label.partition(' (')[0].capitalize()} against {_label(cost).partition(' (')[0]}, {result.best.space.name}")
    return figure


def macs_figure(comparison: Sequence[Compared]) -> Figure:
    """Measured latency of finished networks against their multiply-accumulates: what these would make one believe, and what is true.

    On the line latency is proportional to the multiply-accumulates of the first network, usually the dense one; a network above it is
    slower than they say. Without the line if those of the first are not known.

    Args:
        comparison: finished networks; the one named ``"searched"`` is a star.

    Raises:
        InvalidInput: there are none.
        MissingDependency: matplotlib is not installed.

    Example:
        >>> from hwsearch.reports import Compared, macs_figure
        >>> whole = Compared("dense", 0.93, 0.17, 0.166, 0.001, macs=5.7e6, params=121e3, size_bytes=488e3)
        >>> small = Compared("searched", 0.88, 0.06, 0.059, 0.001, macs=1.0e6, params=45e3, size_bytes=154e3)
        >>> macs_figure([whole, small]).axes[0].get_xlabel()  # less than a fifth of the multiply-accumulates in a third of the time
        'million multiply-accumulates'
    """
    from ._canvas import canvas

    if not comparison:
        raise InvalidInput("There is nothing to compare: give at least one finished network.")
    first, most = comparison[0], max(network.macs for network in comparison)
    with canvas() as (figure, axes):
        if first.macs:
            told = [0.0, first.measured_ms / first.macs * most]
            axes.plot([0.0, 1e-6 * most], told, color=GREY, linewidth=1, label=f"as MACs tell from {first.name}")
        _draw(axes, comparison, lambda network: 1e-6 * network.macs, lambda network: network.measured_ms, spread="yerr")
        axes.set_xlabel("million multiply-accumulates")
        axes.set_ylabel("measured latency (ms)")
        axes.set_title("Measured latency against multiply-accumulates")
    return figure


def _draw(axes: Any, comparison: Sequence[Compared], x: _Value, y: _Value, spread: str) -> None:
    """A mark for each network, with the spread of its latency along the axis where latency is."""
    marks = cycle(COMPARED)
    for network in comparison:
        color, marker = SEARCHED if network.name == "searched" else next(marks)
        size, label = 12 if marker == "*" else 8, f"{network.name}, measured"
        error: dict[str, Any] = {spread: network.spread_ms}
        axes.errorbar(x(network), y(network), **error, color=color, marker=marker, markersize=size, linestyle="none", label=label)


def history_figure(result: SearchResult) -> Figure:
    """The search as it went: best predicted accuracy against the networks evaluated.

    Example:
        >>> import hwsearch
        >>> from hwsearch.reports import history_figure
        >>> problem = hwsearch.Problem.of("resnet_digits", predictor=lambda X: X.sum(axis=1), limits={"macs": 1e6})
        >>> figure = history_figure(hwsearch.search(problem, run=hwsearch.Run(steps=3)))
        >>> figure.axes[0].get_xlabel()
        'networks evaluated'
        >>> figure.savefig("history.svg")

    Raises:
        InvalidInput: the result has no history.
        MissingDependency: matplotlib is not installed.
    """
    from ._canvas import canvas

    steps = [step for step in result.history if step.get("best_score") is not None]
    if not steps:
        raise InvalidInput("The result has no history to draw: no step found a network within the limits.")
    scale, label = _scored(result.front.scores)
    with canvas() as (figure, axes):
        axes.step(
            [step["evaluated"] for step in steps],
            [scale * step["best_score"] for step in steps],
            where="post",
            color=BLUE,
            label=f"best within the limits ({len(result.history)} steps)",
        )
        axes.set_xlabel("networks evaluated")
        axes.set_ylabel(f"best predicted {label}")
        axes.set_title("History of the search")
    return figure


def verification_figure(result: SearchResult, name: str = "score") -> Figure:
    """Predicted against measured scores or latencies of the networks that a search verified, a colour for each round.

    Example:
        >>> import hwsearch
        >>> from hwsearch.reports import verification_figure
        >>> class Tested:  # what networks really score
        ...     name = "my test bench"
        ...     def score(self, X):
        ...         return 0.9 + 0.001 * X.mean(axis=1)
        >>> problem = hwsearch.Problem.of("resnet_digits", predictor=lambda X: 0.9 + 0.001 * X.mean(axis=1), limits={"macs": 1e6})
        >>> result = hwsearch.search(problem, verify=hwsearch.Verify(Tested(), networks=2), run=hwsearch.Run(steps=3))
        >>> verification_figure(result).axes[0].get_ylabel()
        'predicted accuracy (%)'

    Args:
        result: of a search that verified.
        name: ``"score"`` or ``"latency_ms"``.

    Raises:
        InvalidInput: the search did not verify this.
        MissingDependency: matplotlib is not installed.
    """
    from ._canvas import canvas

    if result.verification is None or name not in result.verification.tolerance:
        raise InvalidInput(f"The search did not verify {name}; search again with verify=hwsearch.Verify(..., tolerance={{{name!r}: ...}}).")
    scale, label = _scored(result.front.scores) if name == "score" else (1.0, _label(name))
    rounds = [scale * np.array([(net.measured[name], net.predicted[name]) for net in each.networks]) for each in result.verification.rounds]
    everything = np.concatenate(rounds)
    with canvas() as (figure, axes):
        axes.plot(*2 * [[everything.min(), everything.max()]], color=GREY, linewidth=1, label="predicted as measured")
        for number, points in enumerate(rounds):
            color, marker = SERIES[number % len(SERIES)]
            axes.plot(*points.T, marker, color=color, alpha=0.5, label=f"round {number + 1} ({len(points)} networks)")
            axes.plot(*points[0], marker, color=color, markersize=11, fillstyle="none")
        axes.set_xlabel(f"measured {label}")
        axes.set_ylabel(f"predicted {label}")
        axes.set_title(f"Predicted against measured {label.partition(' (')[0]}; the predicted best of each round is ringed")
    return figure


def _scored(scores: npt.NDArray[np.float64]) -> tuple[float, str]:
    """The factor and the label of an axis of scores: scores between 0 and 1, which a predictor may exceed a little, are accuracies."""
    return (100.0, "accuracy (%)") if scores.min() >= 0.0 and scores.max() <= 1.1 else (1.0, "score")


def _label(cost: str) -> str:
    name, _, unit = cost.rpartition("_")
    return f"{name.replace('_', ' ')} ({ {'ms': 'ms', 'mj': 'mJ', 'mb': 'MB'}[unit] })" if unit in ("ms", "mj", "mb") else cost
