"""Once-for-All's descriptions of networks: ``net.config`` files and the settings of its supernets."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .._files._reading import PathLike, read_json
from ..errors import CorruptFile, HwsearchError, InvalidInput
from ..networks._blocks import Block
from ..spaces._chain import divisible
from ..spaces._genes import Value
from ..spaces._space import Architecture, SearchSpace

if TYPE_CHECKING:
    from ..nn.published._ofa import OfaSupernet

_ACTIVATIONS = {"relu": "relu", "relu6": "relu6", "h_swish": "hswish", "swish": "swish", None: "none"}


def ofa_supernet(file: PathLike, space: SearchSpace) -> OfaSupernet:
    """Read the weights of a supernet of Once-for-All.

    It needs the weights that Once-for-All publishes.

    Example:
        >>> import hwsearch, numpy as np
        >>> from hwsearch.interop import ofa_supernet
        >>> space = hwsearch.load_space("ofa_mobilenetv3")
        >>> supernet = ofa_supernet("ofa_mbv3_d234_e346_k357_w1.2", space)  # doctest: +SKIP
        >>> network = supernet.extract(space.sample(1, np.random.default_rng(0))[0])  # doctest: +SKIP

    Args:
        file: PyTorch state dict of its elastic MobileNetV3 or ResNet-50; it is loaded without running any code of it.
        space: ``ofa_mobilenetv3`` of the same width, or ``ofa_resnet50``.

    Returns:
        A torch module, in evaluation mode: ``activate(row)`` and call it, or ``extract(row)`` a plain network.

    Raises:
        FileError: the file cannot be read.
        CorruptFile: it is no such state dict, or that of another space.
        MissingDependency: PyTorch is not installed.
    """
    from ..nn.published._ofa import ofa_supernet as read

    return read(file, space)


def ofa_architecture(config: PathLike | Mapping[str, Any], space: SearchSpace, resolution: int | None = None) -> Architecture:
    """Read a network of Once-for-All.

    Example:
        >>> import hwsearch
        >>> from hwsearch.interop import ofa_architecture
        >>> space = hwsearch.load_space("ofa_mobilenetv3")
        >>> network = ofa_architecture({"ks": [3] * 20, "e": [4] * 20, "d": [2] * 5, "r": [160]}, space)
        >>> network.values()["resolution"], network.values()["stage1.block1.expand"]
        (160, 4)

    Args:
        config: a ``net.config`` file or its JSON data; or the setting of a supernet: ``{"ks": ..., "e": ..., "d": ..., "r": [...]}`` of
            MobileNetV3, ``{"d": ..., "e": ..., "w": ..., "image_size": ...}`` of ResNet-50.
        space: ``ofa_mobilenetv3`` of the network's width, or ``ofa_resnet50``.
        resolution: of the input image, px; needed if ``config`` does not say it.

    Raises:
        FileError: the file cannot be read.
        CorruptFile: it is no network of Once-for-All.
        InvalidInput: the space does not hold the network, or no resolution is known.
    """
    where = "config" if isinstance(config, Mapping) else os.fspath(config)
    data = config if isinstance(config, Mapping) else read_json(config, "network of Once-for-All")
    if not isinstance(data, Mapping):
        raise CorruptFile(f"{where} is no network of Once-for-All: a JSON object was expected.")
    try:
        size = data["r"][0] if "r" in data else data.get("image_size", resolution)
        values = _setting(data, space) if "d" in data else _config(data, space)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, HwsearchError):
            raise
        raise CorruptFile(f"{where} is no network of Once-for-All: {error!r}.") from error
    if size is None:
        raise InvalidInput("A net.config does not say the resolution: pass resolution=.")
    architecture = space.architecture(space.encode({"resolution": size, **values}))
    if "d" not in data:
        _same(_parsed(data, int(size)), architecture.blocks(), where)
    return architecture


def _stages(space: SearchSpace) -> list[tuple[str, tuple[Value, ...], int]]:
    """Name, depths and most blocks of each stage."""
    depths = [space.choices[gene] for gene in space.with_role("depth")]
    stages = [(choice.name.partition(".")[0], choice.values) for choice in depths if choice.name.startswith("stage")]
    return [(name, values, int(max(values))) for name, values in stages]


def _active(space: SearchSpace, gene: str, values: Sequence[Any], depths: Sequence[int]) -> Iterator[tuple[str, Value]]:
    """A gene of each block that is kept, from values for all blocks."""
    start = 0
    for (name, _, most), depth in zip(_stages(space), depths, strict=True):
        for block in range(depth):
            yield f"{name}.block{block + 1}.{gene}", values[start + block]
        start += most


def _setting(data: Mapping[str, Any], space: SearchSpace) -> dict[str, Value]:
    """Genes of a supernet's setting."""
    stages = _stages(space)
    if "w" not in data:
        depths = [int(depth) for depth in data["d"]]
        pairs = [*_active(space, "kernel", data["ks"], depths), *_active(space, "expand", data["e"], depths)]
        return dict(pairs) | {f"{name}.depth": depth for (name, _, _), depth in zip(stages, depths, strict=True)}
    stem, *added = data["d"]
    depths = [min(map(int, values)) + int(more) for (_, values, _), more in zip(stages, added, strict=True)]
    widths = [space.choices[gene] for gene in space.with_role("width")]
    return (
        dict(_active(space, "expand", data["e"], depths))
        | {choice.name: choice.values[index] for choice, index in zip(widths, data["w"], strict=True)}
        | {f"{name}.depth": depth for (name, _, _), depth in zip(stages, depths, strict=True)}
        | {"stem2.depth": int(stem > 0)}
    )


