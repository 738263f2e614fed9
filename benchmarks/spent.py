"""CPU-seconds of work that is done in several starts, kept in a file, so that a process that was killed loses a few of them only."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

from hwsearch._files._writing import write_atomic

EVERY = 10.0
"""Seconds from one writing to the next."""


@contextmanager
def counted(file: Path) -> Iterator[Callable[[], float]]:
    """Count what this process spends in a block on top of what the file says; gives a function that tells the sum so far."""
    before, start, done = (json.loads(file.read_text()) if file.exists() else 0.0), time.process_time(), Event()

    def spent() -> float:
        return float(before + time.process_time() - start)

    def keep() -> None:
        while not done.wait(EVERY):
            write_atomic(file, json.dumps(spent()).encode())

    file.parent.mkdir(parents=True, exist_ok=True)
    keeper = Thread(target=keep, daemon=True)
    keeper.start()
    try:
        yield spent
    finally:
        done.set()
        keeper.join()
        write_atomic(file, json.dumps(spent()).encode())
