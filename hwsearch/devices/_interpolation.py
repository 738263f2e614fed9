"""Estimates for blocks that were not measured: physics first, and a Gaussian process on what physics leaves over.

The physics is a non-negative combination of what each layer of a block has to do: products with channels rounded up to the tiles that
kernels work in (which makes the staircase), feature maps and weights moved, and a constant. The process (Rasmussen and Williams, 2006,
algorithm 2.1) works on the logarithm of measured over modelled, over the widths, their share of padding, and the size; its spread, scaled
so that it fits the errors on blocks that are left out one at a time (section 5.4.2 there), is the error of an estimate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from .._gaussian import Posterior, squared_distances
from ..networks._blocks import Block
from ..networks._fused import Fused
from ..networks._layers import Layer
from ._kernel_work import kernel_coordinates, kernel_work

Floats = npt.NDArray[np.float64]
_TILES = (4, 8, 16, 32)
_CHUNK = 8192
_MOST = 1500
"""The process is fitted on at most this many blocks of a family: fitting is cubic in their number."""
_LEARNT = 300
"""Its lengths and heights are learnt from at most this many."""
_RIDGE = 1e-3
_TRUTH = 0.05
"""Physics is no truer than this, relatively."""
_SURPRISING = 4.0
"""A block is an outlier if it is this many standard deviations from what is expected of it without itself."""
_NOISE = 0.005
"""No measurement is taken to be truer than this, relatively."""
_COUNTED_MS = 1e-3
"""Profilers count in whole microseconds: what they say of a kernel is no truer, so that kernels of almost none do not speak for all."""


@dataclass(frozen=True)
class Guesses:
    """Estimates, each of shape ``(n,)``, NaN if nothing similar was measured.

    Attributes:
        latency_ms: milliseconds.
        relative_error: one standard deviation, relative.
        energy_mj: millijoules; NaN also if the measured blocks have none.
    """

    latency_ms: Floats
    relative_error: Floats
    energy_mj: Floats


class Interpolator:
    """Estimates from measured blocks of the same kind, structure and precision.

    Args:
        measured: block, milliseconds, relative error of these, millijoules or ``None``.
    """

    def __init__(self, measured: Sequence[tuple[Block, float, float, float | None]]) -> None:
        self._members: dict[str, list[tuple[Block, float, float, float | None]]] = {}
        for entry in measured:
            self._members.setdefault(entry[0].family, []).append(entry)
        self._families: dict[str, tuple[Process, Process | None]] = {}

    def estimate(self, blocks: Sequence[Block], *, errors: bool = True) -> Guesses:
        """Estimates for many blocks.

        Args:
            blocks: any.
            errors: whether errors are wanted, which takes longer; otherwise they are zero.
        """
        groups: dict[str, list[int]] = {}
        for index, block in enumerate(blocks):
            groups.setdefault(block.family, []).append(index)
        latency, error, energy = (np.full(len(blocks), np.nan) for _ in range(3))
        for name, places in groups.items():
            if name not in self._members:
                continue
            chosen = [blocks[place] for place in places]
            time, joules = self._family(name)
            latency[places], error[places] = time.predict(chosen, errors=errors)
            if joules is not None:
                energy[places] = joules.predict(chosen, errors=False)[0]
        return Guesses(latency, error, energy)

    def process(self, name: str) -> Process:
        """The model of the latency of a family (:attr:`Block.family`) of which something was measured."""
        return self._family(name)[0]

    def _family(self, name: str) -> tuple[Process, Process | None]:
        """The models of one family: of its latency, and of its energy by those of its blocks that have one, if any do."""
        if name not in self._families:
            members = self._members[name]
            blocks = [block for block, *_ in members]
            took, noise = np.array([(ms, error) for _, ms, error, _ in members]).T
            latency = Process.fit(blocks, took, np.hypot(noise, _COUNTED_MS / took) if _kernels(blocks) else noise)
            metered = [(block, mj, error) for block, _, error, mj in members if mj is not None]
            energy = None
            if metered:
                energy = Process.fit([b for b, *_ in metered], np.array([mj for _, mj, _ in metered]), np.array([e for *_, e in metered]))
            self._families[name] = latency, energy
        return self._families[name]


@dataclass(frozen=True)
class Process:
    """Physics and a Gaussian process for one family of blocks.

    Attributes:
        blocks: that were measured, n of them.
        rates: what each kind of work costs.
        places: coordinates of the blocks, in units of the process, shape ``(n, d)``.
        lengths: what one unit of each coordinate is, shape ``(d,)``.
        height: standard deviation of what physics leaves over.
        noise: relative standard deviation of each measurement, shape ``(n,)``.
        left: logarithms of measured over modelled, shape ``(n,)``.
        mean: of these.
    """

    blocks: tuple[Block, ...]
    rates: Floats
    places: Floats
    lengths: Floats
    height: float
    noise: Floats
    left: Floats
    mean: float

    @classmethod
    def fit(cls, blocks: Sequence[Block], values: Floats, noise: Floats) -> Process:
        """Fit on measured blocks.

        Args:
            blocks: of one family, at least one.
            values: what they cost, positive, shape ``(n,)``.
            noise: relative standard deviation of each, shape ``(n,)``.
        """
        if len(blocks) > _MOST:
            chosen = np.sort(np.random.default_rng(0).choice(len(blocks), _MOST, replace=False))
            blocks, values, noise = [blocks[index] for index in chosen], values[chosen], noise[chosen]
        work, noise = _work(blocks), np.hypot(noise, _NOISE)
        rates = _rates(work, values, noise)
        left = np.log(values / np.maximum(work @ rates, 1e-12))
        mean = float(left.mean())
        raw = coordinates(blocks)
        for _ in range(2):
            lengths, height, extra = _scales(raw, _alike(2 + len(blocks[0].mids), raw.shape[1]), left - mean, noise)
            process = cls(tuple(blocks), rates, raw / lengths, lengths, height, np.hypot(noise, extra), left, mean)
            outliers = process._outliers
            if not outliers.any():
                break
            # What a runtime treats as no other block, for a reason that is not known here, tells nothing of its like.
            noise = np.where(outliers, np.maximum(noise, np.abs(process._posterior.left_out)), noise)
        return process

    @cached_property
    def _posterior(self) -> Posterior:
        """What is known of what physics leaves over."""
        return Posterior.of(self.height**2 * _similarity(self.places, self.places) + np.diag(self.noise**2), self.left - self.mean)

    @property
    def _outliers(self) -> npt.NDArray[np.bool_]:
        """Which blocks cost what nobody expects of them who knows the others, shape ``(n,)``."""
        surprise = self._posterior.weights * self._posterior.left_out
        result: npt.NDArray[np.bool_] = surprise > _SURPRISING**2
        return result

    @property
    def _scale(self) -> float:
        """Scale of the errors: those of blocks estimated without themselves, by what the process expects of them."""
        if len(self.left) < 3:
            return 1.0
        return float(np.sqrt(np.mean(self._posterior.weights * self._posterior.left_out)))

    @property
    def left_out(self) -> Floats:
        """Relative error on each measured block if it were left out (rates and scales stay), shape ``(n,)``."""
        result: Floats = np.expm1(-self._posterior.left_out)
        return result

    def predict(self, blocks: Sequence[Block], *, errors: bool = True) -> tuple[Floats, Floats]:
        """What blocks cost and, if wanted, the relative errors of that, both of shape ``(len(blocks),)``."""
        value, error = np.empty(len(blocks)), np.zeros(len(blocks))
        for start in range(0, len(blocks), _CHUNK):
            part = blocks[start : start + _CHUNK]
            near = self.height**2 * _similarity(coordinates(part) / self.lengths, self.places)
            value[start : start + len(part)] = np.maximum(_work(part) @ self.rates, 1e-12) * np.exp(self.mean + self._posterior.mean(near))
            if errors:
                variance = self._posterior.variance(near, self.height**2) + float(np.median(self.noise)) ** 2
                error[start : start + len(part)] = max(self._scale, 0.1) * np.sqrt(variance)
        return value, error

    def least_sure(self, blocks: Sequence[Block], weights: Floats, count: int) -> list[tuple[float, Block]]:
        """Which blocks to measure next: always the one whose weighted error is largest, given that those before are measured.

        Args:
            blocks: to choose from.
            weights: what an error of each counts, shape ``(len(blocks),)``.
            count: how many.

        Returns:
            Weighted error and block.
        """
        places = coordinates(blocks) / self.lengths
        near = self.height**2 * _similarity(places, self.places)
        known = self._posterior.whitened(near)
        unknown = self.height**2 * _similarity(places, places) - known.T @ known
        noise = float(np.median(self.noise)) ** 2
        chosen = []
        for _ in range(min(count, len(blocks))):
            error = weights * np.sqrt(np.maximum(np.diag(unknown), 0))
            best = int(error.argmax())
            chosen.append((float(self._scale * error[best]), blocks[best]))
            unknown = unknown - np.outer(unknown[:, best], unknown[best]) / (unknown[best, best] + noise)
        return chosen


# -- physics -----------------------------------------------------------------------------------------------------------


def _work(blocks: Sequence[Block]) -> Floats:
    """What blocks of one family have to do, a column a kind of layer and kind of work, shape ``(n, columns)``."""
    if kernels := _kernels(blocks):
        return kernel_work(kernels)
    unique: dict[Layer, int] = {}
    index = [[unique.setdefault(layer, len(unique)) for layer in block.graph.layers] for block in blocks]
    table = np.zeros((len(unique) + 1, _LAYER_WORK * len(_ROLES)))
    for layer, row in unique.items():
        start = _LAYER_WORK * _role(layer)
        table[row, start : start + _LAYER_WORK] = _layer_work(layer)
    most = max(map(len, index), default=0)
    padded = np.array([layers + [-1] * (most - len(layers)) for layers in index], dtype=np.intp).reshape(len(blocks), most)
    own = np.array([_block_work(block) for block in blocks]).reshape(len(blocks), -1)
    return np.hstack([table[padded].sum(axis=1), own])


def _kernels(blocks: Sequence[Block]) -> list[Fused]:
    """The blocks of a family, if they are kernels of a user's network."""
    return [block for block in blocks if isinstance(block, Fused)]


