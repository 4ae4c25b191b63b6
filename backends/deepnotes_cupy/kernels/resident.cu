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
// resident.py defines THREADS, the largest number of threads in a block, and CLUSTERED if there is a cluster.

#include "loss_rows.cuh"
#include "philox.cuh"
#include "shared.cuh"
#include "steps.cuh"

#ifdef CLUSTERED
constexpr int BLOCKS = 8;
#else
constexpr int BLOCKS = 1;
#undef IN_CLUSTERS_OF
#define IN_CLUSTERS_OF(blocks)
#endif
constexpr int MOST_ROWS = 17;          // of the table of layers
constexpr int TILE = 4;                // samples in a tile of a product
constexpr int ENOUGH_TILES = 64;       // if there are fewer tiles, smaller ones keep more threads busy

// The columns of the table of layers: the first row is for the inputs, the others for dense layers. OUTPUTS and SAVED are
// where the outputs, and the numbers that the derivative is computed from, are in shared memory; they may be the same.
// MASK is the number of the dropout layer that follows; 0 if none does.
enum Column { NEURONS, STRIDE, OUTPUTS, SAVED, WEIGHTS, BIASES, MATRIX, CODE, OPTION, MASK, THRESHOLD, SCALE };

// Where the areas of shared memory begin, and where the last one ends. The first, θ, begins at 0. INDICES, TARGETS,
// SAMPLE_WEIGHTS and INPUTS are two areas each, of the current and of the next samples; DERIVATIVES are two as well.
// PLACES says where the parameters that this block updates are in θ.
enum Area { GRADIENT, SLOTS, PLACES, PARTIAL, INDICES, TARGETS, SAMPLE_WEIGHTS, SAMPLE_LOSSES, DERIVATIVES, INPUTS, END };

enum Rule { SGD, MOMENTUM, RMSPROP, ADAM };

enum LossKernel { LOSS, SOFTMAX_CROSS_ENTROPY, SIGMOID_CROSS_ENTROPY, EXP_HALF_POISSON_DEVIANCE };

struct LayerRow {
    int n, stride, outputs, saved, weights, biases, matrix, code, mask;
    unsigned long long threshold;
    real option, scale;
};

// The division of a product's tiles among the threads: `lanes` neighbouring threads share a tile, each of which computes
// the terms lane, lane + lanes, ... of its sums.
struct Split {
    int lanes, lane, index, first, step;

    __device__ Split(int tiles, int terms, int threads) : lanes(1) {
        while (lanes < 32 && 2 * lanes * tiles <= threads && 4 * lanes <= terms) lanes *= 2;
        lane = threadIdx.x & (lanes - 1);
        index = (threadIdx.x & 31) / lanes;
        first = threadIdx.x / 32 * (32 / lanes);
        step = blockDim.x / lanes;
    }

    template <int N>
    __device__ void add_up(real (&sums)[N]) const {
        for (int offset = lanes / 2; offset > 0; offset /= 2)
#pragma unroll
            for (int i = 0; i < N; i++) sums[i] += __shfl_xor_sync(ALL_LANES, sums[i], offset);
    }
};

// The group of lanes for a sample, see Group, within one block.
struct BlockGroup : Group {
    __device__ explicit BlockGroup(int n) : Group(n) {
        const int groups = 32 / lanes;
        first = threadIdx.x / 32 * groups;
        step = blockDim.x / 32 * groups;
    }
};

// The samples of a block that are in shared memory: their number, and the position of the first in the batch.
struct Samples {
    int count;
    long long position;
};

struct Trainer {
    real* pool;
    const LayerRow* rows;
    const int* areas;
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

