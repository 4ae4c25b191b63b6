"""Conversion of users' data for a Program: samples, targets and weights are checked and moved to the backend."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from deepnotes.backends.foreign_arrays import adopt, as_host, is_neighbour
from deepnotes.backends.program import Data
from deepnotes.backends.samples import Columns, Samples, Subset, host_columns, spans
from deepnotes.equations.array import Array
from deepnotes.network import array_validation
from deepnotes.network.streaming import DiskSamples, disk_samples
from deepnotes.nn.layers import Embedding
from deepnotes.nn.losses import LossFunction
from deepnotes.utils.errors import DataError

if TYPE_CHECKING:
    from deepnotes.network.protocol import NetworkLike


Converted: TypeAlias = dict[tuple[object, ...], Any]
"""Conversions of the same X and Y, by all that determines them; several subsets and networks share them."""


def is_native(network: "NetworkLike", X: Any) -> bool:
    """Return whether X is the backend's array, or another library's on the same device, but not a NumPy array.

    If so, the results for X are arrays of the backend; otherwise they are NumPy arrays.
    """
    return not isinstance(X, np.ndarray) and (network.backend.is_array(X) or is_neighbour(network.backend, X))


def embedding_of(network: "NetworkLike") -> Embedding | None:
    """Return the first layer if it is an Embedding, whose columns of X hold the indices of categories."""
    first = network.layers[0]
    return first if isinstance(first, Embedding) else None


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
    DataError
        If a column of an Embedding holds anything but indices of categories.
    """
    samples = _converted(network, X, name, together, on_host)
    embedding = embedding_of(network)
    if embedding is not None:
        for first, part in _parts(samples):
            array_validation.check_categories(network.backend, part, embedding, network.metadata, name, first)
    return samples


def _parts(samples: Any) -> Iterator[tuple[int, Any]]:
    """Yield parts of samples that fit into memory, each after the index of its first sample."""
    if isinstance(samples, DiskSamples):
        for span in spans(samples):
            yield span.start, samples.read(span)
    else:
        yield 0, samples.read(slice(None)) if isinstance(samples, Samples) else samples


def _converted(network: "NetworkLike", X: Any, name: str, together: bool, on_host: bool) -> Array:
    """Return samples on the backend, standardized; see :func:`as_samples`."""
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
    subset: tuple[str, Any] | None = None,
    converted: Converted | None = None,
) -> tuple[Data, bool]:
    """Return samples with their targets and weights, and whether the targets are class indices.

    Parameters
    ----------
    network : NetworkLike
    X, Y, sample_weight, class_weight : object
        As for :meth:`deepnotes.Network.fit`.
    loss : LossFunction
    names : (str, str, str)
        The names of X, Y and sample_weight in error messages.
    together : bool
        As for :func:`as_samples`.
    scaled : bool
        As for :func:`deepnotes.network.array_validation.as_weights`.
    subset : (str, array_like), optional
        The name of an argument, and the indices in it: the result is a :class:`~deepnotes.backends.samples.Subset` with
        the samples at these indices.
    converted : dict, optional
        The conversions of the same X and Y in earlier calls, which are used again; those of this call are added.

    Raises
    ------
    ShapeError, DTypeError, DataError, ForeignArrayError, ArgumentError
    """
    backend, dtype, k = network.backend, network.dtype, network.outputs
    converted = {} if converted is None else converted
    key: tuple[object, ...] = (
        "X", backend, dtype, network.inputs, id(network.standardizer), embedding_of(network), together,
    )  # fmt: skip
    if key not in converted:
        converted[key] = _finite_samples(network, X, names[0], together)
    samples = converted[key]
    m = samples.shape[1]
    key = "Y", backend, dtype, loss.targets, loss.outputs_per_target, k, together
    if key not in converted:
        converted[key] = array_validation.as_targets(backend, Y, loss, k, m, dtype, names[:2], together)
    targets, class_indices = converted[key]
    chosen = None if subset is None else array_validation.as_indices(subset[1], m, subset[0])
    if class_weight is not None:
        labels = array_validation.as_labels(host_columns(backend, targets), loss)
        labels = labels if labels is None or chosen is None else labels[chosen]
        class_weight = array_validation.ClassWeight(class_weight, labels, max(k, 2))
    weights = array_validation.as_weights(
        backend, sample_weight, class_weight, m, dtype, together, names[2], scaled, chosen
    )
    data = Data(samples, targets, weights)
    if chosen is not None:
        data = Data._make(x if x is None else Subset(backend, x, chosen) for x in data)
    return data, class_indices


def _finite_samples(network: "NetworkLike", X: Any, name: str, together: bool) -> Columns:
    """Return the result of :func:`as_samples`; raise DataError if there are no samples or one is not finite."""
    samples = as_samples(network, X, name, together)
    if samples.shape[1] == 0:
        raise DataError(f"{name} holds no samples (shape {tuple(samples.shape)}), wanted at least one")
    source = None if isinstance(samples, DiskSamples) else X
    for first, part in _parts(samples):
        array_validation.check_finite(network.backend, part, name, source, first)
    return samples
