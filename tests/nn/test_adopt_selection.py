"""LASSO and ThiNet: importances that look at what the next layers are given."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import hwsearch
from hwsearch.errors import InvalidInput
from hwsearch.nn.adoption import Adopted, Probing, importance
from hwsearch.nn.adoption._evidence import Evidence
from hwsearch.nn.adoption._responses import responses
from hwsearch.nn.adoption.importances.lasso import _along

torch.set_num_threads(1)


class Residual(nn.Module):
    """Two convolutions, a sum, and two readers of it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 12, 3, padding=1), nn.Conv2d(12, 16, 3, stride=2)
        self.linear = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.a(x))
        x = torch.relu(x + self.b(x))
        return self.linear(torch.relu(self.c(x)).mean((2, 3)))


def images(n: int = 40, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 3, 10, 10, generator=torch.Generator().manual_seed(seed))


def adopted(module: nn.Module) -> Adopted:
    return hwsearch.adopt(module.eval(), images(2), step=1)


def plain(width: int = 8) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 4))


def first(space: Adopted) -> str:
    return next(group.id for group in space.groups if group.searchable)


def test_responses_are_the_moments_of_what_channels_add(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwsearch.nn.adoption._responses.POINTS", 10**6)
    module = plain()
    space = adopted(module)
    found = responses(Evidence(space, (images(),)))[first(space)]
    with torch.no_grad():
        x = module[1](module[0](images()))
        weight = module[2].weight
        added = torch.stack([nn.functional.conv2d(x[:, [c]], weight[:, [c]]) for c in range(8)])
        added = added - added.mean(dim=(1, 3, 4), keepdim=True)
    both = torch.einsum("unohw,vnohw->uv", added, added) / (len(x) * 36)
    assert np.allclose(found, both.numpy() / both.sum().item(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("make", [plain, Residual])
def test_lasso_leaves_exactly_the_number_that_is_given(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    space = adopted(make())
    for number in range(1, 9):
        widths = {group.id: min(number, group.width) for group in space.groups if group.searchable}
        scores = importance(space, "lasso", images(), widths=widths)
        assert {group: int((each >= 1.0).sum()) for group, each in scores.items()} == widths
        assert all(len(space.choose(widths, scores)[group]) == width for group, width in widths.items())


def test_lasso_keeps_what_matters_and_lets_go_what_nothing_reads() -> None:
    module = plain()
    with torch.no_grad():
        module[2].weight[:, 3] *= 10.0
        module[2].weight[:, 6:] = 0.0
    space = adopted(module)
    group = first(space)
    for scores in (importance(space, "lasso", images(), widths={group: 4}), importance(space, "lasso", images())):
        order = np.argsort(-scores[group], kind="stable").tolist()
        assert order[0] == 3
        assert set(order[6:]) == {6, 7}


def test_lasso_is_scikit_learns_on_the_sampled_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """The units of one penalty are those that scikit-learn chooses when it is given all points and outputs."""
    from sklearn.linear_model import Lasso

    monkeypatch.setattr("hwsearch.nn.adoption._responses.POINTS", 10**6)
    module = plain()
    space = adopted(module)
    with torch.no_grad():
        x = module[1](module[0](images()))
        added = torch.stack([nn.functional.conv2d(x[:, [c]], module[2].weight[:, [c]]) for c in range(8)], dim=-1)
        added = (added - added.mean(dim=(0, 2, 3), keepdim=True)).reshape(-1, 8).double().numpy()
    for alpha in np.geomspace(1e-4, 1.0, 40) * float(np.abs(added.T @ added.sum(1)).max() / len(added)):
        chosen = np.flatnonzero(Lasso(alpha=alpha, fit_intercept=False, max_iter=10000).fit(added, added.sum(1)).coef_)
        if 0 < len(chosen) < 8:
            scores = importance(space, "lasso", images(), widths={first(space): len(chosen)})[first(space)]
            assert set(np.flatnonzero(scores >= 1.0)) == set(chosen)


def test_thinet_removes_greedily_what_adds_least_together() -> None:
    space = adopted(plain())
    group = first(space)
    moments = responses(Evidence(space, (images(),)))[group]
    order = np.argsort(importance(space, "thinet", images())[group], kind="stable").tolist()
    gone: list[int] = []
    for unit in order:
        costs = {other: moments[np.ix_([*gone, other], [*gone, other])].sum() for other in range(8) if other not in gone}
        assert unit == min(costs, key=lambda other: costs[other])
        gone.append(unit)
    pair = {each: moments[np.ix_(each, each)].sum() for each in combinations(range(8), 2)}
    assert moments[np.ix_(order[:2], order[:2])].sum() <= np.median(list(pair.values()))


@pytest.mark.parametrize("name", ["lasso", "thinet"])
def test_they_are_importances_like_others(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    space = adopted(Residual())
    labels = torch.randint(5, (60,), generator=torch.Generator().manual_seed(0))
    probing = Probing(importance=name, images=30, held_out=30, networks=4, widths=1)
    score = hwsearch.fit_predictor(space, data=[(images(60), labels)], out=tmp_path / "score.npz", sampling=probing, progress=False)
    assert np.isfinite(score(space.sample(3, np.random.default_rng(0)))).all()
    with pytest.raises(InvalidInput, match="give images"):
        importance(space, name)


def test_both_keep_more_of_the_result_than_chance(rng: np.random.Generator) -> None:
    torch.manual_seed(3)
    space = adopted(plain(16))
    group = first(space)
    moments = responses(Evidence(space, (images(200, seed=1),)))[group]

    def left(kept: np.ndarray) -> float:  # type: ignore[type-arg]
        """What is lost of the result when the kept units are fitted to it."""
        fitted = np.linalg.lstsq(moments[np.ix_(kept, kept)], moments[kept].sum(1), rcond=None)[0]
        return float(1 - moments[kept].sum(1) @ fitted)

    chance = [left(rng.permutation(16)[:8]) for _ in range(200)]
    for scores in (importance(space, "lasso", images(), widths={group: 8}), importance(space, "thinet", images())):
        assert left(np.argsort(-scores[group], kind="stable")[:8]) < np.quantile(chance, 0.2)


@pytest.mark.parametrize(("padding", "zeros"), [("same", 1), ("valid", 0)])
def test_padding_by_name_is_padding_by_numbers(padding: str, zeros: int) -> None:
    """For LASSO, for ThiNet and for the repair, which once passed over such layers."""
    torch.manual_seed(1)
    tail = [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)]
    named = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3, padding=padding), *tail)
    numbered = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3, padding=zeros), *tail)
    numbered.load_state_dict(named.state_dict())
    one, two = adopted(named), adopted(numbered)
    for name in ("lasso", "thinet"):
        scores = importance(one, name, images())
        assert all(np.array_equal(each, importance(two, name, images())[group]) for group, each in scores.items())
        assert len(np.unique(scores[first(one)])) == 8
    kept = one.choose({first(one): 4}, importance(one, "thinet", images()))
    mended = [space.extract(kept, images=images())(images()) for space in (one, two)]
    assert torch.equal(*mended)


