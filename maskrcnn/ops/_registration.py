"""Registration of fake implementations (shapes of results, for `torch.compile`) and gradients of native operations."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_Three = tuple[Tensor, Tensor, Tensor]


def _count() -> int | torch.SymInt:
    """Return a size that only the kernel knows."""
    return torch.library.get_ctx().new_dynamic_size()


def _masks(like: Tensor, count: int | torch.SymInt) -> _Three:
    windows = like.new_empty(count, 4, dtype=torch.int32)
    offsets = like.new_empty(count + 1, dtype=torch.int64)
    return windows, offsets, like.new_empty(_count(), dtype=torch.uint8)


def _matches(like: Tensor, count: int | torch.SymInt) -> _Three:
    index, forced = like.new_empty(count, dtype=torch.int64), like.new_empty(count, dtype=torch.bool)
    return index, like.new_empty(count, dtype=torch.float32), forced


def _nms(boxes: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    return boxes.new_empty(boxes.shape[0], dtype=torch.bool)


def _match_boxes(priors: Tensor, targets: Tensor, min_iou: float, ties: int) -> _Three:
    return _matches(priors, priors.shape[0])


def _match_anchors(sizes: Tensor, grids: Tensor, cells: Tensor, targets: Tensor, min_iou: float, ties: int) -> _Three:
    return _matches(targets, _count())


def _roi_align(features: Sequence[Tensor], boxes: Tensor, *settings: Any) -> Tensor:
    height, width = settings[3]
    return features[0].new_empty(boxes.shape[0], height, width, features[0].shape[3])


def _sums(feature: Tensor) -> Tensor:
    """Make gradients of features, which are accumulated in float32, or float64 for float64."""
    return torch.empty_like(feature, dtype=torch.float64 if feature.dtype == torch.float64 else torch.float32)


def _roi_align_backward(grad: Tensor, features: Sequence[Tensor], *settings: Any) -> list[Tensor]:
    return [_sums(feature) for feature in features]


def _crop_and_resize(features: Tensor, boxes: Tensor, images: Tensor, size: int, extrapolation_value: float) -> Tensor:
    return features.new_empty(boxes.shape[0], size, size, features.shape[3])


def _crop_and_resize_backward(grad: Tensor, features: Tensor, boxes: Tensor, images: Tensor, size: int) -> Tensor:
    return _sums(features)


def _sample_masks(
    windows: Tensor,
    offsets: Tensor,
    data: Tensor,
    height: int,
    width: int,
    boxes: Tensor,
    index: Tensor,
    size: int,
    *settings: Any,
) -> Tensor:
    return boxes.new_empty(boxes.shape[0], size, size)


def _paste_masks(probabilities: Tensor, boxes: Tensor, new_windows: Tensor, new_offsets: Tensor) -> Tensor:
    return new_windows.new_empty(_count(), dtype=torch.uint8)


def _warp_masks(windows: Tensor, offsets: Tensor, data: Tensor, *settings: Any) -> Tensor:
    return data.new_empty(_count())


def _measure_masks(windows: Tensor, offsets: Tensor, data: Tensor) -> tuple[Tensor, Tensor]:
    return windows.new_empty(windows.shape[0], dtype=torch.int64), torch.empty_like(windows)


def _pick_masks(windows: Tensor, offsets: Tensor, data: Tensor, index: Tensor) -> _Three:
    return _masks(windows, index.shape[0])


def _mask_iou(windows1: Tensor, *others: Tensor) -> _Three:
    pairs = _count()
    rows, columns = (windows1.new_empty(pairs, dtype=torch.int64) for _ in range(2))
    return rows, columns, windows1.new_empty(pairs, dtype=torch.float32)


def _label_image(
    windows: Tensor, offsets: Tensor, data: Tensor, height: int, width: int, min_visible_fraction: float
) -> tuple[Tensor, Tensor]:
    return windows.new_empty(height, width), windows.new_empty(windows.shape[0], dtype=torch.bool)


def _masks_from_label_image(labels: Tensor, ids: Tensor) -> _Three:
    return _masks(labels, ids.shape[0])


def _warp_image(image: Tensor, matrix: Tensor, height: int, width: int, border: int, samples: int) -> Tensor:
    return image.new_empty(image.shape[0], height, width)


def _encode_rle(windows: Tensor, offsets: Tensor, data: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    return data.new_empty(_count()), torch.empty_like(offsets)


def _decode_rle(text: Tensor, text_offsets: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return *_masks(text, text_offsets.shape[0] - 1), text_offsets.new_empty(())


FAKES = (
    _nms, _match_boxes, _match_anchors, _roi_align, _roi_align_backward, _crop_and_resize, _crop_and_resize_backward,
    _sample_masks, _paste_masks, _warp_masks, _measure_masks, _pick_masks, _mask_iou, _label_image,
    _masks_from_label_image, _warp_image, _encode_rle, _decode_rle,
)  # fmt: skip


def _save_roi_align(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, boxes, images, levels, *ctx.settings = inputs
    ctx.save_for_backward(boxes, images, levels, *features)


def _backward_roi_align(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    boxes, images, levels, *features = ctx.saved_tensors
    backward = torch.ops.maskrcnn.roi_align_backward
    sums = backward(grad.contiguous(), features, boxes, images, levels, *ctx.settings)
    grads = [total.to(feature.dtype) for total, feature in zip(sums, features, strict=True)]
    return grads, None, None, None, *(None for _ in ctx.settings)


def _save_crop_and_resize(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.size, _ = inputs
    ctx.save_for_backward(*tensors)


def _backward_crop_and_resize(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    features, boxes, images = ctx.saved_tensors
    total = torch.ops.maskrcnn.crop_and_resize_backward(grad.contiguous(), features, boxes, images, ctx.size)
    return total.to(features.dtype), None, None, None, None


# Pooling is linear in the features, so the backward pass is linear in the incoming gradient, and its own backward pass
# is pooling again: derivatives of any order.


def _save_roi_align_backward(ctx: Any, inputs: tuple[Any, ...], output: Sequence[Tensor]) -> None:
    grad, features, boxes, images, levels, *ctx.settings = inputs
    ctx.dtype, ctx.count = grad.dtype, len(features)
    ctx.save_for_backward(boxes, images, levels)


def _backward_roi_align_backward(ctx: Any, grads: Sequence[Tensor]) -> tuple[Any, ...]:
    maps = [grad.contiguous() for grad in grads]
    pooled = torch.ops.maskrcnn.roi_align(maps, *ctx.saved_tensors, *ctx.settings)
    return pooled.to(ctx.dtype), [None] * ctx.count, None, None, None, *(None for _ in ctx.settings)


def _save_crop_and_resize_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, _, boxes, images, ctx.size = inputs
    ctx.dtype = grad.dtype
    ctx.save_for_backward(boxes, images)


def _backward_crop_and_resize_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    pooled = torch.ops.maskrcnn.crop_and_resize(grad.contiguous(), *ctx.saved_tensors, ctx.size, 0.0)
    return pooled.to(ctx.dtype), None, None, None, None


def register() -> None:
    """Register fake implementations and gradients."""
    for fake in FAKES:
        torch.library.register_fake(f"maskrcnn::{fake.__name__[1:]}", fake)
    for name, backward, save in (
        ("roi_align", _backward_roi_align, _save_roi_align),
        ("crop_and_resize", _backward_crop_and_resize, _save_crop_and_resize),
        ("roi_align_backward", _backward_roi_align_backward, _save_roi_align_backward),
        ("crop_and_resize_backward", _backward_crop_and_resize_backward, _save_crop_and_resize_backward),
    ):
        torch.library.register_autograd(f"maskrcnn::{name}", backward, setup_context=save)
