"""The handwritten digits that come with the package."""

from importlib.resources import files
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

DIGITS = files("deepnotes.datasets").joinpath("digits.npz")
"""The file that holds the digits."""


class Digits(NamedTuple):
    """Images of handwritten digits: each row of `X` is one image, with its pixel rows joined end to end.

    Attributes
    ----------
    X : float64 array, shape (1797, 64)
        The ink in each of the 8 x 8 pixels, from 0 (none) to 16 (full).
    y : int64 array, shape (1797,)
        The digit that each image shows, 0 to 9.
    feature_names : list of str
        ``"pixel_ROW_COLUMN"`` for each of the 64 columns of `X`, with pixel rows and columns counted from 0.
    classes : list of str
        The name of each class, ``"0"`` to ``"9"``.
    """

    X: NDArray[np.float64]
    y: NDArray[np.int64]
    feature_names: list[str]
    classes: list[str]


def load_digits() -> Digits:
    """Load 1,797 images of handwritten digits, which come with this package; nothing is downloaded.

    These are the test images of the UCI data set "Optical Recognition of Handwritten Digits". The file
    ``digits.LICENSE``, next to the data, names the authors and the licence (CC BY 4.0).

    Returns
    -------
    Digits
        New arrays at each call; changing them does not affect later calls.

    Examples
    --------
    >>> digits = load_digits()
    >>> digits.X.shape, digits.y.shape
    ((1797, 64), (1797,))
    >>> digits.feature_names[:2], digits.classes[-1]
    (['pixel_0_0', 'pixel_0_1'], '9')
    """
    with DIGITS.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        X, y = arrays["X"].astype(np.float64), arrays["y"].astype(np.int64)
    names = [f"pixel_{row}_{column}" for row in range(8) for column in range(8)]
    return Digits(X, y, names, [str(digit) for digit in range(10)])
