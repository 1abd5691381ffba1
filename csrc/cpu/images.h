// Images, planes of pixels, warped. What is computed: maskrcnn/ops/reference_images.py.
#pragma once

#include "parallel.h"
#include "warping.h"

namespace smallobjects {

// result [channels, new_height, new_width], where `matrix [2, 3]` leads from new to old continuous coordinates.
template <class T>
void warp_image(const T* image, int64_t channels, int64_t height, int64_t width, const double* matrix,
                int64_t new_height, int64_t new_width, Border border, int64_t samples, T* result,
                const Parallel& parallel) {
    const Window old{0, 0, static_cast<int32_t>(width), static_cast<int32_t>(height)};
    // A thread costs as much as some thousand pixels.
    const int64_t cost = std::max<int64_t>(1, channels * new_width * samples * samples);
    parallel(new_height, std::max<int64_t>(1, (1 << 14) / cost), [&](int64_t begin, int64_t end) {
        Warp<T> warp(Affine::of(matrix), samples, border, channels);
        const Window area{0, static_cast<int32_t>(begin), static_cast<int32_t>(new_width), static_cast<int32_t>(end)};
        warp.draw(image, old, area, result + begin * new_width, new_height * new_width);
    });
}

}  // namespace smallobjects
