// Rounding to 16-bit formats: to nearest, ties to even. It uses integer arithmetic, so that no CUDA header is needed.

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

// out = scale * x, rounded to 16 bits; eight numbers per thread.
extern "C" __global__ void __launch_bounds__(BLOCK) round16(
    const real* x, unsigned short* out, long long count, int kind, real scale
) {
    const bool packs = aligned(x) && aligned(out);
    for (long long k = 8 * (blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x); k < count;
         k += 8 * (gridDim.x * static_cast<long long>(blockDim.x))) {
        unsigned half[8];
        const bool full = packs && k + 8 <= count;
#pragma unroll
        for (int part = 0; part < 8; part += VEC) {
            real v[VEC] = {};
            if (full)
                load(x + k + part, v);
            else
                for (int i = 0; i < VEC; i++)
                    if (k + part + i < count) v[i] = x[k + part + i];
#pragma unroll
            for (int i = 0; i < VEC; i++) {
                const unsigned bits = single_bits(scale * v[i]);
                half[part + i] = kind == BFLOAT16 ? to_bfloat16(bits) : to_float16(bits);
            }
        }
        if (full)
            *reinterpret_cast<uint4*>(out + k) = make_uint4(
                half[0] | half[1] << 16, half[2] | half[3] << 16, half[4] | half[5] << 16, half[6] | half[7] << 16
            );
        else
#pragma unroll
            for (int i = 0; i < 8; i++)
                if (k + i < count) out[k + i] = static_cast<unsigned short>(half[i]);
    }
}
