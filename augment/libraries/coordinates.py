"""Masks moved by anyone's geometry: a field of coordinates goes through it, and says where each pixel came from.

Others' augmenters take dense masks. For N objects those cost N × H × W, so one dense field goes instead: it is moved
as a mask would be, and masks then look up, window by window, what each new pixel shows. This costs the image's area
once and then only what is in the windows, keeps soft levels, and leaves levels as they were where nothing moves.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from maskrcnn.ops import reference_masks as reference
from maskrcnn.structures.masks import CroppedMasks

# Below 1, because cubic interpolation overshoots and libraries clip what they call a heatmap to [0, 1].
SCALE = 0.5
CHUNK = 1 << 18  # window pixels looked up at a time: each needs some 400 bytes
SNAP = 1 / 128  # pixels; nearer to a whole pixel than this is rounding
MIXED = 4.0  # square pixels: neighbours that interpolation mixes spread less than this


def coordinate_field(size: tuple[int, int]) -> Tensor:
    """float32 `[4, H, W]` in [0, 0.5]: x, y, squared distance from the middle, and 1, all times `SCALE`.

    In continuous coordinates over the longer side. The last channel is how much of a pixel is image: dividing by it
    undoes what padding with zeros mixed in. The third tells places that were mixed though they lie far apart, as at
    the seams of a puzzle: its mean is then more than the square of the mean place.
    """
    longest = max(size)
    y = (torch.arange(size[0], dtype=torch.float32)[:, None] + 0.5).expand(size) / longest
    x = (torch.arange(size[1], dtype=torch.float32)[None, :] + 0.5).expand(size) / longest
    return torch.stack([x, y, (x - 0.5) ** 2 + (y - 0.5) ** 2, torch.ones(size)]) * SCALE


def move_masks(masks: CroppedMasks, field: Tensor) -> CroppedMasks:
    """The masks as seen through a moved field, `[4, H', W']`, on a canvas of H' × W'; levels bilinear.

    Pixels that show nothing of the old canvas, or a mixture of places far apart, are outside of every mask.
    """
    size = (int(field.shape[1]), int(field.shape[2]))
    pixel, x, y, weight = _sources(field.flatten(1), masks.size)
    parts = [_looked_up(masks[part], pixel, x, y, weight, size) for part in _parts(masks)]
    return CroppedMasks.cat(parts) if parts else CroppedMasks.empty(size)


def local_maps(field: Tensor, masks: CroppedMasks, size: tuple[int, int]) -> Tensor:
    """Linear maps from old to new coordinates about each moved mask, float64 `[N, 2, 2]`.

    Taken from differences of the moved field across the mask; the identity where the field does not tell. `size` is
    that of the old canvas.
    """
    limit = torch.tensor([field.shape[2] - 1, field.shape[1] - 1])
    extent = masks.boxes()
    middle = ((extent[:, :2] + extent[:, 2:]) / 2 - 0.5).round().long().clamp(min=0).minimum(limit)
    reach = ((extent[:, 2:] - extent[:, :2]) / 2).ceil().long().clamp(min=2)
    columns = []
    told = torch.ones(len(masks), dtype=torch.bool)
    for axis in (0, 1):
        step = torch.zeros_like(middle)
        step[:, axis] = reach[:, axis]
        ends = [(middle - step).clamp(min=0), torch.minimum(middle + step, limit)]
        places = []
        for x, y in (end.unbind(1) for end in ends):
            values = field[:, y, x].double()
            told &= values[3] > SCALE / 2
            places.append(values[:2] / values[3].clamp(min=1e-9) * max(size))
        distance = (ends[1] - ends[0])[:, axis]
        told &= distance > 0
        columns.append((places[1] - places[0]) / distance.clamp(min=1))
    inverse = torch.stack(columns, dim=-1).permute(1, 0, 2)  # [N, old axis, new axis]
    told &= torch.linalg.det(inverse).abs() > 1e-6
    identity = torch.eye(2, dtype=torch.float64)
    return torch.linalg.inv(torch.where(told[:, None, None], inverse, identity))


def _sources(field: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of the new pixels that show the old canvas: number, x and y there (0 is a pixel's centre), and how much of it."""
    longest = max(size)
    weight = field[3] / SCALE
    x, y, square = field[:3] / field[3].clamp(min=1e-9)
    spread = (square - (x - 0.5) ** 2 - (y - 0.5) ** 2).abs() * longest**2
    x, y = x * longest - 0.5, y * longest - 0.5
    # Fill values of others' making, alike in all channels, show a point far outside or a weight beyond any overshoot.
    near = (x > -1) & (x < size[1] - 0.51) & (y > -1) & (y < size[0] - 0.51)
    shown = near & (weight > 0.02) & (weight < 1.5)
    if shown.any():  # where whole regions shrank, as averages do, every pixel is a mixture
        shown &= spread < MIXED + 8 * spread[shown].median()
    pixel = shown.nonzero()[:, 0]
    x, y = (_snapped(each[pixel]).clamp(0, side - 1) for each, side in ((x, size[1]), (y, size[0])))
    return pixel, x, y, weight[pixel].clamp(max=1)


