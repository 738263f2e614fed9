"""PyTorch as a device: on the CPU as it is, on a GPU where one is."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hwsearch.backends import load_backend  # noqa: E402
from hwsearch.backends.torch import _module  # noqa: E402
from hwsearch.errors import BuildFailed, InvalidInput, Unsupported  # noqa: E402
from hwsearch.networks import Block  # noqa: E402
from hwsearch.profiling import Effort, profile  # noqa: E402
from hwsearch.spaces import (  # noqa: E402
    Chain,
    Stage,
    load_space,
)
from hwsearch.testing import check_backend, example_blocks  # noqa: E402

SPACE = Chain("tiny", (8,), (8,), (Stage((1,), (8, 12), (4, 8)),), 10, channels=1, precisions=("fp32",)).space()


def some_networks():
    space = load_space("resnet_digits").restrict({"*precision": ["fp32"]})
    return [space.blocks(row) for row in space.sample(2, np.random.default_rng(0))]


def test_the_cpu_keeps_the_contract():
    check_backend(load_backend("torch", device="cpu"), some_networks())
    check_backend(load_backend("torch", device="cpu", batch=3))


def test_every_kind_of_block_runs():
    device = load_backend("torch", device="cpu")
    kinds = {}
    for name in ("ofa_mobilenetv3", "ofa_resnet50"):
        for block in load_space(name).unique_blocks:
            if device.supports(block):
                kinds.setdefault((block.kind, len(block.mids), block.activation), block)
    assert {"mbconv", "separable", "bottleneckd", "head"} <= {kind for kind, _, _ in kinds}
    for block in kinds.values():
        with device.open((block,)) as session:
            assert (session.times(1) > 0).all()


def test_what_runs_computes_what_the_network_does():
    from hwsearch.backends._torch_blocks import GraphBlock

    block = Block("basic", 8, 16, 8, (12,), 3, 2)
    torch.manual_seed(0)
    whole = _module((block,), torch.device("cpu"))
    torch.manual_seed(0)
    plain = GraphBlock(block).eval()
    image = torch.randn(2, 8, 8, 8)
    torch.testing.assert_close(whole(image), plain(image), rtol=1e-4, atol=1e-5)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in whole.modules()), "batch norms are folded"


def test_number_formats_change_inside_a_network():
    network = (
        Block("conv", 3, 8, 8, (), 3),
        Block("quantize", 8, 8, 8, precision="bf16"),
        Block("basic", 8, 8, 8, (8,), 3, precision="bf16"),
        Block("dequantize", 8, 8, 8, precision="bf16"),
        Block("head", 8, 10, 8),
    )
    module = _module(network, torch.device("cpu"))
    seen = []
    for part in module:
        part.register_forward_hook(lambda part, given, out: seen.append(out.dtype))
    module(torch.randn(1, 3, 8, 8))
    assert seen == [torch.float32, torch.bfloat16, torch.bfloat16, torch.float32, torch.float32]


def test_modes_are_different_devices_and_threads_are_handed_back():
    eager = load_backend("torch", device="cpu", threads=2)
    device = eager.describe()
    assert (device.kind, device.runtime, device.threads) == ("cpu", "torch", 2)
    assert device.runtime_version == f"{torch.__version__} eager"
    assert not device.same_as(load_backend("torch", device="cpu", mode="compile").describe())
    assert load_backend("torch", **eager.options).describe() == device
    before = torch.get_num_threads()
    with eager.open(example_blocks("fp32")[:1]) as session:
        session.times(1)
    assert torch.get_num_threads() == before


def test_compiled_networks_do_not_push_each_other_out(monkeypatch):
    """The compiler forgets what it has compiled for one piece of code when that becomes too much; every network must count by itself."""
    compiled, compile = [], torch.compile

    def counting(graph, inputs):
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda function, **options: compile(function, **options, backend=counting))
    device = load_backend("torch", device="cpu", mode="compile")
    widths = range(4, 24)
    sessions = [device.open((Block("conv", 3, width, 8, (), 3),)) for width in widths]
    assert len(compiled) == len(widths)
    for session in sessions:
        assert (session.times(2) > 0).all()
    assert len(compiled) == len(widths), "something was compiled again"


def test_what_pytorch_cannot_make_ready_costs_one_block(monkeypatch, tmp_path):
    device = load_backend("torch", device="cpu")
    broken = next(block for block in SPACE.unique_blocks if block.kind == "basic")
    plain = type(device).__module__

    def module(network, where):
        if broken in network:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return _module(network, where)

    monkeypatch.setattr(f"{plain}._module", module)
    with pytest.raises(BuildFailed, match=rf"cannot make {broken.key} ready: RuntimeError: CUDA out of memory"):
        device.open((broken,))
    with pytest.warns(UserWarning, match="1 block could not be built"):
        table = profile(
            SPACE, backend=device, out=tmp_path / "t.json", effort=Effort(max_rounds=2, precision=0.5, checks=12, fits=4), progress=False
        )
    assert table.missing(SPACE.unique_blocks) == (broken,)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(InvalidInput, match="mode must be one of eager, graph, compile"):
        load_backend("torch", mode="fast")
    with pytest.raises(Unsupported, match="CUDA graphs need a GPU"):
        load_backend("torch", device="cpu", mode="graph")
    with pytest.raises(Unsupported, match="no device 'mps'"):
        load_backend("torch", device="mps")
    for device in ("toaster", ["cpu"]):
        with pytest.raises(Unsupported, match="knows no device"):
            load_backend("torch", device=device)
    with pytest.raises(Unsupported, match="has no model files"):
        load_backend("torch", device="cpu").model(some_networks()[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that PyTorch can use")
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_gpu_keeps_the_contract(mode):
    check_backend(load_backend("torch", device="cuda", mode=mode), some_networks())
