// Predictions of a whole network in one launch, if its parameters fit into shared memory.
//
// This is a template. small_networks.py defines RELU, the code of ReLU within products, and
// EACH_ACTIVATION(CASE), which expands to CASE(code, G) for each other activation G except the identity.

#include "common.cuh"

// What a lane holds in registers, see registers() in generated.py.
constexpr int HELD = 4 * VEC;
constexpr bool HOLDS_ALL = false;

GENERATED
// The table of a network: ENTRY integers for each layer. W_AT and B_AT are the offsets of W and b in θ; a layer whose
// B_AT is negative has no b. OPTIONS_AT is where the options of the activation begin. PER_THREAD is the number of
// neurons that a thread computes at a time: 8, 4 or 2.
enum Entry { N_PREV, NEURONS, W_AT, B_AT, CODE, OPTIONS_AT, PER_THREAD, ENTRY };

constexpr int SAMPLES = 8;        // samples that a thread computes at a time
constexpr int WARP_NEURONS = 4;   // a warp computes WARP_NEURONS * PER_THREAD neurons
constexpr int WARP_SAMPLES = 64;  // for this many samples at a time

// The bytes of the parameters and the activations are an argument of the launch. tests/cuda/host.hpp defines this macro
// for the CPU.
#ifndef DYNAMIC_SHARED
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) real name[]
#endif

// Have the L2 cache load the line of memory at p. It changes no results.
__device__ inline void prefetch(const void* p) {
#ifdef __CUDA_ARCH__
    asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
#endif
}

// A layer in shared memory: the rows of W, each in `stride` numbers, an odd number of packs, so that the rows that a
// warp reads at a time are in different banks; then b. Rows, b and the ends of rows are padded with zeros.
struct Resident {
    int n_prev, n, rows, stride, code, per_thread;
    const int* entry;

    __device__ explicit Resident(const int* entry) : entry(entry) {
        n_prev = entry[N_PREV], n = entry[NEURONS], code = entry[CODE], per_thread = entry[PER_THREAD];
        const int tile = WARP_NEURONS * per_thread;
        rows = (n + tile - 1) / tile * tile;
        stride = (((n_prev + VEC - 1) / VEC) | 1) * VEC;
    }

    __device__ int size() const { return rows * (stride + 1); }

    // Copy W in packs of V numbers, and b.
    template <int V>
    __device__ void copy(const real* theta, real* W) const {
        const real* from = theta + entry[W_AT];
        const int packs = stride / V;
#pragma unroll 4
        for (int e = threadIdx.x; e < rows * packs; e += blockDim.x) {
            const int i = e / packs, k = (e - i * packs) * V;
            real w[V] = {};
            if (i < n && k < n_prev) load(from + i * n_prev + k, w);
            store(W + e * V, w);
        }
        for (int i = threadIdx.x; i < rows; i += blockDim.x)
            W[rows * stride + i] = i < n && entry[B_AT] >= 0 ? theta[entry[B_AT] + i] : real(0);
    }

    __device__ void copy_parameters(const real* theta, real* W) const {
        if (n_prev % VEC == 0 && aligned(theta + entry[W_AT]))
            copy<VEC>(theta, W);
        else
            copy<1>(theta, W);
    }
};

// One warp's tile of Z = W A_prev + b, or of A if g is ReLU: 4 T neurons from `neuron` on, for 64 samples from `sample`
// on. `from` and `to` hold activations by neuron, `width` numbers for each. Each thread computes T neurons, 4 rows apart,
// for 8 samples; the lanes are arranged so that lanes that read the same address are neighbours.
template <int T>
__device__ inline void compute_tile(
    const Resident& layer, const real* W, const real* from, real* to, int width, int neuron, int sample
) {
    constexpr int PACKS = SAMPLES / VEC;
    const int lane = threadIdx.x & 31, first = neuron + ((lane & 1) | (lane >> 3 & 2));
    const real* b = W + layer.rows * layer.stride;
    from += sample + (lane >> 1 & 7) * VEC;
    to += sample + (lane >> 1 & 7) * VEC;
    W += first * layer.stride;
    real z[T][PACKS][VEC] = {};
    for (int k = 0; k < layer.n_prev; k += VEC) {
        real w[T][VEC];
#pragma unroll
        for (int r = 0; r < T; r++) load(W + r * WARP_NEURONS * layer.stride + k, w[r]);
#pragma unroll
        for (int v = 0; v < VEC; v++)
#pragma unroll
            for (int c = 0; c < PACKS; c++) {
                real a[VEC];
                load(from + (k + v) * width + c * 8 * VEC, a);
#pragma unroll
                for (int r = 0; r < T; r++)
#pragma unroll
                    for (int s = 0; s < VEC; s++) z[r][c][s] += w[r][v] * a[s];
            }
    }
#pragma unroll
    for (int r = 0; r < T; r++) {
        const int i = first + r * WARP_NEURONS;
        const bool exists = i < layer.n, is_relu = layer.code == RELU;
        const real bias = b[i];
#pragma unroll
        for (int c = 0; c < PACKS; c++) {
#pragma unroll
            for (int s = 0; s < VEC; s++) {
                const real x = z[r][c][s] + bias;
                z[r][c][s] = !exists ? real(0) : is_relu ? larger(x, real(0)) : x;
            }
            store(to + i * width + c * 8 * VEC, z[r][c]);
        }
    }
}

