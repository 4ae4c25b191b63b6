// Batch normalization, see deepnotes/nn/layers.py and deepnotes/equations/normalization.py. A row of threads stays at its
// features; the sums over the samples are in double precision, and do not depend on the grid.

#include "common.cuh"

// The sum of x over the rows of threads of a block, for each feature; all threads get it. `scratch` has a place for each
// thread.
__device__ inline double sum_over_rows(double x, const Tile<1>& tile, double* scratch) {
    scratch[threadIdx.x] = x;
    __syncthreads();
    for (int half = tile.height / 2; half > 0; half /= 2) {
        if (tile.y < half) scratch[threadIdx.x] += scratch[threadIdx.x + half * tile.width];
        __syncthreads();
    }
    const double sum = scratch[tile.x];
    __syncthreads();  // before the next sum
    return sum;
}

__device__ inline real inverse_std(real variance, double epsilon) { return 1 / sqrt(variance + epsilon); }

// A = gamma X_hat + beta, and X_hat, from the mean and the variance of the m samples, which `moments` gets for all n
// features, then 1 / sqrt(variance + epsilon). One sample is normalized by the running statistics. `parameters` has gamma,
// then beta; `running` the mean, then the variance.
extern "C" __global__ void __launch_bounds__(WIDE, 1) normalize_batch(
    const real* X, const real* parameters, const real* running, real* A, real* X_hat, real* moments, int n, long long m,
    double epsilon
) {
    __shared__ double scratch[WIDE];
    const Tile<1> tile(n);
    for (long long left = blockIdx.x * static_cast<long long>(tile.width); left < n;
         left += gridDim.x * static_cast<long long>(tile.width)) {  // the same for all threads: the loop has barriers
        const long long i = left + tile.x, end = i < n ? m : 0;
        real mean = 0, variance = 1;
        if (m > 1) {
            double sum = 0, squares = 0;
            for (long long j = tile.y; j < end; j += tile.height) sum += X[j * n + i];
            mean = sum_over_rows(sum, tile, scratch) / m;
            for (long long j = tile.y; j < end; j += tile.height) {
                const double c = X[j * n + i] - mean;
                squares += c * c;
            }
            variance = sum_over_rows(squares, tile, scratch) / m;
        } else if (i < n)
            mean = running[i], variance = running[n + i];
        if (i >= n) continue;
        const real inverse = inverse_std(variance, epsilon), gamma = parameters[i], beta = parameters[n + i];
        for (long long j = tile.y; j < m; j += tile.height) {
            const real x_hat = (X[j * n + i] - mean) * inverse;
            X_hat[j * n + i] = x_hat;
            A[j * n + i] = gamma * x_hat + beta;
        }
        if (tile.y == 0) moments[i] = mean, moments[n + i] = variance, moments[2 * n + i] = inverse;
    }
}

// The gradients of gamma and beta, and dA_prev = gamma inverse (dA - dbeta - X_hat dgamma), from D, which holds dA; for one
// sample, gamma inverse dA. `changes` gets momentum (running - that of the samples) for both statistics, or 0.
extern "C" __global__ void __launch_bounds__(WIDE, 1) differentiate_batch(
    const real* D, const real* X_hat, const real* moments, const real* parameters, const real* running, real* dA_prev,
    real* gradients, real* changes, int n, long long m, double momentum
) {
    __shared__ double scratch[WIDE];
    const Tile<1> tile(n);
    for (long long left = blockIdx.x * static_cast<long long>(tile.width); left < n;
         left += gridDim.x * static_cast<long long>(tile.width)) {
        const long long i = left + tile.x, end = i < n ? m : 0;
        double terms = 0, products = 0;
        for (long long j = tile.y; j < end; j += tile.height) {
            const double d = D[j * n + i];
            terms += d;
            products += d * X_hat[j * n + i];
        }
        const double dbeta = sum_over_rows(terms, tile, scratch) / m;
        const double dgamma = sum_over_rows(products, tile, scratch) / m;
        if (i >= n) continue;
        const real factor = parameters[i] * moments[2 * n + i];
        const real mean = m > 1 ? dbeta : 0, slope = m > 1 ? dgamma : 0;
        for (long long j = tile.y; j < m; j += tile.height)
            dA_prev[j * n + i] = factor * (D[j * n + i] - mean - X_hat[j * n + i] * slope);
        if (tile.y != 0) continue;
        gradients[i] = dgamma, gradients[n + i] = dbeta;
        // Those of one sample are the running statistics, which do not change then.
        const real unbiased = moments[n + i] * (m > 1 ? static_cast<double>(m) / (m - 1) : 1), rate = momentum;
        changes[i] = rate * (running[i] - moments[i]);
        changes[n + i] = rate * (running[n + i] - unbiased);
    }
}

// A = gamma (X - mean) / sqrt(variance + epsilon) + beta, from the running statistics: a prediction.
extern "C" __global__ void __launch_bounds__(BLOCK) normalize(
    const real* X, const real* parameters, const real* running, real* A, int n, long long m, double epsilon
) {
    const Tile<1> tile(n);
    const long long step = gridDim.y * static_cast<long long>(tile.height);
    for (long long i = blockIdx.x * static_cast<long long>(tile.width) + tile.x; i < n;
         i += gridDim.x * static_cast<long long>(tile.width)) {
        const real mean = running[i], inverse = inverse_std(running[n + i], epsilon);
        const real gamma = parameters[i], beta = parameters[n + i];
        for (long long j = blockIdx.y * static_cast<long long>(tile.height) + tile.y; j < m; j += step)
            A[j * n + i] = gamma * ((X[j * n + i] - mean) * inverse) + beta;
    }
}
