"""One progress bar with the time left, for all long work; rich is imported only when a bar is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[float], None]


@contextmanager
def progress(description: str, total: float, enabled: bool = True) -> Iterator[Advance]:
    """Show how far a piece of long work is and how long it still takes.

    Args:
        description: what is being done, in a few words.
        total: how many units of work there are.
        enabled: ``False`` shows nothing.

    Yields:
        ``advance(n)``, to be called after ``n`` more units are done.
    """
    if not enabled:
        yield lambda n: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=total)

        def advance(n: float) -> None:
            bar.advance(task, n)

        yield advance
