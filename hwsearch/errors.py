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
    """The base of everything hwsearch raises on purpose.

    Example:
        >>> import hwsearch
        >>> try:
        ...     hwsearch.search("resnet_digits", predictor=lambda X: X.sum(axis=1), limits={"macs": 1000})
        ... except hwsearch.HwsearchError as error:
        ...     print(type(error).__name__)
        Infeasible
    """


class InvalidInput(HwsearchError, ValueError):
    """An argument that makes no sense; the message names it and says what was expected.

    Example:
        >>> import hwsearch
        >>> hwsearch.profiling.Effort(budget="soon")
        Traceback (most recent call last):
            ...
        hwsearch.errors.InvalidInput: budget must be a length of time, such as 1200, '90s', '20m' or '1h30m', not 'soon'.
    """


class UnknownName(InvalidInput, LookupError):
    """A name that is not registered.

    Example:
        >>> import hwsearch
        >>> hwsearch.load_space("resnet_digit")
        Traceback (most recent call last):
            ...
        hwsearch.errors.UnknownName: Unknown space 'resnet_digit'. Did you mean 'resnet_digits'? Known: ...

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
    """A limit that is negative, NaN, or not a number.

    Example:
        >>> import hwsearch
        >>> hwsearch.Problem.of("resnet_digits", predictor=lambda X: X.sum(axis=1), limits={"macs": -1})
        Traceback (most recent call last):
            ...
        hwsearch.errors.InvalidLimit: limits['macs'] is -1; a limit is never negative.
    """


class Infeasible(HwsearchError):
    """Limits that no architecture of the space can meet; the message says what is reachable.

    Example:
        >>> import hwsearch
        >>> hwsearch.search("resnet_digits", predictor=lambda X: X.sum(axis=1), limits={"macs": 1000})
        Traceback (most recent call last):
            ...
        hwsearch.errors.Infeasible: macs <= 1000 cannot be met: no 'resnet_digits' architecture is smaller than 95984 ...
    """


class FileError(HwsearchError):
    """A file that cannot be used.

    Example:
        >>> import hwsearch
        >>> hwsearch.load_table("my-board.json")
        Traceback (most recent call last):
            ...
        hwsearch.errors.FileError: Cannot read latency table my-board.json: No such file or directory.
    """


class CorruptFile(FileError):
    """A file that is truncated, not of the format, or holds impossible values.

    Example:
        >>> import hwsearch
        >>> from pathlib import Path
        >>> size = Path("cut.json").write_text('{"format": "hwsearch-latency-table", "version": 1, "unit": ')
        >>> hwsearch.load_table("cut.json")
        Traceback (most recent call last):
            ...
        hwsearch.errors.CorruptFile: cut.json is not valid JSON: ...
    """


class InUse(FileError):
    """An output that another process is writing; the message says which one.

    Example:
        >>> import fcntl, hwsearch
        >>> with open("table.json.lock", "w") as lock:  # what another process does that profiles into table.json
        ...     fcntl.flock(lock, fcntl.LOCK_EX)
        ...     hwsearch.profile("resnet_digits", backend="roofline", out="table.json")
        Traceback (most recent call last):
            ...
        hwsearch.errors.InUse: table.json is being written by another process. Wait until it has ended, or name another file.
    """


class WrongUnit(FileError):
    """A table whose unit is not the documented one.

    Example:
        >>> import hwsearch
        >>> empty = hwsearch.LatencyTable(hwsearch.backends.Roofline().describe(), hwsearch.devices.Protocol(), {})
        >>> path = empty.save("board.json")
        >>> size = path.write_text(path.read_text().replace('"unit": "ms"', '"unit": "us"'))
        >>> hwsearch.load_table(path)
        Traceback (most recent call last):
            ...
        hwsearch.errors.WrongUnit: board.json: its unit is 'us', and latency tables are in 'ms'. Convert its values.
    """


class NewerVersion(FileError):
    """A file written by a newer version of hwsearch.

    Example:
        >>> import hwsearch
        >>> from pathlib import Path
        >>> size = Path("new.json").write_text('{"format": "hwsearch-latency-table", "version": 99}')
        >>> hwsearch.load_table("new.json")
        Traceback (most recent call last):
            ...
        hwsearch.errors.NewerVersion: new.json has version 99, and this hwsearch reads hwsearch-latency-table up to version ...
    """


class WrongDevice(FileError):
    """A table that was measured on another device, runtime or protocol than the one asked for.

    Example:
        >>> import hwsearch
        >>> from hwsearch.devices import Device, Protocol
        >>> a76, a55 = (Device("board", "cpu", name, "onnxruntime", "1.23") for name in ("Cortex-A76", "Cortex-A55"))
        >>> hwsearch.load_table(hwsearch.LatencyTable(a76, Protocol(), {}).save("a76.json"), device=a55)
        Traceback (most recent call last):
            ...
        hwsearch.errors.WrongDevice: a76.json was measured elsewhere: hardware is 'Cortex-A76' and not 'Cortex-A55'. ...
    """


class WrongSpace(FileError):
    """A predictor, search state or supernet that belongs to another search space.

    Example:
        >>> import hwsearch, numpy as np
        >>> space = hwsearch.load_space("resnet_digits")
        >>> X = space.sample(60, np.random.default_rng(0))
        >>> path = hwsearch.Predictor.fit(space, X, X.mean(axis=1), kind="linear").save("digits.npz")
        >>> hwsearch.load_predictor(path, hwsearch.load_space("resnet_digits", classes=26))
        Traceback (most recent call last):
            ...
        hwsearch.errors.WrongSpace: digits.npz predicts for space 'resnet_digits' (...), not for 'resnet_digits:classes=26' ...
    """


class MissingBlocks(HwsearchError, LookupError):
    """A latency table that lacks blocks which the space needs.

    Example:
        >>> import hwsearch
        >>> empty = hwsearch.LatencyTable(hwsearch.backends.Roofline().describe(), hwsearch.devices.Protocol(), {})
        >>> empty.predict([hwsearch.networks.Block("conv", 3, 8, 32, kernel=3)])
        Traceback (most recent call last):
            ...
        hwsearch.errors.MissingBlocks: 1 of 1 blocks are not in <memory> (first: conv-in3-out8-px32-k3-s1-g1-fp32). ...
    """


class Unsupported(HwsearchError):
    """A backend cannot run what was asked for.

    Example:
        >>> from hwsearch.backends import Roofline
        >>> from hwsearch.networks import Block
        >>> Roofline(peak_gmacs={"fp32": 20.0}).open([Block("conv", 3, 8, 32, kernel=3, precision="int8")])
        Traceback (most recent call last):
            ...
        hwsearch.errors.Unsupported: Backend 'roofline' cannot run block ...: its precisions are fp32. ...
    """


class BuildFailed(HwsearchError):
    """A runtime's builder crashed, hung or ran out of memory over one network; others may still build.

    Example:
        >>> from hwsearch.backends import Roofline
        >>> from hwsearch.errors import BuildFailed
        >>> from hwsearch.networks import Block
        >>> class Small(Roofline):  # a backend whose builder runs out of memory
        ...     def _open(self, network):
        ...         raise BuildFailed("The builder ran out of memory.")
        >>> Small().open([Block("conv", 3, 8, 32, kernel=3)])
        Traceback (most recent call last):
            ...
        hwsearch.errors.BuildFailed: The builder ran out of memory.
    """


class ConnectionLost(HwsearchError):
    """A board cannot be reached, or the connection to it was cut; the same command continues where it was.

    Example:
        >>> import os
        >>> from hwsearch.profiling import SSH, Board
        >>> os.environ[SSH] = "sh -c 'exit 255'"  # how ssh ends if it reaches no machine
        >>> Board("user@board").files(".")
        Traceback (most recent call last):
            ...
        hwsearch.errors.ConnectionLost: user@board: the connection was cut. Run the same command again: it continues where it was.
    """


class BoardFailed(HwsearchError):
    """A program failed on a board; the message is what it said.

    Example:
        >>> import os
        >>> from hwsearch.profiling import SSH, Board
        >>> os.environ[SSH] = "sh -c 'echo python3: not found >&2; exit 127'"  # a board without Python
        >>> Board("user@board").files(".")
        Traceback (most recent call last):
            ...
        hwsearch.errors.BoardFailed: user@board: python3: not found
    """


class WorkersLost(HwsearchError):
    """Workers of an executor die whenever they score certain rows; the message says how often.

    Example:
        >>> import hwsearch
        >>> from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
        >>> def score(X):
        ...     raise BrokenExecutor("A process was terminated abruptly.")  # what a pool says of a worker that ran out of memory
        >>> with ThreadPoolExecutor(1) as pool:
        ...     hwsearch.search("resnet_digits", predictor=score, limits={"macs": 1e6}, run=hwsearch.Run(executor=pool))
        Traceback (most recent call last):
            ...
        hwsearch.errors.WorkersLost: Workers died 4 times in a row while they scored ...
    """


class EvaluationsFailed(HwsearchError):
    """A costly score failed for every network that was tried; the message is what it said last.

    Example:
        >>> import hwsearch
        >>> def train_and_test(X):
        ...     raise RuntimeError("out of memory")
        >>> hwsearch.search("resnet_digits", predictor=train_and_test, limits={"macs": 1e6}, run=hwsearch.Run(evaluations=20))
        Traceback (most recent call last):
            ...
        hwsearch.errors.EvaluationsFailed: All of the first 8 evaluations failed; the last: RuntimeError: out of memory
    """


class MissingDependency(HwsearchError, ImportError):
    """An optional package is not installed.

    Example:
        >>> from hwsearch.errors import require
        >>> require("my_runtime", feature="Measuring on a phone", extra="phone")
        Traceback (most recent call last):
            ...
        hwsearch.errors.MissingDependency: Measuring on a phone needs the package 'my_runtime', which is not installed. ...

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

    Example:
        >>> import hwsearch, warnings
        >>> from hwsearch.devices import Device, Protocol, Row
        >>> space = hwsearch.load_space("resnet_digits")
        >>> old = Device("old-cpu", "cpu", "x86", "onnxruntime", "1.23", facts={"int8": "weights of 7 bits"})
        >>> table = hwsearch.LatencyTable(old, Protocol(), {block.key: Row(0.01) for block in space.unique_blocks})
        >>> score = lambda X: X.sum(axis=1)
        >>> score.weight_bits = 8  # as of a predictor that was fitted to networks with weights of 8 bits
        >>> with warnings.catch_warnings(record=True, action="always") as told:
        ...     problem = hwsearch.Problem.of(space, predictor=score, device=table, limits={"latency_ms": 1.0})
        >>> [warning.category.__name__ for warning in told]
        ['SaturationWarning']
    """


def check_count(name: str, value: object, least: int, most: int = 2**63 - 1) -> int:
    """Check a whole number of Python or numpy, an argument of this name, and return it as an ``int``.

    Raises:
        InvalidInput: it is not a whole number, or not from ``least`` to ``most``.
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
    """Check a positive number of Python or numpy, an argument of this name, and return it as a ``float``.

    Raises:
        InvalidInput: it is not a number, not finite, or not above 0.
    """
    number = 0.0 if isinstance(value, bool) or not isinstance(value, Real) else float(value)
    if not 0 < number < inf:
        raise InvalidInput(f"{name} must be a positive number, not {value!r}.")
    return number


def check_seed(seed: object) -> int:
    """Check a seed, a whole number of at least 0, and return it as an ``int``; :class:`InvalidInput` says if it is something else."""
    return check_count("seed", seed, least=0)
