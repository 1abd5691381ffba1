// What masks kept as windows are made of.
#pragma once

#include "arithmetic.h"

namespace smallobjects {

struct Window {
    int32_t x1, y1, x2, y2;

    EVERYWHERE int64_t width() const { return static_cast<int64_t>(x2) - x1; }
    EVERYWHERE int64_t height() const { return static_cast<int64_t>(y2) - y1; }
    EVERYWHERE int64_t area() const { return width() * height(); }
    EVERYWHERE bool holds(int64_t x, int64_t y) const { return x >= x1 && x < x2 && y >= y1 && y < y2; }
    EVERYWHERE bool inside(int64_t canvas_height, int64_t canvas_width) const {
        return x1 >= 0 && y1 >= 0 && x2 <= canvas_width && y2 <= canvas_height;
    }
};

constexpr uint8_t inside = 128;  // the level from which on a pixel belongs to its mask

// NaN becomes 0.
EVERYWHERE inline uint8_t level_from(float value) { return static_cast<uint8_t>(held(rintf(value), 0.0f, 255.0f)); }

}  // namespace smallobjects
