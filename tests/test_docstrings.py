"""The examples in the docstrings of everything public run as they stand."""

from __future__ import annotations

import doctest
import importlib
import inspect
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import hwsearch
from hwsearch import _registry

FACES = (
    *(
        "algorithms",
        "backends",
        "costs",
        "devices",
        "interop",
        "networks",
        "nn",
        "nn.adoption",
        "nn.pruning",
        "nn.reinforcement",
        "profiling",
        "reports",
        "scores",
    ),
    *("searching", "spaces", "testing"),
)


@cache
def public() -> dict[str, object]:
    """Every class and function of the library's face and of the faces of its packages, by its full name."""
    faces = [hwsearch, *(importlib.import_module(f"hwsearch.{name}") for name in FACES)]
    things = [getattr(face, name) for face in faces for name in face.__all__]
    return {f"{thing.__module__}.{thing.__qualname__}": thing for thing in things if inspect.isclass(thing) or inspect.isfunction(thing)}


def examples(room: str) -> Iterator[doctest.DocTest]:
    """The examples of a room, those of methods included."""
    for name, thing in public().items():
        module = sys.modules[thing.__module__]
        if name.split(".")[1] == room:
            found = doctest.DocTestFinder().find(thing, name, module=module, globs={})
            yield from (test for test in found if test.examples)


@pytest.mark.parametrize("room", ["_registry", *dict.fromkeys(face.split(".")[0] for face in FACES)])
def test_examples_run_as_they_stand(room: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_registry, "_TARGETS", {what: dict(names) for what, names in _registry._TARGETS.items()})
    said: list[str] = []
    for test in examples(room):
        doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.append)
    assert not said, "".join(said)


def test_every_verb_has_an_example() -> None:
    verbs = {name for name in hwsearch.__all__ if inspect.isfunction(getattr(hwsearch, name))}
    without = {name for name in verbs if ">>>" not in (getattr(hwsearch, name).__doc__ or "")}
    assert not without
    assert verbs >= {"cheapest", "compress", "register", "search", "sweep", "write_report"}
