"""Flips, transposes and crops of a sample: image, boxes and masks moved as one, exactly.

A sample is an image ``[C, H, W]`` (uint8, or float in [0, 1]) and its ``Instances``. Every function returns a new
sample and leaves the given one as it was. Boxes of truths that have masks are derived from the moved masks; boxes
without masks, and those of predictions (which have scores), are moved themselves.
"""

from dataclasses import replace

import torch
from torch import Tensor

from augment.config import PAD_MODES
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks

Sample = tuple[Tensor, Instances]


def flip(image: Tensor, instances: Instances, horizontal: bool = False, vertical: bool = False) -> Sample:
    """Mirror a sample left to right (``horizontal``), upside down (``vertical``), or both.

    ``image [C, H, W]`` keeps its size. Raises ``ValueError`` when the image's and the instances' sizes differ.
    """
    _check_sizes(image, instances)
    axes = [axis for axis, wanted in ((2, horizontal), (1, vertical)) if wanted]
    return image.flip(axes), _flip_instances(instances, horizontal, vertical)


def transpose(image: Tensor, instances: Instances) -> Sample:
    """Swap rows and columns: ``image [C, H, W]`` becomes ``[C, W, H]``, the pixel (row i, column j) goes to (j, i).

    Raises ``ValueError`` when the image's and the instances' sizes differ.
    """
    _check_sizes(image, instances)
    height, width = instances.size
    masks = None if instances.masks is None else instances.masks.transpose()
    moved = _moved(instances, (width, height), instances.boxes[:, [1, 0, 3, 2]], masks)
    return image.transpose(1, 2).contiguous(), moved


def crop(
    image: Tensor,
    instances: Instances,
    x: int,
    y: int,
    height: int,
    width: int,
    mode: str = "constant",
    min_visible_fraction: float = 0.25,
) -> Sample:
    """Cut out the window of ``height`` × ``width`` pixels that begins at the pixel (row ``y``, column ``x``).

    The window may begin before the image and end after it. What it shows there is up to ``mode``: ``constant`` black,
    ``replicate`` the nearest edge pixel, ``reflect`` the image mirrored about the centre of its edge pixels, again and
    again where the window is larger (``numpy.pad``'s ``edge`` and ``reflect``).

    Objects (their masks; their boxes where there are no masks) are clipped to the image and to the window. Those with
    nothing left are dropped; those cut to less than ``min_visible_fraction`` of what they were are set to ``ignore``;
    all keep their ids. Mirrored objects under ``reflect`` come last, with their originals' labels and ids, and set to
    ``ignore``: they look like objects, so as background they would teach the wrong thing. ``replicate`` smears objects
    that touch the edge over the padding, where nothing is labelled.

    image: ``[C, H, W]``, any dtype; becomes ``[C, height, width]`` in memory of its own. A window with no object in
    it is a valid sample. Raises ``ValueError`` for a window without pixels, an unknown mode, or when the image's and
    the instances' sizes differ.
    """
    _check_sizes(image, instances)
    if height < 1 or width < 1:
        raise ValueError(f"cannot crop to {height} x {width} pixels: height and width must be at least 1")
    pixels = _crop_image(image, x, y, height, width, mode)
    inside = _crop_instances(instances, x, y, height, width, min_visible_fraction)
    if mode != "reflect":
        return pixels, inside
    return pixels, Instances.cat([inside, *_mirrored_instances(instances, x, y, height, width)])


def _crop_image(image: Tensor, x: int, y: int, height: int, width: int, mode: str) -> Tensor:
    rows, columns = torch.arange(y, y + height), torch.arange(x, x + width)
    if mode != "constant":
        rows = _source_pixels(rows, image.shape[1], mode).to(image.device)
        columns = _source_pixels(columns, image.shape[2], mode).to(image.device)
        return image[:, rows][:, :, columns]
    # Filled rather than sliced: a view would carry the memory of the whole image from a worker to the trainer.
    window = image.new_zeros((image.shape[0], height, width))
    part = image[:, max(y, 0) : max(y + height, 0), max(x, 0) : max(x + width, 0)]
    top, left = max(-y, 0), max(-x, 0)
    window[:, top : top + part.shape[1], left : left + part.shape[2]] = part
    return window


