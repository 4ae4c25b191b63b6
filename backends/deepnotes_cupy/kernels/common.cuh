// What every kernel stands on: the number type, Control, 16-byte accesses, and how threads share the work.
//
// Arrays are by sample: the value of neuron i of sample j lies at [j * n + i]. Every kernel is right for any grid of
// BLOCK threads a block (unless it says "one block"); how fast it is depends on the grid, see geometry.py.

typedef REAL real;

struct Control {                  // all that changes from step to step, so that a captured graph can be replayed
    double loss_sum, weight_sum;  // sums of the epoch
    double cost, norm;            // of the last batch tried
    double rate, epsilon, share;  // the optimizer's scalars of the update under way
    double clip;                  // what g is multiplied with, 1 where no clipping is
    long long step;               // updates made in all: dropout's counter
    long long made;               // updates made in this chunk: the index into order and scalars
    int stopped;                  // 0, or 1: cost or gradient not finite, 2: the host has to make this update with care
};

constexpr int BLOCK = 256;                // threads of a block
constexpr int WIDE = 1024;                // those of kernels that are one block
constexpr int VEC = 16 / sizeof(real);    // numbers in one 16-byte access
constexpr unsigned EVERY_LANE = 0xffffffffu;

template <int N>
struct Count {
    static constexpr int value = N;
};

// --- 16-byte accesses -------------------------------------------------------------------------------------------------

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

// --- who does what ----------------------------------------------------------------------------------------------------

// Elements 0 .. p - 1, a pack of VEC at a time where `packs`, and one by one what is left.
// each(Count<V>(), i) has to deal with the V elements from i on. (No lambdas: NVRTC takes no generic ones.)
template <class Each>
__device__ inline void flat(long long p, bool packs, Each& each) {
    const long long first = blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x;
    const long long step = gridDim.x * static_cast<long long>(blockDim.x);
    const long long whole = packs ? p / VEC : 0;
    for (long long k = first; k < whole; k += step) each(Count<VEC>(), k * VEC);
    for (long long i = whole * VEC + first; i < p; i += step) each(Count<1>(), i);
}

// The smallest power of two that is at least `count`, but not above `most`, which is one.
__device__ inline int power_of_two(int count, int most) {
    int size = 1;
    while (size < count && size < most) size *= 2;
    return size;
}

// A block as rows of `width` threads, 128 bytes of memory, each thread with V neighbours: it keeps its columns (neurons),
// so that it reads a bias once, and goes through the rows (samples). No division, and every access is of whole lines.
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

// A warp as groups of `lanes` threads, each group with a sample of its own. All lanes of a warp go through the loop
//     for (long long first = group.first; first < m; first += group.step)
// together, so that they may shuffle; the sample is first + group.index, where that is below m.
struct Group {
    int lanes, lane, index;
    long long first, step;
    __device__ explicit Group(int n) : lanes(power_of_two(n, 32)) {
        const int inside = threadIdx.x & 31, each = 32 / lanes;
        const long long warps = blockDim.x / 32;
        lane = inside & (lanes - 1);
        index = inside / lanes;
        first = (blockIdx.x * warps + threadIdx.x / 32) * each;
        step = gridDim.x * warps * each;
    }
    template <class T>
    __device__ T sum(T x) const {
        for (int offset = lanes / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(EVERY_LANE, x, offset);
        return x;
    }
};

// The larger, and NaN where one is: max(x, y) and x > y ? x : y would lose it.
template <class T>
__device__ inline T larger(T x, T y) {
    return x > y || x != x ? x : y;
}

// Two sums and a maximum, at least 0, as a block has them.
struct Totals {
    double first = 0, second = 0, most = 0;

    __device__ void over_warp() {
        for (int offset = 16; offset > 0; offset /= 2) {
            first += __shfl_xor_sync(EVERY_LANE, first, offset);
            second += __shfl_xor_sync(EVERY_LANE, second, offset);
            most = larger(most, __shfl_xor_sync(EVERY_LANE, most, offset));
        }
    }

    // Over the warps, then over what they have. `room` is shared memory for 3 numbers a warp, used once. Every thread of
    // the block has to come here; thread 0 gets the results.
    __device__ void over_block(double* room) {
        const int warp = threadIdx.x / 32, lane = threadIdx.x & 31, warps = blockDim.x / 32;
        over_warp();
        if (lane == 0) room[3 * warp] = first, room[3 * warp + 1] = second, room[3 * warp + 2] = most;
        __syncthreads();
        if (warp != 0) return;
        first = lane < warps ? room[3 * lane] : 0;
        second = lane < warps ? room[3 * lane + 1] : 0;
        most = lane < warps ? room[3 * lane + 2] : 0;
        over_warp();
    }
};
