"""The supernet: one set of weights for every network of a search space."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any, Union

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ..._files._writing import PathLike
from ...backends._torch_blocks import Step
from ...errors import CorruptFile, InvalidInput, check_seed
from ...networks._blocks import Block
from ...spaces._genes import Rows, only
from ...spaces._load import load_space
from ...spaces._lowering import Slot
from ...spaces._space import SearchSpace
from ..data._images import Normalize
from ..quantization._learned import learned, teach
from ..training._phases import corner
from . import _weights_file as weights_file
from ._elastic import PARTS, ElasticBlock
from ._held import check_kept, held_by, shaping
from ._plain import calibrate_bn, plain, resize, thin_out

WeightsLike = Union[PathLike, "Supernet"]
"""A supernet, or the file of one."""
_LEARNED = "learned."


class Supernet(nn.Module):
    """Weights for every network that a space allows, built from the space alone; for a single one if it is ``space.alone(row)``.

    Each place that holds weights in some network becomes one elastic block, as large as the largest block that may stand there. Smaller
    networks take the first channels, the middle of the kernels and the first blocks of a stage (Once-for-All, ICLR'20). Precisions play no
    part: weights are trained in floating point and quantised after extraction.

    Example:
        >>> import torch
        >>> from hwsearch.nn import Supernet
        >>> supernet = Supernet("resnet_digits")
        >>> supernet.activate(supernet.smallest)  # each network of the space is part of the same weights
        >>> supernet(torch.randn(4, 1, 16, 16)).shape
        torch.Size([4, 10])

    Args:
        space: the space, or its name.
        seed: of the initial weights.
        generated: make the weights of every layer from its widths by a small network, instead of sharing them (MetaPruning, ICCV'19).

    Attributes:
        space: the space.
        generated: whether weights are made so.
        row: the network that :meth:`forward` runs, shape ``(genes,)``; the largest one until :meth:`activate` is called.
        normalize: what turns pixels into input; ``None`` before training.
        images: real training images for calibration, ``uint8``, shape ``(n, channels, height, width)``; empty before training.
        facts: how it was trained.
        settled: whether the batch norms keep the statistics of the only network there is, instead of being calibrated anew for each.
        learned: the quantisers that the only network has learned (:mod:`hwsearch.nn.quantization._learned`).

    Raises:
        InvalidInput: in one place of the space blocks of different kinds may stand.
    """

    images: torch.Tensor

    def __init__(self, space: str | SearchSpace, seed: int = 0, generated: bool = False) -> None:
        super().__init__()
        self.space, self.generated = load_space(space), generated
        self.normalize: Normalize | None = None
        self.images = torch.empty(0, dtype=torch.uint8)
        self.facts: dict[str, Any] = {}
        self.settled = False
        self.learned: dict[str, torch.Tensor] = {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(check_seed(seed))
            self.blocks = nn.ModuleDict(
                {_module_name(name): ElasticBlock(blocks, generated) for name, blocks, _ in self._places(self.space)}
            )
        self.activate(self.largest)

    def __repr__(self) -> str:
        weights = sum(each.numel() for each in self.parameters())
        trained = f"trained on {self.facts['data']}" if "data" in self.facts else "not trained"
        return f"<Supernet of {self.space.name!r}: {weights:,} weights for {self.space.size:.3g} networks, {trained}>"

    def _places(self, kept: SearchSpace) -> Iterator[tuple[str, list[Block], bool]]:
        """In the order of execution each place that holds weights: a slot, or one of its blocks if it holds several.

        Args:
            kept: the space, or a restriction of it.

        Yields:
            Its name, the blocks with weights that may stand there in ``kept``, and whether one of them always does.
        """
        unique = self.space.unique_blocks
        for slot, lowered in zip(self.space.slots, self.space.slot_blocks, strict=True):
            standing = lowered.within(kept.allowed)
            for number, column in enumerate(np.moveaxis(standing, -1, 0), start=1):
                found = [unique[index] if index >= 0 else None for index in np.unique(column)]
                if weighty := [block for block in found if block and not block.boundary]:
                    yield place_name(slot, number), weighty, len(weighty) == len(found)

    def places(self, kept: SearchSpace) -> Iterator[tuple[ElasticBlock, list[Block], bool]]:
        """The same with the weights of each place instead of its name."""
        for name, blocks, always in self._places(kept):
            yield self.block(name), blocks, always

    def _placed(self, row: Rows) -> list[tuple[str, Block]]:
        """The blocks of a network and the names of their places, in the order of execution."""
        return [
            (place_name(slot, number), block) for slot, blocks in self.space.placed(row) for number, block in enumerate(blocks, start=1)
        ]

    @property
    def largest(self) -> Rows:
        """The row with the last allowed value of every gene and the finest precisions, shape ``(genes,)``."""
        return corner(self.space, -1)

    @property
    def smallest(self) -> Rows:
        """The row with the first allowed value of every gene and the finest precisions, shape ``(genes,)``."""
        return corner(self.space, 0)

    def activate(self, row: npt.ArrayLike) -> None:
        """Choose the network that :meth:`forward` runs.

        Args:
            row: gene indices, shape ``(genes,)``.

        Raises:
            InvalidInput: the row does not fit the space, or these are the weights of other networks.
        """
        self.row = self._held(row)
        self._path = self._placed(self.row)

    def _held(self, row: npt.ArrayLike) -> Rows:
        """The canonical row, if there are weights for it; precisions play no part."""
        canonical = only(self.space.canonical(self.space.check(np.asarray(row)[None], "row")))
        for gene in np.flatnonzero(self.space.active(canonical[None])[0]).tolist():
            choice, held = self.space.choices[gene], self.held(gene)
            if canonical[gene] not in held:
                values = [choice.values[index] for index in held]
                raise InvalidInput(f"These weights are of networks with {choice.name} in {values}, not {choice.values[canonical[gene]]}.")
        return canonical

    def held(self, gene: int) -> tuple[int, ...]:
        """The values of a gene whose networks the weights are of; precisions play no part."""
        return tuple(range(self.space.sizes[gene])) if self.space.choices[gene].is_precision else self.space.allowed[gene]

    def block(self, slot: str) -> ElasticBlock:
        """The weights of a slot."""
        module = self.blocks[_module_name(slot)]
        assert isinstance(module, ElasticBlock)
        return module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the active network.

        Batch norms use the statistics of the batch in training mode, and those of the last :meth:`calibrate_bn` in evaluation mode.

        Args:
            x: normalised images of any size, shape ``(n, channels, h, w)``; they are resized to the network's resolution.

        Returns:
            Logits, shape ``(n, classes)``.
        """
        for step in self.steps():
            x = step(x)
        return x

    def steps(self) -> list[Step]:
        """What :meth:`forward` does, one step after the other: the resizing of the images, and the blocks of the active network."""
        return [step for _, step in self.named_steps()]

    def named_steps(self) -> list[tuple[str, Step]]:
        """The same with the names that an extracted network gives to its modules."""
        blocks: list[tuple[str, Step]]
        blocks = [(_module_name(name), partial(self.block(name), block=block)) for name, block in self._path if not block.boundary]
        return [("resize", partial(resize, size=self._path[0][1].size)), *blocks]

    def calibrate_bn(self, images: torch.Tensor | None = None) -> None:
        """Set the batch-norm statistics of the active network, and switch to evaluation mode.

        Args:
            images: normalised training images, shape ``(n, channels, h, w)``; if omitted, those that the supernet carries.
        """
        calibrate_bn(self, self.calibration() if images is None else images)

    def calibration(self) -> torch.Tensor:
        """The training images that the supernet carries, normalised, shape ``(n, channels, h, w)``.

        Raises:
            InvalidInput: it carries none, since it was not trained.
        """
        if self.normalize is None or not len(self.images):
            raise InvalidInput("This supernet carries no calibration images, since it was not trained: pass images.")
        return self.normalize(self.images)

    def extract(self, row: npt.ArrayLike, images: torch.Tensor | None = None) -> nn.Sequential:
        """The network of a row as ordinary torch modules with weights of their own, calibrated and in evaluation mode.

        It can be trained further like any module. The supernet stays as it is.

        Args:
            row: gene indices, shape ``(genes,)``.
            images: normalised training images to calibrate the batch norms on, shape ``(n, channels, h, w)``. If omitted, a settled
                network keeps its statistics, and others are calibrated on the images that the supernet carries.

        Raises:
            InvalidInput: the row does not fit the space, these are the weights of other networks, or there are no images.
        """
        held = self._held(row)
        path = self._placed(held)
        network = plain(path)
        with torch.no_grad():
            for ours, theirs in self._pairs(path, network):
                theirs.copy_(ours)
        thin_out(network, [block for _, block in path])
        if np.array_equal(held, self.largest):
            teach(network, self.learned)
        if images is None and self.settled:
            return network.eval()
        images = self.calibration() if images is None else images
        calibrate_bn(network.to(images.device), images)
        return network

    def reorder(self) -> None:
        """If the only network is 2:4 sparse, put the channels inside its blocks into the order that costs least.

        Raises:
            InvalidInput: weights are made from widths, so they have no order.
        """
        check_kept(self.generated, "have no order of channels")
        for name, block in self._path:
            if block.bits.sparse:
                self.block(name).reorder(block)

    def settle(self, network: nn.Sequential) -> None:
        """Take over weights and batch-norm statistics of a network that was extracted, the only one of this space, and trained further.

        Raises:
            InvalidInput: the weights of this one are made from widths.
        """
        check_kept(self.generated, "cannot take over those of a network")
        with torch.no_grad():
            for ours, theirs in self._pairs(self._placed(self.largest), network):
                ours.copy_(theirs)
        self.settled, self.learned = True, learned(network)

    def alone(self, row: npt.ArrayLike) -> Supernet:
        """The network of a row in a space of its own, with the weights and the statistics that it has here, to be tuned.

        Raises:
            InvalidInput: as :meth:`extract` does.
        """
        network = self.extract(row)
        other = Supernet(self.space.alone(self._held(row)))
        other.settle(network)
        other.normalize, other.images, other.facts = self.normalize, self.images, {**self.facts, "allowed": other.space.allowed}
        return other

    def inherit(self, other: Supernet) -> None:
        """Take over the weights of a supernet that holds all networks of this one: the first channels, and the middle of the kernels.

        Raises:
            InvalidInput: it belongs to another space, or lacks some of the networks; or the weights of this one are made from widths.
        """
        check_kept(self.generated, "begin at random and take over no others")
        if other.space.fingerprint != self.space.fingerprint:
            raise InvalidInput(f"The supernet belongs to space {other.space.name!r}, not to {self.space.name!r}.")
        for row in (self.smallest, self.largest):
            other._held(row)
        with torch.no_grad():
            for name, block in self.blocks.items():
                for part in PARTS:
                    for target, source in zip(getattr(block, part), getattr(other.blocks[name], part), strict=False):
                        target.inherit(source)

    def _pairs(self, path: list[tuple[str, Block]], network: nn.Sequential) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The tensors of the elastic layers along a path, as the slices that its blocks use, and their counterparts in a plain network."""
        for (name, block), module in zip(path, list(network)[1:], strict=True):
            if block.boundary:
                continue
            elastic = self.blocks[_module_name(name)]
            assert isinstance(elastic, ElasticBlock)
            for part, number, ours, layer in elastic.layers(block):
                theirs = getattr(module, part)[number]
                if not layer.pooling:
                    weight, bias = ours.sliced(layer)
                    yield weight, theirs.op.weight
                    if bias is not None:
                        yield bias, theirs.op.bias
                if ours.norm is not None:
                    for key in ("weight", "bias", "running_mean", "running_var"):
                        yield getattr(ours.norm, key)[: layer.cout], getattr(theirs.norm, key)

    @property
    def digest(self) -> str:
        """A hash of the weights and the calibration images: what was evaluated with them belongs to them."""
        hashed = hashlib.sha256(self.images.numpy().tobytes())
        for tensor in self._tensors().values():
            hashed.update(tensor.detach().numpy().tobytes())
        return hashed.hexdigest()[:16]

    def _tensors(self) -> dict[str, torch.Tensor]:
        """What makes up the weights by name, the batch-norm statistics of a settled network among them."""
        statistics = {name: buffer for name, buffer in self.named_buffers() if name.endswith(("running_mean", "running_var"))}
        quantizers = {f"{_LEARNED}{name}": tensor for name, tensor in sorted(self.learned.items())}
        return {**dict(self.named_parameters()), **(statistics if self.settled else {}), **quantizers}

    def save(self, path: PathLike) -> Path:
        """Write the trained supernet as safetensors, whole or not at all."""
        facts: dict[str, Any] = {"training": self.facts, "genes": [choice.name for choice in self.space.choices]}
        facts["normalize"] = {"mean": self.normalize.mean, "std": self.normalize.std} if self.normalize else None
        if not self.settled:
            facts["weights_fingerprint"] = self.space.weights_fingerprint
        tensors = {**self._tensors(), "calibration.images": self.images}
        weights_file.write(path, weights_file.SUPERNET_FORMAT, self.space, tensors, facts)
        return Path(path)

    @classmethod
    def load(cls, path: PathLike, space: str | SearchSpace) -> Supernet:
        """Read a supernet.

        Args:
            path: a file written by :meth:`save`.
            space: the space it must belong to, or one that differs from it in precisions only, which play no part in training; the
                supernet's own is restricted to the networks that the weights are of.

        Raises:
            FileError: the file cannot be read.
            CorruptFile, NewerVersion: it is not a supernet that this hwsearch can read.
            WrongSpace: it belongs to another space.
        """
        where = load_space(space)
        tensors, header = weights_file.read(path, weights_file.SUPERNET_FORMAT, where)
        try:
            facts = dict(header["training"])
            if "allowed" in facts:
                same = header["fingerprint"] == where.fingerprint
                genes = [choice.name for choice in where.choices] if same else header["genes"]
                held = dict(zip(genes, facts["allowed"], strict=True))
                where = held_by(where, held if same else shaping(held, where))
            supernet = cls(where, generated=True) if any(".maker." in name for name in tensors) else cls(where)
            supernet.facts = facts
            supernet.images = tensors.pop("calibration.images")
            supernet.learned = {name.removeprefix(_LEARNED): tensors[name] for name in tensors if name.startswith(_LEARNED)}
            if (normalize := header["normalize"]) is not None:
                supernet.normalize = Normalize(tuple(map(float, normalize["mean"])), tuple(map(float, normalize["std"])))
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptFile(f"{path}: its header is not that of a supernet: {error!r}.") from error
        supernet.settled = any(name.endswith("running_mean") for name in tensors)
        weights_file.fill(supernet._tensors(), tensors, path)
        return supernet


def load_supernet(weights: WeightsLike | nn.Module, space: SearchSpace) -> Supernet:
    """The supernet of a file, or a :class:`Supernet` as it is; for a space of other precisions one that shares its weights.

    Raises:
        InvalidInput: the supernet belongs to another space, or is another module.
        HwsearchError: as :meth:`Supernet.load`.
    """
    if isinstance(weights, nn.Module) and not isinstance(weights, Supernet):
        raise InvalidInput(f"Space {space.name!r} needs a supernet, or its file, and no other module ({type(weights).__name__}).")
    if not isinstance(weights, Supernet):
        return Supernet.load(weights, space)
    if weights.space.fingerprint == space.fingerprint:
        return weights
    if weights.settled or weights.space.weights_fingerprint != space.weights_fingerprint:
        raise InvalidInput(f"The supernet belongs to space {weights.space.name!r}, not to {space.name!r}.")
    other = copy(weights)
    held = {choice.name: indices for choice, indices in zip(weights.space.choices, weights.space.allowed, strict=True)}
    other.space = held_by(space, shaping(held, space))
    other.activate(other.largest)
    return other


def _module_name(slot: str) -> str:
    return slot.replace(".", "_")


def place_name(slot: Slot, number: int) -> str:
    """The name of a place: that of the slot; if it holds several blocks, they are numbered from the second on."""
    return slot.name if number == 1 else f"{slot.name}.{number}"
