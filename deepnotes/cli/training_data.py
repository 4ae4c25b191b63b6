"""The table that a command trains on: its target, its features, their encoding, and splits of its rows."""

import argparse
from dataclasses import dataclass

import numpy as np

from deepnotes.cli import data
from deepnotes.cli.column_notes import describe_classes, describe_columns, describe_target
from deepnotes.cli.output import Output, format_count, format_number
from deepnotes.cli.reading_options import MEND_CELLS, format_of, imputation_rules
from deepnotes.cli.tasks import TASKS, Classification, Regression, SeveralTargets, suggest_task
from deepnotes.cli.train_options import embedding_limit, target_as_feature_error
from deepnotes.cli.validation_files import append_rows
from deepnotes.datasets import splits
from deepnotes.datasets.disk_tables import DiskTable
from deepnotes.datasets.encoding import IMPUTE_THEM, Encoder
from deepnotes.datasets.on_disk import OnDisk
from deepnotes.datasets.problems import Problems
from deepnotes.datasets.reading import Format, Request, split_names
from deepnotes.datasets.tables import Column, Table
from deepnotes.nn.layers import vector_size
from deepnotes.utils.errors import ArgumentError, DataError
from deepnotes.utils.wording import join_names


@dataclass(frozen=True)
class TrainingData:
    """A table, and the roles of its columns.

    Parameters
    ----------
    table : Table or DiskTable
    target : str or list of str
        The name of the target column, or the names of several.
    names, categorical : list of str
        The names of the feature columns, and of those that hold categories even if they do not seem to.
    impute : dict of str to str
        How to fill missing numbers, for each column in which they are to be filled.
    y : array, shape (m,) or (m, k)
        The target columns; text for a classification.
    kind : type or SeveralTargets
        The class of the task.
    dates : list of str
        The names of the columns that are read as dates.
    format : Format
        The options for reading the file.
    embed_above : int, optional
        The number of categories above which a column is embedded instead of encoded one-hot; by default none is.
    validation_rows : int
        The number of rows at the end of the table that are held out, since they are from --validation-file.
    fixed_encoder : Encoder, optional
        The encoder of the model of --from.
    """

    table: Table | DiskTable
    target: data.Target
    names: list[str]
    categorical: list[str]
    impute: dict[str, str]
    y: Column
    kind: type[Classification | Regression] | SeveralTargets
    dates: list[str]
    format: Format
    embed_above: int | None = None
    validation_rows: int = 0
    fixed_encoder: Encoder | None = None

    @classmethod
    def read(cls, args: argparse.Namespace, output: Output) -> "TrainingData":
        """Read the data that the arguments describe, and report what was decided about its columns."""
        file_format = format_of(args)
        request, problems = _request(args, file_format), Problems(args.data)
        table = data.read_from_disk(args.data, request) if args.from_disk else data.read(args.data, request, problems)
        for note in table.notes:
            output.log(note)
        target = data.target_of(table, args.target)
        if isinstance(target, list) and args.task == "classification":
            raise ArgumentError(f"--task classification takes one target, got {len(target)}: {join_names(target)}")
        known = {*table.names, *getattr(table, "others", ())}
        names, categorical = _feature_columns(args, table, target, known)
        impute = imputation_rules(args.impute, names, known)
        rows = table.n_rows
        if args.validation_file is not None and isinstance(table, Table):
            table = append_rows(table, args.validation_file, request, target, impute)
            output.log(f"{args.validation_file}: {format_count(table.n_rows - rows, 'row')} held out")
        _require_usable(table, target, names, categorical, impute, problems)
        y = data.target_column(table, target)
        kind = _choose_task(args.task, target, y, output)
        if kind is Classification and isinstance(target, str):
            y = table.labels(target)
        for note in describe_classes(y) if kind is Classification else describe_target(y):
            output.log(note)
        dates = [name for name in split_names(args.dates, known) if name in (*names, *data.names_of(target))]
        embed_above, validation_rows = embedding_limit(args), table.n_rows - rows
        return cls(table, target, names, categorical, impute, y, kind, dates, file_format, embed_above, validation_rows)

    def split(
        self,
        share: float,
        seed: int,
        rows: np.ndarray | None = None,
        hint: str = "to hold out no rows, use --validation 0",
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of the rows to train on and of the rows to hold out, by default of all rows.

        The split is stratified by the classes, if there are any.

        Parameters
        ----------
        share : float
            The share of rows to hold out.
        seed : int
        rows : ndarray of int, optional
            The rows to split.
        hint : str
            The advice in the error message for a share that is too large or too small.
        """
        if rows is None and self.validation_rows:
            rows = np.arange(self.table.n_rows)
            return rows[: -self.validation_rows], rows[-self.validation_rows :]
        rows = np.arange(self.table.n_rows) if rows is None else rows
        if len(rows) < 2:
            raise DataError(f"{self.table.source} has only one row, but training needs at least 2")
        if share == 0:
            return rows, rows[:0]
        strata = self._strata()
        if strata is not None:
            strata = strata[rows]
        try:
            train, held_out = splits.train_validation_split(len(rows), share, np.random.default_rng(seed), strata)
        except ArgumentError as error:
            raise DataError(f"{self.table.source}: {error}; {hint}") from None
        return rows[train], rows[held_out]

    def split_for_stopping(self, rows: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Divide `rows` into those to train on, and those by which early stopping chooses the epoch, about `count`."""
        if count == 0:
            return rows, rows[:0]
        return self.split(count / len(rows), seed, rows, hint="to stop without such rows, use --early-stopping none")

    def folds(self, number: int, seed: int) -> list[np.ndarray]:
        """Return the indices of the rows in each fold, stratified by the classes, if there are any."""
        if number > self.table.n_rows:
            rows = format_count(self.table.n_rows, "row")
            raise DataError(f"{self.table.source} has {rows}, but --folds {number} needs at least {number}")
        return splits.folds(self.table.n_rows, number, np.random.default_rng(seed), self._strata())

    def _strata(self) -> np.ndarray | None:
        """Return the number of the class of each row; None for a regression."""
        if self.kind is not Classification:
            return None
        strata: np.ndarray = np.unique(self.y, return_inverse=True)[1]
        if strata.max() + 1 == self.table.n_rows:
            raise DataError(
                f"{self.table.source}: each row has a different class; if the target is a quantity, use "
                "--task regression"
            )
        return strata

    def encoder(self, rows: np.ndarray) -> Encoder:
        """Return the encoder of the feature columns, fitted to `rows`; samples on disk are not encoded."""
        if self.fixed_encoder is not None:
            return self.fixed_encoder
        if isinstance(self.table, DiskTable):
            return data.plain_encoder(self.names)
        return Encoder.fit(
            self.table, self.names, rows=rows, categorical=self.categorical, impute=self.impute,
            embed_above=self.embed_above,
        )  # fmt: skip

    def samples(self, encoder: Encoder) -> np.ndarray | OnDisk:
        """Return X, shape (n, m), for all rows; unknown categories are encoded as zeros, or as the index 0."""
        return data.samples(self.table, encoder, unknown="zeros")

    def report_encoding(self, encoder: Encoder, output: Output) -> None:
        """Report which columns are encoded or imputed."""
        if isinstance(self.table, DiskTable):
            return
        for feature in encoder.features:
            if feature.categories is not None:
                categories = format_count(len(feature.categories), "category", "categories")
                size = vector_size(len(feature.categories) + 1)
                encoding = f"embedding of {size} numbers" if feature.embedded else "one-hot"
                output.log(f"column {feature.name!r}: {encoding}, {categories}")
            if feature.name in self.table.gaps:
                missing = format_count(self.table.gaps[feature.name].count, "missing value")
                fill = format_number(feature.fill) if isinstance(feature.fill, float) else repr(feature.fill)
                output.log(f"column {feature.name!r}: {missing} filled with {fill}")
        for note in describe_columns(self.table, encoder):
            output.log(note)
        for name, count in encoder.count_unknown(self.table).items():
            rows = format_count(count, "held-out row")
            output.log(f"column {name!r}: {rows} with a category that no training row has, encoded as zeros")


def _request(args: argparse.Namespace, file_format: Format) -> Request:
    """Return the request for the columns of the data, as the options describe it."""
    target = [] if args.target is None else [args.target]
    as_text = target if args.task == "classification" else []
    return Request(
        exclude=args.exclude,
        text=[*args.categorical, *as_text],
        numeric=args.numeric,
        dates=args.dates,
        spelled=target,
        drop_missing=target if args.drop_missing_target else (),
        format=file_format,
        lists=True,
    )


def _feature_columns(
    args: argparse.Namespace, table: Table | DiskTable, target: data.Target, known: set[str]
) -> tuple[list[str], list[str]]:
    """Return the names of the feature columns, and of those that hold categories even if they do not seem to.

    Parameters
    ----------
    args : Namespace
    table : Table or DiskTable
    target : str
        The name of the target column.
    known : set of str
        The names of all columns of the data, including those that were not read.

    Raises
    ------
    ArgumentError
        If the target is among the columns to encode.
    TableError
        If there is no feature column.
    """
    exclude, categorical = (split_names(names, known) for names in (args.exclude, args.categorical))
    for name in data.names_of(target):
        if name in categorical:
            raise target_as_feature_error(name)
    return data.feature_names(table, target, exclude), categorical


def _require_usable(
    table: Table | DiskTable,
    target: data.Target,
    names: list[str],
    categorical: list[str],
    impute: dict[str, str],
    problems: Problems,
) -> None:
    """Raise TableError with all problems of the table, if it has any.

    Parameters
    ----------
    table : Table or DiskTable
    target : str or list of str
        The name of the target, or the names of several.
    names, categorical : list of str
        The names of the features, and of those that hold categories even if they do not seem to.
    impute : dict of str to str
        How to fill missing numbers, by column.
    problems : Problems
        The problems that were found while the file was read.
    """
    if not isinstance(table, Table):
        return
    with problems.collecting():
        data.target_column(table, target)
    if problems or any(name in table.gaps and name not in impute for name in names):
        unreadable = problems.columns
        readable = {name: None for name in names if name not in unreadable}
        with problems.collecting():
            table.require_complete([name for name in names if name in unreadable and name not in impute], IMPUTE_THEM)
        if readable:
            chosen = [name for name in categorical if name in readable]
            rules = {name: rule for name, rule in impute.items() if name in readable}
            with problems.collecting():
                Encoder.fit(table, list(readable), categorical=chosen, impute=rules)
    problems.check(f"{MEND_CELLS}, or leave the column out with --exclude")


def _choose_task(
    requested: str, target: data.Target, y: Column, output: Output
) -> type[Classification | Regression] | SeveralTargets:
    """Return the requested task; for "auto", choose a task by the values of the target, `y`, and report it."""
    if isinstance(target, list):
        return SeveralTargets(tuple(target))
    if requested != "auto":
        return TASKS[requested]
    task, reason = suggest_task(y)
    other = (
        "--task regression predicts a quantity" if task is Classification else "--task classification predicts classes"
    )
    change = f"; {other}" if y.dtype.kind != "U" else ""
    output.log(f"task: {task.kind}, since the target {target!r} {reason}{change}")
    return task
