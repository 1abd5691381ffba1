"""The detections of all views in one list, in an order that follows from what they are."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from augment.merging.overlaps import by_parts
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks


@dataclass(frozen=True)
class Pool:
    """N detections on the CPU, from the best to the worst; of equal scores, by label, box and mask.

    objects: none ignored; with ids where all views have them.
    view: int64 `[N]` in 0..num_views - 1, which view each is from; views are numbered by what they hold.
    """

    objects: Instances
    view: Tensor
    num_views: int

    @property
    def scores(self) -> Tensor:
        assert self.objects.scores is not None  # pool_views has checked it
        return self.objects.scores

    def __len__(self) -> int:
        return len(self.objects)


def pool_views(found: Sequence[Instances]) -> Pool:
    """The detections of all views.

    Neither the order of the views nor that of their detections changes the pool. A view without detections needs
    neither scores nor masks.

    Raises:
        ValueError: no views, sizes that differ, scores missing, negative or not finite, boxes not finite, masks or ids
            in some views alone; names the view.
    """
    parts = alike(found)
    tables = [_contents(part) for part in parts]
    by_content = sorted(range(len(parts)), key=lambda number: tables[number][_falling(tables[number])].tobytes())
    counts = torch.tensor([len(parts[number]) for number in by_content])
    view = torch.repeat_interleave(torch.arange(len(parts)), counts)
    order = torch.from_numpy(_falling(np.concatenate([tables[number] for number in by_content])))
    objects = Instances.cat([parts[number] for number in by_content])
    return Pool(pick(objects, order), view[order], len(found))


def alike(found: Sequence[Instances]) -> list[Instances]:
    """Every view's detections on the CPU, with the same fields, nothing ignored; raises as `pool_views`."""
    _check_views(found)
    with_masks = any(view.masks is not None for view in [view for view in found if len(view)] or found)
    parts = [_plain(view, with_masks) for view in found]
    if any(view.ids is None for view in found if len(view)) or all(view.ids is None for view in found):
        parts = [replace(part, ids=None) for part in parts]
    return parts


def comparable_masks(objects: Instances) -> CroppedMasks | None:
    """The masks, if there are any; in place of those without a pixel inside, the boxes filled."""
    masks = objects.masks
    if masks is None:
        return None
    empty = torch.nonzero(by_parts(masks, CroppedMasks.areas) == 0).flatten()
    if len(empty) == 0:
        return masks
    return masks.exchanged(empty, CroppedMasks.from_boxes(objects.boxes[empty], masks.size))


def pick(objects: Instances, index: Tensor) -> Instances:
    """`objects[index]` for an int64 index, the masks in parts that bound the memory."""
    masks = objects.masks
    if masks is not None and len(index):
        masks = CroppedMasks.cat([masks[part] for part in index.split(1 << 12)])
        return replace(replace(objects, masks=None)[index], masks=masks)
    return objects[index]


def rank(objects: Instances) -> Instances:
    """Merged objects by falling score; of equal scores, by label, box and mask."""
    return pick(objects, torch.from_numpy(_falling(_contents(objects))))


def _plain(view: Instances, with_masks: bool) -> Instances:
    """A view on the CPU, nothing ignored; one without detections gets the fields that the others have."""
    if not len(view):
        empty = Instances.empty(view.size, with_masks)
        return replace(empty, scores=torch.zeros(0), ids=torch.zeros(0, dtype=torch.int64))
    view = view.to("cpu")
    assert view.scores is not None
    boxes, scores = view.boxes.detach().float(), view.scores.detach().float()
    return replace(view, boxes=boxes, scores=scores, ignore=torch.zeros_like(view.ignore))


def _contents(objects: Instances) -> NDArray[np.float64]:
    """float64 `[N, 9]`: minus the score, label, box, check sums of the mask and its window, id."""
    assert objects.scores is not None
    sums = np.zeros((len(objects), 2))
    if objects.masks is not None:
        levels, ends = memoryview(objects.masks.data.numpy().tobytes()), objects.masks.offsets.tolist()
        sums[:, 0] = [zlib.crc32(levels[begin:end]) for begin, end in pairwise(ends)]
        sums[:, 1] = [zlib.crc32(window.tobytes()) for window in objects.masks.windows.numpy()]
    ids = torch.zeros_like(objects.labels) if objects.ids is None else objects.ids
    columns = [-objects.scores[:, None], objects.labels[:, None], objects.boxes, torch.from_numpy(sums), ids[:, None]]
    return torch.cat([column.double() for column in columns], dim=1).numpy() + 0.0  # no -0.0, whose bytes differ


def _falling(contents: NDArray[np.float64]) -> NDArray[np.int64]:
    """The order of rows by their first column, then the second, and so on."""
    return np.lexsort(contents.T[::-1])


def _check_views(found: Sequence[Instances]) -> None:
    if not len(found):
        raise ValueError("found must hold at least one view")
    sizes = sorted({tuple(view.size) for view in found})
    if len(sizes) != 1:
        raise ValueError(f"found must be views mapped back to one image, got sizes {sizes}")
    some = [(number, view) for number, view in enumerate(found) if len(view)]
    for number, view in some:
        if view.scores is None:
            raise ValueError(f"found[{number}] has no scores")
        if not bool((torch.isfinite(view.scores) & (view.scores >= 0)).all()):
            raise ValueError(f"scores of found[{number}] must be finite and not negative")
        if not bool(torch.isfinite(view.boxes).all()):
            raise ValueError(f"boxes of found[{number}] must be finite")
    without = [number for number, view in some if view.masks is None]
    if without and len(without) < len(some):
        raise ValueError(f"found[{without[0]}] has no masks, others have")
