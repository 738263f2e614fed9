"""Shards of WebDataset: plain tar files whose members ``KEY.jpg`` and ``KEY.cls`` are a picture and its class.

A shard is looked through once. Where each picture stands in it is kept in the cache folder, so that any picture is read by its number with
one seek; hence shards are shuffled, resumed, checked and kept like files in folders.
"""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from ..._files._cache import cache_folder
from ..._files._reading import guarded, is_whole, parse_json, read_arrays, read_part
from ..._files._writing import write_arrays
from ...errors import CorruptFile, FileError
from ._images import SPLITS
from ._pixels import LABELS

_PICTURES = frozenset({"jpg", "jpeg", "png", "webp", "gif", "ppm", "pgm", "pbm", "pnm", "bmp", "tif", "tiff"})
_COMPRESSED = re.compile(r"\.(tar\.(gz|bz2|xz|zst|lz4|lzma)|tgz|tbz2?|txz)$")
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
"""How compressed files begin, and by which program they are unpacked."""
_WORDS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test", "testing": "test"}
"""Which words in the name of a shard say of which split it is."""
_BLOCK = 512
"""A tar file consists of blocks of this many bytes; blocks of zeros are its end."""
_FORMAT, _VERSION = "hwsearch-shard-index", 1
Numbers = npt.NDArray[np.int64]


class Member(NamedTuple):
    """A picture in a shard.

    Attributes:
        path: of the shard.
        name: of the member.
        offset, size: where its content begins, and how long it is, bytes.
    """

    path: str
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.name} in {self.path}"

    def read(self) -> bytes:
        """The content.

        Raises:
            FileError: the shard cannot be read.
            CorruptFile: it has become shorter.
        """
        return read_part(self.path, "shard", self.offset, self.size)


def shards_in(folder: Path) -> dict[str, list[Path]]:
    """The tar files right in a folder, by the split that a word of their names says, each in the order of their names.

    It holds no shards if there are none of ``"train"``, or if there are folders of pictures besides, into which they may have been
    unpacked.

    Raises:
        FileError: some of them are compressed, so that their members cannot be read by their place; those of ``"val"`` are missing; or a
            name says two splits.
    """
    try:
        inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except (OSError, ValueError):
        return {}
    found: dict[str, list[Path]] = {split: [] for split in SPLITS}
    for path in inside:
        if path.suffix.lower() == ".tar" or _COMPRESSED.search(path.name.lower()):
            said = sorted({_WORDS[word] for word in re.findall("[a-z]+", path.name.lower()) if word in _WORDS})
            if len(said) > 1:
                raise FileError(f"{path} is named for {' and for '.join(map(repr, said))}: name each shard for one split.")
            for split in said:
                found[split].append(path)
    if not found["train"] or any(_holds_pictures(path) for path in inside if path.is_dir()):
        return {}
    if packed := [path for paths in found.values() for path in paths if path.suffix.lower() != ".tar"]:
        raise FileError(_unpack(packed[0], "gunzip" if packed[0].name.lower().endswith("gz") else "what packed it"))
    if found["test"] and not found["val"]:
        raise FileError(f"{folder} holds shards train*.tar and test*.tar, and none for validation: name some of them val*.tar.")
    return {split: paths for split, paths in found.items() if paths}


def _holds_pictures(folder: Path) -> bool:
    """Whether there are files with the name of a picture anywhere in a folder."""
    return any(name.lower().rpartition(".")[2] in _PICTURES for _, _, names in os.walk(folder) for name in names)


