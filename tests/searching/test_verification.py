"""search(..., verify=Verify(...)): the best networks are measured, and the search learns from what it sees."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from conftest import make_table
from hypothesis import given, settings
from hypothesis import strategies as st

import hwsearch
from hwsearch.costs import metric
from hwsearch.devices import LatencyTable
from hwsearch.errors import Infeasible, InvalidInput, UnknownName, WrongDevice
from hwsearch.nn import Sampling, SupernetVerifier
from hwsearch.reports import verification_figure, write_report
from hwsearch.scores._models import fit_model
from hwsearch.searching import DeviceVerifier, Status, load_result
from hwsearch.searching.verify._corrections import Corrected, corrected_latency, corrected_score
from hwsearch.spaces import SearchSpace
from hwsearch.testing import check_verifier


class World:
    """What networks of a space are really like, what is believed of them, and a verifier that knows the truth.

    The predictor is wrong by a few points, more about some genes than about others, and the table takes some int8 blocks for 20 % faster
    than they are.
    """

    name = "the truth"

    def __init__(self, space: SearchSpace, table: LatencyTable, seed: int = 0) -> None:
        self.space, rng = space, np.random.default_rng(seed)
        width = sum(space.sizes)
        self.linear = np.abs(rng.normal(size=width)) * np.concatenate([np.linspace(0.2, 1, size) for size in space.sizes])
        self.pairs = 0.15 * rng.normal(size=(width, width))
        self.wrong = 0.01 * rng.normal(size=width)
        self.everything = np.concatenate(list(space.enumerate()))
        raw = self._raw(self.everything)
        self.low, self.high = float(raw.min()), float(raw.max())
        flattered = {
            key: dataclasses.replace(row, latency_ms=row.latency_ms / (1.25 if key.startswith("basic") and "int8" in key else 1.0))
            for key, row in table.rows.items()
        }
        self.table = dataclasses.replace(table, rows=flattered)
        self.latency = metric("latency_ms", space.restrict({"*precision": table.precisions}), table)
        self.limit = float(np.quantile(self.latency(self.everything), 0.3))
        self.asked: list[tuple[str, bytes]] = []

    def _raw(self, X: np.ndarray) -> np.ndarray:
        features = self.space.features(X).astype(np.float64)
        return features @ self.linear + np.einsum("ni,ij,nj->n", features, self.pairs, features)

    def true_score(self, X: np.ndarray) -> np.ndarray:
        return 0.6 + 0.3 * (self._raw(X) - self.low) / (self.high - self.low)

    def predictor(self, X: np.ndarray) -> np.ndarray:
        return self.true_score(X) + self.space.features(X).astype(np.float64) @ self.wrong

    def score(self, X: np.ndarray) -> np.ndarray:
        self.asked += [("score", bytes(row)) for row in X]
        return self.true_score(X)

    def latency_ms(self, X: np.ndarray) -> np.ndarray:
        self.asked += [("latency_ms", bytes(row)) for row in X]
        return self.latency(X)

    def best(self, **limits: float) -> float:
        """The best score there is within limits, by looking at every network."""
        fits = self.latency(self.everything) <= self.limit
        for name, most in limits.items():
            fits &= metric(name, self.space)(self.everything) <= most
        return float(self.true_score(self.everything[fits]).max())

    def search(self, verify: hwsearch.Verify | None = None, **options: object) -> hwsearch.SearchResult:
        given = {"limits": {"latency_ms": self.limit}, "algorithm": "evolution", "predictor": self.predictor, "verify": verify, **options}
        return hwsearch.search(self.space, device=self.table, **given)  # type: ignore[arg-type]


@pytest.fixture
def world(toy: SearchSpace, roofline_table: LatencyTable) -> World:
    return World(toy, make_table(tuple(toy.unique_blocks)))


@pytest.fixture(scope="module")
def verified(toy: SearchSpace) -> hwsearch.SearchResult:
    world = World(toy, make_table(tuple(toy.unique_blocks)))
    return world.search(verify=hwsearch.Verify(world, 8))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_verifying_finds_the_best_network_where_the_predictor_and_the_table_are_wrong(toy: SearchSpace, seed: int) -> None:
    world = World(toy, make_table(tuple(toy.unique_blocks)), seed)
    best = world.best()
    plain = world.search().best.genes[None]
    assert world.latency(plain)[0] > world.limit or world.true_score(plain)[0] < best - 0.01
    result = world.search(verify=hwsearch.Verify(world, 8))
    row = result.best.genes[None]
    assert world.true_score(row)[0] == pytest.approx(best, abs=1e-12)
    assert result.status is Status.VERIFIED
    assert len({row for name, row in world.asked if name == "score"}) <= 32 < len(world.everything) / 100
    assert result.best_score == world.true_score(row)[0]
    assert result.values["latency_ms"] == world.latency(row)[0] <= world.limit


def test_predictions_come_nearer_round_by_round_and_the_history_says_so(verified: hwsearch.SearchResult) -> None:
    found = verified.verification
    assert found is not None
    assert len(found.rounds) > 1
    first, last = found.rounds[0], found.rounds[-1]
    assert not first.agreed
    assert last.agreed
    assert found.agreed
    for name, most in found.tolerance.items():
        assert last.error(name) < first.error(name)
        assert abs(last.networks[0].error(name)) <= most
    X, scores = found.measured()
    assert len(np.unique(X, axis=0)) == len(X) == len(found.networks)
    assert scores.max() >= verified.best_score


def test_several_limits_hold_by_measurement(world: World) -> None:
    size = metric("size_mb", world.space)
    most = float(np.quantile(size(world.everything), 0.3))
    result = world.search(limits={"latency_ms": world.limit, "size_mb": most}, verify=hwsearch.Verify(world, 8, rounds=6))
    row = result.best.genes[None]
    assert world.latency(row)[0] <= world.limit
    assert size(row)[0] <= most
    assert world.true_score(row)[0] >= world.best(size_mb=most) - 0.01


def mixing(space: SearchSpace, X: np.ndarray) -> np.ndarray:
    """By how many precisions a network has blocks of, beyond one."""
    found = [{value for name, value in one.values().items() if name.endswith("precision")} for one in map(space.architecture, X)]
    return np.array([len(each) - 1 for each in found])


@pytest.mark.parametrize("worth", [-0.1, 0.1])
def test_mixed_bits_never_ship_below_uniform_ones_of_the_same_network(toy: SearchSpace, worth: float) -> None:
    class Tested:
        name = "a test bench"

        def __init__(self) -> None:
            self.seen: dict[bytes, float] = {}

        def score(self, X: np.ndarray) -> np.ndarray:
            found = 0.5 + 0.001 * X.sum(axis=1) + worth * mixing(toy, X)
            self.seen |= dict(zip(map(bytes, X), found.tolist(), strict=True))
            return found

        def latency_ms(self, X: np.ndarray) -> np.ndarray:
            raise AssertionError

    bench = Tested()
    verify = hwsearch.Verify(bench, networks=2, rounds=1, tolerance={"score": 0.005})
    flattering = {"predictor": lambda X: 0.5 + 0.001 * X.sum(axis=1) + 0.1 * mixing(toy, X), "limits": {"params": 1e9}}
    result = hwsearch.search(toy, "evolution", verify=verify, run=hwsearch.Run(progress=False), **flattering)  # type: ignore[arg-type]
    kinds = {key: int(mixing(toy, np.frombuffer(key, dtype=np.uint8)[None])[0]) for key in bench.seen}
    assert set(kinds.values()) == {0, 1}  # both were measured
    assert result.best_score == max(bench.seen.values())
    assert kinds[bytes(result.best.genes)] == (worth > 0)
    assert bool(result.cautions) == (worth < 0)
    assert all("throughout" in told for told in result.cautions)


def test_scores_or_latencies_alone(world: World) -> None:
    scored = world.search(verify=hwsearch.Verify(world, 6, tolerance={"score": 0.005}))
    assert {name for name, _ in world.asked} == {"score"}
    assert scored.values["latency_ms"] <= world.limit
    assert scored.verification is not None
    assert set(scored.verification.tolerance) == {"score"}
    world.asked.clear()
    timed = world.search(verify=hwsearch.Verify(world, 6, tolerance={"latency_ms": 0.03}))
    assert {name for name, _ in world.asked} == {"latency_ms"}
    assert timed.values["latency_ms"] == world.latency(timed.best.genes[None])[0] <= world.limit
    assert timed.best_score == pytest.approx(world.predictor(timed.best.genes[None])[0])
    with pytest.raises(InvalidInput, match="did not verify score"):
        verification_figure(timed)


def test_exact_goes_on_after_it_learnt_that_the_score_is_no_sum_of_tables(world: World) -> None:
    """The first search proves its answer; later ones, of a score that was corrected, are hybrid."""
    tables = (-metric("params", world.space)).tables
    scale = 0.3 / float(metric("params", world.space)(world.everything).max())

    class Small:
        """A sum of tables that is far from the truth."""

        def __init__(self) -> None:
            self.tables = tuple((genes, 0.9 + scale * array if not index else scale * array) for index, (genes, array) in enumerate(tables))

        def __call__(self, X: np.ndarray) -> np.ndarray:
            return np.asarray(0.9 - scale * metric("params", world.space)(X))

    found = world.search(verify=hwsearch.Verify(world, 6, tolerance={"score": 0.005}), algorithm="exact", predictor=Small())
    assert found.verification is not None
    assert len(found.verification.rounds) > 1
    assert found.best_score == pytest.approx(world.true_score(found.best.genes[None])[0])


def test_nothing_is_measured_twice_and_a_stopped_call_ends_as_an_uninterrupted_one(world: World, tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    class Mortal(World):
        lives = 9

        def score(self, X: np.ndarray) -> np.ndarray:
            self.lives -= 1
            if self.lives < 0:
                raise Stopped
            return super().score(X)

    whole = world.search(verify=hwsearch.Verify(world, 8), run=hwsearch.Run(steps=10))
    mortal = Mortal(world.space, make_table(tuple(world.space.unique_blocks)))
    resumed = None
    for _ in range(20):
        mortal.lives = 9
        try:
            resumed = mortal.search(verify=hwsearch.Verify(mortal, 8), run=hwsearch.Run(steps=10, state=tmp_path / "state"))
            break
        except Stopped:
            continue
    assert resumed is not None
    assert resumed.verification == whole.verification
    assert resumed.best == whole.best
    assert len(mortal.asked) == len(set(mortal.asked))
    mortal.asked.clear()
    again = mortal.search(verify=hwsearch.Verify(mortal, 8), run=hwsearch.Run(steps=10, state=tmp_path / "state"))
    assert not mortal.asked
    assert again.verification == whole.verification
    mortal.name = "another"
    with pytest.raises(InvalidInput, match="with verifier 'the truth', and this search has 'another'"):
        mortal.search(verify=hwsearch.Verify(mortal, 8), run=hwsearch.Run(steps=10, state=tmp_path / "state"))


KILLED = """
import sys, time
import numpy as np
import hwsearch
space = hwsearch.load_space("resnet_digits")
weights, others = np.random.default_rng(0).random(size=(2, sum(space.sizes)))
class Slow:
    name = "slow"
    def score(self, X):
        time.sleep(0.05)
        return space.features(X) @ (0.8 * weights + 0.2 * others) / 40
