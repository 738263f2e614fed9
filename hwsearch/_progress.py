"""One progress bar with the time left, for all long work, in terminals and notebooks; what draws it is imported only when one is shown."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Advance = Callable[[float], None]
_PERIOD_S = 0.25
"""A notebook is told of progress this often."""


@contextmanager
def progress(description: str, total: float, enabled: bool = True) -> Iterator[Advance]:
    """Show how far a piece of long work is and how long it still takes, where somebody looks: on a terminal or in a notebook.

    Work that ends well before its last unit, since nothing is left to do, ends with a full bar.

    Args:
        description: what is being done, in a few words.
        total: how many units of work there are.
        enabled: ``False`` shows nothing.

    Yields:
        ``advance(n)``, to be called after ``n`` more units are done.
    """
    notebook = _notebook()
    if not enabled or not (notebook or sys.stderr.isatty()):
        yield lambda n: None
    elif notebook:
        line = _Line(description, total)
        yield line.advance
        line.end()
    else:
        with _bar(description, total) as advance:
            yield advance


@contextmanager
def _bar(description: str, total: float) -> Iterator[Advance]:
    """A bar on a terminal."""
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
        yield lambda n: bar.advance(task, n)
        bar.update(task, total=max(1.0, bar.tasks[task].completed), completed=max(1.0, bar.tasks[task].completed))


class _Line:
    """A line in a notebook that is written anew while the work goes on.

    Args:
        description, total: as of :func:`progress`.
    """

    def __init__(self, description: str, total: float) -> None:
        from IPython.display import display

        self.description, self.total, self.done = description, total, 0.0
        self.began = self.told = time.monotonic()
        self.handle: Any = display({"text/plain": self.text()}, raw=True, display_id=True)

    def text(self) -> str:
        """How far the work is, how long it has taken and how long it will take."""
        took = time.monotonic() - self.began
        left = "" if not 0 < self.done < self.total else f", {_clock(took / self.done * (self.total - self.done))} left"
        return f"{self.description}: {self.done:g} of {self.total:g}, {_clock(took)}{left}"

    def advance(self, n: float) -> None:
        """Note that more is done, and tell it if the last time was a while ago."""
        self.done += n
        if time.monotonic() - self.told >= _PERIOD_S:
            self.told = time.monotonic()
            self.handle.update({"text/plain": self.text()}, raw=True)

    def end(self) -> None:
        """Tell that all is done."""
        self.total = self.done
        self.handle.update({"text/plain": self.text()}, raw=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None
