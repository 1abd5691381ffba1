"""Several views' detections become one list: as the papers say, whatever the order, and in bounded memory."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from masks_toy import SIZE, check_sound, dense_levels, random_masks
from torch import Tensor
from torchvision.ops import batched_nms

from maskrcnn.inference.merging import overlaps
from maskrcnn.inference.merging.fusion import fuse_boxes, fuse_masks
from maskrcnn.inference.merging.merges import (
    MERGES,
    merge,
    merge_clusters,
    merge_nmm,
    merge_nms,
    merge_soft_nms,
    merge_wbf,
)
from maskrcnn.inference.merging.overlaps import box_overlaps, mask_overlaps, split_by_cost
from maskrcnn.inference.merging.weighted import group_by_fused_boxes
from maskrcnn.ops.boxes import box_intersection, box_iou
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks

EVERY = pytest.mark.parametrize("name", sorted(MERGES))
BOTH = pytest.mark.parametrize("on", ["boxes", "masks"])


def seen(
    boxes: Sequence[Sequence[float]], scores: Sequence[float], labels: Sequence[int] | None = None, **fields: Any
) -> Instances:
    """A view of a 100 x 100 image."""
    labels = [1] * len(scores) if labels is None else labels
    return Instances(
        (100, 100), torch.tensor(boxes).reshape(-1, 4), torch.tensor(labels), torch.tensor(scores), **fields
    )


def random_views(seed: int, num_views: int = 3, count: int = 12, ties: bool = False) -> list[Instances]:
    """The same blobs in every view, shifted and changed a little, some missing, of two labels."""
    generator = torch.Generator().manual_seed(seed)
    truths = random_masks(count, seed=seed)
    labels = torch.randint(1, 3, (count,), generator=generator)
    views = []
    for _ in range(num_views):
        dx, dy = torch.randint(-1, 2, (2,), generator=generator).tolist()
        masks = truths.crop(dx, dy, *SIZE)
        noise = torch.randint(-120, 120, (len(masks.data),), generator=generator)
        masks = replace(masks, data=(masks.data.int() + noise).clamp(0, 255).to(torch.uint8))
        scores = torch.rand(count, generator=generator)
        found = Instances(SIZE, masks.boxes(), labels, (scores * 3).ceil() / 3 if ties else scores, masks)
        views.append(found[torch.rand(count, generator=generator) < 0.8])
    return views


def crowd(seed: int = 0) -> Instances:
    """Truths that overlap and hide each other, no two with an IoU above .5; scores that differ."""
    masks = random_masks(40, seed=seed, soft=True)
    kept: list[int] = []
    for i in torch.nonzero(masks.areas()).flatten().tolist():
        if not kept or bool((masks[i].iou(masks[torch.tensor(kept)])[2] <= 0.5).all()):
            kept.append(i)
    masks = masks[torch.tensor(kept)]
    labels = torch.tensor([1 + i % 2 for i in range(len(masks))])
    return Instances(SIZE, masks.boxes(), labels, torch.linspace(0.9, 0.3, len(masks)), masks)


def assert_same(one: Instances, other: Instances, level: int = 0, tolerance: float = 0.0) -> None:
    assert one.size == other.size and len(one) == len(other)
    assert torch.equal(one.labels, other.labels) and torch.equal(one.ignore, other.ignore)
    torch.testing.assert_close(one.boxes, other.boxes, rtol=0, atol=tolerance)
    torch.testing.assert_close(one.scores, other.scores, rtol=0, atol=tolerance)
    assert (one.masks is None) == (other.masks is None)
    if one.masks is not None and other.masks is not None:
        check_sound(one.masks)
        difference = dense_levels(one.masks).int() - dense_levels(other.masks).int()
        assert int(difference.abs().max() if difference.numel() else 0) <= level


# Plain definitions, N x N and N x H x W


class Plain:
    """All views' detections by falling score, as dense tensors."""

    def __init__(self, views: Sequence[Instances], on: str) -> None:
        scores = torch.cat([view.scores for view in views if view.scores is not None])
        order = torch.argsort(scores, descending=True)
        self.scores = scores[order].double()
        self.boxes = torch.cat([view.boxes for view in views])[order].double()
        self.labels = torch.cat([view.labels for view in views])[order]
        self.view = torch.cat([torch.full((len(view),), i) for i, view in enumerate(views)])[order]
        self.levels = torch.cat([dense_levels(view.masks) for view in views if view.masks is not None])[order].double()
        self.shapes = self.boxes if on == "boxes" else self.levels

    def mean(self, members: list[int], weights: Tensor | None = None, of: Tensor | None = None) -> Tensor:
        of = self.shapes if of is None else of
        weights = torch.ones(len(self.scores)).double() if weights is None else weights
        return torch.einsum("n,n...->...", weights[members], of[members]) / weights[members].sum()

    def result(self, scores: Tensor, boxes: Tensor, levels: Tensor, best: list[int]) -> Instances:
        """Merged detections; a mean of n + .5 rounds up."""
        order = torch.argsort(scores, descending=True, stable=True)
        levels = (levels + 0.5 + 1e-6).floor().to(torch.uint8)
        windows = torch.tensor([[0, 0, SIZE[1], SIZE[0]]] * len(scores)).reshape(-1, 4)
        masks = CroppedMasks.from_windows(windows, list(levels), SIZE)[order]
        labels = self.labels[best][order]
        return Instances(SIZE, boxes[order].float(), labels, scores[order].float(), masks)


