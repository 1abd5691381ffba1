// Matches the anchors of regular grids: each target visits only the windows of cells with a possible match.
#pragma once

#include "../shared/anchors.h"
#include "matching.cuh"

namespace smallobjects {

// best [T] IoU of each target and windows [T, grids]; marks nearest ties in forced [P], zeroed.
__global__ void look_around(AnchorGrids grids, const float* targets, int64_t target_count, float min_iou, Ties ties,
                            float* best, AnchorWindow* windows, bool* forced) {
    for (int64_t t = this_thread(); t < target_count; t += all_threads()) {
        const Box target = box_at(targets, t);
        const bool sound = target.sound();
        float best_here = 0;
        for (int64_t g = 0; sound && g < grids.count; g++)
            best_here = larger(best_here, nearest_iou(target, grids.at(g)));
        for (int64_t g = 0; g < grids.count; g++) {
            AnchorWindow& window = windows[t * grids.count + g];
            window = {{0, -1}, {0, -1}};
            if (!sound) continue;
            const AnchorGrid grid = grids.at(g);
            const float iou = nearest_iou(target, grid);
            window = anchor_window(target, grid, min_iou, ties == Ties::all && iou > 0 && iou >= best_here * tie);
        }
        best[t] = best_here;
        if (ties != Ties::nearest || best_here <= 0) continue;
        const int64_t nearest = nearest_tie(target, grids, best_here);
        if (nearest >= 0) poke(&forced[nearest], true);
    }
}

// Of two candidates the larger code is the better: the higher IoU, of equal ones the lower target.
__device__ inline unsigned long long code_of(float iou, int64_t target) {
    return static_cast<unsigned long long>(__float_as_uint(iou)) << 32 |
           (0xFFFFFFFFull - static_cast<unsigned long long>(target));
}

// A warp for each target and grid; codes [P], zeroed.
__global__ void visit_windows(AnchorGrids grids, const float* targets, int64_t target_count, Ties ties,
                              const float* best, const AnchorWindow* windows, unsigned long long* codes, bool* forced) {
    for (int64_t i = this_warp(); i < target_count * grids.count; i += all_warps()) {
        const int64_t t = i / grids.count;
        const AnchorWindow window = windows[i];
        const int64_t columns = window.columns.last - window.columns.first + 1,
                      rows = window.rows.last - window.rows.first + 1;
        if (columns <= 0 || rows <= 0) continue;
        const AnchorGrid grid = grids.at(i % grids.count);
        const Box target = box_at(targets, t);
        for (int64_t cell = this_lane(); cell < rows * columns; cell += lanes) {
            const int64_t row = window.rows.first + cell / columns, column = window.columns.first + cell % columns;
            const float iou = iou_of(target, grid.anchor(row, column));
            if (!(iou > 0)) continue;
            const int64_t number = grid.number(row, column);
            atomicMax(&codes[number], code_of(iou, t));
            if (ties == Ties::all && iou >= best[t] * tie) poke(&forced[number], true);
        }
    }
}

// IoUs below min_iou may not all have been computed, but a forced anchor needs its best target in any case.
__global__ void settle_anchors(AnchorGrids grids, Grid targets, float min_iou, const unsigned long long* codes,
                               Matches matches) {
    for (int64_t g = 0; g < grids.count; g++) {
        const AnchorGrid grid = grids.at(g);
        for (int64_t cell = this_thread(); cell < grid.rows * grid.columns; cell += all_threads()) {
            const int64_t row = cell / grid.columns, column = cell % grid.columns, number = grid.number(row, column);
            const unsigned long long code = codes[number];
            const float iou = __uint_as_float(static_cast<unsigned>(code >> 32));
            if (code != 0 && iou >= min_iou) {
                matches.index[number] = static_cast<int64_t>(0xFFFFFFFFull - (code & 0xFFFFFFFFull));
                matches.iou[number] = iou;
            } else if (matches.forced[number]) {
                match_prior(targets, grid.anchor(row, column), 0.0f, number, matches);
            } else {
                matches.index[number] = -1;
                matches.iou[number] = 0;
            }
        }
    }
}

}  // namespace smallobjects
