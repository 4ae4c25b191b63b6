// Softmax of a row by a group of lanes, shared by softmax itself and its cross-entropy.

#include "activations.cuh"

constexpr int HELD = 4;  // numbers of a row that a lane keeps in registers; the others are read again

__device__ inline real lowest() { return -__uint_as_float(0x7f800000u); }  // minus infinity

// A row z + b of n logits, the largest of them, and the sum of e^(z - largest), which is NaN if a logit is not finite.
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

    // All lanes of the warp have to call this, with n = 0 for a group without a sample. b may be null.
    __device__ Row(real* row, const real* __restrict__ b, int n, const Group& group)
        : z(row), n(n), lane(group.lane), lanes(group.lanes) {
        largest = lowest();
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
        for (int offset = lanes / 2; offset > 0; offset /= 2)
            largest = larger(largest, __shfl_xor_sync(EVERY_LANE, largest, offset));
        total = 0;
        each([this](int, real x) { total += exp(x - largest); });
        total = group.sum(total);
    }

    __device__ real softmax(real x) const { return exp(x - largest) / total; }
};
