"""A user's own network as a search space, with everything that can be taken from it."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Any, ClassVar

import msgspec
import numpy as np
import torch
from torch import fx, nn

from ..._types import Rows
from ...errors import InvalidInput, UnknownName
from ...spaces._genes import Choice
from ...spaces._lowering import Slot
from ...spaces._space import SearchSpace
from ._axes import Labels
from ._branches import Branch, pass_on
from ._cut import Cut
from ._genes import Places
from ._groups import Analysis, Group, Kernel, units
from ._labelled import labelled_file
from ._proof import stays
from ._repair import Repair
from ._report import Report, make_report

Keep = Mapping[str, "int | Sequence[int] | Labels"]
Scores = Mapping[str, "np.ndarray[Any, Any]"]


@dataclass(frozen=True, kw_only=True, repr=False)
class Adopted(SearchSpace):
    """A network whose widths and branches are known and proven, as a search space; made by :func:`adopt`.

    A gene is the width of a group of channels (how many of its units are kept), the rank of a layer
    (:func:`~hwsearch.nn.adoption.low_rank`), whether a residual branch is there, or the precision of a region of kernels. The space brings
    multiply-accumulates, parameters and size along as costs. What it :attr:`learned` are the importances of units, which tell which ones
    a width keeps. A copy that was pickled, for the workers of a search, has genes and costs but no network: it is a plain
    :class:`~hwsearch.SearchSpace`.

    Example:
        >>> import hwsearch, torch
        >>> layers = torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(), torch.nn.Conv2d(32, 4, 3)
        >>> adopted = hwsearch.adopt(torch.nn.Sequential(*layers), torch.randn(1, 3, 8, 8))
        >>> half = adopted.row({"g0": 16})  # of the units of the group g0 that are 32
        >>> adopted.macs(), hwsearch.metric("macs", adopted)(half[None]).tolist()
        (49536.0, [24768.0])

    Attributes:
        network: the whole network as a graph module; parameters have the names that they have in the module.
        inputs: example inputs of the graph.
        analysis: groups, kernels and labels.
        branches: residual branches, and blocks that keep the shape of what they are given, in the order of the network.
        part: the submodule that was adopted; empty where it is all of the module.
        module: the module that it came from.
        dynamic: whether the network takes batches of any size.
        frozen: names of parameters that are to stay as they are.
        step: channels are kept in multiples of this number, where a layer is wide enough.
        places: which gene stands for which group, branch or region of kernels.
        precisions: those that regions may be in.

    Raises:
        InvalidInput: the importances that it learned are not those of its groups.
    """

    learns_alone: ClassVar[bool] = True

    network: fx.GraphModule = field(compare=False)
    inputs: tuple[torch.Tensor, ...] = field(compare=False)
    analysis: Analysis = field(compare=False)
    branches: tuple[Branch, ...] = field(compare=False)
    module: nn.Module = field(compare=False)
    places: Places = field(compare=False)
    part: str = field(default="", compare=False)
    dynamic: bool = field(default=True, compare=False)
    frozen: frozenset[str] = field(default=frozenset(), compare=False)
    step: int = field(default=8, compare=False)
    precisions: tuple[str, ...] = field(default=("fp32",), compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        widths = self.widths
        for name, values in self.learned.items():
            if name not in widths or values.shape != (widths[name],) or values.dtype.kind != "f":
                raise InvalidInput(f"What was learned of {name!r} ({values.dtype}, shape {values.shape}) fits no group of {self.name!r}.")

    def __reduce__(self) -> tuple[Any, ...]:
        facts = {"allowed": self.allowed, "costs": dict(self.costs), "learned": dict(self.learned)}
        known = {"fingerprint": self.fingerprint, "weights_fingerprint": self.weights_fingerprint}
        return _plain, (self.name, self.choices, self.slots, facts, known)

    def __str__(self) -> str:
        return f"{self!r}\n{self.report}"

    def _repr_html_(self) -> str:
        return self.report._repr_html_()

    # -- rows ------------------------------------------------------------------------------------------------------------

    def plan(self, row: Rows) -> tuple[dict[str, int], tuple[str, ...]]:
        """What the network of a row of shape ``(genes,)`` keeps: units of groups, and branches that are removed.

        Groups within a removed branch are left out.
        """
        values = self.decode(row)
        kept = {group: int(values[gene]) for group, gene in self.places.groups.items() if gene in values}
        return kept, tuple(branch for branch, gene in self.places.branches.items() if values.get(gene) == 0)

    def bits(self, row: Rows) -> dict[str, str]:
        """The precisions of the kernels of a row of shape ``(genes,)``, by the names of weights; those in fp32 are left out."""
        return self.places.precisions(self.decode(row))

    def row(self, kept: Mapping[str, int] | None = None, branches: Collection[str] = ()) -> Rows:
        """The row, shape ``(genes,)``, that keeps these numbers of units, all of other groups, and drops these branches.

        All kernels are in the finest of their precisions.

        Raises:
            InvalidInput: a number is not among the widths that a group is searched at, or a branch or a group is frozen.
            UnknownName: there is no such group or branch.
        """
        full = {choice.name: choice.values[-1] for choice in self.choices}
        for name, given, known in (
            *((name, number, self.places.groups) for name, number in (kept or {}).items()),
            *((name, 0, self.places.branches) for name in branches),
        ):
            if name not in known:
                raise UnknownName("searchable group or branch", name, known)
            full[known[name]] = int(given)
        return self.encode(full)

    @property
    def kernels_only(self) -> bool:
        """Always: its blocks run only inside files of its networks."""
        return True

    def model_file(self, row: Rows) -> bytes:
        """The ONNX file of the network of a row of shape ``(genes,)``, for one image, whose operations are named after their slots.

        Kernels in int8 are calibrated on the example inputs: such a file is for measuring.
        """
        integral = {slot.name for slot, blocks in self.placed(row) for block in blocks if block.precision != "fp32"}
        return labelled_file(self.cut(*self.plan(row)), self.places, self.decode(row), integral, self.inputs)

    # -- the network -----------------------------------------------------------------------------------------------------

    @property
    def groups(self) -> tuple[Group, ...]:
        """All groups of channels, searchable and frozen."""
        return self.analysis.groups

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """All operations that multiply."""
        return self.analysis.kernels

    @property
    def whole(self) -> fx.GraphModule:
        """The whole network, layers that are products of others in one piece."""
        return self.cut({}).build() if self.analysis.factors else self.network

    @property
    def widths(self) -> dict[str, int]:
        """How many units each group has."""
        return {group.id: group.width for group in self.groups}

    @property
    def report(self) -> Report:
        """What is searchable, what is frozen, and why."""
        return make_report(self.analysis, self.branches, self.places.bits)

    def macs(self, kept: Mapping[str, int] | None = None, branches: Collection[str] = ()) -> float:
        """Multiply-accumulates for one image.

        Args:
            kept: how many units of some groups are left; all of the others.
            branches: those that are removed.
        """
        gone = {node for branch in self.branches if branch.id in branches for node in branch.kernels}
        left = self.widths | dict(kept or {})
        for branch in self.branches:
            if branch.id in branches and branch.passing is not None:
                left[branch.passing.made] = left[branch.passing.given]
        return sum(kernel.macs(left) for kernel in self.kernels if kernel.node not in gone)

    def choose(self, keep: Keep, scores: Scores | None = None) -> dict[str, Labels]:
        """The units to keep of each group, in their order.

        Args:
            keep: for some groups, how many units to keep, or which ones.
            scores: the importance of each unit, for groups of which only the number is given; what was :attr:`learned` if omitted, or
                the first ones are kept.

        Raises:
            InvalidInput: a group that is frozen, or a number that is none of its widths.
            UnknownName: there is no such group.
        """
        by = {group.id: group for group in self.groups}
        scores = self.learned if scores is None else scores
        chosen = {}
        for name, given in keep.items():
            if name not in by:
                raise UnknownName("group", name, by)
            group = by[name]
            if isinstance(given, int | np.integer):
                values = np.asarray(scores[name]) if name in scores else -np.arange(group.width)
                index = np.sort(np.argsort(-values, kind="stable")[: int(given)])
                wrong = not 1 <= int(given) <= group.width
            else:
                index = np.unique(np.asarray(given, dtype=np.int64))
                wrong = not len(index) or len(index) != len(given) or index[0] < 0 or index[-1] >= group.width
            if wrong:
                raise InvalidInput(f"Group {name} has {group.width} units; keep 1 to {group.width} of them, each once, not {given!r}.")
            if len(index) < group.width and not group.searchable:
                raise InvalidInput(f"Group {name} cannot be cut: {group.reason}.")
            chosen[name] = index.astype(np.int64)
        return chosen

    def cut(self, keep: Keep, branches: Collection[str] = (), scores: Scores | None = None) -> Cut:
        """The cut that keeps these units and drops these branches.

        Raises:
            InvalidInput: a group or a branch that is frozen, or a number that is none of a group's widths.
            UnknownName: there is no such group or branch.
        """
        by = {branch.id: branch for branch in self.branches}
        for name in branches:
            if name not in by:
                raise UnknownName("branch", name, by)
            if not by[name].searchable:
                raise InvalidInput(f"Branch {name} cannot be removed: {by[name].reason}.")
        removed = [branch for branch in self.branches if branch.id in branches]
        gone = units(self.groups, pass_on(removed, self.choose(keep, scores)))
        return Cut(self.network, self.analysis, gone, stays(removed))

    def extract(
        self,
        keep: Keep,
        branches: Collection[str] = (),
        scores: Scores | None = None,
        *,
        images: torch.Tensor | Sequence[torch.Tensor] | None = None,
        epochs: int = 0,
        precisions: Mapping[str, str] | None = None,
    ) -> fx.GraphModule:
        """The smaller network as a graph module, in evaluation mode, which shares nothing with the whole one.

        Example:
            >>> import hwsearch, torch
            >>> layers = torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(), torch.nn.Conv2d(32, 4, 3)
            >>> adopted = hwsearch.adopt(torch.nn.Sequential(*layers), torch.randn(1, 3, 8, 8))
            >>> small = adopted.extract({"g0": 8}, images=torch.randn(200, 3, 8, 8))
            >>> sum(each.numel() for each in small.parameters()), sum(each.numel() for each in adopted.module.parameters())
            (516, 2052)

        Args:
            keep: for some groups, how many units to keep, or which ones; all of the others.
            branches: those to remove.
            scores: the importance of each unit, as from :func:`~hwsearch.nn.adoption.importance`.
            images: inputs to repair the network on: each layer is fitted by least squares to what the whole network computes there, and
                batch norms after no such layer take new statistics; with 200 images or more, the scales and shifts of all channels are
                then fitted together to the outputs. Some 800 images suffice, more are better, and all values of a layer on them have
                to fit into memory. Nothing is repaired if omitted.
            epochs: how often to look at the images where layers that follow one another are fitted together, by descent towards what
                the whole network computes after the last of them; 0 leaves it at least squares.
            precisions: of kernels, by the names of weights, which the network remembers for :func:`~hwsearch.nn.adoption.quantize` and
                :func:`hwsearch.export`; it computes in floats itself.

        Raises:
            InvalidInput: a group or a branch that is frozen, a number that is none of a group's widths, or images that do not fit.
            UnknownName: there is no such group or branch.
        """
        cut = self.cut(keep, branches, scores)
        if images is None:
            network = cut.build()
        else:
            network = Repair(cut, self.checked(images), self.frozen, self.batch, self.dynamic, epochs=epochs).run()
        network.meta["plan"] = {
            "fingerprint": self.graph_fingerprint,
            "keep": {name: units.tolist() for name, units in self.choose(keep, scores).items()},
            "branches": sorted(branches),
            "inputs": [{"size": list(each.shape[1:]), "dtype": str(each.dtype).removeprefix("torch.")} for each in self.inputs],
        } | ({"precisions": dict(precisions)} if precisions else {})
        return network

    @cached_property
    def fingerprint(self) -> str:
        """Of what rows mean: the network's operations and sizes, and the genes; weights do not matter."""
        genes = [[choice.name, choice.values, choice.needs] for choice in self.choices]
        return sha256(msgspec.json.encode([self.graph_fingerprint, genes])).hexdigest()[:16]

    @cached_property
    def weights_fingerprint(self) -> str:
        """Of the networks but for their precisions."""
        genes = [[choice.name, choice.values, choice.needs] for choice in self.choices if not choice.is_precision]
        return sha256(msgspec.json.encode([self.graph_fingerprint, genes])).hexdigest()[:16]

    @cached_property
    def graph_fingerprint(self) -> str:
        """Tells networks of other operations or sizes apart; weights do not matter."""
        numbers = {node: f"%{number}" for number, node in enumerate(self.network.graph.nodes)}
        given = {node: fx.map_arg((node.args, node.kwargs), numbers.__getitem__) for node in numbers}
        lines = [f"{node.op} {node.target} {given[node]} {node.meta.get('shape')}" for node in numbers]
        return sha256("\n".join(lines).encode()).hexdigest()[:16]

    @property
    def batch(self) -> int:
        """Images at once: 100, or as many as the network was captured with where it takes no other number."""
        return 100 if self.dynamic else len(self.inputs[0])

    def checked(self, images: torch.Tensor | Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Images for each input, as many as the network takes in whole batches.

        Raises:
            InvalidInput: they have other sizes than the example inputs, or there are too few.
        """
        given = (images,) if isinstance(images, torch.Tensor) else tuple(images)
        sizes = [tuple(each.shape[1:]) for each in self.inputs]
        if [tuple(each.shape[1:]) for each in given] != sizes or len({len(each) for each in given}) != 1:
            found = [tuple(each.shape) for each in given]
            raise InvalidInput(
                f"The network takes {len(sizes)} inputs of sizes {sizes} for each image, all of as many images, and was given the shapes "
                f"{found}. Bring images to the size that it was adopted with; hwsearch.nn.folder_data(folder, size=...) does so for files."
            )
        n = len(given[0]) if self.dynamic else len(given[0]) // self.batch * self.batch
        if not n:
            raise InvalidInput(f"The network takes {self.batch} images at once, but {len(given[0])} were given.")
        return tuple(each[:n] for each in given)

    def at_once(self, images: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """As many of these images as the network can take at once: all, or a batch where it takes no other number."""
        return images if self.dynamic else tuple(each[: self.batch] for each in images)

    def insert(self, network: nn.Module) -> nn.Module:
        """A copy of the user's module in which a network takes the place of the part that was adopted."""
        if not self.part:
            return network
        whole = copy.deepcopy(self.module)
        whole.set_submodule(self.part, network)
        return whole


def _plain(name: str, choices: tuple[Choice, ...], slots: tuple[Slot, ...], facts: dict[str, Any], known: dict[str, str]) -> SearchSpace:
    """An adopted space without its network, as it comes out of a pickle."""
    space = SearchSpace(name, choices, slots, **facts)
    space.__dict__.update(known)
    return space
