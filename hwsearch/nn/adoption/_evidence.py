"""What an importance may look at: the weights of a unit, and what its readers read, with the derivatives of a loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx

from ...errors import InvalidInput
from ._axes import Labels
from ._groups import Group
from ._run import execute
from ._spans import Span, find_spans
from ._state import get
from .rules import find_rule

if TYPE_CHECKING:
    from ._adopted import Adopted
    from ._cut import Cut

Array = np.ndarray[Any, Any]
Scores = dict[str, Array]
Loss = Callable[[Sequence[torch.Tensor], torch.Tensor], torch.Tensor]
See = Callable[[fx.Node, fx.Node, torch.Tensor], torch.Tensor]


def cross_entropy(outputs: Sequence[torch.Tensor], targets: torch.Tensor) -> torch.Tensor:
    """The usual loss of a classifier, summed over images; of several outputs the first counts."""
    return F.cross_entropy(outputs[0], targets, reduction="sum")


def projected() -> Loss:
    """A loss whose derivatives have the second moments of all outputs' together: a random projection, drawn anew for each image."""
    generator = torch.Generator().manual_seed(0)

    def loss(found: Sequence[torch.Tensor], targets: torch.Tensor) -> torch.Tensor:
        noises = (torch.randn(each.shape, generator=generator, dtype=each.dtype) for each in found)
        return torch.stack([(each * noise).sum() for each, noise in zip(found, noises, strict=True)]).sum()

    return loss


