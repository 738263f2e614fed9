"""Variation: new rows from nothing, from one row, and from two (:class:`SearchSpace` has most as methods, and explains them)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from .._types import Rows
from ._genes import Genes


def sample(genes: Genes, n: int, rng: np.random.Generator) -> Rows:
    """Random canonical rows, shape ``(n, genes)``."""
    X = np.empty((n, len(genes.choices)), dtype=np.uint8)
    for gene, allowed in enumerate(genes.allowed):
        X[:, gene] = np.array(allowed, dtype=np.uint8)[rng.integers(len(allowed), size=n)]
    return genes.canonical(X)


def mutate(genes: Genes, X: Rows, rng: np.random.Generator, rate: float | npt.NDArray[np.float64]) -> Rows:
    """Rows with some genes redrawn, at least one active gene of each, shape ``(n, genes)``."""
    before = genes.active(X)
    change = rng.random(X.shape, dtype=np.float32) < np.reshape(rate, (-1, 1)).astype(np.float32)
    change[np.arange(len(X)), _some_gene(genes, before, rng)] = True
    counts, values, ranks = genes.redraws
    result = X.copy()
    flat = result.reshape(-1)
    places = np.flatnonzero(change)
    gene = places % X.shape[1]
    step = 1 + (rng.random(len(gene)) * (counts[gene] - 1)).astype(np.intp)
    flat[places] = values[gene, (ranks[gene, flat[places]] + step) % counts[gene]]
    places = np.flatnonzero(genes.active(result) > before)  # what a mutation wakes up starts at random, not at its first value
    gene = places % X.shape[1]
    flat[places] = values[gene, (rng.random(len(gene)) * counts[gene]).astype(np.intp)]
    return genes.canonical(result)


def _some_gene(genes: Genes, active: npt.NDArray[np.bool_], rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """A random gene of each row that is active and has a choice (any gene if there is none), shape ``(n,)``."""
    free = active & (genes.redraws[0] > 1)
    gene = rng.integers(free.shape[1], size=len(free))
    for _ in range(4):
        wrong = np.flatnonzero(~free[np.arange(len(free)), gene])
        gene[wrong] = rng.integers(free.shape[1], size=len(wrong))
    wrong = np.flatnonzero(~free[np.arange(len(free)), gene])
    gene[wrong] = np.where(free[wrong], rng.random((len(wrong), free.shape[1])), -1.0).argmax(axis=1)
    return gene


def cross(genes: Genes, A: Rows, B: Rows, rng: np.random.Generator) -> Rows:
    """Uniform crossover: each gene from one parent or the other, or from the one where it is active; shape ``(n, genes)``."""
    coin = np.frombuffer(rng.bytes(A.size), dtype=np.uint8).reshape(A.shape) < 128
    from_first = ((coin & genes.active(A)) | ~genes.active(B)).view(np.uint8)
    return genes.canonical(B + (A - B) * from_first)  # modulo 256, and much faster than a choice of bytes


def splice(genes: Genes, A: Rows, B: Rows, rng: np.random.Generator) -> Rows:
    """Two-point crossover: a run of neighbouring genes from the second parent, the others from the first; shape ``(n, genes)``.

    Genes of the same stage stand together, so what works together is inherited together. A gene that was not active where it comes from has
    its first value.
    """
    ends = np.sort(rng.integers(A.shape[1], size=(len(A), 2)), axis=1)
    place = np.arange(A.shape[1])
    of_second = (ends[:, :1] <= place) & (place <= ends[:, 1:])
    return genes.canonical(np.where(of_second, genes.awake(B), genes.awake(A)))


def neighbours(genes: Genes, row: Rows) -> Rows:
    """All different canonical rows that change one active gene of ``row`` (shape ``(genes,)``), shape ``(m, genes)``."""
    active, awake = genes.active(row[None])[0], genes.awake(row[None])
    changed = []
    for gene, allowed in enumerate(genes.allowed):
        others = [value for value in allowed if value != row[gene]]
        if active[gene] and others:
            block = np.repeat(awake, len(others), axis=0)
            block[:, gene] = others
            changed.append(block)
    if not changed:
        return np.empty((0, len(genes.choices)), dtype=np.uint8)
    return np.unique(genes.canonical(np.concatenate(changed)), axis=0)


def every_row(genes: Genes) -> Iterator[Rows]:
    """All canonical rows, in batches of at most 65,536; for spaces that are small enough to wait for."""
    products = itertools.product(*genes.allowed)
    while batch := list(itertools.islice(products, 65536)):
        X = np.array(batch, dtype=np.uint8)
        yield genes.canonical(X[(X == genes.awake(X)).all(axis=1)])
