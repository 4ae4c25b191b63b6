"""DenseEnsembleClassifier and DenseEnsembleRegressor: several networks that train together, and their mean output."""

import copy
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from numbers import Integral
from typing import Any, ClassVar, cast

import numpy as np
from scipy.sparse import csr_array, issparse
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, _fit_context
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import check_random_state, column_or_1d, get_tags
from sklearn.utils._param_validation import Interval
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from deepnotes.estimators.base import FIT_DTYPES, DenseEstimator, store_arguments
from deepnotes.estimators.classifier import DenseClassifier
from deepnotes.estimators.regressor import DenseRegressor, without_axis
from deepnotes.estimators.together import Task, train_together
from deepnotes.network.ensemble import Ensemble
from deepnotes.nn.losses import GaussianNLL
from deepnotes.utils.array_checks import refuse_lost_nuls, refuse_masked
from deepnotes.utils.errors import ArgumentError

OWN = {
    "n_members": [Interval(Integral, 1, None, closed="left")],
    "bootstrap": ["boolean"],
    "oob_score": ["boolean", callable],
}
"""The constraints on the parameters that are not those of the members."""
OOB_ATTRIBUTES = {"oob_score_", "oob_decision_function_", "oob_prediction_"}


class DenseEnsemble(BaseEstimator, ABC):
    """The base class of both ensembles, which declare the parameters."""

    member_class: ClassVar[type[DenseEstimator]]
    estimators_: list[Any]

    @abstractmethod
    def _prepare_targets(self, y: np.ndarray) -> None:
        """Set the attributes that depend on all targets, after checking them."""

    @abstractmethod
    def _set_oob(self, y: np.ndarray, outputs: np.ndarray, predicted: np.ndarray, score: Callable[..., float]) -> None:
        """Set the out-of-bag attributes.

        Parameters
        ----------
        y : ndarray, shape (samples,) or (samples, outputs)
        outputs : ndarray, shape (samples, columns)
            The mean output of the members that were not trained on the sample; NaN if there are none.
        predicted : ndarray of bool, shape (samples,)
            Whether there are such members.
        score : callable
        """

    @abstractmethod
    def _member_outputs(self, member: Any, X: Any) -> np.ndarray:
        """Return what is averaged over the members, shape (samples, columns), for validated samples."""

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Train all members, with different seeds, together.

        Parameters
        ----------
        X : array_like or sparse matrix, shape (samples, features)
        y : array_like, shape (samples,) or (samples, outputs)
        sample_weight : array_like, shape (samples,), optional

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            As for a single estimator, and if there is an `oob_score` without `bootstrap`.
        FitManyInterrupt
            After Ctrl-C.
        """
        for name, argument in (("X", X), ("y", y), ("sample_weight", sample_weight)):
            refuse_masked(argument, name)
            refuse_lost_nuls(argument, name)
        for name in ("n_members", *(() if self.random_state is None else ("random_state",))):
            if isinstance(getattr(self, name), bool | np.bool_):
                raise ArgumentError.of(name, getattr(self, name), "a number")
        if self.oob_score and not self.bootstrap:
            raise ArgumentError(
                f"oob_score={self.oob_score!r} needs bootstrap=True: otherwise every member is trained on all samples"
            )
        X, y = validate_data(
            self, X, y, accept_sparse=["csr", "csc"], dtype=self.dtype or FIT_DTYPES, **self.member_class.target_checks
        )
        X, y = (part.tocsr() if issparse(part) else part for part in (X, y))
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        self._prepare_targets(y)
        weights = None if sample_weight is None else _check_sample_weight(sample_weight, X, ensure_non_negative=True)
        self._drawn = y.shape[0], self.bootstrap
        tasks = self._tasks()
        train_together(tasks, X, y, weights, progress=bool(self.verbose))
        for task in tasks:
            if task.is_trained:
                task.conclude()
            else:
                own = None if weights is None else weights[task.indices]
                task.estimator.fit(X[task.indices], y[task.indices], own)
            self._complete_member(task.estimator)
        self.estimators_ = [task.estimator for task in tasks]
        self.n_outputs_ = self.estimators_[0].n_outputs_
        self.n_iter_ = max(member.n_iter_ for member in self.estimators_)
        for name in OOB_ATTRIBUTES & vars(self).keys():  # those of an earlier fit
            delattr(self, name)
        if self.oob_score:
            self._compute_oob(X, y)
        return self

    @property
    def estimators_samples_(self) -> list[np.ndarray]:
        """The indices of the samples that each member was trained on."""
        check_is_fitted(self, "estimators_")
        return [self._indices(member.random_state) for member in self.estimators_]

    def _indices(self, seed: int) -> np.ndarray:
        """Return the indices of the samples of a member."""
        samples, bootstrap = self._drawn
        if not bootstrap:
            return np.arange(samples)
        # PCG64, while the member draws its initial weights by the Mersenne Twister with the same seed
        return cast(np.ndarray, np.random.default_rng(seed).integers(samples, size=samples))

    def _tasks(self) -> list[Task]:
        """Return the members to train, each with its seed and its samples."""
        random_state = check_random_state(self.random_state)
        seeds = random_state.randint(np.iinfo(np.int32).max, size=self.n_members)
        shared = {name: value for name, value in self.get_params(deep=False).items() if name not in OWN}
        tasks = []
        for seed in map(int, seeds):
            own: dict[str, Any] = {"random_state": seed, "verbose": False}
            if self.callbacks is not None:
                own["callbacks"] = [copy.copy(callback) for callback in self.callbacks]
            member = self.member_class(**shared | own)
            self._prepare_member(member)
            tasks.append(Task(member, self._indices(seed)))
        return tasks

    def _prepare_member(self, member: Any) -> None:
        """Set attributes of a member before it is trained."""

    def _complete_member(self, member: Any) -> None:
        """Remove these attributes after training."""

    def _compute_oob(self, X: Any, y: np.ndarray) -> None:
        """Predict each sample by the members that were not trained on it, and score the predictions."""
        samples = X.shape[0]
        total: Any = 0.0
        count = np.zeros(samples)
        for member, indices in zip(self.estimators_, self.estimators_samples_, strict=True):
            left_out = np.bincount(indices, minlength=samples) == 0
            if left_out.any():
                outputs = self._member_outputs(member, X[left_out])
                if np.ndim(total) == 0:
                    total = np.zeros((samples, outputs.shape[1]))
                total[left_out] += outputs
                count += left_out
        if not (count > 0).all():
            warnings.warn(
                f"{int((count == 0).sum())} of {samples} samples have no out-of-bag prediction, because every member "
                "was trained on them; more members help",
                stacklevel=4,
            )
        if not count.any():
            raise ArgumentError(f"oob_score={self.oob_score!r}: every member was trained on all {samples} samples")
        with np.errstate(invalid="ignore"):
            outputs = total / count[:, None]
        self._set_oob(y, outputs, count > 0, self.oob_score if callable(self.oob_score) else self._oob_metric)

    def to_ensemble(self) -> Ensemble:
        """Return an :class:`~deepnotes.Ensemble` with copies of all networks, to save or export.

        Its ``metadata``, and that of each network, contains the names of the features and classes, if there are any.

        Raises
        ------
        NotFittedError
        """
        check_is_fitted(self, "estimators_")
        ensemble = Ensemble([member.to_network() for member in self.estimators_])
        for name, key in (("features", "feature_names_in_"), ("classes", "classes_")):
            if hasattr(self, key):
                for holder in (ensemble, *ensemble):
                    holder.metadata[name] = getattr(self, key).tolist()
        return ensemble

    def _all_outputs(self, X: Any) -> list[np.ndarray]:
        """Return the outputs of each member, shape (samples, columns)."""
        check_is_fitted(self, "estimators_")
        refuse_masked(X, "X")
        X = validate_data(self, X, accept_sparse=["csr", "csc"], dtype=FIT_DTYPES, reset=False)
        return [self._member_outputs(member, X) for member in self.estimators_]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        of_member = get_tags(self.member_class(loss=self.loss))
        tags.input_tags, tags.target_tags = of_member.input_tags, of_member.target_tags
        tags.classifier_tags, tags.regressor_tags = of_member.classifier_tags, of_member.regressor_tags
        return tags


class DenseEnsembleClassifier(ClassifierMixin, DenseEnsemble):
    """A deep ensemble: several :class:`DenseClassifier` with different seeds, whose mean probabilities are predicted.

    The members train together, see :func:`deepnotes.fit_many`. Each gets the bits of a :class:`DenseClassifier` with
    the same ``random_state`` that is trained alone on the same samples.

    Parameters
    ----------
    n_members : int, default 5
    bootstrap : bool, default False
        Whether to train each member on a bootstrap sample: as many samples, drawn with replacement. By default the
        members differ in their initial weights and the order of samples only, which is often more accurate.
    oob_score : bool or callable, default False
        With `bootstrap`, whether to score the predictions of each sample by the members that were not trained on it.
        The score is the accuracy, or the result of ``oob_score(y_true, y_pred)``.
    random_state : int, RandomState or None, default None
        Determines the seeds and samples of all members.
    verbose : bool, default False
        Whether to show the progress on stderr.
    callbacks : list of Callback, optional
        Each member has a shallow copy of each callback.
    hidden_layer_sizes, activation, solver, alpha, batch_size, learning_rate, learning_rate_init, power_t, max_iter,
    shuffle, tol, momentum, nesterovs_momentum, early_stopping, validation_fraction, beta_1, beta_2, epsilon,
    n_iter_no_change, max_fun, loss, class_weight, l1_ratio, dropout, normalization, residual, average, backend, dtype
        The same as for :class:`DenseClassifier`.

    Attributes
    ----------
    estimators_ : list of DenseClassifier
    estimators_samples_ : list of ndarray of int
        The indices of the samples that each member was trained on.
    classes_ : ndarray, shape (classes,)
    oob_score_ : float
        With `oob_score`.
    oob_decision_function_ : ndarray, shape (samples, classes)
        With `oob_score`, the mean probabilities by the members that were not trained on the sample; NaN if all were.
    n_iter_ : int
        The largest number of epochs of a member.
    n_outputs_, n_features_in_, feature_names_in_
        The same as for :class:`DenseClassifier`.

    References
    ----------
    B. Lakshminarayanan, A. Pritzel and C. Blundell, Simple and Scalable Predictive Uncertainty Estimation using Deep
    Ensembles, NIPS 2017.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> settings = {"hidden_layer_sizes": 16, "learning_rate_init": 0.01, "tol": 0.001, "random_state": 0}
    >>> model = DenseEnsembleClassifier(3, **settings).fit(X, y)
    >>> bool(model.score(X, y) > 0.95), model.disagreement(X).shape
    (True, (150,))
    """

    member_class = DenseClassifier
    _oob_metric = staticmethod(accuracy_score)
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **{name: value for name, value in DenseClassifier._parameter_constraints.items() if name != "warm_start"},
        **OWN,
    }

    def __init__(  # noqa: PLR0913 - the parameters of the members
        self,
        n_members: int = 5,
        *,
        bootstrap: bool = False,
        oob_score: Any = False,
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: Any = "auto",
        learning_rate: Any = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: Any = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        loss: Any = "log_loss",
        class_weight: Any = None,
        l1_ratio: float = 0.0,
        dropout: Any = 0.0,
        normalization: str | None = None,
        residual: bool = False,
        average: Any = None,
        backend: Any = None,
        dtype: str | None = None,
        callbacks: Any = None,
    ) -> None:
        store_arguments(self, locals())

    def predict(self, X: Any) -> Any:
        """Return the class with the largest mean probability, shape (samples,).

        For multilabel targets, the result has shape (samples, labels), and is sparse if the training targets were.

        Parameters
        ----------
        X : array_like or sparse matrix, shape (samples, features)
        """
        return self._decide(self.predict_proba(X))

    def _decide(self, probabilities: np.ndarray) -> Any:
        """Return the predictions for mean probabilities."""
        member = self.estimators_[0]
        if member._multilabel:
            labels = (probabilities > 0.5).astype(np.int64)
            return csr_array(labels) if member._labels_are_sparse else labels
        return self.classes_[probabilities.argmax(axis=1)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the mean probability of each class, shape (samples, classes), in the order of ``classes_``.

        Parameters
        ----------
        X : array_like or sparse matrix, shape (samples, features)
        """
        return cast(np.ndarray, np.mean(self._all_outputs(X), axis=0))

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Return the logarithm of :meth:`predict_proba`, shape (samples, classes).

        Parameters
        ----------
        X : array_like or sparse matrix, shape (samples, features)
        """
        with np.errstate(divide="ignore"):
            return cast(np.ndarray, np.log(self.predict_proba(X)))

    def disagreement(self, X: Any) -> np.ndarray:
        """Return how much the members disagree about each sample, shape (samples,), in nats.

        It is the mutual information between the prediction and the choice of the member: the entropy of the mean
        probabilities, minus the mean entropy of each member's. It is 0 if all members predict the same probabilities,
        and at most ``log(n_members)``. For multilabel targets, it is the sum over the labels.

        Parameters
        ----------
        X : array_like or sparse matrix, shape (samples, features)

        References
        ----------
        N. Houlsby, F. Huszár, Z. Ghahramani and M. Lengyel, Bayesian Active Learning for Classification and Preference
        Learning, arXiv:1112.5745, 2011.
        """
        P = np.array(self._all_outputs(X), dtype=np.float64)
        if self.estimators_[0]._multilabel:
            P = np.stack([P, 1 - P], axis=-1)
        information = _entropy(P.mean(axis=0)) - _entropy(P).mean(axis=0)
        information = information.sum(axis=1) if information.ndim == 2 else information
        return cast(np.ndarray, np.maximum(information, 0.0))

    def _prepare_targets(self, y: np.ndarray) -> None:
        check_classification_targets(y)
        self.classes_ = np.unique(y) if y.ndim == 1 else np.arange(y.shape[1])

    def _prepare_member(self, member: Any) -> None:
        member._all_classes = self.classes_  # a bootstrap sample can lack some

    def _complete_member(self, member: Any) -> None:
        del member._all_classes  # it may be fitted again, with other classes

    def _member_outputs(self, member: Any, X: Any) -> np.ndarray:
        return cast(np.ndarray, member._probabilities(member._outputs_of_valid(X)))

    def _set_oob(self, y: np.ndarray, outputs: np.ndarray, predicted: np.ndarray, score: Callable[..., float]) -> None:
        self.oob_decision_function_ = outputs
        self.oob_score_ = float(score(y[predicted], self._decide(outputs[predicted])))


class DenseEnsembleRegressor(RegressorMixin, DenseEnsemble):
    """A deep ensemble: several :class:`DenseRegressor` with different seeds, whose mean is predicted.

    The members train together, see :func:`deepnotes.fit_many`. Each gets the bits of a :class:`DenseRegressor` with the
    same ``random_state`` that is trained alone on the same samples.

    Parameters
    ----------
    n_members : int, default 5
    bootstrap : bool, default False
        Whether to train each member on a bootstrap sample: as many samples, drawn with replacement. By default the
        members differ in their initial weights and the order of samples only, which is often more accurate.
    oob_score : bool or callable, default False
        With `bootstrap`, whether to score the predictions of each sample by the members that were not trained on it.
        The score is R², or the result of ``oob_score(y_true, y_pred)``.
    random_state : int, RandomState or None, default None
        Determines the seeds and samples of all members.
    verbose : bool, default False
        Whether to show the progress on stderr.
    callbacks : list of Callback, optional
        Each member has a shallow copy of each callback.
    loss, hidden_layer_sizes, activation, solver, alpha, batch_size, learning_rate, learning_rate_init, power_t,
    max_iter, shuffle, tol, momentum, nesterovs_momentum, early_stopping, validation_fraction, beta_1, beta_2, epsilon,
    n_iter_no_change, max_fun, l1_ratio, dropout, normalization, residual, average, backend, dtype
        The same as for :class:`DenseRegressor`.

    Attributes
    ----------
    estimators_ : list of DenseRegressor
    estimators_samples_ : list of ndarray of int
        The indices of the samples that each member was trained on.
    oob_score_ : float
        With `oob_score`.
    oob_prediction_ : ndarray, shape (samples,) or (samples, outputs)
        With `oob_score`, the mean of the members that were not trained on the sample; NaN if all were.
    n_iter_ : int
        The largest number of epochs of a member.
    n_outputs_, n_features_in_, feature_names_in_
        The same as for :class:`DenseRegressor`.

    References
    ----------
    B. Lakshminarayanan, A. Pritzel and C. Blundell, Simple and Scalable Predictive Uncertainty Estimation using Deep
    Ensembles, NIPS 2017.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> settings = {"hidden_layer_sizes": 16, "learning_rate_init": 0.01, "tol": 0.001, "random_state": 0}
    >>> model = DenseEnsembleRegressor(3, **settings)
    >>> mean, std = model.fit(X[:, :3], X[:, 3]).predict(X[:, :3], return_std=True)
    >>> mean.shape, std.shape
    ((150,), (150,))
    """

    member_class = DenseRegressor
    _oob_metric = staticmethod(r2_score)
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **{name: value for name, value in DenseRegressor._parameter_constraints.items() if name != "warm_start"},
        **OWN,
    }

    def __init__(  # noqa: PLR0913 - the parameters of the members
        self,
        n_members: int = 5,
        *,
        bootstrap: bool = False,
        oob_score: Any = False,
        loss: Any = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: Any = "auto",
        learning_rate: Any = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: Any = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        l1_ratio: float = 0.0,
        dropout: Any = 0.0,
        normalization: str | None = None,
        residual: bool = False,
        average: Any = None,
        backend: Any = None,
        dtype: str | None = None,
        callbacks: Any = None,
    ) -> None:
        store_arguments(self, locals())

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Return the mean of the members' predictions, shape (samples,); for several outputs, (samples, outputs).

        Parameters
        ----------
        X : array_like or sparse matrix, shape (samples, features)
        return_std : bool, default False
            Whether to return a second array of the same shape with the standard deviation of the members' predictions;
            with a :class:`~deepnotes.GaussianNLL`, that of the targets: the square root of the mean of the members'
            variances plus the variance of their means.
        """
        outputs = np.array(self._all_outputs(X))
        mean = without_axis(outputs.mean(axis=0))
        if not return_std:
            return mean
        std = without_axis(outputs.std(axis=0))
        if isinstance(self.loss, GaussianNLL):
            noise = [member.predict(X, return_std=True)[1] for member in self.estimators_]
            std = np.sqrt(std**2 + np.mean(np.square(noise), axis=0))
        return mean, std

    def predict_quantiles(self, X: Any) -> np.ndarray:
        """Return the means of the members' quantiles; see :meth:`DenseRegressor.predict_quantiles`.

        Parameters
        ----------
        X : array_like or sparse matrix, shape (samples, features)
        """
        check_is_fitted(self, "estimators_")
        return cast(np.ndarray, np.mean([member.predict_quantiles(X) for member in self.estimators_], axis=0))

    def disagreement(self, X: Any) -> np.ndarray:
        """Return the standard deviation of the members' predictions, shape (samples,) or (samples, outputs).

        Parameters
        ----------
        X : array_like or sparse matrix, shape (samples, features)
        """
        return without_axis(np.std(self._all_outputs(X), axis=0))

    def _prepare_targets(self, y: np.ndarray) -> None:
        """Do nothing: members check their targets."""

    def _member_outputs(self, member: Any, X: Any) -> np.ndarray:
        return cast(np.ndarray, member._central(member._outputs_of_valid(X)))

    def _set_oob(self, y: np.ndarray, outputs: np.ndarray, predicted: np.ndarray, score: Callable[..., float]) -> None:
        self.oob_prediction_ = without_axis(outputs)
        self.oob_score_ = float(score(y[predicted], self.oob_prediction_[predicted]))


def _entropy(P: np.ndarray) -> np.ndarray:
    """Return the entropy of probabilities along the last axis, in nats."""
    return cast(np.ndarray, -np.sum(P * np.log(np.where(P > 0, P, 1.0)), axis=-1))
