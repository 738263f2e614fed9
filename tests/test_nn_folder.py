"""Folders of images: read as they are needed, split honestly, and the same in every process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hwsearch.chain import Chain, Stage
from hwsearch.errors import FileError, InvalidInput
from hwsearch.nn import Recipe, evaluate, folder_data, load_data, train

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, bright and dark; 20 images a class to train, 5 to evaluate."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 20), ("val", 5)):
        for name, level in (("bright", 190), ("dark", 60)):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(rng.normal(level, 30, size=(24, 36, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return root


def test_some_of_the_training_images_are_held_out_and_val_is_the_test(folder: Path) -> None:
    data = folder_data(folder, size=16, workers=0)
    assert [data.count(split) for split in ("train", "val", "test")] == [36, 4, 10]
    files = {split: {path for path, _ in data.items[split]} for split in data.items}
    assert not files["train"] & files["val"]
    assert data.classes == 2
    (x, y), *rest = data.batches("test", 8)
    assert (x.shape, x.dtype, len(rest)) == ((8, 3, 16, 16), torch.uint8, 1)
    assert y.tolist() == [0] * 5 + [1] * 3
    assert [len(labels) for _, labels in data.batches("train", 10, 25)] == [10, 10, 5]
    assert data.calibration_images(0).shape == (36, 3, 16, 16)


def test_random_crops_belong_to_seed_step_and_image_alone(folder: Path) -> None:
    alone, helped = (folder_data(folder, size=16, workers=workers) for workers in (0, 1))
    shares = [(step, 0, np.array([3, 7, 11])) for step in range(4)]
    torch.manual_seed(3)
    before = torch.rand(1)
    torch.manual_seed(3)
    first = list(alone.training(shares, seed=5))
    assert torch.equal(torch.rand(1), before), "the user's random numbers are left alone"
    for (x, y), (other, labels) in zip(first, helped.training(shares, seed=5), strict=True):
        assert torch.equal(x, other)
        assert torch.equal(y, labels)
    late = next(alone.training([(3, 1, np.array([7, 3]))], seed=5))[0]
    assert torch.equal(late[0], first[3][0][1]), "whatever batch an image is in"
    assert not torch.equal(first[0][0], first[1][0])
    assert not torch.equal(first[0][0], next(alone.training(shares, seed=6))[0])


def test_a_network_learns_from_a_folder_and_is_evaluated_on_it(folder: Path, tmp_path: Path) -> None:
    space = Chain("tiny", (8, 16), (8,), (Stage((1,), (8,), (8,), 2),), 2, ("fp32", "int8")).space()
    row = np.array([[size - 1 for size in space.sizes]], dtype=np.uint8)
    recipe = Recipe(epochs=6, batch=12, learning_rate=0.1)
    architecture = space.architecture(space.canonical(row)[0])
    data = folder_data(folder, size=16, workers=0)
    weights = train(space.alone(architecture.genes), data=data, out=tmp_path / "tiny.safetensors", recipe=recipe, progress=False)
    assert evaluate(architecture, weights=weights, data=data) >= 0.9


def test_folder_is_recognised_by_what_is_in_it(folder: Path) -> None:
    assert load_data(str(folder)).name == "imagefolder"
    assert load_data(("imagefolder", folder)).count("test") == 10


def test_what_is_missing_in_a_folder_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"train is not a folder of images.*one subfolder a class"):
        folder_data(tmp_path)
    with pytest.raises(InvalidInput, match="needs the folder"):
        load_data("imagefolder")
    with pytest.raises(InvalidInput, match="size must be at least 8"):
        folder_data(folder, size=4)
    (tmp_path / "train").symlink_to(folder / "train")
    (tmp_path / "val" / "bright").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "val" / "bright" / "0.png")
    with pytest.raises(FileError, match="val must hold the 2 classes"):
        folder_data(tmp_path)


@pytest.mark.slow
def test_imagenette_is_read(data_folder: Path) -> None:
    data = folder_data(data_folder / "imagenette", size=64, workers=0)
    assert [data.count(split) for split in ("train", "val", "test")] == [2700, 300, 1000]
    assert data.classes == 10
    x, y = next(data.training([(0, 0, np.arange(0, 2700, 300))], seed=0))
    assert x.shape == (9, 3, 64, 64)
    assert len(set(y.tolist())) >= 8
