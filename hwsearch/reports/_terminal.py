"""What hwsearch makes and has, as text for a terminal."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .. import _registry
from .._files._writing import PathLike
from ..algorithms._parts import shipped_tables
from ..backends._load import runtime_here
from ..costs._metrics import METRICS
from ..devices._table import LatencyTable, load_table
from ..errors import HwsearchError, UnknownName
from ..networks._blocks import Block
from ..scores._report import Report
from ..searching._compress import Compression
from ..searching._finished import Finished
from ..searching._result import SearchResult, score_text
from ..searching._zoo import examples
from ..spaces._space import Architecture
from . import _facts
from ._adopted_facts import AdoptedFacts
from ._supernet_facts import SupernetFacts

if TYPE_CHECKING:
    from ..nn.quantization._coded import Coded


def compression(found: Compression) -> RenderableType:
    """The networks of a compression beside the dense one."""
    how = "predicted" if found["dense"].measured is None else "measured"
    rows = _table("network", "GMACs", "params (M)", "score", "latency (ms)", "MAC ratio", "speed-up", "speed-up / MAC ratio")
    for row in found.rows():
        latency = f"{row['latency_ms']:.3f}"
        ratios = [f"{row[name]:.2f}" for name in ("mac_ratio", "speedup", "speedup_per_mac_ratio")]
        rows.add_row(row["name"], f"{row['macs'] / 1e9:.3f}", f"{row['params'] / 1e6:.2f}", f"{row['score']:.4f}", latency, *ratios)
    return Group(*_heading(f"compressed for {found.device!r}"), Text(f"scores are predictions of {found.score}; latencies are {how}"), rows)


def latency_table(table: LatencyTable, path: PathLike) -> RenderableType:
    """What a latency table holds and how well it predicts."""
    kinds: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for key, row in table.rows.items():
        block = Block.parse(key)
        kinds.setdefault((block.kind, block.precision), []).append((row.latency_ms, row.spread_ms))
    rows = _table("blocks", "precision", "rows", "least (ms)", "median (ms)", "most (ms)", "spread (median)")
    for (kind, precision), values in sorted(kinds.items()):
        latency, spread = np.array(values).T
        relative = float(np.median(spread / latency))
        rows.add_row(
            kind,
            precision,
            str(len(values)),
            f"{latency.min():.4f}",
            f"{np.median(latency):.4f}",
            f"{latency.max():.4f}",
            f"{relative:.1%}",
        )
    title = f"latency table {os.fspath(path)}"
    noisy = [Text(_facts.noisy_blocks(table))] if table.noisy else []
    networks = _grid(_facts.error_facts(table))
    return Group(*_heading(title), _grid(_facts.device_facts(table)), rows, *noisy, *_heading("whole networks"), networks)


def search_result(result: SearchResult, path: PathLike) -> RenderableType:
    """The answer, the limits and how tight they are, and the front."""
    titles, rows = result.limit_rows()
    answer = _table(*titles)
    for cells in rows:
        answer.add_row(*cells)
    titles, rows = result.front_rows()
    front = _table(*titles, title=f"front: {len(result.front)} networks, some of them")
    for cells in rows:
        front.add_row(*cells)
    title = f"search of {result.best.space.name}: best {result.word} score {score_text(result.best_score)}"
    titles, rows = result.verification_rows()
    verified = _table(*titles, title="verified: the best networks of each round, predicted and measured")
    for cells in rows:
        verified.add_row(*cells)
    return Group(*_heading(title), Text(result.verdict), answer, Text(str(result.best)), *([verified] if rows else []), front)


def finished(found: Finished, path: PathLike) -> RenderableType:
    """A finished network beside its teacher."""
    rows = _table("network", found.metric or "accuracy", "in float", "latency (ms)", "MACs (M)", "parameters (k)", "file (MB)")
    share = "{:.2%}" if found.metric is None or found.metric.startswith("agreement") else "{:.4g}"
    own = [share.format(found.accuracy), share.format(found.float_accuracy), f"{found.latency_ms:.4f}", f"{found.macs / 1e6:,.1f}"]
    rows.add_row(found.model, *own, f"{found.params / 1e3:,.1f}", f"{found.size_mb:.3f}")
    if found.teacher_accuracy is not None and found.teacher_ms is not None:
        rows.add_row("teacher, fp32", "", share.format(found.teacher_accuracy), f"{found.teacher_ms:.4f}", "", "", "")
    how = "fine-tuned" if found.tuned else "calibrated"
    what = f"{how} at its precisions" if found.network is None or found.weights == "tuned.safetensors" else "in fp32"
    name = found.network or (found.architecture.space.name if found.architecture is not None else "")
    title = f"finished network of {name}, {what}, on {found.device}"
    last = f"Weights and operations: {found.weights}" if found.architecture is None else str(found.architecture)
    return Group(*_heading(title), rows, Text(last))


def architecture(found: Architecture, path: PathLike) -> RenderableType:
    """The genes of an architecture."""
    return Group(*_heading(f"architecture of {found.space.name!r}"), Text(str(found)))


def predictor(found: tuple[str, Report | None], path: PathLike) -> RenderableType:
    """The space that a predictor is for, and how good it is on rows it has not seen."""
    space, report = found
    return Group(*_heading(f"predictor of {space}"), Text(str(report or "Its quality was not measured.")))


def coded(found: Coded, path: PathLike) -> RenderableType:
    """A coded network and what its file saves."""
    size, weights = Path(path).stat().st_size, sum(layer.codes.size for layer in found.weights)
    facts = {"file": f"{size:,} bytes", "weights": f"{weights:,}", "smaller than in fp32": f"{4 * weights / size:.1f} times"}
    return Group(*_heading(repr(found).strip("<>")), _grid(facts), Text("\n".join(block.key for block in found.blocks)))


def model(found: Mapping[str, str], path: PathLike) -> RenderableType:
    """What an ONNX model takes, gives and holds."""
    size = f"{Path(path).stat().st_size:,} bytes"
    return Group(*_heading(f"ONNX model {os.fspath(path)}"), _grid({"file": size, **found}))


def supernet(found: SupernetFacts, path: PathLike) -> RenderableType:
    """What the weights of a supernet are of and how they were trained."""
    facts = {"format": found.format, "fingerprint of the space": found.fingerprint, **found.training}
    recipe = ", ".join(f"{name} {value}" for name, value in found.recipe.items())
    return Group(*_heading(f"supernet of {found.space}"), _grid({**facts, "recipe": recipe, "weights": f"{found.weights:,}"}))


def adopted(found: AdoptedFacts, path: PathLike) -> RenderableType:
    """What a network of the user's is, and how it was trained."""
    facts = dict(found.facts)
    if found.recipe:
        facts["recipe"] = ", ".join(f"{name} {value}" for name, value in found.recipe.items())
    if found.curve:
        facts["judged after steps"] = ", ".join(f"{step}: {value:.4f}" for step, value in found.curve)
    return Group(*_heading(f"network {found.name}"), _grid(facts))


