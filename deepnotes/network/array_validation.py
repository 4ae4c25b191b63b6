"""Validation of users' arrays (samples, targets, weights), which are checked and converted before anything changes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deepnotes.backends.base import Backend
from deepnotes.backends.foreign_arrays import as_host, to_host
from deepnotes.equations.array import Array
from deepnotes.nn.losses import LossFunction
from deepnotes.utils.arguments import number, whole
from deepnotes.utils.array_checks import refuse_masked
from deepnotes.utils.errors import ArgumentError, DataError, DTypeError, ShapeError

BLOCK = 1 << 20
"""The number of elements checked at a time, so that a check needs little memory of its own."""


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


def check_finite(backend: Backend, x: Any, name: str, given: Any = None, first: int = 0) -> None:
    """Raise DataError if `x` holds NaN or infinity, with the first position and the count.

    Parameters
    ----------
    x : Array
        The converted array.
    name : str
    given : array_like, optional
        The array that `x` was converted from, of the same shape. If it is finite where `x` is not, the message says
        that the number is too large for the dtype of `x`.
    first : int, default 0
        The index of the first sample of `x`, if `x` holds only some of the samples.
    """
    if not isinstance(x, np.ndarray):
        if float(backend.xp.sum(x - x)) == 0:
            return
        x = backend.to_numpy(x)
    if x.dtype.kind != "f":
        return
    rows = x if x.flags.c_contiguous or x.ndim != 2 else x.T
    step = max(1, BLOCK // max(1, x.size // max(1, len(rows))))
    if all(np.isfinite(rows[i : i + step]).all() for i in range(0, len(rows), step)):
        return
    bad = np.argwhere(~np.isfinite(x))
    found = tuple(bad[0])
    at = ", ".join(str(i) for i in (*found[:-1], found[-1] + first))
    if given is not None:
        source = as_host(backend, to_host(backend, given, name), name)
        if np.isfinite(source[found]):
            raise DataError(
                f"{name}[{at}] is {source[found]}, beyond {x.dtype}, as {len(bad)} values are; use dtype='float64' or "
                "other units"
            )
    count = f", the first of {len(bad)} values that are not finite" if len(bad) > 1 else ""
    raise DataError(f"{name}[{at}] is {x[found]}{count}; wanted finite numbers")


def check_real(backend: Backend, x: Any, name: str) -> None:
    """Raise DTypeError if an array of the backend, of at least one dimension, holds anything but real numbers."""
    dtype = backend.to_numpy(x[:0, ...]).dtype
    if dtype.kind not in "biuf":
        raise DTypeError.of(name, dtype, "real numbers")


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
    Y : array_like
        Shape (k, m); (m,) where k is 1; for categorical losses also class indices of shape (m,) or (1, m).
    loss : LossFunction
    k, m : int
        The numbers of outputs and of samples.
    dtype : str
    names : (str, str)
        The names of the samples and the targets in messages.
    together : bool
        Whether the result has to be an ordinary array of the backend, see :meth:`Backend.from_samples`.

    Returns
    -------
    Y : Array, shape (k, m), of `dtype`, or (1, m), of int64
    class_indices : bool

    Raises
    ------
    ShapeError, DTypeError, DataError
    """
    if loss.targets == "simplex" and k == 1:
        raise ArgumentError(
            "categorical_cross_entropy of a single output is always 0: for two classes use Dense(2, 'softmax'), or "
            "Dense(1, 'sigmoid') with binary_cross_entropy"
        )
    host = as_host(backend, to_host(backend, Y, names[1]), names[1])
    shape = host.shape
    indices = loss.targets == "simplex" and shape in {(m,), (1, m)}
    if not indices and shape != (k, m) and not (shape == (m,) and k == 1):
        raise ShapeError(_target_shape_message(shape, k, m, loss, names))
    check_finite(backend, host, names[1])
    place = backend.from_numpy if together else backend.from_samples
    if indices:
        return place(_class_indices(host, k, names[1]).reshape(1, m)), True
    _check_range(host, loss, names[1])
    with np.errstate(over="ignore"):
        targets = np.asarray(host.reshape(k, m), dtype=dtype)
    check_finite(backend, targets, names[1], host.reshape(k, m))
    return place(targets), False


