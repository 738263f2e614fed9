import time
from pathlib import Path

import numpy as np
import pytest

import hwsearch
from hwsearch.backends import Backend, Roofline, load_backend
from hwsearch.backends._clock import clock_of, timed
from hwsearch.errors import FileError, InvalidInput, UnknownName, Unsupported
from hwsearch.networks import Block
from hwsearch.spaces import load_space
from hwsearch.testing import check_backend, example_blocks

CONV = Block("conv", 3, 8, 8, (), 3)


RUNTIMES = ("onnxruntime", "openvino")


@pytest.fixture(scope="module", params=RUNTIMES)
def runtime(request) -> Backend:
    """Each runtime of the CPU."""
    pytest.importorskip(request.param)
    return load_backend(request.param)


def some_networks(n=3):
    space = load_space("resnet_digits")
    return [space.blocks(row) for row in space.sample(n, np.random.default_rng(0))]


def test_roofline_keeps_the_contract():
    check_backend(Roofline(), some_networks())


def test_runtimes_keep_the_contract(runtime):
    check_backend(runtime, some_networks())


def test_a_backend_that_breaks_the_contract_is_found_out():
    class Careless(Roofline):
        def supports(self, block):
            return True

    with pytest.raises((AssertionError, KeyError)):
        check_backend(Careless(peak_gmacs={"fp32": 10.0}))


def test_a_backend_that_a_board_cannot_make_again_is_found_out():
    class Forgetful(Roofline):
        def _model(self, network):
            return b"a file"

    with pytest.raises(AssertionError, match="options make the same backend again"):
        check_backend(Forgetful(batch=2))


def test_a_session_of_another_batch_than_its_backend_is_found_out():
    class OneByOne(Roofline):
        def _open(self, network):
            session = super()._open(network)
            session.batch = 1
            return session

    with pytest.raises(AssertionError, match="as many images at once"):
        check_backend(OneByOne(batch=2))


def test_backends_are_found_by_name():
    assert isinstance(load_backend("roofline"), Roofline)
    assert load_backend("roofline", bandwidth_gbs=5.0).bandwidth_gbs == 5.0
    mine = Roofline()
    assert load_backend(mine) is mine
    with pytest.raises(UnknownName, match="Did you mean 'roofline'"):
        load_backend("rofline")


def test_roofline_is_the_longer_of_arithmetic_and_traffic():
    wide = Block("conv", 16, 16, 32, (), 3)
    compute = Roofline(peak_gmacs={"fp32": 1.0}, bandwidth_gbs=1e6, block_us=1.0)
    assert compute.latency_ms(wide) == pytest.approx(wide.macs / 1e9 * 1e3 + 1e-3)
    memory = Roofline(peak_gmacs={"fp32": 1e6}, bandwidth_gbs=1.0, block_us=1.0)
    assert memory.latency_ms(wide) == pytest.approx(wide.traffic_bytes / 1e9 * 1e3 + 1e-3)


def test_roofline_climbs_in_stairs():
    device = Roofline(peak_gmacs={"fp32": 1.0}, tile={"fp32": 16}, bandwidth_gbs=1e6)
    latency = [device.latency_ms(Block("conv", 16, cout, 32, (), 3)) for cout in (8, 16, 17, 32, 33)]
    assert latency[0] == latency[1] < latency[2] == latency[3] < latency[4]


def test_roofline_networks_cost_the_sum_of_their_blocks():
    device = Roofline()
    for network in some_networks():
        with device.open(network) as session:
            expected = device.call_us * 1e-6 + sum(map(device.latency_ms, network)) * 1e-3
            np.testing.assert_allclose(session.times(4), expected)


def test_roofline_refuses_impossible_numbers():
    for bad in ({"bandwidth_gbs": 0.0}, {"peak_gmacs": {"fp32": -1.0}}, {"block_us": float("nan")}):
        with pytest.raises(InvalidInput, match="positive"):
            Roofline(**bad)
    for bad in ({"call_us": "10"}, {"call_us": True}, {"batch": "1"}, {"batch": 0.5}, {"tile": 4}, {"peak_gmacs": [1]}):
        with pytest.raises(InvalidInput, match=f"{next(iter(bad))}.* must (be|map)"):
            Roofline(**bad)


def test_a_different_roofline_is_a_different_device():
    assert Roofline().describe().same_as(Roofline().describe())
    assert not Roofline().describe().same_as(Roofline(bandwidth_gbs=1.0).describe())


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ((CONV, Block("conv", 9, 8, 8, (), 3)), "takes 9 channels of 8 px"),
        ((CONV, Block("conv", 8, 8, 4, (), 3)), "takes 8 channels of 4 px"),
        ((CONV, Block("conv", 8, 8, 8, (), 3, 1, 1, "int8")), "takes int8 values.*gives float; put a boundary"),
        ((Block("head", 8, 10, 8), Block("conv", 10, 8, 1)), "after the classifier"),
    ],
)
def test_blocks_that_do_not_fit_are_refused(network, message):
    with pytest.raises(InvalidInput, match=message):
        Roofline().open(network)