# -- net.config ------------------------------------------------------------------------------------------------------------


def _parsed(data: Mapping[str, Any], resolution: int) -> list[Block]:
    """The blocks of a ``net.config``, without poolings."""
    if "first_conv" in data:
        layers = [data["first_conv"], *data["blocks"], data["final_expand_layer"]]
    else:
        layers = [*data["input_stem"], *data["blocks"]]
    blocks: list[Block] = []
    size = resolution
    for number, layer in enumerate(layers):
        block = _block(layer, size)
        blocks.append(block)
        size = block.out_size
        if "input_stem" in data and number == len(data["input_stem"]) - 1:
            size = -(-size // 2)
    mids = (data["feature_mix_layer"]["out_channels"],) if "feature_mix_layer" in data else ()
    activation = _ACTIVATIONS[data["feature_mix_layer"]["act_func"]] if mids else "relu"
    head = data["classifier"]
    return [*blocks, Block("head", blocks[-1].cout, head["out_features"], size, mids, activation=activation)]


def _block(layer: Mapping[str, Any], size: int) -> Block:
    inner = layer.get("conv") or layer.get("mobile_inverted_conv") or layer
    cin, cout, kernel, stride = (inner[name] for name in ("in_channels", "out_channels", "kernel_size", "stride"))
    activation = _ACTIVATIONS[inner["act_func"]]
    kind = "resconv" if inner is not layer else "conv"
    mids: tuple[int, ...] = ()
    if "expand_ratio" in inner:
        if "use_se" in inner:
            mid = inner["mid_channels"] or divisible(round(cin * inner["expand_ratio"]))
            kind, mids = ("separable", ()) if inner["expand_ratio"] == 1 else ("mbconv", (mid,))
            mids += (divisible(mid // 4),) if inner["use_se"] else ()
        else:
            mid = divisible(inner["mid_channels"] or round(cout * inner["expand_ratio"]))
            kind, mids = "bottleneckd", (mid, mid)
    return Block(kind, cin, cout, size, mids, kernel, stride, activation=activation)


def _config(data: Mapping[str, Any], space: SearchSpace) -> dict[str, Value]:
    """Genes that give the shapes of a ``net.config``; :func:`_same` checks that they do."""
    blocks = _parsed(data, 256)
    values: dict[str, Value] = {}
    stages = [block for block in blocks if block.kind in ("mbconv", "bottleneckd")]
    starts = [index for index, block in enumerate(stages) if block.cin != block.cout or block.stride > 1]
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(stages)], strict=True), start=1):
        name = f"stage{number}"
        values[f"{name}.depth"] = end - start
        for index, block in enumerate(stages[start:end], start=1):
            values[f"{name}.block{index}.kernel"] = block.kernel
            base = block.cin if block.kind == "mbconv" else block.cout
            values[f"{name}.block{index}.expand"] = _ratio(space, f"{name}.block{index}.expand", base, block.mids[0])
        values[f"{name}.width"] = _ratio(space, f"{name}.width", _FULL[number - 1], stages[start].cout)
    if "input_stem" in data:
        stem = [block for block in blocks if block.kind in ("conv", "resconv")]
        values["stem1.width"] = _ratio(space, "stem1.width", 32, stem[0].cout)
        values["stem2.depth"] = len(stem) - 2
        values["stem3.width"] = _ratio(space, "stem3.width", 64, stem[-1].cout)
    return {name: value for name, value in values.items() if name in space.position}