def plain_overlap(one: Tensor, other: Tensor, metric: str = "iou") -> float:
    """Of two boxes `[4]`, or of two masks' levels `[H, W]`."""
    if one.ndim == 1:
        shared = float(box_intersection(one[None], other[None]))
        areas = [float((box[2] - box[0]) * (box[3] - box[1])) for box in (one, other)]
    else:
        inside = [level >= 127.5 - 1e-9 for level in (one, other)]
        shared, areas = float((inside[0] & inside[1]).sum()), [float(mask.sum()) for mask in inside]
    whole = sum(areas) - shared if metric == "iou" else min(areas)
    return shared / whole if shared else 0.0


def plain_matrix(plain: Plain, metric: str = "iou") -> Tensor:
    count = len(plain.scores)
    matrix = torch.zeros(count, count).double()
    for i in range(count):
        for j in range(count):
            if plain.labels[i] == plain.labels[j] and i != j:
                matrix[i, j] = plain_overlap(plain.shapes[i], plain.shapes[j], metric)
    return matrix


def plain_soft_nms(plain: Plain, threshold: float, method: str, sigma: float = 0.5, least: float = 0.001) -> Instances:
    overlap, scores = plain_matrix(plain), plain.scores.clone()
    left, kept = set(range(len(scores))), []
    while left:
        best = max(left, key=lambda i: (scores[i], -i))
        left.remove(best)
        if scores[best] < least:
            continue
        kept.append(best)
        for i in left:
            iou = float(overlap[best, i])
            if method == "linear":
                scores[i] *= 1 - iou if iou >= threshold else 1
            else:
                scores[i] *= math.exp(-(iou**2) / sigma)
    return plain.result(scores[kept], plain.boxes[kept], plain.levels[kept], kept)


def plain_wbf(plain: Plain, threshold: float, num_views: int) -> Instances:
    groups: list[list[int]] = []
    for i in range(len(plain.scores)):
        ious = [
            plain_overlap(plain.shapes[i], plain.mean(group, plain.scores))
            * (plain.labels[group[0]] == plain.labels[i])
            for group in groups
        ]
        if ious and max(ious) > threshold:
            groups[ious.index(max(ious))].append(i)
        else:
            groups.append([i])
    sizes = torch.tensor([len(group) for group in groups])
    scores = torch.stack([plain.scores[group].mean() for group in groups]) * sizes.clamp(max=num_views) / num_views
    boxes, levels = (
        torch.stack([plain.mean(group, plain.scores, of) for group in groups]) for of in (plain.boxes, plain.levels)
    )
    return plain.result(scores, boxes, levels, [group[0] for group in groups])


def plain_nmm(plain: Plain, threshold: float, metric: str) -> Instances:
    overlap, left, groups = plain_matrix(plain, metric), list(range(len(plain.scores))), []
    while left:
        groups.append(
            [i for i in left if i == left[0] or (overlap[left[0], i] >= threshold and overlap[left[0], i] > 0)]
        )
        left = [i for i in left if i not in groups[-1]]
    low, high = (
        torch.stack([extreme(plain.boxes[group], dim=0) for group in groups]) for extreme in (torch.amin, torch.amax)
    )
    levels = torch.stack([plain.levels[group].amax(dim=0) for group in groups])
    best = [group[0] for group in groups]
    return plain.result(plain.scores[best], torch.cat([low[:, :2], high[:, 2:]], dim=1), levels, best)


