"""What a cut network is worth before any training: which units are kept, how many of each group, and what least squares repair."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from masking import draw, enliven
from test_adopt import CASES, IMAGE, Net, conv, head
from torch import nn
from torch.nn import functional as F

import hwsearch
from hwsearch import _registry
from hwsearch.errors import InvalidInput, UnknownName
from hwsearch.nn.adoption import Adopted, Evidence, _repair, _together, _tuning, allocate, importance
from hwsearch.nn.adoption._evidence import projected
from hwsearch.nn.adoption._normal import Normal
from hwsearch.nn.adoption._repair import Repair
from hwsearch.nn.adoption._together import pieces
from hwsearch.nn.adoption._tuning import RIDGES, Examples, affordable, derivatives, find_spots, move, solutions


def chain() -> tuple[Net, Adopted]:
    """Two convolutions, the first of eight channels, and a linear layer."""
    module = Net(lambda m, x: head(m.n(m.b(F.relu(m.a(x)))), m), a=conv(3, 8), b=conv(8, 6), n=nn.BatchNorm2d(6), out=nn.Linear(6, 5))
    enliven(module)
    return module, hwsearch.adopt(module, torch.randn(IMAGE))


def group_of(adopted: Adopted, weight: str) -> str:
    return next(group.id for group in adopted.groups if (weight, 1) in group.opened)


def images(n: int = 64) -> torch.Tensor:
    return torch.randn((n, *IMAGE[1:]), generator=torch.Generator().manual_seed(3))


def error(network: nn.Module, module: nn.Module, x: torch.Tensor) -> float:
    with torch.no_grad():
        found, wanted = (torch.cat([each.flatten() for each in torch.utils._pytree.tree_leaves(net(x))]) for net in (network, module))
    return float((found - wanted).square().mean() / wanted.var())


def test_a_repaired_reader_is_the_least_squares_solution() -> None:
    """By hand: patches of what the cut layer gives, against what the whole network computes, solved by numpy."""
    module, adopted = chain()
    x = images()
    cut = adopted.extract({group_of(adopted, "a.weight"): [0, 2, 3, 5, 7]}, images=x)
    with torch.no_grad():
        hidden = F.relu(F.conv2d(x, cut.get_parameter("a.weight"), cut.get_parameter("a.bias"), padding=1))
        columns = F.unfold(hidden, 3, padding=1).transpose(1, 2).reshape(-1, 45).double()
        wanted = module.b(F.relu(module.a(x))).flatten(2).transpose(1, 2).reshape(-1, 6).double()
    design = np.concatenate([columns.numpy(), np.ones((len(columns), 1))], axis=1)
    solution = np.linalg.lstsq(design, wanted.numpy(), rcond=None)[0]
    assert np.allclose(cut.get_parameter("b.weight").detach().reshape(6, 45), solution[:-1].T, atol=2e-3)
    assert np.allclose(cut.get_parameter("b.bias").detach(), solution[-1], atol=2e-3)


@given(st.integers(1, 3), st.integers(1, 300), st.integers(1, 4), st.sampled_from([0.0, 10.0, 1000.0]), st.booleans(), st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_least_squares_are_exact_however_far_inputs_lie_from_zero(
    groups: int, inputs: int, outputs: int, offset: float, intercept: bool, seed: int
) -> None:
    """Against numpy in double precision, with the ridge as rows of their own; positions come in batches of any size."""
    rng = np.random.default_rng(seed)
    n = 2 * inputs + 5000
    x = (rng.normal(size=(n, groups, inputs)) + offset).astype(np.float32)
    true = rng.normal(size=(groups, inputs, outputs))
    y = (np.einsum("ngd,gdo->ngo", x - offset, true) + offset + rng.normal(size=(n, groups, outputs))).astype(np.float32)
    weight = rng.normal(size=(groups, outputs, inputs))
    normal, start = Normal(), 0
    for size in (1, n // 3, 0, n):
        normal.add(torch.from_numpy(x[start : start + size]), torch.from_numpy(y[start : start + size]))
        start += size
    found, left = (each.numpy() for each in normal.solve(torch.from_numpy(weight), 1e-3, intercept))
    normal.forget_wanted()
    normal.add_wanted(torch.from_numpy(x), torch.from_numpy(y))
    assert np.allclose(found, normal.solve(torch.from_numpy(weight), 1e-3, intercept)[0], atol=1e-3)
    for group in range(groups):
        a, b = x[:, group].astype(float), y[:, group].astype(float)
        middle = (a.mean(0), b.mean(0)) if intercept else (0.0, 0.0)
        a, b = a - middle[0], b - middle[1]
        pull = np.sqrt(1e-3 * np.square(a).mean() * n) * np.eye(inputs)
        wanted = np.linalg.lstsq(np.concatenate([a, pull]), np.concatenate([b, pull @ weight[group].T]), rcond=None)[0]
        assert np.allclose(found[group].T, wanted, atol=1e-3 * (1 + np.abs(wanted).max()))
        assert np.allclose(left[group], middle[1] - middle[0] @ found[group].T if intercept else 0.0, atol=1e-2)


def test_batch_norms_take_the_statistics_of_what_they_see() -> None:
    """Where no fitted layer stands before them."""
    module = Net(
        lambda m, x: head(m.n(m.c(F.relu(m.b(F.relu(m.a(x)))))), m),
        a=conv(3, 8), b=conv(8, 6), c=nn.AvgPool2d(2), n=nn.BatchNorm2d(6), out=nn.Linear(6, 5),
    )  # fmt: skip
    enliven(module)
    adopted = hwsearch.adopt(module, torch.randn(IMAGE))
    x = images()
    cut = adopted.extract({group_of(adopted, "a.weight"): 4}, images=x)
    with torch.no_grad():
        hidden = F.relu(F.conv2d(x, cut.get_parameter("a.weight"), cut.get_parameter("a.bias"), padding=1))
        hidden = F.relu(F.conv2d(hidden, cut.get_parameter("b.weight"), cut.get_parameter("b.bias"), padding=1))
        seen = F.avg_pool2d(hidden, 2)
    assert torch.allclose(cut.get_buffer("n.running_mean"), seen.mean((0, 2, 3)), atol=1e-4)
    assert torch.allclose(cut.get_buffer("n.running_var"), seen.var((0, 2, 3)), rtol=1e-4)


def test_batch_norms_after_a_fitted_layer_keep_what_least_squares_found() -> None:
    """What a layer cannot give is left out and not made up for by blowing up the rest."""
    module, adopted = chain()
    cut = adopted.extract({group_of(adopted, "a.weight"): 4}, images=images())
    assert torch.equal(cut.get_buffer("n.running_mean"), module.n.running_mean)
    assert torch.equal(cut.get_buffer("n.running_var"), module.n.running_var)


def test_channels_that_others_determine_are_repaired_completely() -> None:
    module = Net(lambda m, x: head(m.b(m.a(x)), m), a=conv(3, 8), b=conv(8, 6, 1), out=nn.Linear(6, 5))
    enliven(module)
    with torch.no_grad():
        module.a.weight[4:] = torch.einsum("oi,ichw->ochw", torch.randn(4, 4), module.a.weight[:4])
        module.a.bias.zero_()
    adopted = hwsearch.adopt(module, torch.randn(IMAGE))
    plan = {group_of(adopted, "a.weight"): [0, 1, 2, 3]}
    x = images()
    assert error(adopted.extract(plan), module, x) > 1e-3
    assert error(adopted.extract(plan, images=x), module, x) < 1e-6


def test_batch_norms_before_any_cut_keep_their_statistics() -> None:
    module = Net(
        lambda m, x: head(m.k(m.p(m.b(F.relu(m.n(m.a(x)))))), m),
        a=conv(3, 8), n=nn.BatchNorm2d(8), b=conv(8, 6), p=nn.AvgPool2d(2), k=nn.BatchNorm2d(6), out=nn.Linear(6, 5),
    )  # fmt: skip
    enliven(module)
    adopted = hwsearch.adopt(module, torch.randn(IMAGE))
    kept = [0, 2, 3, 5]
    cut = adopted.extract({group_of(adopted, "a.weight"): kept}, images=images())
    assert torch.equal(cut.get_buffer("n.running_mean"), module.n.running_mean[kept])
    assert torch.equal(cut.get_buffer("n.running_var"), module.n.running_var[kept])
    assert not torch.equal(cut.get_buffer("k.running_var"), module.k.running_var)


def test_sums_of_every_kind_beside_a_repaired_layer() -> None:
    """A constant, the layer's own result, a value for each channel, and a sum with a factor: nothing of these is taken for a shortcut."""
    for call in (
        lambda y, m: m.b(y) + 1.5,
        lambda y, m: (lambda z: z + z)(m.b(y)),
        lambda y, m: m.b(y) + m.c(y.mean((2, 3), keepdim=True)),
        lambda y, m: torch.add(m.c(y), m.b(y), alpha=2),
    ):
        module = Net(
            lambda m, x, call=call: head(call(F.relu(m.a(x)), m), m), a=conv(3, 8), b=conv(8, 6), c=conv(8, 6, 1), out=nn.Linear(6, 5)
        )
        enliven(module)
        adopted = hwsearch.adopt(module, torch.randn(IMAGE))
        plan = {group_of(adopted, "a.weight"): 6}
        assert error(adopted.extract(plan, images=images(200)), module, images(50)) < 0.9 * error(adopted.extract(plan), module, images(50))


