"""Classification and regression: how a target column becomes Y, and outputs become predictions and scores."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np

from deepnotes.cli.output import format_count, format_number
from deepnotes.datasets.cells import hint_of
from deepnotes.datasets.encoding import are_numbers, codes_of, find_equal_numbers, value_of
from deepnotes.datasets.on_disk import OnDisk
from deepnotes.datasets.reading import labels_of
from deepnotes.datasets.standardizer import Standardizer
from deepnotes.datasets.tables import Column
from deepnotes.network.distributions import DISTRIBUTIONS, mean_and_deviation, point_prediction, sorted_quantiles
from deepnotes.network.ensemble import Ensemble
from deepnotes.network.network import Network
from deepnotes.nn import metrics
from deepnotes.nn.layers import Dense
from deepnotes.nn.losses import LIBRARY as LOSSES
from deepnotes.nn.losses import GaussianNLL, LossFunction, QuantileLoss
from deepnotes.utils.errors import ArgumentError, DataError
from deepnotes.utils.safe_text import NUMBER
from deepnotes.utils.wording import join_names, quote

MOST_CLASSES = 20
"""A target of whole numbers with more distinct values than this is treated as a quantity, not as classes."""
ROWS_PER_CLASS = 3
"""A target of whole numbers with fewer rows for each distinct value than this is also treated as a quantity, since
the values of classes recur; two distinct values are always classes."""


@dataclass(frozen=True)
class Classification:
    """The prediction of classes; the network outputs the probability of each class."""

    classes: tuple[str, ...]
    loss: str

    kind: ClassVar[str] = "classification"
    validation_metrics: ClassVar[tuple[str, ...]] = ("accuracy",)

    @classmethod
    def of(cls, column: Column, loss: str | None = None) -> "Classification":
        """Return the task whose classes are the distinct values of `column`.

        If all classes are numbers, they are sorted as numbers, otherwise as text. The default loss is categorical
        cross-entropy.

        Raises
        ------
        DataError
            If there is only one class, or two classes are the same number.
        """
        classes = tuple(np.unique(labels_of(column)).tolist())
        numbers = [value_of(name) for name in classes]
        if None not in numbers:
            classes = tuple(name for _, name in sorted(zip(numbers, classes, strict=True)))
        if pair := find_equal_numbers(classes):
            raise DataError(
                f"the target has the classes {pair[0]} and {pair[1]}, which are the same number; write it the "
                "same way in every row"
            )
        if len(classes) == 1:
            raise DataError(f"the target has only one class, {quote(classes[0])}: there is nothing to learn")
        return cls(classes, loss or "categorical_cross_entropy")

    @property
    def loss_function(self) -> str:
        """The loss, as for :meth:`Network.fit`."""
        return self.loss

    def output_layer(self) -> Dense:
        """Return the last layer."""
        return Dense(len(self.classes), "softmax")

    def indices(self, column: Column) -> np.ndarray:
        """Return the index of the class of each row, shape (m,).

        Raises
        ------
        DataError
            If the column contains a class that is not among the classes of the task.
        """
        values, inverse = np.unique(labels_of(column), return_inverse=True)
        codes = codes_of(values.tolist(), self.classes)
        if (codes < 0).any():
            raise DataError(
                f"the target has the class {quote(values[codes < 0][0])}, but the model knows only "
                f"{join_names(self.classes)}"
            )
        indices: np.ndarray = codes[inverse]
        return indices

    def encode(self, column: Column) -> np.ndarray:
        """Return Y for the rows of `column`: class indices, or one-hot columns if the loss needs them."""
        indices = self.indices(column)
        return indices if LOSSES[self.loss].targets == "simplex" else np.eye(len(self.classes))[:, indices]

    def columns(self, A: np.ndarray) -> dict[str, np.ndarray]:
        """Return the columns of a table of predictions for the outputs A, shape (k, m)."""
        prediction = np.array(self.classes)[A.argmax(axis=0)]
        return {"prediction": prediction, **{f"p_{name}": p for name, p in zip(self.classes, A, strict=True)}}

    def evaluate(self, network: Network | Ensemble, X: np.ndarray | OnDisk, column: Column) -> dict[str, float]:
        """Return the scores of the network on X, shape (n, m), by name; `column` holds the true classes.

        F1 is the mean of the classes. The average precision is that of the second of two classes.
        """
        names = ["accuracy", "balanced_accuracy", "f1", "roc_auc", *(["average_precision"] if self._is_binary else [])]
        values = network.evaluate(X, self.encode(column), loss=self.loss, metrics=names)
        return {name: values[name] for name in (*names, "loss")}

    def score_classes(self, A: np.ndarray, column: Column) -> list[dict[str, Any]]:
        """Return the scores of each class: its name, the number of its rows and of its predictions, and the ratios.

        A precision is None if the class is never predicted, and a recall if it has no row.

        Parameters
        ----------
        A : array, shape (k, m)
            The outputs of a network.
        column : array, shape (m,)
            The true classes.
        """
        scores = metrics.ClassScores.of(A, np.eye(len(self.classes))[:, self.indices(column)])
        return [
            {
                "class": name,
                "rows": int(scores.samples[i]),
                "predicted": int(scores.predicted[i]),
                "precision": float(scores.precision[i]) if scores.predicted[i] else None,
                "recall": float(scores.recall[i]) if scores.samples[i] else None,
                "f1": float(scores.f1[i]) if scores.samples[i] + scores.predicted[i] else None,
            }
            for i, name in enumerate(self.classes)
        ]

    def class_weights(self, text: str, column: Column) -> np.ndarray:
        """Return the weight of each class, shape (k,), for the option --class-weight.

        Parameters
        ----------
        text : str
            ``balanced``: the weights of the rows of each class have the same sum; or pairs such as ``yes=5,no=1``, in
            which classes that are left out have the weight 1.
        column : array, shape (m,)
            The classes of the training rows.

        Raises
        ------
        ArgumentError
            If a weight is not a number of at least 0, if all are 0, or if a class is unknown or occurs twice.
        """
        if text == "balanced":
            counts = np.bincount(self.indices(column), minlength=len(self.classes))
            balanced: np.ndarray = len(column) / (len(self.classes) * np.maximum(counts, 1))
            return balanced
        weights: dict[int, float] = {}
        pair = ""
        for part in text.split(","):
            pair += part
            name, separator, weight = (piece.strip() for piece in pair.rpartition("="))
            if not separator:  # the comma belongs to the name of a class
                pair += ","
                continue
            if not NUMBER.fullmatch(weight) or not 0 <= float(weight) < math.inf:
                raise ArgumentError(f"--class-weight {quote(pair)}: wanted CLASS=WEIGHT, with a number of at least 0")
            code = int(codes_of([name], self.classes)[0])
            if code < 0:
                known = join_names(self.classes)
                raise ArgumentError(f"--class-weight: there is no class {quote(name)}; the classes are {known}")
            if code in weights:
                raise ArgumentError(f"--class-weight: the class {quote(name)} has two weights")
            weights[code], pair = float(weight), ""
        if pair:
            raise ArgumentError(f"--class-weight {quote(text)}: wanted balanced, or CLASS=WEIGHT,CLASS=WEIGHT,...")
        if not any(weights.get(i, 1.0) for i in range(len(self.classes))):
            raise ArgumentError(f"--class-weight {quote(text)}: all classes have the weight 0")
        return np.array([weights.get(i, 1.0) for i in range(len(self.classes))])

    @property
    def _is_binary(self) -> bool:
        return len(self.classes) == 2

    def facts(
        self, scores: Mapping[str, float], rows: str, spread: Mapping[str, float] | None = None
    ) -> list[tuple[str, str]]:
        """Describe the scores for :meth:`Output.facts`.

        Parameters
        ----------
        scores : mapping of str to float
        rows : str
            The samples, such as "20 held-out rows".
        spread : mapping of str to float, optional
            The standard deviation of each score.
        """
        accuracy, balanced = (
            f"{scores[name]:.2%}{'' if spread is None else f' ± {spread[name]:.2%}'}"
            for name in ("accuracy", "balanced_accuracy")
        )
        facts = [
            ("accuracy", f"{accuracy} of {rows}"),
            ("balanced", f"{balanced}, the mean of the classes"),
            ("F1", f"{format_with_spread('f1', scores, spread)}, the mean of the classes"),
        ]
        if not math.isnan(scores["roc_auc"]):
            area = format_with_spread("roc_auc", scores, spread)
            more = ", the mean of each class against the others"
            if self._is_binary:
                precision = format_with_spread("average_precision", scores, spread)
                more = f"; average precision {precision} of class {quote(self.classes[1])}"
            facts.append(("AUC", area + more))
        return [*facts, ("loss", f"{format_with_spread('loss', scores, spread)} ({self.loss})")]

    def __str__(self) -> str:
        return f"{len(self.classes)} classes: {join_names(self.classes)}"


@dataclass(frozen=True)
class Regression:
    """The prediction of a quantity; the network outputs ``(target - mean) / scale``."""

    mean: float
    scale: float
    loss: str

    kind: ClassVar[str] = "regression"
    validation_metrics: ClassVar[tuple[str, ...]] = ("r2",)

    @classmethod
    def of(cls, column: Column, loss: str | None = None) -> "Regression":
        """Return the task for the targets in `column`; the default loss is the mean squared error.

        Raises
        ------
        ArgumentError
            If `loss` is a loss for classification.
        DataError
            If the targets are text, or outside the domain of `loss`.
        """
        loss = loss or "mean_squared_error"
        quantities = [name for name, traits in LOSSES.items() if traits.targets in {"real", "count"}]
        if loss not in quantities:
            raise ArgumentError(f"--loss {loss} is for classes; a regression takes {' or '.join(quantities)}")
        y = cls._numbers(column)
        if LOSSES[loss].targets == "count":  # counts may be scaled, but not shifted below 0
            if y.min() < 0:
                raise DataError(f"the target contains {y.min():g}, but the loss {loss} needs numbers of at least 0")
            return cls(0.0, float(y.mean()) or 1.0, loss)
        standardizer = Standardizer.fit(y.reshape(1, -1))
        return cls(float(standardizer.mean[0, 0]), float(standardizer.scale[0, 0]), loss)

    @property
    def loss_function(self) -> str | LossFunction:
        """The loss, as for :meth:`Network.fit`."""
        return self.loss

    def output_layer(self) -> Dense:
        """Return the last layer, which has positive outputs if the targets are counts."""
        return Dense(1, "softplus" if LOSSES[self.loss].targets == "count" else "identity")

    def encode(self, column: Column) -> np.ndarray:
        """Return Y, shape (1, m), for the rows of `column`."""
        return (self._numbers(column).reshape(1, -1) - self.mean) / self.scale

    def columns(self, A: np.ndarray) -> dict[str, np.ndarray]:
        """Return the columns of a table of predictions for the outputs A, shape (1, m)."""
        return {"prediction": A[0].astype(np.float64) * self.scale + self.mean}

    def evaluate(self, network: Network | Ensemble, X: np.ndarray | OnDisk, column: Column) -> dict[str, float]:
        """Return the scores of the network on X, shape (n, m), by name; `column` holds the true values.

        RMSE and MAE are in the units of the target; the loss is computed for the scaled target.
        """
        y = self._numbers(column).reshape(1, -1)
        predicted = self.columns(network.predict(X))["prediction"].reshape(1, -1)
        return {
            "rmse": metrics.mean_squared_error(predicted, y) ** 0.5,
            "mae": metrics.mean_absolute_error(predicted, y),
            "r2": metrics.r2(predicted, y),
            "loss": network.evaluate(X, self.encode(column), loss=self.loss_function)["loss"],
        }

    def facts(
        self, scores: Mapping[str, float], rows: str, spread: Mapping[str, float] | None = None
    ) -> list[tuple[str, str]]:
        """Describe the scores for :meth:`Output.facts`; see :meth:`Classification.facts`."""
        deviation = "" if spread is None else f" ± {spread['r2']:.4f}"
        return [
            ("RMSE", f"{format_with_spread('rmse', scores, spread)} on {rows}"),
            ("MAE", format_with_spread("mae", scores, spread)),
            ("R²", f"{scores['r2']:.4f}{deviation}"),
            ("loss", f"{format_with_spread('loss', scores, spread)} ({self.loss} of the scaled target)"),
        ]

    @staticmethod
    def _numbers(column: Column) -> np.ndarray:
        """Return `column` after checking that it holds numbers."""
        if column.dtype.kind == "U":
            raise DataError(
                f"the target is text (its first value is {quote(column[0])}), but a regression needs numbers"
            )
        return column

    def __str__(self) -> str:
        return "a quantity"


@dataclass(frozen=True)
class Distribution(Regression):
    """The prediction of several quantiles of a quantity, or of its mean and standard deviation."""

    quantiles: tuple[float, ...] = ()

    @property
    def loss_function(self) -> QuantileLoss | GaussianNLL:
        """The loss, as for :meth:`Network.fit`."""
        return QuantileLoss(self.quantiles) if self.loss == "quantile" else GaussianNLL()

    def output_layer(self) -> Dense:
        """Return the last layer."""
        return Dense(self.loss_function.outputs_per_target)

    def columns(self, A: np.ndarray) -> dict[str, np.ndarray]:
        """Return the columns of a table of predictions for the outputs A: the median or mean, then what describes it.

        These are the quantiles, in ascending order in each row, or the standard deviation.
        """
        A, loss = A.astype(np.float64), self.loss_function
        prediction = {"prediction": point_prediction(loss, A)[0] * self.scale + self.mean}
        if isinstance(loss, GaussianNLL):
            return prediction | {"std": mean_and_deviation(loss, A)[1][0] * self.scale}
        values = sorted_quantiles(loss, A)[:, 0] * self.scale + self.mean
        return prediction | {f"quantile_{q}": row for q, row in zip(loss.quantiles, values, strict=True)}

    def evaluate(self, network: Network | Ensemble, X: np.ndarray | OnDisk, column: Column) -> dict[str, float]:
        """Return the scores of :meth:`Regression.evaluate`, and the share of the targets that the intervals cover."""
        scores = super().evaluate(network, X, column)
        predicted, y = self.columns(network.predict(X)), self._numbers(column)
        if self.loss == "gaussian":
            width = DEVIATIONS * predicted["std"]
            lower, upper = predicted["prediction"] - width, predicted["prediction"] + width
        else:
            lower, upper = (predicted[f"quantile_{q}"] for q in (self.quantiles[0], self.quantiles[-1]))
        return scores | {"coverage": float(np.mean((lower <= y) & (y <= upper)))}

    def facts(
        self, scores: Mapping[str, float], rows: str, spread: Mapping[str, float] | None = None
    ) -> list[tuple[str, str]]:
        """Describe the scores for :meth:`Output.facts`; see :meth:`Classification.facts`."""
        facts = super().facts(scores, rows, spread)
        interval = f"of the targets are within {DEVIATIONS} standard deviations of the mean; wanted 90%"
        if self.loss == "quantile":
            first, last = self.quantiles[0], self.quantiles[-1]
            interval = (
                f"of the targets are between the quantiles {first:g} and {last:g}; wanted {100 * (last - first):.4g}%"
            )
        deviation = "" if spread is None else f" ± {spread['coverage']:.2%}"
        return [*facts, ("coverage", f"{scores['coverage']:.2%}{deviation} {interval}")]


DEVIATIONS = 1.645
"""The standard deviations on both sides of the mean of a normal distribution within which 90% of it are."""


@dataclass(frozen=True)
class Regressions:
    """The prediction of several quantities; the network outputs ``(target - mean) / scale`` of each."""

    targets: tuple[str, ...]
    parts: tuple[Regression, ...]
    loss: str

    kind: ClassVar[str] = "regression"
    validation_metrics: ClassVar[tuple[str, ...]] = ("r2",)

    @classmethod
    def of(cls, targets: Sequence[str], columns: Column, loss: str | None = None) -> "Regressions":
        """Return the task for the targets in `columns`, shape (m, k); errors are as for :meth:`Regression.of`."""
        parts = tuple(Regression.of(column, loss) for column in columns.T)
        return cls(tuple(targets), parts, parts[0].loss)

    @property
    def loss_function(self) -> str:
        """The loss, as for :meth:`Network.fit`."""
        return self.loss

    def output_layer(self) -> Dense:
        """Return the last layer."""
        return Dense(len(self.parts), self.parts[0].output_layer().activation)

    def encode(self, columns: Column) -> np.ndarray:
        """Return Y, shape (k, m), for the rows of `columns`, shape (m, k)."""
        return np.concatenate([part.encode(column) for part, column in zip(self.parts, columns.T, strict=True)])

    def columns(self, A: np.ndarray) -> dict[str, np.ndarray]:
        """Return the columns of a table of predictions for the outputs A, shape (k, m)."""
        predicted = [part.columns(A[i : i + 1])["prediction"] for i, part in enumerate(self.parts)]
        return {f"prediction_{name}": values for name, values in zip(self.targets, predicted, strict=True)}

    def evaluate(self, network: Network | Ensemble, X: np.ndarray | OnDisk, columns: Column) -> dict[str, float]:
        """Return the mean of R² of all targets, the loss, and RMSE, MAE and R² of each target, by name."""
        Y = columns.T
        predicted = np.array(list(self.columns(network.predict(X)).values()))
        scores = {
            "r2": metrics.r2(predicted, Y),
            "loss": network.evaluate(X, self.encode(columns), loss=self.loss)["loss"],
        }
        for name, a, y in zip(self.targets, predicted[:, None], Y[:, None], strict=True):
            scores[f"rmse_{name}"] = metrics.mean_squared_error(a, y) ** 0.5
            scores[f"mae_{name}"] = metrics.mean_absolute_error(a, y)
            scores[f"r2_{name}"] = metrics.r2(a, y)
        return scores

    def facts(
        self, scores: Mapping[str, float], rows: str, spread: Mapping[str, float] | None = None
    ) -> list[tuple[str, str]]:
        """Describe the scores for :meth:`Output.facts`; see :meth:`Classification.facts`."""
        deviation = "" if spread is None else f" ± {spread['r2']:.4f}"
        facts = [("R²", f"{scores['r2']:.4f}{deviation} on {rows}, the mean of the targets")]
        for name in self.targets:
            rmse, mae = (format_with_spread(f"{score}_{name}", scores, spread) for score in ("rmse", "mae"))
            facts.append((name, f"R² {scores[f'r2_{name}']:.4f}, RMSE {rmse}, MAE {mae}"))
        return [*facts, ("loss", f"{format_with_spread('loss', scores, spread)} ({self.loss} of the scaled targets)")]

    def __str__(self) -> str:
        return f"{len(self.parts)} quantities"


@dataclass(frozen=True)
class SeveralTargets:
    """The kind of task for several targets, which names them."""

    targets: tuple[str, ...]

    def of(self, columns: Column, loss: str | None = None) -> Regressions:
        """Return the task for the targets in `columns`, shape (m, k)."""
        return Regressions.of(self.targets, columns, loss)


def format_with_spread(name: str, scores: Mapping[str, float], spread: Mapping[str, float] | None) -> str:
    """Return a score as text; with its spread, to two significant digits of the spread.

    Examples
    --------
    >>> format_with_spread("loss", {"loss": 0.123456}, None)
    '0.12346'
    >>> format_with_spread("loss", {"loss": 0.123456}, {"loss": 0.0123})
    '0.123 ± 0.012'
    """
    if spread is None:
        return format_number(scores[name])
    value, deviation = scores[name], spread[name]
    if not 1e-4 <= deviation < 1e9:
        return f"{format_number(value)} ± {deviation:.2g}"
    digits = max(0, 1 - math.floor(math.log10(deviation)))
    return f"{value:,.{digits}f} ± {deviation:,.{digits}f}"


def make_task(
    kind: type[Classification | Regression] | SeveralTargets,
    column: Column,
    loss: str | None = None,
    quantiles: Sequence[float] | None = None,
) -> "Task":
    """Return the task of this kind for the targets in `column`; errors are as for the method ``of`` of the kind.

    Parameters
    ----------
    kind : type or SeveralTargets
    column : Column
    loss : str, optional
        The name of a loss, ``quantile`` or ``gaussian``.
    quantiles : sequence of float, optional
        Those to predict with the loss ``quantile``, by default :data:`QUANTILES`.
    """
    if loss is None or loss not in DISTRIBUTIONS:
        return kind.of(column, loss)
    if kind is not Regression:
        given = (
            "the task is a classification (--task regression changes it)"
            if kind is Classification
            else "there are several targets"
        )
        raise ArgumentError(f"--loss {loss} is for one target that is a quantity, but {given}")
    plain = Regression.of(column)
    return Distribution(plain.mean, plain.scale, loss, tuple(quantiles or QUANTILES) if loss == "quantile" else ())


QUANTILES = (0.05, 0.5, 0.95)
"""The quantiles that are predicted by default."""

Task: TypeAlias = Classification | Regression | Regressions
TASKS: dict[str, type[Classification | Regression]] = {task.kind: task for task in (Classification, Regression)}


def suggest_task(column: Column) -> tuple[type[Classification | Regression], str]:
    """Return the task for which `column` is a likely target, and the reason, such as "is text".

    Raises
    ------
    DataError
        If the column is text that probably does not hold the names of classes.
    """
    if column.dtype.kind == "U":
        values = np.unique(column)
        hints = [hint for value in values.tolist() if (hint := hint_of(value))]
        if 2 * len(hints) > len(values):
            raise DataError(
                f"the target is text that looks like numbers or dates, such as {quote(values[0])}: {hints[0]}, or "
                "--task classification to use it as it is"
            )
        if len(values) > MOST_CLASSES and are_numbers(values.tolist()):
            raise DataError(
                f"the target is text, with {len(values):,} distinct numbers such as {quote(values[0])}: use --numeric "
                "to read it as numbers, or --task classification to use it as it is"
            )
        return Classification, "is text"
    distinct = len(np.unique(column))
    if not (column == np.rint(column)).all():
        return Regression, "has values that are not whole numbers"
    if distinct > MOST_CLASSES:
        return Regression, f"has {distinct:,} distinct whole numbers, more than {MOST_CLASSES}"
    if distinct > 2 and len(column) < ROWS_PER_CLASS * distinct:
        rows = format_count(len(column), "row")
        return Regression, f"has {distinct} distinct whole numbers in {rows}, so they hardly recur"
    return Classification, f"has {format_count(distinct, 'distinct value')}, all whole numbers"


def as_metadata(task: Task) -> dict[str, Any]:
    """Return the task as JSON values."""
    if isinstance(task, Classification):
        return {"task": task.kind, "loss": task.loss, "classes": list(task.classes)}
    if isinstance(task, Regressions):
        means, scales = [part.mean for part in task.parts], [part.scale for part in task.parts]
        return {"task": task.kind, "loss": task.loss, "target_mean": means, "target_scale": scales}
    quantiles = {"quantiles": list(task.quantiles)} if isinstance(task, Distribution) and task.quantiles else {}
    return {"task": task.kind, "loss": task.loss, "target_mean": task.mean, "target_scale": task.scale} | quantiles


def from_metadata(metadata: Mapping[str, Any], outputs: int) -> Task:
    """Return the task described by the JSON values of :func:`as_metadata`, for a network with this number of outputs.

    Raises
    ------
    KeyError, TypeError, ValueError, OverflowError
        If a value is missing or invalid.
    """
    kind, loss = metadata["task"], metadata["loss"]
    if kind not in TASKS or (loss not in LOSSES and (loss not in DISTRIBUTIONS or kind != Regression.kind)):
        raise ValueError(f"task {kind!r} with the loss {loss!r}")
    if kind == Classification.kind:
        classes = tuple(map(str, metadata["classes"]))
        if any(name.endswith("\0") for name in classes):
            raise ValueError("a class whose name ends in NUL")
        if not len(classes) == len(set(classes)) == outputs:
            raise ValueError(f"{len(classes)} classes, {len(set(classes))} of them distinct, for {outputs} outputs")
        return Classification(classes, loss)
    if isinstance(targets := metadata.get("target"), list):
        scaling = zip(targets, metadata["target_mean"], metadata["target_scale"], strict=True)
        parts = [
            from_metadata({**metadata, "target": t, "target_mean": a, "target_scale": b}, 1) for t, a, b in scaling
        ]
        if len(parts) != outputs:
            raise ValueError(f"{len(parts)} targets for {outputs} outputs")
        return Regressions(tuple(targets), tuple(part for part in parts if isinstance(part, Regression)), loss)
    mean, scale = float(metadata["target_mean"]), float(metadata["target_scale"])
    task: Regression = Regression(mean, scale, loss)
    if loss in DISTRIBUTIONS:
        task = Distribution(mean, scale, loss, tuple(metadata["quantiles"]) if loss == "quantile" else ())
    if outputs != task.output_layer().units or not np.isfinite([mean, scale]).all():
        raise ValueError(f"mean {mean} and scale {scale} for {outputs} outputs")
    return task
