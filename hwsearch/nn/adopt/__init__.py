"""A user's own network as a search space: capture, groups of channels, proofs, and the smaller network."""

from .adopted import Adopted, adopt
from .branches import Branch
from .groups import Extent, Group, Kernel
from .report import Report, Row
from .rules import rule

__all__ = ["Adopted", "Branch", "Extent", "Group", "Kernel", "Report", "Row", "adopt", "rule"]
