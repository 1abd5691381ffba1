// The grid that finds the boxes near a given one.
//
// The grid rests on the bound of csrc/cpu/grid.h. Instead of buckets it is one sorted list: a key holds the level in its
// upper bits and a hash of group and cell below, so a level is a run of keys and a cell one of equal keys. Two cells may
// share a hash, which costs time but never an answer.
#pragma once

#include "../shared/boxes.h"
#include "device.cuh"

namespace smallobjects {

constexpr int lowest_power = -30, number_of_levels = 160, hash_bits = 55;
constexpr int64_t key_of_unsound = INT64_MAX;

__device__ inline int level_of(double side) {
    return side > 0 ? held(ilogb(side) - lowest_power, 0, number_of_levels - 1) : 0;
}
__device__ inline double cells_per_pixel(int level) { return ldexp(1.0, -(level + lowest_power)); }
// Cells further out than 2^59 merge.
__device__ inline int64_t cell_index(double cell) { return static_cast<int64_t>(held(floor(cell), -1e18, 1e18)); }
__device__ inline int64_t key_of_level(int level) { return static_cast<int64_t>(level) << hash_bits; }
__device__ inline int64_t key_of(int level, int64_t group, int64_t x, int64_t y) {
    uint64_t key = static_cast<uint64_t>(x) * 0x9E3779B97F4A7C15ull;
    key = (key ^ (key >> 29) ^ static_cast<uint64_t>(y)) * 0xC2B2AE3D27D4EB4Full;
    key = (key ^ (key >> 31) ^ static_cast<uint64_t>(group)) * 0x165667B19E3779F9ull;
    return key_of_level(level) + static_cast<int64_t>(key >> (64 - hash_bits));
}

struct Grid {
    const float* boxes;       // [count, 4]
    const int64_t* groups;    // [count], or null: one group
    const int64_t* keys;      // [count], ascending
    const int64_t* order;     // [count], whose key each is
    const int64_t* starts;    // [levels + 1], where in keys each level begins
    const unsigned* longest;  // [levels], bits of the longest side
    int64_t count;

    __device__ int64_t group(int64_t i) const { return groups ? groups[i] : 0; }

    // Calls `visit(i)` for at least those boxes of the group whose IoU with the sound `box` is above, or within rounding
    // at, `iou`; some others too, and some twice. Stops when it returns true.
    template <class Visit>
    __device__ void nearby(const Box& box, int64_t of_group, double iou, const Visit& visit) const {
        const double rounding = 1e-6;  // of float32 IoUs, generously
        const double threshold = iou * (1 - rounding), side = box.longer_side();
        const double shrink = (1 - threshold) / (1 + threshold) * (1 + rounding);
        const int lowest = level_of(side * threshold);
        // 1e39 is above every float and in the range of ilogb.
        const int highest = threshold > 0 ? level_of(smaller(side / threshold, 1e39)) : number_of_levels - 1;
        for (int level = lowest; level <= highest; level++) {
            const int64_t begin = starts[level], end = starts[level + 1];
            if (begin == end) continue;
            double reach = __uint_as_float(longest[level]);
            if (threshold > 0) reach = smaller(reach, side / threshold * (1 + rounding));
            const double reach_x = (box.width() + reach) / 2 * shrink, reach_y = (box.height() + reach) / 2 * shrink;
            const double cells = cells_per_pixel(level);
            const int64_t x0 = cell_index((box.center_x() - reach_x) * cells),
                          x1 = cell_index((box.center_x() + reach_x) * cells);
            const int64_t y0 = cell_index((box.center_y() - reach_y) * cells),
                          y1 = cell_index((box.center_y() + reach_y) * cells);
            const double probes = (static_cast<double>(x1) - x0 + 1) * (static_cast<double>(y1) - y0 + 1);
            if (probes > static_cast<double>(end - begin)) {
                for (int64_t k = begin; k < end; k++) {
                    if (group(order[k]) == of_group && visit(order[k])) return;
                }
                continue;
            }
            for (int64_t y = y0; y <= y1; y++) {
                for (int64_t x = x0; x <= x1; x++) {
                    const int64_t key = key_of(level, of_group, x, y);
                    for (int64_t k = lower_bound(keys, key, begin, end); k < end && keys[k] == key; k++) {
                        if (group(order[k]) == of_group && visit(order[k])) return;
                    }
                }
            }
        }
    }
};

// keys [count] of boxes, still in their order; longest [levels], zeroed.
__global__ void grid_keys(const float* boxes, const int64_t* groups, int64_t count, int64_t* keys, unsigned* longest) {
    for (int64_t i = this_thread(); i < count; i += all_threads()) {
        const Box box = box_at(boxes, i);
        keys[i] = key_of_unsound;
        if (!box.sound()) continue;
        const int level = level_of(box.longer_side());
        const double cells = cells_per_pixel(level);
        keys[i] = key_of(level, groups ? groups[i] : 0, cell_index(box.center_x() * cells),
                         cell_index(box.center_y() * cells));
        atomicMax(&longest[level], __float_as_uint(box.longer_side()));
    }
}

// starts [levels + 1] in the sorted keys.
__global__ void grid_starts(const int64_t* keys, int64_t count, int64_t* starts) {
    for (int64_t level = this_thread(); level <= number_of_levels; level += all_threads()) {
        starts[level] = lower_bound(keys, key_of_level(static_cast<int>(level)), 0, count);
    }
}

}  // namespace smallobjects
