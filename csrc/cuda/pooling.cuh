// RoIAlign over a pyramid and TensorFlow's crop_and_resize, forward and backward. What is computed:
// maskrcnn/ops/reference.py. Maps are [B, H, W, C]; `Acc` is what sums are kept in: float, or double for double.
#pragma once

#include "../shared/bins.h"
#include "device.cuh"

namespace smallobjects {

constexpr int64_t most_levels = 16;

// The maps of all levels, small enough to be an argument of a kernel.
template <class T>
struct Pyramid {
    struct Map {
        T* data;
        int64_t height, width;
        double stride;
    };
    Map maps[most_levels];
    int64_t count, images, channels;
};

struct Rois {
    const float* boxes;  // [count, 4] x1 y1 x2 y2
    const int64_t* images;
    const int64_t* levels;  // null: one level
    int64_t count;

    __device__ int64_t level(int64_t k) const { return levels ? levels[k] : 0; }
    // A box that is not finite, or on a map that does not exist, gives NaN: to complain would mean to wait for the GPU.
    template <class T>
    __device__ bool sound(int64_t k, const Pyramid<T>& pyramid) const {
        bool finite = true;
        for (int64_t i = 4 * k; i < 4 * k + 4; i++) finite = finite && is_finite(boxes[i]);
        return finite && level(k) >= 0 && level(k) < pyramid.count && images[k] >= 0 && images[k] < pyramid.images;
    }
};

// The samples of one bin along one axis, those from `begin` to `end - 1` of `samples`, of which none outside is inside
// the map; sample i is at (low + extent * (first + i) / total) * scale.
template <class Acc>
struct Axis {
    Acc low, extent, first, total, scale, lowest, highest;
    int64_t samples, begin, end, size;

    __device__ Acc at(int64_t i) const { return (low + extent * ((first + static_cast<Acc>(i)) / total)) * scale; }
    __device__ bool inside(Acc at) const { return at >= lowest && at <= highest; }
};

// The two cells around a coordinate in cells, clamped to the map; the share of the upper one.
template <class Acc>
struct Taps {
    int64_t low, high;
    Acc fraction;

    __device__ Taps(Acc at, int64_t size) {
        at = held(at, Acc(0), static_cast<Acc>(size - 1));
        low = static_cast<int64_t>(at);
        high = smaller(low + 1, size - 1);
        fraction = at - static_cast<Acc>(low);
    }
};

struct RoiAlign {
    Bins bins;
    int64_t sampling_ratio;
    bool aligned;

    // Of `bin` of the `bins` of a RoI from `start` to `end` (pixels) along an axis of `size` cells.
    template <class Acc>
    __device__ Axis<Acc> axis(float start, float end, double stride, int64_t size, int64_t bins, int64_t bin) const {
        const Acc shift = aligned ? Acc(0.5) : Acc(0);
        const Acc low = static_cast<Acc>(start) / static_cast<Acc>(stride) - shift,
                  high = static_cast<Acc>(end) / static_cast<Acc>(stride) - shift;
        const Acc extent = aligned ? high - low : larger(high - low, Acc(1));
        // An empty or inverted RoI has no adaptive samples, and gives 0.
        const Acc adaptive = larger(ceil_of(extent / static_cast<Acc>(bins)), Acc(0));
        const int64_t samples = sampling_ratio > 0 ? sampling_ratio : static_cast<int64_t>(smaller(adaptive, Acc(1e9)));
        const Acc total = static_cast<Acc>(bins * samples), first = static_cast<Acc>(bin * samples) + Acc(0.5);
        Axis<Acc> axis = {low,     extent, first,   total, Acc(1), Acc(-1), static_cast<Acc>(size),
                          samples, 0,      samples, size};
        if (!(extent <= Acc(FLT_MAX))) axis.end = 0;
        if (samples > 8 && extent > 0 && axis.end > 0) {
            // A box far larger than the map: two samples more than needed at either end, rather than all outside.
            const double step = static_cast<double>(extent) / total, zero = (Acc(0) - low) / step - first;
            axis.begin = static_cast<int64_t>(held(floor(zero - 1 / step) - 2, 0.0, static_cast<double>(samples)));
            axis.end = static_cast<int64_t>(held(ceil(zero + size / step) + 3, 0.0, static_cast<double>(samples)));
        }
        return axis;
    }
};

// Boxes are normalized as TensorFlow's: 0 is the center of the first cell, 1 that of the last.
struct CropAndResize {
    Bins bins;

