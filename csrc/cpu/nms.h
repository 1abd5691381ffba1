// Greedy non-maximum suppression.
#pragma once

#include <vector>

#include "grid.h"
#include "parallel.h"

namespace smallobjects {

// boxes [count, 4] from the best to the worst score; kept [count].
//
// First, side by side, each box looks for the better boxes that overlap it too much, its rivals. Then the greedy order
// decides: a box stays if none of its rivals does. One with more rivals than are noted looks again, among those that have
// stayed so far. So memory follows the boxes, however much they overlap.
inline void nms(const float* boxes, const int64_t* groups, int64_t count, float threshold, bool* kept,
                const Parallel& parallel) {
    constexpr int64_t most = 3;
    struct Rivals {
        int64_t count = 0;
        int64_t boxes[most];
    };
    BoxGrid grid(boxes, groups, count);
    std::vector<Rivals> rivals(count);
    // Calls `found(j)` for each better box that overlaps box i too much, until it returns true.
    const auto look = [&](int64_t i, const auto& found) {
        const Box box = box_at(boxes, i);
        grid.nearby(box, groups ? groups[i] : 0, threshold,
                    [&](int64_t j, const Box& other) { return j < i && iou_of(box, other) > threshold && found(j); });
    };
    parallel(grid.size(), 256, [&](int64_t begin, int64_t end) {
        for (int64_t at = begin; at < end; at++) {
            const int64_t i = grid.box_number(at);
            look(i, [&](int64_t j) {
                if (rivals[i].count < most) rivals[i].boxes[rivals[i].count] = j;
                return ++rivals[i].count > most;
            });
        }
    });
    for (int64_t i = 0; i < count; i++) {
        kept[i] = true;
        if (rivals[i].count > most) {
            look(i, [&](int64_t) { return !(kept[i] = false); });
        } else {
            for (int64_t r = 0; r < rivals[i].count; r++) kept[i] = kept[i] && !kept[rivals[i].boxes[r]];
        }
        if (!kept[i]) grid.remove(i);
    }
}

}  // namespace smallobjects
