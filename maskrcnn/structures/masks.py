"""N masks on one canvas, each stored as its window and what is inside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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

_DENSE_PIXELS = 1 << 26  # of dense masks that are converted at once
_FARTHEST = 2_000_000  # of a polygon's points, in pixels: what filling one may cost


@dataclass(frozen=True, eq=False)
class CroppedMasks:
    """N masks whose memory is the sum of their windows, never N × H × W.

    windows: int32 `[N, 4]`, x1 y1 x2 y2 with exclusive end, inside the canvas; empty windows are allowed.
    offsets: int64 `[N + 1]`, where each mask's levels begin in `data`.
    data: uint8 `[sum of window areas]`, row-major, a level 0..255 a pixel; a pixel is inside where it is ≥ 128.
    size: the canvas (H, W).
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

    @staticmethod
    def empty(size: tuple[int, int]) -> "CroppedMasks":
        windows = torch.zeros(0, 4, dtype=torch.int32)
        return CroppedMasks(windows, torch.zeros(1, dtype=torch.int64), torch.zeros(0, dtype=torch.uint8), size)

    @staticmethod
    def from_windows(windows: Tensor, levels: Sequence[Tensor], size: tuple[int, int]) -> "CroppedMasks":
        """From int `[N, 4]` windows and for each a uint8 `[h, w]` tensor of levels.

        Raises:
            ValueError: a window that leaves the canvas, or levels of another size; names the mask.
        """
        windows = windows.to(torch.int32).reshape(-1, 4)
        if len(windows) != len(levels):
            raise ValueError(f"{len(windows)} windows do not belong to levels of {len(levels)} masks")
        for i, ((x1, y1, x2, y2), level) in enumerate(zip(windows.tolist(), levels, strict=True)):
            if not (0 <= x1 <= x2 <= size[1] and 0 <= y1 <= y2 <= size[0]):
                raise ValueError(f"window {i}, {[x1, y1, x2, y2]}, leaves the canvas of {size[0]} x {size[1]} pixels")
            if level.shape != (y2 - y1, x2 - x1):
                raise ValueError(f"levels {i} are {list(level.shape)}, their window is {[y2 - y1, x2 - x1]}")
        data = torch.cat([level.reshape(-1).to(torch.uint8) for level in levels]) if levels else torch.zeros(0)
        return CroppedMasks(windows, window_offsets(windows), data.to(torch.uint8), size)

    @staticmethod
    def from_boxes(boxes: Tensor, size: tuple[int, int]) -> "CroppedMasks":
        """From boxes `[N, 4]`, filled; sides are rounded to whole pixels of the canvas."""
        limit = torch.tensor([size[1], size[0]], device=boxes.device)
        low = torch.minimum(boxes[:, :2].round().clamp(min=0), limit)
        high = torch.maximum(torch.minimum(boxes[:, 2:].round(), limit), low)
        windows = torch.cat([low, high], dim=1).int()
        offsets = window_offsets(windows)
        data = torch.full((int(offsets[-1]),), 255, dtype=torch.uint8, device=boxes.device)
        return CroppedMasks(windows, offsets, data, size)

    @staticmethod
    def from_dense(masks: Tensor) -> "CroppedMasks":
        """From `[N, H, W]`: bool, or uint8 / float in 0..1 where anything above one half is inside."""
        size = (int(masks.shape[1]), int(masks.shape[2]))
        step = max(1, _DENSE_PIXELS // max(1, size[0] * size[1]))
        if len(masks) > step:  # finding the pixels inside takes many times the memory of the masks
            return CroppedMasks.cat([CroppedMasks.from_dense(part) for part in masks.split(step)])
        owner, y, x = torch.nonzero(masks if masks.dtype == torch.bool else masks > 0, as_tuple=True)
        windows = pixel_bounds(owner, x, y, len(masks)).int()
        owner, x, y = window_pixels(windows)
        value = masks[owner, y, x]
        levels = (value.float() * 255).round().clamp(0, 255).to(torch.uint8)
        return CroppedMasks(windows, window_offsets(windows), levels, size)

    @staticmethod
    def from_label_image(labels: Tensor, ids: Tensor | None = None) -> "CroppedMasks":
        """From an image of instance numbers int `[H, W]`; in the order of `ids` (default: those there, rising)."""
        ids = torch.unique(labels[labels > 0]) if ids is None else ids
        labels = labels if labels.dtype == torch.int64 else labels.int()
        parts = ops.masks_from_label_image(labels, ids.long())
        return CroppedMasks(*parts, (int(labels.shape[0]), int(labels.shape[1])))

    @staticmethod
    def from_rle(codes: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> "CroppedMasks":
        """From COCO's `{"size": [H, W], "counts": str or list}`, one a mask.

        Raises:
            ValueError: a code of another size, without counts, or with counts that do not fill it.
        """
        for i, code in enumerate(codes):
            if not {"size", "counts"} <= code.keys():
                raise ValueError(f"run-length code {i} has no {'counts' if 'size' in code else 'size'}")
            if tuple(code["size"]) != tuple(size):
                raise ValueError(f"run-length code {i} is for size {list(code['size'])}, the image is {list(size)}")
        return CroppedMasks(*decode_rle([code["counts"] for code in codes], size), size)

    @staticmethod
    def from_polygons(polygons: Sequence[Sequence[Sequence[float]]], size: tuple[int, int]) -> "CroppedMasks":
        """From COCO polygons: for each mask a list of rings `[x0, y0, x1, y1, …]`, filled as COCO's own tools do.

        A mask without rings is empty.

        Raises:
            ValueError: a ring of fewer than three points, with odd or non-finite numbers or far away; names the mask.
        """
        codes = []
        for i, rings in enumerate(polygons):
            outlines = [np.asarray(ring, dtype=np.float64).ravel() for ring in rings]
            if any(len(ring) < 6 or len(ring) % 2 or not np.isfinite(ring).all() for ring in outlines):
                raise ValueError(f"polygon {i}: a ring must be at least three finite points [x0, y0, x1, y1, …]")
            if any(np.abs(ring).max() > _FARTHEST for ring in outlines):
                raise ValueError(f"polygon {i}: a point lies more than {_FARTHEST} pixels away")
            codes.append(_fill(outlines, size))
        return CroppedMasks.from_rle(codes, size)

    @staticmethod
    def cat(masks: Sequence["CroppedMasks"]) -> "CroppedMasks":
        """All masks of one canvas, in order."""
        if len({m.size for m in masks}) != 1:
            raise ValueError(f"masks must share one canvas, got {sorted({m.size for m in masks})}")
        windows = torch.cat([m.windows for m in masks])
        data = torch.cat([m.data for m in masks])
        return CroppedMasks(windows, window_offsets(windows), data, masks[0].size)

    @property
    def parts(self) -> Windows:
        return Windows(self.windows, self.offsets, self.data)

    def __len__(self) -> int:
        return len(self.windows)

    def __repr__(self) -> str:
        return f"CroppedMasks({len(self)} on {self.size[0]} x {self.size[1]}, {len(self.data)} pixels in windows)"

    def __getitem__(self, index: int | slice | Tensor) -> "CroppedMasks":
        """The masks that an index, a slice, a bool or an int tensor picks; always CroppedMasks."""
        chosen = torch.arange(len(self), device=self.windows.device)[index].reshape(-1)
        return CroppedMasks(*ops.pick_masks(self.parts, chosen), self.size)

    def replace_at(self, index: Tensor, others: "CroppedMasks") -> "CroppedMasks":
        """These masks with those at int64 `index` exchanged for `others`, one each."""
        place = torch.arange(len(self), device=self.windows.device)
        place[index] = len(self) + torch.arange(len(others), device=place.device)
        return CroppedMasks.cat([self, others])[place]

    def to(self, device: torch.device | str) -> "CroppedMasks":
        return CroppedMasks(self.windows.to(device), self.offsets.to(device), self.data.to(device), self.size)

    def window(self, i: int) -> Tensor:
        """uint8 `[h, w]`: the levels of mask i, a view."""
        x1, y1, x2, y2 = self.windows[i].tolist()
        return self.data[int(self.offsets[i]) : int(self.offsets[i + 1])].view(y2 - y1, x2 - x1)

    def boxes(self) -> Tensor:
        """float32 `[N, 4]`: tight boxes of the pixels inside, ending at the last pixel plus one; zeros where empty."""
        return self._measured[1].clone()

    def areas(self) -> Tensor:
        """int64 `[N]`: pixels inside each mask."""
        return self._measured[0].clone()

    @cached_property
    def _measured(self) -> tuple[Tensor, Tensor]:
        """Areas and tight boxes: asked for together, and more than once."""
        areas, boxes = ops.measure_masks(self.parts)
        return areas, boxes.float()

    def crop(self, x: int, y: int, height: int, width: int) -> "CroppedMasks":
        """On a canvas whose origin lies at (x, y) of this one; negative and oversized windows pad."""
        return CroppedMasks(*ops.crop_masks(self.parts, x, y, (height, width)), (height, width))

    def flip(self, horizontal: bool = False, vertical: bool = False) -> "CroppedMasks":
        return CroppedMasks(*ops.flip_masks(self.parts, self.size, horizontal, vertical), self.size)

    def transpose(self) -> "CroppedMasks":
        """With x and y exchanged."""
        return CroppedMasks(*ops.transpose_masks(self.parts), (self.size[1], self.size[0]))

    def resize(self, size: tuple[int, int]) -> "CroppedMasks":
        """On a canvas of `size` (H, W) that shows the same scene, each pixel the nearest of the old."""
        return CroppedMasks(*ops.resize_masks(self.parts, self.size, size), size)

    def warp(self, matrix: Tensor, size: tuple[int, int]) -> "CroppedMasks":
        """Under an affine map `[2, 3]` of continuous pixel coordinates, levels bilinear; shrunk ones are smoothed."""
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
        """float32 `[K, S, S]`: mask `index[k]` (default k) seen through box k; see `ops.masks.sample_masks`."""
        index = torch.arange(len(self), device=boxes.device) if index is None else index
        return ops.sample_masks(self.parts, self.size, boxes, index, output_size, sampling_ratio, aligned, soft)

    def iou(self, other: "CroppedMasks") -> tuple[Tensor, Tensor, Tensor]:
        """(rows, columns, IoU) of all pairs that overlap."""
        return ops.mask_iou(self.parts, other.parts)

    def to_rle(self) -> list[dict[str, Any]]:
        """COCO's compressed run-length code of each mask."""
        return [{"size": list(self.size), "counts": counts} for counts in encode_rle(self.parts, self.size)]

    def to_label_image(self, min_visible_fraction: float = 0.0) -> tuple[Tensor, Tensor]:
        """(labels int32 `[H, W]`, kept bool `[N]`): painted first on top; see `ops.masks.label_image`."""
        return ops.label_image(self.parts, self.size, min_visible_fraction)

    def to_dense(self) -> Tensor:
        """bool `[N, H, W]`: N × H × W bytes, for a few masks at a time."""
        dense = torch.zeros(len(self), *self.size, dtype=torch.bool, device=self.data.device)
        owner, x, y = window_pixels(self.windows)
        dense[owner, y, x] = self.data >= 128
        return dense


def _fill(rings: list[NDArray[np.float64]], size: tuple[int, int]) -> dict[str, Any]:
    """Run-length code of a mask made of rings `[x0, y0, x1, y1, …]`.

    Drawn on the whole canvas, at the cost of the outline: COCO rounds to fifths of a pixel, and a moved origin shows.
    """
    from faster_coco_eval import mask as coco_mask

    if not rings:
        return {"size": size, "counts": [size[0] * size[1]]}
    return dict(coco_mask.merge(coco_mask.frPyObjects([ring.tolist() for ring in rings], *size)))