template <int T>
__device__ inline void compute_layer(
    const Resident& layer, const real* W, const real* from, real* to, int width, int samples
) {
    const int across = layer.rows / (WARP_NEURONS * T), tiles = across * (samples / WARP_SAMPLES);
    for (int t = threadIdx.x / 32; t < tiles; t += blockDim.x / 32)
        compute_tile<T>(layer, W, from, to, width, t % across * WARP_NEURONS * T, t / across * WARP_SAMPLES);
}

// A = g(Z) in place. If outputs depend on each other, a thread computes a sample, or all threads share the samples if they
// have more outputs than a thread holds in registers.
template <class G>
__device__ inline void activate_all(const G& g, real* Z, int n, int width, int samples) {
    if constexpr (G::BY_ROWS) {
        if (n <= HELD)
            g.forward(BlockGroup(0), Z, nullptr, Z, n, samples, 1, width);
        else
            g.forward(BlockGroup(samples == WARP_SAMPLES ? 2 : 1), Z, nullptr, Z, n, samples, 1, width);
    } else {
        const int packs = samples / VEC;
        for (int e = threadIdx.x; e < n * packs; e += blockDim.x) {
            real* at = Z + e / packs * width + e % packs * VEC;
            real z[VEC];
            load(at, z);
            g.forward(z);
            store(at, z);
        }
    }
}

// The outputs of a network, shape (m, n) by sample; X has shape (m, n_prev) if `by_sample`, else (n_prev, m). Shared
// memory holds its parameters, `parameters` numbers, and two buffers of activations, the first with `rows` neurons. Each
// block processes `samples` samples at a time, a multiple of 64: each layer reads one buffer and writes the other one.
extern "C" __global__ void __launch_bounds__(BLOCK, 1) predict_resident(
    const real* X, const real* theta, const int* table, const double* options, real* out, int layers, int parameters,
    int rows, int samples, long long m, int by_sample
) {
    DYNAMIC_SHARED(W);
    const int width = samples + VEC;
    real* const buffers[2] = {W + parameters, W + parameters + rows * width};
    const int n_prev = table[N_PREV], n = table[(layers - 1) * ENTRY + NEURONS], lane = threadIdx.x & 31;
    const int loaded = (n_prev + VEC - 1) / VEC * VEC, line = 128 / sizeof(real);
    // The threads read 8 features of 32 samples together; the lanes of a warp read neighbours in memory.
    const int warp = threadIdx.x / 32, first_k = by_sample ? lane & 7 : warp;
    const int first_sample = by_sample ? warp * 4 + lane / 8 : lane;
    const long long k_step = by_sample ? 1 : m, j_step = by_sample ? n_prev : 1;
    real* at = W;
    for (int l = 0; l < layers; l++) {
        const Resident layer(table + l * ENTRY);
        layer.copy_parameters(theta, at);
        at += layer.size();
    }
    for (long long start = blockIdx.x * static_cast<long long>(samples); start < m;
         start += gridDim.x * static_cast<long long>(samples)) {
        const int count = start + samples < m ? samples : static_cast<int>(m - start);
        const long long next = start + gridDim.x * static_cast<long long>(samples);
        for (int k = first_k; k < loaded; k += 32) {
            real x[4][4] = {};
            for (int s = 0; s < samples; s += 128) {  // each thread loads up to 16 numbers before it stores them
#pragma unroll
                for (int q = 0; q < 4; q++)
#pragma unroll
                    for (int c = 0; c < 4; c++) {
                        const int j = first_sample + s + 32 * c;
                        x[q][c] = k + 8 * q < n_prev && j < count ? X[(start + j) * j_step + (k + 8 * q) * k_step] : real(0);
                    }
#pragma unroll
                for (int q = 0; q < 4; q++)
#pragma unroll
                    for (int c = 0; c < 4; c++) {
                        const int j = first_sample + s + 32 * c;
                        if (k + 8 * q < loaded && j < samples) buffers[0][(k + 8 * q) * width + j] = x[q][c];
                    }
            }
        }
        const long long end = (next + samples < m ? next + samples : m) * n_prev;
        if (by_sample)
            for (long long i = next * n_prev + threadIdx.x * line; i < end; i += blockDim.x * line) prefetch(X + i);
        else
            for (int i = threadIdx.x * line; i < n_prev * samples; i += blockDim.x * line)
                if (next + i % samples < m) prefetch(X + i / samples * m + next + i % samples);
        __syncthreads();
        at = W;
        for (int l = 0; l < layers; l++) {
            const Resident layer(table + l * ENTRY);
            const real* from = l & 1 ? buffers[1] : buffers[0];
            real* to = l & 1 ? buffers[0] : buffers[1];
            if (sizeof(real) == 4 && layer.per_thread == 8)
                compute_layer<sizeof(real) == 4 ? 8 : 4>(layer, at, from, to, width, samples);
            else if (layer.per_thread == 4)
                compute_layer<4>(layer, at, from, to, width, samples);
            else
                compute_layer<2>(layer, at, from, to, width, samples);
            __syncthreads();
            if (layer.code >= 0) {
                switch (layer.code) {
#define CASE(code, G) \
    case code: activate_all(G(options + layer.entry[OPTIONS_AT], layer.n), to, layer.n, width, samples); break;
                    EACH_ACTIVATION(CASE)
                }
                __syncthreads();
            }
            at += layer.size();
        }
        const real* A = layers & 1 ? buffers[1] : buffers[0];
        for (int e = threadIdx.x; e < count * n; e += blockDim.x) {
            const int j = e / n, i = e - j * n;
            out[start * n + e] = A[i * width + j];
        }
        __syncthreads();
    }
}
