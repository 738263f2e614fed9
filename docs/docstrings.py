"""How the site reads docstrings: ``Example:`` is a section of examples, and the roles of Sphinx become code."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:func|class|meth|attr|data|mod|exc):`~?\.?([^`<]+?)`")


class Readable(griffe.Extension):
    """Changes each docstring before it is parsed."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Of a module, a class, a function or an attribute."""
        if obj.docstring:
            text = re.sub(r"^(\s*)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = _ROLE.sub(r"`\1`", text).replace("``", "`")