def plain_clusters(plain: Plain, threshold: float, min_views: float, num_views: int) -> Instances:
    clusters: dict[int, list[int]] = {i: [i] for i in range(len(plain.scores))}
    numbers = len(clusters)
    while True:
        pairs = []
        for a in clusters:
            for b in clusters:
                one, other = clusters[a], clusters[b]
                views = set(plain.view[one].tolist()) & set(plain.view[other].tolist())
                if a > b and not views and plain.labels[one[0]] == plain.labels[other[0]]:
                    iou = plain_overlap(plain.mean(one), plain.mean(other))
                    if iou >= threshold and iou > 0:
                        pairs.append((-iou, a ^ b, a, b))
        if not pairs:
            break
        pairs.sort()
        best = {number: min(pair for pair in pairs if number in pair[2:]) for pair in pairs for number in pair[2:]}
        for pair in pairs:
            if best[pair[2]] == best[pair[3]] == pair:
                clusters[numbers] = clusters.pop(pair[2]) + clusters.pop(pair[3])
                numbers += 1
    groups = [sorted(group) for group in clusters.values() if len(group) >= min_views * num_views]
    groups.sort()
    scores = torch.stack([plain.scores[group].sum() / num_views for group in groups])
    boxes, levels = (torch.stack([plain.mean(group, of=of) for group in groups]) for of in (plain.boxes, plain.levels))
    merged = plain.result(scores, boxes, levels, [group[0] for group in groups])
    assert merged.masks is not None
    tight = merged.masks.boxes()
    return replace(merged, boxes=torch.where(tight[:, 2:3] > 0, tight, merged.boxes))


@BOTH
@pytest.mark.parametrize("seed", range(6))
def test_merges_do_what_their_plain_definitions_say(seed: int, on: Any) -> None:
    views = random_views(seed, num_views=[2, 3, 5][seed % 3])
    threshold, plain = [0.0, 0.3, 0.55][seed % 3], Plain(views, on)
    for method in ("gaussian", "linear"):
        expected = plain_soft_nms(plain, threshold, method)
        assert_same(merge_soft_nms(views, threshold, method=method, min_share=0.0, on=on), expected, tolerance=1e-6)
    assert_same(merge_wbf(views, threshold, on=on), plain_wbf(plain, threshold, len(views)), 1, 1e-4)
    for metric in ("iou", "ios"):
        assert_same(merge_nmm(views, threshold, metric, on=on), plain_nmm(plain, threshold, metric), tolerance=1e-6)
    expected = plain_clusters(plain, threshold, 0.4, len(views))
    assert_same(merge_clusters(views, threshold, 0.4, on=on), expected, tolerance=1e-4)


@pytest.mark.parametrize("threshold", [0.0, 0.3001, 0.7001, 1.0])
def test_nms_of_boxes_is_torchvisions(threshold: float) -> None:
    views = random_views(7, num_views=8, count=60)
    boxes, labels = (torch.cat([getattr(view, name) for view in views]) for name in ("boxes", "labels"))
    scores = torch.cat([view.scores for view in views if view.scores is not None])
    kept = batched_nms(boxes, scores, labels, threshold)
    merged = merge_nms(views, threshold, on="boxes")
    assert torch.equal(merged.boxes, boxes[kept]) and torch.equal(merged.labels, labels[kept])
    assert torch.equal(merged.scores, scores[kept])


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.55])
def test_groups_of_fused_boxes_are_found_at_the_limits(threshold: float) -> None:
    """Boxes within others, whose IoU is just above the threshold and whose centres are as far apart as can be."""
    generator = torch.Generator().manual_seed(2)
    count, family = 400, torch.arange(400) % 30
    side = torch.tensor([40.0, 6.0]) * torch.rand(30, 2, generator=generator)[family] + 2
    low = torch.rand(30, 2, generator=generator)[family] * 400
    part = torch.rand(count, 2, generator=generator) * (1 - threshold) + threshold
    part[:, 1] = 1
    shift = (torch.rand(count, 2, generator=generator) < 0.5) * (1 - part) * side
    boxes = torch.cat([low + shift, low + shift + part * side], dim=1)
    weights = torch.rand(count, generator=generator).sort(descending=True).values + 0.01
    groups: list[list[int]] = []
    for i in range(count):
        fused = [(boxes[group].double() * weights[group, None]).sum(0) / weights[group].sum() for group in groups]
        iou = box_iou(boxes[i : i + 1].double(), torch.stack([*fused, torch.zeros(4).double()]))[0]
        groups[int(iou.argmax())].append(i) if iou.max() > threshold else groups.append([i])
    found = group_by_fused_boxes(boxes, torch.ones(count).long(), weights, threshold)
    assert [torch.nonzero(found == number).flatten().tolist() for number in range(len(groups))] == groups


