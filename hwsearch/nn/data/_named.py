"""Functions by the names that a shell can give."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from ...errors import FileError, HwsearchError, InvalidInput, UnknownName


def function_of(source: str) -> Callable[..., Any]:
    """The function of ``FILE.py:FUNCTION``, which is run as if it were imported, or of ``MODULE:FUNCTION``, here or installed.

    Raises:
        FileError: there is no such file.
        InvalidInput: the module cannot be imported.
        UnknownName: it has no such function.
    """
    where, _, name = source.rpartition(":")
    if where.endswith(".py"):
        if not Path(where).is_file():
            raise FileError(f"There is no file {where!r}.")
        known = runpy.run_path(where, run_name="hwsearch_source")
    else:
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        try:
            known = vars(import_module(where))
        except HwsearchError:
            raise
        except Exception as error:
            raise InvalidInput(f"{source}: the module {where!r} cannot be imported: {type(error).__name__}: {error}.") from error
    if not callable(known.get(name)):
        raise UnknownName(
            f"function of {where}", name, [key for key, value in known.items() if callable(value) and not key.startswith("_")]
        )
    found: Callable[..., Any] = known[name]
    return found
