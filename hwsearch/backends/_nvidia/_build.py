"""Engines, built in a worker process and kept: a builder that crashes, hangs or runs out of memory costs one engine and not the run."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from ..._files._lock import claim
from ..._files._reading import check_header, read_bytes, read_json
from ..._files._writing import PathLike, write_atomic
from ...errors import BuildFailed, CorruptFile, WrongDevice

FORMAT = "hwsearch-engine"
VERSION = 1
_WORKER = (sys.executable, "-m", f"{__package__}._worker")
_TAIL = 800
"""Number of characters of the builder's log that are shown."""


@dataclass(frozen=True)
class Target:
    """What an engine runs on.

    Attributes:
        runtime: TensorRT's version, with ``rtx`` before it if it is TensorRT-RTX.
        sm: compute capabilities, such as ``("86", "89")``.
        gpu: the GPU's name, or ``""`` where an engine runs on every GPU of these compute capabilities.
        workspace_mib: memory that layers may use, MiB; all there is where ``None``.
    """

    runtime: str
    sm: tuple[str, ...]
    gpu: str = ""
    workspace_mib: int | None = None

    def difference(self, other: Target) -> str:
        """What keeps an engine for this target from running on the other one, in words; empty if it may run."""
        if self.runtime != other.runtime:
            return f"it was built by TensorRT {self.runtime}, and here is {other.runtime}"
        if not set(other.sm) <= set(self.sm):
            return f"it was built for SM {', '.join(self.sm)}, and here is {', '.join(other.sm)}"
        if self.gpu and self.gpu != other.gpu:
            return f"it was built on {self.gpu}, and here is {other.gpu or 'none'}"
        return ""


def save_engine(path: PathLike, plan: bytes, target: Target, facts: dict[str, Any] | None = None) -> None:
    """Write an engine, and beside it (``<path>.json``) what it runs on.

    Args:
        path: the file.
        plan: the engine as TensorRT serialised it, which is what other tools take as well.
        target: what it was built for.
        facts: JSON data to keep with it.
    """
    note = {"format": FORMAT, "version": VERSION, "sha256": sha256(plan).hexdigest(), "target": asdict(target), "facts": facts or {}}
    write_atomic(_note(path), json.dumps(note, indent=1).encode() + b"\n")
    write_atomic(path, plan)


def load_engine(path: PathLike, target: Target) -> bytes:
    """Read an engine that was built for this target.

    Raises:
        FileError: there is no such file, or nothing beside it that says what it runs on.
        CorruptFile, NewerVersion: the files are no engine and its note, or do not belong together.
        WrongDevice: it was built for another GPU or by another version of TensorRT.
    """
    document = read_json(_note(path), "engine's note")
    note = check_header(document, format=FORMAT, version=VERSION, path=_note(path))
    plan = read_bytes(path, "engine")
    try:
        built, checksum = Target(**{**note["target"], "sm": tuple(note["target"]["sm"])}), note["sha256"]
        if not all(isinstance(word, str) for word in (built.runtime, built.gpu, *built.sm)):
            raise TypeError("its words are no text")
    except (KeyError, TypeError) as error:
        raise CorruptFile(f"{_note(path)} does not say what the engine runs on ({error}). Build the engine again.") from error
    if sha256(plan).hexdigest() != checksum:
        raise CorruptFile(f"{os.fspath(path)} is not the engine that {_note(path)} describes. Build it again.")
    if why := built.difference(target):
        raise WrongDevice(f"{os.fspath(path)} does not run here: {why}. Build it again from the ONNX file.")
    return plan


def _note(path: PathLike) -> Path:
    return Path(f"{os.fspath(path)}.json")


