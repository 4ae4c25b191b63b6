"""Elementary functions of numbers and of lanes, without calls, branches or tables.

`exp` and its variants write their argument as ``n ln 2 + r`` with ``|r| <= ln(2) / 2``, then sum the series of
``e^r - 1``; `log` sums the series of ``log((1 + s) / (1 - s))`` (W. J. Cody and W. Waite, Software Manual for the
Elementary Functions, 1980). All functions return NaN for NaN. Their accuracy depends on the order of operations.
"""

from math import factorial, inf, nan

import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from deepnotes_numba.compiling import inline_code
from deepnotes_numba.lanes import absolute, fill, nearest, where
from deepnotes_numba.vectors import multiply_add


class Bits:
    """How the bits of a float, or of a vector of floats, are used as integers.

    Parameters
    ----------
    kind : llvmlite.ir.Type
        The type of the float or of the vector.
    """

    def __init__(self, kind):
        number, self._kind = kind.element if isinstance(kind, ir.VectorType) else kind, kind
        self.size = 4 if isinstance(number, ir.FloatType) else 8
        self.mantissa = {4: 23, 8: 52}[self.size]
        integer = ir.IntType(8 * self.size)
        self._integer = ir.VectorType(integer, kind.count) if number is not kind else integer

    def integer(self, value):
        """Return an integer constant."""
        return fill(self._integer, value)

    def of(self, builder, x):
        """Build the bits of x."""
        return builder.bitcast(x, self._integer)

    def number(self, builder, bits):
        """Build the float with these bits."""
        return builder.bitcast(bits, self._kind)

    @property
    def aligned(self):
        """A large float, 1.5 times a power of 2; with a small integer n added, its bits, as an integer, grow by n."""
        return fill(self._kind, 1.5 * 2.0**self.mantissa)

    @property
    def root_half(self):
        """The bits of sqrt(1/2)."""
        return self.integer(int(np.sqrt(0.5).astype(f"f{self.size}").view(f"i{self.size}")))


def constant(single, double):
    """Return a function of x that returns `single` if x has the dtype float32, and `double` if it has float64."""

    @intrinsic
    def number(typingctx, x):
        def generate(context, builder, signature, arguments):
            kind = arguments[0].type
            return fill(kind, single if Bits(kind).size == 4 else double)

        return x(x), generate

    return number


def _polynomial(single, double):
    """Return a polynomial of r; its coefficients, highest first, are `single` or `double`, by the dtype of r."""

    @intrinsic
    def polynomial(typingctx, r):
        def generate(context, builder, signature, arguments):
            kind = arguments[0].type
            first, *rest = single if Bits(kind).size == 4 else double
            value = fill(kind, first)
            for term in rest:
                value = multiply_add(builder, value, arguments[0], fill(kind, term))
            return value

        return r(r), generate

    return polynomial


@intrinsic
def _power_of_two(typingctx, n):
    """Return 2^n for an integer n, given as a float, if 2^n is a normal number."""

    def generate(context, builder, signature, arguments):
        bits = Bits(arguments[0].type)
        # The lowest bits of the sum are those of n, and the shift removes the others. This avoids a conversion, since
        # not all processors can convert several doubles to integers at once.
        shifted = bits.of(builder, builder.fadd(arguments[0], bits.aligned))
        biased = builder.add(shifted, bits.integer((1 << (8 * bits.size - bits.mantissa - 2)) - 1))
        return bits.number(builder, builder.shl(biased, bits.integer(bits.mantissa)))

    return n(n), generate


@intrinsic
def _exponent(typingctx, x):
    """Return the integer n, as a float, with ``x / 2^n`` from sqrt(1/2) to sqrt(2); x is normal and positive."""

    def generate(context, builder, signature, arguments):
        bits = Bits(arguments[0].type)
        above = builder.sub(bits.of(builder, arguments[0]), bits.root_half)
        n = builder.ashr(above, bits.integer(bits.mantissa))
        shifted = builder.add(n, bits.of(builder, bits.aligned))
        return builder.fsub(bits.number(builder, shifted), bits.aligned)

    return x(x), generate


@intrinsic
def _fraction(typingctx, x):
    """Return ``x / 2^n``, with n as in `_exponent`, even if 2^-n is not a normal number."""

    def generate(context, builder, signature, arguments):
        bits = Bits(arguments[0].type)
        above = builder.sub(bits.of(builder, arguments[0]), bits.root_half)
        within = builder.and_(above, bits.integer((1 << bits.mantissa) - 1))
        return bits.number(builder, builder.add(within, bits.root_half))

    return x(x), generate


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
    n = nearest(x * PER_LN2(x))
    r = (x - n * LN2_HIGH(x)) - n * LN2_LOW(x)
    return n, r + r * r * EXPONENTIAL(r)


@inline_code
def exp(x):
    """Return ``e^x``."""
    t = where(x > LOWEST(x), x, LOWEST(x))  # also for NaN, so that n is a number
    n, p = _reduce(where(t < HIGHEST(x), t, HIGHEST(x)))
    half = nearest(n * HALF(x))  # 2^n as two factors, since it may overflow or be subnormal although e^x is not
    y = (ONE(x) + p) * _power_of_two(half) * _power_of_two(n - half)
    return where(x == x, y, x)


@inline_code
def expm1(x):
    """Return ``e^x - 1``."""
    t = where(x > -SATURATED(x), x, -SATURATED(x))  # below this, the result rounds to -1
    n, p = _reduce(where(t < HIGHEST(x), t, HIGHEST(x)))
    s = _power_of_two(n - ONE(x))  # 2^n may overflow although e^x does not
    y = TWO(x) * (s * p + (s - HALF(x)))
    return where(absolute(x) > ZERO(x), y, x)  # NaN, and zeros of both signs


@inline_code
def tanh(x):
    """Return the hyperbolic tangent, computed as ``(e^2x - 1) / (e^2x + 1)`` from ``|x|``."""
    t = TWO(x) * absolute(x)
    n, p = _reduce(where(t < SATURATED(x), t, SATURATED(x)))
    s = _power_of_two(n)
    e = s * p + (s - ONE(x))
    y = e / (e + TWO(x))
    y = where(x < ZERO(x), -y, y)
    return where(absolute(x) > ZERO(x), y, x)  # NaN, and zeros of both signs


@inline_code
def log(x):
    """Return the natural logarithm."""
    subnormal = x < SMALLEST_NORMAL(x)
    w = where(subnormal, x * SCALE(x), x)
    n = _exponent(w)
    f = _fraction(w) - ONE(x)
    s = f / (TWO(x) + f)
    z = s * s
    n = where(subnormal, n - SHIFT(x), n)
    y = n * LN2_HIGH(x) + (TWO(x) * s + (s * z * LOGARITHM(z) + n * LN2_LOW(x)))
    y = where(x < INFINITY(x), y, x)
    return where(x > ZERO(x), y, where(x == ZERO(x), -INFINITY(x), NAN(x)))


@inline_code
def log1p(x):
    """Return ``log(1 + x)``, corrected to first order for the rounding of ``1 + x``."""
    w = ONE(x) + x
    y = log(w)
    y = where((x > -ONE(x)) & (x < INFINITY(x)), y + (x - (w - ONE(x))) / w, y)
    return where(w == ONE(x), x, y)  # zeros of both signs as well
