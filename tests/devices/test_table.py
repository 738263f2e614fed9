import json
import re
from dataclasses import replace

import numpy as np
import pytest
from conftest import ROOT

import hwsearch
from hwsearch.backends import Roofline
from hwsearch.devices._table import Calibration, Check, Device, LatencyTable, Protocol, Row, load_table
from hwsearch.errors import CorruptFile, FileError, InvalidInput, MissingBlocks, NewerVersion, WrongDevice, WrongUnit
from hwsearch.networks import Block

DOCUMENT = ROOT / "docs" / "table-format.md"
ROOFLINE = Roofline()
A = Block("basic", 16, 16, 16, (16,), 3)
B = Block("basic", 16, 16, 16, (32,), 3)
C = Block("basic", 16, 16, 16, (16,), 3, 1, 1, "int8")
HEAD = Block("head", 16, 10, 16)


def rooflines(blocks):
    return {block.key: Row(ROOFLINE.latency_ms(block), 0.0, 5, ROOFLINE.energy_mj(block)) for block in blocks}


@pytest.fixture
def table():
    checks = (Check("check", (A.key, HEAD.key), 1.0, 0.01, 1.02), Check("check", (B.key, HEAD.key), 2.0, 0.01, 1.92))
    return LatencyTable(ROOFLINE.describe(), Protocol(), rooflines([A, B, C, HEAD]), checks, energy="estimated", source="my.json")


@pytest.fixture
def document(table, tmp_path):
    return json.loads(table.save(tmp_path / "good.json").read_text())


def load(document, tmp_path, **options):
    path = tmp_path / "bad.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return load_table(path, **options)


def test_a_saved_table_comes_back_as_it_was(table, tmp_path):
    first = load_table(table.save(tmp_path / "a.json"), device=ROOFLINE.describe())
    assert first.device == table.device
    assert first.protocol == table.protocol
    assert first.checks == table.checks
    assert {key: pytest.approx(row.latency_ms, rel=1e-6) for key, row in table.rows.items()} == {
        key: row.latency_ms for key, row in first.rows.items()
    }
    first.save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_a_changed_row_changes_one_line_of_the_file(table, tmp_path):
    before = table.save(tmp_path / "a.json").read_text().splitlines()
    rows = {**table.rows, B.key: Row(123.0)}
    after = replace(table, rows=rows).save(tmp_path / "b.json").read_text().splitlines()
    assert sum(one != other for one, other in zip(before, after, strict=True)) == 1


def test_the_repr_says_the_tables_own_error(table):
    assert repr(table) == "<LatencyTable 'roofline': 4 blocks, error 3.0 % on 2 held-out networks>"
    assert "no held-out networks" in repr(replace(table, checks=()))


def test_errors_are_of_held_out_networks_only_and_by_class(table):
    int8 = Check("check", (C.key, HEAD.key), 1.0, 0.0, 1.1)
    fitted = Check("fit", (A.key,), 1.0, 0.0, 9.0)
    error = replace(table, checks=(*table.checks, int8, fitted)).error()
    assert error["networks"] == 3
    assert error["mean_abs"] == pytest.approx((0.02 + 0.04 + 0.1) / 3)
    assert error["max_abs"] == pytest.approx(0.1)
    assert error["mean_abs_fp32"] == pytest.approx(0.03)
    assert error["mean_abs_int8"] == pytest.approx(0.1)
    assert error["spearman"] == pytest.approx(0.866, abs=1e-3)


def test_ranks_inside_a_narrow_band_are_harder(table):
    """Over a wide range anything ranks well; neighbours tell."""
    measured = [*(1.0 + 0.01 * index for index in range(6)), 10.0, 20.0, 40.0]
    predicted = [*(1.06 - 0.01 * index for index in range(6)), 10.0, 20.0, 40.0]
    checks = tuple(Check("check", (A.key,), one, 0.0, other) for one, other in zip(measured, predicted, strict=True))
    error = replace(table, checks=checks).error()
    assert error["spearman"] > 0.4
    assert error["spearman_band"] == pytest.approx(-1.0)


# -- defects -----------------------------------------------------------------------------------------------------------


