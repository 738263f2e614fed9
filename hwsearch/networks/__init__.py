"""Networks on paper: what a device runs, layer by layer, and what that costs before anything is measured."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
