// COCO's compressed run-length code: runs of background and mask in turn down the columns of the canvas, each as the
// difference to the run two before (from the fourth on), five bits a character, lowest first. A thread for each mask.
#pragma once

#include "masks.cuh"

namespace smallobjects {

// Writes runs, or, without a text, only counts their characters.
struct RunWriter {
    uint8_t* text;
    int64_t length, count;
    int64_t before[2];

    __device__ void run(int64_t value) {
        number(count > 2 ? value - before[count % 2] : value);
        before[count % 2] = value;
        count++;
    }
    __device__ void number(int64_t value) {
        for (bool more = true; more; length++) {
            const int64_t bits = value & 0x1f;
            value >>= 5;
            more = (bits & 0x10) ? value != -1 : value != 0;
            if (text) text[length] = static_cast<uint8_t>((more ? bits | 0x20 : bits) + 48);
        }
    }
};

// The length of a mask's code.
__device__ inline int64_t encode_mask(const Window& window, const uint8_t* data, int64_t height, int64_t width, uint8_t* text) {
    RunWriter writer = {text, 0, 0, {0, 0}};
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
    return writer.length;
}

// Without `text`: lengths [count] of the codes; with it, the codes, from `offsets [count]` on.
__global__ void encode_rle(Masks masks, int64_t height, int64_t width, int64_t* lengths, const int64_t* offsets, uint8_t* text) {
    for (int64_t i = this_thread(); i < masks.count; i += all_threads()) {
        Window window = masks.window(i);
        if (!window.inside(height, width)) window = {0, 0, 0, 0};
        uint8_t* here = text ? text + offsets[i] : nullptr;
        const int64_t length = encode_mask(window, masks.pixels(i), height, width, here);
        if (!text) lengths[i] = length;
    }
}

// Texts of all masks, offsets [count + 1].
struct Texts {
    const uint8_t* text;
    const int64_t* offsets;
    int64_t count, size;

    // Calls `run(start, end)` for each run of mask `i`. False where the code is broken: another character, a number too
    // long or negative, runs that do not fill `total` pixels, or offsets that do not go from 0 to the end.
    template <class Run>
    __device__ bool read_runs(int64_t i, int64_t total, const Run& run) const {
        int64_t before[2] = {0, 0}, runs = 0, at = 0, place = offsets[i];
        const int64_t end = offsets[i + 1];
        if (place < 0 || end > size || (i == 0 && place != 0) || (i == count - 1 && end != size)) return false;
        while (place < end) {
            int64_t value = 0;
            int digit = 0;
            for (bool more = true; more;) {
                if (place == end || digit > 11) return false;
                const int64_t bits = static_cast<int64_t>(text[place++]) - 48;
                if (bits < 0 || bits > 63) return false;
                value |= (bits & 0x1f) << (5 * digit++);
                more = (bits & 0x20) != 0;
                if (!more && (bits & 0x10)) value -= int64_t{1} << (5 * digit);
            }
            if (runs > 2) value += before[runs % 2];
            if (value < 0 || value > total - at) return false;
            before[runs % 2] = value;
            if (runs % 2 == 1 && value > 0) run(at, at + value);
            at += value;
            runs++;
        }
        return runs > 0 && at == total;
    }
};

// Before the first broken code is looked for, and -1 after it where there is none.
__global__ void open_broken(int64_t* broken) {
    if (this_thread() == 0) *broken = INT64_MAX;
}
__global__ void settle_broken(int64_t* broken) {
    if (this_thread() == 0 && *broken == INT64_MAX) *broken = -1;
}

// windows [count] of the coded masks, for `close_windows`; the first broken one's number in `broken`.
__global__ void windows_of_rle(Texts texts, int64_t height, int64_t width, Window* windows, unsigned long long* broken) {
    for (int64_t i = this_thread(); i < texts.count; i += all_threads()) {
        int64_t x1 = width, x2 = 0, y1 = height, y2 = 0;
        const bool sound = texts.read_runs(i, height * width, [&](int64_t start, int64_t end) {
            const int64_t first = start / height, last = (end - 1) / height;
            x1 = smaller(x1, first);
            x2 = larger(x2, last + 1);
            y1 = smaller(y1, first == last ? start % height : 0);
            y2 = larger(y2, first == last ? (end - 1) % height + 1 : height);
        });
        windows[i] = {static_cast<int32_t>(x1), static_cast<int32_t>(y1), static_cast<int32_t>(x2), static_cast<int32_t>(y2)};
        if (!sound) atomicMin(broken, static_cast<unsigned long long>(i));
    }
}

// data, zeroed, of the windows found.
__global__ void decode_rle(Texts texts, Drawing masks, int64_t height, int64_t width) {
    for (int64_t i = this_thread(); i < texts.count; i += all_threads()) {
        const Window window = masks.window(i);
        if (window.area() == 0) continue;
        uint8_t* pixels = masks.pixels(i);
        texts.read_runs(i, height * width, [&](int64_t start, int64_t stop) {
            for (int64_t at = start; at < stop; at++) pixels[(at % height - window.y1) * window.width() + (at / height - window.x1)] = 255;
        });
    }
}

}  // namespace smallobjects
