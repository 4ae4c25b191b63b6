// The dense layer except for its products and activations: gathering a batch, adding the bias (N2), and its gradient
// (N14); and the sum of a shortcut.

#include "dense.cuh"

constexpr int STRIP = 4;  // packs of a row that a lane of `gather` copies for each sample

// Copy row `order[j]` of `from` to row j of `to` or, if it has an array, of `factor`. Up to 32 lanes copy a row together, strip by strip; the strips are
// divided among the blocks along y.
template <int V>
__device__ inline void copy_rows(
    const real* __restrict__ from, const long long* __restrict__ order, real* __restrict__ to, const Factor& factor, int n,
    long long m
) {
    const int packs = n / V, lanes = power_of_two(packs, 32), lane = threadIdx.x & (lanes - 1), strip = STRIP * lanes;
    const int rows = blockDim.x / lanes;
    const long long first = blockIdx.x * static_cast<long long>(rows) + threadIdx.x / lanes;
    for (long long start = blockIdx.y * static_cast<long long>(strip); start < packs;
         start += gridDim.y * static_cast<long long>(strip))
        for (long long j = first; j < m; j += gridDim.x * static_cast<long long>(rows)) {
            const real* source = from + order[j] * n;
#pragma unroll
            for (int s = 0; s < STRIP; s++) {
                const long long k = start + s * lanes + lane;
                if (k < packs) {
                    real v[V];
                    load(source + k * V, v);
                    if (factor.out)
                        factor.store(j, n, k * V, v);
                    else
                        store(to + j * n + k * V, v);
                }
            }
        }
}

__device__ inline void copy_samples(
    const real* from, const long long* order, real* to, const Factor& factor, int n, long long m
) {
    __builtin_assume(__isGlobal(from));  // the addresses come from memory, so the compiler does not know it
    __builtin_assume(__isGlobal(order));
    if (n % VEC == 0 && aligned(from) && aligned(to))
        copy_rows<VEC>(from, order, to, factor, n, m);
    else
        copy_rows<1>(from, order, to, factor, n, m);
}

// Gather batch number control->updates + ahead of a chunk, if there is one: m samples of X (n numbers each), of Y (k numbers each) and of w (one
// number each). If `half` is not null, X is written there as a factor of products, instead of to out_X.
extern "C" __global__ void __launch_bounds__(BLOCK, 2) gather(
    const Source* source, const Control* control, int ahead, real* out_X, unsigned short* half, int kind, real* out_Y, real* out_w,
    int n, int k, long long m
) {
    const long long* indices = source->order + (control->updates + ahead) * source->batch_size;
    copy_samples(source->X, indices, out_X, Factor{half, kind, 1}, n, m);
    if (source->Y) copy_samples(source->Y, indices, out_Y, Factor{}, k, m);
    if (source->w) copy_samples(source->w, indices, out_w, Factor{}, 1, m);
}

// Z += b in place (N2), for the identity; A, if it is not null, is a copy. The template activation.cu has the same
// kernels for other activations.
extern "C" __global__ void __launch_bounds__(BLOCK) bias_activation(
    real* Z, const real* b, real* A, unsigned short* half, int kind, int n, long long m
) {
    add_bias_and_activate(Z, b, A, Factor{half, kind, 1}, n, m, Identity());
}

extern "C" __global__ void __launch_bounds__(BLOCK, 2) activation_backward(
    real* D, const real* Z, const real* A, unsigned short* half, int kind, real half_scale, real* partial, int n,
    long long m, long long rows, real scale
) {
    __shared__ real scratch[BLOCK * VEC];
    const Factor factor{half, kind, half_scale};
    differentiate_and_sum(D, Z, A, factor, partial, n, m, rows, scale, scratch, Identity());
}

// out[i] = the sum of partial[c * n + i] over the chunks c (N14, if there are several chunks).
extern "C" __global__ void __launch_bounds__(BLOCK) sum_partials(real* partial, real* out, int n, long long chunks) {
    __shared__ real scratch[BLOCK];
    backward_rows<1>(partial, nullptr, nullptr, Factor{}, out, n, chunks, chunks, 1, scratch, Identity());
}

constexpr int SUMS = 8;  // that `Parts` adds up at a time, so that as many loads are on their way

struct Parts {
    const real* parts;
    real* out;
    long long count, number;

    template <int V>
    __device__ void operator()(Count<V>, long long i) const {
        real sums[SUMS][V] = {};
        for (long long part = 0; part < number; part += SUMS) {
            real v[SUMS][V] = {};
#pragma unroll
            for (int s = 0; s < SUMS; s++)
                if (part + s < number) load(parts + (part + s) * count + i, v[s]);
#pragma unroll
            for (int s = 0; s < SUMS; s++)
#pragma unroll
                for (int k = 0; k < V; k++) sums[s][k] += v[s][k];
        }
#pragma unroll
        for (int half = SUMS / 2; half > 0; half /= 2)
#pragma unroll
            for (int s = 0; s < half; s++)
#pragma unroll
                for (int k = 0; k < V; k++) sums[s][k] += sums[s + half][k];
        store(out + i, sums[0]);
    }
};

struct Sum {
    const real *x, *y;
    real* out;

    template <int V>
    __device__ void operator()(Count<V>, long long i) const {
        real a[V], b[V];
        load(x + i, a);
        load(y + i, b);
#pragma unroll
        for (int v = 0; v < V; v++) a[v] += b[v];
        store(out + i, a);
    }
};

// out = x + y, for `count` numbers; out may be x.
extern "C" __global__ void __launch_bounds__(BLOCK, 2) add_arrays(
    const real* x, const real* y, real* out, long long count
) {
    const Sum sum{x, y, out};
    flat(count, aligned(x) && aligned(y) && aligned(out), sum);
}

// out[i] = the sum of parts[p * count + i] over the parts p of a product over samples (N13).
extern "C" __global__ void __launch_bounds__(BLOCK, 2) add_parts(
    const real* parts, real* out, long long count, long long number
) {
    const Parts sum{parts, out, count, number};
    flat(count, count % VEC == 0 && aligned(parts) && aligned(out), sum);
}
