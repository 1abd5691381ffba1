// Greedy non-maximum suppression, decided box by box in any order: a box goes if a better box that is kept overlaps it,
// and stays if every better box that overlaps it goes. Repeated until all is decided this is the greedy result.
#pragma once

#include "boxes.cuh"

namespace smallobjects {

enum Fate : uint8_t { undecided = 0, stays = 1, goes = 2 };

// Whether box `i` could be decided. Boxes go from the best to the worst.
__device__ inline bool decide(const Grid& grid, float threshold, int64_t i, uint8_t* fates) {
    const Box box = box_at(grid.boxes, i);
    Fate fate = stays;
    if (box.sound()) {
        grid.nearby(box, grid.group(i), threshold, [&](int64_t j) {
            const uint8_t other_fate = j < i ? peek(&fates[j]) : static_cast<uint8_t>(goes);
            if (other_fate == goes) return false;
            const Box other = box_at(grid.boxes, j);
            if (iou_of(box, other) > threshold) fate = other_fate == stays ? goes : undecided;
            return fate == goes;
        });
    }
    if (fate != undecided) poke(&fates[i], static_cast<uint8_t>(fate));
    return fate != undecided;
}

// One round over all boxes; a few decide nearly all. fates [count], zeroed before the first.
__global__ void nms_round(Grid grid, float threshold, uint8_t* fates) {
    for (int64_t i = this_thread(); i < grid.count; i += all_threads()) {
        if (fates[i] == undecided) decide(grid, threshold, i, fates);
    }
}

// What is left, however long the chains: one block, from the best to the worst, so that the host need not ask how many
// rounds it takes.
__global__ void __launch_bounds__(1024) nms_finish(Grid grid, float threshold, uint8_t* fates, bool* kept) {
    for (int64_t begin = 0; begin < grid.count; begin += blockDim.x) {
        const int64_t i = begin + threadIdx.x;
        bool waits = i < grid.count && fates[i] == undecided;
        while (__syncthreads_or(waits)) {
            if (waits) waits = !decide(grid, threshold, i, fates);
        }
        if (i < grid.count) kept[i] = fates[i] == stays;
    }
}

}  // namespace smallobjects
