// The losses of samples with their derivatives, and softmax, by groups of lanes (N10, N11 and their variants, N12); see
// deepnotes/equations/losses.py. The functions `..._rows` process m samples, which begin at multiples of `stride` in Z, A
// and D; targets have no gaps between samples.

#include "losses.cuh"
#include "softmax.cuh"

enum Loss {
    BINARY_CROSS_ENTROPY, CATEGORICAL_CROSS_ENTROPY, MEAN_SQUARED_ERROR, MEAN_ABSOLUTE_ERROR, HUBER, POISSON,
    HALF_POISSON_DEVIANCE
};

constexpr real EPS = sizeof(real) == 4 ? real(1.1920928955078125e-7) : real(2.220446049250313e-16);
constexpr real TINY = sizeof(real) == 4 ? real(1.1754943508222875e-38) : real(2.2250738585072014e-308);

// Write n numbers of D from `at` on, those that this lane has written, to `factor`.
__device__ inline void round_row(const Group& group, const real* D, const Factor& factor, long long at, int n) {
    for (int i = group.lane; i < n; i += group.lanes) {
        const real d[1] = {D[at + i]};
        factor.store(at + i, d);
    }
}

// Z += b in place (N2) and A = softmax(Z); b may be null, and A may be Z.
template <int HELD = 4>
__device__ inline void softmax_rows(
    const Group& group, real* Z, const real* b, real* A, int n, long long m, int stride
) {
    for (long long first = group.first; first < m; first += group.step) {
        const long long j = first + group.index;
        const Row<HELD> row(Z + j * stride, b, j < m ? n : 0, group);
        real* a = A + j * stride;
        row.each([&](int i, real z) { a[i] = row.softmax(z); });
    }
}

