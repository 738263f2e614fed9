"""The rules of the house: who may import whom, what a bare environment can do, and that the documents tell the truth."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

import hwsearch

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "hwsearch"
OPTIONAL = (
    *("torch", "torchvision", "safetensors", "onnx", "onnxruntime", "matplotlib", "pandas", "sklearn", "optuna", "tensorrt", "pycuda"),
    *("gymnasium", "stable_baselines3"),
    *("tensorrt_rtx", "tensorrt_rtx_bindings", "cuda", "pynvml"),
    *("yaml", "openvino", "mlperf_loadgen"),
)


@cache
def modules() -> dict[str, Path]:
    """Every module of the package: dotted name -> file."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room(module: str) -> str:
    """The first name under the package: ``hwsearch.nn.data._load`` is in the room ``nn``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports(module: str, path: Path, *, lazy: bool) -> Iterator[tuple[str, int]]:
    """``(imported module, line)`` of a file; those inside functions and under ``TYPE_CHECKING`` only where ``lazy``."""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]

    def walk(node: ast.AST) -> Iterator[tuple[str, int]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((alias.name, child.lineno) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = package[: len(package) - child.level + 1] if child.level else []
                origin = [*base, *(child.module.split(".") if child.module else [])]
                for alias in child.names:
                    dotted = ".".join([*origin, alias.name])
                    yield (dotted if dotted in modules() else ".".join(origin), child.lineno)
            elif isinstance(child, ast.Call) and getattr(child.func, "id", "") == "require" and isinstance(child.args[0], ast.Constant):
                yield (str(child.args[0].value), child.lineno)
            deferred = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) or (
                isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            )
            if lazy or not deferred:
                yield from walk(child)

    yield from walk(ast.parse(path.read_text()))


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)


def floors() -> dict[str, int]:
    """Room -> floor, as the map in CONTRIBUTING has them."""
    rows = re.findall(r"^\| (\d+) \| `(\w+)/?` \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    return {name: int(floor) for floor, name in rows}


def test_the_map_has_every_room_and_no_other() -> None:
    assert sorted(floors()) == sorted({room(module) for module in modules()})
    assert len(floors()) <= 25
    assert max(floors().values()) <= 12


def test_imports_run_downwards() -> None:
    """Those inside functions and for types included: a room needs what lies below it, and nothing else."""
    floor = floors()
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {imported}"
        for module, path in modules().items()
        for imported, line in imports(module, path, lazy=True)
        if imported.split(".")[0] == "hwsearch" and room(imported) != room(module) and floor[room(imported)] >= floor[room(module)]
    ]
    assert not wrong, "\n".join(wrong)


def test_modules_and_functions_stay_small() -> None:
    large = []
    for path in modules().values():
        text = path.read_text()
        large += [f"{path.relative_to(ROOT)} has {lines} lines"] if (lines := text.count("\n")) > 400 else []
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno >= 60:
                large.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name} has {node.end_lineno - node.lineno + 1} lines")
    assert not large, "\n".join(large)


def public() -> dict[str, object]:
    """What the faces of the library and of its packages show, by their dotted names."""
    faces = [module for module, path in modules().items() if path.with_suffix(".pyi").exists()]
    return {f"{face}.{name}": getattr(module, name) for face in faces for module in [import_module(face)] for name in module.__all__}


def test_public_verbs_take_at_most_eight_arguments() -> None:
    taken = {
        name: [each for each in inspect.signature(verb).parameters if each != "self"]
        for name, verb in public().items()
        if inspect.isfunction(verb)
    }
    assert not {name: each for name, each in taken.items() if len(each) > 8}


EVERYWHERE = {"seed", "progress"}
"""Options that mean the same wherever something is random or takes long, so that nobody has to look them up."""


def test_no_group_of_options_stands_in_two_signatures() -> None:
    """Options that go together are one frozen object with a default instance, such as ``Run``, ``Effort`` or ``Recipe``.

    Options are arguments with a default; the others are what a verb is about. The command line, where each option is a flag of its own,
    and the builders of spaces, whose options are the space, are exempt.
    """
    taken = {}
    for module, path in modules().items():
        if room(module) != "cli" and not module.startswith("hwsearch.spaces.library."):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef) and "overload" not in map(ast.unparse, node.decorator_list):
                    given = [*node.args.posonlyargs, *node.args.args]
                    options = given[len(given) - len(node.args.defaults) :]
                    options += [each for each, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if default]
                    taken[f"{module}:{node.lineno} {node.name}"] = {each.arg for each in options} - EVERYWHERE
    several = [(name, options) for name, options in taken.items() if len(options) >= 3]
    assert len(several) > 10
    repeated = [
        f"{first} and {second} both take {sorted(mine & others)}"
        for (first, mine), (second, others) in itertools.combinations(several, 2)
        if len(mine & others) >= 3
    ]
    assert not repeated, "\n".join(repeated)


def test_no_module_shares_its_name_with_a_function() -> None:
    """Neither with one that it holds, nor with one that the face of its package shows."""
    shown = {name for name, thing in public().items() if inspect.isfunction(thing)}
    for module, path in modules().items():
        own = {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
        assert module not in shown, module
        assert module.rpartition(".")[2] not in own, module


def test_no_import_circles() -> None:
    graph = {
        module: {imported for imported, _ in imports(module, path, lazy=True) if imported in modules() and imported != module}
        for module, path in modules().items()
    }
    waiting = dict(graph)
    while True:
        free = [module for module, needs in waiting.items() if not needs & waiting.keys()]
        if not free:
            break
        for module in free:
            del waiting[module]
    assert not waiting, f"these modules import each other in a circle: {sorted(waiting)}"


@pytest.mark.parametrize(
    ("packages", "rooms"),
    [
        (("torch", "torchvision", "safetensors", "sklearn.datasets"), ("nn",)),
        (("onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "pycuda", "cuda", "pynvml"), ("backends",)),
        (("mlperf_loadgen",), ("profiling",)),
        (("onnx",), ("backends", "nn")),
        (("matplotlib",), ("reports",)),
        (("gymnasium",), ("algorithms",)),
        (("stable_baselines3",), ("nn",)),
        (("typer",), ("cli",)),
        (("rich",), ("cli", "reports", "_progress")),
    ],
)
def test_heavy_packages_stay_in_their_rooms(packages: tuple[str, ...], rooms: tuple[str, ...]) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {imported}"
        for module, path in modules().items()
        if room(module) not in rooms and not re.fullmatch(rf"hwsearch.backends._?{packages[0]}(_blocks)?", module)
        for imported, line in imports(module, path, lazy=True)
        if any(imported == package or imported.startswith(f"{package}.") for package in packages)
    ]
    assert not wrong, "\n".join(wrong)


def test_import_is_light() -> None:
    heavy = ("torch", "onnx", "onnxruntime", "optuna", "plotly", "matplotlib", "scipy", "pandas", "sklearn", "typer", "rich", "gymnasium")
    done = run(f"import sys, hwsearch; print([name for name in {heavy!r} if name in sys.modules])")
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


BARE = """
import importlib, sys
from importlib.abc import MetaPathFinder

