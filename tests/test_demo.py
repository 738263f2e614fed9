"""The demo of the README: what it asks of training, what its digits are, and what it says of its figures."""

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import hwsearch

for package in ("onnxruntime", "torch", "sklearn"):
    pytest.importorskip(package)

EXAMPLES = Path(__file__).parent.parent / "examples"
DEMO = EXAMPLES / "demo.py"


@pytest.fixture(autouse=True)
def beside_its_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is when the file is run."""
    monkeypatch.syspath_prepend(str(EXAMPLES))


class Reached(Exception):
    """The demo began to train."""


@pytest.mark.parametrize(("given", "epochs"), [([], 3), (["--epochs", "2"], 2)])
def test_the_demo_trains_by_a_recipe_that_exists(tmp_path, monkeypatch, given, epochs):
    from hwsearch.nn.training._recipe import recipe_for

    def train(space, *, data, out, recipe, seed):
        raise Reached(recipe_for(data.name, recipe).epochs)

    monkeypatch.setattr(hwsearch, "profile", lambda *args, **options: SimpleNamespace(device=None))
    monkeypatch.setattr(hwsearch, "train", train)
    monkeypatch.setattr(sys, "argv", [str(DEMO), "--out", str(tmp_path), *given])
    with pytest.raises(Reached) as reached:
        runpy.run_path(str(DEMO), run_name="__main__")
    assert reached.value.args == (epochs,)


def test_no_digit_of_the_test_is_among_those_that_are_trained_on():
    """Thousands of images, made of digits that are split first; another seed is another task."""
    harder = runpy.run_path(str(EXAMPLES / "harder_digits.py"))
    data, sources = harder["harder_digits"](0), harder["sources"]
    assert data.count("test") == len(sources("test")) == 12_000
    assert sum(harder["DIGITS"].values()) == 1797
    labels = data.labels("test").reshape(-1, harder["VARIANTS"]["test"])
    assert (labels == labels[:, :1]).all()
    assert (np.bincount(sources("test")) == harder["VARIANTS"]["test"]).all()
    first, second = data.test_x[:2]
    assert not (first == second).all()
    assert harder["harder_digits"](1).fingerprint != data.fingerprint == harder["harder_digits"](0).fingerprint


def test_the_demo_names_luck_and_a_limit_that_is_missed_and_says_who_is_ahead():
    from hwsearch.reports import Compared

    demo = runpy.run_path(str(DEMO), run_name="demo")
    result = SimpleNamespace(best_score=0.9701)
    others = [Compared(name, 0.95, 0.0310, 0.0330, 0.0002, 1e6, 1e4, 100) for name in demo["NAMES"][:-1]]
    searched = Compared("searched", 0.9583, 0.0310, 0.0330, 0.0002, 1e6, 1e4, 100, images=360)
    luck, missed, gain, tie = demo["caveats"](result, 0.0323, [*others, searched], [(0.1, 0.1), (0.0083, 0.002), (-0.002, 0.002)])
    assert "validation images, 97.01%; on the test images, which chose nothing, it has 95.83%" in luck
    assert missed == "It misses the limit of 0.0323 ms by 2.2%."
    assert "against uniform" in gain
    assert "+0.83 points (95 % interval +0.44 to +1.22), ahead, at 100.0% of its measured latency" in gain
    assert "against scaled" in tie
    assert "neither ahead nor behind beyond the noise" in tie
    assert len(demo["caveats"](result, 0.0331, [*others, searched], [(0.1, 0.1), (0.1, 0.1), (0.1, 0.1)])) == 3
    low, high = searched.interval
    assert (round(low, 3), round(high, 3)) == (0.932, 0.975)
    assert searched.cells()["accuracy"] == "95.83% (93.2% to 97.5%)"
