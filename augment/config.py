"""Settings of the training augmentation."""

from dataclasses import dataclass

from maskrcnn.config import option

PAD_MODES = ("constant", "reflect", "replicate")


@dataclass(frozen=True)
class AugmentConfig:
    """What is done to a training sample before it is shown to the detector, in this order."""

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
    img_pad_mode: str = option(
        "constant",
        "What crops show beyond the edge: black, the mirrored image (objects in it are ignored) or the repeated edge.",
        flag="img_pad_mode",
        choices=PAD_MODES,
    )
    min_visible_fraction: float = option(
        0.25,
        "Objects of which a crop leaves less than this fraction are ignored in training: no targets, no negatives.",
        minimum=0.0,
        maximum=1.0,
    )
    hflip: bool = option(True, "Flip half of the training images left to right.", flag="hflip")
    vflip: bool = option(True, "Flip half of the training images upside down.", flag="vflip")
    hvflip: bool = option(True, "Swap rows and columns of half of the training images.", flag="hvflip")