class Blocked(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name.partition(".")[0])

sys.meta_path.insert(0, Blocked())
import hwsearch
from hwsearch.errors import MissingDependency
for module in {modules!r}:
    try:
        importlib.import_module(module)
        print(module, "imported")
    except MissingDependency as error:
        print(module, "missing:", error)
"""


def test_bare_environment() -> None:
    """With the core packages alone every module imports, or names the feature, the package and the pip command."""
    done = run(BARE.format(blocked=set(OPTIONAL), modules=sorted(modules())))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(modules())
    pattern = re.compile(r"missing: \S.+ needs the package '\w+', which is not installed. Install it with: pip install 'hwsearch\[\w+\]'$")
    for line in lines:
        if not line.endswith(" imported"):
            assert pattern.search(line), line
            assert line.split(" ")[0].startswith(
                ("hwsearch.nn", "hwsearch.backends.", "hwsearch.reports._canvas", "hwsearch.algorithms._environment")
            ), line


def test_public_names() -> None:
    """The face of the library changes on purpose only."""
    assert hwsearch.__all__ == PUBLIC
    assert dir(hwsearch) == PUBLIC
    for name in PUBLIC:
        assert getattr(hwsearch, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = hwsearch.no_such_name  # type: ignore[attr-defined]


def test_verbs_stay_functions_when_their_modules_are_imported() -> None:
    """No module takes the place of a verb, whatever is imported first."""
    done = run(
        f"import {', '.join(sorted(modules()))}\n"
        "print([name for name in hwsearch.__all__ if type(getattr(hwsearch, name)).__name__ == 'module'])"
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def python_blocks(path: Path) -> str:
    """The Python code of a document, one block after the other."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE))


def test_extending_runs_as_it_stands(tmp_path: Path) -> None:
    code = python_blocks(ROOT / "docs" / "extending.md")
    assert "hwsearch.register" in code
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr


def test_documents_and_messages_name_commands_that_exist() -> None:
    """Every ``hwsearch command --option`` in a document or in an error message is real."""
    from typer.main import get_command

    from hwsearch.cli import app

    commands = get_command(app).commands  # type: ignore[attr-defined]
    seen = set()
    for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *PACKAGE.rglob("*.py")):
        text = path.read_text().replace("\\\n", " ")
        for command, rest in re.findall(r"(?:^|`|with: |Example: )hwsearch (?!finds)([a-z][a-z-]*)([^`\n]*)", text, re.MULTILINE):
            assert command in commands, f"{path.name}: there is no command 'hwsearch {command}'"
            known = {option for parameter in commands[command].params for option in parameter.opts} | {"--help"}
            used = set(re.findall(r"(?<!\S)--[a-z-]+", rest))
            assert used <= known, f"{path.name}: hwsearch {command} has no option {used - known}"
            seen.add(command)
    assert seen == set(commands)


PUBLIC = [
    "Architecture",
    "HwsearchError",
    "Infeasible",
    "LatencyTable",
    "Predictor",
    "Problem",
    "Run",
    "SearchResult",
    "SearchSpace",
    "Verify",
    "adopt",
    "bench",
    "cheapest",
    "compress",
    "evaluate",
    "export",
    "extract",
    "finish",
    "fit_predictor",
    "init",
    "load_example",
    "load_predictor",
    "load_result",
    "load_space",
    "load_table",
    "measure",
    "metric",
    "profile",
    "register",
    "result",
    "search",
    "step",
    "sweep",
    "train",
    "write_report",
]
