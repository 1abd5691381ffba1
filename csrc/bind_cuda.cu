// The CUDA kernels of torch.ops.maskrcnn.*, which bind_cpu.cpp defines: checks the tensors and hands them over.
//
// Shapes, types, and devices are checked. Values are not, because reading them would synchronize with the GPU: kernels skip
// invalid values, invalid RoIs give NaN, and masks whose windows and offsets do not match are empty.

#include "bind_cuda.h"
#include "bind_cuda_masks.h"
#include "cuda/anchors.cuh"
#include "cuda/matching.cuh"
#include "cuda/nms.cuh"
#include "cuda/pooling.cuh"

namespace smallobjects {
namespace {

// boxes and matching

Tensor nms_cuda(const Tensor& boxes, const Tensor& groups, double iou_threshold) {
    const Place place(boxes, "boxes");
    const int64_t count = boxes.size(0);
    place.check(boxes, "boxes", ScalarType::Float, {any_size, 4});
    place.check(groups, "groups", ScalarType::Long, {count});
    const BoxGrid grid(place, boxes, data<int64_t>(groups));
    const float threshold = float_not_above(iou_threshold);
    Tensor fates = zeros(boxes, {count}, ScalarType::Byte), kept = empty(boxes, {count}, ScalarType::Bool);
    for (int round = 0; round < 8; round++)
        LAUNCH_EACH(nms_round, count, place.stream(), grid, threshold, out<uint8_t>(fates));
    LAUNCH(nms_finish, 1, 4 * block_size, 0, place.stream(), grid, threshold, out<uint8_t>(fates), out<bool>(kept));
    return kept;
}

Three empty_matches(const Tensor& like, int64_t count) {
    return {empty(like, {count}, ScalarType::Long), empty(like, {count}, ScalarType::Float),
            zeros(like, {count}, ScalarType::Bool)};
}

Matches matches_of(const Three& tensors) {
    return {out<int64_t>(std::get<0>(tensors)), out<float>(std::get<1>(tensors)), out<bool>(std::get<2>(tensors))};
}

Three match_boxes_cuda(const Tensor& priors, const Tensor& targets, double min_iou, int64_t ties) {
    const Place place(priors, "priors");
    const int64_t prior_count = priors.size(0), target_count = targets.size(0);
    place.check(priors, "priors", ScalarType::Float, {any_size, 4});
    place.check(targets, "targets", ScalarType::Float, {any_size, 4});
    Three result = empty_matches(priors, prior_count);
    const Matches matches = matches_of(result);
    if (static_cast<Ties>(ties) != Ties::none) {
        const BoxGrid grid(place, priors);
        LAUNCH_EACH(force_priors, target_count, place.stream(), grid, data<float>(targets), target_count,
                    static_cast<Ties>(ties), matches.forced);
    }
    const BoxGrid grid(place, targets);
    LAUNCH_EACH(match_priors, prior_count, place.stream(), grid, data<float>(priors), prior_count,
                static_cast<float>(min_iou), matches);
    return result;
}

Three match_anchors_cuda(const Tensor& sizes, const Tensor& grids, const Tensor& cells, const Tensor& targets,
                         double min_iou, int64_t ties) {
    const Place place(targets, "targets");
    const int64_t grid_count = sizes.size(0), target_count = targets.size(0);
    place.check(sizes, "sizes", ScalarType::Float, {any_size, 2});
    place.check(grids, "grids", ScalarType::Float, {grid_count, 4});
    place.check(cells, "cells", ScalarType::Long, {grid_count, 4});
    place.check(targets, "targets", ScalarType::Float, {any_size, 4});
    STD_TORCH_CHECK(target_count < (int64_t{1} << 32), "targets must be fewer than 2^32, got ", target_count);
    const int64_t count = count_anchors(on_host(cells));  // waits for the GPU, because the result is as long
    Three result = empty_matches(targets, count);
    const Matches matches = matches_of(result);
    const AnchorGrids all = {data<float>(sizes), data<float>(grids), data<int64_t>(cells), grid_count};
    Tensor best = empty(targets, {target_count}, ScalarType::Float), codes = zeros(targets, {count}, ScalarType::Long);
    Tensor windows = empty(targets, {target_count, grid_count, 4}, ScalarType::Long);
    auto* window = reinterpret_cast<AnchorWindow*>(out<int64_t>(windows));
    auto* code = reinterpret_cast<unsigned long long*>(out<int64_t>(codes));
    const float* boxes = data<float>(targets);
    const float threshold = static_cast<float>(min_iou);
    const Ties rule = static_cast<Ties>(ties);
    LAUNCH_EACH(look_around, target_count, place.stream(), all, boxes, target_count, threshold, rule, out<float>(best),
                window, matches.forced);
    LAUNCH_WARPS(visit_windows, target_count * grid_count, place.stream(), all, boxes, target_count, rule,
                 data<float>(best), window, code, matches.forced);
    const BoxGrid grid(place, targets);
    LAUNCH_EACH(settle_anchors, count, place.stream(), all, grid, threshold, code, matches);
    return result;
}

// pooling

template <class T>
Pyramid<T> pyramid_of(const std::vector<Tensor>& features, const std::vector<double>& strides) {
    Pyramid<T> pyramid = {{}, static_cast<int64_t>(features.size()), features[0].size(0), features[0].size(3)};
    for (size_t l = 0; l < features.size(); l++) {
        pyramid.maps[l] = {static_cast<T*>(features[l].data_ptr()), features[l].size(1), features[l].size(2),
                           strides[l]};
    }
    return pyramid;
}

Rois check_rois(const Place& place, const std::vector<Tensor>& features, const Tensor& boxes, const Tensor& images) {
    check_features(features);
    for (const Tensor& feature : features) place.check_here(feature, "features");
    place.check(boxes, "boxes", ScalarType::Float, {any_size, 4});
    place.check(images, "images", ScalarType::Long, {boxes.size(0)});
    return {data<float>(boxes), data<int64_t>(images), nullptr, boxes.size(0)};
}

Rois check_rois(const Place& place, const std::vector<Tensor>& features, const Tensor& boxes, const Tensor& images,
                const Tensor& levels, const std::vector<double>& strides) {
    Rois rois = check_rois(place, features, boxes, images);
    const int64_t count = static_cast<int64_t>(features.size());
    STD_TORCH_CHECK(count <= most_levels, "features must be at most ", most_levels, " levels, got ", count);
    STD_TORCH_CHECK(features.size() == strides.size(), "strides must be one number for each of ", count,
                    " levels, got ", strides.size());
    place.check(levels, "levels", ScalarType::Long, {boxes.size(0)});
    rois.levels = data<int64_t>(levels);
    return rois;
}

// Threads for channels: whole warps.
unsigned threads_for(int64_t channels) {
    return static_cast<unsigned>(channels < block_size ? (channels + lanes - 1) / lanes * lanes : block_size);
}

template <class Rule>
Tensor pool_cuda(const Place& place, const Rule& rule, const std::vector<Tensor>& features, const Rois& rois,
                 const std::vector<double>& strides, double outside) {
    const int64_t channels = features[0].size(3);
    Tensor result =
        empty(features[0], {rois.count, rule.bins.rows, rule.bins.columns, channels}, features[0].scalar_type());
    if (result.numel() == 0) return result;
    dispatch(features[0].scalar_type(), [&](auto zero) {
        using T = decltype(zero);
        using Acc = accumulator_t<T>;
        LAUNCH((pool<T, Acc, Rule>), blocks_for(rois.count * rule.bins.rows * rule.bins.columns, 1),
               threads_for(channels), 0, place.stream(), rule, pyramid_of<const T>(features, strides), rois,
               static_cast<Acc>(outside), out<T>(result));
    });
    return result;
}

template <class Rule>
std::vector<Tensor> pool_backward_cuda(const Place& place, const Rule& rule, const Tensor& grad,
                                       const std::vector<Tensor>& features, const Rois& rois,
                                       const std::vector<double>& strides) {
    const int64_t channels = features[0].size(3);
    place.check(grad, "grad", features[0].scalar_type(), {rois.count, rule.bins.rows, rule.bins.columns, channels});
    std::vector<Tensor> sums;
    int64_t rows = 0;
    dispatch(features[0].scalar_type(), [&](auto zero) {
        using T = decltype(zero);
        using Acc = accumulator_t<T>;
        for (const Tensor& feature : features) {
            sums.push_back(torch::stable::new_zeros(feature, feature.sizes(), scalar_type_of<Acc>()));
            rows += feature.size(0) * feature.size(1);
        }
        if (grad.numel() == 0) return;
        const int64_t slices = (channels + block_size - 1) / block_size;
        LAUNCH((pool_backward<T, Acc, Rule>), blocks_for(rows * slices, 1), threads_for(channels), 0, place.stream(),
               rule, pyramid_of<Acc>(sums, strides), rois, data<T>(grad));
    });
    return sums;
}

Tensor roi_align_cuda(const std::vector<Tensor>& features, const Tensor& boxes, const Tensor& images,
                      const Tensor& levels, const std::vector<double>& strides, const std::vector<int64_t>& output_size,
                      int64_t sampling_ratio, bool aligned) {
    const Place place(boxes, "boxes");
    const Bins bins = check_bins(output_size, sampling_ratio);
    const Rois rois = check_rois(place, features, boxes, images, levels, strides);
    return pool_cuda(place, RoiAlign{bins, sampling_ratio, aligned}, features, rois, strides, 0.0);
}

std::vector<Tensor> roi_align_backward_cuda(const Tensor& grad, const std::vector<Tensor>& features,
                                            const Tensor& boxes, const Tensor& images, const Tensor& levels,
                                            const std::vector<double>& strides, const std::vector<int64_t>& output_size,
                                            int64_t sampling_ratio, bool aligned) {
    const Place place(boxes, "boxes");
    const Bins bins = check_bins(output_size, sampling_ratio);
    const Rois rois = check_rois(place, features, boxes, images, levels, strides);
    return pool_backward_cuda(place, RoiAlign{bins, sampling_ratio, aligned}, grad, features, rois, strides);
}

Tensor crop_and_resize_cuda(const Tensor& features, const Tensor& boxes, const Tensor& images, int64_t output_size,
                            double extrapolation_value) {
    const Place place(boxes, "boxes");
    const Bins bins = check_bins({output_size, output_size}, 0);
    const Rois rois = check_rois(place, {features}, boxes, images);
    return pool_cuda(place, CropAndResize{bins}, {features}, rois, {1.0}, extrapolation_value);
}

Tensor crop_and_resize_backward_cuda(const Tensor& grad, const Tensor& features, const Tensor& boxes,
                                     const Tensor& images, int64_t output_size) {
    const Place place(boxes, "boxes");
    const Bins bins = check_bins({output_size, output_size}, 0);
    const Rois rois = check_rois(place, {features}, boxes, images);
    return pool_backward_cuda(place, CropAndResize{bins}, grad, {features}, rois, {1.0})[0];
}

// images

Tensor warp_image_cuda(const Tensor& image, const Tensor& matrix, int64_t height, int64_t width, int64_t border,
                       int64_t samples) {
    const Place place(image, "image");
    check_image(image);
    place.check(matrix, "matrix", ScalarType::Double, {2, 3});
    check_canvas(height, width);
    check_samples(samples);
    const Sight sight = {data<double>(matrix), border_of(border), samples};
    const Window old = {0, 0, static_cast<int32_t>(image.size(2)), static_cast<int32_t>(image.size(1))};
    Tensor result = empty(image, {image.size(0), height, width}, image.scalar_type());
    dispatch_image(image.scalar_type(), [&](auto zero) {
        using T = decltype(zero);
        LAUNCH_EACH(warp_image<T>, height * width, place.stream(), data<T>(image), image.size(0), old, sight, height,
                    width, out<T>(result));
    });
    return result;
}

}  // namespace
}  // namespace smallobjects

