"""Recipes: the whole description of a synthetic data set, and those with a name."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from datasets.synthetic.config import SceneConfig, update_config
from maskrcnn.config import UserError, from_dict, option, read_toml

GENERATORS = ("scenes", "ellipses")  # the present name, and that of data made before there were other shapes
VERSION = 1  # goes up whenever the same recipe would give other pixels


@dataclass(frozen=True)
class Recipe:
    """How a data set is made; the same recipe gives the same pixels."""

    generator: str = option(GENERATORS[0], "what makes such data", choices=GENERATORS[:1])
    version: int = option(VERSION, "version of the generator", minimum=1)
    n_train: int = option(128, "training images", flag="n_train", minimum=0)
    n_val: int = option(16, "images for validation", flag="n_val", minimum=0)
    n_test: int = option(32, "test images", flag="n_test", minimum=0)
    scene: SceneConfig = field(default_factory=SceneConfig)

    @property
    def counts(self) -> dict[str, int]:
        """Images by split; splits without images are left out of what is written."""
        return {"train": self.n_train, "val": self.n_val, "test": self.n_test}


def read_recipe(path: str | Path) -> Recipe:
    """The recipe in a TOML file: one that lies with a data set, or a shorter one of what differs from the defaults.

    Raises:
        UserError: a file that cannot be read, an unknown key, a bad value, another version of the generator.
    """
    values = read_toml(path)
    try:
        recipe = from_dict(Recipe, values, path)
    except UserError as error:  # settings that do not fit together know of no file
        raise error if str(error).startswith(f"{path}:") else UserError(f"{path}: {error}") from error
    if recipe.version != VERSION:
        raise UserError(f"{path}: version {recipe.version} of the generator is asked for, this is {VERSION}")
    return recipe


def ellipses() -> Recipe:
    """Small ellipses of one class, groups of them side by side, free ones on top."""
    return Recipe()


def shapes() -> Recipe:
    """Eight kinds of small shapes, a class each, that do not touch."""
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
    """The Shapes of Matterport's Mask R-CNN: 128², one to four squares, circles and triangles in any colours; of those
    whose boxes overlap by an IoU above 0.3 the later one goes."""
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
    """Like CST: 1,000 images of 512², at most ten circles, squares and triangles that do not touch."""
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
    """A look-alike of fluorescence microscopy: clusters of soft bright blobs, uneven light, photon and sensor noise."""
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
