"""Gradual pruning of a trained network of CIFAR-10: filters and single weights become zero while it learns on (Zhu and Gupta, 2017).

    python benchmarks/agp.py WEIGHTS DATA --epochs 12 --amp bf16 --out benchmark-output

WEIGHTS and DATA are as for ``adopt_cifar.py``. The network is ResNet-20 (or --depth) as published there, adopted like any other.

Protocol, written down before its run. It is trained on 45,000 training images, mirrored and moved, by stochastic gradient descent, from a
rate of RATE that falls to zero as a cosine, towards the outputs of the network as it was (share 0.9 at temperature 4) and the labels. The
share of zeros rises as a cubic for the first 60 % of the training. The last weights count; nothing is chosen on test images.

- *filters, LIMIT*: filters of the first convolution of each block, the same share in every block: the least that brings the
  multiply-accumulates to LIMIT (--limits) of the whole network's. Then they are removed for good, the layers that read them are repaired by
  least squares on REPAIRED training images (a filter of zeros still gives the shift of its batch norm), and the network is trained for
  AFTER epochs more, from a tenth of the rate.
- *weights*: SPARSE of all weights of convolutions and of the linear layer, the smallest of all layers together but for the first and the
  last one, which stay dense; the share of those others is so much higher.

To prune or not to prune (large and sparse, or small and dense?), with ``--depth 56 --small 20 --parts weights small``: *weights* then
leaves ResNet-56 as many weights that are not zero as ResNet-20 has, and *small* trains dense ResNet-20 as published for as long, at the
same rate, with ResNet-56 as its teacher, too.

The accuracy is that of all 10,000 test images, of the ONNX file that was run. It goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from adopt_cifar import REPAIRED, accuracy, cifar, drawn, inner, moved, subject
from spent import counted

import hwsearch
from hwsearch._files._writing import write_atomic
from hwsearch.nn.adoption import Adopted, adopt, load_network, save_network
from hwsearch.nn.pruning import Sparsity, sparsity_of

RATE, AFTER = 0.05, 2
LIMITS, SPARSE = (0.606, 0.75), 0.69
STEM, LAST = "conv1.weight", "linear.weight"


def share_of(adopted: Adopted, limit: float) -> float:
    """The least share of filters whose removal, in every block alike, keeps a limit on multiply-accumulates."""
    for share in np.linspace(0, 0.95, 951):
        kept = {name: adopted.widths[name] - round(float(share) * adopted.widths[name]) for name in inner(adopted)}
        if adopted.macs(kept) <= limit * adopted.macs():
            return float(share)
    raise SystemExit(f"{limit} cannot be reached by the widths within blocks.")


def trained(adopted: Adopted, start: Path, folder: Path, options: argparse.Namespace, recipe: dict[str, Any]) -> Any:
    """What comes of a network in a file by training."""
    whole = {"batch": 128, "learning_rate": RATE, "amp": options.amp, "keep": "last", "teacher": adopted.network}
    return hwsearch.finish(start, data=cifar(options.data), out=folder, recipe=whole | recipe)


def filters(adopted: Adopted, whole: Path, folder: Path, options: argparse.Namespace, limit: float) -> dict[str, Any]:
    """One limit on multiply-accumulates."""
    share = share_of(adopted, limit)
    sparsity = Sparsity(share, unit="filter", dense=(STEM, "*.conv2.weight"))
    zeros = trained(adopted, whole, folder / "zeros", options, {"epochs": options.epochs, "sparsity": sparsity})
    network = load_network(folder / "zeros" / "float.safetensors")
    left = adopt(network, torch.zeros(2, 3, 32, 32))
    names = {group.id: next(name for name, _ in group.opened) for group in left.groups if group.id in inner(left)}
    keep = {group: network.get_parameter(name).flatten(1).any(1).nonzero()[:, 0].tolist() for group, name in names.items()}
    thin = folder / "thin.safetensors"
    if not thin.exists():
        save_network(left.extract(keep, images=moved(drawn(cifar(options.data), 0)[0][:REPAIRED], 0)), thin)
    done = trained(adopted, thin, folder / "after", options, {"epochs": AFTER, "learning_rate": RATE / 10})
    kept = left.macs({group: len(units) for group, units in keep.items()})
    return {
        "accuracy": done.accuracy,
        "with zeros": zeros.accuracy,
        "macs": kept / left.macs(),
        "filters": {names[each]: len(keep[each]) for each in keep},
    }


def sizes_of(adopted: Adopted) -> dict[str, int]:
    """How many weights each layer has."""
    return {name: each.numel() for name, each in adopted.network.named_parameters() if each.ndim > 1}


def weights(adopted: Adopted, whole: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Single weights."""
    sizes = sizes_of(adopted)
    total, dense = sum(sizes.values()), sizes[STEM] + sizes[LAST]
    zeros = SPARSE * total if options.small is None else total - sum(sizes_of(subject(options.weights, options.small)[1]).values())
    sparsity = Sparsity(zeros / (total - dense), spread="global", dense=(STEM, LAST))
    done = trained(adopted, whole, folder, options, {"epochs": options.epochs, "sparsity": sparsity})
    share = sparsity_of(load_network(folder / "float.safetensors"))
    return {"accuracy": done.accuracy, "sparsity": share, "left": round((1 - share) * total)}


def small(adopted: Adopted, whole: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """A small dense network that learns from the large one for as long."""
    other = subject(options.weights, options.small)[1]
    save_network(other.network, start := whole.with_name("small.safetensors"))
    done = trained(adopted, start, folder, options, {"epochs": options.epochs})
    return {"accuracy": done.accuracy, "left": sum(sizes_of(other).values())}


def main() -> None:
    """Run what has not been run yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--small", type=int, metavar="DEPTH", help="of a network, of as many weights as are to be left")
    parser.add_argument("--parts", nargs="+", choices=["filters", "weights", "small"], default=["filters", "weights"])
    parser.add_argument("--limits", type=float, nargs="+", default=LIMITS, help="for filters")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--amp", default=None, help="the number format of the training, such as bf16")
    parser.add_argument("--out", type=Path, default=Path("benchmark-output"))
    options = parser.parse_args()
    if "small" in options.parts and options.small is None:
        parser.error("--parts small needs --small")
    torch.set_num_threads(1)
    module, adopted = subject(options.weights, options.depth)
    stem = f"agp-{options.epochs}" if options.depth == 20 else f"agp-{options.depth}-{options.epochs}"
    folder = options.out / stem
    folder.mkdir(parents=True, exist_ok=True)
    whole, file = folder / "whole.safetensors", options.out / f"{stem}.json"
    save_network(adopted.network, whole)
    found = json.loads(file.read_text()) if file.exists() else {}
    runs: dict[str, tuple[Any, ...]] = {f"filters, {limit:g}": (filters, limit) for limit in options.limits if "filters" in options.parts}
    runs |= {name: (part,) for name, part in (("weights", weights), ("small", small)) if name in options.parts}
    if "dense" not in found:
        data = cifar(options.data)
        found["dense"] = {"accuracy": accuracy(module, torch.as_tensor(data.test_x), torch.as_tensor(data.test_y))}
    for name, (run, *arguments) in runs.items():
        if name not in found:
            with counted(folder / f"{name}.seconds") as spent:
                found[name] = run(adopted, whole, folder / name, options, *arguments)
                found[name]["seconds"] = round(spent())
        write_atomic(file, json.dumps(found, indent=1).encode())
        print(name, found[name], flush=True)


if __name__ == "__main__":
    main()
