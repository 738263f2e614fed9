"""How well a table of kernels, measured inside a handful of networks, predicts other networks that were cut out of the same one.

    python benchmarks/adopt_tables.py --out benchmark-output --networks resnet50 mobilenet_v3_large

Weights are random (seed 0). Of each network of torchvision a table is profiled by ONNX Runtime (or ``--backend openvino``) with one thread,
batch 1, fp32; 20 random networks, from small to large, with branches absent here and there, are held out and measured whole by the plain
runtime. With ``--precisions fp32 int8`` each region of kernels is in either; a third of the networks is in fp32, one in int8 and one
mixed, and errors and rank correlations are given for each kind. Beside the error of the predictions stands the standard error of these
measurements, and the load of the machine: on a busy one the former says little.
It goes on where it was stopped; tables that are complete are not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import hwsearch
from hwsearch._files._writing import write_atomic
from hwsearch.devices import LatencyTable
from hwsearch.devices._calibration import network_class, spearman
from hwsearch.devices._device import Check
from hwsearch.networks import Block
from hwsearch.nn.data._vision import import_torchvision
from hwsearch.profiling import Effort

NETWORKS = ("resnet50", "mobilenet_v3_large", "densenet121", "shufflenet_v2_x1_0", "efficientnet_b0")


def profile(name: str, pixels: int, effort: Effort, path: Path, precisions: tuple[str, ...], backend: str) -> dict[str, Any]:
    """Profile one network; all that is written down of it."""
    torch.manual_seed(0)
    module = import_torchvision().models.get_model(name, weights=None)
    began, load = time.monotonic(), os.getloadavg()[0]
    space = hwsearch.adopt(module, torch.randn(1, 3, pixels, pixels), precisions=precisions)
    adopted = time.monotonic()
    table = hwsearch.profile(space, backend=backend, out=path, effort=effort, progress=False)
    seconds = {"adopt": round(adopted - began, 1), "profile": round(time.monotonic() - adopted, 1)}
    given = {"network": name, "pixels": pixels, "precisions": list(precisions), "genes": len(space.choices)}
    return {**given, **facts(table), "seconds": seconds, "load": [round(load, 1), round(os.getloadavg()[0], 1)]}


def kinds(checks: list[Check]) -> dict[str, dict[str, float]]:
    """Errors and rank correlations of the networks in one precision, and of mixed ones."""
    found: dict[str, dict[str, float]] = {}
    of = [network_class([Block.parse(key) for key in check.blocks]) for check in checks]
    for kind in sorted(set(of)):
        mine = [check for check, each in zip(checks, of, strict=True) if each == kind]
        rank = spearman([check.measured_ms for check in mine], [check.predicted_ms for check in mine])
        error = float(np.mean([abs(check.error) for check in mine]))
        found[kind] = {"networks": len(mine), "mean_abs": round(error, 4), "spearman": round(rank, 4)}
    return found


def facts(table: LatencyTable) -> dict[str, Any]:
    """What a table says of itself."""
    checks = [check for check in table.checks if check.role == "check"]
    return {
        "kernels": len(table.rows),
        **{name: round(value, 4) for name, value in table.error().items()},
        "measurement_error": round(float(np.mean([check.noise for check in checks])), 4),
        "kinds": kinds(checks),
        "bias": round(float(np.mean([check.error for check in checks])), 4),
        "checks": [[round(check.measured_ms, 4), round(check.predicted_ms, 4), round(check.noise, 4)] for check in checks],
    }


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", default=NETWORKS)
    parser.add_argument("--precisions", nargs="+", default=["fp32"])
    parser.add_argument("--backend", default="onnxruntime", help="or openvino")
    parser.add_argument("--pixels", type=int, default=224)
    parser.add_argument("--fits", type=int, default=24)
    parser.add_argument("--checks", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=48)
    parser.add_argument("--out", type=Path, default=Path("benchmark-output"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    effort = Effort(fits=options.fits, checks=options.checks, max_rounds=options.rounds)
    options.out.mkdir(parents=True, exist_ok=True)
    kind = f"{options.backend}-{'-'.join(options.precisions)}"
    found = []
    for name in options.networks:
        path = options.out / f"{name}-{options.pixels}-{kind}.json"
        found.append(profile(name, options.pixels, effort, path, tuple(options.precisions), options.backend))
        print({key: value for key, value in found[-1].items() if key != "checks"}, flush=True)
        text = json.dumps({"device": hwsearch.load_table(path).device.name, "rows": found}, indent=1)
        write_atomic(options.out / f"adopt-tables-{kind}.json", text.encode())


if __name__ == "__main__":
    main()
