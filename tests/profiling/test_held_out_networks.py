"""Which whole networks a table is fitted on and checked by: all precisions and all sizes, in both roles (point 16b)."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwsearch import LatencyTable, SearchSpace, load_space, profile
from hwsearch.backends import Roofline
from hwsearch.devices import Protocol
from hwsearch.devices._calibration import network_class
from hwsearch.networks import Block
from hwsearch.profiling import Effort
from hwsearch.profiling._networks import networks_of
from hwsearch.profiling._plan import Network
from hwsearch.spaces import Chain, Stage

SMALL = Chain("small", (8,), (8,), (Stage((1, 2), (8, 12), (4, 8)), Stage((1,), (16,), (8, 12), stride=2)), 10, channels=1).space()
FLOATS = Chain("floats", (8,), (8,), (Stage((1, 2), (8, 12), (4, 8)), Stage((1,), (16, 24), (8, 12))), 10, precisions=()).space()


def empty() -> LatencyTable:
    return LatencyTable(Roofline().describe(), Protocol(), {})


def drawn(space: SearchSpace, checks: int, fits: int, table: LatencyTable | None = None, seed: int = 0) -> dict[Network, str]:
    return networks_of(space, Roofline().precisions, table or empty(), Effort(checks=checks, fits=fits), seed)


def work(network: Network) -> int:
    return sum(block.macs for block in network)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("checks", "fits"), [(12, 42), (12, 0), (18, 42), (13, 7)])
def test_networks_of_each_precision_are_held_out_and_fitted_on(checks: int, fits: int, seed: int) -> None:
    found = drawn(load_space("resnet_cifar"), checks, fits, seed=seed)
    counts = Counter((network_class(network), role) for network, role in found.items())
    assert Counter(found.values()) == {role: count for role, count in (("check", checks), ("fit", fits)) if count}
    for kind in ("fp32", "int8", "mixed"):
        assert counts[kind, "check"] in (checks // 3, checks // 3 + 1)
        assert counts[kind, "fit"] in (fits // 3, fits // 3 + 1)
    assert len({network_class(network) for network in list(found)[:3]}) == 3, "each kind is there early"
    assert list(found) != sorted(found, key=work)


def test_networks_of_all_sizes_are_held_out() -> None:
    space = load_space("resnet_cifar").restrict({"*precision": ["fp32"]})
    usual = np.quantile([work(space.blocks(row)) for row in space.sample(2000, np.random.default_rng(1))], [0.25, 0.5, 0.75])
    for seed in range(5):
        found = drawn(space, 12, 40, seed=seed)
        for role, count in (("check", 12), ("fit", 40)):
            places = Counter(np.searchsorted(usual, [work(network) for network, of in found.items() if of == role]).tolist())
            assert all(abs(places[quarter] - count / 4) <= 1 + count / 12 for quarter in range(4)), (role, places)


def test_a_space_without_precisions_and_one_of_few_networks_give_what_they_have() -> None:
    assert Counter(drawn(FLOATS, 12, 6).values()) == {"check": 12, "fit": 6}
    tiny = SMALL.restrict({"*.out": [8, 16], "*.mid*": [4, 8], "stage1.depth": [1]})
    found = drawn(tiny, 12, 42)
    assert 0 < len(found) < 54
    assert {"check", "fit"} == set(found.values())
    assert len(drawn(tiny, 12, 0)) == 12


def test_only_what_a_table_lacks_of_each_kind_is_drawn(tmp_path: Path) -> None:
    table = profile(SMALL, backend=Roofline(), out=tmp_path / "t.json", effort=Effort(checks=18, fits=18), progress=False)
    assert drawn(SMALL, 18, 18, table) == {}
    assert drawn(SMALL, 18, 18, table, seed=1) == {}, "the networks that it holds are as good as others"
    kinds = {check.blocks: network_class([Block.parse(key) for key in check.blocks]) for check in table.checks}
    left = tuple(check for check in table.checks if (kinds[check.blocks], check.role) != ("fp32", "check"))
    lacking = drawn(SMALL, 18, 18, replace(table, checks=left))
    assert Counter((network_class(network), role) for network, role in lacking.items()) == {("fp32", "check"): 6}
    foreign = tuple(replace(check, blocks=("conv-in3-out8-px99-k3-s1-g1-fp32", *check.blocks)) for check in table.checks)
    assert len(drawn(SMALL, 18, 18, replace(table, checks=foreign))) == 36, "those of another space tell nothing of this one"
