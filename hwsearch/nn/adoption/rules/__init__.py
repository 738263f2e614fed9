"""One rule for each kind of operation, a small file a family; :func:`rule` registers more."""

from . import kernels, moves, norms, picks, pointwise, products, reductions
from .base import Call, Flow, Rule, find_rule, rule

__all__ = ["Call", "Flow", "Rule", "find_rule", "kernels", "moves", "norms", "picks", "pointwise", "products", "reductions", "rule"]
