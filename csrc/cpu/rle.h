// COCO's run-length code of masks, text for text.
#pragma once

#include <vector>

#include "../shared/rle.h"
#include "masks.h"

namespace smallobjects {

using Text = std::vector<uint8_t>;

inline std::vector<Text> encode_rle(const Masks& masks, int64_t height, int64_t width, const Parallel& parallel) {
    std::vector<Text> texts(masks.count);
    parallel(masks.count, 16, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) {
            const auto sink = [&](uint8_t character) { texts[i].push_back(character); };
            encode_mask(masks.windows[i], masks.pixels(i), height, width, sink);
        }
    });
    return texts;
}

// Windows of the coded masks, text `offsets [count + 1]`. If one is broken its number is in `broken`, else -1, and all
// windows are empty.
inline std::vector<Window> windows_of_rle(const uint8_t* text, const int64_t* offsets, int64_t count, int64_t height,
                                          int64_t width, int64_t& broken) {
    std::vector<Window> windows(count, Window{0, 0, 0, 0});
    broken = -1;
    for (int64_t i = 0; i < count; i++) {
        if (find_window(text + offsets[i], offsets[i + 1] - offsets[i], height, width, windows[i])) continue;
        broken = i;
        return std::vector<Window>(count, Window{0, 0, 0, 0});
    }
    return windows;
}

// data, zeroed, of the windows found.
inline void decode_rle(const uint8_t* text, const int64_t* text_offsets, const Window* windows, const int64_t* offsets,
                       int64_t count, int64_t height, int64_t width, uint8_t* data, const Parallel& parallel) {
    parallel(count, 16, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) {
            draw_runs(text + text_offsets[i], text_offsets[i + 1] - text_offsets[i], height, width, windows[i],
                      data + offsets[i]);
        }
    });
}

}  // namespace smallobjects
