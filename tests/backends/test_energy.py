"""Meters of energy, on counters that are files and on an NVML that is played: no constant is ever taken for a measurement."""

import time
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import make_table

import hwsearch
from hwsearch.backends import Session, _energy, load_backend
from hwsearch.backends._energy import Metered, NvmlCounter, NvmlPower, Rapl, cpu_meter, gpu_meter, metered
from hwsearch.devices import Row
from hwsearch.errors import InvalidInput, Unsupported
from hwsearch.testing import check_backend


class Clock:
    """Virtual time, and a device that uses ``watts``."""

    def __init__(self, watts=50.0):
        self.now, self.watts = 0.0, watts

    def monotonic(self):
        return self.now

    def run(self, seconds=0.0031):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(_energy.time, "monotonic", clock.monotonic)
    return clock


class Steps(_energy.Meter):
    """A counter that moves every 100 ms."""

    step_s, words = 0.1, "played"

    def __init__(self, clock):
        self.clock = clock

    def joules(self):
        return self.clock.watts * 0.1 * int(self.clock.now / 0.1)


def test_energy_of_a_run_is_found_far_below_the_step_of_the_counter(clock):
    assert Steps(clock).energy_mj(clock.run) == pytest.approx(1e3 * 50.0 * 0.0031, rel=0.01)
    begin = clock.now
    Steps(clock).energy_mj(clock.run)
    assert 2.0 <= clock.now - begin < 2.3, "a window of 20 steps, begun and ended at a step"
    assert Steps(clock).energy_mj(lambda: clock.run(7.0)) == pytest.approx(1e3 * 50.0 * 7.0, rel=0.01)


def test_a_counter_that_stands_still_gives_no_energy(clock):
    clock.watts = 0.0
    assert Steps(clock).energy_mj(clock.run) is None


def powercap(root, packages=2, span=1_000_000):
    for number in range(packages):
        zone = root / f"intel-rapl:{number}"
        zone.mkdir(parents=True)
        (zone / "name").write_text(f"package-{number}\n")
        (zone / "max_energy_range_uj").write_text(f"{span}\n")
        (zone / "energy_uj").write_text("999000\n")
    for name, what in (("intel-rapl:0:0", "core"), (f"intel-rapl:{packages}", "psys")):
        part = root / name
        part.mkdir()
        (part / "name").write_text(f"{what}\n")
        (part / "max_energy_range_uj").write_text(f"{span}\n")
        (part / "energy_uj").write_text("5\n")
    return root


def test_rapl_adds_packages_and_understands_counters_that_begin_again(tmp_path):
    root = powercap(tmp_path / "powercap")
    meter = Rapl(root)
    assert meter.joules() == 0
    (root / "intel-rapl:0" / "energy_uj").write_text("999500\n")
    (root / "intel-rapl:1" / "energy_uj").write_text("200\n")
    (root / "intel-rapl:0:0" / "energy_uj").write_text("900000\n")
    assert meter.joules() == pytest.approx(1e-6 * (500 + 200 + 1001 - 0))
    assert meter.joules() == pytest.approx(1e-6 * 1701)


def test_a_machine_without_counters_has_no_energy(tmp_path):
    with pytest.raises(Unsupported, match="shows no energy counters"):
        Rapl(tmp_path)
    root = powercap(tmp_path / "powercap")
    (root / "intel-rapl:1" / "energy_uj").unlink()
    with pytest.raises(Unsupported, match="cannot be read"):
        Rapl(root)
    assert cpu_meter(root) is None


class Nvml(types.SimpleNamespace):
    """What of pynvml is used."""

    class NVMLError(Exception):
        pass

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu):
        if self.energy is None:
            raise self.NVMLError("Not Supported")
        return self.energy()

    def nvmlDeviceGetPowerUsage(self, gpu):
        if self.power is None:
            raise self.NVMLError("Not Supported")
        return self.power