# Known answers


def test_known_answers() -> None:
    views = [
        seen([[0, 0, 10, 10], [50, 50, 60, 60]], [0.8, 0.6]),
        seen([[0, 0, 10, 8]], [0.4]),  # IoU .8 with the first
    ]
    kept = merge_nms(views, 0.7)
    assert kept.boxes.tolist() == [[0, 0, 10, 10], [50, 50, 60, 60]]
    half = [views[0], seen([[0, 0, 10, 5]], [0.4])]
    assert len(merge_nms(half, 0.5)) == 3, "an IoU equal to the threshold is kept"

    soft = merge_soft_nms(views, 0.5, method="linear", min_share=0.0)
    assert soft.scores.tolist() == pytest.approx([0.8, 0.6, 0.4 * 0.2])
    soft = merge_soft_nms(views, sigma=0.5, method="gaussian", min_share=0.0)
    assert soft.scores.tolist() == pytest.approx([0.8, 0.6, 0.4 * math.exp(-(0.8**2) / 0.5)])
    assert len(merge_soft_nms(views, method="linear", min_score=0.1, min_share=0.0)) == 2
    assert len(merge_soft_nms(views, method="linear")) == 2, "what keeps a fifth of its score is a copy"

    fused = merge_wbf(views)
    torch.testing.assert_close(fused.boxes[0], torch.tensor([0, 0, 10, (0.8 * 10 + 0.4 * 8) / 1.2]))
    assert fused.scores.tolist() == pytest.approx([0.6, 0.3])

    union = merge_nmm([seen([[0, 0, 10, 10]], [0.4]), seen([[0, 2, 12, 10]], [0.8])], 0.6)
    assert union.boxes.tolist() == [[0, 0, 12, 10]] and union.scores.tolist() == pytest.approx([0.8])
    fragment = [seen([[0, 0, 20, 20]], [0.9]), seen([[15, 0, 25, 10]], [0.5])]
    assert len(merge_nmm(fragment, 0.5, "iou")) == 2 and len(merge_nmm(fragment, 0.5, "ios")) == 1

    clusters = merge_clusters(views, 0.5, min_views=0.0)
    assert clusters.boxes.tolist() == [[0, 0, 10, 9], [50, 50, 60, 60]]
    assert clusters.scores.tolist() == pytest.approx([0.6, 0.3])


def test_clusters_take_the_most_similar_of_each_view_alone() -> None:
    near, far = [0.0, 0, 10, 10], [0.0, 0, 10, 9]
    merged = merge_clusters([seen([near, far], [0.5, 0.9]), seen([far, near], [0.5, 0.9])], 0.5)
    assert sorted(merged.boxes.tolist()) == sorted([near, far])
    assert merged.scores.tolist() == pytest.approx([0.7, 0.7])


def test_boxes_of_clusters_shrink_to_the_merged_masks() -> None:
    def view(x2: int) -> Instances:
        masks = CroppedMasks.from_windows(torch.tensor([[0, 0, x2, 4]]), [torch.full((4, x2), 255)], (9, 9))
        return Instances((9, 9), torch.tensor([[0.0, 0, 9, 9]]), torch.tensor([1]), torch.tensor([0.5]), masks)

    assert merge_clusters([view(4), view(4), view(6)]).boxes.tolist() == [[0, 0, 4, 4]]


# What holds for all merges


@EVERY
@BOTH
def test_equal_copies_of_a_crowd_become_the_crowd(name: str, on: Any) -> None:
    truths = crowd()
    if on == "boxes":  # boxes that do not touch
        apart = torch.arange(8.0)[:, None] * 12
        boxes = torch.cat([apart, apart * 0 + 3, apart + 9, apart * 0 + 14], dim=1) * 0.37
        truths = Instances(SIZE, boxes, truths.labels[:8], truths.scores[:8])
    more = {"method": "linear"} if name == "soft_nms" else {}
    for num_views in (1, 2, 7):
        merged = merge(name, [truths] * num_views, threshold=0.55 if name == "wbf" else 0.5, on=on, **more)
        assert_same(merged, truths)


@EVERY
def test_hidden_objects_stay_apart(name: str) -> None:
    """Objects painted over each other: the visible parts of those behind are torn, but share no pixel with others."""
    labels, kept = random_masks(60, seed=3).to_label_image()
    masks = CroppedMasks.from_label_image(labels)
    truths = Instances(SIZE, masks.boxes(), torch.ones(len(masks)).long(), torch.linspace(1, 0.5, len(masks)), masks)
    more = {"min_score": 0.2} if name == "soft_nms" else {}
    assert_same(merge(name, [truths] * 3, **more), truths)
    assert int(kept.sum()) >= len(truths) > 20


