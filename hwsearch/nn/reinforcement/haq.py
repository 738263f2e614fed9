"""HAQ (Wang et al., CVPR'19): an agent whose networks are taken down to the limits, bit by bit and layer after layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ._agent import Agent


@dataclass(frozen=True)
class HAQ(Agent):
    """Hardware-aware automated quantisation, with the settings of its authors, for any genes and any limits.

    600 networks, 20 of them at random; noise of 0.5 that falls by 1 % with every network. Bits are decided in equal parts of the action. A
    network beyond a limit is taken down at its end: from the last gene to the first, and again, each by one value towards a network that
    meets the limits, which for bits is one bit less.

    The attributes are those of :class:`Agent`.

    Example:
        >>> import hwsearch
        >>> from hwsearch.nn.reinforcement import HAQ, Learning
        >>> bits = {f"layer{number}.bits": (2, 4, 8) for number in range(1, 6)}
        >>> sizes = {"size": [([name], [2.0, 4.0, 8.0]) for name in bits]}
        >>> space = hwsearch.SearchSpace.from_tables(bits, sizes)
        >>> quick = HAQ(warmup=8, steps=4, learning=Learning(units=(24, 24), batch=16))
        >>> problem = hwsearch.Problem.of(space, predictor=lambda X: X.sum(axis=1), limits={"size": 20.0})
        >>> hwsearch.search(problem, quick, run=hwsearch.Run(polish=False)).values["size"] <= 20.0
        True
    """

    name: ClassVar[str] = "haq"
    wall: ClassVar[str] = "lower"
    warmup: int = 20
    steps: int = 581
    noise: float = 0.5
    decay: float = 0.99
    memory: int = 128
