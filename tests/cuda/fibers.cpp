// Runs a block of threads on one CPU: each thread is a fiber that runs until it waits at a barrier or shuffle, or ends.
//
// A thread that ends without waiting passes its stack on to the next one, so a kernel without barriers is as fast as a
// loop. A launch stops with an error message if it would hang on a device or have undefined results: if not all threads
// reach a barrier, if not all lanes in its mask reach a shuffle, or if threads wait at different barriers.

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
enum State { READY, AT_BARRIER, AT_SHUFFLE, DONE };

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

struct Fiber {
    Context context;
    char* stack = nullptr;
    State state = READY;
    bool started = false;
    dim3 thread_index;
    int line = 0;
};

struct Warp {
    unsigned long long values[2][32];
    int current = 0;  // the index of the values that the next exchange writes
};

Context scheduler;
std::vector<Fiber> fibers;
std::vector<Warp> warps;
std::vector<char*> spare_stacks;
int running = -1;
const HostKernel* kernel;
void** arguments;
char* message;
bool faulty;
uint64_t random_state;
unsigned char* dynamic_shared;
size_t dynamic_size;

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
        if (f.state == AT_BARRIER) {
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
    for (Fiber& f : fibers) f.state = READY;
    host_check_barrier();
    return true;
}

void run_block(int order) {
    const dim3 size = host_registers.block_dim;
    const int threads = static_cast<int>(size.x * size.y * size.z);
    fibers.assign(threads, Fiber());
    warps.assign((threads + 31) / 32, Warp());
    std::vector<int> sequence(threads);
    for (int t = 0; t < threads; t++) {
        sequence[t] = order == 1 ? threads - 1 - t : t;
        fibers[t].thread_index = dim3{t % size.x, t / size.x % size.y, t / (size.x * size.y)};
    }
    const size_t shared = __stop_shared_memory - __start_shared_memory;
    if (shared) memset(__start_shared_memory, 0xff, shared);  // NaN, since nothing has been written yet
    if (dynamic_size) memset(dynamic_shared, 0xff, dynamic_size);
    host_check_block();
    for (;;) {
        if (order == 2)
            for (int t = threads - 1; t > 0; t--) std::swap(sequence[t], sequence[draw() % (t + 1)]);
        bool resumed = false, all_done = true;
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
    for (Fiber& f : fibers)
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

unsigned char* host_dynamic_shared() { return dynamic_shared; }

void host_barrier(int line) {
    fibers[running].state = AT_BARRIER;
    fibers[running].line = line;
    yield();
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

// Run a kernel with `shared` bytes of dynamic shared memory. `order` of blocks and threads: 0 forward, 1 backward, 2 random. Return 0, or 1 after writing an error
// message of up to 512 bytes to `text`.
__attribute__((visibility("default"))) int host_launch(
    int index, const unsigned* grid, const unsigned* block, size_t shared, void** packed, int order,
    unsigned long long seed, int flush, char* text
) {
    kernel = &host_kernels[index];
    arguments = packed;
    message = text;
    faulty = false;
    random_state = seed * 2 + 1;
    host_registers.grid_dim = dim3{grid[0], grid[1], grid[2]};
    host_registers.block_dim = dim3{block[0], block[1], block[2]};
    dynamic_size = shared;
    dynamic_shared = static_cast<unsigned char*>(aligned_alloc(16, (shared + 15) / 16 * 16));
    host_check_launch(reinterpret_cast<const char*>(dynamic_shared), shared);
#if defined(__x86_64__)
    const unsigned before = __builtin_ia32_stmxcsr();
    if (flush) __builtin_ia32_ldmxcsr(before | 0x8040);  // subnormal numbers are 0, as with -ftz=true
#endif
    const unsigned long long blocks = 1ull * grid[0] * grid[1] * grid[2];
    for (unsigned long long b = 0; b < blocks && !faulty; b++) {
        const unsigned long long number = order == 1 ? blocks - 1 - b : b;
        host_registers.block = dim3{
            static_cast<unsigned>(number % grid[0]), static_cast<unsigned>(number / grid[0] % grid[1]),
            static_cast<unsigned>(number / grid[0] / grid[1])
        };
        run_block(order);
    }
#if defined(__x86_64__)
    __builtin_ia32_ldmxcsr(before);
#endif
    free(dynamic_shared);
    return faulty;
}

__attribute__((visibility("default"))) void* host_allocate(size_t size) { return malloc(size); }
__attribute__((visibility("default"))) void host_release(void* p) { free(p); }
}
