"""For `mkdocs build`: Sphinx's roles in docstrings as code, since mkdocstrings reads Markdown."""

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|mod|attr|data):`(~?)([\w.]+)`")


def shown(match: re.Match[str]) -> str:
    """Return what a role shows: the last part of a name with a tilde, else all of it."""
    return f"`{match[2].rpartition('.')[2] if match[1] else match[2]}`"


class Roles(griffe.Extension):
    """Replaces the roles of every docstring."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of an object."""
        if obj.docstring:
            obj.docstring.value = ROLE.sub(shown, obj.docstring.value)
