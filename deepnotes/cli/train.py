"""``deepnotes train``: train a network on a table, evaluate it on held-out rows, and write it to a model file."""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes import plots
from deepnotes.backends.registry import by_priority, is_selected
from deepnotes.cli import calibration
from deepnotes.cli.arguments import chosen_backend, with_hint
from deepnotes.cli.class_tables import never_predicted, report_classes
from deepnotes.cli.models import Model
from deepnotes.cli.output import Output, format_count
from deepnotes.cli.output_paths import require_output_paths, writing
from deepnotes.cli.ranks import describe_ranks, on_ranks, writes_files
from deepnotes.cli.reading_options import as_metadata
from deepnotes.cli.replacing import require_replaceable
from deepnotes.cli.resuming import explain_resumption
from deepnotes.cli.starting import Start
from deepnotes.cli.tasks import Classification, Distribution, Task, make_task
from deepnotes.cli.train_defaults import stopping_rows
from deepnotes.cli.train_options import VALIDATION, check_options, configure
from deepnotes.cli.training_data import TrainingData
from deepnotes.cli.training_rows import describe_training_rows, note_on_held_out_rows, note_on_training_rows
from deepnotes.cli.training_runs import (
    FoldScores,
    Run,
    describe_folds,
    mean_history,
    prepare,
    score_classes,
    train_alone,
    train_side_by_side,
)
from deepnotes.cli.validation_files import files_of
from deepnotes.datasets.tables import is_gzip_text
from deepnotes.network.network import Network
from deepnotes.network.training.history import History
from deepnotes.utils.errors import ArgumentError, DeepnotesError, ModelFileError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["HELP", "configure", "run"]

HELP = "Train a network on the rows of a table, and write it to a model file."


