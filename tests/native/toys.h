// Random input for the self-test, ordinary and degenerate. Every array is as long as it says: sanitizers see the ends.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "cpu/masks.h"

namespace smallobjects {

inline std::mt19937_64 engine(20);

inline int64_t pick(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(engine); }
inline float uniform(float low, float high) { return std::uniform_real_distribution<float>(low, high)(engine); }
inline bool chance(double share) { return std::bernoulli_distribution(share)(engine); }
template <class T>
T one_of(std::initializer_list<T> values) {
    return values.begin()[pick(0, static_cast<int64_t>(values.size()) - 1)];
}

inline void require(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "self-test failed: %s\n", what);
    std::exit(1);
}

// Pieces of the grain or longer, some at once on three threads.
inline void threads(int64_t count, int64_t grain, const Range& range) {
    const int64_t piece = std::max((count + 2) / 3, grain);
    std::vector<std::thread> running;
    for (int64_t begin = 0; begin < count; begin += piece) {
        running.emplace_back([&range, begin, end = std::min(begin + piece, count)] { range(begin, end); });
    }
    for (std::thread& thread : running) thread.join();
}

using Flags = std::unique_ptr<bool[]>;  // std::vector<bool> has no array

inline float strange_number() {
    constexpr float infinity = std::numeric_limits<float>::infinity();
    return one_of({std::nanf(""), infinity, -infinity, 1e30f, -1e30f, 3e38f, -3e38f, 1e-40f, 0.0f, -0.0f, 1e9f});
}

// Boxes of 0 to 12 px, on whole pixels or not, many doubled or nested; `strange`: with broken ones among them.
inline std::vector<float> random_boxes(int64_t count, float side, bool strange) {
    std::vector<float> boxes(4 * count);
    const bool whole = chance(0.5);
    for (int64_t i = 0; i < count; i++) {
        float* box = &boxes[4 * i];
        for (int axis = 0; axis < 2; axis++) {
            const float start = uniform(0, side), extent = uniform(0, 12);
            box[axis] = whole ? std::nearbyint(start) : start;
            box[axis + 2] = box[axis] + (whole ? std::nearbyint(extent) : extent);
        }
        const float* other = &boxes[4 * pick(0, i)];
        if (chance(0.1)) std::copy_n(other, 4, box);
        if (chance(0.1)) {
            for (int side_of = 0; side_of < 4; side_of++) box[side_of] = other[side_of] + (side_of < 2 ? 1.0f : -1.0f);
        }
        if (strange && chance(0.1)) box[pick(0, 3)] = strange_number();
        if (strange && chance(0.03)) std::generate_n(box, 4, strange_number);
    }
    return boxes;
}

// A box around the origin so wide that its area is no float, or is one because it is so flat.
inline std::vector<float> finite_boxes(int64_t count, float side) {
    std::vector<float> boxes = random_boxes(count, side, false);
    for (float& value : boxes) {
        if (chance(0.05)) value = one_of({1e30f, -1e30f, 3e38f, -3e38f, 1e9f, 1e-40f});
    }
    return boxes;
}

struct OwnMasks {
    std::vector<Window> windows;
    std::vector<int64_t> offsets{0};
    std::vector<uint8_t> levels;

    explicit OwnMasks(std::vector<Window> all = {}) : windows(std::move(all)) {
        for (const Window& window : windows) offsets.push_back(offsets.back() + window.area());
        levels.resize(offsets.back());
    }
    int64_t count() const { return static_cast<int64_t>(windows.size()); }
    Masks view() const { return {windows.data(), offsets.data(), levels.data(), count()}; }
    uint8_t at(int64_t i, int64_t x, int64_t y) const {
        const Window& window = windows[i];
        return window.holds(x, y) ? levels[offsets[i] + (y - window.y1) * window.width() + x - window.x1] : 0;
    }
};

// Masks inside a canvas: noise, full, or without a pixel inside; some windows empty.
inline OwnMasks random_masks(int64_t count, int64_t height, int64_t width) {
    std::vector<Window> windows;
    for (int64_t i = 0; i < count; i++) {
        const int64_t x1 = pick(0, width), y1 = pick(0, height), limit = one_of({1, 6, 12, 40});
        windows.push_back({static_cast<int32_t>(x1), static_cast<int32_t>(y1),
                           static_cast<int32_t>(std::min(width, x1 + pick(0, limit))),
                           static_cast<int32_t>(std::min(height, y1 + pick(0, limit)))});
    }
    OwnMasks masks(windows);
    for (int64_t i = 0; i < count; i++) {
        const int64_t kind = pick(0, 3);
        for (int64_t at = masks.offsets[i]; at < masks.offsets[i + 1]; at++) {
            masks.levels[at] = kind == 0   ? 255
                               : kind == 1 ? static_cast<uint8_t>(pick(0, 127))
                                           : static_cast<uint8_t>(pick(0, 255));
        }
    }
    return masks;
}

}  // namespace smallobjects
