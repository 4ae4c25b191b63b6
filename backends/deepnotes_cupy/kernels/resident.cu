// Many training steps in one launch, for small networks: everything that a step reads or writes is in shared memory,
// except for the samples of the next step, which are fetched while this step computes. One block makes the steps, or a
// cluster of blocks that share out the samples of a batch: each block computes the gradient of its samples, then each
// block adds up its share of the parameters over the blocks, in a fixed order, and updates it in all blocks.
//
// In shared memory, rows of numbers (an input sample, the outputs of a layer for a sample, the weights of a neuron) begin
// at multiples of 16 bytes, odd ones, so that neighbouring rows are in different banks. A row of outputs is followed by
// the number 1, and a row of weights by the neuron's bias: so products include biases and their gradient (N2, N14).
// What follows are zeros.
//
// This is a template. resident.py defines THREADS, the largest number of threads in a block; CLUSTERED if there is a
// cluster; RELU, the code of ReLU within products; EACH_ACTIVATION(CASE), which expands to CASE(code, G) for each other
// activation G except the identity; the loss LossPart; and the optimizer's update UpdatePart.

#include "philox.cuh"
#include "shared.cuh"
#include "steps.cuh"
#include "targets.cuh"

// What a lane holds in registers, see registers() in generated.py.
constexpr int HELD = 1;
constexpr bool HOLDS_ALL = false;

GENERATED
#ifdef CLUSTERED
constexpr int BLOCKS = 8;
#else
constexpr int BLOCKS = 1;
#undef IN_CLUSTERS_OF
#define IN_CLUSTERS_OF(blocks)
#endif
constexpr int MOST_ROWS = 17;          // of the table of layers
constexpr int TILE = 4;                // samples in a tile of a product
constexpr int MOST_SCALARS = 8;        // of an update, with the learning rate
constexpr int MOST_SLOTS = 4;          // of the optimizer
constexpr int ENOUGH_TILES = 64;       // if there are fewer tiles, smaller ones keep more threads busy

// The columns of the table of layers: the first row is for the inputs, the others for dense layers. Z_AT, A_AT and
// OUTPUTS are where Z, A and, after dropout, the outputs are in shared memory; they may be the same. CODE is negative for
// the identity and for RELU. OPTIONS_AT is where the options of the activation begin. MASK is the number of the dropout
// layer that follows; 0 if none does.
enum Column { NEURONS, STRIDE, Z_AT, A_AT, OUTPUTS, WEIGHTS, BIASES, MATRIX, CODE, OPTIONS_AT, MASK, THRESHOLD, SCALE };

// Where the areas of shared memory begin, and where the last one ends. The first, θ, begins at 0. INDICES, TARGETS,
// SAMPLE_WEIGHTS and INPUTS are two areas each, of the current and of the next samples; DERIVATIVES are two as well.
// MARKS says of each pack of VEC numbers of θ that this block updates which are weights, and which biases.
enum Area { GRADIENT, SLOTS, MARKS, PARTIAL, INDICES, TARGETS, SAMPLE_WEIGHTS, SAMPLE_LOSSES, DERIVATIVES, INPUTS, END };

// The division of numbers n from 0 on by `divisor`, without an integer division, if n * divisor < 2^32.
struct Division {
    int divisor;
    unsigned reciprocal;

    __device__ int quotient(int n) const { return divisor == 1 ? n : static_cast<int>(__umulhi(n, reciprocal)); }
};

__device__ inline Division division_by(int divisor) {
    return Division{divisor, divisor > 1 ? 0xffffffffu / divisor + 1 : 0};
}

// The division of a product's tiles among the threads: 1 << shift neighbouring threads (lanes) share a tile, each of
// which computes every (1 << shift)-th term of its sums. `across` tiles are in a row. The samples of a tile are `apart`.
struct Work {
    int large, shift, tiles, apart;
    Division across;
};

__device__ inline Work work_of(bool large, int tiles, int terms, int across, int apart) {
    const int threads = blockDim.x, most = large ? 1 : 5;  // lanes have to add up all sums of a large tile
    int shift = 0;
    while (shift < most && (tiles << (shift + 1)) <= threads && (4 << shift) <= terms) shift++;
    return Work{large, shift, tiles, apart, division_by(across)};
}

