"""Files: read through one guarded door, written whole or not at all, one writer at a time."""
