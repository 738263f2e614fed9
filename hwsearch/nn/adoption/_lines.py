"""Which line of the user's source an operation or an error comes from."""

from __future__ import annotations

import os
import re
import traceback
from pathlib import Path

import torch
from torch import fx

_INNER = (f"{Path(torch.__file__).parent}{os.sep}", f"{Path(__file__).parent}{os.sep}", "<")


def source_line(node: fx.Node) -> str:
    """File and line that an operation comes from, outside of torch; empty where it is not known."""
    file, line = _last(node.meta.get("stack_trace") or "")
    return f"{Path(file).name}:{line}" if file else ""


def failing_line(error: BaseException) -> str:
    """File and line of the user's source that an error comes from, with the statement where it can be read."""
    outside = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_INNER)]
    if outside:
        return f"{outside[-1].filename}:{outside[-1].lineno} ({(outside[-1].line or '').strip()})"
    file, line = _last(str(error))
    return f"{file}:{line}" if file else "an unknown line"


def _last(text: str) -> tuple[str, str]:
    """The last file and line outside of torch that a stack trace in words names; empty where there is none."""
    found = [(file, line) for file, line in re.findall(r'File "([^"]+)", line (\d+)', text) if not file.startswith(_INNER)]
    return found[-1] if found else ("", "")
