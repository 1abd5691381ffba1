// What kernels rely on, asked of the emulator itself. Given "race" it leaves out a barrier, which is the way to see that
// ThreadSanitizer, where this is compiled with it, finds such.

#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "emulator.h"

namespace {

int failures = 0;

void expect(bool holds, const char* what) {
    if (holds) return;
    std::printf("not so: %s\n", what);
    failures++;
}

// The sum of a block's numbers, halved in shared memory.
__global__ void block_sums(const int* values, int count, int* sums, bool with_barriers) {
    auto* shared = static_cast<int*>(emulator::shared_memory());
    const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    shared[threadIdx.x] = i < count ? values[i] : 0;
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
        if (with_barriers) __syncthreads();
        if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
    }
    if (threadIdx.x == 0) sums[blockIdx.x] = shared[0];
}

__global__ void warps(int* sums, unsigned* votes, int* any) {
    int sum = static_cast<int>(threadIdx.x);
    for (unsigned step = 16; step > 0; step /= 2) sum += __shfl_down_sync(~0u, sum, step);
    const unsigned vote = __ballot_sync(~0u, threadIdx.x % 2);
    if (threadIdx.x % 32 == 0) {
        sums[threadIdx.x / 32] = sum;
        votes[threadIdx.x / 32] = vote;
    }
    for (int round = 0; round < 3; round++) {
        const int found = __syncthreads_or(round == 1 && threadIdx.x == 5);
        if (threadIdx.x == blockDim.x - 1) any[round] = found;
    }
}

__global__ void count(unsigned long long* total, float* sum, int* highest) {
    atomicAdd(total, 1ull);
    atomicAdd(sum, 0.5f);
    atomicMax(highest, static_cast<int>(threadIdx.x));
}

__global__ void half_waits() {
    if (threadIdx.x % 2) __syncthreads();
}

}  // namespace

int main(int argc, char** argv) {
    const bool with_barriers = argc < 2 || std::strcmp(argv[1], "race") != 0;
    std::vector<int> values(150, 1), sums(3, -1);
    LAUNCH(block_sums, 3, 64, 64 * sizeof(int), nullptr, values.data(), 150, sums.data(), with_barriers);
    expect(sums == std::vector<int>{64, 64, 22} || !with_barriers, "barriers order what threads do in shared memory");

    std::vector<int> warp_sums(2), any(3);
    std::vector<unsigned> votes(2);
    LAUNCH(warps, 1, 64, 0, nullptr, warp_sums.data(), votes.data(), any.data());
    expect(warp_sums == std::vector<int>{496, 1520}, "lanes exchange values");
    expect(votes[0] == 0xAAAAAAAA && votes[1] == 0xAAAAAAAA, "lanes vote");
    expect(any == std::vector<int>{0, 1, 0}, "a block votes");

    unsigned long long total = 0;
    float sum = 0;
    int highest = 0;
    LAUNCH(count, 4, 50, 0, nullptr, &total, &sum, &highest);
    expect(total == 200 && sum == 100 && highest == 49, "atomics lose nothing");

    bool thrown = false;
    try {
        LAUNCH(half_waits, 1, 64, 0, nullptr);
    } catch (const std::runtime_error&) {
        thrown = true;
    }
    expect(thrown, "a barrier that some threads never reach is an error");
    return failures;
}
