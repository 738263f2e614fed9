"""Zeros among the weights, in any pattern: weights, rows, columns, kernels, filters, N of every M; at once or little by little."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
