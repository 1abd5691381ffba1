"""Detections of one image that was seen several times, merged into one list.

Every merge takes `found`, one `Instances` a view, all mapped back to one image, and returns one, by falling score.
Neither the order of views nor that of detections changes anything. Detections of different labels never merge, nor do
those that share no area; where a mask has no pixel inside, the box counts, filled. Time and memory follow the
detections that overlap. The work is done on the CPU; the result is
where the first view was.

Of all merges: `on` says what is compared, "masks" or "boxes"; None: masks where there are any. `fuse` says how several
masks become one: see `augment.merging.fusion.fuse_masks`. ValueError for views that do not belong together (see
`augment.merging.pool.pool_views`) and for settings out of range.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from augment.merging.fusion import Fuse, check_fuse, fuse_boxes, fuse_masks
from augment.merging.grouping import Neighbours, absorb, group_by_clusters
from augment.merging.overlaps import Metric, Overlaps, box_overlaps, by_parts, mask_overlaps
from augment.merging.pool import Pool, comparable_masks, pick, pool_views, rank
from augment.merging.weighted import group_by_fused_boxes, group_by_fused_masks
from maskrcnn.ops.boxes import box_area
from maskrcnn.ops.nms import nms
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks

On = Literal["masks", "boxes"] | None


def merge_nms(found: Sequence[Instances], threshold: float = 0.5, on: On = None) -> Instances:
    """Non-maximum suppression: keep what no better kept detection overlaps by an IoU above `threshold`.

    What is kept stays as it was, with its id.

    Source: Felzenszwalb et al., Object Detection with Discriminatively Trained Part-Based Models, TPAMI 2010,
    section 6.2.
    """
    pool, masks = _prepared(found, on, threshold=threshold)
    if masks is None:
        kept = nms(pool.objects.boxes, pool.scores, threshold, pool.objects.labels)
    else:
        pairs = _overlaps(pool, masks, threshold)
        kept = _best_members(absorb(pairs[pairs.iou > threshold], len(pool)))
    return _result(pick(pool.objects, kept), found)


def merge_soft_nms(
    found: Sequence[Instances],
    threshold: float = 0.5,
    sigma: float = 0.5,
    method: Literal["gaussian", "linear"] = "gaussian",
    min_score: float = 0.001,
    min_share: float = 0.3,
    on: On = None,
) -> Instances:
    """Soft-NMS: lower the scores of what a better detection overlaps, and drop what falls below `min_score`, or below
    `min_share` of its own score: in views, where every object is found several times, these are copies (0: the paper's
    rule, which keeps them with lower scores).

    The best of what is left is kept, and each of the others is multiplied by exp(−IoU² / `sigma`) ("gaussian"), or by
    1 − IoU where that IoU is at least `threshold` ("linear", which alone reads `threshold`); again, until none is left.
    What is kept has its lowered score, its id, and is else as it was.

    Source: Bodla et al., arXiv 1704.03504, section 3.
    """
    if method not in ("gaussian", "linear"):
        raise ValueError(f'unknown method "{method}": one of gaussian, linear')
    if not sigma > 0:
        raise ValueError(f"sigma must be above 0, got {sigma}")
    if not min_score >= 0:
        raise ValueError(f"min_score must not be negative, got {min_score}")
    pool, masks = _prepared(found, on, threshold=threshold, min_share=min_share)
    pairs = _overlaps(pool, masks, threshold if method == "linear" else 0.0)
    factors = 1 - pairs.iou if method == "linear" else torch.exp(-pairs.iou.square() / sigma)
    kept, scores = _decay(pool.scores, pairs, factors, (pool.scores.double() * min_share).clamp(min=min_score))
    return _result(replace(pick(pool.objects, kept), scores=scores), found)


def _decay(scores: Tensor, pairs: Overlaps, factors: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
    """Indices and scores of what soft-NMS keeps, that is, what does not fall below `least` float64 `[N]`.

    Scores only fall, so a heap of old ones serves: what comes up with a score that is no longer its own goes back.
    """
    one, other = torch.cat([pairs.rows, pairs.columns]), torch.cat([pairs.columns, pairs.rows])
    neighbours = Neighbours(one, other, len(scores), factors.repeat(2))
    now = scores.double().numpy().copy()
    heap = [(-score, i) for i, score in enumerate(now.tolist())]  # sorted, and so a heap
    limits = least.tolist()
    kept: list[int] = []
    final: list[float] = []
    while heap:
        old, i = heap[0]
        score = float(now[i])
        if score < limits[i]:
            heapq.heappop(heap)
        elif score != -old:
            heapq.heapreplace(heap, (-score, i))
        else:
            heapq.heappop(heap)
            kept.append(i)
            final.append(score)
            now[neighbours[i]] *= neighbours.values(i)
    return torch.tensor(kept, dtype=torch.int64), torch.tensor(final, dtype=torch.float32)


def merge_wbf(found: Sequence[Instances], threshold: float = 0.55, on: On = None, fuse: Fuse = "average") -> Instances:
    """Weighted box fusion: groups grow about the mean of their members, weighted by score.

    From the best on, each detection joins the group whose fused box (or mask) it overlaps most, by an IoU above
    `threshold`, or founds one. The score is the mean of the members' × min(V, n) / V for n members and V views. As in
    the paper, a group may have several members of one view.

    Source: Solovyev et al., arXiv 1910.13302, section 3; masks are ours.
    """
    check_fuse(fuse)
    pool, masks = _prepared(found, on, threshold=threshold)
    labels, weights = pool.objects.labels, pool.scores.clamp(min=1e-9)  # 0 would leave no mean
    if masks is None:
        group = group_by_fused_boxes(pool.objects.boxes, labels, weights, threshold)
    else:
        group = group_by_fused_masks(masks, labels, weights, threshold, fuse)
    members = torch.bincount(group)
    scores = _sums(pool.scores, group) / members * members.clamp(max=pool.num_views) / pool.num_views
    boxes = fuse_boxes(pool.objects.boxes, group, len(members), weights)
    return _result(_fused(pool, group, scores, boxes, fuse, weights), found)


def merge_nmm(
    found: Sequence[Instances],
    threshold: float = 0.5,
    metric: Metric = "iou",
    on: On = None,
    fuse: Fuse = "union",
) -> Instances:
    """Greedy non-maximum merging: the best detection absorbs what overlaps it by at least `threshold`, and so on.

    `metric` is "iou", or "ios", the intersection over the smaller of the two, which joins fragments to wholes. The
    result has the score of the best and the box that holds all. Its mask is by default the union of all, as in the
    source; means would shrink what fragments are joined to.

    Source: Akyon et al., Slicing Aided Hyper Inference, arXiv 2202.06934, and its code's GREEDYNMM, but for its second
    look at what the growing union overlaps, which depends on the order.
    """
    check_fuse(fuse)
    pool, masks = _prepared(found, on, threshold=threshold)
    group = absorb(_overlaps(pool, masks, threshold, metric), len(pool))
    best = _best_members(group)
    boxes = fuse_boxes(pool.objects.boxes, group, len(best), fuse="union")
    return _result(_fused(pool, group, pool.scores[best], boxes, fuse), found)


def merge_clusters(
    found: Sequence[Instances],
    threshold: float = 0.5,
    min_views: float = 0.25,
    on: On = None,
    fuse: Fuse = "average",
) -> Instances:
    """Clusters with at most one detection of each view, the most similar joined first.

    In rounds, every cluster finds the most similar other of its label with no view in common (IoU of the mean masks, or
    mean boxes, at least `threshold`); pairs that find each other become one, and their mean is taken anew. The score is
    the sum of the members' / V for V views: a view that misses the object lowers it. Clusters seen in less than the
    share `min_views` of the views are dropped. Boxes are those of the merged masks, else the mean of the members'.

    Source: the merge of test-time views in Britefury/pytorch-mask-rcnn, which compared sums of masks rather than means,
    knew no classes, and depended on the order.
    """
    check_fuse(fuse)
    pool, masks = _prepared(found, on, threshold=threshold, min_views=min_views)
    shapes = (pool.objects.boxes, pool.objects.labels, pool.view, threshold, fuse)
    group = group_by_clusters(*shapes) if masks is None else group_by_clusters(masks, *shapes[1:])
    scores = _sums(pool.scores, group) / pool.num_views
    boxes = fuse_boxes(pool.objects.boxes, group, len(scores))
    seen = torch.bincount(group) >= min_views * pool.num_views - 1e-9  # but for rounding
    merged = _fused(pool, group, scores, boxes, fuse)[seen]
    if merged.masks is not None:
        tight = by_parts(merged.masks, CroppedMasks.boxes)
        merged = replace(merged, boxes=torch.where(box_area(tight)[:, None] > 0, tight, merged.boxes))
    return _result(merged, found)


MERGES: dict[str, Callable[..., Instances]] = {
    "nms": merge_nms,
    "soft_nms": merge_soft_nms,
    "wbf": merge_wbf,
    "nmm": merge_nmm,
    "cluster": merge_clusters,
}


def merge(name: str, found: Sequence[Instances], **settings: Any) -> Instances:
    """Merge by name, one of `MERGES`, with the settings of that merge."""
    if name not in MERGES:
        raise ValueError(f'unknown merge "{name}": one of {", ".join(MERGES)}')
    return MERGES[name](found, **settings)


def _prepared(found: Sequence[Instances], on: On, **fractions: float) -> tuple[Pool, CroppedMasks | None]:
    """All detections, and the masks if these are what is compared."""
    for name, value in fractions.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be in 0..1, got {value}")
    if on not in ("masks", "boxes", None):
        raise ValueError(f'unknown on "{on}": one of masks, boxes, or None')
    pool = pool_views(found)
    if on == "masks" and pool.objects.masks is None and len(pool):
        raise ValueError('on is "masks", but found has none')
    return pool, None if on == "boxes" else comparable_masks(pool.objects)


def _overlaps(pool: Pool, masks: CroppedMasks | None, threshold: float, metric: Metric = "iou") -> Overlaps:
    """The pairs of one label whose masks, or else boxes, overlap by at least `threshold`."""
    if masks is None:
        return box_overlaps(pool.objects.boxes, None, threshold, metric).of_one_label(pool.objects.labels)
    return mask_overlaps(masks, threshold, metric).of_one_label(pool.objects.labels)


def _best_members(group: Tensor) -> Tensor:
    """int64 `[G]`: the best detection of each group."""
    return torch.from_numpy(np.unique(group.numpy(), return_index=True)[1])


def _sums(scores: Tensor, group: Tensor) -> Tensor:
    """float64 `[G]`"""
    return torch.bincount(group, scores.double())


def _fused(
    pool: Pool, group: Tensor, scores: Tensor, boxes: Tensor, fuse: Fuse, weights: Tensor | None = None
) -> Instances:
    """One object a group."""
    labels, masks = pool.objects.labels[_best_members(group)], pool.objects.masks
    if masks is not None:
        masks = fuse_masks(masks, group, len(labels), weights, fuse)
    return Instances(pool.objects.size, boxes, labels, scores.float(), masks)


def _result(merged: Instances, found: Sequence[Instances]) -> Instances:
    """By falling score, where the first view was."""
    return rank(merged).to(found[0].boxes.device)
