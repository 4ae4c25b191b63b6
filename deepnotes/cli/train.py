"""``deepnotes train``: train a network on a table, evaluate it on held-out rows, and write it to a model file."""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepnotes import plots
from deepnotes.backends.registry import by_priority, is_selected
from deepnotes.cli import data, train_defaults
from deepnotes.cli.arguments import chosen_backend, with_hint
from deepnotes.cli.models import Model
from deepnotes.cli.output import Output, format_count, format_number
from deepnotes.cli.output_paths import require_output_paths, writing
from deepnotes.cli.reading_options import as_metadata, format_of
from deepnotes.cli.tasks import TASKS, Classification, Task, suggest_task
from deepnotes.cli.train_options import check_options, configure, target_as_feature_error
from deepnotes.datasets.disk_tables import DiskTable
from deepnotes.datasets.encoding import IMPUTE_THEM, Encoder
from deepnotes.datasets.on_disk import OnDisk
from deepnotes.datasets.reading import Format, Request, split_names
from deepnotes.datasets.splits import train_validation_split
from deepnotes.datasets.standardizer import Standardizer
from deepnotes.datasets.tables import Column, Table, is_gzip_csv
from deepnotes.network.formats import model_files
from deepnotes.network.network import Network
from deepnotes.network.training.history import History
from deepnotes.network.training.state import Callback, Training
from deepnotes.utils.errors import ArgumentError, DataError, DeepnotesError, ModelFileError, NonFiniteLossError

__all__ = ["HELP", "configure", "run"]

HELP = "Train a network on the rows of a table, and write it to a model file."


@dataclass(frozen=True)
class Samples:
    """The samples of a table, and their split into rows to train on and rows to validate with.

    Parameters
    ----------
    X : ndarray or OnDisk, shape (n, m)
    y : ndarray, shape (m,)
    train, held_out : ndarray of int
        The indices of the rows to train on and of the rows to validate with; the latter may be empty.
    """

    X: np.ndarray | OnDisk
    y: Column
    train: np.ndarray
    held_out: np.ndarray

    def inputs(self, rows: np.ndarray) -> np.ndarray | OnDisk:
        """Return the samples at the k indices `rows`, shape (n, k)."""
        return data.select_samples(self.X, rows)


def run(args: argparse.Namespace, output: Output) -> None:
    """Read the data, train and evaluate a network, write the model, and report the scores."""
    check_options(args)
    backend = chosen_backend(args)
    path, plot_path = _model_path(args), _plot_path(args.plot)
    directory = None if args.checkpoint is None else Path(args.checkpoint)
    require_output_paths({"--output": path, "--plot": plot_path}, data.files(args.data), checkpoints=directory)

    file_format = format_of(args)
    table = (data.read_from_disk if args.from_disk else data.read)(args.data, _request(args, file_format))
    for note in table.notes:
        output.log(note)
    target = data.target_of(table, args.target)
    known = {*table.names, *getattr(table, "others", ())}
    names, categorical = _feature_columns(args, table, target, known)
    y = data.target_column(table, target)
    kind = _choose_task(args.task, target, y, output)
    if kind is Classification:
        y = table.labels(target)
    train, held_out = _split(table, y if kind is Classification else None, args.validation, args.seed)
    encoder = _fit_encoder(args, table, names, categorical, train)
    if isinstance(table, Table):
        _report_encoding(encoder, table, output)
    samples = Samples(data.samples(table, encoder, unknown="zeros"), y, train, held_out)
    features = encoder.inputs
    with np.errstate(all="ignore"):  # numbers that overflow are reported as an error later
        task, standardizer = kind.of(y[train], args.loss), Standardizer.fit(samples.inputs(train))
    layers = [*train_defaults.make_hidden_layers(args, task.kind), task.output_layer()]
    network = Network(
        layers, len(features), backend=backend, dtype=args.dtype, seed=args.seed, standardizer=standardizer
    )
    output.facts(
        [
            ("data", f"{table.source}: {format_count(table.n_rows, 'row')}, {format_count(len(features), 'feature')}"),
            ("target", f"{target!r}: {task}"),
            ("rows", f"{len(train):,} to train on, {len(held_out):,} held out"),
            ("backend", f"{backend.name}, {_why(args)}"),
        ]
    )
    output.report(f"\n{network.summary()}\n")

    dates = [name for name in split_names(args.dates, known) if name in (*names, target)]
    model = Model(network, features, target, task, encoder, dates, as_metadata(file_format))
    model.set_metadata()  # before training, so that checkpoints contain the metadata as well
    model_files.check(network)
    history, seconds = _fit(args, network, task, samples, output)
    part, rows = ("validation", held_out) if len(held_out) else ("training", train)
    with np.errstate(all="ignore"):
        scores = task.evaluate(network, samples.inputs(rows), y[rows])
    try:
        model.save(path, **{part: {"rows": len(rows), **scores}})
    except ModelFileError as error:
        raise _with_recovery_hint(error, args.checkpoint) from error
    if plot_path is not None:
        _save_plot(history, plot_path, path)
    best = f", the best epoch was {history.best_epoch}" if history.best_epoch else ""
    output.facts(
        [
            *task.facts(scores, format_count(len(rows), "held-out row" if len(held_out) else "training row")),
            ("time", f"{seconds:.2f} s for {format_count(history.epochs, 'epoch')}{best}"),
            ("model", str(path)),
            *([("plot", str(plot_path))] if plot_path else []),
        ]
    )
    output.outcome(
        {
            "command": "train",
            "data": table.source,
            "features": len(features),
            "target": target,
            "task": task.kind,
            "classes": list(task.classes) if isinstance(task, Classification) else None,
            "rows": {"training": len(train), "validation": len(held_out)},
            "backend": backend.name,
            "dtype": network.dtype,
            "seed": args.seed,
            "parameters": network.layout.size,
            "loss": task.loss,
            "epochs": history.epochs,
            "best_epoch": history.best_epoch,
            "seconds": seconds,
            "metrics": scores,
            "metrics_of": part,
            "history": {"loss": history.loss, "val_loss": history.val_loss, **history.metrics},
            "model": str(path),
            "plot": None if plot_path is None else str(plot_path),
        }
    )


