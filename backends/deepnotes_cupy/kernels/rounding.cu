#include "rounding.cuh"

// out = scale * x, rounded to 16 bits; eight numbers per thread.
extern "C" __global__ void __launch_bounds__(BLOCK) round16(
    const real* x, unsigned short* out, long long count, int kind, real scale
) {
    const Factor factor{out, kind, scale};
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
                half[part + i] = factor.round(v[i]);
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