@pytest.mark.parametrize(("size", "dilation"), [((4, 3), 1), ((2, 5), (3, 2))])
def test_same_padding_of_even_kernels_computes_the_same(size: tuple[int, int], dilation: int | tuple[int, int]) -> None:
    torch.manual_seed(2)
    reader = nn.Conv2d(8, 6, size, padding="same", dilation=dilation)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), reader, nn.ReLU(), nn.Flatten(), nn.Linear(384, 4))
    space = adopted(module)
    assert torch.allclose(space.network(images()), module(images()), atol=1e-6)
    assert importance(space, "thinet", images())[first(space)].max() > 1e-3


@pytest.mark.parametrize("name", ["lasso", "thinet"])
def test_a_group_whose_readers_are_not_understood_is_refused_by_name(name: str) -> None:
    space = adopted(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 6, 3), nn.Flatten(), nn.Linear(600, 4)))
    with pytest.raises(InvalidInput, match=f"reads the channels of {first(space)}.*'taylor'"):
        importance(space, name, images())


def test_lasso_weighs_groups_against_each_other() -> None:
    """Of units that add what no other does, the score is the share of the result that is lost with them."""
    shares = np.array([0.5, 0.25, 0.15, 0.1])
    assert _along(np.diag(shares)) == pytest.approx(shares, rel=0.1)
    wide = np.repeat(shares / 4, 4)
    assert _along(np.diag(wide)) == pytest.approx(wide, rel=0.1)
    assert (_along(np.zeros((3, 3))) < 1e-20).all()
