// Draws a picture under an affine map, for images and masks. What is computed: maskrcnn/ops/reference_images.py.
//
// Along a row of new pixels old coordinates rise or fall steadily, so those that see nothing but pixels of the picture are
// neighbors: a loop without branches, which compilers vectorize, draws them; the others go one by one.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <type_traits>
#include <vector>

#include "../shared/warping.h"

namespace smallobjects {

// Of new pixels drawn together, so that what they read stays near.
constexpr int64_t block_width = 256, block_height = 64;

// The four pixels around each of a row of points.
template <class T>
struct Quads {
    float pixels[4][block_width];

    void set(int64_t n, T a, T b, T c, T d) { pixels[0][n] = a, pixels[1][n] = b, pixels[2][n] = c, pixels[3][n] = d; }
    float get(int64_t n, int corner) const { return pixels[corner][n]; }
};
template <>
struct Quads<uint8_t> {
    uint32_t pixels[block_width];

    void set(int64_t n, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
        pixels[n] = (a | b << 8) | (c | d << 8) << 16;
    }
    float get(int64_t n, int corner) const {
        return static_cast<float>(static_cast<int32_t>(pixels[n] >> 8 * corner & 255));
    }
};

// `level_from` for values from 0 to 255.4, without branches or calls: the addition rounds.
inline uint8_t level_of_mean(float value) { return static_cast<uint8_t>(std::bit_cast<uint32_t>(value + 8388608.0f)); }

struct Run {
    int64_t begin, end;
};
inline Run common(const Run& a, const Run& b) {
    const int64_t begin = std::max(a.begin, b.begin);
    return {begin, std::max(begin, std::min(a.end, b.end))};
}
// Of a row of points: outside `seen` is nothing, in `inner` all four pixels are; the first may be a little wide, the
// second narrow. Tame coordinates fit integers.
struct Runs {
    Run seen, inner;
    bool tame;
};

template <class T>
class Warp {
public:
    // `samples` along each axis of a new pixel, which is their mean.
    Warp(const Affine& map, int64_t samples, Border border, int64_t channels)
        : map_(map), samples_(samples), border_(border), channels_(channels), sums_(channels * block_width) {}

    // Pixels of `old`, plane by plane, seen in `area`: rows follow each other in `out`, planes are `plane` apart.
    void draw(const T* pixels, const Window& old, const Window& area, T* out, int64_t plane) {
        pixels_ = pixels, old_ = old, plane_ = plane;
        const bool moves = moves_pixels(area);
        for (int64_t top = area.y1; top < area.y2; top += block_height) {
            const int64_t bottom = std::min<int64_t>(top + block_height, area.y2);
            for (int64_t left = area.x1; left < area.x2; left += block_width) {
                const int64_t count = std::min(block_width, area.x2 - left);
                for (int64_t y = top; y < bottom; y++) {
                    T* to = out + (y - area.y1) * area.width() + left - area.x1;
                    if (moves) move(left, y, count, to);
                    else mean(left, y, count, to);
                }
            }
        }
    }

private:
    // Whether pixels fall on pixels, all of them at numbers that float knows exactly.
    bool moves_pixels(const Window& area) const {
        const auto exact = [](double number) { return std::abs(number) <= 1 << 22; };
        const auto axis = [](double a, double b) {
            return (a == 0 && std::abs(b) == 1) || (b == 0 && std::abs(a) == 1);
        };
        return samples_ == 1 && axis(map_.xx, map_.xy) && axis(map_.yx, map_.yy) && axis(map_.xx, map_.yx) &&
               exact(map_.x0) && exact(map_.y0) && map_.x0 == std::floor(map_.x0) && map_.y0 == std::floor(map_.y0) &&
               exact(area.x1) && exact(area.y1) && exact(area.x2) && exact(area.y2);
    }

