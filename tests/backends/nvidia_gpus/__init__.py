"""NVIDIA GPUs: what can be shown without one. A package, so that its conftest is its own."""
