"""The supernet: one set of weights for every network of a search space."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from .._store import PathLike
from ..blocks import Block, Layer
from ..errors import CorruptFile, InvalidInput
from ..space import Rows, SearchSpace
from ..spaces import load_space
from . import weights_file
from .data import Normalize
from .elastic import ElasticBlock, ElasticLayer
from .plain import Residual, calibrate_bn, plain, resize

Tensors = dict[str, torch.Tensor]


class Supernet(nn.Module):
    """Weights for every network of a space, built from the space alone.

    Each slot that holds weights in some network becomes one elastic block, as large as the largest block that may stand there. Smaller
    networks take the first channels and the first blocks of a stage (Once-for-All, ICLR'20). Precisions play no part: weights are trained
    in floating point and quantised after extraction.

    Args:
        space: the space, or its name.
        seed: of the initial weights.

    Attributes:
        space: the space.
        row: the network that :meth:`forward` runs, shape ``(genes,)``; the largest one until :meth:`activate` is called.
        normalize: what turns pixels into input; ``None`` before training.
        images: real training images for calibration, ``uint8``, shape ``(n, channels, height, width)``; empty before training.
        facts: how it was trained.

    Raises:
        InvalidInput: a slot of the space holds several blocks with weights, or blocks of different kinds.
    """

    images: torch.Tensor

    def __init__(self, space: str | SearchSpace, seed: int = 0) -> None:
        super().__init__()
        self.space = load_space(space)
        self.normalize: Normalize | None = None
        self.images = torch.empty(0, dtype=torch.uint8)
        self.facts: dict[str, Any] = {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            cells = zip(self.space.slots, self._cells(), strict=True)
            self.blocks = nn.ModuleDict({_module_name(slot.name): ElasticBlock(blocks) for slot, blocks in cells if blocks})
        self.activate(self.largest)

    def _cells(self) -> list[list[Block]]:
        """The blocks with weights that may stand in each slot."""
        unique = self.space.unique_blocks
        found = []
        weighty = np.array([not block.boundary for block in unique] + [False])
        for slot, lowered in zip(self.space.slots, self.space.slot_blocks, strict=True):
            if weighty[lowered.blocks].sum(axis=-1).max() > 1:
                raise InvalidInput(f"Slot {slot.name!r} of {self.space.name!r} holds several blocks with weights; a supernet needs one.")
            found.append([unique[index] for index in np.unique(lowered.blocks) if weighty[index]])
        return found

    @property
    def largest(self) -> Rows:
        """The row with the last allowed value of every gene, shape ``(genes,)``."""
        return self._corner(-1)

    @property
    def smallest(self) -> Rows:
        """The row with the first allowed value of every gene, shape ``(genes,)``."""
        return self._corner(0)

    def _corner(self, end: int) -> Rows:
        row = np.array([[allowed[end] for allowed in self.space.allowed]], dtype=np.uint8)
        corner: Rows = self.space.canonical(row)[0]
        return corner

    def activate(self, row: npt.ArrayLike) -> None:
        """Choose the network that :meth:`forward` runs.

        Args:
            row: gene indices, shape ``(genes,)``.

        Raises:
            InvalidInput: the row does not fit the space.
        """
        (self.row,) = self.space.canonical(self.space.check(np.asarray(row)[None], "row"))
        self._path = [(slot.name, block) for slot, blocks in self.space.placed(self.row) for block in blocks]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the active network.

        Batch norms use the statistics of the batch in training mode, and those of the last :meth:`calibrate_bn` in evaluation mode.

        Args:
            x: normalised images of any size, shape ``(n, channels, h, w)``; they are resized to the network's resolution.

        Returns:
            Logits, shape ``(n, classes)``.
        """
        x = resize(x, self._path[0][1].size)
        for name, block in self._path:
            if not block.boundary:
                x = self.blocks[_module_name(name)](x, block)
        return x

    def calibrate_bn(self, images: torch.Tensor | None = None) -> None:
        """Set the batch-norm statistics of the active network, and switch to evaluation mode.

        Args:
            images: normalised training images, shape ``(n, channels, h, w)``; those that the supernet carries where left out.
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

        It can be trained further like any module. The supernet is left as it was.

        Args:
            row: gene indices, shape ``(genes,)``.
            images: normalised training images to calibrate the batch norms on, shape ``(n, channels, h, w)``; those that the supernet
                carries where left out.

        Raises:
            InvalidInput: the row does not fit the space, or there are no images.
        """
        images = self.calibration() if images is None else images
        (checked,) = self.space.check(np.asarray(row)[None], "row")
        path = [(slot.name, block) for slot, blocks in self.space.placed(checked) for block in blocks]
        network = plain(_numbered(path))
        for (name, block), module in zip(path, list(network)[1:], strict=True):
            if not block.boundary:
                elastic = self.blocks[_module_name(name)]
                assert isinstance(elastic, ElasticBlock)
                body = module.body if isinstance(module, Residual) else module
                _copy(elastic.body, block.graph.body, body)
                if block.graph.shortcut and isinstance(module, Residual):
                    _copy(elastic.shortcut, block.graph.shortcut, module.shortcut)
        calibrate_bn(network, images)
        return network

    @property
    def digest(self) -> str:
        """A hash of the weights and the calibration images: what was evaluated with them belongs to them."""
        hashed = hashlib.sha256(self.images.numpy().tobytes())
        for parameter in self.parameters():
            hashed.update(parameter.detach().numpy().tobytes())
        return hashed.hexdigest()[:16]

    def save(self, path: PathLike) -> Path:
        """Write the trained supernet as safetensors, whole or not at all."""
        normalize = {"mean": self.normalize.mean, "std": self.normalize.std} if self.normalize else None
        tensors = {**dict(self.named_parameters()), "calibration.images": self.images}
        weights_file.write(path, weights_file.SUPERNET_FORMAT, self.space, tensors, {"normalize": normalize, "training": self.facts})
        return Path(path)

    @classmethod
    def load(cls, path: PathLike, space: str | SearchSpace) -> Supernet:
        """Read a supernet.

        Args:
            path: a file written by :meth:`save`.
            space: the space it must belong to.

        Raises:
            FileError: the file cannot be read.
            CorruptFile, NewerVersion: it is not a supernet that this hwsearch can read.
            WrongSpace: it belongs to another space.
        """
        supernet = cls(space)
        tensors, header = weights_file.read(path, weights_file.SUPERNET_FORMAT, supernet.space)
        try:
            supernet.images = tensors.pop("calibration.images")
            if (normalize := header["normalize"]) is not None:
                supernet.normalize = Normalize(tuple(map(float, normalize["mean"])), tuple(map(float, normalize["std"])))
            supernet.facts = dict(header["training"])
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptFile(f"{path}: its header is not that of a supernet: {error!r}.") from error
        supernet.set_parameters(tensors, path)
        return supernet

    def set_parameters(self, tensors: Tensors, path: PathLike) -> None:
        """Take over the weights that were read from ``path``.

        Raises:
            CorruptFile: names or shapes differ from this supernet's.
        """
        mine = dict(self.named_parameters())
        if mine.keys() != tensors.keys():
            raise CorruptFile(f"{path}: its weights are not those of this supernet: {sorted(mine.keys() ^ tensors.keys())[:3]} ...")
        with torch.no_grad():
            for name, parameter in mine.items():
                if parameter.shape != tensors[name].shape or tensors[name].dtype != parameter.dtype:
                    raise CorruptFile(f"{path}: {name} has the shape {tuple(tensors[name].shape)}, not {tuple(parameter.shape)}.")
                parameter.copy_(tensors[name])


def load_supernet(weights: PathLike | Supernet, space: SearchSpace) -> Supernet:
    """The supernet of a file; a :class:`Supernet` is handed back once its space is checked (errors as in :meth:`Supernet.load`)."""
    if not isinstance(weights, Supernet):
        return Supernet.load(weights, space)
    if weights.space.fingerprint != space.fingerprint:
        raise InvalidInput(f"The supernet belongs to space {weights.space.name!r}, not to {space.name!r}.")
    return weights


def _module_name(slot: str) -> str:
    return slot.replace(".", "_")


def _numbered(path: list[tuple[str, Block]]) -> list[tuple[str, Block]]:
    """Names made unique: a boundary slot may hold two blocks."""
    seen: dict[str, int] = {}
    result = []
    for name, block in path:
        seen[name] = seen.get(name, 0) + 1
        result.append((name if seen[name] == 1 else f"{name}.{seen[name]}", block))
    return result


def _copy(elastic: nn.ModuleList, layers: tuple[Layer, ...], into: nn.Module) -> None:
    """Copy the slices that ``layers`` use into plain convolutions, batch norms and linear layers."""
    targets = [module for module in into.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    norms = iter([module for module in into.modules() if isinstance(module, nn.BatchNorm2d)])
    with torch.no_grad():
        for source, layer, target in zip(elastic, layers, targets, strict=True):
            assert isinstance(source, ElasticLayer)
            weight, bias = source.sliced(layer)
            target.weight.copy_(weight)
            if target.bias is not None and bias is not None:
                target.bias.copy_(bias)
            if source.norm is not None:
                norm = next(norms)
                norm.weight.copy_(source.norm.weight[: layer.cout])
                norm.bias.copy_(source.norm.bias[: layer.cout])
