"""Training of several networks with the same settings side by side: the members of an ensemble, and folds."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from deepnotes.backends.base import Backend
from deepnotes.cli import data, train_defaults
from deepnotes.cli.arguments import with_hint
from deepnotes.cli.output import Output, format_count
from deepnotes.cli.tasks import Classification, Task
from deepnotes.cli.training_data import TrainingData
from deepnotes.datasets.encoding import Encoder
from deepnotes.datasets.on_disk import OnDisk
from deepnotes.datasets.standardizer import Standardizer
from deepnotes.datasets.tables import Column
from deepnotes.network.distributed import Ranks
from deepnotes.network.ensemble import Ensemble
from deepnotes.network.fit_many import FitManyInterrupt, fit_many
from deepnotes.network.network import Network
from deepnotes.network.training.callbacks import EarlyStopping
from deepnotes.network.training.history import History
from deepnotes.network.training.state import Callback, Training
from deepnotes.nn.layers import Embedding, Layer
from deepnotes.utils.errors import ArgumentError, DeepnotesError, NonFiniteLossError


@dataclass
class Run:
    """The training of a network or an ensemble on some rows of a table.

    Parameters
    ----------
    predictor : Network or Ensemble
    encoder : Encoder
        Fitted to the rows to train on.
    X : ndarray or OnDisk, shape (n, m)
        All rows of the table, encoded.
    train, held_out : ndarray of int
        The indices of the rows to train on, and of the rows to validate with after each epoch.
    recipe : Recipe
        The sizes of the layers, and the regularization.
    class_weights : ndarray, shape (k,), or None
        The weight of each class.
    stops_early : bool
        Whether the rows in `held_out` decide which epoch is kept.
    histories : list of History
        One for each network, after training.
    """

    predictor: Network | Ensemble
    encoder: Encoder
    X: np.ndarray | OnDisk
    train: np.ndarray
    held_out: np.ndarray
    recipe: train_defaults.Recipe
    class_weights: np.ndarray | None = None
    stops_early: bool = False
    histories: Sequence[History] = ()

    @property
    def networks(self) -> tuple[Network, ...]:
        """All networks of the run."""
        return self.predictor.networks if isinstance(self.predictor, Ensemble) else (self.predictor,)

    def inputs(self, rows: np.ndarray) -> np.ndarray | OnDisk:
        """Return the samples at the k indices `rows`, shape (n, k)."""
        return data.select_samples(self.X, rows)

    def alone(self, network: Network) -> "Run":
        """Return the run of one of the networks."""
        return replace(self, predictor=network, histories=())

    def weights(self, task: Task, column: Column) -> np.ndarray | None:
        """Return the weight of each row by its class, shape (m,), or None; `column` holds the targets."""
        if self.class_weights is None or not isinstance(task, Classification):
            return None
        weights: np.ndarray = self.class_weights[task.indices(column)]
        return weights

    def early_stopping(self, args: argparse.Namespace, epochs: int) -> EarlyStopping | None:
        """Return the callback that keeps the best epoch, after all `epochs` unless a patience is requested."""
        if not self.stops_early:
            return None
        return EarlyStopping(epochs if args.early_stopping is None else args.early_stopping)

    def scores(self, task: Task, source: TrainingData, rows: np.ndarray) -> dict[str, float]:
        """Return the scores of the predictor on some rows, by name."""
        with np.errstate(all="ignore"):
            return task.evaluate(self.predictor, self.inputs(rows), source.y[rows])


def score_classes(task: Task, source: TrainingData, parts: Sequence[tuple[Run, np.ndarray]]) -> list[dict[str, Any]]:
    """Return the scores of each class on the rows of several runs together; [] for a regression."""
    if not isinstance(task, Classification):
        return []
    with np.errstate(all="ignore"):
        A = np.concatenate([run.predictor.predict(run.inputs(rows)) for run, rows in parts], axis=1)
    return task.score_classes(A, np.concatenate([source.y[rows] for _, rows in parts]))


def prepare(
    args: argparse.Namespace,
    backend: Backend,
    source: TrainingData,
    task: Task,
    rows: tuple[np.ndarray, np.ndarray],
    others: Sequence[Run] = (),
    stops_early: bool = False,
) -> Run:
    """Return a run that is not trained yet.

    Parameters
    ----------
    args : Namespace
        The options of ``train``. With ``args.members``, the run trains an ensemble, with the seeds that follow
        ``args.seed``.
    backend : Backend
    source : TrainingData
    task : Task
    rows : (ndarray, ndarray)
        The rows to train on, and to validate with.
    others : sequence of Run
        Runs whose X is shared if the encoder is the same.
    stops_early : bool
        Whether the latter rows decide which epoch is kept.

    Raises
    ------
    ArgumentError
        If --class-weight does not fit the task.
    """
    train, held_out = rows
    class_weights = _class_weights(args.class_weight, task, source.y[train])
    encoder = source.encoder(train)
    recipe = train_defaults.Recipe.of(args, len(train))
    shared = [run.X for run in others if run.encoder == encoder]
    X = shared[0] if shared else source.samples(encoder)
    with np.errstate(all="ignore"):  # numbers that overflow are reported as an error later
        standardizer = Standardizer.fit(data.select_samples(X, train), unchanged=list(encoder.tables))
    networks = [
        Network(
            make_layers(args, recipe, encoder, task),
            len(encoder.inputs),
            backend=backend,
            dtype=args.dtype,
            seed=args.seed + i,
            standardizer=standardizer,
        )
        for i in range(args.members or 1)
    ]
    predictor = Ensemble(networks) if args.members else networks[0]
    return Run(predictor, encoder, X, train, held_out, recipe, class_weights, stops_early)


def make_layers(args: argparse.Namespace, recipe: train_defaults.Recipe, encoder: Encoder, task: Task) -> list[Layer]:
    """Return the layers of a network; the first is an embedding if the encoder leaves categories as indices."""
    embedding = [Embedding(encoder.tables, unknown=True)] if encoder.tables else []
    return [*embedding, *recipe.make_hidden_layers(args), task.output_layer()]


def _class_weights(text: str | None, task: Task, column: Column) -> np.ndarray | None:
    """Return the weight of each class, shape (k,), or None; `text` is the option --class-weight."""
    if text is None:
        return None
    if not isinstance(task, Classification):
        raise ArgumentError("--class-weight is for classes, but the task is a regression")
    return task.class_weights(text, column)


def train_alone(
    args: argparse.Namespace,
    run: Run,
    task: Task,
    source: TrainingData,
    output: Output,
    ranks: Ranks | None = None,
) -> None:
    """Train the only network of a run, on `ranks` if there are several processes, and set its history.

    Raises
    ------
    DeepnotesError
        If the loss is not finite.
    KeyboardInterrupt, SystemExit
        If training is interrupted; the message says how to resume it.
    """
    (network,) = run.networks
    train, held_out = run.train, run.held_out
    epochs = train_defaults.choose_epochs(args, len(train))
    try:
        history = network.fit(
            run.inputs(train),
            task.encode(source.y[train]),
            loss=task.loss_function,
            optimizer=train_defaults.make_optimizer(args, len(train)),
            epochs=epochs,
            batch_size=args.batch_size,
            validation=_validation(run, task, source.y) if len(held_out) else None,
            sample_weight=run.weights(task, source.y[train]),
            l1=args.l1,
            l2=run.recipe.l2,
            clip_norm=args.clip_norm,
            average=train_defaults.make_average(args, len(train)),
            metrics=task.validation_metrics if len(held_out) else (),
            early_stopping=run.early_stopping(args, epochs),
            checkpoint=args.checkpoint,
            every=args.every,
            resume=args.resume,
            callbacks=[ReportResumption(output)],
            progress=not output.quiet,
            ranks=ranks,
        )
    except NonFiniteLossError as error:
        hint = "no model was written; try a smaller --learning-rate, or --clip-norm 1"
        raise with_hint(DeepnotesError(str(error)), hint) from error
    except (KeyboardInterrupt, SystemExit) as end:
        raise interrupted(end, args, output) from None
    run.histories = [history]


def train_side_by_side(
    args: argparse.Namespace, runs: Sequence[Run], task: Task, source: TrainingData, output: Output
) -> None:
    """Train all networks of all runs, those with equal inputs X side by side, and set the histories of the runs.

    Raises
    ------
    DeepnotesError
        If a loss is not finite.
    KeyboardInterrupt, SystemExit
        If training is interrupted; the message says how to resume it.
    """
    y = task.encode(source.y)
    directories = _directories(args, sum(len(run.networks) for run in runs))
    groups: list[list[Run]] = []
    for run in runs:
        group = next((group for group in groups if group[0].X is run.X), None)
        if group is None:
            groups.append([run])
        else:
            group.append(run)
    trained = 0
    for group in groups:
        networks = [network for run in group for network in run.networks]
        settings = [_settings(args, run, task, source.y) for run in group for _ in run.networks]
        by_name: dict[str, Any] = {name: [one[name] for one in settings] for name in settings[0]}
        indices = range(trained, trained + len(networks))
        try:
            results = fit_many(
                networks,
                group[0].X,
                y,
                loss=task.loss_function,
                batch_size=args.batch_size,
                l1=args.l1,
                clip_norm=args.clip_norm,
                checkpoint=[directories[i] for i in indices],
                every=args.every,
                resume=args.resume,
                callbacks=[[ReportResumption(output, f"network {i}")] for i in indices],
                progress=not output.quiet,
                **by_name,
            )
        except (KeyboardInterrupt, SystemExit) as end:
            done = trained + (len(end.results) if isinstance(end, FitManyInterrupt) else 0)
            raise interrupted(
                end, args, output, f"{done} of {len(directories)} networks were trained to the end; "
            ) from None
        for result in results:
            if result.error is not None:
                hint = "no model was written; try a smaller --learning-rate, or --clip-norm 1"
                raise with_hint(DeepnotesError(f"network {trained + result.index}: {result.error}"), hint)
        trained += len(networks)
        histories = iter([result.history for result in results])
        for run in group:
            run.histories = [next(histories) for _ in run.networks]


def _settings(args: argparse.Namespace, run: Run, task: Task, y: Column) -> dict[str, Any]:
    """Return the arguments of ``fit`` that differ between runs."""
    rows, validation = len(run.train), None
    epochs = train_defaults.choose_epochs(args, rows)
    if len(run.held_out):  # indices, unless the validation is weighted, too
        validation = run.held_out if run.class_weights is None else _validation(run, task, y)
    return {
        "optimizer": train_defaults.make_optimizer(args, rows),
        "epochs": epochs,
        "samples": run.train,
        "sample_weight": run.weights(task, y),
        "validation": validation,
        "l2": run.recipe.l2,
        "average": train_defaults.make_average(args, rows),
        "early_stopping": run.early_stopping(args, epochs),
        "metrics": task.validation_metrics if len(run.held_out) else (),
    }


def _validation(run: Run, task: Task, y: Column) -> tuple[Any, ...]:
    """Return the samples, the targets and the weights, if there are any, to validate with; `y` are all targets."""
    column = y[run.held_out]
    weights = run.weights(task, column)
    return (run.inputs(run.held_out), task.encode(column), *(() if weights is None else (weights,)))


def _directories(args: argparse.Namespace, networks: int) -> list[Path | None]:
    """Return the directory for the checkpoints of each network."""
    if args.checkpoint is None:
        return [None] * networks
    return [Path(args.checkpoint) / f"{i:04}" for i in range(networks)]


def interrupted(
    end: KeyboardInterrupt | SystemExit, args: argparse.Namespace, output: Output, done: str = ""
) -> KeyboardInterrupt | SystemExit:
    """Return the exception to raise after an interrupted training, with a hint to use --resume if that is possible.

    `done` describes what was done, and ends in "; ".
    """
    hint = f"; the same command with --resume continues from {args.checkpoint}" if args.checkpoint else ""
    if isinstance(end, KeyboardInterrupt):
        return KeyboardInterrupt(f"{done}no model was written{hint}")
    output.log(f"terminated; {done}no model was written{hint}")
    return end


class ReportResumption(Callback):
    """A callback that reports at which update and epoch training was resumed.

    Parameters
    ----------
    output : Output
    network : str
        The name of the network, if there are several.
    """

    def __init__(self, output: Output, network: str = "") -> None:
        self.output, self.network = output, network

    def on_ready(self, training: Training) -> None:
        """Report the update and the epoch, unless training starts from the beginning."""
        if training.state.step:
            updates = format_count(training.step, "update")
            of_network = f"{self.network}, " if self.network else ""
            self.output.facts([("resumed", f"{of_network}after {updates}, in epoch {training.epoch}")])


@dataclass(frozen=True)
class FoldScores:
    """The scores of one run for each fold, on rows that took no part in its training."""

    scores: Sequence[Mapping[str, float]]

    def over_folds(self, function: Callable[..., Any]) -> dict[str, float]:
        """Return a function of the scores of all folds, by the name of the score."""
        return {name: float(function([scores[name] for scores in self.scores])) for name in self.scores[0]}

    @property
    def mean(self) -> dict[str, float]:
        """The mean of each score."""
        return self.over_folds(np.mean)

    @property
    def std(self) -> dict[str, float]:
        """The standard deviation of each score between the folds."""
        return self.over_folds(lambda values: np.std(values, ddof=1))

    def as_dict(self) -> dict[str, Any]:
        """Return the scores as JSON values."""
        return {"number": len(self.scores), "mean": self.mean, "std": self.std, "scores": list(map(dict, self.scores))}


def describe_folds(folds: Sequence[np.ndarray]) -> str:
    """Return the number of folds and their sizes, which differ by at most one.

    Examples
    --------
    >>> describe_folds([np.arange(3), np.arange(2)])
    '2 folds of 2 or 3 rows'
    """
    sizes = sorted({len(fold) for fold in folds})
    return f"{len(folds)} folds of {' or '.join(f'{size:,}' for size in sizes)} rows"


def mean_history(histories: Sequence[History]) -> History:
    """Return the mean of each loss and metric over the networks that were still trained in an epoch."""

    def mean(columns: Sequence[Sequence[float]]) -> list[float]:
        longest = max(map(len, columns))
        return [float(np.mean([c[epoch] for c in columns if epoch < len(c)])) for epoch in range(longest)]

    if len(histories) == 1:
        return histories[0]
    return History(
        mean([history.loss for history in histories]),
        mean([history.val_loss for history in histories]),
        {name: mean([history.metrics[name] for history in histories]) for name in histories[0].metrics},
    )
