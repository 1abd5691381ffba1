// The best truth of each prior, without a dense matrix. What is computed: maskrcnn/ops/reference.py.
#pragma once

#include <vector>

#include "grid.h"
#include "parallel.h"

namespace smallobjects {

enum class Ties : int64_t { none = 0, all = 1, nearest = 2 };

// IoUs closer than this, relative, tie: exact ties on unrounded anchors are chaotic.
constexpr float tie = static_cast<float>(1 - 1e-5);

// What P priors match: index [P], iou [P], forced [P].
struct Matches {
    int64_t* index;
    float* iou;
    bool* forced;

    void clear(int64_t p) const {
        index[p] = -1;
        iou[p] = 0;
    }
    void take_better(int64_t p, int64_t truth, float value) const {
        if (value > iou[p] || (value == iou[p] && value > 0 && truth < index[p])) {
            index[p] = truth;
            iou[p] = value;
        }
    }
};

class Truths {
public:
    Truths(const float* boxes, int64_t count) : grid_(boxes, nullptr, count) {}

    // Writes the best truth of a prior, none if it is below `min_iou`.
    void match(const Box& prior, int64_t p, float min_iou, const Matches& matches) const {
        matches.clear(p);
        if (!prior.sound()) return;
        grid_.nearby(prior, 0, min_iou, [&](int64_t i, const Box& truth) {
            matches.take_better(p, i, iou_of(truth, prior));
            return false;
        });
        if (matches.iou[p] < min_iou) matches.clear(p);
    }

private:
    BoxGrid grid_;
};

// Marks the priors that each truth overlaps best.
inline void force_boxes(const float* priors, int64_t prior_count, const float* truths, int64_t truth_count, Ties ties,
                        bool* forced) {
    BoxGrid grid(priors, nullptr, prior_count);
    std::vector<std::pair<int64_t, float>> overlaps;
    for (int64_t t = 0; t < truth_count; t++) {
        const Box truth = box_at(truths, t);
        if (!truth.sound()) continue;
        overlaps.clear();
        float best = 0;
        grid.nearby(truth, 0, 0.0, [&](int64_t p, const Box& prior) {
            const float iou = iou_of(truth, prior);
            if (iou > 0) overlaps.emplace_back(p, iou);
            best = std::max(best, iou);
            return false;
        });
        int64_t nearest = -1;
        float distance = 0;
        for (const auto& [p, iou] : overlaps) {
            if (iou < best * tie) continue;
            if (ties == Ties::all) {
                forced[p] = true;
                continue;
            }
            const float apart = squared_distance(truth, box_at(priors, p));
            if (nearest < 0 || apart < distance || (apart == distance && p < nearest)) {
                nearest = p;
                distance = apart;
            }
        }
        if (nearest >= 0) forced[nearest] = true;
    }
}

inline void match_boxes(const float* priors, int64_t prior_count, const float* truths, int64_t truth_count,
                        float min_iou, Ties ties, const Matches& matches, const Parallel& parallel) {
    std::fill_n(matches.forced, prior_count, false);
    if (ties != Ties::none) force_boxes(priors, prior_count, truths, truth_count, ties, matches.forced);
    const Truths all(truths, truth_count);
    parallel(prior_count, 256, [&](int64_t begin, int64_t end) {
        for (int64_t p = begin; p < end; p++) {
            all.match(box_at(priors, p), p, matches.forced[p] ? 0.0f : min_iou, matches);
        }
    });
}

// The regular grid of anchors of one size on one level; anchor (row, column) is number
// first + (row * columns + column) * step of the pyramid.
struct AnchorGrid {
    float stride_x, stride_y, offset_x, offset_y, width, height;
    int64_t columns, rows, first, step;

    Box anchor(int64_t row, int64_t column) const {
        const float x = static_cast<float>(column) * stride_x + offset_x;
        const float y = static_cast<float>(row) * stride_y + offset_y;
        return {x - width / 2, y - height / 2, x + width / 2, y + height / 2};
    }
    int64_t number(int64_t row, int64_t column) const { return first + (row * columns + column) * step; }
};

// A range of cells along one axis; last < first: none.
struct Cells {
    int64_t first, last;
};

inline Cells cells_within(double centre, double reach, double stride, double offset, int64_t count) {
    const double at = (centre - offset) / stride, cells = reach / stride;
    const double first = std::clamp(std::ceil(at - cells), 0.0, static_cast<double>(count));
    const double last = std::clamp(std::floor(at + cells), -1.0, static_cast<double>(count - 1));
    return {static_cast<int64_t>(first), static_cast<int64_t>(last)};
}

inline int64_t nearest_cell(double centre, double stride, double offset, int64_t count) {
    return static_cast<int64_t>(std::clamp(std::nearbyint((centre - offset) / stride), 0.0, count - 1.0));
}

// One truth and the anchors of one grid that matter to it.
struct AnchorWindow {
    Cells columns, rows;
};

class AnchorMatcher {
public:
    AnchorMatcher(const std::vector<AnchorGrid>& grids, const float* truths, int64_t truth_count, float min_iou, Ties ties)
        : grids_(grids), truths_(truths), truth_count_(truth_count), min_iou_(min_iou), ties_(ties),
          best_(truth_count), windows_(truth_count * grids.size()) {}

