"""Interop: what users bring from elsewhere, turned into hwsearch's own nouns.

Foreign data is checked: an entry that is negative, missing, contradictory or never measured is never silently used. What each reader does
about it is in its description; what it found is reported by a :class:`ForeignDataWarning`, and kept: in ``problems`` of what is
returned, or, for a latency table, behind :func:`problems`.
"""

from __future__ import annotations

from ._apq import apq_table
from ._benchmarks import Benchmark, nasbench201, nasbench_macro
from ._checks import ForeignDataWarning, problems
from ._cifar import cifar_resnet
from ._convert import KINDS, convert
from ._encoding import published_encoding
from ._layers import LayerTable, haq_table, hawq_table
from ._ofa import ofa_latency, ofa_predictor
from ._ofa_architecture import ofa_architecture, ofa_config, ofa_setting, ofa_supernet
from ._ofa_score import OfaScore, ofa_resnet50_score
from ._tfnas import tfnas_table

__all__ = [
    "KINDS",
    "Benchmark",
    "ForeignDataWarning",
    "LayerTable",
    "OfaScore",
    "apq_table",
    "cifar_resnet",
    "convert",
    "haq_table",
    "hawq_table",
    "nasbench201",
    "nasbench_macro",
    "ofa_architecture",
    "ofa_config",
    "ofa_latency",
    "ofa_predictor",
    "ofa_resnet50_score",
    "ofa_setting",
    "ofa_supernet",
    "problems",
    "published_encoding",
    "tfnas_table",
]
