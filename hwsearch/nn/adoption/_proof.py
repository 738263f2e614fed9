"""Proof that a cut network computes what the whole one computes when it ignores what was cut.

Every proof is made on weights and statistics drawn anew, and each one is shown not to be vacuous: a deliberately wrong index, in one
parameter of the group, has to be noticed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from ._axes import Labels
from ._branches import Branch, pass_on
from ._cut import Cut
from ._groups import Analysis, Group, units
from ._lively import lively
from ._masked import run_masked
from ._run import execute
from ._state import get

TOLERANCE = 1e-5
"""The largest difference that passes, relative to the largest output."""
NOTICED = 10 * TOLERANCE
"""The least difference that a wrong index has to make."""
Kept = dict[str, Labels]


@dataclass
class Prover:
    """Proves groups and branches of one network.

    Args:
        network: the whole network.
        analysis: its groups.
        inputs: example inputs.
        rng: where randomness comes from.
        dynamic: whether the network takes any number of images; the first way of cutting is then looked at on one image only.

    Attributes:
        shown: the inputs that networks are compared on.
        tensors: parameters and statistics as drawn last.
        noticed: parameters in which a wrong index was noticed.
        nodes: where each parameter enters the graph.
        last: where the graph uses each parameter last.
    """

    network: fx.GraphModule
    analysis: Analysis
    inputs: tuple[torch.Tensor, ...]
    rng: np.random.Generator
    dynamic: bool = False

    def __post_init__(self) -> None:
        self.shown = tuple(each[:1] for each in self.inputs) if self.dynamic else self.inputs
        self.tensors = lively(self.network, self.inputs, self.rng)
        self.noticed: set[str] = set()
        self.nodes: dict[str, list[fx.Node]] = {}
        self.last: dict[str, int] = {}
        for place, node in enumerate(self.network.graph.nodes):
            for each in node.all_input_nodes:
                if each.op == "get_attr":
                    self.last[str(each.target)] = place
            if node.op == "get_attr":
                self.nodes.setdefault(str(node.target), []).append(node)

    def cut(self, kept: Mapping[str, Labels], branches: Mapping[str, str] | None = None, *, double: bool = False) -> Cut:
        """The cut that keeps these units of some groups, all of the others, and drops the branches that end with these nodes."""
        tensors = self._doubled() if double else self.tensors
        return Cut(self.network, self.analysis, units(self.analysis.groups, kept), branches, tensors)

    def _doubled(self) -> dict[str, torch.Tensor]:
        names = {str(node.target) for node in self.network.graph.find_nodes(op="get_attr")}
        return {name: _double(self.tensors[name] if name in self.tensors else get(self.network, name)) for name in names}

    def draw(self, groups: Sequence[Group], least: float) -> Kept:
        """Keep a random part of each group, ``least`` of its units or more, but never nothing and never all."""
        kept = {}
        for group in groups:
            number = int(self.rng.integers(max(1, int(least * group.width)), group.width))
            kept[group.id] = np.sort(self.rng.choice(group.width, number, replace=False))
        return kept

    def fault(self, kept: Mapping[str, Labels], branches: Mapping[str, str] | None = None) -> str:
        """What is wrong with a cut network when it is compared with the masked one; empty where they agree.

        Some networks with random weights magnify rounding; where the two differ, they are therefore compared again in double precision.
        """
        try:
            found = self.difference(self.cut(kept, branches), self.shown)
            if TOLERANCE < found < float("inf"):
                with _InDouble():  # type: ignore[no-untyped-call]
                    found = self.difference(self.cut(kept, branches, double=True), tuple(map(_double, self.shown)))
        except Exception as error:
            # Whatever an operation says of arguments that do not fit each other.
            return f"the cut network does not run ({type(error).__name__}: {_first_line(error)})"
        return "" if found <= TOLERANCE else f"the cut network differs from the masked one by {found:.1g}"

    def difference(self, cut: Cut, inputs: tuple[torch.Tensor, ...]) -> float:
        """How far the outputs of a cut network are from those of the masked one, relative to the largest."""
        return distance(run_masked(cut, inputs, cut.tensors), Replay(cut.build(), inputs).outputs)

    def failing(self, kept: Kept) -> dict[str, str]:
        """Groups that cannot be cut so, alone or together with others, each with what is wrong."""
        return halved(list(kept), lambda names: self.fault({name: kept[name] for name in names}))

    def vacuous(self, groups: Sequence[Group], kept: Kept) -> dict[str, float]:
        """Groups in which a wrong index goes unnoticed in a network that is cut so, each with the largest difference that one made.

        Of a group's parameters, those that are used last are tried first, since only what comes after has to be computed again.
        """
        right = self.cut(kept)
        run = Replay(right.build(), self.shown)
        found = {}
        for group in groups:
            wrong = self.cut(kept | {group.id: np.sort((kept[group.id] + 1) % group.width)})
            seen = 0.0
            for name in (name for held in (group.read, group.opened, group.follow) for name in self._latest(held)):
                seen = max(seen, self._noticed(run, right, wrong, name))
                if seen >= NOTICED:
                    self.noticed.add(name)
                    break
            if seen < NOTICED:
                found[group.id] = seen
        return found

    def _latest(self, held: Iterable[tuple[str, int]]) -> list[str]:
        return sorted(dict.fromkeys(name for name, _ in held), key=self.last.__getitem__, reverse=True)

    def _noticed(self, run: Replay, right: Cut, wrong: Cut, name: str) -> float:
        """The difference that the wrong cut of one parameter makes to the outputs."""
        node = self.nodes[name][0]
        changed = wrong.tensor(node)
        if changed.shape != right.tensor(node).shape:
            return 0.0
        return distance(run.outputs, run.again({name: changed}))

    def prove(self, branches: Sequence[Branch]) -> tuple[Analysis, tuple[Branch, ...]]:
        """Prove all searchable groups, then branches, and freeze those that fail.

        All groups are cut at once, in two ways at least, each with other weights, and in more where a wrong index has not been noticed yet:
        what was noticed counts only in a network whose cut was right. Where layers are written as products, the network in which each is
        in one piece is compared, too.

        Returns:
            The analysis and the branches, with the reason at everything that had to be frozen.
        """
        reasons: dict[str, str] = {}
        groups = [group for group in self.analysis.groups if group.searchable]
        unseen = {group.id: 0.0 for group in groups}
        kept: Kept = {}
        for number, least in enumerate((0.5, 0.2, 0.8, 0.8)):
            if number > 1 and not unseen:
                break
            if number:
                self.tensors, self.shown = lively(self.network, self.inputs, self.rng), self.inputs
            kept = self.draw(groups, least)
            while found := self.failing(kept):
                reasons |= found
                groups = [group for group in groups if group.id not in found]
                kept = {group.id: kept[group.id] for group in groups}
            unseen = self.vacuous([group for group in groups if group.id in unseen], kept)
        reasons |= {name: f"not proven: a wrong index changes the outputs by {seen:.1g} only" for name, seen in unseen.items()}
        reasons |= {branch.id: branch.reason for branch in branches if branch.reason}
        reasons |= _stuck(branches, {group.id: group.reason for group in self.analysis.groups if not group.searchable} | reasons)
        for level in _levels(branch for branch in branches if branch.id not in reasons):
            reasons |= halved(list(level), lambda names, by=level: self._without([by[name] for name in names], kept))  # type: ignore[misc]
        reasons |= self.idle([branch for branch in branches if branch.id not in reasons])
        if self.analysis.factors and self.fault({}):  # factors of layers that are no layer together stay apart
            self.analysis = replace(self.analysis, factors=())
        self.analysis = self.analysis.freeze(reasons)
        return self.analysis, tuple(replace(branch, reason=reasons.get(branch.id, "")) for branch in branches)

    def _without(self, branches: Sequence[Branch], kept: Kept) -> str:
        """What is wrong with a network that is cut so and lacks some branches."""
        return self.fault(pass_on(branches, kept), stays(branches))

    def idle(self, branches: Sequence[Branch]) -> dict[str, str]:
        """Branches whose removal makes no difference, so that nothing is proven by comparing, each with the reason.

        Of those in which a wrong index was noticed it is known that they make one.
        """
        unsure = [branch for branch in branches if not self._seen_in(branch)]
        if not unsure:
            return {}
        whole = Replay(self.network, self.shown, self.tensors)
        return {
            branch.id: "not proven: removing it makes no difference"
            for branch in unsure
            if distance(whole.outputs, whole.again({}, stays([branch]))) < NOTICED
        }

    def _seen_in(self, branch: Branch) -> bool:
        """Whether a wrong index was noticed in a parameter that the branch alone uses."""
        inside, names = {*branch.kernels, branch.node}, self.noticed & {*branch.weights}
        return any(all(user.name in inside for node in self.nodes[name] for user in node.users) for name in names)


def halved(names: Sequence[str], fault: Callable[[Sequence[str]], str]) -> dict[str, str]:
    """Those of some groups or branches that cannot be cut, alone or together with others, each with what is wrong; found by halving."""
    said = fault(names) if names else ""
    if not said:
        return {}
    if len(names) == 1:
        return {names[0]: f"not proven: {said}"}
    half = len(names) // 2
    parts = halved(names[:half], fault) | halved(names[half:], fault)
    return parts or dict.fromkeys(names[half:], f"not proven: {said}")


def _levels(branches: Iterable[Branch]) -> list[dict[str, Branch]]:
    """Branches by how many others they lie in: one that is gone hides what is within it."""
    held = list(branches)
    found: dict[int, dict[str, Branch]] = {}
    for branch in held:
        depth = sum(set(branch.kernels) < set(other.kernels) for other in held)
        found.setdefault(depth, {})[branch.id] = branch
    return [found[depth] for depth in sorted(found)]


def _stuck(branches: Iterable[Branch], frozen: Mapping[str, str]) -> dict[str, str]:
    """Blocks whose channels have to stay while those that they are given may go, each with the reason."""
    return {
        branch.id: f"the channels that it makes have to stay: {frozen[branch.passing.made]}"
        for branch in branches
        if branch.passing is not None and branch.passing.made in frozen and branch.passing.given not in frozen
    }


def stays(branches: Iterable[Branch]) -> dict[str, str]:
    """The last nodes of some branches, each with the node whose value is left when the branch is gone."""
    return {branch.node: branch.stays for branch in branches}


class Replay:
    """A network that was run once, of which parts can be run again in another way.

    Args:
        network: the network.
        inputs: for its placeholders.
        tensors: tensors to use in place of the network's, by name.
    """

    def __init__(
        self, network: fx.GraphModule, inputs: tuple[torch.Tensor, ...], tensors: Mapping[str, torch.Tensor] | None = None
    ) -> None:
        self._network, self._inputs, self._tensors = network, inputs, tensors or {}
        self._whole = any(_in_place(node) for node in network.graph.nodes)
        self._values: dict[fx.Node, Any] = {}
        self.outputs = self.again({})

    def again(self, tensors: Mapping[str, torch.Tensor], branches: Mapping[str, str] | None = None) -> list[torch.Tensor]:
        """The outputs with some tensors exchanged or branches removed; only what depends on them is computed."""
        changed: set[fx.Node] = set()

        def compute(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if not changed.isdisjoint(node.all_input_nodes):
                changed.add(node)
                return NotImplemented
            return NotImplemented if self._whole else self._values.get(node, NotImplemented)

        def after(node: fx.Node, value: Any) -> Any:
            if (node.op == "get_attr" and node.target in tensors) or (branches and node.name in branches):
                changed.add(node)
            elif node not in changed:
                self._values[node] = value
            return value

        given = {**self._tensors, **tensors}
        return execute(self._network, self._inputs, compute=compute, after=after, tensors=given, instead=branches)


def _in_place(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _double(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


class _InDouble(TorchDispatchMode):
    """Operations that name single precision, for a tensor that they make or convert to, do so in double precision."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the operation with the other type."""
        args, kwargs = pytree.tree_map(lambda each: torch.float64 if each is torch.float32 else each, (args, kwargs or {}))
        return func(*args, **kwargs)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def distance(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> float:
    """The largest difference between two lists of outputs, relative to the largest value of the first; infinite if they do not fit."""
    worst = 0.0
    for x, y in zip(a, b, strict=True):
        if x.shape != y.shape:
            return float("inf")
        if not x.is_floating_point() or not x.numel():
            continue
        scale, found = float(x.abs().max()), float((x - y).abs().max())
        if not np.isfinite(scale) or not np.isfinite(found):
            return float("inf")
        worst = max(worst, found / max(scale, 1e-12))
    return worst
