"""``deepnotes train``: train a model file on a table, and measure it on rows that were held out."""

import argparse
import time
from pathlib import Path

import numpy as np

from deepnotes import plots
from deepnotes.cli import data, train_defaults
from deepnotes.cli.arguments import chosen_backend, hinted
from deepnotes.cli.models import Model
from deepnotes.cli.output import Output, counted
from deepnotes.cli.output_paths import require_output_paths, writing
from deepnotes.cli.reading_options import as_metadata, format_of
from deepnotes.cli.tasks import TASKS, Classification, Task, choose
from deepnotes.cli.train_options import configure
from deepnotes.datasets.disk_tables import DiskTable
from deepnotes.datasets.encoding import IMPUTE_THEM, Encoder
from deepnotes.datasets.on_disk import OnDisk
from deepnotes.datasets.readings import Format, Request, split_names
from deepnotes.datasets.splits import train_validation_split
from deepnotes.datasets.standardizer import Standardizer
from deepnotes.datasets.tables import Column, Table, is_packed_csv
from deepnotes.network.formats import model_files
from deepnotes.network.network import Network
from deepnotes.network.training.history import History
from deepnotes.network.training.state import Callback, Training
from deepnotes.utils.errors import ArgumentError, DataError, DeepnotesError, ModelFileError, NonFiniteLossError

__all__ = ["HELP", "configure", "run"]

HELP = "Train a network on the rows of a table, and write it to a file."


def run(args: argparse.Namespace, output: Output) -> None:
    """Read, train, measure, write and report."""
    train_defaults.check(args)
    backend = chosen_backend(args)
    name = Path(args.data).stem if is_packed_csv(Path(args.data)) else Path(args.data).name
    path = Path(f"{Path(name).stem}.safetensors" if args.output is None else args.output)
    picture = _picture(args.plot)
    directory = None if args.checkpoint is None else Path(args.checkpoint)
    require_output_paths({"--output": path, "--plot": picture}, data.files(args.data), checkpoints=directory)

    form = format_of(args)
    table = (data.read_from_disk if args.from_disk else data.read)(args.data, _request(args, form))
    for note in table.notes:
        output.log(note)
    target = data.target_of(table, args.target)
    known = {*table.names, *getattr(table, "others", ())}
    exclude, categorical = (split_names(names, known) for names in (args.exclude, args.categorical))
    if target in categorical:
        raise ArgumentError(f"--categorical {target}: the target, and so no feature")
    names = data.feature_names(table, target, exclude)
    if isinstance(table, Table) and args.impute is None:
        table.require_complete(names, IMPUTE_THEM)
    y = data.target_column(table, target)
    kind = _kind(args.task, target, y, output)
    if kind is Classification:
        y = table.labels(target)
    train, held_out = _split(table, y if kind is Classification else None, args.validation, args.seed)
    encoder = _encoder(args, table, names, categorical, train, output)
    X, features = data.samples(table, encoder, unknown="zeros"), encoder.inputs
    with np.errstate(all="ignore"):  # overflow is refused with a message
        task, standardizer = kind.of(y[train], args.loss), Standardizer.fit(data.some(X, train))
    layers = [*train_defaults.hidden_layers(args, task.kind), task.output_layer()]
    network = Network(
        layers, len(features), backend=backend, dtype=args.dtype, seed=args.seed, standardizer=standardizer
    )
    output.facts(
        [
            ("data", f"{table.source}: {counted(table.n_rows, 'row')}, {counted(len(features), 'feature')}"),
            ("target", f"{target!r}: {task}"),
            ("rows", f"{len(train):,} to train on, {len(held_out):,} held out"),
        ]
    )
    output.report(f"\n{network.summary()}\n")

    dates = [name for name in split_names(args.dates, known) if name in (*names, target)]
    model = Model(network, features, target, task, encoder, dates, as_metadata(form))
    model.label()  # so that a checkpoint holds it, too
    model_files.check(network)
    history, seconds = _fit(args, network, task, X, y, train, held_out, output)
    part, rows = ("validation", held_out) if len(held_out) else ("training", train)
    with np.errstate(all="ignore"):
        figures = task.figures(network, data.some(X, rows), y[rows])
    try:
        model.save(path, **{part: {"rows": len(rows), **figures}})
    except ModelFileError as error:
        raise _kept(error, args.checkpoint) from error
    if picture is not None:
        try:
            with writing(picture):
                plots.save(history.plot(), picture)
        except DeepnotesError as error:
            raise hinted(error, f"the model was written to {path}") from error
    best = f", the best was epoch {history.best_epoch}" if history.best_epoch else ""
    output.facts(
        [
            *task.facts(figures, counted(len(rows), "held-out row" if len(held_out) else "training row")),
            ("time", f"{seconds:.2f} s for {counted(history.epochs, 'epoch')}{best}"),
            ("model", str(path)),
            *([("plot", str(picture))] if picture else []),
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
            "metrics": figures,
            "metrics_of": part,
            "history": {"loss": history.loss, "val_loss": history.val_loss, **history.metrics},
            "model": str(path),
            "plot": None if picture is None else str(picture),
        }
    )