def _snapped(position: Tensor) -> Tensor:
    whole = position.round()
    return torch.where((position - whole).abs() < SNAP, whole, position)


def _parts(masks: CroppedMasks) -> Iterator[slice]:
    """Runs of masks of about CHUNK window pixels; one mask at least."""
    counts = torch.unique_consecutive(masks.offsets[:-1] // CHUNK, return_counts=True)[1].tolist()
    begin = 0
    for count in counts:
        yield slice(begin, begin + count)
        begin += count


def _looked_up(
    masks: CroppedMasks, pixel: Tensor, x: Tensor, y: Tensor, weight: Tensor, size: tuple[int, int]
) -> CroppedMasks:
    """Masks on a canvas of `size` whose pixel number `pixel[i]` shows the point (x[i], y[i]) of the old one."""
    at, owner = _pairs(masks, x.long(), y.long())
    x, y, weight, pixel = x[at], y[at], weight[at], pixel[at]
    levels = (reference.bilinear(masks.parts, owner, x, y) * weight).round().to(torch.uint8)
    seen = levels.nonzero()[:, 0]
    owner, levels, pixel = owner[seen], levels[seen], pixel[seen]
    x, y = pixel % size[1], pixel // size[1]
    windows = reference.bounds(owner, x, y, len(masks))
    offsets = reference.offsets_of(windows)
    data = torch.zeros(int(offsets[-1]), dtype=torch.uint8)
    x1, y1, x2, _ = windows[owner].unbind(1)
    data[offsets[owner] + (y - y1) * (x2 - x1) + x - x1] = levels
    return CroppedMasks(windows.int(), offsets, data, size)


def _pairs(masks: CroppedMasks, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """All (point, mask) where the point's cell, whose top left pixel is (x, y), touches the mask's window."""
    height, width = masks.size
    windows = masks.windows.long()
    windows = torch.cat([(windows[:, :2] - 1).clamp(min=0), windows[:, 2:]], dim=1)
    owner, window_x, window_y = reference.window_pixels(windows)
    place = window_y * width + window_x
    owner = owner[place.argsort()]  # now all masks at one place stand together
    counts = torch.bincount(place, minlength=height * width)
    first = counts.cumsum(0) - counts
    point_place = y * width + x
    point = counts[point_place].nonzero()[:, 0]
    point_place = point_place[point]
    repeats = counts[point_place]
    at = torch.repeat_interleave(torch.arange(len(point)), repeats)
    rank = torch.arange(len(at)) - (repeats.cumsum(0) - repeats)[at]
    return point[at], owner[first[point_place][at] + rank]
