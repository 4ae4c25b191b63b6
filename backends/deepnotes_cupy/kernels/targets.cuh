// Targets and sample weights, for all losses.

#include "rounding.cuh"

// The target of output i for sample j: an element of Y or, if Y holds class indices, whether i is the sample's class.
__device__ inline real target(const real* __restrict__ Y, int class_indices, long long j, int k, int i) {
    return class_indices ? real(Y[j] == i) : Y[j * k + i];
}

// The weight of sample j.
__device__ inline real weight_of(const real* __restrict__ w, long long j) { return w ? w[j] : real(1); }

// Write the first `count` of the n numbers of sample j in D, those that this lane has written, to `factor`.
__device__ inline void round_row(
    const Group& group, const real* D, const Factor& factor, long long j, int n, int count
) {
    for (int i = group.lane; i < count; i += group.lanes) {
        const real d[1] = {D[j * n + i]};
        factor.store(j, n, i, d);
    }
}
