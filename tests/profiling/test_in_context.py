"""Kernels of a user's network, measured inside whole networks by a runtime that tells what each of them takes there."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hwsearch
from hwsearch.backends.base import Backend, Network, Session, Times
from hwsearch.devices import Device
from hwsearch.errors import Unsupported, WrongSpace
from hwsearch.networks import Block, Fused
from hwsearch.profiling import Effort
from hwsearch.profiling._in_context import cover
from hwsearch.searching import DeviceVerifier
from hwsearch.spaces import Choice, SearchSpace, Slot
from hwsearch.spaces._kernels import Format, KernelHere, Size

FEW = Effort(max_rounds=3, checks=12, fits=12)


def kernel_ms(kernel: Block) -> float:
    """What a kernel takes on the device of these tests, which works in blocks of 8 channels and finds cheap what comes after a pooling."""
    assert isinstance(kernel, Fused)
    padded = -(-kernel.cin // 8) * 8 * -(-kernel.cout // 8) * 8 * kernel.taps[0] ** 2 * kernel.onto[0] ** 2
    converted = sum(op in ("quantize", "dequantize") for op in kernel.ops)
    share = 0.4 if kernel.precision == "int8" else 1.0
    return 0.003 + share * (1e-7 * padded + 3e-7 * kernel.edge_values) + converted * (0.002 + 1e-6 * kernel.inputs)


@dataclass(frozen=True, repr=False)
class Chain(SearchSpace):
    """Six convolutions in a row, the third of which is a branch that may be absent; its files are their kernels as JSON."""

    @property
    def kernels_only(self) -> bool:
        return True

    def model_file(self, row: Any) -> bytes:
        return json.dumps([[slot.name, block.key] for slot, blocks in self.placed(row) for block in blocks]).encode()


def chain() -> Chain:
    """3 -> a -> b -> (c -> b) -> d -> 10 channels; what is in brackets may be absent."""
    widths = tuple(range(8, 129, 8))
    choices = [Choice(name, widths, None, "width") for name in "ab"]
    choices += [Choice("branch", (0, 1), None, "depth"), Choice("c", widths, ("branch", (1,)), "width"), Choice("d", widths, None, "width")]
    full = Fused.of(("conv2d", "relu"), 8, 8, into=(14, 14), onto=(14, 14), taps=(3, 3))

    def slot(name: str, cin: str | int, cout: str | int) -> Slot:
        inside = ("branch",) if "c" in (cin, cout) else ()
        genes = (*inside, *(gene for gene in (cin, cout) if isinstance(gene, str)))
        into, out = (Size(0, 1, genes.index(each)) if isinstance(each, str) else Size(each) for each in (cin, cout))
        return Slot(name, genes, KernelHere(full, (into,), (out,), tuple(range(len(inside)))))

    places = (3, "a"), ("a", "b"), ("b", "c"), ("c", "b"), ("b", "d"), ("d", 10)
    return Chain("chain", tuple(choices), tuple(slot(f"conv{number}", *ends) for number, ends in enumerate(places)))


def in_bits() -> Chain:
    """The chain, whose first half, branch and second half are in fp32 or int8; what is read from another of these is converted."""
    plain = chain()
    places = (("first", None), ("second", ("branch", (1,))), ("third", None))
    genes = [Choice(f"{name}.precision", ("int8", "fp32"), needs, "precision") for name, needs in places]
    choices = (*plain.choices[:3], *genes, *plain.choices[3:])
    slots = []
    for number, (slot, own, read) in enumerate(zip(plain.slots, (0, 0, 1, 1, 2, 2), (None, 0, 0, 1, 0, 2), strict=True)):
        given = [*slot.genes, *(["branch"] if 1 in (own, read) and "branch" not in slot.genes else [])]
        given += [f"{places[each][0]}.precision" for each in dict.fromkeys((own, read)) if each is not None]
        formats = [None if each is None else given.index(f"{places[each][0]}.precision") for each in (own, read)]
        assert isinstance(slot.lower, KernelHere)
        here = replace(slot.lower, format=Format(formats[0]), reads=(Format(formats[1]),))
        slots.append(Slot(f"conv{number}", tuple(given), here))
    return Chain("in bits", choices, tuple(slots))


class Taken(Session):
    """What a file takes, exactly; under the profiler each kernel as well."""

    def __init__(self, device: Told, kernels: Mapping[str, float], *, tells: bool = False) -> None:
        self._device, self._kernels, self._tells = device, kernels, tells

    def times(self, runs: int) -> Times:
        self._device.calls += 1
        if self._device.calls == self._device.dies_at:
            raise KeyboardInterrupt
        return np.full(runs, 1e-3 * (0.02 + sum(self._kernels.values())))

    @property
    def kernels_ms(self) -> Mapping[str, float]:
        return self._kernels if self._tells else {}


class Told(Backend):
    """A device that never varies, and may die."""

    name = "told"
    suffix = ".json"
    tells_kernels = True

    def __init__(self, dies_at: int = 0, precisions: tuple[str, ...] = ("fp32",)) -> None:
        self.dies_at, self.calls, self.files, self._precisions = dies_at, 0, set[str](), precisions

    @property
    def precisions(self) -> tuple[str, ...]:
        return self._precisions

    def describe(self) -> Device:
        return Device("told", "analytic", "told", self.name, "1")

    def _open(self, network: Network) -> Session:
        return Taken(self, {})

    def load(self, path: Any) -> Session:
        return Taken(self, self._read(path))

    def profiled(self, path: Any) -> Session:
        self.files.add(Path(path).name)
        return Taken(self, self._read(path), tells=True)

    @staticmethod
    def _read(path: Any) -> dict[str, float]:
        return {name: kernel_ms(Block.parse(key)) for name, key in json.loads(Path(path).read_text())}


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Chain, hwsearch.LatencyTable, Told]:
    backend = Told()
    out = tmp_path_factory.mktemp("table") / "table.json"
    return chain(), hwsearch.profile(chain(), backend=backend, out=out, effort=FEW, progress=False), backend


def test_a_handful_of_networks_tells_all_kernels_of_a_space(profiled: tuple[Chain, hwsearch.LatencyTable, Told]) -> None:
    """At most 600 kernels are measured, and held-out networks are foretold to a percent; the largest network is among those profiled."""
    space, table, backend = profiled
    assert len(table.rows) <= 600
    assert len(backend.files) <= 16
    error = table.error()
    assert error["networks"] == 12
    assert error["mean_abs"] < 0.01
    assert error["spearman"] > 0.99
    assert table.sampled
    largest = space.blocks(np.array([size - 1 for size in space.sizes], dtype=np.uint8))
    assert not table.missing(largest)


def test_networks_for_the_profiler_show_each_kernel_at_widths_far_apart() -> None:
    """The ends of both widths of each convolution are measured, and there is no gap between wider than two doublings of its channels."""
    space = chain()
    rows = cover([space], np.random.default_rng(0))
    for place in range(len(space.slots)):
        kernels = [kernels for row in rows for slot, kernels in space.placed(row) if slot.name == f"conv{place}"]
        for side in ("cin", "cout"):
            widths = sorted({getattr(kernel, side) for found in kernels for kernel in found})
            if len(widths) > 1:
                assert widths[0] <= 16
                assert widths[-1] >= 112
                assert max(b / a for a, b in itertools.pairwise(widths)) <= 4


def test_kernels_are_measured_in_each_precision_and_at_the_borders_between(tmp_path: Path) -> None:
    """A third of the held-out networks each is in fp32, in int8 and mixed, and all are predicted; without int8, all are in fp32."""
    out, both = tmp_path / "t.json", Told(precisions=("fp32", "int8"))
    table = hwsearch.profile(in_bits(), backend=both, out=out, effort=replace(FEW, checks=15, fits=15), progress=False)
    assert len(table.rows) <= 600
    assert table.precisions == ("fp32", "int8")
    error = table.error()
    assert error["networks"] == 15
    assert max(error[f"mean_abs_{kind}"] for kind in ("fp32", "int8", "mixed")) < 0.02
    assert error["spearman"] > 0.98
    ops = {(kernel.precision, kernel.ops[0]) for kernel in map(Block.parse, table.rows) if isinstance(kernel, Fused)}
    assert ops == {("fp32", "conv2d"), ("int8", "conv2d"), ("int8", "quantize"), ("fp32", "dequantize")}
    plain = hwsearch.profile(in_bits(), backend=Told(), out=tmp_path / "p.json", effort=FEW, progress=False)
    assert plain.precisions == ("fp32",)
    limit = 0.6 * float(hwsearch.metric("latency_ms", in_bits(), table)(np.array([[size - 1 for size in in_bits().sizes]]))[0])
    found = hwsearch.search(in_bits(), device=table, predictor=hwsearch.metric("macs", in_bits()), limits={"latency_ms": limit}, seed=0)
    assert "int8" in found.best.values().values()


def test_searches_work_on_a_table_of_kernels(profiled: tuple[Chain, hwsearch.LatencyTable, Told]) -> None:
    """The metric is the prediction of the table, and the network that is found keeps to the limit on the device itself."""
    space, table, _ = profiled
    X = space.sample(50, np.random.default_rng(1))
    metric = hwsearch.metric("latency_ms", space, table)
    truth = np.array([0.02 + sum(map(kernel_ms, space.blocks(row))) for row in X])
    assert metric(X) == pytest.approx([table.predict(space.blocks(row)) for row in X])
    assert np.abs(metric(X) / truth - 1).mean() < 0.01
    limit = float(np.median(truth))
    found = hwsearch.search(space, device=table, predictor=hwsearch.metric("macs", space), limits={"latency_ms": limit}, seed=0)
    took = 0.02 + sum(map(kernel_ms, found.best.blocks()))
    assert 0.9 * limit < took < 1.02 * limit


def test_latencies_of_kernels_are_verified_on_files_of_whole_networks(profiled: tuple[Chain, hwsearch.LatencyTable, Told]) -> None:
    """The networks of a search are written, opened and measured, and agree with what the table says."""
    space, table, _ = profiled
    device = Told()
    problem = hwsearch.Problem.of(space, device=table, predictor=hwsearch.metric("macs", space), limits={"latency_ms": 1.0})
    X = space.sample(5, np.random.default_rng(2))
    found = DeviceVerifier(device)(problem, table).latency_ms(X)
    assert found == pytest.approx([0.02 + sum(map(kernel_ms, space.blocks(row))) for row in X])
    assert found == pytest.approx([table.predict(space.blocks(row)) for row in X], rel=0.02)


def test_a_run_that_was_killed_goes_on_and_comes_to_the_same_table(
    tmp_path: Path, profiled: tuple[Chain, hwsearch.LatencyTable, Told]
) -> None:
    """What a journal holds is not measured again, other networks are refused, and a table that is complete is left as it is."""
    out, whole = tmp_path / "table.json", profiled[2].calls
    with pytest.raises(KeyboardInterrupt):
        hwsearch.profile(chain(), backend=Told(dies_at=2 * whole // 3), out=out, effort=FEW, progress=False)
    with pytest.raises(WrongSpace, match="unfinished run"):
        hwsearch.profile(chain(), backend=Told(), out=out, effort=FEW, seed=1, progress=False)
    rest, complete = Told(), Told()
    hwsearch.profile(chain(), backend=rest, out=out, effort=FEW, progress=False)
    assert rest.calls < 0.8 * whole
    assert hwsearch.load_table(out).rows == profiled[1].rows
    before = out.read_text()
    hwsearch.profile(chain(), backend=complete, out=out, effort=FEW, progress=False)
    assert not complete.calls
    assert out.read_text() == before


def test_a_budget_ends_the_rounds(tmp_path: Path) -> None:
    """However small it is, every network is measured a few times."""
    table = hwsearch.profile(
        chain(), backend=Told(), out=tmp_path / "t.json", effort=replace(FEW, max_rounds=500, budget=0.01), progress=False
    )
    assert table.error()["networks"] == 12
    assert max(row.rounds for row in table.rows.values()) < 500


def test_a_device_that_tells_nothing_of_kernels_is_refused(tmp_path: Path) -> None:
    """A computed device needs no files: it costs every kernel alone."""
    backend = Told()
    backend.tells_kernels = False
    with pytest.raises(Unsupported, match="run only inside it"):
        hwsearch.profile(chain(), backend=backend, out=tmp_path / "t.json", effort=FEW, progress=False)
    table = hwsearch.profile(chain(), backend="roofline", out=tmp_path / "r.json", effort=FEW, progress=False)
    assert table.error()["mean_abs"] < 1e-6
