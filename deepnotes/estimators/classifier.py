"""DenseClassifier: scikit-learn's MLPClassifier, on any backend."""

from typing import Any, ClassVar, cast

import numpy as np
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, type_of_target, unique_labels
from sklearn.utils.validation import validate_data

from deepnotes.errors import ArgumentError
from deepnotes.estimators.base import FIT_DTYPES, DenseEstimator
from deepnotes.estimators.parameters import CONSTRAINTS
from deepnotes.losses import LIBRARY as LOSSES
from deepnotes.losses import LossFunction


class DenseClassifier(ClassifierMixin, DenseEstimator):  # type: ignore[misc]
    """DOC"""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **CONSTRAINTS,
        "loss": [StrOptions({"log_loss", *LOSSES}), LossFunction],
        "class_weight": [dict, list, StrOptions({"balanced"}), None],
    }

    def __init__(
        self,
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
        loss: Any = "log_loss",
        class_weight: Any = None,
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
            dtype=self.dtype or FIT_DTYPES,
            reset=reset,
        )
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if not hasattr(self, "classes_") or (not self.warm_start and not incremental):
            self._label_binarizer = LabelBinarizer().fit(y)
            self.classes_ = self._label_binarizer.classes_
        else:
            self._check_classes(unique_labels(y))
        return X, self._label_binarizer.transform(y).astype(bool)

    def _check_classes(self, found: np.ndarray) -> None:
        """Raise ArgumentError unless the classes are those of the last fit, or some of them."""
        if self.warm_start and set(found) != set(self.classes_):
            raise ArgumentError(
                "warm_start can only be used where `y` has the same classes as in the previous call to fit. Previously "
                f"got {self.classes_}, `y` has {found}"
            )
        if len(np.setdiff1d(found, self.classes_, assume_unique=True)):
            raise ArgumentError(
                f"`y` has classes not in `self.classes_`. `self.classes_` has {self.classes_}. 'y' has {found}."
            )

    def _weights(self, y: Any, sample_weight: Any, X: Any, incremental: bool) -> np.ndarray | None:
        weights = super()._weights(y, sample_weight, X, incremental)
        if self.class_weight is None:
            return weights
        if incremental and self.class_weight == "balanced":
            raise ArgumentError(
                "class_weight='balanced' needs all samples, and partial_fit has some of them: compute it with "
                "sklearn.utils.class_weight.compute_class_weight and pass a dict"
            )
        of_classes = compute_sample_weight(self.class_weight, y)
        return cast(np.ndarray, of_classes if weights is None else weights * of_classes)

    def _out_activation(self) -> str:
        return "softmax" if self._label_binarizer.y_type_ == "multiclass" else "logistic"

    def _stratify(self, y: np.ndarray) -> np.ndarray | None:
        return y if self.n_outputs_ == 1 else None  # scikit-learn does not with more classes than two

    def _score_outputs(self, A: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None) -> float:
        if self.out_activation_ == "softmax":
            right = A.argmax(axis=1) == y.argmax(axis=1)
        else:
            right = ((A > 0.5) == y).all(axis=1)
        return float(np.average(right, weights=sample_weight))

    @available_if(lambda estimator: estimator._check_solver())  # type: ignore[untyped-decorator]
    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Any:
        """Train on some more samples, once.

        Parameters
        ----------
        X : array_like or sparse matrix, shape (samples, features)
        y : array_like, shape (samples,) or (samples, outputs)
        sample_weight : array_like, shape (samples,), optional
        classes : array_like, shape (classes,), optional
            All that there will be; needed in the first call, and not later.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            As :meth:`fit` does.
        """
        if _check_partial_fit_first_call(self, classes):
            multilabel = type_of_target(y).startswith("multilabel")
            self._label_binarizer = LabelBinarizer().fit(y if multilabel else classes)
        return self._fit(X, y, sample_weight, incremental=True)

    def predict(self, X: Any) -> np.ndarray:
        """Return the class of each sample, shape (samples,), or a column for each label, shape (samples, labels).

        Parameters
        ----------
        X : array_like or sparse matrix, shape (samples, features)
        """
        A = self._outputs(X)
        if self.n_outputs_ == 1:
            A = A.ravel()
        return cast(np.ndarray, self._label_binarizer.inverse_transform(A))

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class, shape (samples, classes), in the order of ``classes_``.

        Parameters
        ----------
        X : array_like or sparse matrix, shape (samples, features)
        """
        A = self._outputs(X)
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
