"""Interop: foreign files mean here what they mean to those who wrote them, and what is wrong in them is said."""

from __future__ import annotations

import dataclasses
import gzip
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import hwsearch
from hwsearch import LatencyTable, SearchSpace, interop, load_space, load_table, metric
from hwsearch.cli import app
from hwsearch.errors import CorruptFile, FileError, Infeasible, InvalidInput, MissingBlocks, UnknownName
from hwsearch.interop import ForeignDataWarning

NOTE10 = (160, 176, 192, 208, 224)


@pytest.fixture(scope="module")
def mobile() -> SearchSpace:
    return load_space("ofa_mobilenetv3")


@pytest.fixture(scope="module")
def note10(data_folder: Path) -> LatencyTable:
    pytest.importorskip("yaml", reason="needs the interop extra")
    return interop.ofa_latency(data_folder / "ofa" / "note10")


def published_mean(folder: Path, resolution: int) -> dict[str, float]:
    """Entry -> mean of one of Once-for-All's files, read without its code or ours."""
    lines = (folder / f"{resolution}_lookup_table.yaml").read_text().splitlines()
    keys = [line.rstrip(":") for line in lines if not line.startswith(" ")]
    return dict(zip(keys, (float(line.split(": ")[1]) for line in lines if line.startswith("  mean")), strict=True))