    // Z (N2), stored as outputs, for tiles of I neurons and J samples.
    template <int I, int J>
    __device__ void forward(const LayerRow& before, const LayerRow& row, const Samples& samples) const {
        const int across = (samples.count + J - 1) / J, tiles = (row.n + I - 1) / I * across, terms = before.n / VEC + 1;
        const Split split(tiles, terms, I * J > TILE ? 2 * ENOUGH_TILES : blockDim.x);
        for (int first = split.first; first < tiles; first += split.step) {
            const int tile = first + split.index < tiles ? first + split.index : tiles - 1;
            const int i = tile / across * I, j = tile % across;
            const real* w = pool + row.matrix + i * before.stride;
            const real* a[J];
#pragma unroll
            for (int s = 0; s < J; s++) {
                const int sample = j + s * across;
                a[s] = pool + before.outputs + (sample < samples.count ? sample : j) * before.stride;
            }
            real sums[J * I] = {};
            for (int k = split.lane; k < terms; k += split.lanes) {
                real x[I][VEC], y[J][VEC];
#pragma unroll
                for (int u = 0; u < I; u++) load(w + u * before.stride + k * VEC, x[u]);
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
            if (split.lane != 0 || first + split.index >= tiles) continue;
#pragma unroll
            for (int s = 0; s < J; s++) {
                const int sample = j + s * across;
                if (sample >= samples.count) continue;
                real z[I];
#pragma unroll
                for (int u = 0; u < I; u++) z[u] = sums[s * I + u];
                store_some(pool + row.outputs + sample * row.stride, i, row.n, z);
            }
        }
    }

    // From dZ of a layer to dA of the one before (N15), for tiles of VEC neurons of that one, and J samples.
    template <int J>
    __device__ void backward(
        const LayerRow& before, const LayerRow& row, const Samples& samples, const real* D, real* E
    ) const {
        const int across = (before.n + VEC - 1) / VEC, tiles = (samples.count + J - 1) / J * across;
        const int terms = (row.n + VEC - 1) / VEC, apart = (samples.count + J - 1) / J;
        const Split split(tiles, terms, J > 1 ? 2 * ENOUGH_TILES : blockDim.x);
        for (int first = split.first; first < tiles; first += split.step) {
            const int tile = first + split.index < tiles ? first + split.index : tiles - 1;
            const int k = tile % across * VEC, j = tile / across;
            const real* w = pool + row.matrix + k;
            real sums[J * VEC] = {};
            for (int i = split.lane; i < terms; i += split.lanes) {
                real x[VEC][VEC], d[J][VEC];
#pragma unroll
                for (int u = 0; u < VEC; u++) load(w + (i * VEC + u) * before.stride, x[u]);
#pragma unroll
                for (int s = 0; s < J; s++) {
                    const int sample = j + s * apart;
                    load(D + (sample < samples.count ? sample : j) * row.stride + i * VEC, d[s]);
                }
#pragma unroll
                for (int u = 0; u < VEC; u++)
#pragma unroll
                    for (int s = 0; s < J; s++)
#pragma unroll
                        for (int v = 0; v < VEC; v++) sums[s * VEC + v] += d[s][u] * x[u][v];
            }
            split.add_up(sums);
            if (split.lane != 0 || first + split.index >= tiles) continue;
#pragma unroll
            for (int s = 0; s < J; s++) {
                const int sample = j + s * apart;
                if (sample >= samples.count) continue;
                real e[VEC];
#pragma unroll
                for (int v = 0; v < VEC; v++) e[v] = sums[s * VEC + v];
#pragma unroll
                for (int v = 0; v < VEC; v++)
                    if (k + v >= before.n) e[v] = 0;
                store(E + sample * before.stride + k, e);
            }
        }
    }

    // The gradient of a layer's weights and biases (N13, N14), for tiles of I neurons and VEC inputs; it is added to that
    // of earlier samples if `adds`.
    template <int I>
    __device__ void gradient(
        const LayerRow& before, const LayerRow& row, const Samples& samples, const real* D, real scale, bool adds
    ) const {
        const int across = before.n / VEC + 1, tiles = (row.n + I - 1) / I * across;
        const Split split(tiles, samples.count, I > 1 ? 2 * ENOUGH_TILES : blockDim.x);
        for (int first = split.first; first < tiles; first += split.step) {
            const int tile = first + split.index < tiles ? first + split.index : tiles - 1;
            const int k = tile % across * VEC, i = tile / across * I;
            const real *a = pool + before.outputs + k, *d = D + i;
            real sums[I * VEC] = {};
#pragma unroll 4
            for (int j = split.lane; j < samples.count; j += split.lanes) {
                real x[VEC], y[I];
                load(a + j * before.stride, x);
                load(d + j * row.stride, y);
#pragma unroll
                for (int u = 0; u < I; u++)
#pragma unroll
                    for (int v = 0; v < VEC; v++) sums[u * VEC + v] += y[u] * x[v];
            }
            split.add_up(sums);
            if (split.lane != 0 || first + split.index >= tiles) continue;
#pragma unroll
            for (int u = 0; u < I; u++) {
                if (i + u >= row.n) continue;
                real* g = pool + areas[GRADIENT] + row.matrix + (i + u) * before.stride + k;
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
        const int across = (row.n + VEC - 1) / VEC;
        for (int item = threadIdx.x; item < across * samples.count; item += blockDim.x) {
            const int j = item / across, i = (item - j * across) * VEC;
            real a[VEC];
            load(A + j * row.stride + i, a);
            mask(row, (samples.position + j) * row.n + i, a);
            store_some(A + j * row.stride, i, row.n, a);
        }
        __syncthreads();
    }

    // N3 and dropout, in place; a barrier follows if there is anything to do.
    __device__ void activate_outputs(const LayerRow& row, const Samples& samples) const {
        real *Z = pool + row.outputs, *saved = pool + row.saved;
        if (row.code == SOFTMAX) softmax_rows(BlockGroup(row.n), Z, nullptr, Z, row.n, samples.count, row.stride);
        const bool of_a = slope_of_a(row.code), saves = saved != Z;
        if (row.code != IDENTITY && row.code != SOFTMAX)
            for (int item = threadIdx.x; item < row.n * samples.count; item += blockDim.x) {
                const int j = item / row.n, at = j * row.stride + item - j * row.n;
                real z[1] = {Z[at]};
                if (saves && !of_a) saved[at] = z[0];
                activate(row.code, row.option, z);
                if (saves && of_a) saved[at] = z[0];
                Z[at] = z[0];
            }
        if (row.code != IDENTITY) __syncthreads();
        if (row.mask) drop(row, samples, Z);
    }

    // From dA, including dropout, to dZ of a layer (N12), in place; a barrier follows if there is anything to do.
    __device__ void differentiate(const LayerRow& row, const Samples& samples, real* D) const {
        if (row.mask) drop(row, samples, D);
        if (row.code == IDENTITY) return;
        if (row.code == SOFTMAX) {
            const real* A = pool + row.outputs;
            softmax_backward_rows(BlockGroup(row.n), D, nullptr, A, row.n, samples.count, row.stride);
        } else {
            for (int item = threadIdx.x; item < row.n * samples.count; item += blockDim.x) {
                const int j = item / row.n, at = j * row.stride + item - j * row.n;
                real x[1] = {pool[row.saved + at]};
                slope(row.code, row.option, x);
                D[at] *= x[0];
            }
        }
        __syncthreads();
    }

    __device__ void forward(const LayerRow& before, const LayerRow& row, const Samples& samples) const {
        const int wide = (row.n + VEC - 1) / VEC;
        if (wide * ((samples.count + TILE - 1) / TILE) >= ENOUGH_TILES)
            forward<VEC, TILE>(before, row, samples);
        else if (wide * samples.count >= ENOUGH_TILES)
            forward<VEC, 1>(before, row, samples);
        else
            forward<1, 1>(before, row, samples);
        __syncthreads();
        activate_outputs(row, samples);
    }

    __device__ void backward(
        const LayerRow& before, const LayerRow& row, const Samples& samples, const real* D, real* E
    ) const {
        if ((before.n + VEC - 1) / VEC * ((samples.count + TILE - 1) / TILE) >= ENOUGH_TILES)
            backward<TILE>(before, row, samples, D, E);
        else
            backward<1>(before, row, samples, D, E);
    }

    __device__ void gradient(
        const LayerRow& before, const LayerRow& row, const Samples& samples, const real* D, real scale, bool adds
    ) const {
        if ((row.n + VEC - 1) / VEC * (before.n / VEC + 1) >= ENOUGH_TILES)
            gradient<VEC>(before, row, samples, D, scale, adds);
        else
            gradient<1>(before, row, samples, D, scale, adds);
    }

    // The losses of the samples, and their derivatives: dZ of the last layer if the loss is computed from Z, otherwise dA.
    __device__ void loss(
        const LayerRow& row, const Samples& samples, int kernel, int code, real option, const real* Y, int class_indices,
        const real* w, real* D
    ) const {
        const BlockGroup group(row.n);
        const int n = row.n, m = samples.count, stride = row.stride;
        real *Z = pool + row.outputs, *L = pool + areas[SAMPLE_LOSSES];
        switch (kernel) {
            case SOFTMAX_CROSS_ENTROPY:
                softmax_cross_entropy_rows(group, Z, nullptr, Y, class_indices, w, nullptr, D, Factor{}, L, n, m, stride);
                break;
            case SIGMOID_CROSS_ENTROPY:
                sigmoid_cross_entropy_rows(group, Z, nullptr, Y, class_indices, w, nullptr, D, Factor{}, L, n, m, stride);
                break;
            case EXP_HALF_POISSON_DEVIANCE:
                exp_half_poisson_deviance_rows(group, Z, nullptr, Y, class_indices, w, nullptr, D, Factor{}, L, n, m, stride);
                break;
            default:
                loss_rows(group, Z, Y, class_indices, w, D, L, n, m, code, option, stride);
        }
        const int padded = (n + VEC - 1) / VEC * VEC;
        for (long long j = group.first + group.index; j < m; j += group.step)
            for (int i = n + group.lane; i < padded; i += group.lanes) D[j * stride + i] = 0;
    }

    // The place of parameter q of the flat buffer in the area of θ.
    __device__ int place(int q) const {
        int l = 1;
        while (!(q >= rows[l].weights && q < rows[l].weights + rows[l].n * rows[l - 1].n) &&
               !(q >= rows[l].biases && q < rows[l].biases + rows[l].n))
            l++;
        const int n = rows[l - 1].n, at = q - rows[l].weights;
        if (at >= 0 && at < rows[l].n * n) {
            const int i = at / n;
            return rows[l].matrix + i * rows[l - 1].stride + at - i * n;
        }
        return rows[l].matrix + (q - rows[l].biases) * rows[l - 1].stride + n;
    }
};

// Copy `count` numbers or indices asynchronously; `packs` says whether both addresses are aligned to 16 bytes.
template <class T>
__device__ inline void fetch_rows(
    T* to, int to_stride, const T* from, const long long* indices, int n, int count, bool packs
) {
    const int numbers = packs ? 16 / sizeof(T) : 1, across = n / numbers;
    for (int item = threadIdx.x; item < across * count; item += blockDim.x) {
        const int j = item / across, i = (item - j * across) * numbers;
        if (packs)
            copy_async<16>(to + j * to_stride + i, from + indices[j] * n + i);
        else
            copy_async<sizeof(T)>(to + j * to_stride + i, from + indices[j] * n + i);
    }
}

// The update of parameters first to last - 1 by one step of an optimizer, whose slots begin at `first`.
template <class Step>
__device__ inline void update_share(
    const Trainer& trainer, const int* places, int first, int last, int decaying, real clip, real share,
    const Step& step
) {
    for (int q = first + threadIdx.x; q < last; q += blockDim.x) {
        const int at = places[q - first];
        real w[1] = {trainer.pool[at]}, x[1] = {trainer.pool[trainer.areas[GRADIENT] + at] * clip};
        if (share != 0 && q < decaying) w[0] -= share * w[0];
        step(q - first, w, x);
#ifdef CLUSTERED
#pragma unroll
        for (int rank = 0; rank < BLOCKS; rank++) store_peer(trainer.pool + at, rank, w[0]);
#else
        trainer.pool[at] = w[0];
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
extern "C" __global__ void IN_CLUSTERS_OF(8) __launch_bounds__(THREADS) train_resident(
    const real* X, const real* Y, const real* w, const long long* order, Control* control, const double* scalars,
    real* theta, real* slot0, real* slot1, const double* table, const int* layout, int row_count, int targets,
    int slots, int p, int decaying, int m, int batch_size, int steps, int capacity, int class_indices, int loss_kernel,
    int loss_code, int rule, unsigned long long seed, real loss_option, real l2, real option1, real option2,
    double clip_norm, double safe_step
) {
    DYNAMIC_SHARED(pool);
    __shared__ LayerRow rows[MOST_ROWS + 1];  // the last one is for the other half of the inputs
    __shared__ int areas[END + 1];
    __shared__ Control state;
    __shared__ double current[4], scratch[3 * THREADS / 32];
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
        row.n = c[NEURONS], row.stride = c[STRIDE], row.outputs = c[OUTPUTS], row.saved = c[SAVED];
        row.weights = c[WEIGHTS], row.biases = c[BIASES], row.matrix = c[MATRIX], row.code = c[CODE];
        row.mask = c[MASK], row.threshold = c[THRESHOLD], row.option = c[OPTION], row.scale = c[SCALE];
    }
    for (int i = thread; i <= END; i += threads) areas[i] = layout[i];
    if (thread == 0) state = *control;
    __syncthreads();
    for (int i = thread; i < areas[END]; i += threads) pool[i] = 0;
    if (thread == 0) rows[row_count].saved = rows[row_count].outputs += capacity * rows[0].stride;
    __syncthreads();
    Trainer trainer{pool, rows, areas, seed, 0};
    const int share = (p + BLOCKS - 1) / BLOCKS;
    const int first = rank * share < p ? rank * share : p, last = first + share < p ? first + share : p;
    real *slot_a = pool + areas[SLOTS], *slot_b = slot_a + share;
    int* places = reinterpret_cast<int*>(pool + areas[PLACES]);
    for (int q = thread; q < p; q += threads) pool[trainer.place(q)] = theta[q];
    for (int q = first + thread; q < last; q += threads) {
        places[q - first] = trainer.place(q);
        if (slots > 0) slot_a[q - first] = slot0[q];
        if (slots > 1) slot_b[q - first] = slot1[q];
    }
    const int inputs = rows[0].n, input_size = capacity * rows[0].stride;
    for (int l = 0; l < row_count; l++)
        for (int j = thread; j < (l == 0 ? 2 : 1) * capacity; j += threads)
            pool[rows[l].outputs + j * rows[l].stride + rows[l].n] = 1;

    // The samples of this block, in passes of at most `capacity` samples.
    const int begin = static_cast<long long>(m) * rank / BLOCKS, end = static_cast<long long>(m) * (rank + 1) / BLOCKS;
    const int per_step = end > begin ? (end - begin + capacity - 1) / capacity : 1, passes = steps * per_step;
    const long long updates = state.updates;
    const bool packs_X = inputs % VEC == 0 && aligned(X), packs_Y = targets % VEC == 0 && aligned(Y);
    long long* indices = reinterpret_cast<long long*>(pool + areas[INDICES]);
    const int target_size = (capacity * targets + VEC - 1) / VEC * VEC, weight_size = (capacity + VEC - 1) / VEC * VEC;
    const auto samples_of = [=](int pass) {
        const int position = begin + pass % per_step * capacity, rest = end - position;
        return Samples{pass >= passes ? 0 : rest < capacity ? rest : capacity, position};
    };
    const auto fetch_indices = [=](int pass) {
        const Samples samples = samples_of(pass);
        const long long* from = order + (updates + pass / per_step) * batch_size + samples.position;
        for (int j = thread; j < samples.count; j += threads)
            copy_async<8>(indices + (pass & 1) * capacity + j, from + j);
    };
    const auto fetch = [=](int pass) {
        const int count = samples_of(pass).count, half = pass & 1;
        const long long* from = indices + half * capacity;
        fetch_rows(pool + areas[INPUTS] + half * input_size, rows[0].stride, X, from, inputs, count, packs_X);
        fetch_rows(pool + areas[TARGETS] + half * target_size, targets, Y, from, targets, count, packs_Y);
        if (w) fetch_rows(pool + areas[SAMPLE_WEIGHTS] + half * weight_size, 1, w, from, 1, count, false);
    };
    fetch_indices(0);
    await_copies();
    __syncthreads();
    fetch(0);
    fetch_indices(1);
    await_copies();
    __syncthreads();

    for (int step = 0; step < steps; step++) {
        Totals totals;
        trainer.step = state.step;
        if (thread < 4) copy_async<8>(current + thread, scalars + 4 * (updates + step) + thread);
        for (int part = 0; part < per_step; part++) {
            const int pass = step * per_step + part, half = pass & 1;
            const Samples samples = samples_of(pass);
            fetch(pass + 1);
            fetch_indices(pass + 2);
            const LayerRow& input = rows[half * row_count];
            if (input.mask) trainer.activate_outputs(input, samples);
            for (int l = 1; l < row_count; l++) trainer.forward(l == 1 ? input : rows[l - 1], rows[l], samples);
            real *D = pool + areas[DERIVATIVES], *E = D + (areas[INPUTS] - areas[DERIVATIVES]) / 2;
            trainer.loss(
                rows[row_count - 1], samples, loss_kernel, loss_code, loss_option,
                pool + areas[TARGETS] + half * target_size, class_indices,
                w ? pool + areas[SAMPLE_WEIGHTS] + half * weight_size : nullptr, D
            );
            await_copies();
            __syncthreads();
            if (loss_kernel == LOSS) trainer.differentiate(rows[row_count - 1], samples, D);
            for (int j = thread; j < samples.count; j += threads) totals.second += pool[areas[SAMPLE_LOSSES] + j];
            for (int l = row_count - 1; l > 0; l--) {
                const LayerRow& before = l == 1 ? input : rows[l - 1];
                trainer.gradient(before, rows[l], samples, D, real(1.0 / m), part > 0);
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
        for (int q = first + thread; q < last; q += threads) {
            const int at = places[q - first];
            real x = g[at];
#ifdef CLUSTERED
            real parts[BLOCKS];
#pragma unroll
            for (int r = 0; r < BLOCKS; r++) parts[r] = load_peer(g + at, r);
            x = 0;
#pragma unroll
            for (int r = 0; r < BLOCKS; r++) x += parts[r];
#endif
            if (l2 != 0 && q < decaying) x += l2 * pool[at];
            g[at] = x;
            totals.first += static_cast<double>(x) * x;
            totals.largest = larger(static_cast<double>(fabs(x)), totals.largest);
        }
        totals.combine_block(scratch);
#ifdef CLUSTERED
        double* partial = reinterpret_cast<double*>(pool + areas[PARTIAL]);
        if (thread == 0) partial[0] = totals.first, partial[1] = totals.second, partial[2] = totals.largest;
        sync_cluster();
        if (thread < 32) {
            totals = Totals();
            if (thread < BLOCKS) {
                totals.first = load_peer(partial, thread);
                totals.second = load_peer(partial + 1, thread);
                totals.largest = load_peer(partial + 2, thread);
            }
            totals.combine_warp();
        }
#endif
        if (thread == 0)
            decide(&state, totals.first, totals.largest, totals.second, m, current[LEARNING_RATE], clip_norm, safe_step);
        __syncthreads();
        if (state.stopped) break;
        const real clip = state.clip, rate = current[RATE], epsilon = current[EPSILON], decay = current[SHARE];
        switch (rule) {
            case SGD:
                update_share(trainer, places, first, last, decaying, clip, decay, Descent{rate});
                break;
            case MOMENTUM:
                update_share(
                    trainer, places, first, last, decaying, clip, decay, Momentum{slot_a, rate, option1, option2 != 0}
                );
                break;
            case RMSPROP:
                update_share(
                    trainer, places, first, last, decaying, clip, decay, RmsProp{slot_a, rate, epsilon, option1, option2}
                );
                break;
            default:
                update_share(
                    trainer, places, first, last, decaying, clip, decay, Adam{slot_a, slot_b, rate, epsilon, option1, option2}
                );
        }
        sync_all();
    }

    sync_all();  // no block ends while another one reads its memory
    for (int q = first + thread; q < last; q += threads) {
        theta[q] = pool[places[q - first]];
        if (slots > 0) slot0[q] = slot_a[q - first];
        if (slots > 1) slot1[q] = slot_b[q - first];
    }
    if (rank == 0 && thread == 0) *control = state;
}