def _why(args: argparse.Namespace) -> str:
    """Return the reason for the choice of the backend."""
    if args.backend not in (None, "auto"):
        return "as --backend says"
    if args.backend is None and is_selected():
        return "as DEEPNOTES_BACKEND says"
    return f"the first of {', '.join(by_priority())} that works here; --backend NAME chooses another"


def _model_path(args: argparse.Namespace) -> Path:
    """Return the path of the model file: the requested path, or the name of the data with the suffix .safetensors."""
    if args.output is not None:
        return Path(args.output)
    name = Path(args.data).stem if is_gzip_csv(Path(args.data)) else Path(args.data).name
    return Path(f"{Path(name).stem}.safetensors")


def _plot_path(path: str | None) -> Path | None:
    """Return the path of the plot, or None if no plot is requested; check that the plot can be drawn."""
    if path is None:
        return None
    try:
        checked = plots.check_path(path)
    except ArgumentError as error:
        raise ArgumentError(f"argument --plot: {error}") from None
    plots.require_matplotlib()
    return checked


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
    args: argparse.Namespace, table: Table | DiskTable, target: str, known: set[str]
) -> tuple[list[str], list[str]]:
    """Return the names of the feature columns, and the names of the columns to encode one-hot.

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
        If there is no feature column, or a feature has a missing value that is not to be imputed.
    """
    exclude, categorical = (split_names(names, known) for names in (args.exclude, args.categorical))
    if target in categorical:
        raise target_as_feature_error(target)
    names = data.feature_names(table, target, exclude)
    if isinstance(table, Table) and args.impute is None:
        table.require_complete(names, IMPUTE_THEM)
    return names, categorical


def _choose_task(requested: str, target: str, y: Column, output: Output) -> type[Task]:
    """Return the requested task; for "auto", choose a task by the values of the target, `y`, and report it."""
    if requested != "auto":
        return TASKS[requested]
    task, reason = suggest_task(y)
    output.log(f"task: {task.kind}, since the target {target!r} {reason}")
    return task


