// Greedy non-maximum suppression.
#pragma once

#include "grid.h"

namespace smallobjects {

// boxes [count, 4] from the best to the worst score; kept [count].
inline void nms(const float* boxes, const int64_t* groups, int64_t count, float threshold, bool* kept) {
    BoxGrid grid(boxes, groups, count);
    for (int64_t i = 0; i < count; i++) {
        const Box box = box_at(boxes, i);
        kept[i] = true;
        if (!box.sound()) continue;
        grid.nearby(box, groups ? groups[i] : 0, threshold, [&](int64_t j) {
            const Box other = box_at(boxes, j);
            const float shared = intersection_of(box, other);
            kept[i] = !(shared > threshold * (box.area() + other.area() - shared));
            return !kept[i];
        });
        if (kept[i]) grid.insert(i);
    }
}

}  // namespace smallobjects
