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
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from ..._files._lock import claim
from ..._files._reading import guarded
from ..._files._writing import Journal, PathLike, write_atomic
from ..._progress import Advance
from ..._progress import progress as progress_bar
from ...backends._load import load_backend
from ...backends.base import Backend, Network
from ...devices._device import Device, Protocol
from ...devices._table import LatencyTable
from ...devices._table_file import ENERGIES
from ...errors import CorruptFile, FileError, InvalidInput, WrongSpace, check_seed
from ...networks._blocks import Block
from ...spaces._load import load_space
from ...spaces._space import SearchSpace
from .._effort import ALL, Effort
from .._journal import read_header
from .._plan import Plan
from .._planning import part_of, plan_space
from .._profile import check_protocol, profile
from .._readings import Readings
from .._workbench import Workbench, check_finished
from . import _board

_OF_JOBS = ("backend", "options", "energy", "protocol", "checks", "fits", "seed", "blocks")
"""What a journal of a board begins with, beside what every journal of profiling does."""
_UNKNOWN = Device("the board", "cpu", "unknown", "unknown", "unknown")
"""What is known of a board before it has answered."""
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
    effort: Effort = ALL,
    seed: int = 0,
    progress: bool = True,
) -> Path | None:
    """Write a folder of jobs that profiles a space on a board.

    On the board, ``python run.pyz`` in that folder measures; it can be stopped and started again. A folder whose writing was
    interrupted is completed. :func:`collect` makes the table of what comes back.

    Example:
        >>> import hwsearch
        >>> space = hwsearch.load_space("resnet_digits")
        >>> few = hwsearch.profiling.Effort(blocks=space.unique_blocks[:2])
        >>> folder = hwsearch.profiling.emit(space, "jobs", effort=few, progress=False)
        >>> sorted(path.name for path in folder.iterdir())
        ['models', 'plan.json', 'run.pyz']

    Args:
        space: a space or its name.
        folder: where the jobs go.
        backend: the runtime of the board; it must be installed here too, to build the models.
        table: of the board; only what it lacks is written.
        effort: how much of the space is measured, and how precisely. A budget needs a board that is reached by ssh.
        seed: of the networks and of the order of measuring.
        progress: whether to show a bar with the time left.

    Returns:
        The folder, or ``None`` if the table lacks nothing.

    Raises:
        FileError: the folder holds other jobs, or cannot be written.
        Unsupported: the backend has no model files, or runs no block of the space.
        WrongDevice: the table was measured by another protocol.
        InvalidInput: as :func:`hwsearch.profile`; or the effort has a budget.
    """
    if effort.budget is not None:
        raise InvalidInput("A sample is chosen while it is measured, so a budget needs a board that is reached by ssh: see Remote.")
    where, runtime, target = load_space(space), load_backend(backend), Path(folder)
    protocol = effort.protocol(runtime.precisions)
    bench = Absent(runtime, _UNKNOWN, runtime.energy)
    known = LatencyTable(_UNKNOWN, protocol, {}) if table is None else table
    check_protocol(known, protocol)
    plan = plan_space(where, bench, known, effort, check_seed(seed))
    if plan.nothing:
        return None
    blocks = None if effort.blocks is None else [block.key for block in effort.blocks]
    header = {**plan.header, "checks": effort.checks, "fits": effort.fits, "blocks": blocks}
    with progress_bar(f"writing jobs for {where.name}", len(plan.networks), progress) as advance:
        write_jobs(target, runtime, replace(plan, header=header), advance)
    return target


def write_jobs(folder: Path, backend: Backend, plan: Plan, advance: Advance = lambda done: None) -> None:
    """Write the models of the networks of a plan, what measures them, and last the plan.

    Args:
        folder: where they go; one whose writing was interrupted is completed.
        backend: the runtime of the board.
        plan: its header is what the journal on the board begins with, but for the device, which is that of the board.
        advance: called for each network.

    Raises:
        FileError: the folder holds other jobs, or cannot be written.
        Unsupported: the backend has no model files.
    """
    run = {name: value for name, value in plan.header.items() if name != "device"} | {"backend": backend.name, "options": backend.options}
    target = folder / _board.PLAN
    with claim(target):
        if target.exists():
            if _board.read_plan(folder)["run"] != msgspec.to_builtins(run):
                raise FileError(f"{folder} holds other jobs. Name another folder, or delete it.")
            return
        first = _write_model(folder, backend, (plan.sentinel,))
        things = {}
        for name, network in plan.networks.items():
            things[name] = _write_model(folder, backend, network)
            advance(1)
        write_atomic(folder / "run.pyz", archive())
        document = {"format": _board.FORMAT, "version": _board.VERSION, "run": run, "sentinel": first, "things": things}
        write_atomic(target, msgspec.json.encode(document))


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