def backends(described: Sequence[str] = ()) -> RenderableType:
    """The backends and whether their runtimes are installed; or what some of them say about their device.

    Args:
        described: the names of those that are made, which imports their runtimes and may take seconds.
    """
    if not described:
        grid = _table("backend", "runtime", title="backends; of one of them tells more: hwsearch devices BACKEND")
        for name in _registry.names("backend"):
            grid.add_row(name, runtime_here(name) or _registry.origin("backend", name))
        return grid
    grid = _table("backend", "device", "precisions", "int8 products")
    for name in described:
        try:
            backend = _registry.make("backend", name)
            device = backend.describe()
            grid.add_row(name, device.name, ", ".join(backend.precisions), device.facts.get("int8", ""))
        except HwsearchError as error:
            grid.add_row(name, Text(str(error), style="yellow"), "", "")
    return grid


def plug_ins(kind: str | None = None) -> RenderableType:
    """What can be named, and where each comes from.

    Args:
        kind: such as ``"spaces"``; all kinds if omitted.

    Raises:
        UnknownName: there is no such kind.
    """
    kinds = {f"{what}s": what for what in _registry.kinds()}
    if kind is not None and kind not in kinds and kind not in kinds.values():
        raise UnknownName("kind of plug-in", kind, kinds)
    grid = _table("kind", "name", "comes from")
    for column in grid.columns:
        column.justify = "left"
    for what in kinds.values() if kind is None else [kind.removesuffix("s")]:
        for name in [*(METRICS if what == "cost" else ()), *_registry.names(what)]:
            grid.add_row(what, name, _registry.origin(what, name) or "hwsearch")
    return grid


def jobs(folder: Path, space: str) -> str:
    """What to do with a folder of jobs."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return (
        f"{folder}: {size / 1e6:,.1f} MB. Carry it to the board, and there: python {folder.name}/run.pyz\n"
        f"Bring back its folder results, and here: hwsearch profile {space} --collect results --out TABLE"
    )


def tables(folder: Path) -> RenderableType:
    """The latency tables of a folder, and those that come with hwsearch."""
    grid = _table("latency table", "device", "rows", "precisions", "comes from")
    here = sorted(folder.glob("*.json"))
    known = {path.resolve() for path in here}
    for path in [*here, *(path for path in shipped_tables() if path.resolve() not in known)]:
        origin, name = (str(folder), path.name) if path in here else ("hwsearch", path.stem)  # as --device takes it
        try:
            table = load_table(path)
            grid.add_row(name, table.device.name, f"{len(table.rows):,}", ", ".join(table.precisions), origin)
        except HwsearchError as error:
            grid.add_row(name, Text(str(error), style="yellow"), "", "", origin)
    if here:
        return grid
    return Group(
        grid, Text(f"None of this machine is in {folder}. Make one with: hwsearch profile resnet_digits --out {folder / 'my-cpu.json'}")
    )


def zoo() -> RenderableType:
    """The examples that come with hwsearch, each with what there is to know of it."""
    parts: list[RenderableType] = []
    for name, card in examples().items():
        parts += [*_heading(f"example {name!r}"), _grid(dict(card.facts))]
    return Group(*parts)


def _heading(text: str) -> tuple[Text, ...]:
    return (Text(text, style="bold"),)


def _table(*columns: str, title: str | None = None) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=index == 0)
    return table


def _grid(facts: dict[str, Any]) -> Table:
    grid = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        grid.add_row(Text(str(name), style="dim"), Text(str(value)))
    return grid
