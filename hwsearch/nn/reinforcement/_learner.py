"""Learner: the deep deterministic policy gradient (Lillicrap et al., ICLR'16) of Stable-Baselines3, whose state is one array."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from ..._types import Values
from ...errors import InvalidInput, require

if TYPE_CHECKING:
    from stable_baselines3 import DDPG
    from stable_baselines3.common.logger import Logger
    from stable_baselines3.common.type_aliases import ReplayBufferSamples
else:
    _FEATURE = "Search by reinforcement learning ('amc', 'haq')"
    DDPG = require("stable_baselines3", feature=_FEATURE, extra="rl").DDPG
    Logger = require("stable_baselines3.common.logger", feature=_FEATURE, extra="rl").Logger
    ReplayBufferSamples = require("stable_baselines3.common.type_aliases", feature=_FEATURE, extra="rl").ReplayBufferSamples

Numbers = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Learning:
    """How an agent learns; the settings that AMC and HAQ share.

    Example:
        >>> from hwsearch.nn.reinforcement import AMC, Learning
        >>> quick = AMC(warmup=20, steps=100, learning=Learning(units=(32, 32), actor_rate=1e-3, batch=16))
        >>> quick.learning.critic_rate
        0.001

    Attributes:
        units: of each hidden layer of the actor and of the critic.
        actor_rate, critic_rate: learning rates of Adam.
        batch: decisions that an update looks at.
        discount: of what comes later.
        tau: the share by which the targets follow at each update.
        baseline: the share by which the moving average of rewards, which is taken off them, follows at each update.
    """

    units: tuple[int, ...] = (300, 300)
    actor_rate: float = 1e-4
    critic_rate: float = 1e-3
    batch: int = 64
    discount: float = 1.0
    tau: float = 0.01
    baseline: float = 0.5


PUBLISHED = Learning()
"""The settings of both papers."""


class _Memory:
    """Decisions to learn from: what Stable-Baselines3 asks of a replay buffer.

    Args:
        lines: what was seen, what was seen next, the action and whether it was the last one, shape ``(n, 2 * features + 2)``.
        rewards: of each, shape ``(n,)``.
        average: of rewards so far; NaN before the first, when the mean of the first batch is taken.
        follow: see :attr:`Learning.baseline`.
        rng: chooses decisions.
    """

    def __init__(self, lines: Numbers, rewards: Values, average: float, follow: float, rng: np.random.Generator) -> None:
        self._lines, self._rewards, self.average, self._follow, self._rng = lines, rewards, average, follow, rng

    def sample(self, batch_size: int, env: object = None) -> ReplayBufferSamples:
        """Some decisions, their rewards less the moving average."""
        some = self._rng.integers(len(self._lines), size=batch_size)
        lines, rewards = torch.from_numpy(self._lines[some]), self._rewards[some]
        mean = float(rewards.mean())
        self.average = mean if np.isnan(self.average) else self.average + self._follow * (mean - self.average)
        features = (lines.shape[1] - 2) // 2
        return ReplayBufferSamples(
            observations=lines[:, :features],
            actions=2.0 * lines[:, -2:-1] - 1.0,
            next_observations=lines[:, features:-2],
            dones=lines[:, -1:],
            rewards=torch.from_numpy((rewards - self.average).astype(np.float32))[:, None],
        )


class _Agent(DDPG):
    """The agent with a learning rate of its own for the actor and for the critic."""

    def _update_learning_rate(self, optimizers: Any) -> None:
        """Leave them as they are."""


class Learner:
    """An agent that is loaded from an array, acts or learns, and is written into an array again.

    Args:
        env: an environment with the spaces of the agent's observations and actions.
        how: it learns.
        seed: of its first weights.
    """

    def __init__(self, env: Any, how: Learning, seed: int) -> None:
        self._how = how
        with _seeded(seed):
            nets = {"pi": list(how.units), "qf": list(how.units)}
            self._agent = _Agent(
                "MlpPolicy", env, gamma=how.discount, tau=how.tau, buffer_size=1, device="cpu", policy_kwargs={"net_arch": nets}
            )
        self._agent.set_logger(Logger(None, []))
        for part, rate in ((self._agent.actor, how.actor_rate), (self._agent.critic, how.critic_rate)):
            for group in part.optimizer.param_groups:
                group["lr"] = rate

    @property
    def size(self) -> int:
        """The number of numbers of :meth:`state`."""
        return sum(each.numel() for each in self._weights()) + 2 * sum(each.numel() for each, _ in self._trained())

    def state(self) -> Numbers:
        """Everything that it has learned: weights, those of its targets, and the moments of Adam, shape ``(size,)``."""
        with torch.no_grad():
            parts = [each.flatten() for each in self._weights()]
            for weight, optimizer in self._trained():
                kept = optimizer.state.get(weight, {})
                parts += [kept.get(name, torch.zeros_like(weight)).flatten() for name in ("exp_avg", "exp_avg_sq")]
            return torch.cat(parts).numpy().astype(np.float32)

    def load(self, state: Numbers, updates: int) -> None:
        """Become what :meth:`state` told.

        Args:
            state: shape ``(size,)``.
            updates: how often it had learned.

        Raises:
            InvalidInput: it is the state of another agent, or damaged.
        """
        if state.shape != (self.size,) or not np.isfinite(state).all():
            raise InvalidInput(f"The agent has {self.size:,} finite numbers, which the state of the search lacks. Begin the search anew.")
        left = torch.from_numpy(state.copy())
        with torch.no_grad():
            for each in self._weights():
                left = _filled(each, left)
            for weight, optimizer in self._trained():
                moments = torch.zeros_like(weight), torch.zeros_like(weight)
                for moment in moments:
                    left = _filled(moment, left)
                optimizer.state[weight] = {"step": torch.tensor(float(updates)), "exp_avg": moments[0], "exp_avg_sq": moments[1]}

    def act(self, seen: Numbers) -> Values:
        """The actions from 0 to 1 that it holds for the best, shape ``(n,)``."""
        with torch.no_grad():
            found = self._agent.actor(torch.from_numpy(seen))[:, 0].numpy().astype(np.float64)
        return np.asarray(np.clip((found + 1.0) / 2.0, 0.0, 1.0))

    def learn(self, lines: Numbers, rewards: Values, average: float, updates: int, rng: np.random.Generator) -> float:
        """Update actor and critic.

        Args:
            lines, rewards, average: see :class:`_Memory`.
            updates: how many.
            rng: for the choice of batches.

        Returns:
            The moving average of rewards.
        """
        memory = _Memory(lines, rewards, average, self._how.baseline, rng)
        self._agent.replay_buffer = memory  # type: ignore[assignment]
        with _seeded(0):  # the noise of targets, which DDPG clips to nothing, is drawn all the same
            self._agent.train(updates, self._how.batch)
        return memory.average

    def _weights(self) -> Iterator[torch.Tensor]:
        for part in (self._agent.actor, self._agent.actor_target, self._agent.critic, self._agent.critic_target):
            yield from part.parameters()

    def _trained(self) -> Iterator[tuple[torch.Tensor, torch.optim.Optimizer]]:
        for part in (self._agent.actor, self._agent.critic):
            yield from ((weight, part.optimizer) for weight in part.parameters())


class _seeded:
    """While it lasts, torch draws from a generator of that seed; what others draw is not touched.

    Args:
        seed: of the generator.
    """

    def __init__(self, seed: int) -> None:
        self._fork, self._seed = torch.random.fork_rng(devices=[]), seed

    def __enter__(self) -> None:
        self._fork.__enter__()
        torch.manual_seed(self._seed)

    def __exit__(self, *error: object) -> None:
        self._fork.__exit__(None, None, None)


def _filled(into: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Fill a tensor with the first of some numbers; what is left of them."""
    into.copy_(numbers[: into.numel()].view_as(into))
    return numbers[into.numel() :]
