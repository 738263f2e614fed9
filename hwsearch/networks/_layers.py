"""Layer and Graph: what blocks are made of."""

from __future__ import annotations

from dataclasses import dataclass

ACTIVATIONS: tuple[str, ...] = ("relu", "relu6", "hswish", "swish", "none")
"""What may follow a layer: ReLU, ReLU6, hard swish, swish, or nothing.

Example:
    >>> from hwsearch.networks import ACTIVATIONS, Block
    >>> [Block("conv", 8, 8, 16, activation=name).key.rpartition("-")[2] for name in ACTIVATIONS]
    ['fp32', 'relu6', 'hswish', 'swish', 'none']
"""

POSITIVE: tuple[str, ...] = ("relu", "relu6")
"""Those after which there are no negative values."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One convolution (with batch norm), linear layer or pooling inside a block.

    Example:
        >>> from hwsearch.networks import Layer
        >>> layer = Layer("conv", cin=16, cout=32, size=28, kernel=3, stride=2)
        >>> layer.out_size, layer.weights, layer.macs
        (14, 4608, 903168)

    Attributes:
        op: ``"conv"``, ``"linear"`` (which averages over the feature map first), ``"maxpool"`` or ``"avgpool"``.
        cin, cout: channels in and out.
        size: height and width of the input, px.
        kernel, stride, groups: as in any convolution; 1 for a linear layer. The input is padded with ``kernel // 2`` on every side, as in
            PyTorch, for poolings too (an average leaves the padding out).
        activation: what follows: one of :data:`ACTIVATIONS`.
        bias: whether it has a bias (a batch norm, if it is a convolution).
    """

    op: str
    cin: int
    cout: int
    size: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    activation: str = "none"
    bias: bool = True

    @property
    def relu(self) -> bool:
        """Whether a ReLU follows."""
        return self.activation == "relu"

    @property
    def positive(self) -> bool:
        """Whether what follows leaves no negative values: a ReLU or a ReLU6."""
        return self.activation in POSITIVE

    @property
    def pooling(self) -> bool:
        """Whether it has nothing to learn."""
        return self.op in ("maxpool", "avgpool")

    @property
    def sparsable(self) -> bool:
        """Whether hardware for 2:4 sparsity takes it: a multiple of 16 channels in and of 8 out, all in one group."""
        return not self.pooling and self.groups == 1 and self.cin % 16 == 0 and self.cout % 8 == 0

    @property
    def out_size(self) -> int:
        """Height and width of the output, px."""
        return 1 if self.op == "linear" else -(-self.size // self.stride)

    @property
    def weights(self) -> int:
        """Number of weights, without biases and batch norms."""
        if self.pooling:
            return 0
        return self.cout * (self.cin // self.groups) * self.kernel**2

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return self.weights * self.out_size**2

    @property
    def biases(self) -> int:
        """Number of channels that have a bias (or a batch norm)."""
        return 0 if self.pooling or not self.bias else self.cout

    @property
    def inputs(self) -> int:
        """Values read from the input feature map of one image."""
        return self.cin * self.size**2

    @property
    def outputs(self) -> int:
        """Values written to the output feature map of one image."""
        return self.cout * self.out_size**2


@dataclass(frozen=True, slots=True)
class Graph:
    """The layers of a block.

    Example:
        >>> from hwsearch.networks import Block
        >>> graph = Block("basic", cin=16, cout=32, size=28, mids=(24,), kernel=3, stride=2).graph
        >>> {name: [(layer.op, layer.cin, layer.cout) for layer in part] for name, part in graph.parts.items()}
        {'body': [('conv', 16, 24), ('conv', 24, 32)], 'excite': [], 'shortcut': [('conv', 16, 32)]}

    Attributes:
        body: layers in order.
        shortcut: ``None`` if the block is not residual; otherwise the layers of the shortcut, empty for the identity.
        joined: what the sum of body and shortcut goes through: one of :data:`ACTIVATIONS`.
        excite: the two linear layers of a squeeze-and-excite (Hu et al., CVPR'18), which scales the channels of the feature map between the
            last two layers of the body by a hard sigmoid; empty if there is none.
    """

    body: tuple[Layer, ...]
    shortcut: tuple[Layer, ...] | None = None
    joined: str = "relu"
    excite: tuple[Layer, ...] = ()

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Body, excitation and shortcut together."""
        return self.body + self.excite + (self.shortcut or ())

    @property
    def parts(self) -> dict[str, tuple[Layer, ...]]:
        """The same by name, in this order; the shortcut is empty if there is none."""
        return {"body": self.body, "excite": self.excite, "shortcut": self.shortcut or ()}
