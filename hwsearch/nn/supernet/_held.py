"""The part of a space whose networks weights are of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ...spaces._space import SearchSpace


def held_by(space: SearchSpace, held: Mapping[str, Sequence[int]]) -> SearchSpace:
    """The space restricted to the networks that weights are of.

    Args:
        space: to be restricted.
        held: the indices that genes of the space may have; the others keep all.

    Raises:
        TypeError, ValueError: they do not fit the space.
    """
    every = {choice.name: tuple(range(size)) for choice, size in zip(space.choices, space.sizes, strict=True)}
    kept = every | {name: tuple(map(int, indices)) for name, indices in held.items()}
    if kept.keys() != every.keys() or not all(kept[name] and set(kept[name]) <= set(whole) for name, whole in every.items()):
        raise ValueError("'allowed' does not fit the genes of the space")
    return replace(space, allowed=tuple(kept.values()))


def shaping(held: Mapping[str, Sequence[int]], space: SearchSpace) -> dict[str, Sequence[int]]:
    """Without the genes that are precisions in the space, of which weights of another space say nothing."""
    return {choice.name: held[choice.name] for choice in space.choices if not choice.is_precision}
