// The kernels of the generator of synthetic scenes behind a C interface, for ctypes: the processes that draw start without
// PyTorch. datasets/synthetic/_native.py has checked types and shapes; what is in the arrays is checked here: -1 is
// returned for arrays that do not fit together.

#include <cstdint>

#include "scenes/drawing.h"
#include "scenes/labels.h"
#include "scenes/measuring.h"
#include "scenes/painting.h"

#ifdef _WIN32
#define EXPORT extern "C" __declspec(dllexport)
#else
#define EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace smallobjects {
namespace {

bool fits(const Window& window, int64_t height, int64_t width) {
    return window.width() >= 0 && window.height() >= 0 && window.inside(height, width);
}

bool fits(const Coverage& coverage) {
    if (coverage.offsets[0] != 0 || coverage.offsets[coverage.count] != coverage.num_levels) return false;
    for (int64_t i = 0; i < coverage.count; i++) {
        const Window& window = coverage.windows[i];
        if (!fits(window, coverage.height, coverage.width)) return false;
        if (coverage.offsets[i + 1] - coverage.offsets[i] != window.area()) return false;
    }
    return true;
}

bool fits(const Shapes& shapes) {
    if (shapes.first_edges[0] != 0 || shapes.first_edges[shapes.count] != shapes.num_edges) return false;
    for (int64_t i = 0; i < shapes.count; i++) {
        if (shapes.first_edges[i] > shapes.first_edges[i + 1]) return false;
    }
    return true;
}

}  // namespace
}  // namespace smallobjects

using namespace smallobjects;

EXPORT int32_t scenes_version() { return 1; }  // datasets/synthetic/_native.py states it too

EXPORT int64_t fill_windows(const Shapes& shapes, const Window* windows, int64_t num_levels, int32_t* scratch,
                            int64_t scratch_size, uint8_t* levels, double* areas) {
    if (!fits(shapes)) return -1;
    int64_t total = 0;
    for (int64_t i = 0; i < shapes.count; i++) {
        if (!fits(windows[i], INT32_MAX, INT32_MAX) || windows[i].area() > scratch_size - 2) return -1;
        total += windows[i].area();
    }
    if (total != num_levels) return -1;
    smallobjects::fill_windows(shapes, windows, scratch, levels, areas);
    return 0;
}

EXPORT int64_t paint_uint16(const Coverage& coverage, const uint16_t* colors, const uint16_t* numbers, uint16_t* canvas,
                            uint16_t* labels) {
    if (!fits(coverage)) return -1;
    paint(coverage, colors, numbers, canvas, labels);
    return 0;
}

EXPORT int64_t paint_uint32(const Coverage& coverage, const uint32_t* colors, const uint16_t* numbers, uint32_t* canvas,
                            uint16_t* labels) {
    if (!fits(coverage)) return -1;
    paint(coverage, colors, numbers, canvas, labels);
    return 0;
}

EXPORT int64_t measure_levels(const Coverage& coverage, double* result) {
    if (!fits(coverage)) return -1;
    smallobjects::measure_levels(coverage, result);
    return 0;
}

EXPORT int64_t measure_pixels(const Coverage& coverage, const uint8_t* image, const uint16_t* labels,
                              const int64_t* which, int64_t count, int64_t ring, uint8_t* seen, int64_t* result) {
    if (!fits(coverage)) return -1;
    for (int64_t k = 0; k < count; k++) {
        if (which[k] < 0 || which[k] >= coverage.count) return -1;
    }
    smallobjects::measure_pixels(coverage, image, labels, which, count, ring, seen, result);
    return 0;
}

EXPORT int64_t find_boxes(const uint16_t* labels, int64_t height, int64_t width, Window* boxes, int64_t* begins,
                          int64_t count) {
    return smallobjects::find_boxes(labels, height, width, boxes, begins, count);
}

EXPORT int64_t encode_labels(const uint16_t* labels, int64_t height, int64_t width, int64_t* begins, int64_t count,
                             Run* runs, int64_t num_runs, uint8_t* text, int64_t capacity, int64_t* text_ends) {
    return smallobjects::encode_labels(labels, height, width, begins, count, runs, num_runs, text, capacity, text_ends);
}
