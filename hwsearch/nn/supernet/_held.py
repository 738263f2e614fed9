"""The part of a space whose networks weights are of, and whether these weights are kept one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ...errors import InvalidInput
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


def check_kept(generated: bool, what: str) -> None:
    """Check that weights are kept, and so can be changed one by one.

    Args:
        generated: whether they are made from widths.
        what: is said of weights that are.

    Raises:
        InvalidInput: they are.
    """
    if generated:
        raise InvalidInput(f"Weights that are made from widths {what}: leave out generated=True.")
