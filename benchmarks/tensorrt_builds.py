"""How many blocks of the search spaces TensorRT-RTX builds engines of, without a GPU, for SM 80, 86, 89 and 120 at once.

python benchmarks/tensorrt_builds.py [--most 60] [--spaces resnet_cifar ...] [--precisions fp32 int8]

Draws up to so many blocks of each space and precision, puts each between its neighbours as profiling does, and builds. Needs
``pip install 'hwsearch[tensorrt-rtx]'``. Results go to ``benchmarks/results/tensorrt_builds.json``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hwsearch._files._writing import write_atomic
from hwsearch._registry import names
from hwsearch.backends.tensorrt import TensorRT
from hwsearch.errors import BuildFailed
from hwsearch.networks import Block
from hwsearch.spaces import load_space

RESULTS = Path(__file__).parent / "results" / "tensorrt_builds.json"
TARGETS, FP8_TARGETS = ("80", "86", "89", "120"), ("89", "120")


def main() -> None:
    """Build, count, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=60, help="blocks of a space and precision")
    parser.add_argument("--spaces", nargs="*", default=list(names("space")))
    parser.add_argument("--precisions", nargs="*", default=["fp32", "fp16", "bf16", "int8", "fp8", "w4a16"])
    chosen = parser.parse_args()
    rows = []
    for space in chosen.spaces:
        blocks = load_space(space).unique_blocks
        if space == "apq":  # its precisions are its own; its shapes are tried at ours
            blocks = tuple(block for block in blocks if block.precision == "w8a8")
        shapes = {replace(block, precision="fp32", context="") for block in blocks if not block.boundary}
        for precision in chosen.precisions:
            rows.append(one(space, precision, sorted(shapes, key=lambda block: block.key), chosen.most))
            print(rows[-1], flush=True)
    version = TensorRT(sm=TARGETS).target.runtime
    document = {"command": "python benchmarks/tensorrt_builds.py", "tensorrt": version, "sm": TARGETS, "fp8_sm": FP8_TARGETS, "rows": rows}
    write_atomic(RESULTS, json.dumps(document, indent=1).encode() + b"\n")


def one(space: str, precision: str, shapes: list[Block], most: int) -> dict[str, Any]:
    """Build the blocks of one space at one precision."""
    rng = np.random.default_rng(0)
    drawn = [shapes[index] for index in sorted(rng.permutation(len(shapes))[:most])]
    failed, began = [], time.perf_counter()
    with tempfile.TemporaryDirectory() as cache:
        backend = TensorRT(sm=FP8_TARGETS if precision == "fp8" else TARGETS, cache=cache, timeout_s=120)
        for shape in drawn:
            block = replace(shape, precision=precision)
            try:
                backend.engine(backend.framed(block)[0])
            except BuildFailed as error:
                failed.append(f"{block.key}: {error}")
        backend.engines.close()
    seconds = (time.perf_counter() - began) / max(len(drawn), 1)
    found = {"space": space, "precision": precision, "blocks": len(shapes), "tried": len(drawn), "built": len(drawn) - len(failed)}
    return {**found, "seconds_each": round(seconds, 3), "failed": failed}


if __name__ == "__main__":
    main()
