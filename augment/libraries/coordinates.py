"""Transformation of masks by any library's geometry: a field of coordinates records where each pixel came from.

Other libraries' augmenters take dense masks, which cost N × H × W for N objects. Instead, a dense field of coordinates
is transformed like a mask, and masks are then sampled, window by window, at the recorded points. This costs the image's
area once, and otherwise only the area of the windows; it keeps soft levels, and unchanged levels where nothing moves.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from maskrcnn.ops.windows import bilinear_levels, pixel_bounds, window_offsets, window_pixels
from maskrcnn.structures.masks import CroppedMasks

# Below 1, because cubic interpolation overshoots and libraries clip heatmaps to [0, 1].
SCALE = 0.5
CHUNK_PIXELS = 1 << 18  # window pixels processed at a time, about 400 bytes each
SNAP_TOLERANCE = 1 / 128  # pixels; a smaller distance from a whole pixel is a rounding error
MAX_MIXED_SPREAD = 4.0  # square pixels: maximum variance of neighbors that interpolation mixes


def make_coordinate_field(size: tuple[int, int]) -> Tensor:
    """Make the field float32 `[4, H, W]` in [0, 0.5]: x, y, squared distance from the center, and 1, times `SCALE`.

    Coordinates are continuous and divided by the longer side. The last channel is the fraction of a pixel that shows
    the image: dividing by it undoes mixing with zero padding. The third channel reveals mixtures of distant points, as
    at the seams of a puzzle, whose mean is larger than the square of the mean point.
    """
    longest = max(size)
    y = (torch.arange(size[0], dtype=torch.float32)[:, None] + 0.5).expand(size) / longest
    x = (torch.arange(size[1], dtype=torch.float32)[None, :] + 0.5).expand(size) / longest
    return torch.stack([x, y, (x - 0.5) ** 2 + (y - 0.5) ** 2, torch.ones(size, dtype=torch.float32)]) * SCALE


def move_masks(masks: CroppedMasks, field: Tensor) -> CroppedMasks:
    """Sample masks at the points of a transformed field `[4, H', W']`, bilinearly, on a canvas of H' × W'.

    Pixels that show nothing of the old canvas, or a mixture of distant points, are outside of every mask.
    """
    size = (int(field.shape[1]), int(field.shape[2]))
    pixel, x, y, weight = _find_source_points(field.flatten(1), masks.size)
    parts = [_sample_masks(masks[part], pixel, x, y, weight, size) for part in _split(masks)]
    return CroppedMasks.cat(parts) if parts else CroppedMasks.empty(size)


def estimate_local_maps(field: Tensor, masks: CroppedMasks, size: tuple[int, int]) -> Tensor:
    """Estimate the linear map from old to new coordinates around each transformed mask, float64 `[N, 2, 2]`.

    Computed from differences of the transformed field across the mask; the identity where the field is not defined.
    `size` is that of the old canvas.
    """
    limit = torch.tensor([field.shape[2] - 1, field.shape[1] - 1])
    extent = masks.boxes()
    middle = ((extent[:, :2] + extent[:, 2:]) / 2 - 0.5).round().long().clamp(min=0).minimum(limit)
    reach = ((extent[:, 2:] - extent[:, :2]) / 2).ceil().long().clamp(min=2)
    columns = []
    valid = torch.ones(len(masks), dtype=torch.bool)
    for axis in (0, 1):
        step = torch.zeros_like(middle)
        step[:, axis] = reach[:, axis]
        ends = [(middle - step).clamp(min=0), torch.minimum(middle + step, limit)]
        places = []
        for x, y in (end.unbind(1) for end in ends):
            values = field[:, y, x].double()
            valid &= values[3] > SCALE / 2
            places.append(values[:2] / values[3].clamp(min=1e-9) * max(size))
        distance = (ends[1] - ends[0])[:, axis]
        valid &= distance > 0
        columns.append((places[1] - places[0]) / distance.clamp(min=1))
    inverse = torch.stack(columns, dim=-1).permute(1, 0, 2)  # [N, old axis, new axis]
    valid &= torch.linalg.det(inverse).abs() > 1e-6
    identity = torch.eye(2, dtype=torch.float64)
    return torch.linalg.inv(torch.where(valid[:, None, None], inverse, identity))


def _find_source_points(field: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Find the pixels that show the old canvas: index, x and y there (0 is a pixel's center), and covered fraction."""
    longest = max(size)
    weight = field[3] / SCALE
    x, y, square = field[:3] / field[3].clamp(min=1e-9)
    spread = (square - (x - 0.5) ** 2 - (y - 0.5) ** 2).abs() * longest**2
    x, y = x * longest - 0.5, y * longest - 0.5
    # A library's fill value, equal in all channels, gives a point far outside, or a weight above any overshoot.
    near = (x > -1) & (x < size[1] - 0.51) & (y > -1) & (y < size[0] - 0.51)
    shown = near & (weight > 0.02) & (weight < 1.5)
    if shown.any():  # where a region shrinks by averaging, every pixel is a mixture
        shown &= spread < MAX_MIXED_SPREAD + 8 * spread[shown].median()
    pixel = shown.nonzero()[:, 0]
    x, y = (_snap(each[pixel]).clamp(0, side - 1) for each, side in ((x, size[1]), (y, size[0])))
    return pixel, x, y, weight[pixel].clamp(max=1)


