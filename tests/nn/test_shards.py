"""Shards of WebDataset: the same pictures as in folders give the same training, and a shard that is not whole is refused by name."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hwsearch.errors import CorruptFile, FileError, InvalidInput
from hwsearch.nn import DamagedWarning, Recipe, folder_data, load_data, train
from hwsearch.nn.data import _shards
from hwsearch.spaces import Chain, Stage

torch.set_num_threads(1)
Content = tuple[str, bytes]


def picture(number: int, level: int, kind: str = "PNG") -> bytes:
    pixels = np.clip(np.random.default_rng(number).normal(level, 30, size=(24, 36, 3)), 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(buffer := io.BytesIO(), kind)
    return buffer.getvalue()


def pack(path: Path, contents: Sequence[Content]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as shard:
        for name, content in contents:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            shard.addfile(member, io.BytesIO(content))
    return path


def sample(number: int) -> list[Content]:
    """A picture of one of two classes, the label beside it, and something else that shards hold."""
    key = f"{number:03}"
    return [(f"{key}.png", picture(number, 190 if number % 2 else 60)), (f"{key}.cls", b"%d\n" % (number % 2)), (f"{key}.txt", b"seen")]


def both(root: Path, counts: dict[str, int]) -> tuple[Path, Path]:
    """The same pictures in a folder and in shards, two a split, in the same order."""
    for split, count in counts.items():
        numbers = sorted(range(count), key=lambda number: number % 2)
        for number in numbers:
            file = root / "folder" / split / ("bright" if number % 2 else "awake") / f"{number:03}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(sample(number)[0][1])
        for part, some in enumerate((numbers[: count // 3], numbers[count // 3 :])):
            pack(root / "shards" / f"{split}-{part:06}.tar", [content for number in some for content in sample(number)])
    return root / "folder", root / "shards"


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # on a machine of a single processor
@pytest.mark.parametrize(
    ("counts", "workers"),
    [({"train": 40, "val": 10}, 0), ({"train": 40, "val": 10, "test": 10}, 0), ({"": 40}, 0), ({"": 40}, 2)],
    ids=["val", "test", "none", "workers"],
)
def test_shards_train_as_the_same_pictures_in_folders_do(counts: dict[str, int], workers: int, tmp_path: Path) -> None:
    """Order, crops, what is held out, and hence every weight are the same, whatever number of processes reads."""
    folder, shards = both(tmp_path, counts)
    for path in shards.glob("-*"):
        path.rename(path.with_name(f"train{path.name}"))
    space = Chain("tiny", (8,), (8,), (Stage((1,), (8,), (8, 12)),), 2, ("fp32",)).space()
    found = []
    for where in (folder, shards):
        data = load_data(("imagefolder:size=8", where)) if not workers else folder_data(where, size=8, workers=workers)
        recipe = Recipe(epochs=2, batch=16, random_networks=0)
        out = tmp_path / f"{where.name}.safetensors"
        found.append((data, train(space, data=data, out=out, recipe=recipe, progress=False)))
    (first, plain), (second, sharded) = found
    for split in ("train", "val", "test"):
        assert first.labels(split).tolist() == second.labels(split).tolist()
        for (x, y), (other, labels) in zip(first.batches(split, 7), second.batches(split, 7), strict=True):
            assert torch.equal(x, other)
            assert torch.equal(y, labels)
    for name, weight in plain.state_dict().items():
        assert torch.equal(weight, sharded.state_dict()[name]), name
    assert first.fingerprint != second.fingerprint, "the times of other files"
    assert load_data(shards).count("test") == second.count("test"), "a folder of shards is known by what is in it"


def test_a_shard_is_looked_through_once_and_again_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWSEARCH_CACHE", str(tmp_path / "kept"))
    path = pack(tmp_path / "data" / "train.tar", [content for number in range(40) for content in sample(number)])
    before = folder_data(path.parent, size=8, workers=0)
    looked, look = [], _shards._looked_through
    monkeypatch.setattr(_shards, "_looked_through", lambda path: looked.append(path) or look(path))
    again = folder_data(path.parent, size=8, workers=0)
    assert again.items == before.items
    assert again.fingerprint == before.fingerprint
    assert not looked
    pack(path, [content for number in range(30) for content in sample(number + 1)])
    changed = folder_data(path.parent, size=8, workers=0)
    assert looked == [path]
    assert (changed.count("train"), changed.items["train"][0][0].name) == (26, "001.png")
    assert changed.fingerprint != before.fingerprint
    (index,) = (tmp_path / "kept").glob("shard-*.npz")
    index.write_bytes(index.read_bytes()[:300])
    assert folder_data(path.parent, size=8, workers=0).items == changed.items
    assert len(looked) == 2, "a damaged index is made anew"
    os.utime(path, (1, 1))
    assert folder_data(path.parent, size=8, workers=0).fingerprint != changed.fingerprint


def test_labels_in_json_and_keys_in_folders_with_several_dots(tmp_path: Path) -> None:
    """As shards come that others have made: classes under usual names, masks beside pictures, any case, and files that are no samples."""
    contents: list[Content] = [("README", b"about"), ("meta.json", b"{}"), ("a/.hidden.png", b""), ("__index__.json", b"[]")]
    for number in range(20):
        told = json.dumps({("label", "target", "class")[number % 3]: number % 2}).encode() if number != 4 else b"0"
        key = f"a/{number % 2}/{number:03}"
        contents += [(f"{key}.json", told), (f"{key}.seg.png", b"a mask"), (f"{key}.JPEG", picture(number, 60, "JPEG"))]
    pack(tmp_path / "imagenet-train-0.tar", contents[:31])
    pack(tmp_path / "imagenet-train-1.tar", contents[31:])
    pack(tmp_path / "imagenet-validation-0.tar", contents)
    data = folder_data(tmp_path, size=8, workers=0, channels=1)
    assert [data.count(split) for split in ("train", "val", "test")] == [18, 2, 20]
    assert data.labels("test").tolist() == [number % 2 for number in range(20)]
    assert next(data.batches("test", 20))[0].shape == (20, 1, 8, 8)


GOOD = [content for number in range(20) for content in sample(number)]
WRONG: dict[str, tuple[list[Content], str]] = {
    "no label": ([*GOOD, ("x.png", b"")], r"'x.png' has no label; expected in them: KEY.jpg"),
    "no picture": ([*GOOD, ("x.cls", b"1"), ("x.jp2", b"")], r"'x' has cls, jp2 and no picture that can be read; expected"),
    "a dot in the key": ([*GOOD, ("x.1.png", b""), ("x.1.cls", b"1")], r"'x' has 1.cls, 1.png and no picture.*A key ends at its first dot"),
    "another kind of picture": ([*GOOD, ("x.avif", b""), ("x.json", b'{"label": 1}')], r"'x' has avif, json and no picture"),
    "twice": ([*GOOD, *GOOD], r"'000.png' is there twice"),
    "two pictures": ([*GOOD, ("000.jpg", b"")], r"'000' has several pictures, '000.png' and '000.jpg'"),
    "a word": ([*GOOD, ("x.png", b""), ("x.cls", b"cat")], r"'x.cls' must tell the number of a class, from 0, not 'cat'"),
    "below zero": ([*GOOD, ("x.png", b""), ("x.json", b'{"label": -1}')], r"'x.json' must tell the number of a class, from 0, not '-1'"),
    "no json": ([*GOOD, ("x.png", b""), ("x.json", b"{")], r"x.json is not valid JSON"),
    "nothing": ([("notes.txt", b"")], r"no pictures in the shards of 'train'; expected in them"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_shard_without_pictures_and_labels_is_refused_by_name(what: str, tmp_path: Path) -> None:
    contents, told = WRONG[what]
    pack(tmp_path / "train-0.tar", contents)
    with pytest.raises(FileError, match=rf"(?s)train-0.tar: .*{told}"):
        folder_data(tmp_path)


def test_a_shard_that_is_cut_off_damaged_joined_or_compressed_is_refused_by_name(tmp_path: Path) -> None:
    path = pack(tmp_path / "data" / "train-0.tar", GOOD)
    whole = path.read_bytes()
    end = whole.rindex(b"019.txt")
    for content, told in (
        (b"", "empty"),
        (whole[: len(whole) // 2], r"not a whole tar file|is cut off"),
        (whole[: end + 1024], "the end of the tar file is missing"),
        (whole[:end] + b"?" * 600 + whole[end + 600 :], "damaged after the member '019.cls'"),
        (whole + whole, "several tar files one after the other"),
        (gzip.compress(whole), "is compressed.*Unpack it, with gzip"),
        (b"<html>not found</html>" * 100, "not a whole tar file"),
    ):
        path.write_bytes(content)
        with pytest.raises(CorruptFile, match=rf"train-0.tar.*({told})"):
            folder_data(path.parent)
    path.write_bytes(whole)
    (path.parent / "train-1.tar.gz").write_bytes(gzip.compress(whole))
    with pytest.raises(FileError, match=r"train-1.tar.gz is compressed.*gunzip"):
        folder_data(path.parent)


def test_a_folder_into_which_shards_were_unpacked_is_taken_and_other_folders_are_not(tmp_path: Path) -> None:
    _, shards = both(tmp_path, {"train": 40, "val": 10})
    (shards / "logs").mkdir()
    assert folder_data(shards, size=8, workers=0).count("test") == 10
    for split in ("train", "val"):
        for name in ("bright", "dark"):
            (shards / split / name).mkdir(parents=True)
            for number in range(10):
                (shards / split / name / f"{number}.png").write_bytes(picture(number, 60))
    assert folder_data(shards, size=8, workers=0).count("test") == 20


def test_shards_of_other_classes_or_without_validation_are_refused(tmp_path: Path) -> None:
    pack(tmp_path / "train.tar", GOOD)
    pack(tmp_path / "val.tar", [*GOOD, ("x.png", picture(0, 60)), ("x.cls", b"2")])
    with pytest.raises(CorruptFile, match="shards of 'val' hold pictures of class 2, of which those of 'train' have none"):
        folder_data(tmp_path)
    (tmp_path / "val.tar").rename(tmp_path / "test.tar")
    with pytest.raises(FileError, match=r"none for validation: name some of them val\*.tar"):
        folder_data(tmp_path)


def test_words_in_the_names_of_shards_say_the_split_and_nothing_that_begins_like_them(tmp_path: Path) -> None:
    for name in ("valdemar-train-0.tar", "test0rig-training-1.TAR"):
        pack(tmp_path / name, GOOD)
    pack(tmp_path / "trainset.tar", GOOD)
    with pytest.raises(FileError, match=r"test0rig-training-1.TAR is named for 'test' and for 'train'"):
        folder_data(tmp_path)
    (tmp_path / "test0rig-training-1.TAR").rename(tmp_path / "training-1.TAR")
    data = folder_data(tmp_path, size=8, workers=0)
    assert sum(data.count(split) for split in ("train", "val", "test")) == 40
    with pytest.raises(InvalidInput, match="give the folder of the shards"):
        load_data(tmp_path / "valdemar-train-0.tar")


def test_archives_beside_folders_of_classes_are_passed_over(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(12):
            (tmp_path / name / f"{number}.png").write_bytes(picture(number, 60))
    (tmp_path / "train.tar.gz").write_bytes(gzip.compress(b"as it was downloaded"))
    pack(tmp_path / "train.tar", GOOD)
    assert sum(folder_data(tmp_path, size=8, workers=0).count(split) for split in ("train", "val", "test")) == 24


@pytest.mark.parametrize("labels", [(1, 2), (0, 99_999_999)])
def test_classes_without_a_picture_are_refused(tmp_path: Path, labels: tuple[int, int]) -> None:
    """A network with a hundred million outputs, or with one that is never right, is not what anybody means."""
    contents = [
        (f"{n:03}.{kind}", content) for n in range(30) for kind, content in (("png", picture(n, 60)), ("cls", b"%d" % labels[n % 2]))
    ]
    pack(tmp_path / "train.tar", contents)
    with pytest.raises(CorruptFile, match=rf"of class {labels[1]} and none of class {1 - labels[0]}. Number the classes from 0"):
        folder_data(tmp_path)


def test_a_split_of_which_nothing_can_be_read_is_refused(tmp_path: Path) -> None:
    pack(tmp_path / "train.tar", GOOD)
    pack(tmp_path / "val.tar", [("x.png", picture(0, 60)[:300]), ("x.cls", b"0")])
    with pytest.raises(FileError, match=r"No image of 'val' can be read: x.png in \S*val.tar is not a whole image"):
        folder_data(tmp_path, size=8, workers=0, skip_damaged=True)


def test_damaged_pictures_in_shards_are_named_before_training_begins_or_skipped(tmp_path: Path) -> None:
    pack(tmp_path / "train.tar", [*GOOD, ("x.png", picture(0, 60)[:300]), ("x.cls", b"0")])
    space = Chain("tiny", (8,), (8,), (Stage((1,), (8,), (8,)),), 2, ("fp32",)).space()
    with pytest.raises(CorruptFile, match=r"1 of 21 images cannot be read: x.png in \S*train.tar is not a whole image"):
        train(space, data=folder_data(tmp_path, size=8, workers=0), out=tmp_path / "s.safetensors", recipe=Recipe(1, 8), progress=False)
    with pytest.warns(DamagedWarning, match=r"1 damaged image is skipped: x.png in \S*train.tar"):
        data = folder_data(tmp_path, size=8, workers=0, skip_damaged=True)
    assert sum(map(len, data.items.values())) == 20


def test_a_shard_that_becomes_shorter_is_told(tmp_path: Path) -> None:
    path = pack(tmp_path / "train.tar", GOOD)
    data = folder_data(tmp_path, size=8, workers=0)
    path.write_bytes(path.read_bytes()[:512])
    with pytest.raises(CorruptFile, match=r"train.tar ends before byte \d+: it has become shorter"):
        list(data.batches("train", 4))