def test_a_precision_that_the_device_lacks_is_refused_before_anything_is_built(runtime, monkeypatch):
    from hwsearch.backends._onnx import _graph as onnx_graph

    monkeypatch.setattr(onnx_graph, "build", lambda *a, **k: pytest.fail("a graph was built"))
    with pytest.raises(Unsupported, match="fp32, int8"):
        runtime.open((Block("conv", 3, 8, 8, (), 3, 1, 1, "int4"),))


def test_runtimes_describe_the_machine(runtime):
    device = runtime.describe()
    assert (device.kind, device.runtime, device.threads, device.batch) == ("cpu", runtime.name, 1, 1)
    assert device.hardware
    assert {"os", "machine", "cores", "flags"} <= set(device.facts)
    assert not device.same_as(load_backend(runtime.name, threads=2).describe())
    assert not device.same_as(load_backend(runtime.name, batch=8).describe())
    assert all(device.same_as(load_backend(other).describe()) == (other == runtime.name) for other in RUNTIMES)
    with pytest.raises(InvalidInput, match="threads must be a whole number"):
        load_backend(runtime.name, threads=0)


def test_runtimes_run_files(runtime, tmp_path):
    from hwsearch.backends._onnx._graph import build

    path = tmp_path / "model.onnx"
    path.write_bytes(build(some_networks(1)[0]).SerializeToString())
    with runtime.load(path) as session:
        assert (session.times(2) > 0).all()
    with pytest.raises(FileError, match="no model file"):
        runtime.load(tmp_path / "other.onnx")
    path.write_bytes(b"not a model")
    with pytest.raises(FileError, match="cannot run"):
        runtime.load(path)
    with pytest.raises(Unsupported, match="does not run model files"):
        Roofline().load(path)


def test_open_dimensions_of_files_become_the_batch(runtime, tmp_path):
    from hwsearch.backends._onnx._graph import build

    model = build((CONV,))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    path = tmp_path / "open.onnx"
    path.write_bytes(model.SerializeToString())
    with load_backend(runtime.name, batch=3).load(path) as session:
        assert session.batch == 3
        assert (session.times(1) > 0).all()
    path.write_bytes(build((CONV,), batch=2).SerializeToString())
    with load_backend(runtime.name, batch=2).load(path) as session:
        assert session.batch == 2
    with pytest.raises(InvalidInput, match="takes 2 images at once, and the backend measures 3"):
        load_backend(runtime.name, batch=3).load(path)


def test_runtimes_run_every_block_in_a_batch(runtime):
    device = load_backend(runtime.name, batch=3)
    for precision in device.precisions:
        for block in example_blocks(precision):
            with device.open((block,)) as session:
                assert session.batch == 3
                assert (session.times(1) > 0).all()


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_openvino_runs_convolutions_at_the_precision_that_was_asked_for(precision):
    """Also where they are framed, and with no layer of a block shortened because of what stands behind it."""
    pytest.importorskip("openvino")
    from hwsearch.backends._onnx._graph import build

    device = load_backend("openvino")
    for block in (Block("bottleneck", 16, 16, 8, (8, 8), 3, 1, 1, precision), Block("basic", 16, 32, 8, (24,), 3, 2, 1, precision)):
        whole, _ = device.framed(block)
        found = [
            (facts["runtimePrecision"].astype(str), [int(size) for size in op.shape][2])
            for op in device.compile(build(whole)).get_runtime_model().get_ordered_ops()
            if (facts := op.get_rt_info())["layerType"].astype(str) == "Convolution"
        ]
        assert {kind for kind, _ in found} == {"f32" if precision == "fp32" else "u8"}
        layers = [layer.out_size for one in whole for layer in one.graph.layers]
        assert sorted(size for _, size in found) == sorted(layers)


def test_times_are_taken_and_blocks_are_framed_in_one_place_each():
    """A runtime says how it runs once; the loop around it and the neighbours of a block are the same for all."""
    sources = {path.name: path.read_text() for path in Path(hwsearch.backends.__file__).parent.rglob("*.py")}
    assert [name for name, text in sources.items() if "perf_counter" in text] == ["_clock.py"]
    assert [name for name, text in sources.items() if "stride=size" in text] == ["_frames.py"]
    calls = []
    seconds = timed(lambda: calls.append(time.sleep(2e-3)), 3)
    assert len(calls) == 3
    assert seconds.shape == (3,)
    assert seconds.min() >= 2e-3


def test_waiting_for_a_processor_is_no_latency_where_one_thread_does_all_the_work():
    """A thread that sleeps has none; of several threads, which may work while the caller waits, all time counts."""
    assert timed(lambda: time.sleep(2e-2), 3, clock_of(1)).max() < 1e-2
    assert timed(lambda: time.sleep(2e-2), 3, clock_of(2)).min() >= 2e-2
    assert timed(lambda: sum(range(200_000)), 3, clock_of(1)).min() > 1e-4


def test_a_run_during_which_the_clock_stood_still_is_repeated():
    """Clocks of virtual machines do that; a latency of nothing would be the lowest of all, and a share of nothing cannot be taken."""
    readings = iter([0, 50, 50, 50, 60, 110, 200, 230])
    assert timed(lambda: None, 3, lambda: next(readings)).tolist() == pytest.approx([50e-9, 30e-9, 50e-9])
    assert timed(lambda: None, 2, lambda: 7).tolist() == pytest.approx([1e-9, 1e-9])
