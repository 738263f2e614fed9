"""Networks of the user's beside those that people would take without a search."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import hwsearch
from hwsearch.errors import Infeasible, InvalidInput, UnknownName
from hwsearch.nn.adoption import count, siblings
from hwsearch.reports import macs_figure, side_by_side


def test_accuracy_is_that_of_the_file_that_was_run(tmp_path: Path) -> None:
    """Each file is judged once, by its path; the space's own counts and those of any module beside them agree."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    images, labels = torch.randn(100, 3, 8, 8), torch.randint(4, (100,))
    space = hwsearch.adopt(nn.Sequential(*layers), images[:1])
    networks = {
        "dense": space.architecture(space.row()),
        "cut in half": space.architecture(space.row({"g0": 16})),
        "sibling": nn.Sequential(*layers),
    }
    judged: list[str] = []

    def accuracy(file: Path) -> float:
        judged.append(file.name)
        return hwsearch.nn.evaluate_file(file, data=hwsearch.nn.make_data("mine", (images, labels)))

    rows = side_by_side(networks, accuracy=accuracy, data=(images, labels), out=tmp_path / "files", images=100, progress=False)
    assert judged == ["dense.onnx", "cut-in-half.onnx", "sibling.onnx"]
    assert [row.macs for row in rows] == [space.macs(), space.macs({"g0": 16}), space.macs()]
    assert rows[0].accuracy == rows[2].accuracy
    assert rows[1].params < rows[0].params == rows[2].params
    assert all(row.interval and row.measured_ms > 0 and row.size_bytes > 0 for row in rows)
    assert macs_figure(rows).axes
    with pytest.raises(InvalidInput, match="at least one architecture of an adopted network"):
        side_by_side({"sibling": layers[0]}, accuracy=accuracy, data=images, out=tmp_path)


def test_counting_alone_is_brought_down_to_the_latency_limit() -> None:
    """Where latency comes from one layer, counting cuts another one and needs fewer multiply-accumulates than it had to."""
    space = hwsearch.SearchSpace.from_tables(
        {"a": (1, 2, 3, 4), "b": (1, 2, 3, 4)},
        {
            "macs": [(("a",), np.array([1.0, 2, 3, 4])), (("b",), np.array([1.0, 2, 3, 4]))],
            "latency_ms": [(("a",), np.array([1.0, 2, 3, 4]))],
        },
    )
    problem = hwsearch.Problem.of(space, predictor=lambda X: X @ np.array([1.1, 1.0]), limits={"latency_ms": 2.0})
    found = hwsearch.searching.by_macs(problem)
    assert found.values()["a"] <= 2
    assert hwsearch.search(problem).best.values() == {"a": 2, "b": 4}
    with pytest.raises(Infeasible, match="latency_ms <= 0.5"):
        hwsearch.searching.by_macs(hwsearch.Problem.of(space, predictor=lambda X: X.sum(axis=1), limits={"latency_ms": 0.5}))
    with pytest.raises(InvalidInput, match="none is limited"):
        hwsearch.searching.by_macs(hwsearch.Problem.of(space, predictor=lambda X: X.sum(axis=1), limits={"macs": 4.0}))


def test_members_of_a_family_are_known_by_name() -> None:
    from hwsearch.nn.data._vision import import_torchvision

    names = import_torchvision().models.list_models()
    assert siblings("efficientnet_b2") == ("efficientnet_b1", "efficientnet_b0")
    assert all(name in names for big in ("resnet152", "vit_b_16", "fcn_resnet101", "regnet_x_32gf") for name in siblings(big))
    with pytest.raises(UnknownName, match="resnet55"):
        siblings("resnet55")
    assert count(nn.Linear(4, 3), torch.randn(2, 4)) == (12.0, 15)
