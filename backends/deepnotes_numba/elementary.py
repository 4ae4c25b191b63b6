"""Elementary functions that the compiler can vectorise, since they have no calls, branches or tables.

`exp` and its variants write their argument as ``n ln 2 + r`` with ``|r| <= ln(2) / 2``, then sum the series of
``e^r - 1``; `log` sums the series of ``log((1 + s) / (1 - s))`` (W. J. Cody and W. Waite, Software Manual for the
Elementary Functions, 1980). All functions return NaN for NaN. Their accuracy depends on the order of operations.
"""

from math import factorial, inf, nan

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from deepnotes_numba.compiling import inline_code
from deepnotes_numba.vectors import multiply_add


def constant(single, double):
    """Return a function of x that returns `single` if x is a float32, and `double` if it is a float64."""

    @intrinsic
    def number(typingctx, x):
        def generate(context, builder, signature, arguments):
            value = single if signature.args[0] == types.float32 else double
            return context.get_constant(signature.args[0], value)

        return x(x), generate

    return number


def _polynomial(single, double):
    """Return a polynomial of r; its coefficients, highest first, are `single` or `double`, by the type of r."""

    @intrinsic
    def polynomial(typingctx, r):
        def generate(context, builder, signature, arguments):
            first, *rest = single if signature.args[0] == types.float32 else double
            value = context.get_constant(signature.args[0], first)
            for term in rest:
                value = multiply_add(builder, value, arguments[0], context.get_constant(signature.args[0], term))
            return value

        return r(r), generate

    return polynomial


@intrinsic
def _nearest(typingctx, x):
    """Return the integer nearest to x, as a float."""

    def generate(context, builder, signature, arguments):
        return builder.call(builder.module.declare_intrinsic("llvm.rint", [arguments[0].type]), arguments)

    return x(x), generate


@intrinsic
def _power_of_two(typingctx, n):
    """Return 2^n for an integer n, given as a float, if 2^n is a normal number."""

    def generate(context, builder, signature, arguments):
        word, mantissa = _word(signature.args[0])
        bias = (1 << (word.width - mantissa - 2)) - 1
        biased = builder.add(builder.fptosi(arguments[0], word), word(bias))
        return builder.bitcast(builder.shl(biased, word(mantissa)), arguments[0].type)

    return n(n), generate


@intrinsic
def _exponent(typingctx, x):
    """Return the integer n, as a float, with ``x / 2^n`` from sqrt(1/2) to sqrt(2); x is normal and positive."""

    def generate(context, builder, signature, arguments):
        word, mantissa = _word(signature.args[0])
        above = builder.sub(builder.bitcast(arguments[0], word), word(_root_half(word)))
        return builder.sitofp(builder.ashr(above, word(mantissa)), arguments[0].type)

    return x(x), generate


@intrinsic
def _fraction(typingctx, x):
    """Return ``x / 2^n``, with n as in `_exponent`, even if 2^-n is not a normal number."""

    def generate(context, builder, signature, arguments):
        word, mantissa = _word(signature.args[0])
        bits, root = builder.bitcast(arguments[0], word), word(_root_half(word))
        above = builder.and_(builder.sub(bits, root), word((1 << mantissa) - 1))
        return builder.bitcast(builder.add(above, root), arguments[0].type)

    return x(x), generate


def _root_half(word):
    """Return the bits of sqrt(1/2), as an integer."""
    size = word.width // 8
    return int(np.sqrt(0.5).astype(f"f{size}").view(f"i{size}"))


def _word(kind):
    """Return the integer type that is as wide as a float type, and the number of mantissa bits of the float type."""
    return (ir.IntType(32), 23) if kind == types.float32 else (ir.IntType(64), 52)