def _snap(position: Tensor) -> Tensor:
    whole = position.round()
    return torch.where((position - whole).abs() < SNAP_TOLERANCE, whole, position)


def _split(masks: CroppedMasks) -> Iterator[slice]:
    """Split masks into slices of about CHUNK_PIXELS window pixels, at least one mask each."""
    counts = torch.unique_consecutive(masks.offsets[:-1] // CHUNK_PIXELS, return_counts=True)[1].tolist()
    begin = 0
    for count in counts:
        yield slice(begin, begin + count)
        begin += count


def _sample_masks(
    masks: CroppedMasks, pixel: Tensor, x: Tensor, y: Tensor, weight: Tensor, size: tuple[int, int]
) -> CroppedMasks:
    """Sample masks on a canvas of `size` whose pixel `pixel[i]` shows the point (x[i], y[i]) of the old canvas."""
    at, owner = _pair_points_with_masks(masks, x.long(), y.long())
    x, y, weight, pixel = x[at], y[at], weight[at], pixel[at]
    levels = (bilinear_levels(masks.parts, owner, x, y) * weight).round().to(torch.uint8)
    visible = levels.nonzero()[:, 0]
    owner, levels, pixel = owner[visible], levels[visible], pixel[visible]
    x, y = pixel % size[1], pixel // size[1]
    windows = pixel_bounds(owner, x, y, len(masks))
    offsets = window_offsets(windows)
    data = torch.zeros(int(offsets[-1]), dtype=torch.uint8)
    x1, y1, x2, _ = windows[owner].unbind(1)
    data[offsets[owner] + (y - y1) * (x2 - x1) + x - x1] = levels
    return CroppedMasks(windows.int(), offsets, data, size)


def _pair_points_with_masks(masks: CroppedMasks, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return all pairs (point, mask) for which the cell of the point, with top left pixel (x, y), meets the window."""
    height, width = masks.size
    windows = masks.windows.long()
    windows = torch.cat([(windows[:, :2] - 1).clamp(min=0), windows[:, 2:]], dim=1)
    owner, window_x, window_y = window_pixels(windows)
    place = window_y * width + window_x
    owner = owner[place.argsort()]  # masks at the same place are now adjacent
    counts = torch.bincount(place, minlength=height * width)
    first = counts.cumsum(0) - counts
    point_place = y * width + x
    point = counts[point_place].nonzero()[:, 0]
    point_place = point_place[point]
    repeats = counts[point_place]
    at = torch.repeat_interleave(torch.arange(len(point)), repeats)
    rank = torch.arange(len(at)) - (repeats.cumsum(0) - repeats)[at]
    return point[at], owner[first[point_place][at] + rank]
