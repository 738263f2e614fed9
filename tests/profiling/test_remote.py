"""Boards that are not this machine: a folder of jobs carried by hand, and an ssh server on loopback whose connections are cut."""

import asyncio
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hwsearch import _registry
from hwsearch.backends import Roofline, load_backend
from hwsearch.cli import app
from hwsearch.errors import BoardFailed, ConnectionLost, CorruptFile, FileError, Unsupported, WrongDevice, WrongSpace
from hwsearch.profiling import Board, Effort, Remote, collect, emit, profile
from hwsearch.profiling.remote import _ssh as remote
from hwsearch.spaces import Chain, Stage

onnxruntime = pytest.importorskip("onnxruntime")
import numpy  # noqa: E402

SMALL = Chain("small", (8,), (8,), (Stage((1,), (8, 12), (4, 8)),), 10, channels=1).space()
OTHER = Chain("other", (8,), (8,), (Stage((1,), (8, 16), (4, 8)),), 10, channels=1).space()
EFFORT = Effort(max_rounds=4, fits=4, checks=12)
OPTIONS = {"effort": EFFORT, "progress": False}


@pytest.fixture(scope="module")
def board_python(tmp_path_factory):
    """A Python that has numpy and ONNX Runtime and nothing else, as on a board."""
    site = tmp_path_factory.mktemp("board") / "site"
    site.mkdir()
    for package in (numpy, onnxruntime):
        folder = Path(package.__file__).parent
        for part in folder.parent.glob(f"{folder.name}*"):
            (site / part.name).symlink_to(part)
    script = site.parent / "python"
    script.write_text(f'#!/bin/sh\nunset COV_CORE_SOURCE\nPYTHONPATH={site} exec {shlex.quote(sys.executable)} -S "$@"\n')
    script.chmod(0o755)
    return str(script)


def test_the_boards_python_is_bare(board_python):
    for package in ("msgspec", "onnx", "scipy", "rich", "typer", "hwsearch"):
        done = subprocess.run([board_python, "-c", f"import {package}"], capture_output=True, text=True, check=False, cwd="/")
        assert "ModuleNotFoundError" in done.stderr
    subprocess.run([board_python, "-c", "import numpy, onnxruntime"], check=True)


# -- by hand -----------------------------------------------------------------------------------------------------------


def test_jobs_carried_by_hand_make_the_table(tmp_path, board_python):
    jobs = emit(SMALL, tmp_path / "jobs", **OPTIONS)
    models = list((jobs / "models").iterdir())
    assert len(models) > 20
    assert sum(model.stat().st_size for model in models) < 6000 * len(models), "models travel packed"
    board = shutil.copytree(jobs, tmp_path / "stick" / "jobs")
    with pytest.raises(FileError, match="no journal"):
        collect(SMALL, jobs, out=tmp_path / "t.json")

    stopped = subprocess.Popen([board_python, board / "run.pyz"], stdout=subprocess.PIPE, text=True)
    assert stopped.stdout.readline().endswith("round 1\n")
    stopped.kill()
    stopped.communicate()
    with pytest.raises(FileError, match="has not finished"):
        collect(SMALL, board / "results", out=tmp_path / "t.json")
    assert not list(tmp_path.glob("t.json*"))

    done = subprocess.run([board_python, board / "run.pyz"], capture_output=True, text=True, check=True)
    assert "round 1\n" not in done.stdout, "the first round was measured before"
    assert "round 4\n" in done.stdout
    again = subprocess.run([board_python, board / "run.pyz"], capture_output=True, text=True, check=True)
    assert "round" not in again.stdout.replace("rounds", "")
    table = collect(SMALL, board / "results", out=tmp_path / "t.json")
    assert table.missing(SMALL.unique_blocks) == ()
    assert table.error()["networks"] == 12
    assert {row.rounds for row in table.rows.values()} == {4}
    here = load_backend("onnxruntime").describe()
    assert table.device.same_as(here), "this machine was the board"
    assert table.energy == load_backend("onnxruntime").energy
    assert sorted(path.name for path in tmp_path.glob("t.json*")) == ["t.json"]
    # The table is one of this machine: profiling here has nothing left to do.
    assert profile(SMALL, out=tmp_path / "t.json", effort=EFFORT).rows == table.rows
    assert emit(SMALL, tmp_path / "more", table=table, **OPTIONS) is None
    with pytest.raises(WrongDevice, match="another protocol"):
        emit(SMALL, tmp_path / "more", table=table, effort=replace(EFFORT, max_rounds=5))
    with pytest.raises(WrongSpace, match="of 'small' as it was"):
        collect(OTHER, board / "results", out=tmp_path / "o.json")


