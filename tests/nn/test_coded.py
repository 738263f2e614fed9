"""Coded networks: shared weights in a prefix code, back bit for bit, or refused."""

from __future__ import annotations

from copy import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from typer.testing import CliRunner

import hwsearch
from hwsearch._files._reading import read_arrays
from hwsearch._files._writing import write_arrays
from hwsearch.cli import app
from hwsearch.errors import CorruptFile, FileError, Infeasible, InvalidInput, NewerVersion
from hwsearch.nn import Normalize, Supernet, coded_size, load_coded, load_data, save_coded
from hwsearch.nn._evaluate import accuracy, deployed
from hwsearch.nn.quantization import _huffman as huffman
from hwsearch.nn.quantization._codebook import share
from hwsearch.nn.quantization._coded import FORMAT, Coded

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def supernet(trained: Path, toy: hwsearch.SearchSpace) -> Supernet:
    return Supernet.load(trained, toy)


@pytest.fixture(scope="module")
def coded(supernet: Supernet, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Coded]:
    path = tmp_path_factory.mktemp("coded") / "largest.npz"
    return path, save_coded(supernet.space.architecture(supernet.largest), weights=supernet, out=path, bits=5)


# -- the prefix code ---------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 255), max_size=400), st.integers(1, 256))
def test_codes_come_back(symbols: list[int], most: int) -> None:
    given_ = (np.array(symbols, dtype=np.int64) % most).astype(np.uint8)
    counts = np.bincount(given_, minlength=256)
    length = huffman.lengths(counts)
    data = huffman.encode(given_, length)
    if len(given_):
        assert np.array_equal(huffman.decode(data, length, len(given_)), given_)
        share_ = counts[counts > 0] / len(given_)
        entropy = -(share_ * np.log2(share_)).sum()
        assert entropy - 1e-9 <= (counts * length).sum() / len(given_) <= entropy + 1
        with pytest.raises(CorruptFile):
            huffman.decode(data[:-1], length, len(given_))


def test_codes_are_never_too_long() -> None:
    counts = np.array([int(1.6**n) + 1 for n in range(40)])
    length = huffman.lengths(counts)
    assert length.max() == huffman.LONGEST
    symbols = np.arange(40, dtype=np.uint8).repeat(3)
    assert np.array_equal(huffman.decode(huffman.encode(symbols, length), length, len(symbols)), symbols)


def test_lengths_of_no_code_are_refused() -> None:
    with pytest.raises(CorruptFile, match="no prefix code"):
        huffman.decode(b"abc", np.array([1, 1, 1], dtype=np.uint8), 3)
    with pytest.raises(CorruptFile, match="no whole numbers"):
        huffman.decode(b"abc", np.array([1.0, np.nan]), 3)


# -- codebooks ---------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 8), st.integers(1, 6), st.integers(1, 60), st.booleans(), st.integers(0, 1000))
def test_weights_share_few_values_and_stay_near(bits: int, cout: int, each: int, sparse: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(cout, each)).astype(np.float32) * rng.uniform(0.01, 10, size=(cout, 1)).astype(np.float32)
    if sparse:
        weights *= rng.random(weights.shape) < 0.5
    shared = share(weights, bits)
    assert len(shared.values) <= 2**bits
    assert (np.diff(shared.values) > 0).all()
    assert (shared.weights[weights == 0] == 0).all()
    even = weights / shared.scale[:, None]
    spread = np.linspace(even.min(), even.max(), 2**bits - bool((weights == 0).any()))
    before = np.abs(even[..., None] - spread).min(axis=-1)[weights != 0]
    after = (even - shared.values[shared.codes])[weights != 0]
    assert np.square(after).sum() <= np.square(before).sum() + 1e-4, "k-means is no worse than where it began"


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("kind", ["normal", "laplace", "heavy", "outliers", "groups"])
def test_no_cluster_is_left_empty_and_the_error_is_that_of_scikit_learn(bits: int, kind: str) -> None:
    rng = np.random.default_rng(bits)
    x = {
        "normal": lambda: rng.normal(size=6000),
        "laplace": lambda: rng.laplace(size=6000),
        "heavy": lambda: rng.standard_t(3, size=6000),
        "outliers": lambda: np.append(rng.normal(size=6000), [30.0, -25.0]),
        "groups": lambda: np.append(rng.normal(-3, 0.1, 3000), rng.normal(2, 1, 3000)),
    }[kind]()
    shared = share(x[None], bits)
    assert len(np.unique(shared.codes)) == len(shared.values) == 2**bits
    even = (x / shared.scale[0])[:, None]
    other = KMeans(2**bits, n_init=1, random_state=0).fit(even)
    assert np.square(shared.weights[0] / shared.scale[0] - even[:, 0]).sum() <= 1.02 * other.inertia_


