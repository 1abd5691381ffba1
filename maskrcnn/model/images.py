"""From a list of images to one batch and back: standardise, resize, pad."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from maskrcnn.model.config import ImageConfig
from maskrcnn.structures.boxes import scale_boxes
from maskrcnn.structures.instances import Instances

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Batch(NamedTuple):
    """pixels: `[B, 3, H, W]`, zero padded at right and bottom; sizes: (h, w) of each image in it."""

    pixels: Tensor
    sizes: list[tuple[int, int]]

    @property
    def padded(self) -> tuple[int, int]:
        return int(self.pixels.shape[-2]), int(self.pixels.shape[-1])


def prepare_image(image: Tensor, config: ImageConfig) -> Tensor:
    """uint8 or float in [0, 1] `[3, H, W]` → standardised, resized float32.

    Raises:
        ValueError: another shape.
    """
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise ValueError(f"an image must be [3, H, W], got {list(image.shape)}")
    image = image.float() / 255 if image.dtype == torch.uint8 else image.float()
    image = standardise(image, config.standardisation)
    height, width = resized(image_size(image), config)
    if (height, width) == image_size(image):
        return image
    return F.interpolate(image[None], size=(height, width), mode="bilinear", align_corners=False)[0]


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
