"""From what users pass to what a Program reads: samples, targets and weights on the network's backend, checked."""

from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes import checks
from deepnotes.array import Array
from deepnotes.errors import DataError
from deepnotes.exchange import adopted, as_host, is_neighbour
from deepnotes.losses import LossFunction
from deepnotes.program import Data

if TYPE_CHECKING:
    from deepnotes.network import Network


def is_native(network: "Network", X: Any) -> bool:
    """Return whether X is the backend's, or lies where its arrays do, and is not NumPy's: so shall results be."""
    return not isinstance(X, np.ndarray) and (network.backend.is_array(X) or is_neighbour(network.backend, X))


def as_samples(network: "Network", X: Any, name: str = "X") -> Array:
    """Return samples of shape (n[0], m) in the network's dtype, standardized if the network does that.

    Raises
    ------
    ShapeError, DTypeError, ForeignArrayError
    """
    backend, standardizer = network.backend, network.standardizer
    if (  # the usual case: nothing to convert, and to see that takes a fraction of a microsecond
        type(X) is np.ndarray
        and standardizer is None
        and X.dtype == network.host_dtype
        and X.ndim == 2
        and X.shape[0] == network.inputs
    ):
        return backend.from_numpy(X)
    if is_native(network, X):
        X = adopted(backend, X, name)
        checks.check_samples(X, name, network.inputs)
        checks.check_real(backend, X, name)
        samples: Array = backend.xp.astype(X, getattr(backend.xp, network.dtype))
        if standardizer is not None:
            constants = (network.from_host(x) for x in (standardizer.mean, standardizer.scale))
            samples = backend.ops.standardize(samples, *constants)
        return samples
    host = as_host(backend, X, name)
    checks.check_samples(host, name, network.inputs)
    with np.errstate(over="ignore"):  # what is beyond the dtype becomes infinite, and training refuses it
        if standardizer is not None:
            host = standardizer(host)
        return backend.from_numpy(host.astype(network.dtype, copy=False))


def as_data(
    network: "Network",
    X: Any,
    Y: Any,
    loss: LossFunction,
    sample_weight: Any = None,
    class_weight: Any = None,
    names: tuple[str, str] = ("X", "Y"),
) -> tuple[Data, bool]:
    """Return samples with their targets and weights, and whether the targets are class indices.

    Raises
    ------
    ShapeError, DTypeError, DataError, ForeignArrayError, ArgumentError
    """
    backend = network.backend
    samples = as_samples(network, X, names[0])
    m = samples.shape[1]
    if m == 0:
        raise DataError(f"{names[0]} holds no samples (shape {tuple(samples.shape)}), wanted at least one")
    checks.check_finite(backend, samples, names[0], X)
    targets, class_indices = checks.as_targets(backend, Y, loss, network.outputs, m, network.dtype, names)
    labels = None if class_weight is None else checks.as_labels(backend.to_numpy(targets), loss)
    weights = checks.as_weights(backend, sample_weight, class_weight, labels, m, network.dtype)
    return Data(samples, targets, weights), class_indices
