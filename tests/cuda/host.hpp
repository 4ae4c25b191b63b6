// The CUDA language for g++: the definitions that the kernels' sources need to be compiled for the CPU.
// tests/cuda_shim.py inserts this file before them. Threads are fibers (fibers.cpp), and checks.cpp checks their
// accesses.

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define __global__ __attribute__((noinline))  // so that only the kernel is checked, not the call
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __builtin_assume(condition)
#define __align__(n) alignas(n)
// One block runs at a time, so shared memory can be static; its own section makes it possible to find and poison it.
#define __shared__ static __attribute__((section("shared_memory"), aligned(16)))

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};

struct Registers {  // of the running thread
    dim3 thread, block, block_dim, grid_dim;
    int number, lane, rank;
    void* dynamic;
};

extern "C" {
extern Registers host_registers;
void host_barrier(int line);
unsigned long long host_exchange(unsigned mask, unsigned long long value, int from, int line);
unsigned host_ballot(unsigned mask, int predicate, int line);
void host_warp_barrier(unsigned mask, int line);
void host_cluster_barrier(int line);
void* host_peer(const void* p, int rank, int size, int writes);
void host_copy_async(void* to, const void* from, int size);
void host_await_copies();
void host_fault(const char* what) __attribute__((noreturn));
}

#define threadIdx (host_registers.thread)
#define blockIdx (host_registers.block)
#define blockDim (host_registers.block_dim)
#define gridDim (host_registers.grid_dim)
#define warpSize 32

// --- barriers and shuffles: all lanes in the mask have to be at the same line ------------------------------

inline void __syncthreads(int line = __builtin_LINE()) { host_barrier(line); }

inline void __syncwarp(unsigned mask = 0xffffffffu, int line = __builtin_LINE()) { host_warp_barrier(mask, line); }

template <class T>
inline T host_shuffle(unsigned mask, T x, int from, int line) {
    static_assert(sizeof(T) <= 8, "a shuffle moves 8 bytes at most");
    unsigned long long bits = 0;
    memcpy(&bits, &x, sizeof(T));
    bits = host_exchange(mask, bits, from, line);
    memcpy(&x, &bits, sizeof(T));
    return x;
}

template <class T>
inline T __shfl_sync(unsigned mask, T x, int from, int width = 32, int line = __builtin_LINE()) {
    return host_shuffle(mask, x, (host_registers.lane & -width) | (from & (width - 1)), line);
}

template <class T>
inline T __shfl_xor_sync(unsigned mask, T x, int with, int width = 32, int line = __builtin_LINE()) {
    const int lane = host_registers.lane, from = lane ^ with;
    return host_shuffle(mask, x, (from & -width) > (lane & -width) ? lane : from, line);
}

template <class T>
inline T __shfl_down_sync(unsigned mask, T x, int by, int width = 32, int line = __builtin_LINE()) {
    const int lane = host_registers.lane, from = lane + by;
    return host_shuffle(mask, x, (from & -width) == (lane & -width) ? from : lane, line);
}

template <class T>
inline T __shfl_up_sync(unsigned mask, T x, int by, int width = 32, int line = __builtin_LINE()) {
    const int lane = host_registers.lane, from = lane - by;
    return host_shuffle(mask, x, from >= (lane & -width) ? from : lane, line);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
    return host_ballot(mask, predicate, line);
}

inline int __any_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
    return __ballot_sync(mask, predicate, line) != 0;
}

inline int __all_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
    return __ballot_sync(mask, predicate, line) == mask;
}

// --- the functions of kernels/shared.cuh ------------------------------------------------------------------------

#define IN_CLUSTERS_OF(blocks)
#define DYNAMIC_SHARED(name) real* const name = static_cast<real*>(host_registers.dynamic)

template <int BYTES>
inline void copy_async(void* to, const void* from) {
    host_copy_async(to, from, BYTES);
}
inline void await_copies() { host_await_copies(); }
inline int rank_in_cluster() { return host_registers.rank; }
inline void sync_cluster(int line = __builtin_LINE()) { host_cluster_barrier(line); }
template <class T>
inline T load_peer(const T* p, int rank) {
    T x;
    memcpy(&x, host_peer(p, rank, sizeof(T), 0), sizeof(T));
    return x;
}
template <class T, int N>
inline void load_peer(const T* p, int rank, T (&x)[N]) {
    memcpy(x, host_peer(p, rank, sizeof x, 0), sizeof x);
}
template <class T, int N>
inline void store_peer(T* p, int rank, const T (&x)[N]) {
    memcpy(host_peer(p, rank, sizeof x, 1), x, sizeof x);
}

// --- vectors: unlike an x86, a device faults if an access is not aligned to its size ---------------------------

inline void host_check_alignment(const void* p, unsigned size) {
    if (reinterpret_cast<uintptr_t>(p) & (size - 1)) host_fault("an access that is not aligned to its size");
}

