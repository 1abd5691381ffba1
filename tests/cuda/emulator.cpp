// Not compiled with -fsanitize=thread itself: what it does stands for the hardware.
#include "emulator.h"

#include <ucontext.h>

#include <cstdlib>
#include <stdexcept>
#include <vector>

// Present under ThreadSanitizer alone.
extern "C" {
__attribute__((weak)) void* __tsan_get_current_fiber();
__attribute__((weak)) void* __tsan_create_fiber(unsigned flags);
__attribute__((weak)) void __tsan_destroy_fiber(void* fiber);
__attribute__((weak)) void __tsan_switch_to_fiber(void* fiber, unsigned flags);
__attribute__((weak)) void __tsan_acquire(void* at);
__attribute__((weak)) void __tsan_release(void* at);
}

thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {
namespace {

constexpr size_t stack_bytes = 64 << 10;
constexpr unsigned without_order = 1;  // a switch between fibers orders nothing

// Memory as new: what was seen at the same address before does not count.
struct Memory {
    explicit Memory(size_t size) : begin(static_cast<char*>(std::malloc(size))) { std::memset(begin, 0xcd, size); }
    Memory(Memory&& other) noexcept : begin(other.begin) { other.begin = nullptr; }
    ~Memory() { std::free(begin); }
    char* begin;
};

// Where `expected` threads meet. Meetings take the two tags in turn: a thread that is late in leaving must not see what
// another does on its way to the next one.
struct Gate {
    unsigned arrived = 0, meeting = 0;
    char tags[2];
};

struct Fiber {
    ucontext_t context;
    void* sanitizer = nullptr;
    bool done = false;
};

struct Warp {
    Gate gate;
    uint64_t values[32];
};

struct Block {
    explicit Block(unsigned threads, size_t shared_bytes) : fibers(threads), warps((threads + 31) / 32), shared(shared_bytes + 16) {
        for (unsigned i = 0; i < threads; i++) stacks.emplace_back(stack_bytes);
    }
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    Gate gate;
    std::vector<Memory> stacks;
    Memory shared;
    char finished;
};

struct Run {
    const std::function<void()>* kernel;
    ucontext_t scheduler;
    void* sanitizer;
    Block* block;
    Fiber* fiber;
    bool moved;  // some thread came to a barrier, passed one or ended
};
thread_local Run run;

void switch_to_scheduler() {
    Fiber* self = run.fiber;
    if (__tsan_switch_to_fiber) __tsan_switch_to_fiber(run.sanitizer, without_order);
    swapcontext(&self->context, &run.scheduler);
}

void body() {
    (*run.kernel)();
    run.fiber->done = run.moved = true;
    if (__tsan_release) __tsan_release(&run.block->finished);
    switch_to_scheduler();
}

void meet(Gate& gate, unsigned expected) {
    const unsigned meeting = gate.meeting;
    char* tag = &gate.tags[meeting % 2];
    if (__tsan_release) __tsan_release(tag);
    run.moved = true;
    if (++gate.arrived == expected) {
        gate.arrived = 0;
        gate.meeting++;
    }
    while (gate.meeting == meeting) switch_to_scheduler();
    run.moved = true;
    if (__tsan_acquire) __tsan_acquire(tag);
}

// Existing lanes of a mask.
unsigned lanes_of(unsigned mask) {
    const unsigned first = threadIdx.x / 32 * 32, present = std::min(32u, blockDim.x - first);
    return __builtin_popcount(present == 32 ? mask : mask & ((1u << present) - 1));
}

void resume(unsigned thread) {
    run.fiber = &run.block->fibers[thread];
    if (run.fiber->done) return;
    threadIdx = {thread, 0, 0};
    if (__tsan_switch_to_fiber) __tsan_switch_to_fiber(run.fiber->sanitizer, without_order);
    swapcontext(&run.scheduler, &run.fiber->context);
}

void prepare(Fiber& fiber, const Memory& stack) {
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = stack.begin;
    fiber.context.uc_stack.ss_size = stack_bytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, body, 0);
    if (__tsan_create_fiber) fiber.sanitizer = __tsan_create_fiber(0);
}

// Threads take turns in one order, then the other, so that none relies on its neighbours being ahead.
void run_block(Block& block) {
    run.block = &block;
    const unsigned threads = static_cast<unsigned>(block.fibers.size());
    for (unsigned i = 0; i < threads; i++) prepare(block.fibers[i], block.stacks[i]);
    const auto running = [&] { return std::any_of(block.fibers.begin(), block.fibers.end(), [](const Fiber& f) { return !f.done; }); };
    for (bool forward = true; running(); forward = !forward) {
        run.moved = false;
        for (unsigned i = 0; i < threads; i++) resume(forward ? i : threads - 1 - i);
        if (!run.moved) throw std::runtime_error("threads wait at a barrier that others of their block never reach");
    }
}

}  // namespace

void launch(unsigned blocks, unsigned threads, size_t shared_bytes, const std::function<void()>& kernel) {
    if (blocks == 0 || threads == 0 || threads > 1024) throw std::runtime_error("a launch needs a block and 1 to 1024 threads");
    gridDim = {blocks, 1, 1};
    blockDim = {threads, 1, 1};
    run.kernel = &kernel;
    run.sanitizer = __tsan_get_current_fiber ? __tsan_get_current_fiber() : nullptr;
    // Without a sanitizer one block's memory serves all. With one it must be fresh, and last until all have ended.
    std::vector<Block> all;
    all.reserve(blocks);
    for (unsigned i = 0; i < blocks; i++) {
        if (i == 0 || __tsan_create_fiber) {
            all.emplace_back(threads, shared_bytes);
        } else {
            for (Fiber& fiber : all[0].fibers) fiber.done = false;
        }
        blockIdx = {i, 0, 0};
        run_block(all.back());
    }
    for (Block& block : all) {
        if (__tsan_acquire) __tsan_acquire(&block.finished);
        for (Fiber& fiber : block.fibers) {
            if (__tsan_destroy_fiber) __tsan_destroy_fiber(fiber.sanitizer);
        }
    }
}

void* shared_memory() { return run.block->shared.begin + 16; }
void block_barrier() { meet(run.block->gate, blockDim.x); }
void warp_barrier(unsigned mask) { meet(run.block->warps[threadIdx.x / 32].gate, lanes_of(mask)); }
unsigned lane() { return threadIdx.x % 32; }

void exchange(unsigned mask, uint64_t value, uint64_t (&values)[32]) {
    Warp& warp = run.block->warps[threadIdx.x / 32];
    warp.values[lane()] = value;
    warp_barrier(mask);
    std::copy_n(warp.values, 32, values);
    warp_barrier(mask);
}

}  // namespace emulator
