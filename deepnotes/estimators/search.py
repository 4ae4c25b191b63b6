"""DenseSearchCV: scikit-learn's searches over parameters, with all candidates and folds training together."""

import copy
from collections.abc import Callable
from math import floor, log
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from sklearn.base import _fit_context, is_classifier
from sklearn.model_selection import ParameterGrid, ParameterSampler
from sklearn.model_selection._search import BaseSearchCV
from sklearn.utils import get_tags
from sklearn.utils._param_validation import Interval, StrOptions

from deepnotes.estimators.cross_validation import Relay, Splits, relay_for
from deepnotes.utils.errors import ArgumentError


class DenseSearchCV(BaseSearchCV):
    """A search over parameters by cross-validation, in which all candidates and folds train together.

    It has the interface of scikit-learn's ``GridSearchCV`` (with `param_grid`) and ``RandomizedSearchCV`` (with
    `param_distributions`), and gives the same results: each candidate gets the very bits that ``fit`` gives it on a
    copy of the samples of each fold. The training runs are those of one call of :func:`deepnotes.fit_many`, which
    holds the samples once.

    scikit-learn trains one candidate after the other instead, or `n_jobs` at a time, if `estimator` is not a
    :class:`DenseClassifier` or :class:`DenseRegressor` (a pipeline, for example), for the solver ``lbfgs``, for
    arguments of ``fit`` other than ``sample_weight`` and ``groups``, and within ``joblib.parallel_config`` with several
    jobs, such as those of a Dask cluster.

    Parameters
    ----------
    estimator : estimator
    param_grid : dict or list of dict, optional
        Lists of values, by the names of parameters: all their combinations are candidates.
    param_distributions : dict or list of dict, optional
        Distributions or lists of values, by the names of parameters; `n_iter` candidates are drawn.
    n_iter : int, default 10
    random_state : int, RandomState or None, default None
        For `param_distributions`.
    halving_factor : float, optional
        Turns on successive halving: all candidates train for a few epochs, and only the best of them, one in
        `halving_factor`, train again for `halving_factor` times as many; and so on. The last ones train for the
        estimator's ``max_iter`` epochs or somewhat fewer. ``cv_results_`` then has the keys ``iter`` and
        ``n_resources``, and is that of scikit-learn's ``HalvingGridSearchCV`` with ``resource="max_iter"``.
    min_epochs : int or "exhaust", default "exhaust"
        With `halving_factor`, the number of epochs of the first iteration. By default the largest number with which
        the last iteration still trains for at most ``max_iter`` epochs.
    scoring, refit, cv, error_score : optional
        The same as in scikit-learn. For `halving_factor` with several metrics, `refit` must be the name of one.
    n_jobs, pre_dispatch : optional
        Only for candidates that do not train together; otherwise the backend's number of threads is used.
    verbose : int, default 0
        If positive, a progress display is shown, in addition to the messages of scikit-learn.
    return_train_score : bool, default False

    Attributes
    ----------
    cv_results_ : dict of str to ndarray
        The ``mean_fit_time`` is that of the training runs, beside which others may have run.
    best_estimator_, best_params_, best_score_, best_index_, scorer_, n_splits_, refit_time_, multimetric_
        The same as in scikit-learn.
    classes_, n_features_in_, feature_names_in_
        Those of ``best_estimator_``.
    n_candidates_, n_resources_ : list of int
        With `halving_factor`, the number of candidates and of epochs of each iteration.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from deepnotes import DenseClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> model = DenseClassifier(max_iter=200, tol=0.01, random_state=0)
    >>> search = DenseSearchCV(model, {"hidden_layer_sizes": [4, 16], "learning_rate_init": [0.001, 0.01]}).fit(X, y)
    >>> search.best_params_
    {'hidden_layer_sizes': 16, 'learning_rate_init': 0.01}
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **BaseSearchCV._parameter_constraints,
        "param_grid": [dict, list, None],
        "param_distributions": [dict, list, None],
        "n_iter": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
        "halving_factor": [Interval(Real, 1, None, closed="neither"), None],
        "min_epochs": [Interval(Integral, 1, None, closed="left"), StrOptions({"exhaust"})],
    }

    def __init__(  # noqa: PLR0913 - scikit-learn's constructors
        self,
        estimator: Any,
        param_grid: Any = None,
        *,
        param_distributions: Any = None,
        n_iter: int = 10,
        random_state: Any = None,
        halving_factor: float | None = None,
        min_epochs: int | str = "exhaust",
        scoring: Any = None,
        n_jobs: int | None = None,
        refit: Any = True,
        cv: Any = None,
        verbose: int = 0,
        pre_dispatch: int | str = "2*n_jobs",
        error_score: Any = np.nan,
        return_train_score: bool = False,
    ) -> None:
        super().__init__(
            estimator, scoring=scoring, n_jobs=n_jobs, refit=refit, cv=cv, verbose=verbose, pre_dispatch=pre_dispatch,
            error_score=error_score, return_train_score=return_train_score,
        )  # fmt: skip
        self.param_grid, self.param_distributions = param_grid, param_distributions
        self.n_iter, self.random_state = n_iter, random_state
        self.halving_factor, self.min_epochs = halving_factor, min_epochs

    def __sklearn_tags__(self) -> Any:
        """Return the tags of scikit-learn's searches, which leave out those of the estimator as a transformer."""
        tags = super().__sklearn_tags__()
        tags.transformer_tags = copy.deepcopy(get_tags(self.estimator).transformer_tags)
        return tags

    @_fit_context(prefer_skip_nested_validation=False)  # the parameters of the estimator may be invalid: error_score
    def fit(self, X: Any, y: Any = None, **params: Any) -> Any:
        """Train and score all candidates, then train the best one on all samples.

        Parameters
        ----------
        X : array_like or sparse matrix, shape (samples, features)
        y : array_like, shape (samples,) or (samples, outputs)
        **params : object
            ``sample_weight`` and ``groups``, and what else scikit-learn's searches accept.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            In the same cases as scikit-learn's searches.
        FitManyInterrupt
            After Ctrl-C.
        """
        if (self.param_grid is None) == (self.param_distributions is None):
            raise ArgumentError("wanted param_grid or param_distributions, and not both")
        splits = Splits(self.cv, y, is_classifier(self.estimator))
        fit_params = {name: value for name, value in params.items() if value is not None and name != "groups"}
        spaces = self.param_grid if self.param_distributions is None else self.param_distributions
        varied = any("solver" in space for space in ([spaces] if isinstance(spaces, dict) else spaces))
        search = copy.copy(self)
        search.cv = splits
        search._relay = relay_for(self.estimator, X, y, splits, fit_params, self.verbose > 0, varied)
        if search._relay is not None:
            search.estimator, search.n_jobs = search._relay.estimator, None
        super(DenseSearchCV, search).fit(X, y, **params)
        self.__dict__.update({name: value for name, value in vars(search).items() if name.endswith("_")})
        return self

    def fit_transform(self, X: Any, y: Any = None, **params: Any) -> np.ndarray:
        """Search, and return the outputs of the last hidden layer of the best estimator for X.

        Parameters
        ----------
        X, y, **params
            As for :meth:`fit`.

        Returns
        -------
        ndarray, shape (samples, neurons)
        """
        return self.fit(X, y, **params).transform(X)  # type: ignore[no-any-return]

    def _run_search(self, evaluate_candidates: Callable[..., Any]) -> None:
        """Evaluate all candidates; scikit-learn calls this method."""
        if self.param_distributions is None:
            candidates = list(ParameterGrid(self.param_grid))
        else:
            candidates = list(ParameterSampler(self.param_distributions, self.n_iter, random_state=self.random_state))

        def evaluate(candidates: list[dict[str, Any]], more_results: Any = None) -> Any:
            if self._relay is not None:
                self._relay.expect(candidates)
            return evaluate_candidates(candidates, more_results=more_results)

        if self.halving_factor is None:
            evaluate(candidates)
        else:
            self._halve(candidates, evaluate, self.halving_factor)

    def _halve(self, candidates: list[dict[str, Any]], evaluate: Callable[..., Any], factor: float) -> None:
        """Evaluate fewer and fewer candidates for more and more epochs (Jamieson and Talwalkar, AISTATS 2016)."""
        name = "max_iter"
        most = self.estimator.get_params().get(name)
        if most is None or any(name in candidate for candidate in candidates):
            raise ArgumentError(
                f"halving_factor={factor} needs an estimator with the parameter {name}, which is not searched"
            )
        needed = _whole_powers(len(candidates), factor)
        least = max(1, int(most // factor**needed)) if isinstance(self.min_epochs, str) else self.min_epochs
        if least > most:
            raise ArgumentError.of("min_epochs", least, f"at most {name}={most}")
        self.n_candidates_, self.n_resources_ = [], []
        for i in range(1 + min(needed, _whole_powers(most // least, factor))):
            epochs = min(most, int(factor**i * least))
            self.n_candidates_.append(len(candidates))
            self.n_resources_.append(epochs)
            candidates = [{**candidate, name: epochs} for candidate in candidates]
            results = evaluate(candidates, {"iter": [i] * len(candidates), "n_resources": [epochs] * len(candidates)})
            scores = self._scores(results)[-len(candidates) :]
            best_last = np.argsort(np.where(np.isnan(scores), -np.inf, scores), kind="stable")
            candidates = [candidates[j] for j in best_last[-int(np.ceil(len(candidates) / factor)) :]]

    def _scores(self, results: dict[str, Any]) -> np.ndarray:
        """Return the mean scores by which candidates are compared."""
        key = f"mean_test_{self.refit}" if isinstance(self.refit, str) else "mean_test_score"
        key = "mean_test_score" if key not in results else key
        if key not in results:
            raise ArgumentError.of("refit", self.refit, "the name of a metric, by which halving_factor selects")
        return np.asarray(results[key])

    @staticmethod
    def _select_best_index(refit: Any, refit_metric: str, results: dict[str, Any]) -> int:
        """Return the index of the best candidate; after halving, of those that trained for the most epochs."""
        if "iter" not in results or callable(refit):
            return int(BaseSearchCV._select_best_index(refit, refit_metric, results))
        last = np.flatnonzero(np.asarray(results["iter"]) == np.max(results["iter"]))
        ranks = results[f"rank_test_{refit_metric}"][last]
        return int(last[ranks.argmin()])

    def _format_results(self, candidate_params: Any, n_splits: int, out: Any, more_results: Any = None) -> Any:
        """Return ``cv_results_`` with the durations of the training runs; scikit-learn calls this method."""
        if self._relay is not None:
            for scores, seconds in zip(out, self._relay.seconds, strict=True):
                scores["fit_time"] = scores["fit_time"] if seconds is None else seconds
        return super()._format_results(candidate_params, n_splits, out, more_results)

    _relay: Relay | None = None


def _whole_powers(ratio: float, factor: float) -> int:
    """Return the largest whole number n for which ``factor ** n`` is at most `ratio`."""
    return floor(log(ratio, factor))