def test_a_folder_of_jobs_is_whole_or_completed_and_never_of_two_runs(tmp_path, monkeypatch):
    first = emit(SMALL, tmp_path / "jobs", **OPTIONS)
    plan = (first / "plan.json").read_bytes()
    files = {path.name: path.stat().st_mtime_ns for path in (first / "models").iterdir()}
    (first / "plan.json").unlink()
    lost = next(iter(files))
    (first / "models" / lost).unlink()
    emit(SMALL, first, **OPTIONS)
    assert (first / "plan.json").read_bytes() == plan
    after = {path.name: path.stat().st_mtime_ns for path in (first / "models").iterdir()}
    assert after.keys() == files.keys()
    assert [name for name in files if after[name] != files[name]] == [lost], "what was there was not written again"
    with pytest.raises(FileError, match="holds other jobs"):
        emit(SMALL, first, effort=replace(EFFORT, fits=5))
    with pytest.raises(Unsupported, match="no model files"):
        emit(SMALL, tmp_path / "roofline", backend=Roofline(), **OPTIONS)


def test_what_goes_wrong_on_a_board_is_said_there(tmp_path, board_python):
    blocks = [block for block in SMALL.unique_blocks if block.kind == "basic"][:2]
    jobs = emit(SMALL, tmp_path / "jobs", effort=replace(EFFORT, blocks=blocks), progress=False)
    plan = json.loads((jobs / "plan.json").read_text())
    damaged = jobs / "models" / next(iter(plan["things"].values()))
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1])
    done = subprocess.run([board_python, jobs / "run.pyz"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("CorruptFile: ")
    assert "was damaged on its way. Copy it again." in done.stderr
    damaged.write_bytes(whole)
    subprocess.run([board_python, jobs / "run.pyz"], capture_output=True, check=True)
    table = collect(SMALL, jobs, out=tmp_path / "t.json")
    assert set(table.rows) == {block.key for block in blocks}
    journal = jobs / "results" / "journal.jsonl"
    journal.write_text("{}\n")
    with pytest.raises(CorruptFile):
        collect(SMALL, jobs, out=tmp_path / "u.json")


def test_a_journal_that_was_written_by_hand_will_do(tmp_path):
    """For boards without Python: the documented lines, whoever writes them."""
    jobs = emit(SMALL, tmp_path / "jobs", **OPTIONS)
    plan = json.loads((jobs / "plan.json").read_text())
    names = sorted(plan["things"])
    device = {"name": "mine", "kind": "cpu", "hardware": "X", "runtime": "own", "runtime_version": "1", "threads": 1, "batch": 1}
    lines = [plan["run"] | {"device": device, "energy": "unavailable"}]
    for number in range(1, 5):
        lines.append({"round": number, "times": {name: [1.0 + index / len(names), 0.1] for index, name in enumerate(names)}})
    (jobs / "results").mkdir()
    (jobs / "results" / "journal.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    table = collect(SMALL, jobs, out=tmp_path / "t.json")
    assert (table.device.name, table.device.runtime) == ("mine", "own")
    assert table.missing(SMALL.unique_blocks) == ()


def test_the_command_line_writes_jobs_and_collects_them(tmp_path, board_python, monkeypatch):
    monkeypatch.setitem(_registry._TARGETS["space"], "small", lambda: SMALL)

    def call(*words, code=0):
        result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200", "TERM": "dumb"})
        assert result.exit_code == code, result.output
        return " ".join(result.output.split())

    jobs, few = tmp_path / "jobs", ("--max-rounds", "2", "--checks", "12", "-q")
    said = call("profile", "small", "--emit", jobs, "--set", "threads=2", "--batch", "3", *few)
    assert "there: python jobs/run.pyz" in said
    assert json.loads((jobs / "plan.json").read_text())["run"]["options"] == {"threads": 2, "batch": 3}
    subprocess.run([board_python, jobs / "run.pyz"], capture_output=True, check=True)
    said = call("profile", "small", "--collect", jobs / "results", "--out", tmp_path / "t.json")
    assert "threads 2 batch 3" in said
    for wrong, words in (
        (("--emit", jobs, "--collect", jobs), "Give one of --remote, --emit and --collect"),
        (("--collect", jobs), "Say where the table goes"),
        (("--emit", jobs, "--set", "threads"), "expected NAME=VALUE"),
        (("--emit", jobs, "--set", "wings=2"), "Unknown option of backend 'onnxruntime' 'wings'"),
        (("--emit", jobs, "--budget", "1m"), "need a board that --remote reaches"),
    ):
        assert words in call("profile", "small", *wrong, *few, code=1)


# -- over ssh ----------------------------------------------------------------------------------------------------------


class Server:
    """An ssh server on loopback whose users have ``home`` as their home, and whose cable can be cut.

    Attributes:
        cuts: [word of the commands, ``"in"`` or ``"out"``, bytes until the connection is gone], used up one by one.
        commands: what was run.
        received: bytes that came in, over all commands.
        serving: commands that have not ended.
    """

    def __init__(self, home: Path) -> None:
        self.home, self.cuts, self.commands, self.received, self.serving = home, [], [], 0, 0
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.listener = self.wait(self._listen())
        self.port = self.listener.sockets[0].getsockname()[1]

    def wait(self, task):
        return asyncio.run_coroutine_threadsafe(task, self.loop).result(30)

    async def _listen(self):
        import asyncssh

        class Anyone(asyncssh.SSHServer):
            def begin_auth(self, username):
                return False

        key = asyncssh.generate_private_key("ssh-ed25519")
        return await asyncssh.create_server(
            Anyone, "127.0.0.1", 0, server_host_keys=[key], process_factory=self._serve, encoding=None, gss_host=None
        )

    async def _serve(self, process) -> None:
        import asyncssh

        self.commands.append(process.command)
        self.serving += 1
        cut = next((cut for cut in self.cuts if cut[0] in shlex.split(process.command)), None)
        child = await asyncio.create_subprocess_shell(process.command, *[asyncio.subprocess.PIPE] * 3, cwd=self.home)

        async def pump(source, target, way):
            while data := await source.read(4096):
                if cut and cut[1] == way:
                    data = data[: cut[2]]
                    cut[2] -= len(data)
                self.received += len(data) if way == "in" else 0
                target.write(data)
                await target.drain()
                if cut and cut[1] == way and not cut[2]:
                    self.cuts.remove(cut)
                    process.get_extra_info("connection").abort()
                    break
            if way == "in":
                target.close()

        incoming = asyncio.ensure_future(pump(process.stdin, child.stdin, "in"))
        try:
            await asyncio.gather(pump(child.stdout, process.stdout, "out"), pump(child.stderr, process.stderr, "err"))
            process.exit(await child.wait())
        except (OSError, asyncssh.Error):
            pass
        finally:
            incoming.cancel()
            for pipe in (child._transport.get_pipe_transport(number) for number in range(3)):
                pipe.close()
            await child.wait()
            self.serving -= 1

    def rest(self) -> None:
        """Wait until what was begun has ended: a command outlives its connection by a moment."""
        for _ in range(3_000):
            if not self.serving:
                return
            time.sleep(0.01)
        raise TimeoutError("a command goes on without its connection")

    def close(self) -> None:
        self.listener.close()
        self.wait(self._finish())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    async def _finish(self):
        await self.listener.wait_closed()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*rest, return_exceptions=True)


@pytest.fixture
def server(tmp_path, monkeypatch):
    pytest.importorskip("asyncssh", reason="asyncssh, the server of this test, is not installed")
    if shutil.which("ssh") is None:
        pytest.skip("there is no ssh program on this machine")
    (tmp_path / "home").mkdir()
    server = Server(tmp_path / "home")
    quiet = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o BatchMode=yes"
    monkeypatch.setenv(remote.SSH, f"ssh -F /dev/null {quiet}")
    yield server
    server.close()


def test_a_board_over_ssh_whose_connection_is_cut_twice(tmp_path, server, board_python):
    out = tmp_path / "t.json"

    def go():
        board = Remote(Board(f"ssh://user@127.0.0.1:{server.port}", python=board_python))
        return profile(SMALL, backend=board, out=out, **OPTIONS)

    # While the files are sent.
    jobs = emit(SMALL, tmp_path / "jobs", **OPTIONS)
    models = sum(path.stat().st_size for path in (jobs / "models").iterdir())
    server.cuts = [["take", "in", (jobs / "run.pyz").stat().st_size + models // 2], ["give", "out", 2_000]]
    with pytest.raises(ConnectionLost, match=r"user@127\.0\.0\.1:\d+: .*Run the same command again: it continues where it was\."):
        go()
    server.rest()
    assert not out.exists()
    (folder,) = (path.parent for path in (server.home / ".hwsearch").glob("*/models"))
    arrived = {path.name for path in (folder / "models").iterdir() if path.suffix == ".gz"}
    everything = {path.name for path in (tmp_path / "t.json.partial.jsonl.jobs" / "models").iterdir()}
    assert 0 < len(arrived) < len(everything)
    assert not (folder / "plan.json").exists()

    # While it measures.
    server.cuts.append([f".hwsearch/{folder.name}/run.pyz", "out", 1])
    server.received = 0
    with pytest.raises(ConnectionLost):
        go()
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "t.json.partial.jsonl.jobs" / "models").iterdir()}
    archive = (tmp_path / "t.json.partial.jsonl.jobs" / "run.pyz").stat().st_size
    assert server.received < sum(size for name, size in sizes.items() if name not in arrived) + archive + 20_000, "sent again"
    begun = (folder / "results" / "journal.jsonl").read_text().splitlines()
    assert 2 <= len(begun) < 6

    # While the results are fetched.
    server.received = 0
    with pytest.raises(ConnectionLost):
        go()
    assert server.received == 0, "everything was there"
    measured = (folder / "results" / "journal.jsonl").read_text().splitlines()
    assert measured[: len(begun)] == begun
    numbers = [json.loads(line)["round"] for line in measured[1:]]
    assert numbers == list(range(1, len(numbers) + 1))
    counts = Counter(name for line in measured[1:] for name in json.loads(line)["times"])
    assert set(counts.values()) <= {4, 5, 6, 7, 8}, "noisy whole networks are measured again, up to twice as often"
    fetched = (tmp_path / "t.json.partial.jsonl").stat().st_size
    assert 0 < fetched < (folder / "results" / "journal.jsonl").stat().st_size

    table = go()
    assert table.missing(SMALL.unique_blocks) == ()
    assert {row.rounds for row in table.rows.values()} == {4}
    assert table.error()["networks"] == 12
    assert str(fetched) in shlex.split(server.commands[-2]), "the rest was fetched, from the last byte on"
    assert not folder.exists()
    assert sorted(path.name for path in tmp_path.glob("t.json*")) == ["t.json"]
    commands = len(server.commands)
    assert go().rows == table.rows
    assert len(server.commands) == commands + 2, "of a finished table the board is asked only whether it is the one"


def test_a_sample_is_measured_on_a_board(tmp_path, server, board_python):
    host = f"ssh://user@127.0.0.1:{server.port}"
    effort = Effort(budget=600, error=0.9, checks=12, fits=4)
    table = profile(SMALL, backend=Remote(Board(host, python=board_python)), out=tmp_path / "t.json", effort=effort, progress=False)
    assert table.error()["networks"] == 12
    assert 0 < table.spent_s < 600
    assert sum("run.pyz" in command and "describe" not in command for command in server.commands) >= 2, "batch after batch"
    assert sorted(path.name for path in tmp_path.glob("t.json*")) == ["t.json"]


def test_a_board_that_lacks_something_says_so(tmp_path, server, board_python, monkeypatch):
    host = f"ssh://user@127.0.0.1:{server.port}"
    with pytest.raises(BoardFailed, match="no-such-python"):
        Remote(Board(host, python="no-such-python"))
    poor = tmp_path / "poor"
    poor.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -S "$@"\n')
    poor.chmod(0o755)
    with pytest.raises(BoardFailed, match="numpy"):
        Remote(Board(host, python=str(poor)))
    monkeypatch.setenv(remote.SSH, "no-such-ssh")
    with pytest.raises(BoardFailed, match="HWSEARCH_SSH"):
        Remote(host)


def test_a_board_that_cannot_be_reached(tmp_path, monkeypatch):
    if shutil.which("ssh") is None:
        pytest.skip("there is no ssh program on this machine")
    monkeypatch.setenv(remote.SSH, "ssh -F /dev/null -o BatchMode=yes -p 1")
    with pytest.raises(ConnectionLost, match="refused"):
        Remote("127.0.0.1")
    assert os.listdir(tmp_path) == []
