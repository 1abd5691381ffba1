"""Preparation of images for the network: standardization, resizing, and padding to batches."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from maskrcnn.config import UserError
from maskrcnn.model.config import ImageConfig
from maskrcnn.structures.boxes import scale_boxes
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.pixels import Levels, to_unit

FULL_RANGE = {torch.uint8: 255.0, torch.uint16: 65535.0}  # maximum value of the dtype
MAX_OVERSHOOT = 0.5  # beyond [0, 1], due to resampling and filters
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PERCENTILES = (1.0, 99.8)  # as StarDist and CSBDeep


class PaddedBatch(NamedTuple):
    """Images of one forward pass.

    Attributes:
        pixels: `[B, C, H, W]`, zero-padded at the right and at the bottom.
        sizes: (h, w) of each image without padding.
    """

    pixels: Tensor
    sizes: list[tuple[int, int]]

    @property
    def padded(self) -> tuple[int, int]:
        """Padded size (H, W)."""
        return int(self.pixels.shape[-2]), int(self.pixels.shape[-1])


def prepare_image(image: Tensor, config: ImageConfig, with_values: bool = False) -> Tensor:
    """Standardize and resize an image; returns float32 `[C, h, w]`.

    Args:
        image: `[C, H, W]` with C = `config.channels`, uint8 or uint16 with the full range of the dtype, or
            floating-point in [0, 1]; with gray levels, uint16 and floating-point values as stored.
        config: options.
        with_values: whether to check the values, too, which synchronizes with a GPU.

    Raises:
        UserError: If the image has another shape or dtype, or values out of range.
    """
    check_image(image, config.channels)
    if with_values:
        check_values(image, config.levels)
    image = standardize(scale_image(image, config.levels), config, compute_gray_level(image, config.levels))
    height, width = compute_input_size(image_size(image), config)
    if (height, width) == image_size(image):
        return image
    return F.interpolate(image[None], size=(height, width), mode="bilinear", align_corners=False)[0]


def check_list(images: Sequence[Tensor]) -> None:
    """Check that images are a list of tensors, or one tensor of a batch.

    Raises:
        UserError: For a single image, or another type.
    """
    if isinstance(images, Tensor) and images.ndim == 4:
        return
    if hasattr(images, "shape"):
        raise UserError(f"images must be a list of tensors [C, H, W], got one image {list(images.shape)}; give [image]")
    if not isinstance(images, Sequence) or isinstance(images, str | bytes):
        raise UserError(f"images must be a list of tensors [C, H, W], got {type(images).__name__}")


def check_image(image: Tensor, channels: int) -> None:
    """Check the type, shape and dtype of an image.

    Raises:
        UserError: If it is not a tensor `[channels, H, W]` of a supported dtype.
    """
    if not isinstance(image, Tensor):
        hint = ""
        if hasattr(image, "__array__"):
            hint = "; torch.from_numpy(image).permute(2, 0, 1) converts a NumPy array [H, W, C]"
        name = f"{type(image).__module__}.{type(image).__name__}".removeprefix("builtins.")
        raise UserError(f"an image must be a tensor [{channels}, H, W], got {name}{hint}")
    if image.ndim != 3 or image.shape[0] != channels or 0 in image.shape:
        hint = ""
        if image.ndim == 3 and image.shape[2] == channels:
            hint = "; image.permute(2, 0, 1) moves the channels to the front"
        elif image.ndim == 3 and image.shape[0] != channels and 0 not in image.shape:
            hint = f": the detector was built for {channels} channels (detector.image.channels)"
        raise UserError(f"an image must be [{channels}, H, W], got {list(image.shape)}{hint}")
    if image.dtype not in FULL_RANGE and not image.is_floating_point():
        raise UserError(
            f"an image must be uint8, uint16 or floating-point in [0, 1], got {image.dtype}; convert it, for example "
            "with image.to(torch.uint8)"
        )


def scale_image(image: Tensor, levels: Levels | None) -> Tensor:
    """Convert an image to float32 in [0, 1]: by its full range, or by gray levels if it has more than 8 bits."""
    if levels is None or image.dtype == torch.uint8:
        return image.float() / FULL_RANGE.get(image.dtype, 1.0)
    return to_unit(image, levels).clamp_(0, 1)


def compute_gray_level(image: Tensor, levels: Levels | None) -> float:
    """Return the step of the scaled values of an image: that of 8 or 16 bits, or of integers between gray levels."""
    if image.dtype == torch.uint8:
        return 1 / FULL_RANGE[torch.uint8]
    deep = 1 / FULL_RANGE[torch.uint16]
    return deep if levels is None or image.dtype != torch.uint16 else max(deep, 1 / (levels[1] - levels[0]))


def check_values(image: Tensor, levels: Levels | None = None) -> None:
    """Check that the values of a floating-point image are approximately in [0, 1]; synchronizes with a GPU.

    Values in [-0.5, 1.5] are accepted, because resampling and filters may overshoot. With gray levels, floats are
    stored values, some of which must be between the levels.

    Raises:
        UserError: If the image contains NaN or values out of range.
    """
    if not image.is_floating_point() or image.numel() == 0:
        return
    low, high = torch.stack(image.detach().aminmax()).tolist()
    if low != low:  # NaN propagates
        raise UserError("an image has NaN pixels; replace them")
    if levels is not None:
        if low > levels[1] or high < levels[0]:
            raise UserError(
                f"the values of a floating-point image, {low:g} to {high:g}, are all outside the gray levels of the "
                f"detector, {levels[0]:g} to {levels[1]:g}; pass values as they are stored in the files"
            )
        return
    if low < -MAX_OVERSHOOT or high > 1 + MAX_OVERSHOOT:
        raise UserError(
            f"a floating-point image must be in [0, 1], got {low:g} to {high:g}; divide it by the maximum value of its "
            "file type, or pass it as uint8 or uint16"
        )


def check_statistics(config: ImageConfig) -> None:
    """Check that there is one mean and one std for each channel if standardization uses them.

    Raises:
        UserError: If their numbers differ from that of the channels, or a std is 0.
    """
    if config.normalization != "dataset":
        return
    for name, values in (("mean", config.mean), ("std", config.std)):
        if len(values) != config.channels:
            raise UserError(
                f"detector.image.{name} has {len(values)} values, but the images have {config.channels} channels; "
                "normalization = dataset needs one for each, as maskrcnn.model.images.measure_statistics returns them"
            )
    if min(config.std) <= 0:
        raise UserError(f"detector.image.std = {list(config.std)}: must be above 0")


def image_size(image: Tensor) -> tuple[int, int]:
    """Return the size (H, W) of an image."""
    return int(image.shape[-2]), int(image.shape[-1])


def standardize(image: Tensor, config: ImageConfig, gray_level: float = 1 / 255) -> Tensor:
    """Standardize the values of an image; statistics are of the image itself, or those of `config` for "dataset".

    Args:
        image: float `[C, H, W]` in [0, 1].
        config: options; `normalization` is one of `maskrcnn.model.config.STANDARDIZATIONS`.
        gray_level: step of the image's values. An image or channel that varies less than that is flat, and its noise is
            not amplified.
    """
    how = config.normalization
    if how == "zerocentre":
        return image * 2 - 1
    if how in ("imagenet", "dataset"):
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if how == "imagenet" else (config.mean, config.std)
        if how == "imagenet" and len(image) != 3:  # those of gray images
            mean, std = ((sum(values) / 3,) * len(image) for values in (IMAGENET_MEAN, IMAGENET_STD))
        return (image - image.new_tensor(mean)[:, None, None]) / image.new_tensor(std)[:, None, None]
    if how == "percentile":
        low, high = compute_percentiles(image)
        return (image - low) / (high - low).clamp(min=gray_level)
    if how in ("zeromean", "std", "image"):
        image = image - image.mean(dim=(1, 2), keepdim=True)
    if how == "std":
        image = image / image.std(unbiased=False).clamp(min=gray_level)
    if how == "image":
        image = image / image.std(dim=(1, 2), keepdim=True, unbiased=False).clamp(min=gray_level)
    return image


def compute_percentiles(image: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values of `[C, H, W]` at the ranks nearest to both `PERCENTILES`, per channel, `[C, 1, 1]` each."""
    values = image.flatten(1)
    low, high = (1 + round(percentile / 100 * (values.shape[1] - 1)) for percentile in PERCENTILES)
    return values.kthvalue(low).values[:, None, None], values.kthvalue(high).values[:, None, None]


