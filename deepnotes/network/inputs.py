"""Conversion of users' data for a Program: samples, targets and weights are checked and moved to the backend."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from deepnotes.backends.foreign_arrays import adopt, as_host, is_neighbour
from deepnotes.backends.program import Data
from deepnotes.backends.samples import Samples, host_columns, spans
from deepnotes.equations.array import Array
from deepnotes.network import array_validation
from deepnotes.network.streaming import DiskSamples, disk_samples
from deepnotes.nn.losses import LossFunction
from deepnotes.utils.errors import DataError

if TYPE_CHECKING:
    from deepnotes.network.protocol import NetworkLike


def is_native(network: "NetworkLike", X: Any) -> bool:
    """Return whether X is the backend's array, or another library's on the same device, but not a NumPy array.

    If so, the results for X are arrays of the backend; otherwise they are NumPy arrays.
    """
    return not isinstance(X, np.ndarray) and (network.backend.is_array(X) or is_neighbour(network.backend, X))


def as_samples(network: "NetworkLike", X: Any, name: str = "X", together: bool = False, on_host: bool = False) -> Array:
    """Return samples of shape (n[0], m) in the network's dtype, standardized if the network has a standardizer.

    Parameters
    ----------
    network : NetworkLike
    X : array_like
    name : str
        The name of X in error messages.
    together : bool
        Whether all samples are used as one batch. If so, the result is an array of the backend; otherwise it may be
        :class:`~deepnotes.backends.Samples`.
    on_host : bool
        Whether the result for samples in the memory of the host is a NumPy array.

    Raises
    ------
    ShapeError, DTypeError, ForeignArrayError
    """
    backend, standardizer = network.backend, network.standardizer
    to_backend: Callable[[np.ndarray], Array] = backend.from_numpy if together else backend.from_samples
    if on_host:
        to_backend = cast(Any, np.asarray)
    if (  # nothing to convert: this shortcut speeds up predictions for single samples
        type(X) is np.ndarray
        and standardizer is None
        and X.dtype == network.host_dtype
        and X.ndim == 2
        and X.shape[0] == network.inputs
    ):
        return to_backend(X)
    if is_native(network, X):
        X = adopt(backend, X, name)
        array_validation.check_samples(X, name, network.inputs)
        array_validation.check_real(backend, X, name)
        dtype = getattr(backend.xp, network.dtype)
        samples: Array = X if X.dtype == dtype else backend.xp.astype(X, dtype)
        if standardizer is not None:
            constants = (network.from_host(x) for x in (standardizer.mean, standardizer.scale))
            samples = backend.ops.standardize(samples, *constants)
        return samples
    if (on_disk := disk_samples(network, X)) is not None:
        array_validation.check_samples(on_disk, name, network.inputs)
        return on_disk.take(slice(None)) if together else cast(Array, on_disk)
    host = as_host(backend, X, name)
    array_validation.check_samples(host, name, network.inputs)
    with np.errstate(over="ignore"):  # values beyond the dtype's range become infinite, and training refuses them
        if standardizer is not None:
            host = standardizer(host)
        return to_backend(host.astype(network.dtype, copy=False))


def as_data(  # noqa: PLR0913 - the samples, targets and weights of fit, and their options
    network: "NetworkLike",
    X: Any,
    Y: Any,
    loss: LossFunction,
    sample_weight: Any = None,
    class_weight: Any = None,
    names: tuple[str, str, str] = ("X", "Y", "sample_weight"),
    together: bool = False,
    scaled: bool = True,
) -> tuple[Data, bool]:
    """Return samples with their targets and weights, and whether the targets are class indices.

    `names` are the names of X, Y and sample_weight in error messages. `together` is as for :func:`as_samples`, and
    `scaled` as for :func:`deepnotes.network.array_validation.as_weights`.

    Raises
    ------
    ShapeError, DTypeError, DataError, ForeignArrayError, ArgumentError
    """
    backend = network.backend
    samples = as_samples(network, X, names[0], together)
    m = samples.shape[1]
    if m == 0:
        raise DataError(f"{names[0]} holds no samples (shape {tuple(samples.shape)}), wanted at least one")
    if isinstance(samples, DiskSamples):
        for span in spans(samples):
            array_validation.check_finite(backend, samples.read(span), names[0], first=span.start)
    else:
        in_memory = samples.read(slice(None)) if isinstance(samples, Samples) else samples
        array_validation.check_finite(backend, in_memory, names[0], X)
    k = network.outputs
    targets, class_indices = array_validation.as_targets(backend, Y, loss, k, m, network.dtype, names[:2], together)
    if class_weight is not None:
        labels = array_validation.as_labels(host_columns(backend, targets), loss)
        class_weight = array_validation.ClassWeight(class_weight, labels, max(k, 2))
    weights = array_validation.as_weights(
        backend, sample_weight, class_weight, m, network.dtype, together, names[2], scaled
    )
    return Data(samples, targets, weights), class_indices
