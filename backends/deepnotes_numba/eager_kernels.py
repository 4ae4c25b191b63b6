"""Level 2: compiled replacements of equations that would take NumPy several passes, for eager execution.

Each makes one pass over its arrays, where NumPy makes up to twenty. They are called if all arrays are NumPy's, of the
same shape (not 0-d), and all float32 or all float64; otherwise the equation itself is called. The compiled functions
are imported at the first call, since importing Numba takes a second.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from deepnotes.equations import EQUATIONS
from deepnotes_numba.codes import ACTIVATIONS

OPTIMIZERS = ("momentum", "rmsprop", "adam")
AS_FAST = ("identity", "tanh")
"""Activations that NumPy computes in one pass, as fast. So is plain gradient descent, which has no kernel either."""


def kernels() -> dict[str, Callable[..., Any]]:
    """Return the replacements by the names of their equations."""
    table = {name: _kernel(name, 1, "activate", name) for name in ACTIVATIONS if name not in AS_FAST}
    table |= {f"{name}_backward": _kernel(f"{name}_backward", 3, "backward", name) for name in table}
    table |= {name: _kernel(name, 2, name) for name in OPTIMIZERS}
    return table | {"dropout_mask": _dropout_mask}


def _kernel(name: str, arrays: int, function: str, *leading: str) -> Callable[..., Any]:
    """Return a compiled function that replaces an equation whose first arguments are the given number of arrays."""
    equation = EQUATIONS[name]

    @wraps(equation)
    def kernel(xp: Any, *arguments: Any, **options: Any) -> Any:
        if not _are_supported(*arguments[:arrays]):
            return equation(xp, *arguments, **options)
        from deepnotes_numba import compiled_equations

        return getattr(compiled_equations, function)(*leading, *arguments, **options)

    return kernel


@wraps(EQUATIONS["dropout_mask"])
def _dropout_mask(
    xp: Any, shape: tuple[int, int], rate: float, seed: int, step: Any, layer: int, dtype: Any
) -> np.ndarray:
    from deepnotes_numba import compiled_equations

    return compiled_equations.dropout_mask(shape, rate, seed, int(step), layer).astype(dtype, copy=False)


def _are_supported(*arrays: Any) -> bool:
    """Return whether the compiled functions accept these arrays."""
    first = arrays[0]
    return (
        len(first.shape) > 0
        and first.dtype in (np.float32, np.float64)
        and all(isinstance(x, np.ndarray) and x.dtype == first.dtype and x.shape == first.shape for x in arrays)
    )
