"""Settings of the synthetic data sets."""

from dataclasses import dataclass

from maskrcnn.config import UserError, option

MAX_OBJECTS = 65_535  # what a 16-bit instance number can count
MAX_PIXELS = 89_478_485  # beyond, Pillow takes an image for a decompression bomb and does not read it back
MAX_SEED = 2**64 - 1


@dataclass(frozen=True)
class EllipsesConfig:
    """Scenes of ellipses.

    Groups of them lie side by side, free ones on top. Lengths are in pixels, angles in degrees.
    """

    width: int = option(256, "image width in pixels", flag="width", minimum=1, maximum=MAX_PIXELS)
    height: int = option(256, "image height in pixels", flag="height", minimum=1, maximum=MAX_PIXELS)
    seed: int = option(12345, "seed of the data", flag="seed", minimum=0, maximum=MAX_SEED)
    n_groups: int = option(4, "groups in an image", minimum=0)
    n_objects_per_group: int = option(7, "ellipses in a group", minimum=0)
    n_free: int = option(20, "free ellipses, drawn on top of the groups", minimum=0)
    min_diameter: float = option(10.0, "smallest diameter of a circle of the same area", minimum=0.01)
    max_diameter: float = option(16.0, "largest diameter of a circle of the same area", minimum=0.01)
    max_aspect: float = option(4.0, "largest length : breadth", minimum=1.0, maximum=100.0)
    min_group_aspect: float = option(2.0, "smallest length : breadth in a group", minimum=1.0)
    group_aspect_jitter: float = option(1.2, "factor by which aspects differ within a group", minimum=1.0)
    group_position_jitter: float = option(0.15, "displacement within a group, as a share of the diameter", minimum=0.0)
    group_angle_jitter: float = option(7.5, "rotation within a group, in degrees", minimum=0.0)
    outline: float = option(0.5, "added to both semi-axes, as filling a polygon with its outline does", minimum=0.0)
    min_colour: int = option(127, "darkest value of a channel", minimum=0, maximum=255)
    max_colour: int = option(254, "brightest value of a channel", minimum=0, maximum=255)
    min_visible_pixels: int = option(5, "objects with fewer visible pixels are marked `ignore`", minimum=1)

    def __post_init__(self) -> None:
        for name in ("width", "height"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} {getattr(self, name)} is out of range: it must be at least 1 pixel")
        if self.width * self.height > MAX_PIXELS:
            raise UserError(f"an image of {self.width} x {self.height} is above {MAX_PIXELS} pixels: make it smaller")
        for low, high in (
            ("min_diameter", "max_diameter"),
            ("min_group_aspect", "max_aspect"),
            ("min_colour", "max_colour"),
        ):
            if getattr(self, low) > getattr(self, high):
                raise UserError(f"{low} {getattr(self, low)} is above {high} {getattr(self, high)}: swap them")
        if self.min_diameter <= 0:
            raise UserError(f"min_diameter {self.min_diameter} is out of range: it must be above 0")
        if self.num_objects > MAX_OBJECTS:
            raise UserError(f"{self.num_objects} objects an image are more than 16-bit labels hold ({MAX_OBJECTS})")

    @property
    def num_objects(self) -> int:
        """Objects drawn in an image; some end up hidden."""
        return self.n_groups * self.n_objects_per_group + self.n_free
