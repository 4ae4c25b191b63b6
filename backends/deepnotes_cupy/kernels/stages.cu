// The stages of the identity; the template activation_stages.cu has those of other activations.

#include "stages.cuh"

// Z = W A_prev + b (N2) and a copy A of it; Z and b may be null.
extern "C" __global__ void __launch_bounds__(BLOCK, 2) forward_stage(
    const real* A_prev, const real* W, const real* b, real* Z, real* A, int n_prev, int n, long long m
) {
    __align__(16) __shared__ real shared[STAGE_SHARED];
    compute_forward_stage(A_prev, W, b, Z, A, n_prev, n, m, shared, Identity());
}

// dZ = W^T dZ_next (N15) and partial sums of it, see compute_backward_stage.
extern "C" __global__ void __launch_bounds__(BLOCK, 2) backward_stage(
    const real* dZ_next, const real* W, const real* Z, const real* A, real* dZ, real* partial, int n_next, int n,
    long long m, real scale
) {
    __align__(16) __shared__ real shared[STAGE_SHARED];
    compute_backward_stage(dZ_next, W, Z, A, dZ, partial, n_next, n, m, scale, shared, Identity());
}
