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

    Example:
        >>> from hwsearch.searching import InPlace
        >>> InPlace("stage1.precision", quantized_ms=0.52, float_ms=0.50, spread_ms=0.01).slower  # quantising it costs time
        True

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

    Example:
        >>> from hwsearch.backends import Roofline
        >>> from hwsearch.searching import dense, quantized_in_place
        >>> slow = Roofline(peak_gmacs={"fp32": 40.0, "int8": 10.0})  # a device whose integers are slow
        >>> found = quantized_in_place(dense("resnet_digits", "int8"), backend=slow, rounds=2)
        >>> [part.gene for part in found if part.slower][:3]
        ['stage1.block1.precision', 'stage1.block2.precision', 'stage2.block1.precision']

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
    """The architecture with those parts in fp32 that were measured to be slower quantised.

    Example:
        >>> from hwsearch.backends import Roofline
        >>> from hwsearch.searching import dense, quantized_in_place, revert_slower
        >>> slow, network = Roofline(peak_gmacs={"fp32": 40.0, "int8": 10.0}), dense("resnet_digits", "int8")
        >>> faster = revert_slower(network, quantized_in_place(network, backend=slow, rounds=2))
        >>> {name: faster.values()[name] for name in ("stem.precision", "stage1.block1.precision")}
        {'stem.precision': 'int8', 'stage1.block1.precision': 'fp32'}
    """
    return architecture.at_precision("fp32", [one.gene for one in found if one.slower])
