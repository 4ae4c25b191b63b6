"""Griffe extension for the documentation site: show Sphinx roles in docstrings as code, since Markdown has no roles."""

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|mod|attr|data):`(~?)([\w.]+)`")


def format_role(match: re.Match[str]) -> str:
    """Return the name in a role as Markdown code; if it begins with a tilde, only its last component."""
    return f"`{match[2].rpartition('.')[2] if match[1] else match[2]}`"


class Roles(griffe.Extension):
    """Replaces the roles in all docstrings."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Replace the roles in the docstring of an object."""
        if obj.docstring:
            obj.docstring.value = ROLE.sub(format_role, obj.docstring.value)
