"""What the process that measures is bound to: a core, and pages of the usual size."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from pathlib import Path

from ..errors import InvalidInput, check_count

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_SET, _GET = 41, 42
"""``PR_SET_THP_DISABLE`` and ``PR_GET_THP_DISABLE`` of Linux's ``prctl``."""


def pin(core: int, threads: int) -> int:
    """Keep this process, and what it starts, on a core.

    Raises:
        InvalidInput: there is no such core here, the system cannot do it, or there are several threads.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise InvalidInput("This system cannot keep a process on a core. Leave core out.")
    if threads > 1:
        raise InvalidInput(f"{threads} threads do not fit on one core. Leave out core, or threads.")
    usable = sorted(os.sched_getaffinity(0))
    if check_count("core", core, least=0) not in usable:
        raise InvalidInput(f"core must be one that this process may use, of {', '.join(map(str, usable))}, not {core}.")
    os.sched_setaffinity(0, {core})
    return core


def without_huge_pages() -> None:
    """Have this process, and what it starts, get no transparent huge pages from now on, whatever the system's policy is.

    Raises:
        InvalidInput: the system cannot do it.
    """
    if not _prctl(_SET, 1) or not _disabled():
        raise InvalidInput("This system cannot do without huge pages in one process. Leave huge_pages out.")


def huge_pages(policy: Path = HUGE_PAGES) -> str:
    """When this process gets transparent huge pages: ``"always"``, ``"madvise"`` or ``"never"``; empty if the system does not tell.

    Args:
        policy: the file in which Linux shows the choices, the chosen one in brackets.
    """
    if _disabled():
        return "never"
    try:
        chosen = re.search(r"\[(\w+)\]", policy.read_text())
    except OSError:
        return ""
    return chosen[1] if chosen else ""


def _disabled() -> bool:
    """Whether this process has been told to do without."""
    return bool(_prctl(_GET, 0, told=True))


def _prctl(what: int, value: int, *, told: bool = False) -> int:
    """Whether Linux did what it was told, or what it answers; 0 on other systems."""
    if not sys.platform.startswith("linux"):
        return 0
    try:
        answer = int(ctypes.CDLL(None).prctl(what, *map(ctypes.c_ulong, (value, 0, 0, 0))))
    except (OSError, AttributeError):
        return 0
    return max(0, answer) if told else int(answer == 0)