struct LayerRow {
    int n, stride, z, a, outputs, weights, biases, matrix, code, options, mask;
    int fused;  // whether the products compute the activation and its derivative, too
    int group;  // the binary logarithm of the number of lanes that share a sample
    unsigned long long threshold;
    real scale;
    Division neurons, packs;
    Work forward, backward, gradient;
};

// A thread's tiles of a product, and its part of each, see Work. The first tiles are those of the first or last warps: so
// two small products run at the same time.
struct Split {
    int lanes, lane, index, first, step;

    __device__ explicit Split(const Work& work, bool last_warps = false)
        : lanes(1 << work.shift),
          lane(threadIdx.x & (lanes - 1)),
          index((threadIdx.x & 31) >> work.shift),
          first((last_warps ? blockDim.x - 32 - (threadIdx.x & ~31) : threadIdx.x & ~31) >> work.shift),
          step(blockDim.x >> work.shift) {}

    template <int N>
    __device__ void add_up(real (&sums)[N]) const {
#pragma unroll 1
        for (int offset = lanes / 2; offset > 0; offset /= 2)
#pragma unroll
            for (int i = 0; i < N; i++) sums[i] += __shfl_xor_sync(ALL_LANES, sums[i], offset);
    }
};

// The samples of a block that are in shared memory: their number, and the position of the first in the batch.
struct Samples {
    int count;
    long long position;
};

// Pass `part` of a training step over the samples of a block; `half` is the half of the shared memory that they are in.
struct Pass {
    int step, part, half;
};

struct Trainer {
    real* pool;
    const LayerRow* rows;
    const int* areas;
    const double* options;  // of all activations and of the loss
    unsigned long long seed;
    long long step;

