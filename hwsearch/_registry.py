"""Names to things: spaces, backends and algorithms, built in or registered by a plug-in."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

from .errors import InvalidInput, UnknownName

_TARGETS: dict[str, dict[str, str | Any]] = {
    "space": {
        "apq": "hwsearch.spaces.library.apq:build",
        "bootstrapnas_resnet50": "hwsearch.spaces.library.bootstrapnas_resnet50:build",
        "mobilenetv2_cifar": "hwsearch.spaces.library.mobilenetv2_cifar:build",
        "mobilenetv3_cifar": "hwsearch.spaces.library.mobilenetv3_cifar:build",
        "nasbench201": "hwsearch.spaces.library.nasbench201:build",
        "nasbench_macro": "hwsearch.spaces.library.nasbench_macro:build",
        "ofa_mobilenetv3": "hwsearch.spaces.library.ofa_mobilenetv3:build",
        "ofa_mobilenetv3_w1.0": "hwsearch.spaces.library.ofa_mobilenetv3:build_narrow",
        "ofa_resnet50": "hwsearch.spaces.library.ofa_resnet50:build",
        "resnet50": "hwsearch.spaces.library.resnet50:build",
        "resnet_cifar": "hwsearch.spaces.library.resnet_cifar:build",
        "resnet_digits": "hwsearch.spaces.library.resnet_digits:build",
    },
    "backend": {
        "roofline": "hwsearch.backends.base:Roofline",
        "onnxruntime": "hwsearch.backends.onnxruntime:OnnxRuntime",
        "replay": "hwsearch.backends.replay:Replay",
        "torch": "hwsearch.backends.torch:Torch",
        "onnxruntime-cuda": "hwsearch.backends.onnxruntime_gpu:OnnxRuntimeCuda",
        "onnxruntime-tensorrt": "hwsearch.backends.onnxruntime_gpu:OnnxRuntimeTensorRT",
        "openvino": "hwsearch.backends.openvino:OpenVino",
        "tensorrt": "hwsearch.backends.tensorrt:TensorRT",
    },
    "algorithm": {
        "random": "hwsearch.algorithms.base:RandomSearch",
        "evolution": "hwsearch.algorithms.evolution:Evolution",
        "exact": "hwsearch.algorithms.exact:Exact",
        "hybrid": "hwsearch.algorithms.hybrid:Hybrid",
        "local": "hwsearch.algorithms.local:Local",
        "memetic": "hwsearch.algorithms.memetic:Memetic",
        "nsga2": "hwsearch.algorithms.nsga2:NSGA2",
        "optuna": "hwsearch.algorithms.optuna:OptunaSearch",
    },
}


def register(what: str, name: str, target: str | Any) -> None:
    """Add a plug-in.

    Args:
        what: ``"space"``, ``"backend"`` or ``"algorithm"``.
        name: the name by which users ask for it.
        target: a callable that makes the thing, or ``"module:attribute"``, imported when first asked for.

    Raises:
        InvalidInput: the name is taken by something else.
    """
    known = _kind(what)
    if known.setdefault(name, target) != target:
        raise InvalidInput(f"The {what} {name!r} is already registered, as {known[name]!r}.")


def names(what: str) -> tuple[str, ...]:
    """The registered names of a kind, sorted."""
    return tuple(sorted(_kind(what)))


def make(what: str, name: str, **options: Any) -> Any:
    """Make the registered thing called ``name``.

    Raises:
        UnknownName: there is no such name, or it takes no option of one of the names.
        InvalidInput: it needs an option that is missing.
    """
    known = _kind(what)
    if name not in known:
        raise UnknownName(what, name, known)
    target = known[name]
    if isinstance(target, str):
        module, _, attribute = target.partition(":")
        target = getattr(import_module(module), attribute)
    takes = inspect.signature(target)
    if not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in takes.parameters.values()):
        for option in options:
            if option not in takes.parameters:
                raise UnknownName(f"option of {what} {name!r}", option, takes.parameters)
    try:
        takes.bind(**options)
    except TypeError as error:
        raise InvalidInput(f"The {what} {name!r} needs more: {error}.") from error
    return target(**options)


def _kind(what: str) -> dict[str, str | Any]:
    if what not in _TARGETS:
        raise UnknownName("kind of plug-in", what, _TARGETS)
    return _TARGETS[what]
