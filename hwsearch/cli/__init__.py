"""The command line: each command is one verb of the library, and every one can be stopped and run again."""

from . import _adopting, _files, _profiling, _searching, _training  # noqa: F401 - each adds its commands to the app
from ._app import app, main

__all__ = ["app", "main"]
