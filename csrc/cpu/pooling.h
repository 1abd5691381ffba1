// RoIAlign over a pyramid and TensorFlow's crop_and_resize, forward and backward. What is computed:
// maskrcnn/ops/reference.py.
//
// Both are weighted sums of cells of a feature map, and the weights factor into one for the row and one for the column.
// So the cells that a bin touches are found once an axis, and samples that share a cell are merged before any channel is
// read: a bin smaller than a cell reads 4 cells whatever its number of samples.
//
// Maps are [B, H, W, C]. `Acc` is what sums are kept in: float, or double for double.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "../shared/bins.h"
#include "parallel.h"

namespace smallobjects {

// The map of one level.
template <class T>
struct FeatureMap {
    T* data;
    int64_t height, width;
    double stride;
};

// The cells first..first+count-1 that one bin touches along one axis, with weights from `weight` on. No cells: the bin
// is outside.
struct Span {
    int64_t first, count, weight;
};

template <class Acc>
struct Axis {
    std::vector<Span> bins;
    std::vector<Acc> weights;

    // Starts anew: bins are added in order, a bin's cells in any.
    void clear() {
        bins.clear();
        weights.clear();
    }
    void begin_bin(int64_t first, int64_t last) {
        const int64_t count = std::max<int64_t>(last - first + 1, 0);
        bins.push_back({first, count, static_cast<int64_t>(weights.size())});
        weights.resize(weights.size() + count, Acc(0));
    }
    Acc& weight(int64_t cell) { return weights[bins.back().weight + cell - bins.back().first]; }
};

// The two cells around a coordinate in cells, clamped to the map; the share of the upper one.
template <class Acc>
struct Taps {
    int64_t low, high;
    Acc fraction;

    Taps(Acc at, int64_t size) {
        at = std::min(std::max(at, Acc(0)), static_cast<Acc>(size - 1));
        low = static_cast<int64_t>(at);
        high = std::min(low + 1, size - 1);
        fraction = at - static_cast<Acc>(low);
    }
};

struct RoiAlign {
    Bins bins;
    int64_t sampling_ratio;
    bool aligned;

    // The `bins` of a RoI from `start` to `end` (pixels) along an axis of `size` cells.
    template <class Acc>
    void place(float start, float end, double stride, int64_t size, int64_t bins, Axis<Acc>& axis) const {
        const Acc shift = aligned ? Acc(0.5) : Acc(0);
        const Acc low = static_cast<Acc>(start) / static_cast<Acc>(stride) - shift;
        const Acc high = static_cast<Acc>(end) / static_cast<Acc>(stride) - shift;
        const Acc extent = aligned ? high - low : std::max(high - low, Acc(1));
        // An empty or inverted RoI has no adaptive samples, and gives 0.
        const Acc adaptive = std::max(std::ceil(extent / static_cast<Acc>(bins)), Acc(0));
        const int64_t samples =
            sampling_ratio > 0 ? sampling_ratio : static_cast<int64_t>(std::min(adaptive, Acc(1e9)));
        axis.clear();
        for (int64_t bin = 0; bin < bins; bin++) {
            auto at = [&](int64_t i) {
                return low +
                       extent * ((static_cast<Acc>(bin * samples + i) + Acc(0.5)) / static_cast<Acc>(bins * samples));
            };
            // Samples go along the axis in one direction, so those on the map are a range; found by halves, because a
            // huge RoI has up to 1e9 of them.
            const bool is_ascending = extent >= Acc(0);
            const Acc edge = static_cast<Acc>(size);
            auto first = [&](auto&& holds) {
                int64_t from = 0, to = samples;
                while (from < to) {
                    const int64_t middle = from + (to - from) / 2;
                    if (holds(at(middle))) to = middle;
                    else from = middle + 1;
                }
                return from;
            };
            const int64_t begin = first([&](Acc x) { return is_ascending ? x >= Acc(-1) : x <= edge; });
            const int64_t stop = first([&](Acc x) { return is_ascending ? x > edge : x < Acc(-1); });
            if (begin == stop) {
                axis.begin_bin(0, -1);
                continue;
            }
            const Taps<Acc> one(at(begin), size), other(at(stop - 1), size);
            axis.begin_bin(std::min(one.low, other.low), std::max(one.high, other.high));
            for (int64_t i = begin; i < stop; i++) {
                const Taps<Acc> taps(at(i), size);
                axis.weight(taps.low) += (Acc(1) - taps.fraction) / static_cast<Acc>(samples);
                axis.weight(taps.high) += taps.fraction / static_cast<Acc>(samples);
            }
        }
    }
};

// Boxes are normalized as TensorFlow's: 0 is the center of the first cell, 1 that of the last.
struct CropAndResize {
    Bins bins;

