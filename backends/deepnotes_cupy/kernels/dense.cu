// The dense layer except for its products: gathering a batch, bias and activation (N2, N3), derivatives (N12, N14).

#include "activations.cuh"

constexpr int STRIP = 4;  // packs of a row that a lane of `gather` copies for each sample

// Copy row `order[j]` of `from` to row j of `to`. Up to 32 lanes copy a row together, strip by strip; the strips are
// divided among the blocks along y.
template <int V>
__device__ inline void copy_rows(
    const real* __restrict__ from, const long long* __restrict__ order, real* __restrict__ to, int n, long long m
) {
    const int packs = n / V, lanes = power_of_two(packs, 32), lane = threadIdx.x & (lanes - 1), strip = STRIP * lanes;
    const int rows = blockDim.x / lanes;
    const long long first = blockIdx.x * static_cast<long long>(rows) + threadIdx.x / lanes;
    for (long long start = blockIdx.y * static_cast<long long>(strip); start < packs;
         start += gridDim.y * static_cast<long long>(strip))
        for (long long j = first; j < m; j += gridDim.x * static_cast<long long>(rows)) {
            const real* source = from + order[j] * n;
            real* target = to + j * n;
#pragma unroll
            for (int s = 0; s < STRIP; s++) {
                const long long k = start + s * lanes + lane;
                if (k < packs) {
                    real v[V];
                    load(source + k * V, v);
                    store(target + k * V, v);
                }
            }
        }
}

__device__ inline void copy_samples(const real* from, const long long* order, real* to, int n, long long m) {
    if (n % VEC == 0 && aligned(from) && aligned(to))
        copy_rows<VEC>(from, order, to, n, m);
    else
        copy_rows<1>(from, order, to, n, m);
}

// Gather batch number control->updates of a chunk, with batch_size indices in `order` for each batch: m samples of X (n
// numbers each), of Y (k numbers each) and of w (one number each). Y and w may be null.
extern "C" __global__ void __launch_bounds__(BLOCK) gather(
    const real* X, const real* Y, const real* w, const long long* order, const Control* control,
    real* out_X, real* out_Y, real* out_w, int n, int k, long long m, long long batch_size
) {
    const long long* indices = order + control->updates * batch_size;
    copy_samples(X, indices, out_X, n, m);
    if (Y) copy_samples(Y, indices, out_Y, k, m);
    if (w) copy_samples(w, indices, out_w, 1, m);
}

template <int V>
__device__ inline void bias_activation_rows(
    real* Z, const real* __restrict__ b, real* A, int n, long long m, int code, real option
) {
    const Tile<V> tile(n);
    const long long step = gridDim.y * static_cast<long long>(tile.height);
    for (long long c = blockIdx.x * static_cast<long long>(tile.width) + tile.x; c < tile.columns;
         c += gridDim.x * static_cast<long long>(tile.width)) {
        real bias[V];
#pragma unroll
        for (int v = 0; v < V; v++) bias[v] = b ? b[c * V + v] : real(0);
        for (long long j = blockIdx.y * static_cast<long long>(tile.height) + tile.y; j < m; j += step) {
            const long long at = j * n + c * V;
            real z[V];
            load(Z + at, z);
            if (b) {
#pragma unroll
                for (int v = 0; v < V; v++) z[v] += bias[v];  // N2
                if (A != Z) store(Z + at, z);
            }
            if (A) {
                activate(code, option, z);  // N3
                store(A + at, z);
            }
        }
    }
}

// Z += b in place (N2) and A = g(Z) (N3), for all activations except softmax. A may be null; it may also be Z, if Z is
// not needed afterwards. b may be null; then Z is not changed, unless it is A.
extern "C" __global__ void __launch_bounds__(BLOCK) bias_activation(
    real* Z, const real* b, real* A, int n, long long m, int code, real option
) {
    if (n % VEC == 0 && aligned(Z) && aligned(A))
        bias_activation_rows<VEC>(Z, b, A, n, m, code, option);
    else
        bias_activation_rows<1>(Z, b, A, n, m, code, option);
}

constexpr int AHEAD = 2;  // rows that `backward_rows` loads at a time

