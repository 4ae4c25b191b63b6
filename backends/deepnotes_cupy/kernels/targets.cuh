// Targets and sample weights, for all losses.

#include "rounding.cuh"

// The target of output i for sample j: an element of Y or, if Y holds class indices, whether i is the sample's class.
__device__ inline real target(const real* __restrict__ Y, int class_indices, long long j, int k, int i) {
    return class_indices ? real(Y[j] == i) : Y[j * k + i];
}

// The weight of sample j.
__device__ inline real weight_of(const real* __restrict__ w, long long j) { return w ? w[j] : real(1); }

// Write n numbers of D from `at` on, those that this lane has written, to `factor`.
__device__ inline void round_row(const Group& group, const real* D, const Factor& factor, long long at, int n) {
    for (int i = group.lane; i < n; i += group.lanes) {
        const real d[1] = {D[at + i]};
        factor.store(at + i, d);
    }
}
