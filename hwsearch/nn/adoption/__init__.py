"""A user's own network as a search space: capture, groups of channels, proofs, and the smaller network."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