    // Pixels seen from x on, one for each step of one pixel.
    void move(int64_t x, int64_t y, int64_t count, T* out) const {
        const double at_x = static_cast<double>(x) + 0.5, at_y = static_cast<double>(y) + 0.5;
        const int64_t u = static_cast<int64_t>(map_.u(at_x, at_y)) - old_.x1,
                      v = static_cast<int64_t>(map_.v(at_x, at_y)) - old_.y1;
        const int64_t step_u = static_cast<int64_t>(map_.xx), step_v = static_cast<int64_t>(map_.yx),
                      width = old_.width(), height = old_.height();
        const Run run = common(steps_inside(u, step_u, width, count), steps_inside(v, step_v, height, count));
        const int64_t step = step_v * width + step_u;
        for (int64_t c = 0; c < channels_; c++, out += plane_) {
            const T* plane = pixels_ + c * old_.area();
            const auto border = [&](int64_t begin, int64_t end) {
                for (int64_t n = begin; n < end; n++) {
                    const int64_t column = pixel_at(u + n * step_u, width, border_),
                                  row = pixel_at(v + n * step_v, height, border_);
                    out[n] = column < 0 || row < 0 ? T(0) : plane[row * width + column];
                }
            };
            border(0, run.begin);
            if (run.begin < run.end)
                copy(plane + v * width + u + run.begin * step, step, run.end - run.begin, out + run.begin);
            border(run.end, count);
        }
    }
    static void copy(const T* from, int64_t step, int64_t count, T* to) {
        if (step == 1) std::copy_n(from, count, to);
        else if (step == -1) std::reverse_copy(from - count + 1, from + 1, to);
        else
            for (int64_t n = 0; n < count; n++) to[n] = from[n * step];
    }
    // The steps n of 0..count after which start + n * step is in 0..length.
    static Run steps_inside(int64_t start, int64_t step, int64_t length, int64_t count) {
        if (step == 0) return {0, start >= 0 && start < length ? count : 0};
        const int64_t first = step > 0 ? -start : start - length + 1;
        return {std::clamp<int64_t>(first, 0, count), std::clamp<int64_t>(first + length, 0, count)};
    }

    void mean(int64_t x, int64_t y, int64_t count, T* out) {
        for (int64_t c = 0; c < channels_; c++) std::fill_n(&sums_[c * block_width], count, 0.0f);
        for (int64_t i = 0; i < samples_; i++) {
            for (int64_t j = 0; j < samples_; j++)
                add(x, sample_at(j, samples_), static_cast<double>(y) + sample_at(i, samples_), count);
        }
        const float number = static_cast<float>(samples_ * samples_);
        for (int64_t c = 0; c < channels_; c++, out += plane_) {
            float* sums = &sums_[c * block_width];
            if (samples_ > 1) {
                for (int64_t n = 0; n < count; n++) sums[n] /= number;
            }
            if constexpr (std::is_same_v<T, uint8_t>) {
                for (int64_t n = 0; n < count; n++) out[n] = level_of_mean(sums[n]);
            } else {
                std::copy_n(sums, count, out);
            }
        }
    }

    // One sample of each of `count` new pixels from x on.
    void add(int64_t x, double offset, double y, int64_t count) {
        const Runs all = runs(static_cast<double>(x) + offset, y, count);
        // To hold coordinates would keep the loop from being vectorized.
        if (all.tame) locate(static_cast<int32_t>(x), offset, y, all.seen, [](float at) { return at; });
        else locate(static_cast<int32_t>(x), offset, y, all.seen, reachable);
        for (int64_t n = all.seen.begin; n < all.inner.begin; n++) find_corners(n);
        for (int64_t n = all.inner.begin; n < all.inner.end; n++)
            corners_[n][0] = (int64_t{rows_[n]} - old_.y1) * old_.width() + columns_[n] - old_.x1;
        for (int64_t n = all.inner.end; n < all.seen.end; n++) find_corners(n);
        for (int64_t c = 0; c < channels_; c++) {
            read(pixels_ + c * old_.area(), all);
            blend(&sums_[c * block_width], all.seen);
        }
    }

    // Where the pixels around point n are in a plane, -1 for none.
    void find_corners(int64_t n) {
        const int64_t width = old_.width(), height = old_.height(), x = int64_t{columns_[n]} - old_.x1,
                      y = int64_t{rows_[n]} - old_.y1;
        const int64_t columns[2] = {pixel_at(x, width, border_), pixel_at(x + 1, width, border_)};
        const int64_t rows[2] = {pixel_at(y, height, border_), pixel_at(y + 1, height, border_)};
        for (int corner = 0; corner < 4; corner++) {
            const int64_t column = columns[corner % 2], row = rows[corner / 2];
            corners_[n][corner] = column < 0 || row < 0 ? -1 : row * width + column;
        }
    }

