"""DenseRegressor: scikit-learn's MLPRegressor, on any backend."""

from typing import Any, ClassVar, cast

import numpy as np
from sklearn.base import RegressorMixin, _fit_context
from sklearn.metrics import r2_score
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if

from deepnotes.estimators.architecture import loss_of
from deepnotes.estimators.base import DenseEstimator, store_arguments
from deepnotes.estimators.constraints import CONSTRAINTS
from deepnotes.network.distributions import mean_and_deviation, point_prediction, sorted_quantiles
from deepnotes.nn.losses import LIBRARY as LOSSES
from deepnotes.nn.losses import GaussianNLL, LossFunction, QuantileLoss
from deepnotes.utils.errors import ArgumentError, DataError


class DenseRegressor(RegressorMixin, DenseEstimator):
    """A regressor that minimizes the squared error or another loss, on any backend.

    It has all parameters of scikit-learn's ``MLPRegressor``, with the same names, meanings, defaults and errors. With
    the same ``random_state``, the initial weights, the split for early stopping and the order of samples are the same
    as well, and the trained parameters agree up to rounding. Parameters without a description are explained in
    scikit-learn's documentation.

    Parameters
    ----------
    loss : str or LossFunction, default "squared_error"
        ``squared_error`` is half the squared error, and ``poisson`` is half the Poisson deviance, for which the output
        activation is exp. Also accepted are any other loss of deepnotes, by its name or as a :class:`~deepnotes.Loss`
        with options, and a user-defined loss. A :class:`~deepnotes.QuantileLoss` predicts several quantiles of each
        target, and a :class:`~deepnotes.GaussianNLL` a mean and a standard deviation.
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
        Whether to hold out some of the samples, and to keep the parameters with the best score, R², on these samples.
    validation_fraction : float, default 0.1
        The fraction of the samples to hold out.
    beta_1, beta_2 : float, default 0.9 and 0.999
    epsilon : float, default 1e-8
        For ``adam``; added before the bias correction, as in scikit-learn.
    n_iter_no_change : int or inf, default 10
        The number of consecutive epochs without improvement after which training ends.
    max_fun : int, default 15000
        The largest number of evaluations of the loss by ``lbfgs``.
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
    n_outputs_ : int
        The number of outputs of the network: one for each target or, with a `loss` that has several, all of them.
    n_layers_, out_activation_, n_features_in_, feature_names_in_
        The same as in scikit-learn.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> model = DenseRegressor(hidden_layer_sizes=16, solver="lbfgs", random_state=0).fit(X[:, :3], X[:, 3])
    >>> bool(model.score(X[:, :3], X[:, 3]) > 0.9)
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **CONSTRAINTS,
        "loss": [StrOptions({"squared_error", *LOSSES}), LossFunction],
    }

    def __init__(  # noqa: PLR0913 - scikit-learn's constructor
        self,
        loss: Any = "squared_error",
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

    target_checks: ClassVar[dict[str, bool]] = {"multi_output": True, "y_numeric": True}

    def _encode(self, y: Any, incremental: bool) -> np.ndarray:
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if self._loss_function.targets != "real" and (y < 0).any():
            raise DataError(f"the smallest value in y is {y.min()}, but loss={self.loss!r} needs values of at least 0")
        return cast(np.ndarray, y.reshape(len(y), -1))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        loss = LOSSES.get(self.loss) if isinstance(self.loss, str) else self.loss
        tags.target_tags.positive_only = getattr(loss, "targets", "real") != "real"
        return tags

    def _outputs_for(self, y: np.ndarray) -> int:
        return int(y.shape[1]) * self._loss_function.outputs_per_target

    @property
    def _loss_function(self) -> LossFunction:
        return loss_of(self.loss, "identity", 1)[0]

    def _out_activation(self) -> str:
        return "identity" if "real" in self._loss_function.outputs else "exp"

    def _score_outputs(self, A: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None) -> float:
        return float(r2_score(y, self._central(A), sample_weight=sample_weight))

    @available_if(lambda estimator: estimator._check_solver())
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Train for one epoch on the given samples, continuing from the current state.

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
            As for :meth:`fit`.
        """
        return self._fit(X, y, sample_weight, incremental=True)

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Return the predicted values, shape (samples,); for several targets, shape (samples, targets).

        With a :class:`~deepnotes.QuantileLoss`, they are the medians of :meth:`predict_quantiles`, and with a
        :class:`~deepnotes.GaussianNLL` the means.

        Parameters
        ----------
        X : array_like or sparse matrix, shape (samples, features)
        return_std : bool, default False
            With a :class:`~deepnotes.GaussianNLL`, whether to return a second array of the same shape with the standard
            deviation of the targets.

        Raises
        ------
        ArgumentError
            If `return_std` is True, but the loss is another one.
        """
        if return_std and not isinstance(self.loss, GaussianNLL):
            raise ArgumentError(f"return_std=True needs loss=GaussianNLL(), but the loss is {self.loss!r}")
        A = self._outputs(X)
        if not return_std:
            return without_axis(self._central(A))
        mean, std = mean_and_deviation(self.loss, A.T)
        return without_axis(mean.T), without_axis(std.T)

    def predict_quantiles(self, X: Any) -> np.ndarray:
        """Return the quantiles of a :class:`~deepnotes.QuantileLoss`, in ascending order.

        Parameters
        ----------
        X : array_like or sparse matrix, shape (samples, features)

        Returns
        -------
        ndarray, shape (samples, quantiles), or (samples, targets, quantiles) for several targets
            Sorted for each sample, so that they do not cross.

        Raises
        ------
        ArgumentError
            If the loss is another one.
        """
        if not isinstance(self.loss, QuantileLoss):
            raise ArgumentError(f"predict_quantiles needs loss=QuantileLoss([...]), but the loss is {self.loss!r}")
        quantiles = sorted_quantiles(self.loss, self._outputs(X).T).T
        return quantiles[:, 0] if quantiles.shape[1] == 1 else quantiles

    def _central(self, A: np.ndarray) -> np.ndarray:
        """Return the predictions, shape (samples, targets), for outputs of the network, shape (samples, outputs)."""
        loss = self._loss_function
        return A if loss.outputs_per_target == 1 else point_prediction(loss, A.T).T


def without_axis(values: np.ndarray) -> np.ndarray:
    """Return values of shape (samples, 1) as shape (samples,), others unchanged."""
    return values.ravel() if values.shape[1] == 1 else values
