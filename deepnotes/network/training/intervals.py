"""The interval between two checkpoints: a number of epochs, or a time."""

import re

from deepnotes.utils.arguments import whole
from deepnotes.utils.errors import ArgumentError

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def interval(every: int | str) -> tuple[int | None, float | None]:
    """Return the interval as ``(epochs, None)`` or ``(None, seconds)``.

    Raises
    ------
    ArgumentError
        If `every` is neither a whole number above 0 nor a time above 0.

    Examples
    --------
    >>> interval(5), interval("1.5m")
    ((5, None), (None, 90.0))
    """
    if not isinstance(every, str):
        return whole("every", every), None
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smh])", every)
    if not match or float(match[1]) == 0:
        raise ArgumentError.of("every", every, "a number of epochs, or a time such as '30s', '5m' or '1h'")
    return None, float(match[1]) * UNITS[match[2]]
