"""Workbench: a device, and the way to have networks measured there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from .._files._writing import Journal
from .._progress import Advance
from ..backends._load import load_backend
from ..backends.base import Backend, Session
from ..devices._device import Device
from ..errors import BuildFailed, FileError, Unsupported
from ..networks._blocks import Block
from ._journal import resume
from ._plan import Network, Plan
from ._readings import Readings
from ._rounds import Open, Rounds, period_of


class Workbench(ABC):
    """A device, and the way to have networks measured there.

    Example:
        >>> from hwsearch.backends import Roofline
        >>> from hwsearch.devices import Device
        >>> from hwsearch.networks import Block
        >>> from hwsearch.profiling import Workbench
        >>> class Posted(Workbench):  # a device whose journal comes by post
        ...     def measure(self, plan, journal, advance):
        ...         return plan.read(journal)
        >>> camera = Posted(Roofline(), Device("camera", "cpu", "Cortex-A53", "roofline", "1"), "unavailable", ["int8"])
        >>> [camera.supports(Block("conv", 3, 8, 32, precision=name)) for name in ("int8", "fp32")]
        [True, False]

    Args:
        runtime: the backend of the device, as it is installed here.
        device: what is measured.
        energy: as the runtime says on the device: ``"measured"``, ``"estimated"`` or ``"unavailable"``.
        precisions: those of the device.

    Attributes:
        here: whether networks can be run at any time. Otherwise readings come when all of them are made.
    """

    here: ClassVar[bool] = False

    def __init__(self, runtime: Backend, device: Device, energy: str, precisions: Sequence[str]) -> None:
        self.runtime, self.device, self.energy, self.precisions = runtime, device, energy, tuple(precisions)

    @property
    def name(self) -> str:
        """The name of the runtime."""
        return self.runtime.name

    @property
    def tells_kernels(self) -> bool:
        """Whether the runtime can be asked here what each kernel of a whole network takes."""
        return self.here and self.runtime.tells_kernels

    def supports(self, block: Block) -> bool:
        """Whether the device has the precision, and the runtime runs such blocks."""
        return block.precision in self.precisions and self.runtime.supports(block)

    def check(self, block: Block) -> None:
        """Check that the device runs a block.

        Raises:
            Unsupported: it does not.
        """
        self.runtime.check((block,))
        if not self.supports(block):
            raise Unsupported(f"{self.device.name} cannot run block {block.key}: its precisions are {', '.join(self.precisions)}.")

    def framed(self, block: Block) -> tuple[Network, Network]:
        """A network that holds a block, and the same without it; see :meth:`hwsearch.backends.Backend.framed`."""
        whole, frame = self.runtime.framed(block)
        return tuple(whole), tuple(frame)

    @abstractmethod
    def measure(self, plan: Plan, journal: Journal, advance: Advance) -> Readings:
        """Measure what a plan says and its journal does not hold yet.

        Args:
            plan: what is measured.
            journal: what was measured before; each round is added to it as soon as it is known here.
            advance: called with the progress, in measurements.

        Returns:
            All readings.

        Raises:
            FileError: the device has not finished.
            WrongDevice, WrongSpace: the journal is of another run.
        """


class Here(Workbench):
    """This machine.

    Args:
        runtime: the backend that measures.
    """

    here = True

    def __init__(self, runtime: Backend) -> None:
        super().__init__(runtime, runtime.describe(), runtime.energy, runtime.precisions)

    def supports(self, block: Block) -> bool:
        """Whether the runtime runs the block."""
        return self.runtime.supports(block)

    def measure(self, plan: Plan, journal: Journal, advance: Advance) -> Readings:
        """Measure round by round; each is in the journal before the next begins."""

        def opener(network: Network) -> Open:
            def open() -> Session:
                if broken := next((block for block in network if plan.why(block, rounds.failed)), None):
                    raise BuildFailed(f"It holds {broken.key}, which could not be built.")
                return self.runtime.open(network)

            return open

        things = {name: opener(network) for name, network in plan.networks.items()}
        rounds = Rounds(things, opener((plan.sentinel,)), plan.protocol, plan.seed, period_of(self.device), plan.again)
        rounds.limit_s = plan.limit_s
        for record in resume(journal, plan.header):
            rounds.add(record)
        rounds.finish(journal.append, advance)
        return rounds


def workbench(backend: str | Backend | Workbench) -> Workbench:
    """The workbench of a backend or of its name, on this machine; a workbench is handed back as it is.

    Raises:
        UnknownName: no such backend is registered.
        MissingDependency: its runtime is not installed.
    """
    return backend if isinstance(backend, Workbench) else Here(load_backend(backend))


def check_finished(readings: Readings, device: str) -> Readings:
    """Check that a device that measures by itself has measured everything; what it says counts, noisy or not.

    Args:
        readings: that came back.
        device: its name, for the message.

    Raises:
        FileError: it has not finished; the message says what is lacking.
    """
    readings.again = frozenset()
    if lacking := readings.pending():
        had, fewest, most = len(readings.readings[lacking[0]]), readings.protocol.min_rounds, readings.protocol.max_rounds
        strangers = f" Its journal has names of no network, such as {min(readings.strangers)!r}." if readings.strangers else ""
        raise FileError(
            f"{device} has not finished: {len(lacking)} of {len(readings.readings)} networks lack rounds. {lacking[0]!r} "
            f"has {had}; it needs {fewest} in calm moments that agree, or {most} of any kind.{strangers} Run there again: python "
            "run.pyz (it continues where it was)"
        )
    return readings
