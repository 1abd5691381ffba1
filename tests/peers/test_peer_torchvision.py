"""Operations against torchvision's, on the kinds of arguments that its own tests use."""

from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision import ops as tv
from torchvision.models.detection import _utils as tv_utils
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import paste_masks_in_image, project_masks_on_boxes
from torchvision.ops.poolers import LevelMapper

from maskrcnn.model.anchors import make_base_sizes
from maskrcnn.ops import boxes as box_ops
from maskrcnn.ops.masks import paste_masks
from maskrcnn.ops.matching import all_anchors, match_boxes
from maskrcnn.ops.nms import nms
from maskrcnn.ops.pooling import roi_align
from maskrcnn.ops.types import AnchorLevel
from maskrcnn.structures.boxes import assign_levels, clip_boxes, decode_boxes, encode_boxes
from maskrcnn.structures.masks import CroppedMasks

pytestmark = pytest.mark.usefixtures("core")

HALVES = (torch.float16, torch.bfloat16)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_boxes(count: int, seed: int = 0, extent: float = 100.0) -> Tensor:
    corners = torch.rand(count, 2, generator=generator(seed)) * extent
    return torch.cat([corners, corners + torch.rand(count, 2, generator=generator(seed + 1)) * extent / 2], dim=1)


def spread(tensor: Tensor) -> Tensor:
    """The same values with gaps in memory and another order of dimensions."""
    return tensor.repeat_interleave(2, dim=0).transpose(0, -1).contiguous().transpose(0, -1)[::2]


# ---- NMS


def boxes_near_threshold(count: int, threshold: float, seed: int) -> tuple[Tensor, Tensor]:
    """Boxes of which the last and the first overlap by a little more than the threshold, and random scores."""
    boxes = random_boxes(count, seed)
    x1, _, x2, _ = boxes[-1].tolist()
    boxes[0] = boxes[-1]
    boxes[0, 0] += (x2 - x1) * (1 - threshold - 1e-5)
    return boxes, torch.rand(count, generator=generator(seed + 7))


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_nms(threshold: float, seed: int) -> None:
    boxes, scores = boxes_near_threshold(1000, threshold, seed)
    assert torch.equal(nms(boxes, scores, threshold), tv.nms(boxes, scores, threshold))
    assert torch.equal(nms(spread(boxes), spread(scores[:, None])[:, 0], threshold), tv.nms(boxes, scores, threshold))


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("seed", range(3))
def test_nms_of_boxes_on_a_grid_of_eighths(threshold: float, seed: int) -> None:
    """IoUs hit the threshold, and scores tie."""
    boxes = (random_boxes(800, seed, extent=12) * 8).round() / 8
    scores = (torch.rand(800, generator=generator(seed)) * 16).round() / 16
    order = torch.argsort(scores, descending=True, stable=True)
    wanted = order[tv.nms(boxes[order], torch.arange(800, 0, -1.0), threshold)]
    assert torch.equal(nms(boxes, scores, threshold), wanted)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
def test_nms_of_half_types_is_that_of_their_values_in_float32(threshold: float, dtype: torch.dtype) -> None:
    boxes, scores = boxes_near_threshold(500, threshold, 0)
    boxes, scores = boxes.to(dtype), torch.arange(500, 0, -1.0)
    assert torch.equal(nms(boxes, scores, threshold), tv.nms(boxes.float(), scores, threshold))


@pytest.mark.parametrize("count", [0, 1, 3, 400])
@pytest.mark.parametrize("seed", range(3))
def test_batched_nms(count: int, seed: int) -> None:
    boxes, scores = random_boxes(count, seed), torch.rand(count, generator=generator(seed))
    classes = torch.randint(0, 4, (count,), generator=generator(seed))
    assert torch.equal(nms(boxes, scores, 0.5, classes), tv.batched_nms(boxes, scores, classes, 0.5))


