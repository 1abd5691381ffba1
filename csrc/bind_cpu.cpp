// torch.ops.maskrcnn.* and their CPU kernels: checks the tensors and hands them over. This library defines the operations;
// that for CUDA only adds kernels.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <sstream>
#include <string>
#include <tuple>
#include <vector>

#include "checks.h"
#include "checks_values.h"
#include "cpu/images.h"
#include "cpu/masks.h"
#include "cpu/matching.h"
#include "cpu/nms.h"
#include "cpu/pooling.h"
#include "cpu/rle.h"

namespace smallobjects {
namespace {

void threads(int64_t count, int64_t grain, const Range& range) {
    torch::stable::parallel_for(0, count, grain, range);
}

Tensor cpu(std::initializer_list<int64_t> shape, ScalarType type) {
    return torch::stable::empty(std::vector<int64_t>(shape), type, std::nullopt, torch::stable::Device(torch::headeronly::DeviceType::CPU));
}

// boxes and matching

Tensor nms_cpu(const Tensor& boxes, const Tensor& groups, double iou_threshold) {
    check(boxes, "boxes", ScalarType::Float, {any_size, 4});
    check(groups, "groups", ScalarType::Long, {boxes.size(0)});
    Tensor kept = cpu({boxes.size(0)}, ScalarType::Bool);
    nms(data<float>(boxes), data<int64_t>(groups), boxes.size(0), float_not_above(iou_threshold), out<bool>(kept), threads);
    return kept;
}

std::tuple<Tensor, Tensor, Tensor> empty_matches(int64_t count) {
    return {cpu({count}, ScalarType::Long), cpu({count}, ScalarType::Float), cpu({count}, ScalarType::Bool)};
}

Matches matches_of(const std::tuple<Tensor, Tensor, Tensor>& tensors) {
    return {out<int64_t>(std::get<0>(tensors)), out<float>(std::get<1>(tensors)), out<bool>(std::get<2>(tensors))};
}

std::tuple<Tensor, Tensor, Tensor> match_boxes_cpu(const Tensor& priors, const Tensor& targets, double min_iou, int64_t ties) {
    check(priors, "priors", ScalarType::Float, {any_size, 4});
    check(targets, "targets", ScalarType::Float, {any_size, 4});
    auto result = empty_matches(priors.size(0));
    match_boxes(data<float>(priors), priors.size(0), data<float>(targets), targets.size(0), static_cast<float>(min_iou),
                static_cast<Ties>(ties), matches_of(result), threads);
    return result;
}

std::tuple<Tensor, Tensor, Tensor> match_anchors_cpu(const Tensor& sizes, const Tensor& grids, const Tensor& cells, const Tensor& targets,
                                                     double min_iou, int64_t ties) {
    check(sizes, "sizes", ScalarType::Float, {any_size, 2});
    check(grids, "grids", ScalarType::Float, {sizes.size(0), 4});
    check(cells, "cells", ScalarType::Long, {sizes.size(0), 4});
    check(targets, "targets", ScalarType::Float, {any_size, 4});
    const AnchorGrids arrays = {data<float>(sizes), data<float>(grids), data<int64_t>(cells), sizes.size(0)};
    std::vector<AnchorGrid> all;
    for (int64_t g = 0; g < arrays.count; g++) all.push_back(arrays.at(g));
    auto result = empty_matches(count_anchors(cells));
    AnchorMatcher(all, data<float>(targets), targets.size(0), static_cast<float>(min_iou), static_cast<Ties>(ties))
        .match(matches_of(result), threads);
    return result;
}

// pooling

template <class T>
std::vector<FeatureMap<T>> maps_of(const std::vector<Tensor>& features, const std::vector<double>& strides) {
    std::vector<FeatureMap<T>> maps;
    for (size_t l = 0; l < features.size(); l++) {
        maps.push_back({static_cast<T*>(features[l].data_ptr()), features[l].size(1), features[l].size(2), strides[l]});
    }
    return maps;
}

Rois check_rois(const std::vector<Tensor>& features, const Tensor& boxes, const Tensor& images) {
    check_features(features);
    check(boxes, "boxes", ScalarType::Float, {any_size, 4});
    check(images, "images", ScalarType::Long, {boxes.size(0)});
    check_finite(boxes, "boxes");
    check_range(images, "images", features[0].size(0));
    return {data<float>(boxes), data<int64_t>(images), nullptr, boxes.size(0)};
}

Rois check_rois(const std::vector<Tensor>& features, const Tensor& boxes, const Tensor& images, const Tensor& levels,
                const std::vector<double>& strides) {
    Rois rois = check_rois(features, boxes, images);
    STD_TORCH_CHECK(features.size() == strides.size(), "strides must be one number for each of ", features.size(), " levels, got ",
                    strides.size());
    check(levels, "levels", ScalarType::Long, {boxes.size(0)});
    check_range(levels, "levels", static_cast<int64_t>(features.size()));
    rois.levels = data<int64_t>(levels);
    return rois;
}

template <class Rule>
Tensor pool_cpu(const Rule& rule, const std::vector<Tensor>& features, const Rois& rois, const std::vector<double>& strides, double outside) {
    const int64_t channels = features[0].size(3);
    Tensor result = cpu({rois.count, rule.bins.rows, rule.bins.columns, channels}, features[0].scalar_type());
    dispatch(features[0].scalar_type(), [&](auto zero) {
        using T = decltype(zero);
        using Acc = accumulator_t<T>;
        pool<T, Acc>(rule, maps_of<const T>(features, strides), channels, rois, static_cast<Acc>(outside), out<T>(result), threads);
    });
    return result;
}

template <class Rule>
std::vector<Tensor> pool_backward_cpu(const Rule& rule, const Tensor& grad, const std::vector<Tensor>& features, const Rois& rois,
                                      const std::vector<double>& strides) {
    const int64_t channels = features[0].size(3);
    check(grad, "grad", features[0].scalar_type(), {rois.count, rule.bins.rows, rule.bins.columns, channels});
    std::vector<Tensor> sums;
    dispatch(features[0].scalar_type(), [&](auto zero) {
        using T = decltype(zero);
        using Acc = accumulator_t<T>;
        for (const Tensor& feature : features) sums.push_back(torch::stable::new_zeros(feature, feature.sizes(), scalar_type_of<Acc>()));
        pool_backward<T, Acc>(rule, maps_of<Acc>(sums, strides), channels, rois, data<T>(grad), threads);
    });
    return sums;
}

Tensor roi_align_cpu(const std::vector<Tensor>& features, const Tensor& boxes, const Tensor& images, const Tensor& levels,
                     const std::vector<double>& strides, const std::vector<int64_t>& output_size, int64_t sampling_ratio, bool aligned) {
    const Bins bins = check_bins(output_size, sampling_ratio);
    const Rois rois = check_rois(features, boxes, images, levels, strides);
    return pool_cpu(RoiAlign{bins, sampling_ratio, aligned}, features, rois, strides, 0.0);
}

std::vector<Tensor> roi_align_backward_cpu(const Tensor& grad, const std::vector<Tensor>& features, const Tensor& boxes, const Tensor& images,
                                           const Tensor& levels, const std::vector<double>& strides, const std::vector<int64_t>& output_size,
                                           int64_t sampling_ratio, bool aligned) {
    const Bins bins = check_bins(output_size, sampling_ratio);
    const Rois rois = check_rois(features, boxes, images, levels, strides);
    return pool_backward_cpu(RoiAlign{bins, sampling_ratio, aligned}, grad, features, rois, strides);
}

Tensor crop_and_resize_cpu(const Tensor& features, const Tensor& boxes, const Tensor& images, int64_t output_size, double extrapolation_value) {
    const Bins bins = check_bins({output_size, output_size}, 0);
    const Rois rois = check_rois({features}, boxes, images);
    return pool_cpu(CropAndResize{bins}, {features}, rois, {1.0}, extrapolation_value);
}

Tensor crop_and_resize_backward_cpu(const Tensor& grad, const Tensor& features, const Tensor& boxes, const Tensor& images, int64_t output_size) {
    const Bins bins = check_bins({output_size, output_size}, 0);
    const Rois rois = check_rois({features}, boxes, images);
    return pool_backward_cpu(CropAndResize{bins}, grad, {features}, rois, {1.0})[0];
}

// masks

Masks masks_of(const Tensor& windows, const Tensor& offsets, const Tensor& levels) {
    check_masks(windows, offsets, levels);
    return {reinterpret_cast<const Window*>(data<int32_t>(windows)), data<int64_t>(offsets), data<uint8_t>(levels), windows.size(0)};
}

// The windows of masks whose pixels are still to come.
std::tuple<const Window*, Tensor> frame(const Tensor& windows, const Tensor& offsets, int64_t count) {
    check(windows, "new_windows", ScalarType::Int, {count, 4});
    check_offsets(windows, offsets, "new_offsets");
    return {reinterpret_cast<const Window*>(data<int32_t>(windows)), cpu({data<int64_t>(offsets)[count]}, ScalarType::Byte)};
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

Tensor sample_masks_cpu(const Tensor& windows, const Tensor& offsets, const Tensor& levels, int64_t height, int64_t width, const Tensor& boxes,
                        const Tensor& index, int64_t output_size, int64_t sampling_ratio, bool aligned, bool soft) {
    const Bins bins = check_bins({output_size, output_size}, sampling_ratio);
    check_canvas(height, width);
    const Masks masks = masks_of(windows, offsets, levels);
    check(boxes, "boxes", ScalarType::Float, {any_size, 4});
    check(index, "index", ScalarType::Long, {boxes.size(0)});
    check_finite(boxes, "boxes");
    check_range(index, "index", masks.count);
    Tensor result = cpu({boxes.size(0), output_size, output_size}, ScalarType::Float);
    sample_masks(masks, height, width, data<float>(boxes), data<int64_t>(index), boxes.size(0), RoiAlign{bins, sampling_ratio, aligned},
                 soft, out<float>(result), threads);
    return result;
}

Tensor paste_masks_cpu(const Tensor& probabilities, const Tensor& boxes, const Tensor& windows, const Tensor& offsets) {
    check(boxes, "boxes", ScalarType::Float, {any_size, 4});
    check(probabilities, "probabilities", ScalarType::Float, {boxes.size(0), any_size, any_size});
    const int64_t count = boxes.size(0), side = probabilities.size(2);
    check(probabilities, "probabilities", ScalarType::Float, {count, side, side});
    STD_TORCH_CHECK(side > 0 || count == 0, "probabilities must have one cell at least");
    auto [frames, levels] = frame(windows, offsets, count);
    paste_masks(data<float>(probabilities), side, data<float>(boxes), frames, data<int64_t>(offsets), count, out<uint8_t>(levels), threads);
    return levels;
}

Tensor warp_masks_cpu(const Tensor& windows, const Tensor& offsets, const Tensor& levels, const Tensor& matrix, const Tensor& new_windows,
                      const Tensor& new_offsets, int64_t samples) {
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

std::tuple<Tensor, Tensor, Tensor> pick_masks_cpu(const Tensor& windows, const Tensor& offsets, const Tensor& levels, const Tensor& index) {
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

std::tuple<Tensor, Tensor, Tensor> mask_iou_cpu(const Tensor& windows1, const Tensor& offsets1, const Tensor& levels1, const Tensor& windows2,
                                                const Tensor& offsets2, const Tensor& levels2) {
    const auto pairs = mask_iou(masks_of(windows1, offsets1, levels1), masks_of(windows2, offsets2, levels2), threads);
    const int64_t count = static_cast<int64_t>(pairs.size());
    Tensor rows = cpu({count}, ScalarType::Long), columns = cpu({count}, ScalarType::Long), iou = cpu({count}, ScalarType::Float);
    for (int64_t i = 0; i < count; i++) {
        out<int64_t>(rows)[i] = pairs[i].row;
        out<int64_t>(columns)[i] = pairs[i].column;
        out<float>(iou)[i] = pairs[i].iou;
    }
    return {rows, columns, iou};
}

std::tuple<Tensor, Tensor> label_image_cpu(const Tensor& windows, const Tensor& offsets, const Tensor& levels, int64_t height, int64_t width,
                                           double min_visible_fraction) {
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
    cut_labels(data<int32_t>(labels), width, data<int64_t>(ids), windows.data(), data<int64_t>(std::get<1>(result)), count,
               out<uint8_t>(std::get<2>(result)), threads);
    return result;
}

std::tuple<Tensor, Tensor> encode_rle_cpu(const Tensor& windows, const Tensor& offsets, const Tensor& levels, int64_t height, int64_t width) {
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

std::tuple<Tensor, Tensor, Tensor, Tensor> decode_rle_cpu(const Tensor& text, const Tensor& text_offsets, int64_t height, int64_t width) {
    check_canvas(height, width);
    check(text, "text", ScalarType::Byte, {any_size});
    check(text_offsets, "text_offsets", ScalarType::Long, {any_size});
    check_ascending(text_offsets, "text_offsets", text.size(0));
    const int64_t count = text_offsets.size(0) - 1;
    Tensor broken = cpu({}, ScalarType::Long);
    const auto windows = windows_of_rle(data<uint8_t>(text), data<int64_t>(text_offsets), count, height, width, *out<int64_t>(broken));
    auto [frames, offsets, levels] = masks_in(windows);
    std::fill_n(out<uint8_t>(levels), levels.numel(), uint8_t{0});
    decode_rle(data<uint8_t>(text), data<int64_t>(text_offsets), windows.data(), data<int64_t>(offsets), count, height, width,
               out<uint8_t>(levels), threads);
    return {frames, offsets, levels, broken};
}

// images

Tensor warp_image_cpu(const Tensor& image, const Tensor& matrix, int64_t height, int64_t width, int64_t border, int64_t samples) {
    check_image(image);
    check(matrix, "matrix", ScalarType::Double, {2, 3});
    check_canvas(height, width);
    check_samples(samples);
    Tensor result = cpu({image.size(0), height, width}, image.scalar_type());
    dispatch_image(image.scalar_type(), [&](auto zero) {
        using T = decltype(zero);
        warp_image(data<T>(image), image.size(0), image.size(1), image.size(2), data<double>(matrix), height, width, border_of(border), samples,
                   out<T>(result), threads);
    });
    return result;
}

// Of the signatures below; maskrcnn/ops/_native.py asks for it.
int64_t version() { return 3; }

std::string built_with() {
    std::ostringstream text;
#if defined(_MSC_FULL_VER) && !defined(__clang__)
    text << "MSVC " << _MSC_FULL_VER;
#elif defined(__clang__)
    text << "clang " << __clang_version__;
#else
    text << "g++ " << __VERSION__;
#endif
    text << ", PyTorch's headers " << TORCH_VERSION_MAJOR << "." << TORCH_VERSION_MINOR << ", stable ABI of "
         << (static_cast<uint64_t>(TORCH_TARGET_VERSION) >> 56) << "." << ((static_cast<uint64_t>(TORCH_TARGET_VERSION) >> 48) & 255);
    return text.str();
}

}  // namespace
}  // namespace smallobjects

STABLE_TORCH_LIBRARY(maskrcnn, m) {
    m.def("version() -> int");
    m.def("built_with() -> str");
    m.def("nms(Tensor boxes, Tensor groups, float iou_threshold) -> Tensor");
    m.def("match_boxes(Tensor priors, Tensor targets, float min_iou, int ties) -> (Tensor, Tensor, Tensor)");
    m.def(
        "match_anchors(Tensor sizes, Tensor grids, Tensor cells, Tensor targets, float min_iou, int ties) -> (Tensor, Tensor, Tensor)");
    m.def(
        "roi_align(Tensor[] features, Tensor boxes, Tensor images, Tensor levels, float[] strides, int[2] output_size, "
        "int sampling_ratio, bool aligned) -> Tensor");
    m.def(
        "roi_align_backward(Tensor grad, Tensor[] features, Tensor boxes, Tensor images, Tensor levels, float[] strides, "
        "int[2] output_size, int sampling_ratio, bool aligned) -> Tensor[]");
    m.def("crop_and_resize(Tensor features, Tensor boxes, Tensor images, int output_size, float extrapolation_value) -> Tensor");
    m.def("crop_and_resize_backward(Tensor grad, Tensor features, Tensor boxes, Tensor images, int output_size) -> Tensor");
    m.def(
        "sample_masks(Tensor windows, Tensor offsets, Tensor data, int height, int width, Tensor boxes, Tensor index, "
        "int output_size, int sampling_ratio, bool aligned, bool soft) -> Tensor");
    m.def("paste_masks(Tensor probabilities, Tensor boxes, Tensor new_windows, Tensor new_offsets) -> Tensor");
    m.def(
        "warp_masks(Tensor windows, Tensor offsets, Tensor data, Tensor matrix, Tensor new_windows, Tensor new_offsets, "
        "int samples) -> Tensor");
    m.def("measure_masks(Tensor windows, Tensor offsets, Tensor data) -> (Tensor, Tensor)");
    m.def("pick_masks(Tensor windows, Tensor offsets, Tensor data, Tensor index) -> (Tensor, Tensor, Tensor)");
    m.def(
        "mask_iou(Tensor windows1, Tensor offsets1, Tensor data1, Tensor windows2, Tensor offsets2, Tensor data2) "
        "-> (Tensor, Tensor, Tensor)");
    m.def(
        "label_image(Tensor windows, Tensor offsets, Tensor data, int height, int width, float min_visible_fraction) "
        "-> (Tensor, Tensor)");
    m.def("masks_from_label_image(Tensor labels, Tensor ids) -> (Tensor, Tensor, Tensor)");
    m.def("warp_image(Tensor image, Tensor matrix, int height, int width, int border, int samples) -> Tensor");
    m.def("encode_rle(Tensor windows, Tensor offsets, Tensor data, int height, int width) -> (Tensor, Tensor)");
    m.def("decode_rle(Tensor text, Tensor text_offsets, int height, int width) -> (Tensor, Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(maskrcnn, CompositeExplicitAutograd, m) {
    m.impl("version", TORCH_BOX(&smallobjects::version));
    m.impl("built_with", TORCH_BOX(&smallobjects::built_with));
}

STABLE_TORCH_LIBRARY_IMPL(maskrcnn, CPU, m) {
    using namespace smallobjects;
    m.impl("nms", TORCH_BOX(&nms_cpu));
    m.impl("match_boxes", TORCH_BOX(&match_boxes_cpu));
    m.impl("match_anchors", TORCH_BOX(&match_anchors_cpu));
    m.impl("roi_align", TORCH_BOX(&roi_align_cpu));
    m.impl("roi_align_backward", TORCH_BOX(&roi_align_backward_cpu));
    m.impl("crop_and_resize", TORCH_BOX(&crop_and_resize_cpu));
    m.impl("crop_and_resize_backward", TORCH_BOX(&crop_and_resize_backward_cpu));
    m.impl("sample_masks", TORCH_BOX(&sample_masks_cpu));
    m.impl("paste_masks", TORCH_BOX(&paste_masks_cpu));
    m.impl("warp_masks", TORCH_BOX(&warp_masks_cpu));
    m.impl("measure_masks", TORCH_BOX(&measure_masks_cpu));
    m.impl("pick_masks", TORCH_BOX(&pick_masks_cpu));
    m.impl("mask_iou", TORCH_BOX(&mask_iou_cpu));
    m.impl("label_image", TORCH_BOX(&label_image_cpu));
    m.impl("masks_from_label_image", TORCH_BOX(&masks_from_label_image_cpu));
    m.impl("warp_image", TORCH_BOX(&warp_image_cpu));
    m.impl("encode_rle", TORCH_BOX(&encode_rle_cpu));
    m.impl("decode_rle", TORCH_BOX(&decode_rle_cpu));
}
