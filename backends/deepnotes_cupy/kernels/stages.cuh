// Stages: a matrix product together with the elementwise part that follows it, for batches so small that the product of
// a library takes several launches and leaves processors idle.
//
// A block computes a tile of the results. Its warps share out the terms of the sums: each adds up its own slices of
// them, and then the sums of the warps are added in order. While a warp multiplies a slice, it loads the next one.

#include "dense.cuh"

constexpr int STAGE_SAMPLES = 32;  // samples of a tile; a lane computes 4 x 4 numbers
constexpr int STAGE_NEURONS = 16;  // neurons of a tile
constexpr int SLICE = 64 / sizeof(real);  // terms of a slice
constexpr int STAGE_WARPS = BLOCK / 32, ROUND = STAGE_WARPS * SLICE;
constexpr int TILE = STAGE_SAMPLES * STAGE_NEURONS, PER_THREAD = TILE / BLOCK;
constexpr int LEFT = STAGE_SAMPLES + VEC, RIGHT = STAGE_NEURONS + VEC;  // in shared memory: gaps make conflicts fewer
constexpr int PANELS = ROUND * (LEFT + RIGHT), SUMS_OF_WARPS = STAGE_WARPS * TILE;
constexpr int STAGE_SHARED = PANELS > SUMS_OF_WARPS + TILE ? PANELS : SUMS_OF_WARPS + TILE;

// A factor of a product in global memory, in rows.
struct Matrix {
    const real* numbers;
    long long rows;
    int columns;
    bool packs;

    __device__ Matrix(const real* numbers, long long rows, int columns)
        : numbers(numbers), rows(rows), columns(columns), packs(columns % VEC == 0 && aligned(numbers)) {}

    // Load VEC neighbouring numbers of every `apart`-th row, from a row and a column on; those outside are 0.
    template <int COUNT>
    __device__ void fetch(long long row, int column, int apart, real (&v)[COUNT][VEC]) const {
        const real* from = numbers + row * columns + column;
        const int left = rows - row < COUNT * apart ? static_cast<int>(rows - row) : COUNT * apart;
#pragma unroll
        for (int p = 0; p < COUNT; p++, from += apart * columns) {
            const bool exists = p * apart < left;
            if (exists && packs && column < columns) {
                load(from, v[p]);
                continue;
            }
#pragma unroll
            for (int i = 0; i < VEC; i++) v[p][i] = exists && column + i < columns ? from[i] : real(0);
        }
    }
};

// A slice of a factor whose rows are the rows or columns of the result, COUNT of them: terms are side by side in global
// memory, results in shared memory.
template <int COUNT, int STRIDE>
struct Across {
    static constexpr int LANES = SLICE / VEC, APART = 32 / LANES;
    real held[COUNT / APART][VEC];

    __device__ void fetch(const Matrix& from, long long first, int term) {
        const int lane = threadIdx.x & 31;
        from.fetch(first + lane / LANES, term + lane % LANES * VEC, APART, held);
    }

    __device__ void keep(real* panel) const {
        const int lane = threadIdx.x & 31;
        panel += lane % LANES * VEC * STRIDE + lane / LANES;
#pragma unroll
        for (int p = 0; p < COUNT / APART; p++)
#pragma unroll
            for (int v = 0; v < VEC; v++) panel[v * STRIDE + p * APART] = held[p][v];
    }
};

// A slice of a factor whose rows are the terms: results are side by side in both memories.
template <int COUNT, int STRIDE>
struct Along {
    static constexpr int LANES = COUNT / VEC, APART = 32 / LANES;
    real held[SLICE / APART][VEC];

    __device__ void fetch(const Matrix& from, long long first, int term) {
        const int lane = threadIdx.x & 31;
        from.fetch(term + lane / LANES, static_cast<int>(first) + lane % LANES * VEC, APART, held);
    }

    __device__ void keep(real* panel) const {
        const int lane = threadIdx.x & 31;
        panel += lane / LANES * STRIDE + lane % LANES * VEC;
#pragma unroll
        for (int p = 0; p < SLICE / APART; p++) store(panel + p * APART * STRIDE, held[p]);
    }
};

// Load four neighbouring numbers from shared memory.
__device__ inline void four(const real* from, real (&v)[4]) {
#pragma unroll
    for (int i = 0; i < 4; i += VEC) load(from + i, reinterpret_cast<real(&)[VEC]>(v[i]));
}

// Compute a tile of a product, from sample `sample` and neuron `neuron` on; each thread gets PER_THREAD neighbouring
// numbers, from number threadIdx.x * PER_THREAD of the tile on. `Second` is how slices of `second` are stored. All
// threads of the block must call this. Other threads may still read the first SUMS_OF_WARPS numbers of `shared` until
// the next barrier.
template <class Second>
__device__ inline void tile_of_product(
    const Matrix& first, const Matrix& second, int terms, long long sample, int neuron, real* shared,
    real (&result)[PER_THREAD]
) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x & 31;
    const int x = lane % (STAGE_NEURONS / 4) * 4, y = lane / (STAGE_NEURONS / 4) * 4;
    real* left = shared + warp * SLICE * (LEFT + RIGHT);
    real* right = left + SLICE * LEFT;
    Across<STAGE_SAMPLES, LEFT> of_first;
    Second of_second;
    real sums[4][4] = {};
    int term = warp * SLICE;
    of_first.fetch(first, sample, term);
    of_second.fetch(second, neuron, term);
    for (; term < terms; term += ROUND) {
        of_first.keep(left);
        of_second.keep(right);
        __syncwarp();
        if (term + ROUND < terms) {
            of_first.fetch(first, sample, term + ROUND);
            of_second.fetch(second, neuron, term + ROUND);
        }
#pragma unroll
        for (int k = 0; k < SLICE; k++) {
            real a[4], b[4];
            four(left + k * LEFT + y, a);
            four(right + k * RIGHT + x, b);
#pragma unroll
            for (int j = 0; j < 4; j++)
#pragma unroll
                for (int i = 0; i < 4; i++) sums[j][i] += a[j] * b[i];
        }
        __syncwarp();
    }
    __syncthreads();  // the sums take the place of the slices
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
        for (int i = 0; i < 4; i += VEC)
            store(
                shared + warp * TILE + (y + j) * STAGE_NEURONS + x + i, reinterpret_cast<real(&)[VEC]>(sums[j][i])
            );
    __syncthreads();
