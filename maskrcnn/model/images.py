"""From a list of images to one batch and back: standardise, resize, pad."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from maskrcnn.config import UserError
from maskrcnn.model.config import ImageConfig
from maskrcnn.structures.boxes import scale_boxes
from maskrcnn.structures.instances import Instances

FULL_RANGE = {torch.uint8: 255.0, torch.uint16: 65535.0}  # the value of white
OVERSHOOT = 0.5
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Batch(NamedTuple):
    """pixels: `[B, 3, H, W]`, zero padded at right and bottom; sizes: (h, w) of each image in it."""

    pixels: Tensor
    sizes: list[tuple[int, int]]

    @property
    def padded(self) -> tuple[int, int]:
        return int(self.pixels.shape[-2]), int(self.pixels.shape[-1])


def prepare_image(image: Tensor, config: ImageConfig) -> Tensor:
    """An image `[3, H, W]` → standardised, resized float32.

    Args:
        image: uint8 or uint16, of which the full range is meant, or floating-point in [0, 1].

    Raises:
        UserError: another shape or type.
    """
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise UserError(f"an image must be [3, H, W], got {list(image.shape)}")
    if image.dtype not in FULL_RANGE and not image.is_floating_point():
        raise UserError(
            f"an image must be uint8, uint16 or floating-point in [0, 1], got {image.dtype}; convert it, for example "
            "with image.to(torch.uint8)"
        )
    image = image.float() / FULL_RANGE.get(image.dtype, 1.0)
    image = standardise(image, config.standardisation)
    height, width = resized(image_size(image), config)
    if (height, width) == image_size(image):
        return image
    return F.interpolate(image[None], size=(height, width), mode="bilinear", align_corners=False)[0]


def check_values(image: Tensor) -> None:
    """Reject a floating-point image whose values are clearly not in [0, 1]; on a GPU this waits for it.

    Resampling and filters may overshoot, so half of the range more is accepted on either side.

    Raises:
        UserError: NaN, or values beyond -0.5 to 1.5.
    """
    if not image.is_floating_point() or image.numel() == 0:
        return
    low, high = torch.stack(image.detach().aminmax()).tolist()
    if low != low:  # NaN propagates
        raise UserError("an image has NaN pixels; replace them")
    if low < -OVERSHOOT or high > 1 + OVERSHOOT:
        raise UserError(
            f"a floating-point image must be in [0, 1], got {low:g} to {high:g}; divide it by the largest value of its "
            "file type, or pass it as uint8 or uint16"
        )


def image_size(image: Tensor) -> tuple[int, int]:
    return int(image.shape[-2]), int(image.shape[-1])


def standardise(image: Tensor, how: str) -> Tensor:
    """float `[3, H, W]` in [0, 1] → what the network sees; statistics are those of the image alone."""
    if how == "zerocentre":
        return image * 2 - 1
    if how == "imagenet":
        mean, std = image.new_tensor(IMAGENET_MEAN), image.new_tensor(IMAGENET_STD)
        return (image - mean[:, None, None]) / std[:, None, None]
    if how in ("zeromean", "std"):
        image = image - image.mean(dim=(1, 2), keepdim=True)
    if how == "std":
        # One grey level: below it an image is flat and its noise not worth amplifying.
        image = image / image.std(unbiased=False).clamp(min=1 / 255)
    return image


def resized(size: tuple[int, int], config: ImageConfig) -> tuple[int, int]:
    """(H, W) of the image that the network sees."""
    if config.resize == "none":
        return size
    scale = config.max_size / max(size)
    if config.resize == "minmax":
        scale = min(config.min_size / min(size), scale)
    return max(1, int(size[0] * scale)), max(1, int(size[1] * scale))


def resize_instances(instances: Instances, size: tuple[int, int]) -> Instances:
    """Truths in the frame of the resized image; masks by nearest pixel, as torchvision does it."""
    if tuple(instances.size) == size:
        return instances
    boxes = scale_boxes(instances.boxes, size[1] / instances.size[1], size[0] / instances.size[0])
    masks = None if instances.masks is None else instances.masks.resize(size)
    return Instances(size, boxes, instances.labels, instances.scores, masks, instances.ignore, instances.ids)


def pad_images(images: Sequence[Tensor], multiple: int, least: int = 1) -> Batch:
    """One batch whose sides are the next multiple of the largest image's, at least `least` multiples."""
    sizes = [image_size(image) for image in images]
    height, width = (max(least, -(-max(size[axis] for size in sizes) // multiple)) * multiple for axis in (0, 1))
    pixels = images[0].new_zeros(len(images), 3, height, width)
    for into, image, (h, w) in zip(pixels, images, sizes, strict=True):
        into[:, :h, :w] = image
    return Batch(pixels.contiguous(memory_format=torch.channels_last), sizes)


def group_by_padded_size(images: Sequence[Tensor], multiple: int, least: int = 1) -> list[list[int]]:
    """Indices of the images that share a padded size (see `pad_images`): what one forward pass takes."""
    groups: dict[tuple[int, int], list[int]] = {}
    for i, image in enumerate(images):
        height, width = image_size(image)
        padded = max(least, -(-height // multiple)), max(least, -(-width // multiple))
        groups.setdefault(padded, []).append(i)
    return list(groups.values())
