// IoU of masks: only pairs whose windows meet, only where they meet.
#pragma once

#include "boxes.cuh"
#include "masks.cuh"

namespace smallobjects {

// boxes [count, 4] of windows [count], for the grid.
__global__ void boxes_of_windows(const Window* windows, int64_t count, float* boxes) {
    for (int64_t i = this_thread(); i < count; i += all_threads()) {
        boxes[4 * i] = static_cast<float>(windows[i].x1);
        boxes[4 * i + 1] = static_cast<float>(windows[i].y1);
        boxes[4 * i + 2] = static_cast<float>(windows[i].x2);
        boxes[4 * i + 3] = static_cast<float>(windows[i].y2);
    }
}

__device__ inline Window common_window(const Window& a, const Window& b) {
    return {larger(a.x1, b.x1), larger(a.y1, b.y1), smaller(a.x2, b.x2), smaller(a.y2, b.y2)};
}

// Calls `visit(j)` for the columns whose windows meet that of row `i`, some of them twice.
template <class Visit>
__device__ void each_column(const Masks& rows, const Masks& columns, const Grid& grid, const float* row_boxes,
                            int64_t i, const Visit& visit) {
    const Box box = box_at(row_boxes, i);
    if (!box.sound()) return;
    grid.nearby(box, 0, 0.0, [&](int64_t j) {
        const Window shared = common_window(rows.window(i), columns.window(j));
        if (shared.width() > 0 && shared.height() > 0) visit(j);
        return false;
    });
}

// counts [rows] of pairs.
__global__ void count_pairs(Masks rows, Masks columns, Grid grid, const float* row_boxes, int64_t* counts) {
    for (int64_t i = this_thread(); i < rows.count; i += all_threads()) {
        int64_t count = 0;
        each_column(rows, columns, grid, row_boxes, i, [&](int64_t) { count++; });
        counts[i] = count;
    }
}

// pairs [P], row * columns + column, those of a row from its place in `offsets [rows]` on.
__global__ void list_pairs(Masks rows, Masks columns, Grid grid, const float* row_boxes, const int64_t* offsets,
                           int64_t* pairs) {
    for (int64_t i = this_thread(); i < rows.count; i += all_threads()) {
        int64_t at = offsets[i];
        each_column(rows, columns, grid, row_boxes, i, [&](int64_t j) { pairs[at++] = i * columns.count + j; });
    }
}

// shared [P] pixels of each of the sorted pairs, 0 for one that is there before. A warp for each pair.
__global__ void share_pixels(Masks rows, Masks columns, const int64_t* pairs, int64_t pair_count, int64_t* shared) {
    for (int64_t p = this_warp(); p < pair_count; p += all_warps()) {
        const int64_t i = pairs[p] / columns.count, j = pairs[p] % columns.count;
        const Window one = rows.window(i), other = columns.window(j), common = common_window(one, other);
        int64_t count = 0;
        for (int64_t at = this_lane(); at < common.area(); at += lanes) {
            const int64_t x = common.x1 + at % common.width(), y = common.y1 + at / common.width();
            const uint8_t first = rows.pixels(i)[(y - one.y1) * one.width() + x - one.x1];
            const uint8_t second = columns.pixels(j)[(y - other.y1) * other.width() + x - other.x1];
            count += (first & second) >> 7;
        }
        count = warp_sum(count);
        if (this_lane() == 0) shared[p] = p > 0 && pairs[p - 1] == pairs[p] ? 0 : count;
    }
}

// row, column and IoU of those pairs, `hits [H]`, that share a pixel.
__global__ void write_overlaps(const int64_t* pairs, const int64_t* shared, const int64_t* hits, int64_t hit_count,
                               int64_t column_count, const int64_t* row_areas, const int64_t* column_areas,
                               int64_t* rows, int64_t* columns, float* iou) {
    for (int64_t h = this_thread(); h < hit_count; h += all_threads()) {
        const int64_t p = hits[h], i = pairs[p] / column_count, j = pairs[p] % column_count;
        rows[h] = i;
        columns[h] = j;
        iou[h] = static_cast<float>(shared[p]) / static_cast<float>(row_areas[i] + column_areas[j] - shared[p]);
    }
}

}  // namespace smallobjects
