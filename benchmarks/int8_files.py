"""What int8 files are worth on this machine: simulation and file, by the bits of the weights, the runtime and its options.

    python benchmarks/int8_files.py WEIGHTS DATA --networks resnet20 resnet56 mobile

WEIGHTS holds resnet20.npz and so on (He et al. 2016 with shortcuts A, trained with ImageNet's normalisation), DATA the folder that
cifar-10-batches-py is in. "mobile" is a network of the space mobilenetv3_cifar (inverted residuals, squeeze-and-excite, hard swish; 7.6
million products an image) that is trained for --epochs first; its weights are kept beside --out. Written down before its first run: all
blocks in int8, and a mix of fp32 and int8 drawn with seed 0; weights of 8 and of 7 bits; accuracy on the first --images of the test set, as
simulated in torch, and as run by ONNX Runtime, by ONNX Runtime with ``session.x64quantprecision=1`` (products of two uint8), and by
OpenVINO. Beside it stand the largest difference of a logit and the CPU-seconds of the run, one thread, 50 images at once. Quantisers are
chosen on 512 training images. Results are kept in --out.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from hwsearch._files._writing import write_atomic
from hwsearch.backends import load_backend
from hwsearch.backends._onnx._flavours import ONNXRUNTIME
from hwsearch.backends._onnx._graph import build
from hwsearch.interop import cifar_resnet
from hwsearch.nn import Data, Quantization, Supernet, load_data, train
from hwsearch.nn._agreement import outputs
from hwsearch.nn._evaluate import deployed
from hwsearch.nn._export import block_weights
from hwsearch.spaces import SearchSpace, load_space

BATCH = 50


def precise(model: Any) -> Callable[[Any], Any]:
    """ONNX Runtime with products that never saturate."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"input": x})[0]


def mobile(path: Path, data: Data, epochs: int) -> tuple[Supernet, SearchSpace]:
    """A trained network of ``mobilenetv3_cifar``, and the space in which its precisions vary and nothing else does."""
    widths = {"stage1.out": (24,), "stage2.out": (32,), "stage3.out": (64,), "final.out": (240,)}
    shape = {"resolution": (32,), "*.depth": (2,), "*.expand": (3,), "*.kernel": (3,), **widths}
    space = load_space("mobilenetv3_cifar").restrict(shape)
    recipe = {"amp": None, "learning_rate": 0.1, "epochs": epochs}
    return train(space.restrict({"precision": ("fp32",)}), data=data, out=path, recipe=recipe, progress=False), space


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--networks", nargs="+", default=["resnet20", "resnet56"], help="resnetN, or mobile")
    parser.add_argument("--epochs", type=int, default=5, help="of the mobile network")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=Path("benchmark-output/int8_files.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data(("cifar10", arguments.data))
    here = load_backend("onnxruntime").describe()
    results: dict[str, Any] = {"device": here.hardware, "facts": dict(here.facts), "images": arguments.images}
    runtimes = {
        "onnxruntime": load_backend("onnxruntime").runner,
        "onnxruntime, x64quantprecision": precise,
        "openvino": load_backend("openvino").runner,
    }
    for name in arguments.networks:
        if name == "mobile":
            net, space = mobile(arguments.out.with_name("mobile.safetensors"), data, arguments.epochs)
        else:
            net = cifar_resnet(arguments.weights / f"{name}.npz", data=data)
            space = net.space
        for mix, some in (("int8", space.restrict({"precision": ("int8",)})), ("mixed", space)):
            row = some.sample(1, np.random.default_rng(0))[0]
            images = data.normalized(net.normalize)
            batches = list(images.batches("test", BATCH, arguments.images))
            x = torch.cat([images.normalize(part) for part, _ in batches]).contiguous()
            y = np.concatenate([np.asarray(labels) for _, labels in batches])
            for bits in (8, 7):
                network = deployed(net, row, quantization=Quantization(weight_bits=bits))
                with torch.inference_mode():
                    simulated = np.concatenate([network(part).numpy() for part in x.split(BATCH)])
                blocks = [folded.block for folded in network.blocks]
                model = build(blocks, weights=block_weights(network), batch=BATCH, flavour=ONNXRUNTIME.carried(bits))
                found: dict[str, Any] = {"simulated": float((simulated.argmax(axis=1) == y).mean())}
                for runtime, opens in runtimes.items():
                    run = opens(model)
                    start = time.process_time()
                    (logits,) = outputs(run, [x.numpy()], BATCH)
                    seconds = time.process_time() - start
                    found[runtime] = {
                        "accuracy": float((logits.argmax(axis=1) == y).mean()),
                        "largest_difference": float(np.abs(logits - simulated).max()),
                        "cpu_seconds": round(seconds, 2),
                    }
                results[f"{name} {mix} w{bits}"] = found
                print(f"{name} {mix} w{bits}", json.dumps(found), flush=True)
                arguments.out.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(arguments.out, json.dumps(results, indent=1).encode())


if __name__ == "__main__":
    main()
