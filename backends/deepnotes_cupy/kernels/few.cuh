// A dense layer for a few samples.

#include "common.cuh"

constexpr int FEW = 4;  // the largest number of samples

// Add to sum[j] the product of w and sample j of X, for m samples; each lane adds up every 32nd pack of V numbers.
template <int V>
__device__ inline void add_products(const real* w, const real* X, int n_prev, int m, real (&sum)[FEW]) {
#pragma unroll 4
    for (int k = (threadIdx.x & 31) * V; k < n_prev; k += 32 * V) {
        real a[V];
        load(w + k, a);
#pragma unroll
        for (int j = 0; j < FEW; j++)
            if (j < m) {
                real x[V];
                load(X + static_cast<long long>(j) * n_prev + k, x);
#pragma unroll
                for (int v = 0; v < V; v++) sum[j] += a[v] * x[v];
            }
    }
}

// A = g(W A_prev + b) for at most FEW samples. A warp computes a neuron. b may be null.
template <class G>
__device__ inline void compute_few(
    const real* X, const real* W, const real* b, real* A, int n_prev, int n, int m, const G& g
) {
    const int lane = threadIdx.x & 31, warps = blockDim.x / 32;
    const bool packs = n_prev % VEC == 0 && aligned(X) && aligned(W);
    for (int i = blockIdx.x * warps + threadIdx.x / 32; i < n; i += gridDim.x * warps) {
        const real* w = W + static_cast<long long>(i) * n_prev;
        real sum[FEW] = {}, z[1] = {};
        if (packs)
            add_products<VEC>(w, X, n_prev, m, sum);
        else
            add_products<1>(w, X, n_prev, m, sum);
#pragma unroll
        for (int j = 0; j < FEW; j++) {
            for (int offset = 16; offset > 0; offset /= 2) sum[j] += __shfl_xor_sync(ALL_LANES, sum[j], offset);
            if (lane == j) z[0] = sum[j];
        }
        if (lane < m) {
            if (b) z[0] += b[i];
            g.forward(z);
            A[static_cast<long long>(lane) * n + i] = z[0];
        }
    }
}
