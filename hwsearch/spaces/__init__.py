"""Search spaces: what may vary in a network, and which network each variation is."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