    // Multiply numbers from element `at` of a batch on by the factors of a dropout mask.
    template <int V>
    __device__ void mask(const LayerRow& row, long long at, real (&x)[V]) const {
        long long counter = -1;
        uint4 four = make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int v = 0; v < V; v++) {
            if ((at + v) / 4 != counter) {
                counter = (at + v) / 4;
                four = philox(
                    make_uint4(
                        static_cast<unsigned>(counter), static_cast<unsigned>(row.mask), static_cast<unsigned>(step),
                        static_cast<unsigned>(step >> 32)
                    ),
                    seed
                );
            }
            const int word = static_cast<int>((at + v) & 3);
            const unsigned drawn = word == 0 ? four.x : word == 1 ? four.y : word == 2 ? four.z : four.w;
            x[v] *= drawn >= row.threshold ? row.scale : real(0);
        }
    }

    template <int N>
    __device__ static void load_some(const real* from, real (&x)[N]) {
        if constexpr (N == VEC)
            load(from, x);
        else {
#pragma unroll
            for (int i = 0; i < N; i++) x[i] = from[i];
        }
    }

    // Store the first n - i of V numbers to a row of n numbers.
    template <int V>
    __device__ static void store_some(real* row, int i, int n, const real (&x)[V]) {
        if (i + V <= n) {
            store(row + i, x);
            return;
        }
#pragma unroll
        for (int v = 0; v < V; v++)
            if (i + v < n) row[i + v] = x[v];
    }

    // Z (N2), or A (N3) if it is fused, for tiles of I neurons and J samples.
    template <int I, int J>
    __device__ void forward(const LayerRow& before, const LayerRow& row, const Samples& samples) const {
        const Work work = row.forward;
        const Split split(work);
        const int n = row.n, count = samples.count, terms = before.n / VEC + 1, fused = row.fused;
        const int across = work.across.divisor, down = (n + I - 1) / I;  // a tile has every down-th neuron
        const int stride = before.stride, out_stride = row.stride;
        const real *W = pool + row.matrix, *A = pool + before.outputs;
        real* out = pool + row.z;
#pragma unroll 1
        for (int first = split.first; first < work.tiles; first += split.step) {
            const int tile = first + split.index < work.tiles ? first + split.index : work.tiles - 1;
            const int i = work.across.quotient(tile), j = tile - i * across;
            const real *w = W + i * stride, *a[J];
#pragma unroll
            for (int s = 0; s < J; s++) a[s] = A + (j + s * across < count ? j + s * across : j) * stride;
            real sums[J * I] = {};
#pragma unroll 1
            for (int k = split.lane; k < terms; k += split.lanes) {
                real x[I][VEC], y[J][VEC];
#pragma unroll
                for (int u = 0; u < I; u++) load(w + u * down * stride + k * VEC, x[u]);
#pragma unroll
                for (int s = 0; s < J; s++) load(a[s] + k * VEC, y[s]);
#pragma unroll
                for (int v = 0; v < VEC; v++)
#pragma unroll
                    for (int s = 0; s < J; s++)
#pragma unroll
                        for (int u = 0; u < I; u++) sums[s * I + u] += x[u][v] * y[s][v];
            }
            split.add_up(sums);
            if (split.lane != 0 || first + split.index >= work.tiles) continue;
#pragma unroll
            for (int s = 0; s < J; s++)
#pragma unroll
                for (int u = 0; u < I; u++) {
                    const real z = sums[s * I + u];
                    if (j + s * across < count && i + u * down < n)
                        out[(j + s * across) * out_stride + i + u * down] = fused ? larger(z, real(0)) : z;
                }
        }
    }

    // From dZ of a layer to dA (N15), or dZ (N12) if it is fused, of the one before, for tiles of VEC neurons of that one,
    // and J samples.
    template <int J>
    __device__ void backward(
        const LayerRow& before, const LayerRow& row, const Samples& samples, const real* D, real* E
    ) const {
        const Work work = row.backward;
        const Split split(work);
        const int n = before.n, count = samples.count, terms = (row.n + VEC - 1) / VEC, fused = before.fused;
        const int across = work.across.divisor, apart = work.apart, stride = before.stride, d_stride = row.stride;
        const real *W = pool + row.matrix, *A = pool + before.outputs;
#pragma unroll 1
        for (int first = split.first; first < work.tiles; first += split.step) {
            const int tile = first + split.index < work.tiles ? first + split.index : work.tiles - 1;
            const int j = work.across.quotient(tile), k = (tile - j * across) * VEC;
            const real *w = W + k, *d[J];
#pragma unroll
            for (int s = 0; s < J; s++) d[s] = D + (j + s * apart < count ? j + s * apart : j) * d_stride;
            real sums[J * VEC] = {};
#pragma unroll (J > 2 ? 2 : 1)
            for (int i = split.lane; i < terms; i += split.lanes) {
                real x[VEC][VEC], y[J][VEC];
#pragma unroll
                for (int u = 0; u < VEC; u++) load(w + (i * VEC + u) * stride, x[u]);
#pragma unroll
                for (int s = 0; s < J; s++) load(d[s] + i * VEC, y[s]);
#pragma unroll
                for (int u = 0; u < VEC; u++)
#pragma unroll
                    for (int s = 0; s < J; s++)
#pragma unroll
                        for (int v = 0; v < VEC; v++) sums[s * VEC + v] += y[s][u] * x[u][v];
            }
            split.add_up(sums);
            if (split.lane != 0 || first + split.index >= work.tiles) continue;
#pragma unroll
            for (int s = 0; s < J; s++) {
                if (j + s * apart >= count) continue;
                real e[VEC], a[VEC];
                if (fused) load(A + (j + s * apart) * stride + k, a);
#pragma unroll
                for (int v = 0; v < VEC; v++) {
                    e[v] = sums[s * VEC + v];
                    if (fused) e[v] *= real(a[v] > 0);
                    if (k + v >= n) e[v] = 0;
                }
                store(E + (j + s * apart) * stride + k, e);
            }
        }
    }

    // The gradient of a layer's weights and biases (N13, N14), for tiles of I neurons and VEC inputs; it is added to that
    // of earlier samples if `adds`.
    template <int I>
    __device__ void gradient(
        const LayerRow& before, const LayerRow& row, const Samples& samples, const real* D, real scale, bool adds
    ) const {
        const Work work = row.gradient;
        const Split split(work, true);
        const int n = row.n, count = samples.count, stride = before.stride, d_stride = row.stride;
        const real* A = pool + before.outputs;
        real* G = pool + areas[GRADIENT] + row.matrix;
#pragma unroll 1
        for (int first = split.first; first < work.tiles; first += split.step) {
            const int tile = first + split.index < work.tiles ? first + split.index : work.tiles - 1;
            const int row_of_tiles = work.across.quotient(tile);
            const int k = (tile - row_of_tiles * work.across.divisor) * VEC, i = row_of_tiles * I;
            const real *a = A + k, *d = D + i;
            real sums[I * VEC] = {};
#pragma unroll 2
            for (int j = split.lane; j < count; j += split.lanes) {
                real x[VEC], y[I];
                load(a + j * stride, x);
                load_some(d + j * d_stride, y);
#pragma unroll
                for (int u = 0; u < I; u++)
#pragma unroll
                    for (int v = 0; v < VEC; v++) sums[u * VEC + v] += y[u] * x[v];
            }
            split.add_up(sums);
            if (split.lane != 0 || first + split.index >= work.tiles) continue;
#pragma unroll
            for (int u = 0; u < I; u++) {
                if (i + u >= n) continue;
                real* g = G + (i + u) * stride + k;
                real x[VEC] = {};
                if (adds) load(g, x);
#pragma unroll
                for (int v = 0; v < VEC; v++) x[v] += scale * sums[u * VEC + v];
                store(g, x);
            }
        }
    }

    // Multiply outputs, or their derivatives, by the factors of the dropout mask.
    __device__ void drop(const LayerRow& row, const Samples& samples, real* A) const {
        const Division packs = row.packs;
        for (int item = threadIdx.x; item < packs.divisor * samples.count; item += blockDim.x) {
            const int j = packs.quotient(item), i = (item - j * packs.divisor) * VEC;
            real a[VEC];
            load(A + j * row.stride + i, a);
            mask(row, (samples.position + j) * row.n + i, a);
            store_some(A + j * row.stride, i, row.n, a);
        }
        __syncthreads();
    }

    // A = g(Z) (N3), from Z_AT to A_AT and OUTPUTS.
    template <class G>
    __device__ void activate(const LayerRow& row, const Samples& samples, const G& g) const {
        real *Z = pool + row.z, *A = pool + row.a, *out = pool + row.outputs;
        const int n = row.n, stride = row.stride;
        if constexpr (G::BY_ROWS) {
            g.forward(BlockGroup(row.group), Z, nullptr, A, n, samples.count, stride);
        } else {
            const Division neurons = row.neurons;
            for (int item = threadIdx.x; item < n * samples.count; item += blockDim.x) {
                const int j = neurons.quotient(item), at = j * stride + item - j * n;
                real z[1] = {Z[at]};
                g.forward(z);
                if (A != out) A[at] = z[0];
                out[at] = z[0];
            }
        }
    }

    // From dA to dZ of a layer (N12), in place.
    template <class G>
    __device__ void differentiate(const LayerRow& row, const Samples& samples, real* D, const G& g) const {
        const real *Z = pool + row.z, *A = pool + row.a;
        const int n = row.n, stride = row.stride;
        if constexpr (G::BY_ROWS) {
            g.backward(BlockGroup(row.group), D, Z, A, n, samples.count, stride);
        } else {
            const Division neurons = row.neurons;
            for (int item = threadIdx.x; item < n * samples.count; item += blockDim.x) {
                const int j = neurons.quotient(item), at = j * stride + item - j * n;
                const real z[1] = {G::NEEDS_Z ? Z[at] : real(0)}, a[1] = {G::NEEDS_A ? A[at] : real(0)};
                real d[1] = {D[at]};
                g.backward(d, z, a);
                D[at] = d[0];
            }
        }
    }

    // N3, unless it is fused, and dropout; a barrier follows if there is anything to do.
    __device__ void activate_outputs(const LayerRow& row, const Samples& samples) const {
        if (row.code >= 0) {
            switch (row.code) {
#define CASE(code, G) case code: activate(row, samples, G(options + row.options, row.n)); break;
                EACH_ACTIVATION(CASE)
#undef CASE
            }
            __syncthreads();
        }
        if (row.mask) drop(row, samples, pool + row.outputs);
    }

    // From dA, including dropout, to dZ of a layer (N12), in place; a barrier follows if there is anything to do.
    __device__ void differentiate(const LayerRow& row, const Samples& samples, real* D) const {
        if (row.mask) drop(row, samples, D);
        if (row.code < 0) return;
        switch (row.code) {
#define CASE(code, G) case code: differentiate(row, samples, D, G(options + row.options, row.n)); break;
            EACH_ACTIVATION(CASE)
#undef CASE
        }
        __syncthreads();
    }

    __device__ void forward(const LayerRow& before, const LayerRow& row, const Samples& samples) const {
        if (row.forward.large)
            forward<VEC, TILE>(before, row, samples);
        else
            forward<2, 2>(before, row, samples);
        __syncthreads();
        activate_outputs(row, samples);
    }

    __device__ void backward(
        const LayerRow& before, const LayerRow& row, const Samples& samples, const real* D, real* E
    ) const {
        if (row.backward.large)
            backward<TILE>(before, row, samples, D, E);
        else
            backward<2>(before, row, samples, D, E);
    }

    __device__ void gradient(
        const LayerRow& before, const LayerRow& row, const Samples& samples, const real* D, real scale, bool adds
    ) const {
        if (row.gradient.large)
            gradient<VEC>(before, row, samples, D, scale, adds);
        else
            gradient<2>(before, row, samples, D, scale, adds);
    }

    // The losses of the samples, and their derivatives: dZ of the last layer if the loss is computed from Z, otherwise dA.
    __device__ void loss(
        const LayerRow& row, const Samples& samples, const double* options, const real* Y, int class_indices,
        const real* w, real* D
    ) const {
        const BlockGroup group(row.group);
        const int n = row.n, m = samples.count, stride = row.stride;
        real *Z = pool + row.outputs, *L = pool + areas[SAMPLE_LOSSES];
        LossPart(options, n)(group, Z, nullptr, Y, class_indices, w, nullptr, D, Factor{}, L, n, m, stride);
        const int padded = (n + VEC - 1) / VEC * VEC;
        for (long long j = group.first + group.index; j < m; j += group.step)
            for (int i = n + group.lane; i < padded; i += group.lanes) D[j * stride + i] = 0;
    }

    // The index in the flat buffer of the parameter that is at a place in the area of θ, or -1 if none is there. `bias`
    // says whether it is a bias.
    __device__ int parameter(int place, int row_count, bool& bias) const {
        int l = 1;
        while (l + 1 < row_count && place >= rows[l + 1].matrix) l++;
        const int n = rows[l - 1].n, at = place - rows[l].matrix, i = at / rows[l - 1].stride;
        const int k = at - i * rows[l - 1].stride;
        bias = k == n;
        return i >= rows[l].n || k > n ? -1 : bias ? rows[l].biases + i : rows[l].weights + i * n + k;
    }
};

