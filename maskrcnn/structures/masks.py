"""N masks on one canvas, each stored as a window and the pixels inside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskrcnn.ops import masks as ops
from maskrcnn.ops.rle import decode_rle, encode_rle
from maskrcnn.ops.types import Windows
from maskrcnn.ops.windows import pixel_bounds, window_offsets, window_pixels
from maskrcnn.structures.outlines import Polygon, trace_outlines

_MAX_DENSE_PIXELS = 1 << 26  # pixels of dense masks converted at once
_MAX_COORDINATE = 2_000_000  # of polygon points, in pixels; bounds the cost of filling


@dataclass(frozen=True, eq=False)
class CroppedMasks:
    """N masks that take the memory of their windows instead of N × H × W.

    Attributes:
        windows: int32 `[N, 4]`, x1 y1 x2 y2 (end exclusive), inside the canvas; windows may be empty.
        offsets: int64 `[N + 1]`, start of each mask's levels in `data`.
        data: uint8 `[total area of the windows]`, row-major, one level (0 to 255) per pixel; a pixel with a level of
            at least 128 is inside the mask.
        size: size of the canvas (H, W).
    """

    windows: Tensor
    offsets: Tensor
    data: Tensor
    size: tuple[int, int]

    def __post_init__(self) -> None:
        if self.windows.ndim != 2 or self.windows.shape[1] != 4 or self.offsets.shape != (len(self.windows) + 1,):
            raise ValueError(
                f"windows must be [N, 4] and offsets [N + 1], "
                f"got {list(self.windows.shape)} and {list(self.offsets.shape)}"
            )

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore and check masks that were pickled, or saved with `torch.save`."""
        self.__dict__.update(state)
        self.__post_init__()

    @staticmethod
    def empty(size: tuple[int, int]) -> "CroppedMasks":
        """Return `CroppedMasks` without masks on a canvas of `size` (H, W)."""
        windows = torch.zeros(0, 4, dtype=torch.int32)
        return CroppedMasks(windows, torch.zeros(1, dtype=torch.int64), torch.zeros(0, dtype=torch.uint8), size)

    @staticmethod
    def from_windows(windows: Tensor, levels: Sequence[Tensor], size: tuple[int, int]) -> "CroppedMasks":
        """Create masks from windows and levels.

        Args:
            windows: int `[N, 4]`, x1 y1 x2 y2 (end exclusive).
            levels: uint8 `[h, w]` for each window.
            size: size of the canvas (H, W).

        Raises:
            ValueError: If a window exceeds the canvas, or its levels have another size; names the mask.
        """
        windows = windows.to(torch.int32).reshape(-1, 4)
        if len(windows) != len(levels):
            raise ValueError(f"got {len(windows)} windows, but levels of {len(levels)} masks")
        for i, ((x1, y1, x2, y2), level) in enumerate(zip(windows.tolist(), levels, strict=True)):
            if not (0 <= x1 <= x2 <= size[1] and 0 <= y1 <= y2 <= size[0]):
                raise ValueError(f"window {i}, {[x1, y1, x2, y2]}, exceeds the canvas of {size[0]} x {size[1]} pixels")
            if level.shape != (y2 - y1, x2 - x1):
                raise ValueError(f"levels {i} are {list(level.shape)}, but their window is {[y2 - y1, x2 - x1]}")
        data = torch.cat([level.reshape(-1).to(torch.uint8) for level in levels]) if levels else torch.zeros(0)
        return CroppedMasks(windows, window_offsets(windows), data.to(torch.uint8), size)

    @staticmethod
    def from_boxes(boxes: Tensor, size: tuple[int, int]) -> "CroppedMasks":
        """Create filled masks of boxes `[N, 4]`; the sides are rounded to whole pixels and clipped to the canvas."""
        limit = torch.tensor([size[1], size[0]], device=boxes.device)
        low = torch.minimum(boxes[:, :2].round().clamp(min=0), limit)
        high = torch.maximum(torch.minimum(boxes[:, 2:].round(), limit), low)
        windows = torch.cat([low, high], dim=1).int()
        offsets = window_offsets(windows)
        data = torch.full((int(offsets[-1]),), 255, dtype=torch.uint8, device=boxes.device)
        return CroppedMasks(windows, offsets, data, size)

    @staticmethod
    def from_dense(masks: Tensor) -> "CroppedMasks":
        """Convert dense masks `[N, H, W]`: bool, or uint8 or float in [0, 1] with values above .5 inside."""
        size = (int(masks.shape[1]), int(masks.shape[2]))
        step = max(1, _MAX_DENSE_PIXELS // max(1, size[0] * size[1]))
        if len(masks) > step:  # torch.nonzero takes many times the memory of the masks
            return CroppedMasks.cat([CroppedMasks.from_dense(part) for part in masks.split(step)])
        owner, y, x = torch.nonzero(masks if masks.dtype == torch.bool else masks > 0, as_tuple=True)
        windows = pixel_bounds(owner, x, y, len(masks)).int()
        owner, x, y = window_pixels(windows)
        value = masks[owner, y, x]
        levels = (value.float() * 255).round().clamp(0, 255).to(torch.uint8)
        return CroppedMasks(windows, window_offsets(windows), levels, size)

    @staticmethod
    def from_label_image(labels: Tensor, ids: Tensor | None = None) -> "CroppedMasks":
        """Convert a label image int `[H, W]`, in the order of `ids` (default: all ids in the image, ascending)."""
        ids = torch.unique(labels[labels > 0]) if ids is None else ids
        labels = labels if labels.dtype == torch.int64 else labels.int()
        parts = ops.masks_from_label_image(labels, ids.long())
        return CroppedMasks(*parts, (int(labels.shape[0]), int(labels.shape[1])))

    @staticmethod
    def from_rle(codes: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> "CroppedMasks":
        """Decode COCO run-length codes, `{"size": [H, W], "counts": str or list}` for each mask.

        Raises:
            ValueError: If a code has another size, no counts, or counts that do not add up to its size.
        """
        for i, code in enumerate(codes):
            if not {"size", "counts"} <= code.keys():
                raise ValueError(f"run-length code {i} has no {'counts' if 'size' in code else 'size'}")
            if tuple(code["size"]) != tuple(size):
                raise ValueError(f"run-length code {i} is for size {list(code['size'])}, but the image is {list(size)}")
        return CroppedMasks(*decode_rle([code["counts"] for code in codes], size), size)

    @staticmethod
    def from_polygons(polygons: Sequence[Sequence[Sequence[float]]], size: tuple[int, int]) -> "CroppedMasks":
        """Fill COCO polygons with the same result as the COCO API.

        Args:
            polygons: for each mask a list of rings `[x0, y0, x1, y1, …]`; a mask without rings is empty.
            size: size of the canvas (H, W).

        Raises:
            ValueError: If a ring has fewer than three points, an odd number of values, or values that are not finite
                or too large; names the mask.
        """
        codes = []
        for i, rings in enumerate(polygons):
            outlines = [np.asarray(ring, dtype=np.float64).ravel() for ring in rings]
            if any(len(ring) < 6 or len(ring) % 2 or not np.isfinite(ring).all() for ring in outlines):
                raise ValueError(f"polygon {i}: a ring must be at least three finite points [x0, y0, x1, y1, …]")
            if any(np.abs(ring).max() > _MAX_COORDINATE for ring in outlines):
                raise ValueError(f"polygon {i}: a coordinate exceeds {_MAX_COORDINATE} pixels")
            codes.append(fill_polygons(outlines, size))
        return CroppedMasks.from_rle(codes, size)

    @staticmethod
    def cat(masks: Sequence["CroppedMasks"]) -> "CroppedMasks":
        """Concatenate masks on canvases of one size."""
        if len({m.size for m in masks}) != 1:
            raise ValueError(f"masks must share one canvas, got {sorted({m.size for m in masks})}")
        windows = torch.cat([m.windows for m in masks])
        data = torch.cat([m.data for m in masks])
        return CroppedMasks(windows, window_offsets(windows), data, masks[0].size)

    @property
    def parts(self) -> Windows:
        """Tensors in the form that `maskrcnn.ops.masks` takes."""
        return Windows(self.windows, self.offsets, self.data)

    def __len__(self) -> int:
        return len(self.windows)

    def __repr__(self) -> str:
        return f"CroppedMasks({len(self)} on {self.size[0]} x {self.size[1]}, {len(self.data)} pixels in windows)"

    def __getitem__(self, index: int | slice | Tensor) -> "CroppedMasks":
        """Select masks by an index, a slice, or a bool or int tensor; always returns `CroppedMasks`."""
        chosen = torch.arange(len(self), device=self.windows.device)[index].reshape(-1)
        return CroppedMasks(*ops.pick_masks(self.parts, chosen), self.size)

    def replace_at(self, index: Tensor, others: "CroppedMasks") -> "CroppedMasks":
        """Return the masks with those at int64 `index` replaced by `others`, one for each index."""
        place = torch.arange(len(self), device=self.windows.device)
        place[index] = len(self) + torch.arange(len(others), device=place.device)
        return CroppedMasks.cat([self, others])[place]

    def to(self, device: torch.device | str) -> "CroppedMasks":
        """Move all tensors to a device."""
        return CroppedMasks(self.windows.to(device), self.offsets.to(device), self.data.to(device), self.size)

    def window(self, i: int) -> Tensor:
        """Return the levels of mask `i` in its window, uint8 `[h, w]`, as a view of `data`."""
        x1, y1, x2, y2 = self.windows[i].tolist()
        return self.data[int(self.offsets[i]) : int(self.offsets[i + 1])].view(y2 - y1, x2 - x1)

    def boxes(self) -> Tensor:
        """Return tight boxes of the pixels inside each mask (end exclusive), float32 `[N, 4]`; zeros if it is empty."""
        return self._measured[1].clone()

    def areas(self) -> Tensor:
        """Return the number of pixels inside each mask, int64 `[N]`."""
        return self._measured[0].clone()

    @cached_property
    def _measured(self) -> tuple[Tensor, Tensor]:
        """Areas and tight boxes, cached because both are used together and repeatedly."""
        areas, boxes = ops.measure_masks(self.parts)
        return areas, boxes.float()

    def fill_empty(self, boxes: Tensor) -> "CroppedMasks":
        """Give each empty mask the pixel with its highest level, or that at the center of its box `[N, 4]`."""
        empty = torch.nonzero(self.areas() == 0).flatten()
        if len(empty) == 0:
            return self
        part = self[empty]
        owner = torch.repeat_interleave(part.offsets.diff())
        peak = part.data.new_zeros(len(empty)).scatter_reduce(0, owner, part.data, "amax")
        index = torch.nonzero((part.data == peak[owner]) & (part.data > 0)).flatten()
        first = torch.full_like(empty, len(part.data)).scatter_reduce(0, owner[index], index, "amin")
        data = part.data.clone()
        data[first[peak > 0]] = 128
        limit = boxes.new_tensor([self.size[1] - 1, self.size[0] - 1])
        center = torch.minimum(((boxes[:, :2] + boxes[:, 2:])[empty] / 2).floor().clamp(min=0), limit)
        pixels = CroppedMasks.from_boxes(torch.cat([center, center + 1], dim=1), self.size)
        part = replace(part, data=data).replace_at(torch.nonzero(peak == 0).flatten(), pixels[peak == 0])
        return self.replace_at(empty, part)

    def crop(self, x: int, y: int, height: int, width: int) -> "CroppedMasks":
        """Crop to a canvas of `height` × `width` whose origin is at (x, y); pixels outside this canvas are empty."""
        return CroppedMasks(*ops.crop_masks(self.parts, x, y, (height, width)), (height, width))

    def flip(self, horizontal: bool = False, vertical: bool = False) -> "CroppedMasks":
        """Flip left to right, upside down, or both."""
        return CroppedMasks(*ops.flip_masks(self.parts, self.size, horizontal, vertical), self.size)

    def transpose(self) -> "CroppedMasks":
        """Swap x and y."""
        return CroppedMasks(*ops.transpose_masks(self.parts), (self.size[1], self.size[0]))

    def resize(self, size: tuple[int, int]) -> "CroppedMasks":
        """Resize to a canvas of `size` (H, W) with nearest-neighbor interpolation."""
        return CroppedMasks(*ops.resize_masks(self.parts, self.size, size), size)

    def warp(self, matrix: Tensor, size: tuple[int, int]) -> "CroppedMasks":
        """Warp by an affine map to a canvas of `size` (H, W).

        Args:
            matrix: `[2, 3]`, from old to new continuous pixel coordinates.
            size: size of the new canvas (H, W).

        Returns:
            Masks with bilinear levels, antialiased if they shrink.
        """
        return CroppedMasks(*ops.warp_masks(self.parts, matrix, size), size)

    def sample(
        self,
        boxes: Tensor,
        output_size: int,
        index: Tensor | None = None,
        sampling_ratio: int = 0,
        aligned: bool = True,
        soft: bool = True,
    ) -> Tensor:
        """Sample mask `index[k]` (default: k) inside box k, float32 `[K, S, S]`; see `ops.masks.sample_masks`."""
        index = torch.arange(len(self), device=boxes.device) if index is None else index
        return ops.sample_masks(self.parts, self.size, boxes, index, output_size, sampling_ratio, aligned, soft)

    def iou(self, other: "CroppedMasks") -> tuple[Tensor, Tensor, Tensor]:
        """Compute (rows, columns, IoU) of all overlapping pairs."""
        return ops.mask_iou(self.parts, other.parts)

    def to_rle(self) -> list[dict[str, Any]]:
        """Encode each mask as a compressed COCO run-length code."""
        return [{"size": list(self.size), "counts": counts} for counts in encode_rle(self.parts, self.size)]

    def to_polygons(self) -> list[list[list[float]]]:
        """Return the outlines of each mask along the edges of its pixels, as COCO polygons `[x0, y0, x1, y1, …]`.

        Each part of a mask (4 neighbors) has a polygon of at least four points, single pixels, too. Holes are filled.
        """
        return [[polygon[0].ravel().astype(float).tolist() for polygon in self.trace(i)] for i in range(len(self))]

    def trace(self, i: int) -> list[Polygon]:
        """Trace the outlines of mask `i` along the edges of its pixels: each part with its holes, exactly."""
        corner = self.windows[i, :2].cpu().numpy()
        polygons = trace_outlines((self.window(i) >= 128).cpu().numpy())
        return [[ring + corner for ring in polygon] for polygon in polygons]

    def to_label_image(self, min_visible_fraction: float = 0.0) -> tuple[Tensor, Tensor]:
        """Paint a label image with the first mask on top; see `maskrcnn.ops.masks.label_image`.

        Returns:
            Labels int32 `[H, W]`, and bool `[N]`: which masks were painted.
        """
        return ops.label_image(self.parts, self.size, min_visible_fraction)

    def to_dense(self) -> Tensor:
        """Convert to dense masks, bool `[N, H, W]`; takes N × H × W bytes."""
        dense = torch.zeros(len(self), *self.size, dtype=torch.bool, device=self.data.device)
        owner, x, y = window_pixels(self.windows)
        dense[owner, y, x] = self.data >= 128
        return dense

    def to_probabilities(self) -> Tensor:
        """Return float32 `[N, 1, H, W]`, levels / 255 as torchvision's models give masks: for a few masks at a time."""
        dense = torch.zeros(len(self), 1, *self.size, dtype=torch.float32, device=self.data.device)
        owner, x, y = window_pixels(self.windows)
        dense[owner, 0, y, x] = self.data.float() / 255
        return dense


def fill_polygons(rings: Sequence[NDArray[np.float64]], size: tuple[int, int]) -> dict[str, Any]:
    """Compute the run-length code of one mask made of rings `[x0, y0, x1, y1, …]` of at least three points.

    The polygon is drawn on the whole canvas, which costs no more than its outline. In a window with another origin,
    the COCO API would round coordinates (to fifths of a pixel) differently.
    """
    from faster_coco_eval import mask as coco_mask

    if not rings:
        return {"size": list(size), "counts": [size[0] * size[1]]}
    return dict(coco_mask.merge(coco_mask.frPyObjects([ring.tolist() for ring in rings], *size)))


torch.serialization.add_safe_globals([CroppedMasks])  # torch.load(..., weights_only=True) reads saved masks
