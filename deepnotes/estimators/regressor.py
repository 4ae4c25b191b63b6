"""DenseRegressor: scikit-learn's MLPRegressor, on any backend."""

from typing import Any, ClassVar

import numpy as np
from sklearn.base import RegressorMixin, _fit_context
from sklearn.metrics import r2_score
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import validate_data

from deepnotes.estimators.architecture import loss_of
from deepnotes.estimators.base import FIT_DTYPES, DenseEstimator
from deepnotes.estimators.constraints import CONSTRAINTS
from deepnotes.nn.losses import LIBRARY as LOSSES
from deepnotes.nn.losses import LossFunction
from deepnotes.utils.errors import DataError


class DenseRegressor(RegressorMixin, DenseEstimator):
    """A regressor that minimizes the squared error, on any backend.

    It has all parameters of scikit-learn's ``MLPRegressor``, with the same names, meanings, defaults and errors. With
    the same ``random_state`` the initial weights, the split for early stopping and the order of samples are the same,
    too, and the trained parameters are equal but for rounding. What is not described here is in scikit-learn's
    documentation.

    Parameters
    ----------
    loss : str or LossFunction, default "squared_error"
        ``squared_error`` is half the squared error, ``poisson`` half the Poisson deviance of an exponential output; or
        a loss of deepnotes, by name or with options, or one that a user wrote.
    hidden_layer_sizes : int or array_like of int, default (100,)
        The number of neurons of each hidden layer.
    activation : str, ActivationFunction or list of them, default "relu"
        The activation of all hidden layers, or of each: scikit-learn's identity, logistic, tanh and relu, any other of
        deepnotes, or one that a user wrote.
    solver : {"adam", "sgd", "lbfgs"}, default "adam"
        ``lbfgs`` is SciPy's L-BFGS-B on all samples at once.
    alpha : float, default 0.0001
        L2: a part of the loss of a batch is ``alpha / 2 * Σ w²``, divided by its samples (or the sum of their weights).
    batch_size : int or "auto", default "auto"
        By default 200, or all samples if they are fewer.
    learning_rate : {"constant", "invscaling", "adaptive"}, default "constant"
        Of ``sgd``, from epoch to epoch: ``invscaling`` divides by ``(samples seen + 1) ** power_t``; ``adaptive``
        divides by 5 instead of ending the training, until the rate is at most 1e-6.
    learning_rate_init : float, default 0.001
    power_t : float, default 0.5
    max_iter : int, default 200
        Epochs, or iterations of ``lbfgs``.
    shuffle : bool, default True
    random_state : int, RandomState or None, default None
    tol : float, default 1e-4
        The least improvement of the loss (or of the score, with `early_stopping`); for ``lbfgs``, the gradient at which
        it ends.
    verbose : bool, default False
    warm_start : bool, default False
        Whether ``fit`` continues from the last parameters.
    momentum : float, default 0.9
    nesterovs_momentum : bool, default True
    early_stopping : bool, default False
        Whether to hold out a part of the samples, and to keep the parameters with the best score on it.
    validation_fraction : float, default 0.1
        The share of the samples that is held out.
    beta_1, beta_2 : float, default 0.9 and 0.999
    epsilon : float, default 1e-8
        Of ``adam``; added before the bias is corrected, as in scikit-learn.
    n_iter_no_change : int or inf, default 10
        The number of epochs without improvement after which training ends.
    max_fun : int, default 15000
        The largest number of calls of the loss by ``lbfgs``.
    dropout : float or list of float, default 0.0
        The share of the outputs of each hidden layer that is dropped while training.
    backend : str or Backend, optional
        By default the selected one, see :func:`deepnotes.get_backend`.
    dtype : {"float32", "float64"}, optional
        By default that of X; float64 for ``lbfgs``.
    callbacks : list of Callback, optional
        Called with the :class:`~deepnotes.network.training.state.Training` after each epoch.

    Attributes
    ----------
    coefs_, intercepts_ : list of ndarray
        W of shape (n_prev, n) and b of shape (n,) of each layer; assignable.
    loss_, best_loss_ : float
        The last loss, L2 included, and the least one (None with `early_stopping`).
    loss_curve_, validation_loss_curve_, validation_scores_ : list of float
        After each epoch; the last two with `early_stopping`.
    best_validation_score_ : float or None
    history_ : History
        Of the last training.
    n_iter_, t_ : int
        Epochs of the last training; samples that were trained on in all.
    n_layers_, n_outputs_, out_activation_, n_features_in_, feature_names_in_
        As in scikit-learn.

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

    def __init__(
        self,
        loss: Any = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: Any = "auto",
        learning_rate: str = "constant",
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
        dropout: Any = 0.0,
        backend: Any = None,
        dtype: str | None = None,
        callbacks: Any = None,
    ) -> None:
        self._set(locals())

    def _checked(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, np.ndarray]:
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse=["csr", "csc"],
            multi_output=True,
            y_numeric=True,
            dtype=self.dtype or FIT_DTYPES,
            reset=reset,
        )
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if loss_of(self.loss, "identity", 1)[0].targets != "real" and (y < 0).any():
            raise DataError(f"y has values below 0, the least is {y.min()}; loss={self.loss!r} needs at least 0")
        return X, y.reshape(len(y), -1)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        loss = LOSSES.get(self.loss) if isinstance(self.loss, str) else self.loss
        tags.target_tags.positive_only = getattr(loss, "targets", "real") != "real"
        return tags

    def _out_activation(self) -> str:
        return "identity" if "real" in loss_of(self.loss, "identity", 1)[0].outputs else "exp"

    def _score_outputs(self, A: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None) -> float:
        return float(r2_score(y, A, sample_weight=sample_weight))

    @available_if(lambda estimator: estimator._check_solver())
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Train one pass over further samples.

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
            As :meth:`fit` does.
        """
        return self._fit(X, y, sample_weight, incremental=True)

    def predict(self, X: Any) -> np.ndarray:
        """Return the values, shape (samples,) or (samples, outputs).

        Parameters
        ----------
        X : array_like or sparse matrix, shape (samples, features)
        """
        A = self._outputs(X)
        return A.ravel() if A.shape[1] == 1 else A
