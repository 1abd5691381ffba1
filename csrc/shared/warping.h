// Affine maps of masks and images: what a new pixel sees of the old ones.
#pragma once

#include "windows.h"

namespace smallobjects {

// Padding outside: nothing, the image mirrored about the centers of its outermost pixels, or these pixels repeated.
enum class Border : int64_t { constant, reflect, replicate };

// Maps new to old continuous coordinates; u and v are integers at the centers of old pixels.
struct Affine {
    double xx, xy, x0, yx, yy, y0;

    EVERYWHERE static Affine of(const double* m) { return {m[0], m[1], m[2], m[3], m[4], m[5]}; }
    EVERYWHERE float u(double x, double y) const { return static_cast<float>(xx * x + xy * y + x0 - 0.5); }
    EVERYWHERE float v(double x, double y) const { return static_cast<float>(yx * x + yy * y + y0 - 0.5); }
};

// Coordinates that fit integers, beyond the largest picture where they did not; so is NaN.
EVERYWHERE inline float reachable(float at) { return held(at, -1073741824.0f, 1073741824.0f); }

// Position of sample k along an axis inside a pixel.
EVERYWHERE inline double sample_at(int64_t k, int64_t samples) {
    return (static_cast<double>(k) + 0.5) / static_cast<double>(samples);
}

// The pixel of an axis that is seen at `at`, -1 for none.
EVERYWHERE inline int64_t pixel_at(int64_t at, int64_t length, Border border) {
    if (at >= 0 && at < length) return at;
    if (border == Border::constant) return -1;
    if (border == Border::replicate || length == 1) return at < 0 ? 0 : length - 1;
    const int64_t period = 2 * (length - 1);
    at = at < 0 ? -at : at;
    if (at >= period) at %= period;
    return at < length ? at : period - at;
}

}  // namespace smallobjects
