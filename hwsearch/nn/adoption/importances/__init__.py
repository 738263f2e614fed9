"""Ways of telling which units matter, one file each, found by name (kind ``"importance"`` of :mod:`hwsearch._registry`)."""