def listed_shards(shards: Mapping[str, list[Path]]) -> tuple[int, dict[str, list[tuple[Member, int]]]]:
    """The number of classes, and the pictures of each split with their labels, in the order in which they stand in the shards.

    Raises:
        FileError: a shard cannot be read.
        CorruptFile: it is damaged or compressed, a picture has no label, or pictures are of classes that cannot be learned.
    """
    found = {split: [item for path in paths for item in _listed(path)] for split, paths in shards.items()}
    labels = {split: {label for _, label in items} for split, items in found.items()}
    for split, items in found.items():
        if not items:
            raise FileError(f"{', '.join(map(str, shards[split][:3]))}: no pictures in the shards of {split!r}; {_EXPECTED}.")
        if odd := sorted(labels[split] - labels["train"]):
            raise CorruptFile(
                f"{shards[split][0].parent}: the shards of {split!r} hold pictures of class {odd[0]}, of which those of 'train' have none. "
                "Number the classes alike in all shards."
            )
    if empty := sorted(set(range(min(max(labels["train"]), len(found["train"])) + 1)) - labels["train"]):
        raise CorruptFile(
            f"{shards['train'][0].parent}: the shards of 'train' hold pictures of class {max(labels['train'])} and none of class "
            f"{empty[0]}. Number the classes from 0, without gaps."
        )
    return max(labels["train"]) + 1, found


_EXPECTED = "expected in them: KEY.jpg (png, webp, ...) with KEY.cls, the number of its class, or KEY.json with a number as 'label'"


def _unpack(path: Path, program: str) -> str:
    return (
        f"{path} is compressed, so its pictures cannot be read one by one. Unpack it, with {program}; pictures are compressed already, and "
        "a plain tar file is hardly larger."
    )


def _listed(path: Path) -> list[tuple[Member, int]]:
    """The pictures of a shard with their labels, as the cache folder has them if the shard has not changed since."""
    place = os.fspath(path)
    try:
        facts = os.stat(path)
    except OSError as error:
        raise FileError(f"Cannot read shard {place}: {error.strerror or error}.") from error
    folder, digest = cache_folder(), hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()
    same = {"shard": digest, "bytes": facts.st_size, "time": facts.st_mtime_ns, "changed": facts.st_ctime_ns}
    kept = None if folder is None else folder / f"shard-{digest[:16]}.npz"
    found = None if kept is None else _kept(kept, same)
    if found is None:
        found = _looked_through(path)
        if kept is not None:
            names, *numbers = zip(*found, strict=True) if found else ((), (), (), ())
            text = np.frombuffer("\0".join(names).encode(errors="surrogateescape"), dtype=np.uint8)
            arrays = {name: np.array(column, dtype=np.int64) for name, column in zip(("offset", "size", "label"), numbers, strict=True)}
            with suppress(FileError, UnicodeError):  # it is looked through again the next time
                write_arrays(kept, {"format": _FORMAT, "version": _VERSION, **same}, {"name": text, **arrays})
    return [(Member(place, name, offset, size), label) for name, offset, size, label in found]


_Row = tuple[str, int, int, int]
"""Name, offset, size and label of a picture."""


def _kept(path: Path, same: Mapping[str, Any]) -> list[_Row] | None:
    """What is kept of a shard; ``None`` if nothing is, or another state of it."""
    try:
        header, arrays = read_arrays(path, "index of a shard", format=_FORMAT, version=_VERSION)
        with guarded(path, "index of a shard"):
            offset, size, label = (arrays[name].astype(np.int64).tolist() for name in ("offset", "size", "label"))
            names = arrays["name"].tobytes().decode(errors="surrogateescape").split("\0") if offset else []
            rows = list(zip(names, offset, size, label, strict=True))
    except FileError:
        return None
    whole = all(0 <= start <= start + length <= same["bytes"] and label >= 0 for _, start, length, label in rows)
    return rows if whole and all(header.get(name) == value for name, value in same.items()) else None


