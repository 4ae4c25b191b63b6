"""Equations that call generated kernels and return new arrays; see :mod:`deepnotes_numba.eager_kernels`."""

from functools import cache
from inspect import signature
from typing import Any

import numpy as np

from deepnotes.backends import ACTIVATIONS as LIBRARY
from deepnotes.backends import Activation, trace
from deepnotes.equations import EQUATIONS
from deepnotes_numba import generated, masks
from deepnotes_numba.arrays import to_writable
from deepnotes_numba.kernels import ActivationKernels, activation_kernels


def activate(name: str, Z: np.ndarray, *option: float, **options: float) -> np.ndarray:
    """Return ``A = g(Z)`` (N3), with the shape of Z, which has two dimensions."""
    kernel = _kernels(name, Z.dtype.name, option, options).forward
    Z = to_writable(Z, Z.dtype)
    A = np.empty_like(Z)
    kernel.function(Z.ctypes.data, A.ctypes.data, *Z.shape, kernel.constants.ctypes.data)
    return A


def backward(name: str, dA: np.ndarray, Z: np.ndarray, A: np.ndarray, *option: float, **options: float) -> np.ndarray:
    """Return ``dZ = dA * g'(Z)`` (N12), with the shape of Z, which has two dimensions."""
    kernel = _kernels(name, Z.dtype.name, option, options).backward
    D, Z, A = np.array(dA, order="C"), to_writable(Z, Z.dtype), to_writable(A, A.dtype)
    arrays = D.ctypes.data, Z.ctypes.data, A.ctypes.data
    kernel.function(*arrays, *D.shape, kernel.constants.ctypes.data)
    return D


def update(
    name: str, slots: int, theta: np.ndarray, g: np.ndarray, *arguments: Any, **options: Any
) -> tuple[np.ndarray, ...]:
    """Return the next θ and slots of the update equation `name`, shape (p,) each."""
    if options:
        arguments = signature(EQUATIONS[name]).bind(None, theta, g, *arguments, **options).args[3:]
    flags = tuple(x for x in arguments if isinstance(x, bool))
    scalars = np.array([float(x) for x in arguments[slots : len(arguments) - len(flags)]])
    kernel = _update_kernel(name, slots, theta.dtype.name, len(scalars), flags)
    new = [np.array(x, order="C") for x in (theta, *arguments[:slots])]
    addresses = np.array([x.ctypes.data for x in new[1:]], np.int64)
    G = to_writable(g, g.dtype)
    kernel.function(
        new[0].ctypes.data, G.ctypes.data, addresses.ctypes.data, 0, len(G), scalars.ctypes.data, 1,
        kernel.constants.ctypes.data, 0.0, 1.0,
    )  # fmt: skip
    return tuple(new)


def dropout_mask(shape: tuple[int, int], rate: float, seed: int, step: int, layer: int) -> np.ndarray:
    """Return whether dropout keeps each element, shape (n, m)."""
    n, m = shape
    mask = np.empty((-(-n * m // 4), 4), np.bool_)
    masks.write_mask(mask, float(rate), np.uint64(seed), step, layer)
    return mask.reshape(-1)[: n * m].reshape(m, n).T


def _kernels(name: str, dtype: str, option: tuple[float, ...], options: dict[str, float]) -> ActivationKernels:
    defaults = LIBRARY[name].options
    values = defaults | dict(zip(defaults, option, strict=False)) | options
    return _activation_kernels(name, dtype, tuple(values.items()))


@cache
def _activation_kernels(name: str, dtype: str, options: tuple[tuple[str, float], ...]) -> ActivationKernels:
    kernels = activation_kernels(Activation(name, **dict(options)), dtype, 2, False)
    assert kernels is not None  # the identity has none, see `eager_kernels`
    return kernels


@cache
def _update_kernel(name: str, slots: int, dtype: str, scalars: int, flags: tuple[bool, ...]) -> generated.Kernel:
    """Return the kernel of an update equation; its scalars are arguments of the kernel, its last arguments `flags`."""
    arrays = ["theta", "g", *(f"slot{i}" for i in range(slots))]
    numbers = [f"scalar{i}" for i in range(scalars)]
    step = trace(
        lambda xp, *arguments: EQUATIONS[name](xp, *arguments, *flags), arrays, dtype, numbers=numbers, dimensions=1
    )
    return generated.update(step, slots, numbers)
