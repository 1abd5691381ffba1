"""Settings of the synthetic data sets: every factor of a scene, each with its flag."""

from dataclasses import dataclass, field
from typing import Any

from maskrcnn.config import UserError, flag_values, merge, option

MAX_OBJECTS = 65_535  # what a 16-bit instance number can count
MAX_PIXELS = 89_478_485  # beyond, Pillow takes an image for a decompression bomb and does not read it back
MAX_SEED = 2**64 - 1
SHAPES = ("ellipse", "circle", "rectangle", "square", "triangle", "polygon", "star", "ring", "blob", "glyph")
LAYOUTS = ("uniform", "apart", "clusters", "grid", "gradient")
BACKGROUNDS = ("flat", "gradient", "noise", "clutter", "pictures")


@dataclass(frozen=True)
class ObjectsConfig:
    """Objects: shape, size, pose (pixels; a diameter is that of a circle of the same area; degrees)."""

    shapes: tuple[str, ...] = option(("ellipse",), "shapes of the objects", flag="shapes", choices=SHAPES)
    shape_shares: tuple[float, ...] = option(
        (), "how often each shape comes, in the order of shapes (default: all alike)", flag="shape_shares", minimum=0
    )
    classes: str = option("shape", "a class for each shape, or one for all", flag="classes", choices=("shape", "one"))
    min_diameter: float = option(10.0, "smallest diameter", flag="min_diameter", minimum=0.01)
    max_diameter: float = option(16.0, "largest diameter", flag="max_diameter", minimum=0.01)
    max_aspect: float = option(
        4.0, "largest length : breadth, of what has one", flag="max_aspect", minimum=1.0, maximum=100.0
    )
    max_angle: float = option(
        180.0, "objects are turned by up to this angle", flag="max_angle", minimum=0.0, maximum=360.0
    )
    outline: float = option(
        0.5, "added to both semi-axes, as filling a polygon with its outline does", flag="outline", minimum=0.0
    )
    corners: int = option(6, "corners of a polygon", flag="corners", minimum=3, maximum=100)
    star_points: int = option(5, "points of a star", flag="star_points", minimum=3, maximum=100)
    hole: float = option(0.5, "inner : outer radius of a ring", flag="hole", minimum=0.01, maximum=0.95)
    roughness: float = option(0.25, "how far a blob is from an ellipse", flag="roughness", minimum=0.0, maximum=1.0)
    letters: str = option("ABCDEFGHJKLMNPRSTUVXYZ", "letters that glyphs show", flag="letters")

    @property
    def class_names(self) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(self.shapes))
        return names if self.classes == "shape" or len(names) == 1 else ("object",)


@dataclass(frozen=True)
class LayoutConfig:
    """Layout: groups side by side, and free objects on top of them."""

    n_groups: int = option(4, "groups in an image", flag="n_groups", minimum=0)
    n_objects_per_group: int = option(7, "objects in a group", flag="n_objects_per_group", minimum=0)
    min_group_aspect: float = option(2.0, "smallest length : breadth in a group", flag="min_group_aspect", minimum=1.0)
    group_aspect_jitter: float = option(
        1.2, "factor by which aspects differ within a group", flag="group_aspect_jitter", minimum=1.0
    )
    group_position_jitter: float = option(
        0.15, "displacement within a group, as a share of the diameter", flag="group_position_jitter", minimum=0.0
    )
    group_angle_jitter: float = option(7.5, "rotation within a group", flag="group_angle_jitter", minimum=0.0)
    n_free: int = option(20, "free objects in an image, at most", flag="n_free", minimum=0)
    min_free: int = option(-1, "free objects at least (-1: n_free of them)", flag="min_free", minimum=-1)
    layout: str = option("uniform", "where the free objects lie", flag="layout", choices=LAYOUTS)
    margin: float = option(
        -1.0, "least distance of a centre from the edge (-1: the mean diameter)", flag="margin", minimum=-1.0
    )
    exclusion_radius: float = option(
        0.0,
        "apart: no centre is within twice this of another (0: so that the largest objects do not touch)",
        flag="exclusion_radius",
        minimum=0.0,
    )
    n_clusters: int = option(4, "clusters: how many", flag="n_clusters", minimum=1)
    cluster_spread: float = option(
        16.0, "clusters: standard deviation about their middle", flag="cluster_spread", minimum=0.0
    )
    grid_jitter: float = option(
        0.25, "grid: displacement as a share of a cell", flag="grid_jitter", minimum=0.0, maximum=0.5
    )
    density_ratio: float = option(
        10.0, "gradient: density on the right : on the left", flag="density_ratio", minimum=0.01, maximum=1000.0
    )
    max_box_iou: float = option(
        1.0, "free objects whose box overlaps an earlier one by more are left out", flag="max_box_iou", minimum=0.0
    )


@dataclass(frozen=True)
class ColoursConfig:
    """Colours (0..255)."""

    min_colour: int = option(127, "darkest value of a channel", flag="min_colour", minimum=0, maximum=255)
    max_colour: int = option(254, "brightest value of a channel", flag="max_colour", minimum=0, maximum=255)
    grey: bool = option(False, "all channels alike", flag="grey")
    contrast: float = option(
        1.0, "share of the difference from the background that is left", flag="contrast", minimum=0.0, maximum=1.0
    )


