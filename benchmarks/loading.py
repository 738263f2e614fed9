"""How many images a second one core reads, varies and keeps: photographs of the usual size of ImageNet, and of a camera.

    python benchmarks/loading.py

Makes JPEG files as photographs are (their spectrum falls with the frequency; 500 x 375 px and 0.1 MB, 4000 x 3000 px and 6 MB) in a
temporary folder, reads them by ``folder_data`` at 224 px in this process alone, and prints images a core-second (processor time, the best
of some rounds): decoded whole and nothing else; training images, decoded and varied; validation images the first time, when they are
decoded and kept, and afterwards. What a sandwich step costs beside plain steps is in ``benchmarks/supernet.py speed``.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import typer
from PIL import Image, features
from rich.console import Console
from rich.table import Table

from hwsearch.nn import folder_data

SIZES = {"500 x 375": (500, 375, 32), "4000 x 3000": (4000, 3000, 2)}
"""Width, height, and how many files."""
app = typer.Typer(add_completion=False, help=__doc__)


def photograph(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """Colours whose spectrum falls with the frequency, as that of natural images does; the three channels are much alike."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    noise = [np.fft.irfft2(np.fft.rfft2(rng.normal(size=(height, width))) / frequency, (height, width)) for _ in range(3)]
    mixed = np.einsum("ij,jhw->hwi", [[1, 0.3, 0], [1, 0, 0.3], [1, -0.3, -0.3]], np.stack([each / each.std() for each in noise]))
    return Image.fromarray(np.clip(128 + 50 * mixed, 0, 255).astype(np.uint8))


def rate(work: Callable[[], object], count: int, rounds: int) -> float:
    """Images a core-second, the best of some rounds."""
    best = np.inf
    for _ in range(rounds):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return count / best


def decode(paths: list[Path]) -> None:
    """Decode files whole, and do nothing else."""
    for path in paths:
        with Image.open(path) as image:
            image.convert("RGB")


def read(folder: Path, size: int, count: int, rounds: int) -> dict[str, float]:
    """Images a core-second of a folder whose splits hold ``count`` files each."""
    data = folder_data(folder, size=size, workers=0)
    paths = [Path(str(path)) for path, _ in data.items["train"]]
    return {
        "decoded whole, nothing else": rate(lambda: decode(paths), count, rounds),
        "looked at before a training": rate(folder_data(folder, size=size, workers=0).check, 3 * count, 1),
        "training images": rate(lambda: next(data.training([(0, 0, np.arange(count))], 0)), count, rounds),
        "validation images, the first time": rate(lambda: [x.sum() for x, _ in data.batches("val", 64)], count, 1),
        "validation images, kept": rate(lambda: [x.sum() for x, _ in data.batches("val", 64)], count, rounds),
    }


@app.command()
def main(rounds: int = 5, size: int = 224) -> None:
    """Write the files, and read them."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    model = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "")
    table = Table("images a core-second", *SIZES, title=f"{model or platform.machine()}, libjpeg-turbo {features.version('libjpeg_turbo')}")
    rows: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as root:
        for name, (width, height, count) in SIZES.items():
            for number in range(count):
                made = Path(root, name, "train", "ab"[number % 2], f"{number}.jpg")
                made.parent.mkdir(parents=True, exist_ok=True)
                photograph(width, height, rng).save(made, quality=87)
            for split in ("val", "test"):
                shutil.copytree(Path(root, name, "train"), Path(root, name, split))
            os.environ["HWSEARCH_CACHE"] = str(Path(root, "kept", name))
            for what, figure in read(Path(root, name), size, count, rounds).items():
                rows.setdefault(what, []).append(f"{figure:,.1f}")
    for what, figures in rows.items():
        table.add_row(what, *figures)
    Console().print(table)


if __name__ == "__main__":
    app()
