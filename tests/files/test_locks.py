"""One writer an output: the loser is told why, the dead hold nobody up, and nothing of a living writer is removed."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import hwsearch
from hwsearch._files import _lock
from hwsearch._files._lock import claim, remove_leftovers, temporary
from hwsearch._files._writing import write_atomic
from hwsearch.errors import FileError, InUse
from hwsearch.profiling import Effort

HOLDER = """
import sys, time
from hwsearch._files._lock import claim
with claim(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""
LEFT = "0123abcd.tmp"


@pytest.fixture
def holder(tmp_path: Path):
    """A process that holds ``out``."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "out")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def refusal(path: Path) -> str:
    with pytest.raises(InUse) as caught, claim(path):
        pass
    return str(caught.value)


def test_an_output_in_use_is_refused_and_the_loser_told_by_whom(tmp_path: Path, holder: subprocess.Popen) -> None:
    said = refusal(tmp_path / "out")
    assert f"process {holder.pid} on {socket.gethostname()}" in said
    assert said.endswith("Wait until it has ended, or name another file.")
    (tmp_path / "link").symlink_to(tmp_path / "out")
    assert str(holder.pid) in refusal(tmp_path / "link")
    holder.communicate("")
    with claim(tmp_path / "out"):
        pass
    assert not (tmp_path / "out.lock").exists()


def test_a_loser_that_comes_before_the_winner_has_said_who_it_is_is_told_too(tmp_path: Path) -> None:
    lock = tmp_path / "out.lock"
    lock.write_text(json.dumps({"host": socket.gethostname(), "pid": dead_pid(), "since": "of a killed process"}))
    with open(lock, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)

        def say() -> None:
            file.truncate(0)
            file.write(json.dumps({"host": socket.gethostname(), "pid": os.getppid(), "since": "now"}).encode())
            file.flush()

        later = threading.Timer(0.2, say)
        later.start()
        assert f"is being written by process {os.getppid()} on " in refusal(tmp_path / "out")
        later.join()


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_killed_holder_holds_nobody_up(tmp_path: Path, holder: subprocess.Popen) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "out.lock").exists()
    with claim(tmp_path / "out"):
        assert json.loads((tmp_path / "out.lock").read_bytes())["pid"] == os.getpid()
    assert not (tmp_path / "out.lock").exists()


def test_who_waits_goes_on_when_the_other_has_ended(tmp_path: Path, holder: subprocess.Popen) -> None:
    told = []

    def waiting(why: str) -> None:
        told.append(why)
        holder.communicate("")

    with claim(tmp_path / "out", waiting=waiting):
        assert len(told) == 1
        assert (tmp_path / "out.lock").exists()
    assert str(holder.pid) in told[0]


def test_threads_exclude_each_other_and_a_thread_may_claim_twice(tmp_path: Path) -> None:
    said = []
    with claim(tmp_path / "out"), claim(tmp_path / "out"):
        other = threading.Thread(target=lambda: said.append(refusal(tmp_path / "out")))
        other.start()
        other.join()
    assert str(os.getpid()) in said[0]


def test_a_forked_child_that_outlives_its_parent_holds_nothing(tmp_path: Path) -> None:
    script = """
import os, sys, time
from hwsearch._files._lock import claim
with claim(sys.argv[1]):
    if not os.fork():
        print("held", flush=True)
        sys.stdin.read()
        os._exit(0)
    time.sleep(60)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "out")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    process.kill()
    process.wait()
    with claim(tmp_path / "out"):
        pass
    process.stdin.close()
    process.stdout.close()


def test_without_kernel_locks_the_lock_file_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(_lock, "flock", no_locks)
    lock, dead = tmp_path / "out.lock", subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for host, pid, taken in (("elsewhere", 1, True), (socket.gethostname(), os.getppid(), True), (socket.gethostname(), dead.pid, False)):
        lock.write_text(json.dumps({"host": host, "pid": pid, "since": "today"}))
        if taken:
            assert ("delete " in refusal(tmp_path / "out")) == (host == "elsewhere")
        else:
            with claim(tmp_path / "out"):
                pass
    assert not lock.exists()


