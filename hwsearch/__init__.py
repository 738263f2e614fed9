"""hwsearch finds the fastest network that is still accurate enough for one given device.

The parts meet in files: :func:`profile` makes a device's latency table, :func:`train` a once-for-all supernet and
:func:`fit_predictor` an accuracy predictor; :func:`search` chooses architecture, channels and bit-widths jointly within limits;
:func:`export` and :func:`measure` deliver and check.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ._registry import register
from .algorithms.base import RandomSearch
from .algorithms.evolution import Evolution
from .backends.base import Backend, Roofline
from .blocks import Block
from .errors import HwsearchError, Infeasible
from .exploration import advance, conclude, start
from .metrics import METRICS, Metric, metric
from .metrics import evaluate as evaluate_metrics
from .predictor import Predictor, load_predictor
from .problem import Problem, problem
from .profile import measure, measure_many, profile
from .result import SearchResult, Status, load_result
from .search import search
from .space import Architecture, Choice, SearchSpace, Slot
from .spaces import load_space
from .table import LatencyTable, load_table

if TYPE_CHECKING:
    from . import interop
    from .baselines import dense, uniform
    from .batches import profile_batches
    from .compression import compress, least
    from .fitted import fit_metric
    from .loadgen import bench
    from .nn.adopt import adopt
    from .nn.export import export
    from .nn.finish import finish
    from .nn.samples import fit_predictor
    from .nn.score import evaluate
    from .nn.train import train
    from .report import write_report
    from .sweeps import sweep

__version__ = "0.1.0"

__all__ = [
    "METRICS",
    "Architecture",
    "Backend",
    "Block",
    "Choice",
    "Evolution",
    "HwsearchError",
    "Infeasible",
    "LatencyTable",
    "Metric",
    "Predictor",
    "Problem",
    "RandomSearch",
    "Roofline",
    "SearchResult",
    "SearchSpace",
    "Slot",
    "Status",
    "adopt",
    "advance",
    "bench",
    "compress",
    "conclude",
    "dense",
    "evaluate",
    "evaluate_metrics",
    "export",
    "finish",
    "fit_metric",
    "fit_predictor",
    "interop",
    "least",
    "load_predictor",
    "load_result",
    "load_space",
    "load_table",
    "measure",
    "measure_many",
    "metric",
    "problem",
    "profile",
    "profile_batches",
    "register",
    "search",
    "start",
    "sweep",
    "train",
    "uniform",
    "write_report",
]

# What needs torch or matplotlib, and what few sessions use, is imported when it is first asked for.
_LAZY = {
    "adopt": ".nn.adopt",
    "bench": ".loadgen",
    "compress": ".compression",
    "least": ".compression",
    "dense": ".baselines",
    "evaluate": ".nn",
    "export": ".nn",
    "finish": ".nn",
    "fit_metric": ".fitted",
    "fit_predictor": ".nn",
    "profile_batches": ".batches",
    "sweep": ".sweeps",
    "train": ".nn",
    "uniform": ".baselines",
    "write_report": ".report",
}


def __getattr__(name: str) -> object:
    if name == "interop":
        return import_module(".interop", __name__)
    if name not in _LAZY:
        raise AttributeError(f"module 'hwsearch' has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
