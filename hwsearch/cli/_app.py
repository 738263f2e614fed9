"""The application that the commands are added to, and how it ends: with one clear message if something goes wrong."""

from __future__ import annotations

import io
import os
import sys
import warnings
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console
from typer.core import TyperGroup

from ..errors import HwsearchError, InvalidInput

console = Console()
complaints = Console(stderr=True)


_ORDER = (
    *("adopt", "profile", "train", "proxyless", "fit-predictor", "search", "extract", "compress", "export", "finish", "measure", "bench"),
    *("import", "show", "list", "devices", "zoo"),
)
"""The commands in the order in which they are used, which is the order of the help."""


class _Commands(TyperGroup):
    """Commands whose known errors end as one clear message and exit code 1, not as a traceback."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=_ORDER.index)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return list(super().parse_args(ctx, _imports_first(args)))

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except HwsearchError as error:
            complaints.print(f"{type(error).__name__}: {error}", style="bold red", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(1) from error
        except KeyboardInterrupt:
            complaints.print("Stopped. Run the same command again: it continues where it can (search: with --state).", style="yellow")
            raise typer.Exit(130) from None
        except OSError as error:
            if isinstance(error, BrokenPipeError) or error.filename is not None:
                raise
            complaints.print(f"Cannot write to standard output: {error.strerror or error}.", style="bold red", markup=False)
            os._exit(1)  # what is left in its buffer would fail again


def _imports_first(args: list[str]) -> list[str]:
    """Words of a command line with ``--import MODULE`` in front, wherever it was said, since it is an option of all commands."""
    first: list[str] = []
    rest = list(args)
    for word in [word for word in args if word == "--import" or word.startswith("--import=")]:
        place = rest.index(word)
        taken = 1 if "=" in word else 2
        first += rest[place : place + taken]
        del rest[place : place + taken]
    return first + rest


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    epilog="Example: hwsearch profile resnet_digits --out latency_tables/my-cpu.json",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        console.print(f"hwsearch {version('hwsearch')}", highlight=False)
        raise typer.Exit


def _import(modules: list[str]) -> None:
    """Import modules of the user's, from the folder in which the command is run or from where packages are installed.

    Raises:
        InvalidInput: one cannot be imported.
    """
    if modules and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    for name in modules:
        try:
            import_module(name.removesuffix(".py"))
        except HwsearchError:
            raise
        except Exception as error:
            raise InvalidInput(f"--import {name}: it cannot be imported: {type(error).__name__}: {error}.") from error


@app.callback()
def _options(
    modules: Annotated[
        list[str] | None,
        typer.Option("--import", metavar="MODULE", help="Import this first: it may register spaces, backends, algorithms and others."),
    ] = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)] = False,
) -> None:
    """Finds the fastest network that is still accurate enough for one given device."""
    _import(modules or [])


def _warn(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None, line: str | None = None
) -> None:
    """Show a warning of hwsearch as one message, without the line of code that gave it, and any other as Python does."""
    if category.__module__.startswith("hwsearch."):
        complaints.print(str(message), style="yellow", markup=False, highlight=False, soft_wrap=True)
    else:
        _SHOW(message, category, filename, lineno, file, line)


_SHOW = warnings.showwarning


def main() -> None:
    """Run the command line; the entry point of ``hwsearch``."""
    warnings.showwarning = _warn
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show the name of a device shows the rest
    app(prog_name="hwsearch")
