"""The equations N1 to N16 of the notes and their variants, each written once, as a pure function.

The first argument of every function is the array module ``xp`` (see :mod:`deepnotes.equations.array`). A function
returns new arrays, never writes to its arguments and keeps no state. A backend may replace any of these functions with
a faster function of the same signature.
"""

from collections.abc import Callable
from typing import Any

from deepnotes.equations.activations import *  # noqa: F403
from deepnotes.equations.dense import *  # noqa: F403
from deepnotes.equations.embeddings import *  # noqa: F403
from deepnotes.equations.losses import *  # noqa: F403
from deepnotes.equations.normalization import *  # noqa: F403
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
