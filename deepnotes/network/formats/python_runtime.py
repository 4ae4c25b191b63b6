"""The code that all exported Python files share: it reads data, makes predictions and checks the file.

No module imports this one; :mod:`deepnotes.network.formats.python_writing` copies its source. The two dashed lines
divide it into three parts:

- Above the first line are stand-ins for names that the export defines differently in each file.
- Between the lines are definitions that replace the library's definitions of the same names.
- Below the second line are the functions of the exported file. Before them, the export inserts unchanged copies of the
  functions that this module imports from the library, with everything that those functions refer to.
"""

import os
import sys
from base64 import b64decode
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import numpy as np
from numpy import ndarray as Array
from numpy.typing import NDArray

from deepnotes.datasets.cells import CellError, CodedCells, ColumnRequest, convert_coded, describe_missing
from deepnotes.datasets.csv_files import write_rows
from deepnotes.datasets.csv_text import cell_lines, count_named, parse_text, read_header, unpack
from deepnotes.datasets.encoding import Feature, inputs_of
from deepnotes.datasets.problems import MAX_POSITIONS, Gap
from deepnotes.datasets.reading import Format, Request
from deepnotes.datasets.table_writing import to_cells
from deepnotes.equations import EQUATIONS
from deepnotes.utils.safe_text import escaped, inert
from deepnotes.utils.streams import write_all
from deepnotes.utils.wording import one_line, reason

FEATURES: list[str] | None = None
COLUMNS: list[tuple[str, Any, Any]] | None = None
DATES: list[str] = []
FORMAT: dict[str, Any] = {}
CLASSES: list[str] | None = None
INPUTS = OUTPUTS = 0
DTYPE = "float32"
NUMBERS: dict[str, tuple[tuple[int, ...], str, str]] = {}
DIGEST = ""
standardize: Callable[..., Array] = EQUATIONS["standardize"]


def predict(X: object) -> Array:
    """Return the outputs; generated for each network."""
    raise NotImplementedError


# ----------------------------------------------------------------------------------------------------------------------


class TableError(ValueError):
    """A data file cannot be read."""


class ArgumentError(ValueError):
    """The model's description of its data format is not valid."""

    @classmethod
    def of(cls, name: str, value: object, wanted: str) -> "ArgumentError":
        """Return the error for an argument."""
        return cls(f"{name}={value!r}, wanted {wanted}")


class Table:
    """The columns of a file that the network uses.

    `lines` has the line of each column's first value, and `gaps` the missing values of each column that has any.
    """

    def __init__(self, source: str, columns: dict[str, Any], lines: dict[str, int], gaps: dict[str, Any]) -> None:
        self.source, self.columns, self.lines, self.gaps = source, columns, lines, gaps
        self.n_rows = len(next(iter(columns.values()))) if columns else 0

    def column(self, name: str) -> NDArray[Any]:
        """Return a column, shape (m,)."""
        column: NDArray[Any] = self.columns[name]
        return column

    def place(self, name: str) -> str:
        """Return the file, and the line of the column's first value, as ``file:line``."""
        return f"{self.source}:{self.lines[name]}"

    def require_complete(self, names: list[str], hint: str) -> None:
        """Raise TableError if one of these columns has missing values."""
        for name in names:
            if name in self.gaps:
                raise TableError(f"{self.gaps[name].message(self.source, name)}; {hint}")


UNKNOWN_ZEROS = OTHER_ENCODINGS = BY_WHITE_SPACE = ""  # the library's hints name options; exported files have none


def hint_of(*_: object) -> str:
    """Return an empty hint: the library's hints name options that exported files do not have."""
    return ""


line_advice = title_advice = header_advice = numbers_advice = hint_of


# ----------------------------------------------------------------------------------------------------------------------


def numbers(name: str) -> Array:
    """Return an array from NUMBERS, which stores its little-endian bytes in base64."""
    shape, dtype, text = NUMBERS[name]
    return np.frombuffer(b64decode(text), dtype).reshape(shape).astype(dtype[1:])


def samples(X: object, mean: Array | None = None, scale: Array | None = None) -> Array:
    """Return the rows of X as columns in the network's dtype, standardized if a mean and a scale are given."""
    rows = np.asarray(X)
    if rows.ndim != 2 or rows.shape[1] != INPUTS or rows.dtype.kind not in "biuf":
        raise ValueError(
            f"X has dtype {rows.dtype} and shape {rows.shape}, wanted real numbers of shape (rows, {INPUTS})"
        )
    A: Array = rows.T if mean is None else standardize(np, rows.T.astype(np.float64), mean, scale)
    return A.astype(DTYPE)


def check() -> tuple[bool, str]:
    """Compare the numbers in this file with their digest, and predictions with the test vectors.

    Returns
    -------
    bool
        Whether the check has passed: the digest matches, and all predictions are within their rounding bounds.
    str
        A message that describes the result.
    """
    content = "".join(f"{name} {NUMBERS[name]} " for name in sorted(NUMBERS))
    if sha256(content.encode()).hexdigest() != DIGEST:
        return False, "the numbers in this file have been changed since it was written"
    X, expected, bounds = (numbers(f"test {name}") for name in ("inputs", "outputs", "bounds"))
    with np.errstate(all="ignore"):
        A = predict(X).astype(np.float64)
        errors = abs(A - expected)
        correct = (errors <= bounds) | (expected == A) | (np.isnan(A) & np.isnan(expected)) | np.isinf(bounds)
        largest = np.where(np.isfinite(errors) & (errors > 0), errors / bounds, 0).max(initial=0)
    checked = f"{correct.size} outputs for {len(X)} test vectors"
    if correct.all():
        return True, f"{checked} are correct; the largest error is {largest:.2g} of its rounding bound"
    return False, f"{correct.size - correct.sum()} of {checked} are wrong"