REPAIRED = (
    "residual sum", "dense cat", "unequal split and cat in another order", "flatten to linear", "depthwise with multiplier",
    "grouped convolution loses whole groups", "channel shuffle between grouped convolutions", "squeeze and excite", "transformer block",
    "shared convolution", "option-A shortcut", "one-dimensional", "several inputs", "several outputs, in a dict",
)  # fmt: skip


@pytest.mark.parametrize("name", REPAIRED)
def test_repair_brings_a_cut_network_closer_to_the_whole_one(name: str) -> None:
    """On images that it was not repaired on."""
    module, shapes, _ = CASES[name]
    enliven(module)
    generator = torch.Generator().manual_seed(0)
    adopted = hwsearch.adopt(module, tuple(torch.randn(shape, generator=generator) for shape in shapes))
    given, fresh = ([torch.randn((200, *shape[1:]), generator=generator) for shape in shapes] for _ in range(2))
    keep = {group.id: -(-3 * group.width // 4) for group in adopted.groups if group.searchable}

    def off(network: nn.Module) -> float:
        with torch.no_grad():
            found, wanted = (torch.utils._pytree.tree_leaves(net(*fresh)) for net in (network, module))
        return sum(float((x - y).square().mean() / y.var()) for x, y in zip(found, wanted, strict=True))

    assert off(adopted.extract(keep, images=given)) < 0.9 * off(adopted.extract(keep))


@pytest.mark.parametrize("name", ["transformer block", "dense cat", "squeeze and excite"])
def test_scales_and_shifts_fitted_together_bring_the_outputs_nearer(name: str) -> None:
    """On images that had no part in it; where half of all units are gone, each layer alone cannot know which of its errors matter."""
    module, shapes, _ = CASES[name]
    enliven(module)
    generator = torch.Generator().manual_seed(0)
    adopted = hwsearch.adopt(module, torch.randn(shapes[0], generator=generator))
    given, fresh = (torch.randn((n, *shapes[0][1:]), generator=generator) for n in (1000, 500))
    cut = adopted.cut({group.id: -(-group.width // 2) for group in adopted.groups if group.searchable})
    alone, together = (error(Repair(cut, (given,), tuned=tuned).run(), module, fresh) for tuned in (False, True))
    assert together < (0.95 if name == "transformer block" else 0.99) * alone


def test_fitting_scales_and_shifts_together_is_one_least_squares_step() -> None:
    """Beside numpy: difference quotients of every output by every scale and shift, and their normal equations."""
    _, adopted = chain()
    double = adopted.extract({}).double()
    x = images(40).double()
    spots = find_spots(double, [(x,)], ())
    names = [(spot.scaled, spot.shifted) for spot in spots]
    assert names == [("a.weight", "a.bias"), ("n.weight", "n.bias"), ("out.weight", "out.bias")]
    steps = torch.zeros(sum(2 * len(spot.deviation) for spot in spots), dtype=torch.float64)
    before = {name: double.get_parameter(name).detach().clone() for pair in names for name in pair}
    with torch.no_grad():
        columns = []
        for number in range(len(steps)):
            values = []
            for size in (1e-5, -1e-5):
                move(double, spots, steps + size * torch.eye(len(steps), dtype=torch.float64)[number], before)
                values.append(double(x).flatten())
            columns.append((values[0] - values[1]) / 2e-5)
        move(double, spots, steps, before)
        left = torch.randn(len(values[0]), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rows = torch.stack(columns, 1)
    for ridge, found in zip(RIDGES, solutions(rows, left), strict=True):
        strength = ridge * float(rows.square().sum(0).mean())
        design = np.concatenate([rows.numpy(), np.sqrt(strength) * np.eye(len(steps))])
        wanted = np.linalg.lstsq(design, np.concatenate([left.numpy(), np.zeros(len(steps))]), rcond=None)[0]
        assert np.allclose(found, wanted, atol=1e-8)
    examples = Examples((x,), (double(x).detach() + left.reshape(len(x), -1),))
    pairs = list(derivatives(double, spots, examples, torch.Generator().manual_seed(0)))
    noise = [
        torch.randn(len(x), 5, dtype=torch.float64, generator=generator) for generator in [torch.Generator().manual_seed(0)] for _ in pairs
    ]
    for (found, lacking), each in zip(pairs, noise, strict=True):
        wanted_rows = torch.einsum("nop,no->np", rows.reshape(len(x), 5, -1), each)
        assert torch.allclose(found, wanted_rows, rtol=1e-4, atol=1e-6)
        assert torch.allclose(lacking, (left.reshape(len(x), -1) * each).sum(1), rtol=1e-6)


def test_repair_of_all_layers_at_once_fits_each_to_the_inputs_that_the_whole_network_gives() -> None:
    """Beside numpy; the layer before it was fitted too, but its own errors are not seen, which is why the other way is the usual one."""
    module = Net(lambda m, x: head(m.c(F.relu(m.b(F.relu(m.a(x))))), m), a=conv(3, 8), b=conv(8, 8), c=conv(8, 6, 1), out=nn.Linear(6, 5))
    enliven(module)
    adopted = hwsearch.adopt(module, torch.randn(IMAGE))
    kept = [0, 2, 3, 5, 7]
    cut, x = adopted.cut({group_of(adopted, "a.weight"): kept[:4], group_of(adopted, "b.weight"): kept}), images()
    once, after = (Repair(cut, (x,), sequential=each, tuned=False).run() for each in (False, True))
    with torch.no_grad():
        hidden = F.relu(module.b(F.relu(module.a(x))))
        columns, wanted = (each.flatten(2).transpose(1, 2).flatten(0, 1).double() for each in (hidden[:, kept], module.c(hidden)))
    design = np.concatenate([columns.numpy(), np.ones((len(columns), 1))], axis=1)
    solution = np.linalg.lstsq(design, wanted.numpy(), rcond=None)[0]
    assert np.allclose(once.get_parameter("c.weight").detach().reshape(6, 5), solution[:-1].T, atol=2e-3)
    assert np.allclose(once.get_parameter("c.bias").detach(), solution[-1], atol=2e-3)
    assert error(after, module, x) < 0.95 * error(once, module, x)


def test_what_a_rectifier_does_not_pass_is_left_out() -> None:
    """Of two layers that a rectifier follows, what comes out of it is nearer; without the rectifier nothing is left out."""
    for activation, factor in ((F.relu, 0.985), (F.silu, 1.0)):
        module = Net(
            lambda m, x, f=activation: head(f(m.n(m.b(F.relu(m.a(x))))), m),
            a=conv(3, 8), b=conv(8, 12), n=nn.BatchNorm2d(12), out=nn.Linear(12, 5),
        )  # fmt: skip
        enliven(module)
        with torch.no_grad():
            module.n.weight[::2] *= -1
        adopted = hwsearch.adopt(module, torch.randn(IMAGE))
        cut = adopted.cut({group_of(adopted, "a.weight"): 3})
        given, fresh = images(200), torch.randn((200, *IMAGE[1:]), generator=torch.Generator().manual_seed(5))

        def passed(network: nn.Module, f: Any = activation, x: torch.Tensor = fresh) -> torch.Tensor:
            part = dict(network.named_parameters()) | dict(network.named_buffers())
            y = F.conv2d(F.relu(F.conv2d(x, part["a.weight"], part["a.bias"], padding=1)), part["b.weight"], part["b.bias"], padding=1)
            return f(F.batch_norm(y, part["n.running_mean"], part["n.running_var"], part["n.weight"], part["n.bias"])).detach()

        wanted = passed(module)
        plain, left_out = (float((passed(Repair(cut, (given,), rounds=n, tuned=False).run()) - wanted).square().mean()) for n in (0, 3))
        assert left_out <= factor * plain
        assert (left_out == plain) == (activation is F.silu)


def test_a_bias_that_may_not_change_is_not_made_up_for_twice() -> None:
    module, _ = chain()
    with torch.no_grad():
        module.b.bias += 2.0
    x = images()
    for freeze in ([], ["b.bias"], ["b.bias", "n"]):
        adopted = hwsearch.adopt(module, torch.randn(IMAGE), freeze=freeze)
        plan = {group_of(adopted, "a.weight"): 5}
        assert error(adopted.extract(plan, images=x), module, x) < 0.5 * error(adopted.extract(plan), module, x)


def test_derivatives_are_taken_of_as_many_images_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    """One at once if need be; the repair is worth the same then."""
    module, adopted = chain()
    network, x = adopted.extract({}), images(20)
    assert affordable(network, (x,), 100) == 100
    monkeypatch.setattr(_tuning, "_MEMORY", 400_000)
    assert 1 < affordable(network, (x,), 100) < 50
    monkeypatch.setattr(_tuning, "_MEMORY", 1)
    assert affordable(network, (x,), 100) == 1
    plan = {group_of(adopted, "a.weight"): 4}
    assert error(adopted.extract(plan, images=images(240)), module, x) < error(adopted.extract(plan), module, x)


def test_few_images_or_a_whole_network_leave_scales_and_shifts_as_they_are() -> None:
    """What cannot be judged on images held back is not done, and what is right already stays equal to the bit."""
    module, adopted = chain()
    whole = adopted.extract({}, images=images(300))
    assert all(torch.equal(module.get_parameter(name), tensor) for name, tensor in whole.named_parameters())
    cut = adopted.extract({group_of(adopted, "a.weight"): 4}, images=images(150))
    assert torch.equal(cut.get_parameter("n.weight"), module.n.weight)


def test_what_is_not_cut_and_what_is_frozen_stays_equal_to_the_bit() -> None:
    module = enliven(CASES["dense cat"][0])
    x = images()
    adopted = hwsearch.adopt(module, torch.randn(IMAGE), freeze=["c"])
    whole = adopted.extract({}, images=x)
    assert all(torch.equal(module.get_parameter(name), tensor) for name, tensor in whole.named_parameters())
    plan = draw(adopted, np.random.default_rng(0))
    cut = adopted.extract(plan, images=x)
    assert torch.equal(cut.get_parameter("c.weight"), module.c.weight)
    assert torch.equal(cut.get_parameter("c.bias"), module.c.bias)
    with pytest.raises(InvalidInput, match="inputs of sizes"):
        adopted.extract(plan, images=torch.randn(4, 3, 5, 5))


def test_repairing_twice_gives_the_same_network() -> None:
    _, adopted = chain()
    a, b = (adopted.extract({group_of(adopted, "a.weight"): 4}, images=images()) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_importances_of_weights_by_hand() -> None:
    module, adopted = chain()
    a, b = group_of(adopted, "a.weight"), group_of(adopted, "b.weight")
    rows = module.a.weight.detach().flatten(1)
    by = {name: importance(adopted, name) for name in ("l1", "l2", "fpgm", "lamp", "bn_scale")}
    assert np.allclose(by["l1"][a], rows.abs().sum(1))
    assert np.allclose(by["l2"][a], rows.square().sum(1))
    assert np.allclose(by["fpgm"][a], [sum(float((x - y).norm()) for y in rows) for x in rows], rtol=1e-4)
    squares = rows.square().sum(1)
    assert np.allclose(by["lamp"][a], [float(x / squares[squares >= x].sum()) for x in squares])
    assert np.allclose(by["bn_scale"][b], module.n.weight.detach().abs())
    assert not by["bn_scale"][a].any()


@pytest.mark.parametrize(
    "name", ["residual sum", "dense cat", "C2f: a chunk that is read and joined again", "squeeze and excite", "transformer block"]
)
def test_taylor_and_fisher_are_derivatives_of_the_loss(name: str) -> None:
    """Beside a difference quotient: what all readers see of one unit is scaled a little, in the user's own module."""
    module, shapes, _ = CASES[name]
    enliven(module).double()
    adopted = hwsearch.adopt(module, torch.randn(shapes[0]).double())
    x, y = torch.randn((6, *shapes[0][1:])).double(), torch.randint(0, 5, (6,))
    if name == "transformer block":
        y = y[:, None].repeat(1, shapes[0][1])

    def loss(outputs: object, targets: torch.Tensor) -> torch.Tensor:
        [found] = outputs  # type: ignore[misc]
        return F.cross_entropy(found.flatten(0, -2), targets.flatten(), reduction="none").reshape(len(targets), -1).sum(1).sum()

    found = {each: importance(adopted, each, x, y, loss) for each in ("taylor", "fisher")}
    group = next(group for group in adopted.groups if group.searchable and len(group.read) == 1 and group.read[0][1] == 1)
    weight = module.get_parameter(group.read[0][0])
    node = next(node for node in adopted.network.graph.nodes if node.target == group.read[0][0])
    for unit in range(2):
        left = adopted.cut({group.id: np.delete(np.arange(group.width), unit)}).index(node, 1)
        kept = np.setdiff1d(np.arange(weight.shape[1]), left)
        values = []
        for factor in (1 + 1e-6, 1 - 1e-6):
            with torch.no_grad():
                weight[:, kept] *= factor
                values.append(torch.stack([loss([module(x[i : i + 1])], y[i : i + 1]) for i in range(6)]))
                weight[:, kept] /= factor
        slope = (values[0] - values[1]) / 2e-6
        assert np.allclose(found["taylor"][group.id][unit], slope.abs().sum(), rtol=1e-4)
        assert np.allclose(found["fisher"][group.id][unit], slope.square().sum() / 2, rtol=1e-4)
    assert all(each.grad is None for each in module.parameters())
    module.float()


def test_outputs_criterion_is_the_expected_square_of_the_change_of_all_outputs() -> None:
    """Beside difference quotients of every output; the average over random projections comes near with many images alike."""
    module, adopted = chain()
    group = next(group for group in adopted.groups if ("a.weight", 1) in group.opened)
    image = images(1)
    found = importance(adopted, "outputs", image.repeat(2000, 1, 1, 1))[group.id] / 2000
    with torch.no_grad():
        for unit in range(group.width):
            values = []
            for factor in (1 + 1e-3, 1 - 1e-3):
                module.b.weight[:, unit] *= factor
                values.append(module(image).double())
                module.b.weight[:, unit] /= factor
            slope = (values[0] - values[1]) / 2e-3
            assert np.isclose(found[unit], float(slope.square().sum()) / 2, rtol=0.25)
    with pytest.raises(InvalidInput, match="give images"):
        importance(adopted, "outputs")


def test_reconstruction_is_what_readers_lose_after_least_squares() -> None:
    """Beside numpy: after each removal the scores of all that is gone sum to the slopes' moments times the residual's covariance."""
    module, adopted = chain()
    group, x = group_of(adopted, "a.weight"), images(40)
    scores = importance(adopted, "reconstruction", x)[group]
    evidence = Evidence(adopted, (x,), torch.zeros(len(x)), projected())
    value, slope = [], []
    for _, reads in evidence.reads():
        for read in reads:
            if read.units.tolist() == next(each for each in adopted.groups if each.id == group).units.tolist():
                value.append(read.value.movedim(1, -1).reshape(-1, 8).double().numpy())
                slope.append(read.slope.movedim(1, -1).reshape(-1, 8).double().numpy())
    v, s = np.concatenate(value), np.concatenate(slope)
    with torch.no_grad():
        assert np.allclose(v, F.relu(module.a(x)).movedim(1, -1).reshape(-1, 8), atol=1e-5)
    assert (np.diff(np.sort(scores)) > 0).all()
    order = np.argsort(scores)
    lost = []
    for gone in range(1, 8):
        kept = np.concatenate([v[:, order[gone:]], np.ones((len(v), 1))], axis=1)
        residual = v - kept @ np.linalg.lstsq(kept, v, rcond=None)[0]
        lost.append(np.trace(residual.T @ residual / len(v) @ (s.T @ s) / len(x)))
    assert np.allclose(np.sort(scores)[:7].cumsum()[-1], lost[-1], rtol=0.02)
    assert (np.sort(scores)[:7].cumsum() <= np.array(lost) * 1.02).all()  # the lower convex hull of what is lost
    with pytest.raises(InvalidInput, match="give images"):
        importance(adopted, "reconstruction")


def test_a_channel_that_others_determine_costs_nothing_however_much_it_weighs() -> None:
    module, adopted = chain()
    with torch.no_grad():
        module.a.weight[5], module.a.bias[5] = 3 * module.a.weight[2], 3 * module.a.bias[2]
    adopted = hwsearch.adopt(module, torch.randn(IMAGE))
    group = group_of(adopted, "a.weight")
    first, plain = (importance(adopted, name, images())[group] for name in ("reconstruction", "outputs"))
    assert int(np.argmin(first)) in (2, 5)
    assert first.min() < 0.02 * np.sort(first)[1]
    assert plain[5] > np.median(plain)


@pytest.mark.parametrize("name", ["residual sum", "transformer block", "flatten to linear", "dense cat", "squeeze and excite"])
def test_reconstruction_scores_units_of_every_shape(name: str) -> None:
    """Heads, positions of a map that is flattened, parts of cats: repaired, the units that it keeps are better than those that it drops."""
    module, shapes, _ = CASES[name]
    enliven(module)
    generator = torch.Generator().manual_seed(0)
    adopted = hwsearch.adopt(module, torch.randn(shapes[0], generator=generator))
    given, fresh = (torch.randn((200, *shapes[0][1:]), generator=generator) for _ in range(2))
    scores = importance(adopted, "reconstruction", given)
    half = {group.id: -(-group.width // 2) for group in adopted.groups if group.searchable}
    best = error(adopted.extract(half, scores=scores, images=given), module, fresh)
    worst = error(adopted.extract(half, scores={each: -found for each, found in scores.items()}, images=given), module, fresh)
    assert best < worst


def test_a_cut_network_is_scored_with_its_own_operations() -> None:
    """The network that is looked at is the small one: units that are gone have no derivatives, the others those of the masked network."""
    module, adopted = chain()
    group, x = group_of(adopted, "a.weight"), images(20)
    keep = {group: [0, 2, 3, 6]}
    cut = adopted.cut(keep)
    small = cut.build()
    with torch.no_grad():
        module.b.weight[:, [1, 4, 5, 7]] = 0
    masked = hwsearch.adopt(module, torch.randn(IMAGE))
    wanted = importance(masked, "outputs", x)[group]
    found = importance(adopted, "outputs", x, cut=(cut, small))[group]
    assert np.allclose(found, wanted, rtol=1e-3)
    assert np.flatnonzero(found).tolist() == keep[group]


def test_hessian_diagonal_is_the_second_derivative_by_a_factor_on_a_unit() -> None:
    """Beside a second difference quotient; the estimate from random signs comes near with many images alike."""
    module, _ = chain()
    module.double()
    adopted = hwsearch.adopt(module, torch.randn(IMAGE).double())
    group = group_of(adopted, "a.weight")
    x, y = images(1).double(), torch.tensor([2])
    evidence = Evidence(adopted, (x.repeat(600, 1, 1, 1),), y.repeat(600), batch=1)
    found = evidence.curvatures(torch.Generator().manual_seed(0))[group].numpy() / 600
    wanted = []
    with torch.no_grad():
        for unit in range(8):
            values = []
            for factor in (1 + 1e-3, 1.0, 1 - 1e-3):
                module.b.weight[:, unit] *= factor
                values.append(float(F.cross_entropy(module(x), y)))
                module.b.weight[:, unit] /= factor
            wanted.append((values[0] - 2 * values[1] + values[2]) / 1e-6)
    assert np.allclose(found, wanted, atol=0.25 * max(wanted))
    assert np.corrcoef(found, wanted)[0, 1] > 0.9
    assert (importance(adopted, "hessian", x, y)[group] >= 0).all()


def test_variance_of_activations_by_hand() -> None:
    module, adopted = chain()
    x = images(120)
    with torch.no_grad():
        wanted = F.relu(module.a(x)).var((0, 2, 3), correction=0)
    assert np.allclose(importance(adopted, "variance", x)[group_of(adopted, "a.weight")], wanted, rtol=1e-4)


def test_units_are_removed_where_importance_is_least_for_what_they_save() -> None:
    _, adopted = chain()
    a, b = group_of(adopted, "a.weight"), group_of(adopted, "b.weight")
    scores = {a: np.array([8.0, 1, 7, 2, 6, 3, 5, 4]), b: np.full(6, 1e9)}
    plan = allocate(adopted, scores, adopted.macs({a: 5}))
    assert plan[a].tolist() == [0, 2, 4, 6, 7]
    assert len(plan[b]) == 6
    assert adopted.macs({name: len(units) for name, units in plan.items()}) == adopted.macs({a: 5})
    with pytest.raises(InvalidInput, match="cannot be reached"):
        allocate(adopted, scores, 1.0)


def test_one_importance_can_say_how_many_units_go_and_another_one_which() -> None:
    _, adopted = chain()
    a, b = group_of(adopted, "a.weight"), group_of(adopted, "b.weight")
    scores = {a: np.array([8.0, 1, 7, 2, 6, 3, 5, 4]), b: np.full(6, 1e9)}
    order = {a: np.arange(8.0), b: np.arange(6.0)}
    plan = allocate(adopted, scores, adopted.macs({a: 5}), order)
    assert plan[a].tolist() == [3, 4, 5, 6, 7]
    assert {name: len(units) for name, units in plan.items()} == {
        name: len(units) for name, units in allocate(adopted, scores, adopted.macs({a: 5})).items()
    }


def test_inputs_too_large_to_be_kept_from_round_to_round_are_gathered_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    _, adopted = chain()
    cut = adopted.cut({group_of(adopted, "a.weight"): 4})
    kept = Repair(cut, (images(),)).run()
    monkeypatch.setattr(_repair, "_MEMORY", 0)
    anew = Repair(cut, (images(),)).run()
    assert all(torch.equal(x, y) for x, y in zip(kept.state_dict().values(), anew.state_dict().values(), strict=True))


def test_importances_are_plug_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function under a name of its own, as in `register`, or given as it is."""
    monkeypatch.setitem(_registry._TARGETS, "importance", dict(_registry._TARGETS["importance"]))

    def mine(evidence: Evidence) -> dict[str, np.ndarray]:
        return {group.id: np.arange(group.width) for group in evidence.groups}

    hwsearch.register("importance", "mine", mine)
    _, adopted = chain()
    for name in ("mine", mine):
        assert importance(adopted, name)[group_of(adopted, "a.weight")].tolist() == list(range(8))
    with pytest.raises(UnknownName, match="Unknown importance 'tailor'.*Did you mean 'taylor'"):
        importance(adopted, "tailor")
    with pytest.raises(InvalidInput, match="give images and targets"):
        importance(adopted, "taylor")


@pytest.mark.parametrize("name", _registry._TARGETS["importance"])
def test_every_importance_scores_every_unit(name: str) -> None:
    _, adopted = chain()
    scores = importance(adopted, name, images(32), torch.arange(32) % 5)
    assert {group: len(each) for group, each in scores.items()} == {group.id: group.width for group in adopted.groups if group.searchable}
    assert all(np.isfinite(each).all() for each in scores.values())


@pytest.mark.parametrize("name", ["variance", "outputs", "reconstruction"])
def test_an_importance_that_looks_at_activations_says_that_it_needs_images(name: str) -> None:
    with pytest.raises(InvalidInput, match="give images"):
        importance(chain()[1], name)


def branch() -> tuple[Net, Adopted, list[int]]:
    """A residual branch of two convolutions with batch norms, all of whose inner channels matter, and half of these to keep."""
    module = Net(
        lambda m, x: (lambda y: head(F.relu(y + m.d(F.relu(m.n(m.b(y))))), m))(F.relu(m.a(x))),
        a=conv(3, 8), b=conv(8, 12), n=nn.BatchNorm2d(12), d=conv(12, 8), out=nn.Linear(8, 5),
    )  # fmt: skip
    enliven(module)
    return module, hwsearch.adopt(module, torch.randn(IMAGE)), list(range(0, 12, 2))


def test_layers_that_follow_one_another_are_fitted_together() -> None:
    """By descent towards what the whole network has at the end of a branch; nearer on images that had no part in it."""
    module, adopted, kept = branch()
    keep, given, fresh = {group_of(adopted, "b.weight"): kept}, images(400), torch.randn((200, *IMAGE[1:]))
    alone, together = (Repair(adopted.cut(keep), (given,), tuned=False, epochs=epochs).run() for epochs in (0, 15))
    assert error(together, module, fresh) < 0.8 * error(alone, module, fresh)
    assert not torch.equal(together.get_parameter("b.weight"), alone.get_parameter("b.weight")), "the layer before moves, too"
    assert torch.equal(together.get_parameter("a.weight"), module.a.weight), "what comes before the branch stays"
    again = Repair(adopted.cut(keep), (given,), tuned=False, epochs=15).run()
    assert all(torch.equal(x, y) for x, y in zip(together.state_dict().values(), again.state_dict().values(), strict=True))


@pytest.mark.parametrize("kind", ["bias", "bias and norm", "norm", "fixed bias", "fixed bias and norm"])
def test_layers_with_any_offsets_are_fitted_together(kind: str) -> None:
    """What least squares have written into a bias, what a norm takes up, and a bias that may not change."""
    norm = nn.BatchNorm2d(6) if "norm" in kind else nn.Identity()
    module = Net(
        lambda m, x: (lambda y: head(y * torch.sigmoid(y), m))(m.n(m.b(F.relu(m.a(x))))),
        a=conv(3, 8), b=nn.Conv2d(8, 6, 3, padding=1, bias="bias" in kind), n=norm, out=nn.Linear(6, 5),
    )  # fmt: skip
    enliven(module)
    if module.b.bias is not None:
        module.b.bias.data += 2
    adopted = hwsearch.adopt(module, torch.randn(IMAGE), freeze=["b.bias"] if "fixed" in kind else [])
    cut, given, fresh = adopted.cut({group_of(adopted, "a.weight"): [0, 2, 5, 7]}), images(300), torch.randn((200, *IMAGE[1:]))
    alone, together = (error(Repair(cut, (given,), adopted.frozen, tuned=False, epochs=epochs).run(), module, fresh) for epochs in (0, 8))
    assert together < 1.02 * alone


def test_what_is_frozen_has_no_part_in_fitting_together() -> None:
    module, _, _ = branch()
    adopted = hwsearch.adopt(module, torch.randn(IMAGE), freeze=["n"])
    keep = {group.id: -(-group.width // 2) for group in adopted.groups if group.searchable}
    cut = adopted.extract(keep, images=images(200), epochs=2)
    assert torch.equal(cut.get_parameter("n.weight"), module.n.weight)
    assert torch.equal(cut.get_parameter("n.bias"), module.n.bias)


def test_pieces_end_where_several_operations_read_a_value_and_after_three_layers() -> None:
    """Names of the weights of each piece's layers."""

    def found(module: nn.Module) -> list[list[str]]:
        network = hwsearch.adopt(module, torch.randn(IMAGE)).network
        weights = [[piece.knobs(lambda _: True)] for piece in pieces(network, ("conv2d", "linear")).values()]
        return [[name.removesuffix(".weight") for name in names if name.endswith("weight")] for [names] in weights]

    assert found(branch()[0]) == [["b", "n", "d"]]
    plain = Net(
        lambda m, x: head(m.e(m.d(m.c(m.b(m.a(x))))), m), **{k: conv(i, i + 1) for i, k in enumerate("abcde", 3)}, out=nn.Linear(8, 5)
    )
    assert found(plain) == [["a", "b", "c"], ["d", "e", "out"]]


def test_a_fit_that_is_no_nearer_on_other_images_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps so large that weights are thrown about."""
    _, adopted, kept = branch()
    monkeypatch.setattr(_together, "_RATE", 1e3)
    keep, given = {group_of(adopted, "b.weight"): kept}, images(200)
    alone, together = (Repair(adopted.cut(keep), (given,), tuned=False, epochs=epochs).run() for epochs in (0, 2))
    assert all(torch.equal(x, y) for x, y in zip(alone.state_dict().values(), together.state_dict().values(), strict=True))


def test_epochs_want_images() -> None:
    adopted = chain()[1]
    with pytest.raises(InvalidInput, match="data="):
        hwsearch.extract(adopted.architecture([0] * len(adopted.choices)), epochs=3)
