"""RoIAlign over a pyramid, and TensorFlow's crop_and_resize."""

from collections.abc import Sequence

from torch import Tensor

from maskrcnn.ops import reference
from maskrcnn.ops._native import native
from maskrcnn.ops.checks import check_boxes, check_like, check_positive


def roi_align(
    features: Sequence[Tensor],
    boxes: Tensor,
    images: Tensor,
    levels: Tensor,
    strides: Sequence[float],
    output_size: int | Sequence[int],
    sampling_ratio: int = 0,
    aligned: bool = True,
) -> Tensor:
    """Pool each RoI from its image and its level; all levels and images in one call.

    Args:
        features: for each level `[B, C, H_l, W_l]`, float32, float64, bfloat16 or float16; channels-last is fastest.
        boxes: float `[K, 4]`, xyxy in pixels of the image, finite; rounded to float32, also with float64 features.
        images: int64 `[K]` in 0..B-1.
        levels: int64 `[K]`, index into `features`.
        strides: for each level the pixels of the image per cell of the feature map.
        output_size: (R, S) rows and columns of bins, or one number for both.
        sampling_ratio: samples in each bin along each axis; 0: as many as the bin has cells, rounded up, so that an
            empty or inverted box gives 0 if aligned (as in torchvision and Detectron2).
        aligned: half-pixel correction (Detectron2's `aligned=True`); False is the original of the paper.

    Returns:
        `[K, C, R, S]`, dtype of the features, channels-last. Differentiable in the features, not in the boxes: with the
        native core any number of times; the plain PyTorch fallback raises NotImplementedError for second derivatives.

    Raises:
        ValueError, RuntimeError: shapes, types or devices that do not belong together, an index out of range, a box
            that is not finite.

    Source: He et al., Mask R-CNN, arXiv 1703.06870, section 3.
    """
    if len(features) != len(strides) or not features:
        raise ValueError(f"strides must name one number for each of {len(features)} levels, got {len(strides)}")
    check_boxes(boxes=boxes)
    check_like(boxes, images=images, levels=levels)
    sizes = [output_size] if isinstance(output_size, int) else [int(size) for size in output_size]
    if len(sizes) > 2 or not sizes:
        raise ValueError(f"output_size must be one or two numbers, got {sizes}")
    for size in sizes:
        check_positive(output_size=size)
    check_positive(**{f"stride {i}": stride for i, stride in enumerate(strides)})
    if sampling_ratio < 0:
        raise ValueError(f"sampling_ratio must not be negative, got {sampling_ratio}")
    pooled: Tensor = native(reference.roi_align, boxes.device)(
        [_channels_last(feature, boxes) for feature in features],
        boxes.float().contiguous(),
        images.long().contiguous(),
        levels.long().contiguous(),
        [float(stride) for stride in strides],
        sizes if len(sizes) == 2 else sizes[0],
        sampling_ratio,
        aligned,
    )
    return pooled.permute(0, 3, 1, 2)


def crop_and_resize(
    features: Tensor, boxes: Tensor, images: Tensor, output_size: int, extrapolation_value: float = 0.0
) -> Tensor:
    """TensorFlow's `crop_and_resize`: one bilinear sample a bin, corners on corners. Matterport's models need it.

    Args:
        features: `[B, C, H, W]`, float32, float64, bfloat16 or float16.
        boxes: float `[K, 4]`, x1 y1 x2 y2 where 0 is the centre of the first cell and 1 that of the last; finite;
            rounded to float32.
            (TensorFlow orders them y1 x1 y2 x2.)
        images: int64 `[K]` in 0..B-1.
        output_size: S; with 1, the sample is the middle of the box.
        extrapolation_value: what samples outside the map give.

    Returns:
        `[K, C, S, S]`, dtype of the features, channels-last. Differentiable in the features, not in the boxes: with the
        native core any number of times; the plain PyTorch fallback raises NotImplementedError for second derivatives.

    Raises:
        ValueError, RuntimeError: as `roi_align`.

    Source: https://www.tensorflow.org/api_docs/python/tf/image/crop_and_resize
    """
    check_boxes(boxes=boxes)
    check_like(boxes, images=images)
    check_positive(output_size=output_size)
    pooled: Tensor = native(reference.crop_and_resize, boxes.device)(
        _channels_last(features, boxes),
        boxes.float().contiguous(),
        images.long().contiguous(),
        output_size,
        float(extrapolation_value),
    )
    return pooled.permute(0, 3, 1, 2)


def _channels_last(feature: Tensor, boxes: Tensor) -> Tensor:
    """Convert `[B, C, H, W]` to contiguous `[B, H, W, C]`, without a copy if the memory layout is channels-last."""
    if feature.ndim != 4:
        raise ValueError(f"features must be [B, C, H, W], got {list(feature.shape)}")
    if feature.device != boxes.device:
        raise ValueError(f"features must be on {boxes.device} like boxes, got {feature.device}")
    return feature.permute(0, 2, 3, 1).contiguous()
