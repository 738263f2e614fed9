"""The search spaces that ship with hwsearch: one file a space, each plain data through a lowering such as ``chain``."""

from __future__ import annotations

from typing import Any

from .._registry import make
from ..errors import InvalidInput
from ..space import SearchSpace


def load_space(name: str | SearchSpace, **options: Any) -> SearchSpace:
    """The search space of that name; a space is handed back as it is.

    Args:
        name: such as ``"resnet_cifar"``; see ``hwsearch devices`` and :func:`hwsearch.register`.
        **options: what the space's builder takes.

    Raises:
        UnknownName: no such space is registered.
    """
    if isinstance(name, SearchSpace):
        return name
    space = make("space", name, **options)
    if not isinstance(space, SearchSpace):
        raise InvalidInput(f"The builder of space {name!r} returned {type(space).__name__}, not a SearchSpace.")
    return space