def test_as_few_weights_as_values_are_kept_as_they_are() -> None:
    weights = np.array([[1.0, 1.0, 0.0, -2.0, 0.5]], dtype=np.float32)
    assert np.allclose(share(weights, 2).weights, weights)


def test_scales_of_channels_change_no_code() -> None:
    weights = np.random.default_rng(0).normal(size=(8, 4, 3, 3)).astype(np.float32)
    factors = 2.0 ** np.arange(-4, 4).reshape(-1, 1, 1, 1)
    assert np.array_equal(share(weights, 4).codes, share(weights * factors, 4).codes)


@pytest.mark.parametrize("bits", [1, 9, 4.0, True])
def test_other_bits_are_refused(bits: int, supernet: Supernet, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="2 to 8"):
        save_coded(supernet.space.architecture(supernet.largest), weights=supernet, out=tmp_path / "a.npz", bits=bits)
    with pytest.raises(InvalidInput, match="2 to 8"):
        coded_size(supernet, bits)


# -- the file ----------------------------------------------------------------------------------------------------------


def test_file_gives_the_same_outputs(supernet: Supernet, tmp_path: Path, rng: np.random.Generator) -> None:
    data, space = load_data("digits"), supernet.space
    x = data.normalize(data.test_x[:32])
    for row in (supernet.largest, supernet.smallest, *space.sample(3, rng)):
        path = tmp_path / "one.npz"
        kept = save_coded(space.architecture(row), weights=supernet, out=path)
        found = load_coded(path)
        assert found.blocks == space.blocks(row)
        assert hwsearch.Architecture.from_document(found.architecture, space, path) == space.architecture(row)
        with torch.inference_mode():
            assert torch.equal(found.network(x), kept.network(x))
        assert accuracy(found.network, data, "test") > accuracy(deployed(supernet, row), data, "test") - 0.03


def test_fewer_bits_make_smaller_files(supernet: Supernet, coded: tuple[Path, Coded], tmp_path: Path) -> None:
    architecture = supernet.space.architecture(supernet.largest)
    sizes = []
    for bits in (2, 4, 8):
        one = save_coded(architecture, weights=supernet, out=tmp_path / f"{bits}.npz", bits=bits)
        assert max(len(layer.values) for layer in one.weights) <= 2**bits
        sizes.append((tmp_path / f"{bits}.npz").stat().st_size)
    assert sizes == sorted(sizes)
    assert coded[0].stat().st_size < sum(block.params for block in architecture.blocks()) * 4 / 2


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 1, exclude_max=True), st.integers(0, 255))
def test_damaged_files_are_refused_or_whole(
    coded: tuple[Path, Coded], tmp_path_factory: pytest.TempPathFactory, share: float, flipped: int
) -> None:
    path, whole = coded
    content = bytearray(path.read_bytes())
    place = int(share * len(content))
    if flipped:
        content[place] ^= flipped
    else:
        del content[place:]
    damaged = tmp_path_factory.mktemp("damaged") / "one.npz"
    damaged.write_bytes(content)
    try:
        found = load_coded(damaged)
    except FileError:
        return
    assert all(np.array_equal(a.weights, b.weights) for a, b in zip(found.weights, whole.weights, strict=True))


def test_files_that_do_not_fit_together_are_refused(coded: tuple[Path, Coded], tmp_path: Path) -> None:
    header, arrays = read_arrays(coded[0], "coded network", format=FORMAT, version=1)
    path = tmp_path / "one.npz"
    write_arrays(path, {**header, "version": 2}, arrays)
    with pytest.raises(NewerVersion):
        load_coded(path)
    for name in arrays:
        for wrong in (arrays[name][:-1], np.append(arrays[name], arrays[name][:1])):
            write_arrays(path, header, {**arrays, name: wrong})
            with pytest.raises(CorruptFile, match=r"one\.npz"):
                load_coded(path)
    write_arrays(path, {**header, "blocks": header["blocks"][:-1]}, arrays)
    with pytest.raises(CorruptFile, match=r"one\.npz"):
        load_coded(path)


