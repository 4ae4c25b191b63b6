"""scikit-learn's fitted networks."""

from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes.activations import LIBRARY, Activation
from deepnotes.arguments import float_dtype
from deepnotes.backend import Backend
from deepnotes.errors import ArgumentError
from deepnotes.formats.chain import Chain, Link
from deepnotes.preprocessing import Standardizer
from deepnotes.wording import brief

if TYPE_CHECKING:
    from deepnotes.network import Network

ACTIVATIONS = {"logistic": "sigmoid"} | {name: name for name in LIBRARY}
"""What scikit-learn and our estimators call them, and what they are called here."""


def from_sklearn(estimator: Any, *, backend: str | Backend | None = None, dtype: str | None = None) -> "Network":
    """Return the network of a fitted ``MLPClassifier`` or ``MLPRegressor`` of scikit-learn.

    Its outputs are those of ``predict_proba``, or of ``predict`` for a regressor, with samples as columns. A classifier
    of two classes has one output, the probability of the second class; one of several labels has one for each.

    Parameters
    ----------
    estimator : MLPClassifier, MLPRegressor, or a Pipeline of a StandardScaler and one of them
        Also :class:`~deepnotes.DenseClassifier` and :class:`~deepnotes.DenseRegressor`; a copy is made.
    backend : str or Backend, optional
        By default the selected one.
    dtype : {"float32", "float64"}, optional
        By default that of the estimator.

    Returns
    -------
    Network
        Its metadata have the names of features and classes, if the estimator knows them.

    Raises
    ------
    ArgumentError
        If it is none of these, is not fitted, or has an activation that is not known here.
    UnknownNameError, BackendUnavailable
        As :func:`deepnotes.get_backend`.
    """
    network, standardizer = estimator, None
    if isinstance(getattr(estimator, "steps", None), list):
        *scalers, (_, network) = estimator.steps
        standardizer = _standardizer([step for _, step in scalers if step not in ("passthrough", None)])
    kind = type(network).__name__
    if not all(hasattr(network, name) for name in ("coefs_", "intercepts_", "out_activation_", "activation")):
        looks = hasattr(network, "hidden_layer_sizes") and hasattr(network, "activation")
        why = "which is not fitted" if looks else "wanted a fitted MLPClassifier or MLPRegressor"
        raise ArgumentError(f"estimator is a {brief(kind)}, {why}")
    dtype = float_dtype(network.coefs_[0].dtype if dtype is None else dtype)
    hidden, count = network.activation, len(network.coefs_) - 1
    each = [*(hidden if isinstance(hidden, list | tuple) else [hidden] * count), network.out_activation_]
    if len(each) != count + 1:
        raise ArgumentError(f"estimator has {len(each) - 1} activations for {count} hidden layers")
    links = []
    for W, b, g in zip(network.coefs_, network.intercepts_, each, strict=True):
        links.append(Link(_host(W.T, dtype), _host(b.reshape(-1, 1), dtype), _activation(g)))
    metadata = {}
    features = getattr(estimator, "feature_names_in_", None)
    if features is not None:
        metadata["features"] = [str(name) for name in features]
    if hasattr(network, "classes_"):
        metadata["classes"] = [str(name) for name in np.ravel(network.classes_)]
    return Chain(tuple(links), dtype, standardizer, None, metadata).network(backend)


def _activation(given: Any) -> Activation:
    if isinstance(given, Activation):
        return given
    if not isinstance(given, str) or given not in ACTIVATIONS:
        raise ArgumentError(
            f"estimator has the activation {brief(repr(given))}, and {', '.join(ACTIVATIONS)} are known"
        )
    return Activation(ACTIVATIONS[given])


def _host(x: Any, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(x, dtype)


def _standardizer(steps: list[Any]) -> Standardizer | None:
    """Return the standardizer that the steps of a pipeline before its network are."""
    if not steps:
        return None
    (first, *more) = steps
    if more or type(first).__name__ != "StandardScaler":
        names = ", ".join(type(step).__name__ for step in steps)
        raise ArgumentError(f"estimator prepares its inputs by {brief(names)}; one StandardScaler can be taken over")
    if not hasattr(first, "n_features_in_"):
        raise ArgumentError("estimator is a Pipeline, which is not fitted")
    zeros, ones = np.zeros(first.n_features_in_), np.ones(first.n_features_in_)
    mean = first.mean_ if first.with_mean else zeros
    scale = first.scale_ if first.with_std else ones
    return Standardizer(*(np.asarray(x, np.float64).reshape(-1, 1) for x in (mean, scale)))
