// Softmax of a row by a group of lanes, for the kernels `softmax` and `softmax_cross_entropy`.

#include "activations.cuh"

// The n logits of a sample, z + b; the largest of them; and `total`, the sum of e^(logit - largest). `total` is NaN if
// a logit is NaN or the largest is infinite; a logit of minus infinity adds 0 to it. A lane keeps
// HELD logits in registers; it reads the others from memory again.
template <int HELD = 4>
struct Row {
    real held[HELD], largest, total;
    const real* z;
    int n, lane, lanes;

    template <class Each>
    __device__ void each(Each f) const {
#pragma unroll
        for (int t = 0; t < HELD; t++)
            if (lane + t * lanes < n) f(lane + t * lanes, held[t]);
        for (int i = lane + HELD * lanes; i < n; i += lanes) f(i, z[i]);
    }

    // All lanes of the warp must call this, with n = 0 for a group without a sample. b may be null.
    __device__ Row(real* row, const real* __restrict__ b, int n, const Group& group)
        : z(row), n(n), lane(group.lane), lanes(group.lanes) {
        largest = -infinity();
#pragma unroll
        for (int t = 0; t < HELD; t++) {
            const int i = lane + t * lanes;
            if (i < n) {
                held[t] = row[i] + (b ? b[i] : real(0));
                if (b) row[i] = held[t];
                largest = larger(held[t], largest);
            }
        }
        for (int i = lane + HELD * lanes; i < n; i += lanes) {
            const real x = row[i] + (b ? b[i] : real(0));
            if (b) row[i] = x;
            largest = larger(x, largest);
        }
        largest = group.max(largest);
        total = 0;
        each([this](int, real x) { total += exp(x - largest); });
        total = group.sum(total);
    }

    __device__ real softmax(real x) const { return exp(x - largest) / total; }
};
