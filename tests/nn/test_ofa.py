"""Once-for-All's supernets: the outputs are those of Once-for-All's own code, from the same weights."""

from __future__ import annotations

import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")

from hwsearch import SearchSpace, load_space  # noqa: E402
from hwsearch.errors import CorruptFile, FileError  # noqa: E402
from hwsearch.interop import ofa_supernet  # noqa: E402
from hwsearch.nn.published._ofa import OfaSupernet  # noqa: E402

torch.set_num_threads(1)


@cache
def space_of(name: str) -> SearchSpace:
    return load_space(name, resolutions=(96, 128))


@cache
def state_of(name: str) -> dict[str, torch.Tensor]:
    """Weights drawn from each tensor's name, so that anyone can draw them again, for any code."""
    space, gain = space_of(name), 1.6 if name == "ofa_resnet50" else 2.15
    state = {}
    for name, tensor in OfaSupernet(space).published().items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        shape = tuple(tensor.shape)
        if name.endswith("num_batches_tracked"):
            value = np.zeros(shape)
        elif name.endswith(("running_mean", "bias")):
            value = 0.1 * rng.standard_normal(shape)
        elif name.endswith("_matrix"):
            value = np.eye(shape[0]) + 0.1 * rng.standard_normal(shape)
        elif len(shape) == 1:
            value = 0.75 + 0.5 * rng.random(shape)
        else:
            value = rng.standard_normal(shape) * np.sqrt(gain / np.prod(shape[1:]))
        state[name] = torch.from_numpy(np.asarray(value)).to(tensor.dtype)
    return state


def images_of(resolution: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, resolution, resolution)).astype(np.float32))


# Logits 0 to 2 of both images, computed by Once-for-All's package (ofa 0.1.0.post202307202001, set_active_subnet and its own forward) from
# state_of(name), for the smallest network and for rows 0 and 1 of space.sample(2, default_rng(0)).
GOLDEN: dict[str, list[list[list[float]]]] = {
    "ofa_mobilenetv3": [
        [[-0.387833, -0.280846, 0.020701], [-0.387751, -0.280255, 0.020569]],
        [[-3.71388, -1.535917, -1.315149], [-4.007137, -1.641292, -1.428595]],
        [[-0.913304, -1.004411, -0.416321], [-0.792649, -0.961684, -0.316558]],
    ],
    "ofa_resnet50": [
        [[-0.672855, 0.19248, -0.43894], [-0.667265, 0.182747, -0.43207]],
        [[-2.451822, -0.301441, -1.300678], [-2.417416, -0.26775, -1.325969]],
        [[-6.273293, -6.035392, 0.157529], [-6.2399, -5.786838, 0.26787]],
    ],
}


def rows_of(space: SearchSpace) -> np.ndarray:
    smallest = np.zeros((1, len(space.choices)), dtype=np.uint8)
    return np.concatenate([smallest, space.sample(2, np.random.default_rng(0))])


@pytest.mark.parametrize("name", ["ofa_mobilenetv3", "ofa_resnet50"])
def test_outputs_are_those_of_once_for_all(name: str, tmp_path: Path) -> None:
    space = space_of(name)
    file = tmp_path / "supernet.pth"
    torch.save({"state_dict": state_of(name)}, file)
    supernet = ofa_supernet(file, space)
    for row, golden in zip(rows_of(space), GOLDEN[name], strict=True):
        images = images_of(int(space.decode(row)["resolution"]))
        with torch.no_grad():
            supernet.activate(row)
            elastic = supernet(images)
            plain = supernet.extract(row)(images)
        torch.testing.assert_close(elastic[:, :3], torch.tensor(golden), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(elastic, plain, rtol=1e-6, atol=1e-6)
        assert not torch.allclose(elastic[0], elastic[1], atol=1e-3)


def test_extracted_networks_are_the_blocks_of_their_rows() -> None:
    space = space_of("ofa_mobilenetv3")
    supernet = OfaSupernet(space)
    for row in rows_of(space):
        network = supernet.extract(row)
        blocks = space.blocks(row)
        assert sum(parameter.numel() for parameter in network.parameters()) == sum(block.params for block in blocks)
        x = images_of(int(space.decode(row)["resolution"]))
        for module, block in zip(list(network)[1:], blocks, strict=True):
            assert tuple(x.shape[1:]) == (block.cin, block.size, block.size)
            x = module(x)


def test_gradients_reach_shared_weights_and_kernel_matrices() -> None:
    space = space_of("ofa_mobilenetv3")
    supernet = OfaSupernet(space).train()
    supernet.activate(rows_of(space)[0])
    supernet(images_of(96)).square().mean().backward()
    layer = supernet.blocks["stage1_block1"].body[1]
    kernel, matrix = layer.weight.grad, layer.matrices["5to3"].grad
    assert kernel is not None
    assert matrix is not None
    assert kernel[:72].abs().sum() > 0
    assert kernel[72:].abs().sum() == 0
    assert matrix.abs().sum() > 0


def test_weights_without_kernel_matrices_take_the_middle() -> None:
    space = space_of("ofa_mobilenetv3")
    state = {name: tensor for name, tensor in state_of("ofa_mobilenetv3").items() if not name.endswith("_matrix")}
    supernet = OfaSupernet(space)
    supernet.set_published(state, "here")
    block = next(block for block in space.blocks(rows_of(space)[0]) if block.kind == "mbconv")
    whole = state["blocks.1.conv.depth_conv.conv.weight"]
    weight, _ = supernet.blocks["stage1_block1"].body[1].sliced(block.graph.body[1])
    torch.testing.assert_close(weight, whole[: block.mids[0], :, 2:5, 2:5])


def test_older_names_of_the_same_weights_are_understood() -> None:
    space = space_of("ofa_mobilenetv3")
    state = state_of("ofa_mobilenetv3")
    older = {}
    for name, tensor in state.items():
        name = name.replace(".bn.", ".bn.bn.") if name.startswith("blocks") else name
        parts = name.split(".")
        if parts[0] == "blocks":
            parts[2] = "mobile_inverted_conv"
        older[".".join(parts)] = tensor
    first, second = OfaSupernet(space), OfaSupernet(space)
    first.set_published(state, "here")
    second.set_published(older, "here")
    for name, tensor in first.published().items():
        assert torch.equal(tensor, second.published()[name])


def test_wrong_files_are_refused_with_the_reason(tmp_path: Path) -> None:
    space = space_of("ofa_resnet50")
    with pytest.raises(FileError, match="Cannot read"):
        ofa_supernet(tmp_path / "none.pth", space)
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(CorruptFile, match="not a whole state dict of PyTorch"):
        ofa_supernet(tmp_path / "text.pth", space)
    torch.save(torch.nn.Linear(1, 1), tmp_path / "code.pth")
    with pytest.raises(CorruptFile, match="save module.state_dict"):
        ofa_supernet(tmp_path / "code.pth", space)
    state = state_of("ofa_resnet50")
    torch.save({name: tensor for name, tensor in state.items() if name != "blocks.3.conv2.conv.weight"}, tmp_path / "part.pth")
    with pytest.raises(CorruptFile, match=r"lacks the tensor 'blocks\.3\.conv2\.conv\.weight'"):
        ofa_supernet(tmp_path / "part.pth", space)
    torch.save({**state, "blocks.3.conv2.conv.weight": torch.zeros(1)}, tmp_path / "shape.pth")
    with pytest.raises(CorruptFile, match=r"has the shape \(1,\)"):
        ofa_supernet(tmp_path / "shape.pth", space)
