// Dropout with the same masks as on every backend, those of equations.dropout_mask: Philox-4x32-10.

#include "common.cuh"

// The four random words for one counter (equation philox).
__device__ inline uint4 philox(uint4 x, unsigned long long seed) {
    unsigned key0 = static_cast<unsigned>(seed), key1 = static_cast<unsigned>(seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const unsigned high0 = __umulhi(x.x, 0xD2511F53u), low0 = x.x * 0xD2511F53u;
        const unsigned high2 = __umulhi(x.z, 0xCD9E8D57u), low2 = x.z * 0xCD9E8D57u;
        x = make_uint4(high2 ^ x.y ^ key0, low2, high0 ^ x.w ^ key1, low0);
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return x;
}

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
