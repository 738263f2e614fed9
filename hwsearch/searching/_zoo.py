"""The zoo: examples that come with hwsearch, each a trained supernet, its accuracy predictor and a latency table: searched in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from .._files._reading import guarded, read_document
from ..devices._table import LatencyTable, load_table
from ..errors import UnknownName
from ..scores._predictor import Predictor
from ..scores._predictor_file import load_predictor
from ..spaces._load import load_space
from ..spaces._space import SearchSpace

FORMAT = "hwsearch-example"
VERSION = 1
_INSIDE = Path(__file__).parents[1] / "zoo"
_ZOO = _INSIDE if _INSIDE.is_dir() else Path(__file__).parents[2] / "zoo"
"""Where the examples lie: inside the package, or beside it in a checkout."""


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to know of an example.

    Example:
        >>> import hwsearch
        >>> hwsearch.load_example("cifar10").card.test_accuracy["largest"]
        0.8161

    Attributes:
        space: its search space.
        sizes: to which values genes are restricted, because the supernet was trained for no others.
        data: the images that it was trained and tested on.
        test_accuracy: of the largest and of the smallest network in fp32 on the test images, as shares.
        predictor: how good the predictor is on networks that it was not fitted to.
        device: on which the latencies were measured.
        trained: what the training took.
        command: that made all of it, in a checkout.
    """

    space: str
    sizes: dict[str, list[int]]
    data: str
    test_accuracy: dict[str, float]
    predictor: str
    device: str
    trained: str
    command: str

    @property
    def facts(self) -> Mapping[str, str]:
        """The same as text, by title."""
        tested = ", ".join(f"{name} network {share:.1%}" for name, share in self.test_accuracy.items())
        return {
            "space": self.space,
            "data": self.data,
            "test accuracy (fp32)": tested,
            "predictor": self.predictor,
            "latencies": self.device,
            "trained": self.trained,
            "command": self.command,
        }


@dataclass(frozen=True, eq=False)
class Example:
    """A space with all that a search in it needs.

    Example:
        >>> import hwsearch
        >>> example = hwsearch.load_example("digits")
        >>> example.space
        <SearchSpace 'resnet_digits': 21 genes, 1.21e+08 architectures>
        >>> example.weights.name
        'supernet.safetensors'

    Attributes:
        name: of the example.
        space: where to search.
        predictor: of the accuracy of its networks.
        table: of latencies, measured on one CPU: relative to each other they tell of others, too; :func:`hwsearch.profile` measures yours.
        weights: the file of the trained supernet, for :func:`hwsearch.export` and others that need torch.
        card: what there is to know.
    """

    name: str
    space: SearchSpace
    predictor: Predictor = field(repr=False)
    table: LatencyTable = field(repr=False)
    weights: Path
    card: Card = field(repr=False)

    def __str__(self) -> str:
        return "\n".join([f"example {self.name!r}", *(f"  {title}: {text}" for title, text in self.card.facts.items())])


def load_example(name: str) -> Example:
    """An example of the zoo: search it without training or measuring anything.

    Args:
        name: such as ``"digits"``; ``hwsearch zoo`` lists them.

    Raises:
        UnknownName: there is no such example.
        FileError: its files cannot be read.

    Example:
        >>> import hwsearch
        >>> example = hwsearch.load_example("digits")
        >>> limits = {"latency_ms": 0.5 * example.table.predict(hwsearch.searching.dense(example.space, "int8").blocks())}
        >>> result = hwsearch.search(example.space, device=example.table, predictor=example.predictor, limits=limits)
        >>> result.values["latency_ms"] <= limits["latency_ms"]
        True
    """
    folders = _folders()
    if name not in folders:
        raise UnknownName("example", name, folders)
    folder = folders[name]
    card = _card(folder)
    space = load_space(card.space).restrict(card.sizes)
    predictor = load_predictor(folder / "predictor.npz", space)
    return Example(name, space, predictor, load_table(folder / "table.json"), folder / "supernet.safetensors", card)


def examples() -> Mapping[str, Card]:
    """What there is to know of each example of the zoo, by name.

    Raises:
        FileError: a card cannot be read.

    Example:
        >>> from hwsearch.searching import examples
        >>> examples()["digits"].space
        'resnet_digits'
    """
    return {name: _card(folder) for name, folder in _folders().items()}


def _folders() -> dict[str, Path]:
    return {path.parent.name: path.parent for path in sorted(_ZOO.glob("*/card.json"))}


def _card(folder: Path) -> Card:
    path = folder / "card.json"
    document = read_document(path, "example", format=FORMAT, version=VERSION)
    with guarded(path, "example"):
        return msgspec.convert(document, Card)
