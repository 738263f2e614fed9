"""TensorRT's Python package, whichever is there, and what that version can do: features are looked for, never assumed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from ...errors import InvalidInput, MissingDependency, Unsupported

PACKAGES = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")
"""TensorRT; TensorRT-RTX; and the same where only its two wheels are installed, without the package that names them."""
PORTABLE = ("80", "86", "89", "120")
"""What TensorRT-RTX builds for if no GPU is named and none is present."""

_PLATFORMS = (
    " (Linux on x86-64 or Arm; it needs an NVIDIA GPU and its driver) or TensorRT-RTX with: pip install 'hwsearch[tensorrt-rtx]' "
    "(Linux on x86-64; it builds engines without a GPU and runs them on RTX GPUs with their driver)."
)
_TYPES = {
    "fp32": ("FLOAT", 0),
    "fp16": ("HALF", 0),
    "bf16": ("BF16", 80),
    "int8": ("INT8", 0),
    "fp8": ("FP8", 89),
    "w4a16": ("INT4", 80),
}
"""Precision -> TensorRT's name of the data type, and the first compute capability that has it."""
_SPARSE, _SPARSE_SM = ("fp16", "bf16", "int8"), 80
"""The precisions at which two of four weights may be zero, and the first compute capability that skips these."""


@cache
def find() -> ModuleType:
    """The first of :data:`PACKAGES` that is installed.

    Raises:
        MissingDependency: none is.
    """
    for name in PACKAGES:
        try:
            module = import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            continue
        if hasattr(module, "Builder"):  # any folder of that name can be imported too
            return module
    raise MissingDependency("The backend 'tensorrt'", "tensorrt", "tensorrt", _PLATFORMS)


def is_rtx(module: ModuleType) -> bool:
    """Whether it is TensorRT-RTX, which finishes its engines on the GPU that they run on."""
    return module.__name__.startswith("tensorrt_rtx")


def version(module: ModuleType) -> str:
    """The version, with ``rtx`` before it if it is TensorRT-RTX."""
    return f"rtx {module.__version__}" if is_rtx(module) else str(module.__version__)


def precisions(module: ModuleType, targets: Sequence[str]) -> tuple[str, ...]:
    """The precisions that the version has data types for and all targets have instructions for.

    Args:
        module: from :func:`find`.
        targets: compute capabilities such as ``"89"``.
    """
    least = min(map(int, targets))
    dense = tuple(name for name, (kind, sm) in _TYPES.items() if hasattr(module.DataType, kind) and least >= sm)
    sparse = least >= _SPARSE_SM and hasattr(getattr(module, "BuilderFlag", None), "SPARSE_WEIGHTS")
    return (*dense, *(f"{name}-2:4" for name in _SPARSE if sparse and name in dense))


def check_targets(module: ModuleType, wanted: Sequence[object], here: str | None) -> tuple[str, ...]:
    """Check that engines for these compute capabilities can be built on this machine, and return them.

    Args:
        module: from :func:`find`.
        wanted: such as ``("86", "89")``.
        here: that of this machine's GPU, or ``None``.

    Raises:
        InvalidInput: no target, or none that is one.
        Unsupported: TensorRT builds only for the GPU of this machine, or this TensorRT-RTX does not know the target.
    """
    targets = tuple(target for target in wanted if isinstance(target, str) and target.isdecimal())
    if not targets or len(targets) < len(wanted):
        raise InvalidInput(f"sm must be compute capabilities such as '89', not {', '.join(map(repr, wanted)) or 'nothing'}.")
    if set(targets) == {here}:
        return targets
    if not hasattr(module, "ComputeCapability"):
        found = "there is none" if here is None else f"it has SM {here}"
        raise Unsupported(
            f"TensorRT {version(module)} builds for the GPU of this machine only, and {found}, not SM {', '.join(targets)}. "
            "TensorRT-RTX builds for others: pip install 'hwsearch[tensorrt-rtx]'."
        )
    known = tuple(name[2:] for name in module.ComputeCapability.__members__ if name.startswith("SM"))
    if unknown := [target for target in targets if target not in known]:
        raise Unsupported(f"TensorRT-RTX {module.__version__} builds for SM {', '.join(known)}, not for {', '.join(unknown)}.")
    return targets


def network_flags(module: ModuleType) -> int:
    """Strongly typed networks: each tensor has the type that the graph gives it. Where versions know no other, there is no flag."""
    flag = getattr(module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def configure(module: ModuleType, config: Any, targets: Sequence[str], here: str | None, workspace_mib: int | None) -> None:
    """Set what an engine is built for.

    Args:
        module: from :func:`find`.
        config: a builder's.
        targets: compute capabilities.
        here: that of this machine's GPU, or ``None``.
        workspace_mib: memory that layers may use while they run, MiB; all there is where ``None``.
    """
    if hasattr(module, "ComputeCapability"):
        known = module.ComputeCapability.__members__
        config.num_compute_capabilities = len(targets)
        for index, target in enumerate(targets):
            config.set_compute_capability(known["CURRENT" if target == here and f"SM{target}" not in known else f"SM{target}"], index)
    if hasattr(module.BuilderFlag, "SPARSE_WEIGHTS"):
        config.set_flag(module.BuilderFlag.SPARSE_WEIGHTS)  # dense weights are left as they are
    if workspace_mib is not None:
        config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, workspace_mib << 20)
