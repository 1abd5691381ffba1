"""Merging of detections from several views of one image.

Every merge takes `detections`, one `Instances` per view, all mapped back to one image, and returns one `Instances` in
descending order of score. The order of views and of their detections does not matter. Detections of different labels,
or without a common area, are never merged; a mask without a pixel inside is replaced by its filled box. Time and memory
are proportional to the number of overlapping pairs. Computation is on the CPU; the result is on the device of the first
view.

Common arguments: `on` selects what is compared, "masks" or "boxes" (default: masks if there are any). `fuse` selects
how masks are fused, see `maskrcnn.inference.merging.fusion.fuse_masks`. All merges raise a `ValueError` for views that
do not match (see `maskrcnn.inference.merging.pool.pool_views`) and for arguments out of range.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from maskrcnn.inference.merging.fusion import Fuse, check_fuse, fuse_boxes, fuse_masks
from maskrcnn.inference.merging.grouping import Neighbors, group_by_clustering, group_greedily
from maskrcnn.inference.merging.overlaps import Metric, Overlaps, apply_in_chunks, box_overlaps, mask_overlaps
from maskrcnn.inference.merging.pool import Pool, fill_empty_masks, pool_views, select, sort_by_score
from maskrcnn.inference.merging.weighted import group_by_fused_boxes, group_by_fused_masks
from maskrcnn.ops.boxes import box_area
from maskrcnn.ops.nms import nms
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks

On = Literal["masks", "boxes"] | None


def merge_nms(detections: Sequence[Instances], threshold: float = 0.5, on: On = None) -> Instances:
    """Keep each detection unless its IoU with a better kept detection is above `threshold` (non-maximum suppression).

    Kept detections are unchanged and keep their ids.

    Source: Felzenszwalb et al., Object Detection with Discriminatively Trained Part-Based Models, TPAMI 2010, section
    6.2.
    """
    pool, masks = _prepare(detections, on, threshold=threshold)
    if masks is None:
        kept = nms(pool.objects.boxes, pool.scores, threshold, pool.objects.labels)
    else:
        pairs = _find_overlaps(pool, masks, threshold)
        kept = _find_best_members(group_greedily(pairs[pairs.iou > threshold], len(pool)))
    return _finish(select(pool.objects, kept), detections)


def merge_soft_nms(
    detections: Sequence[Instances],
    threshold: float = 0.5,
    sigma: float = 0.5,
    method: Literal["gaussian", "linear"] = "gaussian",
    min_score: float = 0.001,
    min_share: float = 0.3,
    on: On = None,
) -> Instances:
    """Lower the scores of detections that overlap a better one (soft-NMS).

    The best remaining detection is kept, and the score of every other is multiplied by exp(−IoU² / `sigma`)
    ("gaussian"), or by 1 − IoU if that IoU is at least `threshold` ("linear"); this is repeated until none is left.
    Kept detections have the lowered score, and are otherwise unchanged.

    Args:
        detections: detections per view.
        threshold: IoU threshold, for "linear" only.
        sigma: width of the Gaussian.
        method: "gaussian" or "linear".
        min_score: detections below this score are dropped.
        min_share: detections whose score falls below this fraction of their original score are dropped. With several
            views, where every object is detected several times, these are duplicates. 0 is the paper's rule, which
            keeps them.
        on: "masks", "boxes", or None.

    Returns:
        The kept detections.

    Source: Bodla et al., arXiv 1704.03504, section 3.
    """
    if method not in ("gaussian", "linear"):
        raise ValueError(f'unknown method "{method}": one of gaussian, linear')
    if not sigma > 0:
        raise ValueError(f"sigma must be above 0, got {sigma}")
    if not min_score >= 0:
        raise ValueError(f"min_score must not be negative, got {min_score}")
    pool, masks = _prepare(detections, on, threshold=threshold, min_share=min_share)
    pairs = _find_overlaps(pool, masks, threshold if method == "linear" else 0.0)
    factors = 1 - pairs.iou if method == "linear" else torch.exp(-pairs.iou.square() / sigma)
    kept, scores = _decay(pool.scores, pairs, factors, (pool.scores.double() * min_share).clamp(min=min_score))
    return _finish(replace(select(pool.objects, kept), scores=scores), detections)


def _decay(scores: Tensor, pairs: Overlaps, factors: Tensor, min_scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return indices and scores of the detections that soft-NMS keeps; `min_scores` is float64 `[N]`.

    Scores only decrease, so a heap of outdated scores suffices: an entry whose score is outdated is pushed back with
    its current one.
    """
    one, other = torch.cat([pairs.rows, pairs.columns]), torch.cat([pairs.columns, pairs.rows])
    neighbours = Neighbors(one, other, len(scores), factors.repeat(2))
    now = scores.double().numpy().copy()
    heap = [(-score, i) for i, score in enumerate(now.tolist())]  # sorted, hence a heap
    limits = min_scores.tolist()
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


