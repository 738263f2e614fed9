"""Products of two activations: attention, matrix products, Einstein sums."""

from __future__ import annotations

from dataclasses import replace
from string import ascii_letters

from torch import fx

from .._axes import Axes, Factor, Labels, tie_along
from ._broadcasting import aligned, broadcast, merge
from .base import Call, Multiplications, rule, shape_of

_FIXED = "it meets values of fixed size in a product"


def product(call: Call, operands: list[fx.Node], terms: list[str], out: str) -> Axes:
    """What lies on the result of an Einstein sum: tensors meet along axes of the same letter, and those not in ``out`` are summed.

    Channels on a summed axis alone are tied between the operands and removed from both. Where they lie on a summed axis and others
    jointly, as in the heads of an attention, all along the summed axis are tied: whole heads are removed.
    """
    lying = [(factor, letters) for node, letters in zip(operands, terms, strict=True) for factor in _reduced(call, node, letters, out)]
    for letter in sorted(set("".join(terms))):
        meeting = [
            place for place, letters in enumerate(terms) if letter in letters and shape_of(operands[place])[letters.index(letter)] > 1
        ]
        present = [(factor, letters) for factor, letters in lying if letter in [letters[dim] for dim in factor.dims]]
        if len(present) < len(meeting):
            call.freeze(tuple(factor for factor, _ in present), _FIXED)
        alphabet = sorted({letters[dim] for factor, letters in present for dim in factor.dims})
        for other in present[1:]:
            call.atoms.tie(_spread(*present[0], alphabet), _spread(*other, alphabet))
    _count(call, operands, terms)
    for place, (node, letters) in enumerate(zip(operands, terms, strict=True)):
        if node.op == "get_attr" and "constant" not in node.meta:
            others = "".join(terms[:place] + terms[place + 1 :])
            for dim, letter in enumerate(letters):
                if letter not in out or letter not in others:
                    call.flow.roles.setdefault((str(node.target), dim), "out" if letter in out else "in")
    result: list[Factor] = []
    for factor, letters in sorted(lying, key=lambda each: -len(each[0].dims)):
        named = [letters[dim] for dim in factor.dims]
        if all(letter in out for letter in named) and not any(out.index(letter) in each.dims for letter in named for each in result):
            order = sorted(range(len(named)), key=lambda place: out.index(named[place]))
            result.append(Factor(tuple(sorted(map(out.index, named))), factor.labels.transpose(order)))
    return tuple(result)


def _reduced(call: Call, node: fx.Node, letters: str, out: str) -> list[Factor]:
    """The factors of an operand, tied along summed axes where they lie on others too."""
    found = []
    for factor in call.flow.factors(node):
        summed = [dim for dim in factor.dims if letters[dim] not in out]
        gone = summed if len(summed) < len(factor.dims) else summed[1:]
        reduced = tie_along(call.atoms, factor, gone) if gone else factor
        assert reduced is not None
        found.append(reduced)
    return found


def _spread(factor: Factor, letters: str, alphabet: list[str]) -> Labels:
    """The labels of a factor with one axis for each letter, in this order."""
    named = [letters[dim] for dim in factor.dims]
    order = sorted(range(len(named)), key=lambda place: alphabet.index(named[place]))
    sizes = dict(zip(named, factor.labels.shape, strict=True))
    return factor.labels.transpose(order).reshape([sizes.get(letter, 1) for letter in alphabet])


def _count(call: Call, operands: list[fx.Node], terms: list[str]) -> None:
    """Note how many multiplications there are."""
    axes: dict[str, tuple[fx.Node, int]] = {}
    for node, letters in zip(operands, terms, strict=True):
        for dim, letter in enumerate(letters):
            if letter not in axes or shape_of(node)[dim] > shape_of(axes[letter][0])[axes[letter][1]]:
                axes[letter] = (node, dim)
    weights = [str(node.target) for node in operands if node.op == "get_attr"]
    call.flow.multiplications.append(Multiplications(call.node, weights[0] if weights else "", 1 / call.flow.batch, tuple(axes.values())))


