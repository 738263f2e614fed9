"""Commands for networks of the user's: adopt, extract."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import CorruptFile, InvalidInput
from ..reports._formats import find_architecture
from ._app import app, console
from ._options import DataDir
from ._options import data as images

if TYPE_CHECKING:
    from ..spaces._space import Architecture

Network = Annotated[str, typer.Argument(help="FILE.py:FUNCTION that returns a torch module, FILE.onnx, torchvision:NAME or timm:NAME.")]
Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", help="The size of an input, such as 1x3x224x224; several in order.", show_default="those of FILE.onnx"),
]
Frozen = Annotated[list[str] | None, typer.Option("--freeze", help="A parameter, module or pattern that stays.", show_default=False)]
Trained = Annotated[
    Path | None, typer.Option("--weights", "-w", help="A state dict, .safetensors or what torch.save wrote.", show_default=False)
]
Folder = Annotated[Path, typer.Argument(help="The folder that hwsearch adopt wrote.")]
Result = Annotated[Path, typer.Argument(help="A search result in it.")]


@app.command(epilog="Example: hwsearch adopt my_nets.py:build --input 1x3x224x224 --out my-net")
def adopt(
    network: Network,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write; every command takes it as a SPACE.")],
    inputs: Inputs = None,
    weights: Trained = None,
    freeze: Frozen = None,
    part: Annotated[str, typer.Option(help="A submodule, to adopt it alone.")] = "",
    step: Annotated[int, typer.Option(min=1, help="Channels are kept in multiples of this number.")] = 8,
    precisions: Annotated[str, typer.Option(help="What kernels may be in: fp32, int8 or fp32,int8.")] = "fp32",
    ranks: Annotated[
        str | None, typer.Option(help="Write layers as products, and search their ranks: tucker, spatial or svd.", show_default="no ranks")
    ] = None,
    layers: Annotated[list[str] | None, typer.Option("--layer", help="Of these layers only, or patterns.", show_default="all")] = None,
) -> None:
    """Make a search space of a network: find out which widths and branches can be cut, and prove each.

    FILE.py is run, as if it were imported. Networks of torchvision and timm have random weights, unless --weights gives others. FILE.onnx
    is read by the package onnx2torch (pip install 'hwsearch[onnx-import]').
    """
    from ..nn._imported import import_onnx
    from ..nn._sources import load_module, load_weights, random_inputs
    from ..nn.adoption._adopt import adopt as run
    from ..nn.adoption._folder import save_adopted
    from ..nn.adoption._low_rank import low_rank

    sizes = list(map(_size, inputs or []))
    module: Any = network if network.endswith(".onnx") else load_module(network)
    if weights is not None and module is network:
        raise InvalidInput(f"{network} brings its weights along: leave out --weights.")
    if weights is not None:
        load_weights(module, weights)
    examples = random_inputs(sizes) if sizes else None
    if ranks is not None:
        if module is network:
            module, brought = import_onnx(network)
            examples = brought if examples is None else examples
        module = low_rank(module, ranks, layers=layers or ["*"])
    elif layers:
        raise InvalidInput("--layer says which layers are written as products: give --ranks too.")
    space = run(module, examples, freeze=freeze or [], part=part, step=step, precisions=[each.strip() for each in precisions.split(",")])
    save_adopted(space, out)
    console.print(str(space), markup=False, highlight=False, soft_wrap=True)
    console.print(f"Written to {out}. Go on with: hwsearch fit-predictor {out}", markup=False, highlight=False, soft_wrap=True)


@app.command(
    epilog="Example: hwsearch extract my-net result.json ~/photos --data imagefolder --predictor predictor.npz --out small.safetensors"
)
def extract(
    folder: Folder,
    result: Result,
    data_dir: DataDir = None,
    data: Annotated[str | None, typer.Option("--data", help="Images to repair on, as of fit-predictor.", show_default="no repair")] = None,
    predictor: Annotated[
        Path | None, typer.Option("--predictor", "-p", help="Tells which units matter.", show_default="that of the search, if it is there")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The network to write.")] = Path("small.safetensors"),
    epochs: Annotated[int, typer.Option(help="How often to look at the images where layers are fitted together by descent.", min=0)] = 0,
    onnx: Annotated[Path | None, typer.Option(help="An ONNX file to write besides, in the bits of the result.", show_default=False)] = None,
) -> None:
    """Write the network that a search in FOLDER found, repaired on images without training."""
    from ..nn.adoption._extract import extract as run
    from ..nn.adoption._files import save_network

    best = found_in(folder, result, predictor)
    photographs = None if data is None else images(data, data_dir)
    small = run(best, data=photographs, epochs=epochs)
    save_network(small, out)
    params = sum(each.numel() for each in small.parameters())
    console.print(f"{out}: {params:,} parameters", highlight=False)
    if onnx is not None:
        from ..nn._export import export

        export(small, out=onnx, data=photographs)
        console.print(f"{onnx}: {onnx.stat().st_size:,} bytes", highlight=False)


def found_in(folder: Path, result: Path, predictor: Path | None = None) -> Architecture:
    """The best network of a search in the folder of an adopted network, with what tells which units matter.

    Args:
        folder: that of ``hwsearch adopt``.
        result: the search result, or an architecture.
        predictor: tells which units matter; that of the search if omitted, where it still is.

    Raises:
        InvalidInput: the folder is that of no adopted network.
        FileError: a file cannot be read.
    """
    from ..scores._predictor_file import load_predictor
    from ..searching._result import load_result
    from ..spaces._load import load_space

    space = load_space(folder)
    if not space.learns_alone:
        raise InvalidInput(f"{folder} is a space of supernets: --space takes the folder that hwsearch adopt wrote.")
    try:
        named = load_result(result, space).provenance.get("predictor")
    except CorruptFile:
        named = None  # an architecture
    known = predictor or Path(named or "")
    if predictor is not None or known.is_file():
        space = load_predictor(known, space).space
    return find_architecture(result, space)


def _size(text: str) -> list[int]:
    """Read ``1x3x224x224``.

    Raises:
        InvalidInput: it has another form.
    """
    parts: list[Any] = text.lower().split("x")
    if not all(each.isdecimal() and int(each) for each in parts):
        raise InvalidInput(f"--input {text}: expected positive sizes, such as 1x3x224x224.")
    return [int(each) for each in parts]