// Copy rows of numbers asynchronously, in packs of V numbers, of which a row has `across`.
template <int V>
__device__ inline void fetch_rows(
    real* to, int to_stride, const real* from, const long long* indices, const Division& across, int n, int count
) {
    for (int item = threadIdx.x; item < across.divisor * count; item += blockDim.x) {
        const int j = across.quotient(item), i = (item - j * across.divisor) * V;
        copy_async<V * sizeof(real)>(to + j * to_stride + i, from + indices[j] * n + i);
    }
}

__device__ inline void fetch_rows(
    real* to, int to_stride, const real* from, const long long* indices, const Division& across, int n, int count,
    bool packs
) {
    if (packs)
        fetch_rows<VEC>(to, to_stride, from, indices, across, n, count);
    else
        fetch_rows<1>(to, to_stride, from, indices, across, n, count);
}

template <class T>
__device__ inline T warp_sum(T x, int lanes = 32) {
    for (int offset = 1; offset < lanes; offset *= 2) x += __shfl_xor_sync(ALL_LANES, x, offset);
    return x;
}

template <class T>
__device__ inline T warp_max(T x, int lanes = 32) {
    for (int offset = 1; offset < lanes; offset *= 2) x = larger(x, __shfl_xor_sync(ALL_LANES, x, offset));
    return x;
}