    Runs runs(double x, double y, int64_t count) const {
        const double furthest = std::max(std::abs(x), std::abs(x + static_cast<double>(count)));
        // More than what rounding, to float too, can do.
        const double slack_u = 3e-7 * (std::abs(map_.xx) * furthest + std::abs(map_.xy * y) + std::abs(map_.x0) + 1);
        const double slack_v = 3e-7 * (std::abs(map_.yx) * furthest + std::abs(map_.yy * y) + std::abs(map_.y0) + 1);
        if (!(slack_u < 1 && slack_v < 1)) return {{0, count}, {0, 0}, false};  // or NaN
        const double u = map_.xx * x + map_.xy * y + map_.x0 - 0.5, v = map_.yx * x + map_.yy * y + map_.y0 - 0.5;
        // Where points are in the picture, from the first pixels' centers to the last ones', or so much around it.
        const auto within = [&](double around_u, double around_v) {
            return common(narrowed(map_.xx, u, old_.x1 - around_u, around_u - 1 + old_.x2, count),
                          narrowed(map_.yx, v, old_.y1 - around_v, around_v - 1 + old_.y2, count));
        };
        const Run seen = border_ == Border::constant ? within(1 + slack_u, 1 + slack_v) : Run{0, count},
                  inner = within(-slack_u, -slack_v);
        return {seen, inner.begin < inner.end ? inner : Run{seen.begin, seen.begin}, true};
    }
    // The steps n of 0..count for which start + n * slope is in low..high.
    static Run narrowed(double slope, double start, double low, double high, int64_t count) {
        if (slope == 0) return {0, start >= low && start <= high ? count : 0};
        if (slope < 0) return narrowed(-slope, -start, -high, -low, count);
        const double most = static_cast<double>(count);
        const double from = held((low - start) / slope, 0.0, most), to = held((high - start) / slope + 1, 0.0, most);
        const int64_t begin = static_cast<int64_t>(from);
        return {begin + (static_cast<double>(begin) < from), static_cast<int64_t>(to)};
    }

    void read(const T* plane, const Runs& all) {
        const auto edge = [&](int64_t begin, int64_t end) {
            const auto pixel = [&](int64_t at) { return at < 0 ? T(0) : plane[at]; };
            for (int64_t n = begin; n < end; n++)
                quads_.set(n, pixel(corners_[n][0]), pixel(corners_[n][1]), pixel(corners_[n][2]),
                           pixel(corners_[n][3]));
        };
        edge(all.seen.begin, all.inner.begin);
        for (int64_t n = all.inner.begin; n < all.inner.end; n++) {
            const T *upper = plane + corners_[n][0], *lower = upper + old_.width();
            quads_.set(n, upper[0], upper[1], lower[0], lower[1]);
        }
        edge(all.inner.end, all.seen.end);
    }

    // Where the samples of a run are: the first of their four pixels and how far they are from it.
    template <class Hold>
    void locate(int32_t x, double offset, double y, const Run& run, const Hold& hold) {
        const Affine map = map_;
        for (int32_t n = static_cast<int32_t>(run.begin); n < static_cast<int32_t>(run.end); n++) {
            const double at = static_cast<double>(x + n) + offset;
            const float u = hold(map.u(at, y)), v = hold(map.v(at, y));
            columns_[n] = floor_of(u), rows_[n] = floor_of(v);
            fraction_x_[n] = u - static_cast<float>(columns_[n]), fraction_y_[n] = v - static_cast<float>(rows_[n]);
        }
    }
    // Without a call, which would keep the loop from being vectorized.
    static int32_t floor_of(float value) {
        const int32_t whole = static_cast<int32_t>(value);
        return whole - (static_cast<float>(whole) > value);
    }

    void blend(float* sums, const Run& run) const {
        for (int64_t n = run.begin; n < run.end; n++) {
            const float fx = fraction_x_[n], fy = fraction_y_[n];
            const float upper = quads_.get(n, 0) * (1 - fx) + quads_.get(n, 1) * fx;
            const float lower = quads_.get(n, 2) * (1 - fx) + quads_.get(n, 3) * fx;
            sums[n] += upper * (1 - fy) + lower * fy;
        }
    }

    Affine map_;
    int64_t samples_;
    Border border_;
    int64_t channels_;
    std::vector<float> sums_;
    const T* pixels_ = nullptr;
    Window old_{};
    int64_t plane_ = 0;
    int32_t columns_[block_width], rows_[block_width];
    int64_t corners_[block_width][4];  // the first alone where all four are pixels
    float fraction_x_[block_width], fraction_y_[block_width];
    Quads<T> quads_;
};

}  // namespace smallobjects
