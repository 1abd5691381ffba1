// The CUDA bindings of the operations on masks.
#pragma once

#include "bind_cuda.h"
#include "checks_values.h"
#include "cuda/labels.cuh"
#include "cuda/mask_iou.cuh"
#include "cuda/masks.cuh"
#include "cuda/rle.cuh"

namespace smallobjects {
namespace {

const Window* windows_of(const Tensor& windows) { return reinterpret_cast<const Window*>(data<int32_t>(windows)); }

Masks masks_of(const Place& place, const Tensor& windows, const Tensor& offsets, const Tensor& levels) {
    place.check(windows, "windows", ScalarType::Int, {any_size, 4});
    place.check(offsets, "offsets", ScalarType::Long, {windows.size(0) + 1});
    place.check(levels, "data", ScalarType::Byte, {any_size});
    return {windows_of(windows), data<int64_t>(offsets), data<uint8_t>(levels), windows.size(0), levels.size(0)};
}

Drawing drawing_of(const Tensor& windows, const Tensor& offsets, const Tensor& levels) {
    return {windows_of(windows), data<int64_t>(offsets), out<uint8_t>(levels), windows.size(0), levels.size(0)};
}

// Data of new masks, in which `level` draws.
template <class Level>
Tensor drawn(const Place& place, const Tensor& windows, const Tensor& offsets, int64_t count, const Level& level) {
    place.check(windows, "new_windows", ScalarType::Int, {count, 4});
    place.check(offsets, "new_offsets", ScalarType::Long, {count + 1});
    const int64_t total = total_of(offsets);
    STD_TORCH_CHECK(total >= 0, "new_offsets must be the sums of the windows' areas, got ", total);
    Tensor levels = empty(windows, {total}, ScalarType::Byte);
    LAUNCH(draw<Level>, blocks_for(count, 1), block_size, 0, place.stream(), drawing_of(windows, offsets, levels),
           level);
    return levels;
}

// Ends the search for windows; gives the offsets of their pixels.
Tensor finish(const Place& place, Tensor& windows, const int64_t* broken) {
    const int64_t count = windows.size(0);
    Tensor areas = zeros(windows, {count + 1}, ScalarType::Long);
    auto* window = reinterpret_cast<Window*>(out<int32_t>(windows));
    LAUNCH_EACH(close_windows, count, place.stream(), window, count, broken, out<int64_t>(areas) + 1);
    return cumulated(areas);
}

Tensor sample_masks_cuda(const Tensor& windows, const Tensor& offsets, const Tensor& levels, int64_t height,
                         int64_t width, const Tensor& boxes, const Tensor& index, int64_t output_size,
                         int64_t sampling_ratio, bool aligned, bool soft) {
    const Place place(boxes, "boxes");
    const Bins bins = check_bins({output_size, output_size}, sampling_ratio);
    check_canvas(height, width);
    const Masks masks = masks_of(place, windows, offsets, levels);
    const int64_t count = boxes.size(0);
    place.check(boxes, "boxes", ScalarType::Float, {any_size, 4});
    place.check(index, "index", ScalarType::Long, {count});
    Tensor result = empty(boxes, {count, output_size, output_size}, ScalarType::Float);
    LAUNCH_EACH(sample_masks, result.numel(), place.stream(), masks, height, width, data<float>(boxes),
                data<int64_t>(index), count, RoiAlign{bins, sampling_ratio, aligned}, soft, out<float>(result));
    return result;
}

Tensor paste_masks_cuda(const Tensor& probabilities, const Tensor& boxes, const Tensor& windows,
                        const Tensor& offsets) {
    const Place place(boxes, "boxes");
    place.check(boxes, "boxes", ScalarType::Float, {any_size, 4});
    place.check(probabilities, "probabilities", ScalarType::Float, {boxes.size(0), any_size, any_size});
    const int64_t count = boxes.size(0), side = probabilities.size(2);
    check(probabilities, "probabilities", ScalarType::Float, {count, side, side});
    STD_TORCH_CHECK(side > 0 || count == 0, "probabilities must have one cell at least");
    return drawn(place, windows, offsets, count, Pasted{data<float>(probabilities), data<float>(boxes), side});
}

Tensor warp_masks_cuda(const Tensor& windows, const Tensor& offsets, const Tensor& levels, const Tensor& matrix,
                       const Tensor& new_windows, const Tensor& new_offsets, int64_t samples) {
    const Place place(windows, "windows");
    const Masks masks = masks_of(place, windows, offsets, levels);
    place.check(matrix, "matrix", ScalarType::Double, {2, 3});
    check_samples(samples);
    return drawn(place, new_windows, new_offsets, masks.count,
                 Warped{masks, {data<double>(matrix), Border::constant, samples}});
}

std::tuple<Tensor, Tensor> measured(const Place& place, const Tensor& windows, const Masks& masks) {
    Tensor areas = empty(windows, {masks.count}, ScalarType::Long),
           boxes = empty(windows, {masks.count, 4}, ScalarType::Int);
    LAUNCH_WARPS(measure_masks, masks.count, place.stream(), masks, out<int64_t>(areas),
                 reinterpret_cast<Window*>(out<int32_t>(boxes)));
    return {areas, boxes};
}

std::tuple<Tensor, Tensor> measure_masks_cuda(const Tensor& windows, const Tensor& offsets, const Tensor& levels) {
    const Place place(windows, "windows");
    return measured(place, windows, masks_of(place, windows, offsets, levels));
}

Three pick_masks_cuda(const Tensor& windows, const Tensor& offsets, const Tensor& levels, const Tensor& index) {
    const Place place(windows, "windows");
    const Masks masks = masks_of(place, windows, offsets, levels);
    place.check(index, "index", ScalarType::Long, {any_size});
    const int64_t count = index.size(0);
    Tensor picked = empty(windows, {count, 4}, ScalarType::Int), areas = zeros(windows, {count + 1}, ScalarType::Long);
    LAUNCH_EACH(pick_windows, count, place.stream(), masks, data<int64_t>(index), count,
                reinterpret_cast<Window*>(out<int32_t>(picked)), out<int64_t>(areas) + 1);
    const Tensor new_offsets = cumulated(areas);
    return {picked, new_offsets, drawn(place, picked, new_offsets, count, Picked{masks, data<int64_t>(index)})};
}

// Areas, and tight boxes as floats.
std::tuple<Tensor, Tensor> sized(const Place& place, const Tensor& windows, const Masks& masks) {
    const auto [areas, tight] = measured(place, windows, masks);
    Tensor boxes = empty(windows, {masks.count, 4}, ScalarType::Float);
    LAUNCH_EACH(boxes_of_windows, masks.count, place.stream(), windows_of(tight), masks.count, out<float>(boxes));
    return {areas, boxes};
}

Three mask_iou_cuda(const Tensor& windows1, const Tensor& offsets1, const Tensor& levels1, const Tensor& windows2,
                    const Tensor& offsets2, const Tensor& levels2) {
    const Place place(windows1, "windows1");
    const Masks rows = masks_of(place, windows1, offsets1, levels1),
                columns = masks_of(place, windows2, offsets2, levels2);
    const auto [row_areas, row_boxes] = sized(place, windows1, rows);
    const auto [areas, boxes] = sized(place, windows2, columns);
    const BoxGrid grid(place, boxes);
    Tensor counts = zeros(windows1, {rows.count + 1}, ScalarType::Long);
    LAUNCH_EACH(count_pairs, rows.count, place.stream(), rows, columns, grid, data<float>(row_boxes),
                out<int64_t>(counts) + 1);
    const Tensor offsets = cumulated(counts);
    const int64_t pair_count = total_of(offsets);
    Tensor pairs = empty(windows1, {pair_count}, ScalarType::Long),
           shared = empty(windows1, {pair_count}, ScalarType::Long);
    LAUNCH_EACH(list_pairs, rows.count, place.stream(), rows, columns, grid, data<float>(row_boxes),
                data<int64_t>(offsets), out<int64_t>(pairs));
    pairs = std::get<0>(sorted(pairs));
    LAUNCH_WARPS(share_pixels, pair_count, place.stream(), rows, columns, data<int64_t>(pairs), pair_count,
                 out<int64_t>(shared));
    const Tensor hits = nonzero(shared);
    const int64_t count = hits.size(0);
    Three result = {empty(windows1, {count}, ScalarType::Long), empty(windows1, {count}, ScalarType::Long),
                    empty(windows1, {count}, ScalarType::Float)};
    LAUNCH_EACH(write_overlaps, count, place.stream(), data<int64_t>(pairs), data<int64_t>(shared), data<int64_t>(hits),
                count, columns.count, data<int64_t>(row_areas), data<int64_t>(areas), out<int64_t>(std::get<0>(result)),
                out<int64_t>(std::get<1>(result)), out<float>(std::get<2>(result)));
    return result;
}

std::tuple<Tensor, Tensor> label_image_cuda(const Tensor& windows, const Tensor& offsets, const Tensor& levels,
                                            int64_t height, int64_t width, double min_visible_fraction) {
    const Place place(windows, "windows");
    check_canvas(height, width);
    const Masks masks = masks_of(place, windows, offsets, levels);
    Tensor labels = zeros(windows, {height, width}, ScalarType::Int),
           kept = empty(windows, {masks.count}, ScalarType::Bool);
    LAUNCH(label_image, 1, block_size, 2 * sizeof(unsigned long long), place.stream(), masks, height, width,
           min_visible_fraction, out<int32_t>(labels), out<bool>(kept));
    return {labels, kept};
}

Three masks_from_label_image_cuda(const Tensor& labels, const Tensor& ids) {
    const Place place(labels, "labels");
    place.check(labels, "labels", ScalarType::Int, {any_size, any_size});
    place.check(ids, "ids", ScalarType::Long, {any_size});
    const int64_t height = labels.size(0), width = labels.size(1), count = ids.size(0);
    Tensor windows = empty(labels, {count, 4}, ScalarType::Int);
    auto* window = reinterpret_cast<Window*>(out<int32_t>(windows));
    const auto [ascending, places] = sorted(ids);
    LAUNCH_EACH(open_windows, count, place.stream(), window, count);
    LAUNCH_EACH(grow_windows, height * width, place.stream(), data<int32_t>(labels), height, width,
                data<int64_t>(ascending), data<int64_t>(places), count, window);
    const Tensor offsets = finish(place, windows, nullptr);
    return {windows, offsets,
            drawn(place, windows, offsets, count, Cut{data<int32_t>(labels), data<int64_t>(ids), width})};
}

std::tuple<Tensor, Tensor> encode_rle_cuda(const Tensor& windows, const Tensor& offsets, const Tensor& levels,
                                           int64_t height, int64_t width) {
    const Place place(windows, "windows");
    check_canvas(height, width);
    const Masks masks = masks_of(place, windows, offsets, levels);
    Tensor lengths = zeros(windows, {masks.count + 1}, ScalarType::Long);
    LAUNCH_EACH(encode_rle, masks.count, place.stream(), masks, height, width, out<int64_t>(lengths) + 1, nullptr,
                nullptr);
    const Tensor text_offsets = cumulated(lengths);
    Tensor text = empty(windows, {total_of(text_offsets)}, ScalarType::Byte);
    LAUNCH_EACH(encode_rle, masks.count, place.stream(), masks, height, width, nullptr, data<int64_t>(text_offsets),
                out<uint8_t>(text));
    return {text, text_offsets};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> decode_rle_cuda(const Tensor& text, const Tensor& text_offsets,
                                                           int64_t height, int64_t width) {
    const Place place(text, "text");
    check_canvas(height, width);
    place.check(text, "text", ScalarType::Byte, {any_size});
    place.check(text_offsets, "text_offsets", ScalarType::Long, {any_size});
    STD_TORCH_CHECK(text_offsets.size(0) > 0, "text_offsets must be one at least, got none");
    const Texts texts = {data<uint8_t>(text), data<int64_t>(text_offsets), text_offsets.size(0) - 1, text.size(0)};
    Tensor windows = empty(text, {texts.count, 4}, ScalarType::Int), broken = empty(text, {}, ScalarType::Long);
    auto* window = reinterpret_cast<Window*>(out<int32_t>(windows));
    LAUNCH_EACH(open_broken, 1, place.stream(), out<int64_t>(broken));
    LAUNCH_EACH(windows_of_rle, texts.count, place.stream(), texts, height, width, window,
                reinterpret_cast<unsigned long long*>(out<int64_t>(broken)));
    LAUNCH_EACH(settle_broken, 1, place.stream(), out<int64_t>(broken));
    const Tensor offsets = finish(place, windows, data<int64_t>(broken));
    Tensor levels = zeros(text, {total_of(offsets)}, ScalarType::Byte);
    LAUNCH_EACH(decode_rle, texts.count, place.stream(), texts, drawing_of(windows, offsets, levels), height, width);
    return {windows, offsets, levels, broken};
}

}  // namespace
}  // namespace smallobjects
