"""What a file says of the training that it comes from, and whether these are the arguments of today."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from ..._files._reading import check_same
from ...errors import CorruptFile
from ..data._images import same_data
from ._recipe import Recipe

Facts = dict[str, Any]
HAPPENED = "happened"
"""What happened on the way, among the facts of a result."""


def as_json(facts: Facts) -> Facts:
    """As they will be read back, so that they can be compared."""
    result: Facts = msgspec.json.decode(msgspec.json.encode(facts))
    return result


def same_arguments(found: object, wanted: Facts, path: Path, free: Sequence[str] = ()) -> None:
    """Check what a file says about how it was trained.

    Args:
        found: what it says; what happened on the way is no argument.
        wanted: the arguments.
        path: the file.
        free: fields of the recipe that may differ.

    Raises:
        InvalidInput: with other arguments.
        CorruptFile: it does not say.
    """
    if not isinstance(found, dict) or not isinstance(found.get("recipe", {}), dict):
        raise CorruptFile(f"{path} does not say how it was trained.")
    usual = as_json(Recipe(epochs=1).document)  # what a recipe of an older hwsearch does not name
    found = same_data(found, wanted, path)
    ignored = dict.fromkeys(("recipe", HAPPENED, *free))
    flat = [{**facts, **usual, **facts.get("recipe", {}), **ignored} for facts in (found, wanted)]
    check_same(flat[0], dict.fromkeys(flat[0]) | flat[1], path)
