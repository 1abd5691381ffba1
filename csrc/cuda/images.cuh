// Pictures under an affine map, for images and masks. What is computed: maskrcnn/ops/reference_images.py.
#pragma once

#include "../shared/warping.h"
#include "device.cuh"

namespace smallobjects {

// The pixels around a point of an axis, and how far it is from the first to the second.
struct Around {
    int64_t first, second;
    float fraction;

    __device__ Around(float at, int64_t start, int64_t length, Border border) {
        const float floor = floorf(reachable(at));
        fraction = reachable(at) - floor;
        first = pixel_at(static_cast<int64_t>(floor) - start, length, border);
        second = pixel_at(static_cast<int64_t>(floor) + 1 - start, length, border);
    }
};

// A point of an image whose pixels are in the window `old`.
struct Point {
    Around column, row;
    int64_t width;

    __device__ Point(float u, float v, const Window& old, Border border)
        : column(u, old.x1, old.width(), border), row(v, old.y1, old.height(), border), width(old.width()) {}

    template <class T>
    __device__ float value(const T* pixels) const {
        return line(pixels, row.first) * (1 - row.fraction) + line(pixels, row.second) * row.fraction;
    }
    template <class T>
    __device__ float line(const T* pixels, int64_t at) const {
        const float left = at < 0 || column.first < 0 ? 0.0f : static_cast<float>(pixels[at * width + column.first]);
        const float right = at < 0 || column.second < 0 ? 0.0f : static_cast<float>(pixels[at * width + column.second]);
        return left * (1 - column.fraction) + right * column.fraction;
    }
};

// What new pixels see of a picture: the mean of samples x samples points of it.
struct Sight {
    const double* matrix;  // [2, 3], from new to old continuous coordinates
    Border border;
    int64_t samples;

    template <class Visit>
    __device__ void each(int64_t x, int64_t y, const Window& old, const Visit& visit) const {
        const Affine map = Affine::of(matrix);
        for (int64_t i = 0; i < samples; i++) {
            for (int64_t j = 0; j < samples; j++) {
                const double at_x = static_cast<double>(x) + sample_at(j, samples),
                             at_y = static_cast<double>(y) + sample_at(i, samples);
                visit(Point(map.u(at_x, at_y), map.v(at_x, at_y), old, border));
            }
        }
    }
    __device__ float mean(float sum) const { return sum / static_cast<float>(samples * samples); }
};

__device__ inline void put(float value, uint8_t& pixel) { pixel = level_from(value); }
__device__ inline void put(float value, float& pixel) { pixel = value; }

// result [channels, height, width] of an image, its pixels in the window `old`; points serve four channels at once.
template <class T>
__global__ void warp_image(const T* image, int64_t channels, Window old, Sight sight, int64_t height, int64_t width,
                           T* result) {
    constexpr int64_t most = 4;
    for (int64_t p = this_thread(); p < height * width; p += all_threads()) {
        for (int64_t first = 0; first < channels; first += most) {
            float sums[most] = {};
            sight.each(p % width, p / width, old, [&](const Point& point) {
                for (int64_t k = 0; k < most; k++) {
                    if (first + k < channels) sums[k] += point.value(image + (first + k) * old.area());
                }
            });
            for (int64_t k = 0; k < most; k++) {
                if (first + k < channels) put(sight.mean(sums[k]), result[(first + k) * height * width + p]);
            }
        }
    }
}

}  // namespace smallobjects
