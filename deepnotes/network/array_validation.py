"""Validation and conversion of the samples, targets and weights that users pass; errors leave the network unchanged."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from deepnotes.backends.base import Backend
from deepnotes.backends.foreign_arrays import as_host, to_host
from deepnotes.equations.array import Array
from deepnotes.nn.layers import Embedding
from deepnotes.nn.losses import LossFunction
from deepnotes.utils.arguments import number, whole
from deepnotes.utils.array_checks import refuse_masked
from deepnotes.utils.errors import ArgumentError, DataError, DTypeError, ShapeError

BLOCK = 1 << 20
"""The number of elements that are checked at a time; this limits the memory that the check needs."""


_dtypes: dict[tuple[type, Any], np.dtype[Any]] = {}
"""The NumPy dtype of each dtype of a backend that was seen, by its class and itself; to look it up, an array has to be
moved to the host. Without the class, dtypes of different libraries would be compared, of which some of them warn."""


class ClassWeight(NamedTuple):
    """The weights of the classes, and the class of each sample.

    Attributes
    ----------
    weights : mapping of int to float, sequence of float or "balanced"
        The weight of each class. A mapping may omit classes of weight 1. With ``"balanced"``, the weights of the
        samples of each class add up to the same total.
    labels : ndarray of int64, shape (m,), or None
        The class of each sample, or None if the targets are not classes.
    classes : int
        The number of classes.
    """

    weights: Any
    labels: np.ndarray | None
    classes: int


def check_samples(x: Any, name: str, features: int) -> None:
    """Raise ShapeError unless `x` has shape (features, m)."""
    shape = tuple(x.shape)
    if len(shape) == 2 and shape[0] == features:
        return
    hint = ""
    if len(shape) == 2 and shape[1] == features:
        hint = f"; samples are columns here: {name}.T, of shape {shape[::-1]}, would fit"
    elif len(shape) == 1 and shape[0] == features:
        hint = f"; for one sample pass {name}.reshape(-1, 1)"
    raise ShapeError.of(name, shape, f"({features}, m): {features} features, m samples{hint}")


def check_finite(backend: Backend, x: Any, name: str, source: Any = None, first: int = 0) -> None:
    """Raise DataError if `x` contains NaN or infinity; the message gives the first position and the count.

    Parameters
    ----------
    x : Array
        The converted array.
    name : str
        The name of the argument, for error messages.
    source : array_like, optional
        The array of the same shape from which `x` was converted. If a number is finite in `source` but infinite in `x`,
        the message says that it is too large for the dtype of `x`.
    first : int, default 0
        The index of the first sample in `x`, if `x` is a part of the samples.
    """
    if not isinstance(x, np.ndarray):
        if backend.all_finite(x):
            return
        x = backend.to_numpy(x)
    if x.dtype.kind != "f":
        return
    rows = x if x.flags.c_contiguous or x.ndim != 2 else x.T
    step = max(1, BLOCK // max(1, x.size // max(1, len(rows))))
    if all(np.isfinite(rows[i : i + step]).all() for i in range(0, len(rows), step)):
        return
    bad = np.argwhere(~np.isfinite(x))
    index = tuple(bad[0])
    position = ", ".join(str(i) for i in (*index[:-1], index[-1] + first))
    if source is not None:
        original = as_host(backend, to_host(backend, source, name), name)
        if np.isfinite(original[index]):
            count = f"the first of {len(bad)} values " if len(bad) > 1 else ""
            raise DataError(
                f"{name}[{position}] is {original[index]}, {count}beyond the range of {x.dtype}; use dtype='float64' "
                "or scale the data"
            )
    count = f", the first of {len(bad)} values that are not finite" if len(bad) > 1 else ""
    raise DataError(f"{name}[{position}] is {x[index]}{count}; wanted finite numbers")


def check_categories(backend: Backend, x: Any, embedding: Embedding, metadata: Any, name: str, first: int = 0) -> None:
    """Raise DataError unless the columns of an Embedding hold indices of its categories.

    Parameters
    ----------
    x : Array, shape (n[0], m)
    embedding : Embedding
    metadata : dict
        Those of the network, which may have the names of the features.
    name : str
        The name of the argument, for error messages.
    first : int
        The index of the first sample in `x`, if `x` is a part of the samples.
    """
    for column, categories, _ in embedding:
        indices = np.asarray(backend.to_numpy(x[column : column + 1, ...]))[0]
        with np.errstate(invalid="ignore"):
            valid = (indices >= 0) & (indices < categories) & (indices == np.floor(indices))
        if valid.all():
            continue
        i = int(np.argmin(valid))
        features: Any = metadata.get("features") if isinstance(metadata, dict) else None
        named = isinstance(features, list) and len(features) == x.shape[0]
        column_name = f"column {column}" + (f" ({features[column]})" if named else "")
        wrong = int(len(valid) - valid.sum())
        count = f", the first of {wrong} wrong values" if wrong > 1 else ""
        raise DataError(
            f"{name}[{column}, {first + i}] is {indices[i]:g}{count}; {column_name} holds categories, wanted a whole "
            f"number from 0 to {categories - 1}"
        )


def check_real(backend: Backend, x: Any, name: str) -> None:
    """Raise DTypeError unless `x`, an array of the backend with at least one dimension, contains real numbers."""
    key = type(x.dtype), x.dtype
    kind = _dtypes.get(key)
    if kind is None:
        kind = _dtypes[key] = backend.to_numpy(x[:0, ...]).dtype
    if kind.kind not in "biuf":
        raise DTypeError.of(name, kind, "real numbers")


def as_targets(
    backend: Backend,
    Y: Any,
    loss: LossFunction,
    k: int,
    m: int,
    dtype: str,
    names: tuple[str, str] = ("X", "Y"),
    together: bool = False,
) -> tuple[Array, bool]:
    """Return targets on the backend, and whether they are class indices.

    Parameters
    ----------
    backend : Backend
    Y : array_like
        Shape (k, m), or (m,) if k is 1. For categorical losses also class indices, shape (m,) or (1, m). For a loss
        with several outputs for each target, k is the number of targets.
    loss : LossFunction
    k, m : int
        The numbers of outputs and of samples.
    dtype : str
        The dtype of targets that are not class indices.
    names : (str, str)
        The names of the samples and of the targets, for error messages.
    together : bool
        Whether the result must be an array of the backend, not Samples; see :meth:`Backend.from_samples`.

    Returns
    -------
    Y : Array
        Targets with the dtype `dtype`, shape (k, m), or class indices with the dtype int64, shape (1, m). For a loss
        with several outputs for each target, the targets are repeated, so that there is one for each output.
    class_indices : bool

    Raises
    ------
    ShapeError, DTypeError, DataError
    """
    if loss.targets == "simplex" and k == 1:
        raise ArgumentError(
            "categorical_cross_entropy of a single output is always 0; for two classes, use Dense(2, 'softmax'), or "
            "Dense(1, 'sigmoid') with binary_cross_entropy"
        )
    repeats = loss.outputs_per_target
    if k % repeats:
        raise ArgumentError(
            f"loss {loss.name!r} needs {repeats} outputs for each target, but the last layer has {k}: use "
            f"Dense({repeats}) for one target"
        )
    k //= repeats
    host = as_host(backend, to_host(backend, Y, names[1]), names[1])
    shape = host.shape
    indices = loss.targets == "simplex" and shape in {(m,), (1, m)}
    if not indices and shape != (k, m) and not (shape == (m,) and k == 1):
        raise ShapeError(_target_shape_message(shape, k, m, loss, names))
    check_finite(backend, host, names[1])
    to_backend = backend.from_numpy if together else backend.from_samples
    if indices:
        return to_backend(_class_indices(host, k, names[1]).reshape(1, m)), True
    _check_range(host, loss, names[1])
    with np.errstate(over="ignore"):
        targets = np.asarray(host.reshape(k, m), dtype=dtype)
    check_finite(backend, targets, names[1], host.reshape(k, m))
    if repeats > 1:
        targets = np.tile(targets, (repeats, 1))
    return to_backend(targets), False


def as_indices(indices: Any, m: int, name: str) -> np.ndarray:
    """Return the indices of some of m samples as int64; `indices` may also be a boolean mask of shape (m,).

    Raises
    ------
    ShapeError, DTypeError, DataError
    """
    refuse_masked(indices, name)
    host = np.asarray(indices)
    if host.dtype == np.bool_ and host.shape == (m,):
        host = np.flatnonzero(host)
    if host.ndim != 1 or host.dtype == np.bool_:
        raise ShapeError.of(name, host.shape, f"(k,): indices of samples, or a boolean mask of shape ({m},)")
    if not host.size:
        raise DataError(f"{name} is empty, wanted the index of at least one sample")
    if host.dtype.kind not in "iu":
        raise DTypeError.of(name, host.dtype, f"integers, or a boolean mask of shape ({m},)")
    wrong = (host < 0) | (host >= m)
    if wrong.any():
        i = int(np.argmax(wrong))
        raise DataError.of(f"{name}[{i}]", host[i], f"an index of 0 .. {m - 1}")
    return host.astype(np.int64, copy=False)


def as_weights(  # noqa: PLR0913 - the weights, and all that determines their values and their place
    backend: Backend,
    sample_weight: Any,
    class_weight: ClassWeight | None,
    m: int,
    dtype: str,
    together: bool = False,
    name: str = "sample_weight",
    scaled: bool = True,
    samples: np.ndarray | None = None,
) -> Array | None:
    """Return the product of sample and class weights, shape (1, m), on the backend, or None if both are None.

    Parameters
    ----------
    backend : Backend
    sample_weight : array_like of shape (m,) or (1, m), or None
    class_weight : ClassWeight or None
    m : int
        The number of samples.
    dtype : str
        The dtype of the result.
    together : bool
        As for :func:`as_targets`.
    name : str
        The name of the sample weights, for error messages.
    scaled : bool
        Whether to scale the weights to mean 1.
    samples : ndarray of int64, optional
        The indices of the samples that are used. `class_weight` describes these samples, the mean is over them, and the
        weights of all others are 0.

    Raises
    ------
    ShapeError, DTypeError, DataError, ArgumentError
    """
    if sample_weight is None and class_weight is None:
        return None
    weights, exponent = np.ones(m), 0
    if sample_weight is not None:
        weights, exponent = _sample_weights(backend, sample_weight, m, name)
    if samples is not None:
        weights = weights[samples]
        if not weights.any():
            raise DataError(f"{name} is 0 for each of the {len(samples)} samples, wanted at least one weight above 0")
    if class_weight is not None:
        weights = weights * _weights_by_class(class_weight, weights)
        if not weights.any():
            factor = "" if sample_weight is None else f" times {name}"
            raise DataError(f"class_weight{factor} is 0 for every sample, wanted at least one weight above 0")
    if scaled:
        weights = np.ldexp(weights, -int(np.frexp(weights.max())[1]))
        weights = weights / weights.mean()
    else:
        weights = np.ldexp(weights, exponent)
    with np.errstate(over="ignore"):  # weights beyond the range of the dtype become infinite, and are refused below
        converted = weights.reshape(1, -1).astype(dtype)
    check_finite(backend, converted[0], name, weights)
    if not converted.any():
        raise DataError(
            f"{name}: the largest weight is {weights.max()}, but rounds to 0 in {dtype}; wanted larger weights"
        )
    if samples is not None:
        of_samples, converted = converted, np.zeros((1, m), dtype)
        converted[:, samples] = of_samples
    to_backend = backend.from_numpy if together else backend.from_samples
    return to_backend(converted)


def _sample_weights(backend: Backend, sample_weight: Any, m: int, name: str) -> tuple[np.ndarray, int]:
    """Return weights between 0 and 1, shape (m,), and the exponent e such that ``sample_weight = weights * 2**e``.

    Scaling by a power of two is exact, and prevents overflow in later products and sums.
    """
    host = as_host(backend, to_host(backend, sample_weight, name), name)
    if host.shape not in {(m,), (1, m)}:
        raise ShapeError.of(name, host.shape, f"({m},): one weight for each sample")
    check_finite(backend, host, name)
    weights = host.reshape(m).astype(np.float64)
    if (weights < 0).any():
        i = int(np.argmax(weights < 0))
        raise DataError.of(f"{name}[{i}]", weights[i], "at least 0")
    if not weights.any():
        raise DataError(f"{name}: every sample has the weight 0, wanted at least one weight above 0")
    exponent = int(np.frexp(weights.max())[1])
    return np.ldexp(weights, -exponent), exponent


def _weights_by_class(class_weight: ClassWeight, weights: np.ndarray) -> np.ndarray:
    """Return the class weight of each sample, shape (m,); `weights` are the sample weights."""
    labels = class_weight.labels
    if labels is None:
        raise ArgumentError("class_weight: the targets are not classes; use sample_weight")
    return np.asarray(class_weights(class_weight.weights, labels, class_weight.classes, weights)[labels])


def as_labels(Y: np.ndarray, loss: LossFunction) -> np.ndarray | None:
    """Return the class of each sample, shape (m,), or None if the targets `Y` are not classes.

    The shape of `Y` is (k, m), or (1, m) for class indices.
    """
    if loss.targets == "simplex":
        return np.asarray(Y.reshape(-1) if Y.dtype.kind == "i" else Y.argmax(axis=0))
    if loss.targets == "unit" and Y.shape[0] == 1:
        return np.asarray(Y[0] > 0.5, dtype=np.int64)
    return None


def _target_shape_message(shape: tuple[int, ...], k: int, m: int, loss: LossFunction, names: tuple[str, str]) -> str:
    """Return the error message for targets of a wrong shape."""
    X, Y = names
    wanted = f"({k}, {m})" + (f", or class indices of shape ({m},)" if loss.targets == "simplex" else "")
    if shape and shape[-1] != m and shape[0] == m and len(shape) == 2 and shape[1] == k:
        return f"{Y} has shape {shape}, wanted {wanted}; samples are columns here; {Y}.T would fit"
    if shape and shape[-1] != m:
        return f"{Y} has {shape[-1]} samples (shape {shape}), but {X} has {m}; wanted {Y} of shape {wanted}"
    counted = f"{k} outputs" if loss.outputs_per_target == 1 else f"{k} target{'s' * (k > 1)}"
    return f"{Y} has shape {shape}, wanted {wanted}: {counted}, {m} samples"


def _class_indices(Y: np.ndarray, k: int, name: str) -> np.ndarray:
    """Return class indices as int64, shape (m,); raise DataError unless all are integers from 0 to k - 1."""
    flat = Y.reshape(-1)
    with np.errstate(invalid="ignore"):  # labels that int64 cannot represent are refused below
        labels = flat.astype(np.int64)
    for wrong, wanted in (
        (labels != flat, "a whole number"),
        ((labels < 0) | (labels >= k), f"a class from 0 to {k - 1}"),
    ):
        if wrong.any():
            i = int(np.argmax(wrong))
            count = f" ({wrong.sum()} labels are wrong)" if wrong.sum() > 1 else ""
            raise DataError.of(f"{name}[{i}]", flat[i], f"{wanted}{count}")
    return labels


def _check_range(Y: np.ndarray, loss: LossFunction, name: str) -> None:
    """Raise DataError if targets, shape (k, m), are outside the range for which the loss is defined."""
    if loss.targets == "real":
        return
    wrong = (Y < 0) if loss.targets == "count" else (Y < 0) | (Y > 1)
    if wrong.any():
        index = np.argwhere(wrong)[0]
        wanted = "at least 0" if loss.targets == "count" else "between 0 and 1"
        position = ", ".join(map(str, index))
        raise DataError.of(f"{name}[{position}]", Y[tuple(index)], f"{wanted} for the loss {loss.name!r}")
    if loss.targets == "simplex":
        wrong_sum = np.abs(Y.sum(axis=0, dtype=np.float64) - 1) > 1e-3
        if wrong_sum.any():
            i = int(np.argmax(wrong_sum))
            raise DataError(f"{name}[:, {i}] sums to {Y[:, i].sum():.6g}, wanted 1: each column must be a distribution")


def class_weights(class_weight: Any, labels: np.ndarray, classes: int, weights: np.ndarray) -> np.ndarray:
    """Return the weight of each class, shape (classes,).

    Parameters
    ----------
    class_weight : mapping of int to float, sequence of float or "balanced"
        As for :class:`ClassWeight`.
    labels : ndarray of int64, shape (m,)
        The class of each sample.
    classes : int
        The number of classes.
    weights : ndarray, shape (m,)
        The weights of the samples. For ``"balanced"``, a sample of weight 2 counts as two samples.

    Raises
    ------
    ArgumentError
    """
    if isinstance(class_weight, str):
        if class_weight != "balanced":
            raise ArgumentError.of("class_weight", class_weight, "'balanced', a mapping or a sequence")
        sums = np.bincount(labels, weights, classes)
        present = sums > 0  # the weight of a class without samples is not used
        return np.asarray(sums.sum() / (np.count_nonzero(present) * np.where(present, sums, 1)))
    if isinstance(class_weight, Mapping):
        by_class = np.ones(classes)
        for c, weight in class_weight.items():
            if whole("class_weight: class", c, 0) >= classes:
                raise ArgumentError(f"class_weight has the class {c}, wanted classes from 0 to {classes - 1}")
            by_class[c] = number(f"class_weight[{c!r}]", weight)
        return by_class
    if not isinstance(class_weight, Sequence) and not (isinstance(class_weight, np.ndarray) and class_weight.ndim == 1):
        raise ArgumentError.of("class_weight", class_weight, "'balanced', a mapping or a sequence")
    refuse_masked(class_weight, "class_weight")
    if len(class_weight) != classes:
        raise ArgumentError(f"class_weight has {len(class_weight)} weights, wanted {classes}: one for each class")
    return np.asarray([number(f"class_weight[{c}]", weight) for c, weight in enumerate(class_weight)])
