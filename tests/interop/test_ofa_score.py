"""Once-for-All's ResNet-50 predictor on a grid of widths that is finer than its own."""

import numpy as np
import pytest

import hwsearch
from hwsearch.errors import InvalidInput
from hwsearch.interop import ofa_predictor, ofa_resnet50_score
from hwsearch.spaces._chain import divisible
from hwsearch.spaces.library.ofa_resnet50 import EXPANDS, SCALES
from hwsearch.spaces.library.resnet50 import build

FULL = {"stage1": 256, "stage2": 512, "stage3": 1024, "stage4": 2048}


@pytest.fixture(scope="module")
def file(data_folder):
    pytest.importorskip("torch")
    path = data_folder / "ofa" / "resnet50_acc_predictor.pth"
    if not path.exists():
        pytest.skip("Once-for-All's predictor is not at hand")
    return path


@pytest.fixture(scope="module")
def space():
    """With all multiples of 8; too many blocks to lower, and none is needed here."""
    return build(mids=200, outs=200)


@pytest.fixture(scope="module")
def score(file, space):
    return ofa_resnet50_score(file, space)


def coarse(space, rng):
    """A random network of published widths: its row in the fine space, and its genes in Once-for-All's."""
    fine = {"resolution": 224, "stem.out": 64, "stem.precision": "int8", "head.precision": "int8"}
    theirs = {"resolution": 224, "stem1.width": 1.0, "stem2.depth": 0, "stem3.width": 1.0}
    for stage, full in FULL.items():
        scale = SCALES[rng.integers(3)]
        depth = int(
            rng.choice([value for value in space.choices[space.position[f"{stage}.depth"]].values if stage != "stage3" or value > 3])
        )
        out = divisible(full * scale)
        fine |= {f"{stage}.depth": depth, f"{stage}.out": out}
        theirs |= {f"{stage}.depth": depth, f"{stage}.width": scale}
        for number in range(1, depth + 1):
            ratio = EXPANDS[rng.integers(2)] if scale == 1.0 else EXPANDS[rng.integers(3)]
            mid = divisible(round(out * ratio))
            block = f"{stage}.block{number}"
            top = max(space.choices[space.position[f"{block}.mid1"]].values)
            mid, ratio = (mid, ratio) if mid <= top else (divisible(round(out * EXPANDS[0])), EXPANDS[0])
            fine |= {f"{block}.mid1": mid, f"{block}.mid2": mid, f"{block}.precision": "int8"}
            theirs[f"{block}.expand"] = ratio
    return fine, theirs


def test_published_widths_get_the_published_prediction(file, space, score, rng):
    published = hwsearch.load_space("ofa_resnet50")
    predictor = ofa_predictor(file, published)
    for _ in range(20):
        fine, theirs = coarse(space, rng)
        row = space.encode(fine)[None]
        assert not score.extrapolates(row)[0]
        assert score(row)[0] == pytest.approx(predictor(published.encode(theirs)[None])[0], abs=1e-6)


def test_between_published_widths_the_prediction_moves_in_small_steps(space, score):
    whole = hwsearch.searching.dense(space, "int8").values()
    outs = [width for width in space.choices[space.position["stage3.out"]].values if 832 <= width <= 1024]
    rows = np.stack([space.encode({**whole, "stage3.out": width}) for width in outs])
    found = score(rows)
    assert not score.extrapolates(rows).any()
    steps = np.abs(np.diff(found))
    assert 0 < steps.max() < 0.5 * abs(found[-1] - found[0]) + 1e-4


def test_an_uneven_pair_of_inner_widths_has_no_advantage(space, score):
    whole = hwsearch.searching.dense(space, "int8").values()
    even = {**whole, "stage4.block2.mid1": 448, "stage4.block2.mid2": 448}
    uneven = {**whole, "stage4.block2.mid1": 424, "stage4.block2.mid2": 472}
    rows = np.stack([space.encode(even), space.encode(uneven)])
    assert score(rows)[1] == pytest.approx(score(rows)[0], abs=2e-4)


def test_outside_of_what_was_trained_a_search_walks_back_in(file, rng):
    space = build(mids=8, outs=6, resolutions=(224,), precisions=("int8",))
    score = ofa_resnet50_score(file, space)
    narrow = space.restrict({"stage1.out": [64], "stage2.out": [128]}).sample(5, rng)
    assert score.extrapolates(narrow).all()
    assert (score(narrow) < 0).all()
    found = hwsearch.search(space.restrict(score.values), predictor=score, run=hwsearch.Run(steps=15))
    assert not score.extrapolates(found.best.genes[None])[0]
    assert 0.7 < found.best_score < 0.9
    far = ofa_resnet50_score(file, space, reach=0.2)
    assert (far.extrapolates(narrow) <= score.extrapolates(narrow)).all()
    assert set(far.values["stage1.out"]) > set(score.values["stage1.out"])


def test_other_spaces_are_refused(file, toy, space):
    with pytest.raises(InvalidInput, match="'resnet50', not for 'toy'"):
        ofa_resnet50_score(file, toy)
    with pytest.raises(InvalidInput, match="reach"):
        ofa_resnet50_score(file, space, reach=-0.1)