@dataclass(frozen=True)
class Evidence:
    """What an importance may look at.

    Example:
        >>> import hwsearch, torch
        >>> from hwsearch.nn.adoption import importance
        >>> def largest(evidence):  # an importance of your own: the largest weight that makes a unit
        ...     return evidence.score_weights(lambda weights: weights.abs().amax(dim=1))
        >>> layers = torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(), torch.nn.Conv2d(32, 4, 3)
        >>> adopted = hwsearch.adopt(torch.nn.Sequential(*layers), torch.randn(1, 3, 8, 8))
        >>> {group: scores.shape for group, scores in importance(adopted, largest).items()}
        {'g0': (32,)}

    Attributes:
        adopted: the network and its groups.
        images: one tensor for each input of the network; ``None`` for an importance that looks at weights alone.
        targets: one for each image.
        loss: of the outputs and the targets of some images, summed.
        batch: images at once.
        cut: a cut network to look at in place of the whole one, with its operations; its units are scored, those that are gone get 0.
        widths: how many units of some groups will stay, for an importance that chooses for a number.
    """

    adopted: Adopted
    images: tuple[torch.Tensor, ...] | None = None
    targets: torch.Tensor | None = None
    loss: Loss = cross_entropy
    batch: int = 50
    cut: tuple[Cut, fx.GraphModule] | None = None
    widths: Mapping[str, int] | None = None

    @property
    def groups(self) -> tuple[Group, ...]:
        """The searchable groups."""
        return tuple(group for group in self.adopted.groups if group.searchable)

    def weights(self, group: Group, parts: Sequence[tuple[str, int]]) -> Iterator[tuple[str, torch.Tensor]]:
        """For each of some parameters of a group, its name and its values for each unit, shape ``(width, ...)``."""
        flow = self.adopted.analysis.flow
        nodes = {str(node.target): node for node in self.adopted.network.graph.find_nodes(op="get_attr")}
        for name, each in parts:
            node = nodes[name]
            tensor = get(self.adopted.network, name).detach()
            for factor in flow.factors(node):
                index = _index(flow.atoms.find(factor.labels), group)
                if (index >= 0).sum() == group.width * each and len(factor.dims) == 1:
                    along = tensor.movedim(factor.dims[0], 0).reshape(len(index), -1)
                    order = np.argsort(index[index >= 0], kind="stable")
                    yield name, along[torch.from_numpy(np.flatnonzero(index >= 0)[order])].reshape(group.width, -1)
                    break

    def sensitivities(self) -> Iterator[dict[str, torch.Tensor]]:
        """For batch after batch, ``{group: derivatives}`` of shape ``(images, width)``.

        The derivative is that of the loss of one image by a factor on all that is read of a unit.
        """
        numbers = np.full(len(self.adopted.analysis.flow.atoms), -1, dtype=np.int64)
        units = np.concatenate([group.units for group in self.groups])
        numbers[units] = np.arange(len(units))
        for n, reads in self.reads():
            sums = torch.zeros(n, len(units), dtype=torch.float64)
            for read in reads:
                product = read.value * read.slope
                index = numbers[read.units]
                along = product.double().movedim(read.dim, 1).reshape(n, len(index), -1).sum(2)
                sums.index_add_(1, torch.from_numpy(index[index >= 0]), along[:, torch.from_numpy(index >= 0)])
            yield {group.id: sums[:, torch.from_numpy(numbers[group.units])] for group in self.groups}

    def reads(self) -> Iterator[tuple[int, list[Read]]]:
        """For batch after batch, how many images it has and what its operations read, with the derivatives of the loss.

        Raises:
            InvalidInput: there are no images or no targets.
        """
        for images, targets in self._batches():
            yield len(targets), self._reads(images, targets)

    def curvatures(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """The diagonal of the Hessian of the loss by factors on all that is read of a unit, summed over images: ``{group: (width,)}``.

        It is estimated with one vector of random signs a batch (Hutchinson 1990): the expectation is exact.
        """
        flow = self.adopted.analysis.flow
        numbers = np.zeros(len(flow.atoms), dtype=np.int64)
        units = np.concatenate([group.units for group in self.groups])
        numbers[units] = np.arange(1, len(units) + 1)
        total = torch.zeros(len(units) + 1, dtype=torch.float64)
        for images, targets in self._batches():
            factor = torch.ones(len(units) + 1, dtype=images[0].dtype if images[0].is_floating_point() else None, requires_grad=True)

            def scale(_: fx.Node, node: fx.Node, value: torch.Tensor, factor: torch.Tensor = factor) -> torch.Tensor:
                for dim, found in self.units(node):
                    sizes = [-1 if each == dim else 1 for each in range(value.ndim)]
                    along, span = torch.from_numpy(numbers[found]), self.spans.get(node, Span())
                    along = span.of_all(along, value.shape[dim] // len(along)) if dim == span.axis else along
                    value = value * factor[along].reshape(sizes).to(value.dtype)
                return value

            with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
                loss = self._loss(images, targets, scale)
                [slope] = torch.autograd.grad(loss, factor, create_graph=True)
                signs = torch.randint(0, 2, slope.shape, generator=generator).to(slope.dtype) * 2 - 1
                [product] = torch.autograd.grad((slope * signs).sum(), factor)
            total += (product * signs).double()
        return {group.id: total[torch.from_numpy(numbers[group.units])] for group in self.groups}

    def of_outputs(self) -> Evidence:
        """The same evidence with :func:`projected` in the place of the loss, which needs no labels.

        Raises:
            InvalidInput: there are no images.
        """
        if self.images is None:
            raise InvalidInput("This importance looks at activations: give images.")
        return replace(self, targets=torch.zeros(len(self.images[0])), loss=projected())

    def score_weights(self, score: Callable[[torch.Tensor], torch.Tensor]) -> Scores:
        """A score of the weights that make a unit: ``score`` takes them as ``(width, ...)``; parameters of a group are summed."""
        found = {}
        for group in self.groups:
            parts = group.opened or group.read
            found[group.id] = sum((score(rows) for _, rows in self.weights(group, parts)), torch.zeros(group.width)).numpy()
        return found

    def score_derivatives(self, score: Callable[[torch.Tensor], torch.Tensor]) -> Scores:
        """A score of the :meth:`sensitivities`, value by value, summed over images.

        Raises:
            InvalidInput: there are no images or no targets.
        """
        total = {group.id: torch.zeros(group.width, dtype=torch.float64) for group in self.groups}
        for derivatives in self.sensitivities():
            for name, each in derivatives.items():
                total[name] += score(each).sum(0)
        return {name: each.numpy() for name, each in total.items()}

    def _batches(self) -> Iterator[tuple[tuple[torch.Tensor, ...], torch.Tensor]]:
        if self.images is None or self.targets is None:
            raise InvalidInput("This importance looks at a loss: give images and targets.")
        for start in range(0, len(self.targets), self.batch):
            yield tuple(each[start : start + self.batch] for each in self.images), self.targets[start : start + self.batch]

    def _reads(self, images: tuple[torch.Tensor, ...], targets: torch.Tensor) -> list[Read]:
        seen: list[tuple[fx.Node, fx.Node, torch.Tensor]] = []

        def watch(reader: fx.Node, node: fx.Node, value: torch.Tensor) -> torch.Tensor:
            seen.append((reader, node, value.clone() if value.requires_grad else value.clone().requires_grad_()))
            return seen[-1][2]

        total = self._loss(images, targets, watch)
        slopes: Sequence[torch.Tensor | None] = torch.autograd.grad(total, [value for *_, value in seen], allow_unused=True)
        found = []
        for (reader, node, value), slope in zip(seen, slopes, strict=True):
            span = self.spans.get(node)
            if slope is None or span is None:
                continue
            value, slope = (each if span.usual else span.first(each, len(targets)) for each in (value.detach(), slope))
            if len(value) == len(targets):
                found += [Read(reader.name, node.name, value, slope, dim + (not span.usual), units) for dim, units in self.units(node)]
        return found

    @cached_property
    def spans(self) -> dict[fx.Node, Span]:
        """The place of the images in each value of the whole network."""
        return find_spans(self.adopted)

    def units(self, node: fx.Node) -> Iterator[tuple[int, Labels]]:
        """The axes of a tensor on which units lie, but for that of images alone, with the unit of each channel that one image has there."""
        flow, span = self.adopted.analysis.flow, self.spans.get(node, Span())
        for factor in flow.factors(node):
            varies = factor.varies(flow.atoms)
            if len(varies) == 1 and (varies[0] != span.axis or span.per > 1):
                place = factor.dims.index(varies[0])
                labels = np.moveaxis(factor.labels, place, -1).reshape(-1, factor.labels.shape[place])[0]
                kept = None if self.cut is None else self.cut[0].index(node, varies[0])
                labels = labels if kept is None else labels[kept]
                yield varies[0], flow.atoms.find(span.of_one(labels, flow.batch) if varies[0] == span.axis else labels)

    def _loss(self, images: tuple[torch.Tensor, ...], targets: torch.Tensor, see: See) -> torch.Tensor:
        """The loss of some images, where everything that is read goes through a function of the reader and of what made it."""
        flow = self.adopted.analysis.flow
        network = self.adopted.network if self.cut is None else self.cut[1]
        source = {node: node for node in network.graph.nodes}
        if self.cut is not None:
            source = {fresh: node for node, fresh in reversed(self.cut[0].places.items())}

        def through(reader: fx.Node, argument: Any, value: Any) -> Any:
            node = source.get(argument) if isinstance(argument, fx.Node) else None
            return value if node is None or node.op == "get_attr" or not flow.factors(node) else see(reader, node, value)

        def compute(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            rule, target = find_rule(node.target), node.target
            if rule is None or not rule.reads or kwargs or not isinstance(target, torch._ops.OpOverload):
                return NotImplemented
            reader = source.get(node, node)
            reading = [each.name in rule.reads for each in target._schema.arguments]
            return target(*(through(reader, *each) if read else each[1] for read, *each in zip(reading, node.args, args, strict=False)))

        return self.loss(execute(network, images, compute=compute, grad=True), targets)


@dataclass(frozen=True)
class Read:
    """A tensor over whose channels an operation sums.

    Attributes:
        reader: name of the operation in the whole network.
        node: name of the operation that made the tensor.
        value: the tensor, images first; where they were elsewhere, all its axes stand behind a new first one.
        slope: derivatives of the loss by it, of the same shape.
        dim: the axis of the channels.
        units: the unit of each channel.
    """

    reader: str
    node: str
    value: torch.Tensor
    slope: torch.Tensor
    dim: int
    units: Labels


def _index(found: Labels, group: Group) -> Labels:
    """The place in a group of each unit; -1 for units of other groups."""
    place = np.searchsorted(group.units, found).clip(max=group.width - 1)
    return np.where(group.units[place] == found, place, -1)