def published_latency(setting: dict[str, list[int]], means: dict[str, float]) -> float:
    """The sum of entries that Once-for-All's latency estimator looks up for a network of width 1.2."""
    size = setting["r"][0]
    half = -(-size // 2)
    keys = [f"Conv-input:{size}x{size}x3-output:{half}x{half}x24"]
    keys.append(f"expanded_conv-input:{half}x{half}x24-output:{half}x{half}x24-expand:24-kernel:3-stride:1-idskip:1-se:0-hs:0")
    cin, size = 24, half
    for stage, (cout, stride, excited, swish) in enumerate([(32, 2, 0, 0), (48, 2, 1, 0), (96, 2, 0, 1), (136, 1, 1, 1), (192, 2, 1, 1)]):
        for block in range(setting["d"][stage]):
            step = stride if block == 0 else 1
            after = -(-size // step)
            kernel, mid = setting["ks"][4 * stage + block], cin * setting["e"][4 * stage + block]
            shapes = f"input:{size}x{size}x{cin}-output:{after}x{after}x{cout}-expand:{mid}-kernel:{kernel}"
            keys.append(f"expanded_conv-{shapes}-stride:{step}-idskip:{int(block > 0)}-se:{excited}-hs:{swish}")
            cin, size = cout, after
    keys.append(f"Conv_1-input:{size}x{size}x192-output:{size}x{size}x1152")
    keys.append(f"AvgPool2D-input:{size}x{size}x1152-output:1x1x1152")
    keys += ["Conv_2-input:1x1x1152-output:1x1x1536", "Logits-input:1x1x1536-output:1000"]
    return sum(means[key] for key in keys)


# -- Once-for-All ----------------------------------------------------------------------------------------------------------


def test_note10_latencies_are_once_for_alls(data_folder: Path, mobile: SearchSpace, note10: LatencyTable, rng: np.random.Generator) -> None:
    X = mobile.sample(200, rng)
    means = {resolution: published_mean(data_folder / "ofa" / "note10", resolution) for resolution in NOTE10}
    settings = [interop.ofa_setting(mobile.architecture(row)) for row in X]
    wanted = [published_latency(setting, means[setting["r"][0]]) for setting in settings]
    latency = metric("latency_ms", mobile, note10)
    np.testing.assert_allclose(latency(X), wanted, rtol=0, atol=1e-9)
    assert interop.problems(note10) == ()
    assert latency.lower_bound == pytest.approx(9.890346512078672, abs=1e-9)


def test_imported_latencies_survive_our_file(mobile: SearchSpace, note10: LatencyTable, tmp_path: Path, rng: np.random.Generator) -> None:
    X = mobile.sample(50, rng)
    table = load_table(note10.save(tmp_path / "note10.json"))
    np.testing.assert_allclose(metric("latency_ms", mobile, table)(X), metric("latency_ms", mobile, note10)(X), rtol=0, atol=1e-9)


def test_blocks_that_an_imported_table_lacks_are_estimated(mobile: SearchSpace, note10: LatencyTable, rng: np.random.Generator) -> None:
    """Blocks with and without squeeze-and-excite are estimated apart."""
    lacking = [key for key in note10.rows if key.endswith("-at192")][::3]
    part = dataclasses.replace(note10, rows={key: row for key, row in note10.rows.items() if key not in lacking})
    X = mobile.sample(50, rng)
    with pytest.raises(MissingBlocks):
        metric("latency_ms", mobile, part)
    guessed = metric("latency_ms", mobile, part, interpolate=True)(X)
    np.testing.assert_allclose(guessed, metric("latency_ms", mobile, note10)(X), rtol=0.05)


def test_an_impossible_latency_on_note10_is_refused(mobile: SearchSpace, note10: LatencyTable) -> None:
    with pytest.raises(Infeasible, match=r"9\.89035 ms"):
        hwsearch.Problem.of(mobile, predictor=lambda X: np.zeros(len(X)), device=note10, limits={"latency_ms": 9})


@pytest.mark.parametrize(("space", "file"), [("ofa_mobilenetv3", "mbv3_acc_predictor.pth"), ("ofa_resnet50", "resnet50_acc_predictor.pth")])
def test_accuracies_are_those_of_the_published_perceptron(data_folder: Path, space: str, file: str, rng: np.random.Generator) -> None:
    """Written out with torch on the published encoding, made here from the published settings alone."""
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    where = load_space(space)
    predictor = interop.ofa_predictor(data_folder / "ofa" / file, where)
    state = torch.load(data_folder / "ofa" / file, map_location="cpu", weights_only=True)
    X = where.sample(200, rng)
    hidden = torch.tensor([one_hot(interop.ofa_setting(where.architecture(row))) for row in X])
    weights = [value for name, value in state.items() if name.endswith("weight")]
    biases = [value for name, value in state.items() if name.endswith("bias")] + [state.get("base_acc")]
    for weight, bias in zip(weights, biases, strict=False):
        hidden = torch.nn.functional.linear(hidden if hidden.shape[1] != 400 else hidden.relu(), weight, bias)
    np.testing.assert_allclose(predictor(X), hidden[:, 0].numpy(), rtol=0, atol=1e-6)
    assert 0.6 < predictor(X).min() < predictor(X).max() < 0.9


def one_hot(setting: dict[str, list[float]]) -> list[float]:
    """Once-for-All's encoding of a setting (arch2feature of its package, spec2feats of its tutorial)."""
    if "w" in setting:
        kept = [block < setting["d"][stage + 1] + base for stage, base in enumerate((2, 2, 4, 2)) for block in range(base + 2)]
        parts = [[setting["image_size"] == size for size in (128, 144, 160, 176, 192, 224, 240, 256)]]
        parts.append([setting["d"][0] == 0, setting["d"][0] > 0])
        parts += [[width == index for index in range(3)] for width in setting["w"]]
        parts += [[keep and e == value for value in (0.2, 0.25, 0.35)] for e, keep in zip(setting["e"], kept, strict=True)]
    else:
        kept = [block < depth for depth in setting["d"] for block in range(4)]
        parts = [[keep and k == value for value in (3, 5, 7)] for k, keep in zip(setting["ks"], kept, strict=True)]
        parts += [[keep and e == value for value in (3, 4, 6)] for e, keep in zip(setting["e"], kept, strict=True)]
        parts.append([setting["r"][0] == size for size in range(112, 225, 16)])
    return [float(flag) for part in parts for flag in part]


def test_published_encodings_are_derived_from_the_genes(rng: np.random.Generator) -> None:
    for name in ("ofa_mobilenetv3", "ofa_resnet50"):
        space = load_space(name)
        X = space.sample(50, rng)
        wanted = [one_hot(interop.ofa_setting(space.architecture(row))) for row in X]
        np.testing.assert_array_equal(space.features(X) @ interop.published_encoding(space), wanted)
    space = load_space("apq")
    encoding = interop.published_encoding(space)
    assert encoding.shape[1] == 520 + 4 * 21 * 3
    for row in space.sample(20, rng):
        values, code = space.decode(row), space.features(row[None])[0] @ encoding
        kept = [f"stage{stage}.block{block}" in {name[:13] for name in values} for stage in range(1, 7) for block in range(1, 5)][:21]
        for start, count in ((0, 3), *((520 + 63 * part, 3) for part in range(4))):
            np.testing.assert_array_equal(code[start : start + 21 * count].reshape(21, count).sum(axis=1), kept)
        assert code[63:520].sum() == sum(kept)
        assert code.sum() == 6 * sum(kept)
    with pytest.raises(InvalidInput, match="No encoding is published"):
        interop.published_encoding(load_space("nasbench201"))


def test_a_predictor_of_another_space_is_refused(data_folder: Path, mobile: SearchSpace) -> None:
    pytest.importorskip("torch", reason="needs the torch extra")
    with pytest.raises(CorruptFile, match=r"reads 82 features, and space 'ofa_mobilenetv3' has 128"):
        interop.ofa_predictor(data_folder / "ofa" / "resnet50_acc_predictor.pth", mobile)
    with pytest.raises(InvalidInput, match="knows the resolutions"):
        interop.ofa_predictor(data_folder / "ofa" / "mbv3_acc_predictor.pth", load_space("ofa_mobilenetv3", resolutions=(160, 164)))
    with pytest.raises(InvalidInput, match="resnet_digits"):
        interop.ofa_predictor(data_folder / "ofa" / "mbv3_acc_predictor.pth", load_space("resnet_digits"))


def test_imported_predictors_survive_our_file(data_folder: Path, mobile: SearchSpace, tmp_path: Path, rng: np.random.Generator) -> None:
    pytest.importorskip("torch", reason="needs the torch extra")
    predictor = interop.ofa_predictor(data_folder / "ofa" / "mbv3_acc_predictor.pth", mobile)
    X = mobile.sample(20, rng)
    np.testing.assert_array_equal(hwsearch.load_predictor(predictor.save(tmp_path / "predictor.npz"))(X), predictor(X))


NOTE = "{{count: 100, mean: {mean}, std: 0.1}}"
LAYERS = {
    "Conv-input:160x160x3-output:80x80x24": 0.5,
    "Conv_1-input:5x5x192-output:5x5x1152": 0.4,
    "AvgPool2D-input:5x5x1152-output:1x1x1152": 0.01,
    "Conv_2-input:1x1x1152-output:1x1x1536": 0.7,
    "Logits-input:1x1x1536-output:1000": 0.6,
    "expanded_conv-input:80x80x24-output:80x80x24-expand:24-kernel:3-stride:1-idskip:1-se:0-hs:0": 0.9,
}


def write_note(folder: Path, layers: dict[str, float], extra: str = "") -> Path:
    text = "".join(f"'{key}': {NOTE.format(mean=mean)}\n" for key, mean in layers.items())
    (folder / "160_lookup_table.yaml").write_text(text + extra)
    return folder


def test_doubtful_measurements_are_reported(tmp_path: Path) -> None:
    pytest.importorskip("yaml", reason="needs the interop extra")
    block = "expanded_conv-input:80x80x24-output:40x40x32-expand:72-kernel:{}-stride:2-idskip:{}-se:0-hs:0"
    once = f"'{block.format(7, 0)}': {{count: 1, mean: 3.0, std: 0.0}}\n"
    write_note(tmp_path, {**LAYERS, block.format(3, 0): -1.0, block.format(5, 1): 2.0}, once)
    with pytest.warns(ForeignDataWarning, match=r"skipped 2 entries .*kernel:3.*kernel:5.* 1 entry .*kernel:7.* measured only once"):
        table = interop.ofa_latency(tmp_path)
    assert len(interop.problems(table)) == 2
    kernels = {hwsearch.networks.Block.parse(key).kernel for key in table.rows if key.startswith("mbconv")}
    assert kernels == {7}
    with pytest.raises(MissingBlocks):
        metric("latency_ms", load_space("ofa_mobilenetv3", resolutions=(160,)), table)


def test_the_classifier_is_one_block(tmp_path: Path) -> None:
    pytest.importorskip("yaml", reason="needs the interop extra")
    table = interop.ofa_latency(write_note(tmp_path, LAYERS))
    (row,) = (row for key, row in table.rows.items() if key.startswith("head"))
    assert row.latency_ms == pytest.approx(0.01 + 0.7 + 0.6)
    without = {key: mean for key, mean in LAYERS.items() if not key.startswith("Logits")}
    with pytest.warns(ForeignDataWarning, match="no usable Logits"):
        interop.ofa_latency(write_note(tmp_path, without))


def test_the_shell_imports_and_complains(tmp_path: Path) -> None:
    pytest.importorskip("yaml", reason="needs the interop extra")
    (tmp_path / "note").mkdir()
    folder = write_note(tmp_path / "note", {**LAYERS, "Conv_1-input:6x6x192-output:6x6x1152": -1.0})
    out = tmp_path / "note.json"
    done = CliRunner().invoke(app, ["import", "ofa-latency", str(folder), "--out", str(out)], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert "skipped 1 entry (160 px Conv_1-input:6x6x192" in done.output
    table = load_table(out)
    assert (table.device.name, len(table.rows)) == ("note", 4)
    assert len(interop.problems(table)) == 1
    wrong = CliRunner().invoke(app, ["import", "ofa-latencies", str(folder), "--out", str(out)])
    assert wrong.exit_code == 1
    assert "Did you mean 'ofa-latency'?" in wrong.output


def test_folders_that_hold_no_tables_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("yaml", reason="needs the interop extra")
    with pytest.raises(FileError, match="holds no latency tables"):
        interop.ofa_latency(tmp_path)
    (tmp_path / "160_lookup_table.yaml").write_text("a: [")
    with pytest.raises(CorruptFile, match="table in YAML"):
        interop.ofa_latency(tmp_path)
    (tmp_path / "160_lookup_table.yaml").write_text("a: 1\n")
    with pytest.raises(CorruptFile, match="no layer of Once-for-All"):
        interop.ofa_latency(tmp_path)


@pytest.mark.parametrize(("name", "options"), [("ofa_mobilenetv3", {"width": 1.0}), ("ofa_mobilenetv3", {}), ("ofa_resnet50", {})])
def test_networks_of_once_for_all_go_there_and_back(name: str, options: dict[str, float], tmp_path: Path, rng: np.random.Generator) -> None:
    space = load_space(name, **options)
    for row in space.sample(20, rng):
        architecture = space.architecture(row)
        assert interop.ofa_architecture(interop.ofa_setting(architecture), space) == architecture
        path = tmp_path / "net.config"
        path.write_text(json.dumps(interop.ofa_config(architecture)))
        resolution = int(architecture.values()["resolution"])
        assert interop.ofa_architecture(path, space, resolution).blocks() == architecture.blocks()


def test_networks_that_the_space_does_not_hold_are_refused(mobile: SearchSpace, rng: np.random.Generator) -> None:
    architecture = mobile.architecture(mobile.sample(1, rng)[0])
    config = interop.ofa_config(architecture)
    with pytest.raises(InvalidInput, match="pass resolution="):
        interop.ofa_architecture(config, mobile)
    with pytest.raises(InvalidInput, match="is not in the space"):
        interop.ofa_architecture(config, load_space("ofa_mobilenetv3", width=1.0), 224)
    config["blocks"][3]["conv"]["use_se"] = not config["blocks"][3]["conv"]["use_se"]
    with pytest.raises(InvalidInput, match="is not in the space"):
        interop.ofa_architecture(config, mobile, 224)
    del config["first_conv"]
    with pytest.raises(CorruptFile, match="no network of Once-for-All"):
        interop.ofa_architecture(config, mobile, 224)


# -- other tables ----------------------------------------------------------------------------------------------------------


def test_apq_costs_are_sums_of_its_table(data_folder: Path, rng: np.random.Generator) -> None:
    space = load_space("apq")
    document = json.loads((data_folder / "apq" / "bitfusion_lut.json").read_text())
    table = interop.apq_table(data_folder / "apq" / "bitfusion_lut.json")
    assert interop.problems(table) == ()
    X = space.sample(20, rng)
    for quantity, name in (("latency", "latency_ms"), ("energy", "energy_mj")):
        wanted = []
        for row in X:
            total = document["head"][quantity] + document["tail"][quantity]
            for stage in range(1, 7):
                total += apq_stage(space.decode(row), stage, document, quantity)
            wanted.append(total)
        np.testing.assert_allclose(metric(name, space, table)(X), wanted, rtol=0, atol=1e-9)


def apq_stage(values: dict[str, object], stage: int, document: dict[str, dict[str, float]], quantity: str) -> float:
    """Cost of one stage by APQ's own rules: three entries a block."""
    cin, cout = ((16, 24, 40, 80, 96, 192, 320)[stage - 1 + offset] for offset in (0, 1))
    size, stride = ((112, 2), (56, 2), (28, 2), (14, 1), (14, 2), (7, 1))[stage - 1]
    total = 0.0
    for block in range(1, int(str(values.get(f"stage{stage}.depth", 1))) + 1):
        name = f"stage{stage}.block{block}"
        mid, kernel = values[f"{name}.mid"], int(str(values[f"{name}.kernel"]))
        wide = f"W{values[f'{name}.pointwise.weight_bits']}A{values[f'{name}.pointwise.activation_bits']}"
        bits = values[f"{name}.depthwise.activation_bits{'_7' if kernel == 7 else ''}"]
        deep = f"W{values[f'{name}.depthwise.weight_bits']}A{bits}"
        total += document[f"({cin}, {mid}, {size}, 1, 1, 0, 1)-{wide}"][quantity]
        total += document[f"({mid}, {mid}, {size}, {kernel}, {stride}, {kernel // 2}, {mid})-{deep}"][quantity]
        size //= stride
        total += document[f"({mid}, {cout}, {size}, 1, 1, 0, 1)-{wide}"][quantity]
        cin, stride = cout, 1
    return total


def test_a_damaged_table_of_apq_is_reported(tmp_path: Path) -> None:
    entry = {"latency": 0.1, "energy": 0.2}
    layer = "(16, 64, 112, 1, 1, 0, 1)-W4A4"
    path = tmp_path / "apq.json"
    path.write_text(json.dumps({"head": entry, "tail": entry, layer: {"latency": -0.1, "energy": 0.2}}))
    with pytest.warns(ForeignDataWarning, match=r"skipped 1 entry .*it lacks 6567 entries"):
        table = interop.apq_table(path)
    assert len(table.rows) == 4
    path.write_text(json.dumps({layer: entry}))
    with pytest.raises(CorruptFile, match="'head' and 'tail'"):
        interop.apq_table(path)


# The published policy at ratio 0.6 (weight and activation bits), from the README of mit-han-lab/haq. It gives the activations of the first
# layer as -1 bits, which HAQ's code reads as 7, since it counts from the end of the table.
HAQ_POLICY = (
    "87 77 56 46 56 57 56 74 46 46 77 56 46 73 57 47 73 57 47 77 47 47 64 67 47 74 67 "
    "57 74 67 57 74 67 67 64 57 67 64 57 67 77 47 77 77 47 77 77 47 77 77 47 77 88"
)


def test_haq_costs_are_the_published_ones(data_folder: Path) -> None:
    table = interop.haq_table(data_folder / "haq" / "qmobilenetv2_imagenet100_batch16_latency_table.npy")
    space = table.space()
    cycles = metric("cycles", space)

    def uniform(weight: int, activation: int) -> list[int]:
        return [weight - 1, activation - 1] * 53

    policy = [int(bits) - 1 for layer in HAQ_POLICY.split() for bits in layer]
    rows = np.array([uniform(8, 8), uniform(4, 4), uniform(2, 2), uniform(4, 8), uniform(8, 4), uniform(6, 6), policy])
    wanted = [39_624_933, 15_716_150, 7_063_425, 31_232_558, 20_044_617, 26_653_434, 23_433_397]
    np.testing.assert_array_equal(cycles(rows), wanted)
    assert table.problems == ()


def test_impossible_cycles_are_reported_and_never_chosen(tmp_path: Path) -> None:
    cycles = np.arange(1.0, 9.0).reshape(2, 2, 2)
    cycles[0, 0, 0] = -1
    np.save(tmp_path / "haq.npy", cycles)
    with pytest.warns(ForeignDataWarning, match="layer1"):
        table = interop.haq_table(tmp_path / "haq.npy")
    least = metric("cycles", table.space())
    assert least.lower_bound == 2 + 5
    np.save(tmp_path / "haq.npy", np.array([["a"]]))
    with pytest.raises(CorruptFile, match="shape"):
        interop.haq_table(tmp_path / "haq.npy")


def test_hawq_costs_are_the_published_ones(data_folder: Path) -> None:
    path = data_folder / "hawq" / "hawq_v3_t4_lut.json"
    document = json.loads(path.read_text())["resnet18"]
    space = interop.hawq_table(path, "resnet18", tied=[(5, 7), (10, 12), (15, 17)]).space()
    assert len(space.choices) == 16
    four, eight = np.zeros((1, 16), dtype=np.uint8), np.ones((1, 16), dtype=np.uint8)
    assert metric("latency_ms", space)(four)[0] == pytest.approx(sum(document["latency_int4"]))
    assert metric("latency_ms", space)(eight)[0] == pytest.approx(sum(document["latency_int8"]))
    weights = 36864 * 4 + 73728 + 147456 * 3 + 8192 + 294912 + 589824 * 3 + 32768 + 1179648 + 2359296 * 3 + 131072
    assert metric("size_mb", space)(eight)[0] == pytest.approx(weights / 1e6)
    products = np.array(document["Hutchinson_trace"]) * np.array(document["delta_weights_4bit_square"])
    assert metric("sensitivity", space)(four)[0] == pytest.approx(products.sum())
    assert metric("size_mb", interop.hawq_table(path, "resnet50").space())(np.ones((1, 52), dtype=np.uint8))[0] == pytest.approx(23.445504)
    with pytest.raises(UnknownName, match="resnet18"):
        interop.hawq_table(path, "resnet19")
    with pytest.raises(InvalidInput, match="layers from 1 to 19"):
        interop.hawq_table(path, "resnet18", tied=[(1, 20)])


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_tfnas_widths_that_were_never_measured_are_left_out(data_folder: Path, device: str) -> None:
    path = data_folder / "tfnas" / f"latency_{device}.json"
    with pytest.warns(ForeignDataWarning, match="never measured"):
        table = interop.tfnas_table(path)
    assert len(interop.problems(table)) == 2
    document = json.loads(path.read_text())
    negative = sum(value <= 0 for key, widths in document.items() if key != "base" for value in widths.values())
    assert negative > 0
    assert interop.problems(table)[0].startswith(f"skipped {negative} entries")
    blocks = [hwsearch.networks.Block.parse(key) for key in table.rows]
    assert all(row.latency_ms > 0 for row in table.rows.values())
    assert np.mean([block.mids[0] % 8 == 0 for block in blocks]) > 0.95
    block = hwsearch.networks.Block("mbconv", 16, 24, 112, (48, 16), 3, 2)
    assert table.lookup(block).latency_ms == document["MBInvertedResBlock_112_16_16_24_k3_s2_relu"]["48"]
    assert table.network_ms == document["base"]


def test_tfnas_numbers_that_cannot_be_are_refused_or_left_out(tmp_path: Path) -> None:
    path, key = tmp_path / "latency.json", "MBInvertedResBlock_112_16_0_24_k3_s2_relu"
    path.write_text(json.dumps({"base": 1.0, key: {"16": 1e300, "24": 0.3}}))
    with pytest.warns(ForeignDataWarning, match=f"skipped 1 entry .{key} at width 16"):
        assert len(interop.tfnas_table(path).rows) == 1
    path.write_text(json.dumps({"base": 1.0, key: {"8": 0.1, "9" * 400: 0.2, "9" * 401: 0.4}}))
    with pytest.raises(CorruptFile, match="is not a whole table of TF-NAS: int too large"):
        interop.tfnas_table(path)


def test_nasbench201_rows_are_its_cells(data_folder: Path) -> None:
    path = data_folder / "nb201" / "nb201.csv.gz"
    with pytest.warns(ForeignDataWarning, match="does not depend on the input"):
        benchmark = interop.nasbench201(path)
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    space = benchmark.with_costs(latency_ms="lat_ms.raspi4")
    latency = metric("latency_ms", space)
    accuracy = pickle.loads(pickle.dumps(benchmark.score("acc_cifar100")))  # as the workers of a process pool get it
    for line in lines[1:200:20]:
        cells = line.split(",")
        operations = [part.split("~")[0] for node in cells[1].split("+") for part in node.strip("|").split("|")]
        row = space.encode(dict(zip(space.position, operations, strict=True)))[None]
        assert (accuracy(row)[0], latency(row)[0]) == (float(cells[3]), float(cells[8]))
    with pytest.raises(UnknownName, match="acc_cifar10"):
        benchmark.score("acc_cifar1000")


def test_incomplete_benchmarks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "nb201.csv"
    path.write_text("arch,acc\n|none~0|+|none~0|none~1|+|none~0|none~1|none~2|,10\n")
    with pytest.raises(CorruptFile, match="15625 were expected"):
        interop.nasbench201(path)
    path.write_text("arch,acc\n|none~0|+|none~0|none~1|,10\n")
    with pytest.raises(CorruptFile, match="is missing or unknown"):
        interop.nasbench201(path)
    (tmp_path / "macro.json").write_text(json.dumps({"00000000": {"mean_acc": 1}}))
    with pytest.raises(CorruptFile, match="not a whole table of NAS-Bench-Macro"):
        interop.nasbench_macro(tmp_path / "macro.json")


def test_nasbench_macro_scores_are_its_accuracies(data_folder: Path) -> None:
    path = data_folder / "nas_bench_macro" / "nas-bench-macro_cifar10.json"
    benchmark = interop.nasbench_macro(path)
    row = np.array([[0, 2, 0, 1, 2, 1, 0, 0]])
    assert benchmark.score("mean_acc")(row)[0] == json.loads(path.read_text())["02012100"]["mean_acc"]
    assert benchmark.problems == ()
