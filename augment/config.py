"""Settings of augmentation: of training samples, and of the views in which images are searched."""

from dataclasses import dataclass

from maskrcnn.config import option

PAD_MODES = ("constant", "reflect", "replicate")
CUTS = ("ignore", "drop", "keep")
MERGE_NAMES = ("nms", "soft_nms", "wbf", "nmm", "cluster")


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of training samples, in this order."""

    mosaic: float = option(
        0.0,
        "Share of the training samples that are put together from parts of four images.",
        flag="mosaic",
        minimum=0.0,
        maximum=1.0,
    )
    copy_paste: int = option(
        0, "Largest number of objects of this or another image that are pasted in.", flag="copy_paste", minimum=0
    )
    copy_paste_overlap: float = option(
        0.2,
        "Largest share of a pasted object that may lie on others.",
        flag="copy_paste_overlap",
        minimum=0.0,
        maximum=1.0,
    )
    copy_paste_feather: float = option(
        0.5,
        "Width in pixels over which pasted edges blend in (sigma).",
        flag="copy_paste_feather",
        minimum=0.0,
        maximum=20.0,
    )
    match_sizes: tuple[float, ...] = option(
        (),
        "Scale images so that objects get sizes (sqrt of the area, px) as these, each as often as it is listed.",
        flag="match_sizes",
        minimum=0.1,
    )
    scale_u_range: tuple[float, ...] = option(
        (),
        "Scale images by a factor from this range, 0.8:1.25 for example.",
        flag="scale_u_range",
        minimum=0.01,
        maximum=20.0,
    )
    scale_x_range: tuple[float, ...] = option(
        (), "Scale them in x by a factor from this range, too.", flag="scale_x_range", minimum=0.01, maximum=20.0
    )
    scale_y_range: tuple[float, ...] = option(
        (), "Scale them in y by a factor from this range, too.", flag="scale_y_range", minimum=0.01, maximum=20.0
    )
    fixed_size: tuple[int, ...] = option(
        (256,),
        "Crop training images to this size in pixels: one number, or height and width; 0 keeps each image's own size.",
        flag="fixed_size",
        minimum=0,
    )
    crop_border: int = option(
        16,
        "Crops may reach this many pixels over the edge of the image.",
        flag="crop_border",
        minimum=0,
    )
    favour_small: float = option(
        0.0,
        "Share of the crops that are placed around an object, small ones preferred.",
        flag="favour_small",
        minimum=0.0,
        maximum=1.0,
    )
    img_pad_mode: str = option(
        "constant",
        "What is shown beyond the edge: black, the mirrored image (objects in it are ignored) or the repeated edge.",
        flag="img_pad_mode",
        choices=PAD_MODES,
    )
    cut_objects: str = option(
        "ignore",
        "What becomes of objects cut to less than min_visible_fraction: ignored in training, dropped or kept.",
        flag="cut_objects",
        choices=CUTS,
    )
    min_visible_fraction: float = option(
        0.25,
        "Objects of which less than this fraction is left are ignored in training (see cut_objects).",
        flag="min_visible_fraction",
        minimum=0.0,
        maximum=1.0,
    )
    rot_range_mag: float = option(
        0.0, "Rotate by up to this many degrees either way.", flag="rot_range_mag", minimum=0.0, maximum=180.0
    )
    affine_std: float = option(
        0.0,
        "Deviation of what is added to the four numbers of the affine map.",
        flag="affine_std",
        minimum=0.0,
        maximum=1.0,
    )
    hflip: bool = option(True, "Flip half of the training images left to right.", flag="hflip")
    vflip: bool = option(True, "Flip half of the training images upside down.", flag="vflip")
    hvflip: bool = option(True, "Swap rows and columns of half of the training images.", flag="hvflip")
    light_scl_std: float = option(
        0.0,
        "Deviation of the factor, about 1, that multiplies all channels.",
        flag="light_scl_std",
        minimum=0.0,
        maximum=1.0,
    )
    light_off_std: float = option(
        0.0,
        "Deviation of what is then added to all channels (image in 0..1).",
        flag="light_off_std",
        minimum=0.0,
        maximum=1.0,
    )
    invert: str = option(
        "none", "Show half of the training images as negatives.", flag="invert", choices=("none", "random")
    )
    blur: float = option(0.0, "Blur by up to this many pixels (sigma).", flag="blur", minimum=0.0, maximum=50.0)
    gaussian_noise: float = option(
        0.0,
        "Deviation of the noise added to every value (image in 0..1).",
        flag="gaussian_noise",
        minimum=0.0,
        maximum=1.0,
    )
    others: tuple[str, ...] = option(
        (),
        "Other libraries' augmenters (in a TOML file alone), run last and without regard to cut_objects, such as "
        '"torchvision.ColorJitter(brightness=0.3)" or "imgaug.GaussianBlur((0, 1.0))".',
    )


@dataclass(frozen=True)
class ViewsConfig:
    """Test-time augmentation and tiles."""

    views: str = option(
        "none",
        "none, or views joined by +: flips, rot90, d4, affine:8 (8 of any angle), scales:0.75,1,1.5, gamma:0.7,1.4.",
        flag="views",
    )
    tile: int = option(0, "Look at tiles of this side in pixels; 0: at whole images.", flag="tile", minimum=0)
    overlap: float = option(
        0.2, "Least overlap of neighbouring tiles, as a share of a tile.", flag="overlap", minimum=0.0
    )
    tile_scales: tuple[float, ...] = option(
        (1.0,), "Scales of the image at which it is cut into tiles.", flag="tile_scales", minimum=0.01
    )
    full_image: bool = option(False, "Beside tiles, look at the whole image, too.", flag="full_image")
    merge: str = option("cluster", "How detections in several views become one.", flag="merge", choices=MERGE_NAMES)
    merge_threshold: float = option(
        0.5, "Overlap from which detections are of one object.", flag="merge_threshold", minimum=0.0, maximum=1.0
    )
    merge_on: str = option(
        "masks", "What is compared; boxes where there are no masks.", flag="merge_on", choices=("masks", "boxes")
    )
    view_batch_size: int = option(4, "Views that the detector is shown at a time.", flag="view_batch_size", minimum=1)
