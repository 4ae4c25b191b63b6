"""``deepnotes search``: try out settings side by side, and train a network with the best of them."""

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import floor, inf, isfinite, log10
from pathlib import Path
from typing import Any

import numpy as np

from deepnotes import plots
from deepnotes.backends.base import Backend
from deepnotes.cli import data, train_defaults
from deepnotes.cli.arguments import add_data, chosen_backend, number, whole_number, with_hint
from deepnotes.cli.models import Model
from deepnotes.cli.output import Output, cell, format_count, format_number
from deepnotes.cli.output_paths import require_output_paths, writing
from deepnotes.cli.reading_options import add_reading, as_metadata
from deepnotes.cli.replacing import add_force, require_replaceable
from deepnotes.cli.search_space import DESCRIPTION, Settings, as_options, draw_settings, format_setting
from deepnotes.cli.tasks import Classification, Task
from deepnotes.cli.train import model_path, plot_path_of, save_plot
from deepnotes.cli.train_options import (
    POSITIVE,
    VALIDATION,
    add_blocks,
    add_computation,
    add_data_options,
    add_training_options,
    check_options,
)
from deepnotes.cli.training_data import TrainingData
from deepnotes.cli.training_rows import describe_training_rows, note_on_held_out_rows
from deepnotes.cli.training_runs import Run, make_layers, prepare, train_alone
from deepnotes.datasets.table_writing import write_table
from deepnotes.network.fit_many import FitResult, fit_many
from deepnotes.network.network import Network
from deepnotes.network.training.state import Callback, Training
from deepnotes.testing.bench.machine import cores
from deepnotes.utils.errors import ArgumentError, DeepnotesError, NonFiniteLossError
from deepnotes.utils.streams import stderr

__all__ = ["HELP", "configure", "run"]

