"""Finishing a network of the user's: taught by the whole network, rounded as its file, judged as it runs, however often it is stopped."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from torch import nn

import hwsearch
from hwsearch.errors import FileError, InvalidInput, WrongSpace
from hwsearch.nn import Deployment, evaluate_file, load_data
from hwsearch.nn.adoption import load_network, quantize, save_adopted, save_network
from hwsearch.nn.adoption._judge import Judge
from hwsearch.nn.adoption._rounded import Rounded
from hwsearch.nn.adoption._student import Floating
from hwsearch.nn.quantization._quantize import Quantization
from hwsearch.reports._formats import find_architecture
from hwsearch.searching import load_finished

torch.set_num_threads(1)

ONE = {"epochs": 1, "batch": 32}
INT8 = Deployment(precision="int8")


class Net(nn.Module):
    """A small classifier of digits."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.second, self.other = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(2 * width)
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.first(x)))
        return self.head(F.relu(self.other(self.second(x))).mean((2, 3)))


@pytest.fixture(scope="module")
def space() -> Any:
    """The classifier, trained in a few seconds, as a search space."""
    torch.manual_seed(0)
    module, data = Net(), load_data("digits")
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    x, y = data.normalize(data.train_x), data.train_y
    for epoch in range(6):
        for index in torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(module(x[index]), y[index]).backward()
            optimizer.step()
    return hwsearch.adopt(module.eval(), torch.randn(1, 1, 8, 8), step=4)


@pytest.fixture(scope="module")
def narrow(space: Any) -> hwsearch.Architecture:
    """A sixth of its channels."""
    return space.architecture(space.row(dict.fromkeys(space.places.groups, 4)))


def right(network: nn.Module, space: Any) -> float:
    return Judge(load_data("digits"), space.network)(network, "test")


@pytest.fixture(scope="module")
def done(space: Any, narrow: hwsearch.Architecture, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, hwsearch.searching.Finished]:
    """The narrow network, finished in int8."""
    out = tmp_path_factory.mktemp("finished")
    recipe = {"epochs": 6, "batch": 32, "learning_rate": 0.1}
    return out, hwsearch.finish(narrow, data="digits", out=out, recipe=recipe, deployment=INT8, progress=False)


def test_the_whole_network_teaches_a_cut_one_and_accuracy_rises(space: Any, narrow: hwsearch.Architecture, done: Any) -> None:
    out, found = done
    before = right(load_network(out / "cut.safetensors"), space)
    assert found.float_accuracy > before + 0.05, "repaired, but not trained"
    assert found.float_accuracy == right(load_network(out / "float.safetensors"), space)
    assert found.teacher_accuracy == right(space.network, space)
    assert found.teacher_accuracy > found.accuracy > 0.6
    assert found.teacher_ms is not None
    assert found.params == sum(each.numel() for each in load_network(out / "cut.safetensors").parameters())
    assert found.macs == int(space.macs(*space.plan(narrow.genes)))
    assert load_finished(out / "finished.json", space) == found
    assert found.architecture == narrow


def test_the_file_is_as_accurate_as_the_network_that_was_tuned_rounded(space: Any, done: Any) -> None:
    """Quantised training tunes what the file runs: the same rounding, and the same accuracy."""
    out, found = done
    tuned = load_network(out / "tuned.safetensors")
    assert found.weights == "tuned.safetensors"
    assert found.simulated_accuracy == right(tuned, space)
    assert found.accuracy == pytest.approx(found.simulated_accuracy, abs=0.003)
    assert evaluate_file(out / found.model, data="digits") == found.accuracy
    again = hwsearch.export(tuned, data="digits", out=out / "again.onnx")
    assert again.read_bytes() == (out / found.model).read_bytes()
    with pytest.raises(InvalidInput, match="rounded already"):
        hwsearch.export(tuned, data="digits", out=out / "again.onnx", precision="int8")


def test_the_same_call_trains_nothing_again_and_another_network_is_refused(space: Any, narrow: hwsearch.Architecture, done: Any) -> None:
    out, found = done
    recipe = {"epochs": 6, "batch": 32, "learning_rate": 0.1}
    stamps = {path: path.stat().st_mtime_ns for path in out.glob("*.safetensors")}
    again = hwsearch.finish(narrow, data="digits", out=out, recipe=recipe, deployment=INT8, progress=False)
    assert (again.accuracy, again.float_accuracy) == (found.accuracy, found.float_accuracy)
    assert stamps == {path: path.stat().st_mtime_ns for path in out.glob("*.safetensors")}
    wide = space.architecture(space.row(dict.fromkeys(space.places.groups, 8)))
    with pytest.raises(WrongSpace, match="another network"):
        hwsearch.finish(wide, data="digits", out=out, recipe=recipe, progress=False)
    with pytest.raises(InvalidInput, match="epochs 6 there and 2 here"):
        hwsearch.finish(narrow, data="digits", out=out, recipe=recipe | {"epochs": 2}, deployment=INT8, progress=False)


