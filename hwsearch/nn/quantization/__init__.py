"""Quantisation: quantisers, tuning, shared weights, sparsity."""
