"""Profiling a board that is not this machine: jobs to carry there by hand, or over ssh."""
