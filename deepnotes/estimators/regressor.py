"""DenseRegressor: scikit-learn's MLPRegressor, on any backend."""

from typing import Any, ClassVar

import numpy as np
from sklearn.base import RegressorMixin, _fit_context
from sklearn.metrics import r2_score
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import validate_data

from deepnotes.errors import DataError
from deepnotes.estimators.architecture import loss_of
from deepnotes.estimators.base import FIT_DTYPES, DenseEstimator
from deepnotes.estimators.parameters import CONSTRAINTS
from deepnotes.losses import LIBRARY as LOSSES
from deepnotes.losses import LossFunction


class DenseRegressor(RegressorMixin, DenseEstimator):  # type: ignore[misc]
    """DOC"""

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

    def _out_activation(self) -> str:
        return "identity" if "real" in loss_of(self.loss, "identity", 1)[0].outputs else "exp"

    def _score_outputs(self, A: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None) -> float:
        return float(r2_score(y, A, sample_weight=sample_weight))

    @available_if(lambda estimator: estimator._check_solver())  # type: ignore[untyped-decorator]
    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Train on some more samples, once.

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
