"""The search spaces that ship with hwsearch: one file a space, each plain data through a lowering such as ``chain``."""

from __future__ import annotations

import os
from typing import Any

from .._files._writing import PathLike
from .._registry import find, make, names
from ..errors import HwsearchError, InvalidInput
from ._space import SearchSpace


def load_space(name: PathLike | SearchSpace, **options: Any) -> SearchSpace:
    """The search space of a name or of a folder; a space is returned as it is.

    Args:
        name: such as ``"resnet_cifar"``; see ``hwsearch devices`` and :func:`hwsearch.register`; or a folder that ``hwsearch adopt`` or
            :func:`hwsearch.nn.adoption.save_adopted` wrote.
        **options: what the space's builder takes, such as ``classes=100`` or ``precisions=("fp32", "int8")``.

    Raises:
        UnknownName: no such space is registered, or its builder takes no such option.
        InvalidInput: an option makes no sense, or is given for a space that is built already.

    Example:
        >>> import hwsearch
        >>> hwsearch.load_space("resnet_digits", classes=26, precisions=("fp32", "int8"))
        <SearchSpace 'resnet_digits': 21 genes, 1.21e+08 architectures>
    """
    if isinstance(name, SearchSpace):
        if options:
            raise InvalidInput(f"Space {name.name!r} is built already; options ({', '.join(options)}) go with a name.")
        return name
    for file in names("folder"):
        if os.path.isfile(os.path.join(name, file)):
            read: Any = find("folder", file)
            found: SearchSpace = read(name)
            return load_space(found, **options)
    try:
        space = make("space", os.fspath(name), **options)
    except (TypeError, ValueError, AttributeError) as error:
        if isinstance(error, HwsearchError):
            raise
        raise InvalidInput(f"Space {name!r} cannot be built with {options}: {error}.") from error
    if not isinstance(space, SearchSpace):
        raise InvalidInput(f"The builder of space {name!r} returned {type(space).__name__}, not a SearchSpace.")
    return space