STABLE_TORCH_LIBRARY_IMPL(NAMESPACE, DEVICE_KEY, m) {
    using namespace smallobjects;
    m.impl("nms", TORCH_BOX(&nms_cuda));
    m.impl("match_boxes", TORCH_BOX(&match_boxes_cuda));
    m.impl("match_anchors", TORCH_BOX(&match_anchors_cuda));
    m.impl("roi_align", TORCH_BOX(&roi_align_cuda));
    m.impl("roi_align_backward", TORCH_BOX(&roi_align_backward_cuda));
    m.impl("crop_and_resize", TORCH_BOX(&crop_and_resize_cuda));
    m.impl("crop_and_resize_backward", TORCH_BOX(&crop_and_resize_backward_cuda));
    m.impl("sample_masks", TORCH_BOX(&sample_masks_cuda));
    m.impl("paste_masks", TORCH_BOX(&paste_masks_cuda));
    m.impl("warp_masks", TORCH_BOX(&warp_masks_cuda));
    m.impl("measure_masks", TORCH_BOX(&measure_masks_cuda));
    m.impl("pick_masks", TORCH_BOX(&pick_masks_cuda));
    m.impl("mask_iou", TORCH_BOX(&mask_iou_cuda));
    m.impl("label_image", TORCH_BOX(&label_image_cuda));
    m.impl("masks_from_label_image", TORCH_BOX(&masks_from_label_image_cuda));
    m.impl("warp_image", TORCH_BOX(&warp_image_cuda));
    m.impl("encode_rle", TORCH_BOX(&encode_rle_cuda));
    m.impl("decode_rle", TORCH_BOX(&decode_rle_cuda));
}
