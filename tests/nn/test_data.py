"""Data: fixed splits, honest augmentation, errors that say which files are missing."""

from __future__ import annotations

import lzma
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hwsearch.errors import FileError, InvalidInput, UnknownName
from hwsearch.nn import Normalize, load_data, make_data, resize

torch.set_num_threads(1)


def test_digits_are_split_for_good_and_evenly() -> None:
    first, second = load_data("digits"), load_data("digits")
    assert [len(first.split(name)[0]) for name in ("train", "val", "test")] == [1077, 360, 360]
    for name in ("train", "val", "test"):
        assert torch.equal(first.split(name)[0], second.split(name)[0])
        counts = torch.bincount(first.split(name)[1]) / len(first.split(name)[1])
        assert counts.shape == (10,)
        assert counts.min() > 0.09
    normal = first.normalize(first.train_x)
    assert abs(float(normal.mean())) < 1e-4
    assert float(normal.std()) == pytest.approx(1.0, abs=1e-3)


def test_augmentation_moves_and_mirrors_within_its_bounds(rng: np.random.Generator) -> None:
    images = rng.integers(1, 256, size=(6, 2, 5, 5), dtype=np.uint8)
    split = (images, np.array([0, 1, 2, 0, 1, 2]))
    data = make_data("own", split, split, split, shift=1, flip=True)
    index = np.arange(6)
    seen = set()
    for _ in range(40):
        for image, moved in zip(images, data.augmented(index, rng).numpy(), strict=True):
            padded = np.pad(image, ((0, 0), (1, 1), (1, 1)))
            windows = {(y, x, f): padded[:, y : y + 5, x : x + 5][:, :, :: 1 - 2 * f] for y in range(3) for x in range(3) for f in (0, 1)}
            found = [key for key, window in windows.items() if np.array_equal(window, moved)]
            assert found
            seen.update(found)
    assert len(seen) == 18
    assert np.array_equal(replace(data, shift=0, flip=False).augmented(index, rng).numpy(), images)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="Did you mean 'cifar10'"):
        load_data("cifar")
    with pytest.raises(InvalidInput, match="cifar-10-batches-py"):
        load_data("cifar10")
    with pytest.raises(FileError, match=r"Expected there: data_batch_1 .. data_batch_5"):
        load_data(("cifar10", tmp_path))
    with pytest.raises(FileError, match="There is no folder .*cifra"):
        load_data(tmp_path / "cifra")
    with pytest.raises(UnknownName, match="a folder that exists"):
        load_data("cats-and-dogs")
    with pytest.raises(InvalidInput, match=f"no folder.*--data {tmp_path}"):
        load_data("digits", tmp_path)


def test_own_images_of_a_wrong_shape_are_refused() -> None:
    good = (np.zeros((4, 1, 8, 8), dtype=np.uint8), np.arange(4))
    with pytest.raises(InvalidInput, match="val_x must be images of the kind of the training images"):
        make_data("own", good, (good[0].astype(np.float32), good[1]), good)
    with pytest.raises(InvalidInput, match="test_y must be int64 labels below 4"):
        make_data("own", good, good, (good[0], np.array([0, 1, 2, 4])))
    with pytest.raises(InvalidInput, match="train_x must be images of shape"):
        make_data("own", (good[0][0, 0], np.arange(8)), good, good)


def test_tensors_are_taken_like_arrays() -> None:
    pixels, labels = np.arange(128, dtype=np.uint8).reshape(2, 1, 8, 8), [0, 1]
    ours, theirs = (pixels, labels), (torch.from_numpy(pixels), torch.tensor(labels, dtype=torch.int32))
    assert make_data("own", theirs, theirs, ours).fingerprint == make_data("own", ours, ours, ours).fingerprint


@pytest.mark.parametrize("kind", ["arrays", "pair", "tensor", "loader", "none"])
def test_what_is_no_data_is_refused_with_what_to_do(kind: str) -> None:
    x, y = np.zeros((4, 1, 8, 8), dtype=np.uint8), np.arange(4)
    pair = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    given = {
        "arrays": ((x, y),) * 3,
        "pair": (x, y),
        "tensor": torch.from_numpy(x),
        "loader": torch.utils.data.DataLoader(pair),
        "none": None,
    }
    if kind in ("tensor", "none"):
        with pytest.raises(InvalidInput, match=r"make_data\('mine', \(images, labels\)"):
            load_data(given[kind])
    if kind != "pair":
        with pytest.raises(InvalidInput, match="train must be two arrays, the images and their labels"):
            make_data("own", given[kind], (x, y), (x, y))


@pytest.mark.parametrize(
    "labels", [[0.0, 0.5, 1.0, 2.0], [0.0, 1.0, np.nan, 2.0], [0.0, 1.0, 2.0, np.inf], ["a", "b", "c", "d"], [1j, 0, 1, 2]]
)
def test_labels_that_are_no_whole_numbers_are_refused_and_not_cut(labels: list[object]) -> None:
    images = np.zeros((4, 1, 8, 8), dtype=np.uint8)
    with pytest.raises(InvalidInput, match="train_y must be whole numbers"):
        make_data("own", (images, np.array(labels)), (images, np.arange(4)), (images, np.arange(4)))
    whole = make_data("own", *[(images, np.array([0.0, 1.0, 2.0, 3.0]))] * 3)
    assert whole.train_y.tolist() == [0, 1, 2, 3]


def test_oblong_images_are_made_square_where_data_is_made_and_refused_by_networks() -> None:
    split = (np.zeros((4, 1, 8, 12), dtype=np.uint8), np.arange(4))
    data = make_data("own", split, split, split)
    assert data.train_x.shape == (4, 1, 12, 12)
    with pytest.raises(InvalidInput, match="train_x holds images that are 8 px high and 12 px wide.*crop or pad"):
        replace(data, train_x=torch.from_numpy(split[0]))
    with pytest.raises(InvalidInput, match="8 px high and 12 px wide: crop or pad"):
        resize(torch.zeros(1, 1, 8, 12), 8)


def test_a_channel_that_never_changes_is_normalised_to_zero(rng: np.random.Generator) -> None:
    images = rng.integers(0, 256, size=(64, 3, 8, 8), dtype=np.uint8)
    images[:, 1] = 77
    data = make_data("own", *[(images, np.arange(64) % 10)] * 3)
    normal = data.normalize(data.train_x)
    assert float(normal[:, 1].abs().max()) < 1e-6
    assert float(normal[:, ::2].std()) == pytest.approx(1.0, abs=0.01)
    with pytest.raises(InvalidInput, match="std positive"):
        Normalize((0.5,), (0.0,))


@pytest.mark.slow
def test_cifar10_is_read_through_torchvision(data_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for packed in (data_folder / "cifar10").glob("*.xz"):
        with lzma.open(packed) as source, open(folder / packed.stem, "wb") as target:
            shutil.copyfileobj(source, target)
    shutil.copy(data_folder / "cifar10" / "batches.meta", folder)
    data = load_data("cifar10", tmp_path)
    assert [len(data.split(name)[0]) for name in ("train", "val", "test")] == [45000, 5000, 10000]
    assert data.test_y[:4].tolist() == [3, 8, 8, 0]
    assert data.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=1e-3)