def _split(table: Table | DiskTable, classes: Column | None, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the rows to train on and of the rows to hold out.

    Parameters
    ----------
    table : Table or DiskTable
    classes : array of str, shape (m,), or None
        The class of each row, by which the split is stratified; None for a regression.
    share : float
        The share of rows to hold out.
    seed : int
    """
    if table.n_rows < 2:
        raise DataError(f"{table.source} has only one row, but training needs at least 2")
    if share == 0:
        return np.arange(table.n_rows), np.arange(0)
    strata = None if classes is None else np.unique(classes, return_inverse=True)[1]
    if strata is not None and strata.max() + 1 == table.n_rows:
        raise DataError(
            f"{table.source}: each row has a different class; if the target is a quantity, use --task regression"
        )
    try:
        return train_validation_split(table.n_rows, share, np.random.default_rng(seed), strata)
    except ArgumentError as error:
        raise DataError(f"{table.source}: {error}; to hold out no rows, use --validation 0") from None


def _fit_encoder(
    args: argparse.Namespace, table: Table | DiskTable, names: list[str], categorical: list[str], rows: np.ndarray
) -> Encoder:
    """Return the encoder of the feature columns, fitted to `rows`; samples on disk are not encoded."""
    if isinstance(table, DiskTable):
        return data.plain_encoder(names)
    return Encoder.fit(table, names, rows=rows, categorical=categorical, impute=args.impute)


def _report_encoding(encoder: Encoder, table: Table, output: Output) -> None:
    """Report which columns are encoded or imputed."""
    for feature in encoder.features:
        if feature.categories is not None:
            categories = format_count(len(feature.categories), "category", "categories")
            output.log(f"column {feature.name!r}: one-hot, {categories}")
        if feature.name in table.gaps:
            missing = format_count(table.gaps[feature.name].count, "missing value")
            fill = format_number(feature.fill) if isinstance(feature.fill, float) else repr(feature.fill)
            output.log(f"column {feature.name!r}: {missing} filled with {fill}")
    for name, count in encoder.count_unknown(table).items():
        rows = format_count(count, "held-out row")
        output.log(f"column {name!r}: {rows} with a category that no training row has, encoded as zeros")


def _fit(
    args: argparse.Namespace, network: Network, task: Task, samples: Samples, output: Output
) -> tuple[History, float]:
    """Train the network; return the history and the seconds that training took.

    Raises
    ------
    DeepnotesError
        If the loss is not finite.
    KeyboardInterrupt, SystemExit
        If training is interrupted; the message says how to resume it.
    """
    train, held_out = samples.train, samples.held_out
    validation = (samples.inputs(held_out), task.encode(samples.y[held_out])) if len(held_out) else None
    start = time.perf_counter()
    try:
        history = network.fit(
            samples.inputs(train),
            task.encode(samples.y[train]),
            loss=task.loss,
            optimizer=train_defaults.make_optimizer(args, len(train)),
            epochs=train_defaults.choose_epochs(args, len(train)),
            batch_size=args.batch_size,
            validation=validation,
            l2=args.l2,
            clip_norm=args.clip_norm,
            metrics=task.validation_metrics if validation else (),
            early_stopping=args.early_stopping,
            checkpoint=args.checkpoint,
            every=args.every,
            resume=args.resume,
            callbacks=[ReportResumption(output)],
            progress=not output.quiet,
        )
    except NonFiniteLossError as error:
        hint = "no model was written; try a smaller --learning-rate, or --clip-norm 1"
        raise with_hint(DeepnotesError(str(error)), hint) from error
    except (KeyboardInterrupt, SystemExit) as end:
        hint = f"; the same command with --resume continues from {args.checkpoint}" if args.checkpoint else ""
        if isinstance(end, KeyboardInterrupt):
            raise KeyboardInterrupt(f"no model was written{hint}") from None
        output.log(f"terminated; no model was written{hint}")
        raise
    return history, time.perf_counter() - start


class ReportResumption(Callback):
    """A callback that reports at which update and epoch training was resumed."""

    def __init__(self, output: Output) -> None:
        self.output = output

    def on_ready(self, training: Training) -> None:
        """Report the update and the epoch, unless training starts from the beginning."""
        if training.state.step:
            updates = format_count(training.step, "update")
            self.output.facts([("resumed", f"after {updates}, in epoch {training.epoch}")])


def _with_recovery_hint(error: DeepnotesError, checkpoint: str | None) -> DeepnotesError:
    """Return `error`, the reason why no model was written, with a hint to use --resume if there is a checkpoint."""
    if checkpoint is None:
        return error
    return with_hint(
        error, f"the trained network is not lost: the same command with --resume continues from {checkpoint}"
    )


def _save_plot(history: History, plot_path: Path, model_path: Path) -> None:
    """Plot the history of training to a file; if that fails, the error says that the model was written."""
    try:
        with writing(plot_path):
            plots.save(history.plot(), plot_path)
    except DeepnotesError as error:
        raise with_hint(error, f"the model was written to {model_path}") from error
