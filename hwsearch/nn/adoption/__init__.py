"""A user's own network as a search space: capture, groups of channels, proofs, and the smaller network."""

from . import criteria, elimination
from .adopted import Adopted, adopt
from .branches import Branch
from .files import load_network, save_network
from .groups import Extent, Group, Kernel
from .importance import Evidence, allocate, criterion, importance
from .report import Report, Row
from .rules import rule

__all__ = [
    "Adopted",
    "Branch",
    "Evidence",
    "Extent",
    "Group",
    "Kernel",
    "Report",
    "Row",
    "adopt",
    "allocate",
    "criteria",
    "criterion",
    "elimination",
    "importance",
    "load_network",
    "rule",
    "save_network",
]
