"""The supernet: its networks are what the space says, and its files are checked."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from conftest import make_toy
from safetensors.torch import load, save, save_file
from torch import nn

import hwsearch
from hwsearch import SearchSpace
from hwsearch.errors import CorruptFile, FileError, InvalidInput, NewerVersion, WrongSpace
from hwsearch.networks import Block
from hwsearch.nn import Recipe, Supernet, evaluate, trace, train
from hwsearch.nn.supernet._supernet import load_supernet
from hwsearch.spaces import Chain, Choice, Slot, Stage

torch.set_num_threads(1)


@pytest.mark.parametrize("name", ["resnet_digits", "resnet_cifar", "mobilenetv2_cifar", "mobilenetv3_cifar", "toy"])
def test_traced_network_is_what_the_space_says(name: str, toy: hwsearch.SearchSpace, rng: np.random.Generator) -> None:
    space = toy if name == "toy" else hwsearch.load_space(name)
    supernet = Supernet(space)
    images = torch.randn(2, space.blocks(supernet.largest)[0].cin, 16, 16)
    for row in (supernet.largest, supernet.smallest, *space.sample(12, rng)):
        assert trace(supernet.extract(row, images), images) == space.blocks(row)


def test_extracted_network_computes_what_the_supernet_does(toy: hwsearch.SearchSpace, rng: np.random.Generator) -> None:
    supernet = Supernet(toy)
    _shake(supernet)
    images = torch.randn(64, 1, 8, 8)
    for row in toy.sample(8, rng):
        network = supernet.extract(row, images)
        supernet.activate(row)
        with torch.no_grad():
            assert torch.allclose(supernet.train()(images), network.train()(images), atol=1e-5)
            network = supernet.extract(row, images)
            supernet.calibrate_bn(images)
            other = torch.randn(16, 1, 8, 8)
            assert torch.allclose(supernet.eval()(other), network.eval()(other), atol=1e-5)


def test_calibrated_network_computes_alone_what_it_did_in_the_batch(toy: hwsearch.SearchSpace) -> None:
    supernet = Supernet(toy)
    images = torch.randn(256, 1, 8, 8)
    network = supernet.extract(supernet.largest, images)
    with torch.no_grad():
        alone = torch.cat([network(image[None]) for image in images[:8]])
        assert torch.allclose(alone, network.train()(images)[:8], atol=1e-3)


def test_extracted_network_is_plain_torch_and_learns_alone(toy: hwsearch.SearchSpace) -> None:
    supernet = Supernet(toy)
    images, labels = torch.randn(32, 1, 8, 8), torch.full((32,), 3)
    network = supernet.extract(supernet.smallest, images).train()
    before = supernet.digest
    holders = {type(module) for module in network.modules() if list(module.parameters(recurse=False))}
    assert holders == {nn.Conv2d, nn.BatchNorm2d, nn.Linear}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(images), labels)
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert supernet.digest == before


def test_smaller_network_uses_the_first_channels_only(toy: hwsearch.SearchSpace) -> None:
    supernet = Supernet(toy)
    _shake(supernet)
    images = torch.randn(8, 1, 8, 8)
    supernet.activate(supernet.smallest)
    before = supernet(images)
    layer = supernet.blocks["stage1_block1"].body[0]
    with torch.no_grad():
        layer.weight[4:] = 9.0
    assert torch.equal(supernet(images), before)
    with torch.no_grad():
        layer.weight[3] = 9.0
    assert not torch.equal(supernet(images), before)


def test_weights_come_back_from_the_file(trained: Path, toy: hwsearch.SearchSpace, tmp_path: Path) -> None:
    supernet = Supernet.load(trained, toy)
    supernet.save(tmp_path / "again.safetensors")
    again = Supernet.load(tmp_path / "again.safetensors", toy)
    assert again.digest == supernet.digest
    assert (again.normalize, again.facts) == (supernet.normalize, supernet.facts)
    assert len(again.images) == 512
    assert again.facts["data"] == "digits"


@pytest.mark.parametrize("precisions", [("int4", "w4a8", "int8"), ("int8",), ("fp32",)])
def test_weights_serve_a_space_of_other_precisions(trained: Path, toy: hwsearch.SearchSpace, precisions: tuple[str, ...]) -> None:
    other = make_toy(*precisions)
    assert other.fingerprint != toy.fingerprint
    for served in (Supernet.load(trained, other), load_supernet(Supernet.load(trained, toy), other)):
        assert served.digest == Supernet.load(trained, toy).digest
        one = other.architecture(served.largest)
        assert evaluate(one, weights=served, data="digits") == evaluate(one, weights=trained, data="digits") > 0.3
    with pytest.raises(WrongSpace, match="hwsearch train"):
        Supernet.load(trained, hwsearch.load_space("resnet_digits", precisions=precisions))


def test_weights_of_some_networks_serve_these_at_other_precisions(trained: Path, toy: hwsearch.SearchSpace, tmp_path: Path) -> None:
    part = toy.restrict({"stage1.depth": (2,), "*precision": ("int8",)})
    supernet = train(part, data="digits", out=tmp_path / "part.safetensors", recipe=Recipe(epochs=1, batch=256), progress=False)
    other = make_toy("int4", "int8")
    for served in (Supernet.load(tmp_path / "part.safetensors", other), load_supernet(supernet, other)):
        free = [allowed for choice, allowed in zip(other.choices, served.space.allowed, strict=True) if choice.is_precision]
        assert set(free) == {(0, 1)}
        served.extract(served.largest)
        with pytest.raises(InvalidInput, match="stage1.depth"):
            served.extract(other.canonical(np.zeros((1, len(other.choices)), dtype=np.uint8))[0])
    tuned = supernet.alone(supernet.largest)
    with pytest.raises(InvalidInput, match="belongs to space"):
        load_supernet(tuned, other)


def test_each_damage_to_a_file_has_its_error(
    trained: Path, toy: hwsearch.SearchSpace, digits: hwsearch.SearchSpace, tmp_path: Path
) -> None:
    whole = trained.read_bytes()
    tensors = load(whole)
    length = int.from_bytes(whole[:8], "little")
    header = msgspec.json.decode(msgspec.json.decode(whole[8 : 8 + length])["__metadata__"]["hwsearch"])

    def written(changed: dict[str, torch.Tensor], **facts: object) -> bytes:
        return save(changed, metadata={"hwsearch": msgspec.json.encode({**header, **facts}).decode()})

    name = next(name for name in tensors if name.endswith("weight"))
    cases: list[tuple[bytes, type[FileError], str]] = [
        (b"", CorruptFile, "not a whole safetensors file"),
        (whole[:-100], CorruptFile, "not a whole safetensors file"),
        (b"\x80\x04K\x01.", CorruptFile, "not a whole safetensors file"),
        (save({"x": torch.ones(1)}), CorruptFile, "something else"),
        (written(tensors, format="hwsearch-training"), CorruptFile, "is not a hwsearch-supernet file"),
        (written(tensors, version=99), NewerVersion, "version 99"),
        (written({**tensors, name: tensors[name] * float("nan")}), CorruptFile, "not finite"),
        (written({**tensors, name: tensors[name][:1].clone()}), CorruptFile, "shape"),
        (written({k: v for k, v in tensors.items() if k != name}), CorruptFile, "not those that belong here"),
        (written(tensors, normalize={"mean": "x"}), CorruptFile, "header"),
    ]
    path = tmp_path / "damaged.safetensors"
    for content, error, message in cases:
        path.write_bytes(content)
        with pytest.raises(error, match=message):
            Supernet.load(path, toy)
    with pytest.raises(WrongSpace, match="hwsearch train resnet_digits"):
        Supernet.load(trained, digits)
    with pytest.raises(FileError, match="Cannot read"):
        Supernet.load(tmp_path / "absent.safetensors", toy)


def test_untrained_supernet_says_that_it_needs_images(toy: hwsearch.SearchSpace) -> None:
    supernet = Supernet(toy)
    with pytest.raises(InvalidInput, match="pass images"):
        supernet.extract(supernet.largest)


def test_random_state_of_the_user_is_left_alone(toy: hwsearch.SearchSpace) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Supernet(toy, seed=1)
    assert torch.equal(torch.rand(3), expected)


def test_a_foreign_safetensors_space_of_one_precision_works(tmp_path: Path) -> None:
    space = Chain("float", (8,), (4,), (Stage((1,), (4,), (4,)),), classes=3, precisions=("fp32",), channels=2).space()
    images = torch.randn(4, 2, 8, 8)
    supernet = Supernet(space)
    network = supernet.extract(supernet.largest, images)
    save_file(network.state_dict(), tmp_path / "plain.safetensors")
    assert network(images).shape == (4, 3)
    assert [block.kind for block in trace(network, images)] == ["conv", "basic", "head"]


def test_kinds_that_cannot_share_weights_are_refused() -> None:
    def lower(kind: str) -> tuple[Block, ...]:
        return (Block(kind, 8, 8, 8, (16,) if kind == "mbconv" else ()),)

    space = SearchSpace("mixed", (Choice("kind", ("mbconv", "conv")),), (Slot("block", ("kind",), lower),))
    with pytest.raises(InvalidInput, match=r"one kind of block, not \['conv', 'mbconv'\]"):
        Supernet(space)


def _shake(supernet: Supernet) -> None:
    """Give batch norms other values than their first ones, so that forgetting one would show."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in supernet.parameters():
            if parameter.ndim == 1:
                parameter.copy_(torch.rand(parameter.shape, generator=generator) + 0.5)
