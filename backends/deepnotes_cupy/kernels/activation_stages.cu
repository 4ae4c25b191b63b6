// The stages of a layer with an elementwise activation: the template for its equations.

#include "stages.cuh"

GENERATED
// Z = W A_prev + b (N2) and A = g(Z) (N3), see compute_forward_stage.
extern "C" __global__ void __launch_bounds__(BLOCK, 2) forward_stage(
    const real* A_prev, const real* W, const real* b, real* Z, real* A, int n_prev, int n, long long m, OPTIONS
) {
    __align__(16) __shared__ real shared[STAGE_SHARED];
    const double options[] = {OPTION_VALUES};
    compute_forward_stage(A_prev, W, b, Z, A, n_prev, n, m, shared, Part(options, n));
}

// dA = W^T dZ_next (N15) and dZ = dA * g'(Z) (N12), and partial sums of it, see compute_backward_stage.
extern "C" __global__ void __launch_bounds__(BLOCK, 2) backward_stage(
    const real* dZ_next, const real* W, const real* Z, const real* A, real* dZ, real* partial, int n_next, int n,
    long long m, real scale, OPTIONS
) {
    __align__(16) __shared__ real shared[STAGE_SHARED];
    const double options[] = {OPTION_VALUES};
    compute_backward_stage(dZ_next, W, Z, A, dZ, partial, n_next, n, m, scale, shared, Part(options, n));
}
