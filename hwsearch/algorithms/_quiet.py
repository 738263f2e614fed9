"""Quiet: nothing that HiGHS prints, which its own option does not silence, reaches the terminal."""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_LOCK = threading.Lock()
_NOISE = b"HighsMip"


@contextmanager
def quiet() -> Iterator[None]:
    """While a program is solved, lines of HiGHS do not reach the standard output; what else is written there does, a little later."""
    with _LOCK:
        try:
            standard = os.dup(1)
        except OSError:  # there is no standard output
            yield
            return
        with tempfile.TemporaryFile() as kept:
            _flush()
            os.dup2(kept.fileno(), 1)
            try:
                yield
            finally:
                _flush()
                os.dup2(standard, 1)
                os.close(standard)
                kept.seek(0)
                others = b"".join(line for line in kept if not line.startswith(_NOISE))
                if others:
                    os.write(1, others)


def _flush() -> None:
    """Write out what Python and C hold back of the standard output."""
    with suppress(OSError, ValueError, AttributeError):  # it may be full, closed or missing
        sys.stdout.flush()
    if os.name == "posix":
        ctypes.CDLL(None).fflush(None)
