// Sums over the pixels of things and around them. What is computed: datasets/synthetic/reference.py, measure_levels and
// measure_pixels.
#pragma once

#include <algorithm>
#include <cstdint>

#include "painting.h"

namespace smallobjects {

// The sums are taken row by row, as the definition does: they round alike.
inline void measure_levels(const Coverage& coverage, double* result) {
    for (int64_t i = 0; i < coverage.count; i++, result += 6) {
        const Window& window = coverage.windows[i];
        const auto each = [&](auto&& visit) {
            const uint8_t* level = coverage.pixels(i);
            for (int64_t row = window.y1; row < window.y2; row++) {
                for (int64_t column = window.x1; column < window.x2; column++) {
                    visit(static_cast<double>(column) + 0.5, static_cast<double>(row) + 0.5, *level++ / 255.0);
                }
            }
        };
        double area = 0, x_sum = 0, y_sum = 0, xx = 0, yy = 0, xy = 0;
        each([&](double x, double y, double weight) {
            area += weight;
            x_sum += x * weight;
            y_sum += y * weight;
        });
        const double some = std::max(area, 1e-9), x_mean = x_sum / some, y_mean = y_sum / some;
        each([&](double x, double y, double weight) {
            const double dx = x - x_mean, dy = y - y_mean;
            xx += dx * dx * weight;
            yy += dy * dy * weight;
            xy += dx * dy * weight;
        });
        const double row[6] = {area, x_mean, y_mean, xx / some, yy / some, xy / some};
        std::copy_n(row, 6, result);
    }
}

// What there is at a pixel of the canvas.
enum Seen : uint8_t { touched = 1, covered = 2, covered_again = 4 };

inline void see(const Coverage& coverage, uint8_t* seen) {
    for (int64_t i = 0; i < coverage.count; i++) {
        const Window& window = coverage.windows[i];
        const uint8_t* level = coverage.pixels(i);
        for (int64_t y = window.y1; y < window.y2; y++) {
            for (int64_t x = window.x1; x < window.x2; x++, level++) {
                uint8_t& at = seen[y * coverage.width + x];
                if (*level > 0) at |= touched;
                if (*level >= inside) at |= at & covered ? covered_again : covered;
            }
        }
    }
}

// image [H, W, 3], labels [H, W]; object k has number k + 1 and is thing which[k]; `seen` [H, W] of zeros; result [N, 9].
inline void measure_pixels(const Coverage& coverage, const uint8_t* image, const uint16_t* labels, const int64_t* which,
                           int64_t count, int64_t ring, uint8_t* seen, int64_t* result) {
    see(coverage, seen);
    for (int64_t k = 0; k < count; k++, result += 9) {
        const Window& window = coverage.windows[which[k]];
        const uint8_t* level = coverage.pixels(which[k]);
        int64_t pixels = 0, shared = 0, own = 0, own_light = 0, around_light = 0, bare = 0, bare_light = 0,
                bare_squares = 0;
        for (int64_t y = window.y1; y < window.y2; y++) {
            for (int64_t x = window.x1; x < window.x2; x++) {
                const bool is_inside = *level++ >= inside;
                pixels += is_inside;
                shared += is_inside && seen[y * coverage.width + x] & covered_again;
            }
        }
        const int64_t left = std::max<int64_t>(window.x1 - ring, 0),
                      right = std::min<int64_t>(window.x2 + ring, coverage.width);
        const int64_t top = std::max<int64_t>(window.y1 - ring, 0),
                      bottom = std::min<int64_t>(window.y2 + ring, coverage.height);
        for (int64_t y = top; y < bottom; y++) {
            for (int64_t x = left; x < right; x++) {
                const int64_t at = y * coverage.width + x;
                const int64_t light = image[3 * at] + image[3 * at + 1] + image[3 * at + 2];
                const bool is_own = labels[at] == k + 1, is_bare = seen[at] == 0;
                own += is_own;
                own_light += is_own ? light : 0;
                around_light += is_own ? 0 : light;
                bare += is_bare;
                bare_light += is_bare ? light : 0;
                bare_squares += is_bare ? light * light : 0;
            }
        }
        const int64_t around = (bottom - top) * (right - left) - own;
        const int64_t row[9] = {pixels, shared, own, own_light, around, around_light, bare, bare_light, bare_squares};
        std::copy_n(row, 9, result);
    }
}

}  // namespace smallobjects
