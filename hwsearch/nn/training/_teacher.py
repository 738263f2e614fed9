"""Teachers: networks of the same space or another one, or any module, and what a student learns from them."""

from __future__ import annotations

import copy
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from ..._files._reading import check_header, parse_json, parse_tensor_header, read_bytes
from ..._registry import find
from ...errors import InvalidInput
from ...spaces._load import load_space
from ...spaces._space import SearchSpace
from ..adoption._files import load_network
from ..adoption._folder import NETWORK
from ..adoption._state import copied, weights_digest
from ..data._images import Normalize
from ..supernet import _weights_file as weights_file
from ..supernet._supernet import Supernet, WeightsLike, load_supernet
from ._amp import mixed
from ._maps import Inputs, Stages, noted
from ._processes import accelerator
from ._recipe import Recipe

TeacherLike = WeightsLike | nn.Module
"""A supernet, whose largest network teaches; any other module; or the file of either, or the folder of an adopted network."""


class Normalized(nn.Module):
    """Gives a network the images as it wants them normalised.

    Args:
        given, wanted: how the images are normalised, and how they should be.
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, given: Normalize, wanted: Normalize) -> None:
        super().__init__()
        pairs = zip(given.mean, given.std, wanted.mean, wanted.std, strict=True)
        scale, shift = zip(*((std / other, (mean - wish) / other) for mean, std, wish, other in pairs), strict=True)
        self.register_buffer("scale", torch.tensor(scale).view(1, -1, 1, 1))
        self.register_buffer("shift", torch.tensor(shift).view(1, -1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images of shape ``(n, channels, h, w)``, normalised anew."""
        return x * self.scale + self.shift


@dataclass(frozen=True)
class Teacher:
    """A network that others learn from.

    Attributes:
        module: what was given, as it is.
        digest: a hash of its weights.
    """

    module: nn.Module
    digest: str

    @property
    def normalize(self) -> Normalize | None:
        """How its images are normalised; ``None`` for a module of the user's, which takes them as its student does."""
        return self.module.normalize if isinstance(self.module, Supernet) else None

    def network(self, given: Normalize | None = None) -> nn.Module:
        """A copy in evaluation mode, where it is computed: of a supernet the largest network.

        Args:
            given: how the images are normalised that it will see; as its own if omitted.
        """
        if not isinstance(self.module, Supernet):
            own = copied(self.module) if isinstance(self.module, fx.GraphModule) else copy.deepcopy(self.module)
            return own.eval().to(accelerator())
        network = self.module.extract(self.module.largest)
        if given is not None and self.module.normalize not in (None, given):
            assert self.module.normalize is not None
            named = [("normalize", Normalized(given, self.module.normalize)), *network.named_children()]
            network = nn.Sequential(OrderedDict(named))
        return network.eval().to(accelerator())


def load_teacher(given: TeacherLike | None, space: SearchSpace | None) -> Teacher | None:
    """The teacher that a recipe names, if it names one.

    Args:
        given: what it names.
        space: of the student; a file of weights of another space is read by the name of that space. ``None`` for a network of the user's.

    Raises:
        FileError: the file cannot be read, or is no such file.
        UnknownName: it holds weights of a space of another name that is not registered.
    """
    if given is None:
        return None
    if isinstance(given, str | os.PathLike):
        path = Path(given)
        given = load_network(path / NETWORK) if path.is_dir() else _read(path, space)
    if isinstance(given, Supernet):
        return Teacher(given, given.digest)
    if not isinstance(given, nn.Module):
        raise InvalidInput(f"A teacher is a supernet, a torch module, or the file or folder of one, not {type(given).__name__}.")
    return Teacher(given, weights_digest(given))


def _read(path: Path, space: SearchSpace | None) -> nn.Module:
    """The supernet or the network in a file."""
    _, metadata = parse_tensor_header(read_bytes(path, "teacher"), path, "teacher")
    header: Any = parse_json(metadata.get("hwsearch", "{}").encode(), path)
    if not isinstance(header, Mapping) or header.get("format") != weights_file.SUPERNET_FORMAT:
        return load_network(path)
    header = check_header(header, format=weights_file.SUPERNET_FORMAT, version=weights_file.VERSION, path=path)
    ours = space is not None and (space.name == header.get("space") or space.fingerprint == header.get("fingerprint"))
    return load_supernet(path, space if ours and space is not None else load_space(str(header.get("space"))))


