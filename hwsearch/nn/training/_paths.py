"""Architecture parameters over the choices of a space: two sampled paths, and the expected cost, as ProxylessNAS has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from ..._types import Rows
from ...costs._metrics import Metric
from ...errors import InvalidInput
from ...spaces._genes import only
from ...spaces._space import SearchSpace
from ...spaces._sums import Sum
from ._phases import corner

Alphas = Sequence[torch.Tensor]
"""For each gene the logits of its values, shape ``(values,)``."""
_BETA, _EPS = 0.999, 1e-8
_MOST = 100.0
"""The greatest slope of a logit; longer ones are scaled down with those of the same gene, so that one step cannot stop all later ones."""


class Paths:
    """A distribution of networks: each gene takes its values by a softmax of its own (ProxylessNAS, Cai et al., ICLR'19, section 3.2.1).

    Values that a space does not allow have no probability, and genes of precisions always take the finest one. All of it is on the CPU,
    wherever the networks compute.

    Args:
        space: whose networks.

    Attributes:
        held: for each gene the values that it may take.
        alphas: for each gene their logits; all 0 to begin with.
        squares: for each gene the mean square of their gradients, of Adam; its first moment is left out, as in the paper.
        steps: by how many gradients the logits of each gene were changed, shape ``(genes,)``.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        finest = corner(space, -1).tolist()
        known = zip(space.choices, space.allowed, finest, strict=True)
        self.held = [(value,) if choice.is_precision else allowed for choice, allowed, value in known]
        self.alphas, self.squares = ([torch.zeros(len(held)) for held in self.held] for _ in range(2))
        self.steps = torch.zeros(len(self.held))

    def memory(self) -> dict[str, torch.Tensor]:
        """The tensors that steps change, by name."""
        each = {f"{name}.{gene}": value for name in ("alphas", "squares") for gene, value in enumerate(getattr(self, name))}
        return {**each, "steps": self.steps}

    def probabilities(self, alphas: Alphas | None = None) -> list[torch.Tensor]:
        """For each gene the probability of every value, shape ``(values,)``."""
        found = []
        for held, size, alpha in zip(self.held, self.space.sizes, self.alphas if alphas is None else alphas, strict=True):
            whole = alpha.new_zeros(size)
            found.append(whole.index_put((torch.tensor(held),), F.softmax(alpha, dim=0)))
        return found

    def sample(self, rng: np.random.Generator) -> Rows:
        """A network, shape ``(genes,)``."""
        drawn = [held[rng.choice(len(held), p=_shares(alpha))] for held, alpha in zip(self.held, self.alphas, strict=True)]
        return only(self.space.canonical(np.array([drawn], dtype=np.uint8)))

    @property
    def best(self) -> Rows:
        """The network of the most probable values, shape ``(genes,)``."""
        found = [held[int(alpha.argmax())] for held, alpha in zip(self.held, self.alphas, strict=True)]
        return only(self.space.canonical(np.array([found], dtype=np.uint8)))

    def logarithm(self, row: Rows, alphas: Alphas) -> torch.Tensor:
        """The logarithm of the probability of a network, over the genes that are active in it."""
        active = self.space.active(row[None])[0]
        terms = [
            F.log_softmax(alpha, dim=0)[held.index(int(value))]
            for alpha, held, value, there in zip(alphas, self.held, row, active, strict=True)
            if there
        ]
        return torch.stack(terms).sum()

    def step(self, rows: tuple[Rows, Rows], loss: Callable[[Alphas], torch.Tensor], rate: float) -> None:
        """Change the logits of the values that two networks have where they differ; the probabilities of all other values stay.

        Nothing changes if the loss or a slope is not finite.

        Args:
            rows: the two networks.
            loss: from logits to a number, which a step of Adam makes smaller.
            rate: of the step.
        """
        alphas = [alpha.clone().requires_grad_() for alpha in self.alphas]
        value = loss(alphas)
        slopes: Sequence[torch.Tensor | None] = torch.autograd.grad(value, alphas, allow_unused=True)
        if not all(bool(torch.isfinite(each).all()) for each in (value, *slopes) if each is not None):
            return
        active = np.logical_and(*self.space.active(np.stack(rows))).tolist()
        for gene, (alpha, square, slope) in enumerate(zip(self.alphas, self.squares, slopes, strict=True)):
            pair = sorted({self.held[gene].index(int(row[gene])) for row in rows}) if active[gene] else []
            if slope is None or len(pair) < 2:
                continue
            slope = slope / (slope.abs().max() / _MOST).clamp(min=1.0)
            self.steps[gene] += 1
            square.mul_(_BETA).add_((1 - _BETA) * slope.square())
            before = torch.logsumexp(alpha[pair], 0)
            scale = (square / (1 - _BETA ** self.steps[gene])).sqrt() + _EPS
            alpha[pair] -= rate * (slope / scale)[pair]
            alpha[pair] += before - torch.logsumexp(alpha[pair], 0)


def _shares(alpha: torch.Tensor) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    shares = F.softmax(alpha.double(), dim=0)
    return np.array((shares / shares.sum()).tolist(), dtype=np.float64)


def of_two(paths: Paths, rows: tuple[Rows, Rows], losses: Sequence[float], alphas: Alphas) -> torch.Tensor:
    """The expected loss of two networks that were sampled, one of which is taken by their probabilities relative to each other."""
    shares = torch.softmax(torch.stack([paths.logarithm(row, alphas) for row in rows]), dim=0)
    return (shares * torch.tensor(losses, dtype=shares.dtype)).sum()


def reinforced(paths: Paths, rows: tuple[Rows, Rows], rewards: Sequence[float], alphas: Alphas) -> torch.Tensor:
    """What REINFORCE makes smaller, with the mean reward of both networks as its baseline (section 3.3.2)."""
    mean = sum(rewards) / len(rewards)
    terms = [-(reward - mean) * paths.logarithm(row, alphas) for row, reward in zip(rows, rewards, strict=True)]
    return torch.stack(terms).mean()


class Expected:
    """The expected value of a cost over a distribution of networks, differentiable (section 3.3.1).

    Each table is weighed by the probabilities of its genes; of networks that have all of the probability it is the cost itself. A gene
    that others need is drawn even where it is not active.

    Args:
        metric: the cost.
        held: for each gene the values that it may take (:attr:`Paths.held`); what the cost is of others does not matter.

    Raises:
        InvalidInput: a cost that is no sum of tables over genes, or is infinite for values that may be taken.
    """

    def __init__(self, metric: Metric, held: Sequence[Sequence[int]]) -> None:
        plain = not any(isinstance(gene, Sum) for genes, _ in metric.tables for gene in genes)
        taken = metric.tables.within(held)
        if metric.tables.peak or metric.others or not plain or not all(np.isfinite(array).all() for _, array in taken):
            raise InvalidInput(f"{metric.name} has no expected value here: it must be a sum of finite tables, each over genes.")
        self._tables = [
            (
                tuple(gene for gene in genes if not isinstance(gene, Sum)),
                torch.from_numpy(np.where(np.isfinite(array), array, 0.0).astype(np.float32)),
            )
            for genes, array in metric.tables
        ]

    def __call__(self, probabilities: Sequence[torch.Tensor]) -> torch.Tensor:
        """The value, for the probabilities of each gene's values."""
        return torch.stack(list(self._terms(probabilities))).sum()

    def _terms(self, probabilities: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        for genes, array in self._tables:
            found = array
            for gene in reversed(genes):
                found = found @ probabilities[gene].to(found.dtype)
            yield found
