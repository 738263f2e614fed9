"""Commands that search: search, compress."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .._files._writing import check_writable
from ..errors import InvalidInput
from ..reports import _terminal
from ._app import app, console
from ._options import Bits, Channels, Classes, DataDir, DataName, Device, Quiet, Seed, Space, Steps, frozen, given, named, numbers
from ._options import data as images

if TYPE_CHECKING:
    from ..spaces._space import SearchSpace

Limits = Annotated[list[str] | None, typer.Option("--limit", "-l", help="METRIC=NUMBER; give as many as needed.", show_default=False)]
Tolerance = Annotated[
    list[str] | None,
    typer.Option(help="score=0.005, latency_ms=0.03: what is verified, and how closely it must agree.", show_default=False),
]
VerifyCount = Annotated[
    int, typer.Option(min=0, help="Evaluate and measure this many of the best networks, learn, and search again until it agrees.")
]
State = Annotated[Path | None, typer.Option(help="Where to keep the search while it runs, to go on after a stop.", show_default=False)]
Macs = Annotated[float | None, typer.Option(help="Most MACs: a fraction of the dense network's, or a count.", show_default=False)]
Params = Annotated[float | None, typer.Option(help="Most parameters, likewise.", show_default=False)]
LatencyMs = Annotated[float | None, typer.Option(help="Most milliseconds of the searched networks.", show_default=False)]
Score = Annotated[float | None, typer.Option(help="Least score; that of the uniform-width network if omitted.", show_default=False)]
Freeze = Annotated[list[str] | None, typer.Option(help="GENE=VALUE[,VALUE]: what stays; GENE may be a pattern.", show_default=False)]


@app.command(
    epilog="Example: hwsearch search resnet_cifar ~/data --device latency_tables/my-cpu.json --predictor predictor.npz"
    " --limit latency_ms=1.5 --limit size_mb=0.4 --verify 8 --weights supernet.safetensors --data cifar10 --out result.json"
)
def search(
    space: Space,
    data_dir: DataDir = None,
    predictor: Annotated[Path, typer.Option("--predictor", "-p", help="The accuracy predictor.")] = Path("predictor.npz"),
    device: Device = None,
    limit: Limits = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The result to write.")] = Path("result.json"),
    algorithm: Annotated[str | None, typer.Option(help="How to search; see: hwsearch list algorithms.", show_default=False)] = None,
    steps: Steps = None,
    verify: VerifyCount = 0,
    weights: Annotated[Path, typer.Option("--weights", "-w", help="The supernet to verify scores in.")] = Path("supernet.safetensors"),
    data: DataName = "digits",
    tolerance: Tolerance = None,
    coded: Annotated[bool, typer.Option("--coded", help="size_mb is that of the coded file, by the codes of --weights.")] = False,
    bits: Bits = None,
    state: State = None,
    classes: Classes = None,
    channels: Channels = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Search SPACE for the most accurate network within the limits: architecture, channels and bit-widths together."""
    from ..searching._run import Run
    from ..searching._search import search as run
    from ..spaces._load import load_space

    space = named(space, classes, channels)
    check_writable(out)
    networks = load_space(space)
    result = run(
        networks,
        algorithm,
        device=device,
        predictor=predictor,
        metrics=[_coded_size(weights, space, bits)] if coded else [],
        limits=numbers("--limit", limit, "latency_ms=1.5"),
        seed=seed,
        verify=_verify(networks, verify, tolerance, weights, images(data, data_dir)),
        run=Run(steps=steps, state=state, progress=not quiet),
    )
    result.save(out)
    console.print(_terminal.search_result(result, out))


def _coded_size(weights: Path, space: str, bits: int | None) -> Any:
    """The size of the coded file as a cost."""
    from ..nn.quantization._coded import coded_size
    from ..nn.supernet._supernet import Supernet

    return coded_size(Supernet.load(weights, space), bits)


def _verify(space: SearchSpace, networks: int, tolerance: list[str] | None, weights: Path, data: str | tuple[str, Path]) -> Any:
    """What a search verifies: scores in the supernet and latencies on this machine, as far as the tolerance names them.

    Scores of a space without a supernet are those of repaired networks.

    Raises:
        InvalidInput: a tolerance is given, and no network is to be verified.
    """
    if not networks:
        if tolerance:
            raise InvalidInput("--tolerance needs --verify, the number of networks to verify a round.")
        return None
    from ..searching.verify._verifier import DeviceVerifier, Verify

    close = numbers("--tolerance", tolerance, "score=0.005") if tolerance else None
    if close is not None and "score" not in close:
        return Verify(DeviceVerifier(), networks, tolerance=close)
    if space.learns_alone:
        from ..nn.adoption._repaired import RepairVerifier

        return Verify(RepairVerifier(data), networks, tolerance=close or {"score": 0.005})
    from ..nn._verifier import SupernetVerifier

    return Verify(SupernetVerifier(weights, data), networks, tolerance=close)


@app.command(
    epilog="Example: hwsearch compress resnet50 --device latency_tables/my-cpu.json --predictor resnet50_acc_predictor.pth"
    " --macs 0.40 --params 0.44 --out compressed"
)
def compress(
    space: Space,
    device: Annotated[Path, typer.Option("--device", "-d", help="The latency table of the device.")],
    predictor: Annotated[
        Path, typer.Option("--predictor", "-p", help="The accuracy predictor, or the published one of Once-for-All's ResNet-50 (.pth).")
    ] = Path("predictor.npz"),
    macs: Macs = None,
    params: Params = None,
    latency_ms: LatencyMs = None,
    score: Score = None,
    freeze: Freeze = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder of the networks and their comparison.")] = Path("compressed"),
    precision: Annotated[str, typer.Option(help="Of every block.")] = "int8",
    edges: Annotated[bool, typer.Option("--edges", help="Search only widths at the edges of the device's stairs.")] = False,
    measure: Annotated[bool, typer.Option("--measure", help="Measure the networks too: this machine is the device.")] = False,
    steps: Steps = None,
    classes: Classes = None,
    channels: Channels = None,
    seed: Seed = 0,
) -> None:
    """Make the largest network of SPACE smaller for one device, beside uniform widths and a search by MACs alone."""
    from ..interop import ofa_resnet50_score
    from ..searching._compress import compress as run
    from ..searching._run import Run
    from ..spaces._load import load_space

    space = named(space, classes, channels)
    whole = load_space(space)
    found = run(
        whole.restrict(frozen(freeze, whole)) if freeze else whole,
        given(macs=macs, params=params, latency_ms=latency_ms),
        device=device,
        predictor=ofa_resnet50_score(predictor, whole, reach=0.05) if predictor.suffix == ".pth" else predictor,
        edges=edges,
        score=score,
        precision=precision,
        seed=seed,
        run=Run(steps=steps),
    )
    found = found.measured(seed=seed) if measure else found
    path = found.save(out)
    console.print(_terminal.compression(found))
    console.print(f"Written to {path.parent}. {found.best.name!r} is the network to train, and to export.", highlight=False, soft_wrap=True)
