"""Training a network of the user's, with the whole network as its teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.fx.graph import _PyTreeCodeGen
from torch.utils._pytree import tree_unflatten

from ..data._images import Data
from ..training._amp import mixed
from ..training._arguments import Facts
from ..training._losses import Losses, of_labels
from ..training._maps import Inputs
from ..training._processes import Processes
from ..training._recipe import Recipe
from ..training._teacher import Teaching
from ..training._train import Outcome
from ._files import load_network, save_network
from ._judge import Judge, as_inputs
from ._student import Student


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

    The share of the whole network's outputs is the recipe's ``distill``, and all where there are no labels. Feature maps come besides
    (:class:`hwsearch.nn.training._teacher.Teaching`).

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
        codegen = graph.graph._codegen
        self.spec = codegen.pytree_info.out_spec if isinstance(codegen, _PyTreeCodeGen) else None
        self.teaching = (
            None if judge.teacher is None else Teaching(judge.teacher, recipe, next(iter(batches())) if recipe.distillations else ())
        )
        if self.teaching is not None:
            self.teaching.meet(student)
            self.helpers = self.teaching.helpers

    def __call__(self, x: Any, y: torch.Tensor, rng: np.random.Generator) -> Iterator[torch.Tensor]:
        """Yield the only loss."""
        inputs, recipe = as_inputs(x), self.recipe
        stages = None if self.teaching is None else self.teaching.stages()
        with mixed(y.device.type, recipe.amp):
            found = [each.float() if each.is_floating_point() else each for each in self.student(inputs, stages)]
        loss = y.new_zeros((), dtype=torch.float32)
        if recipe.distill < 1:
            loss = loss + (1 - recipe.distill) * self._labelled(found, y)
        if self.teaching is not None:
            loss = loss + self.teaching(inputs, found, stages)
        yield loss

    def _labelled(self, found: list[torch.Tensor], y: torch.Tensor) -> torch.Tensor:
        if self.recipe.loss is None:
            return of_labels(self.recipe, found[0], y)
        whole = self.spec is not None and self.spec.num_leaves == len(found)
        outputs: Any = tree_unflatten(found, self.spec) if whole and self.spec is not None else found
        return self.recipe.loss(outputs, y)

    def share(self, team: Processes) -> None:
        """Have the student's batch norms go by the images of these processes."""
        self.student.team = team

    def judge(self, step: int) -> float:
        """How good the network is on validation images."""
        if step:
            self.student.settle(self.batches())
        return self.judged(self.student.result(), "val")

    def kept(self) -> dict[str, torch.Tensor]:
        """The tensors that training changes."""
        return self.student.kept()


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
