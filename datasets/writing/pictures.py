"""Image files: pictures, label images, and masks painted into one."""

import shutil
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from datasets.images import is_deep
from datasets.writing.sample import Losses, Sample
from maskrcnn.structures.masks import CroppedMasks

Numbers = NDArray[np.int64]


def write_image(folder: Path, sample: Sample, copied: Collection[str], losses: Losses) -> str:
    """The image as a PNG file, or, with a suffix among ``copied``, its own file byte for byte; returns the name."""
    if sample.file is not None and sample.file.suffix.lower() in copied:
        name = sample.name + sample.file.suffix.lower()
        shutil.copyfile(sample.file, folder / name)
        return name
    if sample.file is not None and is_deep(sample.file):
        losses.add("the lower bits of {n} images, which have 16: they are written as PNG of 8 bits")
    name = f"{sample.name}.png"
    Image.fromarray(sample.image.permute(1, 2, 0).numpy()).save(folder / name, compress_level=1)
    return name


def write_levels(path: Path, levels: NDArray[Any], palette: list[int] | None = None) -> None:
    """One channel, uint8 or uint16 [H, W], as PNG; with a ``palette`` of r, g, b for each level."""
    image = Image.fromarray(levels)
    if palette is not None:
        image.putpalette(palette)
    image.save(path, compress_level=1, compress_type=zlib.Z_RLE)


def whole_canvas(masks: CroppedMasks, place: int) -> NDArray[np.uint8]:
    """One mask as uint8 [H, W], 255 inside."""
    canvas = np.zeros(masks.size, np.uint8)
    x1, y1, x2, y2 = masks.windows[place].tolist()
    canvas[y1:y2, x1:x2] = np.where(masks.window(place).numpy() >= 128, 255, 0)
    return canvas


def paint(masks: CroppedMasks, losses: Losses) -> Numbers:
    """Places of the masks from 1, int64 [H, W], 0 for background; where some overlap, the smaller lies on top.

    So that a small object is not lost in a large one, or in a crowd's region. Counts who loses pixels by that.
    """
    areas = masks.areas()
    order = torch.argsort(areas, stable=True)
    painted, kept = masks[order].to_label_image()
    places = np.concatenate([[0], order[kept].numpy() + 1]).astype(np.int64)[painted.numpy()]
    seen = np.bincount(places.ravel(), minlength=len(masks) + 1)[1:]
    hidden = seen == 0
    losses.add(
        "the overlapped pixels of {n} objects: one pixel holds one", int(((seen < areas.numpy()) & ~hidden).sum())
    )
    losses.add("{n} objects that smaller ones hide wholly: one pixel holds one", int(hidden.sum()))
    return places