#pragma unroll
    for (int v = 0; v < PER_THREAD; v++) {
        result[v] = 0;
#pragma unroll
        for (int w = 0; w < STAGE_WARPS; w++) result[v] += shared[w * TILE + threadIdx.x * PER_THREAD + v];
    }
}

// Z = W A_prev + b (N2) and A = g(Z) (N3), for m samples; Z and b may be null.
template <class G>
__device__ inline void compute_forward_stage(
    const real* A_prev, const real* W, const real* b, real* Z, real* A, int n_prev, int n, long long m, real* shared,
    const G& g
) {
    const Matrix samples(A_prev, m, n_prev), weights(W, n, n_prev);
    for (long long sample = blockIdx.y * static_cast<long long>(STAGE_SAMPLES); sample < m;
         sample += gridDim.y * static_cast<long long>(STAGE_SAMPLES))
        for (int neuron = blockIdx.x * STAGE_NEURONS; neuron < n; neuron += gridDim.x * STAGE_NEURONS) {
            real z[PER_THREAD];
            tile_of_product<Across<STAGE_NEURONS, RIGHT>>(samples, weights, n_prev, sample, neuron, shared, z);
            const long long j = sample + threadIdx.x * PER_THREAD / STAGE_NEURONS;
            const int i = neuron + threadIdx.x * PER_THREAD % STAGE_NEURONS;
#pragma unroll
            for (int v = 0; v < PER_THREAD; v++)
                if (j < m && i + v < n) {
                    if (b) z[v] += b[i + v];
                    if (Z) Z[j * n + i + v] = z[v];
                }
            g.forward(z);
#pragma unroll
            for (int v = 0; v < PER_THREAD; v++)
                if (j < m && i + v < n) A[j * n + i + v] = z[v];
            __syncthreads();  // before the next tile
        }
}

// The derivatives by the outputs of the layer before, dA = W^T dZ_next (N15), and at once its dZ = dA * g'(Z) (N12), for
// m samples; n_next and n are the numbers of neurons of the two layers. partial[c * n + i] = scale * the sum of dZ over
// the samples of tile c (N14). Z and A may be null if the activation does not need them.
template <class G>
__device__ inline void compute_backward_stage(
    const real* dZ_next, const real* W, const real* Z, const real* A, real* dZ, real* partial, int n_next, int n,
    long long m, real scale, real* shared, const G& g
) {
    const Matrix derivatives(dZ_next, m, n_next), weights(W, n_next, n);
    real* columns = shared + SUMS_OF_WARPS;
    for (long long sample = blockIdx.y * static_cast<long long>(STAGE_SAMPLES); sample < m;
         sample += gridDim.y * static_cast<long long>(STAGE_SAMPLES))
        for (int neuron = blockIdx.x * STAGE_NEURONS; neuron < n; neuron += gridDim.x * STAGE_NEURONS) {
            real d[PER_THREAD], z[PER_THREAD] = {}, a[PER_THREAD] = {};
            tile_of_product<Along<STAGE_NEURONS, RIGHT>>(derivatives, weights, n_next, sample, neuron, shared, d);
            const int row = threadIdx.x * PER_THREAD / STAGE_NEURONS, column = threadIdx.x * PER_THREAD % STAGE_NEURONS;
            const long long j = sample + row;
            const int i = neuron + column;
#pragma unroll
            for (int v = 0; v < PER_THREAD; v++)
                if (j < m && i + v < n) {
                    if (G::NEEDS_Z) z[v] = Z[j * n + i + v];
                    if (G::NEEDS_A) a[v] = A[j * n + i + v];
                }
            g.backward(d, z, a);
#pragma unroll
            for (int v = 0; v < PER_THREAD; v++) {
                if (j < m && i + v < n)
                    dZ[j * n + i + v] = d[v];
                else
                    d[v] = 0;
                columns[threadIdx.x * PER_THREAD + v] = d[v];
            }
            __syncthreads();
            for (int half = STAGE_SAMPLES / 2; half > 0; half /= 2) {
                if (row < half)
#pragma unroll
                    for (int v = 0; v < PER_THREAD; v++) {
                        const int at = threadIdx.x * PER_THREAD + v;
                        columns[at] += columns[at + half * STAGE_NEURONS];
                    }
                __syncthreads();
            }
            if (row == 0)
#pragma unroll
                for (int v = 0; v < PER_THREAD; v++)
                    if (i + v < n) partial[sample / STAGE_SAMPLES * n + i + v] = scale * columns[column + v];
            __syncthreads();  // before the next tile
        }
}
