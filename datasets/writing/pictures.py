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

from datasets.writing.sample import Losses, Sample
from maskrcnn.structures.masks import CroppedMasks

Numbers = NDArray[np.int64]


def write_image(folder: Path, sample: Sample, copied: Collection[str]) -> str:
    """The image as a PNG file, or, with a suffix among `copied`, its own file byte for byte; returns the name.

    Colors of 16 bits are written as TIFF, because Pillow writes no such PNG.
    """
    if sample.file is not None and sample.file.suffix.lower() in copied:
        name = sample.name + sample.file.suffix.lower()
        shutil.copyfile(sample.file, folder / name)
        return name
    pixels = sample.image.permute(1, 2, 0).numpy()
    is_deep = pixels.dtype == np.uint16
    is_gray = bool((pixels == pixels[:, :, :1]).all())
    if is_deep and not is_gray:
        import tifffile

        name = f"{sample.name}.tif"
        tifffile.imwrite(folder / name, pixels, photometric="rgb", compression="zlib")
        return name
    name = f"{sample.name}.png"
    Image.fromarray(pixels[:, :, 0] if is_deep else pixels).save(folder / name, compress_level=1)
    return name


def write_levels(path: Path, levels: NDArray[Any], palette: list[int] | None = None) -> None:
    """One channel, uint8 or uint16 [H, W], as PNG; with a `palette` of r, g, b for each level."""
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