def _request(args: argparse.Namespace, form: Format) -> Request:
    """Return the request for the data."""
    target = [] if args.target is None else [args.target]
    as_text = target if args.task == "classification" else []
    return Request(
        exclude=args.exclude,
        text=[*args.categorical, *as_text],
        numeric=args.numeric,
        dates=args.dates,
        spelled=target,
        drop_missing=target if args.drop_missing_target else (),
        format=form,
        lists=True,
    )


def _picture(asked: str | None) -> Path | None:
    """Return where to draw the curves, after checking that they can be drawn."""
    if asked is None:
        return None
    try:
        path = plots.check_path(asked)
    except ArgumentError as error:
        raise ArgumentError(f"argument --plot: {error}") from None
    plots.require_matplotlib()
    return path


def _kept(error: DeepnotesError, checkpoint: str | None) -> DeepnotesError:
    """Return the error of a model that could not be written, with a way to recover it, if there is one."""
    if checkpoint is None:
        return error
    return hinted(error, f"the training is kept: the same command with --resume goes on from {checkpoint}")


class Resumed(Callback):
    """Reports where a training resumes."""

    def __init__(self, output: Output) -> None:
        self.output = output

    def on_ready(self, training: Training) -> None:
        """Report it, unless it is the start."""
        if training.state.step:
            self.output.facts([("resumed", f"after {counted(training.step, 'update')}, in epoch {training.epoch}")])


def _kind(asked: str, target: str, y: Column, output: Output) -> type[Task]:
    """Return the requested task, or the one that the target suggests, and report it."""
    if asked != "auto":
        return TASKS[asked]
    kind, why = choose(y)
    output.log(f"task: {kind.kind}, since the target {target!r} {why}")
    return kind


def _encoder(
    args: argparse.Namespace,
    table: Table | DiskTable,
    names: list[str],
    categorical: list[str],
    train: np.ndarray,
    output: Output,
) -> Encoder:
    """Return the encoder of the features, fitted to the rows `train`, and report what it does."""
    if isinstance(table, DiskTable):
        return data.plain(names)
    encoder = Encoder.fit(table, names, rows=train, categorical=categorical, impute=args.impute)
    for feature in encoder.features:
        told = f"column {feature.name!r}:"
        if feature.categories is not None:
            output.log(f"{told} one-hot, {counted(len(feature.categories), 'category', 'categories')}")
        if feature.name in table.gaps:
            missing = counted(table.gaps[feature.name].count, "missing value")
            output.log(f"{told} {missing} filled with {feature.fill!r}")
    for name, count in encoder.strangers(table).items():
        output.log(f"column {name!r}: {counted(count, 'held-out row')} of a category that no training row has: as none")
    return encoder


def _split(table: Table | DiskTable, classes: Column | None, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows to train on and the rows to hold out, stratified by class."""
    if table.n_rows < 2:
        raise DataError(f"{table.source} has one row only, and training needs at least 2")
    if share == 0:
        return np.arange(table.n_rows), np.arange(0)
    strata = None if classes is None else np.unique(classes, return_inverse=True)[1]
    if strata is not None and strata.max() + 1 == table.n_rows:
        raise DataError(f"{table.source}: each row has a class of its own; --task regression is for quantities")
    try:
        return train_validation_split(table.n_rows, share, np.random.default_rng(seed), strata)
    except ArgumentError as error:
        raise DataError(f"{table.source}: {error}; --validation 0 holds none out") from None


def _fit(
    args: argparse.Namespace,
    network: Network,
    task: Task,
    X: np.ndarray | OnDisk,
    y: Column,
    train: np.ndarray,
    held_out: np.ndarray,
    output: Output,
) -> tuple[History, float]:
    """Train on the rows `train`, validating on those held out; return the history and the seconds it took."""
    validation = (data.some(X, held_out), task.encode(y[held_out])) if len(held_out) else None
    began = time.perf_counter()
    try:
        history = network.fit(
            data.some(X, train),
            task.encode(y[train]),
            loss=task.loss,
            optimizer=train_defaults.optimizer(args, len(train)),
            epochs=train_defaults.epochs(args, len(train)),
            batch_size=args.batch_size,
            validation=validation,
            l2=args.l2,
            clip_norm=args.clip_norm,
            metrics=task.watched if validation else (),
            early_stopping=args.early_stopping,
            checkpoint=args.checkpoint,
            every=args.every,
            resume=args.resume,
            callbacks=[Resumed(output)],
            progress=not output.quiet,
        )
    except NonFiniteLossError as error:
        told = "no model was written; try a smaller --learning-rate, or --clip-norm 1"
        raise hinted(DeepnotesError(str(error)), told) from error
    except (KeyboardInterrupt, SystemExit) as end:
        left = f"; the same command with --resume goes on from {args.checkpoint}" if args.checkpoint else ""
        if isinstance(end, KeyboardInterrupt):
            raise KeyboardInterrupt(f"no model was written{left}") from None
        output.log(f"terminated; no model was written{left}")
        raise
    return history, time.perf_counter() - began
