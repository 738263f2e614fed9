"""What every backend must do: run this on yours, in its tests."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..backends._onnx._weights import random_weights
from ..backends._trained import Runner, TrainedModel
from ..backends.base import Backend
from ..devices._device import Device
from ..errors import InvalidInput, Unsupported
from ..networks._blocks import Block

_FOREIGN = ("fp32", "fp16", "bf16", "int8", "int4", "int2", "w4a8", "w2a3")


def check_backend(backend: Backend, networks: Sequence[Sequence[Block]] = ()) -> None:
    """Check that a backend keeps the promises of :class:`Backend`.

    Args:
        backend: to be checked.
        networks: networks that it should run, besides small ones of each of its precisions.

    Raises:
        AssertionError: a promise is broken; the message says which.

    Example:
        >>> from hwsearch.backends import Roofline
        >>> from hwsearch.testing import check_backend
        >>> check_backend(Roofline())
    """
    _check_description(backend)
    for precision in backend.precisions:
        for block in example_blocks(precision):
            _check_block(backend, block)
    for network in ((), *networks):
        with backend.open(network) as session:
            times = session.times(3)
        _promise(times.shape == (3,) and times.dtype == np.float64, "times(runs) is float64 of shape (runs,), in seconds")
        _promise(np.isfinite(times).all() and (times > 0).all(), "every run takes some time")
    _check_files(backend)
    if backend.suffix is not None and backend.runs_files:
        _check_exports(backend)
    _check_refusals(backend)


def example_blocks(precision: str) -> tuple[Block, ...]:
    """One small block of each kind; boundaries only where the precision is quantised.

    Example:
        >>> from hwsearch.backends import Roofline
        >>> from hwsearch.testing import example_blocks
        >>> all(Roofline().supports(block) for block in example_blocks("int8")), Roofline().supports(example_blocks("bf16")[0])
        (True, False)
    """
    blocks = [
        Block("conv", 3, 8, 8, (), 3, 1, 1, precision),
        Block("basic", 8, 8, 8, (12,), 3, 1, 1, precision),
        Block("basic", 8, 16, 8, (12,), 3, 2, 1, precision),
        Block("bottleneck", 16, 16, 4, (8, 8), 3, 1, 1, precision),
    ]
    if blocks[0].bits.quantized:
        return (*blocks, Block("quantize", 8, 8, 8, precision=precision), Block("dequantize", 8, 8, 8, precision=precision))
    return (*blocks, Block("head", 16, 10, 4, precision=precision))


def _check_description(backend: Backend) -> None:
    first, second = _described(backend), _described(backend)
    _promise(first == second, "describe() says the same when asked twice")
    _promise(first.runtime == backend.name, "the device's runtime is the backend's name")
    _promise(first.kind in ("cpu", "gpu", "analytic", "replay"), "the device's kind is cpu, gpu, analytic or replay")
    _promise(first.zero_points == backend.zero_points, "the device's facts tell whether there are zero points, as the backend does")
    _promise(first.weight_bits == backend.weight_bits, "the device's facts tell the bits of int8 weights, as the backend does")
    _promise(first.threads >= 1 and first.batch >= 1, "threads and batch are at least 1")
    _promise(backend.precisions, "there is at least one precision")
    _promise(len(set(backend.precisions)) == len(backend.precisions), "no precision is named twice")
    _promise(backend.energy in ("measured", "estimated", "unavailable"), "energy says where its numbers come from")


def _described(backend: Backend) -> Device:
    """What a backend says of its device, as it comes back from a file."""
    try:
        device = backend.describe()
    except InvalidInput as error:
        raise AssertionError(f"describe() gives a device that tables can be written with: {error}") from error
    _promise(isinstance(device, Device), "describe() gives a Device")
    _promise(Device.from_document(json.loads(json.dumps(asdict(device)))) == device, "the device is the same after it was written and read")
    return device


def _check_block(backend: Backend, block: Block) -> None:
    if not backend.supports(block):
        return
    whole, frame = backend.framed(block)
    _promise(whole.count(block) == 1 and block not in frame, f"framed({block.key}) holds the block once, and the frame does not")
    for network in ((block,), whole, frame):
        with backend.open(network) as session:
            times = session.times(2)
            _promise(times.shape == (2,) and (times > 0).all(), f"{block.key} takes some time")
            _promise(session.batch == backend.batch or not network, "a session runs as many images at once as its backend says")
            known = session.energy_mj is not None
            _promise(known == (backend.energy != "unavailable"), "sessions have energies where the backend says so")


def _check_files(backend: Backend) -> None:
    """Model files are what boards that are not this machine are measured by."""
    block = next(filter(backend.supports, example_blocks(backend.precisions[0])), None)
    try:
        model = b"" if block is None else backend.model((block,))
    except Unsupported:
        return
    if model:
        _check_options(backend)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(model)
            with backend.load(path) as session:
                _promise((session.times(2) > 0).all(), "load() runs what model() makes")
                _promise(session.batch == backend.batch, "model() is written for as many images at once as the backend says")
                known = session.energy_mj is not None
                _promise(known == (backend.energy != "unavailable"), "sessions of files have energies where the backend says so")


def _check_options(backend: Backend) -> None:
    """A board is measured by a backend that is made again there."""
    try:
        again = type(backend)(**backend.options)
    except TypeError as error:
        raise AssertionError(f"options make the same backend again, on a board say: {error}") from error
    same = again.describe() == backend.describe() and again.precisions == backend.precisions and again.batch == backend.batch
    _promise(same, "options make the same backend again, on a board say")


def _check_exports(backend: Backend) -> None:
    """A trained network can be written into a file, which is run before and says what it is."""
    block = Block("head", 16, 10, 4, precision="fp32")
    rng = np.random.default_rng(0)
    weight, bias = rng.standard_normal((10, 16)).astype(np.float32), rng.standard_normal(10).astype(np.float32)
    head = next(iter(random_weights((block,))))
    layers = [layer if not layer.weight.size else replace(layer, weight=weight, bias=bias) for layer in head.body]
    model = TrainedModel((block,), (replace(head, body=tuple(layers)),), backend.batch, {"hwsearch.test": "1"})
    x = rng.standard_normal((backend.batch, 16, 4, 4)).astype(np.float32)
    check = _Check(x, x.mean(axis=(2, 3)) @ weight.T + bias)
    with tempfile.TemporaryDirectory() as folder:
        path = backend.write(model, Path(folder) / f"model{backend.suffix}", check)
        _promise(check.runs, "write() checks what a file computes")
        _promise(backend.notes(path).get("hwsearch.test") == "1", "notes() are those of the trained model")
        check("file", backend.runner(str(path)))


class _Check:
    """Compares what a model computes with what is right."""

    tolerance = 0.01

    def __init__(self, x: npt.NDArray[np.float32], right: npt.NDArray[np.float32]) -> None:
        self.x, self.right, self.runs = x, right, 0

    def __call__(self, what: str, run: Runner) -> float:
        self.runs += 1
        apart = float(np.linalg.norm(np.asarray(run(self.x)) - self.right) / np.linalg.norm(self.right))
        _promise(apart <= self.tolerance, f"the {what} computes the trained network: it is {apart:.1%} off")
        return apart


def _check_refusals(backend: Backend) -> None:
    foreign = next((name for name in _FOREIGN if name not in backend.precisions), None)
    if foreign is not None:
        block = Block("conv", 3, 8, 8, (), 3, 1, 1, foreign)
        _promise(not backend.supports(block), f"supports() is false for {foreign}")
        _refuses(backend, (block,), Unsupported)
    own = backend.precisions[0]
    _refuses(backend, (Block("conv", 3, 8, 8, (), 3, 1, 1, own), Block("conv", 9, 8, 8, (), 3, 1, 1, own)), InvalidInput)


def _refuses(backend: Backend, network: Sequence[Block], error: type[Exception]) -> None:
    try:
        backend.open(network)
    except error as found:
        _promise(network[-1].key in str(found), "a refusal names the block")
        return
    raise AssertionError(f"open() refuses {', '.join(block.key for block in network)} with {error.__name__}")


def _promise(kept: object, promise: str) -> None:
    if not kept:
        raise AssertionError(promise)
