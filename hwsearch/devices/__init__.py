"""Devices: what the blocks of networks cost on one machine, and how far sums of blocks can be trusted there."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
