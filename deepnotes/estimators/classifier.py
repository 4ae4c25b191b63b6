"""DenseClassifier: scikit-learn's MLPClassifier, on any backend."""

from typing import Any, ClassVar, cast

import numpy as np
from scipy.sparse import csr_array, issparse
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import (
    _check_partial_fit_first_call,
    check_classification_targets,
    is_multilabel,
    type_of_target,
)

from deepnotes.estimators.base import DenseEstimator, store_arguments
from deepnotes.estimators.constraints import CONSTRAINTS
from deepnotes.network.array_validation import class_weights as to_class_weights
from deepnotes.nn.losses import LIBRARY as LOSSES
from deepnotes.nn.losses import LossFunction
from deepnotes.utils.arguments import number
from deepnotes.utils.array_checks import refuse_lost_nuls
from deepnotes.utils.errors import ArgumentError, DataError
from deepnotes.utils.wording import join_names


class DenseClassifier(ClassifierMixin, DenseEstimator):
    """A classifier that minimizes the log-loss, on any backend.

    It has all parameters of scikit-learn's ``MLPClassifier``, with the same names, meanings, defaults and errors. With
    the same ``random_state``, the initial weights, the split for early stopping and the order of samples are the same
    as well, and the trained parameters agree up to rounding. Parameters without a description are explained in
    scikit-learn's documentation.

    Parameters
    ----------
    hidden_layer_sizes : int or array_like of int, default (100,)
        The number of neurons of each hidden layer.
    activation : str, ActivationFunction or list of them, default "relu"
        The activation of all hidden layers, or a list with one activation per layer. Each is one of scikit-learn's
        activations (identity, logistic, tanh, relu), any other activation of deepnotes, or a user-defined one.
    solver : {"adam", "sgd", "lbfgs"}, default "adam"
        ``lbfgs`` is SciPy's L-BFGS-B on all samples at once.
    alpha : float, default 0.0001
        Regularization: ``alpha / 2 * Σ w²`` (see `l1_ratio`), divided by the number of samples in the batch (or the sum
        of their weights), is added to the loss of the batch.
    batch_size : int or "auto", default "auto"
        By default 200, or the number of samples if there are fewer.
    learning_rate : str or Schedule, default "constant"
        How the rate of ``sgd`` changes between epochs: ``constant``, ``invscaling``, which divides `learning_rate_init`
        by ``(samples seen + 1) ** power_t``, or ``adaptive``, which divides the rate by 5 whenever training would
        otherwise end, until the rate is at most 1e-6. ``cosine``, ``one-cycle`` and ``cyclic`` are schedules of ``sgd``
        and ``adam`` from update to update, over `max_iter` epochs, with the highest rate `learning_rate_init`; with
        `n_iter_no_change`, training may end before. A :class:`~deepnotes.nn.schedules.Schedule` has its own rates.
    learning_rate_init : float, default 0.001
    power_t : float, default 0.5
    max_iter : int, default 200
        The largest number of epochs, or of iterations of ``lbfgs``.
    shuffle : bool, default True
    random_state : int, RandomState or None, default None
    tol : float, default 1e-4
        The smallest change that counts as an improvement of the loss (of the score, with `early_stopping`). ``lbfgs``
        ends when no component of the gradient is larger than `tol`.
    verbose : bool, default False
    warm_start : bool, default False
        Whether ``fit`` continues from the parameters of the last ``fit``.
    momentum : float, default 0.9
    nesterovs_momentum : bool, default True
    early_stopping : bool, default False
        Whether to hold out some of the samples, and to keep the parameters with the best score on these samples.
    validation_fraction : float, default 0.1
        The fraction of the samples to hold out.
    beta_1, beta_2 : float, default 0.9 and 0.999
    epsilon : float, default 1e-8
        For ``adam``; added before the bias correction, as in scikit-learn.
    n_iter_no_change : int or inf, default 10
        The number of consecutive epochs without improvement after which training ends.
    max_fun : int, default 15000
        The largest number of evaluations of the loss by ``lbfgs``.
    loss : str or LossFunction, default "log_loss"
        The log-loss, any other loss of deepnotes by its name or as a :class:`~deepnotes.Loss` with options, or a
        user-defined loss.
    class_weight : dict, list of dict, "balanced" or None, default None
        The weight of each class, by which sample weights are multiplied, as in scikit-learn's other classifiers.
    l1_ratio : float, default 0.0
        The share of L1 in the regularization, from 0 to 1, as in scikit-learn's ``ElasticNet`` and ``SGDClassifier``:
        ``alpha * (l1_ratio * Σ |w| + (1 - l1_ratio) / 2 * Σ w²)``. ``lbfgs`` needs 0, since L1 has kinks.
    dropout : float or list of float, default 0.0
        The fraction of the outputs of each hidden layer to drop during training; a list has one fraction per layer.
    normalization : {"layer", "rms"}, optional
        Normalizes the outputs of each hidden layer, after activation and dropout, where the next layer reads them, by a
        :class:`~deepnotes.LayerNorm` or :class:`~deepnotes.RMSNorm`. By default, nothing is normalized.
    residual : bool, default False
        Whether to add the input of a hidden layer to its output, for each but the first that has as many neurons as the
        layer before. With `normalization`, the input is added as it is before it is normalized.
    average : EMA or SWA, optional
        For ``sgd`` and ``adam``, an average of the parameters over the updates: scores on held-out samples and
        predictions are those of the averages, and ``partial_fit`` continues from the parameters themselves.
    backend : str or Backend, optional
        By default the backend that :func:`deepnotes.get_backend` selects.
    dtype : {"float32", "float64"}, optional
        By default float64 for ``lbfgs``, and the dtype of X for the other solvers.
    callbacks : list of Callback, optional
        Called after each epoch with the :class:`~deepnotes.network.training.state.Training`.

    Attributes
    ----------
    classes_ : ndarray, shape (classes,)
    coefs_, intercepts_ : list of ndarray
        The weights, shape (n_prev, n), and the biases, shape (n,), of each layer; both attributes can be assigned to.
        With `normalization`, they apply to normalized inputs, except in the first layer.
    gammas_, betas_ : list of ndarray
        The scales of the normalized outputs of each hidden layer, and for ``layer`` their shifts, shape (n,); these
        attributes can be assigned to, too. Without `normalization`, the lists are empty.
    loss_, best_loss_ : float
        The last and the smallest loss, including the L2 term; ``best_loss_`` is None with `early_stopping`.
    loss_curve_, validation_loss_curve_, validation_scores_ : list of float
        The values after each epoch; the last two attributes are None without `early_stopping`.
    best_validation_score_ : float or None
    history_ : History
        The history of the last training run.
    n_iter_, t_ : int
        The number of epochs of the last training run, and the number of samples that the solver has seen since the
        parameters were initialized; a sample counts once per epoch.
    n_layers_, n_outputs_, out_activation_, n_features_in_, feature_names_in_
        The same as in scikit-learn.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> model = DenseClassifier(16, solver="lbfgs", random_state=0, max_iter=1000).fit(X, y)
    >>> bool(model.score(X, y) > 0.95)
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **CONSTRAINTS,
        "loss": [StrOptions({"log_loss", *LOSSES}), LossFunction],
        "class_weight": [dict, list, StrOptions({"balanced"}), None],
    }

    def __init__(  # noqa: PLR0913 - scikit-learn's constructor
        self,
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
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
        warm_start: bool = False,
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

    target_checks: ClassVar[dict[str, bool]] = {"multi_output": True}

    def _check_parameters(self, incremental: bool) -> list[Any]:
        if getattr(self.loss, "outputs_per_target", 1) > 1:
            raise ArgumentError.of("loss", self.loss, "a loss with one output for each class")
        return super()._check_parameters(incremental)

    def _encode(self, y: Any, incremental: bool) -> np.ndarray:
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        if y.ndim == 2 and not is_multilabel(y):
            raise DataError(f"y has shape {y.shape} and values other than 0 and 1: multioutput targets are unsupported")
        if y.ndim == 2:
            classes, encoded = np.arange(y.shape[1]), (y.toarray() if issparse(y) else y) != 0
        else:
            classes, encoded = np.unique(y, return_inverse=True)
        if not hasattr(self, "classes_") or (not self.warm_start and not incremental):
            self._set_classes(getattr(self, "_all_classes", classes), multilabel=y.ndim == 2)
            self._labels_are_sparse = issparse(y)
        else:
            self._check_classes(classes)
        if self._multilabel != (y.ndim == 2):
            raise ArgumentError(f"y has shape {y.shape}, wanted {2 - (y.ndim == 2)} dimension(s), as in the last fit")
        if y.ndim == 1:
            encoded = np.searchsorted(self.classes_, classes)[encoded]
            encoded = encoded if len(self.classes_) > 2 else encoded[:, None] > 0
        return cast(np.ndarray, encoded)

    def _set_classes(self, classes: np.ndarray, multilabel: bool) -> None:
        self.classes_, self._multilabel, self._labels_are_sparse = classes, multilabel, False

    def _check_classes(self, classes: np.ndarray) -> None:
        """Raise ArgumentError if a class is new or, with ``warm_start``, if a class of the last fit is missing."""
        if self.warm_start and set(classes) != set(self.classes_):
            raise ArgumentError(
                "warm_start can only be used where `y` has the same classes as in the previous call to fit. Previously "
                f"got {self.classes_}, `y` has {classes}"
            )
        if len(np.setdiff1d(classes, self.classes_, assume_unique=True)):
            raise ArgumentError(
                f"`y` has classes not in `self.classes_`. `self.classes_` has {self.classes_}. 'y' has {classes}."
            )

    def _class_weights(self, y: np.ndarray, weights: np.ndarray, incremental: bool) -> np.ndarray | None:
        if self.class_weight is None:
            return None
        if incremental and self.class_weight == "balanced":
            raise ArgumentError(
                "class_weight='balanced' needs all samples, but partial_fit gets only some; compute the weights with "
                "sklearn.utils.class_weight.compute_class_weight and pass a dict"
            )
        if not self._multilabel:
            if isinstance(self.class_weight, list):
                raise ArgumentError("class_weight is a list, but y is not multilabel; wanted a dict or 'balanced'")
            labels = y if y.ndim == 1 else y[:, 0].astype(np.int64)
            return _sample_weights(self.class_weight, labels, self.classes_.tolist(), weights, "class_weight")
        class_weights = self.class_weight
        if isinstance(class_weights, str):
            class_weights = [class_weights] * y.shape[1]
        if not isinstance(class_weights, list) or len(class_weights) != y.shape[1]:
            value = f"a list of {len(class_weights)}" if isinstance(class_weights, list) else "a dict"
            raise ArgumentError(
                f"class_weight is {value}, wanted 'balanced' or a list of {y.shape[1]} dicts: one for each label"
            )
        columns = zip(class_weights, y.T.astype(np.int64), strict=True)
        factors = [
            _sample_weights(class_weight, labels, [0, 1], weights, f"class_weight[{i}]")
            for i, (class_weight, labels) in enumerate(columns)
        ]
        return cast(np.ndarray, np.prod(factors, axis=0))

    def _out_activation(self) -> str:
        return "logistic" if self._multilabel or len(self.classes_) <= 2 else "softmax"

    def _outputs_for(self, y: np.ndarray) -> int:
        return len(self.classes_) if y.ndim == 1 else y.shape[1]

    def _stratify(self, y: np.ndarray) -> np.ndarray | None:
        return y if self.n_outputs_ == 1 else None  # scikit-learn stratifies only binary problems

    def _score_outputs(self, A: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None) -> float:
        correct = A.argmax(axis=1) == y if y.ndim == 1 else ((A > 0.5) == y).all(axis=1)
        return float(np.average(correct, weights=sample_weight))

    @available_if(lambda estimator: estimator._check_solver())
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Any:
        """Train for one epoch on the given samples, continuing from the current state.

        Parameters
        ----------
        X : array_like or sparse matrix, shape (samples, features)
        y : array_like, shape (samples,) or (samples, outputs)
        sample_weight : array_like, shape (samples,), optional
        classes : array_like, shape (classes,), optional
            All classes that may occur in this and later calls; required only in the first call.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            As for :meth:`fit`.
        """
        refuse_lost_nuls(classes, "classes")
        if _check_partial_fit_first_call(self, classes):
            self._set_classes(self.classes_, multilabel=type_of_target(y).startswith("multilabel"))
        return self._fit(X, y, sample_weight, incremental=True)

    def predict(self, X: Any) -> Any:
        """Return the class of each sample, shape (samples,); for multilabel targets, shape (samples, labels).

        Multilabel predictions are sparse if the training targets were.

        Parameters
        ----------
        X : array_like or sparse matrix, shape (samples, features)
        """
        A = self._outputs(X)
        if self._multilabel:
            labels = (A > 0.5).astype(np.int64)
            return csr_array(labels) if self._labels_are_sparse else labels
        indices = A.argmax(axis=1) if A.shape[1] > 1 else A[:, 0] > 0.5
        return self.classes_[np.minimum(indices, len(self.classes_) - 1)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class, shape (samples, classes), in the order of ``classes_``.

        Parameters
        ----------
        X : array_like or sparse matrix, shape (samples, features)
        """
        return self._probabilities(self._outputs(X))

    def _probabilities(self, A: np.ndarray) -> np.ndarray:
        """Return the probability of each class for outputs of the network."""
        return np.hstack([1 - A, A]) if self.n_outputs_ == 1 else A

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Return the logarithm of :meth:`predict_proba`, shape (samples, classes).

        Parameters
        ----------
        X : array_like or sparse matrix, shape (samples, features)
        """
        with np.errstate(divide="ignore"):
            return cast(np.ndarray, np.log(self.predict_proba(X)))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


def _sample_weights(
    class_weight: Any, labels: np.ndarray, classes: list[Any], weights: np.ndarray, name: str
) -> np.ndarray:
    """Return the weight of each sample's class; `class_weight` is ``"balanced"`` or a dict keyed by class.

    Raises
    ------
    ArgumentError
        If a weight is not a finite number of at least 0, or if the dict both lacks a class and has a
        key that is not a class.
    """
    if isinstance(class_weight, str):
        return cast(np.ndarray, to_class_weights(class_weight, labels, len(classes), weights)[labels])
    if not isinstance(class_weight, dict):
        raise ArgumentError.of(name, class_weight, "a dict or 'balanced'")
    for c, weight in class_weight.items():
        number(f"{name}[{c!r}]", weight)
    missing = [c for c in classes if c not in class_weight]
    if class_weight and missing and len(class_weight) != len(classes) - len(missing):
        unknown = join_names(repr(c) for c in class_weight if c not in classes)
        raise ArgumentError(
            f"{name} has weights for unknown classes {unknown}, but none for the classes "
            f"{join_names(map(repr, missing))}"
        )
    return cast(np.ndarray, np.array([float(class_weight.get(c, 1.0)) for c in classes])[labels])
