"""Profiling a board over ssh: jobs are sent there, run there, and their results fetched, by the ``ssh`` program of this machine.

The board needs an ssh server, Python, numpy and the runtime. A connection that is cut loses nothing: the same command sends only what is
not there yet, continues where the board was, and fetches from the last byte that came. The output of a board is bounded, and a board
that is silent for too long is given up.
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
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from ..._files._reading import guarded, parse_json
from ..._files._writing import Journal
from ..._progress import Advance
from ...backends._load import load_backend
from ...backends.base import Backend
from ...devices._device import Device
from ...devices._table_file import ENERGIES
from ...errors import BoardFailed, ConnectionLost, CorruptFile, FileError, InvalidInput
from .._plan import Plan
from .._readings import Readings
from .._workbench import Workbench, check_finished
from . import _board
from ._jobs import archive, write_jobs

SSH = "HWSEARCH_SSH"
"""The environment variable that says what to call instead of ``ssh``, options included (as git's GIT_SSH_COMMAND does).

Example:
    >>> import os
    >>> from hwsearch.profiling import SSH
    >>> os.environ[SSH] = "ssh -i board.key -o ServerAliveInterval=15"
    >>> SSH
    'HWSEARCH_SSH'
"""
_COURIER = Path(__file__).with_name("_courier.py")
_LOST = 255
"""What ``ssh`` itself ends with; any other code is that of the program there."""
_SILENCE_S = 600.0
_MOST = 16 << 20
"""Bytes that a command may print: a listing of all that can lie on a board is far below."""
_MOST_OF_A_FILE = 1 << 30
_SHOWN = 2_000
"""Characters of what a board says that are shown."""


class _Call:
    """A command that runs on a board.

    Attributes:
        process: the ``ssh`` that runs it.
        heard_at: when it last said or took something.
        ended: why it was ended from here; empty if it was not.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process, self.heard_at, self.ended, self._over = process, time.monotonic(), "", threading.Event()

    def end(self, why: str) -> None:
        """End it from here."""
        self.ended = self.ended or why
        self.process.kill()

    def watch(self, silence_s: float) -> None:
        """End it when it has been silent for too long; returns when :meth:`over` is called."""
        while not self._over.wait(min(1.0, silence_s / 4)):
            if time.monotonic() - self.heard_at > silence_s:
                self.end(f"it has said nothing for {silence_s:g} s; give it more time (timeout_s=..., --timeout), or see what holds it up")

    def over(self) -> None:
        """Stop watching."""
        self._over.set()


class _Output:
    """What a command prints, and no more of it than ``most`` bytes."""

    def __init__(self, pipe: IO[bytes], call: _Call, most: int = _MOST) -> None:
        self._pipe, self._call, self._most = pipe, call, most

    def __iter__(self) -> Iterator[bytes]:
        while line := self._took(self._pipe.readline(1 << 16)):
            yield line

    def chunks(self) -> Iterator[bytes]:
        """The bytes as they come."""
        while chunk := self._took(self._pipe.read1(1 << 16)):  # type: ignore[attr-defined]
            yield chunk

    def _took(self, data: bytes) -> bytes:
        self._call.heard_at = time.monotonic()
        self._most -= len(data)
        if self._most < 0:
            self._call.end("it prints without end")
            return b""
        return data


class _Input:
    """What a command reads; each part that it takes is a sign of life."""

    def __init__(self, pipe: IO[bytes], call: _Call) -> None:
        self._pipe, self._call = pipe, call

    def write(self, data: bytes) -> None:
        """Write all of the bytes."""
        for start in range(0, len(data), 1 << 16):
            self._pipe.write(data[start : start + (1 << 16)])
            self._call.heard_at = time.monotonic()


class Board:
    """A machine that is reached by ``ssh``.

    Example:
        >>> import os, shlex, sys
        >>> from hwsearch.profiling import SSH, Board
        >>> os.environ[SSH] = shlex.join(["sh", "-c", 'eval "$3"', "ssh"])  # this machine stands in for a board
        >>> Board("user@board", python=sys.executable).files("jobs")
        set()

    Args:
        host: as ssh takes it: ``user@host``, a name from its configuration, or ``ssh://user@host:port``.
        python: the board's Python, which has numpy and the runtime.
        timeout_s: the connection is given up after this many silent seconds. While it measures, a board prints a line every ten seconds,
            unless a single model takes longer. ``None`` waits for ever.

    Raises:
        InvalidInput: ``host`` is no name of a machine, but an option of ssh, say; or ``timeout_s`` is not above 0.
        ConnectionLost: from any method, if the machine cannot be reached, is silent, or the connection is cut.
        BoardFailed: from any method, where what was called there fails, or prints without end.
    """

    def __init__(self, host: str, python: str = "python3", timeout_s: float | None = _SILENCE_S) -> None:
        if not host or any(part.startswith("-") for part in host.split("@")) or not host.isprintable() or " " in host:
            raise InvalidInput(f"{host!r} is no name of a machine that ssh reaches; user@host was expected.")
        if timeout_s is not None and not timeout_s > 0:
            raise InvalidInput(f"timeout_s must be above 0 (or None, to wait for ever), not {timeout_s!r}.")
        self.host, self.python, self.timeout_s = host, python, timeout_s

    def files(self, folder: str) -> set[str]:
        """The files in a folder there; none if there is no such folder."""
        found: set[str] = set()

        def listed(output: _Output) -> None:
            found.update(line.decode(errors="replace").rstrip("\r\n") for line in output)

        self._courier(["have", folder], listed)
        return found

    def send(self, source: Path, names: Sequence[str], folder: str, advance: Callable[[float], None]) -> None:
        """Send files of a folder here, in this order; ``advance(1)`` is called for each one that has arrived."""

        def feed(given: _Input) -> None:
            for name in names:
                data = (source / name).read_bytes()
                given.write(f"{len(data)} {name}\n".encode() + data)

        def arrived(output: _Output) -> None:
            for _ in output:
                advance(1)

        self._courier(["take", folder], arrived, feed)

    def run(self, program: str, heard: Callable[[str], None], *arguments: str) -> None:
        """Run a Python program there to its end; ``heard`` is called with each line that it prints."""

        def listen(output: _Output) -> None:
            for line in output:
                heard(line.decode(errors="replace").rstrip())

        self._call([self.python, program, *arguments], listen)

    def fetch(self, folder: str, name: str, target: Path) -> None:
        """Bring a file here; what was brought before is not sent again."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "a+b") as file:
            file.seek(0)
            known = file.read()

            def receive(output: _Output) -> None:
                for start in output:
                    if start.strip() not in (b"0", b"%d" % len(known)):
                        raise BoardFailed(f"{self.host} sends {name} from {_shown(start)!r} on; 0 or {len(known)} was expected.")
                    file.truncate(int(start))
                    break
                for chunk in output.chunks():
                    file.write(chunk)

            self._courier(["give", folder, name, str(len(known)), hashlib.sha256(known).hexdigest()], receive, most=_MOST_OF_A_FILE)

    def drop(self, folder: str) -> None:
        """Delete a folder there."""
        self._courier(["drop", folder], _ignore)

    def _courier(
        self,
        arguments: Sequence[str],
        read: Callable[[_Output], None],
        feed: Callable[[_Input], None] | None = None,
        most: int = _MOST,
    ) -> None:
        self._call([self.python, "-c", _COURIER.read_text(), *arguments], read, feed, most)

    def _call(
        self, words: Sequence[str], read: Callable[[_Output], None], feed: Callable[[_Input], None] | None = None, most: int = _MOST
    ) -> None:
        """Run a command there: ``feed`` writes its input, ``read`` reads its output, of at most ``most`` bytes."""
        ssh = shlex.split(os.environ.get(SSH, "ssh -o ServerAliveInterval=15"))
        source = subprocess.DEVNULL if feed is None else subprocess.PIPE
        try:
            process = subprocess.Popen(
                [*ssh, "--", self.host, shlex.join(words)], stdin=source, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        except OSError as error:
            raise BoardFailed(
                f"Cannot call {ssh[0]!r} ({error.strerror}). Install OpenSSH's client, or say in {SSH} what to call instead."
            ) from error
        call, complaints = _Call(process), bytearray()
        tasks: list[tuple[Callable[..., None], Any]] = [
            (_feed, (process.stdin, feed, call)),
            (_overhear, (process.stderr, complaints, call)),
        ]
        if self.timeout_s is not None:
            tasks.append((call.watch, (self.timeout_s,)))
        helpers = [threading.Thread(target=task, args=arguments, daemon=True) for task, arguments in tasks]
        with process:
            try:
                for helper in helpers:
                    helper.start()
                assert process.stdout is not None
                read(_Output(process.stdout, call, most))
                process.wait()
            except BaseException:
                process.kill()
                raise
            finally:
                call.over()
                for helper in helpers:
                    helper.join(10)
        said = _shown(complaints)
        if process.returncode == _LOST or call.ended.startswith("it has said nothing"):
            why = call.ended or said or "the connection was cut"
            raise ConnectionLost(f"{self.host}: {why}. Run the same command again: it continues where it was.")
        if process.returncode:
            raise BoardFailed(f"{self.host}: {call.ended or said or f'{self.python} ended with code {process.returncode}'}")


def _feed(pipe: IO[bytes] | None, feed: Callable[[_Input], None] | None, call: _Call) -> None:
    """Write what a command reads; when nobody reads any more, its exit code says why."""
    if pipe is not None and feed is not None:
        with suppress(OSError, ValueError), pipe:
            feed(_Input(pipe, call))


def _overhear(pipe: IO[bytes], complaints: bytearray, call: _Call) -> None:
    """Keep the end of what a command complains about."""
    with suppress(OSError, ValueError):
        for chunk in _Output(pipe, call).chunks():
            complaints += chunk
            del complaints[: -4 * _SHOWN]


def _ignore(output: _Output) -> None:
    for _ in output:
        pass


def _shown(said: bytes | bytearray) -> str:
    """The end of what a board said, as it may be shown on a terminal: without control characters."""
    text = said.decode(errors="replace").strip()
    return "".join(one if one.isprintable() or one == "\n" else "\N{REPLACEMENT CHARACTER}" for one in text[-_SHOWN:])


class Remote(Workbench):
    """A board over ssh: ``hwsearch.profile(space, backend=Remote("user@board"), out="table.json")`` measures there.

    The board measures by itself. Jobs wait in ``<out>.partial.jsonl.jobs`` here, and lie under ``.hwsearch`` in the user's home there.

    Example:
        >>> import os, shlex, sys
        >>> from hwsearch.profiling import SSH, Board, Remote
        >>> os.environ[SSH] = shlex.join(["sh", "-c", 'eval "$3"', "ssh"])  # this machine stands in for a board
        >>> board = Remote(Board("user@board", python=sys.executable), "onnxruntime")
        >>> board.device.runtime, board.precisions
        ('onnxruntime', ('fp32', 'int8'))

    Args:
        board: the board, or just its name: ``user@host``, a name from the configuration of ssh, or ``ssh://user@host:port``.
        runtime: the backend of the board; it must be installed here too, to build the models.

    Raises:
        InvalidInput: ``board`` is no name of a machine.
        ConnectionLost: the board cannot be reached.
        BoardFailed: it lacks something, or says of itself what cannot be; the message is what it said.
    """

    def __init__(self, board: str | Board, runtime: str | Backend = "onnxruntime") -> None:
        backend, self.board = load_backend(runtime), board if isinstance(board, Board) else Board(board)
        host = self.board.host
        with tempfile.TemporaryDirectory() as place:
            program = Path(place) / "run.pyz"
            program.write_bytes(archive())
            folder = f".hwsearch/{_board.digest(program.read_bytes())[:16]}"
            self._send(Path(place), ["run.pyz"], folder)
        said: list[str] = [""]
        self.board.run(f"{folder}/run.pyz", said.append, "describe", backend.name, json.dumps(backend.options))
        try:
            with guarded(host, "description of a board"):
                about = parse_json(said[-1].encode(), host)
                device, energy, precisions = Device.from_document(about["device"]), about["energy"], about["precisions"]
                if energy not in ENERGIES or not isinstance(precisions, list) or not all(isinstance(one, str) for one in precisions):
                    raise InvalidInput(f"it has the energy {energy!r} and the precisions {precisions!r}")
        except CorruptFile as error:
            raise BoardFailed(f"{host} does not say what it is: {_shown(said[-1].encode())!r} ({error})") from error
        super().__init__(backend, device, energy, precisions)

    def measure(self, plan: Plan, journal: Journal, advance: Advance) -> Readings:
        """Have a plan measured there, and bring the journal of it.

        Raises:
            ConnectionLost: the board cannot be reached, or the connection was cut; another call continues.
            BoardFailed: what was called on the board failed; the message says what it said.
        """
        readings = plan.read(journal)
        if readings.pending():
            self._run(plan, journal, advance)
            readings = plan.read(journal)
        return check_finished(readings, self.device.name)

    def _run(self, plan: Plan, journal: Journal, advance: Advance) -> None:
        """Send jobs, run them, and fetch their journal; what was sent, run or fetched before is not again."""
        jobs = Path(f"{journal.path}.jobs")
        try:
            write_jobs(jobs, self.runtime, plan)
        except FileError:  # it holds the jobs of another run, which are obsolete
            shutil.rmtree(jobs)
            write_jobs(jobs, self.runtime, plan)
        folder = f".hwsearch/{_board.digest((jobs / _board.PLAN).read_bytes())[:16]}"
        # The plan goes last: as soon as it is there, everything is.
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

    def _send(self, source: Path, names: Sequence[str], folder: str) -> None:
        there = self.board.files(folder)
        missing = [name for name in names if name not in there]
        if missing:
            self.board.send(source, missing, folder, lambda done: None)
