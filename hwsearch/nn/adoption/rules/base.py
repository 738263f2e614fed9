"""What an operation does to the channels on its tensors: one rule for each, found by the operation's name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import prod
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import fx

from .._axes import Atoms, Axes, Factor, Labels, on, tie_along

Result = Axes | list[Axes]
"""What lies on the axes of an operation's result, or of each of its results."""


class Rewriting(Protocol):
    """What a rule may ask of the smaller network while it is being built (:class:`~hwsearch.nn.adoption._cut.Cut`)."""

    def index(self, node: Any, dim: int) -> Labels | None:
        """The places along an axis that are kept; ``None`` where all are."""

    def size(self, node: Any, dim: int) -> int:
        """The size of an axis that is left."""

    def sized(self, given: Any, node: fx.Node, dim: int) -> Any:
        """A size among the arguments of an operation as it has to be now."""

    def new(self, value: Any) -> Any:
        """An argument of the old graph in the new one."""

    def call(self, target: Any, *args: Any) -> fx.Node:
        """Insert an operation."""

    def copy(self, call: Call, **changes: Any) -> fx.Node:
        """Insert the same operation, some of whose arguments are different."""

    def constant(self, value: torch.Tensor) -> fx.Node:
        """Insert a tensor."""


@dataclass(frozen=True)
class Rule:
    """How one kind of operation handles channels.

    Attributes:
        axes: gives what lies on the result's axes, and ties or freezes what the operation needs.
        rewrite: inserts the operation that does the same on the channels that are kept; if omitted, the arguments stay as they are.
        reads: names of tensor arguments over whose channels the operation sums; a channel that was removed counts as zero there.
        masked: computes the operation where some channels count as removed, for those that zeros do not describe; it is given the call,
            the values of its arguments, and a function from what lies on the axes of a tensor (of as many axes as the result, or of the
            number given second) to which of its values are kept.
    """

    axes: Callable[[Call], Result]
    rewrite: Callable[[Call, Rewriting], fx.Node] | None = None
    reads: tuple[str, ...] = ()
    masked: Callable[[Call, dict[str, Any], Callable[..., Any]], Any] | None = None


_RULES: dict[str, Rule] = {}


Axing = TypeVar("Axing", bound="Callable[[Call], Result]")


def rule(*names: str, **parts: Any) -> Callable[[Axing], Axing]:
    """Register the decorated function as the rule for operations of these names, such as ``"conv2d"``; ``parts`` as in :class:`Rule`.

    Example:
        >>> import hwsearch, torch
        >>> from hwsearch.nn.adoption import rule
        >>> @torch.library.custom_op("my_library::doubled", mutates_args=())
        ... def doubled(x: torch.Tensor) -> torch.Tensor:
        ...     return x * 2
        >>> _ = doubled.register_fake(torch.empty_like)
        >>> class Doubled(torch.nn.Module):
        ...     def forward(self, x):
        ...         return doubled(x)
        >>> @rule("my_library.doubled")
        ... def same_channels(call):
        ...     return call.axes("x")
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), Doubled(), torch.nn.Conv2d(16, 4, 3))
        >>> hwsearch.adopt(network, torch.randn(1, 3, 8, 8)).choices[0].values  # its channels would be frozen without the rule
        (8, 16)
    """

    def register(function: Axing) -> Axing:
        for name in names:
            _RULES[name] = Rule(function, **parts)
        return function

    return register


def find_rule(target: Any) -> Rule | None:
    """The rule for an operation: its own, or the one for all operations that work value by value."""
    if not isinstance(target, torch._ops.OpOverload):
        return _RULES.get(f"python.{getattr(target, '__name__', target)}")
    name = base_name(target)
    if target.namespace != "aten":
        return _RULES.get(f"{target.namespace}.{name}")
    return _RULES.get(name) or (_RULES["pointwise"] if torch.Tag.pointwise in target.tags else None)


def base_name(target: Any) -> str:
    """The name of an operation without its overload and without the mark of working in place."""
    name = str(target._schema.name).partition("::")[2]
    return name.removesuffix("_") if not name.startswith("__") else name


@dataclass(frozen=True)
class Multiplications:
    """The multiply-accumulates of one operation: ``count`` times the product of the sizes of some axes.

    Attributes:
        node: the operation.
        weight: the name of its weights; empty where two activations are multiplied.
        count: what the axes are multiplied by, for one image.
        axes: each as ``(node, axis)``, whose size depends on what is kept.
    """

    node: fx.Node
    weight: str
    count: float
    axes: tuple[tuple[fx.Node, int], ...]


@dataclass
class Flow:
    """What is known of a graph while the rules run over it.

    Attributes:
        atoms: the channels.
        axes: what lies on the axes of every node's result.
        roles: how the axis of a parameter is used: ``"out"`` where it opens channels, ``"in"`` where they are read.
        multiplications: of all operations that have some.
        batch: the size of the batch axis in the shapes.
        columns: names of grouped operations that lose channels inside each group, not whole groups.
        unknown: operations that froze something since no rule covers them, each with what is to be said of it.
    """

    atoms: Atoms = field(default_factory=Atoms)
    axes: dict[fx.Node, Result] = field(default_factory=dict)
    roles: dict[tuple[str, int], str] = field(default_factory=dict)
    multiplications: list[Multiplications] = field(default_factory=list)
    batch: int = 1
    columns: frozenset[str] = frozenset()
    unknown: dict[fx.Node, str] = field(default_factory=dict)

    def factors(self, node: fx.Node) -> Axes:
        """What lies on the axes of a node's result; of all of them where there are several."""
        found = self.axes.get(node, ())
        return found if isinstance(found, tuple) else tuple(factor for each in found for factor in each)

    def part(self, node: fx.Node, place: int) -> Axes:
        """What lies on the axes of one of a node's several results."""
        found = self.axes.get(node, ())
        return found[place] if isinstance(found, list) else ()


