// Masks kept as windows: sampled, pasted, warped, measured, picked, compared, painted. What is computed: maskrcnn/ops/reference_masks.py.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <unordered_map>
#include <vector>

#include "../shared/windows.h"
#include "grid.h"
#include "parallel.h"
#include "pooling.h"
#include "warping.h"

namespace smallobjects {

struct Masks {
    const Window* windows;
    const int64_t* offsets;
    const uint8_t* data;
    int64_t count;

    const uint8_t* pixels(int64_t i) const { return data + offsets[i]; }
};

// How many of `count` masks a thread must get at least, where a pixel costs next to nothing: about 0.1 ms of work. On a busy
// machine threads wait for each other for milliseconds.
inline int64_t worth_a_thread(const int64_t* offsets, int64_t count) {
    constexpr int64_t pixels = 1 << 20;
    return std::max<int64_t>(1, pixels * count / std::max<int64_t>(1, offsets[count]));
}

// result [K, S, S]: RoIAlign of masks `index [K]` at `boxes`; pixels outside the canvas (height, width) do not count,
// those outside a mask's window are 0.
inline void sample_masks(const Masks& masks, int64_t height, int64_t width, const float* boxes, const int64_t* index,
                         int64_t count, const RoiAlign& rule, bool soft, float* result, const Parallel& parallel) {
    parallel(count, 8, [&](int64_t begin, int64_t end) {
        Axis<float> rows, columns;
        std::vector<float> line;
        for (int64_t k = begin; k < end; k++) {
            const Window& window = masks.windows[index[k]];
            const uint8_t* data = masks.pixels(index[k]);
            rule.place(boxes[4 * k + 1], boxes[4 * k + 3], 1.0, height, rule.bins.rows, rows);
            rule.place(boxes[4 * k], boxes[4 * k + 2], 1.0, width, rule.bins.columns, columns);
            line.resize(window.width());
            float* out = result + k * rule.bins.rows * rule.bins.columns;
            for (const Span& row : rows.bins) {
                std::fill(line.begin(), line.end(), 0.0f);
                const int64_t top = std::max<int64_t>(row.first, window.y1),
                              bottom = std::min<int64_t>(row.first + row.count, window.y2);
                for (int64_t y = top; y < bottom; y++) {
                    const float weight = rows.weights[row.weight + y - row.first] / 255;
                    const uint8_t* from = data + (y - window.y1) * window.width();
                    for (int64_t x = 0; x < window.width(); x++) line[x] += weight * from[x];
                }
                for (const Span& column : columns.bins) {
                    const int64_t left = std::max<int64_t>(column.first, window.x1),
                                  right = std::min<int64_t>(column.first + column.count, window.x2);
                    float sum = 0;
                    for (int64_t x = left; x < right; x++)
                        sum += columns.weights[column.weight + x - column.first] * line[x - window.x1];
                    *out++ = soft ? sum : static_cast<float>(sum >= 0.5f);
                }
            }
        }
    });
}

// data of `windows [count]`: probabilities [count, S, S] put into their boxes.
inline void paste_masks(const float* probabilities, int64_t side, const float* boxes, const Window* windows,
                        const int64_t* offsets, int64_t count, uint8_t* data, const Parallel& parallel) {
    parallel(count, 8, [&](int64_t begin, int64_t end) {
        const float last = static_cast<float>(side - 1);
        struct Tap {
            int64_t low, high;
            float fraction;
        };
        std::vector<Tap> columns;
        auto tap = [&](int64_t pixel, float start, float scale) {
            const float at = std::min(std::max(0.0f, (static_cast<float>(pixel) + 0.5f - start) * scale - 0.5f), last);
            const int64_t low = std::min(static_cast<int64_t>(at), std::max<int64_t>(side - 2, 0));
            return Tap{low, std::min(low + 1, side - 1), at - static_cast<float>(low)};
        };
        for (int64_t i = begin; i < end; i++) {
            const Window& window = windows[i];
            const float* box = boxes + 4 * i;
            const float* values = probabilities + i * side * side;
            const float scale_x = static_cast<float>(side) / std::max(box[2] - box[0], 1e-6f);
            const float scale_y = static_cast<float>(side) / std::max(box[3] - box[1], 1e-6f);
            columns.clear();
            for (int64_t x = window.x1; x < window.x2; x++) columns.push_back(tap(x, box[0], scale_x));
            uint8_t* out = data + offsets[i];
            for (int64_t y = window.y1; y < window.y2; y++) {
                const Tap row = tap(y, box[1], scale_y);
                const float* above = values + row.low * side;
                const float* below = values + row.high * side;
                for (const Tap& column : columns) {
                    const float f = column.fraction;
                    const float upper = above[column.low] * (1 - f) + above[column.high] * f;
                    const float lower = below[column.low] * (1 - f) + below[column.high] * f;
                    *out++ = level_from((upper * (1 - row.fraction) + lower * row.fraction) * 255);
                }
            }
        }
    });
}

// data of `windows`: the masks where `matrix [2, 3]` leads from new to old continuous coordinates; each pixel the mean of
// samples x samples.
inline void warp_masks(const Masks& masks, const double* matrix, const Window* windows, const int64_t* offsets,
                       int64_t samples, uint8_t* data, const Parallel& parallel) {
    parallel(masks.count, 8, [&](int64_t begin, int64_t end) {
        Warp<uint8_t> warp(Affine::of(matrix), samples, Border::constant, 1);
        for (int64_t i = begin; i < end; i++)
            warp.draw(masks.pixels(i), masks.windows[i], windows[i], data + offsets[i], 0);
    });
}

inline int64_t count_inside(const uint8_t* at, const uint8_t* end) {
    int64_t total = 0;
    while (at < end) {
        // Not more than a byte can count, so that compilers add bytes, many at once.
        const uint8_t* stop = at + std::min<int64_t>(end - at, 240);
        uint8_t count = 0;
        for (; at < stop; at++) count += *at >> 7;
        total += count;
    }
    return total;
}

inline bool any_inside_of_eight(const uint8_t* at) {
    uint64_t levels;
    std::memcpy(&levels, at, sizeof levels);
    return (levels & 0x8080808080808080) != 0;
}

// The first pixel inside; `end` if there is none.
inline const uint8_t* first_inside(const uint8_t* at, const uint8_t* end) {
    while (end - at >= 8 && !any_inside_of_eight(at)) at += 8;
    while (at < end && *at < inside) at++;
    return at;
}

// The place after the last pixel inside; `begin` if there is none.
inline const uint8_t* last_inside(const uint8_t* begin, const uint8_t* at) {
    while (at - begin >= 8 && !any_inside_of_eight(at - 8)) at -= 8;
    while (at > begin && at[-1] < inside) at--;
    return at;
}

// The tight box of a mask with pixels inside. Rows are read only beyond the extent of the rows before them.
inline Window box_inside(const Window& window, const uint8_t* data) {
    const int64_t width = window.width();
    const uint8_t* end = data + window.area();
    const int64_t top = (first_inside(data, end) - data) / width,
                  bottom = (last_inside(data, end) - 1 - data) / width + 1;
    int64_t left = width, right = 0;
    for (int64_t y = top; y < bottom && (left > 0 || right < width); y++) {
        const uint8_t* row = data + y * width;
        left = first_inside(row, row + left) - row;
        right = last_inside(row + right, row + width) - row;
    }
    return {static_cast<int32_t>(window.x1 + left), static_cast<int32_t>(window.y1 + top),
            static_cast<int32_t>(window.x1 + right), static_cast<int32_t>(window.y1 + bottom)};
}

// areas [count] in pixels inside and their tight boxes [count], zeros where there are none.
inline void measure_masks(const Masks& masks, int64_t* areas, Window* boxes, const Parallel& parallel) {
    parallel(masks.count, worth_a_thread(masks.offsets, masks.count), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) {
            areas[i] = count_inside(masks.pixels(i), masks.data + masks.offsets[i + 1]);
            boxes[i] = areas[i] > 0 ? box_inside(masks.windows[i], masks.pixels(i)) : Window{0, 0, 0, 0};
        }
    });
}

