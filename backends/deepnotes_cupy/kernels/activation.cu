// The kernels of an elementwise activation: the template for its equations.

#include "dense.cuh"
#include "few.cuh"

GENERATED
// The second launch bounds are the numbers of blocks that have to fit on a multiprocessor: without them, NVRTC spills
// registers to fit more.

// Z += b in place (N2) and A = g(Z) (N3); `half` is A as a factor of products, or null; see add_bias_and_activate.
extern "C" __global__ void __launch_bounds__(BLOCK) bias_activation(
    real* Z, const real* b, real* A, unsigned short* half, int kind, int n, long long m, OPTIONS
) {
    const double options[] = {OPTION_VALUES};
    add_bias_and_activate(Z, b, A, Factor{half, kind, 1}, n, m, Part(options, n));
}

// dZ = D * g'(Z) (N12), in place or, times half_scale, as a factor of products in `half`, if that is not null; and
// partial[c * n + i] = scale * the sum of dZ over the `rows` samples of chunk c. With one chunk and scale 1/m,
// `partial` is db (N14). An array that the activation does not need may be null; `partial` may be null as well.
extern "C" __global__ void __launch_bounds__(BLOCK, 2) activation_backward(
    real* D, const real* Z, const real* A, unsigned short* half, int kind, real half_scale, real* partial, int n,
    long long m, long long rows, real scale, OPTIONS
) {
    __shared__ real scratch[BLOCK * VEC];
    const double options[] = {OPTION_VALUES};
    const Factor factor{half, kind, half_scale};
    differentiate_and_sum(D, Z, A, factor, partial, n, m, rows, scale, scratch, Part(options, n));
}

// A = g(W X + b) for a few samples, see compute_few.
extern "C" __global__ void __launch_bounds__(BLOCK, 4) dense_few(
    const real* X, const real* W, const real* b, real* A, int n_prev, int n, int m, OPTIONS
) {
    const double options[] = {OPTION_VALUES};
    compute_few(X, W, b, A, n_prev, n, m, Part(options, n));
}
