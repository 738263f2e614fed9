"""Costs: everything that a search can limit, compiled to small dense tables."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