def _looked_through(path: Path) -> list[_Row]:
    """Find the pictures and the labels of a shard.

    Raises:
        CorruptFile: it is damaged or compressed, or a picture has no label.
        FileError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            begins = file.read(8)
            if packed := [program for magic, program in _MAGIC.items() if begins.startswith(magic)]:
                raise CorruptFile(_unpack(path, packed[0]))
            file.seek(0)
            with guarded(path, "tar file"), tarfile.open(fileobj=file, mode="r:") as shard:
                members = shard.getmembers()
                _check_end(file, shard.offset, members)
                return _paired(path, file, members)
    except OSError as error:
        raise FileError(f"Cannot read shard {path}: {error.strerror or error}.") from error


def _check_end(file: BinaryIO, end: int, members: list[tarfile.TarInfo]) -> None:
    """Check that nothing but zeros follows the last member: whatever else does would be lost without a word.

    Raises:
        CorruptFile: something else does, or nothing.
    """
    file.seek(end)
    rest = file.read(_BLOCK)
    if len(rest) < _BLOCK:
        raise CorruptFile("it is cut off: the end of the tar file is missing. Copy or make it again.")
    while rest:
        if rest.strip(b"\0"):
            where = f"the member {members[-1].name!r}" if members else "its first member"
            raise CorruptFile(f"it is damaged after {where}, or several tar files one after the other. Copy or make it again.")
        rest = file.read(1 << 20)


def _paired(path: Path, file: BinaryIO, members: list[tarfile.TarInfo]) -> list[_Row]:
    """The pictures and their labels, by what their names have in common.

    Raises:
        CorruptFile: a picture lacks its label, or a label its picture; or there are several of either.
    """
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    for member in members:
        before, slash, name = member.name.rpartition("/")
        stem, _, ending = name.partition(".")
        if not stem or stem.startswith("__") or not ending or member.isdir():
            continue  # hidden files, and what WebDataset keeps for itself
        sample = samples.setdefault(f"{before}{slash}{stem}", {})
        if ending.lower() in sample:
            raise CorruptFile(f"the member {member.name!r} is there twice.")
        sample[ending.lower()] = member
    rows = []
    for key, sample in samples.items():
        pictures = [member for ending, member in sample.items() if ending in _PICTURES]
        told = sample.get("cls") or sample.get("json")
        if len(pictures) > 1:
            raise CorruptFile(f"{key!r} has several pictures, {' and '.join(repr(member.name) for member in pictures)}: leave one of them.")
        if not pictures and _meant(sample):
            endings = ", ".join(sorted(sample)[:3])
            raise CorruptFile(f"{key!r} has {endings} and no picture that can be read; {_EXPECTED}. A key ends at its first dot.")
        if not pictures:
            continue  # notes, or lists of what is in the shard
        if told is None:
            raise CorruptFile(f"{pictures[0].name!r} has no label; {_EXPECTED}.")
        for member in (pictures[0], told):
            if not member.isreg() or member.issparse():
                raise CorruptFile(f"the member {member.name!r} is a link or has holes. Make the shard of plain files.")
        file.seek(told.offset_data)
        rows.append((pictures[0].name, pictures[0].offset_data, pictures[0].size, _label(path, told.name, file.read(told.size))))
    return rows


def _meant(endings: Iterable[str]) -> bool:
    """Whether members with these endings, none of which is of a picture, are meant as a picture with its label all the same."""
    known = _PICTURES | {"cls"}
    return "cls" in endings or (len({*endings}) > 1 and "json" in endings) or any(each.rpartition(".")[2] in known for each in endings)


def _label(path: Path, name: str, content: bytes) -> int:
    """The class that a member tells.

    Raises:
        CorruptFile: it tells none.
    """
    label: Any = content.decode(errors="replace").strip()
    if name.lower().endswith(".json"):
        found = parse_json(content, f"{path}: {name}")
        label = next((found[key] for key in LABELS if key in found), None) if isinstance(found, dict) else found
    elif re.fullmatch("[0-9]{1,9}", label):
        label = int(label)
    if not is_whole(label) or not 0 <= label < 10**9:
        raise CorruptFile(f"{name!r} must tell the number of a class, from 0, not {str(label)[:40]!r}.")
    return label
