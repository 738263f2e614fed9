"""The torch wing: supernets, their training, evaluation, quantisation and export. Only it and the backend ``torch`` import torch."""

import lazy_loader

from ..errors import require

for _package in ("torch", "safetensors"):
    require(_package, feature="Training, evaluating and exporting networks", extra="torch")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
