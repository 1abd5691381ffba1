"""RoIAlign of a pyramid against torchvision's, level by level."""

import pytest
import torch
from torchvision.ops import roi_align as torchvision_roi_align

from maskrcnn.ops import reference
from maskrcnn.ops.pooling import roi_align
from maskrcnn.structures.masks import CroppedMasks

pytestmark = pytest.mark.usefixtures("core")

STRIDES = (2, 4, 8)


def pyramid(channels: int = 5, batch: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, channels, 48 // s, 64 // s, generator=generator) for s in STRIDES]


def rois(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Boxes of all sizes, some beyond the image, with their images and levels, in no order."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(count, 2, generator=generator) * torch.tensor([72.0, 56.0]) - 4
    half = torch.rand(count, 2, generator=generator) ** 3 * 30
    images = torch.randint(3, (count,), generator=generator)
    return torch.cat([centre - half, centre + half], 1), images, torch.randint(3, (count,), generator=generator)


def one_by_one(
    features: list[torch.Tensor],
    boxes: torch.Tensor,
    images: torch.Tensor,
    levels: torch.Tensor,
    size: int | tuple[int, int],
    ratio: int,
    aligned: bool,
) -> torch.Tensor:
    pooled = [
        torchvision_roi_align(features[level][i : i + 1], [b[None]], size, 1 / STRIDES[level], ratio or -1, aligned)
        for b, i, level in zip(boxes, images.tolist(), levels.tolist(), strict=True)
    ]
    return torch.cat(pooled)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize(
    ("size", "ratio"),
    [(7, 2), (14, 1), (3, 0), (1, 3), ((7, 3), 2), ((3, 7), 2), ((2, 5), 0), ((5, 2), 0), ((1, 9), 1)],
)
def test_roi_align_equals_torchvision_and_keeps_the_order(
    size: int | tuple[int, int], ratio: int, aligned: bool
) -> None:
    features = pyramid()
    boxes, images, levels = rois(60)
    found = roi_align(features, boxes, images, levels, STRIDES, size, ratio, aligned)
    assert found.shape == (60, 5, *((size, size) if isinstance(size, int) else size))
    wanted = one_by_one(features, boxes, images, levels, size, ratio, aligned)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [2, 0])
@pytest.mark.parametrize("size", [(4, 4), (2, 6), (6, 1)])
def test_gradients_equal_torchvision(size: tuple[int, int], ratio: int, aligned: bool) -> None:
    boxes, images, levels = rois(30, seed=1)
    weight = torch.randn(30, 5, *size, generator=torch.Generator().manual_seed(2))
    gradients = []
    for pool in (
        lambda f: roi_align(f, boxes, images, levels, STRIDES, size, ratio, aligned),
        lambda f: one_by_one(f, boxes, images, levels, size, ratio, aligned),
    ):
        features = [feature.requires_grad_() for feature in pyramid()]
        (pool(features) * weight).sum().backward()
        gradients.append([feature.grad for feature in features])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((), r"one or two numbers, got \[\]"),
        ((1, 2, 3), r"one or two numbers, got \[1, 2, 3\]"),
        ((3, 0), "must be positive, got 0"),
        (-1, "must be positive, got -1"),
    ],
)
def test_an_invalid_output_size_is_named(size: object, message: str) -> None:
    nothing = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ValueError, match=f"output_size.*{message}"):
        roi_align(pyramid(), torch.zeros(1, 4), nothing, nothing, STRIDES, size)


def test_a_linear_map_is_read_exactly_at_bin_centres() -> None:
    x = torch.arange(32.0).expand(1, 1, 32, 32) + 0.5  # each cell holds its centre
    pooled = roi_align([x], torch.tensor([[8.0, 8, 16, 16]]), torch.zeros(1).long(), torch.zeros(1).long(), [1], 4)
    torch.testing.assert_close(pooled[0, 0, 0], torch.tensor([9.0, 11, 13, 15]))


@pytest.mark.parametrize("ratio", [2, 0])
def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch, ratio: int) -> None:
    features, (boxes, images, levels) = pyramid(), rois(40)
    whole = roi_align(features, boxes, images, levels, STRIDES, 7, ratio)
    monkeypatch.setattr(reference, "CHUNK", 1000)
    torch.testing.assert_close(roi_align(features, boxes, images, levels, STRIDES, 7, ratio), whole)


@pytest.mark.parametrize("ratio", [2, 0])
def test_no_boxes_give_no_maps_and_still_a_gradient_path(ratio: int) -> None:
    features = [feature.requires_grad_() for feature in pyramid()]
    nothing = torch.zeros(0, dtype=torch.int64)
    pooled = roi_align(features, torch.zeros(0, 4), nothing, nothing, STRIDES, 7, ratio)
    assert pooled.shape == (0, 5, 7, 7)


