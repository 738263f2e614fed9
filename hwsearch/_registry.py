"""Names to plug-ins that are built in, registered, or announced by other installed packages: spaces, backends, algorithms and others.

A package announces a plug-in by an entry point: a line of its ``pyproject.toml`` such as ``my_space = "my_package.spaces:build"`` in the
table ``[project.entry-points."hwsearch.spaces"]``, or likewise ``hwsearch.backends``, ``hwsearch.algorithms``, ``hwsearch.costs``,
``hwsearch.importances``, ``hwsearch.distillations`` or ``hwsearch.recipes``. It is imported when its name is first used. What is built in
or registered comes before what is announced.
"""

from __future__ import annotations

import inspect
import sys
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import HwsearchError, InvalidInput, UnknownName

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

_TARGETS: dict[str, dict[str, str | Any]] = {
    "space": {
        "apq": "hwsearch.spaces.library.apq:build",
        "bootstrapnas_resnet50": "hwsearch.spaces.library.bootstrapnas_resnet50:build",
        "mobilenetv2": "hwsearch.spaces.library.mobilenetv2:build",
        "mobilenetv2_cifar": "hwsearch.spaces.library.mobilenetv2_cifar:build",
        "mobilenetv3_cifar": "hwsearch.spaces.library.mobilenetv3_cifar:build",
        "nasbench201": "hwsearch.spaces.library.nasbench201:build",
        "nasbench_macro": "hwsearch.spaces.library.nasbench_macro:build",
        "ofa_mobilenetv3": "hwsearch.spaces.library.ofa_mobilenetv3:build",
        "ofa_mobilenetv3_w1.0": "hwsearch.spaces.library.ofa_mobilenetv3:build_narrow",
        "ofa_resnet50": "hwsearch.spaces.library.ofa_resnet50:build",
        "resnet50": "hwsearch.spaces.library.resnet50:build",
        "resnet_cifar": "hwsearch.spaces.library.resnet_cifar:build",
        "resnet_cifar_wide": "hwsearch.spaces.library.resnet_cifar_wide:build",
        "resnet_digits": "hwsearch.spaces.library.resnet_digits:build",
    },
    "backend": {
        "roofline": "hwsearch.backends.roofline:Roofline",
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
        "amc": "hwsearch.nn.reinforcement.amc:AMC",
        "evolution": "hwsearch.algorithms.evolution:Evolution",
        "exact": "hwsearch.algorithms.exact:Exact",
        "haq": "hwsearch.nn.reinforcement.haq:HAQ",
        "hybrid": "hwsearch.algorithms.hybrid:Hybrid",
        "local": "hwsearch.algorithms.local:Local",
        "memetic": "hwsearch.algorithms.memetic:Memetic",
        "nsga2": "hwsearch.algorithms.nsga2:NSGA2",
        "optuna": "hwsearch.algorithms.optuna:OptunaSearch",
        "surrogate": "hwsearch.algorithms.surrogate:Surrogate",
    },
    # What reads a space from a folder, by the name of the file that tells what the folder is.
    "folder": {"adopted.json": "hwsearch.nn.adoption._folder:load_adopted"},
    # The costs that come with hwsearch stand in costs/_metrics.py.
    "cost": {},
    "importance": {
        "reconstruction": "hwsearch.nn.adoption.importances.reconstruction:score",
        "outputs": "hwsearch.nn.adoption.importances.outputs:score",
        "taylor": "hwsearch.nn.adoption.importances.taylor:score",
        "fisher": "hwsearch.nn.adoption.importances.fisher:score",
        "hessian": "hwsearch.nn.adoption.importances.hessian:score",
        "variance": "hwsearch.nn.adoption.importances.variance:score",
        "l1": "hwsearch.nn.adoption.importances.l1:score",
        "l2": "hwsearch.nn.adoption.importances.l2:score",
        "fpgm": "hwsearch.nn.adoption.importances.fpgm:score",
        "lamp": "hwsearch.nn.adoption.importances.lamp:score",
        "lasso": "hwsearch.nn.adoption.importances.lasso:score",
        "thinet": "hwsearch.nn.adoption.importances.thinet:score",
        "bn_scale": "hwsearch.nn.adoption.importances.bn_scale:score",
    },
    "distillation": {
        "features": "hwsearch.nn.training.distillations.features:Features",
        "attention": "hwsearch.nn.training.distillations.attention:Attention",
        "distances": "hwsearch.nn.training.distillations.distances:Distances",
        "angles": "hwsearch.nn.training.distillations.angles:Angles",
    },
    "recipe": {
        "cifar10": "hwsearch.nn.training.recipes.cifar10:RECIPE",
        "digits": "hwsearch.nn.training.recipes.digits:RECIPE",
        "imagefolder": "hwsearch.nn.training.recipes.imagefolder:RECIPE",
        "photographs": "hwsearch.nn.training.recipes.photographs:RECIPE",
    },
}
_BUILT_IN = {what: dict(targets) for what, targets in _TARGETS.items()}
"""What comes with hwsearch, as it was before anything was registered."""