@dataclass(frozen=True)
class Call:
    """One operation of the graph, with its arguments by the names of its schema."""

    flow: Flow
    node: fx.Node
    args: dict[str, Any]

    @classmethod
    def of(cls, flow: Flow, node: fx.Node) -> Call:
        """Bind the arguments of a node to the names of its operation's schema."""
        return cls(flow, node, bound(node))

    @property
    def atoms(self) -> Atoms:
        """The channels of the network."""
        return self.flow.atoms

    @property
    def name(self) -> str:
        """The operation's name, for example ``"conv2d"``."""
        return base_name(self.node.target)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """What the operation computes."""
        target: Any = self.node.target
        return target(*args, **kwargs)

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the result."""
        return shape_of(self.node)

    def shape_of(self, name: str) -> tuple[int, ...]:
        """The sizes of a tensor argument."""
        return shape_of(self.args[name])

    def axes(self, name: str) -> Axes:
        """What lies on the axes of a tensor argument; nothing where it is absent."""
        node = self.args.get(name)
        return self.flow.factors(node) if isinstance(node, fx.Node) else ()

    def dim(self, name: str, dim: int) -> int:
        """An axis of a tensor argument, counted from the front."""
        return dim % max(len(self.shape_of(name)), 1)

    def along(self, name: str, dim: int) -> Labels | None:
        """The atoms along one axis of an argument, tied over the other axes that they lie on; ``None`` where there are none."""
        return self.single(self.axes(name), self.dim(name, dim))

    def single(self, axes: Axes, dim: int) -> Labels | None:
        """The atoms along one axis, tied over the other axes that they lie on; ``None`` where there are none."""
        factor = on(axes, dim)
        if factor is None:
            return None
        reduced = tie_along(self.atoms, factor, [each for each in factor.dims if each != dim])
        return reduced.labels if reduced else None

    def freeze(self, axes: Axes, reason: str) -> None:
        """Keep everything that lies on these axes."""
        for factor in axes:
            self.atoms.freeze(factor.labels, f"{reason} ({where(self.node)})")

    def freeze_labels(self, labels: Labels | None, reason: str) -> None:
        """Keep these atoms."""
        if labels is not None:
            self.atoms.freeze(labels, f"{reason} ({where(self.node)})")

    def match(self, a: Labels | None, b: Labels | None, reason: str) -> None:
        """Tie two axes position by position; where one of them cannot lose anything, the other cannot either."""
        if a is not None and b is not None:
            self.atoms.tie(a, b)
        else:
            self.freeze_labels(a if a is not None else b, reason)

    def lose(self, axes: Axes, dims: Iterable[int], reason: str) -> Axes:
        """What is left when the result has nothing along these axes; channels along them alone are kept."""
        left: list[Factor] = []
        for factor in axes:
            gone = set(factor.dims) & set(dims)
            reduced = tie_along(self.atoms, factor, gone) if gone else factor
            if reduced is None:
                self.freeze((factor,), reason)
            else:
                left.append(reduced)
        return tuple(left)

    def role(self, name: str, dim: int, role: str) -> None:
        """Say how an axis of a parameter is used."""
        node = self.args[name]
        if isinstance(node, fx.Node) and node.op == "get_attr":
            self.flow.roles.setdefault((str(node.target), dim), role)

    def multiplies(self, weight: str, positions: float) -> None:
        """Count the multiply-accumulates of a kernel: at how many positions of the batch each weight is used."""
        node = self.args[weight]
        sizes = shape_of(node)
        name = str(node.target) if node.op == "get_attr" else ""
        axes = tuple((node, dim) for dim in range(len(sizes)))
        self.flow.multiplications.append(Multiplications(self.node, name, positions / self.flow.batch, axes))


def bound(node: fx.Node) -> dict[str, Any]:
    """The arguments of a node by the names of its operation's schema, with their defaults."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return {str(number): value for number, value in enumerate(node.args)} | dict(node.kwargs)
    values = {}
    for place, argument in enumerate(node.target._schema.arguments):
        if place < len(node.args):
            values[argument.name] = node.args[place]
        else:
            values[argument.name] = node.kwargs.get(argument.name, argument.default_value)
    return values


def shape_of(node: Any) -> tuple[int, ...]:
    """The sizes of a node's result, as recorded; empty for what is no tensor."""
    shape = node.meta.get("shape", ()) if isinstance(node, fx.Node) else ()
    return shape if isinstance(shape, tuple) else ()


def where(node: fx.Node) -> str:
    """An operation and the line of source that it comes from."""
    name = base_name(node.target) if isinstance(node.target, torch._ops.OpOverload) else str(node.target)
    line = node.meta.get("line", "")
    return f"{name}, {line}" if line else name


def elements(shape: Iterable[int]) -> int:
    """How many elements a tensor has."""
    return prod(shape)


def rows(labels: Labels, n: int) -> Labels:
    """Labels of an axis as ``n`` equal stretches, one a row."""
    return np.reshape(labels, (n, -1))
