// Runs a block of threads on one CPU: each thread is a fiber that runs until it waits at a barrier or shuffle, or ends.
//
// A thread that ends without waiting passes its stack on to the next one, so a kernel without barriers is as fast as a
// loop. A launch stops with an error message if it would hang on a device or have undefined results: if not all threads
// reach a barrier, if not all lanes in its mask reach a shuffle, or if threads wait at different barriers.
//
// The blocks of a cluster take turns: each runs until its threads wait at a barrier of the cluster. A launch also stops
// if not all blocks reach the same barrier of the cluster, or if a block accesses the shared memory of another one that
// may not have started, or that ends before the next barrier.

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <utility>
#include <vector>

#include "runtime.hpp"

#if !defined(__x86_64__) || defined(HOST_UCONTEXT)
#include <ucontext.h>
#endif

Registers host_registers;

namespace {

constexpr size_t STACK = 1 << 17;
enum State { READY, AT_BARRIER, AT_SHUFFLE, AT_CLUSTER_BARRIER, DONE };

#if defined(__x86_64__) && !defined(HOST_UCONTEXT)
extern "C" void host_switch(void** from, void* to);
asm(R"(
.text
.hidden host_switch
.globl host_switch
.type host_switch, @function
host_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size host_switch, .-host_switch
)");

struct Context {
    void* top = nullptr;
    void start(char* stack, void (*entry)()) {
        void** p = reinterpret_cast<void**>(stack + STACK);
        *--p = nullptr;  // so that the stack is aligned as after a call
        *--p = reinterpret_cast<void*>(entry);
        for (int i = 0; i < 6; i++) *--p = nullptr;
        top = p;
    }
    void leave_for(Context& other) { host_switch(&top, other.top); }
};
#else
struct Context {
    ucontext_t own;
    void start(char* stack, void (*entry)()) {
        getcontext(&own);
        own.uc_stack.ss_sp = stack;
        own.uc_stack.ss_size = STACK;
        own.uc_link = nullptr;
        makecontext(&own, entry, 0);
    }
    void leave_for(Context& other) { swapcontext(&own, &other.own); }
};
#endif

struct Copy {  // an asynchronous one, before the thread has waited for it
    void* to;
    const void* from;
    int size;
};

struct Fiber {
    Context context;
    char* stack = nullptr;
    State state = READY;
    bool started = false;
    dim3 thread_index;
    int line = 0;
    std::vector<Copy> copies;
};

struct Warp {
    unsigned long long values[2][32];
    int current = 0;  // the index of the values that the next exchange writes
};

struct Block {
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    std::vector<char> shared;  // the content of the section for shared memory while other blocks of the cluster run
    char* dynamic = nullptr;
    dim3 index;
    bool ended = false;
    unsigned accessed = 0;  // the number of the last epoch in which another block has accessed its shared memory
    int line = 0;           // of the barrier of the cluster
};

Context scheduler;
std::vector<Block> cluster;
int rank;        // of the running block in the cluster
unsigned epoch;  // the number of barriers of the cluster so far
size_t dynamic_size;
std::vector<Fiber> fibers;
std::vector<Warp> warps;
std::vector<char*> spare_stacks;
int running = -1;
const HostKernel* kernel;
void** arguments;
char* message;
bool faulty;
uint64_t random_state;

uint64_t draw() {  // xorshift64*
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return random_state * 0x2545F4914F6CDD1Dull;
}

void describe(const char* format, ...) {
    if (faulty) return;
    faulty = true;
    const dim3 b = host_registers.block;
    int used = snprintf(message, 256, "%s, block (%u, %u, %u): ", kernel->name, b.x, b.y, b.z);
    va_list list;
    va_start(list, format);
    vsnprintf(message + used, 512 - used, format, list);
    va_end(list);
}

void yield() { fibers[running].context.leave_for(scheduler); }

void body() {
    kernel->run(arguments);
    if (fibers[running].copies.size()) host_fault("ends before its asynchronous copies");
    fibers[running].state = DONE;
    yield();
}

void resume(int number) {
    Fiber& fiber = fibers[number];
    running = number;
    host_registers.thread = fiber.thread_index;
    host_registers.number = number;
    host_registers.lane = number & 31;
    if (!fiber.started) {
        fiber.started = true;
        if (spare_stacks.empty()) spare_stacks.push_back(static_cast<char*>(aligned_alloc(4096, STACK)));
        fiber.stack = spare_stacks.back();
        spare_stacks.pop_back();
        fiber.context.start(fiber.stack, body);
    }
    host_check_stack(fiber.stack, STACK);
    scheduler.leave_for(fiber.context);
    if (fiber.state == DONE) spare_stacks.push_back(fiber.stack), fiber.stack = nullptr;
}

// Release the waiting threads if all threads of the block are at the same barrier; otherwise, report a fault.
bool release_barrier() {
    const int threads = static_cast<int>(fibers.size());
    int waiting = -1, ended = -1;
    for (int t = 0; t < threads; t++) {
        const Fiber& f = fibers[t];
        if (f.state == DONE) ended = t;
        if (f.state == AT_SHUFFLE) {
            describe("thread %d waits at the shuffle or __syncwarp of line %d for lanes that never come", t, f.line);
            return false;
        }
        if (f.state == AT_BARRIER || f.state == AT_CLUSTER_BARRIER) {
            if (waiting >= 0 && fibers[waiting].line != f.line) {
                describe("threads %d and %d wait at two different barriers, of lines %d and %d", waiting, t,
                         fibers[waiting].line, f.line);
                return false;
            }
            waiting = t;
        }
    }
    if (waiting < 0) return false;
    if (ended >= 0) {
        describe("thread %d waits at the barrier of line %d, which thread %d never reaches", waiting,
                 fibers[waiting].line, ended);
        return false;
    }
    if (fibers[waiting].state == AT_CLUSTER_BARRIER) {
        cluster[rank].line = fibers[waiting].line;
        return false;
    }
    for (Fiber& f : fibers) f.state = READY;
    host_check_barrier();
    return true;
}

// Make a block of the cluster the running one.
void enter_block(int number) {
    rank = number;
    Block& block = cluster[rank];
    host_registers.block = block.index;
    host_registers.rank = rank;
    host_registers.dynamic = block.dynamic;
    std::swap(fibers, block.fibers);
    std::swap(warps, block.warps);
    if (block.shared.size()) memcpy(__start_shared_memory, block.shared.data(), block.shared.size());
    host_check_enter(rank);
}

void leave_block() {
    Block& block = cluster[rank];
    std::swap(fibers, block.fibers);
    std::swap(warps, block.warps);
    if (block.shared.size()) memcpy(block.shared.data(), __start_shared_memory, block.shared.size());
}

void prepare_block() {
    const dim3 size = host_registers.block_dim;
    const int threads = static_cast<int>(size.x * size.y * size.z);
    fibers.assign(threads, Fiber());
    warps.assign((threads + 31) / 32, Warp());
    for (int t = 0; t < threads; t++)
        fibers[t].thread_index = dim3{t % size.x, t / size.x % size.y, t / (size.x * size.y)};
    const size_t shared = __stop_shared_memory - __start_shared_memory;
    if (shared) memset(__start_shared_memory, 0xff, shared);  // NaN, since nothing has been written yet
    if (dynamic_size) memset(cluster[rank].dynamic, 0xff, dynamic_size);
}

// Run the block until it ends or its threads wait at a barrier of the cluster.
void run_block(int order) {
    const int threads = static_cast<int>(fibers.size());
    std::vector<int> sequence(threads);
    for (int t = 0; t < threads; t++) sequence[t] = order == 1 ? threads - 1 - t : t;
    bool all_done = false;
    for (;;) {
        if (order == 2)
            for (int t = threads - 1; t > 0; t--) std::swap(sequence[t], sequence[draw() % (t + 1)]);
        bool resumed = false;
        all_done = true;
        for (int t : sequence) {
            if (fibers[t].state == READY) {
                resume(t);
                resumed = true;
                if (faulty) break;
            }
            all_done = all_done && fibers[t].state == DONE;
        }
        if (faulty || all_done || (!resumed && !release_barrier())) break;
    }
    if (!all_done) return;
    Block& block = cluster[rank];
    block.ended = true;
    if (block.accessed == epoch && epoch) describe("the block ends while another one accesses its shared memory");
}

// Run the blocks of a cluster, from block `start` of the grid on.
void run_cluster(int order, unsigned long long start) {
    const dim3 grid = host_registers.grid_dim;
    const int blocks = static_cast<int>(cluster.size());
    const size_t shared = __stop_shared_memory - __start_shared_memory;
    epoch = 0;
    host_check_cluster();
    std::vector<int> sequence(blocks);
    for (int b = 0; b < blocks; b++) {
        const unsigned long long number = start + b;
        Block& block = cluster[b];
        char* dynamic = block.dynamic;
        block = Block();
        block.dynamic = dynamic;
        block.index = dim3{
            static_cast<unsigned>(number % grid.x), static_cast<unsigned>(number / grid.x % grid.y),
            static_cast<unsigned>(number / grid.x / grid.y)
        };
        if (blocks > 1) block.shared.resize(shared);
        enter_block(b);
        prepare_block();
        leave_block();
        sequence[b] = order == 1 ? blocks - 1 - b : b;
    }
    for (bool all_ended = false; !all_ended && !faulty;) {
        if (order == 2)
            for (int b = blocks - 1; b > 0; b--) std::swap(sequence[b], sequence[draw() % (b + 1)]);
        for (int b : sequence) {
            if (cluster[b].ended) continue;
            enter_block(b);
            run_block(order);
            leave_block();
            if (faulty) break;
        }
        if (faulty) break;
        all_ended = true;
        int ended = -1, waiting = -1;
        for (int b = 0; b < blocks; b++) {
            (cluster[b].ended ? ended : waiting) = b;
            all_ended = all_ended && cluster[b].ended;
        }
        if (all_ended) break;
        for (int b = 0; b < blocks; b++)
            if (ended >= 0 || cluster[b].line != cluster[waiting].line) {
                describe(
                    "block %d waits at the cluster barrier of line %d, which block %d never reaches", waiting,
                    cluster[waiting].line, ended >= 0 ? ended : b
                );
                break;
            }
        for (Block& block : cluster)
            for (Fiber& f : block.fibers) f.state = READY;
        epoch++;
        host_check_cluster_barrier();
    }
    for (Block& block : cluster)
        for (Fiber& f : block.fibers)
            if (f.stack) spare_stacks.push_back(f.stack);
}

// Wait until all lanes of the running warp have called this function; return whether this lane was the last.
bool meet(unsigned mask, int line) {
    const int own = running, lane = own & 31, first = own - lane;
    if (fibers.size() < static_cast<size_t>(first) + 32) host_fault("a mask has lanes beyond the end of the block");
    if (mask != 0xffffffffu) host_fault("a mask of less than a warp, which this simulation does not support");
    Fiber& fiber = fibers[own];
    fiber.line = line, fiber.state = AT_SHUFFLE;
    for (int other = first; other < first + 32; other++) {
        const Fiber& f = fibers[other];
        if (f.state == DONE) host_fault("a mask has a lane that has ended");
        if (f.state != AT_SHUFFLE) {
            yield();
            return false;
        }
        if (f.line != line) host_fault("the lanes of a warp are at different shuffles");
    }
    for (int other = first; other < first + 32; other++) fibers[other].state = READY;
    warps[own / 32].current ^= 1;
    return true;
}

}  // namespace

