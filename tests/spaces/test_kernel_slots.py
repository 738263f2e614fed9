"""Slots of users' networks: their kernels depend on genes, on branches, and on what several genes add up to."""

from __future__ import annotations

import numpy as np
import pytest

import hwsearch
from hwsearch.networks import Fused
from hwsearch.spaces import Choice, SearchSpace, Slot, Sum
from hwsearch.spaces._kernels import KernelHere, Size

WIDTHS = (8, 16, 24)


def dense(growth: int = 5) -> SearchSpace:
    """Each of five convolutions reads what all before it made; the second may be absent and adds nothing then."""
    choices = [Choice(f"w{number}", WIDTHS, ("branch", (1,)) if number == 1 else None, "width") for number in range(growth)]
    choices.insert(1, Choice("branch", (0, 1), None, "depth"))
    kernel = Fused.of(("cat", "conv2d", "relu"), 8, 8, into=(6, 4), onto=(6, 4), taps=(3, 3))

    def adds(number: int) -> tuple[tuple[str, ...], object]:
        return (("branch", "w1"), np.outer((0, 1), WIDTHS)) if number == 1 else ((f"w{number}",), WIDTHS)

    slots = []
    for number in range(growth):
        genes = ["branch"] if number == 1 else []
        genes.append(f"w{number}")
        read: Size = Size(3)
        if number:
            total = Sum.of(dict(map(adds, range(number))), base=3)  # type: ignore[arg-type]
            read = Size(0, 1, len(genes))
        here = KernelHere(kernel, (read,), (Size(0, 1, len(genes) - 1),), (0,) if number == 1 else ())
        # A sum stands wherever it likes among the genes.
        slots.append(Slot(f"conv{number}", (*genes, *([total] if number else [])), here))
    return SearchSpace("dense", tuple(choices), tuple(slots))


def channels(row: dict[str, int]) -> list[tuple[int, int]]:
    """What the convolutions read and make, written down once more."""
    found, seen = [], 3
    for number in range(5):
        if number == 1 and row["branch"] == 0:
            continue
        found.append((seen, row[f"w{number}"]))
        seen += row[f"w{number}"]
    return found


def test_kernels_read_what_several_genes_add_up_to() -> None:
    """Of random networks, an absent branch among them, the blocks and the compiled cost are those of the channels written by hand."""
    space = dense()
    X = space.sample(60, np.random.default_rng(0))
    expected = []
    for row in X:
        sizes = channels(space.decode(row))  # type: ignore[arg-type]
        assert [(block.cin, block.cout) for block in space.blocks(row)] == sizes
        expected.append(sum(cin * cout * 9 * 24 for cin, cout in sizes))
    assert hwsearch.metric("macs", space)(X) == pytest.approx(expected)
    assert any(value == 0 for value in X[:, space.position["branch"]])


def test_a_restricted_space_meets_fewer_sums() -> None:
    """Blocks that no search can meet are not asked of a table."""
    space = dense().restrict({"width": [8]})
    found = {space.unique_blocks[index].cin for index in space.reachable}
    assert found == {3, 11, 19, 27, 35}


def test_the_exact_program_minds_sums() -> None:
    """The network of most channels below a limit of MACs is the best of all that there are."""
    space = dense()
    macs = hwsearch.metric("macs", space)
    rows = np.vstack(list(space.enumerate()))
    limit = float(np.median(macs(rows)))
    score = hwsearch.costs.Metric.from_tables("channels", space, [([f"w{number}"], WIDTHS) for number in (0, 2, 3, 4)])
    found = hwsearch.search(space, predictor=score, limits={"macs": limit}, algorithm="exact")
    fits = rows[macs(rows) <= limit]
    assert score(found.best.genes[None])[0] == score(fits).max()
