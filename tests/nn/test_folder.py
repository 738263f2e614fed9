"""Folders of images: read as they are needed, split honestly, and the same in every process."""

from __future__ import annotations

import multiprocessing
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hwsearch.errors import CorruptFile, FileError, InvalidInput
from hwsearch.nn import DamagedWarning, FolderData, Recipe, evaluate, folder_data, load_data, train
from hwsearch.nn.data._pictures import read_picture
from hwsearch.nn.data._streamed import seeded
from hwsearch.spaces import Chain, Stage

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
    assert load_data(str(folder)).name == load_data(folder).name == "imagefolder"
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


# -- files as they come ------------------------------------------------------------------------------------------------

RAMP = np.linspace(0, 65535, 64).reshape(8, 8)
"""Grey from black to white, in sixteen bits."""
EIGHT = np.rint(RAMP / 257).astype(np.uint8)


def _saved(path: Path, pixels: np.ndarray, **how: object) -> Path:
    Image.fromarray(pixels).save(path, **how)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_sixteen_bits_are_scaled_to_eight_and_do_not_become_white(tmp_path: Path, name: str) -> None:
    deep = np.asarray(read_picture(str(_saved(tmp_path / name, np.rint(RAMP).astype(np.uint16)))))
    assert deep.shape == (8, 8, 3)
    assert np.abs(deep.astype(int) - EIGHT[..., None]).max() <= 1
    assert len(np.unique(deep)) == 64


