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
