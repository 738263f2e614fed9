"""Backend: a device and its runtime; and Roofline, the smallest honest one.

A backend opens a network, a sequence of blocks, as a session, and a session says how long its runs take. Everything else (what
to measure, in which order, when to stop) is :mod:`hwsearch.profile`. To add one, subclass :class:`Backend`, register it, and
run :func:`hwsearch.testing.check_backend` on it.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from .._files._reading import PathLike
from .._files._writing import write_atomic
from ..devices._device import Device
from ..errors import InvalidInput, Unsupported, check_count, check_positive
from ..networks._blocks import Block
from ._trained import Check, Runner, TrainedModel

Times = npt.NDArray[np.float64]
Network = Sequence[Block]


class Session(ABC):
    """A network, ready to run. Use it in a ``with`` statement, or close it.

    Attributes:
        batch: images of one run.
    """

    batch: int = 1

    @abstractmethod
    def times(self, runs: int) -> Times:
        """Run the network again and again.

        Args:
            runs: how often, at least 1.

        Returns:
            Seconds of each run, shape ``(runs,)``.
        """

    @property
    def energy_mj(self) -> float | None:
        """Millijoules of one run, or ``None`` if there is no meter."""
        return None

    @property
    def kernels_ms(self) -> Mapping[str, float]:
        """What each kernel of a user's network took in the last :meth:`times`, at its fastest, by name; nothing unless it was opened by
        :meth:`Backend.profiled`."""
        return {}

    @property
    def throttled(self) -> bool:
        """Whether the device was held back, by heat or power, during the last :meth:`times`, so that they say little."""
        return False

    def close(self) -> None:  # noqa: B027 - many sessions have nothing to release
        """Release what the session holds."""

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Backend(ABC):
    """A device and its runtime.

    Attributes:
        name: under which it is registered.
        batch: images of one run.
        energy: what its sessions' energies are: ``"measured"``, ``"estimated"`` or ``"unavailable"``.
        runs_files: whether :meth:`runner` computes what model files compute.
        tells_kernels: whether :meth:`profiled` tells what each kernel of a model file takes.
        suffix: how the names of its model files end, such as ``".onnx"``; ``None`` if it writes no trained networks.
        takes_graphs: whether it writes model files of ONNX graphs too (:attr:`TrainedModel.graph`).
        zero_points: whether quantised feature maps have zero points in its model files.
        weight_bits: how many bits the weights of ``int8`` blocks may have so that the integer arithmetic of this device carries their
            products exactly.
    """

    name: str
    energy: str = "unavailable"
    batch: int = 1
    runs_files: bool = False
    tells_kernels: bool = False
    suffix: str | None = None
    takes_graphs: bool = False
    zero_points: bool = True
    weight_bits: int = 8

    @property
    @abstractmethod
    def precisions(self) -> tuple[str, ...]:
        """The precisions that this device runs, and runs faster or smaller for it."""

    @abstractmethod
    def describe(self) -> Device:
        """The device, its runtime, and what else explains a measurement."""

    @property
    def here(self) -> bool:
        """Whether the device is part of this machine, so that sessions can be opened."""
        return True

    def supports(self, block: Block) -> bool:
        """Whether the device runs this block."""
        return block.alone and block.precision in self.precisions

    def framed(self, block: Block) -> tuple[tuple[Block, ...], tuple[Block, ...]]:
        """How to measure one block.

        Returns:
            A network that holds the block, and the same without it; the block costs what the first takes longer than the second.
            By default the block alone, and nothing at all (what a call costs). A runtime that changes a block by its neighbours
            (fusion, memory layouts) puts neighbours around it.
        """
        return (block,), ()

    def open(self, network: Network) -> Session:
        """Make a network ready to run; an empty network does nothing, and takes what a call takes.

        Raises:
            Unsupported: the device cannot run one of the blocks.
            InvalidInput: a block does not fit the one before it.
            BuildFailed: the runtime's builder crashed, hung or ran out of memory over this network.
        """
        self.check(network)
        return self._open(network)

    def check(self, network: Network) -> None:
        """Check that the device runs the blocks of a network.

        Raises:
            Unsupported: it does not run one of them.
            InvalidInput: a block does not fit the one before it.
        """
        check_fit(network)
        for block in network:
            if not self.supports(block):
                if not block.alone:
                    raise Unsupported(
                        f"Backend {self.name!r} cannot run kernel {block.key} alone: kernels of a user's network run inside it. Export the "
                        "network and measure the file."
                    )
                known = block.precision in self.precisions
                why = f"it does not support this {block.kind} block" if known else f"its precisions are {', '.join(self.precisions)}"
                hint = "" if known else " Search only these precisions, by restricting the genes '*.precision' of the space."
                raise Unsupported(f"Backend {self.name!r} cannot run block {block.key}: {why}.{hint}")

    @abstractmethod
    def _open(self, network: Network) -> Session:
        """Open a network that was checked."""

    def load(self, path: PathLike) -> Session:
        """Make a model file ready to run on random inputs.

        Raises:
            Unsupported: this backend reads no files.
            FileError: the file cannot be used.
        """
        raise Unsupported(f"Backend {self.name!r} does not run model files ({path}); give it blocks.")

    def profiled(self, path: PathLike) -> Session:
        """Make a model file ready to run on random inputs in such a way that each run also tells what its kernels take.

        The operations of the file are named by :func:`hwsearch.networks.labelled`, which says to which kernel each belongs, and
        :attr:`Session.kernels_ms` is what the runtime itself says of all operations of a kernel together. What the runtime inserts between
        kernels, such as a change of the memory layout, belongs to the kernel that comes next. Runs are slower than those of :meth:`load`.

        Raises:
            Unsupported: this backend does not tell what single kernels take.
            FileError: the file cannot be used.
        """
        raise Unsupported(
            f"Backend {self.name!r} does not tell what single kernels of a network take, so kernels of a user's network cannot be profiled "
            "on it. Measure whole model files with hwsearch.measure(), or profile with backend='onnxruntime'."
        )

    def runner(self, model: Any) -> Runner:
        """A function that computes the output of a model on this device.

        Args:
            model: the bytes of a model file, or its path.

        Returns:
            It takes the inputs of the model, one array each, and returns its output, or a list of its outputs if there are several; all
            with the batch that the model was written for.

        Raises:
            Unsupported: this backend does not run models on given inputs.
        """
        raise Unsupported(f"Backend {self.name!r} does not run models on given inputs.")

    @property
    def options(self) -> dict[str, Any]:
        """What ``load_backend(backend.name, **options)`` needs to make another one like it, on another machine say."""
        return {}

    def model(self, network: Network) -> bytes:
        """The model file of a network, which :meth:`load` makes ready to run wherever the runtime is.

        Raises:
            Unsupported: the device cannot run one of the blocks, or this backend has no model files.
            InvalidInput: a block does not fit the one before it.
        """
        self.check(network)
        return self._model(network)

    def encode(self, model: TrainedModel) -> bytes:
        """The model file of a trained network, which :meth:`runner` runs.

        Raises:
            Unsupported: the device cannot run one of the blocks, or this backend writes no trained networks, or none of other parts than
                blocks.
            InvalidInput: a batch that its files cannot take.
        """
        if model.graph is not None and not self.takes_graphs:
            raise Unsupported(f"Backend {self.name!r} writes networks of blocks only. Export for 'onnxruntime' or 'openvino'.")
        # Sparse weights are zeros among those of a dense block, wherever no kernel skips them.
        self.check([replace(block, precision=block.bits.dense) for block in model.network])
        return self._encode(model)

    def write(self, model: TrainedModel, out: PathLike, check: Check) -> Path:
        """Write the model file of a trained network if it computes what the network does, as :func:`hwsearch.export` asks.

        Args:
            model: the network.
            out: the file.
            check: compares what the file computes with the evaluation.

        Raises:
            BuildFailed: it computes something else.
            Unsupported, InvalidInput: as :meth:`encode`.
        """
        data = self.encode(model)
        check("exported file", self.runner(data))
        write_atomic(out, data)
        return Path(out)

    def notes(self, path: PathLike) -> Mapping[str, str]:
        """What a model file says of itself, by key: the :attr:`TrainedModel.notes` that it was written with.

        Raises:
            FileError: the file cannot be used.
            Unsupported: this backend reads no files.
        """
        raise Unsupported(f"Backend {self.name!r} reads no model files ({path}).")

    def _model(self, network: Network) -> bytes:
        """The model file of a network that was checked."""
        raise Unsupported(f"Backend {self.name!r} has no model files, so it cannot be measured on another machine.")

    def _encode(self, model: TrainedModel) -> bytes:
        """The model file of a trained network that was checked."""
        raise Unsupported(f"Backend {self.name!r} writes no trained networks into model files.")


def check_fit(network: Network) -> None:
    """Check that each block takes what the one before it gives.

    Raises:
        InvalidInput: channels, sizes or number formats do not fit.
    """
    for before, after in itertools.pairwise(network):
        if not (before.alone and after.alone):
            continue  # kernels of a user's network are no chain
        if before.kind == "head":
            raise InvalidInput(f"Block {after.key} comes after the classifier {before.key}, which ends a network.")
        if (before.cout, before.out_size) != (after.cin, after.size):
            raise InvalidInput(
                f"Block {after.key} takes {after.cin} channels of {after.size} px, and {before.key} before it gives "
                f"{before.cout} channels of {before.out_size} px."
            )
        gives = before.bits.dense if before.bits.quantized and before.kind != "dequantize" else "float"
        takes = after.bits.dense if after.bits.quantized and after.kind != "quantize" else "float"
        if gives != takes:
            raise InvalidInput(f"Block {after.key} takes {takes} values, and {before.key} before it gives {gives}; put a boundary between.")


class Roofline(Backend):
    """An analytic device: every block takes as long as its arithmetic or its memory traffic, whichever is longer.

    Deterministic, needs nothing, and its networks cost exactly the sum of their blocks: for tests, for trying out spaces, and as
    the pattern of a backend (Williams et al., CACM'09). Energies are estimates.

    Args:
        peak_gmacs: precision -> 1e9 multiply-accumulates a second; also says which precisions there are.
        bandwidth_gbs: 1e9 bytes a second.
        tile: precision -> channels are rounded up to a multiple of this, which makes the staircase; 1 if omitted.
        block_us, call_us: microseconds a block and a network take before any work is done.
        mac_pj, byte_pj: picojoules a 32-bit MAC (scaled by the bits) and a byte of traffic.
        batch: images at once.

    Raises:
        InvalidInput: a number that is not positive.
    """

    name = "roofline"
    energy = "estimated"

    def __init__(
        self,
        peak_gmacs: Mapping[str, float] | None = None,
        bandwidth_gbs: float = 10.0,
        tile: Mapping[str, int] | None = None,
        block_us: float = 2.0,
        call_us: float = 10.0,
        mac_pj: float = 4.6,
        byte_pj: float = 20.0,
        batch: int = 1,
    ) -> None:
        for name, given in (("peak_gmacs", peak_gmacs), ("tile", tile)):
            if given is not None and not isinstance(given, Mapping):
                raise InvalidInput(f"{name} must map precisions to numbers, not {given!r}.")
        peaks = peak_gmacs or {"fp32": 20.0, "fp16": 40.0, "int8": 60.0, "int4": 100.0}
        tiles = tile or {"fp32": 16, "fp16": 16, "int8": 4, "int4": 8}
        self.peak_gmacs = {precision: check_positive(f"peak_gmacs[{precision!r}]", peak) for precision, peak in peaks.items()}
        self.tile = {precision: check_count(f"tile[{precision!r}]", size, least=1) for precision, size in tiles.items()}
        self.bandwidth_gbs = check_positive("bandwidth_gbs", bandwidth_gbs)
        self.block_us, self.call_us = check_positive("block_us", block_us), check_positive("call_us", call_us)
        self.mac_pj, self.byte_pj = check_positive("mac_pj", mac_pj), check_positive("byte_pj", byte_pj)
        self.batch = check_count("batch", batch, least=1)

    @property
    def precisions(self) -> tuple[str, ...]:
        """Those with a peak."""
        return tuple(self.peak_gmacs)

    def supports(self, block: Block) -> bool:
        """Whether there is a peak for its precision; kernels of a user's network are computed like any block."""
        return block.precision in self.precisions

    def describe(self) -> Device:
        """An analytic device, described by its own parameters."""
        peaks = " ".join(f"{name}:{value:g}" for name, value in self.peak_gmacs.items())
        tiles = " ".join(f"{name}:{value}" for name, value in self.tile.items())
        numbers = f"{self.bandwidth_gbs:g} GB/s, {self.block_us:g} us a block, {self.call_us:g} us a call"
        return Device("roofline", "analytic", f"{peaks} GMAC/s, tiles {tiles}, {numbers}", self.name, "1", 1, self.batch)

    def latency_ms(self, block: Block) -> float:
        """What one block costs, ms."""
        memory = block.traffic_bytes / self.bandwidth_gbs
        tile = self.tile.get(block.precision, 1)
        padded = 0
        for layer in block.graph.layers:
            cin, cout = (-(-channels // layer.groups // tile) * tile for channels in (layer.cin, layer.cout))
            padded += layer.groups * cin * cout * layer.kernel**2 * layer.out_size**2
        return self.batch * max(memory, max(padded, block.macs) / self.peak_gmacs[block.precision]) * 1e-6 + self.block_us * 1e-3

    def energy_mj(self, block: Block) -> float:
        """What one block uses, mJ, estimated."""
        bits = block.bits.weight_bits * block.bits.activation_bits / 32**2
        return self.batch * (block.macs * self.mac_pj * bits + block.traffic_bytes * self.byte_pj) * 1e-9

    def _open(self, network: Network) -> Session:
        seconds = (self.call_us * 1e-3 + sum(map(self.latency_ms, network))) * 1e-3
        return _Fixed(seconds, sum(map(self.energy_mj, network)), self.batch)


class _Fixed(Session):
    """Always the same."""

    def __init__(self, seconds: float, energy_mj: float, batch: int) -> None:
        self._seconds, self._energy_mj, self.batch = seconds, energy_mj, batch

    def times(self, runs: int) -> Times:
        return np.full(runs, self._seconds)

    @property
    def energy_mj(self) -> float:
        return self._energy_mj
