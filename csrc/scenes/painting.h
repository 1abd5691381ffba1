// Things painted one over the other. What is computed: datasets/synthetic/reference.py, paint.
#pragma once

#include <cstdint>

#include "../shared/windows.h"

namespace smallobjects {

// As in datasets/synthetic/_native.py.
struct Coverage {
    const Window* windows;   // [M], on the canvas
    const int64_t* offsets;  // [M + 1]
    const uint8_t* levels;
    int64_t count, num_levels;
    int64_t height, width;  // of the canvas

    const uint8_t* pixels(int64_t i) const { return levels + offsets[i]; }
};

// canvas [H, W, 3], labels [H, W]; colors [M, 3] at most 255 x 256, numbers [M].
template <class Value>
void paint(const Coverage& coverage, const Value* colors, const uint16_t* numbers, Value* canvas, uint16_t* labels) {
    for (int64_t i = 0; i < coverage.count; i++) {
        const Window& window = coverage.windows[i];
        const uint8_t* level = coverage.pixels(i);
        const Value* color = colors + 3 * i;
        for (int64_t y = window.y1; y < window.y2; y++) {
            for (int64_t x = window.x1; x < window.x2; x++) {
                const uint32_t weight = *level++;
                if (weight == 0) continue;
                Value* pixel = canvas + 3 * (y * coverage.width + x);
                for (int channel = 0; channel < 3; channel++) {
                    pixel[channel] =
                        static_cast<Value>((pixel[channel] * (255 - weight) + color[channel] * weight + 127) / 255);
                }
                if (weight >= inside) labels[y * coverage.width + x] = numbers[i];
            }
        }
    }
}

}  // namespace smallobjects