def test_one_view_may_hold_near_duplicates_in_clusters() -> None:
    view = seen([[0.0, 0, 10, 10], [0, 0, 10, 9.5]], [0.9, 0.8])
    assert_same(merge_clusters([view] * 3), view)
    assert len(merge_nms([view] * 3)) == 1


@EVERY
@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), on=st.sampled_from(["boxes", "masks"]), shuffle=st.randoms(use_true_random=False))
def test_order_changes_nothing(name: str, seed: int, on: str, shuffle: Any) -> None:
    views = random_views(seed % 50, num_views=4, count=10, ties=True)
    views[1] = views[0]  # exact ties between views
    views[2] = Instances.cat([views[2], views[0]])  # and duplicates within one
    again = [view[torch.tensor(shuffle.sample(range(len(view)), len(view)), dtype=torch.int64)] for view in views]
    shuffle.shuffle(again)
    assert_same(merge(name, views, on=on), merge(name, again, on=on))


def test_equal_detections_of_different_views_merge_alike_in_any_order() -> None:
    twice, once, more = seen([[0, 0, 9, 9]] * 2, [0.5, 0.5]), seen([[0, 0, 9, 9]], [0.5]), seen([[9, 9, 20, 20]], [0.2])
    views = [twice, once, Instances.cat([once, more])]
    results = [merge_clusters([views[i] for i in order]) for order in itertools.permutations(range(3))]
    for result in results:
        assert_same(result, results[0])


@EVERY
@pytest.mark.parametrize("on", [None, "boxes"])
def test_labels_never_merge(name: str, on: Any) -> None:
    truths = replace(crowd(), labels=torch.ones(1).long().expand(len(crowd())))
    other = replace(truths, labels=truths.labels + 6)
    apart = [merge(name, [view] * 2, on=on) for view in (truths, other)]
    together = merge(name, [Instances.cat([truths, other])] * 2, on=on)
    for alone, label in zip(apart, (1, 7), strict=True):
        assert_same(together[together.labels == label], alone)


def test_a_view_that_misses_the_object_lowers_its_score() -> None:
    view, blind = seen([[0, 0, 10, 10]], [0.8]), Instances.empty((100, 100))
    for merged in (merge_wbf, merge_clusters):
        assert merged([view] * 4).scores.tolist() == pytest.approx([0.8])
        assert merged([view, view, view, blind]).scores.tolist() == pytest.approx([0.6])
    assert len(merge_clusters([view, *[blind] * 3], min_views=0.25)) == 1
    assert len(merge_clusters([view, *[blind] * 3], min_views=0.26)) == 0


@EVERY
@pytest.mark.parametrize("with_masks", [False, True])
def test_nothing_found_is_fine(name: str, with_masks: bool) -> None:
    nothing = Instances.empty(SIZE, with_masks)
    merged = merge(name, [nothing, nothing])
    assert len(merged) == 0 and merged.size == SIZE and (merged.masks is not None) == with_masks
    assert merged.scores is not None and merged.ids is None
    truths = crowd() if with_masks else replace(crowd(), masks=None)
    for blind in (nothing, Instances.empty(SIZE), Instances.empty(SIZE, with_masks=True)):
        some = merge(name, [blind, truths], threshold=1.0)
        assert len(some) == len(truths) and (some.masks is not None) == with_masks


@EVERY
def test_empty_masks_and_boxes_overlap_nothing(name: str) -> None:
    masks = random_masks(7)[torch.tensor([6, 6])]
    hollow = Instances(SIZE, torch.zeros(2, 4), torch.ones(2).long(), torch.tensor([0.5, 0.5]), masks)
    for on in (None, "boxes"):
        assert_same(merge(name, [hollow], on=on), hollow)


def test_ids_are_kept_by_merges_that_select_and_nothing_is_ignored() -> None:
    first = seen([[0, 0, 10, 10]], [0.8], ids=torch.tensor([5]), ignore=torch.tensor([True]))
    second = seen([[0, 0, 10, 10], [40, 40, 50, 50]], [0.9, 0.3], ids=torch.tensor([7, 8]))
    for name in MERGES:
        merged = merge(name, [first, second], **({"method": "linear"} if name == "soft_nms" else {}))
        assert len(merged) == 2 and not merged.ignore.any()
        assert (None if merged.ids is None else merged.ids.tolist()) == ([7, 8] if "nms" in name else None)
    assert merge_nms([first, replace(second, ids=None)]).ids is None
    assert first.ignore.all(), "what is given is left as it was"


