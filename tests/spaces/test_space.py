"""Spaces: rows, their networks, and the arithmetic of choices."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hwsearch
from hwsearch._registry import names
from hwsearch.errors import CorruptFile, InvalidInput, NewerVersion, UnknownName, WrongSpace
from hwsearch.networks import Block
from hwsearch.spaces import Architecture, Chain, Choice, SearchSpace, Slot, Stage
from hwsearch.spaces._variation import splice

SPACES = ["mobilenetv2_cifar", "mobilenetv3_cifar", "resnet_cifar", "resnet_digits"]


def conv_slot(name: str, genes: tuple[str, ...]) -> Slot:
    return Slot(name, genes, lambda *values: (Block("conv", 3, int(values[0]), 8),))


def test_size_is_the_number_of_different_networks(toy: SearchSpace) -> None:
    rows = np.concatenate(list(toy.enumerate()))
    assert len(rows) == len(np.unique(rows, axis=0)) == toy.size
    networks = {toy.blocks(row) for row in rows[:: max(1, len(rows) // 997)]}
    assert len(networks) == len(rows[:: max(1, len(rows) // 997)])


def test_a_restricted_space_counts_and_samples_only_what_is_left(toy: SearchSpace, rng: np.random.Generator) -> None:
    small = toy.restrict({"*.precision": ["fp32"], "resolution": [12]})
    rows = np.concatenate(list(small.enumerate()))
    assert len(rows) == small.size < toy.size
    assert small.fingerprint == toy.fingerprint
    for X in (small.sample(200, rng), small.mutate(small.sample(200, rng), rng, 0.3), small.neighbours(rows[0])):
        for row in X:
            values = small.decode(row)
            assert values["resolution"] == 12
            assert {value for name, value in values.items() if name.endswith("precision")} == {"fp32"}


@pytest.mark.parametrize("name", SPACES)
def test_canonical_rows_are_equal_exactly_when_their_networks_are(name: str, rng: np.random.Generator) -> None:
    space = hwsearch.load_space(name)
    raw = np.stack([rng.integers(size, size=300) for size in space.sizes], axis=1).astype(np.uint8)
    for row, canonical in zip(raw, space.canonical(raw), strict=True):
        assert space.blocks(row) == space.blocks(canonical)
        assert space.decode(row) == space.decode(canonical)
    assert np.array_equal(space.canonical(space.canonical(raw)), space.canonical(raw))


@pytest.mark.parametrize("name", SPACES)
def test_networks_are_connected(name: str, rng: np.random.Generator) -> None:
    """Each block takes what the one before gives: channels, size and precision."""
    space = hwsearch.load_space(name)
    for row in space.sample(100, rng):
        blocks = space.blocks(row)
        assert blocks[-1].kind == "head"
        width, size, quantized = blocks[0].cin, blocks[0].size, False
        for block in blocks:
            assert (block.cin, block.size) == (width, size)
            assert quantized == (block.bits.quantized if block.kind != "quantize" else False)
            quantized = block.bits.quantized and block.kind != "dequantize"
            width, size = block.cout, block.out_size


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), rate=st.floats(0.0, 1.0))
def test_variation_stays_canonical_and_mutants_differ(seed: int, rate: float) -> None:
    space, rng = hwsearch.load_space("resnet_digits"), np.random.default_rng(seed)
    A, B = space.sample(40, rng), space.sample(40, rng)
    mutants, children, spliced = space.mutate(A, rng, rate), space.cross(A, B, rng), splice(space, A, B, rng)
    for X in (A, mutants, children, spliced):
        assert np.array_equal(X, space.canonical(X))
    assert (mutants != A).any(axis=1).all()
    open_genes = space.active(children)
    assert ((children == A) | (children == B) | ~open_genes | ~space.active(A) | ~space.active(B)).all()


def test_what_stands_together_is_inherited_together(rng: np.random.Generator) -> None:
    """A spliced row has one run of genes, of at least one, of its second parent, and the others of its first, woken up where they slept."""
    space = hwsearch.load_space("resnet_digits")
    A, B = space.sample(300, rng), space.sample(300, rng)
    children = splice(space, A, B, rng)
    a, b, active = space.awake(A), space.awake(B), space.active(children)
    of_second, of_first = active & (children != a), active & (children != b)
    assert ((children == a) | (children == b) | ~active).all()
    for second, first in zip(of_second, of_first, strict=True):
        run = np.flatnonzero(second)
        assert not len(run) or not first[run[0] : run[-1] + 1].any()
    assert of_second.any(axis=1).mean() > 0.5
    assert of_first.any(axis=1).mean() > 0.5


def test_neighbours_differ_in_one_choice_and_are_all_there(toy: SearchSpace, rng: np.random.Generator) -> None:
    row = toy.sample(1, rng)[0]
    rows = {bytes(x) for X in toy.enumerate() for x in X}
    found = {bytes(x) for x in toy.neighbours(row)}
    assert found <= rows - {bytes(row)}
    before = toy.decode(row)
    expected = set()
    for name, value in before.items():
        for other in toy.choices[toy.position[name]].values:
            if other != value:
                changed = {**{c.name: c.values[0] for c in toy.choices}, **before, name: other}
                expected.add(bytes(toy.encode(changed)))
    assert found == expected


def test_values_go_in_and_come_out(digits: SearchSpace, rng: np.random.Generator) -> None:
    for row in digits.sample(50, rng):
        assert np.array_equal(digits.encode(digits.decode(row)), row)


def test_features_are_one_hot_for_active_genes_only(digits: SearchSpace, rng: np.random.Generator) -> None:
    X = digits.sample(50, rng)
    features = digits.features(X)
    assert features.shape == (50, sum(digits.sizes))
    assert np.array_equal(features.sum(axis=1), digits.active(X).sum(axis=1))


def test_the_named_genes_of_the_documentation_exist() -> None:
    space = hwsearch.load_space("resnet_cifar")
    values = space.decode(space.sample(1, np.random.default_rng(0))[0])
    assert {"resolution", "stage1.depth", "stage1.out", "stage1.block1.mid", "stage1.block1.precision"} <= set(values)


def test_fingerprints_tell_spaces_apart() -> None:
    base = Chain("a", (8,), (8,), (Stage((1,), (8,), (4, 8)),), 10)
    variants = [
        base,
        Chain("b", (8,), (8,), (Stage((1,), (8,), (4, 8)),), 10),
        Chain("a", (8,), (8,), (Stage((1,), (8,), (4, 12)),), 10),
        Chain("a", (8,), (8,), (Stage((1,), (8,), (4, 8), kernel=5),), 10),
        Chain("a", (8,), (8,), (Stage((1,), (8,), (4, 8)),), 100),
    ]
    assert len({chain.space().fingerprint for chain in variants}) == len(variants)
    assert base.space().fingerprint == base.space().fingerprint


@pytest.mark.parametrize(
    ("X", "words"),
    [
        (np.zeros(21, dtype=np.uint8), "shape"),
        (np.zeros((1, 20), dtype=np.uint8), r"\(n, 21\)"),
        (np.zeros((1, 21)), "whole numbers"),
        (np.full((1, 21), -1), "negative"),
        (np.full((1, 21), 200, dtype=np.uint8), "'resolution', which has 3 values"),
    ],
)
def test_rows_that_do_not_fit_are_refused(digits: SearchSpace, X: np.ndarray, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        digits.check(X)


def test_values_that_do_not_fit_are_refused(digits: SearchSpace) -> None:
    values = digits.decode(np.zeros(21, dtype=np.uint8))
    with pytest.raises(UnknownName, match="Did you mean 'stage1.depth'"):
        digits.encode({**values, "stage1.dept": 1})
    with pytest.raises(InvalidInput, match=r"'stage1.depth' cannot be 7; its values are \[1, 2\]"):
        digits.encode({**values, "stage1.depth": 7})
    with pytest.raises(InvalidInput, match=r"No value given for stage1.block2.mid, stage1.block2.precision"):
        digits.encode({**values, "stage1.depth": 2})
    with pytest.raises(UnknownName, match="gene"):
        digits.restrict({"stage9.*": [1]})
    with pytest.raises(InvalidInput, match="No value of 'stem.precision' is left"):
        digits.restrict({"*.precision": ["fp16"]})


@pytest.mark.parametrize(
    ("choices", "slots", "words"),
    [
        ([Choice("a", (1, 2)), Choice("a", (1, 2))], [], "two genes called 'a'"),
        ([Choice("b", (1, 2), ("a", (1,))), Choice("a", (1, 2))], [], "not a gene before it"),
        ([Choice("a", (1, 2))], [conv_slot("s", ("z",))], "Unknown gene of slot"),
        ([Choice("a", (1, 2)), Choice("b", (1, 2), ("a", (1,)))], [conv_slot("s", ("b",))], "must also name 'a'"),
        ([Choice("a", (1, 2)), Choice("b", (1, 2), ("a", (3,)))], [], "'a' cannot be 3"),
    ],
)
def test_malformed_spaces_are_refused(choices: list[Choice], slots: list[Slot], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        SearchSpace("broken", tuple(choices), tuple(slots))


def test_malformed_choices_are_refused() -> None:
    with pytest.raises(InvalidInput, match="twice"):
        Choice("a", (1, 1))
    with pytest.raises(InvalidInput, match="1 to 255"):
        Choice("a", tuple(range(256)))


def test_malformed_stages_are_refused() -> None:
    with pytest.raises(InvalidInput, match="at least one block"):
        Chain("a", (8,), (8,), (Stage((0, 1), (8,), (4,)),), 10).space()
    with pytest.raises(InvalidInput, match="stage holds"):
        Chain("a", (8,), (8,), (Stage((1,), (8,), (4,), kind="conv"),), 10).space()


def test_architectures_survive_a_file(digits: SearchSpace, toy: SearchSpace, tmp_path: Path, rng: np.random.Generator) -> None:
    architecture = digits.architecture(digits.sample(1, rng)[0])
    path = architecture.to_json(tmp_path / "a.json")
    assert Architecture.from_json(path, digits) == architecture
    with pytest.raises(WrongSpace, match="resnet_digits"):
        Architecture.from_json(path, toy)
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    with pytest.raises(CorruptFile, match="not valid JSON"):
        Architecture.from_json(path, digits)
    path.write_text(text.replace('"version": 1', '"version": 99'))
    with pytest.raises(NewerVersion, match="pip install --upgrade"):
        Architecture.from_json(path, digits)
    path.write_text(text.replace("stage1.depth", "stage7.depth"))
    with pytest.raises(CorruptFile, match=r"stage7\.depth"):
        Architecture.from_json(path, digits)


def test_an_architecture_prints_a_line_a_stage(digits: SearchSpace) -> None:
    row = np.array([size - 1 for size in digits.sizes], dtype=np.uint8)
    lines = str(digits.architecture(row)).splitlines()
    assert [line.split()[0] for line in lines] == ["resolution", "stem", "stage1", "stage2", "stage3"]
    assert "depth=2" in lines[2]


def test_architectures_are_read_only_values(digits: SearchSpace, rng: np.random.Generator) -> None:
    row = digits.sample(1, rng)[0]
    one, two = digits.architecture(row), digits.architecture(row)
    assert one == two
    assert len({one, two}) == 1
    with pytest.raises(ValueError, match="read-only"):
        one.genes[0] = 1


def test_no_change_of_a_restricted_row_leaves_what_is_allowed(toy: SearchSpace, rng: np.random.Generator) -> None:
    from hwsearch.algorithms.local import two_changes

    space = toy.restrict({"*precision": ["int8"]})
    shallow = space.sample(64, rng)
    for row in shallow:
        for X in (space.neighbours(row), two_changes(space, row, 200, rng), space.mutate(row[None], rng, 0.5)):
            for values in map(space.decode, X):
                assert {value for name, value in values.items() if name.endswith("precision")} == {"int8"}


def test_a_search_finds_only_what_a_restricted_space_allows(toy: SearchSpace) -> None:
    space = toy.restrict({"*precision": ["int8"]})
    most = float(hwsearch.metric("macs", space)(space.sample(1, np.random.default_rng(0)))[0])
    found = hwsearch.search(space, predictor=lambda X: X.sum(axis=1), limits={"macs": most}, run=hwsearch.Run(steps=3, progress=False))
    for row in found.front.X:
        assert {value for name, value in space.decode(row).items() if name.endswith("precision")} == {"int8"}


def test_a_space_of_one_network_holds_that_network_alone(toy: SearchSpace, rng: np.random.Generator) -> None:
    row = toy.sample(1, rng)[0]
    alone = toy.alone(row)
    assert alone.size == 1
    assert alone.fingerprint == toy.fingerprint
    assert (alone.sample(5, rng) == row).all()


def test_network_at_another_precision_is_the_same_but_for_it(toy: SearchSpace, rng: np.random.Generator) -> None:
    for row in toy.sample(20, rng):
        one = toy.architecture(row)
        genes = [name for name in one.values() if name.endswith("precision")]
        whole, part = one.at_precision("int8"), one.at_precision("int8", genes[:1])
        assert whole.values() == one.values() | dict.fromkeys(genes, "int8")
        assert part.values() == one.values() | {genes[0]: "int8"}
        assert whole.at_precision("fp32").blocks() == one.at_precision("fp32").blocks()
    with pytest.raises(InvalidInput, match="int4"):
        one.at_precision("int4")


def test_a_space_may_have_more_networks_than_a_float_can_count() -> None:
    huge = SearchSpace("huge", tuple(hwsearch.spaces.Choice(f"g{index}", tuple(range(255))) for index in range(140)), ())
    assert huge.size == 255**140
    assert "8.23e+336 architectures" in repr(huge)
    found = hwsearch.search(huge, predictor=lambda X: X.sum(axis=1, dtype=float), run=hwsearch.Run(steps=2, polish=False))
    assert found.status is hwsearch.searching.Status.BUDGET_SPENT
    assert "huge" in repr(found.best)


@pytest.mark.parametrize("algorithm", ["evolution", "nsga2", "random"])
def test_spaces_beyond_any_float_are_searched_within_limits_and_kept(algorithm: str, tmp_path: Path) -> None:
    genes = [f"g{index}" for index in range(140)]
    tables = {cost: [([gene], np.arange(200.0) ** power) for gene in genes] for cost, power in (("cost", 1), ("worth", 0.5))}
    huge = SearchSpace.from_tables({gene: range(200) for gene in genes}, tables, name="huge")
    assert "1.39e+322 architectures" in repr(huge)
    run = hwsearch.Run(steps=2, progress=False)
    found = hwsearch.search(huge, predictor=hwsearch.metric("worth", huge), limits={"cost": 14000.0}, algorithm=algorithm, run=run)
    assert found.values["cost"] <= 14000.0
    assert "huge" in repr(found.best)
    assert hwsearch.load_result(found.save(tmp_path / "found.json"), huge).best == found.best


@pytest.mark.parametrize("name", names("space"))
def test_spaces_take_a_number_of_classes(name: str) -> None:
    space = hwsearch.load_space(name, classes=2)
    assert space.blocks(space.sample(1, np.random.default_rng(0))[0])[-1].cout == 2
    assert space.fingerprint != hwsearch.load_space(name).fingerprint
    for wrong in ("two", 0, 2.5):
        with pytest.raises(InvalidInput, match=f"classes must be a whole number of at least 1, not {wrong!r}"):
            hwsearch.load_space(name, classes=wrong)


def test_options_that_a_space_does_not_take_are_refused_in_words(toy: SearchSpace) -> None:
    with pytest.raises(UnknownName, match="Did you mean 'classes'.*Known: channels, classes, precisions"):
        hwsearch.load_space("resnet_cifar", clases=2)
    with pytest.raises(InvalidInput, match="'resnet_cifar' cannot be built with {'precisions': 3}"):
        hwsearch.load_space("resnet_cifar", precisions=3)
    with pytest.raises(InvalidInput, match="built already; options"):
        hwsearch.load_space(toy, classes=2)
    with pytest.raises(UnknownName, match="Unknown option of backend 'onnxruntime' 'wings'"):
        hwsearch.backends.load_backend("onnxruntime", wings=2)


@pytest.mark.parametrize("name", names("space"))
def test_every_space_travels_to_the_workers_of_a_process_pool(name: str) -> None:
    space = hwsearch.load_space(name)
    there = pickle.loads(pickle.dumps(space))
    row = there.sample(1, np.random.default_rng(0))[0]
    assert there.fingerprint == space.fingerprint
    assert there.blocks(row) == space.blocks(row)


@pytest.mark.parametrize(
    ("name", "values", "role"),
    [
        ("stage1.block1.mid2", (8, 16), "width"),
        ("stage1.out", (8, 16), "width"),
        ("stem1.width", (0.5, 1.0), "width"),
        ("stage1.depth", (1, 2), "depth"),
        ("head.precision", ("fp32", "int8"), "precision"),
        ("resolution", (24, 32), "resolution"),
        ("block.kernel", (3, 5), "kernel"),
        ("block.expand", (3, 4), "expand"),
        ("size.out", ("small", "large"), None),
        ("b.kernel", ("a", "b"), None),
        ("layer3.bits", (4, 8), None),
        ("outer", (1, 2), None),
    ],
)
def test_roles_of_genes_are_inferred_from_their_names(name: str, values: tuple[hwsearch.spaces.Value, ...], role: str | None) -> None:
    assert Choice(name, values).role == role


def test_roles_of_genes_are_given_checked_and_no_part_of_a_fingerprint() -> None:
    assert Choice("bits", ("fp32", "int8"), role="precision").is_precision
    with pytest.raises(InvalidInput, match="has the role 'size'; there are resolution, depth"):
        Choice("a", (1, 2), role="size")
    for role in ("resolution", "depth", "width", "rank", "expand", "kernel"):
        with pytest.raises(InvalidInput, match="its values must be numbers"):
            Choice("a", ("small", "large"), role=role)
    plain = SearchSpace("own", (Choice("a", (1, 2)), Choice("b", (1, 2))), ())
    told = SearchSpace("own", (Choice("a", (1, 2), role="width"), Choice("b", (1, 2), role="depth")), ())
    assert told.fingerprint == plain.fingerprint
    assert (told.with_role("width"), told.with_role("depth"), told.with_role("kernel")) == ((0,), (1,), ())


def test_every_gene_of_the_library_that_has_one_tells_its_role() -> None:
    roles = {name: {choice.role for choice in hwsearch.load_space(name).choices} for name in ("resnet_digits", "mobilenetv2_cifar")}
    assert roles["resnet_digits"] == {"resolution", "depth", "width", "precision"}
    assert roles["mobilenetv2_cifar"] == {"resolution", "depth", "width", "expand", "kernel", "precision"}
    assert {choice.role for choice in hwsearch.load_space("nasbench201").choices} == {"operation"}


def test_spaces_are_restricted_by_role(digits: SearchSpace) -> None:
    small = digits.restrict({"precision": ["int8"], "depth": [1], "resolution": [8]})
    choices = zip(small.choices, small.allowed, strict=True)
    offered = {(choice.role, choice.values[index]) for choice, allowed in choices for index in allowed if choice.role != "width"}
    assert offered == {("precision", "int8"), ("depth", 1), ("resolution", 8)}
    with pytest.raises(UnknownName, match="kernel"):
        digits.restrict({"kernel": [3]})
