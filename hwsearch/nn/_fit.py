"""The accuracy predictor of a supernet or of an adopted network, fitted to networks that are evaluated."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np

from .._files._writing import PathLike
from ..errors import InvalidInput, check_seed
from ..scores._predictor import LEAST, Predictor
from ..spaces._genes import Rows
from ..spaces._load import load_space
from ..spaces._space import SearchSpace
from ._sampling import sample_networks
from ._scores import Scores, SupernetScore, score_networks
from .adoption._adopted import Adopted
from .adoption._examples import Examples
from .adoption._predict import fit_adopted
from .adoption._repaired import STANDARD as STANDARD_PROBING
from .adoption._repaired import Probing
from .data._images import DataLike
from .data._load import load_data
from .quantization._quantize import STANDARD, Quantization
from .supernet._supernet import WeightsLike

_POOL = 2000
"""From this many random networks those of the next round are chosen."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Which networks of a supernet a predictor is fitted to, and how they are evaluated.

    Example:
        >>> from hwsearch.nn import Sampling
        >>> [Sampling(networks=300, rounds=3).upto(number) for number in (1, 2, 3)]
        [100, 200, 300]

    Attributes:
        networks: how many networks to evaluate at their precisions; at least 10 a round.
        floating: how many to evaluate in floating point besides, for a predictor to which that of quantised networks is a correction. They
            are cheaper, and fewer are needed at their precisions then (APQ, CVPR'20, section 3.3). 0 for none, or at least 10.
        rounds: after the first round, each asks for the networks of which the predictor is least certain
            (:meth:`hwsearch.Predictor.choose`); with one round, all are random.
        images: how many validation images to evaluate on at most.
        tuning: steps of quantisation-aware fine-tuning that each network at its precisions gets first.
        quantization: how the networks are quantised; ``Quantization().on(table.device)`` for the arithmetic of the device that is searched
            for.

    Raises:
        InvalidInput: too few networks.
    """

    networks: int = 300
    floating: int = 0
    rounds: int = 1
    images: int = 2000
    tuning: int = 0
    quantization: Quantization = STANDARD

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.upto(1) < LEAST or 0 != self.floating < LEAST:
            raise InvalidInput(
                f"A predictor needs at least {LEAST} networks in each of its {self.rounds} rounds, and {LEAST} in floating point or none; "
                f"{self.networks} networks and {self.floating} in floating point are too few."
            )

    def upto(self, number: int) -> int:
        """How many networks are evaluated after a number of rounds."""
        return -(-self.networks * number // self.rounds)


RANDOM = Sampling()
"""300 random networks."""


def fit_predictor(
    space: str | SearchSpace,
    *,
    weights: WeightsLike | None = None,
    data: Examples,
    out: PathLike,
    sampling: Sampling | Probing = RANDOM,
    seed: int = 0,
    executor: Executor | Callable[[], Executor] | None = None,
    progress: bool = True,
) -> Predictor:
    """Evaluate networks and fit an accuracy predictor to them.

    Networks of a supernet are evaluated with its weights; networks of a space of :func:`hwsearch.adopt` are cut from it and repaired by
    least squares, without training. The evaluations are kept beside ``out``: for a ``p.npz`` in ``p.scores.npz`` and ``p.floating.npz``,
    or in ``p.probes.jsonl``. A stopped call is continued by the same call, and a larger sample evaluates only the networks that are new.

    Args:
        space: the space, or its name.
        weights: the supernet or its file; none for an adopted network.
        data: the images (:func:`hwsearch.nn.load_data`); for an adopted network whatever :func:`hwsearch.extract` takes, in which the
            images to judge on come after those to repair on if there is no validation split.
        out: the npz file of the predictor.
        sampling: which networks are evaluated, and on how many images; for an adopted network a
            :class:`hwsearch.nn.adoption.Probing`, which also takes a metric of your own.
        seed: of the networks and of the fit.
        executor: evaluates the networks on its workers, or makes one that does; give files and not objects then.
        progress: show a bar with the time left.

    Returns:
        The predictor; its ``report`` says how well it did on networks that it was not fitted to.

    Raises:
        InvalidInput, CorruptFile, NewerVersion, WrongSpace, WorkersLost: as :func:`hwsearch.nn.score_networks` does.

    Example:
        >>> import hwsearch
        >>> from hwsearch.spaces import Chain, Stage
        >>> toy = Chain("toy", (8,), (8,), (Stage((1, 2), (8, 16), (8, 12)),), classes=10, precisions=("fp32", "int8"), channels=1).space()
        >>> supernet = hwsearch.train(toy, data="digits", out="toy-fit.safetensors", recipe={"epochs": 1}, progress=False)
        >>> how = {"sampling": hwsearch.nn.Sampling(networks=12, images=50), "progress": False}
        >>> hwsearch.fit_predictor(toy, weights=supernet, data="digits", out="p.npz", **how)
        <Predictor ...>
    """
    space = load_space(space)
    if isinstance(space, Adopted):
        probing = STANDARD_PROBING if sampling is RANDOM else sampling
        if weights is not None or executor is not None or not isinstance(probing, Probing):
            raise InvalidInput(
                "An adopted network brings its weights along: leave out weights and executor, and give a Probing as sampling."
            )
        return fit_adopted(space, data, out, probing, check_seed(seed), progress=progress)
    if weights is None or isinstance(sampling, Probing):
        raise InvalidInput(f"Space {space.name!r} needs the weights of a supernet, as weights=, and no Probing as its sampling.")
    return _of_supernet(space, weights, cast("DataLike", data), Path(out), sampling, check_seed(seed), executor, progress)


def _of_supernet(
    space: SearchSpace,
    weights: WeightsLike,
    data: DataLike,
    out: Path,
    sampling: Sampling,
    seed: int,
    executor: Executor | Callable[[], Executor] | None,
    progress: bool,
) -> Predictor:
    """The predictor of a supernet."""
    opened, base = load_data(data), None
    score = SupernetScore(space, weights, data if executor else opened, images=sampling.images)
    quantized = replace(score, tuning=sampling.tuning, quantization=sampling.quantization)

    def scored(X: Rows, score: SupernetScore, suffix: str) -> Scores:
        return score_networks(score, X, out=out.with_suffix(suffix), executor=executor, progress=progress)

    if sampling.floating:
        X = sample_networks(space, sampling.floating, seed, floating=True)
        base = Predictor.fit(space, X, scored(X, replace(score, floating=True), ".floating.npz"), kind="mlp", seed=seed)
    X = sample_networks(space, sampling.upto(1), seed)
    for number in range(1, sampling.rounds + 1):
        predictor = Predictor.fit(space, X, scored(X, quantized, ".scores.npz"), seed=seed, base=base)
        if number < sampling.rounds:
            X = np.concatenate([X, _uncertain(predictor, X, sampling.upto(number + 1) - len(X), seed + number)])
    predictor = replace(predictor, data=opened.label, weight_bits=sampling.quantization.weight_bits)
    predictor.save(out)
    return predictor


def _uncertain(predictor: Predictor, X: Rows, networks: int, seed: int) -> Rows:
    """The networks besides ``X`` of which a predictor is least certain, shape ``(at most networks, genes)``."""
    known = {bytes(row) for row in X}
    pool = np.array([row for row in sample_networks(predictor.space, _POOL, seed) if bytes(row) not in known])
    return pool[predictor.choose(pool, networks, X)] if len(pool) else X[:0]
