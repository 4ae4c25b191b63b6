"""Checks of arguments that are numbers, dtypes, or True or False."""

from math import isfinite, nan
from typing import Any

import numpy as np

from deepnotes.utils.errors import ArgumentError


def whole(name: str, value: Any, minimum: int = 1) -> int:
    """Return `value` as an int.

    Raises
    ------
    ArgumentError
        If `value` is not a whole number of at least `minimum`; the message begins with `name`.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < minimum:
        raise ArgumentError.of(name, value, f"a whole number of at least {minimum}")
    return int(value)


def true_or_false(name: str, value: Any) -> bool:
    """Return `value` as a bool.

    Raises
    ------
    ArgumentError
        If `value` is neither True nor False: Python would count the text ``"no"`` as true, and None as false.
    """
    if not isinstance(value, bool | np.bool_):
        raise ArgumentError.of(name, value, "True or False")
    return bool(value)


def number(
    name: str,
    value: Any,
    *,
    positive: bool = False,
    signed: bool = False,
    below: float | None = None,
    most: float | None = None,
) -> float:
    """Return `value` as a float.

    Parameters
    ----------
    name : str
        The name of the argument, with which the error message begins.
    value : object
    positive : bool, default False
        Whether 0 is refused.
    signed : bool, default False
        Whether numbers below 0 are allowed.
    below : float, optional
        An exclusive upper bound.
    most : float, optional
        An inclusive upper bound.

    Raises
    ------
    ArgumentError
        If `value` is not a finite number within these bounds.

    Examples
    --------
    >>> number("rate", 1.5, below=1)
    Traceback (most recent call last):
    deepnotes.utils.errors.ArgumentError: rate=1.5, wanted at least 0 and less than 1
    """
    real = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    try:
        result = float(value) if real else nan
    except OverflowError:  # an integer too large for a float
        result = nan
    is_above = signed or result > 0 or (result == 0 and not positive)
    if isfinite(result) and is_above and (below is None or result < below) and (most is None or result <= most):
        return result
    if below is not None or most is not None:
        limit = f"less than {below:g}" if below is not None else f"at most {most:g}"
        wanted = f"{'above' if positive else 'at least'} 0 and {limit}"
    elif signed:
        wanted = "a finite number"
    else:
        wanted = f"a finite number {'above' if positive else 'of at least'} 0"
    raise ArgumentError.of(name, value, wanted)


def float_dtype(dtype: Any) -> str:
    """Return the name of a dtype, which may be a name, a NumPy type or a NumPy dtype.

    Raises
    ------
    ArgumentError
        If the dtype is neither float32 nor float64.
    """
    for name in ("float32", "float64"):
        if dtype is not None and (dtype == name or dtype is getattr(np, name) or dtype == np.dtype(name)):
            return name
    raise ArgumentError.of("dtype", dtype, "'float32' or 'float64'")
