// Softmax and its cross-entropy, by groups of lanes. They are written by hand, since they keep the logits in registers;
// kernels generated from the equations read them from memory once for each of the maximum, the sum and the results.
// The functions process m samples, which begin at multiples of `stride` in Z, A and D; targets have no gaps between them.

#include "targets.cuh"

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

// The options and n, the arguments of the constructors, are for activations and losses that are generated.
template <int HELD = 4>
struct Softmax {
    static constexpr bool CHANGES = true, BY_ROWS = true, NEEDS_Z = false, NEEDS_A = true;

    __device__ Softmax(const double*, int) {}

    // Z += b in place (N2) and A = softmax(Z); b may be null, and A may be Z.
    __device__ void forward(const Group& group, real* Z, const real* b, real* A, int n, long long m, int stride) const {
        for (long long first = group.first; first < m; first += group.step) {
            const long long j = first + group.index;
            const Row<HELD> row(Z + j * stride, b, j < m ? n : 0, group);
            real* a = A + j * stride;
            row.each([&](int i, real z) { a[i] = row.softmax(z); });
        }
    }

    // D = A * (D - the sum of D * A over the sample's outputs) in place: N12 for softmax. Z is not read.
    __device__ void backward(
        const Group& group, real* D, const real* Z, const real* A, int n, long long m, int stride
    ) const {
        for (long long first = group.first; first < m; first += group.step) {
            const long long j = first + group.index;
            const int count = j < m ? n : 0;
            real* d = D + j * stride;
            const real* a = A + j * stride;
            real sum = 0;
            for (int i = group.lane; i < count; i += group.lanes) sum += d[i] * a[i];
            sum = group.sum(sum);
            for (int i = group.lane; i < count; i += group.lanes) d[i] = a[i] * (d[i] - sum);
        }
    }
};

// Categorical cross-entropy from the logits, finite for all finite z: Z += b in place, A = softmax(Z) unless A is null,
// D = A - Y (N11) and L, both multiplied by the sample's weight. w may be null. D is written to `factor` as well, if it
// has an array.
template <int HELD = 4>
struct SoftmaxCrossEntropy {
    __device__ SoftmaxCrossEntropy(const double*, int) {}

    __device__ void operator()(
        const Group& group, real* Z, const real* b, const real* Y, int class_indices, const real* w, real* A, real* D,
        const Factor& factor, real* L, int n, long long m, int stride
    ) const {
        for (long long first = group.first; first < m; first += group.step) {
            const long long j = first + group.index;
            const Row<HELD> row(Z + j * stride, b, j < m ? n : 0, group);
            const real scale = j < m ? weight_of(w, j) : real(0);
            real others = 0;  // the sum of e^(z - largest) - y; the targets y sum to 1
            row.each([&](int i, real z) { others += exp(z - row.largest) - target(Y, class_indices, j, n, i); });
            const real log_total = log1p(group.sum(others));
            real loss = 0;
            row.each([&](int i, real z) {
                const real a = row.softmax(z), y = target(Y, class_indices, j, n, i);
                // The difference may overflow to minus infinity, even if z is finite, and 0 times that would be NaN.
                if (y != 0) loss += y * (log_total - (z - row.largest));
                if (A) A[j * stride + i] = a;
                D[j * stride + i] = (a - y) * scale;
            });
            loss = group.sum(loss) + (row.largest - row.largest);  // NaN if the largest logit is not finite
            if (j < m && group.lane == 0) L[j] = loss * scale;
            if (factor.out) round_row(group, D, factor, j * stride, j < m ? n : 0);
        }
    }
};
