// Runs CUDA kernels on a CPU, so that the sources in csrc/cuda are tested where there is no GPU: g++ compiles them
// against this header. A thread of a block is a fiber, a barrier switches to the next one; blocks run one after another.
// Under ThreadSanitizer fibers are threads that only barriers order, so it finds a barrier that is missing.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(threads)

struct dim3 {
    unsigned x, y, z;
};
using cudaStream_t = void*;

extern thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;
constexpr int warpSize = 32;

namespace emulator {

// Calls `kernel` once for each thread; throws where threads wait at a barrier that others of their block never reach.
void launch(unsigned blocks, unsigned threads, size_t shared_bytes, const std::function<void()>& kernel);

void* shared_memory();  // of this block, filled with rubbish
void block_barrier();
void warp_barrier(unsigned mask);
// Gives every lane of the mask the values of all.
void exchange(unsigned mask, uint64_t value, uint64_t (&values)[32]);
unsigned lane();

template <class T>
uint64_t bits_of(T value) {
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    return bits;
}

template <class T>
T value_of(uint64_t bits) {
    T value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

template <class T, class Change>
T change(T* at, const Change& changed) {
    T old, wanted;
    __atomic_load(at, &old, __ATOMIC_RELAXED);
    do wanted = changed(old);
    while (!__atomic_compare_exchange(at, &old, &wanted, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return old;
}

}  // namespace emulator

#define LAUNCH(kernel, blocks, threads, shared_bytes, stream, ...) \
    (static_cast<void>(stream), emulator::launch(blocks, threads, shared_bytes, [&] { (kernel)(__VA_ARGS__); }))

inline void __syncthreads() { emulator::block_barrier(); }
inline void __syncwarp(unsigned mask = ~0u) { emulator::warp_barrier(mask); }

inline int __syncthreads_or(int predicate) {
    int* any = static_cast<int*>(emulator::shared_memory()) - 1;  // a word in front of the block's own
    emulator::block_barrier();
    if (threadIdx.x == 0) __atomic_store_n(any, 0, __ATOMIC_RELAXED);
    emulator::block_barrier();
    if (predicate) __atomic_store_n(any, 1, __ATOMIC_RELAXED);
    emulator::block_barrier();
    return __atomic_load_n(any, __ATOMIC_RELAXED);
}

template <class T>
T __shfl_sync(unsigned mask, T value, int from) {
    uint64_t values[32];
    emulator::exchange(mask, emulator::bits_of(value), values);
    return emulator::value_of<T>(values[from & 31]);
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by) {
    const unsigned from = emulator::lane() + by;
    return __shfl_sync(mask, value, static_cast<int>(from < 32 ? from : emulator::lane()));
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int with) {
    return __shfl_sync(mask, value, static_cast<int>(emulator::lane()) ^ with);
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
    uint64_t values[32];
    emulator::exchange(mask, predicate != 0, values);
    unsigned votes = 0;
    for (int i = 0; i < 32; i++) votes |= (mask >> i & 1) && values[i] ? 1u << i : 0u;
    return votes;
}

inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }
inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline float __uint_as_float(unsigned bits) { return emulator::value_of<float>(bits); }
inline unsigned __float_as_uint(float value) { return static_cast<unsigned>(emulator::bits_of(value)); }

// Relaxed, as on the device: they order nothing else.
template <class T>
T atomicAdd(T* at, T value) {
    return emulator::change(at, [=](T old) { return static_cast<T>(old + value); });
}
template <class T>
T atomicMax(T* at, T value) {
    return emulator::change(at, [=](T old) { return std::max(old, value); });
}
template <class T>
T atomicMin(T* at, T value) {
    return emulator::change(at, [=](T old) { return std::min(old, value); });
}
template <class T>
T atomicExch(T* at, T value) {
    return emulator::change(at, [=](T) { return value; });
}
template <class T>
T atomicCAS(T* at, T expected, T value) {
    return emulator::change(at, [=](T old) { return old == expected ? value : old; });
}