class Absent(Workbench):
    """A board that is reached by nothing but the files that are carried to it and back.

    Args:
        runtime: the backend of the board, as it is installed here.
        device: the board.
        energy: as the board says.
        journal: what came back; ``None`` before that.
    """

    def __init__(self, runtime: Backend, device: Device, energy: str, journal: Journal | None = None) -> None:
        super().__init__(runtime, device, energy, runtime.precisions)
        self._journal = journal

    def measure(self, plan: Plan, journal: Journal, advance: Advance) -> Readings:
        """The readings that came back; nothing is measured."""
        return check_finished(plan.read(self._journal or journal), self.device.name)


def collect(space: str | SearchSpace, results: PathLike, *, out: PathLike) -> LatencyTable:
    """Make the latency table of what a board has measured; see :func:`emit`.

    Example:
        >>> import hwsearch, subprocess, sys
        >>> from hwsearch.profiling import Effort, collect, emit
        >>> space = hwsearch.load_space("resnet_digits")
        >>> folder = emit(space, "carried", effort=Effort(blocks=space.unique_blocks[:2], max_rounds=1), progress=False)
        >>> done = subprocess.run([sys.executable, "run.pyz"], cwd=folder, check=True, capture_output=True)  # on the board
        >>> len(collect(space, folder, out="board.json").rows)
        2

    Args:
        space: the space for which the jobs were emitted.
        results: the folder ``results`` that came back from the board, or the folder of jobs with it inside.
        out: where the table goes; a table of the same board that exists there is completed.

    Returns:
        The table, as it is in ``out``.

    Raises:
        FileError: no results there, or the board has not finished.
        CorruptFile: the journal, which another program may have written, is not as documented; the message names the line.
        WrongSpace: they are of another space.
        WrongDevice: ``out`` was measured on another device or by another protocol.
    """
    where, folder = load_space(space), Path(results)
    path = next((place / "journal.jsonl" for place in (folder, folder / _board.RESULTS) if os.path.exists(place / "journal.jsonl")), None)
    if path is None:
        raise FileError(f"There is no journal.jsonl in {folder}. Run python run.pyz on the board, and bring its folder {_board.RESULTS}.")
    header, device, protocol = _read_header(path)
    if header["blocks"] is None and header["fingerprint"] != part_of(where):
        raise WrongSpace(f"{path} is of {header['space']!r} as it was when the jobs were emitted, not of {where.name!r}.")
    with guarded(path, "journal of a board"):
        _board.check_run(header)
        runtime, seed = load_backend(header["backend"], **header["options"]), check_seed(header["seed"])
        effort = Effort(
            precision=protocol.precision,
            max_rounds=protocol.max_rounds,
            checks=header["checks"],
            fits=header["fits"],
            blocks=None if header["blocks"] is None else [Block.parse(key) for key in header["blocks"]],
        )
    with claim(out):
        _drop_fetched(Path(f"{os.fspath(out)}.partial.jsonl"), path)
        return profile(
            where, backend=Absent(runtime, device, header["energy"], Journal(path)), out=out, effort=effort, seed=seed, progress=False
        )


def _read_header(path: Path) -> tuple[dict[str, Any], Device, Protocol]:
    """What the journal of a board begins with, checked.

    Raises:
        FileError: it is empty.
        CorruptFile, NewerVersion: it is no journal of jobs.
    """
    number, first = next(Journal(path).numbered(), (1, None))
    if first is None:
        raise FileError(f"{path} is empty: the board has not begun. Run there: python run.pyz")
    header, device, protocol = read_header(first, path)
    if missing := [key for key in _OF_JOBS if key not in header]:
        raise CorruptFile(
            f"{path}, line {number}: {', '.join(missing)} is missing. It is the part 'run' of plan.json with device and energy."
        )
    if header["energy"] not in ENERGIES:
        raise CorruptFile(f"{path}, line {number}: energy must be one of {', '.join(ENERGIES)}, not {header['energy']!r}.")
    return header, device, protocol


def _drop_fetched(partial: Path, journal: Path) -> None:
    """Remove what was fetched of a journal before; whatever else is unfinished is in the way.

    Raises:
        FileError: it is of another run.
    """
    if partial.exists():
        if not journal.read_bytes().startswith(partial.read_bytes()):
            raise FileError(f"{partial} is an unfinished run of something else. Finish it, or name another table.")
        partial.unlink()