@dataclass(frozen=True)
class BackgroundConfig:
    """Background, and what lies on it without being looked for."""

    background: str = option("flat", "what is behind the objects", flag="background", choices=BACKGROUNDS)
    min_background: int = option(0, "darkest background (0..255)", flag="min_background", minimum=0, maximum=255)
    max_background: int = option(0, "brightest background", flag="max_background", minimum=0, maximum=255)
    background_range: float = option(
        40.0, "gradient, noise, clutter: how far it varies (0..255)", flag="background_range", minimum=0, maximum=255
    )
    background_scale: float = option(
        12.0, "noise: its wavelength; clutter: its diameter, in pixels", flag="background_scale", minimum=1.0
    )
    n_clutter: int = option(40, "clutter: unlabelled shapes under the objects", flag="n_clutter", minimum=0)
    pictures: str = option("", "pictures: a folder of images to cut backgrounds from", flag="pictures")
    n_distractors: int = option(
        0,
        "unlabelled objects of other shapes, of the size and the colours of the objects",
        flag="n_distractors",
        minimum=0,
    )
    distractor_shapes: tuple[str, ...] = option(
        ("rectangle", "triangle"), "their shapes", flag="distractor_shapes", choices=SHAPES
    )


@dataclass(frozen=True)
class DegradationConfig:
    """Degradations, in this order."""

    illumination: float = option(
        0.0, "share of the light that is lost at the darkest place", flag="illumination", minimum=0.0, maximum=1.0
    )
    psf: float = option(0.0, "blur of the optics (sigma in pixels)", flag="psf", minimum=0.0, maximum=100.0)
    downsample: int = option(1, "pixels averaged to one along each side", flag="downsample", minimum=1, maximum=64)
    photons: float = option(0.0, "Poisson noise: photons of the brightest pixel (0: none)", flag="photons", minimum=0.0)
    noise: float = option(0.0, "Gaussian noise (sigma as a share of 255)", flag="noise", minimum=0.0, maximum=10.0)
    jpeg: int = option(0, "JPEG quality (0: none)", flag="jpeg", minimum=0, maximum=100)


@dataclass(frozen=True)
class SceneConfig:
    """Scenes."""

    width: int = option(256, "image width in pixels", flag="width", minimum=1, maximum=MAX_PIXELS)
    height: int = option(256, "image height in pixels", flag="height", minimum=1, maximum=MAX_PIXELS)
    seed: int = option(12345, "seed of the data", flag="seed", minimum=0, maximum=MAX_SEED)
    min_visible_pixels: int = option(
        5, "objects with fewer visible pixels are to `ignore`", flag="min_visible_pixels", minimum=1
    )
    whole_masks: bool = option(False, "annotations also hold the whole masks, hidden parts too", flag="whole_masks")
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
            raise UserError(f"an image of {self.width} x {self.height} is above {MAX_PIXELS} pixels: make it smaller")
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
                "or leave the groups out with n_groups=0"
            )
        if layout.margin > self.most_margin and (layout.n_free or background.n_distractors):
            raise UserError(
                f"margin {layout.margin:g} leaves too little of an image of {self.width} x {self.height}: "
                f"use at most a quarter of its shorter side, {self.most_margin:g}, or a larger image"
            )
        if layout.min_free > layout.n_free:
            raise UserError(f"min_free {layout.min_free} is above n_free {layout.n_free}: swap them")
        if self.num_objects > MAX_OBJECTS:
            raise UserError(f"{self.num_objects} objects an image are more than 16-bit labels hold ({MAX_OBJECTS})")
        if not objects.shapes or (background.n_distractors and not background.distractor_shapes):
            raise UserError("shapes and distractor_shapes may not be empty: name at least one shape each")
        if objects.shape_shares and (
            len(objects.shape_shares) != len(objects.shapes) or not sum(objects.shape_shares) > 0
        ):
            raise UserError(
                f"shape_shares {','.join(f'{share:g}' for share in objects.shape_shares)} for shapes "
                f"{','.join(objects.shapes)}: give one number for each shape, one of them above 0"
            )
        if not objects.letters.strip() or not objects.letters.isprintable():
            raise UserError(f"letters {objects.letters!r}: give at least one letter that can be seen")
        if background.background == "pictures" and not background.pictures:
            raise UserError("background pictures needs a folder of images: give --pictures=FOLDER")

    @property
    def most_margin(self) -> float:
        """Beyond it a margin leaves too little of the image."""
        return min(self.width, self.height) / 4

    @property
    def num_objects(self) -> int:
        """Objects drawn in an image at most; some end up hidden."""
        return self.layout.n_groups * self.layout.n_objects_per_group + self.layout.n_free


def changed(config: SceneConfig, **settings: Any) -> SceneConfig:
    """``config`` with settings named by their flags: ``changed(config, contrast=0.1, n_free=40)``.

    Raises:
        UserError: a value that is none of its setting's, or settings that make no scene.
    """
    return merge(config, flag_values(SceneConfig, settings))