@pytest.mark.parametrize("name", ["n.json", "a[1].json", "*.json"])
def test_only_temporary_files_of_dead_writers_of_this_very_file_are_swept(tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    left, others = tmp_path / f".{name}.{LEFT}", [tmp_path / f".{name}.other.json.{LEFT}", tmp_path / f".x{name}.{LEFT}"]
    for path in (left, *others):
        path.write_bytes(b"half")
    living, file = temporary(target)
    with file:
        remove_leftovers(target)
        assert living.exists()
        assert not left.exists()
        assert all(path.exists() for path in others)
    remove_leftovers(target)
    assert not living.exists()


def test_removing_leftovers_never_breaks_a_writer(tmp_path: Path) -> None:
    target, stop = tmp_path / "n.json", threading.Event()

    def removing() -> None:
        while not stop.is_set():
            remove_leftovers(target)

    remover = threading.Thread(target=removing)
    remover.start()
    try:
        for number in range(100):
            write_atomic(target, f"{number}".encode(), sync=False)
            assert target.read_bytes() == f"{number}".encode()
    finally:
        stop.set()
        remover.join()


def in_another_thread(call) -> list[BaseException | None]:
    """What became of a call in another thread."""
    ended: list[BaseException | None] = []

    def go() -> None:
        try:
            call()
            ended.append(None)
        except FileError as error:
            ended.append(error)

    thread = threading.Thread(target=go)
    thread.start()
    thread.join()
    return ended


def test_two_searches_with_one_state(digits: hwsearch.SearchSpace, tmp_path: Path) -> None:
    def score(X: np.ndarray) -> np.ndarray:
        return X.sum(axis=1).astype(float)

    told: list[BaseException | None] = []

    def first(X: np.ndarray) -> np.ndarray:
        if not told and (tmp_path / "state.npz").exists():
            told.extend(in_another_thread(lambda: search(score)))
        return score(X)

    def search(by) -> hwsearch.SearchResult:
        return hwsearch.search(digits, predictor=by, algorithm="evolution", run=hwsearch.Run(steps=3, state=tmp_path / "state.npz"))

    found = search(first)
    assert isinstance(told[0], InUse)
    assert found.best == hwsearch.search(digits, predictor=score, algorithm="evolution", run=hwsearch.Run(steps=3)).best
    assert [path.name for path in tmp_path.iterdir()] == ["state.npz"]


def test_two_profiles_into_one_table(toy: hwsearch.SearchSpace, tmp_path: Path) -> None:
    from hwsearch.backends import Roofline

    told: list[BaseException | None] = []

    class Slow(Roofline):
        def _open(self, network):
            if not told:
                told.append(None)
                told[0] = in_another_thread(lambda: profile(Roofline()))[0]
            return super()._open(network)

    def profile(backend) -> hwsearch.LatencyTable:
        return hwsearch.profile(toy, backend=backend, out=tmp_path / "t.json", effort=Effort(max_rounds=4), progress=False)

    table = profile(Slow())
    assert isinstance(told[0], InUse)
    assert table.missing(toy.unique_blocks) == ()
    assert [path.name for path in tmp_path.iterdir()] == ["t.json"]


# -- what a written file looks like ------------------------------------------------------------------------------------


def test_a_new_file_has_the_mode_of_the_umask_and_a_replaced_one_keeps_its_own(tmp_path: Path) -> None:
    target = tmp_path / "file"
    before = os.umask(0o027)
    try:
        write_atomic(target, b"1")
        assert stat.S_IMODE(target.stat().st_mode) == 0o640
        target.chmod(0o664)
        write_atomic(target, b"2")
    finally:
        os.umask(before)
    assert (stat.S_IMODE(target.stat().st_mode), target.read_bytes()) == (0o664, b"2")


def test_a_symlink_as_target_stays_one(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "link"
    link.symlink_to(Path("there") / "file")
    for content in (b"dangling at first", b"replaced"):
        write_atomic(link, content)
        assert link.is_symlink()
        assert (tmp_path / "there" / "file").read_bytes() == content


def test_names_that_no_file_has_are_refused(tmp_path: Path) -> None:
    for name in (tmp_path / "a\0b", tmp_path / ("n" * 300), tmp_path / "a\ud800"):
        for use in (lambda path: write_atomic(path, b""), lambda path: claim(path).__enter__(), hwsearch.load_table):
            with pytest.raises(FileError):
                use(name)
        with pytest.raises(FileError):
            hwsearch.profile("resnet_digits", backend="roofline", out=name, progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_device_is_written_straight_and_never_replaced() -> None:
    with pytest.raises(FileError, match="No space left"):
        write_atomic("/dev/full", b"1")
    write_atomic("/dev/null", b"1")
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with pytest.raises(FileError, match="not a regular file"):
        hwsearch.profile("resnet_digits", backend="roofline", out="/dev/full", progress=False)
    assert not list(Path("/dev").glob("full.*"))


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_read_only_file_is_not_replaced(tmp_path: Path) -> None:
    write_atomic(tmp_path / "file", b"1")
    (tmp_path / "file").chmod(0o444)
    with pytest.raises(FileError, match="read-only"):
        write_atomic(tmp_path / "file", b"2")
