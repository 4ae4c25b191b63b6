// The losses of samples and their derivatives: the template for the equations of a loss.

#include "targets.cuh"

GENERATED
// The losses L, and their derivative D. If the loss is computed from the logits Z (N11), b is added to Z in place, A is
// written unless it is null, and D is dZ; otherwise Z stands for A, b and A are null, and D is dA. L and D are multiplied
// by the weight of the sample; w may be null. D is also written to `half`, times half_scale, as a factor of products,
// unless `half` is null.
extern "C" __global__ void __launch_bounds__(BLOCK, 2) loss(
    real* Z, const real* b, const real* Y, int class_indices, const real* w, real* A, real* D, unsigned short* half,
    int kind, real half_scale, real* L, int n, long long m, OPTIONS
) {
    const double options[] = {OPTION_VALUES};
    Part(options, n)(Group(n, HELD), Z, b, Y, class_indices, w, A, D, Factor{half, kind, half_scale}, L, n, m, n);
}
