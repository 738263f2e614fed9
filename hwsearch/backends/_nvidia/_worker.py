"""Builds engines in a process of its own: ``python -m hwsearch.backends._nvidia._worker``, a request a line, a reply a line, both JSON.

A request names the ONNX file, where the engine and the timing cache go, and what the engine is for; ``_build.Engines`` writes them.
The reply is ``{"why": ""}``, or says why there is no engine. Whatever the libraries print goes to the standard error, which is the log.
"""

from __future__ import annotations

import json
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

from ..._files._writing import write_atomic
from . import _cuda, _trt


def main() -> None:
    """Serve requests until the standard input ends, as it does when the asking process dies."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    module = _trt.find()
    logger = module.Logger(module.Logger.WARNING)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            why = build(module, logger, request)
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
        replies.write(json.dumps({"why": why}) + "\n")
        replies.flush()


_gpu = cache(_cuda.load)
"""Makes a GPU the one that is built on, once."""


def build(module: Any, logger: Any, request: dict[str, Any]) -> str:
    """Build one engine and write it.

    Returns:
        Why that failed; empty if it did not.
    """
    if request["here"] is not None:
        _gpu(request["gpu"])
    builder = module.Builder(logger)
    network = builder.create_network(_trt.network_flags(module))
    parser = module.OnnxParser(network, logger)
    if not parser.parse(Path(request["model"]).read_bytes()):
        return "the parser refuses the graph: " + "; ".join(str(parser.get_error(index).desc()) for index in range(parser.num_errors))
    config = builder.create_builder_config()
    _trt.configure(module, config, request["targets"], request["here"], request["workspace_mib"])
    timing = None
    if not _trt.is_rtx(module):  # which has no use for a timing cache
        kept = Path(request["timing"])
        timing = config.create_timing_cache(kept.read_bytes() if kept.exists() else b"")
        config.set_timing_cache(timing, False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        return "the builder made no engine"
    write_atomic(request["out"], bytes(plan))
    if timing is not None:
        write_atomic(request["timing"], bytes(timing.serialize()))
    return ""


if __name__ == "__main__":
    main()
