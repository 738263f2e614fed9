"""hwsearch finds the fastest network that is still accurate enough for one given device.

The parts meet in files: :func:`profile` makes a device's latency table, :func:`train` a once-for-all supernet and
:func:`fit_predictor` an accuracy predictor; :func:`search` chooses architecture, channels and bit-widths jointly within limits;
:func:`export` and :func:`measure` deliver and check.
"""

import pkgutil

import lazy_loader

__version__ = "0.1.0"

__getattr__, _, _names = lazy_loader.attach_stub(__name__, __file__)
__all__ = sorted(set(_names) - {module.name for module in pkgutil.iter_modules(__path__)})


def __dir__() -> list[str]:
    return list(__all__)
