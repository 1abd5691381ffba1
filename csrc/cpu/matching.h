// The best target of each prior, without a dense matrix. What is computed: maskrcnn/ops/reference.py.
#pragma once

#include <vector>

#include "../shared/anchors.h"
#include "grid.h"
#include "parallel.h"

namespace smallobjects {

// What P priors match: index [P], iou [P], forced [P].
struct Matches {
    int64_t* index;
    float* iou;
    bool* forced;

    void clear(int64_t p) const {
        index[p] = -1;
        iou[p] = 0;
    }
    void take_better(int64_t p, int64_t target, float value) const {
        if (value > iou[p] || (value == iou[p] && value > 0 && target < index[p])) {
            index[p] = target;
            iou[p] = value;
        }
    }
};

class Targets {
public:
    Targets(const float* boxes, int64_t count) : grid_(boxes, nullptr, count) {}

    // Writes the best target of a prior, none if it is below `min_iou`.
    void match(const Box& prior, int64_t p, float min_iou, const Matches& matches) const {
        matches.clear(p);
        if (!prior.sound()) return;
        grid_.nearby(prior, 0, min_iou, [&](int64_t i, const Box& target) {
            matches.take_better(p, i, iou_of(target, prior));
            return false;
        });
        if (matches.iou[p] < min_iou) matches.clear(p);
    }

private:
    BoxGrid grid_;
};

// Marks the priors that each target overlaps best.
inline void force_boxes(const float* priors, int64_t prior_count, const float* targets, int64_t target_count, Ties ties,
                        bool* forced) {
    BoxGrid grid(priors, nullptr, prior_count);
    std::vector<std::pair<int64_t, float>> overlaps;
    for (int64_t t = 0; t < target_count; t++) {
        const Box target = box_at(targets, t);
        if (!target.sound()) continue;
        overlaps.clear();
        float best = 0;
        grid.nearby(target, 0, 0.0, [&](int64_t p, const Box& prior) {
            const float iou = iou_of(target, prior);
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
            const float apart = squared_distance(target, box_at(priors, p));
            if (nearest < 0 || apart < distance || (apart == distance && p < nearest)) {
                nearest = p;
                distance = apart;
            }
        }
        if (nearest >= 0) forced[nearest] = true;
    }
}

inline void match_boxes(const float* priors, int64_t prior_count, const float* targets, int64_t target_count,
                        float min_iou, Ties ties, const Matches& matches, const Parallel& parallel) {
    std::fill_n(matches.forced, prior_count, false);
    if (ties != Ties::none) force_boxes(priors, prior_count, targets, target_count, ties, matches.forced);
    const Targets all(targets, target_count);
    parallel(prior_count, 256, [&](int64_t begin, int64_t end) {
        for (int64_t p = begin; p < end; p++) {
            all.match(box_at(priors, p), p, matches.forced[p] ? 0.0f : min_iou, matches);
        }
    });
}

class AnchorMatcher {
public:
    AnchorMatcher(const std::vector<AnchorGrid>& grids, const float* targets, int64_t target_count, float min_iou,
                  Ties ties)
        : grids_(grids), targets_(targets), target_count_(target_count), min_iou_(min_iou), ties_(ties),
          best_(target_count), windows_(target_count * grids.size()) {}

    void match(const Matches& matches, const Parallel& parallel) {
        std::vector<int64_t> nearest(ties_ == Ties::nearest ? target_count_ : 0, -1);
        parallel(target_count_, 16, [&](int64_t begin, int64_t end) {
            for (int64_t t = begin; t < end; t++) {
                look_around(t);
                if (ties_ == Ties::nearest && best_[t] > 0)
                    nearest[t] = nearest_tie(box_at(targets_, t), grids_, best_[t]);
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
        // IoUs below min_iou may not all have been computed, but a forced anchor needs its best target in any case.
        const Targets all(targets_, ties_ == Ties::none ? 0 : target_count_);
        parallel(static_cast<int64_t>(bands.size()), 1, [&](int64_t begin, int64_t end) {
            for (int64_t b = begin; b < end; b++) settle_band(bands[b].first, bands[b].second, all, matches);
        });
    }

private:
    static constexpr int64_t band_height = 32;

    // The best IoU of a target, which on each grid the anchor with the nearest center has, and its windows.
    void look_around(int64_t t) {
        const Box target = box_at(targets_, t);
        AnchorWindow* windows = windows_.data() + t * grids_.size();
        best_[t] = 0;
        for (size_t g = 0; g < grids_.size(); g++) windows[g] = {{0, -1}, {0, -1}};
        if (!target.sound()) return;
        std::vector<float> nearest(grids_.size());
        for (size_t g = 0; g < grids_.size(); g++) {
            nearest[g] = nearest_iou(target, grids_[g]);
            best_[t] = std::max(best_[t], nearest[g]);
        }
        for (size_t g = 0; g < grids_.size(); g++) {
            const bool has_best = ties_ == Ties::all && nearest[g] > 0 && nearest[g] >= best_[t] * tie;
            windows[g] = anchor_window(target, grids_[g], min_iou_, has_best);
        }
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
        for (int64_t t = 0; t < target_count_; t++) {
            const AnchorWindow& window = windows_[t * grids_.size() + g];
            const int64_t from = std::max(window.rows.first, first_row), to = std::min(window.rows.last, last_row);
            if (from > to || window.columns.first > window.columns.last) continue;
            const Box target = box_at(targets_, t);
            for (int64_t row = from; row <= to; row++) {
                for (int64_t column = window.columns.first; column <= window.columns.last; column++) {
                    const float iou = iou_of(target, grid.anchor(row, column));
                    const int64_t number = grid.number(row, column);
                    matches.take_better(number, t, iou);
                    if (ties_ == Ties::all && iou > 0 && iou >= best_[t] * tie) matches.forced[number] = true;
                }
            }
        }
    }

    void settle_band(int64_t g, int64_t first_row, const Targets& all, const Matches& matches) const {
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

    const std::vector<AnchorGrid>& grids_;
    const float* targets_;
    const int64_t target_count_;
    const float min_iou_;
    const Ties ties_;
    std::vector<float> best_;
    std::vector<AnchorWindow> windows_;
};

}  // namespace smallobjects
