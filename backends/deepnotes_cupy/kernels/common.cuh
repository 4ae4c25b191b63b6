// Shared by all kernels: the number type, Control, 16-byte accesses, and the division of work among threads.
//
// Arrays are stored by sample: the value of neuron i for sample j is at [j * n + i]. Every kernel gives the correct
// result for any number of blocks of BLOCK threads, unless its comment says "one block". Its speed depends on the grid,
// see geometry.py.

typedef REAL real;

struct Control {                  // everything that changes from step to step: a captured graph contains no such number
    double loss_sum, weight_sum;  // the sums of the epoch so far
    double cost, norm;            // of the last batch computed
    double clip;                  // the factor by which g is multiplied; 1 without clipping
    long long step;               // the number of all updates so far: the counter of dropout masks
    long long updates;            // the number of updates in this chunk: the index of the next batch and of its scalars
    long long epoch;              // the number of epochs that have ended in this chunk
    int stopped;                  // 0: no; 1: cost or gradient is not finite; 2: the host has to make this update
};

struct Source {  // the data of a training: a captured graph contains no address of them, so it outlives them
    const real *X, *Y, *w;    // by sample; Y may hold class indices; Y and w may be null
    const long long* order;   // the indices of the samples of a chunk, batch after batch
    long long batch_size;
};

constexpr int BLOCK = 256;                // threads in a block
constexpr int WIDE = 1024;                // threads in the block of a one-block kernel
constexpr int VEC = 16 / sizeof(real);    // numbers in one 16-byte access
constexpr unsigned ALL_LANES = 0xffffffffu;

template <int N>
struct Count {
    static constexpr int value = N;
};

// --- 16-byte accesses ------------------------------------------------------------------------------------------------

__device__ inline bool aligned(const void* p) { return (reinterpret_cast<unsigned long long>(p) & 15) == 0; }

__device__ inline void load(const float* p, float (&v)[4]) {
    const float4 q = *reinterpret_cast<const float4*>(p);
    v[0] = q.x, v[1] = q.y, v[2] = q.z, v[3] = q.w;
}

__device__ inline void load(const double* p, double (&v)[2]) {
    const double2 q = *reinterpret_cast<const double2*>(p);
    v[0] = q.x, v[1] = q.y;
}

__device__ inline void load(const real* p, real (&v)[1]) { v[0] = *p; }

__device__ inline void store(float* p, const float (&v)[4]) {
    *reinterpret_cast<float4*>(p) = make_float4(v[0], v[1], v[2], v[3]);
}

__device__ inline void store(double* p, const double (&v)[2]) {
    *reinterpret_cast<double2*>(p) = make_double2(v[0], v[1]);
}

__device__ inline void store(real* p, const real (&v)[1]) { *p = v[0]; }

// --- numbers ---------------------------------------------------------------------------------------------------------

__device__ inline real infinity() { return __uint_as_float(0x7f800000u); }

// The larger of two numbers, or NaN if either is NaN, unlike max(x, y) and x > y ? x : y.
template <class T>
__device__ inline T larger(T x, T y) {
    return x > y || x != x ? x : y;
}

// The smaller of two numbers, or NaN if either is NaN.
template <class T>
__device__ inline T smaller(T x, T y) {
    return x < y || x != x ? x : y;
}

// 1, -1, or x itself if it is 0 or NaN.
template <class T>
__device__ inline T sign(T x) {
    return x > 0 ? T(1) : x < 0 ? T(-1) : x;
}

// --- division of work ------------------------------------------------------------------------------------------------

// Process elements 0 .. p - 1: in packs of VEC elements if `packs`, and the remaining elements one by one.
// process(Count<V>(), i) must process the V elements from i on; it is a struct, as NVRTC has no generic lambdas.
template <class Process>
__device__ inline void flat(long long p, bool packs, Process& process) {
    const long long first = blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x;
    const long long step = gridDim.x * static_cast<long long>(blockDim.x);
    const long long whole = packs ? p / VEC : 0;
    for (long long k = first; k < whole; k += step) process(Count<VEC>(), k * VEC);
    for (long long i = whole * VEC + first; i < p; i += step) process(Count<1>(), i);
}

