"""Synthetic data without files: each image is drawn on access, with the same pixels as in a written data set."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from datasets.readers.generated import extract_masks
from datasets.readers.splitting import MissingSplit, check_split
from datasets.synthetic.recipes import Recipe, read_recipe
from datasets.synthetic.rendering import render
from datasets.synthetic.scene import compose_scene
from datasets.synthetic.shapes import check_letters
from maskrcnn.structures.instances import Instances


class OnTheFly:
    """Images of one split of a recipe; image i depends only on the recipe, the split, and i.

    Instance ids are the object numbers. Objects with fewer than `min_visible_pixels` visible pixels are ignored.
    """

    has_masks = True

    def __init__(self, recipe: Recipe | str | Path, split: str) -> None:
        """Create the data set.

        Args:
            recipe: a recipe or its TOML file.
            split: name of the split.

        Raises:
            UserError: If the file is invalid, or the split has no images.
        """
        self._recipe = recipe if isinstance(recipe, Recipe) else read_recipe(recipe)
        check_letters(self._recipe.scene)
        check_split(split)
        self._split = split
        if not self._recipe.counts.get(split):
            name = "the recipe" if isinstance(recipe, Recipe) else recipe
            raise MissingSplit(f"{name}: has no images for '{split}'; set n_{split}")
        self.class_names = self._recipe.scene.objects.class_names

    @property
    def image_ids(self) -> list[int]:
        """Ids of the images, from 0."""
        return list(range(len(self)))

    @property
    def image_names(self) -> list[str]:
        """Names of the images."""
        return [f"{index:06d}" for index in range(len(self))]

    @property
    def counts(self) -> Mapping[str, int]:
        """Notes on what was read; none for drawn images."""
        return {}

    def __len__(self) -> int:
        return self._recipe.counts[self._split]

    def __getitem__(self, index: int) -> tuple[Tensor, Instances]:
        """Return the image, uint8 [3, H, W], and its objects.

        Raises:
            UserError: If there is no room for the objects of the scene.
        """
        index = range(len(self))[index]
        scene = compose_scene(self._recipe.scene, self._split, index)
        rendering = render(scene)
        labels = torch.from_numpy(rendering.labels.astype("int32"))
        masks, numbers = extract_masks(labels)
        visible = torch.bincount(labels.flatten(), minlength=len(scene.labels) + 1)[numbers]
        classes = torch.from_numpy(scene.labels)[numbers - 1]
        ignore = visible < self._recipe.scene.min_visible_pixels
        image = torch.from_numpy(rendering.image).permute(2, 0, 1).contiguous()
        return image, Instances.from_masks(masks, classes, ignore=ignore, ids=numbers)
