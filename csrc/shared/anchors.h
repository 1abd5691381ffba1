// The anchors of regular grids, and which of them an IoU with a target can reach: the bound of csrc/cpu/grid.h.
#pragma once

#include "boxes.h"

namespace smallobjects {

// A range of cells along one axis; last < first: none.
struct Cells {
    int64_t first, last;
};

EVERYWHERE inline Cells cells_within(double center, double reach, double stride, double offset, int64_t count) {
    const double at = (center - offset) / stride, cells = reach / stride;
    const double first = held(ceil(at - cells), 0.0, static_cast<double>(count));
    const double last = held(floor(at + cells), -1.0, static_cast<double>(count - 1));
    return {static_cast<int64_t>(first), static_cast<int64_t>(last)};
}

EVERYWHERE inline int64_t nearest_cell(double center, double stride, double offset, int64_t count) {
    return static_cast<int64_t>(held(rint((center - offset) / stride), 0.0, count - 1.0));
}

// The regular grid of anchors of one size on one level; anchor (row, column) is number
// first + (row * columns + column) * step of the pyramid.
struct AnchorGrid {
    float stride_x, stride_y, offset_x, offset_y, width, height;
    int64_t columns, rows, first, step;

    EVERYWHERE bool empty() const { return columns == 0 || rows == 0; }
    EVERYWHERE Box anchor(int64_t row, int64_t column) const {
        const float x = static_cast<float>(column) * stride_x + offset_x;
        const float y = static_cast<float>(row) * stride_y + offset_y;
        return {x - width / 2, y - height / 2, x + width / 2, y + height / 2};
    }
    EVERYWHERE int64_t number(int64_t row, int64_t column) const { return first + (row * columns + column) * step; }
    EVERYWHERE int64_t nearest_column(double x) const { return nearest_cell(x, stride_x, offset_x, columns); }
    EVERYWHERE int64_t nearest_row(double y) const { return nearest_cell(y, stride_y, offset_y, rows); }
};

struct AnchorGrids {
    const float* sizes;    // [count, 2] width, height
    const float* grids;    // [count, 4] stride x, stride y, offset x, offset y
    const int64_t* cells;  // [count, 4] columns, rows, first, step
    int64_t count;

    EVERYWHERE AnchorGrid at(int64_t g) const {
        const float *size = sizes + 2 * g, *grid = grids + 4 * g;
        const int64_t* cell = cells + 4 * g;
        return {grid[0], grid[1], grid[2], grid[3], size[0], size[1], cell[0], cell[1], cell[2], cell[3]};
    }
    EVERYWHERE int64_t size() const { return count; }
};

// The anchors of one grid that matter to one target.
struct AnchorWindow {
    Cells columns, rows;
};

// IoU with the anchor whose center is nearest, on one grid the best.
EVERYWHERE inline float nearest_iou(const Box& target, const AnchorGrid& grid) {
    if (grid.empty()) return 0;
    return iou_of(target, grid.anchor(grid.nearest_row(target.center_y()), grid.nearest_column(target.center_x())));
}

EVERYWHERE inline AnchorWindow anchor_window(const Box& target, const AnchorGrid& grid, float min_iou, bool has_best) {
    const double margin = 1e-3;  // pixels by which windows are wider than the bound, for rounding
    if (grid.empty()) return {{0, -1}, {0, -1}};
    const double width = target.width(), height = target.height(), x = target.center_x(), y = target.center_y();
    const double shrink = (1.0 - min_iou) / (1.0 + min_iou), min_ratio = min_iou * tie;
    const bool may_match = smaller<double>(width, grid.width) >= min_ratio * larger<double>(width, grid.width) &&
                           smaller<double>(height, grid.height) >= min_ratio * larger<double>(height, grid.height);
    double reach_x = may_match ? (width + grid.width) / 2 * shrink : -1.0;
    double reach_y = may_match ? (height + grid.height) / 2 * shrink : -1.0;
    if (has_best) {
        // Where one box holds the other, IoU does not change with the distance: all these anchors tie for the best.
        const double off_x = fabs(grid.nearest_column(x) * static_cast<double>(grid.stride_x) + grid.offset_x - x);
        const double off_y = fabs(grid.nearest_row(y) * static_cast<double>(grid.stride_y) + grid.offset_y - y);
        reach_x = larger(reach_x, larger(fabs(width - grid.width) / 2, off_x));
        reach_y = larger(reach_y, larger(fabs(height - grid.height) / 2, off_y));
    }
    if (reach_x < 0 || reach_y < 0) return {{0, -1}, {0, -1}};
    return {cells_within(x, reach_x + margin, grid.stride_x, grid.offset_x, grid.columns),
            cells_within(y, reach_y + margin, grid.stride_y, grid.offset_y, grid.rows)};
}

// Of the anchors that tie for the best, the one with the nearest center, of these the first, -1 if there is none: on each
// grid among the cells around the center. `grids` has `size()` and `at(g)`.
template <class Grids>
EVERYWHERE int64_t nearest_tie(const Box& target, const Grids& grids, float best) {
    int64_t nearest = -1;
    float distance = 0;
    for (int64_t g = 0; g < static_cast<int64_t>(grids.size()); g++) {
        const AnchorGrid grid = grids.at(g);
        if (grid.empty()) continue;
        const int64_t middle_row = grid.nearest_row(target.center_y()),
                      middle_column = grid.nearest_column(target.center_x());
        for (int64_t row = larger<int64_t>(middle_row - 1, 0); row <= smaller(middle_row + 1, grid.rows - 1); row++) {
            for (int64_t column = larger<int64_t>(middle_column - 1, 0);
                 column <= smaller(middle_column + 1, grid.columns - 1); column++) {
                const Box anchor = grid.anchor(row, column);
                if (iou_of(target, anchor) < best * tie) continue;
                const float apart = squared_distance(target, anchor);
                const int64_t number = grid.number(row, column);
                if (nearest < 0 || apart < distance || (apart == distance && number < nearest)) {
                    nearest = number;
                    distance = apart;
                }
            }
        }
    }
    return nearest;
}

}  // namespace smallobjects
