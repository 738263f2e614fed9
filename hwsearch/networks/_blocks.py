"""Block: what a device runs, and what it costs on paper.

A block is one fused piece of a network, such as a ResNet bottleneck with its batch norms folded and its ReLUs
fused. Its *kind* lowers to a small graph of layers (a body, for residual kinds a shortcut, perhaps a squeeze-and-excite), from which the
counts here, the ONNX graphs of the backends and the torch modules are all derived.

Counting rules, one way everywhere: a MAC is one multiply-accumulate of a convolution or a linear layer, squeeze-and-excite layers
among them (ResNet50 at 224 px is 4.089 G); parameters count convolution weights with the scale and shift of their batch norm, and linear
weights with their bias (ResNet50 is 25.557 M); feature maps are square and padding is ``kernel // 2``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, ClassVar

from ..errors import InvalidInput, UnknownName
from ._layers import ACTIVATIONS, Graph, Layer
from ._precision import Precision

__all__ = ["ACTIVATIONS", "KINDS", "Block", "Graph", "Layer", "Precision"]


def _conv(block: Block) -> Graph:
    return Graph((_conv_layer(block),))


def _residual_conv(block: Block) -> Graph:
    if block.stride != 1 or block.cin != block.cout:
        raise InvalidInput(
            f"A resconv block has stride 1 and as many channels out as in, not stride {block.stride}, {block.cin} -> {block.cout}."
        )
    return Graph((_conv_layer(block),), (), "none")


def _conv_layer(block: Block) -> Layer:
    return _layer(block.cin, block.cout, block.size, block.kernel, block.stride, block.groups, block.activation)


def _basic(block: Block) -> Graph:
    (mid,) = block.mids
    first = _layer(block.cin, mid, block.size, block.kernel, block.stride, block.groups, block.activation)
    last = _layer(mid, block.cout, first.out_size, block.kernel, 1, block.groups)
    return Graph((first, last), _shortcut(block), block.activation)


def _bottleneck(block: Block) -> Graph:
    return Graph(_bottleneck_body(block), _shortcut(block), block.activation)


def _bottleneck_d(block: Block) -> Graph:
    shortcut = _shortcut(block)
    if block.stride > 1:
        pool = Layer("avgpool", block.cin, block.cin, block.size, block.stride, block.stride, block.cin)
        shortcut = (pool, _layer(block.cin, block.cout, pool.out_size))
    return Graph(_bottleneck_body(block), shortcut, block.activation)


def _bottleneck_body(block: Block) -> tuple[Layer, ...]:
    mid1, mid2 = block.mids
    reduce = _layer(block.cin, mid1, block.size, activation=block.activation)
    spatial = _layer(mid1, mid2, block.size, block.kernel, block.stride, block.groups, block.activation)
    return (reduce, spatial, _layer(mid2, block.cout, spatial.out_size))


def _mbconv(block: Block) -> Graph:
    mid, *excited = block.mids
    expand = _layer(block.cin, mid, block.size, activation=block.activation)
    return _inverted(block, (expand,), mid, excited)


def _separable(block: Block) -> Graph:
    return _inverted(block, (), block.cin, block.mids)


def _inverted(block: Block, before: tuple[Layer, ...], mid: int, excited: Sequence[int]) -> Graph:
    """Depthwise convolution, excitation if it has a width, projection; the sum, if any, has no activation."""
    depthwise = _layer(mid, mid, block.size, block.kernel, block.stride, mid, block.activation)
    size = depthwise.out_size
    excite = tuple(
        layer for width in excited for layer in (Layer("linear", mid, width, size, activation="relu"), Layer("linear", width, mid, 1))
    )
    shortcut = () if block.stride == 1 and block.cin == block.cout else None
    return Graph((*before, depthwise, _layer(mid, block.cout, size)), shortcut, "none", excite)


def _head(block: Block) -> Graph:
    if not block.mids:
        return Graph((Layer("linear", block.cin, block.cout, block.size),))
    (mid,) = block.mids
    mix = Layer("linear", block.cin, mid, block.size, activation=block.activation, bias=False)
    return Graph((mix, Layer("linear", mid, block.cout, 1)))


def _pool(block: Block) -> Graph:
    if block.cin != block.cout:
        raise InvalidInput(f"A {block.kind} block has as many channels out as in, not {block.cin} -> {block.cout}.")
    return Graph((Layer(block.kind, block.cin, block.cout, block.size, block.kernel, block.stride, block.cin),))


def _boundary(block: Block) -> Graph:
    return Graph(())


def _shortcut(block: Block) -> tuple[Layer, ...]:
    if block.stride == 1 and block.cin == block.cout:
        return ()
    return (_layer(block.cin, block.cout, block.size, stride=block.stride),)


@cache
def _layer(cin: int, cout: int, size: int, kernel: int = 1, stride: int = 1, groups: int = 1, activation: str = "none") -> Layer:
    """A convolution; kept, because very many blocks share it."""
    return Layer("conv", cin, cout, size, kernel, stride, groups, activation)


_KINDS: dict[str, tuple[tuple[int, ...], Callable[[Block], Graph]]] = {
    "conv": ((0,), _conv),
    "basic": ((1,), _basic),
    "bottleneck": ((2,), _bottleneck),
    "head": ((0, 1), _head),
    "quantize": ((0,), _boundary),
    "dequantize": ((0,), _boundary),
    "bottleneckd": ((2,), _bottleneck_d),
    "mbconv": ((1, 2), _mbconv),
    "separable": ((0, 1), _separable),
    "resconv": ((0,), _residual_conv),
    "maxpool": ((0,), _pool),
    "avgpool": ((0,), _pool),
}
KINDS: tuple[str, ...] = tuple(_KINDS)
"""The kinds of block: a plain convolution, two kinds of residual block (He et al., CVPR'16), the classifier (perhaps after a hidden
linear layer without bias), the two precision boundaries; ``bottleneckd``, whose shortcut averages before it convolves (ResNet-D, He et
al., CVPR'19); ``mbconv``, the inverted bottleneck (MobileNetV3, ICCV'19), its second mid width that of a squeeze-and-excite;
``separable``, the same without the expansion; ``resconv``, a convolution added to its input; and two poolings.

