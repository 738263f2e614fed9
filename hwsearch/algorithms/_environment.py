"""CompressionEnv: a problem as an environment of Gymnasium, for any agent that learns by reward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import require
from ..spaces._space import Architecture
from ._decisions import Decisions
from ._problem import Problem

if TYPE_CHECKING:
    import gymnasium
else:
    gymnasium = require("gymnasium", feature="CompressionEnv", extra="rl")

Numbers = npt.NDArray[np.float32]


class CompressionEnv(gymnasium.Env[Numbers, Numbers]):
    """A network decided gene by gene, as AMC (He et al., ECCV'18) and HAQ (Wang et al., CVPR'19) have it.

    An episode is one network. Each step decides one gene that counts (a width, a kernel, a depth, bits); genes with one allowed value are
    skipped. The action is a number from 0, the least value, to 1, the largest; widths are chosen by size, at least what is requested, and
    other genes in equal parts, so that bits are ``least + floor(action x number of values)``. The observation is described by
    :attr:`features`: where the gene stands, the layer that it changes most in the largest network, what share of each limited metric it
    decides, how much of it is saved so far and can still be saved, and the last action; each from 0 to 1. What a space does not know
    stays 0: spaces that are given as tables know no layers. The reward is 0 until the last step, whose reward is the score of the network.

    Args:
        problem: what is searched.
        wall: how limits are kept. ``"clip"``: each action is changed to the nearest one with which what is left can still meet the limits,
            exactly for one limit and safely for several. ``"lower"``: actions count as they are, and a network beyond a limit is taken
            down at the end, one gene after the other from the last to the first. Either way every network meets the limits, unless no
            network is known that meets all of them together; a network beyond a limit has no score, and its reward is the least score so
            far (0 before the first) less 1 and less the share by which it exceeds the limit.

    Raises:
        MissingDependency: Gymnasium is not installed.
        UnknownName: there is no such wall.

    Example:
        >>> import hwsearch
        >>> from hwsearch.algorithms import CompressionEnv
        >>> problem = hwsearch.Problem.of("resnet_digits", predictor=lambda X: X.mean(axis=1), limits={"macs": 1e6})
        >>> env = CompressionEnv(problem)
        >>> seen, _ = env.reset(seed=0)
        >>> done = False
        >>> while not done:
        ...     seen, reward, done, _, told = env.step(env.action_space.sample())
        >>> hwsearch.metric("macs", problem.space)(told["row"][None])[0] <= 1e6
        np.True_
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"]}  # noqa: RUF012 - as Gymnasium declares it
    render_mode = "ansi"

    def __init__(self, problem: Problem, wall: str = "clip") -> None:
        self._plan = Decisions(problem, wall)
        self._walk = self._plan.start()
        self._least: float | None = None
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (len(self._plan.features),), np.float32)
        self.action_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)

    @property
    def features(self) -> tuple[str, ...]:
        """What each number of an observation says; those that end with a number are of the limited metric of that place."""
        return self._plan.features

    @property
    def gene(self) -> str | None:
        """The name of the gene that the next step decides; ``None`` at the end of an episode."""
        return None if self._walk.done else self._plan.space.choices[self._walk.gene].name

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Numbers, dict[str, Any]]:
        """Begin another network.

        Args:
            seed: of the environment's own randomness, of which it has none.
            options: ignored.

        Returns:
            The first observation, and the name of the gene that is decided next.
        """
        super().reset(seed=seed)
        self._walk = self._plan.start()
        return self._seen(), {"gene": self.gene}

    def step(self, action: Numbers) -> tuple[Numbers, float, bool, bool, dict[str, Any]]:
        """Decide a gene.

        Args:
            action: from 0 to 1, shape ``(1,)``.

        Returns:
            The next observation; the reward; whether the network is complete; whether it was broken off, which never happens; and the
            name of the gene that is decided next, or at the end the ``row`` of the network and its ``score``.

        Raises:
            InvalidInput: the action is no number, or the network is complete already.
        """
        if not self._walk.done:
            self._walk.act(np.asarray(action, dtype=np.float64).reshape(-1))
        elif self._plan.genes:
            self._walk.gene  # noqa: B018 - says that all genes are decided
        seen = self._seen()
        if not self._walk.done:
            return seen, 0.0, False, False, {"gene": self.gene}
        rows = self._walk.rows()
        (score,), costs = self._plan.problem.evaluate(rows)
        if scored := bool(np.isfinite(score)):
            self._least = float(score) if self._least is None else min(self._least, float(score))
        reward = float(score) if scored else (self._least or 0.0) - float(np.minimum(costs.max(initial=1.0), 1e6))
        return seen, reward, True, False, {"row": rows[0], "score": float(score)}

    def render(self) -> str:
        """The network so far, undecided genes at their least value."""
        return str(Architecture(self._plan.space, self._walk.rows()[0] if self._walk.done else self._plan._rows(self._walk.places)[0]))

    def _seen(self) -> Numbers:
        """The observation before the next gene that counts, which is moved to; zeros at the end."""
        while not self._walk.done and not self._walk.active[0]:
            self._walk.act(np.zeros(1))
        return np.zeros(len(self._plan.features), dtype=np.float32) if self._walk.done else self._walk.observe()[0]
