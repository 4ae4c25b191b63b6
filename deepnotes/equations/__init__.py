"""Every formula, once: N1 to N16 of the notes and their variants, as pure functions of a namespace.

A function takes the array module ``xp`` first (see :mod:`deepnotes.equations.array`) and returns new arrays; it never
writes to its arguments and keeps no state. Backends may replace any of them with a faster one of the same signature.
"""

from collections.abc import Callable
from typing import Any

from deepnotes.equations.activations import *  # noqa: F403
from deepnotes.equations.dense import *  # noqa: F403
from deepnotes.equations.losses import *  # noqa: F403
from deepnotes.equations.optimizers import *  # noqa: F403
from deepnotes.equations.regularization import *  # noqa: F403

EQUATIONS: dict[str, Callable[..., Any]] = {
    name: function
    for name, function in sorted(globals().items())
    if not name.startswith("_")
    and not isinstance(function, type)
    and getattr(function, "__module__", "").startswith(__name__ + ".")
}
"""All equations by name."""

__all__ = ["EQUATIONS", *EQUATIONS]
