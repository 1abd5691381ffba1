"""The augmentation of training samples that the settings describe."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from augment.config import AugmentConfig
from augment.geometry import Edges
from augment.libraries.adapters import from_text
from augment.mixing import CopyPaste, Mosaic, Source
from augment.photometric import GaussianNoise, RandomBlur, RandomInvert, RandomLight
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

LEAST_CROP = 8  # px: in less, nearly all objects are cut and ignored, and there is nothing to learn


def training_transform(config: AugmentConfig, source: Source | None = None) -> Compose:
    """Mosaic and pasted objects (from `source`, else from the image itself), then geometry, light, blur and noise, then
    other libraries' augmenters.

    Raises `UserError`, naming the setting, where one makes no sense, or for a mosaic without `source`.
    """
    edges = Edges(config.img_pad_mode, config.cut_objects, config.min_visible_fraction)
    steps = [*_mixing(config, source, edges), *_geometric(config), *_photometric(config)]
    steps += [from_text(text) for text in config.others]
    return Compose(tuple(steps), edges)


def _mixing(config: AugmentConfig, source: Source | None, edges: Edges) -> Iterator[Transform]:
    if config.mosaic:
        if source is None:
            raise UserError("mosaic: needs other images to draw from")
        yield Mosaic(source, config.mosaic, edges)
    if config.copy_paste:
        numbers = (config.copy_paste_overlap, config.copy_paste_feather)
        yield _named("copy_paste", CopyPaste, config.copy_paste, source, *numbers, edges)


def _geometric(config: AugmentConfig) -> Iterator[Transform]:
    if config.match_sizes:
        yield _named("match_sizes", MatchSizes, config.match_sizes)
    if config.scale_u_range or config.scale_x_range or config.scale_y_range:
        yield _scale(config)
    size = _crop_size(config.fixed_size)
    if size is not None:
        yield RandomCrop(size, config.crop_border, config.favour_small)
    if config.rot_range_mag:
        yield RandomRotation(config.rot_range_mag)
    if config.affine_std:
        yield _named("affine_std", RandomAffine, config.affine_std)
    if config.hflip or config.vflip or config.hvflip:
        yield RandomFlip(config.hflip, config.vflip, config.hvflip)


def _scale(config: AugmentConfig) -> Transform:
    ranges = {name: getattr(config, name) for name in ("scale_u_range", "scale_x_range", "scale_y_range")}
    try:
        for name, values in ranges.items():
            check_range(name, values)
    except ValueError as error:
        raise UserError(str(error)) from error
    return RandomScale(*ranges.values())


def _photometric(config: AugmentConfig) -> Iterator[Transform]:
    if config.light_scl_std or config.light_off_std:
        yield _named("light_scl_std, light_off_std", RandomLight, config.light_scl_std, config.light_off_std)
    if config.invert == "random":
        yield RandomInvert()
    if config.blur:
        yield _named("blur", RandomBlur, config.blur)
    if config.gaussian_noise:
        yield _named("gaussian_noise", GaussianNoise, config.gaussian_noise)


def _named(settings: str, make: Callable[..., Transform], *values: Any) -> Transform:
    """A step, or a `UserError` that begins with the settings it was made from."""
    try:
        return make(*values)
    except ValueError as error:
        raise UserError(f"{settings}: {error}") from error


def _crop_size(fixed_size: Sequence[int]) -> tuple[int, int] | None:
    """Height and width to crop to; None for sizes left alone."""
    if tuple(fixed_size) in ((0,), (0, 0)):
        return None
    if len(fixed_size) not in (1, 2) or min(fixed_size) < 1:
        given = ",".join(map(str, fixed_size))
        raise UserError(f"fixed_size {given}: is no size; give one number, height and width, or 0 for no crop")
    if min(fixed_size) < LEAST_CROP:
        raise UserError(f"fixed_size: crops of {min(fixed_size)} pixels hold no object; give at least {LEAST_CROP}")
    return fixed_size[0], fixed_size[-1]