_FULL = (256, 512, 1024, 2048, 0)
"""Full widths of the stages of ResNet-50."""


def _ratio(space: SearchSpace, gene: str, base: int, width: int) -> Value:
    """The value of a gene that makes ``width`` of ``base``."""
    if gene not in space.position:
        return 0
    for value in space.choices[space.position[gene]].values:
        if divisible(round(base * float(value))) == width:
            return value
    raise InvalidInput(f"Space {space.name!r} does not hold this network: no value of {gene!r} makes {width} of {base} channels.")


def _same(found: Sequence[Block], made: Sequence[Block], where: str) -> None:
    """Check that an architecture has the blocks of a ``net.config``."""
    ours = [Block.parse(block.key.partition("-at")[0]) for block in made if block.kind != "maxpool"]
    for theirs, block in zip(found, ours, strict=False):
        if theirs != block:
            raise InvalidInput(f"{where}: its block {theirs.key} is not in the space, which has {block.key} in its place.")
    if len(found) != len(ours):
        raise InvalidInput(f"{where}: it has {len(found)} blocks, and the space gives {len(ours)}.")


def ofa_setting(architecture: Architecture) -> dict[str, Any]:
    """The setting that makes Once-for-All's supernet run an architecture: the argument of its ``set_active_subnet``, and the resolution.

    Blocks that the depth leaves out have the first value of their genes.

    Example:
        >>> import hwsearch
        >>> from hwsearch.interop import ofa_setting
        >>> space = hwsearch.load_space("ofa_mobilenetv3")
        >>> setting = ofa_setting(space.architecture([0] * len(space.sizes)))
        >>> setting["d"], setting["r"]  # depths and resolution of the smallest network
        ([2, 2, 2, 2, 2], [160])

    Args:
        architecture: of the space ``ofa_mobilenetv3`` or ``ofa_resnet50``.

    Returns:
        ``{"ks", "e", "d", "r"}`` of MobileNetV3, ``{"d", "e", "w", "image_size"}`` of ResNet-50; :func:`ofa_architecture` reads it back.

    Raises:
        InvalidInput: it is of another space.
    """
    space, values = architecture.space, architecture.values()
    if not space.name.startswith("ofa_"):
        raise InvalidInput(f"Once-for-All has no networks of space {space.name!r}.")
    stages = _stages(space)

    def each(role: str) -> list[Value]:
        choices = [space.choices[gene] for gene in space.with_role(role)]
        return [values.get(choice.name, choice.values[0]) for choice in choices]

    depths = [int(values[f"{name}.depth"]) for name, _, _ in stages]
    if "stem2.depth" not in values:
        return {"ks": each("kernel"), "e": each("expand"), "d": depths, "r": [values["resolution"]]}
    widths = [space.choices[gene] for gene in space.with_role("width")]
    added = [depth - min(map(int, offered)) for depth, (_, offered, _) in zip(depths, stages, strict=True)]
    return {
        "d": [2 * int(values["stem2.depth"]), *added],
        "e": each("expand"),
        "w": [choice.index(values[choice.name]) for choice in widths],
        "image_size": values["resolution"],
    }


