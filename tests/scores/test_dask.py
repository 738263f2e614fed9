"""A search whose scores are worked out by a Dask cluster: a scheduler and two workers, each a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import hwsearch
from hwsearch.algorithms import RandomSearch
from hwsearch.testing import example_space

distributed = pytest.importorskip("distributed", reason="Dask is not installed: pip install distributed")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """The address of a scheduler with two workers on the loopback interface."""
    file = tmp_path / "scheduler.json"
    here = Path(__file__).resolve()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (here.parents[2], here.parents[1], here.parent)))}
    scheduler = [*("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"), "--scheduler-file", str(file)]
    worker = [*("worker", "--host", "127.0.0.1", "--nthreads", "1", "--no-dashboard"), "--scheduler-file", str(file)]
    worker += ["--local-directory", str(tmp_path)]
    with (tmp_path / "log").open("w") as log:
        running = [
            subprocess.Popen([sys.executable, "-m", "dask", *command], env=environment, stdout=log, stderr=log, start_new_session=True)
            for command in (scheduler, worker, worker)
        ]
        try:
            yield str(file)
        finally:
            for process in reversed(running):
                os.killpg(process.pid, signal.SIGKILL)  # a worker is a process below the one that was started
                process.wait()


class Mortal:
    """A costly score whose worker dies, the first time that it comes to a certain row."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __call__(self, X: np.ndarray) -> np.ndarray:
        if (X[:, 0] == 2).any() and not self.flag.exists():
            self.flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return X.astype(float) @ np.arange(X.shape[1])


def test_a_dask_cluster_scores_a_search_and_outlives_a_worker(cluster: str, tmp_path: Path) -> None:
    space, algorithm = example_space(), RandomSearch(population=20, steps=2)
    alive, flag = tmp_path / "alive", tmp_path / "died"
    alive.touch()
    plain = hwsearch.search(space, predictor=Mortal(alive), algorithm=algorithm, run=hwsearch.Run(polish=False))
    with distributed.Client(scheduler_file=cluster, timeout=60) as client:
        client.wait_for_workers(2, timeout=60)
        assert len({details["pid"] for details in client.run(lambda: {"pid": os.getpid()}).values()}) == 2
        result = hwsearch.search(
            space, predictor=Mortal(flag), algorithm=algorithm, run=hwsearch.Run(polish=False, executor=client.get_executor())
        )
    assert flag.exists()
    assert result.best == plain.best
    assert result.history == plain.history
