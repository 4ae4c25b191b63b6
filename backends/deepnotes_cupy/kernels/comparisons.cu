// How large the numbers of an array are, or how much two arrays differ.

#include "common.cuh"

struct Magnitude {
    const real *x, *y;
    Totals totals;

    template <int V>
    __device__ void operator()(Count<V>, long long i) {
        real v[V], w[V] = {};
        load(x + i, v);
        if (y) load(y + i, w);
#pragma unroll
        for (int k = 0; k < V; k++) totals.largest = larger(static_cast<double>(fabs(v[k] - w[k])), totals.largest);
    }
};

// For each block, partial[block] is the largest |x - y|, or |x| if y is null, and NaN if a difference is NaN.
extern "C" __global__ void __launch_bounds__(BLOCK) largest_difference(
    const real* x, const real* y, long long count, double* partial
) {
    __shared__ double scratch[3 * BLOCK / 32];
    Magnitude magnitude{x, y};
    flat(count, aligned(x) && aligned(y), magnitude);
    magnitude.totals.combine_block(scratch);
    if (threadIdx.x == 0) partial[blockIdx.x] = magnitude.totals.largest;
}