def ofa_config(architecture: Architecture) -> dict[str, Any]:
    """The ``net.config`` of an architecture: JSON data that Once-for-All builds the network from.

    :func:`ofa_architecture` reads the same network back. (Two width multipliers of the first stem layer of ``ofa_resnet50`` make the same
    width, of which it takes the smaller.)

    Example:
        >>> import hwsearch
        >>> from hwsearch.interop import ofa_architecture, ofa_config
        >>> space = hwsearch.load_space("ofa_mobilenetv3")
        >>> network = space.architecture([0] * len(space.sizes))
        >>> config = ofa_config(network)
        >>> ofa_architecture(config, space, resolution=network.values()["resolution"]) == network
        True

    Args:
        architecture: of the space ``ofa_mobilenetv3`` or ``ofa_resnet50``.

    Raises:
        InvalidInput: it is of another space.
    """
    if not architecture.space.name.startswith("ofa_"):
        raise InvalidInput(f"Once-for-All has no networks of space {architecture.space.name!r}.")
    *blocks, head = [block for block in architecture.blocks() if block.kind != "maxpool"]
    layers = [_described(block) for block in blocks]
    norm = {"momentum": 0.1, "eps": 1e-5}
    last = {"name": "LinearLayer", "in_features": head.graph.body[-1].cin, "out_features": head.cout, "bias": True, "dropout_rate": 0}
    if not head.mids:
        stem = sum(block.kind in ("conv", "resconv") for block in blocks)
        return {"name": "ResNets", "bn": norm, "input_stem": layers[:stem], "blocks": layers[stem:], "classifier": last}
    mix = _described(Block("conv", head.cin, head.mids[0], 1, activation=head.activation)) | {"use_bn": False}
    first, *middle, final = layers
    return {
        "name": "MobileNetV3",
        "bn": norm,
        "first_conv": first,
        "blocks": middle,
        "final_expand_layer": final,
        "feature_mix_layer": mix,
        "classifier": last,
    }


def _described(block: Block) -> dict[str, Any]:
    """One layer of a ``net.config``."""
    names = {ours: theirs for theirs, ours in _ACTIVATIONS.items()}
    shape: dict[str, Any] = {"in_channels": block.cin, "out_channels": block.cout, "kernel_size": block.kernel, "stride": block.stride}
    shape["act_func"] = names[block.activation]
    if block.kind == "conv":
        return {"name": "ConvLayer", **shape, "dilation": 1, "groups": 1, "bias": False, "use_bn": True, "dropout_rate": 0}
    if block.kind == "bottleneckd":
        ratio = {"expand_ratio": block.mids[0] / block.cout, "mid_channels": block.mids[0]}
        return {"name": "ResNetBottleneckBlock", **shape, **ratio, "groups": 1, "downsample_mode": "avgpool_conv"}
    inner = _described(Block("conv", block.cin, block.cout, block.size, (), block.kernel, activation=block.activation))
    if block.kind in ("mbconv", "separable"):
        mid = block.mids[0] if block.kind == "mbconv" else None
        inner = {"name": "MBConvLayer", **shape, "expand_ratio": mid / block.cin if mid else 1, "mid_channels": mid}
        inner["use_se"] = bool(block.graph.excite)
    skip = {"name": "IdentityLayer", "in_channels": block.cin, "out_channels": block.cout, "use_bn": False, "act_func": None}
    return {"name": "ResidualBlock", "conv": inner, "shortcut": skip if block.graph.shortcut is not None else None}
