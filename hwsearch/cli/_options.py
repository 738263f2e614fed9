"""Options that several commands have, and how their texts are read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import HwsearchError, InvalidInput, InvalidLimit

if TYPE_CHECKING:
    from ..spaces._genes import Value
    from ..spaces._space import SearchSpace

Space = Annotated[str, typer.Argument(help="The search space, such as resnet_cifar; see: hwsearch list spaces.")]
Classes = Annotated[int | None, typer.Option(min=1, help="How many classes the images have.", show_default="as SPACE has")]
Channels = Annotated[int | None, typer.Option(min=1, help="How many channels the images have.", show_default="as SPACE has")]
Found = Annotated[Path, typer.Argument(help="A search result (its best network), an architecture file, or what hwsearch extract wrote.")]
OwnFolder = Annotated[
    Path | None, typer.Option("--space", help="Of a network of your own: the folder of hwsearch adopt.", show_default=False)
]
OwnPrecision = Annotated[
    list[str] | None,
    typer.Option(
        help="fp16 and such: of all blocks, instead of what was searched; of a network of your own fp32 or int8, or NAME=int8 for kernels"
        " of a name or pattern, several in order.",
        show_default=False,
    ),
]
DataDir = Annotated[Path | None, typer.Argument(help="The folder of the images, if --data needs one.", show_default=False)]
DataName = Annotated[
    str,
    typer.Option(
        "--data",
        help="digits, or cifar10 or imagefolder with a folder (imagefolder:size=64 for other images than of 224 px); a folder; or"
        " MODULE:FUNCTION that returns images.",
    ),
]
BackendName = Annotated[str, typer.Option("--backend", help="The runtime; see: hwsearch devices.")]
Weights = Annotated[Path, typer.Option("--weights", "-w", help="The trained supernet.")]
Device = Annotated[Path | None, typer.Option("--device", "-d", help="The latency table of the device.", show_default=False)]
Epochs = Annotated[int | None, typer.Option(min=1, help="Passes over the training images.", show_default=False)]
Steps = Annotated[int | None, typer.Option(min=1, help="Steps of each search; the algorithm's own number if omitted.", show_default=False)]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", help="How it is trained: NAME=VALUE, such as amp=bf16 or phases=progressive.", show_default=False),
]
Coded = Annotated[bool, typer.Option("--coded", help="The smallest file instead: weights that share a few values, Huffman-coded.")]
Bits = Annotated[int | None, typer.Option(help="Bits of each coded weight, 2 to 8.", show_default="those of the precision")]
LogFile = Annotated[
    Path | None, typer.Option("--log", help="Write losses, accuracies and rates into this CSV file, a row an epoch.", show_default=False)
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Equal seeds give equal answers.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]


def given(**options: Any) -> dict[str, Any]:
    """The options that were given; the library knows the defaults of the others."""
    return {name: value for name, value in options.items() if value is not None}


def named(space: str, classes: int | None, channels: int | None) -> str:
    """The name of a space for images of other classes and channels; a space is called so in files, too.

    Raises:
        InvalidInput: the name tells them already.
    """
    sizes = [f"{size}={number}" for size, number in (("channels", channels), ("classes", classes)) if number is not None]
    if sizes and ":" in space:
        raise InvalidInput(f"{space} tells classes and channels already: leave out --classes and --channels.")
    return f"{space}:{','.join(sizes)}" if sizes else space


def data(name: str, folder: Path | None) -> str | tuple[str, Path]:
    """The images, as the library's verbs take them: a name, or a name with its folder."""
    return name if folder is None else (name, folder)


def precision(texts: list[str] | None) -> str | dict[str, str] | None:
    """Read ``int8`` or ``NAME=int8`` texts; one without a name stands for all kernels."""
    if not texts:
        return None
    if len(texts) == 1 and "=" not in texts[0]:
        return texts[0]
    return {name or "*": value for name, _, value in (each.rpartition("=") for each in texts)}


def settings(texts: list[str] | None) -> dict[str, Any]:
    """Read ``NAME=VALUE`` texts; a value that looks like a number or a truth value is one.

    Raises:
        InvalidInput: a text has another form.
    """
    return {name: _plain(value) for name, value in _pairs("--set", texts, InvalidInput, "NAME=VALUE, such as threads=4")}


def numbers(option: str, texts: list[str] | None, example: str) -> dict[str, float]:
    """Read ``METRIC=NUMBER`` texts.

    Raises:
        InvalidLimit: a text has another form, or its number is none.
        InvalidInput: a metric is named twice.
    """
    found: dict[str, float] = {}
    for name, number in _pairs(option, texts, InvalidLimit, f"METRIC=NUMBER, such as {example}"):
        if name in found:
            raise InvalidInput(f"{option} {name} is given twice.")
        try:
            found[name] = float(number)
        except ValueError:
            raise InvalidLimit(f"{option} {name}={number}: {number!r} is not a number.") from None
    return found


def frozen(texts: list[str] | None, space: SearchSpace) -> dict[str, list[Value]]:
    """Read ``GENE=VALUE[,VALUE]`` texts; a value is any value of the space's genes that is written like this.

    Raises:
        InvalidInput: a text has another form.
    """
    found: dict[str, list[Value]] = {}
    for name, values in _pairs("--freeze", texts, InvalidInput, "GENE=VALUE, such as stage1.depth=3"):
        wanted = values.split(",")
        found[name] = [value for choice in space.choices for value in choice.values if str(value) in wanted]
    return found


def _pairs(option: str, texts: list[str] | None, error: type[HwsearchError], form: str) -> Iterator[tuple[str, str]]:
    """The names and values of ``NAME=VALUE`` texts.

    Raises:
        error: a text has no ``=``; the message says which form was expected.
    """
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise error(f"{option} {text}: expected {form}.")
        yield name, value


def _plain(value: str) -> Any:
    """A text as the number or the truth value that it looks like, if it does."""
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(value, value)


def watched(log: Path | None, quiet: bool) -> Any:
    """How a training is watched."""
    if log is None:
        return not quiet
    from ..nn.training._watch import Watch

    return Watch(csv=log, bar=not quiet)
