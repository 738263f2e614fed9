"""Networks of the user's side by side: extracted alike, exported, and the files run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._files._writing import PathLike
from ..devices._table import LatencyTable
from ..errors import InvalidInput
from ..profiling._measure import measure
from ..spaces._space import Architecture
from ._compared import Compared

if TYPE_CHECKING:
    from ..nn.adoption._examples import Examples


def side_by_side(
    networks: Mapping[str, Any],
    *,
    accuracy: Callable[[Path], float],
    data: Examples,
    out: PathLike,
    table: LatencyTable | None = None,
    images: int = 0,
    progress: bool = True,
) -> tuple[Compared, ...]:
    """Compare networks of an adopted space, and modules beside them, by their files: what each gets right, and how long it takes.

    Architectures are extracted and repaired alike on ``data``; modules, such as networks that were trained further or the smaller member
    of the family (:func:`hwsearch.nn.adoption.siblings`), are taken as they are. Everything is exported to ONNX, and all files are
    measured in turns (:func:`hwsearch.measure`) by ONNX Runtime on this machine. :func:`macs_figure` draws what comes back.

    Example:
        >>> import hwsearch, torch
        >>> from hwsearch.reports import side_by_side
        >>> layers = torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(), torch.nn.Conv2d(32, 4, 3)
        >>> images = torch.randn(100, 3, 8, 8)
        >>> space = hwsearch.adopt(torch.nn.Sequential(*layers), images[:1])
        >>> networks = {"dense": space.architecture(space.row()), "narrow": space.architecture([0])}
        >>> networks["sibling"] = torch.nn.Conv2d(3, 4, 5)
        >>> found = side_by_side(networks, accuracy=lambda file: 0.5, data=images, out="files", progress=False)
        >>> [(each.name, each.macs, each.params) for each in found]
        [('dense', 49536.0, 2052), ('narrow', 12384.0, 516), ('sibling', 4800.0, 304)]

    Args:
        networks: name -> an architecture of an adopted network, or a module that takes the same inputs; the dense one first.
        accuracy: judges a model file, such as ``lambda file: hwsearch.nn.evaluate_file(file, data=...)``.
        data: images to repair and to calibrate on.
        out: the folder to write the files to, each by its name.
        table: whose predictions stand beside what was measured, for architectures; of ONNX Runtime on this machine.
        images: how many the accuracy is judged on, for its interval (:class:`Compared`).
        progress: whether to show a bar.

    Raises:
        InvalidInput: there is no architecture of an adopted network.
        HwsearchError: as :func:`hwsearch.extract`, :func:`hwsearch.export` and :func:`hwsearch.measure`.
    """
    inputs = _inputs(networks)
    files = {name: Path(out) / f"{name.replace(' ', '-')}.onnx" for name in networks}
    sizes = {name: _exported(network, files[name], data, inputs) for name, network in networks.items()}
    times = measure(list(files.values()), table=table, progress=progress)
    return tuple(
        Compared(
            name=name,
            accuracy=accuracy(files[name]),
            predicted_ms=_predicted(network, table),
            measured_ms=time.latency_ms,
            spread_ms=time.spread_ms,
            macs=sizes[name][0],
            params=sizes[name][1],
            size_bytes=files[name].stat().st_size,
            images=images,
        )
        for (name, network), time in zip(networks.items(), times, strict=True)
    )


def _inputs(networks: Mapping[str, Any]) -> Any:
    """The example inputs of the adopted network that architectures are of."""
    for network in networks.values():
        if isinstance(network, Architecture) and hasattr(network.space, "inputs"):
            return network.space.inputs
    raise InvalidInput("There is nothing to compare with: give at least one architecture of an adopted network, such as result.best.")


def _exported(network: Any, file: Path, data: Any, inputs: Any) -> tuple[float, int]:
    """Write a network to a model file, an architecture as it is after its repair; its multiply-accumulates and parameters."""
    from ..nn._export import export
    from ..nn.adoption import count, extract

    adopted = isinstance(network, Architecture)
    module = extract(network, data=data) if adopted else network
    file.parent.mkdir(parents=True, exist_ok=True)
    export(module, out=file, data=data if adopted else inputs)
    return count(module, inputs)


def _predicted(network: Any, table: LatencyTable | None) -> float:
    """The latency of an architecture by a table, in ms; not a number for modules, and without a table."""
    from ..costs._metrics import metric

    if table is None or not isinstance(network, Architecture):
        return float("nan")
    return float(metric("latency_ms", network.space, table)(network.genes[None])[0])