def test_a_fresh_process_loads_what_was_finished_without_the_class(done: Any) -> None:
    out, _ = done
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    script = (
        "import sys, torch; from hwsearch.nn.adoption import load_network\n"
        "x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))\n"
        "with torch.no_grad():\n"
        "    for name in sys.argv[1:]: print(load_network(name)(x).numpy().tobytes().hex())"
    )
    files = [str(out / f"{name}.safetensors") for name in ("float", "tuned")]
    said = subprocess.run([sys.executable, "-c", script, *files], capture_output=True, text=True, check=True, env=_environment())
    with torch.no_grad():
        assert said.stdout.split() == [load_network(file)(x).numpy().tobytes().hex() for file in files]


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}


SCRIPT = """
import sys, torch
torch.set_num_threads(1)
import hwsearch
recipe = {"epochs": 2, "batch": 32, "teacher": sys.argv[1]}
deployment = hwsearch.nn.Deployment(precision="int8")
hwsearch.finish(sys.argv[2], data="digits", out=sys.argv[3], recipe=recipe, deployment=deployment, progress=False)
"""


@pytest.mark.slow
def test_killed_in_both_stages_it_ends_with_the_same_bytes(space: Any, narrow: hwsearch.Architecture, tmp_path: Path) -> None:
    """kill -9 while it trains in floats, and again while it trains rounded."""
    whole, small = tmp_path / "whole", tmp_path / "small.safetensors"
    save_network(hwsearch.extract(narrow), small)
    save_adopted(space, whole)

    def finished(out: Path) -> None:
        recipe = {"epochs": 2, "batch": 32, "teacher": whole}
        hwsearch.finish(small, data="digits", out=out, recipe=recipe, deployment=INT8, progress=False)

    finished(tmp_path / "straight")
    for stage in ("float", "tuned"):
        partial = tmp_path / "killed" / f"{stage}.safetensors.partial"
        command = [sys.executable, "-c", SCRIPT, str(whole), str(small), str(tmp_path / "killed")]
        with subprocess.Popen(command, env=_environment()) as process:
            deadline = time.monotonic() + 120
            while not partial.exists() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
        assert partial.exists(), "the training ended before it was killed"
    finished(tmp_path / "killed")
    for name in ("float.safetensors", "tuned.safetensors", "best.onnx"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes(), name


def test_images_without_labels_are_enough(space: Any, narrow: hwsearch.Architecture, tmp_path: Path) -> None:
    data = load_data("digits")
    images = data.normalize(data.train_x)
    recipe = {"epochs": 5, "batch": 32, "learning_rate": 0.1}
    found = hwsearch.finish(narrow, data=images, out=tmp_path, recipe=recipe, progress=False)
    assert found.metric == "agreement with the whole network"
    assert right(load_network(tmp_path / "float.safetensors"), space) > right(load_network(tmp_path / "cut.safetensors"), space) + 0.03
    # The same from batches, as of a DataLoader, with labels that are looked at.
    batches = zip(images.split(100), data.train_y.split(100), strict=True)
    labelled = hwsearch.finish(narrow, data=batches, out=tmp_path / "more", recipe=ONE, progress=False)
    assert labelled.metric is None


def test_loss_and_metric_of_the_user_decide(space: Any, narrow: hwsearch.Architecture, tmp_path: Path) -> None:
    seen: list[tuple[int, ...]] = []

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(outputs.shape))
        return (outputs[:, 0] - targets).square().mean()

    data = load_data("digits")
    images, targets = data.normalize(data.train_x)[:300], torch.linspace(0, 3, 300)

    def closeness(module: nn.Module) -> float:
        with torch.no_grad():
            return -float((module(images)[:, 0] - targets).square().mean())

    recipe = {"epochs": 4, "batch": 30, "learning_rate": 0.01, "loss": loss, "metric": closeness, "distill": 0.1}
    found = hwsearch.finish(narrow, data=[(images, targets)], out=tmp_path, recipe=recipe, progress=False)
    assert set(seen) == {(30, 10)}
    assert found.metric is not None
    assert found.metric.endswith("closeness")
    network = load_network(tmp_path / "float.safetensors")
    assert closeness(network) > closeness(load_network(tmp_path / "cut.safetensors"))
    assert found.accuracy == pytest.approx(closeness(network), rel=1e-3), "the metric judges the file that was run"
    curve = network.meta["facts"]["happened"]["curve"]
    assert max(value for _, value in curve) == pytest.approx(closeness(network), rel=1e-5), "the best weights are kept"