    template <class Acc>
    void place(float start, float end, double, int64_t size, int64_t bins, Axis<Acc>& axis) const {
        const Acc last = static_cast<Acc>(size - 1);
        axis.clear();
        for (int64_t bin = 0; bin < bins; bin++) {
            const Acc step = bins > 1 ? static_cast<Acc>(bin) / static_cast<Acc>(bins - 1) : Acc(0.5);
            const Acc at = (static_cast<Acc>(start) + (static_cast<Acc>(end) - static_cast<Acc>(start)) * step) * last;
            if (!(at >= 0 && at <= last)) {
                axis.begin_bin(0, -1);
                continue;
            }
            const Taps<Acc> taps(at, size);
            axis.begin_bin(taps.low, taps.high);
            axis.weight(taps.low) += Acc(1) - taps.fraction;
            axis.weight(taps.high) += taps.fraction;
        }
    }
};

struct Rois {
    const float* boxes;  // [K, 4] x1 y1 x2 y2
    const int64_t* images;
    const int64_t* levels;  // null: one level
    int64_t count;

    int64_t level(int64_t k) const { return levels ? levels[k] : 0; }
};

constexpr int64_t lanes = 16;  // channels that a sum is kept in registers for

// result [K, R, S, C] for R rows and S columns of bins; bins outside the map get `outside`.
template <class T, class Acc, class Rule>
void pool(const Rule& rule, const std::vector<FeatureMap<const T>>& maps, int64_t channels, const Rois& rois,
          Acc outside, T* result, const Parallel& parallel) {
    parallel(rois.count, 1, [&](int64_t begin, int64_t end) {
        Axis<Acc> rows, columns;
        std::vector<const T*> cells;
        std::vector<Acc> weights;
        for (int64_t k = begin; k < end; k++) {
            const FeatureMap<const T>& map = maps[rois.level(k)];
            const float* box = rois.boxes + 4 * k;
            rule.place(box[1], box[3], map.stride, map.height, rule.bins.rows, rows);
            rule.place(box[0], box[2], map.stride, map.width, rule.bins.columns, columns);
            const T* image = map.data + rois.images[k] * map.height * map.width * channels;
            T* out = result + k * rule.bins.rows * rule.bins.columns * channels;
            for (const Span& row : rows.bins) {
                for (const Span& column : columns.bins) {
                    cells.clear();
                    weights.clear();
                    for (int64_t y = 0; y < row.count; y++) {
                        const T* line = image + ((row.first + y) * map.width + column.first) * channels;
                        for (int64_t x = 0; x < column.count; x++) {
                            cells.push_back(line + x * channels);
                            weights.push_back(rows.weights[row.weight + y] * columns.weights[column.weight + x]);
                        }
                    }
                    if (cells.empty()) {
                        std::fill_n(out, channels, static_cast<T>(outside));
                        out += channels;
                        continue;
                    }
                    int64_t c = 0;
                    for (; c + lanes <= channels; c += lanes) {
                        Acc sum[lanes] = {};
                        for (size_t i = 0; i < cells.size(); i++) {
                            for (int64_t lane = 0; lane < lanes; lane++) {
                                sum[lane] += weights[i] * static_cast<Acc>(cells[i][c + lane]);
                            }
                        }
                        for (int64_t lane = 0; lane < lanes; lane++) out[c + lane] = static_cast<T>(sum[lane]);
                    }
                    for (; c < channels; c++) {
                        Acc sum = 0;
                        for (size_t i = 0; i < cells.size(); i++) sum += weights[i] * static_cast<Acc>(cells[i][c]);
                        out[c] = static_cast<T>(sum);
                    }
                    out += channels;
                }
            }
        }
    });
}

// Adds to `maps`, zeroed and in `Acc`, what grad [K, R, S, C] sends back. Threads share the channels, not the RoIs: every
// sum is made by one thread, in the order of the RoIs.
template <class T, class Acc, class Rule>
void pool_backward(const Rule& rule, const std::vector<FeatureMap<Acc>>& maps, int64_t channels, const Rois& rois,
                   const T* grad, const Parallel& parallel) {
    const int64_t slices = (channels + lanes - 1) / lanes;
    parallel(slices, 1, [&](int64_t begin, int64_t end) {
        const int64_t first = begin * lanes, last = std::min(end * lanes, channels);
        Axis<Acc> rows, columns;
        std::vector<Acc> here(last - first);
        for (int64_t k = 0; k < rois.count; k++) {
            const FeatureMap<Acc>& map = maps[rois.level(k)];
            const float* box = rois.boxes + 4 * k;
            rule.place(box[1], box[3], map.stride, map.height, rule.bins.rows, rows);
            rule.place(box[0], box[2], map.stride, map.width, rule.bins.columns, columns);
            Acc* image = map.data + rois.images[k] * map.height * map.width * channels;
            const T* from = grad + k * rule.bins.rows * rule.bins.columns * channels + first;
            for (const Span& row : rows.bins) {
                for (const Span& column : columns.bins) {
                    for (int64_t c = 0; c < last - first; c++) here[c] = static_cast<Acc>(from[c]);
                    from += channels;
                    for (int64_t y = 0; y < row.count; y++) {
                        Acc* line = image + ((row.first + y) * map.width + column.first) * channels + first;
                        for (int64_t x = 0; x < column.count; x++) {
                            const Acc weight = rows.weights[row.weight + y] * columns.weights[column.weight + x];
                            for (int64_t c = 0; c < last - first; c++) line[x * channels + c] += weight * here[c];
                        }
                    }
                }
            }
        }
    });
}

}  // namespace smallobjects