def measure_statistics(
    images: Iterable[Tensor], levels: Levels | None = None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Measure the mean and standard deviation of each channel over all pixels, for normalization "dataset".

    Args:
        images: `[C, H, W]` each, uint8, uint16, or floating-point in [0, 1].
        levels: gray levels of images with more than 8 bits, if the detector has them.

    Returns:
        `mean` and `std` of `ImageConfig`; a std is at least one gray level of 16 bits.

    Raises:
        UserError: If there are no images, or their channels differ; names the first that differs.
    """
    sums: list[Tensor] = []
    for number, image in enumerate(images):
        values = scale_image(image, levels).double().flatten(1)
        sums.append(torch.stack([torch.full((len(values),), values.shape[1]), values.sum(1), values.square().sum(1)]))
        if sums[-1].shape != sums[0].shape:
            raise UserError(f"image {number} has {len(values)} channels, but image 0 has {sums[0].shape[1]}")
    if not sums:
        raise UserError("there are no images to measure the mean and standard deviation of")
    count, total, squares = torch.stack(sums).sum(dim=0)
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=FULL_RANGE[torch.uint16] ** -2).sqrt()
    return tuple(mean.tolist()), tuple(std.tolist())


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
    pixels = images[0].new_zeros(len(images), len(images[0]), height, width)
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
