"""Published one-hot encodings, derived from the genes of a space."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..errors import InvalidInput
from ..spaces._genes import Value
from ..spaces._space import SearchSpace

_MOBILE_SIZES = tuple(range(112, 225, 16))
_RESNET_SIZES = (128, 144, 160, 176, 192, 224, 240, 256)
"""Resolutions that Once-for-All's encodings have a place for, px."""


def published_encoding(space: SearchSpace) -> npt.NDArray[np.float32]:
    """The encoding that the published predictors of a space read, as a matrix: ``space.features(X) @ published_encoding(space)``.

    Blocks that the depth leaves out are zeros, and depths have no columns of their own. Once-for-All (ICLR'20) encodes its MobileNetV3 in
    128 columns (kernels, expand ratios, 8 resolutions) and its ResNet-50 in 82 (resolutions, depth of the stem, widths, expand ratios); APQ
    (CVPR'20) encodes its networks in 772 (kernels, inner widths, and bits of pointwise weights and activations, then of depthwise ones).

    Example:
        >>> import hwsearch, numpy as np
        >>> from hwsearch.interop import published_encoding
        >>> space = hwsearch.load_space("ofa_mobilenetv3")
        >>> X = space.sample(3, np.random.default_rng(0))
        >>> (space.features(X) @ published_encoding(space)).shape
        (3, 128)

    Args:
        space: ``ofa_mobilenetv3``, ``ofa_resnet50`` or ``apq``.

    Returns:
        Zeros and ones, shape ``(features of the space, columns)``.

    Raises:
        InvalidInput: no encoding is published for the space, or it has a resolution that the encoding has no place for.
    """
    columns = [column for group in _groups(space) for column in group]
    starts = dict(zip((choice.name for choice in space.choices), np.cumsum([0, *space.sizes]).tolist(), strict=False))
    matrix = np.zeros((sum(space.sizes), len(columns)), dtype=np.float32)
    for column, sources in enumerate(columns):
        for gene, value in sources:
            choice = space.choices[space.position[gene]]
            if value in choice.values:
                matrix[starts[gene] + choice.index(value), column] = 1.0
    return matrix


_Columns = list[list[tuple[str, Value]]]
"""For each column the genes and values that it is one for."""


def _groups(space: SearchSpace) -> list[_Columns]:
    if space.name.startswith("ofa_mobilenetv3"):
        return [_each(space, ".kernel"), _each(space, ".expand"), _resolutions(space, _MOBILE_SIZES)]
    if space.name == "ofa_resnet50":
        return [_resolutions(space, _RESNET_SIZES), _each(space, "stem2.depth"), _each(space, ".width"), _each(space, ".expand")]
    if space.name == "apq":
        bits = [f".{layer}.{bits}" for layer in ("pointwise", "depthwise") for bits in ("weight_bits", "activation_bits")]
        return [_each(space, ".kernel"), _each(space, ".mid"), *(_each(space, end) for end in bits)]
    raise InvalidInput(f"No encoding is published for space {space.name!r}; there are some for ofa_mobilenetv3, ofa_resnet50 and apq.")


def _each(space: SearchSpace, end: str) -> _Columns:
    """A column for each value of each gene whose name has this ending, and of a gene that takes its place (``..._7``)."""
    names = [choice.name for choice in space.choices if choice.name.endswith(end)]
    sources = [[name, *(other for other in (f"{name}_7",) if other in space.position)] for name in names]
    return [[(gene, value) for gene in genes] for genes in sources for value in space.choices[space.position[genes[0]]].values]


def _resolutions(space: SearchSpace, sizes: Sequence[int]) -> _Columns:
    unknown = set(space.choices[space.position["resolution"]].values) - set(sizes)
    if unknown:
        also = ", ".join(sorted(map(str, unknown)))
        raise InvalidInput(f"The published encoding knows the resolutions {tuple(sizes)}; space {space.name!r} also has {also}.")
    return [[("resolution", size)] for size in sizes]
