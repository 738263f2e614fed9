"""Profiling a device that is not this machine, as a folder of jobs.

:func:`emit` writes the folder: the models to be measured, and ``run.pyz``, which measures them on a board that has Python, numpy and the
runtime, and nothing of ours. :func:`collect` makes the latency table of what came back. The plan, the protocol, the journal and the making
of the table are those of :func:`hwsearch.profile`; only the place differs.
"""

from __future__ import annotations

import gzip
import io
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ..._files._lock import claim
from ..._files._reading import guarded
from ..._files._writing import Journal, PathLike, write_atomic
from ..._progress import progress as progress_bar
from ...backends._load import load_backend
from ...backends.base import Backend, Network, Session
from ...devices._device import Device
from ...devices._table import LatencyTable
from ...devices._table_file import ENERGIES
from ...errors import CorruptFile, FileError, WrongSpace, check_count
from ...networks._blocks import Block
from ...spaces._load import load_space
from ...spaces._space import SearchSpace
from .._journal import check_round, read_header
from .._plan import part_of, plan
from .._profile import check_protocol, profile, protocol_of
from . import _board

_OF_JOBS = ("backend", "options", "energy", "protocol", "checks", "fits", "seed", "blocks")
"""What a journal of a board begins with, beside what every journal of profiling does."""
_UNKNOWN = Device("the board", "cpu", "unknown", "unknown", "unknown")
"""What is known of a board before it has told."""
_MAIN = b"""import sys
if sys.version_info < (3, 10):
    sys.exit("run.pyz needs Python 3.10 or newer, and this is " + sys.version.split()[0])
from hwsearch.profiling.remote._board import main
sys.exit(main())
"""


def emit(
    space: str | SearchSpace,
    folder: PathLike,
    *,
    backend: str | Backend = "onnxruntime",
    table: LatencyTable | None = None,
    precision: float = 0.01,
    max_rounds: int | None = None,
    checks: int = 18,
    fits: int = 42,
    seed: int = 0,
    progress: bool = True,
    blocks: Sequence[Block] | None = None,
) -> Path | None:
    """Write a folder of jobs that profiles a space on a board.

    On the board, ``python run.pyz`` in that folder measures; it can be stopped and started again. A folder whose writing was
    interrupted is completed.

    Args:
        space: a space or its name.
        folder: where the jobs go.
        backend: the runtime of the board; it must be installed here too, to build the models.
        table: of the board; only what it lacks is written.
        precision, max_rounds, checks, fits, seed, blocks: as in :func:`hwsearch.profile`.
        progress: whether to show a bar with the time left.

    Returns:
        The folder, or ``None`` where the table lacks nothing.

    Raises:
        FileError: the folder holds other jobs, or cannot be written.
        Unsupported: the backend has no model files, or runs no block of the space.
        WrongDevice: the table was measured by another protocol.
        InvalidInput: as :func:`hwsearch.profile`.
    """
    where, device, target = load_space(space), load_backend(backend), Path(folder)
    protocol = protocol_of(device, precision, max_rounds)
    known = LatencyTable(_UNKNOWN, protocol, {}) if table is None else table
    check_protocol(known, protocol)
    run = plan(where, device, known, checks=checks, fits=fits, seed=seed, blocks=blocks)
    if run.nothing:
        return None
    header = {**run.header, "checks": checks, "fits": fits, "blocks": None if blocks is None else [block.key for block in blocks]}
    networks = run.networks
    with progress_bar(f"writing jobs for {where.name}", len(networks), progress) as advance:
        write_jobs(target, device, header, networks, run.sentinel, advance)
    return target


def write_jobs(
    folder: Path,
    backend: Backend,
    header: Mapping[str, Any],
    networks: Mapping[str, Network],
    sentinel: Block,
    advance: Callable[[float], None] = lambda done: None,
) -> None:
    """Write the models of networks, what measures them, and last the plan.

    Args:
        folder: where they go; one whose writing was interrupted is completed.
        backend: the runtime of the board.
        header: what the journal there begins with; the device is that of the board.
        networks: by name.
        sentinel: the block that shows drift.
        advance: called for each network.

    Raises:
        FileError: the folder holds other jobs, or cannot be written.
        Unsupported: the backend has no model files.
    """
    run = {name: value for name, value in header.items() if name != "device"} | {"backend": backend.name, "options": backend.options}
    plan = folder / _board.PLAN
    with claim(plan):
        if plan.exists():
            if _board.read_plan(folder)["run"] != msgspec.to_builtins(run):
                raise FileError(f"{folder} holds other jobs. Name another folder, or delete it.")
            return
        first = _write_model(folder, backend, (sentinel,))
        things = {}
        for name, network in networks.items():
            things[name] = _write_model(folder, backend, network)
            advance(1)
        write_atomic(folder / "run.pyz", archive())
        document = {"format": _board.FORMAT, "version": _board.VERSION, "run": run, "sentinel": first, "things": things}
        write_atomic(plan, msgspec.json.encode(document))