// D = A * (D - the sum of D * A over the sample's outputs) in place: N12 for softmax. Z is not read.
__device__ inline void softmax_backward_rows(
    const Group& group, real* D, const real* Z, const real* A, int n, long long m, int stride
) {
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

// Categorical cross-entropy from the logits, finite for all finite z: Z += b in place, A = softmax(Z) unless A is null,
// D = A - Y (N11) and L, both multiplied by the sample's weight. w may be null. D is written to `factor` as well, if it has
// an array; the other losses from logits do the same.
template <int HELD = 4>
__device__ inline void softmax_cross_entropy_rows(
    const Group& group, real* Z, const real* b, const real* Y, int class_indices, const real* w, real* A, real* D,
    const Factor& factor, real* L, int n, long long m, int stride
) {
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

// Binary cross-entropy from the logits, the mean over the n outputs (N10): Z += b in place, A = sigmoid(Z) (N6) unless
// A is null, D = (A - Y) / n (N11) and L, both multiplied by the sample's weight. w may be null.
__device__ inline void sigmoid_cross_entropy_rows(
    const Group& group, real* Z, const real* b, const real* Y, int class_indices, const real* w, real* A, real* D,
    const Factor& factor, real* L, int n, long long m, int stride
) {
    for (long long first = group.first; first < m; first += group.step) {
        const long long j = first + group.index;
        const int count = j < m ? n : 0;
        const real scale = j < m ? weight_of(w, j) : real(0);
        real loss = 0;
        for (int i = group.lane; i < count; i += group.lanes) {
            const long long at = j * stride + i;
            const real z = Z[at] + (b ? b[i] : real(0)), a = sigmoid(z), y = target(Y, class_indices, j, n, i);
            if (b) Z[at] = z;
            if (A) A[at] = a;
            D[at] = (a - y) / n * scale;
            loss += z * (real(z > 0) - y) + log1p(exp(-fabs(z)));
        }
        loss = group.sum(loss);
        if (j < m && group.lane == 0) L[j] = loss / n * scale;
        if (factor.out) round_row(group, D, factor, j * stride, count);
    }
}

__device__ inline real log_of_count(real y) { return y > 0 ? log(y) : real(0); }  // since 0 log 0 is 0

// The half Poisson deviance from the logits, the mean over the n outputs: Z += b in place, A = e^Z unless A is null,
// D = (A - Y) / n (N11) and L, both multiplied by the sample's weight. w may be null.
__device__ inline void exp_half_poisson_deviance_rows(
    const Group& group, real* Z, const real* b, const real* Y, int class_indices, const real* w, real* A, real* D,
    const Factor& factor, real* L, int n, long long m, int stride
) {
    for (long long first = group.first; first < m; first += group.step) {
        const long long j = first + group.index;
        const int count = j < m ? n : 0;
        const real scale = j < m ? weight_of(w, j) : real(0);
        real loss = 0;
        for (int i = group.lane; i < count; i += group.lanes) {
            const long long at = j * stride + i;
            const real z = Z[at] + (b ? b[i] : real(0)), a = exp(z), y = target(Y, class_indices, j, n, i);
            if (b) Z[at] = z;
            if (A) A[at] = a;
            D[at] = (a - y) / n * scale;
            loss += y * (log_of_count(y) - z) - y + a;
        }
        loss = group.sum(loss);
        if (j < m && group.lane == 0) L[j] = loss / n * scale;
        if (factor.out) round_row(group, D, factor, j * stride, count);
    }
}

__device__ inline real clip_probability(real a) { return a < EPS ? EPS : a > 1 - EPS ? 1 - EPS : a; }

__device__ inline real clip_positive(real a) { return a < TINY ? TINY : a; }

// Return the loss of one of k outputs, and store its derivative with respect to a. The loss of a sample is the mean over
// its outputs, except for categorical cross-entropy: the derivative is divided by k here, but the loss by the caller.
// `twice` is 2 / k.
__device__ inline real loss_of(int code, real option, real a, real y, int k, real twice, real& derivative) {
    const real e = a - y;
    switch (code) {
        case BINARY_CROSS_ENTROPY:  // N10
            a = clip_probability(a);
            derivative = (a - y) / (a * (1 - a)) / k;
            return -(y * log(a) + (1 - y) * log1p(-a));
        case CATEGORICAL_CROSS_ENTROPY:
            a = clip_positive(a);
            derivative = -y / a;
            return -(y * log(a));
        case MEAN_SQUARED_ERROR:
            derivative = twice * e;
            return e * e;
        case MEAN_ABSOLUTE_ERROR:
            derivative = (e > 0 ? real(1) : e < 0 ? real(-1) : e) / k;
            return fabs(e);
        case HUBER: {
            const real size = fabs(e), clipped = size > option ? option : size;
            derivative = (e > option ? option : e < -option ? -option : e) / k;
            return clipped * (size - real(0.5) * clipped);
        }
        case POISSON:
            a = clip_positive(a);
            derivative = (a - y) / a / k;
            return a - y * log(a);
        case HALF_POISSON_DEVIANCE:
            a = clip_positive(a);
            derivative = (a - y) / a / k;
            if (real(0.5) * y > fabs(a - y)) return (a - y) - y * log1p((a - y) / y);
            return y * (log_of_count(y) - log(a)) + (a - y);
    }
    return derivative = a - a;
}

// All losses, computed from the outputs instead of the logits: D = dA and L, both multiplied by the sample's weight. w
// may be null.
__device__ inline void loss_rows(
    const Group& group, const real* A, const real* Y, int class_indices, const real* w, real* D, real* L, int k,
    long long m, int code, real option, int stride
) {
    const real outputs = code == CATEGORICAL_CROSS_ENTROPY ? 1 : k, twice = real(2.0 / k);
    for (long long first = group.first; first < m; first += group.step) {
        const long long j = first + group.index;
        const int count = j < m ? k : 0;
        const real scale = j < m ? weight_of(w, j) : real(0);
        real sum = 0;
        for (int i = group.lane; i < count; i += group.lanes) {
            real derivative;
            sum += loss_of(code, option, A[j * stride + i], target(Y, class_indices, j, k, i), k, twice, derivative);
            D[j * stride + i] = derivative * scale;
        }
        sum = group.sum(sum);
        if (j < m && group.lane == 0) L[j] = sum / outputs * scale;
    }
}
