// Shared by all kernels: the number type, Control, 16-byte accesses, and the division of work among threads.
//
// Arrays are by sample: the value of neuron i of sample j is at [j * n + i]. Every kernel gives the correct result for
// any number of blocks of BLOCK threads, unless it says "one block"; its speed depends on the grid, see geometry.py.

typedef REAL real;

struct Control {                  // everything that changes from step to step, so that a captured graph can be replayed
    double loss_sum, weight_sum;  // the sums of the epoch so far
    double cost, norm;            // of the last batch tried
    double rate, epsilon, share;  // the optimizer's scalars of the current update
    double clip;                  // the factor of g; 1 without clipping
    long long step;               // all updates made so far: the counter of dropout masks
    long long made;               // updates made in this chunk: the index into order and scalars
    int stopped;                  // 1: cost or gradient is not finite; 2: the update may overflow, the host makes it; else 0
};

constexpr int BLOCK = 256;                // threads in a block
constexpr int WIDE = 1024;                // threads in a block, for kernels of one block
constexpr int VEC = 16 / sizeof(real);    // numbers in one 16-byte access
constexpr unsigned EVERY_LANE = 0xffffffffu;

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

// --- division of work ------------------------------------------------------------------------------------------------

// Process elements 0 .. p - 1: in packs of VEC if `packs`, and the remaining ones one by one.
// each(Count<V>(), i) has to process the V elements from i on. (It is no lambda: NVRTC supports no generic lambdas.)
template <class Each>
__device__ inline void flat(long long p, bool packs, Each& each) {
    const long long first = blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x;
    const long long step = gridDim.x * static_cast<long long>(blockDim.x);
    const long long whole = packs ? p / VEC : 0;
    for (long long k = first; k < whole; k += step) each(Count<VEC>(), k * VEC);
    for (long long i = whole * VEC + first; i < p; i += step) each(Count<1>(), i);
}

// The smallest power of two that is at least `count`, limited to `most`, itself a power of two.
__device__ inline int power_of_two(int count, int most) {
    int size = 1;
    while (size < count && size < most) size *= 2;
    return size;
}

// A block as rows of `width` threads, which access 128 bytes of memory, V neighbouring numbers for each thread. A
// thread keeps its columns (neurons), so it reads a bias once, and goes through the rows (samples). This needs no
// division, and accesses whole cache lines.
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

// A warp as groups of `lanes` threads; each group processes a sample. All lanes of a warp execute the loop
//     for (long long first = group.first; first < m; first += group.step)
// together, so that they may shuffle. The sample is first + group.index; if that is not below m, there is none.
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

// The larger of two numbers, or NaN if one is NaN, which max(x, y) and x > y ? x : y would lose.
template <class T>
__device__ inline T larger(T x, T y) {
    return x > y || x != x ? x : y;
}

// Two sums and a maximum of at least 0, over the threads of a block.
struct Totals {
    double first = 0, second = 0, most = 0;

    __device__ void over_warp() {
        for (int offset = 16; offset > 0; offset /= 2) {
            first += __shfl_xor_sync(EVERY_LANE, first, offset);
            second += __shfl_xor_sync(EVERY_LANE, second, offset);
            most = larger(most, __shfl_xor_sync(EVERY_LANE, most, offset));
        }
    }

    // Combine the threads of each warp, then the warps. `room` is shared memory for 3 numbers per warp, not used
    // before. All threads of the block have to call this; thread 0 gets the results.
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
