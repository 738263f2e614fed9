"""Data of the user's own: folders, arrays and tensors, datasets and loaders, any classes and channels, from Python and from the shell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, SubsetRandomSampler, TensorDataset
from typer.testing import CliRunner

import hwsearch
from hwsearch.cli import app
from hwsearch.errors import CorruptFile, FileError, InvalidInput, UnknownName, WrongSpace
from hwsearch.nn import Data, dataset_data, folder_data, load_data, make_data
from hwsearch.nn.data import _kept
from hwsearch.spaces import Chain, Stage

torch.set_num_threads(1)


def tiny(classes: int, channels: int) -> hwsearch.SearchSpace:
    return Chain("tiny", (8,), (8,), (Stage((1,), (8,), (8, 12)),), classes, ("fp32", "int8"), channels).space()


def learns(data: Any, classes: int, channels: int, out: Path) -> Data:
    """Train a supernet for a step or two, and evaluate one of its networks."""
    space = tiny(classes, channels)
    opened = load_data(data)
    supernet = hwsearch.train(space, data=opened, out=out / "s.safetensors", recipe={"epochs": 1, "batch": 16}, progress=False)
    assert 0 <= hwsearch.evaluate(space.architecture(supernet.largest), weights=supernet, data=opened) <= 1
    return opened


def images(rng: np.random.Generator, n: int = 40, channels: int = 3, size: tuple[int, int] = (8, 8)) -> np.ndarray:
    return rng.integers(0, 256, size=(n, channels, *size), dtype=np.uint8)


# -- arrays and tensors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "alike"),
    [
        (lambda x: x, True),
        (lambda x: x.transpose(0, 2, 3, 1), True),
        (lambda x: x.astype(np.int64), True),
        (lambda x: x.astype(np.float64), True),
        (lambda x: (x / 255).astype(np.float32), True),
        (lambda x: torch.from_numpy(x / 255).half(), True),
        (lambda x: torch.from_numpy(x / 255).to(torch.bfloat16), True),
        (lambda x: x.astype(np.uint16) * 257, True),
        (lambda x: torch.from_numpy((x / 255 - 0.45) / 0.22).permute(0, 2, 3, 1).float(), True),
        (lambda x: x > 127, False),
    ],
)
def test_any_usual_type_and_layout_is_the_same_data(rng: np.random.Generator, kind: Any, alike: bool) -> None:
    pixels = images(rng)
    pixels[0, 0, 0, :2] = (0, 255)
    y = np.arange(40) % 2
    right, data = make_data("mine", (pixels, y)), make_data("mine", (kind(pixels), y))
    assert data.train_x.shape == (32, 3, 8, 8)
    off = (data.train_x.int() - right.train_x.int()).abs().max()
    assert off == 0 if alike else off <= 128
    assert alike == (data.fingerprint == right.fingerprint)


def test_grey_images_without_an_axis_for_channels_and_oblong_ones(rng: np.random.Generator) -> None:
    pixels, y = images(rng, channels=1, size=(6, 10))[:, 0], np.arange(40) % 4
    padded = make_data("mine", (pixels, y))
    assert padded.train_x.shape == (32, 1, 10, 10)
    assert not padded.train_x[:, :, :2].any()
    assert not padded.train_x[:, :, -2:].any()
    assert padded.train_x[:, :, 2:8].any()
    assert make_data("mine", (pixels, y), oblong="crop").train_x.shape == (32, 1, 6, 6)
    assert make_data("mine", (pixels, y), oblong="stretch").train_x.shape == (32, 1, 10, 10)
    with pytest.raises(UnknownName, match="Known: crop, pad, stretch"):
        make_data("mine", (pixels, y), oblong="squeeze")


def test_one_channel_arrays_with_two_classes_train_a_network(rng: np.random.Generator, tmp_path: Path) -> None:
    """One of the starts."""
    x, y = images(rng, channels=1), np.arange(40) % 2
    data = learns((x, np.eye(2)[y]), 2, 1, tmp_path)
    assert (data.classes, len(data.mean)) == (2, 1)
    with pytest.raises(InvalidInput, match=r"--classes 2 --channels 1 in the shell, load_space\(name, classes=2, channels=1\)"):
        hwsearch.train("resnet_cifar", data=data, out=tmp_path / "none", progress=False)


def test_held_out_images_are_no_training_images(rng: np.random.Generator) -> None:
    x, y = images(rng, n=60), np.repeat([0, 1, 2], 20)
    data = make_data("mine", (x, y))
    assert [data.count(split) for split in ("train", "val", "test")] == [48, 6, 6]
    seen = [{image.numpy().tobytes() for image in data.split(split)[0]} for split in ("train", "val", "test")]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]
    for split in ("val", "test"):
        assert data.split(split)[1].bincount().tolist() == [2, 2, 2]
    two = make_data("mine", (x, y), (x[:5], y[:5]))
    assert [two.count(split) for split in ("train", "val", "test")] == [54, 6, 5]
    with pytest.raises(InvalidInput, match="Class 1 has 2 image"):
        make_data("mine", (x[:22], y[:22]))
    with pytest.raises(InvalidInput, match="validation images are missing"):
        make_data("mine", (x, y), test=(x, y))


def test_numbers_of_another_kind_than_those_of_training_are_refused(rng: np.random.Generator) -> None:
    x, y = images(rng), np.arange(40) % 2
    with pytest.raises(InvalidInput, match="val_x must be images of the kind of the training images, nchw of whole numbers, not float"):
        make_data("mine", (x, y), (x / 255, y))
    with pytest.raises(InvalidInput, match="finite real numbers"):
        make_data("mine", (x * np.nan, y))
    with pytest.raises(InvalidInput, match="one for each of the images"):
        make_data("mine", (x, y[:-1]))
    assert make_data("mine", (x, y), classes=5).classes == 5


# -- datasets and loaders ----------------------------------------------------------------------------------------------


class Noisy(Dataset[Any]):
    """Normalised float images with a transform that draws random numbers of all three kinds."""

    def __init__(self, n: int = 40) -> None:
        self.x = torch.linspace(-2, 2, n * 3 * 64).reshape(n, 3, 8, 8)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        if number >= len(self.x):
            raise IndexError
        noise = torch.rand(1).item() + np.random.rand()  # noqa: NPY002 - as users' transforms do
        return (self.x[number] + 0.05 * noise).clamp(-2, 2), number % 2


def test_a_dataset_with_transforms_of_its_own_is_augmented_by_them_alone(tmp_path: Path) -> None:
    data = learns(Noisy(), 2, 3, tmp_path)
    shares = [(step, 0, np.array([3, 7])) for step in range(2)]
    torch.manual_seed(0)
    before = torch.rand(1)
    torch.manual_seed(0)
    (first, _), (second, _) = data.training(shares, seed=1)
    assert torch.equal(torch.rand(1), before), "the user's random numbers are left alone"
    assert not torch.equal(first, second)
    assert torch.equal(second, next(data.training(shares[1:], seed=1))[0]), "whatever came before"
    assert data.fingerprint == load_data(Noisy()).fingerprint != load_data(Noisy(44)).fingerprint


@pytest.mark.parametrize("kind", ["loader", "own batches", "stream", "splits"])
def test_a_loader_trains_a_network(rng: np.random.Generator, tmp_path: Path, kind: str) -> None:
    """One of the starts."""
    x, y = torch.from_numpy(images(rng)).float() / 255, torch.arange(40) % 2
    pairs = TensorDataset(x, y)

    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(zip(x, y, strict=True))

    given: Any = {
        "loader": DataLoader(pairs, batch_size=8, shuffle=True),
        "own batches": DataLoader(pairs, batch_size=8, collate_fn=lambda items: tuple(map(torch.stack, zip(*items, strict=True)))),
        "stream": DataLoader(Stream(), batch_size=8),
        "splits": {"train": DataLoader(pairs), "validation": pairs, "test": pairs},
    }
    data = learns(given[kind], 2, 3, tmp_path)
    assert data.count("train") == (40 if kind == "splits" else 32)


@pytest.mark.parametrize("kind", ["loader", "arrays"])
def test_a_predictor_is_fitted_on_the_same_forms_of_data(rng: np.random.Generator, tmp_path: Path, kind: str) -> None:
    """What a supernet was trained on, a loader or arrays, is taken by the predictor of its networks, too."""
    space = Chain("deeper", (8,), (8,), (Stage((1, 2), (8,), (8, 12)),), 2, ("fp32", "int8"), 3).space()
    x, y = images(rng), np.arange(40) % 2
    pairs = TensorDataset(torch.from_numpy(x).float() / 255, torch.from_numpy(y))
    data: Any = DataLoader(pairs, batch_size=8) if kind == "loader" else (x, y)
    supernet = hwsearch.train(space, data=data, out=tmp_path / "s", recipe={"epochs": 1, "batch": 16}, progress=False)
    few = hwsearch.nn.Sampling(networks=12, images=4)
    predictor = hwsearch.fit_predictor(space, weights=supernet, data=data, out=tmp_path / "p.npz", sampling=few, progress=False)
    assert np.isfinite(predictor(space.sample(3, rng))).all()


class HuggingFace:
    """What a dataset of Hugging Face shows: rows with names, columns, and features that know the classes."""

    column_names = ("image", "label")

    def __init__(self, n: int, size: tuple[int, int], mode: str = "RGB") -> None:
        self.n, self.size, self.mode = n, size, mode
        self.features = {"image": object(), "label": type("ClassLabel", (), {"num_classes": 3})()}

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, key: int | str) -> Any:
        if isinstance(key, str):
            return [number % 2 for number in range(self.n)]
        return {"image": Image.new(self.mode, self.size, 40 * (key % 2) + 40 if self.mode == "L" else (9 * key, 40, 40)), "label": key % 2}


def test_loaders_that_sample_parts_of_one_dataset_share_no_images(rng: np.random.Generator) -> None:
    """One dataset, and the numbers of the items for training and for validation in the samplers."""
    pairs = TensorDataset(torch.from_numpy(images(rng)), torch.arange(40) % 2)
    order = [int(number) for number in rng.permutation(40)]
    train, val, test = (DataLoader(pairs, sampler=SubsetRandomSampler(some)) for some in (order[:24], order[24:32], order[32:]))
    data = dataset_data("mine", (train, val, test))
    assert [data.count(split) for split in ("train", "val", "test")] == [24, 8, 8]
    seen = {split: {x.numpy().tobytes() for some, _ in data.batches(split, 8) for x in some} for split in ("train", "val", "test")}
    assert len(seen["train"] | seen["val"] | seen["test"]) == 40


def test_a_dataset_of_hugging_face_trains_a_network(tmp_path: Path) -> None:
    """One of the starts; pictures of several sizes are cropped, small square ones are held in memory."""
    data = learns(
        {"train": HuggingFace(40, (20, 30)), "test": HuggingFace(10, (20, 30)), "validation": HuggingFace(10, (24, 40))}, 3, 3, tmp_path
    )
    assert (data.classes, data.count("val")) == (3, 10)
    assert next(data.batches("test", 4))[0].shape == (4, 3, 20, 20)
    small = load_data(HuggingFace(40, (16, 16), "L"))
    assert isinstance(small, hwsearch.nn.ArrayData)
    assert (small.train_x.shape[1:], small.shift, small.classes) == ((1, 16, 16), 2, 3)


class Pictures(torch.utils.data.Dataset[Any]):
    """Pictures of several sizes, as most datasets of torchvision have them."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, number: int) -> tuple[Any, int]:
        return Image.new("RGB", (20, 24 + number % 3), (5 * number, 40, 40)), number % 2


