"""Trained residual networks of CIFAR-10, adopted, cut and repaired without any training.

    python benchmarks/adopt_cifar.py WEIGHTS DATA --out benchmark-output

WEIGHTS holds resnet20.npz and resnet56.npz (He et al. 2016 with shortcuts A, trained with ImageNet's normalisation), DATA holds the folder
cifar-10-batches-py. The network is an ordinary PyTorch module, adopted like any other.

Protocol, written down before its run. For each case and each seed: the training images are put in random order. The first SCORED of them
say, with their labels, how many channels each block can lose (the importance "taylor"), by score lost for each multiply-accumulate saved,
and without labels which ones ("reconstruction"). Channels between blocks all stay. The first REPAIRED images repair, each mirrored by
chance and moved by up to four positions, as in training. Nothing else is chosen; but for the rows "refined", weights come from least
squares in closed form only, without labels and without descent. Choices of the method were made on ResNet-20 and other training images.
The accuracy is that of all 10,000 test images, which no choice looks at. Rows:

- searched: as above, repaired layer after layer, then scales and shifts fitted together to the outputs;
- refined: as searched, and after least squares the layers of each branch descend together towards what the whole network computes
  there, EPOCHS times through the same images, without labels and without the outputs of the network;
- refined on more: refined, repaired on MORE images in the place of REPAIRED;
- refined on most, written down when the rows above were known, and before its own run: refined, repaired on MOST images;
- ranks on more, written down when the rows above were known, and before its own run: channels all stay, and the convolutions of the blocks
  become products of 1 x 3 and 3 x 1 ones (``low_rank``), whose ranks are searched (memetic, the sum of what each loses by
  "reconstruction" on the same SCORED images, without labels) and which are repaired like "refined on more";
- layers alone: searched without its last step;
- at once: the same units, every layer repaired on its inputs in the whole network, as if all were repaired at once;
- unrepaired: the same units, not repaired;
- uniform: the same share of channels within every block, by L1, repaired like "searched".

It goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import hwsearch
from hwsearch._files._writing import Journal, write_atomic
from hwsearch.nn import ArrayData, Normalize, load_data
from hwsearch.nn.adoption import Adopted, additive, adopt, allocate, importance, low_rank
from hwsearch.nn.adoption._repair import Repair

MEAN, DEVIATION = (torch.tensor(each).view(1, 3, 1, 1) for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
SCORED, REPAIRED, MORE, MOST = 600, 1500, 3000, 6000
"""Training images for the scores and for the repair."""
SEEN = {"refined on more": MORE, "refined on most": MOST, "ranks on more": MORE}
EPOCHS = 10


class Block(nn.Module):
    """Two convolutions beside a shortcut that skips every other position and adds channels of zeros."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after)
        self.conv2, self.bn2 = nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after)
        self.more = after - before

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape ``(n, before, h, w)`` to ``(n, after, h / stride, w / stride)``."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.more:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.more // 2, self.more // 2))
        return F.relu(x + y)


class Network(nn.Module):
    """A network of three stages of ``n`` blocks."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        stages, before = [], 16
        for after in (16, 32, 64):
            stages.append(nn.Sequential(*(Block(before if not k else after, after, 1 if k or after == 16 else 2) for k in range(n))))
            before = after
        self.layer1, self.layer2, self.layer3 = stages
        self.linear = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images of shape ``(n, 3, 32, 32)`` to logits of shape ``(n, 10)``."""
        x = F.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))  # type: ignore[no-any-return]


