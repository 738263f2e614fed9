"""What a cut network has to compute, found without anything that the library knows about channels.

Parameters and statistics are drawn so that no value occurs twice. Which of them a cut network kept is then seen from the values alone;
the user's own module, with all others set to zero, is the reference. Nothing reads a channel that was removed, since the weights that
would read it are zero; normalisations over channels take their statistics from those whose scale is left.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from hwsearch.nn.adoption import Adopted, adopt


def enliven(module: nn.Module, seed: int = 0) -> nn.Module:
    """Draw all parameters and statistics anew, at a scale at which every channel matters."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        for name, tensor in (*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)):
            if not tensor.is_floating_point() or not tensor.numel():
                continue
            with torch.no_grad():
                noise = torch.randn(tensor.shape, generator=generator)
                if name == "running_var" or (name == "weight" and tensor.ndim == 1):
                    tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
                elif tensor.ndim > 1:
                    tensor.copy_(noise / tensor[0].numel() ** 0.5)
                else:
                    tensor.copy_(0.3 * noise)
    return module.eval()


class KeptLayerNorm(nn.LayerNorm):
    """Statistics from those channels alone whose scale is not zero."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = self.weight != 0
        normal = F.layer_norm(x[..., kept], (int(kept.sum()),), self.weight[kept], self.bias[kept], self.eps)
        return torch.zeros_like(x).index_copy(-1, kept.nonzero()[:, 0], normal)


class KeptGroupNorm(nn.GroupNorm):
    """The same for a single group of channels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.num_groups > 1:
            return super().forward(x)
        kept = self.weight != 0
        normal = F.group_norm(x[:, kept], 1, self.weight[kept], self.bias[kept], self.eps)
        return torch.zeros_like(x).index_copy(1, kept.nonzero()[:, 0], normal)


def reference(module: nn.Module, cut: nn.Module) -> nn.Module:
    """A copy of the module in which everything is zero that a cut network no longer holds."""
    masked = copy.deepcopy(module).eval()
    own = masked.state_dict(keep_vars=True)
    with torch.no_grad():
        for name, left in cut.state_dict().items():
            if name in own and left.is_floating_point():
                kept = torch.isin(own[name], left)
                assert int(kept.sum()) == left.numel(), name
                own[name].copy_(torch.where(kept, own[name], 0.0))
    for layer in masked.modules():
        if isinstance(layer, nn.LayerNorm):
            layer.__class__ = KeptLayerNorm
        elif isinstance(layer, nn.GroupNorm):
            layer.__class__ = KeptGroupNorm
    return masked


def draw(adopted: Adopted, rng: np.random.Generator) -> dict[str, list[int]]:
    """Keep a random part of every searchable group, never all of it."""
    return {
        group.id: sorted(rng.choice(group.width, int(rng.integers(1, group.width)), replace=False).tolist())
        for group in adopted.groups
        if group.searchable
    }


def assert_equal(found: object, wanted: object) -> None:
    """Compare outputs, which may be nested, relative to the largest value."""
    a, b = ([each.detach() for each in torch.utils._pytree.tree_leaves(outputs)] for outputs in (found, wanted))
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert x.shape == y.shape
        assert float((x - y).abs().max()) <= 1e-5 * max(float(y.abs().max()), 1e-6)


def assert_cuts(module: nn.Module, *inputs: torch.Tensor, plans: int = 3, **options: object) -> Adopted:
    """Adopt a module and compare random cuts of it with the reference."""
    enliven(module)
    adopted = adopt(module, inputs, **options)  # type: ignore[arg-type]
    rng = np.random.default_rng(1)
    before = sum(each.numel() for each in module.parameters())
    for _ in range(plans):
        plan = draw(adopted, rng)
        cut = adopted.extract(plan)
        assert not plan or sum(each.numel() for each in cut.parameters()) < before
        with torch.no_grad():
            assert_equal(cut(*inputs), reference(module, cut)(*inputs))
    return adopted


def widths(adopted: Adopted) -> dict[str, int]:
    """How many units can be chosen from in the channels that each weight makes; 0 where they are frozen."""
    found: dict[str, int] = {}
    for group in adopted.groups:
        for name, _ in group.opened:
            found[name.removesuffix(".weight")] = found.get(name.removesuffix(".weight"), 0) + group.width * group.searchable
    return found