def folder_of_pictures(folder: Path) -> Path:
    for number in range(40):
        file = folder / f"class{number % 2}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Pictures()[number][0].save(file)
    return folder


PICTURES: dict[str, Callable[[Path], Any]] = {
    "a dataset": lambda _: Pictures(),
    "a loader": lambda _: DataLoader(Pictures(), batch_size=8),
    "rows of Hugging Face": lambda _: HuggingFace(40, (20, 30)),
    "splits of Hugging Face": lambda _: {name: HuggingFace(40, (20, 30)) for name in ("train", "validation", "test")},
    "a folder": folder_of_pictures,
}


@pytest.mark.parametrize("kind", PICTURES)
def test_pictures_of_any_size_suit_an_adopted_network(kind: str, tmp_path: Path) -> None:
    """They are brought to the size that the network was adopted with, by every verb that takes images."""
    layers = torch.nn.Conv2d(3, 6, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(6, 3)
    module, data = torch.nn.Sequential(*layers), PICTURES[kind](tmp_path / "pictures")
    space = hwsearch.adopt(module, torch.randn(1, 3, 16, 16))
    small = hwsearch.extract(space.architecture([0] * len(space.choices)), data=data, images=20)
    assert small(torch.randn(2, 3, 16, 16)).shape == (2, 3)
    recipe = {"epochs": 1, "batch": 8, "distill": 1, "teacher": module}
    done = hwsearch.finish(small, data=data, out=tmp_path / "done", recipe=recipe, progress=False)
    assert (tmp_path / "done" / done.model).is_file()


def test_labels_beside_inputs_are_no_input_of_the_file(tmp_path: Path) -> None:
    """``(images, labels)`` and a loader of such pairs, which all verbs of adopted networks take."""
    space = hwsearch.adopt(torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3), torch.nn.Conv2d(6, 2, 3)), torch.randn(1, 3, 8, 8))
    pair = torch.randn(12, 3, 8, 8), torch.arange(12) % 2
    small = hwsearch.extract(space.architecture([0] * len(space.choices)), data=pair)
    for number, data in enumerate((pair, DataLoader(TensorDataset(*pair), batch_size=4), TensorDataset(*pair))):
        file = hwsearch.export(small, out=tmp_path / f"{number}.onnx", data=data, precision="int8")
        assert len(onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).get_inputs()) == 1


