"""Matrices as text: numbers in one format, and large matrices without their middle."""

import numpy as np

ROWS, COLUMNS = 8, 8
"""The largest matrix that is shown whole; of a larger one, the first and the last rows and columns."""


def cells(array: np.ndarray) -> list[list[str]]:
    """Return the numbers of an array as text; rows and columns in the middle of a large array are left out.

    Examples
    --------
    >>> cells(np.array([[0.5, -12.25]]))
    [['0.5000', '-12.2500']]
    """
    matrix = array.reshape(1, 1) if array.ndim == 0 else array.reshape(len(array), -1)
    matrix, cut_rows = _cut(matrix, ROWS)
    matrix, cut_columns = _cut(matrix.T, COLUMNS)
    matrix = matrix.T
    form = _format(matrix)  # below, adding 0.0 turns -0.0 into 0.0
    rows = [[form.format(x + 0.0) for x in row] for row in matrix.tolist()]
    if cut_columns:
        rows = [[*row[: COLUMNS // 2], "…", *row[COLUMNS // 2 :]] for row in rows]
    if cut_rows:
        rows.insert(ROWS // 2, ["⋮"] * len(rows[0]))
    return rows


def _cut(matrix: np.ndarray, limit: int) -> tuple[np.ndarray, bool]:
    if len(matrix) <= limit:
        return matrix, False
    return np.concatenate([matrix[: limit // 2], matrix[-(limit // 2) + 1 :]]), True


def _format(matrix: np.ndarray) -> str:
    """Return one format for all numbers of a matrix."""
    sizes = abs(matrix[np.isfinite(matrix) & (matrix != 0)])
    if (matrix == np.round(matrix)).all() and (not sizes.size or sizes.max() < 1e6):
        return "{:.0f}"
    if sizes.size and not 1e-2 <= sizes.max() < 1e5:
        return "{:.3e}"
    return "{:.4f}"


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]


def beside(left: list[str], array: np.ndarray, width: int) -> str:
    """Return lines of text, of at least the given width, with a matrix beside them."""
    right = _aligned(cells(array))
    left = [*left, *[""] * (len(right) - len(left))]
    right += [""] * (len(left) - len(right))
    width = max(width, *map(len, left))
    return "\n".join(f"{a:<{width}}  │ {b}".rstrip() for a, b in zip(left, right, strict=True))
