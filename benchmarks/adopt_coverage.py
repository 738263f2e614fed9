"""How much of torchvision's networks can be cut: every classification and segmentation network, adopted with all proofs.

    python benchmarks/adopt_coverage.py --out benchmark-output
    python benchmarks/adopt_coverage.py --out benchmark-output/timm --networks timm:resnet26d timm:vit_tiny_patch16_224

Names that begin with ``timm:``, ``transformers:`` or ``segmentation_models_pytorch:`` are networks of these libraries, which have to be
installed (``transformers:`` alone: all that other_libraries.py lists). Weights are random (seed 0). Of each network stand
there: the share of multiply-accumulates in kernels whose widths are searchable, the groups and residual branches that are searchable
and all of them, CPU-seconds of one thread for capture, groups and proofs, and the reasons of what is frozen. One random cut of each
(seed 0) is run, too. Images are as small as the network allows, since convolutional networks have the same groups at any size. It goes
on where it was stopped; networks that need too much memory can be left out with --largest.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import other_libraries
import torch

from hwsearch._files._writing import Journal, write_atomic
from hwsearch.errors import Unsupported
from hwsearch.nn.adoption import Adopted, adopt
from hwsearch.nn.data._vision import import_torchvision

PIXELS = {"vit_h": 224, "vit": 224, "maxvit": 224, "swin": 224, "inception": 96, "deeplab": 96, "fcn": 96}


def build(models: Any, name: str) -> tuple[torch.nn.Module, dict[str, torch.Tensor], int]:
    """A network with random weights, its inputs by keyword if it takes such, and the side of its images."""
    side = next((pixels for start, pixels in PIXELS.items() if name.rpartition(":")[2].startswith(start)), 64)
    if ":" in name:
        module, given, fixed = other_libraries.build(name)
        return module, given, fixed or side
    torch.manual_seed(0)
    kind = models.get_model_builder(name)
    backbone = {"weights_backbone": None} if "segmentation" in kind.__module__ else {}
    return kind(weights=None, **backbone), {}, side


def cut_once(adopted: Adopted) -> float:
    """Run one random cut; the share of the multiply-accumulates that are left."""
    rng = np.random.default_rng(0)
    plan = {
        group.id: rng.choice(group.width, int(rng.integers(1, group.width + 1)), replace=False)
        for group in adopted.groups
        if group.searchable
    }
    with torch.no_grad():
        adopted.extract(plan)(*adopted.inputs)
    return adopted.macs({name: len(units) for name, units in plan.items()}) / adopted.macs()


def measure(models: Any, name: str) -> dict[str, Any]:
    """All that is written down of one network."""
    module, given, pixels = build(models, name)
    images = () if given else (torch.randn(1, 3, pixels, pixels, generator=torch.Generator().manual_seed(0)),)
    start = time.process_time()
    try:
        adopted = adopt(module, images, keywords=given)
    except Unsupported as error:
        return {"network": name, "refused": str(error), "share": 0.0}
    seconds = time.process_time() - start
    report = adopted.report
    return {
        "network": name,
        "input": list(adopted.inputs[0].shape),
        "parameters": sum(each.numel() for each in module.parameters()),
        "share": round(report.share, 4),
        "groups": [sum(group.searchable for group in adopted.groups), len(adopted.groups)],
        "branches": [sum(branch.searchable for branch in adopted.branches), len(adopted.branches)],
        "seconds": round(seconds, 1),
        "cut": round(cut_once(adopted), 3),
        "unknown": list(report.unknown),
        "frozen": sorted({group.reason for group in adopted.groups if group.reason}),
    }


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", help="all if omitted")
    parser.add_argument("--largest", type=float, default=1e9, help="the most parameters of a network")
    parser.add_argument("--out", type=Path, default=Path("benchmark-output"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    torchvision = import_torchvision()
    models = torchvision.models
    names = [*models.list_models(module=models), *models.list_models(module=models.segmentation)]
    journal = Journal(options.out / "adopt-coverage.partial.jsonl")
    done = {line["network"]: line for line in journal}
    names = options.networks or names
    names = [
        each for name in names for each in ([f"{name}{kind}" for kind in other_libraries.KINDS] if name == "transformers:" else [name])
    ]
    sizes = {} if options.networks else {name: next(iter(models.get_model_weights(name))).meta["num_params"] for name in names}
    for name in sorted(names, key=lambda name: sizes.get(name, 0)):
        if name not in done and sizes.get(name, 0) <= options.largest:
            done[name] = measure(models, name)
            journal.append(done[name])
            line = done[name]
            print(name, line.get("refused") or f"{line['share']:.1%} {line['groups']} {line['branches']} {line['seconds']} s", flush=True)
    found = [done[name] for name in names if name in done]
    shares = [line["share"] for line in found]
    summary = {
        "networks": len(found),
        "median_share": statistics.median(shares),
        "least_share": min(shares),
        "seconds": round(sum(line.get("seconds", 0.0) for line in found), 1),
        "not_proven": sum("not proven" in reason for line in found for reason in line.get("frozen", [])),
    }
    text = json.dumps({"torch": torch.__version__, "torchvision": torchvision.__version__, "summary": summary, "rows": found}, indent=1)
    write_atomic(options.out / "adopt-coverage.json", text.encode())
    print(summary)


if __name__ == "__main__":
    main()
