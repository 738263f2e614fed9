"""A predictor of the accuracy of cut networks: importances, put on the scale of accuracy by networks that are judged for real."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..._files._lock import claim
from ..._files._reading import check_header, check_same, guarded, is_number
from ..._files._writing import Journal, PathLike
from ..._progress import progress as show_progress
from ..._types import Rows, Values
from ...costs._metrics import metric
from ...errors import CorruptFile
from ...scores._perceptrons import Perceptrons
from ...scores._predictor import Predictor
from ...spaces._keys import row_of_hex
from ...spaces._space import SearchSpace
from ._additive import additive, bits_importance, branch_importance
from ._adopted import Adopted
from ._examples import Examples
from ._repaired import Probing, Repaired, digest_of

FORMAT = "hwsearch-probes"
VERSION = 1


def fit_adopted(space: Adopted, data: Examples, out: PathLike, probing: Probing, seed: int = 0, *, progress: bool = True) -> Predictor:
    """Fit an additive predictor to an adopted network; see :func:`hwsearch.fit_predictor`.

    What a network loses is taken to be the sum of the importances of what it lacks. Each gene has a factor, by how much the networks lose
    in which that gene alone is cut; what is within the noise of the images leaves it near 1. The sum is put on the scale of the metric by
    networks in which many genes are cut.
    """
    repaired = Repaired.of(space, data, probing)
    path = Path(out).with_suffix(".probes.jsonl")
    named = probing.importance if isinstance(probing.importance, str) else getattr(probing.importance, "__qualname__", "own")
    header = {
        "format": FORMAT,
        "version": VERSION,
        "space": space.name,
        "fingerprint": space.fingerprint,
        "weights": digest_of(space),
        "data": repaired.label,
        "importance": named,
        "images": len(repaired.images[0]),
    }
    with claim(path):
        probes = Probes(path, header, space)
        if not probes.importances:
            found = repaired.importances(probing.importance)
            bits = bits_importance(space, repaired.images, repaired.quantization)
            probes.learn(found, branch_importance(space, repaired.images), bits)
        judge = repaired.knowing(probes.importances)
        rough = additive(space, probes.importances, probes.branches, bits=probes.bits)
        alone, many = one_by_one(space, probing.widths), together(rough, probing.networks, seed)
        values = probes.judged(judge, np.concatenate([space.row()[None], alone, many]), progress)
    fitted = _scaled(rough, alone, many, values, len(repaired.images[0]) if probing.metric else probing.held_out)
    fitted = replace(fitted, data=repaired.label, weight_bits=repaired.quantization.weight_bits if probes.bits else None)
    fitted.save(out)
    return fitted


class Probes:
    """What was told of a network, kept in a journal: importances, and networks that were judged.

    Args:
        path: the journal; it need not be there.
        header: what it must begin with.
        space: whose rows it holds.

    Raises:
        CorruptFile, NewerVersion: it is no such journal.
        InvalidInput: it comes from other weights, images or arguments.
    """

    def __init__(self, path: Path, header: dict[str, Any], space: Adopted) -> None:
        self.journal, self.space = Journal(path), space
        self.importances: dict[str, Values] = {}
        self.branches: dict[str, float] = {}
        self.bits: dict[str, float] = {}
        self.known: dict[bytes, float] = {}
        empty = True
        for number, line in self.journal.numbered():
            where = f"{path}, line {number}"
            if empty:
                check_same(check_header(line, format=FORMAT, version=VERSION, path=path), header, path)
                empty = False
                continue
            with guarded(where, "journal of judged networks"):
                self._read(line, where)
        if empty:
            self.journal.append(header)

    def _read(self, line: Any, where: str) -> None:
        if "importances" in line:
            self.importances = {str(name): np.array(values, dtype=np.float64) for name, values in line["importances"].items()}
            self.branches = {str(name): float(value) for name, value in line["branches"].items()}
            self.bits = {str(name): float(value) for name, value in line.get("bits", {}).items()}
            self.space.knowing(self.importances)
        elif is_number(line["value"]):
            self.known[row_of_hex(line["row"], self.space)] = float(line["value"])
        else:
            raise CorruptFile(f"{where}: {line['value']!r} is no number")

    def learn(self, importances: dict[str, Values], branches: dict[str, float], bits: dict[str, float]) -> None:
        """Keep importances of units, branches and bits."""
        self.importances, self.branches, self.bits = importances, branches, bits
        line = {"importances": {name: each.tolist() for name, each in importances.items()}, "branches": branches}
        self.journal.append(line | ({"bits": bits} if bits else {}))

    def judged(self, judge: Repaired, X: Rows, progress: bool) -> Values:
        """The metric of rows, of which those are judged that are not known, shape ``(n,)``."""
        keys = [bytes(row) for row in X]
        new = [key for key in dict.fromkeys(keys) if key not in self.known]
        with show_progress("judging networks", len(new), progress) as advance:
            for key in new:
                [value] = judge(np.frombuffer(key, dtype=np.uint8)[None])
                self.journal.append({"row": key.hex(), "value": float(value)})
                self.known[key] = float(value)
                advance(1)
        return np.array([self.known[key] for key in keys])


def one_by_one(space: Adopted, widths: int) -> Rows:
    """Rows in which one gene is cut, at some of its values from the smallest upwards, and all others are whole."""
    found = []
    for gene, size in enumerate(space.sizes):
        for index in np.unique(np.linspace(0, size - 1, widths + 1).astype(int)[:-1]):
            row = space.row()
            row[gene] = index
            found.append(row)
    rows = np.array(found, dtype=np.uint8).reshape(-1, len(space.sizes))
    return np.asarray(np.unique(space.canonical(rows[(rows != space.row()).any(axis=1)]), axis=0))


def together(score: Predictor, networks: int, seed: int) -> Rows:
    """Rows in which many genes are cut: from 90 to 30 % of the multiply-accumulates, by importance, with some chance in it.

    One gene after the other is made smaller, each time the one that loses least, times a random factor, for what it saves. Then some
    regions of kernels, none to all of them, are put in int8.
    """
    space, macs, rng = score.space, metric("macs", score.space), np.random.default_rng(seed)
    whole = np.array([[size - 1 for size in space.sizes]], dtype=np.uint8)
    least, most = macs.lower_bound, float(macs(whole)[0])
    found = []
    for share in np.linspace(0.9, 0.3, networks):
        row, dear = whole[0].copy(), np.exp(rng.normal(0.0, 1.0, len(space.sizes)))
        wanted = max(share * most, least + 0.02 * (most - least))
        while float(macs(row[None])[0]) > wanted:
            genes = np.flatnonzero((row > 0) & space.active(row[None])[0])
            steps = np.repeat(row[None], len(genes), axis=0)
            steps[np.arange(len(genes)), genes] -= 1
            steps = space.canonical(steps)
            saved = macs(row[None]) - macs(steps)
            lost = (score(row[None]) - score(steps)) * dear[genes]
            if not (saved > 0).any():
                break
            rate = np.where(saved > 0, lost / np.maximum(saved, 1e-12), np.inf)
            row = steps[int(np.argmin(rate))]
        found.append(row)
    rows = np.unique(_lowered(space, np.array(found, dtype=np.uint8), rng), axis=0)
    return np.asarray(rows[rng.permutation(len(rows))])


def _lowered(space: SearchSpace, X: Rows, rng: np.random.Generator) -> Rows:
    """The rows, of each of which a random share of regions is in int8."""
    genes = [gene for gene in space.with_role("precision") if space.sizes[gene] > 1]
    if not genes:
        return X
    low = rng.random((len(X), len(genes))) < rng.random((len(X), 1))
    X[:, genes] = np.where(low, 0, X[:, genes])
    return space.canonical(X)


@dataclass(frozen=True)
class _Line:
    """What importance becomes on the scale of the metric: ``start - slope * lost``."""

    start: float
    slope: float

    @classmethod
    def through(cls, lost: Values, values: Values) -> _Line:
        """The line of least squares; one that falls, however little, if that rises."""
        spread = lost - lost.mean()
        slope = -float(spread @ (values - values.mean())) / max(float(spread @ spread), 1e-300)
        slope = max(slope, 1e-6 / max(float(np.abs(lost).max()), 1e-300))
        return cls(float(values.mean()) + slope * float(lost.mean()), slope)


def _scaled(rough: Predictor, alone: Rows, many: Rows, values: Values, images: int) -> Predictor:
    """The predictor on the scale of the metric, with its quality on networks that it was not fitted to."""
    whole, single, joint = values[0], values[1 : 1 + len(alone)], values[1 + len(alone) :]
    rows = np.concatenate([rough.space.canonical(np.array([[size - 1 for size in rough.space.sizes]], dtype=np.uint8)), many])
    told = np.concatenate([[whole], joint])
    level = _Line.through(-rough(rows), told).slope
    factors = _factors(rough, alone, (whole - single) / level, 1.0 / (level * np.sqrt(images)))
    shaped = replace(rough, model=_times(rough, factors))

    def fitted(some: Rows, known: Values) -> Predictor:
        line = _Line.through(-shaped(some), known)
        return replace(shaped, mean=line.start, scale=line.slope)

    held = np.arange(len(rows)) % 4 == 1
    report = fitted(rows[~held], told[~held]).score(rows[held], told[held], fitted=int((~held).sum())) if held.sum() > 1 else None
    return replace(fitted(rows, told), report=report)


def _factors(rough: Predictor, alone: Rows, lost: Values, noise: float) -> Values:
    """How much more each gene matters than its importance says, from networks in which it alone is cut, shape ``(genes,)``.

    What lies within the noise counts for little: with ``m`` lost as measured and ``r`` by importance, the factor is ``(m + noise) /
    (r + noise)``.
    """
    space = rough.space
    whole = np.array([[size - 1 for size in space.sizes]], dtype=np.uint8)
    factors, active = np.ones(len(space.sizes)), space.active(alone)
    for gene in range(len(space.sizes)):
        asleep = np.count_nonzero(~active, axis=1) if space.choices[gene].role == "depth" else 0
        mine = active[:, gene] & (alone[:, gene] != whole[0, gene]) & (np.count_nonzero(alone != whole, axis=1) == 1 + asleep)
        if mine.any():
            by_importance = float((rough(whole)[0] - rough(alone[mine])).sum())
            slack = 2.0 * noise * np.sqrt(mine.sum())
            factors[gene] = (max(float(lost[mine].sum()), 0.0) + slack) / (by_importance + slack)
    return factors


def _times(rough: Predictor, factors: Values) -> Perceptrons:
    """The additive model with each gene's part multiplied."""
    assert isinstance(rough.model, Perceptrons)
    each = np.concatenate([np.repeat(factors, rough.space.sizes), [1.0]])
    return Perceptrons((rough.model.linear * each).astype(np.float32))