def test_nms_of_infinite_scores() -> None:
    boxes = random_boxes(50)
    scores = torch.rand(50, generator=generator())
    scores[3], scores[9] = torch.inf, -torch.inf
    assert torch.equal(nms(boxes, scores, 0.3), tv.nms(boxes, scores, 0.3))


# ---- RoIAlign


def their_roi_align(
    features: Tensor, boxes: Tensor, images: Tensor, scale: float, size: int, ratio: int, aligned: bool
) -> Tensor:
    rois = torch.cat([images[:, None].to(boxes), boxes], dim=1).to(features)
    return tv.roi_align(features, rois, size, scale, ratio or -1, aligned)


def rois(extent: float = 40.0) -> tuple[Tensor, Tensor]:
    """Boxes inside, across every edge of, and outside the map, on whole numbers, a point, and a long one."""
    boxes = torch.cat(
        [
            random_boxes(10, 3, extent),
            torch.tensor(
                [
                    [0, 0, 4, 4],
                    [0, 5, 4, 9],
                    [5, 5, 9, 9],
                    [0, 0, 9, 9],
                    [-8.3, -9.1, 3, 2],  # no sample at exactly -1, where a map ends and roundings decide
                    [35, 30, 60, 70],
                    [-90, -90, -80, -80],
                ]
            ).float(),
            torch.tensor([[8.0, 8, 8, 8], [3, 3, 39.5, 3.25], [200, 200, 220, 230]]),
        ]
    )
    return boxes, torch.arange(len(boxes)) % 3


