// Label images: masks painted into one image, and found in one.
#pragma once

#include "masks.cuh"

namespace smallobjects {

// labels [height, width], zeroed: the masks painted, earlier ones on top, those kept of which more than
// `min_visible_fraction` is still free. What a mask finds depends on those before it: one block goes over them in order.
__global__ void label_image(Masks masks, int64_t height, int64_t width, double min_visible_fraction, int32_t* labels,
                            bool* kept) {
    auto* counts = shared_memory<unsigned long long>();  // visible, total
    int32_t number = 0;
    for (int64_t i = 0; i < masks.count; i++) {
        Window window = masks.window(i);
        if (!window.inside(height, width)) window = {0, 0, 0, 0};
        const auto each = [&](auto&& visit) {
            for (int64_t p = threadIdx.x; p < window.area(); p += blockDim.x) {
                if (masks.pixels(i)[p] >= inside)
                    visit(labels[(window.y1 + p / window.width()) * width + window.x1 + p % window.width()]);
            }
        };
        if (threadIdx.x < 2) counts[threadIdx.x] = 0;
        __syncthreads();
        unsigned long long visible = 0, total = 0;
        each([&](const int32_t& label) {
            total++;
            visible += label == 0;
        });
        if (total > 0) {
            atomicAdd(&counts[0], visible);
            atomicAdd(&counts[1], total);
        }
        __syncthreads();
        const bool keep = static_cast<double>(counts[0]) > min_visible_fraction * static_cast<double>(counts[1]);
        if (threadIdx.x == 0) kept[i] = keep;
        if (keep) {
            number++;
            each([&](int32_t& label) {
                if (label == 0) label = number;
            });
        }
        __syncthreads();  // before the counts are cleared and the labels are read again
    }
}

// windows [count] that hold nothing, for `grow_windows`.
__global__ void open_windows(Window* windows, int64_t count) {
    for (int64_t i = this_thread(); i < count; i += all_threads()) windows[i] = {INT32_MAX, INT32_MAX, 0, 0};
}

// Bounding windows of the pixels of each id; `ids [count]` ascending, `places` where each was.
__global__ void grow_windows(const int32_t* labels, int64_t height, int64_t width, const int64_t* ids,
                             const int64_t* places, int64_t count, Window* windows) {
    for (int64_t p = this_thread(); p < height * width; p += all_threads()) {
        const int32_t label = labels[p];
        if (label == 0) continue;
        const int64_t place = lower_bound(ids, label, 0, count);
        if (place == count || ids[place] != label) continue;
        Window& window = windows[places[place]];
        const int32_t x = static_cast<int32_t>(p % width), y = static_cast<int32_t>(p / width);
        atomicMin(&window.x1, x);
        atomicMin(&window.y1, y);
        atomicMax(&window.x2, x + 1);
        atomicMax(&window.y2, y + 1);
    }
}

// Windows that hold nothing, or all if `broken` is there and not -1, become zeros; areas [count].
__global__ void close_windows(Window* windows, int64_t count, const int64_t* broken, int64_t* areas) {
    for (int64_t i = this_thread(); i < count; i += all_threads()) {
        if (windows[i].x2 == 0 || (broken && *broken >= 0)) windows[i] = {0, 0, 0, 0};
        areas[i] = windows[i].area();
    }
}

// The pixels of an id.
struct Cut {
    const int32_t* labels;
    const int64_t* ids;
    int64_t width;

    __device__ uint8_t operator()(int64_t i, int64_t x, int64_t y) const {
        return labels[y * width + x] == ids[i] ? 255 : 0;
    }
};

}  // namespace smallobjects
