// Where the objects of a label image are. What is computed: datasets/synthetic/reference.py, describe_labels.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../shared/rle.h"

namespace smallobjects {

// By number: boxes [count], tight, empty where there is none in labels [H, W], and where the runs of each begin, begins
// [count], when all runs down the columns are put in order. Returns how many these are, -1 for a number beyond `count`.
inline int64_t find_boxes(const uint16_t* labels, int64_t height, int64_t width, Window* boxes, int64_t* begins,
                          int64_t count) {
    std::fill_n(boxes, count, Window{0, 0, 0, 0});
    std::fill_n(begins, count, 0);
    const auto before = [&](int64_t x, int64_t y) -> int64_t {
        if (y > 0) return labels[(y - 1) * width + x];
        return x > 0 ? labels[(height - 1) * width + x - 1] : -1;  // a run goes on in the next column
    };
    for (int64_t y = 0; y < height; y++) {
        for (int64_t x = 0; x < width; x++) {
            const uint16_t number = labels[y * width + x];
            if (number == 0) continue;
            if (number >= count) return -1;
            if (before(x, y) != number) begins[number]++;
            const int32_t column = static_cast<int32_t>(x), row = static_cast<int32_t>(y);
            Window& box = boxes[number];
            if (box.x2 == 0) box = {column, row, column, row};
            box = {std::min(box.x1, column), box.y1, std::max(box.x2, column + 1), row + 1};
        }
    }
    int64_t total = 0;
    for (int64_t number = 0; number < count; number++) {
        const int64_t own = begins[number];
        begins[number] = total;
        total += own;
    }
    return total;
}

struct Run {
    int64_t start, end;
};

// COCO's codes of all numbers, one after the other: `text [capacity]` and where each ends in it, text_ends [count]. runs
// [num_runs] is filled; `begins` as found above become where each number's runs end. Returns the length of the text, -1 where
// something does not fit.
inline int64_t encode_labels(const uint16_t* labels, int64_t height, int64_t width, int64_t* begins, int64_t count,
                             Run* runs, int64_t num_runs, uint8_t* text, int64_t capacity, int64_t* text_ends) {
    uint16_t last = 0;
    for (int64_t x = 0, at = 0; x < width; x++) {
        for (int64_t y = 0; y < height; y++, at++) {
            const uint16_t number = labels[y * width + x];
            if (number != 0) {
                if (number >= count) return -1;
                if (number != last) {
                    if (begins[number] < 0 || begins[number] >= num_runs) return -1;
                    runs[begins[number]++].start = at;
                }
                runs[begins[number] - 1].end = at + 1;
            }
            last = number;
        }
    }
    int64_t length = 0, place = 0;
    const auto sink = [&](uint8_t character) {
        if (length < capacity) text[length] = character;
        length++;
    };
    for (int64_t number = 0; number < count; number++) {
        RunWriter<decltype(sink)> writer = {sink, 0, {0, 0}};
        int64_t written = 0;
        const bool present = place < begins[number];
        for (; place < begins[number]; place++) {
            writer.run(runs[place].start - written);
            writer.run(runs[place].end - runs[place].start);
            written = runs[place].end;
        }
        if (present && written < height * width) writer.run(height * width - written);
        text_ends[number] = length;
    }
    return length <= capacity ? length : -1;
}

}  // namespace smallobjects
