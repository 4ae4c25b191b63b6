"""What each file of Python that a network is written to carries, word for word: how it reads, checks and predicts.

What stands above the mark is made for each network; :mod:`deepnotes.formats.python_writing` writes it. Nothing imports
this module.
"""

import csv
import math
import os
import sys
from base64 import b64decode
from collections.abc import Callable
from hashlib import sha256

import numpy as np
from numpy import ndarray as Array

from deepnotes.equations import EQUATIONS
from deepnotes.safe_text import NUMBER, escaped, inert
from deepnotes.streams import write_all

FEATURES: list[str] | None = None
COLUMNS: list[tuple[str, tuple[object, ...] | None, object]] | None = None
CLASSES: list[str] | None = None
INPUTS = OUTPUTS = 0
DTYPE = "float32"
MEAN: Array | None = None
SCALE: Array | None = None
NUMBERS: dict[str, tuple[tuple[int, ...], str, str]] = {}
DIGEST = ""
standardize: Callable[..., Array] = EQUATIONS["standardize"]


def predict(X: object) -> Array:
    """Return outputs; made for each network."""
    raise NotImplementedError


# ----------------------------------------------------------------------------------------------------------------------


def numbers(name: str) -> Array:
    """Return an array of NUMBERS, where it is base64 of little-endian bytes."""
    shape, dtype, text = NUMBERS[name]
    return np.frombuffer(b64decode(text), dtype).reshape(shape).astype(dtype[1:])


def samples(X: object) -> Array:
    """Return rows of features as columns, standardized where the network does that, in its dtype."""
    rows = np.asarray(X)
    if rows.ndim != 2 or rows.shape[1] != INPUTS or rows.dtype.kind not in "biuf":
        raise ValueError(f"X is of {rows.dtype} and shape {rows.shape}, wanted real numbers of shape (rows, {INPUTS})")
    A: Array = rows.T if MEAN is None else standardize(np, rows.T.astype(np.float64), MEAN, SCALE)
    return A.astype(DTYPE)


def check() -> tuple[bool, str]:
    """Hold the numbers to their digest and the outputs for the test vectors to their bounds; return what was found."""
    content = "".join(f"{name} {NUMBERS[name]} " for name in sorted(NUMBERS))
    if sha256(content.encode()).hexdigest() != DIGEST:
        return False, "the numbers in this file are not those that were written"
    X, wanted, allowed = (numbers(f"test {name}") for name in ("inputs", "outputs", "bounds"))
    with np.errstate(all="ignore"):
        A = predict(X).astype(np.float64)
        off = abs(A - wanted)
        right = (off <= allowed) | (wanted == A) | (np.isnan(A) & np.isnan(wanted)) | np.isinf(allowed)
        share = np.where(np.isfinite(off) & (off > 0), off / allowed, 0).max(initial=0)
    tried = f"{right.size} outputs for {len(X)} test vectors"
    if right.all():
        return True, f"{tried} are right, the worst off by {share:.2g} of what rounding may do"
    return False, f"{right.size - right.sum()} of {tried} are wrong"


def read(path: str) -> Array:
    """Return the inputs that a CSV file whose first line has names makes, shape (rows, inputs)."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        names, *rows = [row for row in csv.reader(file) if row]
    wanted = [name for name, _, _ in COLUMNS] if COLUMNS is not None else names if FEATURES is None else FEATURES
    for name in wanted:
        if name not in names:
            raise ValueError(f"no column {name!r}; columns: {', '.join(names)}")
    places = [names.index(name) for name in wanted]
    how = COLUMNS if COLUMNS is not None else [(name, None, None) for name in wanted]
    made = [[x for at, column in zip(places, how) for x in inputs(row[at], *column)] for row in rows]  # noqa: B905
    return np.array(made, np.float64).reshape(len(rows), INPUTS)


def inputs(cell: str, name: str, categories: tuple[object, ...] | None, fill: object) -> list[float]:
    """Return the inputs that a cell makes: a number, or 1 in the place of its category; `fill` stands for none."""
    text = categories is not None and isinstance(categories[0], str)
    missing = cell == "" if text else cell.strip().lower() in ("", "na", "n/a", "nan", "null")
    if missing and fill is None:
        raise ValueError(f"column {name!r} has a missing value")
    value = fill if missing else cell if text else number(name, cell)
    if categories is None:
        return [float(str(value))]
    if value not in categories:
        raise ValueError(f"column {name!r} has the category {value!r}, which is unknown")
    return [float(value == category) for category in categories]


def number(name: str, cell: str) -> float:
    """Return the number in a cell."""
    value = float(cell) if NUMBER.fullmatch(cell.strip()) else math.nan
    if not math.isfinite(value):
        raise ValueError(f"column {name!r} has {cell!r} where a finite number was expected")
    return value


def columns(A: Array) -> tuple[list[str], list[list[object]]]:
    """Return the names and the rows of a table of predictions, for outputs of shape (rows, outputs)."""
    if CLASSES is None:
        return ["prediction"] if OUTPUTS == 1 else [f"prediction_{i + 1}" for i in range(OUTPUTS)], list(map(list, A))
    likeliest = A.argmax(axis=1) if OUTPUTS > 1 else (A[:, 0] > 0.5).astype(int)
    names = ["prediction", *(f"p_{name}" for name in CLASSES[-OUTPUTS:])]
    return names, [[CLASSES[i], *row] for i, row in zip(likeliest, A)]  # noqa: B905


class Output:
    """Where a table goes, one row with its line break at a time: to stdout as it is, but escaped on a terminal."""

    def write(self, row: str) -> None:
        """Write all of a row."""
        shown = escaped(row.removesuffix("\n")) + "\n" if sys.stdout and sys.stdout.isatty() else row
        write_all(sys.stdout, shown)


def main(words: list[str]) -> int:
    """Check, or predict the rows of a file, and return the exit status."""
    spreadsheet = "--spreadsheet" in words
    rest = [word for word in words if word != "--spreadsheet"]
    if len(rest) != 1 or (rest[0].startswith("-") and rest[0] != "--check"):
        say(f"usage: python {sys.argv[0]} --check | [--spreadsheet] DATA.csv")
        return 2
    try:
        return tell(rest[0], spreadsheet)
    except BrokenPipeError:  # the reader, such as head, had enough
        status = 141
    except (OSError, ValueError) as error:
        say(f"error: cannot write to stdout: {getattr(error, 'strerror', None) or error}")
        status = 1
    if sys.stdout is not None:  # what it still holds goes nowhere, or the end of Python would fail for it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def tell(what: str, spreadsheet: bool) -> int:
    """Write what the check finds, or the predictions for a file, to stdout, and return the exit status."""
    if what == "--check":
        good, told = check()
        write_all(sys.stdout, f"{'passed' if good else 'FAILED'}: {told}\n")
        sys.stdout.flush()
        return 0 if good else 1
    try:
        with np.errstate(all="ignore"):
            names, rows = columns(predict(read(what)))
    except (OSError, ValueError, IndexError, csv.Error) as error:
        say(f"error: {what}: {getattr(error, 'strerror', None) or error}")
        return 1
    table = csv.writer(Output(), lineterminator="\n")
    safe = inert if spreadsheet else str
    table.writerow([safe(name) for name in names])
    table.writerows([safe(x) if isinstance(x, str) else str(x) for x in row] for row in rows)
    sys.stdout.flush()
    return 0


def say(text: str) -> None:
    """Write one line to stderr, if that can be written to."""
    try:
        write_all(sys.stderr, escaped(text) + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        sys.stderr = None  # so that the end of Python does not try again
