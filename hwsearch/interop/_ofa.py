"""Once-for-All (Cai et al., ICLR'20): latency tables, accuracy predictors and architectures."""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .._files._reading import PathLike, is_amount, read_yaml
from ..devices._table import Device, LatencyTable, Protocol, Row
from ..errors import CorruptFile, FileError
from ..networks._blocks import Block
from ..scores._perceptrons import Perceptrons
from ..scores._predictor import Predictor
from ..spaces._chain import divisible
from ..spaces._space import SearchSpace
from ._checks import report, some
from ._encoding import published_encoding

_FILE = re.compile(r"(\d+)_lookup_table\.ya?ml")
_ENTRY = re.compile(
    r"(?P<what>Conv|Conv_1|Conv_2|AvgPool2D|Logits|expanded_conv)-input:(?P<size>\d+)x\d+x(?P<cin>\d+)-output:(?:\d+x\d+x)?(?P<cout>\d+)"
    r"(?:-expand:(?P<mid>\d+)-kernel:(?P<kernel>\d+)-stride:(?P<stride>\d+)-idskip:(?P<skip>\d+)-se:(?P<se>\d+)-hs:(?P<hs>\d+))?:?"
)
_HEAD = ("AvgPool2D", "Conv_2", "Logits")


def ofa_latency(folder: PathLike, *, device: Device | None = None) -> LatencyTable:
    """Read Once-for-All's latency tables of one device.

    Once-for-All measures every input resolution on its own, so the blocks carry it as their context; the space ``ofa_mobilenetv3`` does the
    same. Average pooling, feature mixing and classifier make one ``head`` block. A row's spread is the standard deviation of its runs.
    Entries that are negative, not finite, or contradict themselves are skipped; entries that were run only once are kept.
    Both are reported.

    Example:
        >>> import json
        >>> from pathlib import Path
        >>> from hwsearch.interop import ofa_latency
        >>> layers = {"Conv-input:160x160x3-output:80x80x24": 0.5, "AvgPool2D-input:5x5x1152-output:1x1x1152": 0.01}
        >>> layers |= {"Conv_2-input:1x1x1152-output:1x1x1536": 0.7, "Logits-input:1x1x1536-output:1000": 0.6}
        >>> Path("phone").mkdir()
        >>> text = json.dumps({layer: {"count": 20, "mean": ms, "std": 0.01} for layer, ms in layers.items()})  # which YAML reads
        >>> size = Path("phone/160_lookup_table.yaml").write_text(text)
        >>> {key.partition("-")[0]: round(row.latency_ms, 2) for key, row in ofa_latency("phone").rows.items()}
        {'conv': 0.5, 'head': 1.31}

    Args:
        folder: with a file such as ``160_lookup_table.yaml`` for each resolution, values ``{count, mean, std}`` in ms.
        device: what was measured; if omitted, it is named after the folder.

    Raises:
        FileError: there is no such folder, or no such file in it.
        CorruptFile: a file is no such table.
        MissingDependency: PyYAML is not installed.
    """
    files = {int(match[1]): path for path in sorted(Path(folder).glob("*_lookup_table.y*ml")) if (match := _FILE.fullmatch(path.name))}
    if not files:
        raise FileError(f"{folder} holds no latency tables of Once-for-All, such as 224_lookup_table.yaml.")
    rows: dict[str, Row] = {}
    wrong: list[str] = []
    once: list[str] = []
    for resolution, path in sorted(files.items()):
        found, doubtful, single = _entries(path, resolution)
        rows |= found
        wrong += doubtful
        once += single
    if not rows:
        raise CorruptFile(f"{folder}: its files hold no usable entry.")
    counts = [row.rounds for row in rows.values()]
    found_wrong = [f"skipped {some(wrong)}: negative, not finite or contradictory"] if wrong else []
    found_wrong += [f"{some(once)} measured only once"] if once else []
    name = Path(folder).resolve().name
    known = device or Device(name, "cpu", name, "once-for-all", "unknown")
    facts = {**known.facts, "spread": "standard deviation of the runs", **report(str(folder), found_wrong)}
    known = replace(known, facts=facts)
    protocol = Protocol(min_rounds=min(counts), max_rounds=max(counts), runs=1, warmup=0, quantile=0.5)
    return LatencyTable(known, protocol, rows, source=str(folder))


def _entries(path: Path, resolution: int) -> tuple[dict[str, Row], list[str], list[str]]:
    """The rows of one file by the keys of their blocks, the entries that make no sense, and those that were run only once."""
    rows: dict[str, Row] = {}
    wrong: list[str] = []
    once: list[str] = []
    head: dict[str, tuple[dict[str, int], Row]] = {}
    for key, entry in _yaml(path).items():
        match = _ENTRY.fullmatch(key)
        if match is None:
            raise CorruptFile(f"{path}: {key!r} is no layer of Once-for-All's latency tables.")
        numbers = {name: int(value) for name, value in match.groupdict().items() if name != "what" and value is not None}
        row, block = _row(entry), _block(match["what"], numbers, str(resolution))
        where = f"{resolution} px {key}"
        if row is not None and row.rounds < 2:
            once.append(where)
        if row is not None and match["what"] in _HEAD:
            head[match["what"]] = (numbers, row)
        elif row is not None and block is not None:
            rows[block.key] = row
        else:
            wrong.append(where)
    if set(head) == set(_HEAD):
        block, row = _head(head, str(resolution))
        rows[block.key] = row
    else:
        wrong.append(f"{resolution} px: no usable {' and '.join(sorted(set(_HEAD) - set(head)))}, so no classifier")
    return rows, wrong, once