// data of the masks of `index [count]`, which begin at `offsets [count + 1]`.
inline void pick_masks(const Masks& masks, const int64_t* index, int64_t count, const int64_t* offsets, uint8_t* data,
                       const Parallel& parallel) {
    parallel(count, worth_a_thread(offsets, count), [&](int64_t begin, int64_t end) {
        for (int64_t k = begin; k < end; k++)
            std::copy_n(masks.pixels(index[k]), offsets[k + 1] - offsets[k], data + offsets[k]);
    });
}

struct MaskOverlap {
    int64_t row, column;
    float iou;
};

inline std::vector<int64_t> mask_areas(const Masks& masks) {
    std::vector<int64_t> areas(masks.count);
    for (int64_t i = 0; i < masks.count; i++)
        areas[i] = count_inside(masks.pixels(i), masks.data + masks.offsets[i + 1]);
    return areas;
}

inline int64_t shared_pixels(const Masks& one, int64_t i, const Masks& other, int64_t j) {
    const Window &a = one.windows[i], &b = other.windows[j];
    const int64_t left = std::max(a.x1, b.x1), right = std::min(a.x2, b.x2);
    int64_t shared = 0;
    for (int64_t y = std::max(a.y1, b.y1); y < std::min(a.y2, b.y2); y++) {
        const uint8_t* first = one.pixels(i) + (y - a.y1) * a.width() + left - a.x1;
        const uint8_t* second = other.pixels(j) + (y - b.y1) * b.width() + left - b.x1;
        for (int64_t x = 0; x < right - left; x++) shared += (first[x] & second[x]) >> 7;
    }
    return shared;
}

