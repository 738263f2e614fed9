"""Weights of other people's training scripts: however a checkpoint wraps them, the same tensors come out, and nothing that is no number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hwsearch.errors import CorruptFile
from hwsearch.nn.published._state import read_state

PLAIN = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([0.5, -1.5]), "a.steps": torch.tensor(7)}


def _same(found: dict[str, np.ndarray]) -> bool:
    return list(found) == list(PLAIN) and all(np.array_equal(found[name], tensor.numpy()) for name, tensor in PLAIN.items())


@pytest.mark.parametrize("key", ["state_dict", "model", "state_dict_ema", "model_state_dict", "model_ema", "ema"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_wrapped_checkpoints_load_as_plain_ones_do(key: str, prefix: str, tmp_path: Path) -> None:
    torch.save({"epoch": 3, key: {f"{prefix}{name}": tensor for name, tensor in PLAIN.items()}, "best": 0.7}, tmp_path / "w.pth")
    assert _same(read_state(tmp_path / "w.pth"))


def test_the_average_of_the_weights_goes_before_the_weights(tmp_path: Path) -> None:
    other = {name: tensor + 1 for name, tensor in PLAIN.items()}
    torch.save({"model": other, "model_ema": PLAIN}, tmp_path / "w.pth")
    assert _same(read_state(tmp_path / "w.pth"))


def test_safetensors_and_npz_hold_the_same_tensors(tmp_path: Path) -> None:
    save_file(PLAIN, tmp_path / "w.safetensors")
    np.savez(tmp_path / "w.npz", **{name: tensor.numpy() for name, tensor in PLAIN.items()})
    assert {name: array.tolist() for name, array in read_state(tmp_path / "w.safetensors").items()} == {
        name: tensor.tolist() for name, tensor in PLAIN.items()
    }
    assert _same(read_state(tmp_path / "w.npz"))


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_short_floating_point_numbers_become_float32(kind: torch.dtype, tmp_path: Path) -> None:
    torch.save({"a": PLAIN["a.weight"].to(kind)}, tmp_path / "w.pth")
    found = read_state(tmp_path / "w.pth")["a"]
    assert found.dtype == np.float32
    assert np.array_equal(found, PLAIN["a.weight"].numpy())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1j])
def test_weights_that_are_no_numbers_are_refused(value: complex, tmp_path: Path) -> None:
    torch.save({"a": torch.tensor([1.0, value])}, tmp_path / "w.pth")
    np.savez(tmp_path / "w.npz", a=np.array([1.0, value]))
    for name in ("w.pth", "w.npz"):
        with pytest.raises(CorruptFile, match=name):
            read_state(tmp_path / name)