// The update of packs first to last - 1 of θ by one step of the optimizer, whose slots begin at `first`. What is between
// rows remains 0, even if the optimizer divides by 0.
__device__ inline void update_share(
    const Trainer& trainer, const int* marks, int first, int last, real clip, const UpdatePart& step
) {
    real *pool = trainer.pool, *g = pool + trainer.areas[GRADIENT];
    for (int pack = first + threadIdx.x; pack < last; pack += blockDim.x) {
        real w[VEC], x[VEC], decays[VEC];
        load(pool + pack * VEC, w);
        load(g + pack * VEC, x);
        const int mark = marks[pack - first];
#pragma unroll
        for (int v = 0; v < VEC; v++) {
            x[v] *= clip;
            decays[v] = mark >> v & 1;
        }
        step((pack - first) * VEC, w, x, decays);
#pragma unroll
        for (int v = 0; v < VEC; v++)
            if (!(mark >> v & (1 | 1 << VEC))) w[v] = 0;
#ifdef CLUSTERED
#pragma unroll
        for (int rank = 0; rank < BLOCKS; rank++) store_peer(pool + pack * VEC, rank, w);
#else
        store(pool + pack * VEC, w);
#endif
    }
}

// Wait for all threads of the block or cluster.
__device__ inline void sync_all() {
#ifdef CLUSTERED
    sync_cluster();
#else
    __syncthreads();
#endif
}

