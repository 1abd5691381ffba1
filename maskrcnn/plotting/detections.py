"""Detections drawn on their image in one call."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from PIL import Image

from maskrcnn.config import UserError
from maskrcnn.images.inputs import open_image
from maskrcnn.images.large import LargeImage
from maskrcnn.plotting.predictions import check_picture_path, render_detections, save_picture
from maskrcnn.structures.instances import Instances


def plot_detections(
    detections: Instances,
    image: Any,
    path: str | os.PathLike[str] | None = None,
    min_score: float | None = None,
    class_names: Sequence[str] | None = None,
) -> Image.Image:
    """Draw detections on an image.

    Args:
        detections: with scores.
        image: a path, a PIL image, a NumPy array or a tensor, of the size of the detections.
        path: PNG, JPEG, TIFF or WebP file to write; default: none.
        min_score: minimum score of the detections that are drawn; default: all are drawn.
        class_names: names of labels 1 to K.

    Returns:
        The picture.

    Raises:
        ValueError: no image, an image of another size, detections without scores, or a file that is not writable.
    """
    if path is not None:
        check_picture_path(path)
    if image is None:
        raise ValueError("these detections do not know their image; give image=…")
    if detections.scores is None:
        raise ValueError("these instances have no scores; only predictions can be drawn")
    image = image.as_stored() if isinstance(image, LargeImage) else image
    with open_image(image, as_stored=True, channels=0) as pixels:
        if tuple(pixels.size) != tuple(detections.size):
            sizes = f"the image is {tuple(pixels.size)}, but the detections are for {tuple(detections.size)} (H, W)"
            raise ValueError(sizes)
        shown = pixels.read(0, 0, *pixels.size)
    head = "faster_rcnn" if detections.masks is None else "mask_rcnn"
    picture = render_detections(shown, detections.cpu(), head, min_score, class_names)
    if path is not None:
        try:
            save_picture(picture, path)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
    return Image.fromarray(picture)
