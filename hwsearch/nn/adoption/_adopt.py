"""From a module to its search space: captured, analysed, proven."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from ..._files._writing import PathLike
from ...errors import InvalidInput, check_count
from ...spaces._space import SearchSpace
from ._adopted import Adopted
from ._blocks import find_blocks
from ._branches import Branch, find_branches
from ._capture import capture
from ._counted import counted
from ._formats import PRECISIONS
from ._genes import Places, find_genes
from ._groups import analyse, matching
from ._part import target
from ._proof import Prover
from ._ranked import ranked
from ._regions import find_regions, of_one_format
from ._slots import kernel_slots


def adopt(
    module: nn.Module | PathLike,
    inputs: torch.Tensor | Sequence[Any] | None = None,
    *,
    keywords: Mapping[str, Any] | None = None,
    freeze: Sequence[str] = (),
    part: str = "",
    step: int = 8,
    precisions: Sequence[str] = ("fp32",),
    rng: np.random.Generator | None = None,
) -> Adopted:
    """Make a network a search space: find out which widths and branches can be cut, and prove each of them.

    The network is captured in evaluation mode; the module itself is left as it is. An operation that is not known keeps the channels that
    reach it, and the report names it with its line of source.

    Args:
        module: any PyTorch module, or an ONNX file, which the package onnx2torch reads.
        inputs: an example input, or all positional ones; small images make proofs fast. Those that an ONNX file names if omitted.
        keywords: example inputs by keyword.
        freeze: names of parameters or modules, or patterns with ``*``, whose channels are to stay.
        part: the name of a submodule, to adopt it alone.
        step: channels are kept in multiples of this number, which runtimes are fast at; layers of fewer channels in smaller steps.
        precisions: fp32, int8 or both, a gene for each region: the kernels of a residual branch, or else all whose maps have one size.
        rng: where the randomness of the proofs comes from; seed 0 if omitted.

    Raises:
        InvalidInput: a name that stands for nothing, or other precisions.
        Unsupported: the module cannot be captured; the message names the line.

    Example:
        >>> import hwsearch
        >>> import torch
        >>> module = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
        >>> adopted = hwsearch.adopt(module, torch.randn(1, 3, 8, 8))
        >>> [(choice.name, choice.values) for choice in adopted.choices]
        [('0.width', (4, 8))]
        >>> hwsearch.extract(adopted.architecture([0]))(torch.randn(2, 3, 8, 8)).shape
        torch.Size([2, 4, 4, 4])
    """
    check_count("step", step, least=1)
    offered = _checked(precisions)
    module, adopted, args, named = target(module, inputs, keywords, part)
    captured = capture(adopted, args, named)
    network, frozen = captured.network, _frozen(captured.network, freeze)
    analysis = ranked(network, analyse(network, captured.batch, frozen))
    if analysis.factors and offered != ("fp32",):
        raise InvalidInput("Layers whose ranks are searched are in fp32: leave out precisions=, or do not write layers as products.")
    prover = Prover(network, analysis, captured.inputs, rng or np.random.default_rng(0), captured.dynamic)
    found = find_branches(network)
    removable = [_held(branch, frozen) for branch in (*found, *find_blocks(network, analysis, found))]
    analysis, branches = prover.prove(removable)
    regions = find_regions(network, branches, frozen)
    branches = of_one_format(network, branches, regions) if offered != ("fp32",) else branches
    places = find_genes(analysis, branches, step, regions, offered)
    facts = {"network": network, "inputs": captured.inputs, "analysis": analysis, "branches": branches, "dynamic": captured.dynamic}
    return _space(places, **facts, module=module, part=part, frozen=frozenset(frozen), step=step, precisions=offered)


def _checked(precisions: Sequence[str]) -> tuple[str, ...]:
    """The precisions that kernels may have, each once.

    Raises:
        InvalidInput: there is none, or one that kernels of modules do not have.
    """
    found = tuple(dict.fromkeys([precisions] if isinstance(precisions, str) else precisions))
    if not found or not set(found) <= set(PRECISIONS):
        raise InvalidInput(f"precisions={precisions!r}: kernels of a module may be in {' and '.join(PRECISIONS)}.")
    return found


def _held(branch: Branch, frozen: Mapping[str, str]) -> Branch:
    """A branch, which has to stay where it holds frozen parameters."""
    return replace(branch, reason=next((frozen[name] for name in branch.weights if name in frozen), ""))


def _frozen(network: fx.GraphModule, freeze: Sequence[str]) -> dict[str, str]:
    """The parameters that names and patterns stand for, each with the reason why it is frozen.

    Raises:
        InvalidInput: a pattern stands for nothing.
    """
    names = [str(node.target) for node in network.graph.nodes if node.op == "get_attr"]
    for pattern in freeze:
        if not matching(names, [pattern]):
            raise InvalidInput(f"freeze={pattern!r} stands for no parameter or module of the network. Examples of names: {names[:3]}.")
    return matching(names, freeze)


def _space(places: Places, **facts: Any) -> Adopted:
    """The space of the genes of a network."""
    name = ".".join([type(facts["module"]).__name__, *filter(None, [facts["part"]])])
    known = SearchSpace(name, places.choices, ()), places, facts["analysis"], facts["network"]
    return Adopted(name=name, choices=places.choices, slots=kernel_slots(*known), costs=counted(*known), places=places, **facts)