#define HOST_VECTOR(name, type, size, fields, copy, parameters, values)                     \
    struct alignas(size) name {                                                              \
        type fields;                                                                         \
        name() = default;                                                                    \
        name(const name& o) { *this = o; }                                                   \
        name& operator=(const name& o) {                                                     \
            host_check_alignment(&o, size);                                                  \
            host_check_alignment(this, size);                                                \
            copy;                                                                            \
            return *this;                                                                    \
        }                                                                                    \
    };                                                                                       \
    inline name make_##name parameters {                                                     \
        name v;                                                                              \
        values;                                                                              \
        return v;                                                                            \
    }
#define HOST_COMMA ,
#define HOST_VECTOR2(name, type, size)                                                                     \
    HOST_VECTOR(name, type, size, x HOST_COMMA y, (x = o.x, y = o.y), (type a, type b), (v.x = a, v.y = b))
#define HOST_VECTOR4(name, type, size)                                                                     \
    HOST_VECTOR(                                                                                           \
        name, type, size, x HOST_COMMA y HOST_COMMA z HOST_COMMA w, (x = o.x, y = o.y, z = o.z, w = o.w),  \
        (type a, type b, type c, type d), (v.x = a, v.y = b, v.z = c, v.w = d)                             \
    )

HOST_VECTOR2(float2, float, 8)
HOST_VECTOR2(double2, double, 16)
HOST_VECTOR2(int2, int, 8)
HOST_VECTOR2(uint2, unsigned, 8)
HOST_VECTOR4(float4, float, 16)
HOST_VECTOR4(int4, int, 16)
HOST_VECTOR4(uint4, unsigned, 16)
HOST_VECTOR4(ushort4, unsigned short, 8)

// --- functions -------------------------------------------------------------------------------------------------------

// The standard <math.h> takes longer to compile than the kernels.
#define HOST_MATH(name)                                \
    extern "C" double name(double) noexcept;           \
    extern "C" float name##f(float) noexcept;          \
    inline float name(float x) { return name##f(x); }
#define HOST_MATH2(name)                                             \
    extern "C" double name(double, double) noexcept;                 \
    extern "C" float name##f(float, float) noexcept;                 \
    inline float name(float x, float y) { return name##f(x, y); }
extern "C" double fma(double, double, double) noexcept;
extern "C" float fmaf(float, float, float) noexcept;
inline float fma(float x, float y, float z) { return fmaf(x, y, z); }
HOST_MATH(exp)
HOST_MATH(expm1)
HOST_MATH(log)
HOST_MATH(log1p)
HOST_MATH(tanh)
HOST_MATH(sqrt)
HOST_MATH(fabs)
HOST_MATH(erf)
HOST_MATH(erfc)
HOST_MATH(floor)
HOST_MATH(ceil)
HOST_MATH(rint)
HOST_MATH2(fmax)
HOST_MATH2(fmin)
HOST_MATH2(pow)
template <class T>
inline bool isfinite(T x) { return __builtin_isfinite(x); }
template <class T>
inline bool isnan(T x) { return __builtin_isnan(x); }
template <class T>
inline bool isinf(T x) { return __builtin_isinf(x); }

template <class T>
inline T __ldg(const T* p) {
    return *p;
}

template <class To, class From>
inline To host_bits(From x) {
    static_assert(sizeof(To) == sizeof(From), "sizes must be equal");
    To y;
    memcpy(&y, &x, sizeof(x));
    return y;
}

inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>((static_cast<uint64_t>(a) * b) >> 32); }
inline unsigned __float_as_uint(float x) { return host_bits<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return host_bits<float>(x); }
inline int __float_as_int(float x) { return host_bits<int>(x); }
inline float __int_as_float(int x) { return host_bits<float>(x); }
inline long long __double_as_longlong(double x) { return host_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return host_bits<double>(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }

// --- calling a kernel -------------------------------------------------------------------------------------------

struct HostKernel {
    const char* name;
    void (*run)(void**);
};

template <int... I>
struct HostIndices {};
template <int n, int... I>
struct HostIndicesBelow : HostIndicesBelow<n - 1, n - 1, I...> {};
template <int... I>
struct HostIndicesBelow<0, I...> {
    typedef HostIndices<I...> type;
};

template <class... A, int... I>
__attribute__((no_sanitize("thread"))) inline void host_call(void (*kernel)(A...), void** arguments, HostIndices<I...>) {
    kernel(*static_cast<A*>(arguments[I])...);
}

template <class... A>
inline void host_call(void (*kernel)(A...), void** arguments) {
    host_call(kernel, arguments, typename HostIndicesBelow<sizeof...(A)>::type());
}

template <auto kernel>
inline void host_run(void** arguments) {
    host_call(kernel, arguments);
}