def load_network(file: Path, depth: int) -> Network:
    """The trained network."""
    network = Network((depth - 2) // 6)
    with np.load(file, allow_pickle=False) as arrays:
        state = {name.removeprefix("module."): torch.from_numpy(arrays[name]) for name in arrays.files}
    network.load_state_dict(state, strict=False)
    return network.eval()


def normalized(images: Any) -> torch.Tensor:
    """Bytes of shape ``(n, 3, 32, 32)`` as the networks want them."""
    return (torch.as_tensor(images).float() / 255 - MEAN) / DEVIATION


def accuracy(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """The share of images that are told right, in percent."""
    with torch.no_grad():
        right = [network(normalized(images[k : k + 250])).argmax(1) == labels[k : k + 250] for k in range(0, len(labels), 250)]
    return round(100 * float(torch.cat(right).double().mean()), 2)


def inner(adopted: Adopted) -> list[str]:
    """The groups of channels within blocks: those that one convolution makes."""
    return [group.id for group in adopted.groups if group.searchable and len(group.opened) == 1]


def uniform(adopted: Adopted, macs: float) -> dict[str, int]:
    """The same share of the channels within every block, as many as there may be."""
    for share in np.linspace(1, 0.05, 400):
        keep = {name: max(1, round(share * adopted.widths[name])) for name in inner(adopted)}
        if adopted.macs(keep) <= macs:
            return keep
    raise SystemExit("The network cannot be made so small by the widths within its blocks.")


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--cases", nargs="+", default=["56:0.5", "56:0.35", "20:0.6"], help="depth and share of the multiply-accumulates")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--rows", nargs="+", default=["searched", "refined", "refined on more", "layers alone", "uniform", "at once", "unrepaired"]
    )
    parser.add_argument("--out", type=Path, default=Path("benchmark-output"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    journal = Journal(options.out / "adopt-cifar.partial.jsonl")
    done = {(line["depth"], line["share"], line["seed"], line["row"]): line for line in journal}
    wanted = [(*case.split(":"), seed, row) for row in options.rows for seed in options.seeds for case in options.cases]
    for depth, share, seed, row in wanted:
        key = (int(depth), float(share), seed, row)
        if key not in done:
            done[key] = dict(zip(("depth", "share", "seed", "row"), key, strict=True)) | run(options.weights, options.data, *key)
            journal.append(done[key])
            print(done[key], flush=True)
    text = json.dumps({"scored": SCORED, "repaired": REPAIRED, "rows": [done[key] for key in sorted(done)]}, indent=1)
    write_atomic(options.out / "adopt-cifar.json", text.encode())


@cache
def subject(weights: Path, depth: int) -> tuple[Network, Adopted]:
    """The trained network, and what can be cut of it."""
    module = load_network(weights / f"resnet{depth}.npz", depth)
    return module, adopt(module, torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))


@cache
def cifar(folder: Path) -> ArrayData:
    """CIFAR-10, normalised as these networks take it."""
    data = load_data(("cifar10", folder)).normalized(Normalize(tuple(MEAN.flatten().tolist()), tuple(DEVIATION.flatten().tolist())))
    assert isinstance(data, ArrayData)
    return data


def drawn(data: ArrayData, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Training images and their labels in random order, as many as any step looks at."""
    order = np.random.default_rng(seed).permutation(len(data.train_x))[:MOST]
    return normalized(data.train_x[order]), torch.as_tensor(data.train_y[order])


def moved(images: torch.Tensor, seed: int) -> torch.Tensor:
    """Images mirrored by chance and moved by up to four positions, as the networks were trained with."""
    rng = np.random.default_rng((seed, 1))
    padded, found = F.pad(images, (4, 4, 4, 4)), []
    for image, mirrored, (row, column) in zip(padded, rng.random(len(images)) < 0.5, rng.integers(0, 9, (len(images), 2)), strict=True):
        piece = image[:, row : row + 32, column : column + 32]
        found.append(piece.flip(2) if mirrored else piece)
    return torch.stack(found)


@cache
def scores_of(weights: Path, folder: Path, depth: int, seed: int, name: str) -> dict[str, Any]:
    """An importance of the channels within blocks."""
    data = cifar(folder)
    images, labels = drawn(data, seed)
    adopted = subject(weights, depth)[1]
    scores = importance(adopted, name, images[:SCORED], labels[:SCORED])
    return {group: scores[group] for group in inner(adopted)}


def run(weights: Path, folder: Path, depth: int, share: float, seed: int, row: str) -> dict[str, Any]:
    """One row of one seed."""
    _, adopted = subject(weights, depth)
    data = cifar(folder)
    start, limit = time.process_time(), share * adopted.macs()
    if row == "ranks on more":
        return ranked(weights, depth, limit, seed, data)
    if row == "uniform":
        keep = adopted.choose(uniform(adopted, limit), importance(adopted, "l1"))
    else:
        taylor, reconstruction = (scores_of(weights, folder, depth, seed, name) for name in ("taylor", "reconstruction"))
        keep = allocate(adopted, taylor, limit, order=reconstruction)
    images = moved(drawn(data, seed)[0][: SEEN.get(row, REPAIRED)], seed)
    if row == "at once":
        cut = Repair(adopted.cut(keep), (images,), correct=False, sequential=False, tuned=False).run()
    elif row == "layers alone":
        cut = Repair(adopted.cut(keep), (images,), tuned=False).run()
    else:
        cut = adopted.extract(keep, images=None if row == "unrepaired" else images, epochs=EPOCHS if row.startswith("refined") else 0)
    seconds, widths = time.process_time() - start, {name: len(units) for name, units in keep.items()}
    right = accuracy(cut, torch.as_tensor(data.test_x), torch.as_tensor(data.test_y))
    return {"macs": adopted.macs(widths), "accuracy": right, "widths": list(widths.values()), "seconds": round(seconds)}


@cache
def products(weights: Path, depth: int) -> Adopted:
    """The network with ranks of the layers of its blocks as genes, and no others."""
    module = low_rank(subject(weights, depth)[0], "spatial", layers=["layer*"])
    space = adopt(module, torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    return space.restrict({choice.name: [choice.values[-1]] for choice in space.choices if choice.role != "rank"})


def ranked(weights: Path, depth: int, limit: float, seed: int, data: ArrayData) -> dict[str, Any]:
    """The row "ranks on more" of one seed."""
    start, space = time.process_time(), products(weights, depth)
    images = drawn(data, seed)[0]
    scores = importance(space, "reconstruction", images[:SCORED])
    best = hwsearch.search(space, "memetic", predictor=additive(space, scores), limits={"macs": limit}, seed=seed).best
    plan = space.plan(best.genes)
    cut = space.extract(*plan, scores, images=moved(images[:MORE], seed), epochs=EPOCHS)
    seconds = time.process_time() - start
    right = accuracy(cut, torch.as_tensor(data.test_x), torch.as_tensor(data.test_y))
    chosen = best.values()
    ranks = [chosen.get(choice.name, choice.values[-1]) for choice in space.choices if choice.role == "rank"]
    return {"macs": space.macs(*plan), "accuracy": right, "ranks": ranks, "seconds": round(seconds)}


if __name__ == "__main__":
    main()