@on_ranks
@explain_resumption
def run(args: argparse.Namespace, output: Output) -> None:
    """Read the data, train and evaluate a network or an ensemble, write the model, and report the scores."""
    check_options(args)
    backend = chosen_backend(args)
    path, plot_path = model_path(args), plot_path_of(args)
    directory = None if args.checkpoint is None else Path(args.checkpoint)
    require_output_paths({"--output": path, "--plot": plot_path}, files_of(args), checkpoints=directory)
    begin = None if args.start is None else Start.load(args, backend)
    args = args if begin is None else begin.options(args)

    source = TrainingData.read(args, output)
    source = source if begin is None else begin.applied_to(source)
    others, held_out = source.split(_share(args), args.seed)
    train, stopping = _split_for_stopping(args, source, others)
    folds = source.folds(args.folds, args.seed) if args.folds else []
    with np.errstate(all="ignore"):  # numbers that overflow are reported as an error later
        y = source.y if folds else source.y[train]
        task = begin.model.task if begin else make_task(source.kind, y, args.loss, args.quantiles)
    watched = stopping if len(stopping) else held_out
    final = prepare(args, backend, source, task, (train, watched), stops_early=len(stopping) > 0)
    calibration.check(args, task, final)
    if begin is not None:
        begin.set_weights(final.networks)
    source.report_encoding(final.encoder, output)
    predictor, features = final.predictor, final.encoder.inputs
    early = f", {len(stopping):,} for early stopping" if len(stopping) else ""
    held = f"{len(train):,} to train on{early}, {len(held_out):,} held out"
    rows = f"{held}; {describe_folds(folds)}" if folds else held
    table = source.table
    of_data = format_count(table.n_rows - source.validation_rows, "row")  # without those of --validation-file
    output.facts(
        [
            ("data", f"{table.source}: {of_data}, {format_count(len(features), 'feature')}"),
            ("target", f"{source.target!r}: {task}"),
            ("rows", rows),
            ("settings", _describe_settings(args, final)),
            ("backend", f"{backend.name}, {_why(args)}"),
            *describe_ranks(args.ranks),
        ]
    )
    output.report(f"\n{predictor.summary()}\n")

    model = Model(predictor, features, source.target, task, final.encoder, source.dates, as_metadata(source.format))
    model.set_metadata()  # before training, so that checkpoints contain the metadata as well
    model.check()
    require_replaceable(path, model, args.force, output)
    start = time.perf_counter()
    fold_runs: list[Run] = []
    for fold in folds:
        parts = _split_for_stopping(args, source, np.setdiff1d(np.arange(table.n_rows), fold))
        stops_early = len(parts[1]) > 0
        fold_runs.append(prepare(args, backend, source, task, parts, [final, *fold_runs], stops_early))
    _train(args, [final, *fold_runs], task, source, output)
    if not writes_files(args.ranks):
        return
    seconds = time.perf_counter() - start
    calibrated = calibration.calibrate(args, final, task, source, held_out)
    tested = FoldScores([run.scores(task, source, fold) for run, fold in zip(fold_runs, folds, strict=True)])
    part, rows_of_part = ("validation", held_out) if len(held_out) else ("training", train)
    scores = final.scores(task, source, rows_of_part)
    scored = list(zip(fold_runs, folds, strict=True)) or [(final, rows_of_part)]
    classes = score_classes(task, source, scored)
    members = _describe_members(final, task, source, rows_of_part)
    saved = {part: {"rows": len(rows_of_part), **scores}} | ({"folds": tested.as_dict()} if folds else {})
    saved |= {"calibration": calibrated.result} if calibrated.result else {}
    before = None if begin is None else begin.model.network.metadata
    saved |= describe_training_rows(final.inputs(others), source.y[others], task, before)
    splits = [(np.setdiff1d(np.arange(table.n_rows), fold), fold) for fold in folds] or [(others, held_out)]
    notes = [note_on_held_out_rows(final.X, source.y, task, splits), calibrated.note]
    if before is not None:
        unseen = final.inputs(held_out), source.y[held_out]
        notes.append(note_on_training_rows(before, *unseen, task, "held-out row", args.start))
    try:
        model.save(path, **saved)
    except ModelFileError as error:
        raise _with_recovery_hint(error, args.checkpoint) from error
    history = mean_history(final.histories)
    if plot_path is not None:
        save_plot(history.plot, plot_path, path)
    if folds:
        of_folds = f"the held-out rows, mean ± standard deviation of {len(folds)} folds"
        facts = task.facts(tested.mean, of_folds, tested.std)
        trained_on = f", trained on {format_count(len(train), 'row')}"
    else:
        of_rows = format_count(len(rows_of_part), "held-out row" if len(held_out) else "training row")
        facts = [*task.facts(scores, of_rows), *_member_facts(members, task, of_rows)]
        trained_on = ""
    output.facts(
        [
            *facts,
            *calibrated.facts,
            ("time", f"{seconds:.2f} s for {_describe_training(final, fold_runs)}"),
            ("model", f"{path}{trained_on}"),
            *([("plot", str(plot_path))] if plot_path else []),
        ]
    )
    notes = [note for note in notes if note]
    for note in notes:
        output.log(f"note: {note}")
    if classes:
        report_classes(classes, output, weighted=args.class_weight is not None)
    single = final.histories[0] if isinstance(predictor, Network) else None
    output.outcome(
        {
            "command": "train",
            "data": table.source,
            "features": len(features),
            "target": source.target,
            "task": task.kind,
            "classes": list(task.classes) if isinstance(task, Classification) else None,
            "rows": {"training": len(train), "early_stopping": len(stopping), "validation": len(held_out)},
            "backend": backend.name,
            "dtype": predictor.dtype,
            "seed": args.seed,
            "parameters": sum(network.layout.size for network in final.networks),
            "loss": task.loss,
            "quantiles": list(task.quantiles) if isinstance(task, Distribution) and task.quantiles else None,
            "layers": list(final.recipe.layers),
            "dropout": final.recipe.dropout,
            "norm": args.norm,
            "residual": args.residual,
            "average": None if args.average is None else dict([args.average]),
            "l1": args.l1,
            "l2": final.recipe.l2,
            "class_weight": args.class_weight,
            "epochs": single and single.epochs,
            "best_epoch": single and single.best_epoch,
            "seconds": seconds,
            "metrics": scores,
            "metrics_of": part,
            "per_class": classes or None,
            "notes": notes,
            "calibration": calibrated.result,
            "never_predicted": never_predicted(classes) if classes else None,
            "folds": tested.as_dict() if folds else None,
            "members": members or None,
            "history": single and _curves(single),
            "model": str(path),
            "plot": None if plot_path is None else str(plot_path),
        }
    )


def _train(args: argparse.Namespace, runs: Sequence[Run], task: Task, source: TrainingData, output: Output) -> None:
    """Train the final network or ensemble, which is the first run, and those of the folds."""
    if args.folds or args.members:
        train_side_by_side(args, runs, task, source, output)
    else:
        train_alone(args, runs[0], task, source, output, args.ranks)


