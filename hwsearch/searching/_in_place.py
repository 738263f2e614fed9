"""What each quantised part of a network brings where it stands, measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..backends.base import Backend
from ..profiling._measure import measure
from ..spaces._space import Architecture


@dataclass(frozen=True)
class InPlace:
    """One quantised part of a network, measured in place.

    Attributes:
        gene: its precision gene.
        quantized_ms: the network with it.
        float_ms: the same network with this part alone in fp32, and the boundaries that this brings.
        spread_ms: of the greater uncertainty of the two.
    """

    gene: str
    quantized_ms: float
    float_ms: float
    spread_ms: float

    @property
    def slower(self) -> bool:
        """Whether quantising this part costs time."""
        return self.quantized_ms > self.float_ms + self.spread_ms


def quantized_in_place(architecture: Architecture, *, backend: str | Backend = "onnxruntime", rounds: int = 20) -> list[InPlace]:
    """Measure what each quantised part of a network brings where it stands.

    Args:
        architecture: of a space whose precisions include fp32.
        backend: the device.
        rounds: as of :func:`hwsearch.measure`.

    Returns:
        One entry for each precision gene that is not fp32.
    """
    values = architecture.values()
    genes = [choice.name for choice in architecture.space.choices if choice.is_precision and values.get(choice.name, "fp32") != "fp32"]
    networks = [architecture.blocks(), *(architecture.at_precision("fp32", [gene]).blocks() for gene in genes)]
    whole, *others = measure(networks, backend=backend, rounds=rounds)
    pairs = zip(genes, others, strict=True)
    return [InPlace(gene, whole.latency_ms, one.latency_ms, max(whole.spread_ms, one.spread_ms)) for gene, one in pairs]


def revert_slower(architecture: Architecture, found: Sequence[InPlace]) -> Architecture:
    """The architecture with those parts in fp32 that were measured to be slower quantised."""
    return architecture.at_precision("fp32", [one.gene for one in found if one.slower])
