"""Shared by all tests: one thread, a small space with a table, and the real data where it is at hand."""

from __future__ import annotations

import os
import sys

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ["HWSEARCH_CACHE"] = ""  # tests leave nothing behind in the home folder

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

import hwsearch
from hwsearch.spaces import Chain, Stage

if TYPE_CHECKING:
    from hwsearch.nn import Data, Supernet

ROOT = Path(__file__).parent.parent
settings.register_profile("busy machines", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machines")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of published data; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("HWSEARCH_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"the published data is not at hand (set HWSEARCH_DATA to its folder; looked in {folder.name})")
    return folder


@pytest.fixture(scope="session")
def digits() -> hwsearch.SearchSpace:
    """The demonstration's space."""
    return hwsearch.load_space("resnet_digits")


@pytest.fixture(scope="session")
def toy() -> hwsearch.SearchSpace:
    """A space of 11,520 architectures, small enough to enumerate: two elastic stages, a bottleneck one among them."""
    return make_toy()


def make_toy(*precisions: str) -> hwsearch.SearchSpace:
    """The toy space, of fp32 and int8 where no other precisions are named."""
    chain = Chain(
        name="toy",
        resolutions=(8, 12),
        stem=(8,),
        stages=(
            Stage(depths=(1, 2), outs=(8, 16), mids=(4, 8)),
            Stage(depths=(1, 2), outs=(16,), mids=(8, 12), stride=2, kind="bottleneck"),
        ),
        classes=10,
        channels=1,
        precisions=precisions or ("fp32", "int8"),
    )
    return chain.space()


@pytest.fixture(scope="session")
def roofline_table(digits: hwsearch.SearchSpace, toy: hwsearch.SearchSpace) -> hwsearch.LatencyTable:
    """An analytic device's table of both small spaces, with energies."""
    return make_table((*digits.unique_blocks, *toy.unique_blocks))


def make_table(blocks: tuple[hwsearch.networks.Block, ...]) -> hwsearch.LatencyTable:
    """Measure blocks on the analytic device."""
    from hwsearch.devices import Protocol, Row

    device = hwsearch.backends.Roofline()
    rows = {}
    for block in dict.fromkeys(blocks):
        session = device.open([block])
        rows[block.key] = Row(latency_ms=float(session.times(1)[0]) * 1e3, spread_ms=0.0, rounds=1, energy_mj=session.energy_mj)
    return hwsearch.LatencyTable(device.describe(), Protocol(), rows, energy="estimated")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """What draws from torch's global generator draws the same, whichever tests ran before."""
    if "torch" in sys.modules:
        import torch

        torch.manual_seed(0)


@pytest.fixture
def rng() -> np.random.Generator:
    """A seeded generator."""
    return np.random.default_rng(20261121)


@pytest.fixture(scope="session")
def trained(toy: hwsearch.SearchSpace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A supernet of the toy space, trained on scanned digits in a few seconds."""
    from hwsearch.nn import Recipe, train

    out = tmp_path_factory.mktemp("supernet") / "toy.safetensors"
    train(toy, data="digits", out=out, recipe=Recipe(epochs=10, batch=32, learning_rate=0.2, random_networks=1), progress=False)
    return out


@pytest.fixture(scope="module")
def supernet(trained: Path, toy: hwsearch.SearchSpace) -> Supernet:
    """The trained supernet, read for each module of tests anew."""
    from hwsearch.nn import Supernet

    return Supernet.load(trained, toy)


@pytest.fixture(scope="module")
def data() -> Data:
    """The scanned digits that it was trained on."""
    from hwsearch.nn import load_data

    return load_data("digits")
