"""Tables of bit-widths per layer: HAQ's cycles (CVPR'19) and HAWQ-V3's latencies and sensitivities (ICML'21)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .._files._reading import PathLike, guarded, parse_array, read_bytes, read_json
from ..errors import CorruptFile, InvalidInput, UnknownName
from ..spaces._genes import Choice
from ..spaces._space import SearchSpace
from ._checks import report, some

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LayerTable:
    """Costs of the layers of one network at several bit-widths.

    Example:
        >>> import hwsearch, numpy as np
        >>> from hwsearch.interop import haq_table
        >>> np.save("two-layers.npy", np.cumsum(np.cumsum(np.ones((2, 8, 8)), axis=1), axis=2))  # weight bits x activation bits
        >>> space = haq_table("two-layers.npy").space()
        >>> largest = np.array([[size - 1 for size in space.sizes]])
        >>> hwsearch.metric("cycles", space)(largest).tolist()
        [128.0]

    Attributes:
        name: of the network and the device.
        choices: the genes: bits of each layer.
        costs: cost name -> for each layer the names of its genes and an array with one axis a gene.
        problems: what was found wrong in the file.
    """

    name: str
    choices: tuple[Choice, ...]
    costs: Mapping[str, tuple[tuple[tuple[str, ...], Floats], ...]] = field(repr=False)
    problems: tuple[str, ...] = ()

    def space(self) -> SearchSpace:
        """The costs as a search space, whose metrics they are."""
        return SearchSpace.from_tables(self.choices, self.costs, name=self.name)


def haq_table(file: PathLike) -> LayerTable:
    """Read HAQ's array: cycles of every layer at every pair of weight and activation bits.

    Genes are ``layer1.weight_bits``, ``layer1.activation_bits`` and so on, from 1 bit up; the cost is called ``cycles``. Entries that are
    negative or not finite become infinite (impossible), and are reported, as are those where more bits are faster.

    Example:
        >>> import numpy as np
        >>> from hwsearch.interop import haq_table
        >>> np.save("haq.npy", np.cumsum(np.cumsum(np.ones((2, 8, 8)), axis=1), axis=2))  # layers x weight bits x activation bits
        >>> [choice.name for choice in haq_table("haq.npy").choices]
        ['layer1.weight_bits', 'layer1.activation_bits', 'layer2.weight_bits', 'layer2.activation_bits']

    Args:
        file: npy, shape ``(layers, weight bits, activation bits)``.

    Raises:
        FileError: the file cannot be read.
        CorruptFile: it is no such array.
    """
    name = os.fspath(file)
    data = read_bytes(file, "table of HAQ")
    with guarded(file, "array of HAQ"):
        cycles = parse_array(data)
    if cycles.ndim != 3 or cycles.dtype.kind not in "iuf" or not cycles.size:
        raise CorruptFile(f"{name} is no array of HAQ: numbers of the shape (layers, weight bits, activation bits) were expected.")
    array, found = _checked(cycles.astype(np.float64), name)
    faster = [f"layer{layer + 1}" for layer, one in enumerate(array) if (one[1:] < one[:-1]).any() or (one[:, 1:] < one[:, :-1]).any()]
    found += [f"{some(faster)} where more bits take fewer cycles"] if faster else []
    report(name, found)
    genes = [(f"layer{layer}.weight_bits", f"layer{layer}.activation_bits") for layer in range(1, len(array) + 1)]
    choices = tuple(Choice(gene, tuple(range(1, size + 1))) for pair in genes for gene, size in zip(pair, array.shape[1:], strict=True))
    label = os.path.splitext(os.path.basename(name))[0]
    return LayerTable(label, choices, {"cycles": tuple(zip(genes, array, strict=True))}, tuple(found))


def hawq_table(file: PathLike, network: str, *, tied: Sequence[tuple[int, int]] = ()) -> LayerTable:
    """Read HAWQ-V3's tables of a network: each layer at 4 and at 8 bits.

    Genes are ``layer1.bits`` and so on. Costs are ``latency_ms`` (measured on a T4), ``size_mb``, ``bitops`` and ``sensitivity``: the mean
    Hessian trace of the layer times the squared error of its quantised weights (HAWQ-V2, NeurIPS'20, equation 6). Impossible numbers become
    infinite, and are reported, as are layers that are slower at 4 bits.

    Example:
        >>> import json
        >>> from pathlib import Path
        >>> from hwsearch.interop import hawq_table
        >>> layers = {"parameters": [0.01, 0.02], "bops": [1.0, 2.0], "latency_int4": [0.1, 0.2], "latency_int8": [0.2, 0.3]}
        >>> layers |= {"Hutchinson_trace": [3.0, 2.0], "delta_weights_4bit_square": [0.5, 0.4], "delta_weights_8bit_square": [0.1, 0.1]}
        >>> size = Path("hawq.json").write_text(json.dumps({"tiny": layers}))
        >>> sorted(hawq_table("hawq.json", "tiny").costs)
        ['bitops', 'latency_ms', 'sensitivity', 'size_mb']

    Args:
        file: JSON with the networks' arrays.
        network: such as ``"resnet50"``.
        tied: pairs of layers, counted from 1, that share one gene, since their outputs are added.

    Raises:
        FileError: the file cannot be read.
        UnknownName: it does not hold the network.
        CorruptFile: it is no such table.
        InvalidInput: a pair names a layer that does not exist.
    """
    name = os.fspath(file)
    document = read_json(file, "table of HAWQ")
    if not isinstance(document, dict):
        raise CorruptFile(f"{name} is no table of HAWQ: networks were expected.")
    if network not in document:
        raise UnknownName(f"network in {name}", network, map(str, document))
    arrays = {key: _vector(document[network], key, name) for key in _HAWQ}
    layers = len(arrays["parameters"])
    if {len(array) for array in arrays.values()} != {layers}:
        raise CorruptFile(f"{name}: the arrays of {network!r} have different lengths.")
    if any(not 1 <= layer <= layers for pair in tied for layer in pair):
        raise InvalidInput(f"tied must name layers from 1 to {layers}, not {list(tied)}.")
    bits = np.array([4.0, 8.0])
    trace = arrays["Hutchinson_trace"][:, None]
    costs = {
        "latency_ms": np.stack([arrays["latency_int4"], arrays["latency_int8"]], axis=1),
        "size_mb": _weights(arrays["parameters"])[:, None] * bits / 8e6,
        "bitops": arrays["bops"][:, None] * 1e6 * bits**2,
        "sensitivity": trace * np.stack([arrays["delta_weights_4bit_square"], arrays["delta_weights_8bit_square"]], axis=1),
    }
    found: list[str] = []
    for cost in costs:
        costs[cost], wrong = _checked(costs[cost], f"{network} {cost}")
        found += wrong
    slower = [f"layer{layer + 1}" for layer, (four, eight) in enumerate(costs["latency_ms"]) if four > eight]
    found += [f"{some(slower)} slower at 4 bits than at 8"] if slower else []
    report(name, found)
    first = {max(pair): min(pair) for pair in tied}
    genes = [(f"layer{first.get(layer, layer)}.bits",) for layer in range(1, layers + 1)]
    choices = tuple(Choice(gene, (4, 8)) for (gene,) in dict.fromkeys(genes))
    tables = {cost: tuple(zip(genes, array, strict=True)) for cost, array in costs.items()}
    return LayerTable(f"hawq_{network}", choices, tables, tuple(found))


def _weights(millions: Floats) -> Floats:
    """Numbers of weights: HAWQ counts millions, of 2^20 for one network and of 10^6 for another."""
    binary = millions * 2**20
    return binary if np.array_equal(binary, np.rint(binary)) else millions * 1e6


_HAWQ = (
    "parameters",
    "bops",
    "latency_int4",
    "latency_int8",
    "Hutchinson_trace",
    "delta_weights_4bit_square",
    "delta_weights_8bit_square",
)


def _vector(network: Any, key: str, name: str) -> Floats:
    try:
        array = np.asarray(network[key], dtype=np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptFile(f"{name}: {key!r} must be a list of numbers: {error}.") from error
    if array.ndim != 1 or not array.size:
        raise CorruptFile(f"{name}: {key!r} must be a list of numbers, not of shape {array.shape}.")
    return array


def _checked(array: Floats, where: str) -> tuple[Floats, list[str]]:
    """The array with impossible numbers made infinite, and what was found; a layer is a row."""
    wrong = ~np.isfinite(array) | (array < 0)
    keys = [f"layer{layer + 1}" for layer in np.flatnonzero(wrong.reshape(len(array), -1).any(axis=1))]
    return np.where(wrong, np.inf, array), [f"{where}: {some(keys)} negative or not finite, taken as impossible"] if keys else []