def _write_model(folder: Path, backend: Backend, network: Network) -> str:
    """Write the packed model of a network, and say the name of its file, which is that of its content."""
    packed = gzip.compress(backend.model(network), 4, mtime=0)
    name = f"{_board.digest(packed)}.onnx.gz"
    path = folder / _board.MODELS / name
    if not path.exists():
        write_atomic(path, packed, sync=False)
    return name


def archive() -> bytes:
    """This package as a program that Python runs; with empty faces, since these ask for a package that a board may not have."""
    package = Path(__file__).parents[2]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        files = {"__main__.py": _MAIN}
        for path in sorted(package.rglob("*.py")):
            name = f"hwsearch/{path.relative_to(package).as_posix()}"
            files[name] = b"" if path.name == "__init__.py" else path.read_bytes()
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


class Elsewhere(Backend):
    """A board that is not this machine: everything about it is known, and nothing runs on it from here.

    Args:
        runtime: the backend of the same name here.
        device: the board.
        energy: as its backend says.
        precisions: those of the board.
    """

    def __init__(self, runtime: Backend, device: Device, energy: str, precisions: Sequence[str]) -> None:
        self._runtime, self._device, self._precisions = runtime, device, tuple(precisions)
        self.name, self.energy = runtime.name, energy

    @property
    def precisions(self) -> tuple[str, ...]:
        """Those of the board."""
        return self._precisions

    @property
    def here(self) -> bool:
        """It is not."""
        return False

    def describe(self) -> Device:
        """The board."""
        return self._device

    def supports(self, block: Block) -> bool:
        """Whether the board has the precision, and models of such blocks can be made."""
        return super().supports(block) and self._runtime.supports(block)

    def framed(self, block: Block) -> tuple[tuple[Block, ...], tuple[Block, ...]]:
        """As the runtime frames it."""
        return self._runtime.framed(block)

    def _open(self, network: Network) -> Session:
        raise FileError(f"{self._device.name} has not finished. Run there again: python run.pyz (it goes on where it was)")


def collect(space: str | SearchSpace, results: PathLike, *, out: PathLike) -> LatencyTable:
    """Make the latency table of what a board has measured.

    Args:
        space: the space for which the jobs were emitted.
        results: the folder ``results`` that came back from the board, or the folder of jobs with it inside.
        out: where the table goes; a table of the same board that is there is completed.

    Returns:
        The table, as it is in ``out``.

    Raises:
        FileError: no results there, or the board has not finished.
        CorruptFile: the journal, which another program may have written, is not as documented; the message names the line.
        WrongSpace: they are of another space.
        WrongDevice: ``out`` was measured on another device or by another protocol.
    """
    where = load_space(space)
    folder = Path(results)
    path = next((place / "journal.jsonl" for place in (folder, folder / _board.RESULTS) if os.path.exists(place / "journal.jsonl")), None)
    if path is None:
        raise FileError(f"There is no journal.jsonl in {folder}. Run python run.pyz on the board, and bring its folder {_board.RESULTS}.")
    records = list(Journal(path).numbered())
    if not records:
        raise FileError(f"{path} is empty: the board has not begun. Run there: python run.pyz")
    header, device, protocol = read_header(records[0][1], path)
    if missing := [key for key in _OF_JOBS if key not in header]:
        raise CorruptFile(
            f"{path}, line {records[0][0]}: {', '.join(missing)} is missing. It is the part 'run' of plan.json with device and energy."
        )
    if header["energy"] not in ENERGIES:
        raise CorruptFile(f"{path}, line {records[0][0]}: energy must be one of {', '.join(ENERGIES)}, not {header['energy']!r}.")
    for number, record in records[1:]:
        check_round(record, f"{path}, line {number}")
    if header["blocks"] is None and header["fingerprint"] != part_of(where):
        raise WrongSpace(f"{path} is of {header['space']!r} as it was when the jobs were emitted, not of {where.name!r}.")
    ours = Path(f"{os.fspath(out)}.partial.jsonl")
    with claim(out):
        theirs = path.read_bytes()
        if ours.exists() and not theirs.startswith(ours.read_bytes()):
            raise FileError(f"{ours} is an unfinished run of something else. Finish it, or name another table.")
        with guarded(path, "journal of a board"):
            _board.check_run(header)
            runtime = load_backend(header["backend"], **header["options"])
            asked = {key: check_count(key, header[key], least=0) for key in ("checks", "fits", "seed")}
            blocks = None if header["blocks"] is None else [Block.parse(key) for key in header["blocks"]]
        board = Elsewhere(runtime, device, header["energy"], runtime.precisions)
        write_atomic(ours, theirs)
        try:
            return profile(
                where,
                backend=board,
                out=out,
                progress=False,
                blocks=blocks,
                precision=protocol.precision,
                max_rounds=protocol.max_rounds,
                **asked,
            )
        except BaseException:
            ours.unlink(missing_ok=True)
            raise
