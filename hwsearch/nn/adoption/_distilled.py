"""Training a network of the user's, with the whole network as its teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.fx.graph import _PyTreeCodeGen
from torch.utils._pytree import tree_unflatten

from ...errors import InvalidInput
from ..data._images import Data
from ..training._arguments import Facts
from ..training._losses import Losses, of_labels
from ..training._recipe import AMP, Recipe
from ..training._train import Outcome
from ._files import load_network, save_network
from ._judge import Judge, as_inputs, classifies, tensors
from ._student import Inputs, Student


@dataclass(frozen=True)
class Identity:
    """What the files of a training belong to: one network.

    Attributes:
        name: what it is called.
        fingerprint: of its operations and sizes.
    """

    name: str
    fingerprint: str

    @property
    def weights_fingerprint(self) -> str:
        """The same: weights in floats are no weights of steps."""
        return self.fingerprint

    @classmethod
    def of(cls, network: nn.Module, name: str) -> Identity:
        """Of what has the parameters."""
        lines = [f"{key} {tuple(each.shape)}" for key, each in network.named_parameters()]
        return cls(name, sha256("\n".join(lines).encode()).hexdigest()[:16])


class Distilling(Losses):
    """A network learns from the labels and from the whole network.

    The share of the whole network is the recipe's ``distill``, and all where there are no labels. Outputs for classes are compared at the
    recipe's temperature (Hinton et al., 2015, section 2), others by their squared error, relative to the squares.

    Args:
        student: the network.
        graph: the network, for the form of its outputs.
        recipe: how it is trained.
        judge: tells which weights to keep; it knows the teacher, and whether the labels are classes.
        batches: gives training images to settle the student on.
        name: of the network.
    """

    judges = True

    def __init__(
        self, student: Student, graph: fx.GraphModule, recipe: Recipe, judge: Judge, batches: Callable[[], Iterable[Inputs]], name: str
    ) -> None:
        self.student, self.network, self.recipe, self.judged, self.batches = student, student.network, recipe, judge, batches
        self.space = Identity.of(student.network, name)
        self.teacher = judge.teacher
        codegen = graph.graph._codegen
        self.spec = codegen.pytree_info.out_spec if isinstance(codegen, _PyTreeCodeGen) else None

    def __call__(self, x: Any, y: torch.Tensor, rng: np.random.Generator) -> Iterator[torch.Tensor]:
        """Yield the only loss."""
        inputs, recipe = as_inputs(x), self.recipe
        with torch.autocast(y.device.type, dtype=AMP.get(recipe.amp or "bf16"), enabled=recipe.amp is not None):
            found = [each.float() if each.is_floating_point() else each for each in self.student(inputs)]
            with torch.no_grad():
                wanted = [] if self.teacher is None or not recipe.distill else [each.float() for each in tensors(self.teacher(*inputs))]
        loss = y.new_zeros((), dtype=torch.float32)
        if recipe.distill < 1:
            loss = loss + (1 - recipe.distill) * self._labelled(found, y)
        if wanted:
            loss = loss + recipe.distill * apart(found, wanted, recipe.temperature)
        yield loss

    def _labelled(self, found: list[torch.Tensor], y: torch.Tensor) -> torch.Tensor:
        if self.recipe.loss is None:
            return of_labels(self.recipe, found[0], y)
        whole = self.spec is not None and self.spec.num_leaves == len(found)
        outputs: Any = tree_unflatten(found, self.spec) if whole and self.spec is not None else found
        return self.recipe.loss(outputs, y)

    def judge(self, step: int) -> float:
        """How good the network is on validation images."""
        if step:
            self.student.settle(self.batches())
        return self.judged(self.student.result(), "val")

    def kept(self) -> dict[str, torch.Tensor]:
        """The tensors that training changes."""
        return self.student.kept()


def apart(found: list[torch.Tensor], wanted: list[torch.Tensor], temperature: float) -> torch.Tensor:
    """How far the outputs of a network are from those of its teacher: the mean over the outputs."""
    if len(found) != len(wanted) or any(a.shape != b.shape for a, b in zip(found, wanted, strict=True)):
        sizes = [[tuple(each.shape) for each in side] for side in (found, wanted)]
        raise InvalidInput(f"The outputs of the network have the shapes {sizes[0]}, and those of its teacher {sizes[1]}.")
    if classifies(wanted):
        soft = F.cross_entropy(found[0] / temperature, F.softmax(wanted[0] / temperature, dim=1))
        errors = [temperature**2 * soft]
        found, wanted = found[1:], wanted[1:]
    else:
        errors = []
    errors += [(a - b).square().mean() / b.square().mean().clamp_min(1e-12) for a, b in zip(found, wanted, strict=True)]
    return torch.stack(errors).mean()


class Written(Outcome[fx.GraphModule]):
    """A network in a file of its own, which no class is needed to read.

    Args:
        student: what was trained.
        name: of the network.
    """

    def __init__(self, student: Student, name: str) -> None:
        self.student, self.name = student, name

    def read(self, path: Path) -> tuple[fx.GraphModule, Facts]:
        """The network in a file, and how it was trained."""
        network = load_network(path)
        return network, network.meta.get("facts") or {}

    def settle(self, data: Data, recipe: Recipe, seed: int, facts: Facts) -> fx.GraphModule:
        """The network, with its facts."""
        network = self.student.result().cpu().eval()
        network.meta["facts"] = facts
        return network

    def write(self, result: fx.GraphModule, path: Path) -> None:
        """Write it."""
        save_network(result, path)
