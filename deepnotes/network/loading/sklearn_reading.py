"""Conversion of scikit-learn's fitted networks, and of our estimators, to networks."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes.backends.base import Backend
from deepnotes.network.formats.chain import Chain
from deepnotes.network.formats.composing import Known, composed
from deepnotes.network.loading.conversion import network_of
from deepnotes.nn.activations import LIBRARY, Activation, ActivationFunction
from deepnotes.nn.layers import Dense
from deepnotes.utils.arguments import float_dtype
from deepnotes.utils.errors import ArgumentError, ModelFileError
from deepnotes.utils.wording import brief

if TYPE_CHECKING:
    from deepnotes.network.network import Network

ACTIVATIONS = {"logistic": "sigmoid"} | {name: name for name in LIBRARY}
"""Activations by scikit-learn's names for them."""


def from_sklearn(estimator: Any, *, backend: str | Backend | None = None, dtype: str | None = None) -> "Network":
    """Return the network of a fitted ``MLPClassifier`` or ``MLPRegressor`` of scikit-learn, or of our estimators.

    Its outputs are those of ``predict_proba``, or of ``predict`` for a regressor, with samples as columns. For a
    classifier of two classes there is one output, the probability of the second class; for a multi-label classifier
    there is one output for each label.

    Parameters
    ----------
    estimator : MLPClassifier, MLPRegressor, DenseClassifier, DenseRegressor or Pipeline
        The earlier steps of a pipeline may be ``StandardScaler``, ``MinMaxScaler``, ``MaxAbsScaler``,
        ``RobustScaler``, ``PCA`` and ``TruncatedSVD``. Scalers before the first matrix product become a standardizer,
        and a projection becomes a layer without activation.
    backend : str or Backend, optional
        By default the selected one.
    dtype : {"float32", "float64"}, optional
        By default that of the estimator.

    Returns
    -------
    Network
        Its metadata have the names of features and classes, if the estimator has them. Dropout, which has no effect on
        predictions, is left out.

    Raises
    ------
    ArgumentError
        If it is none of these, is not fitted, or has an activation or a step that no layer can represent.
    UnknownNameError, BackendUnavailable
        As for :func:`deepnotes.get_backend`.
    """
    network, steps = estimator, list[Any]()
    if isinstance(getattr(estimator, "steps", None), list):
        *before, (_, network) = estimator.steps
        steps = [step for _, step in before if step not in ("passthrough", None)]
    kind = type(network).__name__
    if not all(hasattr(network, name) for name in ("coefs_", "intercepts_", "out_activation_", "activation")):
        looks = hasattr(network, "hidden_layer_sizes") and hasattr(network, "activation")
        why = "which is not fitted" if looks else "wanted a fitted MLPClassifier or MLPRegressor, or one of ours"
        raise ArgumentError(f"estimator is a {brief(kind)}, {why}")
    dtype = float_dtype(network.coefs_[0].dtype if dtype is None else dtype)
    known = Known()
    try:
        for step in steps:
            known = _prepared(known, step)
        for W, b, g in zip(network.coefs_, network.intercepts_, _activations(network), strict=True):
            known = known.times(np.asarray(W).T).then("Add", np.asarray(b).reshape(-1, 1)).activated(g)
        standardizer, links = composed(known, dtype)
    except ModelFileError as error:
        raise ArgumentError(f"estimator: {error}") from None
    metadata = {}
    features = getattr(estimator, "feature_names_in_", None)
    if features is not None:
        metadata["features"] = [str(name) for name in features]
    if hasattr(network, "classes_"):
        metadata["classes"] = [str(name) for name in np.ravel(network.classes_)]
    return network_of(Chain(tuple(links), dtype, standardizer, None, metadata), backend)


def _activations(network: Any) -> list[ActivationFunction]:
    """Return the activation of each layer of a fitted network."""
    if hasattr(network, "to_network"):  # ours: any activation, or one for each layer
        return [layer.g for layer in network.to_network().layers if isinstance(layer, Dense)]
    names = [network.activation] * (len(network.coefs_) - 1) + [network.out_activation_]
    for name in names:
        if not isinstance(name, str) or name not in ACTIVATIONS:
            raise ArgumentError(
                f"estimator has the activation {brief(repr(name))}, and {', '.join(ACTIVATIONS)} are known"
            )
    return [Activation(ACTIVATIONS[name]) for name in names]


def _prepared(known: Known, step: Any) -> Known:
    """Return the expression of the inputs after one more step of a pipeline."""
    name = type(step).__name__
    if name not in STEPS:
        raise ArgumentError(f"estimator prepares its inputs by {brief(name)}; {', '.join(STEPS)} can be taken over")
    if not hasattr(step, "n_features_in_"):
        raise ArgumentError("estimator is a Pipeline, which is not fitted")
    if getattr(step, "clip", False):
        raise ArgumentError(f"estimator prepares its inputs by {name}(clip=True), and no layer bounds its inputs")
    for op, c in STEPS[name](step):
        if op == "times":
            known = known.times(np.asarray(c))
        elif c is not None:
            known = known.then(op, np.asarray(c, np.float64).reshape(-1, 1))
    return known


def _pca(step: Any) -> list[tuple[str, Any]]:
    """Return the steps of a PCA: shift, project, and scale where it whitens."""
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
"""The operations of each step of a pipeline: with constants, or products; None for an operation to skip."""