    void match(const Matches& matches, const Parallel& parallel) {
        std::vector<int64_t> nearest(ties_ == Ties::nearest ? truth_count_ : 0, -1);
        parallel(truth_count_, 16, [&](int64_t begin, int64_t end) {
            for (int64_t t = begin; t < end; t++) {
                look_around(t);
                if (ties_ == Ties::nearest) nearest[t] = nearest_tie(t);
            }
        });
        // Each anchor belongs to one band of rows of one grid, so bands can go side by side.
        std::vector<std::pair<int64_t, int64_t>> bands;
        for (size_t g = 0; g < grids_.size(); g++) {
            for (int64_t row = 0; row < grids_[g].rows; row += band_height) bands.emplace_back(g, row);
        }
        parallel(static_cast<int64_t>(bands.size()), 1, [&](int64_t begin, int64_t end) {
            for (int64_t b = begin; b < end; b++) match_band(bands[b].first, bands[b].second, matches);
        });
        for (const int64_t anchor : nearest) {
            if (anchor >= 0) matches.forced[anchor] = true;
        }
        // What is below min_iou was perhaps not seen whole: a forced anchor wants its best truth all the same.
        const Truths all(truths_, ties_ == Ties::none ? 0 : truth_count_);
        parallel(static_cast<int64_t>(bands.size()), 1, [&](int64_t begin, int64_t end) {
            for (int64_t b = begin; b < end; b++) settle_band(bands[b].first, bands[b].second, all, matches);
        });
    }

private:
    static constexpr int64_t band_height = 32;
    static constexpr double margin = 1e-3;  // pixels by which windows are wider than the bound, for rounding

    // The best IoU of a truth, which on each grid the anchor with the nearest centre has, and its windows.
    void look_around(int64_t t) {
        const Box truth = box_at(truths_, t);
        AnchorWindow* windows = windows_.data() + t * grids_.size();
        best_[t] = 0;
        for (size_t g = 0; g < grids_.size(); g++) windows[g] = {{0, -1}, {0, -1}};
        if (!truth.sound()) return;
        std::vector<float> nearest(grids_.size(), 0.0f);
        const double x = centre_x(truth), y = centre_y(truth);
        for (size_t g = 0; g < grids_.size(); g++) {
            const AnchorGrid& grid = grids_[g];
            if (grid.columns == 0 || grid.rows == 0) continue;
            const int64_t column = nearest_cell(x, grid.stride_x, grid.offset_x, grid.columns);
            const int64_t row = nearest_cell(y, grid.stride_y, grid.offset_y, grid.rows);
            nearest[g] = iou_of(truth, grid.anchor(row, column));
            best_[t] = std::max(best_[t], nearest[g]);
        }
        for (size_t g = 0; g < grids_.size(); g++) {
            const bool has_best = ties_ == Ties::all && nearest[g] > 0 && nearest[g] >= best_[t] * tie;
            windows[g] = window(truth, grids_[g], has_best);
        }
    }

