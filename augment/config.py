"""Options of the augmentation of training samples, and of test-time augmentation and tiles."""

from dataclasses import dataclass

from maskrcnn.config import option
from maskrcnn.structures.edges import CUTS, PAD_MODES


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of training samples, in this order."""

    mosaic: float = option(
        0.0,
        "fraction of training samples that are mosaics of four images",
        flag="mosaic",
        minimum=0.0,
        maximum=1.0,
    )
    copy_paste: int = option(
        0, "max. number of objects pasted from this or another image", flag="copy_paste", minimum=0
    )
    copy_paste_overlap: float = option(
        0.2,
        "max. fraction of a pasted object that overlaps others",
        flag="copy_paste_overlap",
        minimum=0.0,
        maximum=1.0,
    )
    copy_paste_feather: float = option(
        0.5,
        "sigma of the blending of pasted edges (px)",
        flag="copy_paste_feather",
        minimum=0.0,
        maximum=20.0,
    )
    match_sizes: tuple[float, ...] = option(
        (),
        "target sample of object sizes (sqrt of the area, px) that images are scaled to match",
        flag="match_sizes",
        minimum=0.1,
    )
    scale_range: tuple[float, ...] = option(
        (),
        "range of a random scale factor, for example 0.8:1.25",
        flag="scale_u_range",
        minimum=0.01,
        maximum=20.0,
        renamed="scale_u_range",
    )
    scale_x_range: tuple[float, ...] = option(
        (), "range of an additional scale factor in x", flag="scale_x_range", minimum=0.01, maximum=20.0
    )
    scale_y_range: tuple[float, ...] = option(
        (), "range of an additional scale factor in y", flag="scale_y_range", minimum=0.01, maximum=20.0
    )
    crop_size: tuple[int, ...] = option(
        (256,),
        "size of training crops (px): one number, or height and width; 0 for no crop",
        flag="fixed_size",
        minimum=0,
        renamed="fixed_size",
    )
    crop_border: int = option(
        16,
        "max. extent of crops beyond the edge of the image (px)",
        flag="crop_border",
        minimum=0,
    )
    object_crop_fraction: float = option(
        0.0,
        "fraction of crops placed around an object, small objects preferred",
        flag="favour_small",
        minimum=0.0,
        maximum=1.0,
        renamed="favour_small",
    )
    pad_mode: str = option(
        "constant",
        "padding beyond the edge: constant (black), reflect (mirrored objects are ignored), or replicate",
        flag="img_pad_mode",
        choices=PAD_MODES,
        renamed="img_pad_mode",
    )
    truncated_objects: str = option(
        "ignore",
        "treatment of objects cut to less than min_visible_fraction: ignored in training, dropped, or kept",
        flag="cut_objects",
        choices=CUTS,
        renamed="cut_objects",
    )
    min_visible_fraction: float = option(
        0.25,
        "min. visible fraction of a cut object; below it, --cut_objects applies",
        flag="min_visible_fraction",
        minimum=0.0,
        maximum=1.0,
    )
    rotation_degrees: float = option(
        0.0,
        "max. rotation (degrees)",
        flag="rot_range_mag",
        minimum=0.0,
        maximum=180.0,
        renamed="rot_range_mag",
    )
    affine_std: float = option(
        0.0,
        "standard deviation of the noise added to the four linear coefficients of the affine map",
        flag="affine_std",
        minimum=0.0,
        maximum=1.0,
    )
    hflip: bool = option(True, "flip half of the training images left to right", flag="hflip")
    vflip: bool = option(True, "flip half of the training images upside down", flag="vflip")
    transpose: bool = option(True, "transpose half of the training images", flag="hvflip", renamed="hvflip")
    brightness_factor_std: float = option(
        0.0,
        "standard deviation of the brightness factor (mean 1) of all channels",
        flag="light_scl_std",
        minimum=0.0,
        maximum=1.0,
        renamed="light_scl_std",
    )
    brightness_offset_std: float = option(
        0.0,
        "standard deviation of the brightness offset of all channels (image in 0..1)",
        flag="light_off_std",
        minimum=0.0,
        maximum=1.0,
        renamed="light_off_std",
    )
    invert: str = option(
        "none", "invert half of the training images (random)", flag="invert", choices=("none", "random")
    )
    blur_sigma: float = option(
        0.0, "max. sigma of a Gaussian blur (px)", flag="blur", minimum=0.0, maximum=50.0, renamed="blur"
    )
    noise_std: float = option(
        0.0,
        "standard deviation of the noise added to every value (image in 0..1)",
        flag="gaussian_noise",
        minimum=0.0,
        maximum=1.0,
        renamed="gaussian_noise",
    )
    library_transforms: tuple[str, ...] = option(
        (),
        "other libraries' augmenters (TOML only), applied last and without --cut_objects, for example "
        '"torchvision.ColorJitter(brightness=0.3)" or "imgaug.GaussianBlur((0, 1.0))"',
        renamed="others",
    )
