"""Level 2: compiled kernels that replace equations in eager execution.

A kernel makes one pass over its arrays, where NumPy makes up to twenty. It is called if all arrays are NumPy arrays of
the same shape (not 0-d) and are all float32 or all float64; otherwise the equation itself is called. The compiled
functions are imported at the first call, since importing Numba takes a second.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from deepnotes.backends import ACTIVATIONS
from deepnotes.equations import EQUATIONS

OPTIMIZERS = {"momentum": 1, "rmsprop": 1, "adam": 2}
"""The update equations with a kernel, and their numbers of slots."""
WITHOUT_KERNEL = ("identity", "tanh")
"""Activations that NumPy computes in one pass, as fast as a kernel; so is gradient descent, which has no kernel."""


def kernels() -> dict[str, Callable[..., Any]]:
    """Return the kernels, by the names of the equations that they replace."""
    table = {name: _kernel(name, 1, "activate", name) for name in ACTIVATIONS if name not in WITHOUT_KERNEL}
    table |= {f"{name}_backward": _kernel(f"{name}_backward", 3, "backward", name) for name in table}
    table |= {name: _kernel(name, 2 + slots, "update", name, slots) for name, slots in OPTIMIZERS.items()}
    return table | {"dropout_mask": _dropout_mask}


def _kernel(name: str, arrays: int, function: str, *leading: Any) -> Callable[..., Any]:
    """Return the kernel for an equation whose first `arrays` arguments are arrays.

    It calls a function of :mod:`deepnotes_numba.compiled_equations`, with the arguments `leading` before the others.
    """
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
