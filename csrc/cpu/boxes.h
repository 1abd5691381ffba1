// Boxes xyxy in pixels, float32. Compiled without contraction of multiply-adds, so that IoUs, and with them ties and
// thresholds, equal the plain PyTorch definition to the last bit.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace smallobjects {

struct Box {
    float x1, y1, x2, y2;

    float area() const { return std::max(x2 - x1, 0.0f) * std::max(y2 - y1, 0.0f); }
    bool finite() const { return std::isfinite(x1) && std::isfinite(y1) && std::isfinite(x2) && std::isfinite(y2); }
    // Only such a box overlaps anything; the area of a finite box may overflow.
    bool sound() const { return finite() && area() > 0 && std::isfinite(area()); }
};

inline Box box_at(const float* boxes, int64_t i) {
    return {boxes[4 * i], boxes[4 * i + 1], boxes[4 * i + 2], boxes[4 * i + 3]};
}

inline float intersection_of(const Box& a, const Box& b) {
    const float width = std::min(a.x2, b.x2) - std::max(a.x1, b.x1);
    const float height = std::min(a.y2, b.y2) - std::max(a.y1, b.y1);
    return std::max(width, 0.0f) * std::max(height, 0.0f);
}

// Written without branches: what the outcome is cannot be predicted.
inline bool meet(const Box& a, const Box& b) { return (a.x1 < b.x2) & (b.x1 < a.x2) & (a.y1 < b.y2) & (b.y1 < a.y2); }

// Of two sound boxes.
inline float iou_of(const Box& a, const Box& b) {
    const float shared = intersection_of(a, b);
    return shared / (a.area() + b.area() - shared);
}

inline float squared_distance(const Box& a, const Box& b) {
    const float x = (a.x1 + a.x2) / 2 - (b.x1 + b.x2) / 2;
    const float y = (a.y1 + a.y2) / 2 - (b.y1 + b.y2) / 2;
    return x * x + y * y;
}

}  // namespace smallobjects
