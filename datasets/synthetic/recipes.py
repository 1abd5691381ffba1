"""Recipes, which completely describe synthetic data sets, and presets."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from datasets.synthetic.config import SceneConfig, update_config
from maskrcnn.config import UserError, from_dict, option, read_toml

GENERATORS = ("scenes", "ellipses")  # the current name, and an older one that readers still accept
VERSION = 1  # incremented whenever the same recipe would give different pixels


@dataclass(frozen=True)
class Recipe:
    """Description of a data set; the same recipe gives the same pixels."""

    generator: str = option(GENERATORS[0], "generator of the data", choices=GENERATORS[:1])
    version: int = option(VERSION, "version of the generator", minimum=1)
    n_train: int = option(128, "training images", flag="n_train", minimum=0)
    n_val: int = option(16, "validation images", flag="n_val", minimum=0)
    n_test: int = option(32, "test images", flag="n_test", minimum=0)
    scene: SceneConfig = field(default_factory=SceneConfig)

    @property
    def counts(self) -> dict[str, int]:
        """Number of images by split; splits without images are not written."""
        return {"train": self.n_train, "val": self.n_val, "test": self.n_test}


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe from a TOML file, such as `dataset.toml`; missing keys have default values.

    Raises:
        UserError: If the file cannot be read, a key is unknown, a value is invalid, or the version differs.
    """
    values = read_toml(path)
    try:
        recipe = from_dict(Recipe, values, path)
    except UserError as error:  # errors about inconsistent options do not name the file
        raise error if str(error).startswith(f"{path}:") else UserError(f"{path}: {error}") from error
    if recipe.version != VERSION:
        raise UserError(f"{path}: requires version {recipe.version} of the generator, this is version {VERSION}")
    return recipe


def ellipses() -> Recipe:
    """Small ellipses of one class: groups of parallel ellipses, and free ones on top."""
    return Recipe()


def shapes() -> Recipe:
    """Eight classes of small shapes that do not touch."""
    scene = update_config(
        SceneConfig(),
        shapes=("ellipse", "rectangle", "triangle", "polygon", "star", "ring", "blob", "glyph"),
        n_groups=0,
        n_free=20,
        max_aspect=1.5,
        max_angle=360.0,
        layout="apart",
    )
    return Recipe(scene=scene)


def matterport() -> Recipe:
    """Shapes data set of Matterport's Mask R-CNN: one to four squares, circles and triangles of any color in 128².

    If the boxes of two objects have an IoU above 0.3, the later one is removed.
    """
    scene = update_config(
        SceneConfig(),
        width=128,
        height=128,
        shapes=("square", "circle", "triangle"),
        n_groups=0,
        n_free=4,
        min_free=1,
        min_diameter=40.0,
        max_diameter=64.0,
        max_aspect=1.0,
        max_angle=0.0,
        margin=20.0,
        outline=0.0,
        min_colour=0,
        max_colour=255,
        max_background=255,
        max_box_iou=0.3,
    )
    return Recipe(n_train=500, n_test=50, scene=scene)


def cst() -> Recipe:
    """Similar to CST: 1,000 images of 512² with up to ten circles, squares and triangles that do not touch."""
    scene = update_config(
        SceneConfig(),
        width=512,
        height=512,
        shapes=("circle", "square", "triangle"),
        n_groups=0,
        n_free=10,
        min_free=1,
        layout="apart",
        min_diameter=24.0,
        max_diameter=64.0,
        max_aspect=1.0,
        max_angle=360.0,
        max_background=60,
    )
    return Recipe(n_train=600, n_val=100, n_test=300, scene=scene)


def nuclei() -> Recipe:
    """Similar to fluorescence microscopy: clusters of soft bright blobs, uneven illumination, photon and read noise."""
    scene = update_config(
        SceneConfig(),
        shapes=("blob",),
        n_groups=0,
        n_free=45,
        min_free=15,
        layout="clusters",
        n_clusters=9,
        cluster_spread=34.0,
        margin=0.0,
        min_diameter=9.0,
        max_diameter=24.0,
        max_aspect=1.8,
        roughness=0.2,
        max_box_iou=0.25,
        grey=True,
        min_colour=60,
        max_colour=190,
        min_background=8,
        max_background=24,
        psf=1.1,
        illumination=0.35,
        photons=150.0,
        noise=0.008,
    )
    return Recipe(scene=replace(scene, objects=replace(scene.objects, classes="one")))


PRESETS: dict[str, Callable[[], Recipe]] = {each.__name__: each for each in (ellipses, shapes, matterport, cst, nuclei)}
