"""Models: networks or ensembles that predict a column of a table from other columns."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, TypeAlias, cast

import numpy as np

from deepnotes.datasets.encoding import Encoder, codes_of
from deepnotes.datasets.reading import Format, Request, labels_of
from deepnotes.datasets.tables import Table, TableLike, read
from deepnotes.network.distributions import loss_named, mean_and_deviation, point_prediction, sorted_quantiles
from deepnotes.network.ensemble import Ensemble
from deepnotes.network.importance import Importance, falls_of
from deepnotes.network.network import Network
from deepnotes.nn import metrics
from deepnotes.nn.layers import Embedding
from deepnotes.nn.losses import GaussianNLL, LossFunction, QuantileLoss
from deepnotes.utils.errors import ArgumentError, DataError, ModelFileError
from deepnotes.utils.wording import join_names, quote

Data: TypeAlias = "str | PathLike[str] | Table | TableLike"
"""A table, or a path or a table in memory that :func:`deepnotes.read_table` takes."""

KEYS = {"features", "target", "task", "loss"}
"""The metadata that every model has; a network with other metadata is not a model."""
INVALID = "has no valid description of its inputs and outputs"


class Model:
    """A network or an ensemble, and what its inputs and outputs mean: columns of a table, and a class or a quantity.

    ``deepnotes train`` and ``deepnotes search`` write models, and :func:`deepnotes.load` reads them. The rows of a
    table are samples: a file, a DataFrame of pandas or polars, an Arrow table, a mapping of names to columns, or a
    NumPy array whose columns are those of the encoder, in order. Columns are found by their names; others are ignored.

    Parameters
    ----------
    network : Network or Ensemble
        Its metadata describe the inputs and outputs.

    Attributes
    ----------
    network : Network or Ensemble
        Takes and returns numbers, with samples as columns: ``model.network.predict(model.encode(table))``.
    encoder : Encoder
        Converts the columns of a table to inputs of the network.
    target : str or list of str
        The column that is predicted, or several.
    task : {"classification", "regression"}
    labels : tuple of str
        The names of the classes, as they are written in the training data; empty for a regression.
    dates : list of str
        The columns that are read as dates.
    format : Format
        How a text file is read.

    Raises
    ------
    ModelFileError
        If the metadata are not valid.

    Examples
    --------
    >>> import deepnotes as dn
    >>> net = dn.Network([dn.Dense(2, "softmax")], inputs=1, seed=0, theta=np.array([-9.0, 9.0, 0.0, 0.0]))
    >>> net.metadata = {"features": ["size"], "target": "kind", "task": "classification"}
    >>> net.metadata |= {"loss": "categorical_cross_entropy", "classes": ["small", "large"]}
    >>> model = Model(net)
    >>> model.predict({"size": [-1.0, 2.0], "other": ["not", "used"]})
    array(['small', 'large'], dtype='<U5')
    """

    def __init__(self, network: Network | Ensemble) -> None:
        self.network = network
        try:
            self._read(network.metadata)
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ModelFileError(
                f"the network {INVALID} ({type(error).__name__}: {error}); use a model that 'deepnotes train' wrote"
            ) from error

    def _read(self, metadata: Mapping[str, Any]) -> None:
        """Set the attributes from the metadata."""
        features, self.target = metadata["features"], metadata["target"]
        targets = self._targets
        names = (*features, *targets)
        if len(features) != self.network.inputs or not targets or not all(isinstance(name, str) for name in names):
            raise ValueError(f"features {features!r} and target {self.target!r}")
        self.encoder = Encoder.from_metadata(metadata.get("columns", [{"name": name} for name in features]))
        if self.encoder.inputs != features or len(set(self.encoder.names)) < len(self.encoder.names):
            raise ValueError(f"columns that give the features {self.encoder.inputs!r} instead of {features!r}")
        self._require_embedding()
        self.dates = metadata.get("dates", [])
        if not isinstance(self.dates, list) or not set(self.dates) <= {*self.encoder.numeric, *targets}:
            raise ValueError(f"dates {self.dates!r}")
        if not isinstance(metadata.get("format", {}), dict):
            raise TypeError(f"format {metadata['format']!r}")
        self.format = Format(**metadata.get("format", {}))
        self.task = metadata["task"]
        outputs = self.network.outputs
        self.labels: tuple[str, ...] = ()
        self._mean, self._scale = np.zeros((1, 1)), np.ones((1, 1))
        self._loss: LossFunction | None = None
        if self.task == "classification":
            self.labels = tuple(map(str, metadata["classes"]))
            if isinstance(self.target, list):
                raise ValueError(f"a classification of {self.target!r}")
            if not len(self.labels) == len(set(self.labels)) == outputs or any(n.endswith("\0") for n in self.labels):
                raise ValueError(f"classes {metadata['classes']!r} for {outputs} outputs")
        elif self.task == "regression":
            self._read_scaling(metadata, targets)
        else:
            raise ValueError(f"task {self.task!r}")

    def _require_embedding(self) -> None:
        """Raise ValueError unless the networks have an Embedding for the columns that are encoded as indices."""
        networks = self.network.networks if isinstance(self.network, Ensemble) else (self.network,)
        wanted = self.encoder.tables.items()
        for network in networks if wanted else ():
            first = network.layers[0]
            held = {t.column: t.categories for t in first} if isinstance(first, Embedding) else {}
            if not wanted <= held.items():
                raise ValueError(f"indices of categories {dict(wanted)!r} for the layers {list(network.layers)!r}")

    def _read_scaling(self, metadata: Mapping[str, Any], targets: Sequence[str]) -> None:
        """Set the loss if it is for a distribution, and how outputs are converted to the units of the targets."""
        outputs, given = self.network.outputs, (metadata["target_mean"], metadata["target_scale"])
        lists = given if isinstance(self.target, list) else [[value] for value in given]
        means, scales = ([float(value) for value in values] for values in lists)
        self._loss = loss_named(metadata["loss"], metadata.get("quantiles", ()))
        if self._loss is not None and isinstance(self.target, list):
            raise ValueError(f"loss {metadata['loss']!r} for {self.target!r}")
        per_target = 1 if self._loss is None else self._loss.outputs_per_target
        counts = {len(means), len(scales), len(targets), outputs / per_target}
        if len(counts) > 1 or not np.isfinite([means, scales]).all():
            raise ValueError(f"mean {given[0]} and scale {given[1]} for {outputs} outputs")
        self._mean, self._scale = np.array(means)[:, None], np.array(scales)[:, None]

    @property
    def _targets(self) -> list[str]:
        return self.target if isinstance(self.target, list) else [self.target]

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata of the network or the ensemble: JSON values that are saved with it."""
        return self.network.metadata

    @metadata.setter
    def metadata(self, metadata: dict[str, Any]) -> None:
        self.network.metadata = metadata

    @property
    def columns(self) -> list[str]:
        """The names of the columns that the model needs, in the order in which an array has them."""
        return self.encoder.names

    @property
    def classes(self) -> np.ndarray:
        """The classes, shape (k,): integers or floats if all are written as such, and otherwise text.

        Raises
        ------
        ArgumentError
            If the model predicts a quantity.
        """
        self._require_classes("classes")
        return values_of(self.labels)

    def predict(self, table: Data, *, unknown: str = "error", return_std: bool = False) -> Any:
        """Return the predicted class of each row, or the predicted value in the units of the target, shape (m,).

        For several targets, the result has the shape (m, k). A model of ``--loss quantile`` predicts the median, and
        one of ``--loss gaussian`` the mean.

        Parameters
        ----------
        table : path, Table, DataFrame, pyarrow.Table, mapping or ndarray of shape (m, n)
        unknown : {"error", "zeros"}
            Whether a category that did not occur in training is an error, or is encoded as no category.
        return_std : bool, default False
            For a model of ``--loss gaussian``, whether to return a second array with the standard deviations.

        Raises
        ------
        TableError
            If a column is missing or has the wrong type, or a value is missing or unknown.
        ArgumentError, ShapeError
        """
        if return_std and not isinstance(self._loss, GaussianNLL):
            raise ArgumentError("return_std=True needs a model of 'deepnotes train --loss gaussian'")
        A = self._outputs(table, unknown)
        if return_std:
            _, std = mean_and_deviation(cast(GaussianNLL, self._loss), A.astype(np.float64))
            return self._in_units(A), (std * self._scale)[0]
        return self.classes[A.argmax(axis=0)] if self.labels else self._in_units(A)

    def predict_quantiles(self, table: Data, *, unknown: str = "error") -> np.ndarray:
        """Return the predicted quantiles, in the units of the target, shape (m, q), in ascending order in each row.

        They are those of the option ``--quantiles``, also in ``metadata["quantiles"]``. Parameters and errors are as
        for :meth:`predict`; ArgumentError unless the model was trained with ``--loss quantile``.
        """
        if not isinstance(self._loss, QuantileLoss):
            raise ArgumentError("predict_quantiles needs a model of 'deepnotes train --loss quantile'")
        A = self._outputs(table, unknown).astype(np.float64)
        return sorted_quantiles(self._loss, A)[:, 0].T * self._scale + self._mean

    def predict_proba(self, table: Data, *, unknown: str = "error") -> np.ndarray:
        """Return the probability of each class for each row, shape (m, k), in the order of :attr:`classes`.

        Parameters and errors are as for :meth:`predict`; ArgumentError if the model predicts a quantity.
        """
        self._require_classes("predict_proba")
        return self._outputs(table, unknown).T

    def score(self, table: Data, y: Any = None, *, unknown: str = "error") -> float:
        """Return the accuracy for a classification, and R² for a regression, its mean for several targets.

        Parameters
        ----------
        table : path, Table, DataFrame, pyarrow.Table, mapping or ndarray
        y : array_like, shape (m,) or (m, k), optional
            The true classes or values; by default the target columns of the table.
        unknown : {"error", "zeros"}
            As for :meth:`predict`.

        Raises
        ------
        TableError, DataError, ArgumentError, ShapeError
        """
        X, truth = self.samples(table, y, unknown)
        return self.score_of(X, truth)

    def importance(
        self,
        table: Data,
        y: Any = None,
        *,
        metric: str | None = None,
        repeats: int = 5,
        seed: int = 0,
        unknown: str = "error",
    ) -> Importance:
        """Return how much the score falls when the values of a column are shuffled, for each column.

        All inputs that encode a column are shuffled together. Of two columns that say the same, both may seem
        unimportant. Use rows that took no part in training: on training rows, a column that helps to recognize single
        rows seems important.

        Parameters
        ----------
        table : path, Table, DataFrame, pyarrow.Table, mapping or ndarray
            At least two rows.
        y : array_like, shape (m,), optional
            The true classes or values; by default the target column of the table.
        metric : str, optional
            The score: ``"accuracy"`` (default), ``"balanced_accuracy"``, ``"f1"``, ``"roc_auc"``, or for two classes
            ``"average_precision"``; for a regression ``"r2"``. If one class is rare, accuracy says little about it.
        repeats : int, default 5
            How often each column is shuffled, at least 2. The orders are the same for all columns.
        seed : int, default 0
            Determines the orders.
        unknown : {"error", "zeros"}
            As for :meth:`predict`.

        Raises
        ------
        ArgumentError
            If `metric` is not one of these, or `repeats` or `seed` is out of range.
        DataError
            If there is only one row, or the metric is not defined for the rows.
        TableError, ShapeError

        References
        ----------
        L. Breiman, Random Forests, Machine Learning 45, 2001, section 10; A. Fisher, C. Rudin and F. Dominici, All
        Models are Wrong, but Many are Useful, JMLR 20, 2019.
        """
        metric = self._metric_of(metric)
        X, truth = self.samples(table, y, unknown)
        sizes = [len(feature.inputs) for feature in self.encoder.features]
        score, falls = falls_of(lambda shuffled: self.score_of(shuffled, truth, metric), X, sizes, repeats, seed)
        if np.isnan(score):
            raise DataError(f"metric={metric!r} is not defined for these rows, in which a class does not occur")
        return Importance(self.columns, falls, score, self.score_name if metric in ("accuracy", "r2") else metric)

    def encode(self, table: Data, unknown: str = "error") -> np.ndarray:
        """Return the inputs X of the network, shape (n, m), for the rows of a table.

        Parameters and errors are as for :meth:`predict`.
        """
        return self.encoder(self.read(table), unknown)

    def read(self, table: Data, *, target: bool = False) -> Table:
        """Return the columns that the model needs as a table; with `target`, also the target column.

        A Table is returned as it is. Errors are as for :func:`deepnotes.read_table`.
        """
        if isinstance(table, Table):
            return table
        targets = self._targets if target else []
        request = request_of(self.encoder, self.dates, self.format, targets, as_text=bool(self.labels))
        return read(table, request, [*self.columns, *targets])

    def samples(self, table: Data, y: Any = None, unknown: str = "error") -> tuple[np.ndarray, np.ndarray]:
        """Return the inputs X, shape (n, m), and the true values, shape (m,): indices of classes, or quantities.

        Parameters and errors are as for :meth:`score`.
        """
        rows = self.read(table, target=y is None)
        if y is None:
            rows.require_complete(self._targets, "a row without a target cannot be scored")
            columns = [rows.labels(name) if self.labels else rows.column(name) for name in self._targets]
            y = np.column_stack(columns) if isinstance(self.target, list) else columns[0]
        y = np.asarray(y)
        shape = (rows.n_rows, len(self.target)) if isinstance(self.target, list) else (rows.n_rows,)
        if y.shape != shape:
            raise DataError(f"y has shape {y.shape}, wanted {shape}, one value for each row and target")
        if not self.labels:
            if y.dtype.kind not in "biuf":
                raise DataError(f"y has the dtype {y.dtype}, wanted numbers")
            return self.encoder(rows, unknown), y.astype(np.float64)
        names, inverse = np.unique(labels_of(y if y.dtype.kind in "biufU" else y.astype(np.str_)), return_inverse=True)
        codes = codes_of(names.tolist(), self.labels)
        if (codes < 0).any():
            raise DataError(
                f"the target has the class {quote(names[codes < 0][0])}, but the model knows only "
                f"{join_names(self.labels)}"
            )
        return self.encoder(rows, unknown), codes[inverse]

    def score_of(self, X: np.ndarray, truth: np.ndarray, metric: str = "accuracy") -> float:
        """Return a metric of classes, or R², for the result of :meth:`samples`."""
        A = np.asarray(self.network.predict(X))
        if self.labels and metric != "accuracy":
            return metrics.LIBRARY[metric](A, np.eye(len(self.labels))[:, truth])
        if self.labels:
            return float(np.mean(A.argmax(axis=0) == truth))
        return metrics.r2(np.atleast_2d(self._in_units(A).T), np.atleast_2d(truth.T))

    def _metric_of(self, metric: str | None) -> str:
        """Return the name of a metric that suits the task, by default that of the score.

        Raises
        ------
        ArgumentError
        """
        suitable = ["r2"]
        if self.labels:
            binary = ["average_precision"] if len(self.labels) == 2 else []
            suitable = ["accuracy", "balanced_accuracy", "f1", "roc_auc", *binary]
        if metric is not None and metric not in suitable:
            raise ArgumentError(f"metric={metric!r}, wanted one of {join_names(suitable)} for {self.target!r}")
        return metric or suitable[0]

    @property
    def score_name(self) -> str:
        """The name of the score."""
        return "accuracy" if self.labels else "R²"

    def save(self, path: str | PathLike[str]) -> None:
        """Write the model to a file; see :meth:`Network.save`."""
        self.network.save(path)

    def summary(self) -> str:
        """Return a table of the network's layers; see :meth:`Network.summary`."""
        return self.network.summary()

    def __getattr__(self, name: str) -> Any:
        network = self.__dict__.get("network")  # a copy that is being made does not have it yet
        hint = f"; use model.network.{name}" if not name.startswith("_") and hasattr(network, name) else ""
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{hint}", name=name, obj=self)

    def __repr__(self) -> str:
        what = f"{len(self.labels)} classes" if self.labels else "numbers"
        return (
            f"Model(target={self.target!r}: {what}, columns: {join_names(self.columns)}; "
            f"backend={self.network.backend.name!r}, dtype={self.network.dtype!r})"
        )

    def _outputs(self, table: Data, unknown: str) -> np.ndarray:
        """Return the outputs of the network, shape (n[L], m), on the host."""
        return np.asarray(self.network.predict(self.encode(table, unknown)))

    def _in_units(self, A: np.ndarray) -> np.ndarray:
        """Return the outputs A, shape (k, m), in the units of the targets, shape (m, k), or (m,) for one target."""
        A = A.astype(np.float64)
        A = A if self._loss is None else point_prediction(self._loss, A)
        values: np.ndarray = A * self._scale + self._mean
        return values.T if isinstance(self.target, list) else values[0]

    def _require_classes(self, what: str) -> None:
        if not self.labels:
            raise ArgumentError(f"{what}: the model predicts the quantity {self.target!r}, wanted a classification")


