#!/usr/bin/env bash
# Everything that wants a GPU, in pieces of under 10 minutes; stop it at any time and start it again with the same arguments.
#
#   benchmarks/gpu/run_all.sh --out gpu-output --cifar10 DIR
#
# DIR holds cifar-10-batches-py. Takes what is installed of TensorRT, ONNX Runtime for GPUs and PyTorch; see benchmarks/gpu/run.py.
set -uo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
while true; do
  "${PYTHON:-python3}" "$here/run.py" "$@"
  code=$?
  # 75: the time of one piece is up, and there is more to do.
  [ "$code" -eq 75 ] || exit "$code"
done