def read(path: str) -> NDArray[np.float64]:
    """Return the inputs from a CSV file, shape (rows, inputs), read as by ``deepnotes predict``."""
    source = one_line(path)
    try:
        with open(path, "rb") as file:
            data = file.read()
    except (OSError, ValueError) as error:
        raise TableError(f"{source}: cannot be read: {reason(error)}") from error
    features = None if COLUMNS is None else [Feature(*column) for column in COLUMNS]
    request = request_for(features)
    header, text = read_header(parse_text(unpack(data, source), source, request), request)
    names = header.names
    known = [name for name in names if name]
    if features is None:
        features = [Feature(name) for name in known if name not in header.index_names]
        request = request_for(features)
    request = request.resolve(source, known)
    rows = list(text.rows(len(names)))
    if not rows:
        raise TableError(f"{source}:{header.line}: no row follows the header")
    for j in range(count_named(names), len(names)):
        if any(row.cells[j].strip() for row in rows):
            raise TableError(f"{source}: column {j + 1} has no name")
    columns: dict[str, Any] = {}
    lines: dict[str, int] = {}
    gaps: dict[str, Gap] = {}
    for j, name in enumerate(names):
        if not name or not request.includes(name):
            continue
        cells = [row.cells[j].strip() for row in rows]
        indices = {cell: i for i, cell in enumerate(dict.fromkeys(cells))}
        codes = np.array([indices[cell] for cell in cells])
        try:
            wanted = ColumnRequest(name, request, f"{source}: column {name!r}", len(data))
            column = convert_coded(CodedCells(codes, list(indices)), wanted)
        except CellError as error:
            line = cell_lines(rows[error.row])[j]
            raise TableError(f"{source}:{line}: column {name!r} has {error.message}") from None
        columns[name], lines[name] = column.column, cell_lines(rows[0])[j]
        if column.missing is not None:
            missing = np.flatnonzero(column.missing)
            first_lines = [cell_lines(rows[i])[j] for i in missing[:MAX_POSITIONS]]
            description = describe_missing(cells[missing[0]], column.column, request.format)
            gaps[name] = Gap(len(missing), first_lines, description, True)
    return inputs_of(Table(source, columns, lines, gaps), features, "error")  # type: ignore[arg-type]


def request_for(features: list[Feature] | None) -> Request:
    """Return the options for reading the columns of some features, or all columns of a file."""
    format = Format(**FORMAT)
    if features is None:
        return Request(format=format)
    numeric = [feature.name for feature in features if feature.categories is None and feature.name not in DATES]
    text = [feature.name for feature in features if feature.is_text]
    return Request([feature.name for feature in features], text=text, numeric=numeric, dates=DATES, format=format)


def columns(A: Array) -> tuple[list[str], list[list[object]]]:
    """Return the names and the columns of a table of predictions, for outputs of shape (rows, outputs)."""
    values = [to_cells(outputs) for outputs in A.T]
    if CLASSES is None:
        return ["prediction"] if OUTPUTS == 1 else [f"prediction_{i + 1}" for i in range(OUTPUTS)], values
    indices = A.argmax(axis=1) if OUTPUTS > 1 else (A[:, 0] > 0.5).astype(int)
    return ["prediction", *(f"p_{name}" for name in CLASSES[-OUTPUTS:])], [[CLASSES[i] for i in indices], *values]


class Output:
    """A file-like object that writes rows to stdout, with control characters escaped if stdout is a terminal."""

    def write(self, row: str) -> None:
        """Write a row; it must end with a line break."""
        text = escaped(row.removesuffix("\n")) + "\n" if sys.stdout and sys.stdout.isatty() else row
        write_all(sys.stdout, text)


def main(arguments: list[str]) -> int:
    """Run the check or write predictions for the rows of a file, as `arguments` say, and return the exit status."""
    spreadsheet = "--spreadsheet" in arguments
    rest = [argument for argument in arguments if argument != "--spreadsheet"]
    if len(rest) != 1 or (rest[0].startswith("-") and rest[0] != "--check"):
        print_error(f"usage: python {sys.argv[0]} --check | [--spreadsheet] DATA.csv")
        return 2
    try:
        return run_check() if rest[0] == "--check" else predict_file(rest[0], spreadsheet)
    except BrokenPipeError:  # the reader, such as head, has closed the pipe
        status = 141
    except (OSError, ValueError) as error:
        print_error(f"error: cannot write to stdout: {getattr(error, 'strerror', None) or error}")
        status = 1
    if sys.stdout is not None:  # discard the buffered text: Python would try to write it at exit, and fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def run_check() -> int:
    """Write the result of the check to stdout, and return the exit status."""
    passed, message = check()
    write_all(sys.stdout, f"{'passed' if passed else 'FAILED'}: {message}\n")
    sys.stdout.flush()
    return 0 if passed else 1


def predict_file(path: str, spreadsheet: bool) -> int:
    """Write the predictions for a file to stdout, and return the exit status."""
    try:
        with np.errstate(all="ignore"):
            names, cells = columns(predict(read(path)))
    except ValueError as error:
        print_error(f"error: {error}" if isinstance(error, TableError) else f"error: {path}: {error}")
        return 1
    if spreadsheet:
        names = [inert(name) for name in names]
        cells = [[inert(x) if isinstance(x, str) else x for x in column] for column in cells]
    write_rows(Output(), names, cells)
    sys.stdout.flush()
    return 0


def print_error(text: str) -> None:
    """Write a line to stderr, if possible."""
    try:
        write_all(sys.stderr, escaped(text) + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        sys.stderr = None  # keep Python from trying again at exit
