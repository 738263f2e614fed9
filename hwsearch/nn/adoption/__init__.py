"""A user's own network as a search space: capture, groups of channels, proofs, and the smaller network."""

from . import _criteria as _criteria  # these two register what they hold
from . import _elimination as _elimination
from ._adopted import Adopted, adopt
from ._branches import Branch
from ._files import load_network, save_network
from ._groups import Extent, Group, Kernel
from ._importance import Evidence, allocate, criterion, importance
from ._report import Report, Row
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
    "criterion",
    "importance",
    "load_network",
    "rule",
    "save_network",
]
