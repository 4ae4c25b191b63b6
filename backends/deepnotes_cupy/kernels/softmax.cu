// The kernels for softmax, see softmax.cuh.

#include "softmax.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK) softmax(real* Z, const real* b, real* A, int n, long long m) {
    Softmax<>(nullptr, n).forward(Group(n), Z, b, A, n, m, n);
}

extern "C" __global__ void __launch_bounds__(BLOCK) softmax_backward(
    real* D, const real* Z, const real* A, int n, long long m
) {
    Softmax<>(nullptr, n).backward(Group(n), D, Z, A, n, m, n);
}

extern "C" __global__ void __launch_bounds__(BLOCK, 2) softmax_cross_entropy(
    real* Z, const real* b, const real* Y, int class_indices, const real* w, real* A, real* D,
    unsigned short* half, int kind, real half_scale, real* L, int n, long long m
) {
    const Factor factor{half, kind, half_scale};
    SoftmaxCrossEntropy<>(nullptr, n)(Group(n), Z, b, Y, class_indices, w, A, D, factor, L, n, m, n);
}
