"""Measuring networks and model files, as they are."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast, overload

from .._files._writing import PathLike
from .._progress import progress as progress_bar
from ..backends._load import load_backend
from ..backends.base import Backend
from ..devices._device import Device, Protocol
from ..devices._table import LatencyTable
from ..errors import BuildFailed, InvalidInput, check_seed
from ..networks._blocks import Block
from ._effort import sentinel_of
from ._machine import counts, machine, slowdown, wait_for_calm, warn_if_busy
from ._rounds import Open, Rounds, period_of
from ._sentinel import check_facts, check_sentinel

Model = PathLike | Sequence[Block]
"""A model file, or a network as blocks."""
_PATIENCE = 3
"""On a busy machine the number of rounds grows up to this many times."""


@dataclass(frozen=True)
class Measurement:
    """How long a model takes.

    Example:
        >>> import hwsearch
        >>> space = hwsearch.load_space("resnet_digits")
        >>> small, large = ([0] * len(space.sizes), [size - 1 for size in space.sizes])
        >>> models = [space.architecture(row).blocks() for row in (small, large)]
        >>> first, second = hwsearch.measure(models, backend="roofline", progress=False)
        >>> first.latency_ms < second.latency_ms, first.device.name, first.rounds
        (True, 'roofline', 20)

    Attributes:
        latency_ms: lower quartile over the rounds in calm moments.
        spread_ms: what another measurement minutes apart may differ by: half the interquartile range over the same rounds, or the error
            that the readings leave; and, with it, by how much the sentinel was slower than it was in the best moment of this machine that
            is known. With a table, whose sentinel the latencies are put in proportion to, the latter is left out.
        rounds: how many there were in all.
        device: where.
        machine: how busy it was: its load, what other programs used, what a host took, its clock; empty if that is unknown.
    """

    latency_ms: float
    spread_ms: float
    rounds: int
    device: Device
    machine: str = ""


@overload
def measure(  # type: ignore[overload-overlap]  # a str is a sequence of str to the type checker, and a file here
    models: Model,
    *,
    backend: str | Backend = ...,
    rounds: int = ...,
    table: LatencyTable | None = ...,
    seed: int = ...,
    wait_s: float | None = ...,
    progress: bool = ...,
) -> Measurement: ...


@overload
def measure(
    models: Sequence[Model],
    *,
    backend: str | Backend = ...,
    rounds: int = ...,
    table: LatencyTable | None = ...,
    seed: int = ...,
    wait_s: float | None = ...,
    progress: bool = ...,
) -> list[Measurement]: ...


def measure(
    models: Model | Sequence[Model],
    *,
    backend: str | Backend = "onnxruntime",
    rounds: int = 20,
    table: LatencyTable | None = None,
    seed: int = 0,
    wait_s: float | None = None,
    progress: bool = True,
) -> Measurement | list[Measurement]:
    """Measure a model, or several in turns so that they can be compared, in the way in which latency tables are measured.

    Example:
        >>> import hwsearch
        >>> space = hwsearch.load_space("resnet_digits")
        >>> found = hwsearch.measure(hwsearch.searching.dense(space).blocks(), backend="roofline")
        >>> found.latency_ms > 0
        True

    Args:
        models: a model file, or a network as blocks; or a sequence of these.
        backend: a backend or its name.
        rounds: how many, spread over time; on a busy machine up to three times this number, until those of calm moments agree to 1 %.
        table: put the latencies in proportion to the sentinel of this table, so that they can be compared with its predictions
            although the machine has become faster or slower since.
        seed: of the order within the rounds.
        wait_s: wait for up to this many seconds until the machine does little else.
        progress: whether to show a bar with the time left.

    Returns:
        The measurement of the model; of several models a list, in the same order.

    Raises:
        FileError: a model cannot be used.
        Unsupported: the backend cannot run a model.
        InvalidInput: no models, or fewer than one round.
        WrongDevice: ``table`` was measured on another device, by its facts or by its sentinel, which takes more than 1.3 times as long now
            or then. If the readings scatter, this machine is busy: then a :class:`~hwsearch.profiling.BusyWarning` says so.
        BuildFailed: the runtime's builder crashed, hung or ran out of memory over a model.

    A :class:`~hwsearch.profiling.BusyWarning` says if the machine did so much else meanwhile that the latencies say little.
    """
    device, seed = load_backend(backend), check_seed(seed)
    single = isinstance(models, str | os.PathLike) or (len(models) > 0 and isinstance(models[0], Block))
    many = [cast("Model", models)] if single else list(cast("Sequence[Model]", models))
    if not many:
        raise InvalidInput("models is empty; name at least one model to measure. The empty network is measured as [()].")
    if rounds < 1:
        raise InvalidInput(f"rounds must be at least 1, not {rounds}.")
    if wait_s is not None:
        wait_for_calm(wait_s, device.describe().threads)
    found = _measured(many, device, Protocol(min_rounds=rounds, max_rounds=_PATIENCE * rounds), table, seed, progress)
    return found[0] if single else found


def _measured(
    models: Sequence[Model], backend: Backend, protocol: Protocol, table: LatencyTable | None, seed: int, progress: bool
) -> list[Measurement]:
    """Measure models in turns, in proportion to the sentinel of a table if there is one."""
    device = backend.describe()
    facts_suffice = table is None or check_facts(table, device)
    known = table.protocol if table is not None else Protocol()
    sentinel = Block.parse(known.sentinel) if known.sentinel else sentinel_of(backend.precisions)
    things = {str(index): _opener(backend, model) for index, model in enumerate(models)}
    turns = Rounds(things, _opener(backend, (sentinel,)), protocol, seed, period_of(device))
    before = counts() if device.kind == "cpu" else None
    with progress_bar("measuring", len(things) * protocol.max_rounds, progress) as advance:
        turns.finish(lambda record: None, advance)
    if turns.failed:
        raise BuildFailed(next(iter(turns.failed.values())))
    if table is not None:
        check_sentinel(turns.sentinels(), table, facts_suffice=facts_suffice)
    seen = machine(before, counts())
    warn_if_busy(seen, device.threads)
    slower = 0.0 if known.sentinel_ms else slowdown(device, sentinel.key, turns.reference_ms())
    found = []
    for name in things:
        row = turns.row(name, known.sentinel_ms or turns.reference_ms())
        spread = max(row.spread_ms, turns.error(name) * row.latency_ms)
        found.append(Measurement(row.latency_ms, math.hypot(spread, slower * row.latency_ms), row.rounds, device, str(seen or "")))
    return found


def _opener(backend: Backend, model: Model) -> Open:
    if isinstance(model, str | os.PathLike):
        return lambda: backend.load(model)
    return lambda: backend.open(model)
