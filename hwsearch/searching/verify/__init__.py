"""Verification: the best networks of a search are evaluated and measured, and the search learns from that."""
