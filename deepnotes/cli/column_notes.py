"""Notes about columns of a table that look as if something was wrong with them."""

from collections.abc import Iterable, Iterator

import numpy as np

from deepnotes.datasets.encoding import Encoder
from deepnotes.datasets.tables import Column, Table
from deepnotes.utils.wording import join_names, quote


def describe_columns(table: Table, encoder: Encoder) -> Iterator[str]:
    """Yield notes about features whose categories differ in case only, that have one value, or that number the rows."""
    columns = {feature.name: table.columns[feature.name] for feature in encoder.features}
    for feature in encoder.features:
        if feature.categories is not None:
            yield from describe_spellings(f"categories of column {feature.name!r}", map(str, feature.categories))
    if table.n_rows < 3:
        return
    constant = [name for name, column in columns.items() if (column == column[0]).all()]
    if len(constant) > 1:
        yield (
            f"note: {len(constant)} columns have the same value in all rows, so they say nothing about the target: "
            f"{join_names(constant)}; --exclude leaves them out"
        )
    for name in constant if len(constant) == 1 else ():
        value = quote(columns[name][0]) if columns[name].dtype.kind == "U" else f"{columns[name][0]:g}"
        yield (
            f"note: column {name!r} has the same value in all rows, {value}, so it says nothing about the target; "
            f"--exclude {name} leaves it out"
        )
    for name, column in columns.items():
        if column.dtype.kind != "U" and name not in constant and numbers_rows(column):
            yield (
                f"note: column {name!r} has a different whole number in each row, one after the other; if it only "
                f"numbers the rows, --exclude {name} leaves it out"
            )


def describe_spellings(what: str, texts: Iterable[str]) -> Iterator[str]:
    """Yield a note if some classes or categories differ from others in upper and lower case only.

    Examples
    --------
    >>> list(describe_spellings("classes", ["Yes", "no", "yes"]))
    ["note: classes that differ in upper and lower case only: 'Yes' and 'yes'; if they mean the same, correct the data"]
    """
    groups: dict[str, list[str]] = {}
    for text in texts:
        groups.setdefault(text.casefold(), []).append(text)
    alike = [" and ".join(map(quote, group)) for group in groups.values() if len(group) > 1]
    if alike:
        yield (
            f"note: {what} that differ in upper and lower case only: {join_names(alike)}; if they mean the same, "
            "correct the data"
        )


def numbers_rows(column: np.ndarray) -> bool:
    """Return whether a column of numbers has the whole numbers from its smallest to its largest, each of them once.

    Examples
    --------
    >>> numbers_rows(np.array([3.0, 1.0, 2.0])), numbers_rows(np.array([1.0, 3.0, 3.0]))
    (True, False)
    """
    low = column.min()
    with np.errstate(over="ignore"):
        span = column.max() - low
    if span != len(column) - 1 or not (column == np.rint(column)).all():
        return False
    return bool((np.bincount((column - low).astype(np.int64), minlength=len(column)) == 1).all())


def describe_classes(y: Column) -> Iterator[str]:
    """Yield a note if some classes have one row only, and one if some differ in upper and lower case only."""
    classes, counts = np.unique(y, return_counts=True)
    if classes.dtype.kind == "U":
        yield from describe_spellings("classes", classes.tolist())
    single = classes[counts == 1].tolist()
    if single and len(single) < len(y):
        one = len(single) == 1
        yield (
            f"note: {'one class has' if one else f'{len(single)} classes have'} a single row, which is trained on; no "
            f"held-out row shows how well {'it is' if one else 'they are'} predicted: {join_names(map(quote, single))}"
        )


def describe_target(y: Column) -> Iterator[str]:
    """Yield a note if a target of numbers has the same value in all rows."""
    if len(y) > 1 and y.ndim == 1 and (y == y[0]).all():
        yield f"note: the target has the same value in all rows, {y[0]:g}, so there is nothing to learn, and R² is 0"
