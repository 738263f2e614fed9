"""The residual networks of He et al. (CVPR'16, section 4.2) for CIFAR-10, with published weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._files._writing import PathLike
from ..errors import InvalidInput
from ..networks._precision import Precision
from ..spaces._chain import Chain, Stage
from ..spaces._space import SearchSpace

if TYPE_CHECKING:
    from ..nn.data._images import DataLike
    from ..nn.supernet._supernet import Supernet

WIDTHS = (16, 32, 64)
"""Output widths of the three stages."""


def cifar_resnet(file: PathLike, *, data: DataLike | None = None, precisions: tuple[str, ...] = ("fp32", "int8")) -> Supernet:
    """Read a trained ResNet-20, -32, -44, -56, -110 or any other of their kind for CIFAR-10.

    Its space holds this one network; what is chosen is the precision of each block, of the first and the last layer at 8 bits or more.
    The shortcuts that He et al. call A, which skip every other pixel and add channels of zeros, are convolutions here: 1x1, stride 2, an
    identity where there are channels to copy. They compute the same, and count as what they are.

    Example:
        >>> import numpy as np
        >>> from hwsearch.interop import cifar_resnet
        >>> state = {"conv1.weight": np.ones((16, 3, 3, 3)), "linear.weight": np.ones((10, 64)), "linear.bias": np.ones(10)}
        >>> norms = {"bn1": 16}
        >>> for stage, (cin, cout) in enumerate([(16, 16), (16, 32), (32, 64)], start=1):  # one block a stage: ResNet-8
        ...     state[f"layer{stage}.0.conv1.weight"] = np.ones((cout, cin, 3, 3))
        ...     state[f"layer{stage}.0.conv2.weight"] = np.ones((cout, cout, 3, 3))
        ...     norms |= {f"layer{stage}.0.bn1": cout, f"layer{stage}.0.bn2": cout}
        >>> for name, width in norms.items():
        ...     state |= {f"{name}.{part}": np.ones(width) for part in ("weight", "bias", "running_mean", "running_var")}
        >>> np.savez("resnet8.npz", **state)
        >>> cifar_resnet("resnet8.npz").space
        <SearchSpace 'cifar_resnet8': 6 genes, 32 architectures>

    Args:
        file: the state dict, as npz or as a PyTorch file, of which no code is run; names as in ``layer1.0.conv1.weight``. Images must have
            been normalised by the mean and the standard deviation of ImageNet.
        data: CIFAR-10 (:func:`hwsearch.nn.load_data`), which the images for calibration are drawn from; without it the network can be
            neither quantised nor tuned.
        precisions: to choose from.

    Returns:
        The network with its batch-norm statistics, to be evaluated, searched, exported, and tuned (``supernet.alone(row)``).

    Raises:
        FileError: the file cannot be read.
        CorruptFile: it is no state dict of such a network.
        InvalidInput: no precisions, or one that does not exist.
        MissingDependency: PyTorch is not installed.
    """
    from ..nn.published._cifar_resnets import read

    return read(file, lambda blocks: cifar_resnet_space(blocks, precisions), WIDTHS, data)


def cifar_resnet_space(blocks: int, precisions: tuple[str, ...]) -> SearchSpace:
    """The space of one network at many precisions.

    Args:
        blocks: residual blocks of each of the three stages: 3 of ResNet-20, 9 of ResNet-56.
        precisions: of each block; the stem and the classifier have the same ones, raised to 8 bits.

    Raises:
        InvalidInput: no precisions, or one that does not exist.
    """
    if not precisions:
        raise InvalidInput("precisions must name one precision at least.")
    edges = tuple(dict.fromkeys(map(edge, precisions)))
    stem = Stage(1, WIDTHS[0], kind="conv", precisions=edges, name="stem")
    stages = [Stage(blocks, width, width, stride=1 if width == WIDTHS[0] else 2) for width in WIDTHS]
    return Chain(f"cifar_resnet{6 * blocks + 2}", (32,), (), (stem, *stages), 10, precisions, head_precisions=edges).space()


def edge(precision: str) -> str:
    """The precision of the first and the last layer of a network whose others have ``precision``: at least 8 bits.

    These layers suffer most and weigh least (DoReFa-Net, 2016, section 2.7, leaves them in floating point).

    Raises:
        InvalidInput: there is no such precision.
    """
    bits = Precision.parse(precision)
    if not bits.quantized or bits.dense == "fp8" or min(bits.weight_bits, bits.activation_bits) >= 8:
        return precision
    return "int8"
