// Finds the boxes that may overlap a given one: cost follows the boxes near by.
//
// 2-D IoU is at most 1-D IoU. So IoU > t needs sides whose ratio is above t and centers closer than
// (w1 + w2) / 2 * (1 - t) / (1 + t), along x and along y. Boxes are in square cells, in levels by the power of two of
// their longer side; a level's cells are as large as its smallest box. Each row of cells begins at some bucket of a
// table, by a hash of the row, and goes on cell by cell, so that the boxes of neighbors are adjacent in memory. Two
// cells may share a bucket, which costs time but never an answer.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <vector>

#include "../shared/boxes.h"

namespace smallobjects {

class BoxGrid {
public:
    // The sound ones of boxes 0..count-1 of `boxes [count, 4]`; `groups [count]` or null: one group.
    BoxGrid(const float* boxes, const int64_t* groups, int64_t count) : groups_(groups), slots_(count) {
        std::array<int64_t, number_of_levels> counts{};
        for (int64_t i = 0; i < count; i++) {
            const Box box = box_at(boxes, i);
            if (!box.sound()) continue;
            const int number = level_of(box.longer_side());
            counts[number]++;
            levels_[number].longest = std::max<double>(levels_[number].longest, box.longer_side());
        }
        int64_t buckets = 0;
        for (int number = 0; number < number_of_levels; number++) {
            if (counts[number] == 0) continue;
            const uint64_t size = std::bit_ceil(static_cast<uint64_t>(2 * counts[number]));
            levels_[number] = {buckets, counts[number], size - 1, levels_[number].longest};
            buckets += static_cast<int64_t>(size);
        }
        starts_.assign(buckets + 1, 0);
        for (int64_t i = 0; i < count; i++) {
            const Box box = box_at(boxes, i);
            slots_[i] = box.sound() ? bucket_of(box, group(i)) : none;
            if (slots_[i] != none) starts_[slots_[i] + 1]++;
        }
        for (int64_t b = 0; b < buckets; b++) starts_[b + 1] += starts_[b];
        // Each start is moved behind the boxes placed so far, and all of them back in the end.
        for (int64_t i = 0; i < count; i++) {
            if (slots_[i] != none) slots_[i] = starts_[slots_[i]]++;
        }
        for (int64_t b = buckets; b > 0; b--) starts_[b] = starts_[b - 1];
        starts_[0] = 0;
        entries_.resize(starts_.back());
        for (int64_t i = 0; i < count; i++) {
            if (slots_[i] != none) entries_[slots_[i]] = {box_at(boxes, i), group(i), i};
        }
    }

    // The valid boxes in memory order, in which visiting the neighbors of each box is fastest.
    int64_t size() const { return static_cast<int64_t>(entries_.size()); }
    int64_t box_number(int64_t at) const { return entries_[at].index; }

    // From now on the box, which must be sound, is not found.
    void remove(int64_t i) { entries_[slots_[i]].box = Box{INFINITY, INFINITY, -INFINITY, -INFINITY}; }

