// Greedy non-maximum suppression.
#pragma once

#include <vector>

#include "grid.h"
#include "parallel.h"

namespace smallobjects {

// boxes [count, 4] from the best to the worst score; kept [count].
//
// Block by block: side by side, each box of a block looks for a kept one of earlier blocks, which settles it, and for
// better ones of its own block, among which the greedy order then decides. Boxes that go leave the grid. So memory is
// bounded by the pairs of one block, however much boxes overlap.
inline void nms(const float* boxes, const int64_t* groups, int64_t count, float threshold, bool* kept, const Parallel& parallel) {
    constexpr int64_t block = 1024;
    BoxGrid grid(boxes, groups, count);
    std::vector<std::vector<int64_t>> rivals(std::min(block, count));
    for (int64_t start = 0; start < count; start += block) {
        const int64_t size = std::min(block, count - start);
        parallel(size, 64, [&](int64_t begin, int64_t end) {
            for (int64_t i = start + begin; i < start + end; i++) {
                std::vector<int64_t>& better = rivals[i - start];
                better.clear();
                kept[i] = true;
                const Box box = box_at(boxes, i);
                if (!box.sound()) continue;
                grid.nearby(box, groups ? groups[i] : 0, threshold, [&](int64_t j, const Box& other) {
                    const float shared = intersection_of(box, other);
                    if (j >= i || !(shared > threshold * (box.area() + other.area() - shared))) return false;
                    if (j < start) kept[i] = false;
                    else better.push_back(j);
                    return !kept[i];
                });
            }
        });
        for (int64_t i = start; i < start + size; i++) {
            for (const int64_t j : rivals[i - start]) kept[i] = kept[i] && !kept[j];
            if (!kept[i]) grid.remove(i);
        }
    }
}

}  // namespace smallobjects
