"""What is called proven is true: against looking at every network, and where costs differ by less than a solver can see."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

import hwsearch
from hwsearch import SearchSpace, metric
from hwsearch.algorithms import Evolution, Exact, Hybrid, _lagrange, _milp
from hwsearch.algorithms._factors import Factor
from hwsearch.algorithms._quiet import quiet
from hwsearch.costs._limits import Limit
from hwsearch.searching import Status, solve
from hwsearch.spaces._tables import exact, fold
from hwsearch.testing import rugged

sys.path.insert(0, str(ROOT / "benchmarks"))


@pytest.mark.parametrize("fold", [True, False], ids=["folded", "solver"])
def test_exact_says_nothing_that_looking_at_every_network_contradicts(fold: bool) -> None:
    from proofs import false_word, instance

    assert {seed: said for seed in range(60) if (said := false_word(instance(seed), fold=fold)) is not None} == {}


def test_bounds_and_a_core_say_nothing_that_looking_at_every_network_contradicts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What programs of very many options are solved by, on small ones."""
    from proofs import false_word, instance

    monkeypatch.setattr(_milp, "LARGE", 0)
    assert {seed: said for seed in range(60) if (said := false_word(instance(seed))) is not None} == {}


def test_bounds_leave_a_tenth_of_a_program_to_the_solver_and_the_optimum_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random programs of one and two limits, whose optimum HiGHS also finds in all of their options."""
    from exact_speed import bare, instance, ours

    options = []
    solve_part = _milp.Program._solve

    def counted(self: _milp.Program, parts: Sequence[Factor], *rest: Any) -> Any:
        options.append(sum(map(len, parts)))
        return solve_part(self, parts, *rest)

    monkeypatch.setattr(_milp.Program, "_solve", counted)
    for seed in (15, 24):
        made = instance(seed)
        options.clear()
        found, _, spread = ours(made)
        assert found is not None
        assert found.status is Status.OPTIMAL
        assert max(options, default=0) < 0.1 * sum(array.size for array in made.costs["latency_ms"])
        assert found.best_score == pytest.approx(bare(made)[0], abs=2e-6 * spread)


def test_programs_too_entangled_for_bounds_are_known_before_options_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random graph of 62 groups: joining its options until there are too many of them takes as long as a solver does."""
    from exact_speed import instance

    made = instance(14)
    space = made.space()
    program = _milp.Program.compile(space, metric("worth", space).tables, [Limit(metric("latency_ms", space), made.limits["latency_ms"])])
    monkeypatch.delattr(_lagrange.Elimination, "_join")
    assert _lagrange.bounds(program.parts, program.sizes, np.array([made.limits["latency_ms"]])) is None


def test_a_plan_of_an_elimination_looks_again_only_at_genes_whose_tables_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same random graph: all genes at every turn would be 1,900 of them."""
    from exact_speed import instance

    made, looked = instance(14), []
    tables = zip(made.pairs, made.costs["latency_ms"], strict=True)
    parts = [Factor(pair, np.indices(table.shape).reshape(2, -1).T, np.zeros((table.size, 2))) for pair, table in tables]
    joining = _lagrange._joining
    monkeypatch.setattr(_lagrange, "_joining", lambda *some: looked.append(some[2]) or joining(*some))
    assert _lagrange._order(parts, dict(enumerate(made.sizes)), np.inf) is not None
    assert len(looked) < 900


def test_programs_left_to_the_solver_have_no_more_whole_variables_than_groups_have_widths() -> None:
    """Widths at the ends of a random tree stand in one table only: there the widths are variables, not the pairs that they are in."""
    from exact_speed import instance

    made = instance(23)
    space = made.space()
    bounds = [Limit(metric(name, space), most) for name, most in made.limits.items()]
    model = _milp._Model(_milp.Program.compile(space, metric("worth", space).tables, bounds).parts)
    assert model.whole.sum() <= sum(made.sizes)


def test_what_presolve_calls_impossible_is_tried_again_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """HiGHS' presolve has called small programs infeasible that were not; large ones are solved with it at first."""
    import scipy.optimize
    from proofs import instance

    solve_program, tries = scipy.optimize.milp, []

    def mistaken(*parts: Any, **more: Any) -> Any:
        tries.append(more["options"]["presolve"])
        if tries[-1]:
            more["constraints"] = scipy.optimize.LinearConstraint(np.eye(len(parts[0])), lb=2.0)  # above the bounds: impossible
        return solve_program(*parts, **more)

    known = instance(0).solve()
    monkeypatch.setattr(scipy.optimize, "milp", mistaken)
    monkeypatch.setattr(_milp, "_PRESOLVED", 0)
    monkeypatch.setattr(_milp.Program, "_reduced", property(lambda program: list(program.parts)))
    assert instance(0).solve().best_score == known.best_score
    assert tries[:2] == [True, False]


