"""Backends: the runtimes that hwsearch measures with, one file each; ``base`` holds the interface and the analytic device."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
