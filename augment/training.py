"""Construction of the augmentation of training samples from the options."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from augment.config import AugmentConfig
from augment.libraries.adapters import from_text
from augment.mixing import CopyPaste, Mosaic, SampleSource
from augment.photometric import GaussianNoise, OnLevels, RandomBlur, RandomInvert, RandomLight
from augment.transforms import (
    Compose,
    MatchSizes,
    RandomAffine,
    RandomCrop,
    RandomFlip,
    RandomRotation,
    RandomScale,
    Transform,
    check_range,
)
from maskrcnn.config import UserError
from maskrcnn.structures.edges import Edges
from maskrcnn.structures.pixels import Levels

MIN_CROP_SIZE = 8  # px: in smaller crops, nearly all objects are cut and ignored, so there is nothing to learn


def make_training_transform(
    config: AugmentConfig, source: SampleSource | None = None, levels: Levels | None = None
) -> Compose:
    """Make the augmentation of training samples from the options.

    The order is: mosaic; copy-paste (from `source`, or from the image itself); geometric transforms; light, inversion,
    blur and noise; augmenters of other libraries.

    Args:
        config: options.
        source: samples to draw from; required for mosaics.
        levels: gray levels of images with more than 8 bits, the range that light, noise and augmenters of other
            libraries refer to.

    Returns:
        The transform.

    Raises:
        UserError: If an option is invalid, or a mosaic has no `source`; names the option.
    """
    edges = Edges(config.pad_mode, config.truncated_objects, config.min_visible_fraction)
    pixel_steps = [*_make_photometric(config), *(from_text(text) for text in config.library_transforms)]
    if levels is not None:
        pixel_steps = [OnLevels(step, levels) for step in pixel_steps]
    return Compose((*_make_mixing(config, source, edges), *_make_geometric(config), *pixel_steps), edges)


def _make_mixing(config: AugmentConfig, source: SampleSource | None, edges: Edges) -> Iterator[Transform]:
    if config.mosaic:
        if source is None:
            raise UserError("mosaic: requires other images to draw from")
        yield Mosaic(source, config.mosaic, edges)
    if config.copy_paste:
        numbers = (config.copy_paste_overlap, config.copy_paste_feather)
        yield _make_step("copy_paste", CopyPaste, config.copy_paste, source, *numbers, edges)


def _make_geometric(config: AugmentConfig) -> Iterator[Transform]:
    if config.match_sizes:
        yield _make_step("match_sizes", MatchSizes, config.match_sizes)
    if config.scale_range or config.scale_x_range or config.scale_y_range:
        yield _make_scale(config)
    size = _parse_crop_size(config.crop_size)
    if size is not None:
        yield RandomCrop(size, config.crop_border, config.object_crop_fraction)
    if config.rotation_degrees:
        yield RandomRotation(config.rotation_degrees)
    if config.affine_std:
        yield _make_step("affine_std", RandomAffine, config.affine_std)
    if config.hflip or config.vflip or config.transpose:
        yield RandomFlip(config.hflip, config.vflip, config.transpose)


def _make_scale(config: AugmentConfig) -> Transform:
    ranges = {
        "scale_u_range": config.scale_range,
        "scale_x_range": config.scale_x_range,
        "scale_y_range": config.scale_y_range,
    }
    try:
        for name, values in ranges.items():
            check_range(name, values)
    except ValueError as error:
        raise UserError(str(error)) from error
    return RandomScale(*ranges.values())


def _make_photometric(config: AugmentConfig) -> Iterator[Transform]:
    if config.brightness_factor_std or config.brightness_offset_std:
        yield _make_step(
            "light_scl_std, light_off_std", RandomLight, config.brightness_factor_std, config.brightness_offset_std
        )
    if config.invert == "random":
        yield RandomInvert()
    if config.blur_sigma:
        yield _make_step("blur", RandomBlur, config.blur_sigma)
    if config.noise_std:
        yield _make_step("gaussian_noise", GaussianNoise, config.noise_std)


def _make_step(settings: str, make: Callable[..., Transform], *values: Any) -> Transform:
    """Make a transform; a `ValueError` becomes a `UserError` that starts with the names of the options."""
    try:
        return make(*values)
    except ValueError as error:
        raise UserError(f"{settings}: {error}") from error


def _parse_crop_size(fixed_size: Sequence[int]) -> tuple[int, int] | None:
    """Return the height and width of crops, or None for no crop."""
    if tuple(fixed_size) in ((0,), (0, 0)):
        return None
    if len(fixed_size) not in (1, 2) or min(fixed_size) < 1:
        given = ",".join(map(str, fixed_size))
        raise UserError(f"fixed_size {given}: invalid size; give one number, height and width, or 0 for no crop")
    if min(fixed_size) < MIN_CROP_SIZE:
        raise UserError(
            f"fixed_size: crops of {min(fixed_size)} pixels contain no object; use at least {MIN_CROP_SIZE}"
        )
    return fixed_size[0], fixed_size[-1]