extern "C" {

void host_fault(const char* what) {
    describe("thread %d: %s", running, what);
    yield();
    abort();
}

void host_fault_at(const char* what, const void* address, long long offset, long long size) {
    describe("thread %d: %s, address %p: byte %lld of %lld", running, what, address, offset, size);
    yield();
    abort();
}

void host_barrier(int line) {
    fibers[running].state = AT_BARRIER;
    fibers[running].line = line;
    yield();
}

void host_cluster_barrier(int line) {
    fibers[running].state = AT_CLUSTER_BARRIER;
    fibers[running].line = line;
    yield();
}

// Return where the place p in the running block's dynamic shared memory is in that of another block.
void* host_peer(const void* p, int peer, int size, int writes) {
    const ptrdiff_t offset = static_cast<const char*>(p) - cluster[rank].dynamic;
    if (offset < 0 || offset + size > static_cast<ptrdiff_t>(dynamic_size))
        host_fault("an access to another block outside its dynamic shared memory");
    if (peer < 0 || peer >= static_cast<int>(cluster.size())) host_fault("an access to a block outside the cluster");
    Block& block = cluster[peer];
    if (peer != rank) {
        if (!epoch) host_fault("an access to another block that may not have started");
        if (block.ended) host_fault("an access to another block that has ended");
        block.accessed = epoch;
    }
    char* address = block.dynamic + offset;
    host_check_access(address, size, writes);
    return address;
}

// Until the thread waits for the copy, the target holds NaN.
void host_copy_async(void* to, const void* from, int size) {
    host_check_access(from, size, 0);
    host_check_access(to, size, 1);
    if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % size)
        host_fault("an asynchronous copy that is not aligned to its size");
    memset(to, 0xff, size);
    fibers[running].copies.push_back(Copy{to, from, size});
}