@rule("einsum", reads=("tensors",))
def einsum(call: Call) -> Axes:
    """An equation in letters."""
    equation = str(call.args["equation"]).replace(" ", "")
    left, _, out = equation.partition("->")
    operands, terms = list(call.args["tensors"]), left.split(",")
    if "..." in equation or "->" not in equation or any(len(set(term)) < len(term) for term in terms):
        for node in operands:
            call.freeze(call.flow.factors(node), "an equation that is not understood")
        return ()
    return product(call, operands, terms, out)


@rule("matmul", "bmm", "mm", "mv", "dot", reads=("self", "other", "mat2", "vec", "tensor"))
def matmul(call: Call) -> Axes:
    """The last axis of the first and the last but one of the second are summed; those before are broadcast."""
    a, b = (value for value in call.args.values() if isinstance(value, fx.Node))
    return _matrices(call, a, b)


def _matrices(call: Call, a: fx.Node, b: fx.Node) -> Axes:
    ranks = len(shape_of(a)), len(shape_of(b))
    batch = ascii_letters[: max(*ranks, 2) - 2]
    first = "Y" if ranks[0] == 1 else batch[len(batch) - ranks[0] + 2 :] + "XY"
    second = "Y" if ranks[1] == 1 else batch[len(batch) - ranks[1] + 2 :] + "YZ"
    out = batch + ("X" if ranks[0] > 1 else "") + ("Z" if ranks[1] > 1 else "")
    return product(call, [a, b], [first, second], out)


@rule("addmm", "baddbmm", "addbmm", "addmv", reads=("mat1", "mat2", "batch1", "batch2", "mat", "vec"))
def added(call: Call) -> Axes:
    """A product to which another tensor is added."""
    nodes = [value for value in call.args.values() if isinstance(value, fx.Node)]
    axes = _matrices(call, nodes[1], nodes[2])
    call.flow.axes[call.node] = axes
    return merge(call.flow, call.node, [call.node, nodes[0]])


@rule("scaled_dot_product_attention", reads=("query", "key", "value"))
def attention(call: Call) -> Axes:
    """Whole heads are removed: the axis before the last two is tied between queries, keys and values."""
    nodes = [call.args[name] for name in ("query", "key", "value")]
    rank = len(shape_of(nodes[0]))
    batch = ascii_letters[: rank - 2]
    if call.args["scale"] is None:
        for node in nodes[:2]:
            # The scores are divided by the root of a head's size, which therefore stays.
            call.freeze(tuple(factor for factor in call.flow.factors(node) if factor.dims == (rank - 1,)), "the size of a head")
    scores = product(call, nodes[:2], [batch + "XS", batch + "YS"], batch + "XY")
    mask = call.args["attn_mask"]
    if isinstance(mask, fx.Node):
        # It is added to the scores: heads are tied to what it holds for each of them, such as learned biases of positions.
        sizes = [*map(max, shape_of(nodes[0])[:-2], shape_of(nodes[1])[:-2]), shape_of(nodes[0])[-2], shape_of(nodes[1])[-2]]
        scores = broadcast(call.flow, call.node, (scores, sizes), aligned(call.flow, mask, rank))
    call.flow.axes[call.node] = scores
    values = product(call, nodes[2:], [batch + "YZ"], batch + "Z")
    call.flow.multiplications.pop()
    call.flow.multiplications.append(replace(call.flow.multiplications[-1]))
    moved = tuple(Factor(tuple(dim + (dim == rank - 2) for dim in each.dims), each.labels) for each in values)
    heads = [factor for factor in scores if max(factor.dims) < rank - 2]
    for factor in heads:
        for each in moved:
            if set(each.dims) & set(factor.dims):
                dims = sorted(set(each.dims) | set(factor.dims))
                call.atoms.tie(each.over(dims), factor.over(dims))
    return moved
