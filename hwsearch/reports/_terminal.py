"""Files and plug-ins as text for a terminal."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .. import _registry
from .._files._reading import PathLike, guarded, parse_json, parse_tensor_header, read_bytes, read_json
from ..devices._table import LatencyTable, load_table
from ..devices._table_file import FORMAT as TABLE_FORMAT
from ..errors import FileError, HwsearchError
from ..networks._blocks import Block
from ..scores._predictor import load_predictor
from ..searching._compress import Compression
from ..searching._finished import FORMAT as FINISHED_FORMAT
from ..searching._finished import load_finished
from ..searching._result import FORMAT as RESULT_FORMAT
from ..searching._result import SearchResult, load_result
from ..spaces._load import load_space
from ..spaces._space import ARCHITECTURE_FORMAT, Architecture
from . import _facts


def file(path: PathLike) -> RenderableType:
    """Any file of hwsearch in words.

    Raises:
        FileError: it cannot be read, or is no file of hwsearch.
    """
    head = read_bytes(path, "file")
    if head[:2] == b"PK":
        return coded(path) if b'"format":"hwsearch-coded"' in head else predictor(path)
    if head[8:9] == b"{":
        return supernet(head, path)
    document = parse_json(head, path)
    found = document.get("format") if isinstance(document, dict) else None
    if found == TABLE_FORMAT:
        return latency_table(load_table(path), path)
    if found == RESULT_FORMAT:
        return search_result(load_result(path))
    if found == FINISHED_FORMAT:
        return finished(path)
    if found == ARCHITECTURE_FORMAT:
        return Group(*_heading(f"architecture of {document.get('space')!r}"), Text(str(architecture(path))))
    raise FileError(f"{os.fspath(path)} is JSON, but no file of hwsearch (its format is {found!r}).")


def architecture(path: PathLike) -> Architecture:
    """The architecture of a file: of an architecture file, or the best one of a search result.

    Raises:
        FileError: it is another kind of file.
    """
    document = read_json(path, "architecture")
    found = document.get("format") if isinstance(document, dict) else None
    if found == RESULT_FORMAT:
        return load_result(path).best
    if found == ARCHITECTURE_FORMAT:
        return Architecture.from_json(path, load_space(str(document.get("space"))))
    raise FileError(f"{os.fspath(path)} holds no architecture (its format is {found!r}); give a search result or an architecture file.")


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


def search_result(result: SearchResult) -> RenderableType:
    """The answer, the limits and how tight they are, and the front."""
    titles, rows = result.limit_rows()
    answer = _table(*titles)
    for cells in rows:
        answer.add_row(*cells)
    titles, rows = result.front_rows()
    front = _table(*titles, title=f"front: {len(result.front)} networks, some of them")
    for cells in rows:
        front.add_row(*cells)
    title = f"search of {result.best.space.name}: best {result.word} score {result.best_score:.4f}"
    titles, rows = result.verification_rows()
    verified = _table(*titles, title="verified: the best networks of each round, predicted and measured")
    for cells in rows:
        verified.add_row(*cells)
    return Group(*_heading(title), Text(result.verdict), answer, Text(str(result.best)), *([verified] if rows else []), front)


def finished(path: PathLike) -> RenderableType:
    """A finished network beside its teacher."""
    found = load_finished(path)
    rows = _table("network", "accuracy", "in float", "latency (ms)", "MACs (M)", "parameters (k)", "file (MB)")
    own = [f"{found.accuracy:.2%}", f"{found.float_accuracy:.2%}", f"{found.latency_ms:.4f}", f"{found.macs / 1e6:,.1f}"]
    rows.add_row(found.model, *own, f"{found.params / 1e3:,.1f}", f"{found.size_mb:.3f}")
    if found.teacher_accuracy is not None and found.teacher_ms is not None:
        rows.add_row("teacher, fp32", "", f"{found.teacher_accuracy:.2%}", f"{found.teacher_ms:.4f}", "", "", "")
    how = "fine-tuned" if found.tuned else "calibrated"
    title = f"finished network of {found.architecture.space.name}, {how} at its precisions, on {found.device}"
    return Group(*_heading(title), rows, Text(str(found.architecture)))


def predictor(path: PathLike) -> RenderableType:
    """What a predictor is for and how good it is on rows it has not seen."""
    found = load_predictor(path)
    return Group(*_heading(f"predictor of {found.space.name}"), Text(str(found.report or "Its quality was not measured.")))


def coded(path: PathLike) -> RenderableType:
    """A coded network and what its file saves."""
    from ..nn.quantization._coded import load_coded

    found = load_coded(path)
    size, weights = Path(path).stat().st_size, sum(one.codes.size for one in found.weights)
    facts = {"file": f"{size:,} bytes", "weights": f"{weights:,}", "smaller than in fp32": f"{4 * weights / size:.1f} times"}
    return Group(*_heading(repr(found).strip("<>")), _grid(facts), Text("\n".join(block.key for block in found.blocks)))


def supernet(data: bytes, path: PathLike) -> RenderableType:
    """The header of a supernet's weights, finished or in training, read without torch.

    Raises:
        CorruptFile: it is truncated, or no supernet.
    """
    tensors, metadata = parse_tensor_header(data, path, "supernet")
    with guarded(path, "supernet file"):
        header = parse_json(metadata["hwsearch"].encode(), path)
        others = r"(calibration|momentum|average)\..*|.*running_(mean|var)"
        values = sum(int(np.prod(tensor["shape"])) for name, tensor in tensors.items() if not re.fullmatch(others, name))
        training = header.get("training") or {}
        facts = {name: training[name] for name in ("data", "train_images", "seed") if name in training}
        said = {name: len(value) if name == "phases" else value for name, value in (training.get("recipe") or {}).items()}
        recipe = ", ".join(f"{name} {value}" for name, value in said.items())
        fingerprint = {"fingerprint of the space": header.get("fingerprint")}
        grid = _grid({"format": header.get("format"), **fingerprint, **facts, "recipe": recipe, "weights": f"{values:,}"})
        return Group(*_heading(f"supernet of {header.get('space')}"), grid)


def backends() -> RenderableType:
    """The registered backends: here or not, and what they can run."""
    grid = _table("backend", "device", "precisions", "int8 products")
    for name in _registry.names("backend"):
        try:
            backend = _registry.make("backend", name)
            device = backend.describe()
            grid.add_row(name, device.name, ", ".join(backend.precisions), device.facts.get("int8", ""))
        except HwsearchError as error:
            grid.add_row(name, Text(str(error), style="yellow"), "", "")
    return grid


def spaces() -> RenderableType:
    """The registered search spaces."""
    grid = _table("space", "genes", "architectures", "different blocks")
    for name in _registry.names("space"):
        space = load_space(name)
        grid.add_row(name, str(len(space.choices)), space.rounded_size, f"{len(space.unique_blocks):,}")
    return grid


def jobs(folder: Path, space: str) -> str:
    """What to do with a folder of jobs."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return (
        f"{folder}: {size / 1e6:,.1f} MB. Carry it to the board, and there: python {folder.name}/run.pyz\n"
        f"Bring back its folder results, and here: hwsearch profile {space} --collect results --out TABLE"
    )


def tables(folder: Path) -> RenderableType:
    """The latency tables of a folder."""
    found = sorted(folder.glob("*.json"))
    if not found:
        return Text(f"No latency tables in {folder}. Make one with: hwsearch profile resnet_digits --out {folder / 'my-cpu.json'}")
    grid = _table("latency table", "device", "rows", "precisions")
    for path in found:
        try:
            table = load_table(path)
            grid.add_row(path.name, table.device.name, f"{len(table.rows):,}", ", ".join(table.precisions))
        except HwsearchError as error:
            grid.add_row(path.name, Text(str(error), style="yellow"), "", "")
    return grid


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
