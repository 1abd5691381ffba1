"""Pooling of the detections of all views into one list whose order depends only on their contents."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskrcnn.inference.merging.overlaps import apply_in_chunks
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks


@dataclass(frozen=True)
class Pool:
    """N detections on the CPU, sorted by score in descending order; ties by label, box, and mask.

    Attributes:
        objects: the detections, none of them ignored, with ids if all views have ids.
        view: int64 `[N]` in 0..num_views - 1, the view of each detection. Views are numbered in an order given by their
            contents.
        num_views: number of views.
    """

    objects: Instances
    view: Tensor
    num_views: int

    @property
    def scores(self) -> Tensor:
        """Scores, float32 `[N]`."""
        assert self.objects.scores is not None  # pool_views has checked it
        return self.objects.scores

    def __len__(self) -> int:
        return len(self.objects)


def pool_views(detections: Sequence[Instances]) -> Pool:
    """Pool the detections of all views.

    The result depends neither on the order of the views nor on that of their detections. A view without detections
    needs neither scores nor masks.

    Args:
        detections: detections per view.

    Returns:
        The pool.

    Raises:
        ValueError: If there are no views, sizes differ, scores are missing, negative or not finite, boxes are not
            finite, or only some views have masks; names the view.
    """
    parts = unify_fields(detections)
    tables = [_build_sort_keys(part) for part in parts]
    by_content = sorted(range(len(parts)), key=lambda number: tables[number][_sort_rows(tables[number])].tobytes())
    counts = torch.tensor([len(parts[number]) for number in by_content])
    view = torch.repeat_interleave(torch.arange(len(parts)), counts)
    order = torch.from_numpy(_sort_rows(np.concatenate([tables[number] for number in by_content])))
    objects = Instances.cat([parts[number] for number in by_content])
    return Pool(select(objects, order), view[order], len(detections))


def unify_fields(detections: Sequence[Instances]) -> list[Instances]:
    """Move the detections of every view to the CPU with the same fields and nothing ignored.

    Args:
        detections: detections per view.

    Returns:
        The detections per view.

    Raises:
        ValueError: As `pool_views`.
    """
    _check_views(detections)
    with_masks = any(view.masks is not None for view in [view for view in detections if len(view)] or detections)
    parts = [_normalize_view(view, with_masks) for view in detections]
    if any(view.ids is None for view in detections if len(view)) or all(view.ids is None for view in detections):
        parts = [replace(part, ids=None) for part in parts]
    return parts


def fill_empty_masks(objects: Instances) -> CroppedMasks | None:
    """Return the masks, if any, with filled boxes in place of masks without a pixel inside."""
    masks = objects.masks
    if masks is None:
        return None
    empty = torch.nonzero(apply_in_chunks(masks, CroppedMasks.areas) == 0).flatten()
    if len(empty) == 0:
        return masks
    return masks.replace_at(empty, CroppedMasks.from_boxes(objects.boxes[empty], masks.size))


def select(objects: Instances, index: Tensor) -> Instances:
    """Compute `objects[index]` for an int64 index, copying masks in chunks that bound the memory."""
    masks = objects.masks
    if masks is not None and len(index):
        masks = CroppedMasks.cat([masks[part] for part in index.split(1 << 12)])
        return replace(replace(objects, masks=None)[index], masks=masks)
    return objects[index]


def sort_by_score(objects: Instances) -> Instances:
    """Sort merged objects by score in descending order; ties by label, box, and mask."""
    return select(objects, torch.from_numpy(_sort_rows(_build_sort_keys(objects))))


def _normalize_view(view: Instances, with_masks: bool) -> Instances:
    """Move a view to the CPU with nothing ignored; a view without detections gets the fields that the others have."""
    if not len(view):
        empty = Instances.empty(view.size, with_masks)
        return replace(empty, scores=torch.zeros(0), ids=torch.zeros(0, dtype=torch.int64))
    view = view.to("cpu")
    assert view.scores is not None
    boxes, scores = view.boxes.detach().float(), view.scores.detach().float()
    return replace(view, boxes=boxes, scores=scores, ignore=torch.zeros_like(view.ignore))


def _build_sort_keys(objects: Instances) -> NDArray[np.float64]:
    """Build the sort keys, float64 `[N, 9]`: negative score, label, box, checksums of mask and window, id."""
    assert objects.scores is not None
    sums = np.zeros((len(objects), 2))
    if objects.masks is not None:
        levels, ends = memoryview(objects.masks.data.numpy().tobytes()), objects.masks.offsets.tolist()
        sums[:, 0] = [zlib.crc32(levels[begin:end]) for begin, end in pairwise(ends)]
        sums[:, 1] = [zlib.crc32(window.tobytes()) for window in objects.masks.windows.numpy()]
    ids = torch.zeros_like(objects.labels) if objects.ids is None else objects.ids
    columns = [-objects.scores[:, None], objects.labels[:, None], objects.boxes, torch.from_numpy(sums), ids[:, None]]
    return (
        torch.cat([column.double() for column in columns], dim=1).numpy() + 0.0
    )  # turns -0.0, whose bytes differ, into 0.0


def _sort_rows(contents: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the order of rows sorted by their first column, then the second, and so on."""
    return np.lexsort(contents.T[::-1])


def _check_views(detections: Sequence[Instances]) -> None:
    if not len(detections):
        raise ValueError("detections must contain at least one view")
    sizes = sorted({tuple(view.size) for view in detections})
    if len(sizes) != 1:
        raise ValueError(f"detections must be views mapped back to one image, got sizes {sizes}")
    some = [(number, view) for number, view in enumerate(detections) if len(view)]
    for number, view in some:
        if view.scores is None:
            raise ValueError(f"detections[{number}] has no scores")
        if not bool((torch.isfinite(view.scores) & (view.scores >= 0)).all()):
            raise ValueError(f"scores of detections[{number}] must be finite and nonnegative")
        if not bool(torch.isfinite(view.boxes).all()):
            raise ValueError(f"boxes of detections[{number}] must be finite")
    without = [number for number, view in some if view.masks is None]
    if without and len(without) < len(some):
        raise ValueError(f"detections[{without[0]}] has no masks, others have")