HELP = "Search for good settings of a network for a table, and write a network trained with the best to a model file."
TRIALS = 60
TOGETHER = 64
"""The number of trials that one call trains if there is no time limit; all of them are in memory."""
SHOWN = 20
"""The number of trials in the printed table."""
PART = number("a number above 0 and less than 1", lambda value: 0 < value < 1)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``search``."""
    add_data(parser)
    option = parser.add_argument_group("search").add_argument
    option(
        "--trials",
        type=whole_number(1),
        default=TRIALS,
        metavar="NUMBER",
        help=f"the number of settings to try (default {TRIALS}); the first has the defaults of 'deepnotes train', the "
        f"others are random: {DESCRIPTION}",
    )
    option(
        "--minutes",
        type=POSITIVE,
        metavar="NUMBER",
        help="end the search after this time; trials that have not ended then do not count (default: no limit)",
    )
    option("--csv", metavar="FILE", help="write the table of all trials to a CSV file")
    option(
        "--plot",
        metavar="FILE",
        help="write a plot of the loss against each setting to a .png, .svg or .pdf file",
    )
    group = parser.add_argument_group("data")
    add_data_options(group)
    group.add_argument(
        "--test",
        type=PART,
        default=0.2,
        metavar="SHARE",
        help="the share of rows that take no part in the search; the final scores are of these rows (default 0.2)",
    )
    group.add_argument(
        "--validation",
        type=PART,
        default=VALIDATION,
        metavar="SHARE",
        help=f"the share of the other rows to compare trials with (default {VALIDATION:g})",
    )
    add_reading(parser.add_argument_group("format of DATA"))
    network = parser.add_argument_group("network")
    add_blocks(network)
    add_computation(network)
    add_training_options(parser.add_argument_group("training"), searching=True)
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="the model file (default: the name of DATA, ending in .safetensors)"
    )
    add_force(parser)
    parser.add_argument("--quiet", action="store_true", help="write only errors and the JSON object")
    parser.set_defaults(
        checkpoint=None, every=None, resume=False, early_stopping=None, members=None, folds=None, layers=None,
        activation="relu", dropout=None, l2=None, learning_rate=None, validation_file=None,
    )  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """The result of training a network with some settings.

    Attributes
    ----------
    number : int
        Counted from 1.
    settings : mapping
    parameters : int
        The number of parameters.
    scores : dict of str to float
        The scores on the validation rows; empty if the loss was not finite.
    seconds : float
    """

    number: int
    settings: Settings
    parameters: int
    scores: dict[str, float]
    seconds: float

    @property
    def loss(self) -> float:
        """The loss on the validation rows, infinite if training or the loss was not finite."""
        loss = self.scores.get("loss", inf)
        return loss if isfinite(loss) else inf

    def as_dict(self) -> dict[str, Any]:
        """Return the trial as JSON values."""
        settings = {name: list(value) if isinstance(value, tuple) else value for name, value in self.settings.items()}
        return {
            "trial": self.number,
            "settings": settings,
            "parameters": self.parameters,
            "seconds": self.seconds,
            "metrics": self.scores or None,
        }


def run(args: argparse.Namespace, output: Output) -> None:
    """Try out settings, train a network with the best, evaluate it on the test rows, and write the requested files."""
    check_options(args)
    backend = chosen_backend(args)
    path, plot_path, csv_path = model_path(args), plot_path_of(args), None if args.csv is None else Path(args.csv)
    require_output_paths({"--output": path, "--plot": plot_path, "--csv": csv_path}, data.files(args.data))

    source = TrainingData.read(args, output)
    if isinstance(source.target, list):
        raise ArgumentError(f"--target {args.target}: search takes one target; 'deepnotes train' takes several")
    hint = "change --test or --validation"
    others, test = source.split(args.test, args.seed, hint=hint)
    train, validation = source.split(args.validation, args.seed, others, hint)
    with np.errstate(all="ignore"):  # numbers that overflow are reported as an error later
        task = source.kind.of(source.y[train], args.loss)
    first = prepare(args, backend, source, task, (train, validation))
    source.report_encoding(first.encoder, output)
    limit = f" in at most {args.minutes:g} min" if args.minutes else ""
    table, features = source.table, format_count(len(first.encoder.inputs), "feature")
    output.facts(
        [
            ("data", f"{table.source}: {format_count(table.n_rows, 'row')}, {features}"),
            ("target", f"{source.target!r}: {task}"),
            ("rows", f"{len(train):,} to train trials on, {len(validation):,} to compare them, {len(test):,} for test"),
            ("search", format_count(args.trials, "trial") + limit),
        ]
    )
    require_replaceable(path, _model_of(first, task, source), args.force, output)
    _model_of(first, task, source).check()  # before the search, so that the model can be written afterwards
    start = time.perf_counter()
    search = Search(args, backend, source, task, first, output)
    search.run()
    trials = search.ranked()
    _report(trials, task, output)
    if csv_path is not None:
        with writing(csv_path):
            write_table(csv_path, *_as_columns(trials))
    best, final, final_task = _refit_best(args, backend, source, others, trials, output)
    scores = final.scores(final_task, source, test)
    saved = {"test": {"rows": len(test), **scores}, "search": best.as_dict()}
    saved |= describe_training_rows(final.inputs(final.train), source.y[final.train], final_task)
    note = note_on_held_out_rows(final.X, source.y, final_task, [(others, test)], "test row")
    _model_of(final, final_task, source).save(path, **saved)
    if plot_path is not None:
        save_plot(lambda: _figure(trials), plot_path, path)
    seconds = time.perf_counter() - start
    output.facts(
        [
            ("best", f"trial {best.number}: {as_options(best.settings)}"),
            *final_task.facts(scores, format_count(len(test), "test row")),
            ("time", f"{seconds:.2f} s for {format_count(len(trials), 'trial')}"),
            ("model", f"{path}, trained on {format_count(len(others), 'row')} with the best settings"),
            *([("trials", str(csv_path))] if csv_path else []),
            *([("plot", str(plot_path))] if plot_path else []),
        ]
    )
    if note:
        output.log(f"note: {note}")
    output.outcome(
        {
            "command": "search",
            "data": table.source,
            "features": len(final.encoder.inputs),
            "target": source.target,
            "task": task.kind,
            "classes": list(task.classes) if isinstance(task, Classification) else None,
            "rows": {"training": len(train), "validation": len(validation), "test": len(test)},
            "backend": backend.name,
            "dtype": args.dtype,
            "seed": args.seed,
            "loss": task.loss,
            "requested": args.trials,
            "ended_by": search.ended_by,
            "trials": [trial.as_dict() for trial in trials],
            "best": best.number,
            "seconds": seconds,
            "metrics": scores,
            "metrics_of": "test",
            "note": note or None,
            "model": str(path),
            "csv": None if csv_path is None else str(csv_path),
            "plot": None if plot_path is None else str(plot_path),
        }
    )
    if search.ended_by == "interrupt":
        raise KeyboardInterrupt(f"the best of {format_count(len(trials), 'trial')} was written to {path}")


class OutOfTime(Exception):
    """The time limit of a search is reached."""


class TimeLimit(Callback):
    """Ends training at a time of :func:`time.perf_counter`."""

    def __init__(self, end: float) -> None:
        self.end = end

    def on_chunk(self, training: Training) -> None:
        """Raise OutOfTime if the time is over."""
        if time.perf_counter() > self.end:
            raise OutOfTime


class Search:
    """Trains networks with random settings side by side, and keeps the results of those that were trained to the end.

    Attributes
    ----------
    trials : list of Trial
        In the order in which they ended.
    ended_by : {"trials", "time", "interrupt"}
        The reason why the search has ended.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        backend: Backend,
        source: TrainingData,
        task: Task,
        first: Run,
        output: Output,
    ) -> None:
        self._args, self._backend, self._source, self._task, self._first = args, backend, source, task, first
        self._output = output
        self._end = time.perf_counter() + 60 * args.minutes if args.minutes else inf
        self._y = task.encode(source.y)
        self.trials: list[Trial] = []
        self.ended_by = "trials"

    def run(self) -> None:
        """Run all trials, until the time limit or Ctrl-C."""
        settings = enumerate(islice(draw_settings(self._args, self._first.recipe), self._args.trials), 1)
        # One call trains the largest networks first, so with a time limit, small ones would often not be tried.
        together = max(TOGETHER, 2 * cores()) if self._end == inf else 2 * cores()
        try:
            with self._output.progress() as show:
                while round_of_trials := list(islice(settings, together)):
                    self._train(round_of_trials, show)
        except OutOfTime:
            self.ended_by = "time"
        except KeyboardInterrupt:
            self.ended_by = "interrupt"
        self._require_result()
        if self.ended_by != "trials":
            reason = "interrupted" if self.ended_by == "interrupt" else f"--minutes {self._args.minutes:g} are over"
            count = f"after {len(self.trials)} of {self._args.trials} trials, which are kept"
            self._output.log(f"{reason} {count}; the best settings are now trained; Ctrl-C ends this at once")

    def ranked(self) -> list[Trial]:
        """Return the trials, best first."""
        return sorted(self.trials, key=lambda trial: (trial.loss, trial.number))

    def _train(self, trials: Sequence[tuple[int, Settings]], show: Callable[[str, float], None]) -> None:
        """Train the networks of some trials side by side."""
        run, rows = self._first, len(self._first.train)
        arguments = [_with(self._args, settings) for _, settings in trials]
        networks = [self._network(own) for own in arguments]

        def on_network(result: FitResult) -> None:
            number, settings = trials[result.index]
            scores: dict[str, float] = {}
            if result.error is None:
                scored = run.alone(result.network)
                scores = scored.scores(self._task, self._source, run.held_out)
            self.trials.append(Trial(number, settings, result.network.layout.size, scores, result.seconds))
            self._show_progress(show)

        fit_many(
            networks,
            run.X,
            self._y,
            loss=self._task.loss,
            optimizer=[train_defaults.make_optimizer(own, rows) for own in arguments],
            epochs=train_defaults.choose_epochs(self._args, rows),
            batch_size=self._args.batch_size,
            samples=run.train,
            sample_weight=run.weights(self._task, self._source.y),
            l1=self._args.l1,
            l2=[own.l2 for own in arguments],
            clip_norm=self._args.clip_norm,
            average=train_defaults.make_average(self._args, rows),
            callbacks=(TimeLimit(self._end),),
            on_network=on_network,
        )

    def _network(self, args: argparse.Namespace) -> Network:
        """Return the network of a trial."""
        (like,) = self._first.networks
        recipe = train_defaults.Recipe(args.layers, args.dropout, args.l2)
        return Network(
            make_layers(args, recipe, self._first.encoder, self._task),
            like.inputs,
            backend=self._backend,
            dtype=args.dtype,
            seed=args.seed,
            standardizer=like.standardizer,
        )

    def _show_progress(self, show: Callable[[str, float], None]) -> None:
        """Show how many trials have ended: on a terminal as a bar, otherwise as about ten lines of text."""
        from deepnotes.network.training.progress import is_due  # imports rich

        done, total = len(self.trials), self._args.trials
        best = min(trial.loss for trial in self.trials)
        text = f"trials {done}/{total}  best loss {best:.4g}"
        show(text, done / total)
        if not stderr().isatty() and is_due(done, total):
            self._output.log(text)

    def _require_result(self) -> None:
        """Raise an error if no trial has a finite loss."""
        if any(isfinite(trial.loss) for trial in self.trials):
            return
        if self.ended_by == "interrupt":
            raise KeyboardInterrupt("no trial was trained to the end, and no model was written")
        if self.ended_by == "time":
            raise with_hint(
                DeepnotesError(f"no trial was trained to the end within {self._args.minutes:g} min"),
                "give more --minutes or fewer --epochs",
            )
        raise with_hint(DeepnotesError("the loss of each trial became NaN or infinite"), "try --clip-norm 1")


