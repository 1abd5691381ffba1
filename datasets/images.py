"""Image files as tensors: the one reader of training and prediction."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets.decoding import is_lossy as is_lossy
from datasets.decoding import opened as opened
from datasets.decoding import orientation as orientation
from datasets.decoding import stored_values as stored_values
from datasets.large_images import open_pixels
from maskrcnn.config import UserError

MAX_LABEL = 65_535
_LABEL_MODES = {"1", "L", "P", "I", "I;16", "I;16B", "I;16L"}


def read_image(path: Path) -> Tensor:
    """RGB pixels `[3, H, W]`, turned as EXIF says: uint8, or uint16 where the file holds more than 8 bits.

    Alpha is left out, gray is repeated. UserError as `open_pixels`.
    """
    with open_pixels(path) as image:
        return image.read(0, 0, *image.size)


def read_labels(path: Path) -> Tensor:
    """Instance numbers, int32 [H, W], 0 for background; gaps between them are fine.

    Raises:
        UserError: as ``opened``; a colour image; a number below 0 or above 65,535.
    """
    with opened(path) as image:
        if image.mode not in _LABEL_MODES:
            raise UserError(f"{path}: labels must be one channel of instance numbers, this is {image.mode}")
        numbers = stored_values(image).astype(np.int32)
    if numbers.size and not 0 <= numbers.min() <= numbers.max() <= MAX_LABEL:
        wrong = numbers.max() if numbers.max() > MAX_LABEL else numbers.min()
        raise UserError(f"{path}: instance number {wrong} is out of range: use 1 to {MAX_LABEL}, 0 for background")
    return torch.from_numpy(numbers)