_ROLES = ("pointwise", "strided pointwise", "spatial", "strided spatial", "depthwise", "pooling", "linear")
_LAYER_WORK = 4 + len(_TILES)


def _role(layer: Layer) -> int:
    if layer.pooling or layer.op == "linear":
        return 5 if layer.pooling else 6
    if layer.groups > 1:
        return 4
    return (layer.stride > 1) + 2 * (layer.kernel > 1)


def _layer_work(layer: Layer) -> tuple[float, ...]:
    """Products with padded channels, a column a tile; values read and written, weights, and one. All in units of like size."""
    pixels = layer.out_size**2 * layer.kernel**2 * layer.groups
    products = [
        1e-6 * pixels * _padded(layer.cin // layer.groups, min(tile, 8)) * _padded(layer.cout // layer.groups, tile) for tile in _TILES
    ]
    return (*products, 1e-4 * layer.inputs, 1e-4 * layer.outputs, 1e-4 * layer.weights, 1e-2)


def _block_work(block: Block) -> tuple[float, ...]:
    """Values that come in and go out (a sum reads them again), and one."""
    body = block.graph.body
    last = body[-1].outputs if body else block.cin * block.size**2
    return 1e-4 * block.cin * block.size**2, 1e-4 * last, 1e-2


def _padded(channels: int, tile: int) -> int:
    return -(-channels // tile) * tile


def _rates(work: Floats, values: Floats, noise: Floats) -> Floats:
    """Non-negative rates, least squares on relative errors, drawn a little towards zero; noisy values count less."""
    from scipy.optimize import nnls

    weight = _TRUTH / np.hypot(_TRUTH, noise)
    relative = work / values[:, None] * weight[:, None]
    size = np.maximum(np.sqrt((relative**2).mean(axis=0)), 1e-12)
    scaled = np.vstack([relative / size, _RIDGE * np.sqrt(len(work)) * np.eye(work.shape[1])])
    rates, _ = nnls(scaled, np.concatenate([weight, np.zeros(work.shape[1])]))
    result: Floats = rates / size
    return result


# -- what physics leaves over ------------------------------------------------------------------------------------------


def coordinates(blocks: Sequence[Block]) -> Floats:
    """Where a block stands among others of its family: logarithms of widths, padding, size and shape, shape ``(n, d)``."""
    if kernels := _kernels(blocks):
        return kernel_coordinates(kernels)
    widths = np.array([(block.cin, block.cout, *block.mids) for block in blocks], dtype=np.float64)
    shape = np.array([(block.size, block.kernel, block.groups) for block in blocks], dtype=np.float64)
    kind = np.array([(block.stride > 1, block.graph.shortcut == ()) for block in blocks], dtype=np.float64)
    padding = np.log2(np.ceil(widths / 16) * 16 / widths)
    return np.hstack([np.log2(widths), np.log2(shape), kind, padding])


def _similarity(a: Floats, b: Floats) -> Floats:
    """Matern's of order 3/2, shape ``(len(a), len(b))``."""
    distance = np.sqrt(3 * squared_distances(a, b))
    result: Floats = (1 + distance) * np.exp(-distance)
    return result


def _alike(widths: int, count: int) -> npt.NDArray[np.intp]:
    """Which of ``count`` coordinates share a length: widths, sizes, what a block is, and padding of widths; shape ``(count,)``."""
    return np.repeat(np.arange(4), (widths, 3, count - 2 * widths - 3, widths))


def _scales(raw: Floats, groups: npt.NDArray[np.intp], left: Floats, noise: Floats) -> tuple[Floats, float, float]:
    """Lengths of the coordinates, height and further noise of the process: those under which the data are most likely."""
    from scipy.optimize import minimize

    start = np.log([2.0, 1.0, 1.0, 0.5, max(float(left.std()), 0.01), 0.01])
    if len(left) < 12:
        return np.exp(start[groups]), float(np.exp(start[4])), 0.0
    chosen = np.random.default_rng(0).permutation(len(left))[:_LEARNT]
    raw, left, noise = raw[chosen], left[chosen], noise[chosen]
    apart = np.stack([((raw[:, None, groups == group] - raw[:, groups == group]) ** 2).sum(axis=2) for group in range(4)])

    def surprise(logs: Floats) -> tuple[float, Floats]:
        """Negative logarithm of the likelihood, a wide prior among it, and its gradient (equations 5.8 and 5.9 there)."""
        parts = 3 * apart * np.exp(-2 * logs[:4])[:, None, None]
        distance = np.sqrt(parts.sum(axis=0))
        decay = np.exp(2 * logs[4] - distance)
        own = decay * (1 + distance)
        try:
            root = np.linalg.cholesky(own + np.diag(noise**2 + np.exp(2 * logs[5])))
        except np.linalg.LinAlgError:
            return 1e9, np.zeros(6)
        half = np.linalg.inv(root)
        inverse = half.T @ half
        solved = inverse @ left
        slope = inverse - np.outer(solved, solved)
        gradient = [0.5 * float((slope * (decay * part)).sum()) for part in parts]
        gradient += [float((slope * own).sum()), float(np.exp(2 * logs[5]) * np.trace(slope))]
        far = (logs - start) / 1.5
        value = 0.5 * float(left @ solved) + float(np.log(np.diag(root)).sum()) + 0.5 * float((far**2).sum())
        return value, np.array(gradient) + far / 1.5

    bounds = [(-4.0, 4.0)] * 4 + [(-7.0, 1.0), (-7.0, -1.0)]
    found = minimize(surprise, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 40}).x
    return np.exp(found[groups]), float(np.exp(found[4])), float(np.exp(found[5]))
