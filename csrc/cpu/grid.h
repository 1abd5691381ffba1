// Finds the boxes that may overlap a given one: cost follows the boxes near by.
//
// 2-D IoU is at most 1-D IoU. So IoU > t needs sides whose ratio is above t and centres closer than
// (w1 + w2) / 2 * (1 - t) / (1 + t), along x and along y. Boxes lie in square cells, in levels by the power of two of
// their longer side; a level's cells are as large as its smallest box. The cells are buckets of one hash table: two
// cells may share a bucket, which costs time but never an answer.
#pragma once

#include <array>
#include <vector>

#include "boxes.h"

namespace smallobjects {

class BoxGrid {
public:
    // Room for boxes 0..count-1 of `boxes [count, 4]`, of which nothing is copied; `groups [count]` or null: one group.
    BoxGrid(const float* boxes, const int64_t* groups, int64_t count)
        : boxes_(boxes), groups_(groups), next_in_bucket_(count), next_in_level_(count) {
        int64_t buckets = 16;
        while (buckets < 2 * count) buckets *= 2;
        buckets_.assign(buckets, none);
        levels_.fill(Level{none, 0, 0.0});
    }

    // The box must be sound.
    void insert(int64_t i) {
        const Box box = box_at(boxes_, i);
        const int number = level_of(side_of(box));
        Level& level = levels_[number];
        level.longest = std::max(level.longest, side_of(box));
        level.count++;
        next_in_level_[i] = level.first;
        level.first = i;
        const double cell = cell_of(number);
        const int64_t at = bucket(number, group(i), index(centre_x(box), cell), index(centre_y(box), cell));
        next_in_bucket_[i] = buckets_[at];
        buckets_[at] = i;
    }

    // Calls `visit(i)` for at least those boxes of the group whose IoU with the sound `box` is above, or within rounding
    // at, `iou`; some others too, and some twice. Stops when it returns true. (`near` is a macro of the Windows headers.)
    template <class Visit>
    void nearby(const Box& box, int64_t of_group, double iou, const Visit& visit) const {
        const double threshold = iou * (1 - rounding), side = side_of(box);
        const double shrink = (1 - threshold) / (1 + threshold) * (1 + rounding);
        const int lowest = level_of(side * threshold);
        // 1e39 is above every float and within what ilogb tells.
        const int highest = threshold > 0 ? level_of(std::min(side / threshold, 1e39)) : number_of_levels - 1;
        for (int number = lowest; number <= highest; number++) {
            const Level& level = levels_[number];
            if (level.count == 0) continue;
            const double longest = threshold > 0 ? std::min(level.longest, side / threshold * (1 + rounding)) : level.longest;
            const double reach_x = (box.x2 - box.x1 + longest) / 2 * shrink;
            const double reach_y = (box.y2 - box.y1 + longest) / 2 * shrink;
            const double cell = cell_of(number);
            const int64_t x0 = index(centre_x(box) - reach_x, cell), x1 = index(centre_x(box) + reach_x, cell);
            const int64_t y0 = index(centre_y(box) - reach_y, cell), y1 = index(centre_y(box) + reach_y, cell);
            const double cells = (static_cast<double>(x1) - x0 + 1) * (static_cast<double>(y1) - y0 + 1);
            if (cells > static_cast<double>(level.count)) {
                for (int64_t i = level.first; i != none; i = next_in_level_[i]) {
                    if (group(i) == of_group && visit(i)) return;
                }
                continue;
            }
            for (int64_t y = y0; y <= y1; y++) {
                for (int64_t x = x0; x <= x1; x++) {
                    for (int64_t i = buckets_[bucket(number, of_group, x, y)]; i != none; i = next_in_bucket_[i]) {
                        if (group(i) == of_group && visit(i)) return;
                    }
                }
            }
        }
    }

private:
    struct Level {
        int64_t first, count;
        double longest;
    };
    static constexpr int64_t none = -1;
    static constexpr double rounding = 1e-6;  // of float32 IoUs, generously
    static constexpr int lowest_power = -30, number_of_levels = 160;

    static double side_of(const Box& box) { return std::max<double>(box.x2 - box.x1, box.y2 - box.y1); }
    static double centre_x(const Box& box) { return (static_cast<double>(box.x1) + box.x2) / 2; }
    static double centre_y(const Box& box) { return (static_cast<double>(box.y1) + box.y2) / 2; }
    static int level_of(double side) {
        return side > 0 ? std::clamp(std::ilogb(side) - lowest_power, 0, number_of_levels - 1) : 0;
    }
    static double cell_of(int level) { return std::ldexp(1.0, level + lowest_power); }
    // Cells further out than 2^61 merge.
    static int64_t index(double at, double cell) {
        return static_cast<int64_t>(std::clamp(std::floor(at / cell), -2e18, 2e18));
    }
    int64_t group(int64_t i) const { return groups_ ? groups_[i] : 0; }
    int64_t bucket(int level, int64_t of_group, int64_t x, int64_t y) const {
        uint64_t key = static_cast<uint64_t>(x) * 0x9E3779B97F4A7C15ull;
        key = (key ^ (key >> 29) ^ static_cast<uint64_t>(y)) * 0xC2B2AE3D27D4EB4Full;
        key = (key ^ (key >> 31) ^ static_cast<uint64_t>(of_group)) * 0x165667B19E3779F9ull;
        key = (key ^ (key >> 30) ^ static_cast<uint64_t>(level)) * 0xD6E8FEB86659FD93ull;
        return static_cast<int64_t>((key ^ (key >> 32)) & (buckets_.size() - 1));
    }

    const float* boxes_;
    const int64_t* groups_;
    std::vector<int64_t> buckets_, next_in_bucket_, next_in_level_;
    std::array<Level, number_of_levels> levels_;
};

}  // namespace smallobjects