def register(what: str, name: str, target: str | Any) -> None:
    """Add a plug-in to this process; :mod:`hwsearch._registry` says how an installed package announces one to every process.

    Args:
        what: ``"space"``, ``"backend"``, ``"algorithm"``, ``"cost"``, ``"importance"``, ``"distillation"`` or
            ``"recipe"``.
        name: the name by which users ask for it.
        target: a callable that makes the thing; for a cost, one that gives the cost of a :class:`hwsearch.networks.Block`; for an
            importance, one that scores units by a :class:`hwsearch.nn.adoption.Evidence`; for a distillation, a
            :class:`hwsearch.nn.Distillation`, the class itself; for a recipe, the :class:`hwsearch.nn.Recipe` itself; or
            ``"module:attribute"``, imported when first used.

    Raises:
        UnknownName: there is no such kind of plug-in.
        InvalidInput: the name is taken by something else.

    Example:
        >>> import hwsearch
        >>> def build():
        ...     return hwsearch.load_space("resnet_digits").restrict({"resolution": [8]})
        >>> hwsearch.register("space", "resnet_digits_8px", build)
        >>> hwsearch.load_space("resnet_digits_8px").name
        'resnet_digits'
    """
    known = _kind(what)
    if known.setdefault(name, target) != target:
        raise InvalidInput(f"The {what} {name!r} is already registered, as {known[name]!r}.")


def names(what: str) -> tuple[str, ...]:
    """The names of a kind that can be asked for, sorted."""
    return tuple(sorted({*_kind(what), *_announced(what, tuple(sys.path))}))


def kinds() -> tuple[str, ...]:
    """The kinds of plug-ins."""
    return tuple(what for what in _TARGETS if what != "folder")


def origin(what: str, name: str) -> str:
    """Where a plug-in comes from: ``"hwsearch"``, the module that registered it, or the package that announces it.

    Nothing is imported to find out.
    """
    target = _kind(what).get(name)
    if target is None:
        return " and ".join(_origin(entry) for entry in _announced(what, tuple(sys.path)).get(name, ()))
    if target == _BUILT_IN.get(what, {}).get(name):
        return "hwsearch"
    return target if isinstance(target, str) else f"registered by {getattr(target, '__module__', type(target).__module__)}"


def make(what: str, name: str, **options: Any) -> Any:
    """Make the thing called ``name``.

    Raises:
        UnknownName: there is no such name, or it takes no option of one of the names.
        InvalidInput: it needs an option that is missing; or it was announced by a package from which it cannot be imported.
    """
    target = find(what, name)
    takes = inspect.signature(target)
    if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in takes.parameters.values()):
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


def find(what: str, name: str) -> Any:
    """What stands behind a name, which is not called.

    Raises:
        UnknownName: there is no such name.
        InvalidInput: it was announced by a package from which it cannot be imported.
    """
    known = _kind(what)
    if name in known:
        target = known[name]
        if isinstance(target, str):
            module, _, attribute = target.partition(":")
            target = getattr(import_module(module), attribute)
        return target
    announced = _announced(what, tuple(sys.path))
    if name not in announced:
        raise UnknownName(what, name, {*known, *announced})
    first, *others = announced[name]
    for other in others:
        if other.value != first.value:
            raise InvalidInput(f"The {what} {name!r} is announced by {_origin(first)} and by {_origin(other)}. Uninstall one of them.")
    try:
        return first.load()
    except HwsearchError:
        raise
    except Exception as error:
        raise InvalidInput(f"The {what} {name!r} of {_origin(first)} cannot be imported: {error}.") from error


@cache
def _announced(what: str, path: tuple[str, ...]) -> dict[str, list[EntryPoint]]:
    """The entry points of a kind, by name, of the packages on a path; looked for once, since that reads a file of each package."""
    from importlib.metadata import entry_points

    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=f"hwsearch.{what}s"):
        found.setdefault(entry.name, []).append(entry)
    return found


def _origin(entry: EntryPoint) -> str:
    """The package that announces an entry point, and what it names."""
    return f"{entry.dist.name if entry.dist else 'a package'} ({entry.value})"
