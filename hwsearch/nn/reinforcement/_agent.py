"""Agent: an actor and a critic that learn to decide networks gene by gene, behind the protocol of algorithms."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

from ..._types import Rows, Values
from ...algorithms._decisions import Decisions, play
from ...algorithms._environment import CompressionEnv
from ...algorithms._problem import Problem
from ...errors import InvalidInput
from ...spaces._keys import contains, row_keys
from ._learner import PUBLISHED, Learner, Learning

Numbers = npt.NDArray[np.float32]


@dataclass(frozen=True)
class AgentState:
    """What an agent remembers.

    Attributes:
        X: networks whose scores it was told, shape ``(n, genes)``.
        scores: of them; of those beyond a limit less than any other, shape ``(n,)``.
        agent: the weights of actor, critic and their targets, and the moments of their optimisers, shape ``(p,)``.
        updates: how often they have learned.
        memory: decisions to learn from, see :func:`hwsearch.algorithms._decisions.play`, shape ``(m, 2 * features + 2)``.
        rewards: the score of the network that each decision was about, shape ``(m,)``.
        average: the moving average of rewards.
        spread: the standard deviation of the rewards of the first networks, by which rewards are divided; 0 before they are known.
        decisions: those about the networks that were proposed last, shape ``(k, 2 * features + 2)``.
        owners: the network of each decision, shape ``(k,)``.
        proposed: keys of these networks, shape ``(networks,)``.
        step: steps taken.
        idle: steps since a network was proposed that had not been scored.
    """

    X: Rows
    scores: Values
    agent: Numbers
    memory: Numbers
    rewards: Values
    decisions: Numbers
    owners: npt.NDArray[np.int64]
    proposed: npt.NDArray[np.uint64]
    updates: int = 0
    average: float = 0.0
    spread: float = 0.0
    step: int = 0
    idle: int = 0


@dataclass(frozen=True)
class Agent:
    """An agent that decides one network a step by deep deterministic policy gradients.

    The first step draws ``warmup`` networks by actions at random. In each later step the agent first learns, as often as there were
    decisions about the last networks, from decisions drawn from its memory; then it decides networks by the actions that it holds for
    best, with noise from a normal distribution that is cut off at 0 and 1 and gets narrower with every network. Each decision about a
    network has the score of that network as its reward. Rewards are divided by the standard deviation of those of the first
    networks, so that scores may have any unit. A network beyond the limits has less reward than any other.

    Attributes:
        warmup: networks decided at random, all in the first step.
        steps: steps of a search.
        population: networks decided a step; the papers decide one. With more they can be scored at once.
        noise: standard deviation of the noise of actions.
        decay: the factor by which it falls with each network.
        memory: the networks whose decisions are remembered.
        patience: steps that propose no network which was not scored before, after which the search is done.
        learning: how actor and critic learn.
    """

    name: ClassVar[str]
    wall: ClassVar[str]
    warmup: int
    steps: int
    noise: float
    decay: float
    memory: int
    population: int = 1
    patience: int = 100
    learning: Learning = PUBLISHED

    def init(self, problem: Problem) -> AgentState:
        """The state before the first step, knowing nothing.

        Raises:
            InvalidInput: no networks at random to begin with, or none a step.
        """
        if self.warmup < 1 or self.population < 1 or self.memory < 1:
            raise InvalidInput(f"warmup, population and memory must be at least 1, not {self.warmup}, {self.population}, {self.memory}.")
        lines = np.empty((0, 2 * len(self._plan(problem).features) + 2), dtype=np.float32)
        return AgentState(
            X=np.empty((0, len(problem.space.choices)), dtype=np.uint8),
            scores=np.empty(0),
            agent=np.empty(0, dtype=np.float32),
            memory=lines,
            rewards=np.empty(0),
            decisions=lines,
            owners=np.empty(0, dtype=np.int64),
            proposed=np.empty(0, dtype=np.uint64),
        )

    def ask(self, state: AgentState, problem: Problem, rng: np.random.Generator) -> tuple[Rows, AgentState]:
        """Learn from the answers to the last decisions, and decide the next networks."""
        plan = self._plan(problem)
        if state.memory.shape[1:] != (2 * len(plan.features) + 2,) or state.memory.shape[1:] != state.decisions.shape[1:]:
            raise InvalidInput("The agent's memory is not of this problem. Begin the search anew, with another state file.")
        learner = self._learner(problem, state, rng)
        state, fresh = self._remembering(state, len(plan.genes))
        if fresh and state.step > 1:
            average = learner.learn(state.memory, state.rewards / (state.spread or 1.0), state.average, fresh, rng)
            state = replace(state, average=average, updates=state.updates + fresh)
        agent = learner.state()

        def act(seen: Numbers) -> Values:
            if not state.step:
                return rng.random(len(seen))
            return _noisy(learner.act(seen), self.noise * self.decay ** ((state.step - 1) * self.population), rng)

        rows, decisions, owners = play(plan, self.population if state.step else self.warmup, act)
        keys = row_keys(rows)
        idle = state.idle + 1 if contains(problem.seen, keys).all() else 0
        return rows, replace(
            state, agent=agent, decisions=decisions, owners=owners.astype(np.int64), proposed=keys, step=state.step + 1, idle=idle
        )

    def tell(self, state: AgentState, X: Rows, scores: Values, costs: Values) -> AgentState:
        """Note the scores."""
        found = scores.astype(np.float64)
        known = np.concatenate([state.scores, found[~np.isnan(found)]])
        beyond = np.maximum(costs - 1.0, 0.0).sum(axis=1)
        least = float(known.min()) if len(known) else 0.0
        found = np.where(np.isnan(found), least - np.minimum(beyond, 1e3), found)
        return replace(state, X=np.concatenate([state.X, X]), scores=np.concatenate([state.scores, found]))

    def done(self, state: AgentState) -> bool:
        """Whether it has decided for networks that are known already for ``patience`` steps."""
        return state.idle >= self.patience

    def _plan(self, problem: Problem) -> Decisions:
        """The decisions of a problem, worked out once."""
        key = ("decisions", self.wall, tuple((limit.metric.name, limit.at_most) for limit in problem.limits))
        if key not in problem.shared:
            problem.shared[key] = Decisions(problem, self.wall)
        plan: Decisions = problem.shared[key]
        return plan

    def _learner(self, problem: Problem, state: AgentState, rng: np.random.Generator) -> Learner:
        """The agent as it is in a state; a new one in the first step."""
        key = ("learner", self.learning, len(self._plan(problem).features))
        seed = int(rng.integers(2**31))
        if not len(state.agent) or key not in problem.shared:
            problem.shared[key] = Learner(CompressionEnv(problem, self.wall), self.learning, seed)
        learner: Learner = problem.shared[key]
        if len(state.agent):
            learner.load(state.agent, state.updates)
        return learner

    def _remembering(self, state: AgentState, decisions: int) -> tuple[AgentState, int]:
        """The state that remembers the decisions about the last networks whose scores are known, and how many these are."""
        keys = row_keys(state.X)
        order = np.argsort(keys)
        known = contains(keys[order], state.proposed)
        place = np.minimum(np.searchsorted(keys[order], state.proposed), max(0, len(keys) - 1))
        scores = np.zeros(len(state.proposed))
        scores[known] = state.scores[order[place[known]]]
        fresh = known[state.owners] if len(state.owners) else np.zeros(0, dtype=np.bool_)
        spread = state.spread
        if not spread and known.any():
            spread = float(scores[known].std()) or 1.0
        most = self.memory * decisions
        memory = np.concatenate([state.memory, state.decisions[fresh]])
        rewards = np.concatenate([state.rewards, scores[state.owners[fresh]]])
        return replace(state, memory=memory[-most:], rewards=rewards[-most:], spread=spread), int(fresh.sum())


def _noisy(means: Values, deviation: float, rng: np.random.Generator) -> Values:
    """Draws from normal distributions of these means, cut off at 0 and 1."""
    if deviation < 1e-6:
        return means
    low, high = ndtr(-means / deviation), ndtr((1.0 - means) / deviation)
    return np.asarray(np.clip(means + deviation * ndtri(rng.uniform(low, high)), 0.0, 1.0))
