"""The search spaces that ship with hwsearch: one file a space, each plain data through a lowering such as ``chain``."""

from __future__ import annotations

import inspect
import os
from dataclasses import replace
from typing import Any

from .._files._writing import PathLike
from .._registry import find, make, names
from ..errors import CorruptFile, HwsearchError, InvalidInput, UnknownName, WrongSpace
from ._space import SearchSpace

_SIZES = ("channels", "classes")
"""Options that are told in the name of a space."""


def load_space(name: PathLike | SearchSpace, **options: Any) -> SearchSpace:
    """The search space of a name or of a folder; a space is returned as it is.

    A space for other classes or channels than usual is called so, which is how files that belong to it find it again.

    Args:
        name: such as ``"resnet_cifar"``, or ``"resnet_cifar:channels=1,classes=2"``; see ``hwsearch list spaces`` and
            :func:`hwsearch.register`; or a folder that ``hwsearch adopt`` or :func:`hwsearch.nn.adoption.save_adopted` wrote.
        **options: what the space's builder takes, such as ``classes=100`` or ``precisions=("fp32", "int8")``.

    Raises:
        UnknownName: no such space is registered, or its builder takes no such option.
        InvalidInput: an option makes no sense, or is given for a space that is built already.

    Example:
        >>> import hwsearch
        >>> hwsearch.load_space("resnet_digits", classes=26, precisions=("fp32", "int8"))
        <SearchSpace 'resnet_digits:classes=26': 21 genes, 1.21e+08 architectures>
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
    plain, told = _told(os.fspath(name))
    options = {**told, **options}
    try:
        space = make("space", plain, **options)
    except (TypeError, ValueError, AttributeError) as error:
        if isinstance(error, HwsearchError):
            raise
        raise InvalidInput(f"Space {name!r} cannot be built with {options}: {error}.") from error
    if not isinstance(space, SearchSpace):
        raise InvalidInput(f"The builder of space {name!r} returned {type(space).__name__}, not a SearchSpace.")
    usual = inspect.signature(find("space", plain)).parameters
    sizes = [f"{size}={options[size]}" for size in _SIZES if size in options and options[size] != usual[size].default]
    return replace(space, name=f"{space.name}:{','.join(sizes)}") if sizes else space


def _told(name: str) -> tuple[str, dict[str, int]]:
    """A name without its options, and the options.

    Raises:
        InvalidInput: they are written otherwise than ``NAME:channels=1,classes=2``.
    """
    plain, colon, rest = name.partition(":")
    told: dict[str, int] = {}
    for text in rest.split(",") if colon else ():
        size, _, number = text.partition("=")
        if size not in _SIZES or not number.isdecimal():
            raise InvalidInput(f"Space {name!r}: after the colon {' and '.join(_SIZES)} are told, as in resnet_cifar:channels=1,classes=2.")
        told[size] = int(number)
    return plain, told


def space_of_file(name: object, path: PathLike) -> SearchSpace:
    """The search space that a file says it belongs to.

    Args:
        name: what the file says.
        path: the file, for messages.

    Raises:
        WrongSpace: no space of that name is registered or announced here.
        CorruptFile: the file does not name a space.
    """
    if not isinstance(name, str):
        raise CorruptFile(f"{os.fspath(path)} does not say to which search space it belongs.")
    try:
        return load_space(name)
    except UnknownName as error:
        raise WrongSpace(
            f"{os.fspath(path)} belongs to the search space {name!r}, which is not registered here. Import the module that registers it, "
            f"in the shell by --import MODULE, or give the space itself, in the shell by the folder of hwsearch adopt (--space). {error}"
        ) from error
