"""What the files of a user's own network say, read without torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from .._files._reading import PathLike, guarded, parse_json, parse_tensor_header, read_bytes, read_document

FOLDER = "hwsearch-adopted"
NETWORK = "hwsearch-adopted-network"
_TOLD = ("data", "train_images", "seed", "precision", "weight_bits")


@dataclass(frozen=True)
class AdoptedFacts:
    """What a network's file says, without its weights.

    Attributes:
        name: of the network, or of the file.
        facts: by their names, as they are shown.
        recipe: how it was trained; empty if it was not.
        curve: how good it was after how many steps.
    """

    name: str
    facts: Mapping[str, Any]
    recipe: Mapping[str, Any]
    curve: tuple[tuple[int, float], ...] = ()


def read_network_facts(path: PathLike) -> AdoptedFacts:
    """Read the header of a network that was adopted, and perhaps cut and trained.

    Raises:
        FileError: there is no such file, or it cannot be read.
        CorruptFile: it is truncated, or another file.
    """
    tensors, metadata = parse_tensor_header(read_bytes(path, "adopted network"), path, "adopted network")
    with guarded(path, "adopted network"):
        header = parse_json(metadata["hwsearch"].encode(), path)
        plan, trained = header.get("plan") or {}, header.get("facts") or {}
        operations = [each["target"] for each in header["nodes"] if each["op"] == "call_function"]
        facts: dict[str, Any] = {"format": NETWORK, "operations": len(operations)}
        facts["parameters"] = f"{sum(prod(tensors[name]['shape']) for name in header['parameters']):,}"
        if "hwsearch.integers" in operations:
            facts["kernels in int8"] = operations.count("hwsearch.integers") // 2
        if plan:
            facts |= {"cut from": plan["fingerprint"], "groups kept in part": len(plan["keep"]), "branches removed": len(plan["branches"])}
            facts["inputs"] = ", ".join("x".join(map(str, each["size"])) for each in plan["inputs"])
        facts |= {name: trained[name] for name in _TOLD if name in trained}
        curve = tuple((int(step), float(value)) for step, value in (trained.get("happened") or {}).get("curve", []))
        recipe = {name: value for name, value in (trained.get("recipe") or {}).items() if name != "phases"}
        return AdoptedFacts(os.path.basename(os.fspath(path)), facts, recipe, curve)


def read_folder_facts(path: PathLike) -> AdoptedFacts:
    """Read what the folder of an adopted network says, by the document in it.

    Raises:
        FileError: a file of it cannot be read.
        CorruptFile: it is another file.
    """
    document = read_document(path, "adopted network", format=FOLDER, version=1)
    with guarded(path, "adopted network"):
        network = read_network_facts(os.path.join(os.path.dirname(os.fspath(path)), "network.safetensors"))
        facts = {"format": FOLDER, "fingerprint of the space": str(document["fingerprint"]), "step": int(document["step"])}
        facts |= {"frozen": ", ".join(map(str, document["frozen"])) or "nothing"}
        facts |= {name: value for name, value in network.facts.items() if name in ("operations", "parameters", "inputs")}
        return AdoptedFacts(str(document["name"]), facts, {})
