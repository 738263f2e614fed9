"""Profiling: the one way in which hwsearch measures, on this machine and on others."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
