// What a binding asks of the values in its tensors, which must be in the host's memory.
#pragma once

#include <cmath>

#include "checks.h"

namespace smallobjects {

inline void check_finite(const Tensor& boxes, const char* name) {
    const float* values = data<float>(boxes);
    for (int64_t i = 0; i < boxes.numel(); i++) {
        STD_TORCH_CHECK(std::isfinite(values[i]), name, " must be finite, got ", values[i], " in row ", i / 4);
    }
}

inline void check_range(const Tensor& index, const char* name, int64_t limit) {
    const int64_t* values = data<int64_t>(index);
    for (int64_t i = 0; i < index.numel(); i++) {
        STD_TORCH_CHECK(values[i] >= 0 && values[i] < limit, name, " must be in 0..", limit - 1, ", got ", values[i],
                        " at ", i);
    }
}

// How many anchors grids have whose cells [G, 4] are columns, rows, first and step.
inline int64_t count_anchors(const Tensor& cells) {
    const int64_t *all = data<int64_t>(cells), *end = all + cells.numel();
    int64_t count = 0;
    for (const int64_t* cell = all; cell != end; cell += 4) {
        STD_TORCH_CHECK(cell[0] >= 0 && cell[1] >= 0 && cell[2] >= 0 && cell[3] > 0,
                        "cells must not be negative, but are in row ", (cell - all) / 4);
        count += cell[0] * cell[1];
    }
    for (const int64_t* cell = all; cell != end; cell += 4) {
        STD_TORCH_CHECK(cell[0] * cell[1] == 0 || cell[2] + (cell[0] * cell[1] - 1) * cell[3] < count,
                        "cells must number ", count, " anchors");
    }
    return count;
}

inline void check_ascending(const Tensor& offsets, const char* name, int64_t total) {
    const int64_t *values = data<int64_t>(offsets), count = offsets.numel();
    STD_TORCH_CHECK(count > 0 && values[0] == 0 && values[count - 1] == total, name, " must go from 0 to ", total);
    for (int64_t i = 1; i < count; i++)
        STD_TORCH_CHECK(values[i] >= values[i - 1], name, " must not fall, but do at ", i);
}

// Offsets must be those that the windows' areas give.
inline void check_offsets(const Tensor& windows, const Tensor& offsets, const char* name) {
    check(offsets, name, ScalarType::Long, {windows.size(0) + 1});
    const int32_t* window = data<int32_t>(windows);
    const int64_t* at = data<int64_t>(offsets);
    STD_TORCH_CHECK(at[0] == 0, name, " must begin with 0, got ", at[0]);
    for (int64_t i = 0; i < windows.size(0); i++, window += 4) {
        const int64_t width = static_cast<int64_t>(window[2]) - window[0],
                      height = static_cast<int64_t>(window[3]) - window[1];
        STD_TORCH_CHECK(width >= 0 && height >= 0 && at[i + 1] - at[i] == width * height, name,
                        " must be the sums of the windows' areas, but are not at ", i, ": ", width, " x ", height,
                        " pixels in ", at[i + 1] - at[i]);
    }
}

inline void check_masks(const Tensor& windows, const Tensor& offsets, const Tensor& levels) {
    check(windows, "windows", ScalarType::Int, {any_size, 4});
    check_offsets(windows, offsets, "offsets");
    check(levels, "data", ScalarType::Byte, {data<int64_t>(offsets)[windows.size(0)]});
}

inline void check_inside(const Tensor& windows, int64_t height, int64_t width) {
    const int32_t* window = data<int32_t>(windows);
    for (int64_t i = 0; i < windows.size(0); i++, window += 4) {
        STD_TORCH_CHECK(window[0] >= 0 && window[1] >= 0 && window[2] <= width && window[3] <= height,
                        "windows must lie inside the canvas of ", height, " x ", width, " pixels; number ", i, " is ",
                        window[0], " ", window[1], " ", window[2], " ", window[3]);
    }
}

}  // namespace smallobjects
