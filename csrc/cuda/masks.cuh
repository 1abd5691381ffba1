// Masks kept as windows: sampled, drawn, measured, picked. What is computed: maskrcnn/ops/reference_masks.py.
#pragma once

#include "../shared/windows.h"
#include "images.cuh"
#include "pooling.cuh"

namespace smallobjects {

// Masks to read (of const uint8_t) or to draw.
template <class Level>
struct MaskArrays {
    const Window* windows;   // [count]
    const int64_t* offsets;  // [count + 1]
    Level* data;             // [size]
    int64_t count, size;

    // Empty where window, offsets and data do not belong together: to complain would mean to wait for the GPU.
    __device__ Window window(int64_t i) const {
        const Window window = windows[i];
        const int64_t begin = offsets[i], end = offsets[i + 1];
        const bool fits =
            window.width() >= 0 && window.height() >= 0 && begin >= 0 && end <= size && end - begin == window.area();
        return fits ? window : Window{0, 0, 0, 0};
    }
    __device__ Level* pixels(int64_t i) const { return data + offsets[i]; }
};
using Masks = MaskArrays<const uint8_t>;
using Drawing = MaskArrays<uint8_t>;

// result [K, S, S]: RoIAlign of masks `index [K]` at `boxes`; pixels outside the canvas (height, width) do not count,
// those outside a mask's window are 0.
__global__ void sample_masks(Masks masks, int64_t height, int64_t width, const float* boxes, const int64_t* index,
                             int64_t count, RoiAlign rule, bool soft, float* result) {
    const Bins bins = rule.bins;
    const int64_t each = bins.rows * bins.columns;
    for (int64_t at = this_thread(); at < count * each; at += all_threads()) {
        const int64_t k = at / each, bin_row = at / bins.columns % bins.rows, bin_column = at % bins.columns;
        const float* box = boxes + 4 * k;
        if (index[k] < 0 || index[k] >= masks.count ||
            !(is_finite(box[0]) && is_finite(box[1]) && is_finite(box[2]) && is_finite(box[3]))) {
            result[at] = nanf("");
            continue;
        }
        const Window window = masks.window(index[k]);
        const uint8_t* data = masks.pixels(index[k]);
        const Axis<float> rows = rule.axis<float>(box[1], box[3], 1.0, height, bins.rows, bin_row);
        const Axis<float> columns = rule.axis<float>(box[0], box[2], 1.0, width, bins.columns, bin_column);
        float sum = 0;
        for (int64_t i = rows.begin; i < rows.end; i++) {
            const float v = rows.at(i);
            const Taps<float> y(v, height);
            if (!rows.inside(v) || y.high < window.y1 || y.low >= window.y2) continue;
            for (int64_t j = columns.begin; j < columns.end; j++) {
                const float u = columns.at(j);
                const Taps<float> x(u, width);
                if (!columns.inside(u)) continue;
                const auto level = [&](int64_t column, int64_t row) {
                    return window.holds(column, row)
                               ? static_cast<float>(data[(row - window.y1) * window.width() + column - window.x1])
                               : 0.0f;
                };
                sum += level(x.low, y.low) * ((1 - y.fraction) * (1 - x.fraction)) +
                       level(x.high, y.low) * ((1 - y.fraction) * x.fraction) +
                       level(x.low, y.high) * (y.fraction * (1 - x.fraction)) +
                       level(x.high, y.high) * (y.fraction * x.fraction);
            }
        }
        const float mean = sum / static_cast<float>(larger(rows.samples * columns.samples, int64_t{1})) / 255;
        result[at] = soft ? mean : static_cast<float>(mean >= 0.5f);
    }
}

// Data of the drawing: `level(i, x, y)` at each pixel; a block for each mask, its threads over the pixels.
template <class Level>
__global__ void draw(Drawing masks, Level level) {
    for (int64_t i = blockIdx.x; i < masks.count; i += gridDim.x) {
        const Window window = masks.window(i);
        for (int64_t p = threadIdx.x; p < window.area(); p += blockDim.x) {
            masks.pixels(i)[p] = level(i, window.x1 + p % window.width(), window.y1 + p / window.width());
        }
    }
}

// Probabilities [count, side, side] put into their boxes.
struct Pasted {
    const float* probabilities;
    const float* boxes;
    int64_t side;