@EVERY
def test_many_small_objects_in_a_large_image(name: str) -> None:
    """10,000 objects in two views of 8000 x 8000: dense masks would be 1.3 TB, all pairs 400 million."""
    generator, side = torch.Generator().manual_seed(0), 8000
    views = []
    for _ in range(2):
        corner = torch.stack([torch.arange(10_000) % 100 * 80, torch.arange(10_000) // 100 * 80], dim=1).int()
        corner = corner + torch.randint(0, 2, (10_000, 2), generator=generator)
        windows = torch.cat([corner, corner + 6], dim=1).int()
        data = torch.full((360_000,), 255, dtype=torch.uint8)
        masks = CroppedMasks(windows, torch.arange(10_001) * 36, data, (side, side))
        labels, scores = torch.ones(10_000).long(), torch.rand(10_000, generator=generator)
        views.append(Instances((side, side), windows.float(), labels, scores, masks))
    merged = merge(name, views, **({"min_score": 0.3} if name == "soft_nms" else {"threshold": 0.4}))
    assert merged.masks is not None and len(merged.masks.data) <= 20_000 * 49
    assert len(merged) >= 10_000 if name != "soft_nms" else len(merged) > 5_000


# Bad input

VIEW = seen([[0, 0, 10, 10]], [0.5])
MASKED = crowd()


@EVERY
@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([], "detections must contain at least one view"),
        ([VIEW, Instances.empty((9, 100))], r"detections .* sizes \[\(9, 100\), \(100, 100\)\]"),
        ([VIEW, replace(VIEW, scores=None)], r"detections\[1\] has no scores"),
        ([VIEW, replace(VIEW, scores=torch.tensor([math.nan]))], r"scores of detections\[1\] must be finite"),
        ([replace(VIEW, scores=torch.tensor([-0.1]))], r"scores of detections\[0\] .* nonnegative"),
        ([replace(VIEW, boxes=torch.tensor([[0, 0, math.inf, 1]]))], r"boxes of detections\[0\] must be finite"),
        ([MASKED, replace(MASKED, masks=None)], r"detections\[1\] has no masks"),
    ],
)
def test_views_that_do_not_belong_together_are_refused(name: str, found: list[Instances], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        merge(name, found)


@EVERY
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"threshold": 1.5}, "threshold must be in 0..1, got 1.5"),
        ({"threshold": math.nan}, "threshold must be in 0..1"),
        ({"on": "pixels"}, 'unknown on "pixels": one of masks, boxes'),
        ({"on": "masks"}, 'on is "masks", but the detections have none'),
    ],
)
def test_bad_settings_of_all_merges_are_refused(name: str, setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        merge(name, [VIEW], **setting)


@pytest.mark.parametrize(
    ("name", "setting", "message"),
    [
        ("best", {}, 'unknown merge "best": one of nms, soft_nms, wbf, nmm, cluster'),
        ("soft_nms", {"sigma": 0.0}, "sigma must be above 0, got 0.0"),
        ("soft_nms", {"method": "cubic"}, 'unknown method "cubic": one of gaussian, linear'),
        ("soft_nms", {"min_score": -1.0}, "min_score must not be negative"),
        ("soft_nms", {"min_share": 2.0}, "min_share"),
        ("nmm", {"metric": "giou"}, 'unknown metric "giou": one of iou, ios'),
        ("cluster", {"min_views": -0.1}, "min_views must be in 0..1"),
        ("cluster", {"fuse": "sum"}, 'unknown fuse "sum": one of average, votes, union'),
        ("wbf", {"fuse": "sum"}, 'unknown fuse "sum"'),
        ("nmm", {"fuse": "sum"}, 'unknown fuse "sum"'),
    ],
)
def test_bad_settings_are_refused(name: str, setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        merge(name, [VIEW], **setting)


# Fusion


def levels_of(rows: Sequence[Sequence[int]]) -> CroppedMasks:
    """Masks of one row each, on a canvas as wide as the row."""
    width = len(rows[0])
    levels = [torch.tensor([row], dtype=torch.uint8) for row in rows]
    return CroppedMasks.from_windows(torch.tensor([[0, 0, width, 1]] * len(rows)), levels, (1, width))


def test_average_votes_and_union() -> None:
    masks, one = levels_of([[200, 128, 255], [200, 128, 0], [0, 0, 0]]), torch.zeros(3, dtype=torch.int64)
    assert fuse_masks(masks, one, 1).data.tolist() == [133, 85, 85]
    assert fuse_masks(masks, one, 1, fuse="votes").data.tolist() == [170, 170, 85]
    assert fuse_masks(masks, one, 1, fuse="union").data.tolist() == [200, 128, 255]
    assert fuse_masks(masks, one, 1, torch.tensor([0.0, 0.25, 0.25])).data.tolist() == [100, 64, 0]
    assert fuse_masks(masks, one, 1, torch.zeros(3)).data.tolist() == [133, 85, 85], "no weight: all count the same"
    half = fuse_masks(masks[:2], one[:2], 1)
    assert half.data.tolist() == [200, 128, 128], "what half of the members hold is inside"


def test_only_members_that_see_a_pixel_count() -> None:
    masks = levels_of([[0, 255, 255, 0, 0, 0], [0, 0, 255, 255, 255, 0]])
    seen_windows = torch.tensor([[0, 0, 3, 1], [2, 0, 6, 1]])
    fused = fuse_masks(masks, torch.zeros(2, dtype=torch.int64), 1, visible=seen_windows)
    assert dense_levels(fused)[0, 0].tolist() == [0, 255, 255, 255, 255, 0]
    boxes = torch.tensor([[1.0, 0, 3, 9], [2, 0, 5, 9]])
    seen_windows = torch.tensor([[0, -9, 3, 18], [2, -9, 9, 18]])
    fused_box = fuse_boxes(boxes, torch.zeros(2, dtype=torch.int64), 1, visible=seen_windows)
    assert fused_box.tolist() == [[1, 0, 5, 9]], "a side at the end of what was seen does not count"


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    fuse=st.sampled_from(["average", "votes", "union"]),
    weighted=st.booleans(),
    tiled=st.booleans(),
)
def test_fused_masks_equal_dense_sums(seed: int, fuse: Any, weighted: bool, tiled: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    masks = random_masks(seed % 20, seed=seed, soft=True)
    group = torch.randint(-1, 4, (len(masks),), generator=generator)
    weights = torch.rand(len(masks), generator=generator) + 0.01 if weighted else None
    corner = torch.randint(-3, 20, (len(masks), 2), generator=generator)
    tile = torch.cat([corner, corner + torch.randint(1, 25, (len(masks), 2), generator=generator)], dim=1).int()
    fused = fuse_masks(masks, group, 4, weights, fuse, tile if tiled else None)
    check_sound(fused)
    seen_by = torch.ones(len(masks), *SIZE).double()
    if tiled:
        for one, (x1, y1, x2, y2) in zip(seen_by, tile.clamp(min=0).tolist(), strict=True):
            inside = torch.zeros(SIZE)
            inside[y1:y2, x1:x2] = 1
            one *= inside
    levels = dense_levels(masks).double() * seen_by
    levels = (levels >= 128) * 255.0 if fuse == "votes" else levels
    weight = seen_by if weights is None else seen_by * weights[:, None, None]
    for number, level in enumerate(dense_levels(fused).double()):
        mine = group == number
        expected = (levels * weight)[mine].sum(dim=0) / weight[mine].sum(dim=0).clamp(min=1e-9)
        if fuse == "union":
            expected = levels[mine].amax(dim=0) if mine.any() else torch.zeros(SIZE).double()
        assert float((level - expected).abs().max()) <= 0.5 + 1e-6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"group": torch.zeros(3, dtype=torch.int64)}, r"group must be int64 \[2\]"),
        ({"group": torch.tensor([0, 2])}, r"group must be in -1..1, got 0..2"),
        ({"weights": torch.ones(3)}, r"weights must be \[2\]"),
        ({"weights": torch.tensor([1.0, -1])}, "weights must be finite and nonnegative"),
        ({"visible": torch.zeros(2, 2)}, r"visible must be \[2, 4\]"),
        ({"fuse": "best"}, 'unknown fuse "best"'),
    ],
)
def test_bad_arguments_of_fusion_are_refused(arguments: dict[str, Any], message: str) -> None:
    masks, given_ = random_masks(2), {"group": torch.tensor([0, 1]), "num_groups": 2, **arguments}
    with pytest.raises(ValueError, match=message):
        fuse_masks(masks, **given_)
    with pytest.raises(ValueError, match=message):
        fuse_boxes(masks.boxes(), **given_)