DEGENERATE = torch.tensor(
    [[9.0, 9, 9, 9], [9, 9, 9, 19], [9, 9, 19, 9], [19, 9, 9, 19], [9, 19, 19, 9], [19, 19, 9, 9], [9, 9, 9.001, 19]]
)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [2, 1, 0])
def test_empty_and_inverted_boxes_are_pooled_as_by_torchvision(ratio: int, aligned: bool) -> None:
    # Of adaptive samples in inverted boxes, torchvision's CPU kernel takes a negative number, and fails.
    boxes = DEGENERATE[[0, 1, 2, 6]] if aligned and ratio == 0 else DEGENERATE
    images = levels = torch.zeros(len(boxes), dtype=torch.int64)
    grads = []
    for pool in (roi_align, None):
        features = [feature.requires_grad_() for feature in pyramid()]
        if pool is None:
            pooled = one_by_one(features, boxes, images, levels, 3, ratio, aligned)
        else:
            pooled = pool(features, boxes, images, levels, STRIDES, 3, ratio, aligned)
        grads.append((pooled, torch.autograd.grad(pooled.square().sum(), features[0])[0]))
    for found, wanted in zip(*grads, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=2e-5)


def test_empty_and_inverted_boxes_have_no_adaptive_samples() -> None:
    images = levels = torch.zeros(len(DEGENERATE), dtype=torch.int64)
    pooled = roi_align(pyramid(), DEGENERATE, images, levels, STRIDES, 3, 0, True)
    assert not pooled[:6].any() and pooled[6].all()


@pytest.mark.parametrize("soft", [True, False])
def test_masks_seen_through_empty_and_inverted_boxes_are_empty(soft: bool) -> None:
    masks = CroppedMasks.from_boxes(torch.tensor([[0.0, 0, 30, 30]]), (30, 30))
    index = torch.zeros(len(DEGENERATE), dtype=torch.int64)
    seen = masks.sample(DEGENERATE, 4, index, soft=soft)
    assert not seen[:6].any() and seen[6].all()


def test_boxes_of_float64_are_rounded_to_float32() -> None:
    boxes, images, levels = rois(20)
    features, exact = [feature.double() for feature in pyramid()], boxes.double() + 1e-9
    found = roi_align(features, exact, images, levels, STRIDES, 3)
    assert torch.equal(found, roi_align(features, exact.float(), images, levels, STRIDES, 3))


def test_an_empty_box_pools_a_point_when_sampling_is_fixed() -> None:
    features = pyramid(batch=1)
    box = torch.tensor([[20.0, 20, 20, 20]])
    zero = torch.zeros(1).long()
    found = roi_align(features, box, zero, zero, STRIDES, 2, 2)
    torch.testing.assert_close(found, one_by_one(features, box, zero, zero, 2, 2, True), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_features_keep_exact_coordinates(dtype: torch.dtype) -> None:
    """At 4,000 px a bfloat16 coordinate steps by 16 px; only the features may be rounded."""
    feature = torch.rand(1, 4, 8, 4100).to(dtype)
    box, zero = torch.tensor([[4001.3, 1.2, 4009.9, 6.8]]), torch.zeros(1).long()
    found = roi_align([feature], box, zero, zero, [1], 4, 2)
    wanted = roi_align([feature.float()], box, zero, zero, [1], 4, 2)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), wanted, rtol=0.02, atol=0.02)


def test_half_precision_has_a_gradient() -> None:
    feature = torch.rand(1, 4, 8, 8, dtype=torch.bfloat16, requires_grad=True)
    zero = torch.zeros(1).long()
    roi_align([feature], torch.tensor([[1.0, 1, 7, 7]]), zero, zero, [1], 4, 2).float().sum().backward()
    assert feature.grad is not None and float(feature.grad.float().sum()) == pytest.approx(64, rel=0.02)


def test_channels_last_features_give_the_same() -> None:
    features, (boxes, images, levels) = pyramid(), rois(10)
    last = [feature.contiguous(memory_format=torch.channels_last) for feature in features]
    found, wanted = (roi_align(f, boxes, images, levels, STRIDES, 7, 2) for f in (last, features))
    assert torch.equal(found, wanted)


def test_arguments_that_do_not_belong_together() -> None:
    features, (boxes, images, levels) = pyramid(), rois(4)
    with pytest.raises(ValueError, match="strides"):
        roi_align(features, boxes, images, levels, (2, 4), 7)
    with pytest.raises(ValueError, match="levels"):
        roi_align(features, boxes, images, levels[:3], STRIDES, 7)
    with pytest.raises(ValueError, match="images"):
        roi_align(features, boxes, images[:, None], levels, STRIDES, 7)