class Teaching:
    """Compares what a student makes of images with what its teacher does, as a recipe says.

    Outputs for classes are compared at the recipe's temperature (Hinton et al., 2015, section 2), others by their squared error; then
    feature maps by the distillations that the recipe names as its hints (:mod:`hwsearch.nn.training.distillations`).

    Args:
        network: the teacher, in evaluation mode.
        recipe: how much is learned of what.
        example: a few inputs, to see the shapes of feature maps.

    Attributes:
        helpers: modules that are learned with the student, and are no part of the result.
    """

    def __init__(self, network: nn.Module, recipe: Recipe, example: Inputs) -> None:
        self.network, self.recipe, self.example = network, recipe, tuple(each[:2] for each in example)
        self.helpers = nn.ModuleDict()
        self._pairs: list[tuple[int, int]] = []

    def meet(self, run: Callable[[Inputs, Stages], object]) -> None:
        """See the feature maps of the student, and pair them with the teacher's.

        Args:
            run: runs the student, which notes its maps.

        Raises:
            InvalidInput: they do not fit each other.
        """
        weights = self.recipe.distillations
        if not weights:
            return
        own, wanted = Stages(self.recipe.stages or ()), Stages((self.recipe.stages or {}).values())
        with torch.no_grad():
            run(self.example, own)
        noted(self.network, moved_to(self.network, self.example), wanted)
        self._pairs = _paired(own, wanted, self.recipe.stages)
        mine, there = self._matched(own, wanted)
        for name in weights:
            self.helpers[name] = find("distillation", name)(mine, there)
        self.helpers.to(accelerator())

    def stages(self) -> Stages | None:
        """What notes the feature maps of the student; ``None`` if nothing is learned of them."""
        return Stages(self.recipe.stages or ()) if self._pairs else None

    def _matched(self, own: Stages, wanted: Stages) -> tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]:
        mine, there = ([each.float() for each in side.maps.values()] for side in (own, wanted))  # what learns from them is in float32
        return [mine[a] for a, _ in self._pairs], [there[b] for _, b in self._pairs]

    def __call__(self, inputs: Inputs, found: list[torch.Tensor], own: Stages | None) -> torch.Tensor:
        """What the student loses, besides the labels.

        Args:
            inputs: the images.
            found: its outputs.
            own: its feature maps.
        """
        recipe, wanted = self.recipe, None if own is None else Stages((self.recipe.stages or {}).values())
        if not recipe.distill and own is None:
            return found[0].new_zeros(())
        with mixed(inputs[0].device.type, recipe.amp):
            outputs = [each.float() for each in noted(self.network, inputs, wanted)]
        loss = recipe.distill * apart(found, outputs, recipe.temperature) if recipe.distill else found[0].new_zeros(())
        if own is None or wanted is None:
            return loss
        maps = self._matched(own, wanted)
        for name, weight in recipe.distillations.items():
            loss = loss + weight * self.helpers[name](*maps)
        return loss


def _paired(own: Stages, wanted: Stages, named: Mapping[str, str] | None) -> list[tuple[int, int]]:
    """Which map of the student belongs to which of the teacher: as named; else by their order if there are as many; else by their sizes.

    They come in the order in which the student makes them.
    """
    for stages, whose in ((own, "network"), (wanted, "teacher")):
        if stages.missing:
            raise InvalidInput(f"The {whose} has no stage with feature maps of the name(s) {stages.missing}.")
    mine, there = list(own.maps), list(wanted.maps)
    if named:
        return sorted((mine.index(one), there.index(other)) for one, other in named.items())
    if len(mine) == len(there):
        pairs = [(number, number) for number in range(len(mine))]
    else:
        pairs = [(mine.index(size), there.index(size)) for size in mine if size in there]
    if not pairs:
        sizes = [[tuple(size) for size in side] for side in (mine, there)]
        raise InvalidInput(
            f"The feature maps of the network have the sizes {sizes[0]}, those of its teacher {sizes[1]}, and none fit each other. Name "
            "pairs of them in the recipe: stages={stage of the network: stage of the teacher}."
        )
    return pairs


def moved_to(network: nn.Module, inputs: Inputs) -> Inputs:
    """Inputs where the weights of a network are."""
    held = next((each.device for each in (*network.parameters(), *network.buffers())), torch.device("cpu"))
    return tuple(each.to(held) for each in inputs)


def classifies(outputs: list[torch.Tensor]) -> bool:
    """Whether the first output has a number for each of several classes."""
    return outputs[0].ndim == 2 and outputs[0].shape[1] > 1


def apart(found: list[torch.Tensor], wanted: list[torch.Tensor], temperature: float) -> torch.Tensor:
    """How far the outputs of a network are from those of its teacher: the mean over the outputs."""
    if len(found) != len(wanted) or any(a.shape != b.shape for a, b in zip(found, wanted, strict=True)):
        sizes = [[tuple(each.shape) for each in side] for side in (found, wanted)]
        raise InvalidInput(
            f"The outputs of the network have the shapes {sizes[0]}, and those of its teacher {sizes[1]}. Feature maps can teach alone: "
            'recipe={"distill": 0, "hints": {"features": 1}}.'
        )
    if classifies(wanted):
        soft = F.cross_entropy(found[0] / temperature, F.softmax(wanted[0] / temperature, dim=1))
        errors = [temperature**2 * soft]
        found, wanted = found[1:], wanted[1:]
    else:
        errors = []
    errors += [(a - b).square().mean() / b.square().mean().clamp_min(1e-12) for a, b in zip(found, wanted, strict=True)]
    return torch.stack(errors).mean()