def _why(args: argparse.Namespace) -> str:
    """Return the reason for the choice of the backend."""
    if args.backend not in (None, "auto"):
        return "as --backend says"
    if args.backend is None and is_selected():
        return "as DEEPNOTES_BACKEND says"
    return f"the first of {', '.join(by_priority())} that works here; --backend NAME chooses another"


def _share(args: argparse.Namespace) -> float:
    """Return the share of rows to hold out; with folds, which are scored instead, by default none."""
    if args.validation is not None:
        return float(args.validation)
    return 0.0 if args.folds else VALIDATION


def _split_for_stopping(
    args: argparse.Namespace, source: TrainingData, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Divide rows into those to train on and those for early stopping."""
    count = stopping_rows(len(rows), args.early_stopping, args.early_stopping_share)
    return source.split_for_stopping(rows, count, args.seed)


def _describe_settings(args: argparse.Namespace, run: Run) -> str:
    """Return the settings that by default follow the size of the table, and what else the layers have."""
    recipe = run.recipe
    layers = ",".join(map(str, recipe.layers)) or "none"
    norm = f", {args.norm} normalization" if args.norm else ""
    residual = ", residual" if args.residual else ""
    return f"layers {layers}{norm}{residual}, dropout {recipe.dropout:g}, L2 {recipe.l2:g}"


def _describe_training(final: Run, fold_runs: list[Run]) -> str:
    """Return the number of networks or of epochs of the training."""
    count = sum(len(run.networks) for run in (final, *fold_runs))
    if count > 1:
        return format_count(count, "network")
    (history,) = final.histories
    best = f", the best epoch was {history.best_epoch}" if history.best_epoch else ""
    return f"{format_count(history.epochs, 'epoch')}{best}"


def _member_facts(members: list[dict[str, Any]], task: Task, of_rows: str) -> list[tuple[str, str]]:
    """Return the mean score of the members of an ensemble, to compare with that of the ensemble."""
    if not members:
        return []
    scores = [member["metrics"] for member in members]
    mean = {name: float(np.mean([one[name] for one in scores])) for name in scores[0]}
    name, text = task.facts(mean, of_rows)[0]
    return [("members", f"{len(members)}; each alone, on average: {name} {text}")]


def _describe_members(run: Run, task: Task, source: TrainingData, rows: np.ndarray) -> list[dict[str, Any]]:
    """Return the seed, the scores and the history of each member of an ensemble, as JSON values; [] for a network."""
    if isinstance(run.predictor, Network):
        return []
    members = []
    for network, history in zip(run.networks, run.histories, strict=True):
        alone = run.alone(network)
        members.append(
            {
                "seed": network.seed,
                "metrics": alone.scores(task, source, rows),
                "epochs": history.epochs,
                "best_epoch": history.best_epoch,
                "history": _curves(history),
            }
        )
    return members


def _curves(history: History) -> dict[str, list[float]]:
    return {"loss": history.loss, "val_loss": history.val_loss, **history.metrics}


def model_path(args: argparse.Namespace) -> Path:
    """Return the path of the model file: the requested path, or the name of the data with the suffix .safetensors."""
    if args.output is not None:
        return Path(args.output)
    name = Path(args.data).stem if is_gzip_text(Path(args.data)) else Path(args.data).name
    return Path(f"{Path(name).stem}.safetensors")


def plot_path_of(args: argparse.Namespace) -> Path | None:
    """Return the path of the plot, or None if no plot is requested; check that the plot can be drawn."""
    if args.plot is None:
        return None
    try:
        checked = plots.check_path(args.plot)
    except ArgumentError as error:
        raise ArgumentError(f"argument --plot: {error}") from None
    plots.require_matplotlib()
    return checked


def _with_recovery_hint(error: DeepnotesError, checkpoint: str | None) -> DeepnotesError:
    """Return `error`, the reason why no model was written, with a hint to use --resume if there is a checkpoint."""
    if checkpoint is None:
        return error
    return with_hint(
        error, f"the trained network is not lost: the same command with --resume continues from {checkpoint}"
    )


def save_plot(draw: Callable[[], "Figure"], plot_path: Path, model: Path) -> None:
    """Draw a plot and write it to a file; if that fails, the error says that the model was written."""
    try:
        with writing(plot_path):
            plots.save(draw(), plot_path)
    except DeepnotesError as error:
        raise with_hint(error, f"the model was written to {model}") from error