def _source_pixels(positions: Tensor, length: int, mode: str) -> Tensor:
    """For each position on an axis, the pixel in [0, length) that is shown there."""
    if mode == "replicate":
        return positions.clamp(0, length - 1)
    if mode == "reflect":
        period = max(2 * (length - 1), 1)
        return (positions.remainder(period) - (length - 1)).abs().neg() + (length - 1)
    raise ValueError(f'unknown padding mode "{mode}": one of {", ".join(PAD_MODES)}')


def _crop_instances(
    instances: Instances, x: int, y: int, height: int, width: int, min_visible_fraction: float
) -> Instances:
    """The objects of the image proper that lie in a window, those cut too much set to ignore."""
    limits = instances.boxes.new_tensor([width, height, width, height])
    boxes = instances.boxes - instances.boxes.new_tensor([x, y, x, y])
    boxes = torch.minimum(boxes.clamp(min=0), limits)
    masks = None if instances.masks is None else instances.masks.crop(x, y, height, width)
    moved = _moved(instances, (height, width), boxes, masks)
    visible, before = _areas(moved), _areas(instances)
    ignore = moved.ignore | (visible < min_visible_fraction * before)
    return replace(moved, ignore=ignore)[visible > 0]


def _mirrored_instances(instances: Instances, x: int, y: int, height: int, width: int) -> list[Instances]:
    """The objects in the mirror images that a window shows beside the image itself, all set to ignore.

    Mirrored about the centres of its edge pixels, an image of length L repeats with a step of L − 1; every other copy
    is flipped.
    """
    step_y, step_x = (max(length - 1, 1) for length in instances.size)
    copies = []
    for tile_y in _touched_tiles(y, height, instances.size[0]):
        for tile_x in _touched_tiles(x, width, instances.size[1]):
            if tile_y == tile_x == 0:
                continue
            copy = _flip_instances(instances, horizontal=tile_x % 2 == 1, vertical=tile_y % 2 == 1)
            copy = _crop_instances(copy, x - tile_x * step_x, y - tile_y * step_y, height, width, 0.0)
            copies.append(replace(copy, ignore=torch.ones_like(copy.ignore)))
    return copies


def _touched_tiles(start: int, length: int, image_length: int) -> range:
    """Numbers of the copies of the image that show along one axis of the window [start, start + length)."""
    if image_length == 1:  # one pixel mirrored is that pixel: nothing repeats
        return range(1)
    step = image_length - 1
    # A window that ends on the pixel two copies share shows only the nearer one.
    return range(start // step, max(-((1 - start - length) // step), start // step + 1))


def _flip_instances(instances: Instances, horizontal: bool, vertical: bool) -> Instances:
    height, width = instances.size
    x1, y1, x2, y2 = instances.boxes.unbind(1)
    if horizontal:
        x1, x2 = width - x2, width - x1
    if vertical:
        y1, y2 = height - y2, height - y1
    masks = None if instances.masks is None else instances.masks.flip(horizontal=horizontal, vertical=vertical)
    return _moved(instances, instances.size, torch.stack([x1, y1, x2, y2], dim=1), masks)


def _moved(instances: Instances, size: tuple[int, int], boxes: Tensor, masks: CroppedMasks | None) -> Instances:
    """The same objects elsewhere. Truths take their boxes from their masks, so that boxes stay tight."""
    if masks is not None and instances.scores is None:
        boxes = masks.boxes()
    return replace(instances, size=size, boxes=boxes, masks=masks)


def _areas(instances: Instances) -> Tensor:
    """Pixels inside each object, float32 ``[N]``: of the masks of truths, else of the boxes."""
    if instances.masks is not None and instances.scores is None:
        return instances.masks.areas().to(torch.float32)
    x1, y1, x2, y2 = instances.boxes.unbind(1)
    return (x2 - x1) * (y2 - y1)


def _check_sizes(image: Tensor, instances: Instances) -> None:
    if image.dim() != 3 or tuple(image.shape[1:]) != tuple(instances.size):
        shape = list(image.shape)
        raise ValueError(
            f"image of shape {shape} does not fit instances of size {tuple(instances.size)}: [C, H, W] expected"
        )
