"""Whose cut networks are right: Torch-Pruning's beside ours, on kinds of networks and on random graphs.

    python -m venv against && against/bin/pip install ".[torch]" torchvision hypothesis pytest torch-pruning==1.6.1
    against/bin/python benchmarks/adopt_against.py --graphs 300 --out benchmark-output

The networks are those of tests/nn/test_adopt.py and tests/nn/test_adopt_random.py, with lively weights. Torch-Pruning takes half of
the channels by random importance in all layers but the last, as in its own examples; ours keeps a random part of every group. A cut
network is right where its outputs equal those of the whole module with all removed weights at zero, to 1e-5 of the largest. It is
counted as wrong where it runs and differs, as failed where cutting or running raises or takes more than MOST_S seconds, and as uncut where
no weight is gone.
"""

from __future__ import annotations

import argparse
import copy
import json
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hwsearch._files._writing import write_atomic
from hwsearch.nn.adoption import adopt

MOST_S = 10
TESTS = Path(__file__).parents[1] / "tests"
Inputs = tuple[torch.Tensor, ...]


def kinds() -> Iterator[tuple[str, nn.Module, Inputs]]:
    """The kinds of networks of the tests."""
    for name, (module, shapes, _) in import_module("test_adopt").CASES.items():
        generator = torch.Generator().manual_seed(0)
        yield name, module, tuple(torch.randn(shape, generator=generator) for shape in shapes)


def graphs(n: int) -> Iterator[tuple[str, nn.Module, Inputs]]:
    """Random networks, drawn by a generator of numbers in place of hypothesis."""
    tests: Any = import_module("test_adopt_random")

    class Strategies:
        @staticmethod
        def integers(low: int, high: int) -> tuple[int, int]:
            return low, high

    tests.st = Strategies
    for number in range(n):
        rng = np.random.default_rng(number)
        torch.manual_seed(number)
        module = tests.Drawn(lambda ends, rng=rng: int(rng.integers(ends[0], ends[1] + 1)))
        yield str(number), module, (torch.randn((2, 3, 4, 6), generator=torch.Generator().manual_seed(0)),)


def theirs(module: nn.Module, inputs: Inputs) -> nn.Module:
    """Half of the channels, taken by Torch-Pruning."""
    tp: Any = import_module("torch_pruning")
    cut = copy.deepcopy(module)
    last = [layer for layer in cut.modules() if isinstance(layer, nn.Linear | nn.Conv2d)][-1]
    importance = tp.importance.RandomImportance()
    pruner = tp.pruner.MagnitudePruner(cut, inputs, importance=importance, pruning_ratio=0.5, ignored_layers=[last])
    pruner.step()
    return cut


def ours(module: nn.Module, inputs: Inputs) -> nn.Module:
    """A random part of every group."""
    adopted = adopt(module, inputs)
    rng = np.random.default_rng(1)
    found: nn.Module = adopted.extract(import_module("masking").draw(adopted, rng))
    return found


def verdict(cutting: Callable[[nn.Module, Inputs], nn.Module], module: nn.Module, inputs: Inputs) -> str:
    """What came of cutting a network."""
    masking: Any = import_module("masking")
    masking.enliven(module)
    before = sum(each.numel() for each in module.parameters())
    signal.alarm(MOST_S)
    try:
        cut = cutting(module, inputs).eval()
        if sum(each.numel() for each in cut.parameters()) == before:
            return "uncut"
        with torch.no_grad():
            found, wanted = cut(*inputs), masking.reference(module, cut)(*inputs)
    except Exception:
        # Whatever either tool or an operation raises.
        return "failed"
    finally:
        signal.alarm(0)
    try:
        masking.assert_equal(found, wanted)
    except AssertionError:
        return "wrong"
    return "right"


def late(*_: Any) -> None:
    """What ends a network that takes too long."""
    raise TimeoutError


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graphs", type=int, default=300)
    parser.add_argument("--tools", nargs="*", default=["torch-pruning", "hwsearch"])
    parser.add_argument("--out", type=Path, default=Path("benchmark-output"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, late)
    sys.path[:0] = [str(TESTS), str(TESTS / "nn")]
    result: dict[str, Any] = {}
    for tool in options.tools:
        cutting = {"torch-pruning": theirs, "hwsearch": ours}[tool]
        said = {name: verdict(cutting, module, inputs) for name, module, inputs in kinds()}
        drawn = {name: verdict(cutting, module, inputs) for name, module, inputs in graphs(options.graphs)}
        result[tool] = {"kinds": said, "kinds_counted": Counter(said.values()), "graphs_counted": Counter(drawn.values())}
        print(tool, dict(result[tool]["kinds_counted"]), dict(result[tool]["graphs_counted"]), flush=True)
        write_atomic(options.out / "adopt-against.json", json.dumps({"torch": torch.__version__, "tools": result}, indent=1).encode())


if __name__ == "__main__":
    main()