def is_model(network: Network | Ensemble) -> bool:
    """Return whether the metadata of a network or an ensemble describe a model."""
    return set(network.metadata) >= KEYS


def request_of(
    encoder: Encoder,
    dates: Sequence[str],
    file_format: Format,
    targets: Sequence[str] = (),
    *,
    as_text: bool = False,
    drop_missing: bool = False,
) -> Request:
    """Return the request for the columns that an encoder needs.

    Parameters
    ----------
    encoder : Encoder
    dates : sequence of str
        The columns that are read as dates.
    file_format : Format
    targets : sequence of str
        Further columns to read.
    as_text : bool
        Whether the further columns are read as text, and not as numbers.
    drop_missing : bool
        Whether to leave out the rows in which a value of the further columns is missing.
    """
    text, numeric = [*encoder.text], [*encoder.numeric]
    (text if as_text else numeric).extend(targets)
    return Request(
        columns=[*encoder.names, *targets],
        text=text,
        numeric=[name for name in numeric if name not in dates],
        dates=[name for name in dates if name in encoder.names or name in targets],
        drop_missing=targets if drop_missing else [],
        format=file_format,
    )


def values_of(labels: Sequence[str]) -> np.ndarray:
    """Return the names of classes as an array, shape (k,): of numbers if all names are spelled as Python writes them.

    Examples
    --------
    >>> values_of(["0", "1"]), values_of(["0.5", "2.0"]), values_of(["007", "8"])
    (array([0, 1]), array([0.5, 2. ]), array(['007', '8'], dtype='<U3'))
    """
    for kind in (int, float):
        try:
            values = [kind(label) for label in labels]
        except ValueError:
            continue
        if [repr(value) for value in values] == list(labels) and all(abs(value) < 1 << 53 for value in values):
            return np.array(values)
    return np.array(labels, np.str_)
