"""What the backends of NVIDIA GPUs share: CUDA, NVML and TensorRT."""
