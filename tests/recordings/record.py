"""Makes the recording that the tests play back, by measuring every network of a tiny space on this machine's CPU:

python tests/recordings/record.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import hwsearch
from hwsearch.backends import load_backend
from hwsearch.backends.replay import Recording
from hwsearch.profiling import Effort
from hwsearch.spaces import Chain, Stage

PATH = Path(__file__).with_name("tiny-onnxruntime.jsonl")
SPACE = Chain("tiny", (32,), (16,), (Stage((1,), (16, 32), (16, 48)),), 10, channels=1, precisions=("fp32", "int8")).space()
EFFORT = Effort(max_rounds=4, checks=12, fits=6, precision=0.05)
"""How the space is profiled, there and in the tests."""


def main() -> None:
    """Profile the space and measure all of its networks, and write down every time that was told."""
    PATH.unlink(missing_ok=True)
    backend = Recording(load_backend("onnxruntime"), PATH)
    with tempfile.TemporaryDirectory() as folder:
        table = hwsearch.profile(SPACE, backend=backend, out=Path(folder) / "table.json", effort=EFFORT, progress=False)
        print(table)
        networks = list(dict.fromkeys(SPACE.blocks(row) for rows in SPACE.enumerate() for row in rows))
        for network, found in zip(networks, hwsearch.measure(networks, backend=backend, rounds=4), strict=True):
            print(f"{found.latency_ms:.4f} ms", *(block.key for block in network))


if __name__ == "__main__":
    main()