def test_the_package_of_hugging_face_itself(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    columns = {"image": [Image.new("RGB", (12, 12), (number, 0, 0)) for number in range(30)], "label": [number % 2 for number in range(30)]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["even", "odd"])})
    data = learns(datasets.Dataset.from_dict(columns, features=features), 2, 3, tmp_path)
    assert data.classes == 2


def test_what_is_no_dataset_is_refused() -> None:
    for given in (torch.zeros(4, 1, 8, 8), 3, [1, 2], {"images": 3}, TensorDataset(torch.zeros(4, 8))):
        with pytest.raises(InvalidInput):
            load_data(given)  # type: ignore[arg-type]
    ragged = [(torch.zeros(3, 8, 8 + number % 2), number % 2) for number in range(20)]
    with pytest.raises(InvalidInput, match="several shapes"):
        dataset_data("mine", [ragged])


# -- folders -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PNG files of two classes, without splits."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name, level in (("cat", 190), ("dog", 60)):
        (root / name).mkdir()
        for number in range(20):
            Image.fromarray(np.clip(rng.normal(level, 30, size=(24, 36, 3)), 0, 255).astype(np.uint8)).save(root / name / f"{number}.png")
    return root


def test_a_folder_of_pngs_with_two_classes_trains_a_network(folder: Path, tmp_path: Path) -> None:
    """One of the starts: the classes lie in the folder itself, and a tenth of each is held out, twice."""
    data = learns(folder_data(folder, size=8, workers=0), 2, 3, tmp_path)
    assert [data.count(split) for split in ("train", "val", "test")] == [32, 4, 4]
    grey = folder_data(folder, size=8, workers=0, channels=1)
    assert next(grey.batches("test", 4))[0].shape == (4, 1, 8, 8)
    assert grey.fingerprint != data.fingerprint


