"""From what was read to a latency table."""

from __future__ import annotations

import warnings
from dataclasses import replace

from ..devices._calibration import Calibration
from ..devices._device import Check, Row
from ..devices._table import LatencyTable
from ..errors import BuildFailed
from ._plan import Network, Plan, name_of
from ._readings import Readings, difference


class LeftOutWarning(UserWarning):
    """Blocks that could not be built and are not in the table; the message names each and says why.

    Example:
        >>> import hwsearch, warnings
        >>> class Small(hwsearch.backends.Roofline):  # a runtime whose builder takes no wide blocks
        ...     def _open(self, network):
        ...         if any(block.cout > 32 for block in network):
        ...             raise hwsearch.errors.BuildFailed("out of memory")
        ...         return super()._open(network)
        >>> blocks = [hwsearch.networks.Block("conv", 3, width, 32, kernel=3) for width in (16, 32, 64)]
        >>> some = hwsearch.profiling.Effort(blocks=blocks)
        >>> with warnings.catch_warnings(record=True, action="always") as told:
        ...     table = hwsearch.profile("resnet_digits", backend=Small(), out="small.json", effort=some, progress=False)
        >>> len(table.rows), str(told[0].message).partition(":")[0]
        (2, '1 block could not be built and is not in the table')
    """


def assemble(plan: Plan, before: LatencyTable, readings: Readings) -> LatencyTable:
    """The table before, and all that was measured since. It depends on its arguments only, and changes none of them.

    A block costs what the network that holds it takes longer than the same network without it. The whole networks calibrate the costs
    (role ``"fit"``) and check them (``"check"``).

    Args:
        plan: what was measured.
        before: the table that the plan completes, perhaps an empty one.
        readings: of all networks of the plan.

    Raises:
        BuildFailed: not even the empty network could be built.
    """
    if why := readings.failed.get(name_of(())):
        raise BuildFailed(f"Not even an empty network could be built: {why}")
    reference = before.protocol.sentinel_ms or readings.reference_ms()

    def row(network: Network) -> Row:
        return readings.row(name_of(network), reference)

    built = {block: pair for block, pair in plan.framed.items() if not plan.why(block, readings.failed)}
    rows = {block.key: difference(row(whole), row(frame)) for block, (whole, frame) in built.items()}
    checks = list(before.checks)
    for network, role in plan.roles.items():
        if name_of(network) not in readings.failed:
            found = row(network)
            checks.append(Check(role, tuple(block.key for block in network), found.latency_ms, found.spread_ms))
    call_ms = before.calibration.call_ms or row(()).latency_ms
    calibration = replace(before.calibration, call_ms=call_ms) if before.checks else Calibration(call_ms, call_ms)
    protocol = replace(before.protocol, sentinel_ms=reference)
    return replace(before, protocol=protocol, rows={**before.rows, **rows}, calibration=calibration, checks=()).calibrate(tuple(checks))


def warn_of_failures(plan: Plan, readings: Readings) -> None:
    """Warn of the blocks that could not be built, with a :class:`LeftOutWarning`."""
    if lost := {block: why for block in plan.framed if (why := plan.why(block, readings.failed))}:
        lines = "".join(f"\n  {block.key}: {why}" for block, why in lost.items())
        told = "1 block could not be built and is" if len(lost) == 1 else f"{len(lost)} blocks could not be built and are"
        warnings.warn(f"{told} not in the table:{lines}", LeftOutWarning, stacklevel=2)
