"""Masks stored as one image file each."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from datasets.checks import check_size
from maskrcnn.images.reading import get_stored_values, is_lossy, open_image_file
from maskrcnn.structures.masks import CroppedMasks

_SINGLE_CHANNEL = ("1", "L", "I", "I;16", "I;16B", "I;16L", "F")


def read_masks(paths: list[Path], size: tuple[int, int], threshold: int | None = None) -> tuple[CroppedMasks, Tensor]:
    """Read masks from one image file each, one decoded file in memory at a time.

    Args:
        paths: the mask files.
        size: image size (H, W).
        threshold: minimum gray level of mask pixels. Default: above 0, and in lossy files such as JPEG above half of
            the maximum, since compression leaves levels above 0 around objects.

    Returns:
        The N masks that are not empty, and their positions in `paths`, counted from 1, int64 [N].

    Raises:
        UserError: If a file is unreadable or has another size.
    """
    windows, levels, ids = [], [], []
    for number, path in enumerate(paths, start=1):
        with open_image_file(path) as file:
            check_size(path, (file.height, file.width), size)
            inside = _inside(file, threshold)
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        if len(rows):
            x1, y1, x2, y2 = window = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
            windows.append([int(each) for each in window])
            levels.append(torch.from_numpy(inside[y1:y2, x1:x2].astype(np.uint8) * 255))
            ids.append(number)
    boxes = torch.tensor(windows, dtype=torch.int32).reshape(-1, 4)
    return CroppedMasks.from_windows(boxes, levels, size), torch.tensor(ids, dtype=torch.int64)


def _inside(file: Image.Image, threshold: int | None) -> NDArray[np.bool_]:
    values = get_stored_values(file if file.mode in _SINGLE_CHANNEL else file.convert("RGB").convert("L"))
    if values.dtype == np.bool_:
        return values
    if threshold is not None:
        return np.asarray(values >= threshold)
    return np.asarray(values > (int(values.max(initial=0)) // 2 if is_lossy(file) else 0))