// All pairs that share a pixel, by row, then column.
inline std::vector<MaskOverlap> mask_iou(const Masks& rows, const Masks& columns, const Parallel& parallel) {
    std::vector<float> boxes(4 * columns.count);
    auto box_of = [](const Window& w) {
        return Box{static_cast<float>(w.x1), static_cast<float>(w.y1), static_cast<float>(w.x2),
                   static_cast<float>(w.y2)};
    };
    for (int64_t j = 0; j < columns.count; j++) {
        const Box box = box_of(columns.windows[j]);
        std::copy_n(&box.x1, 4, &boxes[4 * j]);
    }
    BoxGrid grid(boxes.data(), nullptr, columns.count);
    const std::vector<int64_t> row_areas = mask_areas(rows), column_areas = mask_areas(columns);
    std::vector<std::vector<MaskOverlap>> found(rows.count);
    parallel(rows.count, 16, [&](int64_t begin, int64_t end) {
        std::vector<int64_t> candidates;
        for (int64_t i = begin; i < end; i++) {
            if (row_areas[i] == 0) continue;
            candidates.clear();
            grid.nearby(box_of(rows.windows[i]), 0, 0.0, [&](int64_t j, const Box&) {
                candidates.push_back(j);
                return false;
            });
            std::sort(candidates.begin(), candidates.end());
            candidates.erase(std::unique(candidates.begin(), candidates.end()), candidates.end());
            for (const int64_t j : candidates) {
                const int64_t shared = shared_pixels(rows, i, columns, j);
                if (shared == 0) continue;
                const int64_t together = row_areas[i] + column_areas[j] - shared;
                found[i].push_back({i, j, static_cast<float>(shared) / static_cast<float>(together)});
            }
        }
    });
    std::vector<MaskOverlap> all;
    for (const auto& some : found) all.insert(all.end(), some.begin(), some.end());
    return all;
}

// labels [height, width], zeroed: the masks painted, earlier ones on top, those kept of which more than
// `min_visible_fraction` is still free.
inline void label_image(const Masks& masks, int64_t width, double min_visible_fraction, int32_t* labels, bool* kept) {
    int32_t number = 0;
    for (int64_t i = 0; i < masks.count; i++) {
        const Window& window = masks.windows[i];
        auto each = [&](auto&& visit) {
            const uint8_t* level = masks.pixels(i);
            for (int64_t y = window.y1; y < window.y2; y++) {
                for (int64_t x = window.x1; x < window.x2; x++, level++) {
                    if (*level >= inside) visit(labels[y * width + x]);
                }
            }
        };
        int64_t visible = 0, total = 0;
        each([&](const int32_t& label) {
            total++;
            visible += label == 0;
        });
        kept[i] = static_cast<double>(visible) > min_visible_fraction * static_cast<double>(total);
        if (!kept[i]) continue;
        number++;
        each([&](int32_t& label) {
            if (label == 0) label = number;
        });
    }
}

// Bounding windows of the pixels of each of `ids [count]` in an image; zeros where it is not there.
inline std::vector<Window> windows_of_labels(const int32_t* labels, int64_t height, int64_t width, const int64_t* ids,
                                             int64_t count) {
    std::unordered_map<int64_t, int64_t> places;
    for (int64_t i = 0; i < count; i++) places.emplace(ids[i], i);
    std::vector<Window> windows(count, Window{0, 0, 0, 0});
    for (int64_t y = 0; y < height; y++) {
        const int32_t* line = labels + y * width;
        for (int64_t x = 0; x < width;) {
            const int64_t start = x;
            const int32_t label = line[x];
            while (x < width && line[x] == label) x++;
            const auto place = label == 0 ? places.end() : places.find(label);
            if (place == places.end()) continue;
            Window& window = windows[place->second];
            if (window.area() == 0) {
                window = {static_cast<int32_t>(start), static_cast<int32_t>(y), static_cast<int32_t>(x),
                          static_cast<int32_t>(y + 1)};
            } else {
                window.x1 = std::min(window.x1, static_cast<int32_t>(start));
                window.x2 = std::max(window.x2, static_cast<int32_t>(x));
                window.y2 = static_cast<int32_t>(y + 1);
            }
        }
    }
    return windows;
}

inline void cut_labels(const int32_t* labels, int64_t width, const int64_t* ids, const Window* windows,
                       const int64_t* offsets, int64_t count, uint8_t* data, const Parallel& parallel) {
    parallel(count, 16, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) {
            const Window& window = windows[i];
            uint8_t* out = data + offsets[i];
            for (int64_t y = window.y1; y < window.y2; y++) {
                for (int64_t x = window.x1; x < window.x2; x++) *out++ = labels[y * width + x] == ids[i] ? 255 : 0;
            }
        }
    });
}

}  // namespace smallobjects
