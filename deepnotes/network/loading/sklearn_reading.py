"""Conversion of fitted scikit-learn networks, and of the estimators of deepnotes, to networks."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes.backends.base import Backend
from deepnotes.network.formats.chain import Chain
from deepnotes.network.formats.composing import Expression, compose
from deepnotes.network.loading.conversion import network_of
from deepnotes.nn.activations import LIBRARY, Activation, ActivationFunction
from deepnotes.nn.layers import Dense
from deepnotes.utils.arguments import float_dtype
from deepnotes.utils.errors import ArgumentError, ModelFileError
from deepnotes.utils.wording import brief

if TYPE_CHECKING:
    from deepnotes.network.network import Network

ACTIVATIONS = {"logistic": "sigmoid"} | {name: name for name in LIBRARY}
"""The name of each activation in deepnotes, by its name in scikit-learn or deepnotes."""


def from_sklearn(estimator: Any, *, backend: str | Backend | None = None, dtype: str | None = None) -> "Network":
    """Return the network of a fitted estimator of scikit-learn or deepnotes.

    The outputs of the network equal the results of the estimator's ``predict_proba``, or ``predict`` for a regressor,
    but samples are columns. A classifier with two classes has one output, the probability of the second class; a
    multi-label classifier has one output for each label, and a regressor all outputs of a loss such as
    :class:`~deepnotes.QuantileLoss`.

    Parameters
    ----------
    estimator : MLPClassifier, MLPRegressor, DenseClassifier, DenseRegressor or Pipeline
        The steps of a pipeline before the network may be ``StandardScaler``, ``MinMaxScaler``, ``MaxAbsScaler``,
        ``RobustScaler``, ``PCA`` and ``TruncatedSVD``. Scalers before the first matrix product become a standardizer,
        and PCA and TruncatedSVD become layers without activation.
    backend : str or Backend, optional
        By default the selected backend.
    dtype : {"float32", "float64"}, optional
        By default the estimator's dtype.

    Returns
    -------
    Network
        Its metadata include the names of features and classes, if the estimator has them. It has no dropout layers,
        since they have no effect on predictions.

    Raises
    ------
    ArgumentError
        If the estimator is of another class, is not fitted, or has an activation or a step that no layer can represent;
        or if it has normalization or shortcuts: use its method ``to_network``.
    UnknownNameError, BackendUnavailable
        As for :func:`deepnotes.get_backend`.
    """
    model, steps = estimator, list[Any]()
    if isinstance(getattr(estimator, "steps", None), list):
        *before, (_, model) = estimator.steps
        steps = [step for _, step in before if step not in ("passthrough", None)]
    kind = type(model).__name__
    if not all(hasattr(model, name) for name in ("coefs_", "intercepts_", "out_activation_", "activation")):
        unfitted = hasattr(model, "hidden_layer_sizes") and hasattr(model, "activation")
        problem = (
            "but is not fitted"
            if unfitted
            else "wanted a fitted MLPClassifier, MLPRegressor, DenseClassifier or DenseRegressor"
        )
        raise ArgumentError(f"estimator is a {brief(kind)}, {problem}")
    if getattr(model, "normalization", None) or getattr(model, "residual", False):
        raise ArgumentError(
            f"estimator has normalization={model.normalization!r} and residual={model.residual!r}, wanted Dense layers "
            "only; its method to_network() returns its network"
        )
    dtype = float_dtype(model.coefs_[0].dtype if dtype is None else dtype)
    expression = Expression()
    try:
        for step in steps:
            expression = _apply_step(expression, step)
        for W, b, g in zip(model.coefs_, model.intercepts_, _activations(model), strict=True):
            expression = expression.times(np.asarray(W).T).then("Add", np.asarray(b).reshape(-1, 1)).activate(g)
        standardizer, links = compose(expression, dtype)
    except ModelFileError as error:
        raise ArgumentError(f"estimator: {error}") from None
    metadata = {}
    features = getattr(estimator, "feature_names_in_", None)
    if features is not None:
        metadata["features"] = [str(name) for name in features]
    if hasattr(model, "classes_"):
        metadata["classes"] = [str(name) for name in np.ravel(model.classes_)]
    return network_of(Chain(tuple(links), dtype, standardizer, None, metadata), backend)


def _activations(model: Any) -> list[ActivationFunction]:
    """Return the activation of each layer of a fitted estimator."""
    if hasattr(model, "to_network"):  # an estimator of deepnotes: each layer may have any activation
        return [layer.g for layer in model.to_network().layers if isinstance(layer, Dense)]
    names = [model.activation] * (len(model.coefs_) - 1) + [model.out_activation_]
    for name in names:
        if not isinstance(name, str) or name not in ACTIVATIONS:
            raise ArgumentError(
                f"estimator has the activation {brief(repr(name))}, wanted one of {', '.join(ACTIVATIONS)}"
            )
    return [Activation(ACTIVATIONS[name]) for name in names]


def _apply_step(expression: Expression, step: Any) -> Expression:
    """Return `expression` with one more step of a pipeline applied."""
    name = type(step).__name__
    if name not in STEPS:
        raise ArgumentError(f"estimator has the step {brief(name)}, wanted one of {', '.join(STEPS)}")
    if not hasattr(step, "n_features_in_"):
        raise ArgumentError("estimator is a Pipeline, but is not fitted")
    if getattr(step, "clip", False):
        raise ArgumentError(f"estimator has the step {name}(clip=True), but no layer can clip its inputs")
    for op, c in STEPS[name](step):
        if op == "times":
            expression = expression.times(np.asarray(c))
        elif c is not None:
            expression = expression.then(op, np.asarray(c, np.float64).reshape(-1, 1))
    return expression


def _pca(step: Any) -> list[tuple[str, Any]]:
    """Return the operations of a PCA: subtraction of the mean, projection and, with ``whiten``, scaling."""
    deviation = np.sqrt(step.explained_variance_) if step.whiten else None
    if deviation is not None:
        deviation = np.maximum(deviation, np.finfo(deviation.dtype).eps)  # as in scikit-learn
    return [("Sub", step.mean_), ("times", step.components_), ("Div", deviation)]


STEPS: dict[str, Callable[[Any], list[tuple[str, Any]]]] = {
    "StandardScaler": lambda step: [
        ("Sub", step.mean_ if step.with_mean else None), ("Div", step.scale_ if step.with_std else None),
    ],
    "MinMaxScaler": lambda step: [("Mul", step.scale_), ("Add", step.min_)],
    "MaxAbsScaler": lambda step: [("Div", step.scale_)],
    "RobustScaler": lambda step: [
        ("Sub", step.center_ if step.with_centering else None), ("Div", step.scale_ if step.with_scaling else None),
    ],
    "PCA": _pca,
    "TruncatedSVD": lambda step: [("times", step.components_)],
}  # fmt: skip
"""For each class of step, a function that returns its operations and their constants.

An operation whose constant is None is skipped.
"""
