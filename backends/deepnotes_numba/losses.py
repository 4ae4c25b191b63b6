"""Losses by code: the sum over a batch, and the derivative by the outputs or, where fused, by the logits (N11)."""

from math import exp, log, log1p

import numpy as np

from deepnotes_numba.compiling import jit

BINARY, CATEGORICAL, SQUARED, ABSOLUTE, HUBER, POISSON, SIGMOID_FUSED, SOFTMAX_FUSED = range(8)
CODES = {
    "binary_cross_entropy": BINARY, "categorical_cross_entropy": CATEGORICAL, "mean_squared_error": SQUARED,
    "mean_absolute_error": ABSOLUTE, "huber": HUBER, "poisson": POISSON,
}  # fmt: skip


@jit
def loss_and_delta(code, option, Z, A, Y, labelled, c, D):
    """Return ``Σ c L`` over the samples, and write c times the derivative to D.

    Z and A are (k, m), Y is (k, m), or (1, m) of class indices where `labelled`; c, (m,), holds each sample's share of
    the mean. D is ``c (A - Y)``, up to 1/k, for the fused codes, else ``c ∂L/∂A``.
    """
    k, m = A.shape
    T = A.dtype.type
    one, zero = T(1), T(0)
    eps = T(np.finfo(A.dtype).eps)
    tiny = T(np.finfo(A.dtype).tiny)
    delta = T(option)
    share = one / T(k)
    total = 0.0
    for s in range(m):
        L = zero
        label = np.int64(Y[0, s]) if labelled else 0
        if code == SOFTMAX_FUSED:
            largest = Z[0, s]
            for i in range(1, k):
                x = Z[i, s]
                if x > largest or x != x:
                    largest = x
            mass = zero
            for i in range(k):
                mass += exp(Z[i, s] - largest)
            log_mass = log(mass)
            for i in range(k):
                y = (one if i == label else zero) if labelled else T(Y[i, s])
                if y != zero:
                    L -= y * (Z[i, s] - largest - log_mass)
                D[i, s] = c[s] * (A[i, s] - y)
            total += c[s] * (L + (largest - largest))  # NaN where a logit is infinite, also if no label names it
            continue
        for i in range(k):
            a = A[i, s]
            y = (one if i == label else zero) if labelled else T(Y[i, s])
            if code == SIGMOID_FUSED:
                z = Z[i, s]
                L += (zero if z < zero else z) + log1p(exp(-abs(z))) - y * z
                D[i, s] = c[s] * share * (a - y)
            elif code == BINARY:
                a = eps if a < eps else (one - eps if a > one - eps else a)
                L -= y * log(a) + (one - y) * log1p(-a)
                D[i, s] = c[s] * share * ((a - y) / (a * (one - a)))
            elif code == CATEGORICAL:
                a = tiny if a < tiny else a
                L -= y * log(a)
                D[i, s] = c[s] * (-y / a)
            elif code == SQUARED:
                L += (a - y) * (a - y)
                D[i, s] = c[s] * (T(2) * share) * (a - y)
            elif code == ABSOLUTE:
                e = a - y
                L += abs(e)
                D[i, s] = c[s] * share * (one if e > zero else (-one if e < zero else e))
            elif code == HUBER:
                e = a - y
                near = delta if abs(e) > delta else abs(e)
                L += near * (abs(e) - T(0.5) * near)
                D[i, s] = c[s] * share * (delta if e > delta else (-delta if e < -delta else e))
            elif code == POISSON:
                a = tiny if a < tiny else a
                L += a - y * log(a)
                D[i, s] = c[s] * share * (one - y / a)
        if code == CATEGORICAL:
            total += c[s] * L
        else:
            total += c[s] * (L * share)
    return total