def _with(args: argparse.Namespace, settings: Settings) -> argparse.Namespace:
    """Return the arguments of ``train`` for some settings."""
    return argparse.Namespace(**{**vars(args), **settings})


def _model_of(run: Run, task: Task, source: TrainingData) -> Model:
    """Return the model of a run, with its metadata."""
    model = Model(
        run.predictor, run.encoder.inputs, source.target, task, run.encoder, source.dates, as_metadata(source.format)
    )
    model.set_metadata()
    return model


def _refit_best(
    args: argparse.Namespace,
    backend: Backend,
    source: TrainingData,
    rows: np.ndarray,
    trials: Sequence[Trial],
    output: Output,
) -> tuple[Trial, Run, Task]:
    """Train a network with the best settings on all rows except the test rows; return its trial, the run and the task.

    If the loss becomes NaN or infinite, the next best settings are used.
    """
    with np.errstate(all="ignore"):
        task = source.kind.of(source.y[rows], args.loss)
    for trial in trials:
        arguments = _with(args, trial.settings)
        final = prepare(arguments, backend, source, task, (rows, rows[:0]))
        try:
            train_alone(arguments, final, task, source, output)
        except DeepnotesError as error:
            if not isinstance(error.__cause__, NonFiniteLossError):
                raise
            output.log(f"trial {trial.number}: {error}; the next best settings are used")
            continue
        return trial, final, task
    raise with_hint(DeepnotesError("the loss became NaN or infinite with all settings"), "try --clip-norm 1")


