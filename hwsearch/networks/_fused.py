"""Fused: one kernel of a network that a user brought, as a runtime runs it, with the operations that it takes in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import ClassVar, Self

from ..errors import InvalidInput
from ._blocks import Block
from ._layers import Graph
from ._precision import Precision

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution")
LINEAR = ("linear", "addmm")
PRODUCTS = ("matmul", "mm", "bmm", "baddbmm", "einsum", "scaled_dot_product_attention")

_MARK = "__in__"


def labelled(operation: str, kernel: str) -> str:
    """What an operation is called in a model file so that :func:`kernel_of` tells of which kernel it is.

    Example:
        >>> from hwsearch.networks import labelled
        >>> labelled("Conv_12", "kernel7")
        'Conv_12__in__kernel7'
    """
    return f"{operation}{_MARK}{kernel}"


def kernel_of(name: str) -> str | None:
    """The kernel that an operation of a model file belongs to, from whatever a runtime made of its name; ``None`` where it does not say.

    What a runtime puts between two operations and names after both belongs to the latter.

    Example:
        >>> from hwsearch.networks import kernel_of, labelled
        >>> kernel_of("fused_" + labelled("Conv_12", "kernel7") + "/relu"), kernel_of("reorder")  # names as runtimes make them
        ('kernel7', None)
    """
    found = re.findall(rf"{_MARK}(\w+?)(?:/|\.|$)", name)
    return found[-1] if found else None


_KEY = re.compile(
    r"fused:(?P<ops>[a-z0-9_.]+(\+[a-z0-9_.]+)*)-in(?P<cin>\d+)-out(?P<cout>\d+)-px(?P<into>\d+(x\d+)*)-to(?P<onto>\d+(x\d+)*)"
    r"-k(?P<taps>\d+(x\d+)*)-g(?P<groups>\d+)-(?P<precision>\w+(-2:4)?)"
)


@dataclass(frozen=True)
class Fused(Block, prefix="fused"):
    """A kernel: at most one operation that multiplies, and the others that runtimes do along with it or that stand alone.

    It is a block like any other for tables, metrics and searches, but it runs only inside the network that it is from: a runtime that is
    given a file of that network tells what its kernels take.

    Example:
        >>> from hwsearch.networks import Block, Fused
        >>> kernel = Fused.of(("conv2d", "relu"), 32, 64, into=(56, 56), onto=(28, 28), taps=(3, 3))
        >>> kernel.key
        'fused:conv2d+relu-in32-out64-px56x56-to28x28-k3x3-g1-fp32'
        >>> Block.parse(kernel.key) == kernel, kernel.macs
        (True, 14450688)

    Attributes:
        ops: names of the operations, in order.
        cin, cout: channels in and out; of a product of activations, what is summed over and what is made.
        into, onto: the sizes of the input and of the output beside their channels; of one image.
        taps: the sizes of a convolution's kernel, 1 for others.
        groups: of a convolution.
        precision: of its weights and activations.

    Raises:
        InvalidInput: a shape that no network has.
    """

    alone: ClassVar[bool] = False

    ops: tuple[str, ...] = ()
    into: tuple[int, ...] = (1,)
    onto: tuple[int, ...] = (1,)
    taps: tuple[int, ...] = (1,)

    @classmethod
    def of(
        cls,
        ops: tuple[str, ...],
        cin: int,
        cout: int,
        *,
        into: tuple[int, ...] = (1,),
        onto: tuple[int, ...] = (1,),
        taps: tuple[int, ...] = (1,),
        groups: int = 1,
        precision: str = "fp32",
    ) -> Fused:
        """A kernel of these operations; see the attributes."""
        return Fused("fused", cin, cout, 1, groups=groups, precision=precision, activation="none", ops=ops, into=into, onto=onto, taps=taps)

    def __post_init__(self) -> None:
        numbers = (self.cin, self.cout, self.groups, *self.into, *self.onto, *self.taps)
        if self.kind != "fused" or not self.ops or min(numbers) < 1:
            raise InvalidInput(f"A kernel has operations, and channels and sizes of at least 1, not {self.ops} and {numbers}.")
        if self.cin % self.groups or self.cout % self.groups:
            raise InvalidInput(f"Kernel {self.key}: {self.cin} -> {self.cout} channels cannot be split into {self.groups} groups.")
        Precision.parse(self.precision)

    @cached_property
    def key(self) -> str:
        """The kernel's name in a latency table; :meth:`Block.parse` reads it back."""
        into, onto, taps = ("x".join(map(str, sizes)) for sizes in (self.into, self.onto, self.taps))
        shape = f"in{self.cin}-out{self.cout}-px{into}-to{onto}-k{taps}-g{self.groups}"
        return f"fused:{'+'.join(self.ops)}-{shape}-{self.precision}"

    @classmethod
    def parse(cls, key: str) -> Self:
        """Read a kernel back from its :attr:`key`.

        Raises:
            InvalidInput: it is not a kernel's key.
        """
        match = _KEY.fullmatch(key)
        if match is None:
            raise InvalidInput(f"{key!r} is not a kernel's key, such as 'fused:conv2d+relu-in32-out64-px56x56-to28x28-k3x3-g1-fp32'.")
        into, onto, taps = (tuple(map(int, match[name].split("x"))) for name in ("into", "onto", "taps"))
        cin, cout, groups = (int(match[name]) for name in ("cin", "cout", "groups"))
        given = {"groups": groups, "precision": match["precision"], "activation": "none"}
        return cls("fused", cin, cout, 1, **given, ops=tuple(match["ops"].split("+")), into=into, onto=onto, taps=taps)  # type: ignore[arg-type]

    @cached_property
    def role(self) -> str:
        """What multiplies: ``"pointwise"``, ``"spatial"`` or ``"depthwise"`` convolutions, ``"linear"``, ``"product"``; or ``"other"``."""
        for op in self.ops:
            if op in CONVOLUTIONS:
                return "depthwise" if self.groups > 1 else "spatial" if prod(self.taps) > 1 else "pointwise"
            if op in LINEAR:
                return "linear"
            if op in PRODUCTS:
                return "product"
        return "other"

    @property
    def graph(self) -> Graph:
        """No layers: a kernel cannot be built alone."""
        return Graph(())

    @property
    def boundary(self) -> bool:
        """Never: a change of precision is part of a kernel."""
        return False

    @property
    def inner(self) -> bool:
        """Whether it multiplies."""
        return self.role != "other"

    @property
    def family(self) -> str:
        """Kernels of a precision are estimated together."""
        return f"fused-{self.precision}"

    @property
    def calibrated_with(self) -> str:
        """Kernels without weights, linear layers and convolutions are corrected apart."""
        return {"other": "other", "product": "other", "linear": "linear"}.get(self.role, self.precision)

    @property
    def inputs(self) -> int:
        """Values read from the input of one image."""
        return self.cin * prod(self.into)

    @property
    def outputs(self) -> int:
        """Values written for one image."""
        return self.cout * prod(self.onto)

    @property
    def edge_values(self) -> int:
        """Values of the input and the output of one image."""
        return self.inputs + self.outputs

    @property
    def weights(self) -> int:
        """Number of weights, without biases."""
        return 0 if self.role in ("other", "product") else self.cout * (self.cin // self.groups) * prod(self.taps)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image; a transposed convolution multiplies once a position of its input."""
        places = self.into if any(op.startswith("conv_transpose") for op in self.ops) else self.onto
        return 0 if self.role == "other" else self.cout * (self.cin // self.groups) * prod(self.taps) * prod(places)

    @property
    def params(self) -> int:
        """Weights, and a bias a channel."""
        return self.weights + (self.cout if self.weights else 0)

    @property
    def weight_bytes(self) -> int:
        """Bytes as deployed: weights at their bits, a 4-byte bias a channel, and a 4-byte scale if quantised."""
        bits = self.bits.weight_bits
        return -(-self.weights * bits // 8) + (self.params - self.weights) * (8 if bits < 16 else 4)

    @property
    def activation_bytes(self) -> int:
        """Bytes of its input and output of one image."""
        return -(-self.edge_values * self.bits.activation_bits // 8)

    @property
    def traffic_bytes(self) -> int:
        """Bytes read and written if input, output and weights pass through memory once."""
        return self.activation_bytes + self.weight_bytes