def as_weights(
    backend: Backend,
    sample_weight: Any,
    class_weight: Any,
    labels: np.ndarray | None,
    classes: int,
    m: int,
    dtype: str,
    together: bool = False,
    name: str = "sample_weight",
    scaled: bool = True,
) -> Array | None:
    """Return the product of sample and class weights, shape (1, m), on the backend; None if neither is given.

    Parameters
    ----------
    sample_weight : array_like of shape (m,) or (1, m), or None
    class_weight : mapping of int to float, sequence of float, "balanced" or None
        The weight of each class, 1 for those that a mapping leaves out; ``"balanced"`` gives every class the same sum
        of weights.
    labels : ndarray of int64, shape (m,), or None
        The class of each sample, or None if the targets are not classes.
    classes : int
        The number of possible classes.
    together : bool
        As for :func:`as_targets`.
    name : str
        The name of the sample weights in messages.
    scaled : bool
        Whether to scale the weights to mean 1.

    Raises
    ------
    ShapeError, DTypeError, DataError, ArgumentError
    """
    if sample_weight is None and class_weight is None:
        return None
    weights = np.ones(m)
    if sample_weight is not None:
        given = as_host(backend, to_host(backend, sample_weight, name), name)
        if given.shape not in {(m,), (1, m)}:
            raise ShapeError.of(name, given.shape, f"({m},): one weight for each sample")
        check_finite(backend, given, name)
        weights = given.reshape(m).astype(np.float64)
        if (weights < 0).any():
            at = int(np.argmax(weights < 0))
            raise DataError.of(f"{name}[{at}]", weights[at], "at least 0")
        if not weights.any():
            raise DataError(f"{name}: every sample has the weight 0, wanted at least one above 0")
        exponent = int(np.frexp(weights.max())[1])
        weights = np.ldexp(weights, -exponent)  # exact, as a power of two; now no product or sum can overflow
    if class_weight is not None:
        if labels is None:
            raise ArgumentError("class_weight: the targets are not classes; use sample_weight")
        of_class = class_weights(class_weight, labels, classes, weights)
        weights = weights * of_class[labels]
        if not weights.any():
            raise DataError(
                f"class_weight gives every sample the weight 0{'' if sample_weight is None else f' with {name}'}"
            )
    if scaled:
        weights = np.ldexp(weights, -int(np.frexp(weights.max())[1]))
        weights = weights / weights.mean()
    elif sample_weight is not None:
        weights = np.ldexp(weights, exponent)
    with np.errstate(over="ignore"):
        held = weights.reshape(1, m).astype(dtype)
    check_finite(backend, held[0], name, weights)
    if not held.any():
        raise DataError(f"{name}: the largest is {weights.max()}, which is 0 in {dtype}; wanted larger weights")
    place = backend.from_numpy if together else backend.from_samples
    return place(held)


def as_labels(Y: np.ndarray, loss: LossFunction) -> np.ndarray | None:
    """Return the class of each sample, shape (m,), from targets of shape (k, m) or class indices of shape (1, m)."""
    if loss.targets == "simplex":
        return np.asarray(Y.reshape(-1) if Y.dtype.kind == "i" else Y.argmax(axis=0))
    if loss.targets == "unit" and Y.shape[0] == 1:
        return np.asarray(Y[0] > 0.5, dtype=np.int64)
    return None


def _target_shape_message(shape: tuple[int, ...], k: int, m: int, loss: LossFunction, names: tuple[str, str]) -> str:
    X, Y = names
    wanted = f"({k}, {m})" + (f", or class indices of shape ({m},)" if loss.targets == "simplex" else "")
    if shape and shape[-1] != m and shape[0] == m and len(shape) == 2 and shape[1] == k:
        return f"{Y} has shape {shape}, wanted {wanted}; samples are columns here: {Y}.T would fit"
    if shape and shape[-1] != m:
        return f"{Y} has {shape[-1]} samples (shape {shape}) and {X} has {m}; wanted {Y} of shape {wanted}"
    return f"{Y} has shape {shape}, wanted {wanted}: {k} outputs, {m} samples"


def _class_indices(Y: np.ndarray, k: int, name: str) -> np.ndarray:
    flat = Y.reshape(-1)
    with np.errstate(invalid="ignore"):  # labels beyond the range of integers are refused below
        labels = flat.astype(np.int64)
    for wrong, wanted in (
        (labels != flat, "a whole number"),
        ((labels < 0) | (labels >= k), f"a class of 0 .. {k - 1}"),
    ):
        if wrong.any():
            at = int(np.argmax(wrong))
            raise DataError.of(f"{name}[{at}]", flat[at], f"{wanted}; {int(wrong.sum())} labels are not")
    return labels


def _check_range(Y: np.ndarray, loss: LossFunction, name: str) -> None:
    if loss.targets == "real":
        return
    wrong = (Y < 0) if loss.targets == "count" else (Y < 0) | (Y > 1)
    if wrong.any():
        at = np.argwhere(wrong)[0]
        wanted = "at least 0" if loss.targets == "count" else "between 0 and 1"
        where = ", ".join(str(i) for i in at)
        raise DataError.of(f"{name}[{where}]", Y[tuple(at)], f"{wanted} for the loss {loss.name!r}")
    if loss.targets == "simplex":
        off = np.abs(Y.sum(axis=0, dtype=np.float64) - 1) > 1e-3
        if off.any():
            at = int(np.argmax(off))
            raise DataError(f"{name}[:, {at}] sums to {Y[:, at].sum():.6g}, wanted 1: each column is a distribution")


def class_weights(class_weight: Any, labels: np.ndarray, classes: int, weights: np.ndarray) -> np.ndarray:
    """Return the weight of each class, shape (classes,).

    Parameters
    ----------
    class_weight : mapping of int to float, sequence of float or "balanced"
        As for :func:`as_weights`.
    labels : ndarray of int64, shape (m,)
        The class of each sample.
    classes : int
    weights : ndarray, shape (m,)
        The weight of each sample: a sample of weight 2 counts as two.

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
        of_class = np.ones(classes)
        for c, weight in class_weight.items():
            if whole("class_weight: class", c, 0) >= classes:
                raise ArgumentError(f"class_weight names the class {c}, and there are the classes 0 .. {classes - 1}")
            of_class[c] = number(f"class_weight[{c!r}]", weight)
        return of_class
    if not isinstance(class_weight, Sequence) and not (isinstance(class_weight, np.ndarray) and class_weight.ndim == 1):
        raise ArgumentError.of("class_weight", class_weight, "'balanced', a mapping or a sequence")
    refuse_masked(class_weight, "class_weight")
    if len(class_weight) != classes:
        raise ArgumentError(f"class_weight has {len(class_weight)} weights, wanted {classes}: one for each class")
    return np.asarray([number(f"class_weight[{c}]", weight) for c, weight in enumerate(class_weight)])
