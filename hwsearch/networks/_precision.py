"""Precision: the number format of a block."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache

from ..errors import InvalidInput

_SPARSE = "-2:4"


@dataclass(frozen=True)
class Precision:
    """A number format for the weights and the activations of a block.

    Example:
        >>> from hwsearch.networks import Precision
        >>> Precision.parse("w4a8")
        Precision(name='w4a8', weight_bits=4, activation_bits=8, quantized=True, sparse=False)
        >>> Precision.parse("int8-2:4").dense
        'int8'

    Attributes:
        name: ``"fp32"``, ``"fp16"``, ``"bf16"``, ``"fp8"``, ``"int2"`` .. ``"int8"``, or mixed as ``"w4a8"``; ``"w4a16"`` and its like have
            quantised weights and fp16 activations. Any of them with ``"-2:4"`` behind it, such as ``"int8-2:4"``, is sparse.
        weight_bits: bits of a weight.
        activation_bits: bits of an activation.
        quantized: whether activations are integers, or 8-bit floats, with a scale.
        sparse: whether of every four neighbours along the input channels two weights are zero, in the layers that are
            :attr:`Layer.sparsable` (Mishra et al., 2021, section 3).
    """

    name: str
    weight_bits: int
    activation_bits: int
    quantized: bool
    sparse: bool = False

    @property
    def dense(self) -> str:
        """The name of the same number format without sparsity."""
        return self.name.removesuffix(_SPARSE)

    @property
    def fineness(self) -> tuple[bool, int, int, bool, str]:
        """Orders precisions by how much of a network they leave as it is: all weights before some, then more bits before fewer."""
        return not self.sparse, self.weight_bits, self.activation_bits, not self.quantized, self.name

    @classmethod
    @cache
    def parse(cls, name: str) -> Precision:
        """Read a precision's name.

        Raises:
            InvalidInput: it is none of the names above.
        """
        floats = {"fp32": 32, "fp16": 16, "bf16": 16}
        if name.endswith(_SPARSE) and not name.removesuffix(_SPARSE).endswith(_SPARSE):
            return replace(cls.parse(name.removesuffix(_SPARSE)), name=name, sparse=True)
        if name in floats:
            return cls(name, floats[name], floats[name], quantized=False)
        if name == "fp8":
            return cls(name, 8, 8, quantized=True)
        if match := re.fullmatch(r"int([2-8])", name):
            return cls(name, int(match[1]), int(match[1]), quantized=True)
        if match := re.fullmatch(r"w([2-8])a([2-8]|16)", name):
            return cls(name, int(match[1]), int(match[2]), quantized=match[2] != "16")
        raise InvalidInput(
            f"Unknown precision {name!r}; expected fp32, fp16, bf16, fp8, int2..int8, or w4a8 or w4a16 for mixed bits; followed by -2:4 "
            "if weights are sparse."
        )
