"""A file may differ from its network as much as rounding alone makes the network differ from itself, and no more."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hwsearch.errors import BuildFailed
from hwsearch.nn._agreement import allowed
from hwsearch.nn._export_module import GraphAgreement
from hwsearch.nn.adoption._capture import as_graph


class Between(nn.Module):
    """Rounds what lies just below the middle between two steps."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.round(x.float() * 1.0)


@pytest.fixture
def agreement() -> GraphAgreement:
    x = torch.arange(1, 17).repeat(4, 1) % 5 + 0.5 - 1e-6
    x[:, 8:] = torch.arange(8.0)  # and what lies on a step
    return GraphAgreement(as_graph(Between(), (x,)), (x,), None, "int8")


def test_values_between_two_steps_may_fall_to_either(agreement: GraphAgreement) -> None:
    def runtime(*arrays: Any) -> list[Any]:
        found = np.round(arrays[0])
        found[:, :8:2] = np.ceil(arrays[0][:, :8:2])
        return [found]

    assert agreement("file", runtime) > 2 * agreement.tolerance


def test_what_rounding_does_not_explain_is_refused(agreement: GraphAgreement) -> None:
    with pytest.raises(BuildFailed, match="differ by"):
        agreement("file", lambda *arrays: [np.round(arrays[0]) * 1.5])
    with pytest.raises(BuildFailed, match="differ by"):
        agreement("file", lambda *arrays: [np.round(arrays[0])[:, ::-1]])


def test_however_much_a_network_carries_on_half_of_its_outputs_are_no_rounding() -> None:
    assert allowed(0.05, 0.001) == 0.05
    assert allowed(0.05, 0.1) == 0.2
    assert allowed(0.05, 3.0) == 0.5
