"""Notes about columns of a table from which nothing can be learned."""

from collections.abc import Iterator

import numpy as np

from deepnotes.datasets.encoding import Encoder
from deepnotes.datasets.tables import Column, Table
from deepnotes.utils.wording import join_names, quote


def describe_columns(table: Table, encoder: Encoder) -> Iterator[str]:
    """Yield a note for each feature that has the same value in all rows, and for each that seems to number the rows."""
    for feature in encoder.features:
        column = table.columns[feature.name]
        if len(column) < 3:
            continue
        if (column == column[0]).all():
            value = quote(column[0]) if column.dtype.kind == "U" else f"{column[0]:g}"
            yield (
                f"note: column {feature.name!r} has the same value in all rows, {value}, so it says nothing about the "
                f"target; --exclude {feature.name} leaves it out"
            )
        elif column.dtype.kind != "U" and numbers_rows(column):
            yield (
                f"note: column {feature.name!r} has a different whole number in each row, one after the other; if it "
                f"only numbers the rows, --exclude {feature.name} leaves it out"
            )


def numbers_rows(column: np.ndarray) -> bool:
    """Return whether a column of numbers has the whole numbers from its smallest to its largest, each of them once.

    Examples
    --------
    >>> numbers_rows(np.array([3.0, 1.0, 2.0])), numbers_rows(np.array([1.0, 3.0, 3.0]))
    (True, False)
    """
    low = column.min()
    if column.max() - low != len(column) - 1 or not (column == np.rint(column)).all():
        return False
    return bool((np.bincount((column - low).astype(np.int64), minlength=len(column)) == 1).all())


def describe_classes(y: Column) -> Iterator[str]:
    """Yield a note if some classes have one row only."""
    classes, counts = np.unique(y, return_counts=True)
    single = classes[counts == 1].tolist()
    if single and len(single) < len(y):
        one = len(single) == 1
        yield (
            f"note: {'one class has' if one else f'{len(single)} classes have'} a single row, which is trained on; no "
            f"held-out row shows how well {'it is' if one else 'they are'} predicted: {join_names(map(quote, single))}"
        )