def _yaml(path: Path) -> dict[str, Any]:
    document = read_yaml(path, "latency table", feature="Reading latency tables of Once-for-All")
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise CorruptFile(f"{path} is no latency table of Once-for-All: a mapping of layers to measurements was expected.")
    return document


def _row(entry: object) -> Row | None:
    """The measurement of one entry; ``None`` if it makes no sense."""
    if not isinstance(entry, dict):
        return None
    mean, std, count = entry.get("mean"), entry.get("std", 0.0), entry.get("count", 1)
    if is_amount(mean) and is_amount(std, zero=True) and is_amount(count) and count >= 1:
        return Row(float(mean), float(std), int(count))
    return None


def _block(what: str, numbers: Mapping[str, int], context: str) -> Block | None:
    """The block of an entry; ``None`` if the entry contradicts itself (or is a part of the head)."""
    if what in _HEAD:
        return None
    cin, cout, size = numbers["cin"], numbers["cout"], numbers["size"]
    if what == "Conv":
        return Block("conv", cin, cout, size, (), 3, 2, activation="hswish", context=context)
    if what == "Conv_1":
        return Block("conv", cin, cout, size, activation="hswish", context=context)
    if "mid" not in numbers:
        return None
    mid = numbers["mid"]
    expanded = () if mid == cin else (mid,)
    excited = (divisible(mid // 4),) if numbers["se"] else ()
    block = Block(
        "mbconv" if expanded else "separable",
        cin,
        cout,
        size,
        expanded + excited,
        numbers["kernel"],
        numbers["stride"],
        activation="hswish" if numbers["hs"] else "relu",
        context=context,
    )
    return block if (block.graph.shortcut is not None) == bool(numbers["skip"]) else None


def _head(parts: Mapping[str, tuple[dict[str, int], Row]], context: str) -> tuple[Block, Row]:
    """Average pooling, feature mixing and classifier as one block."""
    pool, mix, logits = (parts[what][0] for what in _HEAD)
    each = [parts[what][1] for what in _HEAD]
    block = Block("head", pool["cin"], logits["cout"], pool["size"], (mix["cout"],), activation="hswish", context=context)
    spread = math.sqrt(sum(row.spread_ms**2 for row in each))
    return block, Row(sum(row.latency_ms for row in each), spread, min(row.rounds for row in each))


def ofa_predictor(file: PathLike, space: SearchSpace) -> Predictor:
    """Read an accuracy predictor of Once-for-All, for its MobileNetV3 or its ResNet-50 space.

    The published encoding (a one hot for every kernel, expand ratio and so on, zeros for blocks that the depth leaves out) is folded
    into the first layer, so that the predictor reads the space's own features.

    Example:
        >>> import hwsearch, numpy as np, torch
        >>> from hwsearch.interop import ofa_predictor
        >>> layers = [torch.nn.Linear(128, 400), torch.nn.ReLU(), torch.nn.Linear(400, 1)]  # the published one is trained
        >>> torch.save(torch.nn.Sequential(*layers).state_dict(), "predictor.pth")
        >>> space = hwsearch.load_space("ofa_mobilenetv3")
        >>> ofa_predictor("predictor.pth", space)(space.sample(5, np.random.default_rng(0))).shape
        (5,)

    Args:
        file: PyTorch state dict; it is loaded without running any code of it.
        space: ``ofa_mobilenetv3`` or ``ofa_resnet50``, at any width and with any resolutions that the predictor knows.

    Raises:
        FileError: the file cannot be read.
        CorruptFile: it is no such predictor, or that of another space.
        InvalidInput: the space is none of Once-for-All's, or has a resolution that the predictor does not know.
        MissingDependency: PyTorch is not installed.
    """
    from ..nn.published._state import read_state

    state = read_state(file)
    weights = [value for name, value in state.items() if name.endswith("weight")]
    biases = [value for name, value in state.items() if name.endswith("bias")]
    encoding = published_encoding(space)
    chained = all(before.shape[0] == after.shape[1] for before, after in itertools.pairwise(weights) if before.ndim == after.ndim == 2)
    if not weights or any(weight.ndim != 2 for weight in weights) or not chained or weights[-1].shape[0] != 1:
        raise CorruptFile(f"{os.fspath(file)} is no accuracy predictor of Once-for-All: layers that follow each other were expected.")
    if weights[0].shape[1] != encoding.shape[1]:
        raise CorruptFile(
            f"{os.fspath(file)} reads {weights[0].shape[1]} features, and space {space.name!r} has {encoding.shape[1]} in Once-for-All's "
            "encoding: it is the predictor of another space."
        )
    base = float(np.sum(state.get("base_acc", np.zeros(1))))
    biases += [np.zeros(len(weight)) for weight in weights[len(biases) :]]
    if [bias.shape for bias in biases] != [weight.shape[:1] for weight in weights]:
        raise CorruptFile(f"{os.fspath(file)} is no accuracy predictor of Once-for-All: a bias for each output of a layer was expected.")
    stack = [encoding @ weights[0].T, *(weight.T for weight in weights[1:])]
    layers = tuple((weight.astype(np.float32), bias.astype(np.float32)) for weight, bias in zip(stack, biases, strict=True))
    linear = np.zeros(sum(space.sizes) + 1, dtype=np.float32)
    return Predictor(space, Perceptrons(linear, (layers,)), mean=base, scale=1.0)
