"""Good recipes by the name of the data, one file each (kind ``"recipe"`` of :mod:`hwsearch._registry`)."""
