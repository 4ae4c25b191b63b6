"""Cross-validation in which all folds train together: scikit-learn's own, with clones that are already trained."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from joblib import effective_n_jobs
from sklearn import get_config
from sklearn.base import clone, is_classifier
from sklearn.model_selection import check_cv
from sklearn.model_selection import cross_validate as sklearn_cross_validate
from sklearn.utils import indexable
from sklearn.utils.metadata_routing import get_routing_for_object
from sklearn.utils.validation import _num_samples

from deepnotes.estimators.base import DenseEstimator
from deepnotes.estimators.together import Task, train_together


class Splits:
    """A splitter that draws its splits once, so that all candidates get the same.

    Parameters
    ----------
    cv : int, splitter, iterable or None
        As for scikit-learn's ``check_cv``.
    y : array_like
    classifier : bool
    """

    def __init__(self, cv: Any, y: Any, classifier: bool) -> None:
        self._splitter = check_cv(cv, y, classifier=classifier)
        self.drawn: list[tuple[Any, Any]] | None = None

    def split(self, X: Any, y: Any = None, **params: Any) -> Iterator[tuple[Any, Any]]:
        """Yield the indices of the training and test samples of each split."""
        if self.drawn is None:
            self.drawn = list(self._splitter.split(X, y, **params))
        yield from self.drawn

    def get_n_splits(self, X: Any = None, y: Any = None, **params: Any) -> int:
        """Return the number of splits."""
        return int(self._splitter.get_n_splits(X, y, **params))

    def get_metadata_routing(self) -> Any:
        """Return which metadata the splitter requests."""
        return get_routing_for_object(self._splitter)


class Relay:
    """Supplies clones of an estimator that are trained, but behave as if they were not: their ``fit`` only concludes.

    scikit-learn clones the estimator once for each candidate and split, in this order, then fits and scores the clone.
    The first clone triggers the training of all.

    Parameters
    ----------
    estimator : DenseEstimator
    X, y, sample_weight : array_like
        All samples.
    splits : Splits
    progress : bool

    Attributes
    ----------
    estimator : DenseEstimator
        The estimator to pass to scikit-learn.
    seconds : list of float or None
        The duration of each training run so far, in the order of the clones; None if it did not take place here.
    """

    def __init__(self, estimator: Any, X: Any, y: Any, sample_weight: Any, splits: Splits, progress: bool) -> None:
        self._original, self._samples, self._splits, self._progress = estimator, (X, y, sample_weight), splits, progress
        self._expected: list[Mapping[str, Any]] | None = None
        self._trained: deque[Any] = deque()
        self.seconds: list[float | None] = []
        self.estimator = self._with_relay()

    def expect(self, candidates: Iterable[Mapping[str, Any]]) -> None:
        """Let the next clones be those of `candidates`, each with the parameters to set."""
        self._expected = list(candidates)

    def _with_relay(self) -> Any:
        estimator = clone(self._original)
        estimator.__sklearn_clone__ = self._clone
        return estimator

    def _clone(self) -> Any:
        if self._expected is None:  # scikit-learn's search first clones the estimator for itself
            return self._with_relay()
        if self._expected:
            self._train(self._expected)
            self._expected = []
        return self._trained.popleft() if self._trained else clone(self._original)

    def _train(self, candidates: list[Mapping[str, Any]]) -> None:
        X, y, sample_weight = self._samples
        everything = np.arange(_num_samples(X))
        assert self._splits.drawn is not None
        subsets = [everything[train] for train, _ in self._splits.drawn]
        tasks = []
        for parameters in candidates:
            for indices in subsets:
                estimator = clone(self._original)
                try:
                    estimator.set_params(**clone(dict(parameters), safe=False))
                    tasks.append(Task(estimator, indices))
                except Exception:  # scikit-learn will get the same error, and handle it
                    tasks.append(Task(clone(self._original), everything[:0]))
        train_together(tasks, X, y, sample_weight, self._progress)
        for task in tasks:
            if task.is_trained:
                task.estimator.fit = partial(_conclude, task)
            self._trained.append(task.estimator)
            self.seconds.append(task.seconds)


def _conclude(task: Task, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
    """Stand in for ``fit``, once."""
    del task.estimator.fit
    return task.conclude()


def relay_for(
    estimator: Any, X: Any, y: Any, splits: Splits, fit_params: Mapping[str, Any], progress: bool, varied: bool = False
) -> Relay | None:
    """Return a relay, or None if scikit-learn's own way is the better one.

    Parameters
    ----------
    estimator : estimator
    X, y : array_like
    splits : Splits
    fit_params : mapping
        The arguments of ``fit`` beside X and y.
    progress : bool
    varied : bool
        Whether the solver is among the parameters to search.
    """
    if (
        not isinstance(estimator, DenseEstimator)
        or type(estimator).fit is not DenseEstimator.fit
        or (estimator.solver == "lbfgs" and not varied)
        or not fit_params.keys() <= {"sample_weight"}
        or (fit_params and get_config()["enable_metadata_routing"])
        or effective_n_jobs(None) > 1  # the user has selected a parallel backend of joblib, such as Dask's
    ):
        return None
    X, y = indexable(X, y)
    return Relay(estimator, X, y, fit_params.get("sample_weight"), splits, progress)


def cross_validate(  # noqa: PLR0913 - scikit-learn's signature
    estimator: Any,
    X: Any,
    y: Any = None,
    *,
    groups: Any = None,
    scoring: Any = None,
    cv: Any = None,
    n_jobs: int | None = None,
    verbose: int = 0,
    params: dict[str, Any] | None = None,
    pre_dispatch: int | str = "2*n_jobs",
    return_train_score: bool = False,
    return_estimator: bool = False,
    return_indices: bool = False,
    error_score: Any = np.nan,
) -> dict[str, Any]:
    """Evaluate an estimator by cross-validation; the folds train together, see :func:`deepnotes.fit_many`.

    The parameters, the result and the errors are those of scikit-learn's ``cross_validate``, and so are the scores.
    That function does all the work if `estimator` is not a :class:`DenseClassifier` or :class:`DenseRegressor`, for the
    solver ``lbfgs``, and within ``joblib.parallel_config`` with several jobs.

    Parameters
    ----------
    estimator : estimator
    X : array_like or sparse matrix, shape (samples, features)
    y : array_like, shape (samples,) or (samples, outputs)
    groups, scoring, cv, verbose, params, pre_dispatch : optional
    n_jobs : int, optional
        Only for folds that do not train together; otherwise the backend's number of threads is used.
    return_train_score, return_estimator, return_indices : bool, default False
    error_score : "raise" or float, default nan

    Returns
    -------
    dict of str to ndarray
        ``test_score``, ``fit_time``, ``score_time`` and the others that scikit-learn returns. The ``fit_time`` of a
        fold is the duration of its own training run, beside which others may have run.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from deepnotes import DenseClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> model = DenseClassifier(16, learning_rate_init=0.01, tol=0.001, random_state=0)
    >>> result = cross_validate(model, X, y, cv=3)
    >>> bool(result["test_score"].mean() > 0.9)
    True
    """
    splits = Splits(cv, y, is_classifier(estimator))
    relay = relay_for(estimator, X, y, splits, params or {}, verbose > 0)
    if relay is not None:
        relay.expect([{}])
        estimator, n_jobs = relay.estimator, None
    result: dict[str, Any] = sklearn_cross_validate(
        estimator, X, y, groups=groups, scoring=scoring, cv=splits, n_jobs=n_jobs, verbose=verbose, params=params,
        pre_dispatch=pre_dispatch, return_train_score=return_train_score, return_estimator=return_estimator,
        return_indices=return_indices, error_score=error_score,
    )  # fmt: skip
    if relay is not None:
        own = [seconds is not None for seconds in relay.seconds]
        result["fit_time"][own] = [seconds for seconds in relay.seconds if seconds is not None]
    return result