def test_seeding_a_picture_leaves_gpus_and_the_user_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random numbers of GPUs would be seeded for good, and it takes longer than the rest of the seeding."""
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("GPUs were seeded"))
    before = torch.get_rng_state()
    with seeded(1, 2, 3):
        first = torch.rand(3), np.random.rand(3).tolist()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before)
    with seeded(1, 2, 3):
        again = torch.rand(3), np.random.rand(3).tolist()  # noqa: NPY002
    assert torch.equal(first[0], again[0])
    assert first[1] == again[1]


def test_large_photographs_are_decoded_smaller_and_look_the_same(tmp_path: Path) -> None:
    """JPEG files of which a network is given a sixth a side or less; others, and other formats, are decoded as they are."""
    smooth = np.asarray(Image.fromarray(np.random.default_rng(0).integers(0, 256, size=(30, 40, 3), dtype=np.uint8)).resize((800, 600)))
    large, lossless = _saved(tmp_path / "0.jpg", smooth, quality=95), _saved(tmp_path / "0.png", smooth)
    assert [read_picture(str(large), least).size for least in (None, 601, 192, 1)] == [(800, 600), (800, 600), (400, 300), (100, 75)]
    assert read_picture(str(lossless), 1).size == (800, 600)
    data, whole = (FolderData({split: [(str(path), 0)] for split in ("train", "val", "test")}, 1, 32, 0) for path in (large, lossless))
    assert [part.size for part in (data.pictures("train")[0][0], whole.pictures("train")[0][0])] == [(400, 300), (800, 600)]
    shown, full = (each.calibration_images(0).float() for each in (data, whole))
    assert float((shown - full).abs().mean()) < 2
    assert float(full.std()) > 20
    large.write_bytes(large.read_bytes()[: len(large.read_bytes()) // 2])
    with pytest.raises(CorruptFile, match=r"1 of 1 images cannot be read: \S*0.jpg"):
        data.check()


def test_sixteen_bits_in_the_other_order_and_with_white_as_zero_are_read_rightly(tmp_path: Path) -> None:
    swapped = Image.frombytes("I;16B", (8, 8), np.rint(RAMP).astype(">u2").tobytes())
    swapped.save(tmp_path / "big.tif")
    assert np.abs(np.asarray(read_picture(str(tmp_path / "big.tif")))[..., 0].astype(int) - EIGHT).max() <= 1
    inverted = _saved(tmp_path / "white.tif", np.rint(RAMP).astype(np.uint16), tiffinfo={262: 0})
    assert np.abs(np.asarray(read_picture(str(inverted)))[..., 0].astype(int) - (255 - EIGHT)).max() <= 1


def test_colours_of_eight_and_sixteen_bits_are_the_same(tmp_path: Path) -> None:
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in np.rint(np.stack([RAMP, RAMP[::-1], RAMP.T], axis=-1)).astype(np.uint16))
    (tmp_path / "deep.png").write_bytes(_png(8, 8, 16, 2, rows))
    found = np.asarray(read_picture(str(tmp_path / "deep.png"))).astype(int)
    assert np.abs(found - np.stack([EIGHT, EIGHT[::-1], EIGHT.T], axis=-1)).max() <= 1
    for mode in ("1", "L", "P", "RGBA", "LA", "CMYK"):
        Image.fromarray(EIGHT).convert(mode).save(tmp_path / f"{mode}.tif")
        assert np.asarray(read_picture(str(tmp_path / f"{mode}.tif"))).shape == (8, 8, 3)


def _png(width: int, height: int, bits: int, colour: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_numbers_without_a_known_white_are_refused_by_name(tmp_path: Path, kind: type) -> None:
    path = _saved(tmp_path / "odd.tif", (RAMP / 65535 * 100).astype(kind))
    with pytest.raises(CorruptFile, match=r"odd.tif.*how bright white is.*8 or 16 bits"):
        read_picture(str(path))


def test_classes_are_the_top_folders_whatever_lies_below(folder: Path, tmp_path: Path) -> None:
    """As in Tiny-ImageNet, where the images of a class are in a folder of their own."""
    for split, below in (("train", "images"), ("val", "")):
        for name in ("bright", "dark"):
            shutil.copytree(folder / split / name, tmp_path / split / name / below)
    nested, flat = (folder_data(where, size=16, workers=0) for where in (tmp_path, folder))
    assert nested.classes == flat.classes == 2
    for split in ("train", "val", "test"):
        labels = [[int(label) for _, label in data.items[split]] for data in (nested, flat)]
        assert labels[0] == labels[1]
        assert set(labels[0]) == {0, 1}


def test_a_split_of_other_classes_is_refused(folder: Path, tmp_path: Path) -> None:
    """As in Tiny-ImageNet, whose validation images all lie in one folder beside a list of their classes."""
    shutil.copytree(folder / "train", tmp_path / "train")
    shutil.copytree(folder / "val" / "dark", tmp_path / "val" / "images")
    with pytest.raises(FileError, match="val must hold the 2 classes.*Only one of the two has 'bright', 'dark', 'images'"):
        folder_data(tmp_path)


@pytest.fixture
def spoiled(folder: Path, tmp_path: Path) -> Path:
    """The same folder with a file that is cut off, one that is empty, and one that is no image."""
    shutil.copytree(folder, tmp_path / "spoiled")
    dark = tmp_path / "spoiled" / "train" / "dark"
    (dark / "3.png").write_bytes((dark / "3.png").read_bytes()[:400])
    (dark / "5.png").write_bytes(b"")
    (tmp_path / "spoiled" / "val" / "bright" / "1.png").write_text("<html>not found</html>")
    return tmp_path / "spoiled"


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_files_are_named_before_training_begins(spoiled: Path, tmp_path: Path, workers: int) -> None:
    space = Chain("tiny", (8,), (8,), (Stage((1,), (8,), (8,), 2),), 2, ("fp32",)).space()
    data = folder_data(spoiled, size=16, workers=workers)
    with pytest.raises(
        CorruptFile, match="(?s)^3 of 50 images cannot be read.*dark/3.png.*dark/5.png.*bright/1.png.*skip_damaged=True"
    ) as found:
        train(space, data=data, out=tmp_path / "tiny.safetensors", recipe=Recipe(epochs=1, batch=9), progress=False)
    assert "Traceback" not in str(found.value)
    assert not list(tmp_path.glob("tiny*")), "no step was made"
    with pytest.raises(CorruptFile, match=r"^\S*bright/1.png is not a whole image"):
        list(data.batches("test", 4))


def test_damaged_files_are_left_out_and_listed_by_option(spoiled: Path, tmp_path: Path) -> None:
    space = Chain("tiny", (8,), (8,), (Stage((1,), (8,), (8,), 2),), 2, ("fp32",)).space()
    with pytest.warns(DamagedWarning, match="(?s)^3 damaged images are skipped.*dark/3.png.*dark/5.png.*bright/1.png"):
        data = folder_data(spoiled, size=16, workers=0, skip_damaged=True)
    assert sum(map(len, data.items.values())) == 47
    train(space, data=data, out=tmp_path / "tiny.safetensors", recipe=Recipe(epochs=1, batch=9), progress=False)


def _first(folder: Path) -> list[int]:
    return next(folder_data(folder, size=16, workers=2).batches("test", 4))[0].shape


def test_a_folder_is_read_in_a_process_of_a_pool(folder: Path) -> None:
    """Such processes are daemonic and may not start processes of their own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_first, (folder,)) == (4, 3, 16, 16)


@pytest.mark.slow
def test_imagenette_is_read(data_folder: Path) -> None:
    data = folder_data(data_folder / "imagenette", size=64, workers=0)
    assert [data.count(split) for split in ("train", "val", "test")] == [2700, 300, 1000]
    assert data.classes == 10
    x, y = next(data.training([(0, 0, np.arange(0, 2700, 300))], seed=0))
    assert x.shape == (9, 3, 64, 64)
    assert len(set(y.tolist())) >= 8
