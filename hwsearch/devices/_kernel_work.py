"""What kernels of a user's network have to do: the physics behind estimates of kernels that were not measured.

All kernels of a precision share one set of rates. What multiplies has its own rates by its role; each other operation that a kernel takes
in adds values to be read and written. Channels that are no multiple of 4, 8 or 16 cost more where a runtime works in blocks of
that size, and may cost ten times as much where it then takes another way.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import numpy.typing as npt

from ..networks._fused import CONVOLUTIONS, LINEAR, PRODUCTS, Fused

Floats = npt.NDArray[np.float64]
_SKIPPING = "skipping"
_ROLES = ("pointwise", _SKIPPING, "spatial", "depthwise", "linear", "product", "other")
_TILES = (8, 16, 32)
_ALIGNED = (4, 8, 16)
_KINDS: dict[str, tuple[str, ...]] = {
    "sum": ("add", "sub"),
    "scale": ("mul", "div"),
    "join": ("cat", "stack", "concat", "concatenate"),
    "late pool": (),  # of floats that are converted before it, see _places
    "pool": ("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool", "mean", "upsample"),
    "move": ("index_select", "permute", "transpose", "split", "chunk", "slice", "roll", "pixel_shuffle", "pad", "select", "unbind"),
    "curve": ("hardswish", "silu", "gelu", "sigmoid", "hardsigmoid", "tanh", "softmax", "elu", "softplus", "mish"),
    "norm": ("batch_norm", "layer_norm", "group_norm", "instance_norm"),
    "convert": ("quantize", "dequantize"),
    "clip": ("relu", "relu6", "hardtanh", "clamp", "leaky_relu", "prelu"),
    "other": (),
}
"""Operations that move alike much memory for each value."""
_NAMES = tuple(_KINDS)
_JOIN, _CONVERT, _POOL, _LATE_POOL = (_NAMES.index(name) for name in ("join", "convert", "pool", "late pool"))
_OF_ROLE = len(_TILES) + 4 + 3 * len(_ALIGNED)


def kernel_work(kernels: Sequence[Fused]) -> Floats:
    """What kernels have to do, a column a kind of work, shape ``(n, columns)``; all in units of like size."""
    cin, cout, groups, inputs, outputs, weights, positions = np.array(
        [(k.cin, k.cout, k.groups, k.inputs, k.outputs, k.weights, prod(k.taps) * prod(k.onto)) for k in kernels], dtype=np.float64
    ).T
    role = np.array([_role(kernel) for kernel in kernels])
    one = np.ones(len(kernels))
    within, made = cin / groups, np.where(groups > 1, cout / groups, cout)
    deep = groups > 1
    columns: list[Floats] = []
    for tile in _TILES:
        dense = _padded(within, min(tile, 8)) * _padded(made, tile)
        grouped = np.where(within * made <= 4, _padded(groups, tile) * within * made, groups * _padded(within, 8) * _padded(made, 8))
        columns.append(1e-6 * positions * np.where(deep, grouped, dense))
    columns += [1e-4 * inputs, 1e-4 * outputs, 1e-4 * weights, 1e-2 * one]
    for step in _ALIGNED:
        odd = (cin % step != 0).astype(np.float64)
        columns += [odd * columns[0], odd * 1e-4 * (inputs + outputs), odd * 1e-2]
    own = np.stack(columns, axis=1)
    work = np.zeros((len(kernels), len(_ROLES) - 1, _OF_ROLE))
    multiplies = role < len(_ROLES) - 1
    work[multiplies, role[multiplies]] = own[multiplies]
    return np.hstack([work.reshape(len(kernels), -1), _along(kernels)])


def _role(kernel: Fused) -> int:
    """What multiplies in a kernel. A convolution that skips pixels of what it converts first has a role of its own.

    OpenVINO skips the pixels of such a 1x1 convolution before it converts them, and then computes in floats.
    """
    skipping = kernel.role == "pointwise" and kernel.ops[0] == "quantize" and prod(kernel.onto) < prod(kernel.into)
    return _ROLES.index(_SKIPPING if skipping else kernel.role)


def _along(kernels: Sequence[Fused]) -> Floats:
    """Values that the other operations read and write, and how many there are, by their kind, shape ``(n, columns)``."""
    found = np.zeros((len(kernels), len(_NAMES), 2))
    signatures: dict[tuple[str, ...], list[tuple[int, float, float]]] = {}
    for row, kernel in enumerate(kernels):
        if kernel.ops not in signatures:
            signatures[kernel.ops] = _places(kernel.ops)
        for kind, before, after in signatures[kernel.ops]:
            found[row, kind] += 1e-4 * (before * kernel.inputs + after * kernel.outputs), 1e-2
    return found.reshape(len(kernels), -1)


def _places(ops: tuple[str, ...]) -> list[tuple[int, float, float]]:
    """Of each operation that does not multiply: its kind, and how much of the input and of the output of the kernel it works on.

    A pooling whose result is converted is a kind of its own: runtimes convert before it, and may have no fast pooling for that. Conversions
    of what is joined are of one part each, so that all of them together work on the input once at most.
    """
    main = next((place for place, op in enumerate(ops) if op in (*CONVOLUTIONS, *LINEAR, *PRODUCTS)), None)
    kinds = [_kind(op) for op in ops]
    if main is None and ops[-1] == "quantize":
        kinds = [_LATE_POOL if kind == _POOL else kind for kind in kinds]
    first = next((place for place, kind in enumerate(kinds) if kind != _CONVERT), len(ops))
    each = 1.0 / max(1, first) if _JOIN in kinds else 1.0
    found = []
    for place, kind in enumerate(kinds):
        if kind == _CONVERT:
            found.append((kind, each, 0.0) if place < first else (kind, 0.0, 1.0))
        elif place != main:
            found.append((kind, float(main is None or place < main), float(main is None or place > main)))
    return found


def _kind(op: str) -> int:
    stem = op.rstrip("123d") if op.endswith("d") else op
    return next((number for number, name in enumerate(_NAMES) if stem in _KINDS[name] or op in _KINDS[name]), len(_NAMES) - 1)


def kernel_coordinates(kernels: Sequence[Fused]) -> Floats:
    """Where a kernel stands among others: logarithms of channels, sizes, groups, what it is, and padding, shape ``(n, d)``.

    What it is: what multiplies, whether it makes fewer positions, whether it converts its input first, and whether its channels are odd.
    """
    widths = np.array([(k.cin, k.cout) for k in kernels], dtype=np.float64)
    shape = np.array([(prod(k.into), prod(k.taps), k.groups) for k in kernels], dtype=np.float64)
    kind = np.array(
        [
            (
                3.0 * _role(k),
                float(prod(k.onto) < prod(k.into)),
                2.0 * float(k.ops[0] in _KINDS["convert"]),
                2.0 * float(k.cin % 4 > 0),
                2.0 * float(k.cout % 4 > 0),
            )
            for k in kernels
        ]
    )
    return np.hstack([np.log2(widths), np.log2(shape), kind, np.log2(_padded(widths, 16) / widths)])


def _padded(channels: Floats, tile: int) -> Floats:
    return np.ceil(channels / tile) * tile