    struct Tap {
        int64_t low, high;
        float fraction;
    };
    __device__ Tap tap(int64_t pixel, float start, float end) const {
        const float scale = static_cast<float>(side) / larger(end - start, 1e-6f);
        const float at =
            held((static_cast<float>(pixel) + 0.5f - start) * scale - 0.5f, 0.0f, static_cast<float>(side - 1));
        const int64_t low = smaller(static_cast<int64_t>(at), larger<int64_t>(side - 2, 0));
        return {low, smaller(low + 1, side - 1), at - static_cast<float>(low)};
    }
    __device__ uint8_t operator()(int64_t i, int64_t x, int64_t y) const {
        const float* box = boxes + 4 * i;
        const Tap column = tap(x, box[0], box[2]), row = tap(y, box[1], box[3]);
        const float *above = probabilities + (i * side + row.low) * side,
                    *below = probabilities + (i * side + row.high) * side;
        const float upper = above[column.low] * (1 - column.fraction) + above[column.high] * column.fraction;
        const float lower = below[column.low] * (1 - column.fraction) + below[column.high] * column.fraction;
        return level_from((upper * (1 - row.fraction) + lower * row.fraction) * 255);
    }
};

// The masks as new pixels see them.
struct Warped {
    Masks masks;
    Sight sight;

    __device__ uint8_t operator()(int64_t i, int64_t x, int64_t y) const {
        float sum = 0;
        sight.each(x, y, masks.window(i), [&](const Point& point) { sum += point.value(masks.pixels(i)); });
        return level_from(sight.mean(sum));
    }
};

// windows [count] and areas [count] of the masks of `index`; empty where there is no such mask.
__global__ void pick_windows(Masks masks, const int64_t* index, int64_t count, Window* windows, int64_t* areas) {
    for (int64_t k = this_thread(); k < count; k += all_threads()) {
        windows[k] = index[k] >= 0 && index[k] < masks.count ? masks.window(index[k]) : Window{0, 0, 0, 0};
        areas[k] = windows[k].area();
    }
}

// The masks of `index` in their own windows.
struct Picked {
    Masks masks;
    const int64_t* index;

    __device__ uint8_t operator()(int64_t k, int64_t x, int64_t y) const {
        const Window& window = masks.windows[index[k]];
        return masks.pixels(index[k])[(y - window.y1) * window.width() + x - window.x1];
    }
};

// areas [count] in pixels inside and their tight boxes [count], zeros where there are none. A warp for each mask.
__global__ void measure_masks(Masks masks, int64_t* areas, Window* boxes) {
    for (int64_t i = this_warp(); i < masks.count; i += all_warps()) {
        const Window window = masks.window(i);
        Window box = {INT32_MAX, INT32_MAX, INT32_MIN, INT32_MIN};
        int64_t area = 0;
        for (int64_t p = this_lane(); p < window.area(); p += lanes) {
            if (masks.pixels(i)[p] < inside) continue;
            const int32_t x = static_cast<int32_t>(window.x1 + p % window.width()),
                          y = static_cast<int32_t>(window.y1 + p / window.width());
            box = {smaller(box.x1, x), smaller(box.y1, y), larger(box.x2, x + 1), larger(box.y2, y + 1)};
            area++;
        }
        area = warp_sum(area);
        box = {warp_min(box.x1), warp_min(box.y1), warp_max(box.x2), warp_max(box.y2)};
        if (this_lane() != 0) continue;
        areas[i] = area;
        boxes[i] = area > 0 ? box : Window{0, 0, 0, 0};
    }
}

}  // namespace smallobjects
