// Not compiled with -fsanitize=thread itself: what it does stands for the hardware.
#include "emulator.h"

#include <ucontext.h>

#include <memory>
#include <stdexcept>
#include <vector>

// Present under ThreadSanitizer alone.
extern "C" {
__attribute__((weak)) void* __tsan_get_current_fiber();
__attribute__((weak)) void* __tsan_create_fiber(unsigned flags);
__attribute__((weak)) void __tsan_switch_to_fiber(void* fiber, unsigned flags);
__attribute__((weak)) void __tsan_acquire(void* at);
__attribute__((weak)) void __tsan_release(void* at);
}

thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {
namespace {

constexpr size_t stack_bytes = 32 << 10;
constexpr size_t front = 16;           // bytes before shared memory, for a word of the block's own
constexpr unsigned without_order = 1;  // a switch between fibers orders nothing

// Where `expected` threads meet. Meetings take the two tags in turn: a thread that is late in leaving must not see what
// another does on its way to the next one.
struct Gate {
    unsigned arrived = 0, meeting = 0;
    char tags[2];
};

struct Fiber {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(stack_bytes);
    void* sanitizer = __tsan_create_fiber ? __tsan_create_fiber(0) : nullptr;
    bool done = false;
};

struct Warp {
    Gate gate;
    uint64_t values[32];
};

struct Block {
    std::vector<std::unique_ptr<Fiber>> fibers;  // of the largest launch so far
    std::vector<Warp> warps;
    Gate gate;
    std::vector<char> shared;
};

struct Run {
    const std::function<void()>* kernel;
    ucontext_t scheduler;
    void* sanitizer;
    Block* block;
    Fiber* fiber;
    bool moved;  // some thread came to a barrier, passed one or ended
    char begin, end;
};
thread_local Run run;

// One block's memory serves all; under a sanitizer each has its own, because what another saw there would count.
thread_local std::vector<std::unique_ptr<Block>> blocks_so_far;

void switch_to_scheduler() {
    Fiber* self = run.fiber;
    if (__tsan_switch_to_fiber) __tsan_switch_to_fiber(run.sanitizer, without_order);
    swapcontext(&self->context, &run.scheduler);
}

void body() {
    if (__tsan_acquire) __tsan_acquire(&run.begin);
    (*run.kernel)();
    run.fiber->done = run.moved = true;
    if (__tsan_release) __tsan_release(&run.end);
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
    run.fiber = run.block->fibers[thread].get();
    if (run.fiber->done) return;
    threadIdx = {thread, 0, 0};
    if (__tsan_switch_to_fiber) __tsan_switch_to_fiber(run.fiber->sanitizer, without_order);
    swapcontext(&run.scheduler, &run.fiber->context);
}

void prepare(Block& block, unsigned threads, size_t shared_bytes) {
    while (block.fibers.size() < threads) block.fibers.push_back(std::make_unique<Fiber>());
    block.warps.assign((threads + 31) / 32, Warp());
    block.gate = Gate();
    block.shared.assign(shared_bytes + front, static_cast<char>(0xcd));
    for (unsigned i = 0; i < threads; i++) {
        Fiber& fiber = *block.fibers[i];
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = stack_bytes;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, body, 0);
        fiber.done = false;
    }
}

// Threads take turns in one order, then the other, so that none relies on its neighbours being ahead.
void run_block(Block& block, unsigned threads) {
    run.block = &block;
    const auto running = [&] {
        return std::any_of(block.fibers.begin(), block.fibers.begin() + threads,
                           [](const auto& fiber) { return !fiber->done; });
    };
    for (bool forward = true; running(); forward = !forward) {
        run.moved = false;
        for (unsigned i = 0; i < threads; i++) resume(forward ? i : threads - 1 - i);
        if (!run.moved) throw std::runtime_error("threads wait at a barrier that others of their block never reach");
    }
}

}  // namespace

void launch(unsigned blocks, unsigned threads, size_t shared_bytes, const std::function<void()>& kernel) {
    if (blocks == 0 || threads == 0 || threads > 1024)
        throw std::runtime_error("a launch needs a block and 1 to 1024 threads");
    gridDim = {blocks, 1, 1};
    blockDim = {threads, 1, 1};
    run.kernel = &kernel;
    run.sanitizer = __tsan_get_current_fiber ? __tsan_get_current_fiber() : nullptr;
    const unsigned separate = __tsan_create_fiber ? blocks : 1;
    while (blocks_so_far.size() < separate) blocks_so_far.push_back(std::make_unique<Block>());
    for (unsigned i = 0; i < separate; i++) prepare(*blocks_so_far[i], threads, shared_bytes);
    if (__tsan_release) __tsan_release(&run.begin);
    for (unsigned i = 0; i < blocks; i++) {
        if (i >= separate) prepare(*blocks_so_far[0], threads, shared_bytes);
        blockIdx = {i, 0, 0};
        run_block(*blocks_so_far[separate > 1 ? i : 0], threads);
    }
    if (__tsan_acquire) __tsan_acquire(&run.end);
}

void* shared_memory() { return run.block->shared.data() + front; }
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
