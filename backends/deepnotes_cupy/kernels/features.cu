// The kernels of a layer by feature, such as LayerNorm: the template for its equations.

#include "common.cuh"

GENERATED
// A of n outputs, from X of n inputs, or of 2 n if the layer has twice as many. The parameters, of n numbers each, begin
// at p, one after the other.
extern "C" __global__ void __launch_bounds__(BLOCK, 2) feature_forward(
    const real* X, const real* p, real* A, int n, long long m, OPTIONS
) {
    const double options[] = {OPTION_VALUES};
    Part(options, n).forward(Group(n, HELD), X, p, A, n, m, n);
}

// E, the derivative by X, from the one by A, D; and the terms of the gradients of the parameters, whose mean over the
// samples is the gradient: those of parameter k, of the shape of D, begin at T + k * terms, except for terms that are D
// itself.
extern "C" __global__ void __launch_bounds__(BLOCK, 2) feature_backward(
    const real* D, const real* X, const real* p, real* E, real* T, long long terms, int n, long long m, OPTIONS
) {
    const double options[] = {OPTION_VALUES};
    Part(options, n).backward(Group(n, HELD), D, X, p, E, T, terms, n, m, n);
}