// The smallest power of two that is at least `count`, or `limit`, a power of two, if that is smaller.
__device__ inline int power_of_two(int count, int limit) {
    int size = 1;
    while (size < count && size < limit) size *= 2;
    return size;
}

// The threads of a block, arranged in rows of `width` threads. A row of threads accesses up to 128 bytes of memory, V
// neighbouring numbers for each thread. Each thread stays at its columns (neurons), so that it reads their biases only
// once, and loops over rows (samples). This needs no integer division, and accesses whole cache lines.
template <int V>
struct Tile {
    int columns, width, height, x, y;
    __device__ explicit Tile(int n)
        : columns(n / V),
          width(power_of_two(columns, 128 / (V * sizeof(real)))),
          height(blockDim.x / width),
          x(threadIdx.x & (width - 1)),
          y(threadIdx.x / width) {}
};

// A group of `lanes` threads of a warp, which processes one sample at a time. All lanes of a warp must execute the loop
//     for (long long first = group.first; first < m; first += group.step)
// together, so that they can shuffle. The group's sample is first + group.index; if that is m or more, it has none.
struct Group {
    int lanes, lane, index;
    long long first, step;
    Group() = default;
    // For n outputs, of which a lane holds `held`: if that is more than 1, there are more than 32 outputs.
    __device__ explicit Group(int n, int held = 1) : lanes(held > 1 ? 32 : power_of_two(n, 32)) {
        const int lane_in_warp = threadIdx.x & 31, groups = 32 / lanes;
        const long long warps = blockDim.x / 32;
        lane = lane_in_warp & (lanes - 1);
        index = lane_in_warp / lanes;
        first = (blockIdx.x * warps + threadIdx.x / 32) * groups;
        step = gridDim.x * warps * groups;
    }
    template <class T>
    __device__ T sum(T x) const {
        for (int offset = lanes / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(ALL_LANES, x, offset);
        return x;
    }
    template <class T>
    __device__ T max(T x) const {
        for (int offset = lanes / 2; offset > 0; offset /= 2) x = larger(x, __shfl_xor_sync(ALL_LANES, x, offset));
        return x;
    }
};

// The group of lanes for a sample, see Group, within one block; `log_lanes` is the binary logarithm of their number.
struct BlockGroup : Group {
    __device__ explicit BlockGroup(int log_lanes) {
        lanes = 1 << log_lanes;
        lane = threadIdx.x & (lanes - 1);
        index = (threadIdx.x & 31) >> log_lanes;
        first = (threadIdx.x & ~31) >> log_lanes;
        step = blockDim.x >> log_lanes;
    }
};

// Two sums, and a maximum of numbers that are not negative, over the threads of a block.
struct Totals {
    double first = 0, second = 0, largest = 0;

    __device__ void combine_warp() {
        for (int offset = 16; offset > 0; offset /= 2) {
            first += __shfl_xor_sync(ALL_LANES, first, offset);
            second += __shfl_xor_sync(ALL_LANES, second, offset);
            largest = larger(largest, __shfl_xor_sync(ALL_LANES, largest, offset));
        }
    }

    // Combine the threads of each warp, then the warps. `scratch` is shared memory for 3 numbers per warp, which must
    // not have been used before. All threads of the block must call this; thread 0 gets the results.
    __device__ void combine_block(double* scratch) {
        const int warp = threadIdx.x / 32, lane = threadIdx.x & 31, warps = blockDim.x / 32;
        combine_warp();
        if (lane == 0) scratch[3 * warp] = first, scratch[3 * warp + 1] = second, scratch[3 * warp + 2] = largest;
        __syncthreads();
        if (warp != 0) return;
        first = lane < warps ? scratch[3 * lane] : 0;
        second = lane < warps ? scratch[3 * lane + 1] : 0;
        largest = lane < warps ? scratch[3 * lane + 2] : 0;
        combine_warp();
    }
};
