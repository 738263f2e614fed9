"""Once-for-All's supernets (Cai et al., ICLR'20), from published weights."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator

import torch

from ..._files._writing import PathLike
from ...errors import CorruptFile
from ...spaces._space import SearchSpace
from ..supernet._elastic import ElasticBlock
from ..supernet._supernet import Supernet
from ._state import read_state

State = dict[str, torch.Tensor]


def ofa_supernet(file: PathLike, space: SearchSpace) -> OfaSupernet:
    """Read a supernet of Once-for-All; see :func:`hwsearch.interop.ofa_supernet`."""
    supernet = OfaSupernet(space)
    state = {name: torch.from_numpy(array) for name, array in read_state(file).items()}
    supernet.set_published(state, os.fspath(file))
    return supernet.eval()


class OfaSupernet(Supernet):
    """A supernet that takes over published weights; it keeps their batch-norm statistics, which are those of the largest network.

    Args:
        space: ``ofa_mobilenetv3`` or ``ofa_resnet50``.
    """

    def __init__(self, space: SearchSpace) -> None:
        super().__init__(space)
        self.settled = True

    def published(self) -> State:
        """The weights in Once-for-All's shapes, under names that :meth:`set_published` reads; they share memory with this supernet."""
        return {name: tensor.detach() for name, tensor in self._named()}

    def set_published(self, state: State, source: str) -> None:
        """Take over the weights of Once-for-All's own state dict.

        If it has no matrices for the kernels, the middle of a kernel is taken as it is.

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
        for block, prefix in zip(self.blocks.values(), _prefixes(self.space, mobile), strict=True):
            assert isinstance(block, ElasticBlock)
            for key, tensor in block.state_dict(keep_vars=True).items():
                name = prefix + _published(key, block, mobile)
                convolved = name.endswith("weight") and ("feature_mix" in name or ".se." in name)
                yield name, tensor[:, :, None, None] if convolved else tensor


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


def _published(key: str, block: ElasticBlock, mobile: bool) -> str:
    """What follows the prefix for one tensor of a block."""
    part, number, rest = key.split(".", 2)
    layers = getattr(block, part)
    rest = re.sub(r"^matrices\.(.*)", r"\1_matrix", rest)
    rest = rest.replace("norm.", "bn.") if rest.startswith("norm.") else f"conv.{rest}"
    if part == "excite":
        return f".depth_conv.se.fc.{('reduce', 'expand')[int(number)]}.{rest.removeprefix('conv.')}"
    if part == "shortcut":
        return f".downsample.{rest}"
    if layers[int(number)].op == "linear":
        last = int(number) == len(layers) - 1
        return f"classifier.{rest.replace('conv.', 'linear.')}" if last else f"feature_mix_layer.{rest}"
    if len(layers) == 1:
        return f".{rest}"
    names = ("inverted_bottleneck", "depth_conv", "point_linear")[-len(layers) :] if mobile else ("conv1", "conv2", "conv3")
    return f".{names[int(number)]}.{rest}"
