"""Refuse input from which NumPy would silently drop information: masks, and NULs at the end of strings."""

from typing import Any

import numpy as np

from deepnotes.utils.errors import DataError


def refuse_masked(x: Any, name: str) -> None:
    """Raise DataError if `x` is a masked array with masked elements, or a list that contains such an array.

    NumPy would silently use the numbers under the mask.
    """
    parts = x if isinstance(x, list | tuple) else [x]
    masked = sum(int(np.ma.getmaskarray(part).sum()) for part in parts if isinstance(part, np.ma.MaskedArray))
    if masked:
        raise DataError(
            f"{name} has {masked} masked elements, and masks are not supported: leave these samples out, or pass "
            f"{name}.filled(value)"
        )


def refuse_lost_nuls(x: Any, name: str) -> None:
    """Raise DataError if a list contains a string that ends in NUL.

    NumPy would drop the NUL, so two names could become equal.
    """
    if isinstance(x, list | tuple) and any(isinstance(part, str) and part.endswith("\0") for part in x):
        raise DataError(
            f"{name} has text that ends in NUL (\\x00), which NumPy's string arrays drop; remove it, or pass an "
            "array of dtype object"
        )