def edit(document, **changes):
    return {**document, **changes}


def with_row(document, **changes):
    rows = document["rows"]
    return {**document, "rows": [{**rows[0], **changes}, *rows[1:]]}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda d: json.dumps(d)[:-40], CorruptFile, "not valid JSON"),
        (lambda d: "", CorruptFile, "it is empty"),
        (lambda d: [1, 2], CorruptFile, "not a hwsearch-latency-table file"),
        (lambda d: edit(d, format="recipe"), CorruptFile, "its format is 'recipe'"),
        (lambda d: edit(d, version=3), NewerVersion, "pip install --upgrade"),
        (lambda d: edit(d, version="one"), CorruptFile, "version"),
        (lambda d: edit(d, unit="us"), WrongUnit, "its unit is 'us'"),
        (lambda d: {k: v for k, v in d.items() if k != "unit"}, WrongUnit, "its unit is None"),
        (lambda d: with_row(d, latency_ms=-0.1), CorruptFile, r"row 1 \(basic.*latency_ms must be a positive number .*, not -0.1"),
        (lambda d: with_row(d, latency_ms=0), CorruptFile, r"latency_ms must be a positive number \(1e-12 to 1e\+12\), not 0"),
        (lambda d: with_row(d, latency_ms=1e-320), CorruptFile, "latency_ms must be a positive number"),
        (lambda d: with_row(d, spread_ms=1e300), CorruptFile, "spread_ms must be a number of at least 0"),
        (lambda d: with_row(d, energy_mj=1e300), CorruptFile, "energy_mj must be a positive number"),
        (lambda d: edit(d, calibration={"classes": {"fp32": {"scale": 1e300}}}), CorruptFile, "a value that is not finite, or too large"),
        (lambda d: with_row(d, spread_ms=-1.0), CorruptFile, "spread_ms must be a number of at least 0"),
        (lambda d: with_row(d, energy_mj=-1.0), CorruptFile, "energy_mj must be a positive number"),
        (lambda d: with_row(d, rounds=0), CorruptFile, "rounds must be at least 1"),
        (lambda d: with_row(d, latency_ms="fast"), CorruptFile, r"Expected `float`, got `str` - at `\$.rows\[0\].latency_ms`"),
        (lambda d: with_row(d, latency_ms=float("nan")), CorruptFile, "NaN and Infinity are not allowed"),
        (lambda d: with_row(d, latency_ms=float("inf")), CorruptFile, "NaN and Infinity are not allowed"),
        (lambda d: json.dumps(d).replace('"rounds": 5', '"rounds": 1e999', 1), CorruptFile, "out of range"),
        (lambda d: with_row(d, block="basic-in16"), CorruptFile, "row 1.*is not a block key"),
        (lambda d: with_row(d, color="red"), CorruptFile, "unknown field `color`"),
        (lambda d: edit(d, rows=[*d["rows"], d["rows"][0]]), CorruptFile, "row 5.*has a row already"),
        (lambda d: {k: v for k, v in d.items() if k != "device"}, CorruptFile, "missing required field `device`"),
        (lambda d: edit(d, device={**d["device"], "threads": 0}), CorruptFile, "threads and batch must be at least 1"),
        (lambda d: edit(d, protocol={**d["protocol"], "precision": 2.0}), CorruptFile, "protocol: precision must be in"),
        (lambda d: edit(d, energy="guessed"), CorruptFile, "energy must be one of"),
        (lambda d: edit(d, checks=[{**d["checks"][0], "role": "maybe"}]), CorruptFile, "check 1: role must be 'fit' or 'check'"),
        (lambda d: edit(d, checks=[{**d["checks"][0], "measured_ms": -1.0}]), CorruptFile, "check 1: measured_ms must be a positive"),
        (lambda d: edit(d, checks=[{**d["checks"][0], "blocks": ["x"]}]), CorruptFile, "check 1: 'x' is not a block key"),
        (lambda d: edit(d, calibration={"network_ms": -1.0}), CorruptFile, "network_ms must be a number of at least 0"),
    ],
)
def test_every_defect_has_its_own_error(document, tmp_path, change, error, message):
    with pytest.raises(error, match=message) as caught:
        load(change(document), tmp_path)
    assert "bad.json" in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileError, match=r"Cannot read latency table .*none.json"):
        load_table(tmp_path / "none.json")