def merge_wbf(
    detections: Sequence[Instances], threshold: float = 0.55, on: On = None, fuse: Fuse = "average"
) -> Instances:
    """Fuse detections by weighted box fusion: groups grow around the mean of their members, weighted by score.

    In descending order of score, each detection joins the group whose fused box (or mask) it overlaps most, with an IoU
    above `threshold`, or starts a new group. The score is the mean of the members' × min(V, n) / V for n members and V
    views. As in the paper, a group may have several members of one view.

    Source: Solovyev et al., arXiv 1910.13302, section 3; the fusion of masks is an extension.
    """
    check_fuse(fuse)
    pool, masks = _prepare(detections, on, threshold=threshold)
    labels, weights = pool.objects.labels, pool.scores.clamp(min=1e-9)  # 0 would leave no mean
    if masks is None:
        group = group_by_fused_boxes(pool.objects.boxes, labels, weights, threshold)
    else:
        group = group_by_fused_masks(masks, labels, weights, threshold, fuse)
    members = torch.bincount(group)
    scores = _sum_scores(pool.scores, group) / members * members.clamp(max=pool.num_views) / pool.num_views
    boxes = fuse_boxes(pool.objects.boxes, group, len(members), weights)
    return _finish(_fuse_groups(pool, group, scores, boxes, fuse, weights), detections)


def merge_nmm(
    detections: Sequence[Instances],
    threshold: float = 0.5,
    metric: Metric = "iou",
    on: On = None,
    fuse: Fuse = "union",
) -> Instances:
    """Merge greedily: in descending order of score, a detection absorbs those that overlap it by at least `threshold`.

    `metric` is "iou", or "ios", the intersection over the smaller area, which joins fragments to whole objects. The
    result has the score of the best member and the box that contains all members. Its mask is by default the union, as
    in the source; means would shrink objects that fragments are joined to.

    Source: Akyon et al., Slicing Aided Hyper Inference, arXiv 2202.06934, and GREEDYNMM in its code, without its second
    pass over what the growing union overlaps, which depends on the order.
    """
    check_fuse(fuse)
    pool, masks = _prepare(detections, on, threshold=threshold)
    group = group_greedily(_find_overlaps(pool, masks, threshold, metric), len(pool))
    best = _find_best_members(group)
    boxes = fuse_boxes(pool.objects.boxes, group, len(best), fuse="union")
    return _finish(_fuse_groups(pool, group, pool.scores[best], boxes, fuse), detections)