    // Calls `visit(i, box i)` for at least those boxes of the group whose IoU with the sound `box` is above, or within
    // rounding at, `iou`; some others too, and some twice. Stops when it returns true. (`near` is a macro of Windows.)
    template <class Visit>
    void nearby(const Box& box, int64_t of_group, double iou, const Visit& visit) const {
        const double threshold = iou * (1 - rounding), side = box.longer_side();
        const double shrink = (1 - threshold) / (1 + threshold) * (1 + rounding);
        const int lowest = level_of(side * threshold);
        const int highest = threshold > 0 ? level_of(side / threshold) : number_of_levels - 1;
        const auto stops_within = [&](int64_t from, int64_t to) {
            for (int64_t at = from; at < to; at++) {
                const Entry& entry = entries_[at];
                if (meet(box, entry.box) && entry.group == of_group && visit(entry.index, entry.box)) return true;
            }
            return false;
        };
        for (int number = lowest; number <= highest; number++) {
            const Level& level = levels_[number];
            if (level.count == 0) continue;
            const double longest =
                threshold > 0 ? std::min(level.longest, side / threshold * (1 + rounding)) : level.longest;
            const double reach_x = (box.width() + longest) / 2 * shrink;
            const double reach_y = (box.height() + longest) / 2 * shrink;
            const double cells = cells_per_pixel(number);
            const int64_t x0 = index((box.center_x() - reach_x) * cells),
                          x1 = index((box.center_x() + reach_x) * cells);
            const int64_t y0 = index((box.center_y() - reach_y) * cells),
                          y1 = index((box.center_y() + reach_y) * cells);
            const double probes = (static_cast<double>(x1) - x0 + 1) * (static_cast<double>(y1) - y0 + 1);
            if (probes > static_cast<double>(level.count)) {
                const int64_t end = level.first + static_cast<int64_t>(level.mask) + 1;
                if (stops_within(starts_[level.first], starts_[end])) return;
                continue;
            }
            for (int64_t y = y0; y <= y1; y++) {
                const int64_t from = bucket_at(level, of_group, x0, y), to = from + x1 - x0;
                const int64_t end = level.first + static_cast<int64_t>(level.mask);
                if (stops_within(starts_[from], starts_[std::min(to, end) + 1])) return;
                // Behind the last bucket comes the first.
                if (to > end && stops_within(starts_[level.first], starts_[level.first + to - end])) return;
            }
        }
    }

private:
    struct Level {
        int64_t first = 0, count = 0;  // its first bucket; its boxes
        uint64_t mask = 0;             // its buckets, a power of two, less one
        double longest = 0;            // its longest side
    };
    struct Entry {
        Box box;
        int64_t group, index;
    };
    static constexpr int64_t none = -1;
    static constexpr double rounding = 1e-6;  // of float32 IoUs, generously
    static constexpr int lowest_power = -30, number_of_levels = 160;

    // By the exponent of the side, which is not negative.
    static int level_of(double side) {
        const int power = static_cast<int>(std::bit_cast<uint64_t>(side) >> 52) - 1023;
        return std::clamp(power - lowest_power, 0, number_of_levels - 1);
    }
    static double cells_per_pixel(int level) {
        return std::bit_cast<double>(static_cast<uint64_t>(1023 - (level + lowest_power)) << 52);
    }
    // Rounded down, without the library's floor, which is a call where no vector extension may be assumed. Cells further
    // out than 2^59 merge.
    static int64_t index(double cell) {
        cell = std::clamp(cell, -1e18, 1e18);
        const int64_t towards_zero = static_cast<int64_t>(cell);
        return towards_zero - (cell < static_cast<double>(towards_zero));
    }
    int64_t group(int64_t i) const { return groups_ ? groups_[i] : 0; }
    int64_t bucket_of(const Box& box, int64_t of_group) const {
        const int number = level_of(box.longer_side());
        const double cells = cells_per_pixel(number);
        return bucket_at(levels_[number], of_group, index(box.center_x() * cells), index(box.center_y() * cells));
    }
    static int64_t bucket_at(const Level& level, int64_t of_group, int64_t x, int64_t y) {
        uint64_t row =
            static_cast<uint64_t>(y) * 0x9E3779B97F4A7C15ull + static_cast<uint64_t>(of_group) * 0xC2B2AE3D27D4EB4Full;
        row = (row ^ (row >> 32)) * 0xD6E8FEB86659FD93ull;
        return level.first + static_cast<int64_t>(((row ^ (row >> 32)) + static_cast<uint64_t>(x)) & level.mask);
    }

    const int64_t* groups_;
    std::array<Level, number_of_levels> levels_;
    std::vector<int64_t> starts_;  // [buckets + 1], where the entries of each bucket begin
    std::vector<int64_t> slots_;   // [count], the entry of each box
    std::vector<Entry> entries_;
};

}  // namespace smallobjects