    AnchorWindow window(const Box& truth, const AnchorGrid& grid, bool has_best) const {
        const double width = truth.x2 - truth.x1, height = truth.y2 - truth.y1, x = centre_x(truth), y = centre_y(truth);
        const double shrink = (1.0 - min_iou_) / (1.0 + min_iou_), least = min_iou_ * tie;
        const bool may_match = std::min(width, static_cast<double>(grid.width)) >= least * std::max(width, static_cast<double>(grid.width)) &&
                               std::min(height, static_cast<double>(grid.height)) >= least * std::max(height, static_cast<double>(grid.height));
        double reach_x = may_match ? (width + grid.width) / 2 * shrink : -1.0;
        double reach_y = may_match ? (height + grid.height) / 2 * shrink : -1.0;
        if (has_best && grid.columns > 0 && grid.rows > 0) {
            // Where one box holds the other, IoU does not change with the distance: all these anchors tie for the best.
            const int64_t column = nearest_cell(x, grid.stride_x, grid.offset_x, grid.columns);
            const int64_t row = nearest_cell(y, grid.stride_y, grid.offset_y, grid.rows);
            const double off_x = std::abs(column * static_cast<double>(grid.stride_x) + grid.offset_x - x);
            const double off_y = std::abs(row * static_cast<double>(grid.stride_y) + grid.offset_y - y);
            reach_x = std::max({reach_x, std::abs(width - grid.width) / 2, off_x});
            reach_y = std::max({reach_y, std::abs(height - grid.height) / 2, off_y});
        }
        if (reach_x < 0 || reach_y < 0) return {{0, -1}, {0, -1}};
        return {cells_within(x, reach_x + margin, grid.stride_x, grid.offset_x, grid.columns),
                cells_within(y, reach_y + margin, grid.stride_y, grid.offset_y, grid.rows)};
    }

    // Of the anchors that tie for the best, the one with the nearest centre, of these the first: on each grid among the
    // cells around the centre.
    int64_t nearest_tie(int64_t t) const {
        const Box truth = box_at(truths_, t);
        int64_t nearest = -1;
        float distance = 0;
        if (best_[t] <= 0) return nearest;
        for (const AnchorGrid& grid : grids_) {
            if (grid.columns == 0 || grid.rows == 0) continue;
            const Cells columns = around(centre_x(truth), grid.stride_x, grid.offset_x, grid.columns);
            const Cells rows = around(centre_y(truth), grid.stride_y, grid.offset_y, grid.rows);
            for (int64_t row = rows.first; row <= rows.last; row++) {
                for (int64_t column = columns.first; column <= columns.last; column++) {
                    const Box anchor = grid.anchor(row, column);
                    if (iou_of(truth, anchor) < best_[t] * tie) continue;
                    const float apart = squared_distance(truth, anchor);
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

    static Cells around(double centre, double stride, double offset, int64_t count) {
        const int64_t nearest = nearest_cell(centre, stride, offset, count);
        return {std::max<int64_t>(nearest - 1, 0), std::min(nearest + 1, count - 1)};
    }

    void match_band(int64_t g, int64_t first_row, const Matches& matches) const {
        const AnchorGrid& grid = grids_[g];
        const int64_t last_row = std::min(first_row + band_height, grid.rows) - 1;
        for (int64_t row = first_row; row <= last_row; row++) {
            for (int64_t column = 0; column < grid.columns; column++) {
                matches.clear(grid.number(row, column));
                matches.forced[grid.number(row, column)] = false;
            }
        }
        for (int64_t t = 0; t < truth_count_; t++) {
            const AnchorWindow& window = windows_[t * grids_.size() + g];
            const int64_t from = std::max(window.rows.first, first_row), to = std::min(window.rows.last, last_row);
            if (from > to || window.columns.first > window.columns.last) continue;
            const Box truth = box_at(truths_, t);
            for (int64_t row = from; row <= to; row++) {
                for (int64_t column = window.columns.first; column <= window.columns.last; column++) {
                    const float iou = iou_of(truth, grid.anchor(row, column));
                    const int64_t number = grid.number(row, column);
                    matches.take_better(number, t, iou);
                    if (ties_ == Ties::all && iou > 0 && iou >= best_[t] * tie) matches.forced[number] = true;
                }
            }
        }
    }

    void settle_band(int64_t g, int64_t first_row, const Truths& all, const Matches& matches) const {
        const AnchorGrid& grid = grids_[g];
        for (int64_t row = first_row; row < std::min(first_row + band_height, grid.rows); row++) {
            for (int64_t column = 0; column < grid.columns; column++) {
                const int64_t number = grid.number(row, column);
                if (matches.iou[number] >= min_iou_) continue;
                matches.clear(number);
                if (matches.forced[number]) all.match(grid.anchor(row, column), number, 0.0f, matches);
            }
        }
    }

    static double centre_x(const Box& box) { return (static_cast<double>(box.x1) + box.x2) / 2; }
    static double centre_y(const Box& box) { return (static_cast<double>(box.y1) + box.y2) / 2; }

    const std::vector<AnchorGrid>& grids_;
    const float* truths_;
    const int64_t truth_count_;
    const float min_iou_;
    const Ties ties_;
    std::vector<float> best_;
    std::vector<AnchorWindow> windows_;
};

}  // namespace smallobjects
