"""Masks kept as one image file each."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets.checks import check_size
from datasets.images import opened
from maskrcnn.structures.masks import CroppedMasks


def read_masks(paths: list[Path], size: tuple[int, int], threshold: int = 1) -> tuple[CroppedMasks, Tensor]:
    """Masks from one image file each, inside where its grey is ``threshold`` or more, on a canvas ``size`` (H, W).

    Returns the masks that are not empty and their places in ``paths`` counted from 1, int64 [N]. Only one decoded file
    is in memory at a time. UserError for an unreadable file or another size.
    """
    windows, levels, ids = [], [], []
    for number, path in enumerate(paths, start=1):
        with opened(path) as file:
            check_size(path, (file.height, file.width), size)
            mask = file if file.mode == "L" else file.convert("L" if file.mode == "1" else "RGB").convert("L")
            if threshold > 1:
                mask = mask.point([255 * (level >= threshold) for level in range(256)])
            window = mask.getbbox()
            if window is not None:
                inside = np.asarray(mask.crop(window)) > 0
                windows.append(window)
                levels.append(torch.from_numpy(inside.astype(np.uint8) * 255))
                ids.append(number)
    boxes = torch.tensor(windows, dtype=torch.int32).reshape(-1, 4)
    return CroppedMasks.from_windows(boxes, levels, size), torch.tensor(ids, dtype=torch.int64)
