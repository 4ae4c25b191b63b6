// Dropout and noise with the same random numbers as on every backend, those of equations.dropout_mask and
// equations.noise.

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

// out = A + std * noise, where the noise of an element is the sum of the eight halves of four words, shifted by 4 * 65535
// and scaled to the variance 1. out may be A.
extern "C" __global__ void __launch_bounds__(BLOCK) noise(
    const real* A, real* out, int n, long long m, unsigned long long seed, unsigned layer, const Control* control,
    real std
) {
    const long long count = n * m, step = control->step;
    const real inverse_deviation = 1 / sqrt(8 * (65536.0 * 65536.0 - 1) / 12);
    for (long long k = blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x; k < count;
         k += gridDim.x * static_cast<long long>(blockDim.x)) {
        const uint4 four = philox(
            make_uint4(static_cast<unsigned>(k), layer, static_cast<unsigned>(step), static_cast<unsigned>(step >> 32)),
            seed
        );
        const unsigned words[4] = {four.x, four.y, four.z, four.w};
        int total = -4 * 65535;
#pragma unroll
        for (int i = 0; i < 4; i++) total += static_cast<int>((words[i] & 0xffffu) + (words[i] >> 16));
        out[k] = A[k] + std * (static_cast<real>(total) * inverse_deviation);
    }
}
