"""A model file as a torch module: what its runtime computes, in the form in which the network returns it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.fx.graph import _PyTreeCodeGen
from torch.utils._pytree import tree_unflatten

from ..backends.base import Backend
from ._agreement import outputs


class ModelFile(nn.Module):
    """Runs a model file in its runtime.

    Args:
        backend: the runtime.
        path: the file.
        batch: how many images it takes at once; ``None`` for any number.
        network: the graph that it was written from, for the form of the outputs.
    """

    def __init__(self, backend: Backend, path: Path, batch: int | None, network: fx.GraphModule) -> None:
        super().__init__()
        self._run, self._batch = backend.runner(str(path)), batch
        codegen = network.graph._codegen
        self._spec = codegen.pytree_info.out_spec if isinstance(codegen, _PyTreeCodeGen) else None

    def forward(self, *inputs: torch.Tensor) -> Any:
        """The outputs, as the network returns them."""
        arrays = [each.contiguous().cpu().numpy() for each in inputs]
        found = [torch.from_numpy(each) for each in outputs(self._run, arrays, self._batch)]
        if self._spec is None or self._spec.num_leaves != len(found):
            return found
        return tree_unflatten(found, self._spec)