def test_a_table_of_another_device_is_refused(document, tmp_path):
    other = replace(ROOFLINE.describe(), hardware="another chip")
    with pytest.raises(WrongDevice, match="hardware is .* and not 'another chip'.*hwsearch profile"):
        load(document, tmp_path, device=other)
    assert load(document, tmp_path, device=replace(ROOFLINE.describe(), name="a nickname", facts={"os": "x"}))


def test_impossible_values_are_not_written(table, tmp_path):
    with pytest.raises(InvalidInput, match="latency_ms must be a positive"):
        replace(table, rows={A.key: Row(float("nan"))}).save(tmp_path / "t.json")
    assert not (tmp_path / "t.json").exists()


def test_the_documented_schema_is_the_one_that_is_read(document):
    jsonschema = pytest.importorskip("jsonschema")
    (block,) = re.findall(r"```json\n(\{\n *\"\$schema\".*?)```", DOCUMENT.read_text(), flags=re.DOTALL)
    schema = json.loads(block)
    validate = jsonschema.Draft202012Validator(schema).is_valid
    assert validate(document)
    for bad in (
        with_row(document, latency_ms=-1),
        with_row(document, block="basic-in16"),
        with_row(document, color="red"),
        edit(document, unit="us"),
        edit(document, version=3),
        edit(document, checks=[{**document["checks"][0], "role": "maybe"}]),
    ):
        assert not validate(bad)


def test_the_documented_example_loads(tmp_path):
    (example,) = re.findall(r"```json\n(\{\"format\".*?)```", DOCUMENT.read_text(), flags=re.DOTALL)
    table = load(example, tmp_path)
    assert table.predict([Block.parse(key) for key in table.rows]) > 0


# -- costs -------------------------------------------------------------------------------------------------------------


def test_measured_blocks_cost_what_was_measured(table):
    estimate = table.lookup(A)
    assert estimate.measured
    assert estimate.latency_ms == ROOFLINE.latency_ms(A)
    assert estimate.energy_mj == ROOFLINE.energy_mj(A)
    np.testing.assert_allclose(table.costs([A, B, A]), [ROOFLINE.latency_ms(block) for block in (A, B, A)])
    np.testing.assert_allclose(table.costs([A, HEAD], "energy_mj"), [ROOFLINE.energy_mj(block) for block in (A, HEAD)])
    assert table.precisions == ("fp32", "int8")


def test_missing_blocks_are_counted_and_the_cure_is_named(table):
    wide = replace(A, mids=(64,))
    assert table.missing([A, wide, wide]) == (wide,)
    with pytest.raises(
        MissingBlocks, match=rf"1 of 2 blocks .*my.json \(first: {wide.key}\).*hwsearch profile SPACE --backend roofline --out my.json"
    ):
        table.costs([A, wide])
    with pytest.raises(MissingBlocks):
        table.lookup(wide)


def test_an_empty_table_says_so(digits):
    empty = LatencyTable(ROOFLINE.describe(), Protocol(), {}, source="new.json")
    with pytest.raises(MissingBlocks, match=r"^new\.json holds no block.*hwsearch profile SPACE --backend roofline"):
        hwsearch.Problem.of(digits, predictor=lambda X: X.sum(axis=1), device=empty, limits={"macs": 1e6})


def test_energy_that_is_not_there_is_refused(table):
    bare = replace(table, rows={A.key: Row(1.0)}, energy="unavailable")
    with pytest.raises(InvalidInput, match="energy on 'roofline' is unavailable"):
        bare.costs([A], "energy_mj")
    with pytest.raises(InvalidInput, match="quantity"):
        bare.costs([A], "watts")


