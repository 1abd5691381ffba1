"""Masks kept as one image file each."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from datasets.checks import check_size
from maskrcnn.images.reading import is_lossy, opened, stored_values
from maskrcnn.structures.masks import CroppedMasks

_SINGLE_CHANNEL = ("1", "L", "I", "I;16", "I;16B", "I;16L", "F")


def read_masks(paths: list[Path], size: tuple[int, int], threshold: int | None = None) -> tuple[CroppedMasks, Tensor]:
    """Masks from one image file each, inside where its gray is ``threshold`` or more, on a canvas ``size`` (H, W).

    Without a threshold inside is what is above 0, and in lossy files, such as JPEG, what is above half of the maximum:
    compression leaves levels above 0 around an object. Returns the masks that are not empty and their places in
    ``paths`` counted from 1, int64 [N]. Only one decoded file is in memory at a time. UserError for an unreadable file
    or another size.
    """
    windows, levels, ids = [], [], []
    for number, path in enumerate(paths, start=1):
        with opened(path) as file:
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
    values = stored_values(file if file.mode in _SINGLE_CHANNEL else file.convert("RGB").convert("L"))
    if values.dtype == np.bool_:
        return values
    if threshold is not None:
        return np.asarray(values >= threshold)
    return np.asarray(values > (int(values.max(initial=0)) // 2 if is_lossy(file) else 0))