# Overlaps


def sizes_and_places(seed: int, count: int) -> Tensor:
    """Boxes of 0 to 100 px, most small, some doubled, empty, inverted, huge or not finite."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 100
    boxes = torch.cat([corner, corner + 100 * torch.rand(count, 2, generator=generator) ** 4], dim=1)
    boxes = boxes.round() if seed % 2 else boxes
    if count > 8:
        boxes[1], boxes[2, 0], boxes[3] = boxes[0], math.nan, torch.tensor([-1e30, -1e30, 1e30, 1e30])
        boxes[4], boxes[5] = boxes[4].flip(0), torch.tensor([0, 0, math.inf, 3])
    return boxes


def check_overlaps(found: Any, shared: Tensor, areas1: Tensor, areas2: Tensor) -> None:
    rows, columns = torch.nonzero(shared > 0, as_tuple=True)
    assert torch.equal(found.rows, rows) and torch.equal(found.columns, columns)
    shared = shared[rows, columns].double()
    assert torch.equal(found.intersection, shared)
    torch.testing.assert_close(found.iou, shared / (areas1[rows] + areas2[columns] - shared))
    torch.testing.assert_close(found.ios, shared / torch.minimum(areas1[rows], areas2[columns]))


@given(seed=st.integers(0, 10_000))
@settings(max_examples=40)
def test_sparse_overlaps_equal_dense_ones(seed: int) -> None:
    one, other = sizes_and_places(seed, seed % 70), sizes_and_places(seed + 1, seed % 33)

    def shared(boxes1: Tensor, boxes2: Tensor) -> Tensor:
        sound1, sound2 = (b.isfinite().all(dim=1) & (b[:, 2:] > b[:, :2]).all(dim=1) for b in (boxes1, boxes2))
        return torch.where(sound1[:, None] & sound2, box_intersection(boxes1.double(), boxes2.double()), 0)

    area1, area2 = ((b[:, 2:] - b[:, :2]).double().prod(dim=1) for b in (one, other))
    check_overlaps(box_overlaps(one, other), shared(one, other), area1, area2)
    check_overlaps(box_overlaps(one), shared(one, one).triu(1), area1, area1)
    masks = random_masks(seed % 40, seed=seed, soft=True)
    dense = masks.to_dense().flatten(1).double()
    check_overlaps(mask_overlaps(masks), (dense @ dense.T).triu(1), dense.sum(dim=1), dense.sum(dim=1))
    for metric in ("iou", "ios"):
        every = mask_overlaps(masks)
        assert len(mask_overlaps(masks, 0.3, metric)) == int((getattr(every, metric) >= 0.3).sum())


def test_intersections_of_huge_masks_are_exact() -> None:
    """18 million shared pixels are more than a float32 IoU tells exactly."""
    windows = torch.tensor([[0, 0, 4300, 4301], [3, 5, 4300, 4301]], dtype=torch.int32)
    areas = (windows[:, 2:] - windows[:, :2]).long().prod(dim=1)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), areas.cumsum(0)])
    masks = CroppedMasks(windows, offsets, torch.full((int(areas.sum()),), 255, dtype=torch.uint8), (4301, 4300))
    for missing in (1, 2):
        masks.data[-missing] = 0
        assert mask_overlaps(masks).intersection.tolist() == [float(areas[1] - missing)]


@pytest.mark.parametrize("columns", [1, 250])
@pytest.mark.parametrize("huge", [1e5, 1e30])
def test_a_huge_box_costs_no_more_than_what_it_overlaps(
    columns: int, huge: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at = []

    def counted(costs: Tensor, budget: int) -> tuple[Tensor, ...]:
        looked_at.append(int(costs.sum()))
        return split_by_cost(costs, budget)

    place = torch.arange(20_000)
    corner = torch.stack([place % columns * 20.0, place // columns * 20.0], dim=1)
    boxes = torch.cat([torch.cat([corner, corner + 15], dim=1), torch.tensor([[-huge, -huge, huge, huge]])])
    found = box_overlaps(boxes)
    assert (found.columns == 20_000).all()
    inside = (boxes[:-1, :2] < huge).all(dim=1)
    assert torch.equal(found.rows, torch.nonzero(inside).flatten())
    monkeypatch.setattr(overlaps, "split_by_cost", counted)
    box_overlaps(boxes)
    assert looked_at[0] < 20 * len(boxes)


def test_merges_are_functions_of_views() -> None:
    functions: dict[str, Callable[..., Instances]] = MERGES
    assert list(functions) == ["nms", "soft_nms", "wbf", "nmm", "cluster"]