result = hwsearch.search(space, predictor=lambda X: space.features(X) @ weights / 40, limits={"macs": 2.0e6},
                         algorithm="evolution", verify=hwsearch.Verify(Slow(), 8, rounds=3, tolerance={"score": 1e-6}),
                         run=hwsearch.Run(steps=8, state=sys.argv[1]))
result.save(sys.argv[2])
"""


def test_kill_9_loses_nothing(tmp_path: Path) -> None:
    def begin(state: Path, out: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", KILLED, str(state), str(out)])

    assert begin(tmp_path / "straight", tmp_path / "straight.json").wait() == 0
    journal = tmp_path / "state.verified.jsonl"
    for lines in (4, 13):
        process = begin(tmp_path / "state", tmp_path / "resumed.json")
        while process.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < lines):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert begin(tmp_path / "state", tmp_path / "resumed.json").wait() == 0
    resumed, straight = (load_result(tmp_path / f"{name}.json") for name in ("resumed", "straight"))
    assert resumed.verification == straight.verification
    assert resumed.best == straight.best
    assert resumed.history == straight.history
    assert journal.read_bytes() == (tmp_path / "straight.verified.jsonl").read_bytes()


def test_a_limit_that_no_measured_network_keeps_is_said_so(world: World) -> None:
    class Slow(World):
        def latency_ms(self, X: np.ndarray) -> np.ndarray:
            return 1e3 + super().latency_ms(X)

    slow = Slow(world.space, make_table(tuple(world.space.unique_blocks)))
    with pytest.raises(Infeasible):
        slow.search(verify=hwsearch.Verify(slow, 4))


def test_what_makes_no_sense_is_refused_before_anything_is_searched(world: World, toy: SearchSpace) -> None:
    with pytest.raises(InvalidInput, match="networks to verify a round, must be a whole number of at least 1, not 0"):
        world.search(verify=hwsearch.Verify(world, 0, tolerance={"score": 0.01}))
    with pytest.raises(InvalidInput, match="SupernetVerifier"):
        world.search(verify=hwsearch.Verify(DeviceVerifier()))
    with pytest.raises(UnknownName, match="latency_ms"):
        world.search(verify=hwsearch.Verify(world, 8, tolerance={"latency": 0.1}))
    with pytest.raises(InvalidInput, match="positive"):
        world.search(verify=hwsearch.Verify(world, 8, tolerance={"score": 0.0}))
    with pytest.raises(InvalidInput, match="nothing to verify"):
        world.search(verify=hwsearch.Verify(world, 8, tolerance={}))
    with pytest.raises(InvalidInput, match="rounds"):
        world.search(verify=hwsearch.Verify(world, 8, rounds=0))
    with pytest.raises(InvalidInput, match="one device"):
        hwsearch.search(toy, predictor=world.predictor, verify=hwsearch.Verify(world, 8, tolerance={"latency_ms": 0.1}))
    latency = hwsearch.Verify(DeviceVerifier(), tolerance={"latency_ms": 0.1})
    elsewhere = dataclasses.replace(world.table, device=dataclasses.replace(world.table.device, hardware="a board"))
    with pytest.raises(WrongDevice, match=r"hardware is .* and not .*--tolerance score=0.005"):
        hwsearch.search(toy, predictor=world.predictor, device=elsewhere, verify=latency)
    unknown = dataclasses.replace(world.table, device=dataclasses.replace(world.table.device, runtime="my-runtime"))
    with pytest.raises(WrongDevice, match=r"Unknown backend 'my-runtime'.*verifier of your own"):
        hwsearch.search(toy, predictor=world.predictor, device=unknown, verify=latency)
    with pytest.raises(InvalidInput, match="must have the attributes of hwsearch.searching.Verifier, or make what has, not 3"):
        world.search(verify=hwsearch.Verify(3))  # type: ignore[arg-type]
    assert not world.asked

    class ScoresOnly:
        name = "scores only"
        score = world.score

    with pytest.raises(InvalidInput, match=r"\(scores only\) does not verify latency_ms. .*tolerance=\{'score': 0.005\}"):
        world.search(verify=hwsearch.Verify(ScoresOnly()))  # type: ignore[arg-type]
    assert not world.asked

    class Broken(World):
        def score(self, X: np.ndarray) -> np.ndarray:
            return np.full(len(X), np.nan)

    broken = Broken(toy, make_table(tuple(toy.unique_blocks)))
    with pytest.raises(InvalidInput, match="The verifier's score of 1 network"):
        broken.search(verify=hwsearch.Verify(broken, 8))


def test_the_history_is_in_the_file_the_notebook_and_the_report(verified: hwsearch.SearchResult, tmp_path: Path) -> None:
    path = verified.save(tmp_path / "result.json")
    loaded = load_result(path, verified.best.space)
    assert loaded.verification == verified.verification
    assert loaded.status is Status.VERIFIED
    assert loaded.word == "measured"
    found = verified.verification
    assert found is not None
    assert "Best measured score" in verified._repr_html_()
    assert verified._repr_html_().count("predicted best") == len(found.rounds)
    page = write_report(verified, out=tmp_path / "report.html").read_text()
    assert "What was verified" in page
    assert page.count("predicted best") >= len(found.rounds)
    assert f"{found.rounds[0].networks[0].measured['score']:.4f}" in page
    for name in ("score", "latency_ms"):
        (axes,) = verification_figure(verified, name).axes
        drawn = [len(line.get_xydata()) for line in axes.get_lines() if str(line.get_label()).startswith("round")]
        assert drawn == [len(turn.networks) for turn in found.rounds]


def test_results_of_version_1_are_read(verified: hwsearch.SearchResult, tmp_path: Path) -> None:
    document = msgspec.json.decode(verified.save(tmp_path / "result.json").read_bytes())
    del document["verification"]
    path = tmp_path / "old.json"
    path.write_bytes(msgspec.json.encode(document | {"version": 1, "status": "CONVERGED"}))
    old = load_result(path, verified.best.space)
    assert old.verification is None
    assert "predicted score" in old._repr_html_()
    with pytest.raises(InvalidInput, match="verify=hwsearch.Verify"):
        verification_figure(old)


def test_a_corrected_latency_is_nearer_for_networks_that_were_not_measured(world: World) -> None:
    rng = np.random.default_rng(1)
    space = world.space.restrict({"*precision": world.table.precisions})
    believed = metric("latency_ms", space, world.table)
    X, others = space.sample(12, rng), space.sample(200, rng)
    corrected = corrected_latency(believed, world.table, X, world.latency(X))
    before, after = (np.abs(entry(others) / world.latency(others) - 1).mean() for entry in (believed, corrected))
    assert after < 0.6 * before
    assert corrected.lower_bound <= corrected(others).min()
    unchanged = corrected_latency(believed, world.table, X, believed(X))
    np.testing.assert_allclose(unchanged(others), believed(others))


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_slopes_of_a_corrected_score_are_its_derivatives(toy: SearchSpace, seed: int) -> None:
    rng = np.random.default_rng(seed)
    X = toy.sample(12, rng)
    features = toy.features(X)
    process = fit_model("gp", toy, features, rng.normal(size=len(X)), 0)
    steady = rng.normal(size=features.shape[1])

    class Linear:
        def __call__(self, X: np.ndarray) -> np.ndarray:
            return toy.features(X) @ steady

        def gradient(self, X: np.ndarray) -> np.ndarray:
            return np.tile(steady, (len(X), 1)).astype(np.float32)

    corrected = Corrected(Linear(), toy, process, 0.1, 0.5)  # type: ignore[arg-type]
    gradient = corrected.gradient(X)
    assert gradient is not None
    column, small = int(rng.integers(features.shape[1])), 1e-2
    nudge = np.zeros_like(features)
    nudge[:, column] = small
    change = 0.5 * (process.each(features + nudge) - process.each(features - nudge)).mean(axis=0) / (2 * small) + steady[column]
    np.testing.assert_allclose(gradient[:, column], change, atol=2e-3)


def test_a_corrected_score_knows_what_was_measured_and_is_sure_of_it(toy: SearchSpace, rng: np.random.Generator) -> None:
    def score(X: np.ndarray) -> np.ndarray:
        return X.sum(axis=1) / 100

    X, far = toy.sample(20, rng), toy.sample(50, rng)
    corrected = corrected_score(score, toy, X, score(X) + 0.02 * X[:, 0] - 0.1)
    np.testing.assert_allclose(corrected(far), score(far) + 0.02 * far[:, 0] - 0.1, atol=0.004)
    assert corrected.gradient(X) is None
    assert corrected.std(X).mean() < corrected.std(far).mean()


def test_verifiers_keep_their_promises(world: World) -> None:
    check_verifier(world, world.space)  # type: ignore[arg-type]
    world.name = ""
    with pytest.raises(AssertionError, match="has a name"):
        check_verifier(world, world.space)  # type: ignore[arg-type]


def test_device_verifiers_measure_with_the_backend_of_the_table(toy: SearchSpace, tmp_path: Path) -> None:
    table = hwsearch.profile(toy, backend="roofline", out=tmp_path / "table.json", progress=False)
    X = toy.sample(3, np.random.default_rng(0))
    problem = hwsearch.Problem.of(toy, predictor=lambda X: X.sum(axis=1), device=table)
    measured = DeviceVerifier()(problem, table).latency_ms(X)
    np.testing.assert_allclose(measured, [table.predict(toy.blocks(row)) for row in X], rtol=0.02)
    limit = 0.05
    result = hwsearch.search(
        toy,
        predictor=lambda X: X.sum(axis=1) / 100,
        device=table,
        limits={"latency_ms": limit},
        verify=hwsearch.Verify(DeviceVerifier(), 3, tolerance={"latency_ms": 0.03}),
    )
    assert result.status is Status.VERIFIED
    assert result.values["latency_ms"] <= limit


def test_a_small_supernet_is_verified_on_validation_images(toy: SearchSpace, trained: Path, tmp_path: Path) -> None:
    predictor = hwsearch.fit_predictor(
        toy, weights=trained, data="digits", out=tmp_path / "predictor.npz", sampling=Sampling(networks=12, images=100), progress=False
    )
    table = hwsearch.profile(toy, backend="roofline", out=tmp_path / "table.json", progress=False)
    limits = {"latency_ms": 0.06}
    result = hwsearch.search(
        toy,
        predictor=predictor,
        device=table,
        limits=limits,
        verify=hwsearch.Verify(SupernetVerifier(trained, "digits"), 4, rounds=2),
        run=hwsearch.Run(state=tmp_path / "s"),
    )
    assert result.best_score == hwsearch.evaluate(result.best, weights=trained, data="digits", split="val")
    assert result.values["latency_ms"] <= 0.06
    assert result.provenance["verifier"] is not None
    assert "digits" in result.provenance["verifier"]
