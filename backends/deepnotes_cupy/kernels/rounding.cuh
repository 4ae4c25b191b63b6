// Rounding of the factors of products to 16-bit formats: to nearest, ties to even. It uses integer arithmetic, so that no CUDA header is needed.

#include "common.cuh"

enum Half { BFLOAT16, FLOAT16 };

__device__ inline unsigned to_bfloat16(unsigned bits) {
    if ((bits & 0x7fffffffu) > 0x7f800000u) return bits >> 16 | 0x40u;  // a quiet NaN, even if its remaining bits are 0
    return (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
}

__device__ inline unsigned to_float16(unsigned bits) {
    const unsigned sign = bits >> 16 & 0x8000u, size = bits & 0x7fffffffu;
    if (size > 0x7f800000u) return sign | 0x7e00u;
    if (size >= 0x477ff000u) return sign | 0x7c00u;  // 65520 and above: infinity
    if (size >= 0x38800000u) {                       // a normal number: 5 bits of exponent instead of 8
        const unsigned shifted = size - (112u << 23);
        return sign | (shifted + 0xfffu + (shifted >> 13 & 1)) >> 13;
    }
    if (size < 0x33000000u) return sign;  // less than half of the smallest subnormal number, 2^-24
    const unsigned exponent = size >> 23, mantissa = (size & 0x7fffffu) | 0x800000u, shift = 126 - exponent;
    const unsigned whole = mantissa >> shift, half = 1u << (shift - 1), rest = mantissa & ((1u << shift) - 1);
    return sign | (whole + (rest > half || (rest == half && (whole & 1))));
}

// The bits of x in single precision. A double is rounded to odd, so that rounding the result to 16 bits gives the same
// as rounding x to 16 bits directly.
__device__ inline unsigned single_bits(float x) { return __float_as_uint(x); }

__device__ inline unsigned single_bits(double x) {
    const float rounded = static_cast<float>(x);
    unsigned bits = __float_as_uint(rounded);
    if (rounded == x || rounded != rounded) return bits;
    if (fabs(static_cast<double>(rounded)) > fabs(x)) bits -= 1;
    return bits | 1;
}

constexpr int ROW = 8;  // the rows of a factor begin at multiples of 16 bytes: other products are slow

// Where a kernel writes its results once more, as a factor of a product: scale * x, rounded to 16 bits. If `out` is
// null, it does not.
struct Factor {
    unsigned short* out;
    int kind;
    real scale;

    __device__ unsigned round(real x) const {
        const unsigned bits = single_bits(scale * x);
        return kind == BFLOAT16 ? to_bfloat16(bits) : to_float16(bits);
    }

    // Write neighbouring numbers of sample j, from number i of n on.
    template <int V>
    __device__ void store(long long j, int n, long long i, const real (&v)[V]) const {
        const long long at = j * ((n + ROW - 1) / ROW * ROW) + i;
#pragma unroll
        for (int k = 0; k + 1 < V; k += 2)
            *reinterpret_cast<unsigned*>(out + at + k) = round(v[k]) | round(v[k + 1]) << 16;
        if (V == 1) out[at] = static_cast<unsigned short>(round(v[0]));
    }
};
