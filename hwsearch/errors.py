"""Every exception that hwsearch raises on purpose.

HwsearchError
├── InvalidInput (ValueError)          an argument that makes no sense
│   ├── UnknownName (LookupError)      a space, metric, backend, algorithm or gene that does not exist
│   └── InvalidLimit                   a limit that is negative, NaN, or not a number
├── Infeasible                         limits that no architecture of the space can meet
├── FileError                          a file that cannot be used
│   ├── CorruptFile                    truncated, not of the format, or holding impossible values
│   ├── InUse                          an output that another process is writing
│   ├── WrongUnit                      a table whose unit is not the documented one
│   ├── NewerVersion                   written by a newer hwsearch
│   ├── WrongDevice                    a table measured on another device than the one asked for
│   └── WrongSpace                     a predictor, state or supernet of another search space
├── MissingBlocks (LookupError)        a table that does not hold all the blocks a space needs
├── Unsupported                        a backend cannot run what was asked for
├── BuildFailed                        a runtime's builder crashed, hung or ran out of memory over one network
├── ConnectionLost                     a board that cannot be reached; what was measured there is not lost
├── BoardFailed                        a program that failed on a board
├── WorkersLost                        workers of an executor die again and again
├── EvaluationsFailed                  none of the evaluations of a costly score succeeded
└── MissingDependency (ImportError)    an optional package is not installed
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from math import inf
from numbers import Real
from operator import index
from types import ModuleType


class HwsearchError(Exception):
    """The base of everything hwsearch raises on purpose."""


class InvalidInput(HwsearchError, ValueError):
    """An argument that makes no sense; the message names it and says what was expected."""


class UnknownName(InvalidInput, LookupError):
    """A name that is not registered.

    Args:
        what: what kind of thing was named, for example ``"space"``.
        name: the name that was asked for.
        known: the names that exist.
    """

    def __init__(self, what: str, name: object, known: Iterable[str]) -> None:
        from difflib import get_close_matches

        names = sorted(set(known))
        close = get_close_matches(str(name), names, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        super().__init__(f"Unknown {what} {name!r}.{hint} Known: {', '.join(names) or 'none'}.")


class InvalidLimit(InvalidInput):
    """A limit that is negative, NaN, or not a number."""


class Infeasible(HwsearchError):
    """Limits that no architecture of the space can meet; the message says what is reachable."""


class FileError(HwsearchError):
    """A file that cannot be used."""


class CorruptFile(FileError):
    """A file that is truncated, not of the format, or holds impossible values."""


class InUse(FileError):
    """An output that another process is writing; the message says which one."""


class WrongUnit(FileError):
    """A table whose unit is not the documented one."""


class NewerVersion(FileError):
    """A file written by a newer version of hwsearch."""


class WrongDevice(FileError):
    """A table that was measured on another device, runtime or protocol than the one asked for."""


class WrongSpace(FileError):
    """A predictor, search state or supernet that belongs to another search space."""


class MissingBlocks(HwsearchError, LookupError):
    """A latency table that lacks blocks which the space needs."""


class Unsupported(HwsearchError):
    """A backend cannot run what was asked for."""


class BuildFailed(HwsearchError):
    """A runtime's builder crashed, hung or ran out of memory over one network; others may still build."""


class ConnectionLost(HwsearchError):
    """A board cannot be reached, or the connection to it was cut; the same command continues where it was."""


class BoardFailed(HwsearchError):
    """A program failed on a board; the message is what it said."""


class WorkersLost(HwsearchError):
    """Workers of an executor die whenever they score certain rows; the message says how often."""


class EvaluationsFailed(HwsearchError):
    """A costly score failed for every network that was tried; the message is what it said last."""


class MissingDependency(HwsearchError, ImportError):
    """An optional package is not installed.

    Args:
        feature: what needs the package, as the user would say it.
        package: the name of the package.
        extra: the hwsearch extra that installs it.
        hint: further advice, appended to the command.
    """

    def __init__(self, feature: str, package: str, extra: str, hint: str = "") -> None:
        super().__init__(
            f"{feature} needs the package {package!r}, which is not installed. Install it with: pip install 'hwsearch[{extra}]'{hint}"
        )


def require(module: str, *, feature: str, extra: str) -> ModuleType:
    """Import an optional module, or say what to install.

    Raises:
        MissingDependency: the package of ``module`` is not installed.
    """
    package = module.partition(".")[0]
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise MissingDependency(feature, package, extra) from error


class SaturationWarning(UserWarning):
    """Int8 weights do not have the bits that the integer products of a device carry.

    A model file is then less accurate on this machine, or a predictor was fitted to networks as another device computes them.
    """


def check_count(name: str, value: object, least: int, most: int = 2**63 - 1) -> int:
    """Check a whole number of Python or numpy, and return it as an ``int``.

    Args:
        name: the name of the argument, for the message.
        value: what was given.
        least: the smallest value allowed.
        most: the largest value allowed.

    Raises:
        InvalidInput: the value is not a whole number, or not between these two.
    """
    try:
        number = least - 1 if isinstance(value, bool) else index(value)  # type: ignore[arg-type]
    except TypeError:
        number = least - 1
    if number < least:
        raise InvalidInput(f"{name} must be a whole number of at least {least}, not {value!r}.")
    if number > most:
        raise InvalidInput(f"{name} must be at most {most}, and it has {number.bit_length()} bits.")
    return number


def check_positive(name: str, value: object) -> float:
    """Check a positive number of Python or numpy, and return it as a ``float``.

    Args:
        name: the name of the argument, for the message.
        value: what was given.

    Raises:
        InvalidInput: the value is not a number, not finite, or not above 0.
    """
    number = 0.0 if isinstance(value, bool) or not isinstance(value, Real) else float(value)
    if not 0 < number < inf:
        raise InvalidInput(f"{name} must be a positive number, not {value!r}.")
    return number


def check_seed(seed: object) -> int:
    """Check a seed, a whole number of at least 0, and return it as an ``int``.

    Raises:
        InvalidInput: the seed is something else.
    """
    return check_count("seed", seed, least=0)
