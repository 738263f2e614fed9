"""Commands about files and about what is here: import, show, list, devices, zoo."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer

from ..reports import _terminal
from ..reports._formats import describe
from ._app import app, complaints, console


@app.command("import", epilog="Example: hwsearch import ofa-latency note10 --out latency_tables/note10.json")
def import_(
    kind: Annotated[str, typer.Argument(help="apq-table, ofa-architecture, ofa-latency, ofa-predictor or tfnas-table.")],
    file: Annotated[Path, typer.Argument(help="The foreign file, or the folder of files.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")],
    space: Annotated[str, typer.Option(help="The search space of a predictor or an architecture.")] = "ofa_mobilenetv3",
    resolution: Annotated[int | None, typer.Option(help="Input resolution of an architecture, px.", show_default=False)] = None,
) -> None:
    """Turn what other projects have measured, trained or found into files of hwsearch, and say what is wrong with it."""
    from .. import interop

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", interop.ForeignDataWarning)
        interop.convert(kind, file, out, space=space, resolution=resolution)
    for warning in caught:
        complaints.print(str(warning.message), style="yellow", markup=False, highlight=False, soft_wrap=True)
    console.print(describe(out))


@app.command(epilog="Example: hwsearch show latency_tables/my-cpu.json")
def show(
    file: Annotated[Path, typer.Argument(help="A latency table, architecture, search result, predictor, supernet or ONNX model.")],
    space: Annotated[str | None, typer.Option(help="The folder of hwsearch adopt that it belongs to.", show_default=False)] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Of a latency table: draw its best measured staircase into this file.", show_default=False)
    ] = None,
) -> None:
    """Describe any file of hwsearch, or an ONNX model."""
    from ..spaces._load import load_space

    console.print(describe(file, None if space is None else load_space(space)))
    if plot is not None:
        from ..devices._table import load_table
        from ..reports._table_figures import staircase_figure

        staircase_figure(load_table(file)).savefig(plot)
        console.print(f"{plot}: {plot.stat().st_size:,} bytes", highlight=False)


@app.command("list", epilog="Example: hwsearch list spaces")
def list_(
    kind: Annotated[str | None, typer.Argument(help="spaces, backends, algorithms, costs, importances or recipes; all if omitted.")] = None,
) -> None:
    """List what can be named in commands, and where each comes from: hwsearch, an installed package, or a module of --import."""
    console.print(_terminal.plug_ins(kind))


@app.command(epilog="Example: hwsearch devices --tables latency_tables")
def devices(
    backends: Annotated[list[str] | None, typer.Argument(help="Describe the device of these backends.", show_default=False)] = None,
    tables: Annotated[Path, typer.Option(help="The folder of latency tables.")] = Path("latency_tables"),
) -> None:
    """List the backends that are installed here, and the devices that were profiled."""
    console.print(_terminal.backends(backends or []), _terminal.tables(tables))


@app.command(epilog="Example: hwsearch zoo")
def zoo() -> None:
    """List the examples that come with hwsearch: searched in seconds, without training or measuring (hwsearch.load_example)."""
    console.print(_terminal.zoo())
