"""Weights that others have published, read into networks of hwsearch."""
