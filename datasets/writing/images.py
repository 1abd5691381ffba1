"""Writing of images, label images and masks."""

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
from maskrcnn.images.options import get_image_options
from maskrcnn.images.selection import ALL
from maskrcnn.structures.masks import CroppedMasks

Numbers = NDArray[np.int64]


def write_image(folder: Path, sample: Sample, copied: Collection[str]) -> str:
    """Write an image as PNG, or copy its file if the suffix is in `copied`; return the file name.

    Images that PNG or Pillow cannot store are written as TIFF: colors of 16 bits, floats, and other numbers of channels
    than one and three.
    """
    is_as_stored = get_image_options().selection is ALL
    if sample.file is not None and is_as_stored and sample.file.suffix.lower() in copied:
        name = sample.name + sample.file.suffix.lower()
        shutil.copyfile(sample.file, folder / name)
        return name
    pixels = sample.image.permute(1, 2, 0).numpy()
    channels = pixels.shape[2]
    is_gray = channels in (1, 3) and bool((pixels == pixels[:, :, :1]).all())
    if not (channels in (1, 3) if pixels.dtype == np.uint8 else is_gray and pixels.dtype == np.uint16):
        import tifffile

        name = f"{sample.name}.tif"
        kind = "rgb" if channels == 3 else "minisblack"
        tifffile.imwrite(folder / name, pixels, photometric=kind, planarconfig="contig", compression="zlib")
        return name
    name = f"{sample.name}.png"
    gray = channels == 1 or pixels.dtype == np.uint16
    Image.fromarray(pixels[:, :, 0] if gray else pixels).save(folder / name, compress_level=1)
    return name


def write_levels(path: Path, levels: NDArray[Any], palette: list[int] | None = None) -> None:
    """Write a single-channel image, uint8 or uint16 [H, W], as PNG; `palette` has r, g, b of each level."""
    image = Image.fromarray(levels)
    if palette is not None:
        image.putpalette(palette)
    image.save(path, compress_level=1, compress_type=zlib.Z_RLE)


def to_full_mask(masks: CroppedMasks, place: int) -> NDArray[np.uint8]:
    """Return one mask as uint8 [H, W], 255 inside."""
    canvas = np.zeros(masks.size, np.uint8)
    x1, y1, x2, y2 = masks.windows[place].tolist()
    canvas[y1:y2, x1:x2] = np.where(masks.window(place).numpy() >= 128, 255, 0)
    return canvas


def paint_label_image(masks: CroppedMasks, losses: Losses) -> Numbers:
    """Paint masks into a label image; where masks overlap, the smaller one is on top.

    Thereby small objects are not hidden by large ones or crowd regions. Objects that lose pixels are counted.

    Args:
        masks: N masks.
        losses: where objects that lose pixels are counted.

    Returns:
        int64 [H, W], 1 to N, 0 for background.
    """
    areas = masks.areas()
    order = torch.argsort(areas, stable=True)
    painted, kept = masks[order].to_label_image()
    places = np.concatenate([[0], order[kept].numpy() + 1]).astype(np.int64)[painted.numpy()]
    seen = np.bincount(places.ravel(), minlength=len(masks) + 1)[1:]
    hidden = seen == 0
    losses.add(
        "the overlapped pixels of {n} objects: a pixel has one label", int(((seen < areas.numpy()) & ~hidden).sum())
    )
    losses.add("{n} objects completely covered by smaller ones: a pixel has one label", int(hidden.sum()))
    return places
