// Dropout with the same masks as on every backend, those of equations.dropout_mask.

#include "philox.cuh"

// out = 0 for the elements that are dropped, and A * scale for the others; scale is 1 / (1 - rate), and `threshold` is
// the rate in units of 2^-32. The backward pass is the same, with dA instead of A. out may be A. Each counter gives
// four words, which are used for four neighbouring elements.
extern "C" __global__ void __launch_bounds__(BLOCK) dropout(
    const real* A, real* out, int n, long long m, unsigned long long threshold, unsigned long long seed, unsigned layer,
    const Control* control, real scale
) {
    const long long count = n * m, counters = (count + 3) / 4, step = control->step;
    const bool packs = aligned(A) && aligned(out);
    for (long long k = blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x; k < counters;
         k += gridDim.x * static_cast<long long>(blockDim.x)) {
        const uint4 four = philox(
            make_uint4(static_cast<unsigned>(k), layer, static_cast<unsigned>(step), static_cast<unsigned>(step >> 32)),
            seed
        );
        const real factors[4] = {
            four.x >= threshold ? scale : real(0), four.y >= threshold ? scale : real(0),
            four.z >= threshold ? scale : real(0), four.w >= threshold ? scale : real(0)
        };
        if (packs && 4 * k + 4 <= count) {
#pragma unroll
            for (int part = 0; part < 4; part += VEC) {
                real a[VEC];
                load(A + 4 * k + part, a);
#pragma unroll
                for (int v = 0; v < VEC; v++) a[v] *= factors[part + v];
                store(out + 4 * k + part, a);
            }
        } else {
#pragma unroll
            for (int v = 0; v < 4; v++)
                if (4 * k + v < count) out[4 * k + v] = A[4 * k + v] * factors[v];
        }
    }
}