def test_decoded_images_are_kept_once_and_mapped(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that networks are compared on are decoded once, whatever number of networks there is."""
    monkeypatch.setenv("HWSEARCH_CACHE", str(tmp_path / "kept"))
    data = folder_data(folder, size=8, workers=0)
    first = [batch[0].clone() for batch in data.batches("val", 3)]
    monkeypatch.setattr("hwsearch.nn.data._folder.read_picture", lambda *_: pytest.fail("decoded again"))
    again = folder_data(folder, size=8, workers=0)
    assert all(torch.equal(x, other) for x, (other, _) in zip(first, again.batches("val", 3), strict=True))
    assert [len(y) for _, y in again.batches("val", 2)] == [2, 2]
    assert _kept.cache_folder() == tmp_path / "kept"
    (images_file,) = (tmp_path / "kept").glob("*.images.npy")
    images_file.write_bytes(images_file.read_bytes()[:200])
    monkeypatch.undo()
    monkeypatch.setenv("HWSEARCH_CACHE", str(tmp_path / "kept"))
    assert torch.equal(next(data.batches("val", 4))[0], torch.cat(first)), "a damaged file is written anew"
    monkeypatch.setenv("HWSEARCH_CACHE", "")
    assert torch.equal(next(data.batches("val", 4))[0], torch.cat(first)), "nothing is kept, and nothing is needed"


# -- classes and channels, from Python and from the shell ----------------------------------------------------------------


SPACES = ["mobilenetv2", "mobilenetv2_cifar", "mobilenetv3_cifar", "resnet_cifar", "resnet_digits", "resnet50", "ofa_mobilenetv3"]


@pytest.mark.parametrize("name", [*SPACES, "ofa_resnet50", "bootstrapnas_resnet50"])
def test_spaces_take_classes_and_channels(name: str) -> None:
    space = hwsearch.load_space(name, classes=3, channels=2)
    blocks = hwsearch.searching.dense(space).blocks()
    assert (blocks[0].cin, blocks[-1].cout) == (2, 3)
    assert space.name == f"{name}:channels=2,classes=3"
    assert hwsearch.load_space(space.name).fingerprint == space.fingerprint
    usual = hwsearch.load_space(name)
    assert usual.name == name
    assert hwsearch.load_space(name, channels=1 if name == "resnet_digits" else 3).name == name


def test_files_of_other_classes_find_their_space(tmp_path: Path) -> None:
    space = hwsearch.load_space("resnet_digits", classes=26)
    result = hwsearch.search(space, predictor=lambda X: X.sum(axis=1), limits={"macs": 1e6}, run=hwsearch.Run(steps=2))
    assert hwsearch.load_result(result.save(tmp_path / "result.json")).best == result.best
    for wrong in ("resnet_digits:classes", "resnet_digits:width=3", "resnet_digits:classes=x"):
        with pytest.raises(InvalidInput, match="channels=1,classes=2"):
            hwsearch.load_space(wrong)
    text = (tmp_path / "result.json").read_text()
    (tmp_path / "result.json").write_text(text.replace("resnet_digits:classes=26", "resnet_letters"))
    with pytest.raises(WrongSpace, match="'resnet_letters', which is not registered here"):
        hwsearch.load_result(tmp_path / "result.json")
    (tmp_path / "result.json").write_text(text.replace('"space":"resnet_digits:classes=26"', '"space":3'))
    with pytest.raises(CorruptFile, match="does not say"):
        hwsearch.load_result(tmp_path / "result.json")


MODULE = """
import numpy as np

def make_data(folder=None):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, size=(60, 8, 8), dtype=np.uint8), np.arange(60) % 3
"""


@pytest.mark.parametrize("source", ["my_images:make_data", "my_images.py:make_data"])
def test_own_data_from_the_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """Own images with three classes: a supernet is trained on them, shown, and exported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_images.py").write_text(MODULE)

    def run(*words: object, code: int = 0) -> str:
        result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200", "TERM": "dumb"})
        assert result.exit_code == code, result.output + repr(result.exception)
        return " ".join(result.output.split())

    train = ("train", "resnet_digits", "--data", source, "--epochs", 1, "--batch", 24, "-q")
    assert "tells 10 classes apart; data 'mine' has 1 and 3" in run(*train, code=1)
    assert "supernet of resnet_digits:classes=3" in run(*train, "--classes", 3)
    space = hwsearch.load_space("resnet_digits", classes=3)
    space.architecture([0] * len(space.choices)).to_json("net.json")
    assert "best.onnx" in run("export", "net.json", "--out", "best.onnx")
    assert "Did you mean 'make_data'?" in run("train", "resnet_digits", "--data", "my_images:make_date", "-q", code=1)


def test_a_source_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="the module 'no_images' cannot be imported"):
        load_data("no_images:make")
    with pytest.raises(FileError, match="There is no file"):
        load_data(f"{tmp_path}/none.py:make")


def test_the_page_on_data_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import re

    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text()
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE))
    names: dict[str, Any] = {}
    exec(compile(code, "data.md", "exec"), names)
    assert (names["data"].count("train"), names["data"].count("test")) == (160, 20)