    template <class Acc>
    __device__ Axis<Acc> axis(float start, float end, double, int64_t size, int64_t bins, int64_t bin) const {
        const Acc low = static_cast<Acc>(start), extent = static_cast<Acc>(end) - low,
                  last = static_cast<Acc>(size - 1);
        const Acc first = bins > 1 ? static_cast<Acc>(bin) : Acc(0.5),
                  total = bins > 1 ? static_cast<Acc>(bins - 1) : Acc(1);
        return {low, extent, first, total, last, Acc(0), last, 1, 0, 1, size};
    }
};

// Calls `visit(cell, weight)` for each cell along an axis that a sample of the bin touches.
template <class Acc, class Visit>
__device__ void each_tap(const Axis<Acc>& axis, const Visit& visit) {
    for (int64_t i = axis.begin; i < axis.end; i++) {
        const Acc at = axis.at(i);
        if (!axis.inside(at)) continue;
        const Taps<Acc> taps(at, axis.size);
        visit(taps.low, (Acc(1) - taps.fraction) / static_cast<Acc>(axis.samples));
        if (taps.high != taps.low) visit(taps.high, taps.fraction / static_cast<Acc>(axis.samples));
    }
}

// Whether a sample of any row of bins may touch a row of cells: samples go along the axis in one direction.
template <class Acc, class Rule>
__device__ bool may_touch(const Rule& rule, float start, float end, double stride, int64_t size, int64_t cell) {
    const int64_t bins = rule.bins.rows;
    const Axis<Acc> first = rule.template axis<Acc>(start, end, stride, size, bins, 0);
    const Axis<Acc> last = rule.template axis<Acc>(start, end, stride, size, bins, bins - 1);
    if (first.samples == 0) return false;
    const Taps<Acc> one(first.at(0), size), other(last.at(last.samples - 1), size);
    return cell >= smaller(one.low, other.low) && cell <= larger(one.high, other.high);
}

// result [K, R, S, C] for R rows and S columns of bins, a block for each bin, its threads over the channels; bins outside the map get `outside`.
template <class T, class Acc, class Rule>
__global__ void pool(Rule rule, Pyramid<const T> pyramid, Rois rois, Acc outside, T* result) {
    const Bins bins = rule.bins;
    const int64_t channels = pyramid.channels, each = bins.rows * bins.columns;
    for (int64_t at = blockIdx.x; at < rois.count * each; at += gridDim.x) {
        const int64_t k = at / each, row = at / bins.columns % bins.rows, column = at % bins.columns;
        T* out = result + at * channels;
        if (!rois.sound(k, pyramid)) {
            for (int64_t c = threadIdx.x; c < channels; c += blockDim.x) out[c] = static_cast<T>(nanf(""));
            continue;
        }
        const auto& map = pyramid.maps[rois.level(k)];
        const float* box = rois.boxes + 4 * k;
        const Axis<Acc> rows = rule.template axis<Acc>(box[1], box[3], map.stride, map.height, bins.rows, row);
        const Axis<Acc> columns = rule.template axis<Acc>(box[0], box[2], map.stride, map.width, bins.columns, column);
        const T* image = map.data + rois.images[k] * map.height * map.width * channels;
        for (int64_t c = threadIdx.x; c < channels; c += blockDim.x) {
            Acc sum = 0;
            bool touched = false;
            each_tap(rows, [&](int64_t y, Acc row_weight) {
                each_tap(columns, [&](int64_t x, Acc weight) {
                    sum += row_weight * weight * static_cast<Acc>(image[(y * map.width + x) * channels + c]);
                    touched = true;
                });
            });
            out[c] = static_cast<T>(touched ? sum : outside);
        }
    }
}

// Adds to the maps of `sums`, zeroed, what grad [K, R, S, C] sends back. A block for each row of each map and slice of
// channels goes over the RoIs in their order, so no two threads add to one sum: no atomics, and the same result each time.
template <class T, class Acc, class Rule>
__global__ void pool_backward(Rule rule, Pyramid<Acc> sums, Rois rois, const T* grad) {
    const Bins bins = rule.bins;
    const int64_t channels = sums.channels, slices = (channels + blockDim.x - 1) / blockDim.x;
    int64_t all_rows = 0;
    for (int64_t level = 0; level < sums.count; level++) all_rows += sums.images * sums.maps[level].height;
    for (int64_t at = blockIdx.x; at < all_rows * slices; at += gridDim.x) {
        const int64_t c = at % slices * blockDim.x + threadIdx.x;
        int64_t level = 0, row = at / slices;
        for (; row >= sums.images * sums.maps[level].height; level++) row -= sums.images * sums.maps[level].height;
        if (c >= channels) continue;
        const auto& map = sums.maps[level];
        const int64_t image = row / map.height, y = row % map.height;
        Acc* line = map.data + row * map.width * channels + c;
        for (int64_t k = 0; k < rois.count; k++) {
            if (rois.images[k] != image || rois.level(k) != level || !rois.sound(k, sums)) continue;
            const float* box = rois.boxes + 4 * k;
            if (!may_touch<Acc>(rule, box[1], box[3], map.stride, map.height, y)) continue;
            for (int64_t bin = 0; bin < bins.rows; bin++) {
                Acc row_weight = 0;
                each_tap(rule.template axis<Acc>(box[1], box[3], map.stride, map.height, bins.rows, bin),
                         [&](int64_t cell, Acc weight) {
                             if (cell == y) row_weight += weight;
                         });
                if (row_weight == 0) continue;
                const T* from = grad + (k * bins.rows + bin) * bins.columns * channels + c;
                for (int64_t column = 0; column < bins.columns; column++, from += channels) {
                    const Acc here = row_weight * static_cast<Acc>(*from);
                    each_tap(rule.template axis<Acc>(box[0], box[2], map.stride, map.width, bins.columns, column),
                             [&](int64_t x, Acc weight) { line[x * channels] += here * weight; });
                }
            }
        }
    }
}

}  // namespace smallobjects
