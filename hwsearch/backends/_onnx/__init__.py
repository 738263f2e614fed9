"""ONNX graphs of networks, in the flavour that each runtime fuses."""
