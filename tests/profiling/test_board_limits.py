"""Boards that misbehave: endless, silent or garbled output is bounded, given up and refused, and no name of a board is an option of ssh."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hwsearch.backends import Roofline
from hwsearch.cli import app
from hwsearch.errors import BoardFailed, ConnectionLost, InvalidInput
from hwsearch.profiling import Board, Remote
from hwsearch.profiling.remote import _ssh as remote


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes boards that run a script whatever they are asked; its words stand in ``words``, and what it was asked in ``asked``."""
    (tmp_path / "asked").write_text("")

    def make(script: str, timeout_s: float | None = 60.0) -> Board:
        path = tmp_path / "ssh"
        path.write_text(f"#!{sys.executable}\nimport sys, time\nout, err = sys.stdout.buffer, sys.stderr.buffer\n")
        with path.open("a") as file:
            file.write(f"with open({str(tmp_path / 'asked')!r}, 'a') as asked: print(sys.argv[1:3], file=asked)\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv(remote.SSH, str(path))
        return Board("user@board", timeout_s=timeout_s)

    return make


ENDLESS = "while True: {}.write(b'models/no-such-model.onnx.gz\\n' * 1000)"


@pytest.mark.parametrize("pipe", ["out", "err"])
@pytest.mark.parametrize("ask", ["files", "run", "drop", "send"])
def test_output_without_end_is_cut_short(board, pipe: str, ask: str, tmp_path: Path) -> None:
    broken = board(ENDLESS.format(pipe))
    (tmp_path / "x").write_bytes(b"x")
    ways = {
        "files": lambda: broken.files("f"),
        "run": lambda: broken.run("p", lambda line: None),
        "drop": lambda: broken.drop("f"),
        "send": lambda: broken.send(tmp_path, ["x"], "f", lambda n: None),
    }
    with pytest.raises(BoardFailed, match="prints without end"):
        ways[ask]()


def test_an_endless_file_is_cut_short(board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_MOST_OF_A_FILE", 1 << 20)
    with pytest.raises(BoardFailed, match="prints without end"):
        board("out.write(b'0\\n')\n" + ENDLESS.format("out")).fetch("f", "journal.jsonl", tmp_path / "j")
    assert (tmp_path / "j").stat().st_size <= 1 << 20


@pytest.mark.parametrize("first", ["", "out.write(b'a line\\n'); out.flush()", "out.write(b'half a line'); out.flush()"])
def test_a_silent_board_is_given_up(board, first: str) -> None:
    began = time.monotonic()
    with pytest.raises(ConnectionLost, match="said nothing for 0.5 s; give it more time"):
        board(f"{first}\ntime.sleep(600)", timeout_s=0.5).run("p", lambda line: None)
    assert time.monotonic() - began < 60


def test_a_board_that_speaks_now_and_then_is_heard_to_its_end(board) -> None:
    heard: list[str] = []
    board("for n in range(8):\n    time.sleep(0.25); print(n, flush=True)", timeout_s=1.5).run("p", heard.append)
    assert heard == list("01234567")


def test_control_characters_are_not_shown(board) -> None:
    with pytest.raises(BoardFailed) as caught:
        board("err.write('\\x1b]0;owned\\x07\\x1b[31mred\\nsecond line'.encode()); sys.exit(3)").drop("f")
    assert "red\nsecond line" in str(caught.value)
    assert not {"\x1b", "\x07"} & set(str(caught.value))


def test_only_the_end_of_a_long_complaint_is_shown(board) -> None:
    with pytest.raises(BoardFailed) as caught:
        board("err.write(b'x' * 1000000 + b' the reason'); sys.exit(3)").drop("f")
    assert str(caught.value).endswith(" the reason")
    assert len(str(caught.value)) < 3000


@pytest.mark.parametrize("host", ["-oProxyCommand=touch x", "-oProxyCommand=touch", "user@-oX", "", "a b", "a\nb", "a\x1b"])
def test_a_host_that_is_an_option_is_refused(host: str, tmp_path: Path, board) -> None:
    board("")
    with pytest.raises(InvalidInput, match="no name of a machine"):
        Board(host)
    result = CliRunner().invoke(app, ["profile", "resnet_digits", f"--remote={host}", "--out", str(tmp_path / "t.json")])
    assert (tmp_path / "asked").read_text() == ""
    assert result.exit_code == 1 or host == ""


def test_ssh_is_told_where_its_options_end(board, tmp_path: Path) -> None:
    board("").drop("f")
    assert (tmp_path / "asked").read_text() == "['--', 'user@board']\n"


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan")])
def test_a_timeout_is_above_zero(timeout: float) -> None:
    with pytest.raises(InvalidInput, match="timeout_s"):
        Board("board", timeout_s=timeout)


@pytest.mark.parametrize("start", ["abc", "-5", "999999", "1.5", "0 0", "\\xff", ""])
def test_a_file_from_a_place_that_was_not_asked_for_is_refused(board, start: str, tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(b"known")
    with pytest.raises(BoardFailed, match="on; 0 or 5 was expected"):
        board(f"out.write(b'{start}\\nmore')").fetch("f", "journal.jsonl", tmp_path / "j")
    assert (tmp_path / "j").read_bytes() == b"known"


def test_names_that_are_no_text_do_no_harm(board) -> None:
    assert "plan.json" in board("out.write(b'\\xff\\xfe\\nplan.json\\n')").files("f")


ABOUT = {"device": asdict(Roofline().describe()), "energy": "unavailable", "precisions": ["fp32"]}


@pytest.mark.parametrize(
    "about",
    [
        "no JSON",
        json.dumps(None),
        json.dumps(ABOUT | {"precisions": [None]}),
        json.dumps(ABOUT | {"precisions": "fp32"}),
        json.dumps(ABOUT | {"energy": "free"}),
        json.dumps(ABOUT | {"device": ABOUT["device"] | {"name": 5}}),
        json.dumps(ABOUT | {"device": ABOUT["device"] | {"threads": 0}}),
        json.dumps(ABOUT | {"device": ABOUT["device"] | {"name": "mine\x1b[2J"}}),
        json.dumps(ABOUT | {"device": ABOUT["device"] | {"colour": "red"}}),
    ],
)
def test_a_board_that_says_impossible_things_of_itself_is_refused_before_anything_is_measured(board, about: str) -> None:
    board(f"if 'describe' in sys.argv[-1]: print({about!r})")
    with pytest.raises(BoardFailed, match="does not say what it is"):
        Remote("user@board", "roofline")


def test_a_board_that_says_who_it_is_is_known(board) -> None:
    board(f"if 'describe' in sys.argv[-1]: print({json.dumps(ABOUT)!r})")
    assert Remote("user@board", "roofline").device.runtime == Roofline().describe().runtime
