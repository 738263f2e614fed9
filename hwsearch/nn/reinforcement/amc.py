"""AMC (He et al., ECCV'18): an agent whose actions are clipped so that the limits can always still be met."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ._agent import Agent


@dataclass(frozen=True)
class AMC(Agent):
    """AutoML for model compression, with the settings of its authors, for any genes and any limits.

    800 networks, 100 of them at random; noise of 0.5 that falls by 5 % with every network. Each action is clipped to the nearest one with
    which what is left, at its least, still meets the limits. Without a limit, :class:`hwsearch.algorithms.Guaranteed` is the reward that
    the paper has for networks that lose no accuracy.

    The attributes are those of :class:`Agent`.

    Example:
        >>> import hwsearch
        >>> from hwsearch.nn.reinforcement import AMC, Learning
        >>> from hwsearch.testing import example_space
        >>> quick = AMC(warmup=8, steps=4, learning=Learning(units=(24, 24), batch=16))
        >>> space = example_space()
        >>> problem = hwsearch.Problem.of(space, predictor=hwsearch.metric("worth", space), limits={"time": 9.0})
        >>> hwsearch.search(problem, quick, run=hwsearch.Run(polish=False)).values["time"] <= 9.0
        True
    """

    name: ClassVar[str] = "amc"
    wall: ClassVar[str] = "clip"
    warmup: int = 100
    steps: int = 701
    noise: float = 0.5
    decay: float = 0.95
    memory: int = 100