GRID = list(product([True, False], [1, 2, 0], [1, 5], [1.0, 0.5]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layout", ["contiguous", "channels last", "spread"])
def test_roi_align_and_its_gradient(layout: str, dtype: torch.dtype) -> None:
    boxes, images = rois()
    levels = torch.zeros_like(images)
    base = torch.randn(3, 12, 20, 23, generator=generator(), dtype=torch.float64).to(dtype)
    features = {
        "contiguous": base,
        "channels last": base.to(memory_format=torch.channels_last),
        "spread": spread(base),
    }[layout]
    tolerance = 2e-4 if dtype == torch.float32 else 1e-9
    for aligned, ratio, size, scale in GRID:
        ours, theirs = features.clone().requires_grad_(), base.clone().requires_grad_()
        found = roi_align([ours], boxes, images, levels, [1 / scale], size, ratio, aligned)
        wanted = their_roi_align(theirs, boxes, images, scale, size, ratio, aligned)
        torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)
        weight = torch.randn(wanted.shape, generator=generator(1), dtype=torch.float64).to(dtype)
        grads = [
            torch.autograd.grad((pooled * weight).sum(), leaf)[0] for pooled, leaf in ((found, ours), (wanted, theirs))
        ]
        torch.testing.assert_close(*grads, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(("aligned", "ratio"), list(product([True, False], [2, 0])))
def test_roi_align_of_half_types(aligned: bool, ratio: int, dtype: torch.dtype) -> None:
    """Of their values in float32: torchvision rounds the coordinates of boxes, too."""
    boxes, images = rois()
    features = torch.randn(3, 12, 20, 23, generator=generator()).to(dtype)
    found = roi_align([features], boxes, images, torch.zeros_like(images), [2.0], 5, ratio, aligned)
    wanted = their_roi_align(features.float(), boxes, images, 0.5, 5, ratio, aligned).to(dtype)
    torch.testing.assert_close(found, wanted, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [2, 0])
def test_roi_align_gradcheck(ratio: int, aligned: bool) -> None:
    features = torch.rand(2, 2, 8, 9, generator=generator(), dtype=torch.float64).requires_grad_()
    boxes, images = torch.tensor([[0.0, 0, 4.5, 4], [1, 2, 8, 7.25], [-2, 3, 5, 20]]), torch.tensor([0, 1, 1])

    def pool(x: Tensor) -> Tensor:
        return roi_align([x], boxes, images, torch.zeros_like(images), [1.0], 3, ratio, aligned)

    assert torch.autograd.gradcheck(pool, (features,))


def test_roi_align_of_no_boxes_and_of_no_images() -> None:
    features = torch.rand(2, 3, 8, 8)
    nothing, none = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    wanted = their_roi_align(features, nothing, none, 1.0, 7, 2, True)
    assert roi_align([features], nothing, none, none, [1.0], 7, 2).shape == wanted.shape == (0, 3, 7, 7)
    assert roi_align([features[:0]], nothing, none, none, [1.0], 7, 2).shape == (0, 3, 7, 7)


def test_roi_align_of_a_pyramid_is_that_of_multi_scale_roi_align() -> None:
    """Levels, too, are those of Lin et al., arXiv 1612.03144, equation 1."""
    names, strides = ["0", "1", "2"], [4, 8, 16]
    maps = [torch.randn(2, 5, 256 // stride, 320 // stride, generator=generator(stride)) for stride in strides]
    parts = [random_boxes(60, 0, 200.0), random_boxes(40, 5, 150.0) * 0.3]
    pool = tv.MultiScaleRoIAlign(names, 7, 2, canonical_scale=100, canonical_level=3)
    wanted = pool(dict(zip(names, maps, strict=True)), parts, [(256, 320)] * 2)
    boxes, images = torch.cat(parts), torch.arange(2).repeat_interleave(torch.tensor([60, 40]))
    levels = assign_levels(boxes, 100, 3, [2, 3, 4])
    assert torch.equal(levels, LevelMapper(2, 4, 100, 3)([boxes]))
    found = roi_align(maps, boxes, images, levels, strides, 7, 2, aligned=False)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


# ---- boxes


FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64)


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS])
def test_box_area_and_iou(dtype: torch.dtype) -> None:
    boxes = torch.tensor([[0, 0, 100, 100], [0, 0, 0, 0], [10, 15, 30, 35], [23, 35, 93, 95]]).to(dtype)
    exact = boxes.double()
    torch.testing.assert_close(box_ops.box_area(boxes).double(), tv.box_area(exact), rtol=1e-6, atol=0)
    others = boxes[1:]
    wanted = tv.box_iou(exact, exact[1:]).nan_to_num(0.0)  # theirs is NaN for two boxes without an area
    torch.testing.assert_close(box_ops.box_iou(boxes, others).double(), wanted, rtol=1e-6, atol=0)


def test_box_iou_of_many_and_of_none() -> None:
    one, other = random_boxes(200), spread(random_boxes(150, 9))
    torch.testing.assert_close(box_ops.box_iou(one, other), tv.box_iou(one, other), rtol=1e-6, atol=1e-7)
    assert box_ops.box_iou(one, other[:0]).shape == (200, 0)


def test_clip_boxes() -> None:
    boxes = torch.cat([random_boxes(50) - 30, random_boxes(50) + 60])
    assert torch.equal(clip_boxes(boxes, (70, 90)), tv.clip_boxes_to_image(boxes, (70, 90)))


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_coded_boxes(weights: tuple[float, float, float, float]) -> None:
    coder, boxes, priors = (
        tv_utils.BoxCoder(weights),
        random_boxes(80),
        random_boxes(80, 4) + torch.tensor([0, 0, 1, 1]),
    )
    deltas = coder.encode_single(boxes, priors)
    torch.testing.assert_close(encode_boxes(boxes, priors, weights), deltas, rtol=1e-4, atol=1e-4)
    wild = torch.randn(80, 4, generator=generator()) * 20
    for each in (deltas, wild):
        torch.testing.assert_close(
            decode_boxes(each, priors, weights), coder.decode_single(each, priors), rtol=1e-4, atol=1e-2
        )


@pytest.mark.parametrize("low_quality", [True, False])
def test_matching(low_quality: bool) -> None:
    targets, priors = random_boxes(20), random_boxes(500, 3)
    wanted = tv_utils.Matcher(0.6, 0.3, low_quality)(tv.box_iou(targets, priors))
    match = match_boxes(priors, targets, 0.3, "all" if low_quality else None)
    found = torch.where(match.forced | (match.iou >= 0.6), match.index, torch.where(match.iou >= 0.3, -2, -1))
    assert torch.equal(found, wanted)


def test_anchors() -> None:
    sizes, ratios, grids = ((16, 24), (32, 48)), ((0.5, 1.0, 2.0),) * 2, [(12, 15), (6, 8)]
    wanted = AnchorGenerator(sizes, ratios)(
        ImageList(torch.zeros(1, 3, 96, 120), [(96, 120)]), [torch.zeros(1, 1, *grid) for grid in grids]
    )[0]
    levels = [
        AnchorLevel((96 // h, 120 // w), (0.0, 0.0), make_base_sizes(size, ratio, rounded=True), h, w)
        for size, ratio, (h, w) in zip(sizes, ratios, grids, strict=True)
    ]
    torch.testing.assert_close(all_anchors(levels), wanted)


# ---- masks


def disks(count: int, size: tuple[int, int]) -> Tensor:
    y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    center = torch.rand(count, 2, 1, 1, generator=generator()) * 60 + 10
    radius = 3 + 20 * torch.rand(count, 1, 1, generator=generator(1))
    return (x - center[:, 0]) ** 2 + (y - center[:, 1]) ** 2 <= radius**2


def test_boxes_of_masks_end_behind_the_last_pixel_where_torchvision_ends_at_it() -> None:
    dense = disks(20, (80, 90))
    wanted = tv.masks_to_boxes(dense) + torch.tensor([0, 0, 1, 1])
    assert torch.equal(CroppedMasks.from_dense(dense).boxes(), wanted)


@pytest.mark.parametrize("size", [14, 28])
def test_targets_of_a_mask_head(size: int) -> None:
    dense = disks(12, (80, 90))
    boxes = tv.masks_to_boxes(dense) + torch.rand(12, 4, generator=generator()) * 4 - 2
    wanted = project_masks_on_boxes(dense.float(), boxes, torch.arange(12), size)
    found = CroppedMasks.from_dense(dense).sample(boxes, size, aligned=False)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("side", [7, 28])
def test_pasted_masks_are_bilinear_samples(side: int) -> None:
    """As `grid_sample` gives them, at every pixel whose center the box holds."""
    probabilities = torch.rand(10, side, side, generator=generator())
    boxes, size = random_boxes(10, 2, 60.0) - 5, (70, 80)
    masks = CroppedMasks(*paste_masks(probabilities, boxes, size), size)
    for i in range(len(masks)):
        x1, y1, x2, y2 = masks.windows[i].tolist()
        x, y = torch.arange(x1, x2) + 0.5, torch.arange(y1, y2) + 0.5
        low, sides = boxes[i, :2], boxes[i, 2:] - boxes[i, :2]
        u, v = (2 * (at - low[axis]) / sides[axis] - 1 for axis, at in enumerate((x, y)))
        grid = torch.stack(torch.meshgrid(u, v, indexing="xy"), dim=-1)[None]
        ((wanted,),) = F.grid_sample(probabilities[i, None, None], grid, padding_mode="border", align_corners=False)
        assert (masks.window(i).float() - wanted * 255).abs().max() <= 0.51


def test_pasted_masks_overlap_those_of_torchvision() -> None:
    """Theirs go to boxes of whole pixels that end at the last one, so edges differ by a pixel; objects do not."""
    dense = disks(12, (80, 90))
    boxes = CroppedMasks.from_dense(dense).boxes()
    probabilities = CroppedMasks.from_dense(dense).sample(boxes, 28)
    ours = CroppedMasks(*paste_masks(probabilities, boxes, (80, 90)), (80, 90)).to_dense()
    theirs = paste_masks_in_image(probabilities[:, None], boxes - torch.tensor([0, 0, 1, 1]), (80, 90))[:, 0] > 0.5

    def ious(found: Tensor) -> Tensor:
        return (found & dense).sum(dim=(1, 2)) / (found | dense).sum(dim=(1, 2))

    assert ious(ours).min() > 0.95
    assert ious(ours).mean() >= ious(theirs).mean()
