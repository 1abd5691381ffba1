// The CPU bindings of the operations on masks.
#pragma once

#include <algorithm>
#include <string>

#include "bind_cpu.h"
#include "cpu/masks.h"
#include "cpu/rle.h"

namespace smallobjects {
namespace {

Masks masks_of(const Tensor& windows, const Tensor& offsets, const Tensor& levels) {
    check_masks(windows, offsets, levels);
    return {reinterpret_cast<const Window*>(data<int32_t>(windows)), data<int64_t>(offsets), data<uint8_t>(levels),
            windows.size(0)};
}

// The windows of masks whose pixels are still to come.
std::tuple<const Window*, Tensor> frame(const Tensor& windows, const Tensor& offsets, int64_t count) {
    check(windows, "new_windows", ScalarType::Int, {count, 4});
    check_offsets(windows, offsets, "new_offsets");
    return {reinterpret_cast<const Window*>(data<int32_t>(windows)),
            cpu({data<int64_t>(offsets)[count]}, ScalarType::Byte)};
}

// These windows, their offsets, and room for the pixels.
std::tuple<Tensor, Tensor, Tensor> masks_in(const std::vector<Window>& windows) {
    const int64_t count = static_cast<int64_t>(windows.size());
    Tensor frame = cpu({count, 4}, ScalarType::Int), offsets = cpu({count + 1}, ScalarType::Long);
    std::copy(windows.begin(), windows.end(), reinterpret_cast<Window*>(out<int32_t>(frame)));
    int64_t total = 0;
    for (int64_t i = 0; i < count; i++) {
        out<int64_t>(offsets)[i] = total;
        total += windows[i].area();
    }
    out<int64_t>(offsets)[count] = total;
    return {frame, offsets, cpu({total}, ScalarType::Byte)};
}

Tensor sample_masks_cpu(const Tensor& windows, const Tensor& offsets, const Tensor& levels, int64_t height,
                        int64_t width, const Tensor& boxes, const Tensor& index, int64_t output_size,
                        int64_t sampling_ratio, bool aligned, bool soft) {
    const Bins bins = check_bins({output_size, output_size}, sampling_ratio);
    check_canvas(height, width);
    const Masks masks = masks_of(windows, offsets, levels);
    check(boxes, "boxes", ScalarType::Float, {any_size, 4});
    check(index, "index", ScalarType::Long, {boxes.size(0)});
    check_finite(boxes, "boxes");
    check_range(index, "index", masks.count);
    Tensor result = cpu({boxes.size(0), output_size, output_size}, ScalarType::Float);
    sample_masks(masks, height, width, data<float>(boxes), data<int64_t>(index), boxes.size(0),
                 RoiAlign{bins, sampling_ratio, aligned}, soft, out<float>(result), threads);
    return result;
}

Tensor paste_masks_cpu(const Tensor& probabilities, const Tensor& boxes, const Tensor& windows, const Tensor& offsets) {
    check(boxes, "boxes", ScalarType::Float, {any_size, 4});
    check(probabilities, "probabilities", ScalarType::Float, {boxes.size(0), any_size, any_size});
    const int64_t count = boxes.size(0), side = probabilities.size(2);
    check(probabilities, "probabilities", ScalarType::Float, {count, side, side});
    STD_TORCH_CHECK(side > 0 || count == 0, "probabilities must have one cell at least");
    auto [frames, levels] = frame(windows, offsets, count);
    paste_masks(data<float>(probabilities), side, data<float>(boxes), frames, data<int64_t>(offsets), count,
                out<uint8_t>(levels), threads);
    return levels;
}

Tensor warp_masks_cpu(const Tensor& windows, const Tensor& offsets, const Tensor& levels, const Tensor& matrix,
                      const Tensor& new_windows, const Tensor& new_offsets, int64_t samples) {
    const Masks masks = masks_of(windows, offsets, levels);
    check(matrix, "matrix", ScalarType::Double, {2, 3});
    check_samples(samples);
    auto [frames, result] = frame(new_windows, new_offsets, masks.count);
    warp_masks(masks, data<double>(matrix), frames, data<int64_t>(new_offsets), samples, out<uint8_t>(result), threads);
    return result;
}

std::tuple<Tensor, Tensor> measure_masks_cpu(const Tensor& windows, const Tensor& offsets, const Tensor& levels) {
    const Masks masks = masks_of(windows, offsets, levels);
    Tensor areas = cpu({masks.count}, ScalarType::Long), boxes = cpu({masks.count, 4}, ScalarType::Int);
    measure_masks(masks, out<int64_t>(areas), reinterpret_cast<Window*>(out<int32_t>(boxes)), threads);
    return {areas, boxes};
}

std::tuple<Tensor, Tensor, Tensor> pick_masks_cpu(const Tensor& windows, const Tensor& offsets, const Tensor& levels,
                                                  const Tensor& index) {
    const Masks masks = masks_of(windows, offsets, levels);
    check(index, "index", ScalarType::Long, {any_size});
    check_range(index, "index", masks.count);
    const int64_t *places = data<int64_t>(index), count = index.size(0);
    std::vector<Window> picked(count);
    std::transform(places, places + count, picked.begin(), [&](int64_t i) { return masks.windows[i]; });
    auto result = masks_in(picked);
    pick_masks(masks, places, count, data<int64_t>(std::get<1>(result)), out<uint8_t>(std::get<2>(result)), threads);
    return result;
}

std::tuple<Tensor, Tensor, Tensor> mask_iou_cpu(const Tensor& windows1, const Tensor& offsets1, const Tensor& levels1,
                                                const Tensor& windows2, const Tensor& offsets2, const Tensor& levels2) {
    const auto pairs = mask_iou(masks_of(windows1, offsets1, levels1), masks_of(windows2, offsets2, levels2), threads);
    const int64_t count = static_cast<int64_t>(pairs.size());
    Tensor rows = cpu({count}, ScalarType::Long), columns = cpu({count}, ScalarType::Long),
           iou = cpu({count}, ScalarType::Float);
    for (int64_t i = 0; i < count; i++) {
        out<int64_t>(rows)[i] = pairs[i].row;
        out<int64_t>(columns)[i] = pairs[i].column;
        out<float>(iou)[i] = pairs[i].iou;
    }
    return {rows, columns, iou};
}

std::tuple<Tensor, Tensor> label_image_cpu(const Tensor& windows, const Tensor& offsets, const Tensor& levels,
                                           int64_t height, int64_t width, double min_visible_fraction) {
    check_canvas(height, width);
    const Masks masks = masks_of(windows, offsets, levels);
    check_inside(windows, height, width);
    Tensor labels = cpu({height, width}, ScalarType::Int), kept = cpu({masks.count}, ScalarType::Bool);
    std::fill_n(out<int32_t>(labels), height * width, 0);
    label_image(masks, width, min_visible_fraction, out<int32_t>(labels), out<bool>(kept));
    return {labels, kept};
}

std::tuple<Tensor, Tensor, Tensor> masks_from_label_image_cpu(const Tensor& labels, const Tensor& ids) {
    check(labels, "labels", ScalarType::Int, {any_size, any_size});
    check(ids, "ids", ScalarType::Long, {any_size});
    const int64_t height = labels.size(0), width = labels.size(1), count = ids.size(0);
    const auto windows = windows_of_labels(data<int32_t>(labels), height, width, data<int64_t>(ids), count);
    auto result = masks_in(windows);
    cut_labels(data<int32_t>(labels), width, data<int64_t>(ids), windows.data(), data<int64_t>(std::get<1>(result)),
               count, out<uint8_t>(std::get<2>(result)), threads);
    return result;
}

std::tuple<Tensor, Tensor> encode_rle_cpu(const Tensor& windows, const Tensor& offsets, const Tensor& levels,
                                          int64_t height, int64_t width) {
    check_canvas(height, width);
    const Masks masks = masks_of(windows, offsets, levels);
    check_inside(windows, height, width);
    const auto texts = encode_rle(masks, height, width, threads);
    Tensor text_offsets = cpu({masks.count + 1}, ScalarType::Long);
    int64_t total = 0;
    for (int64_t i = 0; i < masks.count; i++) {
        out<int64_t>(text_offsets)[i] = total;
        total += static_cast<int64_t>(texts[i].size());
    }
    out<int64_t>(text_offsets)[masks.count] = total;
    Tensor text = cpu({total}, ScalarType::Byte);
    uint8_t* end = out<uint8_t>(text);
    for (const Text& one : texts) end = std::copy(one.begin(), one.end(), end);
    return {text, text_offsets};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> decode_rle_cpu(const Tensor& text, const Tensor& text_offsets,
                                                          int64_t height, int64_t width) {
    check_canvas(height, width);
    check(text, "text", ScalarType::Byte, {any_size});
    check(text_offsets, "text_offsets", ScalarType::Long, {any_size});
    check_ascending(text_offsets, "text_offsets", text.size(0));
    const int64_t count = text_offsets.size(0) - 1;
    Tensor broken = cpu({}, ScalarType::Long);
    const auto windows =
        windows_of_rle(data<uint8_t>(text), data<int64_t>(text_offsets), count, height, width, *out<int64_t>(broken));
    auto [frames, offsets, levels] = masks_in(windows);
    std::fill_n(out<uint8_t>(levels), levels.numel(), uint8_t{0});
    decode_rle(data<uint8_t>(text), data<int64_t>(text_offsets), windows.data(), data<int64_t>(offsets), count, height,
               width, out<uint8_t>(levels), threads);
    return {frames, offsets, levels, broken};
}

}  // namespace
}  // namespace smallobjects
