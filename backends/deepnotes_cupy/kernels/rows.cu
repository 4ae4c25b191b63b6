// The kernels of an activation whose outputs depend on each other: the template for its equations.

#include "common.cuh"

GENERATED
extern "C" __global__ void __launch_bounds__(BLOCK, 2) row_activation(
    real* Z, const real* b, real* A, int n, long long m, OPTIONS
) {
    const double options[] = {OPTION_VALUES};
    Part(options, n).forward(Group(n, HELD), Z, b, A, n, m, n);
}

extern "C" __global__ void __launch_bounds__(BLOCK, 2) row_backward(
    real* D, const real* Z, const real* A, int n, long long m, OPTIONS
) {
    const double options[] = {OPTION_VALUES};
    Part(options, n).backward(Group(n, HELD), D, Z, A, n, m, n);
}
