"""Coded networks: one small file with shared, Huffman-coded weights (Deep Compression, Han et al., ICLR'16)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from ..._files._reading import guarded, read_arrays
from ..._files._writing import PathLike, write_arrays
from ...costs._metrics import Metric
from ...errors import CorruptFile, InvalidInput
from ...networks._blocks import Block
from ...networks._layers import Layer
from ...spaces import _tables
from ...spaces._space import Architecture
from ..data._images import DataLike
from ..supernet._deploy import Deployed, calibration_of, fit
from ..supernet._supernet import Supernet, WeightsLike, load_supernet, place_name
from . import _huffman as huffman
from ._codebook import BITS, Floats, Shared, check_bits, share
from ._folded import FoldedBlock, FoldedLayer, fold
from ._quantize import Quantization, Quantizer

FORMAT = "hwsearch-coded"
VERSION = 1
_FILE, _BLOCK, _MAP = 1500, 110, 90
"""Bytes of a file besides its layers: in any case, for a block, and for a quantised feature map."""
_FEW = 16384
"""Weights of a layer that is coded as it is to tell its size; larger ones need as many bits a weight as the largest in their place."""


@dataclass(frozen=True, eq=False)
class Coded:
    """A network whose weights share a few values a layer.

    Feature maps are rounded where the architecture says so; weights are the values of the codebooks, in 32-bit floats.

    Example:
        >>> import hwsearch, numpy as np, torch
        >>> from hwsearch.nn import make_data, save_coded
        >>> images = np.random.default_rng(0).integers(0, 256, (100, 8, 8), dtype=np.uint8)
        >>> data = make_data("mine", (images, np.arange(100) % 10))
        >>> supernet = hwsearch.train("resnet_digits", data=data, out="coded.safetensors", recipe={"epochs": 1}, progress=False)
        >>> coded = save_coded(supernet.space.architecture(supernet.smallest), weights=supernet, out="coded.npz")
        >>> coded.network(torch.randn(2, 1, 8, 8)).shape
        torch.Size([2, 10])

    Attributes:
        architecture: the network's genes, as :meth:`hwsearch.Architecture.document` tells them.
        blocks: in the order of execution.
        weights: of each layer that has weights, in the order of blocks and of their layers.
        biases: of the same layers, batch norms folded in, shape ``(cout,)`` each.
        quantizers: as of :class:`Deployed`.
        input: ``mean`` and ``std`` that the images are normalised with.
    """

    architecture: dict[str, Any]
    blocks: tuple[Block, ...]
    weights: tuple[Shared, ...]
    biases: tuple[Floats, ...]
    quantizers: dict[tuple[int, str], Quantizer]
    input: dict[str, Any]

    def __repr__(self) -> str:
        count = sum(one.codes.size for one in self.weights)
        return f"<Coded network of {self.architecture['space']!r}: {count:,} weights at {self.mean_bits:.2f} bits>"

    @property
    def mean_bits(self) -> float:
        """Bits of a weight on average."""
        return sum(one.codes.size * one.bits for one in self.weights) / sum(one.codes.size for one in self.weights)

    @property
    def network(self) -> Deployed:
        """The network that the file is of; equal files give equal outputs, bit for bit."""
        pairs = iter(zip(self.weights, self.biases, strict=True))
        folded = []
        for block in self.blocks:
            body, excite, shortcut = (
                tuple(_folded(layer, None if layer.pooling else next(pairs)) for layer in layers) for layers in block.graph.parts.values()
            )
            folded.append(FoldedBlock(block, body, None if block.graph.shortcut is None else shortcut, excite))
        return Deployed(tuple(folded), dict(self.quantizers))

    def save(self, path: PathLike) -> Path:
        """Write the network to one file, whole or not at all.

        The file is an npz of a JSON header and three arrays: the code ``lengths`` of the values of all codebooks, the ``codes`` of all
        weights, each layer filled up to a byte, and the ``numbers``: of each layer codebook, scales and biases.
        """
        coded = [huffman.encode(one.codes.ravel(), one.lengths) for one in self.weights]
        numbers = [array for one, bias in zip(self.weights, self.biases, strict=True) for array in (one.values, one.scale, bias)]
        header = {
            "format": FORMAT,
            "version": VERSION,
            "architecture": self.architecture,
            "blocks": [block.key for block in self.blocks],
            "layers": [[len(one.values), len(data)] for one, data in zip(self.weights, coded, strict=True)],
            "quantizers": [[*place, msgspec.to_builtins(quantizer)] for place, quantizer in self.quantizers.items()],
            "input": self.input,
        }
        arrays = {
            "lengths": np.concatenate([one.lengths for one in self.weights]),
            "codes": np.frombuffer(b"".join(coded), np.uint8),
            "numbers": np.concatenate(numbers),
        }
        write_arrays(path, header, arrays)
        return Path(path)


def save_coded(
    architecture: Architecture,
    *,
    weights: WeightsLike,
    out: PathLike,
    bits: int | None = None,
    data: DataLike | None = None,
) -> Coded:
    """Write an architecture with its weights of the supernet as one coded file.

    Each layer's weights share a codebook (:func:`hwsearch.nn.quantization._codebook.share`), whose indices are Huffman-coded. Biases, the
    scales of the channels and the codebooks are 32-bit floats. Quantisers of feature maps are chosen with the shared weights in place, and
    scales and biases are corrected so that the outputs of every layer keep their mean and spread on real images.

    Example:
        >>> import hwsearch, numpy as np
        >>> from hwsearch.nn import make_data, save_coded
        >>> images = np.random.default_rng(0).integers(0, 256, (100, 8, 8), dtype=np.uint8)
        >>> data = make_data("mine", (images, np.arange(100) % 10))
        >>> supernet = hwsearch.train("resnet_digits", data=data, out="save.safetensors", recipe={"epochs": 1}, progress=False)
        >>> network = supernet.space.architecture(supernet.smallest)
        >>> save_coded(network, weights=supernet, out="save.npz", bits=4).mean_bits <= 4
        True

    Args:
        architecture: the network.
        weights: the supernet, or the network trained alone; or its file.
        out: the file to write.
        bits: of the codes, 2 to 8; if omitted, those of each block's precision, or 8 for floats.
        data: calibrate on training images of these data; if omitted, on those that the supernet carries.

    Returns:
        The network as :func:`load_coded` reads it.

    Raises:
        InvalidInput: no architecture, or other bits.
        FileError: the weights cannot be used; WrongSpace if they are of another space.
    """
    if not isinstance(architecture, Architecture):
        raise InvalidInput(f"architecture must be an Architecture, such as result.best, not {type(architecture).__name__}.")
    if bits is not None:
        check_bits(bits)
    supernet = load_supernet(weights, architecture.space)
    normalize, images = calibration_of(supernet, data)
    blocks = architecture.blocks()
    plain = supernet.extract(architecture.genes, None if supernet.settled else images)
    with torch.inference_mode():
        floats = fold(plain, [replace(block, precision="fp32") for block in blocks])
        pairs = [(block, one) for block, folded in zip(blocks, floats, strict=True) for one in _layers(folded)]
        shared = tuple(share(one.weight.numpy(), code_bits(block, bits)) for block, one in pairs)
        biases = tuple(one.bias.numpy() for _, one in pairs)
        facts = {"mean": list(normalize.mean), "std": list(normalize.std)}
        network = Coded(architecture.document(), blocks, shared, biases, {}, facts).network
        fit(network, floats, images, Quantization())
    layers = [one for folded in network.blocks for one in _layers(folded)]
    corrected = tuple(replace(old, scale=new.steps.numpy()) for old, new in zip(shared, layers, strict=True) if new.steps is not None)
    coded = Coded(architecture.document(), blocks, corrected, tuple(one.bias.numpy() for one in layers), network.quantizers, facts)
    coded.save(out)
    return coded


def load_coded(path: PathLike) -> Coded:
    """Read a network that :func:`save_coded` wrote; it needs neither its space nor its supernet.

    Example:
        >>> import hwsearch, numpy as np
        >>> from hwsearch.nn import load_coded, make_data, save_coded
        >>> images = np.random.default_rng(0).integers(0, 256, (100, 8, 8), dtype=np.uint8)
        >>> data = make_data("mine", (images, np.arange(100) % 10))
        >>> supernet = hwsearch.train("resnet_digits", data=data, out="load.safetensors", recipe={"epochs": 1}, progress=False)
        >>> written = save_coded(supernet.space.architecture(supernet.smallest), weights=supernet, out="load.npz", bits=4)
        >>> load_coded("load.npz").blocks == written.blocks
        True

    Raises:
        FileError: the file cannot be read.
        CorruptFile, NewerVersion: it is not a coded network that this hwsearch can read.
    """
    header, arrays = read_arrays(path, "coded network", format=FORMAT, version=VERSION)
    with guarded(path, "coded network"):
        blocks = tuple(Block.parse(key) for key in header["blocks"])
        layers = [layer for block in blocks for layer in block.graph.layers if not layer.pooling]
        lengths, codes, numbers = (_Stream(arrays[name]) for name in ("lengths", "codes", "numbers"))
        shared, biases = [], []
        for layer, (values, size) in zip(layers, header["layers"], strict=True):
            found = huffman.decode(codes.take(size).tobytes(), length := lengths.take(values), layer.weights)
            if not 0 < len(length) <= 256:
                raise CorruptFile(f"a codebook has {len(length)} values")
            shape = (layer.cout, layer.cin) if layer.op == "linear" else (layer.cout, layer.cin // layer.groups, layer.kernel, layer.kernel)
            shared.append(Shared(numbers.floats(values), found.reshape(shape), numbers.floats(layer.cout)))
            biases.append(numbers.floats(layer.cout))
        quantizers = {(int(n), str(place)): msgspec.convert(one, Quantizer) for n, place, one in header["quantizers"]}
        if not (lengths.done and codes.done and numbers.done):
            raise CorruptFile("it holds more than its layers need")
        if not isinstance(header["architecture"]["space"], str) or not isinstance(header["input"], dict):
            raise CorruptFile("it does not say which architecture it is of, and how its images are normalised")
        return Coded(header["architecture"], blocks, tuple(shared), tuple(biases), quantizers, header["input"])


def coded_size(weights: Supernet, bits: int | None = None) -> Metric:
    """The size of the coded file, MB, as a cost of architectures: ``search(..., metrics=[coded_size(...)], limits={"size_mb": 0.1})``.

    Layers of up to 16,384 weights are coded with the weights that they have in the supernet; larger ones are taken to need as many bits
    a weight as the largest layer in their place; networks that the weights are not of are impossible. Further training changes what a file
    needs a little.

    Example:
        >>> import hwsearch, numpy as np
        >>> from hwsearch.nn import Supernet, coded_size
        >>> supernet = Supernet("resnet_digits")
        >>> size = coded_size(supernet, bits=4)
        >>> small, large = size(np.stack([supernet.smallest, supernet.largest]))
        >>> size.name, bool(small < large)
        ('size_mb', True)

    Args:
        weights: the supernet.
        bits: as of :func:`save_coded`.

    Raises:
        InvalidInput: other bits.
    """
    if bits is not None:
        check_bits(bits)
    space = weights.space
    tables: list[_tables.Table] = [((), np.asarray(_FILE / 1e6))]
    allowed = [weights.held(gene) for gene in range(len(space.choices))]
    for slot, lowered in zip(space.slots, space.slot_blocks, strict=True):
        total = np.zeros(lowered.blocks.shape[:-1])
        held = lowered.within(allowed)
        for number, (column, ours) in enumerate(zip(np.moveaxis(lowered.blocks, -1, 0), np.moveaxis(held, -1, 0), strict=True), start=1):
            rates = _Rates(weights, place_name(slot, number))
            costs = np.append(np.full(len(space.unique_blocks), np.inf), 0.0)
            for index in np.unique(ours[ours >= 0]):
                block = space.unique_blocks[index]
                costs[index] = rates.bytes(block, code_bits(block, bits)) / 1e6
            total += costs[column]
        tables.append(_tables.table(lowered.genes, total))
    return Metric("size_mb", "MB", space, _tables.TableSum(tuple(tables)))


class _Rates:
    """Bits a weight of the layers that stand in one place of a supernet."""

    def __init__(self, weights: Supernet, place: str) -> None:
        self.weights, self.place = weights, place
        self.known: dict[tuple[str, int, tuple[int, ...], int], tuple[float, int]] = {}

    def bytes(self, block: Block, bits: int) -> float:
        """What a block needs: its key, quantisers (not those before an activation), and its layers' codes, codebooks, scales and biases."""
        maps = sum(layer.op == "conv" for layer in block.graph.layers) + (block.graph.shortcut is not None or block.kind == "quantize")
        total: float = _BLOCK + _MAP * maps * block.bits.quantized
        for part, layers in block.graph.parts.items():
            for index, layer in enumerate(layers):
                if not layer.pooling:
                    rate, values = self._rate(part, index, layer, bits)
                    total += layer.weights * rate / 8 + values * 5 + layer.cout * 8
        return total

    def _rate(self, part: str, index: int, layer: Layer, bits: int) -> tuple[float, int]:
        """Bits a weight, and values in the codebook."""
        shape = (layer.cout, layer.cin // layer.groups, layer.kernel) if layer.weights <= _FEW else ()
        key = (part, index, shape, bits)
        if key not in self.known:
            elastic = getattr(self.weights.block(self.place), part)[index]
            weight = elastic.sliced(layer)[0] if shape else elastic.whole()
            found = share(weight.detach().numpy(), bits)
            self.known[key] = found.bits, len(found.values)
        return self.known[key]


class _Stream:
    """An array that is read from front to back."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self.array, self.place = array, 0

    def take(self, count: int) -> npt.NDArray[Any]:
        """The next ``count`` entries."""
        self.place += count
        if count < 0 or self.place > len(self.array):
            raise CorruptFile("it holds less than its layers need")
        return self.array[self.place - count : self.place]

    def floats(self, count: int) -> Floats:
        """The next ``count`` numbers, finite."""
        found = np.asarray(self.take(count), dtype=np.float32)
        if not np.isfinite(found).all():
            raise CorruptFile("it holds numbers that are not finite")
        return found

    @property
    def done(self) -> bool:
        """Whether nothing is left."""
        return self.place == len(self.array)


def code_bits(block: Block, bits: int | None) -> int:
    """Bits of the codes of a block's weights."""
    if bits is not None:
        return bits
    return block.bits.weight_bits if block.bits.weight_bits <= BITS[1] else BITS[1]


def _layers(folded: FoldedBlock) -> Iterator[FoldedLayer]:
    """The layers of a block that hold weights, in the order of :attr:`hwsearch.networks.Graph.layers`."""
    parts: tuple[Sequence[FoldedLayer], ...] = (folded.body, folded.excite, folded.shortcut or ())
    return (one for part in parts for one in part if not one.layer.pooling)


def _folded(layer: Layer, pair: tuple[Shared, Floats] | None) -> FoldedLayer:
    if pair is None:
        return FoldedLayer(layer, torch.empty(0), torch.empty(0))
    weight, scale = torch.from_numpy(pair[0].weights), torch.from_numpy(pair[0].scale.copy())
    if weight.ndim == 4:
        weight = weight.contiguous(memory_format=torch.channels_last)
    return FoldedLayer(layer, weight, torch.from_numpy(pair[1].copy()), scale)
