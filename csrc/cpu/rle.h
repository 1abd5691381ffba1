// COCO's compressed run-length code: runs of background and mask in turn down the columns of the canvas, each as the
// difference to the run two before (from the fourth on), five bits a character, lowest first.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "masks.h"

namespace smallobjects {

using Text = std::vector<uint8_t>;

inline void write_number(int64_t value, Text& text) {
    for (bool more = true; more;) {
        int64_t bits = value & 0x1f;
        value >>= 5;
        more = (bits & 0x10) ? value != -1 : value != 0;
        text.push_back(static_cast<uint8_t>((more ? bits | 0x20 : bits) + 48));
    }
}

class RunWriter {
public:
    explicit RunWriter(Text& text) : text_(text) {}

    void run(int64_t length) {
        write_number(count_ > 2 ? length - before_[count_ % 2] : length, text_);
        before_[count_ % 2] = length;
        count_++;
    }

private:
    Text& text_;
    int64_t before_[2] = {0, 0};
    int64_t count_ = 0;
};

inline void encode_mask(const Window& window, const uint8_t* data, int64_t height, int64_t width, Text& text) {
    RunWriter writer(text);
    int64_t written = 0, start = -1, end = 0;  // the run of pixels inside that is not yet written, none at -1
    auto flush = [&] {
        if (start < 0) return;
        writer.run(start - written);
        writer.run(end - start);
        written = end;
    };
    for (int64_t x = window.x1; x < window.x2; x++) {
        for (int64_t y = window.y1; y < window.y2; y++) {
            if (data[(y - window.y1) * window.width() + x - window.x1] < inside) continue;
            const int64_t at = x * height + y;
            if (start < 0 || at != end) {
                flush();
                start = at;
            }
            end = at + 1;
        }
    }
    flush();
    if (written < height * width) writer.run(height * width - written);
}

inline std::vector<Text> encode_rle(const Masks& masks, int64_t height, int64_t width, const Parallel& parallel) {
    std::vector<Text> texts(masks.count);
    parallel(masks.count, 16, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) encode_mask(masks.windows[i], masks.pixels(i), height, width, texts[i]);
    });
    return texts;
}

// Calls `run(start, end)` for each run of the mask. False where the code is broken: another character, a number too
// long or negative, runs that do not fill `total` pixels.
template <class Run>
bool read_runs(const uint8_t* text, int64_t length, int64_t total, const Run& run) {
    int64_t before[2] = {0, 0}, count = 0, at = 0;
    for (int64_t i = 0; i < length;) {
        int64_t value = 0;
        int digit = 0;
        bool more = true;
        while (more) {
            if (i == length || digit > 11) return false;
            const int64_t bits = static_cast<int64_t>(text[i++]) - 48;
            if (bits < 0 || bits > 63) return false;
            value |= (bits & 0x1f) << (5 * digit++);
            more = (bits & 0x20) != 0;
            if (!more && (bits & 0x10)) value -= int64_t{1} << (5 * digit);
        }
        if (count > 2) value += before[count % 2];
        if (value < 0 || value > total - at) return false;
        before[count % 2] = value;
        if (count % 2 == 1 && value > 0) run(at, at + value);
        at += value;
        count++;
    }
    return count > 0 && at == total;
}

// Windows of the coded masks, text `offsets [count + 1]`. If one is broken its number is in `broken`, else -1, and all
// windows are empty.
inline std::vector<Window> windows_of_rle(const uint8_t* text, const int64_t* offsets, int64_t count, int64_t height, int64_t width,
                                          int64_t& broken) {
    std::vector<Window> windows(count, Window{0, 0, 0, 0});
    broken = -1;
    for (int64_t i = 0; i < count; i++) {
        int64_t x1 = width, x2 = 0, y1 = height, y2 = 0;
        const bool sound = read_runs(text + offsets[i], offsets[i + 1] - offsets[i], height * width, [&](int64_t start, int64_t end) {
            const int64_t first = start / height, last = (end - 1) / height;
            x1 = std::min(x1, first);
            x2 = std::max(x2, last + 1);
            y1 = std::min(y1, first == last ? start % height : 0);
            y2 = std::max(y2, first == last ? (end - 1) % height + 1 : height);
        });
        if (!sound) {
            broken = i;
            return std::vector<Window>(count, Window{0, 0, 0, 0});
        }
        if (x2 > x1) windows[i] = {static_cast<int32_t>(x1), static_cast<int32_t>(y1), static_cast<int32_t>(x2), static_cast<int32_t>(y2)};
    }
    return windows;
}

// data, zeroed, of the windows found.
inline void decode_rle(const uint8_t* text, const int64_t* text_offsets, const Window* windows, const int64_t* offsets, int64_t count,
                       int64_t height, int64_t width, uint8_t* data, const Parallel& parallel) {
    parallel(count, 16, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) {
            const Window& window = windows[i];
            uint8_t* pixels = data + offsets[i];
            if (window.area() == 0) continue;
            read_runs(text + text_offsets[i], text_offsets[i + 1] - text_offsets[i], height * width, [&](int64_t start, int64_t stop) {
                for (int64_t at = start; at < stop; at++) {
                    pixels[(at % height - window.y1) * window.width() + (at / height - window.x1)] = 255;
                }
            });
        }
    });
}

}  // namespace smallobjects
