// COCO's compressed run-length code: runs of background and mask in turn down the columns of the canvas, each as the
// difference to the run two before (from the fourth on), five bits a character, lowest first.
#pragma once

#include "windows.h"

namespace smallobjects {

// Gives the characters of runs to `sink(character)`.
template <class Sink>
struct RunWriter {
    Sink& sink;
    int64_t count, before[2];

    EVERYWHERE void run(int64_t length) {
        number(count > 2 ? length - before[count % 2] : length);
        before[count % 2] = length;
        count++;
    }
    EVERYWHERE void number(int64_t value) {
        for (bool more = true; more;) {
            const int64_t bits = value & 0x1f;
            value >>= 5;
            more = (bits & 0x10) ? value != -1 : value != 0;
            sink(static_cast<uint8_t>((more ? bits | 0x20 : bits) + 48));
        }
    }
};

template <class Sink>
EVERYWHERE void encode_mask(const Window& window, const uint8_t* data, int64_t height, int64_t width, Sink& sink) {
    RunWriter<Sink> writer = {sink, 0, {0, 0}};
    int64_t written = 0, start = -1, end = 0;  // the run of pixels inside that is not yet written, none at -1
    const auto flush = [&] {
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

// Calls `run(start, end)` for each run of the mask. False where the code is broken: another character, a number too
// long or negative, runs that do not fill `total` pixels.
template <class Run>
EVERYWHERE bool read_runs(const uint8_t* text, int64_t length, int64_t total, const Run& run) {
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

// The window of a coded mask, empty where the mask is. False where the code is broken.
EVERYWHERE inline bool find_window(const uint8_t* text, int64_t length, int64_t height, int64_t width, Window& window) {
    int64_t x1 = width, x2 = 0, y1 = height, y2 = 0;
    const bool sound = read_runs(text, length, height * width, [&](int64_t start, int64_t end) {
        const int64_t first = start / height, last = (end - 1) / height;
        x1 = smaller(x1, first);
        x2 = larger(x2, last + 1);
        y1 = smaller(y1, first == last ? start % height : 0);
        y2 = larger(y2, first == last ? (end - 1) % height + 1 : height);
    });
    window = {0, 0, 0, 0};
    if (x2 > x1)
        window = {static_cast<int32_t>(x1), static_cast<int32_t>(y1), static_cast<int32_t>(x2),
                  static_cast<int32_t>(y2)};
    return sound;
}

// Sets the pixels, zeroed, of a coded mask in the window found.
EVERYWHERE inline void draw_runs(const uint8_t* text, int64_t length, int64_t height, int64_t width,
                                 const Window& window, uint8_t* pixels) {
    if (window.area() == 0) return;
    read_runs(text, length, height * width, [&](int64_t start, int64_t end) {
        for (int64_t at = start; at < end; at++)
            pixels[(at % height - window.y1) * window.width() + (at / height - window.x1)] = 255;
    });
}

}  // namespace smallobjects
