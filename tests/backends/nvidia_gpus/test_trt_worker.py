"""What the worker asks of TensorRT 10 and 11, from a stand-in for the package: the versions that cannot be installed without a GPU."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from hwsearch.backends._nvidia import _cuda, _trt
from hwsearch.backends._nvidia import _worker as _trt_worker
from hwsearch.errors import MissingDependency

from .stand_ins import fake_tensorrt


class Asked:
    """A builder, its configuration and its parser in one, which notes what it is asked for."""

    def __init__(self, typed=True, plan=b"a plan", errors=()):
        self.done, self.plan, self.errors = {}, plan, errors
        flags = {"STRONGLY_TYPED": 1} if typed else {}
        self.module = fake_tensorrt(
            Builder=lambda logger: self,
            OnnxParser=lambda network, logger: self,
            NetworkDefinitionCreationFlag=SimpleNamespace(**flags),
            BuilderFlag=SimpleNamespace(SPARSE_WEIGHTS="sparse"),
            MemoryPoolType=SimpleNamespace(WORKSPACE="workspace"),
        )

    def create_network(self, flags):
        self.done["flags"] = flags
        return "network"

    def parse(self, model):
        self.done["model"] = model
        return not self.errors

    @property
    def num_errors(self):
        return len(self.errors)

    def get_error(self, index):
        return SimpleNamespace(desc=lambda: self.errors[index])

    def create_builder_config(self):
        return self

    def set_flag(self, flag):
        self.done["flag"] = flag

    def set_memory_pool_limit(self, pool, size):
        self.done[pool] = size

    def create_timing_cache(self, kept):
        self.done["kept"] = kept
        return SimpleNamespace(serialize=lambda: kept + b"+")

    def set_timing_cache(self, timing, ignore_mismatch):
        self.done["ignore_mismatch"] = ignore_mismatch

    def build_serialized_network(self, network, config):
        return self.plan


@pytest.fixture
def request_of(tmp_path, monkeypatch):
    (tmp_path / "model.onnx").write_bytes(b"a model")
    gpus = []
    monkeypatch.setattr(_trt_worker, "_gpu", gpus.append)

    def make(**changes):
        make.gpus = gpus
        paths = {"model": "model.onnx", "out": "model.engine", "timing": "cache.timing"}
        return {
            **{name: str(tmp_path / path) for name, path in paths.items()},
            "targets": ["89"],
            "here": "89",
            "gpu": 1,
            "workspace_mib": 64,
            **changes,
        }

    return make


def test_networks_are_strongly_typed_where_that_can_be_chosen_and_built_on_the_gpu_asked_for(request_of, tmp_path):
    for typed, flags in ((True, 2), (False, 0)):
        asked = Asked(typed)
        assert _trt_worker.build(asked.module, "logger", request_of()) == ""
        assert (tmp_path / "model.engine").read_bytes() == b"a plan"
        assert asked.done["flags"] == flags
        assert asked.done["workspace"] == 64 << 20
        assert asked.done["flag"] == "sparse"
    assert request_of.gpus == [1, 1]
    assert callable(_cuda.load)


def test_the_timing_cache_is_kept_and_reused(request_of, tmp_path):
    for number in range(3):
        asked = Asked()
        _trt_worker.build(asked.module, "logger", request_of())
        assert asked.done["kept"] == b"+" * number
        assert asked.done["ignore_mismatch"] is False
    assert (tmp_path / "cache.timing").read_bytes() == b"+++"


def test_what_fails_is_told_and_leaves_nothing(request_of, tmp_path):
    refused = Asked(errors=("no such operator", "and no such type"))
    assert _trt_worker.build(refused.module, "logger", request_of()) == "the parser refuses the graph: no such operator; and no such type"
    nothing = Asked(plan=None)
    assert _trt_worker.build(nothing.module, "logger", request_of()) == "the builder made no engine"
    assert not (tmp_path / "model.engine").exists()


def test_the_first_package_that_is_installed_is_taken(monkeypatch):
    import sys
    from types import ModuleType

    for installed in (("tensorrt", "tensorrt_rtx"), ("tensorrt_rtx", "tensorrt_rtx_bindings"), ("tensorrt_rtx_bindings",)):
        for name in _trt.PACKAGES:
            module = ModuleType(name)
            module.Builder = object
            monkeypatch.setitem(sys.modules, name, module if name in installed else None)
        assert _trt.find.__wrapped__().__name__ == installed[0]
        assert _trt.is_rtx(_trt.find.__wrapped__()) == (installed[0] != "tensorrt")


def test_a_folder_that_happens_to_have_its_name_is_not_tensorrt(monkeypatch):
    import sys
    from types import ModuleType

    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    for name in _trt.PACKAGES[1:]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependency, match="needs the package 'tensorrt'"):
        _trt.find.__wrapped__()
