"""Interop: what users bring from elsewhere, turned into hwsearch's own nouns.

Foreign tables are checked: an entry that is negative, missing, contradictory or never measured is left out or kept as each reader says, and
always reported, by a :class:`ForeignDataWarning` and in the ``problems`` of what is returned (:func:`problems`).
"""

from __future__ import annotations

from ._checks import ForeignDataWarning, problems
from ._ofa import ofa_latency, ofa_predictor

__all__ = ["ForeignDataWarning", "ofa_latency", "ofa_predictor", "problems"]
