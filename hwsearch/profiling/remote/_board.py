"""What runs on a board that is not this machine: ``python run.pyz`` measures the model files beside it, round by round.

It travels in ``run.pyz`` (see :mod:`hwsearch.profiling.remote._jobs`) with the modules of hwsearch that it needs. These ask for numpy and
the runtime only, so what is measured there is measured by the same code as here.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from ..._files._lock import claim
from ..._files._reading import guarded, read_bytes, read_document
from ..._files._writing import Journal
from ...backends._load import load_backend
from ...backends.base import Backend, Session
from ...devices._device import Protocol
from ...errors import BuildFailed, CorruptFile, FileError, HwsearchError, InvalidInput, check_seed
from .._journal import resume
from .._rounds import Open, Rounds, period_of

FORMAT = "hwsearch-jobs"
VERSION = 1
PLAN, MODELS, RESULTS = "plan.json", "models", "results"
_HEARTBEAT_S = 10.0
JOURNAL = f"{RESULTS}/journal.jsonl"


def describe(name: str, options: str) -> None:
    """Print what a runtime is here, as one line of JSON.

    Args:
        name: of the backend.
        options: its options as JSON.
    """
    backend = load_backend(name, **json.loads(options))
    print(json.dumps({"device": asdict(backend.describe()), "energy": backend.energy, "precisions": backend.precisions}))


def read_plan(folder: Path) -> dict[str, Any]:
    """The plan of a folder of jobs.

    Raises:
        FileError: there is none.
        CorruptFile, NewerVersion: it is none that can be used.
    """
    path = folder / PLAN
    plan = read_document(path, "plan", format=FORMAT, version=VERSION)
    with guarded(path, "plan"):
        run, files = plan["run"], [plan["sentinel"], *plan["things"].values()]
        check_run(run)
        if not all(isinstance(file, str) and os.path.basename(file) == file != "" for file in files):
            raise InvalidInput("'sentinel' and 'things' must name model files.")
    return plan


def check_run(run: dict[str, Any]) -> None:
    """Check what a plan says of its run, and what the journal of a board begins with.

    Raises:
        InvalidInput, LookupError, TypeError: it does not say what is needed, or what it says is impossible.
    """
    Protocol.from_document(run["protocol"])
    check_seed(run["seed"])
    for name, kind in (("backend", str), ("options", dict), ("space", str), ("fingerprint", str)):
        if not isinstance(run[name], kind):
            raise InvalidInput(f"'run' has {name} {run[name]!r}.")


def run(folder: Path) -> None:
    """Measure everything that is not measured yet; each round is on disk before the next begins.

    Args:
        folder: of the jobs.

    Raises:
        FileError: the folder is not whole.
        BuildFailed: the runtime here cannot even run the sentinel.
        WrongDevice: the folder holds the unfinished run of another board.
    """
    plan = read_plan(folder)
    header = plan["run"]
    backend = load_backend(header["backend"], **header["options"])
    header |= {"device": asdict(backend.describe()), "energy": backend.energy}
    protocol = Protocol.from_document(header["protocol"])
    journal = Journal(folder / JOURNAL)
    things = {name: _opener(backend, folder, file) for name, file in plan["things"].items()}

    with claim(journal.path, waiting=partial(print, flush=True)):
        sentinel, again = _opener(backend, folder, plan["sentinel"]), header.get("again", ())
        rounds = Rounds(things, sentinel, protocol, header["seed"], period_of(backend.describe()), again)
        for record in resume(journal, header):
            rounds.add(record)
        total = len(things) * protocol.max_rounds

        def done(record: dict[str, Any]) -> None:
            journal.append(record)
            print(f"{rounds.progress()} of {total} measurements, round {record['round']}", flush=True)

        rounds.finish(done, _heartbeat())
    print(f"{total} of {total} measurements. Bring back the folder {RESULTS} and: hwsearch profile SPACE --collect {RESULTS} --out TABLE")


def _heartbeat() -> Callable[[float], None]:
    """Prints every ten seconds that measuring continues; it is called after each measurement."""
    told = time.monotonic()

    def beat(done: float) -> None:
        nonlocal told
        if time.monotonic() - told > _HEARTBEAT_S:
            told = time.monotonic()
            with suppress(OSError):  # nobody listens any more, which the end of the round will show
                print("measuring", flush=True)

    return beat


def _opener(backend: Backend, folder: Path, file: str) -> Open:
    """Makes a packed model file ready to run."""

    def opened() -> Session:
        path = folder / MODELS / file
        packed = read_bytes(path, "model")
        if not file.startswith(digest(packed)):
            raise CorruptFile(f"{path} was damaged on its way. Copy it again.")
        with tempfile.TemporaryDirectory() as place:
            model = Path(place) / Path(file).stem
            model.write_bytes(gzip.decompress(packed))
            try:
                return backend.load(model)
            except FileError as error:
                raise BuildFailed(str(error)) from error

    return opened


def digest(data: bytes) -> str:
    """What model files are named by: their content."""
    return hashlib.sha256(data).hexdigest()[:32]


def main() -> int:
    """Run the jobs of the folder in which ``run.pyz`` lies, or ``describe NAME OPTIONS``; the exit code is 1 if that failed."""
    archive = Path(sys.argv[0]).resolve()
    # Processes that a runtime's builder starts find the package in the archive too.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(archive), os.environ.get("PYTHONPATH", "")]))
    try:
        if sys.argv[1:2] == ["describe"]:
            describe(*sys.argv[2:])
        else:
            run(archive.parent)
    except HwsearchError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # nobody listens any more; another run continues from here
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0
