// The checks of the "checked" build: g++ -fsanitize=thread inserts a function call before each memory access of a
// kernel; these functions are defined here instead of in the library of the thread sanitizer.
//
// Every byte of an access must be within an array that was passed to the kernel, in shared memory, or on the thread's
// own stack. If two threads access the same bytes and at least one of them writes, a barrier must separate the two:
// __syncthreads within a block, __syncwarp within a warp, or a barrier of the cluster. No other barrier separates accesses
// of different blocks. Shared
// memory must be written before it is read. Accesses are tracked in units of 2 bytes, the smallest size of a write.

#include <stdint.h>

#include <vector>

#include "runtime.hpp"

namespace {

constexpr int UNIT = 2;

struct Access {
    unsigned stamp = 0;  // number of the launch or, for shared memory, of the block; 0: no access
    int block = 0, thread = 0;
    unsigned barriers = 0, warp_barriers = 0, cluster = 0, epoch = 0;
    bool threads = false, warps = false, blocks = false;  // whether several threads, warps or blocks have read
};

struct Cell {
    Access write, read;
};

struct Region {
    const char* start;
    size_t size;
    bool shared;
    int rank;  // of the block that it belongs to; -1: it is the only one at its address
    std::vector<Cell> cells;
};

struct Counts {  // of a block of the cluster
    unsigned barriers = 0;
    std::vector<unsigned> warp_barriers;
};

std::vector<Region> regions;
const char* stack_start;
const char* stack_end;
unsigned stamp, launch_stamp, cluster_number, epoch;
int rank;
std::vector<Counts> counts;

int block_number() { return static_cast<int>(cluster_number * counts.size()) + rank; }

// Return whether an earlier access happened before the current access, in every order of threads.
bool ordered(const Access& before, const Region& region) {
    if (before.stamp != (region.shared ? stamp : launch_stamp)) return true;
    if (before.cluster == cluster_number && before.epoch != epoch) return true;
    const int thread = host_registers.number;
    const std::vector<unsigned>& warp_barriers = counts[rank].warp_barriers;
    if (before.blocks || before.block != block_number()) return false;
    if (before.barriers != counts[rank].barriers || (!before.threads && before.thread == thread)) return true;
    return !before.warps && before.thread / 32 == thread / 32 && before.warp_barriers < warp_barriers[thread / 32];
}

// Record the current access; a read is combined with earlier reads since the last barrier.
void record(Access& access, const Region& region, bool read) {
    const unsigned current = region.shared ? stamp : launch_stamp;
    const int block = block_number(), thread = host_registers.number;
    const unsigned barriers = counts[rank].barriers, warp_barrier_count = counts[rank].warp_barriers[thread / 32];
    Access next;
    next.stamp = current, next.block = block, next.thread = thread;
    next.barriers = barriers, next.warp_barriers = warp_barrier_count;
    next.cluster = cluster_number, next.epoch = epoch;
    if (read && access.stamp == current && !(access.cluster == cluster_number && access.epoch != epoch)) {
        next.blocks = access.blocks || access.block != block;
        if (access.block == block && access.barriers == barriers) {
            const bool same_warp = access.thread / 32 == thread / 32;
            const bool later = same_warp && !access.warps && access.warp_barriers < warp_barrier_count;
            next.threads = !later && (access.threads || access.thread != thread);
            next.warps = access.warps || !same_warp;
        }
    }
    access = next;
}

void check(const void* address, size_t size, bool writes) {
    const char* p = static_cast<const char*>(address);
    const char* own = reinterpret_cast<const char*>(&host_registers);
    if ((p >= stack_start && p < stack_end) || (p >= own && p < own + sizeof(host_registers))) return;
    for (Region& region : regions) {
        if (p < region.start || p >= region.start + region.size || (region.rank >= 0 && region.rank != rank)) continue;
        const size_t offset = p - region.start;
        if (offset + size > region.size) continue;
        if (size <= 16 && reinterpret_cast<uintptr_t>(p) % size)
            host_fault_at("an access that is not aligned to its size", p, offset, region.size);
        for (size_t unit = offset / UNIT; unit <= (offset + size - 1) / UNIT; unit++) {
            Cell& cell = region.cells[unit];
            if (!writes && region.shared && cell.write.stamp != stamp)
                host_fault_at("reads shared memory that was not written", p, offset, region.size);
            if (!ordered(cell.write, region) || (writes && !ordered(cell.read, region)))
                host_fault_at(
                    writes ? "writes, without a barrier between, where another thread reads or writes"
                           : "reads, without a barrier between, what another thread writes",
                    p, offset, region.size
                );
            record(writes ? cell.write : cell.read, region, !writes);
        }
        return;
    }
    for (const Region& region : regions)  // name an array nearby
        if (p >= region.start - 4096 && p < region.start + region.size + 4096)
            host_fault_at(
                writes ? "writes out of bounds" : "reads out of bounds", p, p - region.start, region.size
            );
    host_fault_at(writes ? "writes to memory outside its arrays" : "reads memory outside its arrays", p, 0, 0);
}

}  // namespace

extern "C" {

void host_check_launch(int cluster) {
    launch_stamp = ++stamp;
    cluster_number = 0;
    counts.resize(cluster);
    const size_t size = __stop_shared_memory - __start_shared_memory;
    for (int r = 0; r < cluster; r++)
        regions.push_back(Region{__start_shared_memory, size, true, r, std::vector<Cell>(size / UNIT + 1)});
}

void host_check_dynamic(char* start, size_t size) {
    regions.push_back(Region{start, size, true, -1, std::vector<Cell>(size / UNIT + 1)});
}

void host_check_cluster() {
    ++stamp;
    ++cluster_number;
    epoch = 0;
    const unsigned threads = host_registers.block_dim.x * host_registers.block_dim.y * host_registers.block_dim.z;
    for (Counts& count : counts) {
        count.barriers = 0;
        count.warp_barriers.assign(threads / 32 + 1, 0);
    }
}

void host_check_enter(int block) { rank = block; }

void host_check_barrier() { ++counts[rank].barriers; }

void host_check_cluster_barrier() { ++epoch; }

void host_check_warp_barrier() { ++counts[rank].warp_barriers[host_registers.number / 32]; }

void host_check_access(const void* address, int size, int writes) { check(address, size, writes); }

void host_check_stack(char* stack, size_t size) { stack_start = stack, stack_end = stack + size; }

// Set the arrays that the next launch may access.
__attribute__((visibility("default"))) void host_regions(int count, const void** starts, const size_t* sizes) {
    regions.clear();
    for (int i = 0; i < count; i++)
        regions.push_back(
            Region{static_cast<const char*>(starts[i]), sizes[i], false, -1, std::vector<Cell>(sizes[i] / UNIT + 1)}
        );
}

#define HOST_ACCESS(n)                                                     \
    void __tsan_read##n(void* p) { check(p, n, false); }                    \
    void __tsan_write##n(void* p) { check(p, n, true); }                    \
    void __tsan_unaligned_read##n(void* p) { check(p, n, false); }          \
    void __tsan_unaligned_write##n(void* p) { check(p, n, true); }          \
    void __tsan_volatile_read##n(void* p) { check(p, n, false); }           \
    void __tsan_volatile_write##n(void* p) { check(p, n, true); }
HOST_ACCESS(1)
HOST_ACCESS(2)
HOST_ACCESS(4)
HOST_ACCESS(8)
HOST_ACCESS(16)
void __tsan_read_range(void* p, size_t n) { check(p, n, false); }
void __tsan_write_range(void* p, size_t n) { check(p, n, true); }
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
}
