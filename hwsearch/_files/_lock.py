"""One writer at a time: locks on outputs, and temporary files that are removed only when their writer is dead.

Locks are the kernel's (``flock``): whoever holds one loses it when the process ends, however it ends, so nothing has to be cleaned up after
``kill -9``. Boards that are profiled have no msgspec, so locks do without it.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from ..errors import FileError, InUse
from ._reading import PathLike

try:
    from fcntl import LOCK_EX, LOCK_NB, flock
except ImportError:  # a system without: what lock files say decides, as on a file system without locks
    LOCK_EX = LOCK_NB = 0  # type: ignore[misc]

    def flock(file: Any, how: int, /) -> None:  # type: ignore[misc]
        """Answer as a file system without locks does."""
        raise OSError(errno.ENOSYS, "no locks")


_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
"""What a file system without locks answers."""
_NOT_OURS = {errno.EACCES, errno.EPERM, errno.EROFS}
_TRIES = 20
"""A lock that does not say who holds it is read this often, twenty times a second."""
_held: dict[tuple[int, str], IO[bytes]] = {}
"""The locks of this process: thread and file."""


@contextmanager
def writing(path: PathLike) -> Iterator[None]:
    """Turn what the operating system says about a path that cannot be written into a FileError."""
    _check_name(path)
    try:
        yield
    except OSError as error:
        raise FileError(f"Cannot write {os.fspath(path)}: {error.strerror or error}. Name another place, or make room there.") from error


def _check_name(path: PathLike) -> None:
    """Refuse what no file system takes as a name.

    Raises:
        FileError: it holds a NUL, or characters that cannot be encoded.
    """
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError as error:
        raise FileError(f"{os.fspath(path)!r} cannot be the name of a file: {error}. Name another one.") from error
    if b"\0" in encoded:
        raise FileError(f"{os.fspath(path)!r} cannot be the name of a file: it holds a NUL character. Name another one.")


@contextmanager
def claim(path: PathLike | None, *beside: PathLike, waiting: Callable[[str], object] | None = None) -> Iterator[None]:
    """Reserve an output, and everything that is written beside it on the way, for this thread until the block ends.

    The lock is on the file ``<path>.lock``, which says what process holds it and is removed at the end. A lock file that a killed
    process left behind stops nobody. Temporary files that killed writers left beside ``path`` are removed. A thread may claim again what it
    already has.

    On a file system without locks, a holder on this machine counts as alive if its process runs, and a holder on another machine always
    does. If neither the folder nor a lock in it can be written, nothing is claimed, since nothing can be written there either.

    Args:
        path: the output; with ``None``, nothing is claimed.
        *beside: further outputs whose leftover temporary files are removed.
        waiting: called with the reason when the output is taken, before this waits for it; without, that is refused.

    Raises:
        InUse: another process, or another thread, is writing it.
        FileError: ``path`` cannot be written, or is a device or a folder and no file.
    """
    if path is None:
        yield
        return
    with writing(path):
        target = os.path.realpath(path)
        if os.path.lexists(target) and not stat.S_ISREG(os.stat(target).st_mode):
            raise FileError(f"{os.fspath(path)} is not a regular file, so work on it could not be continued. Name another one.")
        key = threading.get_ident(), target
        if key not in _held:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            file = _take(path, f"{target}.lock", waiting)
    if key in _held or file is None:
        yield
        return
    _held[key] = file
    try:
        for output in (path, *beside):
            remove_leftovers(output)
        yield
    finally:
        del _held[key]
        with file, suppress(OSError):
            os.unlink(f"{target}.lock")


def _take(path: PathLike, lock: str, waiting: Callable[[str], object] | None) -> IO[bytes] | None:
    """Open and lock a lock file, and write into it who holds it; ``None`` if nothing can be written in its folder."""
    while True:
        try:
            file = open(lock, "a+b")  # noqa: SIM115 - it stays open as long as the lock is held
        except OSError as error:
            if error.errno in _NOT_OURS and not os.path.lexists(lock):
                return None
            raise
        try:
            if (holder := _lock_or_holder(file)) is not None:
                why = _who(holder, path, lock)
                if waiting is None:
                    raise InUse(f"{why} Wait until it has ended, or name another file.")
                waiting(why)
                while not _locked(file):
                    time.sleep(0.1)
            if _is_at(file, lock):
                file.truncate(0)
                file.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%F %T")}).encode())
                file.flush()
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # its holder has ended, and removed it, meanwhile


def _lock_or_holder(file: IO[bytes]) -> dict[str, object] | None:
    """Lock a file, or read who holds it: ``None`` if it is locked now, and nothing in the mapping if its holder does not say."""
    for _ in range(_TRIES):  # whoever has just locked it has yet to write who that is
        if _locked(file):
            return None
        holder = _holder(file)
        if _lives(holder) or holder.get("pid") == os.getpid():
            return holder
        time.sleep(0.05)
    return holder


def _locked(file: IO[bytes]) -> bool:
    """Lock a file, if nobody else holds it."""
    try:
        flock(file, LOCK_EX | LOCK_NB)
    except OSError as error:
        return error.errno in _NO_LOCKS and not _lives(_holder(file))
    return True


def _is_at(file: IO[bytes], path: str) -> bool:
    """Whether an open file is still the one of this name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _holder(file: IO[bytes]) -> dict[str, object]:
    """What a lock file says of its holder."""
    file.seek(0)
    try:
        found = json.loads(file.read(1000))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _lives(holder: dict[str, object]) -> bool:
    """Whether a process is alive, as far as this machine can tell."""
    pid = holder.get("pid")
    if not isinstance(pid, int) or holder.get("host") != socket.gethostname():
        return bool(holder)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return pid != os.getpid()


def _who(holder: dict[str, object], path: PathLike, lock: str) -> str:
    """Who writes a file, as a sentence."""
    if not holder:
        return f"{os.fspath(path)} is being written by another process."
    told = f"process {holder.get('pid')} on {holder.get('host')}, since {holder.get('since')}"
    hint = "" if holder.get("host") == socket.gethostname() else f" If that process is no more, delete {lock}."
    return f"{os.fspath(path)} is being written by {told}.{hint}"


def temporary(target: Path) -> tuple[Path, IO[bytes]]:
    """A new file beside ``target`` that :func:`remove_leftovers` spares as long as it is open; its mode is what the umask says."""
    while True:
        path = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
        try:
            file = open(path, "xb")  # noqa: SIM115 - the caller closes it
        except FileExistsError:
            continue
        if _locked(file) and _is_at(file, str(path)):
            return path, file
        file.close()  # it was removed as a leftover between opening and locking


def remove_leftovers(path: PathLike) -> None:
    """Remove the temporary files of ``path`` whose writers are dead.

    A file that is locked has a living writer, and one that cannot be locked at all is left alone, since it may have one.
    """
    target = Path(os.path.realpath(path))
    ours = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-z_]{{8}}\.tmp")
    with suppress(OSError):
        for name in filter(ours.fullmatch, os.listdir(target.parent)):
            with suppress(OSError), open(target.with_name(name), "rb") as file:
                flock(file, LOCK_EX | LOCK_NB)
                os.unlink(target.with_name(name))


def _forget() -> None:
    """A child process holds nothing: it must not keep what its parent has let go of."""
    for file in _held.values():
        with suppress(OSError):
            os.close(file.fileno())
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