void host_await_copies() {
    for (const Copy& copy : fibers[running].copies) {
        host_check_access(copy.to, copy.size, 1);
        memcpy(copy.to, copy.from, copy.size);
    }
    fibers[running].copies.clear();
}

unsigned long long host_exchange(unsigned mask, unsigned long long value, int from, int line) {
    Warp& warp = warps[running / 32];  // `current` changes once all lanes are here, so no lane overwrites unread values
    unsigned long long* values = warp.values[warp.current];
    values[running & 31] = value;
    meet(mask, line);
    if (from < 0 || from > 31) host_fault("a shuffle reads from a lane outside 0 to 31");
    return values[from];
}

unsigned host_ballot(unsigned mask, int predicate, int line) {
    Warp& warp = warps[running / 32];
    unsigned long long* values = warp.values[warp.current];
    values[running & 31] = predicate != 0;
    meet(mask, line);
    unsigned out = 0;
    for (int lane = 0; lane < 32; lane++) out |= static_cast<unsigned>(values[lane]) << lane;
    return out;
}

void host_warp_barrier(unsigned mask, int line) {
    if (meet(mask, line)) host_check_warp_barrier();
}

// Run a kernel. `order` of blocks and threads: 0 forward, 1 backward, 2 random. Return 0, or 1 after writing an error
// message of up to 512 bytes to `text`.
__attribute__((visibility("default"))) int host_launch(
    int index, const unsigned* grid, const unsigned* block, void** packed, int order, unsigned long long seed,
    int flush, unsigned dynamic, int cluster_size, char* text
) {
    kernel = &host_kernels[index];
    arguments = packed;
    message = text;
    faulty = false;
    random_state = seed * 2 + 1;
    host_registers.grid_dim = dim3{grid[0], grid[1], grid[2]};
    host_registers.block_dim = dim3{block[0], block[1], block[2]};
    host_check_launch(cluster_size);
    dynamic_size = dynamic;
    cluster.assign(cluster_size, Block());
    for (Block& b : cluster) {
        b.dynamic = static_cast<char*>(aligned_alloc(128, (dynamic + 255) / 128 * 128));
        if (dynamic) host_check_dynamic(b.dynamic, dynamic);
    }
#if defined(__x86_64__)
    const unsigned before = __builtin_ia32_stmxcsr();
    if (flush) __builtin_ia32_ldmxcsr(before | 0x8040);  // subnormal numbers are 0, as with -ftz=true
#endif
    const unsigned long long clusters = 1ull * grid[0] * grid[1] * grid[2] / cluster_size;
    if (clusters * cluster_size != 1ull * grid[0] * grid[1] * grid[2]) describe("the grid is not a multiple of clusters");
    for (unsigned long long c = 0; c < clusters && !faulty; c++)
        run_cluster(order, (order == 1 ? clusters - 1 - c : c) * cluster_size);
#if defined(__x86_64__)
    __builtin_ia32_ldmxcsr(before);
#endif
    for (Block& b : cluster) free(b.dynamic);
    return faulty;
}

__attribute__((visibility("default"))) void* host_allocate(size_t size) { return malloc(size); }
__attribute__((visibility("default"))) void host_release(void* p) { free(p); }
}