def test_a_gpu_is_metered_by_its_counter_else_by_its_power_else_not(monkeypatch):
    nvml = Nvml(energy=lambda: 123_456, power=60_000)
    monkeypatch.setattr(_energy, "_nvml", lambda: nvml)
    meter = gpu_meter("gpu")
    assert isinstance(meter, NvmlCounter)
    assert meter.joules() == pytest.approx(123.456)
    assert "100 ms" in meter.words
    nvml.energy, begin = None, time.monotonic()
    meter = gpu_meter("gpu")
    assert isinstance(meter, NvmlPower)
    while meter.joules() == 0 and time.monotonic() < begin + 10:
        time.sleep(0.01)
    meter.close()
    assert 0 < meter.joules() <= 60.0 * (time.monotonic() - begin)
    nvml.power = None
    assert gpu_meter("gpu") is None


class Sleeper(Session):
    batch = 3

    def __init__(self, clock):
        self.clock, self.closed = clock, False

    def times(self, runs):
        for _ in range(runs):
            self.clock.run()
        return np.full(runs, 0.0031)

    def close(self):
        self.closed = True


def test_a_session_with_a_meter_measures_its_energy_once(clock):
    inner = Sleeper(clock)
    assert metered(inner, None) is inner
    assert inner.energy_mj is None
    session = metered(inner, Steps(clock))
    assert isinstance(session, Metered)
    first, then = session.energy_mj, clock.now
    assert first == pytest.approx(155.0, rel=0.01)
    assert session.energy_mj == first
    assert clock.now == then
    assert session.batch == 3
    session.close()
    assert inner.closed


def test_a_cpu_that_shows_its_counters_has_measured_energies(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    root = powercap(tmp_path / "powercap")
    counter = root / "intel-rapl:0" / "energy_uj"
    plain = Path.read_text

    def ticking(self, *args, **kwargs):
        if self == counter:
            counter.write_text(f"{int(time.monotonic() * 1e6 * 20) % 1_000_000}")
        return plain(self, *args, **kwargs)

    monkeypatch.setattr("hwsearch.backends._cpu.cpu_meter", lambda: cpu_meter(root))
    monkeypatch.setattr(_energy.Meter, "window_s", 0.005)
    assert load_backend("onnxruntime").energy == "measured"
    monkeypatch.setattr(Path, "read_text", ticking)
    backend = load_backend("onnxruntime")
    assert "RAPL" in backend.describe().facts["energy"]
    check_backend(backend)
    with backend.open((hwsearch.networks.Block("conv", 3, 8, 8, (), 3),)) as session:
        assert session.energy_mj > 0
    monkeypatch.setattr("hwsearch.backends._cpu.cpu_meter", lambda: None)
    without = load_backend("onnxruntime")
    assert (without.energy, without.describe().facts["energy"]) == ("unavailable", "no meter")


def test_energy_is_limited_as_any_other_metric(toy):
    table = make_table(toy.unique_blocks)
    params = hwsearch.metric("params", toy)

    def score(X):
        return np.log(params(X))

    free = hwsearch.search(toy, device=table, predictor=score, limits={"latency_ms": 1e9}, seed=0, run=hwsearch.Run(progress=False))
    limit = 0.7 * free.values["energy_mj"]
    found = hwsearch.search(toy, device=table, predictor=score, limits={"energy_mj": limit}, seed=0, run=hwsearch.Run(progress=False))
    assert found.values["energy_mj"] <= limit
    assert found.best_score < free.best_score
    rows = {key: Row(row.latency_ms) for key, row in table.rows.items()}
    with pytest.raises(InvalidInput, match="energy on 'roofline' is unavailable"):
        hwsearch.search(
            toy,
            device=replace(table, rows=rows, energy="unavailable"),
            predictor=score,
            limits={"energy_mj": limit},
            run=hwsearch.Run(progress=False),
        )
