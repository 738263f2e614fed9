"""Profiling a board over ssh: jobs are sent there, run there, and their results fetched, by the ``ssh`` program of this machine.

The board needs an ssh server, Python, numpy and the runtime. A connection that is cut loses nothing: the same command sends only what is
not there yet, goes on where the board was, and fetches from the last byte that came.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from . import _board
from ._progress import Advance
from ._store import Journal, PathLike
from .backends import Backend, load_backend
from .backends.base import Network
from .blocks import Block
from .device import Device
from .errors import BoardFailed, ConnectionLost, FileError
from .jobs import Elsewhere, archive, write_jobs
from .profile import profile
from .space import SearchSpace
from .table import LatencyTable

SSH = "HWSEARCH_SSH"
"""The environment variable that says what to call instead of ``ssh``, options included (as git's GIT_SSH_COMMAND does)."""
_COURIER = Path(__file__).with_name("_courier.py")
_LOST = 255
"""What ``ssh`` itself ends with; any other code is that of the program there."""
_Pipe = Callable[[IO[bytes]], None]


class Board:
    """A machine that is reached by ``ssh``.

    Args:
        host: as ssh takes it: ``user@host``, a name from its configuration, or ``ssh://user@host:port``.
        python: the board's Python, which has numpy and the runtime.

    Raises:
        ConnectionLost: from any method, where the machine cannot be reached or the connection is cut.
        BoardFailed: from any method, where what was called there fails.
    """

    def __init__(self, host: str, python: str = "python3") -> None:
        self.host, self.python = host, python

    def files(self, folder: str) -> set[str]:
        """The files in a folder there; none where there is no such folder."""
        found: set[str] = set()
        self._courier(["have", folder], lambda pipe: found.update(pipe.read().decode().splitlines()))
        return found

    def send(self, source: Path, names: Sequence[str], folder: str, advance: Callable[[float], None]) -> None:
        """Send files of a folder here, in this order; ``advance(1)`` is called for each one that has arrived."""

        def feed(pipe: IO[bytes]) -> None:
            for name in names:
                data = (source / name).read_bytes()
                pipe.write(f"{len(data)} {name}\n".encode() + data)

        def arrived(pipe: IO[bytes]) -> None:
            for _ in pipe:
                advance(1)

        self._courier(["take", folder], arrived, feed)

    def run(self, program: str, heard: Callable[[str], None], *arguments: str) -> None:
        """Run a Python program there to its end; ``heard`` is called with each line that it prints."""

        def listen(pipe: IO[bytes]) -> None:
            for line in pipe:
                heard(line.decode(errors="replace").rstrip())

        self._call([self.python, program, *arguments], listen)

    def fetch(self, folder: str, name: str, target: Path) -> None:
        """Bring a file here; what was brought before is not sent again."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "a+b") as file:
            file.seek(0)
            known = file.read()

            def receive(pipe: IO[bytes]) -> None:
                start = pipe.readline()
                file.truncate(int(start or len(known)))
                while chunk := pipe.read1(1 << 16):  # type: ignore[attr-defined]
                    file.write(chunk)

            self._courier(["give", folder, name, str(len(known)), hashlib.sha256(known).hexdigest()], receive)

    def drop(self, folder: str) -> None:
        """Delete a folder there."""
        self._courier(["drop", folder], lambda pipe: None)

    def _courier(self, arguments: Sequence[str], read: _Pipe, feed: _Pipe | None = None) -> None:
        self._call([self.python, "-c", _COURIER.read_text(), *arguments], read, feed)

    def _call(self, words: Sequence[str], read: _Pipe, feed: _Pipe | None = None) -> None:
        """Run a command there: ``feed`` writes its input, ``read`` reads its output."""
        ssh = shlex.split(os.environ.get(SSH, "ssh -o ServerAliveInterval=15"))
        with tempfile.TemporaryFile() as complaints:
            source = subprocess.DEVNULL if feed is None else subprocess.PIPE
            try:
                process = subprocess.Popen([*ssh, self.host, shlex.join(words)], stdin=source, stdout=subprocess.PIPE, stderr=complaints)
            except OSError as error:
                raise BoardFailed(
                    f"Cannot call {ssh[0]!r} ({error.strerror}). Install OpenSSH's client, or say in {SSH} what to call instead."
                ) from error
            with process:
                try:
                    feeder = threading.Thread(target=_feed, args=(process.stdin, feed))
                    feeder.start()
                    assert process.stdout is not None
                    read(process.stdout)
                    feeder.join()
                except BaseException:
                    process.kill()
                    raise
            complaints.seek(0)
            said = complaints.read().decode(errors="replace").strip()
        if process.returncode == _LOST:
            raise ConnectionLost(f"{self.host}: {said or 'the connection was cut'}. Run the same command again: it goes on where it was.")
        if process.returncode:
            raise BoardFailed(f"{self.host}: {said or f'{self.python} ended with code {process.returncode}'}")


def _feed(pipe: IO[bytes] | None, feed: _Pipe | None) -> None:
    """Write what a command reads; when nobody reads any more, its exit code says why."""
    if pipe is not None and feed is not None:
        with suppress(OSError), pipe:
            feed(pipe)


class Remote(Elsewhere):
    """A board over ssh, as a backend: whole runs are measured there, by the board itself.

    Args:
        host: as ssh takes it: ``user@host``, a name from its configuration, or ``ssh://user@host:port``.
        runtime: the backend of the board; it must be installed here too, to build the models.
        python: the board's Python, which has numpy and the runtime.

    Raises:
        ConnectionLost: the board cannot be reached.
        BoardFailed: it lacks something; the message is what it said.
    """

    def __init__(self, host: str, runtime: str | Backend = "onnxruntime", python: str = "python3") -> None:
        backend, self.board = load_backend(runtime), Board(host, python)
        with tempfile.TemporaryDirectory() as place:
            program = Path(place) / "run.pyz"
            program.write_bytes(archive())
            folder = f".hwsearch/{_board.digest(program.read_bytes())[:16]}"
            self._send(Path(place), ["run.pyz"], folder)
        said: list[str] = []
        self.board.run(f"{folder}/run.pyz", said.append, "describe", backend.name, json.dumps(backend.options))
        try:
            about = json.loads(said[-1])
            super().__init__(backend, Device(**about["device"]), about["energy"], about["precisions"])
        except (LookupError, TypeError, ValueError) as error:
            raise BoardFailed(f"{host} does not say what it is: {said}") from error

    def fill(
        self,
        journal: Journal,
        header: Mapping[str, Any],
        networks: Mapping[str, Network],
        sentinel: Block,
        advance: Advance,
    ) -> bool:
        """Have a run measured there, and bring its journal; see :meth:`hwsearch.backends.Backend.fill`."""
        jobs = Path(f"{journal.path}.jobs")
        try:
            write_jobs(jobs, self._runtime, header, networks, sentinel)
        except FileError:  # of another run, of which nothing is wanted any more
            shutil.rmtree(jobs)
            write_jobs(jobs, self._runtime, header, networks, sentinel)
        folder = f".hwsearch/{_board.digest((jobs / _board.PLAN).read_bytes())[:16]}"
        # The plan goes last: where it is, everything is.
        models = [f"{_board.MODELS}/{path.name}" for path in sorted((jobs / _board.MODELS).glob("*.gz"))]
        self._send(jobs, [*models, "run.pyz", _board.PLAN], folder)
        before = 0

        def heard(line: str) -> None:
            nonlocal before
            if found := re.match(r"(\d+) of \d+ measurements", line):
                advance(int(found[1]) - before)
                before = int(found[1])

        self.board.run(f"{folder}/run.pyz", heard)
        self.board.fetch(folder, _board.JOURNAL, journal.path)
        self.board.drop(folder)
        shutil.rmtree(jobs, ignore_errors=True)
        return True

    def _send(self, source: Path, names: Sequence[str], folder: str) -> None:
        there = self.board.files(folder)
        missing = [name for name in names if name not in there]
        if missing:
            self.board.send(source, missing, folder, lambda done: None)


def profile_remote(
    space: str | SearchSpace, host: str, *, out: PathLike, backend: str | Backend = "onnxruntime", python: str = "python3", **options: Any
) -> LatencyTable:
    """Measure a space on a board: :func:`hwsearch.profile` over ssh.

    Jobs wait in ``<out>.partial.jsonl.jobs`` while they are measured; on the board they lie under ``.hwsearch`` in the user's home.

    Args:
        space: a space or its name.
        host, backend, python: see :class:`Remote`.
        out: where the table goes; a table of the board that is there already is completed.
        **options: as of :func:`hwsearch.profile`.

    Returns:
        The table, as it is in ``out``.

    Raises:
        ConnectionLost: the board cannot be reached, or the connection was cut; calling again goes on.
        BoardFailed: what was called on the board failed; the message says what it said.
        HwsearchError: as :func:`hwsearch.profile`.
    """
    return profile(space, backend=Remote(host, backend, python), out=out, **options)