def _report(trials: Sequence[Trial], task: Task, output: Output) -> None:
    """Report the best trials as a table."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    names = ["trial", "loss", *_score_names(task), "layers", "activation", "learning rate", "dropout", "L2"]
    names += ["parameters", "time, s"]
    for name in names:
        table.add_column(name, header_style="bold", justify="left" if name in {"layers", "activation"} else "right")
    for row in _rows(trials[:SHOWN], task):
        table.add_row(*map(cell, row))
    output.report("")
    output.show(table)
    if len(trials) > SHOWN:
        output.report(f"and {format_count(len(trials) - SHOWN, 'trial')} with a larger loss")
    output.report("")


def _score_names(task: Task) -> list[str]:
    return ["accuracy"] if isinstance(task, Classification) else ["RMSE", "R²"]


def _rows(trials: Sequence[Trial], task: Task) -> Iterator[list[str]]:
    """Yield the cells of each trial; the losses have the same number of digits after the point."""
    best = trials[0].loss
    digits = min(9, max(0, 3 - floor(log10(best)))) if best > 0 else 9
    for trial in trials:
        yield [
            str(trial.number),
            _format_loss(trial.loss, digits),
            *_format_scores(trial.scores, task),
            *map(format_setting, trial.settings.values()),
            f"{trial.parameters:,}",
            f"{trial.seconds:.2f}",
        ]


def _format_loss(loss: float, digits: int) -> str:
    if loss == inf:
        return "not finite"
    return f"{loss:.{digits}f}" if loss < 1e6 else f"{loss:.3g}"


def _format_scores(scores: Mapping[str, float], task: Task) -> list[str]:
    if not scores:
        return [""] * len(_score_names(task))
    if isinstance(task, Classification):
        return [f"{scores['accuracy']:.2%}"]
    return [format_number(scores["rmse"]), f"{scores['r2']:.4f}"]


def _as_columns(trials: Sequence[Trial]) -> tuple[list[str], list[Any]]:
    """Return the names and the columns of the table of all trials; scores that are missing are NaN."""
    scores = {name: [trial.scores.get(name, np.nan) for trial in trials] for name in trials[0].scores}
    settings = {
        name: [value if isinstance(value := trial.settings[name], float) else format_setting(value) for trial in trials]
        for name in trials[0].settings
    }
    columns = {
        "trial": [trial.number for trial in trials],
        **scores,
        **settings,
        "parameters": [trial.parameters for trial in trials],
        "seconds": [trial.seconds for trial in trials],
    }
    return list(columns), list(columns.values())


def _figure(trials: Sequence[Trial]) -> Any:
    """Plot the loss of each trial against each setting."""
    settings: dict[str, list[Any]] = {
        "learning rate": [trial.settings["learning_rate"] for trial in trials],
        "width": [trial.settings["layers"][0] for trial in trials],
        "hidden layers": [len(trial.settings["layers"]) for trial in trials],
        "activation": [trial.settings["activation"] for trial in trials],
        "dropout": [trial.settings["dropout"] for trial in trials],
        "L2": [trial.settings["l2"] for trial in trials],
    }
    return plots.trials(settings, [trial.loss for trial in trials])
