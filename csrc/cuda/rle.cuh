// COCO's run-length code of masks; a thread for each.
#pragma once

#include "../shared/rle.h"
#include "masks.cuh"

namespace smallobjects {

// Takes characters, or, without a text, only counts them.
struct Characters {
    uint8_t* text;
    int64_t length;

    EVERYWHERE void operator()(uint8_t character) {
        if (text) text[length] = character;
        length++;
    }
};

// Without `text`: lengths [count] of the codes; with it, the codes, from `offsets [count]` on.
__global__ void encode_rle(Masks masks, int64_t height, int64_t width, int64_t* lengths, const int64_t* offsets,
                           uint8_t* text) {
    for (int64_t i = this_thread(); i < masks.count; i += all_threads()) {
        Window window = masks.window(i);
        if (!window.inside(height, width)) window = {0, 0, 0, 0};
        Characters sink = {text ? text + offsets[i] : nullptr, 0};
        encode_mask(window, masks.pixels(i), height, width, sink);
        if (!text) lengths[i] = sink.length;
    }
}

// Texts of all masks, offsets [count + 1].
struct Texts {
    const uint8_t* text;
    const int64_t* offsets;
    int64_t count, size;

    __device__ const uint8_t* code(int64_t i) const { return text + offsets[i]; }
    __device__ int64_t length(int64_t i) const { return offsets[i + 1] - offsets[i]; }
    // Offsets must go from 0 to the end.
    __device__ bool fits(int64_t i) const {
        const int64_t begin = offsets[i], end = offsets[i + 1];
        return begin >= 0 && end <= size && (i > 0 || begin == 0) && (i < count - 1 || end == size);
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
__global__ void windows_of_rle(Texts texts, int64_t height, int64_t width, Window* windows,
                               unsigned long long* broken) {
    for (int64_t i = this_thread(); i < texts.count; i += all_threads()) {
        windows[i] = {0, 0, 0, 0};
        const bool sound = texts.fits(i) && find_window(texts.code(i), texts.length(i), height, width, windows[i]);
        if (!sound) atomicMin(broken, static_cast<unsigned long long>(i));
    }
}

// data, zeroed, of the windows found.
__global__ void decode_rle(Texts texts, Drawing masks, int64_t height, int64_t width) {
    for (int64_t i = this_thread(); i < texts.count; i += all_threads()) {
        // A code whose offsets do not fit has an empty window.
        draw_runs(texts.code(i), texts.length(i), height, width, masks.window(i), masks.pixels(i));
    }
}

}  // namespace smallobjects
