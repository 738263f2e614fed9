"""Once-for-All's supernets (Cai et al., ICLR'20): elastic depth, widths, expand ratios and kernels, from published weights.

A slot's module is as large as the largest block that may stand there. A smaller block is a view of it: the first channels of every layer,
and of a depthwise kernel the middle, turned by a learned matrix for every step from a size to the next smaller one (section 3.3).
"""

from __future__ import annotations

import itertools
import os
import re
from collections import OrderedDict
from collections.abc import Iterator
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from .._store import PathLike
from ..blocks import Block, Layer
from ..errors import CorruptFile
from ..space import SearchSpace, Slot
from .graph import GraphBlock, GraphLayer
from .state import read_state

State = dict[str, torch.Tensor]


def ofa_supernet(file: PathLike, space: SearchSpace) -> OfaSupernet:
    """Read a supernet of Once-for-All; see :func:`hwsearch.interop.ofa_supernet`."""
    supernet = OfaSupernet(space)
    state = {name: torch.from_numpy(array) for name, array in read_state(file).items()}
    supernet.set_published(state, os.fspath(file))
    return supernet.eval()


class OfaSupernet(nn.Module):
    """Weights for every network of one of Once-for-All's spaces.

    Args:
        space: ``ofa_mobilenetv3`` or ``ofa_resnet50``, or any space whose slots hold one kind of block without precision boundaries.

    Attributes:
        space: the space.
        row: the network that :meth:`forward` runs, shape ``(genes,)``; the largest one until :meth:`activate` is called.
    """

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.space = space
        self.blocks = nn.ModuleDict()
        self.matrices = nn.ModuleDict()
        for slot, blocks in zip(space.slots, _standing(space), strict=True):
            name = _module_name(slot)
            self.blocks[name] = GraphBlock(max(blocks, key=lambda block: block.params))
            kernels = sorted({layer.kernel for block in blocks for layer in block.graph.body if layer.groups > 1})
            steps = {f"{large}to{small}": nn.Parameter(torch.eye(small**2)) for small, large in itertools.pairwise(kernels)}
            self.matrices[name] = nn.ParameterDict(steps)
        self.row = np.array([size - 1 for size in space.sizes], dtype=np.uint8)

    def activate(self, row: npt.ArrayLike) -> None:
        """Choose the network that :meth:`forward` runs: a row of shape ``(genes,)``."""
        (self.row,) = self.space.canonical(self.space.check(np.asarray(row)[None], "row"))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the active network.

        Args:
            x: normalised images at the network's resolution, shape ``(n, 3, resolution, resolution)``.

        Returns:
            Logits, shape ``(n, classes)``.
        """
        for slot, blocks in self.space.placed(self.row):
            for block in blocks:
                module = _skeleton(block).train(self.training)
                x = torch.func.functional_call(module, self.views(slot, block), (x,))
        return x

    def extract(self, row: npt.ArrayLike) -> nn.Sequential:
        """The network of a row (shape ``(genes,)``) as ordinary modules with weights of their own, in evaluation mode."""
        (checked,) = self.space.check(np.asarray(row)[None], "row")
        modules: OrderedDict[str, nn.Module] = OrderedDict()
        for slot, blocks in self.space.placed(checked):
            for block in blocks:
                module = GraphBlock(block)
                module.load_state_dict(self.views(slot, block))
                modules[_module_name(slot)] = module
        return nn.Sequential(modules).eval()

    def views(self, slot: Slot, block: Block) -> State:
        """The state of ``GraphBlock(block)`` as views of the slot's weights."""
        name = _module_name(slot)
        whole = self.blocks[name]
        assert isinstance(whole, GraphBlock)
        graph = block.graph
        state: State = {}
        for part, layers in (("body", graph.body), ("excite", graph.excite), ("shortcut", graph.shortcut or ())):
            for number, layer in enumerate(layers):
                for key, value in getattr(whole, part)[number].state_dict(keep_vars=True).items():
                    state[f"{part}.{number}.{key}"] = self._view(name, key, value, layer)
        return state

    def _view(self, name: str, key: str, value: torch.Tensor, layer: Layer) -> torch.Tensor:
        if value.ndim == 0:  # the number of batches that a norm has seen
            return value
        value = value[: layer.cout]
        if key != "op.weight":
            return value
        value = value[:, : layer.cin // layer.groups]
        return value if value.ndim == 2 else self._kernel(name, value, layer.kernel)

    def _kernel(self, name: str, weight: torch.Tensor, size: int) -> torch.Tensor:
        """The kernel of a smaller size, shape ``(cout, 1, size, size)``."""
        matrices = self.matrices[name]
        assert isinstance(matrices, nn.ParameterDict)
        for step, matrix in reversed(list(matrices.items())):
            large, small = map(int, step.split("to"))
            if size < large <= weight.shape[-1]:
                edge = (large - small) // 2
                middle = weight[:, :, edge : large - edge, edge : large - edge]
                weight = F.linear(middle.reshape(-1, small**2), matrix).view_as(middle)
        return weight

    def published(self) -> State:
        """The weights in Once-for-All's shapes, under names that :meth:`set_published` reads; they share memory with this supernet."""
        return {name: tensor.detach() for name, tensor in self._named()}

    def set_published(self, state: State, source: str) -> None:
        """Take over the weights of Once-for-All's own state dict.

        Where it has no matrices for the kernels, the middle of a kernel is taken as it is.

        Args:
            state: tensors by name, from a supernet of any version of Once-for-All.
            source: where they came from, for messages.

        Raises:
            CorruptFile: a tensor is missing or has another shape.
        """
        state = {_normal(name): tensor for name, tensor in state.items()}
        with torch.no_grad():
            for name, tensor in self._named():
                found = state.get(name)
                if found is None and name.endswith("_matrix"):
                    tensor.copy_(torch.eye(len(tensor)))
                elif found is None:
                    raise CorruptFile(f"{source} lacks the tensor {name!r} of Once-for-All's supernet.")
                elif found.shape != tensor.shape:
                    raise CorruptFile(f"{source}: {name!r} has the shape {tuple(found.shape)}, and {tuple(tensor.shape)} was expected.")
                else:
                    tensor.copy_(found)

    def _named(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Once-for-All's names and the tensors that they stand for, as views."""
        mobile = "first" in self.blocks
        for slot, prefix in zip(self.space.slots, _prefixes(self.space, mobile), strict=True):
            block = self.blocks[_module_name(slot)]
            for key, tensor in block.state_dict(keep_vars=True).items():
                name = prefix + _published(key, block, mobile)
                convolved = name.endswith("weight") and ("feature_mix" in name or ".se." in name)
                yield name, tensor[:, :, None, None] if convolved else tensor
            for step, matrix in self.matrices[_module_name(slot)].named_parameters():
                yield f"{prefix}.depth_conv.conv.{step}_matrix", matrix


def _standing(space: SearchSpace) -> list[list[Block]]:
    """The blocks that may stand in each slot."""
    unique = space.unique_blocks
    return [[unique[index] for index in np.unique(slot.blocks) if index >= 0] for slot in space.slot_blocks]


@cache
def _skeleton(block: Block) -> GraphBlock:
    """The modules of a block without memory; it is called with weights from elsewhere."""
    with torch.device("meta"):
        return GraphBlock(block)


def _module_name(slot: Slot) -> str:
    return slot.name.replace(".", "_")


# -- published names -------------------------------------------------------------------------------------------------------


_SYNONYMS = (
    (r"mobile_inverted_conv", "conv"),
    (r"\.conv\.conv\.weight", ".conv.weight"),
    (r"\.bn\.bn\.", ".bn."),
    (r"\.linear\.linear\.", ".linear."),
    (r"^input_stem\.1\.conv\.(conv|bn)\.", r"input_stem.1.\1."),
)


def _normal(key: str) -> str:
    """One name for what Once-for-All's versions, and its elastic and fixed layers, call differently."""
    for old, new in _SYNONYMS:
        key = re.sub(old, new, key)
    return key


def _prefixes(space: SearchSpace, mobile: bool) -> list[str]:
    """The published prefix of each slot; blocks are numbered through, as deep as the space goes."""
    fixed = {"stem": "first_conv", "first": "blocks.0.conv", "final": "final_expand_layer", "head": ""} if mobile else {}
    fixed |= {"stem1": "input_stem.0", "stem2": "input_stem.1", "stem3": "input_stem.2", "pool": ""}
    numbers = itertools.count(1 if mobile else 0)
    after = ".conv" if mobile else ""
    return [fixed.get(slot.name, "") if "." not in slot.name else f"blocks.{next(numbers)}{after}" for slot in space.slots]


def _published(key: str, block: nn.Module, mobile: bool) -> str:
    """What follows the prefix for one tensor of a block."""
    assert isinstance(block, GraphBlock)
    part, number, rest = key.split(".", 2)
    layers = getattr(block, part)
    layer = layers[int(number)]
    assert isinstance(layer, GraphLayer)
    rest = rest.replace("norm.", "bn.").replace("op.", "conv.")
    if part == "excite":
        return f".depth_conv.se.fc.{('reduce', 'expand')[int(number)]}.{rest.removeprefix('conv.')}"
    if part == "shortcut":
        return f".downsample.{rest}"
    if layer.layer.op == "linear":
        last = int(number) == len(layers) - 1
        return f"classifier.{rest.replace('conv.', 'linear.')}" if last else f"feature_mix_layer.{rest}"
    if len(layers) == 1:
        return f".{rest}"
    names = ("inverted_bottleneck", "depth_conv", "point_linear")[-len(layers) :] if mobile else ("conv1", "conv2", "conv3")
    return f".{names[int(number)]}.{rest}"
