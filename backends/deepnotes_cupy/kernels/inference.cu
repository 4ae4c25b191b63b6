// Predictions: layers for a few samples, and the mean of their losses.

#include "dense.cuh"
#include "few.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK) dense_few(
    const real* X, const real* W, const real* b, real* A, int n_prev, int n, int m
) {
    compute_few(X, W, b, A, n_prev, n, m, Identity());
}

// For each block, partial[2 * block] is the sum of x times w, and partial[2 * block + 1] the sum of w, in double
// precision. w may be null: then all weights are 1.
extern "C" __global__ void __launch_bounds__(BLOCK) weighted_sums(
    const real* x, const real* w, double* partial, long long count
) {
    __shared__ double scratch[3 * BLOCK / 32];
    Totals totals;
    for (long long i = blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x; i < count;
         i += gridDim.x * static_cast<long long>(blockDim.x)) {
        const double weight = w ? w[i] : real(1);
        totals.first += x[i] * weight;
        totals.second += weight;
    }
    totals.combine_block(scratch);
    if (threadIdx.x == 0) partial[2 * blockIdx.x] = totals.first, partial[2 * blockIdx.x + 1] = totals.second;
}
