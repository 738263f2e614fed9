"""Writing modules of the user's own as files: recurrent ones for any number of inputs, and those that no runtime has kernels for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import hwsearch
from hwsearch.errors import Unsupported

torch.set_num_threads(1)


class Recurrent(nn.Module):
    """Classifies sequences by what a recurrent layer says at their end; its first state is made in the size of the batch."""

    def __init__(self, layer: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.layer, self.head = layer(6, 16, batch_first=True), nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.layer(x)[0][:, -1])
        return found


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU])
def test_a_recurrent_network_is_written_for_any_number_of_sequences(layer: type[nn.LSTM] | type[nn.GRU], tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Recurrent(layer).eval()
    path = hwsearch.export(network, out=tmp_path / "network.onnx", data=torch.randn(4, 7, 6), batch="open")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    [given] = session.get_inputs()
    for count in (1, 3, 5):
        x = torch.randn(count, 7, 6)
        with torch.no_grad():
            wanted = network(x).numpy()
        np.testing.assert_allclose(session.run(None, {given.name: x.numpy()})[0], wanted, rtol=1e-4, atol=1e-5)


def test_double_precision_that_has_no_kernels_is_told_with_what_helps(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10)).eval().double()
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    with pytest.raises(Unsupported, match=r"no kernel.*module\.float\(\)"):
        hwsearch.export(network, out=tmp_path / "network.onnx", data=images)
    assert not list(tmp_path.glob("*.onnx"))
    assert hwsearch.export(network.float(), out=tmp_path / "network.onnx", data=images.float()).exists()
