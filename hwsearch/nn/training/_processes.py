"""One process or several: what ``torchrun`` starts, and where a process computes."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from ...errors import InvalidInput


@dataclass(frozen=True)
class Processes:
    """The processes that train one network together.

    Attributes:
        rank: which one this is, from 0.
        count: how many there are; 1 without ``torchrun``.
    """

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files and shows progress."""
        return self.rank == 0

    def add_up(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace each tensor by its sum over all processes, in one message."""
        if self.count == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        start = 0
        for tensor in tensors:
            tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor))
            start += tensor.numel()

    def wait(self) -> None:
        """Go on when all processes are here."""
        if self.count > 1:
            dist.barrier()


_TIMEOUT = timedelta(hours=12)
"""Processes wait so long for each other: the first one exports and measures while the others have nothing to do."""
ALONE = Processes()
"""One process that trains by itself."""


def processes() -> Processes:
    """The processes that ``torchrun`` has started, joined at the first call; this one alone without it."""
    if not dist.is_available() or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    if not dist.is_initialized():
        where = accelerator()
        if where.type == "cuda":
            torch.cuda.set_device(where)
        dist.init_process_group("nccl" if where.type == "cuda" else "gloo", timeout=_TIMEOUT)
        atexit.register(dist.destroy_process_group)
    return Processes(dist.get_rank(), dist.get_world_size())


_CHOSEN: ContextVar[torch.device | None] = ContextVar("device", default=None)


@contextmanager
def computing_on(device: str | None) -> Iterator[None]:
    """This process computes on a device within this block; on the usual one if ``None``.

    Raises:
        InvalidInput: there is no such device here.
    """
    if device is None:
        yield
        return
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InvalidInput(f"device {device!r} is not there: {str(error).splitlines()[0]}") from error
    before = _CHOSEN.set(chosen)
    try:
        yield
    finally:
        _CHOSEN.reset(before)


def accelerator() -> torch.device:
    """Where this process computes: what was chosen, or its own GPU if there is one (``CUDA_VISIBLE_DEVICES=`` hides them), or the CPU."""
    if (chosen := _CHOSEN.get()) is not None:
        return chosen
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