Example:
    >>> from hwsearch.networks import KINDS, Block
    >>> KINDS
    ('conv', 'basic', 'bottleneck', 'head', 'quantize', 'dequantize', 'bottleneckd', 'mbconv', 'separable', 'resconv', 'maxpool', 'avgpool')
    >>> [layer.cout for layer in Block("mbconv", 16, 16, 28, mids=(64, 16), kernel=3).graph.layers]
    [64, 64, 16, 16, 64]
"""

_KEY = re.compile(
    r"(?P<kind>[a-z]+)-in(?P<cin>\d+)(-mid(?P<mids>\d+(x\d+)*))?-out(?P<cout>\d+)-px(?P<size>\d+)"
    r"-k(?P<kernel>\d+)-s(?P<stride>\d+)-g(?P<groups>\d+)-(?P<precision>\w+(-2:4)?)"
    rf"(-(?P<activation>{'|'.join(ACTIVATIONS[1:])}))?(-at(?P<context>\w+))?"
)


@dataclass(frozen=True)
class Block:
    """One fused piece of a network.

    Example:
        >>> from hwsearch.networks import Block
        >>> block = Block("basic", cin=16, cout=16, size=32, mids=(24,), kernel=3, precision="int8")
        >>> block.key, block.macs
        ('basic-in16-mid24-out16-px32-k3-s1-g1-int8', 7077888)

    Attributes:
        kind: one of :data:`KINDS`.
        cin, cout: channels in and out.
        size: height and width of the input feature map, px.
        mids: widths inside the block (one for ``basic``, two for ``bottleneck`` and ``bottleneckd``, for ``mbconv`` one and perhaps that of
            its squeeze-and-excite, for ``separable`` perhaps the latter, for ``head`` perhaps one, none for the others).
        kernel, stride, groups: of the block's spatial convolutions; a depthwise convolution has its groups from its kind.
        precision: the number format inside the block. ``quantize`` and ``dequantize`` carry that of the quantised side.
        activation: what follows the block's layers, all but the last of a body: one of :data:`ACTIVATIONS`.
        context: the place of the block, if that matters: tables that hold a measurement of the same block for every input resolution
            name the resolution here. Empty otherwise.

    Raises:
        InvalidInput: a shape that no network has.
    """

    kind: str
    cin: int
    cout: int
    size: int
    mids: tuple[int, ...] = ()
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    precision: str = "fp32"
    activation: str = "relu"
    context: str = ""
    alone: ClassVar[bool] = True
    """Whether it can run by itself; kernels of a user's network run inside that network only."""
    _others: ClassVar[dict[str, type[Block]]] = {}

    def __init_subclass__(cls, *, prefix: str = "", **options: Any) -> None:
        """Blocks of another form, whose keys begin with ``prefix:``."""
        super().__init_subclass__(**options)
        cls._others[prefix] = cls

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise UnknownName("block kind", self.kind, _KINDS)
        wanted = _KINDS[self.kind][0]
        if len(self.mids) not in wanted:
            count = " or ".join(map(str, wanted))
            raise InvalidInput(f"A {self.kind} block has {count} mid width(s), and {len(self.mids)} were given: {self.mids}.")
        if self.activation not in ACTIVATIONS:
            raise UnknownName("activation", self.activation, ACTIVATIONS)
        for name in ("cin", "cout", "size", "kernel", "stride", "groups"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"Block {self.kind}: {name} must be at least 1, not {getattr(self, name)}.")
        if any(mid < 1 for mid in self.mids):
            raise InvalidInput(f"Block {self.kind}: mid widths must be at least 1, not {self.mids}.")
        for layer in self.graph.layers:
            if layer.cin % layer.groups or layer.cout % layer.groups:
                raise InvalidInput(f"Block {self.key}: {layer.cin} -> {layer.cout} channels cannot be split into {layer.groups} groups.")
        Precision.parse(self.precision)

    @cached_property
    def key(self) -> str:
        """The block's name in a latency table; :meth:`parse` reads it back."""
        mids = "-mid" + "x".join(map(str, self.mids)) if self.mids else ""
        activation = "" if self.activation == "relu" else f"-{self.activation}"
        context = f"-at{self.context}" if self.context else ""
        shape = f"in{self.cin}{mids}-out{self.cout}-px{self.size}-k{self.kernel}-s{self.stride}-g{self.groups}"
        return f"{self.kind}-{shape}-{self.precision}{activation}{context}"

    @classmethod
    def parse(cls, key: str) -> Block:
        """Read a block back from its :attr:`key`.

        Raises:
            InvalidInput: it is not a block's key.
        """
        prefix = key.partition(":")[0]
        if prefix in cls._others:
            return cls._others[prefix].parse(key)
        match = _KEY.fullmatch(key)
        if match is None:
            raise InvalidInput(f"{key!r} is not a block key, such as 'basic-in16-mid24-out16-px32-k3-s1-g1-int8'.")
        numbers = {name: int(match[name]) for name in ("cin", "cout", "size", "kernel", "stride", "groups")}
        mids = tuple(int(mid) for mid in match["mids"].split("x")) if match["mids"] else ()
        activation, context = match["activation"] or "relu", match["context"] or ""
        return cls(kind=match["kind"], mids=mids, precision=match["precision"], activation=activation, context=context, **numbers)

    @cached_property
    def graph(self) -> Graph:
        """The layers that the block is made of."""
        return _KINDS[self.kind][1](self)

    @cached_property
    def bits(self) -> Precision:
        """The parsed :attr:`precision`."""
        return Precision.parse(self.precision)

    @property
    def boundary(self) -> bool:
        """Whether this is a change of precision, with no layer inside."""
        return not self.graph.layers

    @property
    def inner(self) -> bool:
        """Whether it counts for the precision of a network: boundaries do not, and the head is often in floats."""
        return bool(self.graph.layers) and self.kind != "head"

    @property
    def family(self) -> str:
        """Kind, precision and number of inner widths (with a squeeze-and-excite or without): what is estimated together."""
        return f"{self.kind}{len(self.mids)}-{self.precision}"

    @property
    def calibrated_with(self) -> str:
        """The class whose calibration it has: boundaries and the head have their own, other blocks that of their precision."""
        return self.kind if self.boundary or self.kind == "head" else self.precision

    @property
    def edge_values(self) -> int:
        """Values of the input and output feature maps of one image."""
        last = self.graph.body[-1].outputs if self.graph.body else self.cin * self.size**2
        return self.cin * self.size**2 + last

    @property
    def weights(self) -> int:
        """Number of weights, without biases and batch norms."""
        return sum(layer.weights for layer in self.graph.layers)

    @property
    def out_size(self) -> int:
        """Height and width of the output feature map, px."""
        return self.graph.body[-1].out_size if self.graph.body else self.size

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return sum(layer.macs for layer in self.graph.layers)

    @property
    def bitops(self) -> int:
        """Bit operations of one image: MACs x weight bits x activation bits (HAQ, CVPR'19, section 4)."""
        return self.macs * self.bits.weight_bits * self.bits.activation_bits

    @property
    def params(self) -> int:
        """Parameters as trained: weights, and two values (batch norm) or one (linear bias) an output channel."""
        return sum(layer.weights + layer.biases * (2 if layer.op == "conv" else 1) for layer in self.graph.layers)

    @property
    def weight_bytes(self) -> int:
        """Bytes as deployed: weights at their bits (whole bytes a layer), a 4-byte bias a channel, and a 4-byte scale if quantised.

        Of sparse weights half are stored, each with its place in 2 bits.
        """
        bits, channel = self.bits.weight_bits, 8 if self.bits.weight_bits < 16 else 4

        def stored(layer: Layer) -> int:
            return layer.weights // 2 * (bits + 2) if self.bits.sparse and layer.sparsable else layer.weights * bits

        return sum(-(-stored(layer) // 8) + layer.biases * channel for layer in self.graph.layers)

    @property
    def activation_bytes(self) -> int:
        """Peak bytes of live feature maps of one image while the block runs, batch 1.

        Each layer holds its input and its output; a residual block also holds its input until the sum. A boundary holds the
        feature map in both formats.
        """
        bits = self.bits.activation_bits
        if self.boundary:
            return -(-self.cin * self.size**2 * (32 + bits) // 8)
        body, shortcut = self.graph.body, self.graph.shortcut
        live = []
        for index, layer in enumerate(body):
            held = body[0].inputs if shortcut is not None and index > 0 else 0
            live.append(layer.inputs + layer.outputs + held)
        if shortcut:
            live.append(body[-1].outputs + shortcut[0].inputs + shortcut[0].outputs)
        return -(-max(live) * bits // 8)

    @property
    def traffic_bytes(self) -> int:
        """Bytes read and written if every layer's feature maps and weights pass through memory once, batch 1."""
        bits = self.bits.activation_bits
        if self.boundary:
            return self.activation_bytes
        values = sum(layer.inputs + layer.outputs for layer in self.graph.layers)
        if self.graph.shortcut is not None:
            values += 3 * self.graph.body[-1].outputs
        return -(-values * bits // 8) + self.weight_bytes