def test_interpolation_is_marked_and_near(digits):
    blocks = [block for block in digits.unique_blocks if block.kind == "basic"]
    held, kept = blocks[::7], [block for index, block in enumerate(blocks) if index % 7]
    table = LatencyTable(ROOFLINE.describe(), Protocol(), rooflines(kept), energy="estimated")
    errors = []
    for block in held:
        estimate = table.lookup(block, interpolate=True)
        assert not estimate.measured
        assert estimate.energy_mj == pytest.approx(ROOFLINE.energy_mj(block), rel=0.3)
        assert 0 < estimate.relative_error < 0.3
        errors.append(abs(estimate.latency_ms / ROOFLINE.latency_ms(block) - 1))
    assert np.mean(errors) < 0.15
    with pytest.raises(MissingBlocks):
        table.lookup(HEAD, interpolate=True)


def test_calibration_recovers_what_networks_cost(digits, rng):
    table = LatencyTable(ROOFLINE.describe(), Protocol(), rooflines(digits.unique_blocks))
    networks = [digits.blocks(row) for row in digits.sample(60, rng)]
    slowdown = {"fp32": 1.1, "int8": 0.9}
    measured = [0.02 + sum(slowdown[b.precision] * ROOFLINE.latency_ms(b) + 0.001 for b in network) for network in networks]
    checks = [
        Check("fit" if i < 45 else "check", tuple(b.key for b in network), ms, 0.0)
        for i, (network, ms) in enumerate(zip(networks, measured, strict=True))
    ]
    calibrated = table.calibrate(checks)
    before = replace(table, checks=tuple(replace(c, predicted_ms=table.predict([Block.parse(k) for k in c.blocks])) for c in checks))
    assert calibrated.error()["mean_abs"] < 0.02 < before.error()["mean_abs"]
    network = networks[-1]
    assert calibrated.predict(network) == pytest.approx(
        calibrated.network_ms + sum(calibrated.lookup(b).latency_ms for b in network), rel=1e-12
    )
    assert calibrated.calibrate(checks).calibration == calibrated.calibration


def test_calibrated_costs_stay_positive(table):
    from hwsearch.devices._calibration import Terms

    harsh = replace(table, calibration=Calibration(0.0, 0.0, {"fp32": Terms(1.0, -100.0)}))
    assert harsh.lookup(A).latency_ms > 0


def test_tables_merge_on_one_device_only(table):
    wide = replace(A, mids=(64,))
    more = LatencyTable(ROOFLINE.describe(), Protocol(), rooflines([wide]))
    assert table.merge(more).missing([A, wide]) == ()
    with pytest.raises(WrongDevice, match="batch is 8"):
        table.merge(replace(more, device=replace(more.device, batch=8)))
    with pytest.raises(WrongDevice, match="different protocols"):
        table.merge(replace(more, protocol=Protocol(runs=99)))


def test_edges_keep_the_widths_at_the_right_of_a_stair():
    family = [replace(A, mids=(mid,)) for mid in range(8, 65, 4)]
    table = LatencyTable(ROOFLINE.describe(), Protocol(), rooflines([*family, C]))
    assert table.edges(A, "mid") == (16, 32, 48, 64)
    outs = [Block("conv", 16, out, 32, (), 3) for out in range(8, 49, 8)]
    assert LatencyTable(ROOFLINE.describe(), Protocol(), rooflines(outs)).edges(outs[0], "cout", tolerance=0.01) == (16, 32, 48)
    with pytest.raises(MissingBlocks, match="needs two or more"):
        table.edges(C, "mid")
    with pytest.raises(InvalidInput, match="no width 'mid2'"):
        table.edges(A, "mid2")


def test_devices_differ_by_what_matters():
    device = Device("a", "cpu", "chip", "onnxruntime", "1.0")
    assert device.same_as(replace(device, name="b", facts={"os": "x"}))
    for change in ({"hardware": "other"}, {"runtime_version": "2.0"}, {"threads": 2}, {"batch": 2}, {"kind": "gpu"}):
        assert not device.same_as(replace(device, **change))


def test_impossible_protocols_are_refused():
    for bad in ({"precision": 0.0}, {"min_rounds": 9, "max_rounds": 3}, {"runs": 0}, {"quantile": 2.0}):
        with pytest.raises(InvalidInput):
            Protocol(**bad)


def test_the_face_shows_the_table(table):
    assert hwsearch.LatencyTable is LatencyTable
    assert hwsearch.load_table is load_table
