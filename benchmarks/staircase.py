"""What do right-hand edges buy? The same search, with the same steps and the same limit, over every multiple of 8 and over the edges only.

    python benchmarks/staircase.py latency_tables/amd-epyc-onnxruntime-resnet50-b1.json

The space is ResNet-50 at 224 px in one precision, every inner width a multiple of 8 from a quarter of the dense one, all depths. The limit
is 40 % of the dense network's latency in that precision. The score is the computation that fits into it (GMACs), which no predictor can
blur. What is compared is a search of few steps: of very many, the finer grid cannot be worse, since it holds the other. ``--measure`` also
measures the best network of each side on this CPU, in turns.
"""

from __future__ import annotations

import argparse
from statistics import mean, stdev

import numpy as np
from rich.console import Console
from rich.table import Table

import hwsearch
from hwsearch.profiling import measure

STEPS = (5, 20, 80)


def main() -> None:
    """Print a table, a row a precision and number of steps."""
    parser = argparse.ArgumentParser(description="Searches over edges of stairs and over all multiples of 8.")
    parser.add_argument("table", help="a latency table of resnet50")
    parser.add_argument("--seeds", type=int, default=5, help="searches of each kind")
    parser.add_argument("--share", type=float, default=0.4, help="of the dense network's latency, the most that is allowed")
    parser.add_argument("--measure", action="store_true", help="measure the best networks; this machine is the table's device")
    options = parser.parse_args()
    table = hwsearch.load_table(options.table)
    console = Console()
    shown = Table("precision", "steps", "limit (ms)", "all multiples of 8 (GMACs)", "edges only (GMACs)", "gain", title=table.device.name)
    for precision in table.precisions:
        every = hwsearch.load_space("resnet50", resolutions=(224,), precisions=(precision,), mids=64)
        latency, macs = (hwsearch.metric(name, every, table) for name in ("latency_ms", "macs"))
        dense = np.array([[size - 1 for size in every.sizes]], dtype=np.uint8)
        limit = options.share * float(latency(dense)[0])
        edges = every.restrict(table)
        kept = [len(allowed) for allowed in edges.allowed]
        console.print(f"{precision}: {sum(kept)} of {sum(every.sizes)} values are kept ({edges.size:.2g} of {every.size:.2g} networks)")
        best: dict[str, np.ndarray] = {}
        for steps in STEPS:
            found: dict[str, list[float]] = {}
            for name, space in (("all", every), ("edges", edges)):
                for seed in range(options.seeds):
                    result = hwsearch.search(
                        space,
                        predictor=macs,
                        metrics=[latency],
                        limits={"latency_ms": limit},
                        seed=seed,
                        run=hwsearch.Run(steps=steps, polish=False),
                    )
                    assert result.best is not None
                    value = float(macs(result.best.genes[None])[0]) / 1e9
                    if value > max(found.get(name, [0.0])):
                        best[name] = result.best.genes
                    found.setdefault(name, []).append(value)
            gain = mean(found["edges"]) / mean(found["all"]) - 1
            cells = [f"{mean(found[name]):.3f} ± {stdev(found[name]):.3f}" for name in ("all", "edges")]
            shown.add_row(precision, str(steps), f"{limit:.2f}", *cells, f"{gain:+.1%}")
        if options.measure:
            backend = hwsearch.backends.load_backend(table.device.runtime, batch=table.device.batch)
            networks = [every.blocks(best[name]) for name in ("all", "edges")]
            for name, row, one in zip(("all", "edges"), networks, measure(networks, backend=backend, table=table), strict=True):
                console.print(f"{precision}, {name}: predicted {table.predict(row):.3f} ms, measured {one.latency_ms:.3f} ms")
    console.print(shown)


if __name__ == "__main__":
    main()
