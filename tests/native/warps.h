// Warps of masks and images against plain loops that say the same, to the last bit.
#pragma once

#include "cpu/images.h"
#include "toys.h"

namespace smallobjects {

// A way back: any, by whole pixels, or with numbers that cannot be.
inline std::vector<double> random_map() {
    const int64_t kind = pick(0, 3);
    std::vector<double> matrix(6);
    for (double& value : matrix) value = kind == 0 ? static_cast<double>(uniform(-3, 3)) : 0.0;
    if (kind == 0) matrix[2] *= 20, matrix[5] *= 20;
    if (kind == 1 || kind == 2) {
        const bool turned = chance(0.5);
        matrix[turned ? 1 : 0] = one_of({1.0, -1.0}), matrix[turned ? 3 : 4] = one_of({1.0, -1.0});
        matrix[2] = static_cast<double>(pick(-50, 50)), matrix[5] = static_cast<double>(pick(-50, 50));
        if (kind == 2) matrix[pick(0, 5)] += static_cast<double>(one_of({1e-9f, 0.5f, 0.1f}));
    }
    if (kind == 3) {
        for (double& value : matrix)
            value = chance(0.4) ? strange_number() * one_of({1.0, 1e300}) : static_cast<double>(uniform(-3, 3));
    }
    return matrix;
}

// What a new pixel sees of old ones `pixel(x, y)`: the mean of bilinear samples.
template <class Pixel>
float mean_seen(const std::vector<double>& matrix, int64_t x, int64_t y, int64_t samples, const Pixel& pixel) {
    float sum = 0;
    for (int64_t i = 0; i < samples * samples; i++) {
        const double at_x =
            static_cast<double>(x) + (static_cast<double>(i % samples) + 0.5) / static_cast<double>(samples);
        const double at_y =
            static_cast<double>(y) + (static_cast<double>(i / samples) + 0.5) / static_cast<double>(samples);
        const auto near = [](double at) {
            return std::isnan(at) ? -0x1p30f : std::clamp(static_cast<float>(at), -0x1p30f, 0x1p30f);
        };
        const float u = near(matrix[0] * at_x + matrix[1] * at_y + matrix[2] - 0.5),
                    v = near(matrix[3] * at_x + matrix[4] * at_y + matrix[5] - 0.5);
        const float left = std::floor(u), top = std::floor(v), fx = u - left, fy = v - top;
        const int64_t column = static_cast<int64_t>(left), row = static_cast<int64_t>(top);
        const float upper = pixel(column, row) * (1 - fx) + pixel(column + 1, row) * fx;
        const float lower = pixel(column, row + 1) * (1 - fx) + pixel(column + 1, row + 1) * fx;
        sum += upper * (1 - fy) + lower * fy;
    }
    return sum / static_cast<float>(samples * samples);
}

inline void check_warp_masks() {
    const int64_t height = pick(1, 30), width = pick(1, 30), count = pick(0, 10);
    const OwnMasks masks = random_masks(count, height, width);
    OwnMasks drawn(masks.windows);
    const std::vector<double> same{1, 0, 0, 0, 1, 0}, matrix = random_map();
    warp_masks(masks.view(), same.data(), drawn.windows.data(), drawn.offsets.data(), 1, drawn.levels.data(), threads);
    require(drawn.levels == masks.levels, "warp_masks: no map");
    const int64_t samples = one_of({1, 1, 2, 3});
    for (Window& window : drawn.windows) window = {window.x1 - 2, window.y1 - 2, window.x2 + 2, window.y2 + 2};
    drawn = OwnMasks(drawn.windows);
    warp_masks(masks.view(), matrix.data(), drawn.windows.data(), drawn.offsets.data(), samples, drawn.levels.data(),
               threads);
    for (int64_t i = 0; i < count; i++) {
        const Window window = drawn.windows[i];
        for (int64_t at = 0; at < window.area(); at++) {
            const int64_t x = window.x1 + at % window.width(), y = window.y1 + at / window.width();
            const float wanted = mean_seen(matrix, x, y, samples,
                                           [&](int64_t u, int64_t v) { return static_cast<float>(masks.at(i, u, v)); });
            require(drawn.at(i, x, y) == level_from(wanted), "warp_masks");
        }
    }
}

// Old pixels as the border shows them.
inline float beyond(const std::vector<float>& plane, int64_t height, int64_t width, Border border, int64_t x,
                    int64_t y) {
    const auto place = [&](int64_t at, int64_t length) {
        if (border == Border::replicate || length == 1) return std::clamp<int64_t>(at, 0, length - 1);
        at = (at % (2 * length - 2) + 2 * length - 2) % (2 * length - 2);
        return std::min(at, 2 * length - 2 - at);
    };
    if (border == Border::constant && !(x >= 0 && x < width && y >= 0 && y < height)) return 0;
    return plane[place(y, height) * width + place(x, width)];
}

template <class T>
void check_warp_image() {
    const int64_t channels = pick(0, 4), height = one_of<int64_t>({1, 2, 3, pick(1, 60)}),
                  width = one_of<int64_t>({1, 2, 3, pick(1, 60)});
    const int64_t new_height = pick(0, 20), new_width = one_of<int64_t>({pick(0, 40), pick(250, 600)}),
                  samples = one_of({1, 1, 1, 2, 3});
    const Border border = static_cast<Border>(pick(0, 2));
    const std::vector<double> matrix = random_map();
    std::vector<T> image(channels * height * width), result(channels * new_height * new_width, T(7));
    for (T& pixel : image) pixel = static_cast<T>(pick(0, 255));
    warp_image(image.data(), channels, height, width, matrix.data(), new_height, new_width, border, samples,
               result.data(), threads);
    for (int64_t c = 0; c < channels; c++) {
        const std::vector<float> plane(image.begin() + c * height * width, image.begin() + (c + 1) * height * width);
        for (int64_t at = 0; at < new_height * new_width; at++) {
            const float wanted = mean_seen(matrix, at % new_width, at / new_width, samples, [&](int64_t x, int64_t y) {
                return beyond(plane, height, width, border, x, y);
            });
            const T found = result[c * new_height * new_width + at];
            require(std::is_same_v<T, float> ? found == wanted : found == level_from(wanted), "warp_image");
        }
    }
}

}  // namespace smallobjects
