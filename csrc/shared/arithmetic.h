// Arithmetic that nvcc, g++ and MSVC do alike, for code that the CPU's and the GPU's kernels share.
#pragma once

#include <math.h>

#include <cfloat>
#include <cstdint>

#ifdef __CUDACC__
#define EVERYWHERE __host__ __device__
#else
#define EVERYWHERE
#endif

namespace smallobjects {

template <class T>
EVERYWHERE T smaller(T a, T b) {
    return b < a ? b : a;
}
template <class T>
EVERYWHERE T larger(T a, T b) {
    return a < b ? b : a;
}
// NaN becomes `low`.
template <class T>
EVERYWHERE T held(T value, T low, T high) {
    return smaller(larger(low, value), high);
}
// The largest float that is not above `x`: a float is above one exactly where it is above the other.
inline float float_not_above(double x) {
    const float nearest = static_cast<float>(x);
    return static_cast<double>(nearest) > x ? nextafterf(nearest, -FLT_MAX) : nearest;
}
EVERYWHERE inline bool is_finite(float x) { return fabsf(x) <= FLT_MAX; }

}  // namespace smallobjects
