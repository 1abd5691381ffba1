"""RoIAlign over a pyramid."""

from collections.abc import Sequence

from torch import Tensor

from maskrcnn.ops import reference


def roi_align(
    features: Sequence[Tensor],
    boxes: Tensor,
    images: Tensor,
    levels: Tensor,
    strides: Sequence[float],
    output_size: int,
    sampling_ratio: int = 0,
    aligned: bool = True,
) -> Tensor:
    """Pool each RoI from its image and its level; all levels and images in one call.

    Args:
        features: for each level `[B, C, H_l, W_l]`.
        boxes: float `[K, 4]`, xyxy in pixels of the image.
        images: int64 `[K]` in 0..B-1.
        levels: int64 `[K]`, index into `features`.
        strides: for each level the pixels of the image per cell of the feature map.
        output_size: S.
        sampling_ratio: samples in each bin along each axis; 0: as many as the bin has cells, rounded up.
        aligned: half-pixel correction (Detectron2's `aligned=True`); False is the original of the paper.

    Returns:
        `[K, C, S, S]`, dtype of the features. Differentiable in the features.

    Source: He et al., Mask R-CNN, arXiv 1703.06870, section 3.
    """
    if len(features) != len(strides) or not features:
        raise ValueError(f"strides must name one number for each of {len(features)} levels, got {len(strides)}")
    for name, values in (("images", images), ("levels", levels)):
        if values.shape != boxes.shape[:1]:
            raise ValueError(f"{name} must be [{len(boxes)}] like boxes, got {list(values.shape)}")
    return reference.roi_align(features, boxes, images, levels, strides, output_size, sampling_ratio, aligned)
