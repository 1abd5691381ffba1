// torch.ops.maskrcnn.* and their CPU kernels: checks the tensors and hands them over. This library defines the operations;
// that for CUDA only adds kernels.

#include <sstream>
#include <string>

#include "bind_cpu.h"
#include "bind_cpu_masks.h"
#include "cpu/images.h"
#include "cpu/matching.h"
#include "cpu/nms.h"
#include "cpu/pooling.h"

namespace smallobjects {
namespace {

// boxes and matching

Tensor nms_cpu(const Tensor& boxes, const Tensor& groups, double iou_threshold) {
    check(boxes, "boxes", ScalarType::Float, {any_size, 4});
    check(groups, "groups", ScalarType::Long, {boxes.size(0)});
    Tensor kept = cpu({boxes.size(0)}, ScalarType::Bool);
    nms(data<float>(boxes), data<int64_t>(groups), boxes.size(0), float_not_above(iou_threshold), out<bool>(kept),
        threads);
    return kept;
}

std::tuple<Tensor, Tensor, Tensor> empty_matches(int64_t count) {
    return {cpu({count}, ScalarType::Long), cpu({count}, ScalarType::Float), cpu({count}, ScalarType::Bool)};
}

Matches matches_of(const std::tuple<Tensor, Tensor, Tensor>& tensors) {
    return {out<int64_t>(std::get<0>(tensors)), out<float>(std::get<1>(tensors)), out<bool>(std::get<2>(tensors))};
}

std::tuple<Tensor, Tensor, Tensor> match_boxes_cpu(const Tensor& priors, const Tensor& targets, double min_iou,
                                                   int64_t ties) {
    check(priors, "priors", ScalarType::Float, {any_size, 4});
    check(targets, "targets", ScalarType::Float, {any_size, 4});
    auto result = empty_matches(priors.size(0));
    match_boxes(data<float>(priors), priors.size(0), data<float>(targets), targets.size(0), static_cast<float>(min_iou),
                static_cast<Ties>(ties), matches_of(result), threads);
    return result;
}

std::tuple<Tensor, Tensor, Tensor> match_anchors_cpu(const Tensor& sizes, const Tensor& grids, const Tensor& cells,
                                                     const Tensor& targets, double min_iou, int64_t ties) {
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
    STD_TORCH_CHECK(features.size() == strides.size(), "strides must be one number for each of ", features.size(),
                    " levels, got ", strides.size());
    check(levels, "levels", ScalarType::Long, {boxes.size(0)});
    check_range(levels, "levels", static_cast<int64_t>(features.size()));
    rois.levels = data<int64_t>(levels);
    return rois;
}

template <class Rule>
Tensor pool_cpu(const Rule& rule, const std::vector<Tensor>& features, const Rois& rois,
                const std::vector<double>& strides, double outside) {
    const int64_t channels = features[0].size(3);
    Tensor result = cpu({rois.count, rule.bins.rows, rule.bins.columns, channels}, features[0].scalar_type());
    dispatch(features[0].scalar_type(), [&](auto zero) {
        using T = decltype(zero);
        using Acc = accumulator_t<T>;
        pool<T, Acc>(rule, maps_of<const T>(features, strides), channels, rois, static_cast<Acc>(outside),
                     out<T>(result), threads);
    });
    return result;
}

template <class Rule>
std::vector<Tensor> pool_backward_cpu(const Rule& rule, const Tensor& grad, const std::vector<Tensor>& features,
                                      const Rois& rois, const std::vector<double>& strides) {
    const int64_t channels = features[0].size(3);
    check(grad, "grad", features[0].scalar_type(), {rois.count, rule.bins.rows, rule.bins.columns, channels});
    std::vector<Tensor> sums;
    dispatch(features[0].scalar_type(), [&](auto zero) {
        using T = decltype(zero);
        using Acc = accumulator_t<T>;
        for (const Tensor& feature : features)
            sums.push_back(torch::stable::new_zeros(feature, feature.sizes(), scalar_type_of<Acc>()));
        pool_backward<T, Acc>(rule, maps_of<Acc>(sums, strides), channels, rois, data<T>(grad), threads);
    });
    return sums;
}

Tensor roi_align_cpu(const std::vector<Tensor>& features, const Tensor& boxes, const Tensor& images,
                     const Tensor& levels, const std::vector<double>& strides, const std::vector<int64_t>& output_size,
                     int64_t sampling_ratio, bool aligned) {
    const Bins bins = check_bins(output_size, sampling_ratio);
    const Rois rois = check_rois(features, boxes, images, levels, strides);
    return pool_cpu(RoiAlign{bins, sampling_ratio, aligned}, features, rois, strides, 0.0);
}

std::vector<Tensor> roi_align_backward_cpu(const Tensor& grad, const std::vector<Tensor>& features, const Tensor& boxes,
                                           const Tensor& images, const Tensor& levels,
                                           const std::vector<double>& strides, const std::vector<int64_t>& output_size,
                                           int64_t sampling_ratio, bool aligned) {
    const Bins bins = check_bins(output_size, sampling_ratio);
    const Rois rois = check_rois(features, boxes, images, levels, strides);
    return pool_backward_cpu(RoiAlign{bins, sampling_ratio, aligned}, grad, features, rois, strides);
}

Tensor crop_and_resize_cpu(const Tensor& features, const Tensor& boxes, const Tensor& images, int64_t output_size,
                           double extrapolation_value) {
    const Bins bins = check_bins({output_size, output_size}, 0);
    const Rois rois = check_rois({features}, boxes, images);
    return pool_cpu(CropAndResize{bins}, {features}, rois, {1.0}, extrapolation_value);
}

Tensor crop_and_resize_backward_cpu(const Tensor& grad, const Tensor& features, const Tensor& boxes,
                                    const Tensor& images, int64_t output_size) {
    const Bins bins = check_bins({output_size, output_size}, 0);
    const Rois rois = check_rois({features}, boxes, images);
    return pool_backward_cpu(CropAndResize{bins}, grad, {features}, rois, {1.0})[0];
}

// images

Tensor warp_image_cpu(const Tensor& image, const Tensor& matrix, int64_t height, int64_t width, int64_t border,
                      int64_t samples) {
    check_image(image);
    check(matrix, "matrix", ScalarType::Double, {2, 3});
    check_canvas(height, width);
    check_samples(samples);
    Tensor result = cpu({image.size(0), height, width}, image.scalar_type());
    dispatch_image(image.scalar_type(), [&](auto zero) {
        using T = decltype(zero);
        warp_image(data<T>(image), image.size(0), image.size(1), image.size(2), data<double>(matrix), height, width,
                   border_of(border), samples, out<T>(result), threads);
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
         << (static_cast<uint64_t>(TORCH_TARGET_VERSION) >> 56) << "."
         << ((static_cast<uint64_t>(TORCH_TARGET_VERSION) >> 48) & 255);
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
        "match_anchors(Tensor sizes, Tensor grids, Tensor cells, Tensor targets, float min_iou, int ties) -> (Tensor, "
        "Tensor, Tensor)");
    m.def(
        "roi_align(Tensor[] features, Tensor boxes, Tensor images, Tensor levels, float[] strides, int[2] output_size, "
        "int sampling_ratio, bool aligned) -> Tensor");
    m.def(
        "roi_align_backward(Tensor grad, Tensor[] features, Tensor boxes, Tensor images, Tensor levels, float[] "
        "strides, "
        "int[2] output_size, int sampling_ratio, bool aligned) -> Tensor[]");
    m.def(
        "crop_and_resize(Tensor features, Tensor boxes, Tensor images, int output_size, float extrapolation_value) -> "
        "Tensor");
    m.def(
        "crop_and_resize_backward(Tensor grad, Tensor features, Tensor boxes, Tensor images, int output_size) -> "
        "Tensor");
    m.def(
        "sample_masks(Tensor windows, Tensor offsets, Tensor data, int height, int width, Tensor boxes, Tensor index, "
        "int output_size, int sampling_ratio, bool aligned, bool soft) -> Tensor");
    m.def("paste_masks(Tensor probabilities, Tensor boxes, Tensor new_windows, Tensor new_offsets) -> Tensor");
    m.def(
        "warp_masks(Tensor windows, Tensor offsets, Tensor data, Tensor matrix, Tensor new_windows, Tensor "
        "new_offsets, "
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