def test_factors_are_folded_only_if_that_leaves_clearly_fewer_options() -> None:
    """A chain of widths has as many ways to agree without a width as with it; a block that can be removed hardly has any."""
    from exact_speed import instance
    from instances import pruned_resnet

    made = instance(24)
    chain, pruned = made.space(), pruned_resnet(blocks=(2, 2))
    for space, limits, score, least, most in (
        (chain, made.limits, "worth", 0.7, 1.0),
        (pruned, {"latency_ms": 1.0}, "importance", 0.0, 0.6),
    ):
        bounds = [Limit(metric(name, space), value) for name, value in limits.items()]
        program = _milp.Program.compile(space, metric(score, space).tables, bounds)
        assert least <= sum(map(len, program._reduced)) / sum(map(len, program.parts)) <= most


def test_limits_that_are_met_exactly_are_met() -> None:
    """One network costs exactly what is allowed in two ways, and every other one is beyond a limit."""
    tables = {"cost": [(["a"], [2.0, 1.0]), (["b"], [0.0, 2.0])], "need": [(["a"], [1.0, 3.0]), (["b"], [1.0, 0.0])]}
    space = SearchSpace.from_tables({"a": (0, 1), "b": (0, 1)}, {**tables, "loss": [(["a", "b"], [[1.0, 0.0], [0.0, 0.0]])]})
    result = hwsearch.search(space, predictor=-metric("loss", space), limits={"cost": 2.0, "need": 2.0}, algorithm="exact")
    assert result.best.values() == {"a": 0, "b": 0}
    assert result.status is Status.OPTIMAL


def test_a_program_is_not_taken_for_that_of_another_score_or_space() -> None:
    space = SearchSpace.from_tables(
        {"a": (0, 1, 2), "b": (0, 1, 2)}, {"cost": [(["a"], [0.0, 1.0, 2.0]), (["b"], [0.0, 1.0, 2.0])], "loss": [(["a"], [0.0, 1.0, 2.0])]}
    )
    cost, loss = metric("cost", space), metric("loss", space)
    problem = hwsearch.Problem.of(space, predictor=-loss, limits={"cost": 3.0})
    assert solve(problem, Exact()).best_score == 0.0
    other = solve(replace(problem, score=cost), Exact())
    assert other.best_score == 3.0
    assert other.bound == pytest.approx(3.0, rel=1e-6)
    narrow = space.restrict({"a": [2], "b": [0]})
    inside = solve(replace(problem, space=narrow, score=cost), Exact())
    assert inside.best.values() == {"a": 2, "b": 0}
    costly = solve(replace(problem, limits=(Limit(loss, 0.0),), score=cost), Exact())
    assert costly.best.values() == {"a": 0, "b": 2}


def test_optimal_is_not_said_of_a_score_that_is_only_relatively_near_the_bound() -> None:
    """Scores of 3e8 that differ by 200 agree to six digits, and are no proof of each other."""
    rng = np.random.default_rng(0)
    genes = {f"g{index}": range(4) for index in range(6)}
    tables = {name: [([gene], 3e8 + rng.integers(0, 201, size=4)) for gene in genes] for name in ("loss", "cost")}
    space = SearchSpace.from_tables(genes, tables)
    worth = -metric("loss", space)
    limit = float(np.median(metric("cost", space)(space.sample(99, rng))))
    for algorithm in (Exact(), Exact(seconds=0.0)):
        found = hwsearch.search(space, predictor=worth, limits={"cost": limit}, algorithm=algorithm)
        X = np.concatenate(list(space.enumerate()))
        best = worth(X)[metric("cost", space)(X) <= limit].max()
        assert found.bound is not None
        assert found.bound >= best
        assert (found.status is Status.OPTIMAL) == (found.best_score == best)


