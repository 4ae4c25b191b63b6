// Declarations shared by fibers.cpp and checks.cpp.

#pragma once
#include <stddef.h>

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};

struct Registers {  // as in host.hpp
    dim3 thread, block, block_dim, grid_dim;
    int number, lane, rank;
    void* dynamic;
};

struct HostKernel {
    const char* name;
    void (*run)(void**);
};

extern "C" {
extern Registers host_registers;
extern const HostKernel host_kernels[];
extern char __start_shared_memory[] __attribute__((weak)), __stop_shared_memory[] __attribute__((weak));

void host_fault(const char* what) __attribute__((noreturn));
void host_fault_at(const char* what, const void* address, long long offset, long long size) __attribute__((noreturn));

// Calls that report to the checks: a launch with clusters of so many blocks, the dynamic shared memory of a block, a
// cluster, the block of the cluster that runs from now on, a barrier of the block, the cluster or the running thread's
// warp, an access, and the current stack.
void host_check_launch(int cluster);
void host_check_dynamic(char* start, size_t size);
void host_check_cluster();
void host_check_enter(int rank);
void host_check_barrier();
void host_check_cluster_barrier();
void host_check_warp_barrier();
void host_check_access(const void* address, int size, int writes);
void host_check_stack(char* stack, size_t size);
}