ZERO, HALF, ONE, TWO, INFINITY, NAN = (constant(x, x) for x in (0.0, 0.5, 1.0, 2.0, inf, nan))
PER_LN2 = constant(1.4426950408889634, 1.4426950408889634)  # 1 / ln 2
LN2_HIGH = constant(0.693359375, 0.693147180369123816490)  # has so few bits that its product with n is exact
LN2_LOW = constant(-2.12194440054690581e-4, 1.90821492927058770e-10)
LOWEST, HIGHEST = constant(-104.0, -746.0), constant(89.0, 710.0)  # beyond these, e^x is 0 or infinite
SATURATED = constant(20.0, 44.0)  # beyond this, tanh(x / 2) is 1
SMALLEST_NORMAL, SHIFT = constant(2.0**-126, 2.0**-1022), constant(24.0, 54.0)
SCALE = constant(2.0**24, 2.0**54)  # times this, every subnormal number is normal
EXPONENTIAL = _polynomial(*([1 / factorial(k) for k in range(top, 1, -1)] for top in (7, 13)))
LOGARITHM = _polynomial(*([2 / (2 * k + 1) for k in range(top, 0, -1)] for top in (4, 11)))


@inline_code
def _reduce(x):
    """Return n and ``e^r - 1``, for ``x = n ln 2 + r``. x must not be NaN, and 2^n must be a normal number."""
    n = _nearest(x * PER_LN2(x))
    r = (x - n * LN2_HIGH(x)) - n * LN2_LOW(x)
    return n, r + r * r * EXPONENTIAL(r)


@inline_code
def exp(x):
    """Return ``e^x``."""
    t = x if x > LOWEST(x) else LOWEST(x)  # also for NaN, which must not be converted to an integer
    n, p = _reduce(t if t < HIGHEST(x) else HIGHEST(x))
    half = _nearest(n * HALF(x))  # 2^n as two factors, since it may overflow or be subnormal although e^x is not
    y = (ONE(x) + p) * _power_of_two(half) * _power_of_two(n - half)
    return y if x == x else x


@inline_code
def expm1(x):
    """Return ``e^x - 1``."""
    t = x if x > -SATURATED(x) else -SATURATED(x)  # below this, the result rounds to -1
    n, p = _reduce(t if t < HIGHEST(x) else HIGHEST(x))
    s = _power_of_two(n - ONE(x))  # 2^n may overflow although e^x does not
    y = TWO(x) * (s * p + (s - HALF(x)))
    return y if abs(x) > ZERO(x) else x  # NaN, and zeros of both signs


@inline_code
def tanh(x):
    """Return the hyperbolic tangent, computed as ``(e^2x - 1) / (e^2x + 1)`` from ``|x|``."""
    t = TWO(x) * abs(x)
    n, p = _reduce(t if t < SATURATED(x) else SATURATED(x))
    s = _power_of_two(n)
    e = s * p + (s - ONE(x))
    y = e / (e + TWO(x))
    y = -y if x < ZERO(x) else y
    return y if abs(x) > ZERO(x) else x  # NaN, and zeros of both signs


@inline_code
def log(x):
    """Return the natural logarithm."""
    subnormal = x < SMALLEST_NORMAL(x)
    w = x * SCALE(x) if subnormal else x
    n = _exponent(w)
    f = _fraction(w) - ONE(x)
    s = f / (TWO(x) + f)
    z = s * s
    n = n - SHIFT(x) if subnormal else n
    y = n * LN2_HIGH(x) + (TWO(x) * s + (s * z * LOGARITHM(z) + n * LN2_LOW(x)))
    y = y if x < INFINITY(x) else x
    return y if x > ZERO(x) else (-INFINITY(x) if x == ZERO(x) else NAN(x))


@inline_code
def log1p(x):
    """Return ``log(1 + x)``, corrected to first order for the rounding of ``1 + x``."""
    w = ONE(x) + x
    y = log(w)
    y = y + (x - (w - ONE(x))) / w if x > -ONE(x) and x < INFINITY(x) else y
    return x if w == ONE(x) else y  # zeros of both signs as well
