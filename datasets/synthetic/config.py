"""Options of synthetic data sets: every factor of a scene, with its flag."""

from dataclasses import dataclass, field
from typing import Any

from maskrcnn.config import UserError, flag_values, merge, option

MAX_OBJECTS = 65_535  # limit of 16-bit instance numbers
MAX_PIXELS = 89_478_485  # Pillow rejects larger images as decompression bombs
MAX_SEED = 2**64 - 1
SHAPES = ("ellipse", "circle", "rectangle", "square", "triangle", "polygon", "star", "ring", "blob", "glyph")
LAYOUTS = ("uniform", "apart", "clusters", "grid", "gradient")
BACKGROUNDS = ("flat", "gradient", "noise", "clutter", "pictures")


@dataclass(frozen=True)
class ObjectsConfig:
    """Objects: shape, size, pose (diameters of circles of the same area, in pixels; angles in degrees)."""

    shapes: tuple[str, ...] = option(("ellipse",), "shapes of the objects", flag="shapes", choices=SHAPES)
    shape_shares: tuple[float, ...] = option(
        (), "relative frequency of each shape, in the order of shapes (default: equal)", flag="shape_shares", minimum=0
    )
    classes: str = option("shape", "one class per shape, or one for all", flag="classes", choices=("shape", "one"))
    min_diameter: float = option(10.0, "min. diameter", flag="min_diameter", minimum=0.01)
    max_diameter: float = option(16.0, "max. diameter", flag="max_diameter", minimum=0.01)
    max_aspect: float = option(
        4.0, "max. length : width of elongated shapes", flag="max_aspect", minimum=1.0, maximum=100.0
    )
    max_angle: float = option(180.0, "max. rotation (degrees)", flag="max_angle", minimum=0.0, maximum=360.0)
    outline: float = option(
        0.5, "width added to both semi-axes, as by drawing a polygon with its outline", flag="outline", minimum=0.0
    )
    corners: int = option(6, "number of corners of a polygon", flag="corners", minimum=3, maximum=100)
    star_points: int = option(5, "number of points of a star", flag="star_points", minimum=3, maximum=100)
    hole: float = option(0.5, "inner : outer radius of a ring", flag="hole", minimum=0.01, maximum=0.95)
    roughness: float = option(0.25, "irregularity of a blob (0: ellipse)", flag="roughness", minimum=0.0, maximum=1.0)
    letters: str = option("ABCDEFGHJKLMNPRSTUVXYZ", "letters drawn as glyphs", flag="letters")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes."""
        names = tuple(dict.fromkeys(self.shapes))
        return names if self.classes == "shape" or len(names) == 1 else ("object",)


@dataclass(frozen=True)
class LayoutConfig:
    """Layout: groups of parallel objects, and free objects on top of them."""

    n_groups: int = option(4, "groups per image", flag="n_groups", minimum=0)
    n_objects_per_group: int = option(7, "objects per group", flag="n_objects_per_group", minimum=0)
    min_group_aspect: float = option(2.0, "min. length : width in a group", flag="min_group_aspect", minimum=1.0)
    group_aspect_jitter: float = option(
        1.2, "max. factor between aspects within a group", flag="group_aspect_jitter", minimum=1.0
    )
    group_position_jitter: float = option(
        0.15,
        "max. displacement within a group, as a fraction of the diameter",
        flag="group_position_jitter",
        minimum=0.0,
    )
    group_angle_jitter: float = option(
        7.5, "max. rotation within a group (degrees)", flag="group_angle_jitter", minimum=0.0
    )
    n_free: int = option(20, "max. number of free objects per image", flag="n_free", minimum=0)
    min_free: int = option(-1, "min. number of free objects per image (-1: n_free)", flag="min_free", minimum=-1)
    layout: str = option("uniform", "distribution of the free objects", flag="layout", choices=LAYOUTS)
    margin: float = option(
        -1.0, "min. distance of a center from the edge in pixels (-1: mean diameter)", flag="margin", minimum=-1.0
    )
    exclusion_radius: float = option(
        0.0,
        "apart: half the min. distance of centers in pixels (0: the largest objects do not touch)",
        flag="exclusion_radius",
        minimum=0.0,
    )
    n_clusters: int = option(4, "clusters: number of clusters", flag="n_clusters", minimum=1)
    cluster_spread: float = option(
        16.0, "clusters: standard deviation of positions in pixels", flag="cluster_spread", minimum=0.0
    )
    grid_jitter: float = option(
        0.25, "grid: max. displacement as a fraction of a cell", flag="grid_jitter", minimum=0.0, maximum=0.5
    )
    density_ratio: float = option(
        10.0, "gradient: ratio of the density, right : left", flag="density_ratio", minimum=0.01, maximum=1000.0
    )
    max_box_iou: float = option(
        1.0, "max. IoU of the boxes of free objects; others are left out", flag="max_box_iou", minimum=0.0
    )


@dataclass(frozen=True)
class ColoursConfig:
    """Colors (0..255)."""

    min_colour: int = option(127, "min. value of a channel", flag="min_colour", minimum=0, maximum=255)
    max_colour: int = option(254, "max. value of a channel", flag="max_colour", minimum=0, maximum=255)
    grey: bool = option(False, "grayscale images", flag="grey")
    contrast: float = option(
        1.0, "factor of the difference between objects and background", flag="contrast", minimum=0.0, maximum=1.0
    )


@dataclass(frozen=True)
class BackgroundConfig:
    """Background, clutter, and distractors."""

    background: str = option("flat", "kind of background", flag="background", choices=BACKGROUNDS)
    min_background: int = option(0, "min. background (0..255)", flag="min_background", minimum=0, maximum=255)
    max_background: int = option(0, "max. background (0..255)", flag="max_background", minimum=0, maximum=255)
    background_range: float = option(
        40.0, "gradient, noise, clutter: range of values (0..255)", flag="background_range", minimum=0, maximum=255
    )
    background_scale: float = option(
        12.0, "noise: wavelength; clutter: diameter (pixels)", flag="background_scale", minimum=1.0
    )
    n_clutter: int = option(40, "clutter: number of unlabeled shapes below the objects", flag="n_clutter", minimum=0)
    pictures: str = option("", "pictures: folder of images to crop backgrounds from", flag="pictures")
    n_distractors: int = option(
        0,
        "number of unlabeled shapes with the sizes and colors of the objects",
        flag="n_distractors",
        minimum=0,
    )
    distractor_shapes: tuple[str, ...] = option(
        ("rectangle", "triangle"), "shapes of the distractors", flag="distractor_shapes", choices=SHAPES
    )


@dataclass(frozen=True)
class DegradationConfig:
    """Degradations, in order of application."""

    illumination: float = option(
        0.0, "fraction of the light lost at the darkest point", flag="illumination", minimum=0.0, maximum=1.0
    )
    psf: float = option(0.0, "Gaussian blur of the optics (sigma in pixels)", flag="psf", minimum=0.0, maximum=100.0)
    downsample: int = option(1, "factor of averaging over blocks of pixels", flag="downsample", minimum=1, maximum=64)
    photons: float = option(0.0, "Poisson noise: photons at the brightest value (0: none)", flag="photons", minimum=0.0)
    noise: float = option(0.0, "Gaussian noise (sigma as a fraction of 255)", flag="noise", minimum=0.0, maximum=10.0)
    jpeg: int = option(0, "JPEG quality (0: none)", flag="jpeg", minimum=0, maximum=100)


@dataclass(frozen=True)
class SceneConfig:
    """Scenes."""

    width: int = option(256, "image width in pixels", flag="width", minimum=1, maximum=MAX_PIXELS)
    height: int = option(256, "image height in pixels", flag="height", minimum=1, maximum=MAX_PIXELS)
    bit_depth: int = option(
        8, "bits per channel: values 0..255 are stretched to 0..2^bits - 1", flag="bit_depth", minimum=8, maximum=16
    )
    channels: int = option(3, "channels of the images", flag="channels", minimum=1, maximum=16)
    seed: int = option(12345, "random seed of the data", flag="seed", minimum=0, maximum=MAX_SEED)
    min_visible_pixels: int = option(
        5, "objects with fewer visible pixels are ignored", flag="min_visible_pixels", minimum=1
    )
    whole_masks: bool = option(False, "also store full masks, including hidden parts", flag="whole_masks")
    objects: ObjectsConfig = field(default_factory=ObjectsConfig)
    layout: LayoutConfig = field(default_factory=LayoutConfig)
    colours: ColoursConfig = field(default_factory=ColoursConfig)
    background: BackgroundConfig = field(default_factory=BackgroundConfig)
    degradation: DegradationConfig = field(default_factory=DegradationConfig)

    def __post_init__(self) -> None:
        for name in ("width", "height"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} {getattr(self, name)} is out of range: it must be at least 1 pixel")
        if self.width * self.height > MAX_PIXELS:
            raise UserError(f"image size {self.width} x {self.height} exceeds {MAX_PIXELS} pixels: make it smaller")
        objects, layout, background = self.objects, self.layout, self.background
        for low, high, part in (
            ("min_diameter", "max_diameter", objects),
            ("min_colour", "max_colour", self.colours),
            ("min_background", "max_background", background),
        ):
            if getattr(part, low) > getattr(part, high):
                raise UserError(f"{low} {getattr(part, low)} is above {high} {getattr(part, high)}: change one of them")
        if objects.min_diameter <= 0:
            raise UserError(f"min_diameter {objects.min_diameter} is out of range: it must be above 0")
        if layout.n_groups and layout.min_group_aspect > objects.max_aspect:
            raise UserError(
                f"min_group_aspect {layout.min_group_aspect} is above max_aspect {objects.max_aspect}: lower it, "
                "or disable groups with n_groups=0"
            )
        if layout.margin > self.max_margin and (layout.n_free or background.n_distractors):
            raise UserError(
                f"margin {layout.margin:g} leaves too little of an image of {self.width} x {self.height}: "
                f"use at most a quarter of its shorter side, {self.max_margin:g}, or a larger image"
            )
        if layout.min_free > layout.n_free:
            raise UserError(f"min_free {layout.min_free} is above n_free {layout.n_free}: swap them")
        if self.num_objects > MAX_OBJECTS:
            raise UserError(f"{self.num_objects} objects per image exceed the limit of 16-bit labels ({MAX_OBJECTS})")
        if not objects.shapes or (background.n_distractors and not background.distractor_shapes):
            raise UserError("shapes and distractor_shapes must not be empty: name at least one shape each")
        if objects.shape_shares and (
            len(objects.shape_shares) != len(objects.shapes) or not sum(objects.shape_shares) > 0
        ):
            raise UserError(
                f"shape_shares {','.join(f'{share:g}' for share in objects.shape_shares)} for shapes "
                f"{','.join(objects.shapes)}: give one number per shape, at least one of them above 0"
            )
        if not objects.letters.strip() or not objects.letters.isprintable():
            raise UserError(f"letters {objects.letters!r}: give at least one printable letter")
        if self.degradation.jpeg and (self.bit_depth > 8 or self.channels not in (1, 3)):
            raise UserError(
                f"jpeg {self.degradation.jpeg} needs 8 bits and 1 or 3 channels, not {self.bit_depth} and "
                f"{self.channels}: use jpeg=0"
            )
        if background.background == "pictures" and self.channels not in (1, 3):
            raise UserError(f"background pictures has 1 or 3 channels, not {self.channels}: use another background")
        if background.background == "pictures" and not background.pictures:
            raise UserError("background pictures requires a folder of images: use --pictures=FOLDER")

    @property
    def is_rgb(self) -> bool:
        """Whether the images are RGB of 8 bits."""
        return self.bit_depth == 8 and self.channels == 3

    @property
    def max_margin(self) -> float:
        """Maximum of `margin`, which leaves enough of the image."""
        return min(self.width, self.height) / 4

    @property
    def num_objects(self) -> int:
        """Maximum number of objects drawn in an image; some may be hidden."""
        return self.layout.n_groups * self.layout.n_objects_per_group + self.layout.n_free


def update_config(config: SceneConfig, **settings: Any) -> SceneConfig:
    """Return `config` with options given by their flags: `update_config(config, contrast=0.1, n_free=40)`.

    Raises:
        UserError: If a value is invalid, or the options are inconsistent.
    """
    return merge(config, flag_values(SceneConfig, settings))
