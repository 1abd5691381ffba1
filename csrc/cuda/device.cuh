// What every kernel needs: the number of its thread, and arithmetic that nvcc and g++ do alike.
#pragma once

#ifndef __CUDACC__
#include "emulator.h"  // tests/cuda: the kernels on a CPU
#endif

#include "../shared/arithmetic.h"

namespace smallobjects {

// Kernels go over their items in strides of all threads: for (i = this_thread(); i < count; i += all_threads()).
__device__ inline int64_t this_thread() { return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ inline int64_t all_threads() { return static_cast<int64_t>(gridDim.x) * blockDim.x; }

// The same for warps, of which a block must hold whole ones.
constexpr unsigned lanes = 32;
__device__ inline int64_t this_warp() { return this_thread() / lanes; }
__device__ inline int64_t all_warps() { return all_threads() / lanes; }
__device__ inline unsigned this_lane() { return threadIdx.x % lanes; }

// The sum over a warp, right in its first lane.
__device__ inline int64_t warp_sum(int64_t value) {
    for (unsigned step = lanes / 2; step > 0; step /= 2)
        value += __shfl_down_sync(~0u, static_cast<long long>(value), step);
    return value;
}

// The same for the minimum and the maximum.
__device__ inline int32_t warp_min(int32_t value) {
    for (unsigned step = lanes / 2; step > 0; step /= 2) value = smaller(value, __shfl_down_sync(~0u, value, step));
    return value;
}
__device__ inline int32_t warp_max(int32_t value) {
    for (unsigned step = lanes / 2; step > 0; step /= 2) value = larger(value, __shfl_down_sync(~0u, value, step));
    return value;
}

__device__ inline float floor_of(float x) { return floorf(x); }
__device__ inline double floor_of(double x) { return floor(x); }
__device__ inline float ceil_of(float x) { return ceilf(x); }
__device__ inline double ceil_of(double x) { return ceil(x); }

// For values that other threads write meanwhile, where any order will do.
template <class T>
__device__ T peek(const T* at) {
#ifdef __CUDACC__
    return *static_cast<const volatile T*>(at);
#else
    return __atomic_load_n(at, __ATOMIC_RELAXED);
#endif
}
template <class T>
__device__ void poke(T* at, T value) {
#ifdef __CUDACC__
    *static_cast<volatile T*>(at) = value;
#else
    __atomic_store_n(at, value, __ATOMIC_RELAXED);
#endif
}

// The first place in `values`, ascending, begin..end-1, that does not hold less.
__device__ inline int64_t lower_bound(const int64_t* values, int64_t value, int64_t begin, int64_t end) {
    while (begin < end) {
        const int64_t middle = begin + (end - begin) / 2;
        if (values[middle] < value) begin = middle + 1;
        else end = middle;
    }
    return begin;
}

template <class T>
__device__ T* shared_memory() {
#ifdef __CUDACC__
    extern __shared__ __align__(16) unsigned char memory[];
    return reinterpret_cast<T*>(memory);
#else
    return static_cast<T*>(emulator::shared_memory());
#endif
}

}  // namespace smallobjects
