"""Search by reinforcement learning, as the papers have it: agents of Stable-Baselines3 that decide networks gene by gene."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