def test_a_tighter_limit_that_cannot_be_met_proves_nothing_of_the_limit() -> None:
    """Hybrid search also looks within 98.5 % of the limits; that there is nothing ends no search."""
    genes = {"a": (0, 1), **{f"g{index}": range(4) for index in range(5)}}
    tables = {"one": [(["a"], [1.0, 2.0])], "two": [(["a"], [2.0, 1.0])]}
    space = SearchSpace.from_tables(genes, tables)
    algorithm = Hybrid(population=64, parents=40, alone=2, together=1, refits=(1, 2))
    found = hwsearch.search(space, predictor=rugged(space), limits={"one": 2.0, "two": 2.0}, algorithm=algorithm, run=hwsearch.Run(steps=4))
    assert found.values == {"one": 2.0, "two": 1.0} or found.values == {"one": 1.0, "two": 2.0}


def test_exact_and_evolution_agree_where_inactive_genes_have_entries_of_their_own() -> None:
    """A score's own tables may hold anything for a gene that is inactive; its networks have what stands at index zero."""

    class Own:
        tables = (((0,), np.array([1.0, 0.0])), ((1,), np.array([0.0, 5.0])))

        def __call__(self, X: np.ndarray) -> np.ndarray:
            return np.asarray(sum(array[X[:, genes[0]]] for genes, array in self.tables))

    space = SearchSpace("own", (hwsearch.spaces.Choice("on", (0, 1)), hwsearch.spaces.Choice("extra", (0, 1), needs=("on", (1,)))), ())
    found = hwsearch.search(space, predictor=Own(), algorithm="exact")
    assert (found.best_score, found.bound) == (5.0, 5.0)
    off = hwsearch.search(space.restrict({"on": [0]}), predictor=Own(), algorithm=Exact())
    assert (off.best_score, off.bound) == (1.0, 1.0)
    assert hwsearch.search(space, predictor=Own(), algorithm=Evolution(population=16)).best_score == 5.0


def test_sums_of_a_metric_are_the_same_in_any_order(rng: np.random.Generator) -> None:
    tables = [((gene,), 10.0 ** rng.uniform(-9, 3, size=4)) for gene in range(12)]
    rounded = exact(tables)
    assert all(np.allclose(one, other, rtol=1e-12, atol=1e-12) for (_, one), (_, other) in zip(rounded, tables, strict=True))
    X = rng.integers(4, size=(500, 12))
    sums = {tuple(sum(array[X[:, gene]] for (gene,), array in order)) for order in (rounded, rounded[::-1], sorted(rounded, key=repr))}
    folded = fold(rounded)
    sums.add(tuple(sum(array[tuple(X[:, list(genes)].T)] for genes, array in folded)))
    assert len(sums) == 1
    whole = [((0,), np.array([3e8 + 1, 17.0, np.inf]))]
    assert np.array_equal(exact(whole)[0][1], whole[0][1])


def test_exact_prints_nothing_whatever_the_problem() -> None:
    """HiGHS prints a line of its own where a solution has to be repaired, whatever it is told, as in some of these problems it does."""
    program = """
import sys
from proofs import false_word, instance
for seed in range(int(sys.argv[1]), int(sys.argv[2])):
    false_word(instance(seed), fold=False)
"""
    found = subprocess.run([sys.executable, "-c", program, "0", "200"], capture_output=True, text=True, cwd=ROOT / "benchmarks")
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_what_the_solver_prints_stays_off_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet():
        os.write(1, b"HighsMipSolverData::transformNewIntegerFeasibleSolution tmpSolver.run();\n")
        print("a line of the user's own")
    print("and one more")
    assert capfd.readouterr().out == "a line of the user's own\nand one more\n"