class Engines:
    """Builds engines, each once: they are kept by what is in them, the version, the target and the options.

    Args:
        folder: where they are kept, and the timing cache, in which TensorRT remembers how fast its kernels were.
        target: what they are built for.
        here: compute capability of this machine's GPU, or ``None``.
        gpu: its number.
        timeout_s: seconds that one may take.
        worker: command of the process that builds; it takes requests as :mod:`hwsearch.backends._nvidia._worker` does.
    """

    def __init__(
        self,
        folder: PathLike,
        target: Target,
        here: str | None = None,
        gpu: int = 0,
        timeout_s: float = 600.0,
        worker: Sequence[str] = _WORKER,
    ) -> None:
        self.folder, self.target, self.here, self.gpu = Path(folder), target, here, gpu
        self.timeout_s, self.worker = timeout_s, tuple(worker)
        self._running: tuple[subprocess.Popen[bytes], IO[bytes]] | None = None
        self._end: Callable[[], object] = bool

    @property
    def timing_cache(self) -> Path:
        """The timing cache of this version and GPU."""
        words = f"{self.target.runtime} {self.target.gpu} {' '.join(self.target.sm)}"
        return self.folder / f"{''.join(sign if sign.isalnum() else '-' for sign in words)}.timing"

    def build(self, model: bytes, what: str) -> bytes:
        """The engine of an ONNX model.

        Args:
            model: the ONNX file.
            what: it is, for messages.

        Raises:
            BuildFailed: the builder crashed, hung, ran out of memory or refused the model; with the end of its log.
        """
        key = sha256(json.dumps(asdict(self.target), sort_keys=True).encode() + model).hexdigest()
        path = self.folder / f"{key[:32]}.engine"
        with claim(path, waiting=bool):  # another process that builds this very engine
            if path.exists():
                try:
                    return load_engine(path, self.target)
                except CorruptFile:  # a power cut, say
                    path.unlink()
            with tempfile.TemporaryDirectory(prefix="hwsearch-engine-") as folder:
                source, out = Path(folder) / "model.onnx", Path(folder) / "model.engine"
                source.write_bytes(model)
                request = {
                    "model": str(source),
                    "out": str(out),
                    "timing": str(self.timing_cache),
                    "targets": self.target.sm,
                    "here": self.here,
                    "gpu": self.gpu,
                    "workspace_mib": self.target.workspace_mib,
                }
                self._ask(request, what)
                plan = read_bytes(out, "engine")
            save_engine(path, plan, self.target)
            return plan

    def close(self) -> None:
        """End the worker process; the next engine starts another."""
        self._end()
        self._running = None

    def _start(self) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
        if self._running is None:
            log = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
            process = subprocess.Popen(
                self.worker, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, bufsize=0, start_new_session=True
            )
            self._running = process, log
            self._end = weakref.finalize(self, _end, process, log)
        return self._running

    def _ask(self, request: dict[str, Any], what: str) -> None:
        """Have one engine built. After a failure the worker is started afresh: an error on a GPU poisons all that comes after it."""
        process, log = self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        began = log.seek(0, os.SEEK_END)
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            why = self._answer(process.stdout)
        except BrokenPipeError:
            why = None
        except TimeoutError:
            why = f"it took more than {self.timeout_s:g} s, and was stopped"
        if why is None:
            why = _death(process.wait())
        if why:
            log.seek(began)
            words = log.read().decode(errors="replace").strip()
            self.close()
            tail = f" The log ends: {words[-_TAIL:]}" if words else ""
            raise BuildFailed(f"TensorRT {self.target.runtime} cannot build {what}: {why}.{tail}")

    def _answer(self, pipe: IO[bytes]) -> str | None:
        """What the worker replies; ``None`` if it died.

        Raises:
            TimeoutError: it says nothing.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            if not selector.select(self.timeout_s):
                raise TimeoutError
        line = pipe.readline()
        return str(json.loads(line)["why"]) if line.endswith(b"\n") else None


def _end(process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    """Kill a worker, whatever it is doing, and let go of its pipes."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    for file in (process.stdin, process.stdout, log):
        if file is not None:
            file.close()
    process.wait()


def _death(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"the builder ended with exit code {code}"
    name = signal.Signals(-code).name
    hint = "; this is what Linux does when memory runs out" if -code == signal.SIGKILL else ""
    return f"the builder died of signal {-code} ({name}{hint})"