def test_training_that_makes_it_worse_keeps_the_weights_that_it_began_with(
    narrow: hwsearch.Architecture, space: Any, tmp_path: Path
) -> None:
    def shrink(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return 30 * outputs.square().mean()

    recipe = {"epochs": 1, "batch": 32, "learning_rate": 0.1, "distill": 0.0, "loss": shrink}
    hwsearch.finish(narrow, data="digits", out=tmp_path, recipe=recipe, progress=False)
    cut, kept = load_network(tmp_path / "cut.safetensors"), load_network(tmp_path / "float.safetensors")
    x = torch.randn(8, 1, 8, 8)
    with torch.no_grad():
        assert torch.allclose(kept(x), cut(x), atol=1e-4)


def test_any_module_learns_from_labels_alone(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    found = hwsearch.finish(module, data="digits", out=tmp_path, recipe={"epochs": 4, "batch": 32, "learning_rate": 0.1}, progress=False)
    assert found.accuracy > 0.6
    assert found.teacher_ms is None
    assert load_finished(tmp_path / "finished.json") == found
    assert found.architecture is None
    with pytest.raises(FileError, match="holds no architecture"):
        find_architecture(tmp_path / "finished.json")
    assert not module[1].weight.equal(load_network(tmp_path / "float.safetensors").get_parameter("1.weight"))


def test_a_module_that_was_held_still_for_inference_learns_and_is_left_as_it_was(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).requires_grad_(False)
    found = hwsearch.finish(module, data="digits", out=tmp_path, recipe={"epochs": 4, "batch": 32, "learning_rate": 0.1}, progress=False)
    assert found.accuracy > 0.6
    assert not any(each.requires_grad for each in module.parameters())


def test_frozen_tensors_stay_equal_to_the_bit(space: Any, tmp_path: Path) -> None:
    module = space.module
    held = hwsearch.adopt(module, torch.randn(1, 1, 8, 8), step=4, freeze=["first", "norm", "head.bias"])
    row = held.row(dict.fromkeys(held.places.groups, 8))
    hwsearch.finish(held.architecture(row), data="digits", out=tmp_path, recipe=ONE, progress=False)
    network = load_network(tmp_path / "float.safetensors")
    for name in ("first.weight", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var", "head.bias"):
        assert torch.equal(network.state_dict()[name], module.state_dict()[name]), name
    assert not torch.equal(network.state_dict()["head.weight"], module.state_dict()["head.weight"][:, :8])


def test_precisions_that_a_search_has_chosen_are_those_of_the_file(space: Any, tmp_path: Path) -> None:
    mixed = hwsearch.adopt(space.module, torch.randn(1, 1, 8, 8), step=4, precisions=("fp32", "int8"))
    values = {choice.name: "int8" if choice.is_precision else choice.values[0] for choice in mixed.choices}
    architecture = mixed.architecture(mixed.encode(values))
    hwsearch.finish(architecture, data="digits", out=tmp_path, recipe=ONE, progress=False)
    tuned = load_network(tmp_path / "tuned.safetensors")
    assert tuned.meta["facts"]["precision"] == mixed.bits(architecture.genes)
    assert "integers" in str(tuned.graph)


def test_repaired_networks_compute_the_same_by_the_statistics_of_what_they_see(space: Any, narrow: hwsearch.Architecture) -> None:
    """Training goes by the images of a step; without this, its first step would undo the repair."""
    data = load_data("digits")
    images = data.normalize(data.train_x)
    network = hwsearch.extract(narrow, data=images)
    with torch.no_grad():
        before = network(images)
        student = Floating(network, (), [(images,)])
        assert torch.allclose(network(images), before, atol=1e-4)
        [trained] = student((images,))
        assert torch.allclose(trained, before, atol=1e-3), "also by the images themselves"


@pytest.mark.parametrize("precision", ["int8", {"*": "int8", "second": "fp32"}])
def test_quantised_training_begins_with_what_is_exported(space: Any, narrow: hwsearch.Architecture, precision: Any) -> None:
    data = load_data("digits")
    images = data.normalize(data.train_x)[:256]
    network = hwsearch.extract(narrow, data=images)
    how = Quantization(weight_bits=7)
    student = Rounded(network, (images,), precision, how)
    with torch.no_grad():
        wanted = quantize(network, [images], precision, how)(images)
        assert torch.allclose(student.result()(images), wanted, atol=1e-5)
        [trained] = student((images,))
        apart = (trained - wanted).abs().median() / wanted.abs().max()
        assert float(apart) < 0.005, "up to values that lie between two integers"
    [trained] = student((images,))
    trained.square().mean().backward()
    learned = {name for name, each in student.network.named_parameters() if each.grad is not None and bool(each.grad.abs().sum())}
    assert any(name.endswith("grid.step") for name in learned)
    assert any(name.startswith("maps.") for name in learned)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"patience": 2, "teacher": nn.Identity()}, "for networks of a supernet"),
        ({"keep": "first"}, "keep 'first'"),
        ({"distill": 1.5}, "distill must be between 0 and 1"),
        ({"epochz": 1}, "Did you mean 'epochs'"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(narrow: hwsearch.Architecture, tmp_path: Path, recipe: Any, message: str) -> None:
    with pytest.raises(hwsearch.errors.HwsearchError, match=message):
        hwsearch.finish(narrow, data="digits", out=tmp_path, recipe=recipe, progress=False)


def test_other_mistakes_are_named(space: Any, narrow: hwsearch.Architecture, toy: hwsearch.SearchSpace, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="not NoneType"):
        hwsearch.finish(None, data="digits", out=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="precisions from the search"):
        hwsearch.finish(toy.architecture(toy.sample(1, np.random.default_rng(0))[0]), data="digits", out=tmp_path, deployment=INT8)
    with pytest.raises(InvalidInput, match="metric is for networks of your own"):
        hwsearch.train(toy, data="digits", out=tmp_path / "a.safetensors", recipe={"metric": len, "epochs": 1})
    with pytest.raises(InvalidInput, match="keep is for networks of your own"):
        hwsearch.train(toy, data="digits", out=tmp_path / "a.safetensors", recipe={"keep": "last", "epochs": 1})
    with pytest.raises(InvalidInput, match="brings its weights along"):
        hwsearch.finish(space.network, data="digits", out=tmp_path, weights=space.network)
    with pytest.raises(InvalidInput, match="at least 10 are needed"):
        hwsearch.finish(narrow, data=torch.randn(4, 1, 8, 8), out=tmp_path, weights=hwsearch.extract(narrow))
    three = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(InvalidInput, match=r"tell 10 classes apart, the network 3.*Learn from the whole network alone"):
        hwsearch.finish(three, data="digits", out=tmp_path, recipe={"teacher": three}, progress=False)
    with pytest.raises(InvalidInput, match="does not run on two images"):
        hwsearch.finish(narrow, data=torch.randn(40, 2, 8, 8), out=tmp_path, weights=hwsearch.extract(narrow))
    for precision, message in (("int4", "is fp32 or int8"), ({"no_such": "int8"}, "stands for no kernel")):
        with pytest.raises(InvalidInput, match=message):
            hwsearch.finish(narrow, data="digits", out=tmp_path, deployment=Deployment(precision=precision), progress=False)
    assert not list(tmp_path.glob("float*")), "told before anything is trained"


def test_the_last_weights_are_kept_where_that_is_asked(narrow: hwsearch.Architecture, tmp_path: Path) -> None:
    begun = hwsearch.extract(narrow)
    for keep in ("best", "last"):
        falling = itertools.count(0, -1)
        recipe = {"epochs": 2, "learning_rate": 0.01, "metric": lambda _, falling=falling: next(falling), "keep": keep}
        hwsearch.finish(narrow, data="digits", out=tmp_path / keep, weights=begun, recipe=recipe, progress=False)
        network = load_network(tmp_path / keep / "float.safetensors")
        assert len(network.meta["facts"]["happened"]["curve"]) == 3
        pairs = zip(network.parameters(), begun.parameters(), strict=True)
        same = all(torch.equal(one, other) for one, other in pairs if one.ndim > 1)  # scales of norms are written anew before the start
        assert same == (keep == "best"), "each judgement is worse than the one before, so the start is the best"


def test_quantised_training_makes_good_what_coarse_weights_lose(narrow: hwsearch.Architecture, tmp_path: Path) -> None:
    deployment = Deployment(precision="int8", tuning=8, quantization=Quantization(weight_bits=2))
    recipe = {"epochs": 1, "batch": 32, "learning_rate": 0.1}
    done = hwsearch.finish(narrow, data="digits", out=tmp_path, recipe=recipe, deployment=deployment, progress=False)
    curve = [value for _, value in load_network(tmp_path / "tuned.safetensors").meta["facts"]["happened"]["curve"]]
    assert done.tuned
    assert max(curve) > curve[0] + 0.03, "better than calibration alone"
    assert done.accuracy == pytest.approx(done.simulated_accuracy, abs=0.01), "of the file, as it was run"
