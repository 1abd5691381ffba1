"""Synthetic data without files: each image is drawn when it is asked for, with the pixels it has when written."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from datasets.readers.generated import masks_of_labels
from datasets.synthetic.outlines import check_letters
from datasets.synthetic.painting import render
from datasets.synthetic.recipes import Recipe, read_recipe
from datasets.synthetic.scene import compose
from maskrcnn.config import UserError
from maskrcnn.structures.instances import Instances


class OnTheFly:
    """One split of a recipe's images. What image i shows depends on the recipe, the split and i alone.

    Instance ids are the objects' numbers; those with fewer visible pixels than ``min_visible_pixels`` are ignored.
    """

    has_masks = True

    def __init__(self, recipe: Recipe | str | Path, split: str) -> None:
        """``recipe``: itself or its TOML file. UserError for a bad file or a split without images."""
        self._recipe = recipe if isinstance(recipe, Recipe) else read_recipe(recipe)
        check_letters(self._recipe.scene)
        self._split = split
        if not self._recipe.counts.get(split):
            name = "the recipe" if isinstance(recipe, Recipe) else recipe
            raise UserError(f"{name}: has no images for '{split}'; set n_{split}")
        self.class_names = self._recipe.scene.objects.class_names

    @property
    def image_ids(self) -> list[int]:
        return list(range(len(self)))

    @property
    def image_names(self) -> list[str]:
        return [f"{index:06d}" for index in range(len(self))]

    @property
    def counts(self) -> Mapping[str, int]:
        return {}

    def __len__(self) -> int:
        return self._recipe.counts[self._split]

    def __getitem__(self, index: int) -> tuple[Tensor, Instances]:
        """Image uint8 [3, H, W] and its instances. UserError for a scene that cannot be laid out."""
        index = range(len(self))[index]
        scene = compose(self._recipe.scene, self._split, index)
        rendering = render(scene)
        labels = torch.from_numpy(rendering.labels.astype("int32"))
        masks, numbers = masks_of_labels(labels)
        visible = torch.bincount(labels.flatten(), minlength=len(scene.labels) + 1)[numbers]
        classes = torch.from_numpy(scene.labels)[numbers - 1]
        ignore = visible < self._recipe.scene.min_visible_pixels
        image = torch.from_numpy(rendering.image).permute(2, 0, 1).contiguous()
        return image, Instances.from_masks(masks, classes, ignore=ignore, ids=numbers)
