"""Preparation of images for the network: standardization, resizing, and padding to batches."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from maskrcnn.config import UserError
from maskrcnn.model.config import ImageConfig
from maskrcnn.structures.boxes import scale_boxes
from maskrcnn.structures.instances import Instances

FULL_RANGE = {torch.uint8: 255.0, torch.uint16: 65535.0}  # maximum value of the dtype
MAX_OVERSHOOT = 0.5  # beyond [0, 1], due to resampling and filters
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PaddedBatch(NamedTuple):
    """Images of one forward pass.

    Attributes:
        pixels: `[B, 3, H, W]`, zero-padded at the right and at the bottom.
        sizes: (h, w) of each image without padding.
    """

    pixels: Tensor
    sizes: list[tuple[int, int]]

    @property
    def padded(self) -> tuple[int, int]:
        """Padded size (H, W)."""
        return int(self.pixels.shape[-2]), int(self.pixels.shape[-1])


def prepare_image(image: Tensor, config: ImageConfig) -> Tensor:
    """Standardize and resize an image; returns float32 `[3, h, w]`.

    Args:
        image: `[3, H, W]`, uint8 or uint16 with the full range of the dtype, or floating-point in [0, 1].
        config: options.

    Raises:
        UserError: If the image has another shape or dtype.
    """
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise UserError(f"an image must be [3, H, W], got {list(image.shape)}")
    if image.dtype not in FULL_RANGE and not image.is_floating_point():
        raise UserError(
            f"an image must be uint8, uint16 or floating-point in [0, 1], got {image.dtype}; convert it, for example "
            "with image.to(torch.uint8)"
        )
    image = image.float() / FULL_RANGE.get(image.dtype, 1.0)
    image = standardize(image, config.standardisation)
    height, width = compute_input_size(image_size(image), config)
    if (height, width) == image_size(image):
        return image
    return F.interpolate(image[None], size=(height, width), mode="bilinear", align_corners=False)[0]


def check_values(image: Tensor) -> None:
    """Check that the values of a floating-point image are about in [0, 1]; synchronizes with a GPU.

    Values in [-0.5, 1.5] are accepted, because resampling and filters may overshoot.

    Raises:
        UserError: If the image contains NaN or values out of range.
    """
    if not image.is_floating_point() or image.numel() == 0:
        return
    low, high = torch.stack(image.detach().aminmax()).tolist()
    if low != low:  # NaN propagates
        raise UserError("an image has NaN pixels; replace them")
    if low < -MAX_OVERSHOOT or high > 1 + MAX_OVERSHOOT:
        raise UserError(
            f"a floating-point image must be in [0, 1], got {low:g} to {high:g}; divide it by the maximum value of its "
            "file type, or pass it as uint8 or uint16"
        )


def image_size(image: Tensor) -> tuple[int, int]:
    """Return the size (H, W) of an image."""
    return int(image.shape[-2]), int(image.shape[-1])


def standardize(image: Tensor, how: str) -> Tensor:
    """Standardize the values of an image; statistics are computed per image.

    Args:
        image: float `[3, H, W]` in [0, 1].
        how: one of `maskrcnn.model.config.STANDARDIZATIONS`.
    """
    if how == "zerocentre":
        return image * 2 - 1
    if how == "imagenet":
        mean, std = image.new_tensor(IMAGENET_MEAN), image.new_tensor(IMAGENET_STD)
        return (image - mean[:, None, None]) / std[:, None, None]
    if how in ("zeromean", "std"):
        image = image - image.mean(dim=(1, 2), keepdim=True)
    if how == "std":
        # If the standard deviation is below one gray level, the image is flat, and its noise should not be amplified.
        image = image / image.std(unbiased=False).clamp(min=1 / 255)
    return image


def compute_input_size(size: tuple[int, int], config: ImageConfig) -> tuple[int, int]:
    """Compute the size (H, W) of the network's input for an image of `size`."""
    if config.resize == "none":
        return size
    scale = config.max_size / max(size)
    if config.resize == "minmax":
        scale = min(config.min_size / min(size), scale)
    return max(1, int(size[0] * scale)), max(1, int(size[1] * scale))


def resize_instances(instances: Instances, size: tuple[int, int]) -> Instances:
    """Resize targets to an image of `size` (H, W); masks with nearest-neighbor interpolation, as in torchvision."""
    if tuple(instances.size) == size:
        return instances
    boxes = scale_boxes(instances.boxes, size[1] / instances.size[1], size[0] / instances.size[0])
    masks = None if instances.masks is None else instances.masks.resize(size)
    return Instances(size, boxes, instances.labels, instances.scores, masks, instances.ignore, instances.ids)


def pad_images(images: Sequence[Tensor], multiple: int, min_multiples: int = 1) -> PaddedBatch:
    """Pad images to a batch; its sides are multiples of `multiple` pixels, at least `min_multiples` of them."""
    sizes = [image_size(image) for image in images]
    height, width = (
        max(min_multiples, -(-max(size[axis] for size in sizes) // multiple)) * multiple for axis in (0, 1)
    )
    pixels = images[0].new_zeros(len(images), 3, height, width)
    for into, image, (h, w) in zip(pixels, images, sizes, strict=True):
        into[:, :h, :w] = image
    return PaddedBatch(pixels.contiguous(memory_format=torch.channels_last), sizes)


def group_by_padded_size(images: Sequence[Tensor], multiple: int, min_multiples: int = 1) -> list[list[int]]:
    """Group images (by index) that have the same padded size (see `pad_images`), for one forward pass each."""
    groups: dict[tuple[int, int], list[int]] = {}
    for i, image in enumerate(images):
        height, width = image_size(image)
        padded = max(min_multiples, -(-height // multiple)), max(min_multiples, -(-width // multiple))
        groups.setdefault(padded, []).append(i)
    return list(groups.values())
