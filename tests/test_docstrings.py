"""The examples in the docstrings of everything public run as they stand."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from unittest.mock import patch

import pytest

import hwsearch
from hwsearch import _registry, errors

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
    """Every class and function of the library's face and of the faces of its packages, and of the errors, by its full name."""
    faces = [hwsearch, *(importlib.import_module(f"hwsearch.{name}") for name in FACES)]
    things = [getattr(face, name) for face in faces for name in face.__all__]
    things += [thing for thing in vars(errors).values() if getattr(thing, "__module__", "") == errors.__name__]
    return {f"{thing.__module__}.{thing.__qualname__}": thing for thing in things if inspect.isclass(thing) or inspect.isfunction(thing)}


def described(face: str, name: str) -> tuple[str, str]:
    """Where a constant or a type that a face shows is defined, and what the text below its definition says of it."""
    module = importlib.import_module(face)
    path = Path(str(module.__file__))
    stub = path.with_suffix(".pyi")
    body = ast.parse((stub if stub.exists() else path).read_text()).body
    for statement, below in zip(body, [*body[1:], None], strict=True):
        if isinstance(statement, ast.ImportFrom):
            for alias in statement.names:
                if name == (alias.asname or alias.name) and statement.level:
                    package = face.split(".") if path.name == "__init__.py" else face.split(".")[:-1]
                    origin = [*package[: len(package) - statement.level + 1], *([statement.module] if statement.module else [])]
                    return described(".".join(origin), alias.name)
        elif name in {ast.unparse(target) for target in getattr(statement, "targets", [getattr(statement, "target", statement)])}:
            is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str)
            return face, inspect.cleandoc(below.value.value) if is_text else ""
    raise LookupError(f"{face} does not define {name}")


@cache
def constants() -> dict[str, str]:
    """What is written of each constant and type of the faces, by its full name."""
    found = {}
    for face in ("hwsearch", *(f"hwsearch.{name}" for name in FACES)):
        module = importlib.import_module(face)
        for name in module.__all__:
            thing = getattr(module, name)
            if not (inspect.isclass(thing) or inspect.isfunction(thing) or inspect.ismodule(thing)):
                origin, text = described(face, name)
                found[f"{origin}.{name}"] = text
    return found


def examples(room: str) -> Iterator[doctest.DocTest]:
    """The examples of a room, those of methods and constants included."""
    for name, thing in public().items():
        module = sys.modules[thing.__module__]
        if name.split(".")[1] == room:
            found = doctest.DocTestFinder().find(thing, name, module=module, globs={})
            yield from (test for test in found if test.examples)
    for name, text in constants().items():
        if name.split(".")[1] == room and ">>>" in text:
            yield doctest.DocTestParser().get_doctest(text, {}, name, name, 0)


@pytest.mark.parametrize("room", ["_registry", "_types", "errors", *dict.fromkeys(face.split(".")[0] for face in FACES)])
def test_examples_run_as_they_stand(room: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_registry, "_TARGETS", {what: dict(names) for what, names in _registry._TARGETS.items()})
    said: list[str] = []
    with patch.dict(os.environ):
        for test in examples(room):
            doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.append)
    assert not said, "".join(said)


def test_every_example_is_in_a_room_that_is_run() -> None:
    rooms = {"_registry", "_types", "errors", *(face.split(".")[0] for face in FACES)}
    assert {name.split(".")[1] for name in [*public(), *constants()]} <= rooms


def test_every_verb_has_an_example() -> None:
    verbs = {name for name in hwsearch.__all__ if inspect.isfunction(getattr(hwsearch, name))}
    without = {name for name in verbs if ">>>" not in (getattr(hwsearch, name).__doc__ or "")}
    assert not without
    assert verbs >= {"cheapest", "compress", "register", "search", "sweep", "write_report"}
