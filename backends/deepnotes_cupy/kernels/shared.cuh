// Dynamic shared memory, asynchronous copies to it, and clusters: blocks that run at the same time and can access each
// other's shared memory, if CLUSTERED is defined (from compute capability 9.0 on). tests/cuda/host.hpp defines the same functions for the CPU.

#include "common.cuh"

#ifdef __CUDACC__

#define IN_CLUSTERS_OF(blocks) __cluster_dims__(blocks)
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) real name[]

__device__ inline unsigned shared_address(const void* p) { return static_cast<unsigned>(__cvta_generic_to_shared(p)); }

// Begin to copy 4, 8 or 16 bytes from global to shared memory; both addresses are aligned to the number of bytes.
template <int BYTES>
__device__ inline void copy_async(void* to, const void* from) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(shared_address(to)), "l"(from), "n"(BYTES) : "memory");
#else
    if (BYTES == 16) *static_cast<uint4*>(to) = *static_cast<const uint4*>(from);
    if (BYTES == 8) *static_cast<uint2*>(to) = *static_cast<const uint2*>(from);
    if (BYTES == 4) *static_cast<unsigned*>(to) = *static_cast<const unsigned*>(from);
#endif
}

// Wait for the copies that this thread has begun; after a barrier, other threads may read them, too.
__device__ inline void await_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

#ifdef CLUSTERED

__device__ inline int rank_in_cluster() {
    unsigned rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return static_cast<int>(rank);
}

// Wait for all threads of the cluster. What they have written, to any shared memory, is visible afterwards.
__device__ inline void sync_cluster() {
    asm volatile("barrier.cluster.arrive.release;\n\tbarrier.cluster.wait.acquire;" ::: "memory");
}

// The address, in the shared memory of the cluster, of the place in block `rank` that corresponds to p in this block.
__device__ inline unsigned peer_address(const void* p, int rank) {
    unsigned address;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared_address(p)), "r"(rank));
    return address;
}

__device__ inline double load_peer(const double* p, int rank) {
    double x;
    asm volatile("ld.shared::cluster.f64 %0, [%1];" : "=d"(x) : "r"(peer_address(p, rank)) : "memory");
    return x;
}

// Load or store 16 bytes.
__device__ inline void load_peer(const float* p, int rank, float (&x)[4]) {
    asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(x[0]), "=f"(x[1]), "=f"(x[2]), "=f"(x[3])
                 : "r"(peer_address(p, rank))
                 : "memory");
}

__device__ inline void load_peer(const double* p, int rank, double (&x)[2]) {
    asm volatile("ld.shared::cluster.v2.f64 {%0, %1}, [%2];"
                 : "=d"(x[0]), "=d"(x[1])
                 : "r"(peer_address(p, rank))
                 : "memory");
}

__device__ inline void store_peer(float* p, int rank, const float (&x)[4]) {
    asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(peer_address(p, rank)), "f"(x[0]), "f"(x[1]),
                 "f"(x[2]), "f"(x[3])
                 : "memory");
}

__device__ inline void store_peer(double* p, int rank, const double (&x)[2]) {
    asm volatile("st.shared::cluster.v2.f64 [%0], {%1, %2};" ::"r"(peer_address(p, rank)), "d"(x[0]), "d"(x[1])
                 : "memory");
}

#endif

#endif
