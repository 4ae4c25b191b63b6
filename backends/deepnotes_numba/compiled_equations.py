"""Equations that call compiled functions and return new arrays; see :mod:`deepnotes_numba.eager_kernels`."""

from typing import Any

import numpy as np

from deepnotes.backends import ACTIVATIONS as LIBRARY
from deepnotes_numba import codes, passes
from deepnotes_numba.arrays import to_writable
from deepnotes_numba.codes import ACTIVATIONS, SOFTMAX


def activate(name: str, Z: np.ndarray, *option: float, **options: float) -> np.ndarray:
    """Return ``A = g(Z)`` (N3), with the shape of Z."""
    Z = to_writable(Z, Z.dtype)
    A = np.empty_like(Z)
    if ACTIVATIONS[name] == SOFTMAX:
        passes.softmax(Z, A, *np.empty((2, Z.shape[1]), Z.dtype))
    else:
        passes.activate(ACTIVATIONS[name], _option(name, Z, option, options), Z.reshape(-1), A.reshape(-1))
    return A


def backward(name: str, dA: np.ndarray, Z: np.ndarray, A: np.ndarray, *option: float, **options: float) -> np.ndarray:
    """Return ``dZ = dA * g'(Z)`` (N12), with the shape of Z."""
    D, Z, A = np.array(dA, order="C"), to_writable(Z, Z.dtype), to_writable(A, A.dtype)
    if ACTIVATIONS[name] == SOFTMAX:
        passes.softmax_backward(D, A, np.empty(D.shape[1], D.dtype))
    else:
        passes.backward(
            ACTIVATIONS[name], _option(name, Z, option, options), D.reshape(-1), Z.reshape(-1), A.reshape(-1)
        )
    return D


def momentum(
    theta: np.ndarray, g: np.ndarray, v: np.ndarray, rate: float, momentum: float, nesterov: bool = False
) -> tuple[np.ndarray, ...]:
    """Return the next θ and ``v``, shape (p,) each."""
    return _update(codes.NESTEROV if nesterov else codes.MOMENTUM, theta, g, (v,), rate, beta1=momentum)


def rmsprop(
    theta: np.ndarray, g: np.ndarray, s: np.ndarray, rate: float, rho: float, epsilon: float
) -> tuple[np.ndarray, ...]:
    """Return the next θ and ``s``, shape (p,) each."""
    return _update(codes.RMSPROP, theta, g, (s,), rate, epsilon, beta2=rho)


def adam(
    theta: np.ndarray, g: np.ndarray, m: np.ndarray, v: np.ndarray, rate: float, epsilon: float, beta1: float,
    beta2: float,
) -> tuple[np.ndarray, ...]:  # fmt: skip
    """Return the next θ, ``m`` and ``v``, shape (p,) each."""
    return _update(codes.ADAM, theta, g, (m, v), rate, epsilon, beta1, beta2)


def dropout_mask(shape: tuple[int, int], rate: float, seed: int, step: int, layer: int) -> np.ndarray:
    """Return whether dropout keeps each element, shape (n, m)."""
    n, m = shape
    mask = np.empty((-(-n * m // 4), 4), np.bool_)
    passes.mask(mask, float(rate), np.uint64(seed), step, layer)
    return mask.reshape(-1)[: n * m].reshape(m, n).T


def _update(
    code: int, theta: np.ndarray, g: np.ndarray, slots: tuple[np.ndarray, ...], rate: float, epsilon: float = 0.0,
    beta1: float = 0.0, beta2: float = 0.0,
) -> tuple[np.ndarray, ...]:  # fmt: skip
    """Return copies of θ and of the optimizer's slots, updated."""
    new = tuple(np.array(x, order="C") for x in (theta, *slots))
    first, second = (*new[1:], new[0], new[0])[:2]
    scalars = float(rate), float(epsilon), float(beta1), float(beta2)
    passes.update(code, new[0], to_writable(g, g.dtype), first, second, scalars)
    return new


def _option(name: str, Z: np.ndarray, option: tuple[float, ...], options: dict[str, float]) -> Any:
    """Return the option of an activation, or its default, in Z's dtype; 0 if it has no option."""
    value = next(iter((*option, *options.values(), *LIBRARY[name].options.values())), 0.0)
    return np.asarray(value, Z.dtype)[()]
