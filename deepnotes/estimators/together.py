"""Training of many estimators on the same data at the same time, each on its own subset of the samples."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _num_samples, validate_data

from deepnotes.estimators.base import DenseEstimator
from deepnotes.estimators.shared_rows import SharedRows
from deepnotes.estimators.stochastic_fit import StochasticFit
from deepnotes.network.fit_many import FitResult, run_all
from deepnotes.utils.array_checks import refuse_lost_nuls, refuse_masked


@dataclass
class Task:
    """An estimator to fit on a subset of the samples.

    Attributes
    ----------
    estimator : estimator
    indices : ndarray of int, shape (k,)
        The samples to train on.
    seconds : float or None
        The duration of the training run; None if the estimator was not trained together with others.
    """

    estimator: Any
    indices: np.ndarray
    seconds: float | None = None
    _fit: StochasticFit | None = None
    _error: Exception | None = None

    @property
    def is_trained(self) -> bool:
        """Whether :meth:`conclude` may be called instead of ``fit``."""
        return self._fit is not None or self._error is not None

    def conclude(self) -> Any:
        """Do what remains of ``fit`` after training: set attributes, and give the warning or raise the error.

        Returns
        -------
        estimator
        """
        if self._error is not None:
            raise self._error
        assert self._fit is not None
        estimator, fit, self._fit = self.estimator, self._fit, None
        estimator._conclude(fit, incremental=False)
        estimator._expose()
        return estimator


def train_together(tasks: Sequence[Task], X: Any, y: Any, sample_weight: Any = None, progress: bool = False) -> None:
    """Train the estimators of those tasks that can be trained together; the others stay as they are.

    Each gets the bits that ``fit`` gives it on a copy of its samples. Estimators of other classes, the solver
    ``lbfgs``, fitted estimators, and data that scikit-learn would have to convert for each subset are left alone.

    Parameters
    ----------
    tasks : sequence of Task
        With different estimators.
    X, y, sample_weight : array_like
        All samples, as for ``fit``.
    progress : bool
        As for :func:`deepnotes.fit_many`.

    Raises
    ------
    FitManyInterrupt
        After Ctrl-C.
    """
    if sample_weight is not None and np.shape(sample_weight)[:1] != (_num_samples(X),):
        return  # scikit-learn does not take a part of such weights
    samples = _Samples(X, y)
    waiting = []
    for task in tasks:
        if not _is_ours(task.estimator) or not len(task.indices):
            continue
        checked = samples.for_estimator(task.estimator)
        if checked is None:
            continue
        rows, targets = checked
        weights = None if sample_weight is None else _safe_indexing(sample_weight, task.indices)
        start = time.perf_counter()
        try:
            validate_data(task.estimator, X, y, skip_check_array=True)  # sets n_features_in_ and feature_names_in_
            task._fit = task.estimator._prepare_fit(rows[task.indices], targets[task.indices], weights)
            waiting.append(task)
        except Exception as error:
            task._error = error
        task.seconds = time.perf_counter() - start

    def add_seconds(result: FitResult) -> None:
        task = waiting[result.index]
        assert task.seconds is not None
        task.seconds += result.seconds

    run_all([task._fit for task in waiting if task._fit is not None], add_seconds, progress)


class _Samples:
    """The samples of all tasks, checked and converted once for all estimators that check them in the same way."""

    def __init__(self, X: Any, y: Any) -> None:
        self._X, self._y = X, y
        # Lists and the like are left to scikit-learn: the dtype of a converted part can differ from that of the whole.
        self._shareable = all(
            isinstance(part, np.ndarray) or issparse(part) or hasattr(part, "iloc") for part in (X, y)
        )
        self._checked: dict[Any, tuple[SharedRows, Any] | None] = {}

    def for_estimator(self, estimator: DenseEstimator) -> tuple[SharedRows, Any] | None:
        """Return all samples as this estimator needs them, or None if it has to check its own part of them."""
        key = type(estimator), estimator.dtype if isinstance(estimator.dtype, str) else None
        if key not in self._checked:
            self._checked[key] = self._check(estimator) if self._shareable else None
        return self._checked[key]

    def _check(self, estimator: DenseEstimator) -> tuple[SharedRows, Any] | None:
        try:
            for name, argument in (("X", self._X), ("y", self._y)):
                refuse_masked(argument, name)
                refuse_lost_nuls(argument, name)
            X, y = estimator._validate_arrays(self._X, self._y)
            few = np.arange(min(2, X.shape[0]))
            part, _ = estimator._validate_arrays(_safe_indexing(self._X, few), _safe_indexing(self._y, few))
        except Exception:
            return None  # the error may concern only some of the subsets
        if part.dtype != X.dtype:
            return None
        if not issparse(X):  # as a part would be in memory, which the bits of NumPy's products depend on
            X = np.asarray(X, order="C" if part.flags.c_contiguous else "F")
        return SharedRows(X), y.tocsr() if issparse(y) else y


def _is_ours(estimator: Any) -> bool:
    """Return whether an estimator trains as :meth:`DenseEstimator.fit` does, with SGD or Adam, and from scratch."""
    return (
        isinstance(estimator, DenseEstimator)
        and type(estimator).fit is DenseEstimator.fit
        and estimator.solver in {"adam", "sgd"}
        and not hasattr(estimator, "coefs_")
    )
