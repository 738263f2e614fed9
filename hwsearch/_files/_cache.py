"""Where files are kept that may be deleted at any time.

The folder is ``$HWSEARCH_CACHE``, or ``hwsearch`` in ``$XDG_CACHE_HOME`` (``~/.cache`` if that is not set); an empty ``HWSEARCH_CACHE``
keeps nothing.
"""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path | None:
    """Where files are kept that may be deleted; ``None`` if none are."""
    told = os.environ.get("HWSEARCH_CACHE")
    if told is not None:
        return Path(told).expanduser() if told else None
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "hwsearch"
