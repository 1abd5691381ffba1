// Levels of shapes by supersampled coverage. What is computed: datasets/synthetic/reference.py, fill_windows.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "../shared/windows.h"

namespace smallobjects {

constexpr int64_t samples = 16, whole = samples * samples;  // a side of a pixel, a pixel

// As in datasets/synthetic/_native.py.
struct Shapes {
    const double* centers;       // [N, 2]
    const double* semi_axes;     // [N, 2]
    const double* directions;    // [N, 2]
    const double* half_heights;  // [N]
    const double* edges;         // [E, 4]
    const int64_t* first_edges;  // [N + 1]; a shape without edges is an ellipse
    int64_t count, num_edges;
};

// To cast what is NaN or beyond int64 is undefined, so it becomes a number that is on no canvas.
inline int64_t truncated(double value) {
    constexpr double limit = 1LL << 50;
    return static_cast<int64_t>(value > -limit ? (value < limit ? value : limit) : -limit);
}

// Baseline x86-64 has no instruction for these, and calls cost more than all else in a row.
inline int64_t floor_of(double value) {
    const int64_t cut = truncated(value);
    return cut - (static_cast<double>(cut) > value);
}
inline int64_t ceil_of(double value) {
    const int64_t cut = truncated(value);
    return cut + (static_cast<double>(cut) < value);
}

// The first sample at or after a position in pixels.
inline int64_t first_sample(double position) { return ceil_of(position * samples - 0.5); }

inline double position_of(int64_t sample) { return (static_cast<double>(sample) + 0.5) / samples; }

// Number of samples inside for each pixel of a window, as differences along its rows, `values [area + 2]`.
class Differences {
public:
    Differences(const Window& window, int32_t* values)
        : window_(window), values_(values), end_(values + window.area()) {
        std::fill(values, end_ + 2, 0);
    }

    // What the winding number gains at `sample` of a row and at all those after it.
    void add(int64_t row, int64_t sample, int32_t sign) {
        if (row < window_.y1 * samples || row >= window_.y2 * samples) return;
        const uint64_t place = std::clamp(sample, window_.x1 * samples, window_.x2 * samples) - window_.x1 * samples;
        const int32_t beyond = place % samples;
        // A crossing at the window's end falls on the next row, which it does not change: all its signs add up to 0.
        int32_t* at = values_ + (row / samples - window_.y1) * window_.width() + place / samples;
        at[0] += sign * static_cast<int32_t>(samples - beyond);
        at[1] += sign * beyond;
    }

    void write_levels(uint8_t* levels) const {
        int32_t inside = 0;
        for (const int32_t* change = values_; change < end_; change++) {
            inside += *change;
            *levels++ = static_cast<uint8_t>((std::clamp<int32_t>(inside, 0, whole) * 255 + whole / 2) / whole);
        }
    }

private:
    const Window window_;
    int32_t* values_;
    int32_t* end_;
};

// In a row of samples, (u / a)^2 + (v / b)^2 <= 1 is a quadratic in x: bend x^2 + tilt x + level <= 0. Returns the samples
// inside, also those beyond the window.
inline int64_t cross_ellipse(const Shapes& shapes, int64_t i, Differences& differences) {
    const double x = shapes.centers[2 * i], y = shapes.centers[2 * i + 1], half_height = shapes.half_heights[i];
    const double along = shapes.semi_axes[2 * i], across = shapes.semi_axes[2 * i + 1];
    const double cosine = shapes.directions[2 * i], sine = shapes.directions[2 * i + 1];
    const auto square = [](double value) { return value * value; };
    const double bend = square(cosine * across) + square(sine * along);
    const double lean = cosine * sine * (across * across - along * along);
    const double rise = square(sine * across) + square(cosine * along);
    const double limit = square(along * across);
    int64_t area = 0;
    const int64_t end = first_sample(y + half_height) + 1;
    for (int64_t row = first_sample(y - half_height) - 1; row < end; row++) {
        const double down = position_of(row) - y, half_tilt = lean * down;
        const double inside = half_tilt * half_tilt - bend * (rise * (down * down) - limit);
        if (!(inside >= 0)) continue;
        const double root = std::sqrt(inside);
        const int64_t enter = first_sample(x - (half_tilt + root) / bend);
        const int64_t leave = floor_of((x + (root - half_tilt) / bend) * samples + 0.5);
        differences.add(row, enter, 1);
        differences.add(row, leave, -1);
        area += leave - enter;
    }
    return area;
}

inline int64_t cross_edges(const Shapes& shapes, int64_t i, Differences& differences) {
    int64_t area = 0;
    for (int64_t e = shapes.first_edges[i]; e < shapes.first_edges[i + 1]; e++) {
        const double x0 = shapes.edges[4 * e], y0 = shapes.edges[4 * e + 1], x1 = shapes.edges[4 * e + 2],
                     y1 = shapes.edges[4 * e + 3];
        const double slope = (x1 - x0) / (y1 - y0);  // of a level edge it is not asked for
        const int32_t sign = y1 > y0 ? -1 : 1;
        const int64_t end = first_sample(std::max(y0, y1));
        for (int64_t row = first_sample(std::min(y0, y1)); row < end; row++) {
            const int64_t sample = first_sample(x0 + (position_of(row) - y0) * slope);
            differences.add(row, sample, sign);
            area -= sign * sample;
        }
    }
    return area;
}

// `scratch`: the largest window's area + 2.
inline void fill_windows(const Shapes& shapes, const Window* windows, int32_t* scratch, uint8_t* levels,
                         double* areas) {
    for (int64_t i = 0; i < shapes.count; i++) {
        Differences differences(windows[i], scratch);
        const bool outlined = shapes.first_edges[i] < shapes.first_edges[i + 1];
        const int64_t area = outlined ? cross_edges(shapes, i, differences) : cross_ellipse(shapes, i, differences);
        areas[i] = static_cast<double>(area) / whole;
        differences.write_levels(levels);
        levels += windows[i].area();
    }
}

}  // namespace smallobjects
