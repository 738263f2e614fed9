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
        scores: of them, NaN where there is none, shape ``(n,)``.
        excess: the share by which they exceed the limits, summed over limits, shape ``(n,)``.
        agent: the weights of actor, critic and their targets, and the moments of their optimisers, shape ``(p,)``.
        updates: how often they have learned.
        memory: decisions to learn from, see :func:`hwsearch.algorithms._decisions.play`, shape ``(m, 2 * features + 2)``.
        networks: the place in ``X`` of the network that each decision was about, shape ``(m,)``.
        average: the moving average of rewards, NaN before the first.
        spread: the standard deviation of the first scores that differ, by which rewards are divided; 0 before they are known.
        decisions: those about the networks that were proposed last, shape ``(k, 2 * features + 2)``.
        owners: the network of each decision, shape ``(k,)``.
        proposed: keys of these networks, shape ``(networks,)``.
        step: steps taken.
        idle: steps since a network was proposed that had not been scored.
    """

    X: Rows
    scores: Values
    excess: Values
    agent: Numbers
    memory: Numbers
    networks: npt.NDArray[np.int64]
    decisions: Numbers
    owners: npt.NDArray[np.int64]
    proposed: npt.NDArray[np.uint64]
    updates: int = 0
    average: float = float("nan")
    spread: float = 0.0
    step: int = 0
    idle: int = 0

    @property
    def rewards(self) -> Values:
        """What each remembered decision is rewarded with, in units of ``spread``, shape ``(m,)``.

        It is the score of its network. A network without a score has less than the worst one known: by 1, and by its excess.
        """
        rewards = self.scores / (self.spread or 1.0)
        none = np.isnan(rewards)
        worst = 0.0 if none.all() else float(rewards[~none].min())
        punished = worst - 1.0 - np.minimum(self.excess, 1e3)
        return np.asarray(np.where(none, punished, rewards)[self.networks])


@dataclass(frozen=True)
class Agent:
    """An agent that decides one network a step by deep deterministic policy gradients.

    The first step draws ``warmup`` networks by actions at random. In each later step the agent first learns, as often as there were
    decisions about the last networks, from decisions drawn from its memory; then it decides networks by the actions that it holds for
    best, with noise from a normal distribution that is cut off at 0 and 1 and gets narrower with every network. Each decision about a
    network has the score of that network as its reward, see :attr:`AgentState.rewards`. Rewards are divided by the standard deviation of
    the first scores, and their moving average, which begins with the first batch, is taken off them; so scores may have any unit and any
    zero. A network beyond the limits, or whose score failed, has less reward than any other.

    Example:
        >>> import hwsearch
        >>> from hwsearch.nn.reinforcement import HAQ, Agent, Learning
        >>> from hwsearch.testing import example_space
        >>> agent: Agent = HAQ(warmup=8, learning=Learning(units=(24, 24), batch=16))
        >>> space = example_space()
        >>> problem = hwsearch.Problem.of(space, predictor=hwsearch.metric("worth", space), limits={"time": 9.0})
        >>> state = hwsearch.step(hwsearch.init(problem, agent))
        >>> state.memory.step, 0 < len(state.memory.X) <= 8, state.memory.updates  # networks at random: nothing is learned yet
        (1, True, 0)

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
            excess=np.empty(0),
            agent=np.empty(0, dtype=np.float32),
            memory=lines,
            networks=np.empty(0, dtype=np.int64),
            decisions=lines,
            owners=np.empty(0, dtype=np.int64),
            proposed=np.empty(0, dtype=np.uint64),
        )

    def ask(self, state: AgentState, problem: Problem, rng: np.random.Generator) -> tuple[Rows, AgentState]:
        """Learn from the answers to the last decisions, and decide the next networks."""
        plan = self._plan(problem)
        width, known = (2 * len(plan.features) + 2,), (state.networks >= 0) & (state.networks < len(state.X))
        if state.memory.shape[1:] != width or state.decisions.shape[1:] != width or not known.all():
            raise InvalidInput("The agent's memory is not of this problem. Begin the search anew, with another state file.")
        learner = self._learner(problem, state, rng)
        state, fresh = self._remembering(state, len(plan.genes))
        if fresh and state.step > 1:
            average = learner.learn(state.memory, state.rewards, state.average, fresh, rng)
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
        """Note the scores, and by how much limits are exceeded."""
        return replace(
            state,
            X=np.concatenate([state.X, X]),
            scores=np.concatenate([state.scores, scores.astype(np.float64)]),
            excess=np.concatenate([state.excess, np.maximum(costs - 1.0, 0.0).sum(axis=1)]),
        )

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
        networks = np.zeros(len(state.proposed), dtype=np.int64)
        networks[known] = order[place[known]]
        fresh = known[state.owners] if len(state.owners) else np.zeros(0, dtype=np.bool_)
        if not state.spread and (spread := _spread(state.scores)):
            state = replace(state, spread=spread, average=float("nan"))
        most = self.memory * decisions
        memory = np.concatenate([state.memory, state.decisions[fresh]])
        networks = np.concatenate([state.networks, networks[state.owners[fresh]]])
        return replace(state, memory=memory[-most:], networks=networks[-most:]), int(fresh.sum())


def _spread(scores: Values) -> float:
    """The standard deviation of the scores that there are; 0 if they are all the same but for rounding."""
    known = scores[~np.isnan(scores)]
    spread = float(known.std()) if len(known) else 0.0
    return spread if spread > 1e-12 * float(np.abs(known).max(initial=0.0)) else 0.0


def _noisy(means: Values, deviation: float, rng: np.random.Generator) -> Values:
    """Draws from normal distributions of these means, cut off at 0 and 1."""
    if deviation < 1e-6:
        return means
    low, high = ndtr(-means / deviation), ndtr((1.0 - means) / deviation)
    return np.asarray(np.clip(means + deviation * ndtri(rng.uniform(low, high)), 0.0, 1.0))