// Make `steps` training steps with batches of m samples, see `gather` for their indices, unless the training has
// stopped: one block, or one cluster. `table` has a row of all columns for each layer; `layout` has the areas. `capacity`
// samples of a block are in shared memory at a time.
extern "C" __global__ void IN_CLUSTERS_OF(8) __launch_bounds__(THREADS, 1) train_resident(
    const real* X, const real* Y, const real* w, const long long* order, Control* control, const double* scalars,
    real* theta, real* slot0, real* slot1, real* slot2, real* slot3, const double* table, const int* layout,
    const double* options, int loss_options, int update_options, int row_count, int targets, int columns, int m,
    int batch_size, int steps, int capacity, int class_indices, unsigned long long seed, real l1, real l2,
    double clip_norm, double safe_step
) {
    DYNAMIC_SHARED(pool);
    __shared__ LayerRow rows[MOST_ROWS + 1];  // the last one is for the other half of the inputs
    __shared__ int areas[END + 1];
    __shared__ Control state;
    __shared__ double current[MOST_SCALARS], squares[THREADS / 32];
    __shared__ real magnitudes[THREADS / 32];
    if (control->stopped) return;

#ifdef CLUSTERED
    const int rank = rank_in_cluster();
#else
    const int rank = 0;
#endif
    const int thread = threadIdx.x, threads = blockDim.x;

    // Prepare the shared memory.
    for (int l = thread; l <= row_count; l += threads) {
        const double* c = table + (l < row_count ? l : 0) * (SCALE + 1);
        LayerRow& row = rows[l];
        row.n = c[NEURONS], row.stride = c[STRIDE], row.z = c[Z_AT], row.a = c[A_AT], row.outputs = c[OUTPUTS];
        row.weights = c[WEIGHTS], row.biases = c[BIASES], row.matrix = c[MATRIX], row.code = c[CODE];
        row.mask = c[MASK], row.threshold = c[THRESHOLD], row.options = c[OPTIONS_AT], row.scale = c[SCALE];
    }
    for (int i = thread; i <= END; i += threads) areas[i] = layout[i];
    if (thread == 0) state = *control;
    __syncthreads();
    for (int i = thread; i < areas[END]; i += threads) pool[i] = 0;
    for (int l = thread; l <= row_count; l += threads) {
        LayerRow& row = rows[l];
        const int n = row.n, packs = (n + VEC - 1) / VEC, most = (capacity + TILE - 1) / TILE;
        row.fused = row.code == RELU;
        row.neurons = division_by(n), row.packs = division_by(packs);
        row.group = 0;
        while (row.group < 5 && 1 << row.group < n) row.group++;
        if (l == 0 || l == row_count) continue;
        const int n_prev = rows[l - 1].n, packs_prev = (n_prev + VEC - 1) / VEC, terms = n_prev / VEC + 1;
        const bool large = packs * most >= ENOUGH_TILES, large_prev = packs_prev * most >= ENOUGH_TILES;
        const bool large_gradient = packs * terms >= ENOUGH_TILES;
        const int half = (n + 1) / 2, fewer = (capacity + 1) / 2;
        const int apart = large ? most : fewer, apart_prev = large_prev ? most : fewer;
        row.forward = work_of(large, (large ? packs : half) * apart, terms, apart, apart);
        row.backward = work_of(large_prev, packs_prev * apart_prev, packs, packs_prev, apart_prev);
        row.gradient = work_of(large_gradient, (large_gradient ? packs : half) * terms, capacity, terms, 1);
    }
    __syncthreads();
    if (thread == 0) rows[row_count].a = rows[row_count].outputs += capacity * rows[0].stride;
    __syncthreads();
    Trainer trainer{pool, rows, areas, options, seed, 0};
    const int packs = areas[GRADIENT] / VEC, share = (packs + BLOCKS - 1) / BLOCKS;  // those that this block updates
    const int first = rank * share < packs ? rank * share : packs, last = first + share < packs ? first + share : packs;
    real* const outside[MOST_SLOTS] = {slot0, slot1, slot2, slot3};
    const auto slot = [=](int s) { return pool + areas[SLOTS] + s * share * VEC; };  // of this block's parameters
    int* marks = reinterpret_cast<int*>(pool + areas[MARKS]);
    bool bias;
    for (int i = thread; i < packs * VEC; i += threads) {
        const int q = trainer.parameter(i, row_count, bias);
        if (q >= 0) pool[i] = theta[q];
    }
    for (int pack = first + thread; pack < last; pack += threads) {
        int mark = 0;
        for (int v = 0; v < VEC; v++) {
            const int q = trainer.parameter(pack * VEC + v, row_count, bias), i = (pack - first) * VEC + v;
            if (q < 0) continue;
            mark |= (bias ? 1 << VEC : 1) << v;
#pragma unroll
            for (int s = 0; s < UpdatePart::SLOTS; s++) slot(s)[i] = outside[s][q];
        }
        marks[pack - first] = mark;
    }
    const int inputs = rows[0].n, input_size = capacity * rows[0].stride;
    for (int l = 0; l < row_count; l++)
        for (int j = thread; j < (l == 0 ? 2 : 1) * capacity; j += threads)
            pool[rows[l].outputs + j * rows[l].stride + rows[l].n] = 1;

    // The samples of this block, in passes of at most `capacity` samples.
    const int begin = static_cast<long long>(m) * rank / BLOCKS, end = static_cast<long long>(m) * (rank + 1) / BLOCKS;
    const int per_step = end > begin ? (end - begin + capacity - 1) / capacity : 1;
    const long long updates = state.updates;
    const bool packs_X = inputs % VEC == 0 && aligned(X), packs_Y = targets % VEC == 0 && aligned(Y);
    long long* indices = reinterpret_cast<long long*>(pool + areas[INDICES]);
    const int target_size = (capacity * targets + VEC - 1) / VEC * VEC, weight_size = (capacity + VEC - 1) / VEC * VEC;
    const Division across_X = division_by(packs_X ? inputs / VEC : inputs);
    const Division across_Y = division_by(packs_Y ? targets / VEC : targets), single = division_by(1);
    const int inputs_at = areas[INPUTS], targets_at = areas[TARGETS], weights_at = areas[SAMPLE_WEIGHTS];
    const int input_stride = rows[0].stride;
    const auto next = [=](Pass pass) {
        return pass.part + 1 < per_step ? Pass{pass.step, pass.part + 1, !pass.half} : Pass{pass.step + 1, 0, !pass.half};
    };
    const auto samples_of = [=](Pass pass) {
        const int position = begin + pass.part * capacity, rest = end - position;
        return Samples{pass.step >= steps ? 0 : rest < capacity ? rest : capacity, position};
    };
    const auto fetch_indices = [=](Pass pass) {
        const Samples samples = samples_of(pass);
        const long long* from = order + (updates + pass.step) * batch_size + samples.position;
        for (int j = thread; j < samples.count; j += threads)
            copy_async<8>(indices + pass.half * capacity + j, from + j);
    };
    const auto fetch = [=](Pass pass) {
        const int count = samples_of(pass).count, half = pass.half;
        const long long* from = indices + half * capacity;
        fetch_rows(pool + inputs_at + half * input_size, input_stride, X, from, across_X, inputs, count, packs_X);
        fetch_rows(pool + targets_at + half * target_size, targets, Y, from, across_Y, targets, count, packs_Y);
        if (w) fetch_rows<1>(pool + weights_at + half * weight_size, 1, w, from, single, 1, count);
    };
    const real scale = real(1.0 / m);
    const double safe_norm = 1e-4 * sqrt(safe_step);
    Pass pass{0, 0, 0};
    fetch_indices(pass);
    await_copies();
    __syncthreads();
    fetch(pass);
    fetch_indices(next(pass));
    await_copies();
    __syncthreads();

    for (int step = 0; step < steps; step++) {
        double square = 0, loss = 0;
        real largest = 0;
        trainer.step = state.step;
        if (thread < columns) copy_async<8>(current + thread, scalars + columns * (updates + step) + thread);
        for (int part = 0; part < per_step; part++, pass = next(pass)) {
            const int half = pass.half;
            const Samples samples = samples_of(pass);
            fetch(next(pass));
            fetch_indices(next(next(pass)));
            const LayerRow& input = rows[half * row_count];
            if (input.mask) trainer.activate_outputs(input, samples);
            for (int l = 1; l < row_count; l++) trainer.forward(l == 1 ? input : rows[l - 1], rows[l], samples);
            real *D = pool + areas[DERIVATIVES], *E = D + (areas[INPUTS] - areas[DERIVATIVES]) / 2;
            trainer.loss(
                rows[row_count - 1], samples, options + loss_options, pool + targets_at + half * target_size,
                class_indices, w ? pool + weights_at + half * weight_size : nullptr, D
            );
            await_copies();
            __syncthreads();
            trainer.differentiate(rows[row_count - 1], samples, D);
            if (thread < 32)
                for (int j = thread; j < samples.count; j += 32) loss += pool[areas[SAMPLE_LOSSES] + j];
            for (int l = row_count - 1; l > 0; l--) {
                const LayerRow& before = l == 1 ? input : rows[l - 1];
                trainer.gradient(before, rows[l], samples, D, scale, part > 0);
                if (l > 1) trainer.backward(before, rows[l], samples, D, E);
                real* swapped = D;
                D = E, E = swapped;
                if (l > 1 || part + 1 < per_step) __syncthreads();
                if (l > 1) trainer.differentiate(before, samples, D);
            }
        }
        sync_all();

        // The gradient of this block's share of the parameters, its norm, and the decision.
        real* g = pool + areas[GRADIENT];
        for (int pack = first + thread; pack < last; pack += threads) {
            real x[VEC];
#ifdef CLUSTERED
            real parts[BLOCKS][VEC];
#pragma unroll
            for (int r = 0; r < BLOCKS; r++) load_peer(g + pack * VEC, r, parts[r]);
#pragma unroll
            for (int v = 0; v < VEC; v++) {
                x[v] = 0;
#pragma unroll
                for (int r = 0; r < BLOCKS; r++) x[v] += parts[r][v];
            }
#else
            load(g + pack * VEC, x);
#endif
            if (l1 != 0 || l2 != 0) {
                real decaying[VEC];
                load(pool + pack * VEC, decaying);
                const int mark = marks[pack - first];
#pragma unroll
                for (int v = 0; v < VEC; v++)
                    if (mark >> v & 1) x[v] = add_penalties(x[v], decaying[v], l1, l2);
            }
            store(g + pack * VEC, x);
#pragma unroll
            for (int v = 0; v < VEC; v++) {
                square += static_cast<double>(x[v]) * x[v];
                largest = larger(fabs(x[v]), largest);
            }
        }
        const int warp = thread / 32, lane = thread & 31;
        square = warp_sum(square);
        largest = warp_max(largest);
        if (lane == 0) squares[warp] = square, magnitudes[warp] = largest;
        if (warp == 0) loss = warp_sum(loss);
        __syncthreads();
        if (warp == 0) {
            square = warp_sum(lane < threads / 32 ? squares[lane] : 0, threads / 32);
            largest = warp_max(lane < threads / 32 ? magnitudes[lane] : real(0), threads / 32);
        }
#ifdef CLUSTERED
        double* partial = reinterpret_cast<double*>(pool + areas[PARTIAL]);
        if (thread == 0) partial[0] = square, partial[1] = loss, partial[2] = largest;
        sync_cluster();
        if (warp == 0) {
            square = warp_sum(lane < BLOCKS ? load_peer(partial, lane) : 0, BLOCKS);
            loss = warp_sum(lane < BLOCKS ? load_peer(partial + 1, lane) : 0, BLOCKS);
            largest = warp_max(lane < BLOCKS ? real(load_peer(partial + 2, lane)) : real(0), BLOCKS);
        }
#endif
        if (thread == 0) decide(&state, square, largest, loss, m, current[0], clip_norm, safe_step, safe_norm);
        __syncthreads();
        if (state.stopped) break;
        real* const slots[MOST_SLOTS] = {slot(0), slot(1), slot(2), slot(3)};
        update_share(trainer, marks, first, last, state.clip, UpdatePart(options + update_options, current, slots));
        sync_all();
    }

    sync_all();  // no block ends while another one reads its memory
    for (int i = thread; i < (last - first) * VEC; i += threads) {
        const int q = trainer.parameter(first * VEC + i, row_count, bias);
        if (q < 0) continue;
        theta[q] = pool[first * VEC + i];
#pragma unroll
        for (int s = 0; s < UpdatePart::SLOTS; s++) outside[s][q] = slot(s)[i];
    }
    if (rank == 0 && thread == 0) *control = state;
}