# -- its size as a limit -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [None, 4])
def test_estimated_sizes_are_near_those_of_files(supernet: Supernet, tmp_path: Path, rng: np.random.Generator, bits: int | None) -> None:
    space, size = supernet.space, coded_size(supernet, bits)
    X = np.concatenate([supernet.largest[None], supernet.smallest[None], space.sample(6, rng)])
    files = []
    for row in X:
        save_coded(space.architecture(row), weights=supernet, out=tmp_path / "one.npz", bits=bits)
        files.append((tmp_path / "one.npz").stat().st_size / 1e6)
    errors = size(X) / files - 1
    assert -0.02 < errors.min(), "these files are a few kilobytes, and what is not weights is rather taken for more than it is"
    assert errors.max() < 0.1


def test_size_of_a_supernet_of_some_networks_leaves_out_the_others(toy: hwsearch.SearchSpace) -> None:
    size = coded_size(Supernet(toy.restrict({"*depth": [1], "*precision": ["int8"]})), 4)
    X = toy.canonical(toy.sample(60, np.random.default_rng(0)))
    depths = [gene for gene, choice in enumerate(toy.choices) if choice.name.endswith("depth")]
    assert np.array_equal(np.isfinite(size(X)), (X[:, depths] == 0).all(axis=1))


def test_files_keep_the_normalisation_of_the_weights(supernet: Supernet, tmp_path: Path) -> None:
    import onnx

    other, one = copy(supernet), supernet.space.architecture(supernet.smallest)
    other.normalize = Normalize((0.1,), (0.2,))
    coded = save_coded(one, weights=other, data="digits", out=tmp_path / "a.npz")
    assert (coded.input["mean"], coded.input["std"]) == ([0.1], [0.2])
    path = hwsearch.export(one, weights=other, data="digits", out=tmp_path / "a.onnx")
    told = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert '"mean":[0.1],"std":[0.2]' in told["hwsearch.input"]


def test_search_keeps_to_the_coded_size(supernet: Supernet, roofline_table: hwsearch.LatencyTable) -> None:
    size = coded_size(supernet, 4)
    limit = float(size(supernet.largest[None])[0]) / 2

    def search(at_most: float) -> hwsearch.SearchResult:
        predictor = hwsearch.metric("params", supernet.space)
        return hwsearch.search(
            supernet.space,
            device=roofline_table,
            predictor=predictor,
            metrics=[size],
            limits={"size_mb": at_most},
            run=hwsearch.Run(steps=5),
        )

    found = search(limit)
    assert size(found.best.genes[None])[0] <= limit
    assert found.front.values["size_mb"][0] > 0.9 * limit
    with pytest.raises(Infeasible, match="size_mb"):
        search(0.001)


def test_command_line(digits: hwsearch.SearchSpace, roofline_table: hwsearch.LatencyTable, tmp_path: Path) -> None:
    data, supernet, X = load_data("digits"), Supernet(digits), digits.sample(60, np.random.default_rng(0))
    supernet.images, supernet.normalize = data.calibration_images(0), data.normalize
    weights, table = supernet.save(tmp_path / "weights.safetensors"), roofline_table.save(tmp_path / "table.json")
    predictor = hwsearch.Predictor.fit(digits, X, 0.9 + 0.001 * X.sum(axis=1), kind="linear").save(tmp_path / "predictor.npz")
    limit = float(coded_size(supernet, 4)(X).mean())

    def run(*words: object) -> str:
        done = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200"})
        assert done.exit_code == 0, done.output
        return done.output

    result, path = tmp_path / "result.json", tmp_path / "best.npz"
    how = ("--weights", weights, "--coded", "--bits", 4)
    run("search", digits.name, "-d", table, "-p", predictor, "--limit", f"size_mb={limit}", *how, "--steps", 5, "-o", result, "-q")
    assert "weights at" in run("export", result, *how, "-o", path)
    assert path.stat().st_size / 1e6 < 1.02 * limit
    assert "smaller than in fp32" in run("show", path)
