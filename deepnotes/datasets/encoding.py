"""Encode the columns of a table as inputs of a network: categories one-hot or as indices, and no missing values."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepnotes.datasets.cells import BOOLEANS, hint_of, number_of
from deepnotes.datasets.problems import Gap, Problems
from deepnotes.datasets.reading import Column, Request, first_duplicate, labels_of, missing_in
from deepnotes.datasets.tables import Table, TableLike, read
from deepnotes.utils.arguments import whole
from deepnotes.utils.errors import ArgumentError, TableError
from deepnotes.utils.wording import join_names, quote

MAX_CATEGORIES = 64
"""A text column with more distinct values than this is assumed to hold names or notes, unless declared categorical."""

FEW_CATEGORIES, SHARE = 10, 0.5
"""Limits for short tables.

A text column is also assumed to hold names or notes if it has more than `FEW_CATEGORIES` distinct values, and their
number exceeds `SHARE` times the number of rows.
"""

CODE = re.compile(r"[+-]?0[0-9]")
"""The beginning of codes that look like numbers but must not be read as numbers: 007 and 7 differ."""

IMPUTE_THEM = "impute them (impute='mean' or --impute mean), or exclude the column"

NOT_IMPUTED = "the model was trained without --impute"

UNKNOWN_ZEROS = "; use --unknown zeros (unknown='zeros') to encode unknown categories as zeros"

IMPUTE = ("mean", "median", "zero", "most_frequent")


@dataclass(frozen=True)
class Feature:
    """A column of a table that is encoded as one or more inputs of a network.

    Parameters
    ----------
    name : str
    categories : tuple of str or of float, optional
        The distinct values of the column, each of which becomes one input; None if the column holds numbers.
    fill : float or str, optional
        The replacement for a missing value; None if missing values are not allowed.
    embedded : bool, default False
        Whether the column becomes one input instead, with the index of the category, counted from 1, for an
        :class:`~deepnotes.Embedding`; an unknown category has the index 0.
    """

    name: str
    categories: tuple[str, ...] | tuple[float, ...] | None = None
    fill: float | str | None = None
    embedded: bool = False

    @property
    def is_text(self) -> bool:
        """Whether the column is read as text."""
        return self.categories is not None and isinstance(self.categories[0], str)

    @property
    def inputs(self) -> list[str]:
        """The names of the inputs."""
        if self.categories is None or self.embedded:
            return [self.name]
        return [f"{self.name}={_category_name(value)}" for value in self.categories]


@dataclass(frozen=True)
class Encoder:
    """The encoding of table columns as inputs X; new rows are encoded in the same way as the rows it was fitted to.

    Parameters
    ----------
    features : tuple of Feature

    Examples
    --------
    >>> table = Table(["size", "kind"], {"size": np.array([1.0, np.nan, 3.0]), "kind": np.array(["a", "b", "a"])})
    >>> encoder = Encoder.fit(table, impute="mean")
    >>> encoder.inputs
    ['size', 'kind=a', 'kind=b']
    >>> encoder(table)
    array([[1., 2., 3.],
           [1., 0., 1.],
           [0., 1., 0.]])

    With ``embed_above``, a column with many categories is one input, the index of the category, from 1 on:

    >>> encoder = Encoder.fit(table, impute="mean", embed_above=1)
    >>> encoder(table)
    array([[1., 2., 3.],
           [1., 2., 1.]])
    >>> encoder.tables  # for dn.Embedding(encoder.tables, unknown=True)
    {1: 3}
    """

    features: tuple[Feature, ...]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.inputs):,} inputs of {join_names(self.names)})"

    @classmethod
    def fit(
        cls,
        table: Table | TableLike,
        names: Sequence[str] | None = None,
        *,
        rows: NDArray[np.int64] | slice = slice(None),
        categorical: Sequence[str] = (),
        impute: str | Mapping[str, str] | None = None,
        embed_above: int | None = None,
    ) -> "Encoder":
        """Fit an encoder to some rows of a table.

        Parameters
        ----------
        table : Table, DataFrame, pyarrow.Table, mapping or ndarray
            A table, or anything else that :func:`~deepnotes.read_table` takes.
        names : sequence of str, optional
            The columns to use as features; by default all.
        rows : array of int, optional
            The rows from which categories and fill values are learned; by default all.
        categorical : sequence of str
            Columns of categories even if they hold numbers, or text with more than 64 distinct values.
        impute : {"mean", "median", "zero", "most_frequent"}, or mapping of str to one of these, optional
            How to replace missing numbers, in all columns or in those that a mapping names; a missing category is
            replaced by the most frequent one. Other missing values are errors.
        embed_above : int, optional
            Columns with more categories than this are not encoded one-hot, but as one input with the index of the
            category, for an :class:`~deepnotes.Embedding` of :attr:`tables`; by default none are.

        Raises
        ------
        TableError
            If a value is missing, a text column has too many distinct values, or no feature is left.
        ArgumentError
            If `impute` has another rule than those above, or `embed_above` is not a whole number of at least 0.
        """
        if embed_above is not None:
            embed_above = whole("embed_above", embed_above, 0)
        for rule in impute.values() if isinstance(impute, Mapping) else () if impute is None else (impute,):
            if rule not in IMPUTE:
                raise ArgumentError.of("impute", impute, f"one of {', '.join(IMPUTE)}")
        if not isinstance(table, Table):
            table = read(table, Request(columns=names))
        names = table.names if names is None else list(names)
        rules = dict(impute) if isinstance(impute, Mapping) else dict.fromkeys(names, impute)
        for name in (*names, *categorical, *rules):
            table.column(name)
        if not names:
            raise TableError(f"{table.source}: no column is left as a feature; columns: {join_names(table.names)}")
        problems, chosen, features = Problems(table.source), set(categorical), []
        with problems.collecting():
            table.require_complete([name for name in names if rules.get(name) is None], IMPUTE_THEM)
        incomplete = problems.columns
        for name in names:
            if name in incomplete and missing_in(table.column(name)).all():
                continue  # this has been reported
            with problems.collecting():
                features.append(_fit_feature(table, name, rows, name in chosen, rules.get(name), embed_above))
        problems.check()
        encoder = cls(tuple(features))
        if repeated := first_duplicate(encoder.inputs):
            raise TableError(f"{table.source}: two inputs would have the name {repeated!r}; exclude or rename a column")
        return encoder

    @property
    def inputs(self) -> list[str]:
        """The names of the inputs, in order; each is the name of a column or ``COLUMN=CATEGORY``."""
        return [name for feature in self.features for name in feature.inputs]

    @property
    def tables(self) -> dict[int, int]:
        """For each row of X that holds indices of categories, their number, with that of unknown categories.

        Unless it is empty, the network begins with ``Embedding(encoder.tables, unknown=True)``.
        """
        tables, row = {}, 0
        for feature in self.features:
            if feature.embedded:
                tables[row] = len(feature.categories or ()) + 1
            row += len(feature.inputs)
        return tables

    @property
    def is_plain(self) -> bool:
        """Whether every column is one input and none is imputed; the names of the inputs then describe the encoder."""
        return all(feature.categories is None and feature.fill is None for feature in self.features)

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return [feature.name for feature in self.features]

    @property
    def text(self) -> list[str]:
        """The names of the columns that have to be read as text."""
        return [feature.name for feature in self.features if feature.is_text]

    @property
    def numeric(self) -> list[str]:
        """The names of the columns that have to be read as numbers."""
        return [feature.name for feature in self.features if feature.categories is None]

    def __call__(self, table: Table | TableLike, unknown: str = "error") -> NDArray[np.float64]:
        """Encode the rows of a table as inputs X, shape (n, m).

        Parameters
        ----------
        table : Table, DataFrame, pyarrow.Table, mapping or ndarray
            A table, or anything else that :func:`~deepnotes.read_table` takes; the columns of an ndarray are those of
            the encoder, in order.
        unknown : {"error", "zeros"}
            Whether an unknown category is an error, or encoded as all zeros: of one-hot columns, or the index 0.

        Raises
        ------
        TableError
            If a column does not exist or has the wrong type, or a value is missing or unknown.
        ArgumentError
            If `unknown` is neither "error" nor "zeros".
        """
        if unknown not in ("error", "zeros"):
            raise ArgumentError.of("unknown", unknown, "'error' or 'zeros'")
        if not isinstance(table, Table):
            table = read(table, Request(columns=self.names, text=self.text, numeric=self.numeric), self.names)
        table.require(self.names)
        try:
            return inputs_of(table, self.features, unknown).T
        except TableError:
            self._problems(table, unknown).check()
            raise

    def _problems(self, table: Table, unknown: str) -> Problems:
        """Return all problems of the rows of a table, of which :func:`inputs_of` raises only the first."""
        problems = Problems(table.source)
        for feature in self.features:
            with problems.collecting():
                if feature.fill is None:
                    with problems.collecting():
                        table.require_complete([feature.name], NOT_IMPUTED)
                    feature = replace(feature, fill=0.0 if feature.categories is None else feature.categories[0])
                column = _fill_missing(table, feature)
                if feature.categories and unknown == "error" and (codes := _codes(feature, column)).min() < 0:
                    problems.add(feature.name, *_unknown_categories(feature, column, codes))
        return problems

    def count_unknown(self, table: Table) -> dict[str, int]:
        """Return the number of rows with an unknown category, for each column that has such rows."""
        counts = {}
        for feature in self.features:
            if feature.categories is None:
                continue
            if count := int((_codes(feature, _fill_missing(table, feature)) < 0).sum()):
                counts[feature.name] = count
        return counts

    def as_metadata(self) -> list[dict[str, Any]]:
        """Return the features as dicts of JSON values."""
        return [
            {"name": feature.name}
            | ({} if feature.categories is None else {"categories": list(feature.categories)})
            | ({} if feature.fill is None else {"fill": feature.fill})
            | ({"embedded": True} if feature.embedded else {})
            for feature in self.features
        ]

    @classmethod
    def from_metadata(cls, metadata: Sequence[Mapping[str, Any]]) -> "Encoder":
        """Return the encoder described by the result of :meth:`as_metadata`.

        Raises
        ------
        KeyError, TypeError, ValueError, OverflowError
            If the values are not valid.
        """
        return cls(
            tuple(
                _parse_feature(entry["name"], entry.get("categories"), entry.get("fill"), entry.get("embedded", False))
                for entry in metadata
            )
        )


def _category_name(value: str | float) -> str:
    """Return the name of a category; whole numbers are written without a decimal point."""
    return value if isinstance(value, str) else repr(value).removesuffix(".0")


def _parse_feature(name: Any, categories: Any, fill: Any, embedded: Any) -> Feature:
    """Return a feature from JSON values; raise TypeError or ValueError if they are not valid."""
    if not isinstance(name, str):
        raise TypeError(f"the column name {name!r} is not text")
    if categories is not None:
        kind = str if isinstance(categories[0], str) else float
        categories = tuple(_parse_value(kind, value) for value in categories)
        if len(set(categories)) < len(categories):
            raise ValueError("a category occurs twice")
        if fill is not None and fill not in categories:
            raise ValueError(f"{fill!r} is not a category")
    elif fill is not None:
        fill = _parse_value(float, fill)
    if not isinstance(embedded, bool) or (embedded and categories is None):
        raise TypeError(f"embedded is {embedded!r} for the column {name!r}")
    return Feature(name, categories, fill, embedded)


def _parse_value(kind: type[str] | type[float], value: Any) -> Any:
    """Return a category or fill value as `kind`; raise TypeError or ValueError if it is not valid."""
    if isinstance(value, bool) or not isinstance(value, str if kind is str else int | float):
        raise TypeError(f"{value!r} is not of the type {kind.__name__}")
    value = kind(value)
    if value == "" or (kind is str and value.endswith("\0")) or (kind is float and not np.isfinite(value)):
        raise ValueError(f"{value!r} is not a valid value")
    return value


def _fit_feature(
    table: Table, name: str, rows: Any, categorical: bool, impute: str | None, embed_above: int | None
) -> Feature:
    """Return a column as a feature; its categories and fill value are learned from the given `rows`."""
    column = table.column(name)
    selected = column[rows]
    present = selected[~missing_in(selected)]
    if not present.size:
        raise TableError(f"{table.source}: column {name!r} has no value in any of the training rows; exclude it")
    is_text = column.dtype.kind == "U"
    if not is_text and not categorical:
        return Feature(name, None, None if impute is None else _statistic(present, impute))
    values, counts = np.unique(present, return_counts=True)
    if is_text and not categorical and (fault := category_fault(values, len(present))):
        raise TableError(
            f"{table.place(name)}: column {name!r} is text with {fault} (the first is {quote(present[0])}), but "
            f"features must be numbers, or text with at most {MAX_CATEGORIES} recurring values: exclude the column, or "
            f"declare it categorical{_option_hint(values)}"
        )
    if is_text and (pair := find_equal_numbers(values.tolist())):
        raise TableError(
            f"{table.place(name)}: column {name!r} has the categories {pair[0]} and {pair[1]}, which are the same "
            "number; write it the same way in every row, or declare the column numeric"
        )
    categories = tuple(values.tolist())
    fill = None if impute is None else categories[int(counts.argmax())]
    return Feature(name, categories, fill, embed_above is not None and len(categories) > embed_above)


def category_fault(values: NDArray[np.str_], rows: int) -> str | None:
    """Return why a text column is unlikely to hold categories, or None if it may hold categories.

    Parameters
    ----------
    values : array of str
        The distinct values.
    rows : int
        The number of rows in which these values occur.

    Examples
    --------
    >>> category_fault(np.array(["red", "blue"]), 9)
    >>> category_fault(np.array(["5%", "7%", "12.5%"]), 9)
    '3 distinct values, most of them numbers or dates in an unusual notation'
    """
    if len(values) > MAX_CATEGORIES:
        return f"{len(values):,} distinct values"
    if len(values) > FEW_CATEGORIES and len(values) > SHARE * rows:
        return f"{len(values):,} distinct values in {rows:,} rows"
    if 2 * sum(bool(hint_of(value)) for value in values.tolist()) > len(values):
        return f"{len(values):,} distinct values, most of them numbers or dates in an unusual notation"
    return None


def _option_hint(values: NDArray[np.str_]) -> str:
    """Return the end of an error message: the option with which most of the values could be read."""
    if are_numbers(values.tolist()):
        return "; use --numeric (numeric=) to read it as numbers"
    hints = [hint for value in values[: 4 * MAX_CATEGORIES].tolist() if (hint := hint_of(value))]
    most_frequent = max(hints, key=hints.count, default="")
    return f"; {most_frequent}" if 2 * len(hints) > min(len(values), 4 * MAX_CATEGORIES) else ""


def are_numbers(texts: Iterable[str]) -> bool:
    """Return whether every string is a number; for text columns that do not come from a CSV file."""
    return all(number_of(text) is not None for text in texts)


def _statistic(values: NDArray[np.float64], impute: str) -> float:
    """Return the number that replaces missing values according to `impute`."""
    if impute == "zero":
        return 0.0
    if impute == "most_frequent":
        distinct, counts = np.unique(values, return_counts=True)
        return float(distinct[counts.argmax()])
    power = np.frexp(np.abs(values).max())[1]  # scale the values by a power of 2, so that no sum overflows
    return float(np.ldexp(getattr(np, impute)(np.ldexp(values, -power)), power))


def inputs_of(table: Table, features: Sequence[Feature], unknown: str) -> NDArray[np.float64]:
    """Encode the columns of a table as inputs, shape (m, n)."""
    X = np.empty((table.n_rows, sum(len(feature.inputs) for feature in features)))
    start = 0
    for feature in features:
        column = _fill_missing(table, feature)
        width = len(feature.inputs)
        X[:, start : start + width] = _inputs(table, feature, column, unknown)
        start += width
    return X


def _fill_missing(table: Table, feature: Feature) -> Column:
    """Return the column of a feature with missing values replaced: text or numbers, whichever the feature requires."""
    column = table.column(feature.name)
    missing = missing_in(column)
    if feature.is_text:
        column = labels_of(column)
    elif column.dtype.kind == "U" and missing.all():
        column = np.full(column.shape, np.nan)
    elif column.dtype.kind == "U" and feature.categories is None:
        raise TableError(
            f"{table.place(feature.name)}: column {feature.name!r} is text (its first value is {quote(column[0])}), "
            "wanted numbers"
        )
    elif column.dtype.kind == "U":
        column = np.array([np.nan if (value := value_of(cell)) is None else float(value) for cell in column.tolist()])
    if not missing.any():
        return column
    if feature.fill is None:
        table.require_complete([feature.name], NOT_IMPUTED)
    return np.where(missing, feature.fill, column)  # type: ignore[arg-type]


def _inputs(table: Table, feature: Feature, column: Column, unknown: str) -> NDArray[np.float64]:
    """Encode a column as inputs, shape (m, width)."""
    if feature.categories is None:
        return np.asarray(column, np.float64).reshape(-1, 1)
    codes = _codes(feature, column)
    if unknown == "error" and (codes < 0).any():
        gap, remedy = _unknown_categories(feature, column, codes)
        raise TableError(f"{gap.message(table.source, feature.name)}; {remedy}")
    if feature.embedded:
        return np.asarray(codes + 1, np.float64).reshape(-1, 1)
    one_hot: NDArray[np.float64] = (codes[:, None] == np.arange(len(feature.categories))).astype(np.float64)
    return one_hot


def _unknown_categories(feature: Feature, column: Column, codes: NDArray[np.int64]) -> tuple[Gap, str]:
    """Return where a column has unknown categories, those with a negative code, and what to do about them."""
    first = column[np.argmax(codes < 0)]
    value = quote(first) if feature.is_text else _category_name(float(first))
    known = join_names(map(_category_name, feature.categories or ()))
    gap = Gap.of_rows(codes < 0, f"the unknown category {value}", "unknown")
    return gap, f"known categories: {known}{UNKNOWN_ZEROS}"


def _codes(feature: Feature, column: Column) -> NDArray[np.int64]:
    """Return the index of the category of each value, or -1 if it is unknown, shape (m,)."""
    values, inverse = np.unique(column, return_inverse=True)
    categories = feature.categories or ()
    if feature.is_text:
        return codes_of(values.tolist(), categories)[inverse]  # type: ignore[arg-type]
    known = {value: i for i, value in enumerate(categories)}
    return np.array([known.get(value, -1) for value in values.tolist()], np.int64)[inverse]


def codes_of(labels: Sequence[str], known: Sequence[str]) -> NDArray[np.int64]:
    """Return the index of each label among the `known` labels, or -1 if it is unknown.

    A label with an unknown spelling matches the known label that is the same number, if there is exactly one, since
    other programs may write 1.0 for 1, and true for True or 1.

    Examples
    --------
    >>> codes_of(["1.0", "007", "true", "x"], ["1", "7"]).tolist()
    [0, -1, 0, -1]
    """
    by_spelling = {label: i for i, label in enumerate(known)}
    by_number: dict[Decimal, int] = {}
    for i, label in enumerate(known):
        if (value := value_of(label)) is not None:
            by_number[value] = -1 if value in by_number else i
    codes = np.full(len(labels), -1, np.int64)
    for position, label in enumerate(labels):
        i = by_spelling.get(label, -1)
        if i < 0 and by_number and (value := value_of(label)) is not None:
            i = by_number.get(value, -1)
        codes[position] = i
    return codes


def value_of(label: str) -> Decimal | None:
    """Return the exact number that a label denotes (1 for true, 0 for false); None for text and codes such as 007."""
    if CODE.match(label):
        return None
    if label.lower() in BOOLEANS:
        return Decimal(int(BOOLEANS[label.lower()]))
    number = number_of(label)
    return None if number is None or not np.isfinite(number) else Decimal(label.strip())


def find_equal_numbers(labels: Sequence[str]) -> tuple[str, str] | None:
    """Return two labels that denote the same number, such as 1 and 1.0, or None.

    The result is None if there are no such labels, or if any label is not a number.

    Examples
    --------
    >>> find_equal_numbers(["1", "1.0", "2"]), find_equal_numbers(["007", "7"]), find_equal_numbers(["1", "1.0", "x"])
    (('1', '1.0'), None, None)
    """
    seen: dict[Decimal, str] = {}
    pair = None
    for label in labels:
        value = value_of(label)
        if value is None:
            return None
        if (other := seen.setdefault(value, label)) is not label:
            pair = pair or (other, label)
    return pair
