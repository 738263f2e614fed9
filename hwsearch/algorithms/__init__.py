"""Search algorithms, one file each, behind one protocol: what to try next, and what to make of the answers."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
