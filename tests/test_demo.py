"""The demo of the README: what it asks of training, with the options that ``make demo`` gives, which are none, and with others."""

import runpy
import sys
from pathlib import Path

import pytest

import hwsearch

for package in ("onnxruntime", "torch", "sklearn"):
    pytest.importorskip(package)

DEMO = Path(__file__).parent.parent / "examples" / "demo.py"


class Reached(Exception):
    """The demo began to train."""


@pytest.mark.parametrize(("given", "epochs"), [([], 16), (["--epochs", "3"], 3)])
def test_the_demo_trains_by_a_recipe_that_exists(tmp_path, monkeypatch, given, epochs):
    from hwsearch.nn.training._recipe import recipe_for

    def train(space, *, data, out, recipe, seed):
        raise Reached(recipe_for(data.name, recipe).epochs)

    monkeypatch.setattr(hwsearch, "profile", lambda *args, **options: "a table")
    monkeypatch.setattr(hwsearch, "train", train)
    monkeypatch.setattr(sys, "argv", [str(DEMO), "--out", str(tmp_path), *given])
    with pytest.raises(Reached) as reached:
        runpy.run_path(str(DEMO), run_name="__main__")
    assert reached.value.args == (epochs,)


def test_the_demo_names_luck_and_a_limit_that_is_missed():
    from types import SimpleNamespace

    from hwsearch.reports import Compared

    demo = runpy.run_path(str(DEMO), run_name="demo")
    result = SimpleNamespace(best_score=0.9701)
    searched = Compared("searched", 0.9583, 0.0310, 0.0330, 0.0002, 1e6, 1e4, 100, images=360)
    luck, missed = demo["caveats"](result, 0.0323, searched)
    assert "validation images, 97.01%; on the test images, which chose nothing, it has 95.83%" in luck
    assert missed == "It misses the limit of 0.0323 ms by 2.2%."
    assert len(demo["caveats"](result, 0.0331, searched)) == 1
    low, high = searched.interval
    assert (round(low, 3), round(high, 3)) == (0.932, 0.975)
    assert searched.cells()["accuracy"] == "95.83% (93.2% to 97.5%)"
