"""The numbers of a network as graphs take them, and random ones for profiling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...networks._blocks import Block, Layer
from ._flavours import FLOAT8, LARGEST

_PERIOD = 1021
"""Number of values after which random weights repeat; a prime, so that filters differ."""
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LayerWeights:
    """The numbers of one layer; a pooling has empty ones.

    Example:
        >>> import numpy as np
        >>> from hwsearch.backends import LayerWeights
        >>> from hwsearch.networks import Block
        >>> (layer,) = Block("conv", 3, 8, 16, kernel=3).graph.body
        >>> weight = np.zeros((layer.cout, layer.cin // layer.groups, layer.kernel, layer.kernel), np.float32)
        >>> LayerWeights(weight, bias=np.zeros(layer.cout, np.float32)).weight.size == layer.weights
        True

    Attributes:
        weight: float32 with the batch norm folded in, shape ``(cout, cin / groups, k, k)``, or ``(cout, cin)`` for a linear layer.
        bias: float32, shape ``(cout,)``.
        out_scale, out_zero: the ``uint8`` quantiser of the layer's output, after its activation; ``None`` and 0 in float blocks. Poolings
            and linear layers need none: the former keep that of their input, the latter give floats.
        pre_scale, pre_zero: the same before an activation that no quantiser can stand for, which are all but the ReLUs.
        steps: of weights on a grid, shape ``(cout,)``; if omitted, those that reach to the largest weight of each channel.
    """

    weight: Floats
    bias: Floats
    out_scale: float | None = None
    out_zero: int = 0
    pre_scale: float | None = None
    pre_zero: int = 0
    steps: Floats | None = None


@dataclass(frozen=True)
class BlockWeights:
    """The numbers of one block.

    Example:
        >>> import numpy as np
        >>> from hwsearch.backends import BlockWeights, LayerWeights, TrainedModel
        >>> from hwsearch.networks import Block
        >>> layer = LayerWeights(np.ones((10, 8), np.float32), np.zeros(10, np.float32))
        >>> model = TrainedModel((Block("head", 8, 10, 4),), (BlockWeights(body=(layer,)),))
        >>> [len(weights.body) == len(block.graph.body) for block, weights in zip(model.network, model.weights)]
        [True]

    Attributes:
        body, shortcut, excite: of the layers of :attr:`Block.graph`, in the same order.
        out_scale, out_zero: the quantiser of the block's output, after the sum and its ReLU; ``None`` and 0 in float blocks. Of a
            ``quantize`` block these are all there is; a plain convolution has the same quantiser in its only layer.
    """

    body: tuple[LayerWeights, ...] = ()
    shortcut: tuple[LayerWeights, ...] | None = None
    out_scale: float | None = None
    out_zero: int = 0
    excite: tuple[LayerWeights, ...] = ()


def random_weights(network: Sequence[Block], seed: int = 0, symmetric: bool = False) -> tuple[BlockWeights, ...]:
    """Sensible random numbers for profiling, one entry a block; the time of a block does not depend on them.

    They repeat after a while, and few are the largest, so that model files can be packed small, in int8 too. Quantisers have no zero point
    if they are to be ``symmetric``.
    """
    rng = np.random.default_rng(seed)
    numbers = np.clip(rng.standard_normal(_PERIOD), -2, 2).astype(np.float32)

    def layer(layer: Layer, block: Block) -> LayerWeights:
        if layer.pooling:
            return LayerWeights(np.zeros(0, np.float32), np.zeros(0, np.float32))
        fan_in = layer.cin // layer.groups * layer.kernel**2
        shape = (layer.cout, fan_in) if layer.op == "linear" else (layer.cout, layer.cin // layer.groups, layer.kernel, layer.kernel)
        weight = np.resize(numbers, shape) * np.float32(np.sqrt(2 / fan_in))
        if block.bits.sparse and layer.sparsable:
            weight[:, 1::4] = weight[:, 2::4] = 0
        bias = (0.1 * rng.standard_normal(layer.cout)).astype(np.float32)
        if not block.bits.quantized:
            return LayerWeights(weight, bias)
        scale, half = (6 / 255 if layer.activation == "relu6" else 0.03), 0 if symmetric else 128
        return LayerWeights(weight, bias, scale, 0 if layer.positive else half, scale, half)

    weights = []
    for block in network:
        body = tuple(layer(one, block) for one in block.graph.body)
        shortcut = None if block.graph.shortcut is None else tuple(layer(one, block) for one in block.graph.shortcut)
        quantized = block.bits.quantized and block.kind != "dequantize"
        excite = tuple(layer(one, block) for one in block.graph.excite)
        weights.append(BlockWeights(body, shortcut, 0.03 if quantized else None, 0, excite))
    return tuple(weights)


def quantize_weight(weight: Floats, largest: float = 127.0, steps: Floats | None = None) -> tuple[Floats, Floats]:
    """Symmetric weights, one scale an output channel: ``weight ~ values * scale`` with values in ``-largest .. largest``.

    Returns:
        The values, shaped like ``weight``: whole numbers, unless the grid is that of fp8 (``largest`` 448), which rounds them when they are
        written. And the scales, shape ``(cout,)``.
    """
    if steps is None:
        steps = np.abs(weight.reshape(len(weight), -1)).max(axis=1) / largest
        steps = np.where(steps > 0, steps, 1.0).astype(np.float32)
    values = weight / steps.reshape(-1, *[1] * (weight.ndim - 1))
    values = values if largest == LARGEST[FLOAT8] else np.rint(values)
    return np.clip(values, -largest, largest).astype(np.float32), steps
