// The kernels for softmax and the losses; each function `..._rows` says what its kernel does.

#include "loss_rows.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK) softmax(real* Z, const real* b, real* A, int n, long long m) {
    softmax_rows(Group(n), Z, b, A, n, m, n);
}

extern "C" __global__ void __launch_bounds__(BLOCK) softmax_backward(
    real* D, const real* Z, const real* A, int n, long long m
) {
    softmax_backward_rows(Group(n), D, Z, A, n, m, n);
}

extern "C" __global__ void __launch_bounds__(BLOCK, 2) softmax_cross_entropy(
    real* Z, const real* b, const real* Y, int class_indices, const real* w, real* A, real* D,
    unsigned short* half, int kind, real half_scale, real* L, int n, long long m
) {
    softmax_cross_entropy_rows(Group(n), Z, b, Y, class_indices, w, A, D, Factor{half, kind, half_scale}, L, n, m, n);
}

extern "C" __global__ void __launch_bounds__(BLOCK, 2) sigmoid_cross_entropy(
    real* Z, const real* b, const real* Y, int class_indices, const real* w, real* A, real* D,
    unsigned short* half, int kind, real half_scale, real* L, int n, long long m
) {
    sigmoid_cross_entropy_rows(Group(n), Z, b, Y, class_indices, w, A, D, Factor{half, kind, half_scale}, L, n, m, n);
}

extern "C" __global__ void __launch_bounds__(BLOCK, 2) exp_half_poisson_deviance(
    real* Z, const real* b, const real* Y, int class_indices, const real* w, real* A, real* D,
    unsigned short* half, int kind, real half_scale, real* L, int n, long long m
) {
    exp_half_poisson_deviance_rows(Group(n), Z, b, Y, class_indices, w, A, D, Factor{half, kind, half_scale}, L, n, m, n);
}

extern "C" __global__ void __launch_bounds__(BLOCK) loss(
    const real* A, const real* Y, int class_indices, const real* w, real* D, real* L, int k, long long m, int code,
    real option
) {
    loss_rows(Group(k), A, Y, class_indices, w, D, L, k, m, code, option, k);
}