// D = D * g'(Z) in place (N12), and partial[c * n + i] = scale * the sum of D over the samples of chunk c. X is Z or A,
// see `slope`. Each thread adds up its own samples in order; then the sums of the threads are added in a tree.
// `scratch` is shared memory for V numbers per thread.
template <int V>
__device__ inline void backward_rows(
    real* D, const real* X, real* partial, int n, long long m, long long rows, int code, real option, real scale,
    real* scratch
) {
    const Tile<V> tile(n);
    const long long chunks = (m + rows - 1) / rows;
    for (long long left = blockIdx.x * static_cast<long long>(tile.width); left < tile.columns;
         left += gridDim.x * static_cast<long long>(tile.width)) {  // the same for all threads: the loop has barriers
        const long long c = left + tile.x;
        for (long long chunk = blockIdx.y; chunk < chunks; chunk += gridDim.y) {
            const long long end = c >= tile.columns ? 0 : (chunk + 1) * rows < m ? (chunk + 1) * rows : m;
            real sums[V] = {};
            for (long long j = chunk * rows + tile.y; j < end; j += AHEAD * tile.height) {
                real d[AHEAD][V] = {}, x[AHEAD][V] = {};
#pragma unroll
                for (int r = 0; r < AHEAD; r++)
                    if (j + r * tile.height < end) {
                        const long long at = (j + r * tile.height) * n + c * V;
                        load(D + at, d[r]);
                        if (code != IDENTITY) load(X + at, x[r]);
                    }
                if (code != IDENTITY) {
                    slope(code, option, reinterpret_cast<real(&)[AHEAD * V]>(x));
#pragma unroll
                    for (int r = 0; r < AHEAD; r++) {
#pragma unroll
                        for (int v = 0; v < V; v++) d[r][v] *= x[r][v];
                        if (j + r * tile.height < end) store(D + (j + r * tile.height) * n + c * V, d[r]);
                    }
                }
#pragma unroll
                for (int r = 0; r < AHEAD; r++)
                    if (j + r * tile.height < end)
#pragma unroll
                        for (int v = 0; v < V; v++) sums[v] += d[r][v];
            }
            if (!partial) continue;
#pragma unroll
            for (int v = 0; v < V; v++) scratch[v * blockDim.x + threadIdx.x] = sums[v];
            __syncthreads();
            for (int half = tile.height / 2; half > 0; half /= 2) {
                if (tile.y < half)
#pragma unroll
                    for (int v = 0; v < V; v++) {
                        const int at = v * blockDim.x + threadIdx.x;
                        scratch[at] += scratch[at + half * tile.width];
                    }
                __syncthreads();
            }
            if (tile.y == 0 && c < tile.columns)
#pragma unroll
                for (int v = 0; v < V; v++)
                    partial[chunk * n + c * V + v] = scale * scratch[v * blockDim.x + threadIdx.x];
            // No barrier is needed before the next chunk: the last reads and the next writes of a thread in `scratch`
            // are at its own places.
        }
    }
}

// D = D * g'(Z) in place (N12), and partial[c * n + i] = scale * the sum of D over the `rows` samples of chunk c. With
// one chunk and scale 1/m, `partial` is db (N14). Only A is read if slope_of_a(code), and only Z otherwise; the array
// that is not read may be null. `partial` may be null as well.
extern "C" __global__ void __launch_bounds__(BLOCK, 2) activation_backward(
    real* D, const real* Z, const real* A, real* partial, int n, long long m, long long rows, int code, real option,
    real scale
) {
    __shared__ real scratch[BLOCK * VEC];
    const real* X = slope_of_a(code) ? A : Z;
    if (n % VEC == 0 && aligned(D) && (code == IDENTITY || aligned(X)))
        backward_rows<VEC>(D, X, partial, n, m, rows, code, option, scale, scratch);
    else
        backward_rows<1>(D, X, partial, n, m, rows, code, option, scale, scratch);
}

// out[i] = the sum of partial[c * n + i] over the chunks c (N14, if there are several chunks).
extern "C" __global__ void __launch_bounds__(BLOCK) sum_partials(real* partial, real* out, int n, long long chunks) {
    __shared__ real scratch[BLOCK];
    backward_rows<1>(partial, nullptr, out, n, chunks, chunks, IDENTITY, 0, 1, scratch);
}
