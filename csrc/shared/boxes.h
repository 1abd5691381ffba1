// Boxes xyxy in pixels, float32. Compiled without contraction of multiply-adds, so that IoUs, and with them ties and
// thresholds, equal the plain PyTorch definition to the last bit.
#pragma once

#include "arithmetic.h"

namespace smallobjects {

struct Box {
    float x1, y1, x2, y2;

    EVERYWHERE float width() const { return x2 - x1; }
    EVERYWHERE float height() const { return y2 - y1; }
    EVERYWHERE float longer_side() const { return larger(width(), height()); }
    EVERYWHERE float area() const { return larger(width(), 0.0f) * larger(height(), 0.0f); }
    EVERYWHERE bool finite() const { return is_finite(x1) && is_finite(y1) && is_finite(x2) && is_finite(y2); }
    // Only such a box overlaps anything; the area of a finite box may overflow.
    EVERYWHERE bool sound() const { return finite() && area() > 0 && is_finite(area()); }
    EVERYWHERE double center_x() const { return (static_cast<double>(x1) + x2) / 2; }
    EVERYWHERE double center_y() const { return (static_cast<double>(y1) + y2) / 2; }
};

EVERYWHERE inline Box box_at(const float* boxes, int64_t i) {
    return {boxes[4 * i], boxes[4 * i + 1], boxes[4 * i + 2], boxes[4 * i + 3]};
}

EVERYWHERE inline float intersection_of(const Box& a, const Box& b) {
    const float width = smaller(a.x2, b.x2) - larger(a.x1, b.x1);
    const float height = smaller(a.y2, b.y2) - larger(a.y1, b.y1);
    return larger(width, 0.0f) * larger(height, 0.0f);
}

// Whether two sound boxes overlap. Written without branches: what the outcome is cannot be predicted.
EVERYWHERE inline bool meet(const Box& a, const Box& b) {
    return (a.x1 < b.x2) & (b.x1 < a.x2) & (a.y1 < b.y2) & (b.y1 < a.y2);
}

// Of two sound boxes.
EVERYWHERE inline float iou_of(const Box& a, const Box& b) {
    const float shared = intersection_of(a, b);
    return shared / (a.area() + b.area() - shared);
}

EVERYWHERE inline float squared_distance(const Box& a, const Box& b) {
    const float x = (a.x1 + a.x2) / 2 - (b.x1 + b.x2) / 2;
    const float y = (a.y1 + a.y2) / 2 - (b.y1 + b.y2) / 2;
    return x * x + y * y;
}

enum class Ties : int64_t { none = 0, all = 1, nearest = 2 };

// IoUs closer than this, relative, tie: exact ties on unrounded anchors are chaotic.
constexpr float tie = static_cast<float>(1 - 1e-5);

}  // namespace smallobjects
