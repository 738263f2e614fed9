"""Several batch sizes in one go."""

import pytest

import hwsearch
from hwsearch.backends import Roofline
from hwsearch.devices import load_table
from hwsearch.errors import InvalidInput
from hwsearch.profiling import Effort
from hwsearch.spaces import Chain, Stage

SMALL = Chain("small", (8,), (8,), (Stage((1,), (8,), (8, 16)),), 10, channels=1).space()
HOW = {"backend": "roofline", "progress": False, "effort": Effort(max_rounds=3, checks=12, fits=0)}


def test_each_batch_size_has_a_table_of_its_own(tmp_path):
    tables = hwsearch.profiling.profile_batches(SMALL, (8, 1, 8), out=tmp_path / "t-{batch}.json", **HOW)
    assert list(tables) == [1, 8]
    assert {path.name for path in tmp_path.iterdir()} == {"t-1.json", "t-8.json"}
    for size, table in tables.items():
        assert table.device.batch == size
        assert load_table(tmp_path / f"t-{size}.json").rows == table.rows
        assert table.missing(SMALL.unique_blocks) == ()
    key = max(tables[1].rows)
    assert tables[8].rows[key].energy_mj == pytest.approx(8 * tables[1].rows[key].energy_mj)


def test_a_killed_run_goes_on_with_the_sizes_that_are_left(tmp_path, monkeypatch):
    first = hwsearch.profiling.profile_batches(SMALL, (1,), out=tmp_path / "t-{batch}.json", **HOW)
    opened = []
    monkeypatch.setattr(Roofline, "open", lambda self, network, real=Roofline.open: opened.append(self.batch) or real(self, network))
    tables = hwsearch.profiling.profile_batches(SMALL, (1, 4), out=tmp_path / "t-{batch}.json", **HOW)
    assert set(opened) == {4}
    assert tables[1].rows == first[1].rows


def test_a_backend_keeps_its_other_options(tmp_path):
    class Mine(Roofline):
        name = "roofline"
        options = {"bandwidth_gbs": 5.0, "batch": 2}  # noqa: RUF012

    tables = hwsearch.profiling.profile_batches(SMALL, (1, 4), out=tmp_path / "{batch}.json", **{**HOW, "backend": Mine()})
    assert [("5 GB/s" in table.device.hardware, table.device.batch) for table in tables.values()] == [(True, 1), (True, 4)]


@pytest.mark.parametrize(
    ("batches", "out", "words"),
    [((), "t-{batch}.json", "at least one"), ((0, 1), "t-{batch}.json", "at least 1"), ((1, 2), "t.json", "put {batch} into the path")],
)
def test_what_makes_no_sense_is_refused(tmp_path, batches, out, words):
    with pytest.raises(InvalidInput, match=words):
        hwsearch.profiling.profile_batches(SMALL, batches, out=tmp_path / out, **HOW)
    assert list(tmp_path.iterdir()) == []