def merge_clusters(
    detections: Sequence[Instances],
    threshold: float = 0.5,
    min_views: float = 0.25,
    on: On = None,
    fuse: Fuse = "average",
) -> Instances:
    """Merge clusters that have at most one detection per view, the most similar ones first.

    In rounds, every cluster selects the most similar other cluster of its label with no view in common (IoU of the mean
    masks or mean boxes, at least `threshold`); mutual choices are merged, and their mean is recomputed. The score is
    the sum of the members' scores / V for V views, so a view that misses the object lowers it. Clusters with detections
    in less than the fraction `min_views` of the views are dropped. Boxes are those of the merged masks, or else the
    mean of the members'.

    Source: the merging of test-time views in Britefury's Mask R-CNN (https://github.com/Britefury/pytorch-mask-rcnn),
    which compared sums of masks rather than means, ignored classes, and depended on the order.
    """
    check_fuse(fuse)
    pool, masks = _prepare(detections, on, threshold=threshold, min_views=min_views)
    shapes = (pool.objects.boxes, pool.objects.labels, pool.view, threshold, fuse)
    group = group_by_clustering(*shapes) if masks is None else group_by_clustering(masks, *shapes[1:])
    scores = _sum_scores(pool.scores, group) / pool.num_views
    boxes = fuse_boxes(pool.objects.boxes, group, len(scores))
    confirmed = torch.bincount(group) >= min_views * pool.num_views - 1e-9  # tolerance for rounding
    merged = _fuse_groups(pool, group, scores, boxes, fuse)[confirmed]
    if merged.masks is not None:
        tight = apply_in_chunks(merged.masks, CroppedMasks.boxes)
        merged = replace(merged, boxes=torch.where(box_area(tight)[:, None] > 0, tight, merged.boxes))
    return _finish(merged, detections)


MERGES: dict[str, Callable[..., Instances]] = {
    "nms": merge_nms,
    "soft_nms": merge_soft_nms,
    "wbf": merge_wbf,
    "nmm": merge_nmm,
    "cluster": merge_clusters,
}


def merge(name: str, detections: Sequence[Instances], **settings: Any) -> Instances:
    """Merge detections with one of `MERGES`.

    Args:
        name: name of the merge.
        detections: detections per view.
        **settings: arguments of the merge.

    Returns:
        The merged detections, in descending order of score.

    Raises:
        ValueError: If the name is unknown, or see `merges`.
    """
    if name not in MERGES:
        raise ValueError(f'unknown merge "{name}": one of {", ".join(MERGES)}')
    return MERGES[name](detections, **settings)


def _prepare(detections: Sequence[Instances], on: On, **fractions: float) -> tuple[Pool, CroppedMasks | None]:
    """Pool the detections of all views; return the pool, and the masks if masks are to be compared."""
    for name, value in fractions.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be in 0..1, got {value}")
    if on not in ("masks", "boxes", None):
        raise ValueError(f'unknown on "{on}": one of masks, boxes, or None')
    pool = pool_views(detections)
    if on == "masks" and pool.objects.masks is None and len(pool):
        raise ValueError('on is "masks", but the detections have none')
    return pool, None if on == "boxes" else fill_empty_masks(pool.objects)


def _find_overlaps(pool: Pool, masks: CroppedMasks | None, threshold: float, metric: Metric = "iou") -> Overlaps:
    """Find pairs of one label whose masks, or else boxes, overlap by at least `threshold`."""
    if masks is None:
        return box_overlaps(pool.objects.boxes, None, threshold, metric).select_same_label(pool.objects.labels)
    return mask_overlaps(masks, threshold, metric).select_same_label(pool.objects.labels)


def _find_best_members(group: Tensor) -> Tensor:
    """Return the index of the best detection of each group, int64 `[G]`."""
    return torch.from_numpy(np.unique(group.numpy(), return_index=True)[1])


def _sum_scores(scores: Tensor, group: Tensor) -> Tensor:
    """Sum the scores of each group, float64 `[G]`."""
    return torch.bincount(group, scores.double())


def _fuse_groups(
    pool: Pool, group: Tensor, scores: Tensor, boxes: Tensor, fuse: Fuse, weights: Tensor | None = None
) -> Instances:
    """Fuse each group into one object."""
    labels, masks = pool.objects.labels[_find_best_members(group)], pool.objects.masks
    if masks is not None:
        masks = fuse_masks(masks, group, len(labels), weights, fuse)
    return Instances(pool.objects.size, boxes, labels, scores.float(), masks)


def _finish(merged: Instances, detections: Sequence[Instances]) -> Instances:
    """Sort by score in descending order and move to the device of the first view."""
    return sort_by_score(merged).to(detections[0].boxes.device)
