"""Writer of the 2018 Data Science Bowl layout: one PNG file per object."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.writing.images import to_full_mask, write_image, write_levels
from datasets.writing.labels import count_class_losses, require_masks, write_split
from datasets.writing.sample import Losses, Sample, Writer

CLASS_NAME = "nucleus"
_SUFFIXES = (".png",)  # that tools for this layout expect


class DsbWriter(Writer):
    """Writes `stage1_train/<name>/images/<name>.png` and `masks/*.png`, and the parts to `split.json`.

    Overlapping masks are kept. The objects of each image are numbered from 1.
    """

    one_folder = True

    def __init__(self, root: Path, class_names: Sequence[str], has_masks: bool, losses: Losses) -> None:
        require_masks(has_masks, "dsb")
        super().__init__(root, losses)
        self._classes = class_names
        self._names: dict[str, list[str]] = {}

    def add(self, part: str, sample: Sample) -> None:
        """Write the image and its masks."""
        folder = self.root / "stage1_train" / sample.name
        for kind in ("images", "masks"):
            (folder / kind).mkdir(parents=True)
        write_image(folder / "images", sample, _SUFFIXES)
        self._write_masks(folder / "masks", sample)
        count_class_losses(sample, self._classes, CLASS_NAME, self.losses)
        self._names.setdefault(part, []).append(sample.name)

    def _write_masks(self, folder: Path, sample: Sample) -> None:
        masks, ids = sample.instances.masks, sample.instances.ids
        assert masks is not None
        digits = len(str(len(masks)))
        for place in range(len(masks)):
            write_levels(folder / f"{place + 1:0{digits}d}.png", to_full_mask(masks, place))
        numbered = np.arange(1, len(masks) + 1)
        renumbered = 0 if ids is None else int((ids.numpy() != numbered).sum())
        self.losses.add_renumbered(renumbered)

    def finish(self) -> None:
        """Write `split.json`."""
        write_split(self.root, self._names)
