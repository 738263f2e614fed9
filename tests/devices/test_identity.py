"""Which device a table is of: point 1b, another CPU of the same name is another device."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

from hwsearch import LatencyTable, load_table, profile
from hwsearch._files._writing import Journal
from hwsearch._progress import Advance
from hwsearch.backends import Network, Roofline, Session
from hwsearch.backends import _cpu as cpu_module
from hwsearch.devices import Device
from hwsearch.errors import InvalidInput, WrongDevice
from hwsearch.profiling import BusyWarning, Effort, Workbench, measure
from hwsearch.profiling import _rounds as rounds_module
from hwsearch.profiling._plan import Plan
from hwsearch.profiling._readings import Readings
from hwsearch.spaces import Chain, Stage
from hwsearch.testing import check_backend

SHIPPED = ROOT / "latency_tables"
SMALL = Chain("small", (8,), (8,), (Stage((1, 2), (8, 12), (4, 8)),), 10, channels=1).space()
WIDER = Chain("small", (8,), (8,), (Stage((1, 2), (8, 12), (4, 8, 16)),), 10, channels=1).space()
FACTS = {
    "machine": "x86_64",
    "cpu": "AuthenticAMD family 25 model 17",
    "flags": "avx2 avx512f avx512_vnni",
    "caches": "L1d 32K, L2 1024K",
    "int8": "exact",
}


class Chip(Roofline):
    """A CPU with facts of its own, everything on which takes ``slowdown(reading)`` times as long as on a Roofline."""

    def __init__(self, slowdown: Callable[[int], float] = lambda reading: 1.0, **facts: str) -> None:
        super().__init__()
        self.slowdown, self.facts, self.readings = slowdown, {**FACTS, **facts}, 0

    def describe(self) -> Device:
        told = {key: value for key, value in self.facts.items() if value}
        return replace(super().describe(), kind="cpu", hardware="AMD EPYC", facts=told)

    def _open(self, network: Network) -> Session:
        inner, chip = super()._open(network), self

        class Slowed(Session):
            energy_mj = inner.energy_mj

            def times(self, runs: int) -> np.ndarray:
                chip.readings += 1
                return inner.times(runs) * chip.slowdown(chip.readings)

        return Slowed()


def storms(reading: int) -> float:
    """A machine that is busy most of the time, and always slower than it was."""
    return 1.5 * (1 + (reading * 7 % 11) / 5)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds_module, "_PERIOD_S", 0.0)


def run(out: Path, backend: Roofline | Workbench, space: object = SMALL) -> LatencyTable:
    return profile(space, backend=backend, out=out, progress=False, effort=Effort(max_rounds=4, checks=12, fits=6))  # type: ignore[arg-type]


@pytest.mark.parametrize("fact", FACTS)
def test_facts_of_the_processor_belong_to_the_identity_of_a_device(fact: str, tmp_path: Path) -> None:
    device, other = Chip().describe(), Chip(**{fact: "another"}).describe()
    assert f"{fact} is 'another'" in device.difference(other)
    assert not device.same_as(other)
    table = run(tmp_path / "t.json", Chip())
    with pytest.raises(WrongDevice, match=f"{fact} is"):
        run(tmp_path / "t.json", Chip(**{fact: "another"}))
    with pytest.raises(WrongDevice, match=f"{fact} is"):
        measure([SMALL.blocks(SMALL.sample(1, np.random.default_rng(0))[0])], backend=Chip(**{fact: "another"}), table=table)
    with pytest.raises(WrongDevice, match=f"{fact} is"):
        load_table(tmp_path / "t.json", device=other)


def test_the_shipped_tables_load_for_searching_and_are_taken_for_no_device() -> None:
    paths = sorted(SHIPPED.glob("*.json"))
    assert paths
    for path in paths:
        table = load_table(path)
        here = replace(table.device, facts={**table.device.facts, "cpu": "AuthenticAMD family 25 model 17", "caches": "L1d 32K"})
        with pytest.raises(WrongDevice, match=r"may have been measured elsewhere: .* cpu, caches"):
            load_table(path, device=here)
        without = replace(here, facts={**here.facts, "flags": "avx2", "cpu": "AuthenticAMD family 25 model 1"})
        with pytest.raises(WrongDevice, match="flags is 'avx2 avx512f"):
            load_table(path, device=without)
        with pytest.raises(WrongDevice, match="only one of them tells cpu, caches"):
            table.merge(replace(table, device=here))


def test_a_table_that_tells_less_is_of_this_device_if_the_sentinel_agrees(tmp_path: Path) -> None:
    out = tmp_path / "t.json"
    before = run(out, Chip(cpu="", caches="", int8="", flags="avx2 avx512f"))
    network = SMALL.blocks(SMALL.sample(1, np.random.default_rng(0))[0])
    with pytest.raises(WrongDevice, match="another device, or its clocks"):
        run(out, Chip(lambda reading: 1.4))
    with pytest.raises(WrongDevice, match="another device, or its clocks"):
        run(out, Chip(lambda reading: 1 / 1.4))
    with pytest.raises(WrongDevice, match="another device, or its clocks"):
        measure([network], backend=Chip(lambda reading: 1.4), table=before, rounds=4)
    assert load_table(out).device == before.device, "what is refused changes nothing"
    assert measure([network], backend=Chip(), table=before, rounds=4)[0].latency_ms == pytest.approx(before.predict(network), rel=0.01)
    after = run(out, Chip(lambda reading: 1.1))
    assert after.device == load_table(out).device == replace(Chip().describe(), name=before.device.name), "its facts are completed"
    assert after.rows == before.rows


def test_a_table_that_tells_less_and_has_no_sentinel_is_of_no_device(tmp_path: Path) -> None:
    table = run(tmp_path / "t.json", Chip(cpu=""))
    replace(table, protocol=replace(table.protocol, sentinel_ms=0.0)).save(tmp_path / "t.json")
    with pytest.raises(WrongDevice, match="there is no sentinel to compare"):
        run(tmp_path / "t.json", Chip())


def test_a_busy_machine_is_told_from_another_device(tmp_path: Path) -> None:
    table = run(tmp_path / "t.json", Chip())
    network = SMALL.blocks(SMALL.sample(1, np.random.default_rng(0))[0])
    with pytest.warns(BusyWarning, match="This machine is busy: the sentinel takes"):
        measure([network], backend=Chip(storms), table=table, rounds=4)
    for slower in (1.4, 1 / 1.4):
        with pytest.warns(BusyWarning, match="This machine is busy, or was when the table was measured"):
            measure([network], backend=Chip(lambda reading, slower=slower: slower), table=table, rounds=4)
    vague = replace(table, device=Chip(cpu="").describe())
    with pytest.raises(WrongDevice, match="cannot be told whether the table is of this device"):
        measure([network], backend=Chip(storms), table=vague, rounds=4)
    with pytest.raises(WrongDevice, match="another device, or its clocks"):
        run(tmp_path / "t.json", Chip(lambda reading: 2.2), WIDER)


def test_a_board_is_checked_by_the_readings_that_come_back(tmp_path: Path) -> None:
    class Board(Workbench):
        """A board that measures when it is told to."""

        def __init__(self, chip: Chip) -> None:
            super().__init__(chip, chip.describe(), chip.energy, chip.precisions)

        def measure(self, plan: Plan, journal: Journal, advance: Advance) -> Readings:
            plan.read(journal)
            things = {name: lambda network=network: self.runtime.open(network) for name, network in plan.networks.items()}
            rounds = rounds_module.Rounds(things, lambda: self.runtime.open((plan.sentinel,)), plan.protocol)
            rounds.finish(journal.append, advance)
            return rounds

    out = tmp_path / "t.json"
    run(out, Board(Chip()))
    with pytest.raises(WrongDevice, match="there is no sentinel to compare"):
        run(out, Board(Chip(caches="")), WIDER)
    with pytest.raises(WrongDevice, match="another device, or its clocks"):
        run(out, Board(Chip(lambda reading: 2.2)), WIDER)
    (tmp_path / "t.json.partial.jsonl").unlink()
    assert run(out, Board(Chip()), WIDER).missing(WIDER.unique_blocks) == ()


def test_this_machine_tells_what_it_is(tmp_path: Path) -> None:
    lines = [("vendor_id", "GenuineIntel"), ("cpu family", "6"), ("model", "106"), ("model name", "Xeon")]
    assert cpu_module._generation(lines) == "GenuineIntel family 6 model 106"
    arm = [("CPU implementer", "0x41"), ("CPU variant", "0x3"), ("CPU part", "0xd0c")]
    little = [("CPU implementer", "0x41"), ("CPU variant", "0x2"), ("CPU part", "0xd05")]
    assert cpu_module._generation([*little, *little, *arm]) == "0x41 0x2 0xd05, 0x41 0x3 0xd0c"
    assert cpu_module._generation([("Processor", "?")]) == ""
    for index, values in enumerate((("1", "Data", "32K"), ("1", "Instruction", "32K"), ("2", "Unified", "512K"))):
        place = tmp_path / "cache" / f"index{index}"
        place.mkdir(parents=True)
        for name, value in zip(("level", "type", "size"), values, strict=True):
            (place / name).write_text(f"{value}\n")
    assert cpu_module._caches(tmp_path) == "L1d 32K, L1i 32K, L2 512K"
    assert cpu_module._caches(tmp_path / "nowhere") == ""
    _, _, facts = cpu_module.cpu_facts()
    assert all(facts.values()), "what is not known is not told"
    if cpu_module.CPU.joinpath("cache").is_dir():
        assert facts["caches"]


class Version(str):
    """As ``torch.__version__`` is: text, but not of the type that files are written of."""


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"runtime_version": Version("2.0")}, "runtime_version must be plain text, not '2.0' of type Version"),
        ({"hardware": None}, "hardware must be plain text"),
        ({"facts": {"clocks": 3}}, "fact 'clocks' must be plain text, not 3 of type int"),
        ({"facts": [("os", "Linux")]}, "facts must map names to text"),
        ({"threads": 0}, "threads must be a whole number"),
        ({"batch": np.int64(2)}, "batch must be a whole number"),
        ({"name": "half \ud83d"}, "name holds half a character"),
    ],
)
def test_a_device_refuses_what_cannot_be_written(fields: dict[str, Any], said: str) -> None:
    """Before anything is measured, and not when the table is saved."""
    with pytest.raises(InvalidInput, match=re.escape(said)):
        Device(**{"name": "mine", "kind": "cpu", "hardware": "chip", "runtime": "mine", "runtime_version": "1"} | fields)


def test_the_contract_suite_looks_for_devices_that_cannot_be_written() -> None:
    class Careless(Roofline):
        def describe(self) -> Device:
            return replace(super().describe(), runtime_version=Version("1"))

    with pytest.raises(AssertionError, match="describe\\(\\) gives a device that tables can be written with: .*runtime_version"):
        check_backend(Careless())
