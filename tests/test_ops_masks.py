"""Operations on masks as windows, against the same on dense stacks."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from masks_toy import SIZE, check_sound, dense_levels, random_masks
from torch.nn import functional as F
from torchvision.ops import roi_align

from maskrcnn.ops import reference_masks
from maskrcnn.ops.masks import label_image, masks_from_label_image, paste_masks
from maskrcnn.structures.masks import CroppedMasks

pytestmark = pytest.mark.usefixtures("core")

H, W = SIZE


# canvas changes


@pytest.mark.parametrize(
    ("x", "y", "height", "width"), [(0, 0, H, W), (5, 3, 10, 12), (-4, -6, 40, 50), (25, 20, 30, 30), (100, 0, 5, 5)]
)
def test_crop_is_a_slice_of_the_padded_canvas(x: int, y: int, height: int, width: int) -> None:
    masks = random_masks(20, soft=True)
    cut = masks.crop(x, y, height, width)
    check_sound(cut)
    assert cut.size == (height, width)
    padded = F.pad(dense_levels(masks), (100, 200, 100, 200))
    assert torch.equal(dense_levels(cut), padded[:, 100 + y : 100 + y + height, 100 + x : 100 + x + width])


@pytest.mark.parametrize(("horizontal", "vertical"), [(True, False), (False, True), (True, True), (False, False)])
def test_flip_mirrors_the_canvas(horizontal: bool, vertical: bool) -> None:
    masks = random_masks(20, soft=True)
    flipped = masks.flip(horizontal, vertical)
    check_sound(flipped)
    axes = [2] * horizontal + [1] * vertical
    assert torch.equal(dense_levels(flipped), dense_levels(masks).flip(axes))


def test_transpose_exchanges_x_and_y() -> None:
    masks = random_masks(20, soft=True)
    turned = masks.transpose()
    check_sound(turned)
    assert turned.size == (W, H) and torch.equal(dense_levels(turned), dense_levels(masks).transpose(1, 2))


@settings(max_examples=60)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 97), st.integers(1, 97))
def test_resize_equals_nearest_interpolation(height: int, width: int, new_height: int, new_width: int) -> None:
    masks = random_masks(6, (height, width), seed=height * 41 + width, soft=True)
    resized = masks.resize((new_height, new_width))
    check_sound(resized)
    wanted = F.interpolate(dense_levels(masks)[:, None].float(), (new_height, new_width), mode="nearest")[:, 0]
    assert torch.equal(dense_levels(resized).float(), wanted)


# warp


def affine(*rows: tuple[float, float, float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


IDENTITY = affine((1, 0, 0), (0, 1, 0))
QUARTER = affine((0, -1, H), (1, 0, 0))  # 90° clockwise: (x, y) -> (H - y, x)


def test_warp_by_the_identity_changes_nothing() -> None:
    masks = random_masks(20, soft=True)
    assert torch.equal(dense_levels(masks.warp(IDENTITY, SIZE)), dense_levels(masks))


@pytest.mark.parametrize(("dx", "dy"), [(3, -2), (-7, 5), (40, 0)])
def test_warp_by_whole_pixels_shifts_exactly(dx: int, dy: int) -> None:
    masks = random_masks(20, soft=True)
    moved = masks.warp(affine((1, 0, dx), (0, 1, dy)), SIZE)
    check_sound(moved)
    assert torch.equal(dense_levels(moved), dense_levels(masks.crop(-dx, -dy, H, W)))


@pytest.mark.parametrize("angle", [None, math.pi / 2])
def test_warp_by_a_quarter_turn_is_exact(angle: float | None) -> None:
    matrix = QUARTER.clone()
    if angle is not None:  # cos and sin that are not quite 0 and 1
        matrix[:, :2] = affine((math.cos(angle), -math.sin(angle), 0), (math.sin(angle), math.cos(angle), 0))[:, :2]
    masks = random_masks(20, soft=True)
    turned = masks.warp(matrix, (W, H))
    check_sound(turned)
    assert torch.equal(dense_levels(turned), dense_levels(masks).rot90(-1, dims=(1, 2)))


@settings(max_examples=40)
@given(st.floats(0, 2 * math.pi), st.floats(1, 2), st.floats(-9, 9), st.floats(-9, 9))
def test_warp_there_and_back_keeps_small_ellipses(angle: float, scale: float, x_shift: float, y_shift: float) -> None:
    y, x = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    coverage = (6.0 - ((x - 30.3).square() + ((y - 33.7) * 1.5).square()).sqrt()).clamp(0, 1)
    masks = CroppedMasks.from_dense(coverage[None])
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)  # about the middle of the canvas
    turn = affine((cos, -sin, 32 - 32 * (cos - sin) + x_shift), (sin, cos, 32 - 32 * (sin + cos) + y_shift))
    inverse = torch.linalg.inv(torch.cat([turn, affine((0, 0, 1))]))[:2]
    back = masks.warp(turn, (64, 64)).warp(inverse, (64, 64))
    assert float(back.iou(masks)[2]) >= 0.9


def test_warp_follows_boxes_under_scaling() -> None:
    masks = CroppedMasks.from_windows(torch.tensor([[4, 5, 9, 8]]), [torch.full((3, 5), 255, dtype=torch.uint8)], SIZE)
    assert masks.warp(affine((3, 0, 0), (0, 2, 0)), (60, 90)).boxes().tolist() == [[12, 10, 27, 16]]


@pytest.mark.parametrize("scale", [0.5, 0.25, 0.1])
def test_thin_masks_keep_their_weight_when_they_shrink(scale: float) -> None:
    """A line of one pixel, wherever it lies: single samples would miss it or see it alone."""
    for x in range(8, 16):
        line = CroppedMasks.from_windows(torch.tensor([[x, 2, x + 1, 82]]), [torch.full((80, 1), 255)], (96, 96))
        shrunk = line.warp(affine((scale, 0, 0), (0, scale, 0)), (48, 48))
        assert shrunk.data.sum() / 255 == pytest.approx(80 * scale**2, rel=0.05)


def test_warp_far_out_of_the_canvas_leaves_empty_masks() -> None:
    masks = random_masks(5).warp(affine((1e9, 0, 1e12), (0, 1e9, -1e12)), SIZE)
    check_sound(masks)
    assert masks.areas().tolist() == [0] * 5


@pytest.mark.parametrize(
    "matrix", [affine((1, 2, 0), (2, 4, 0)), affine((0, 0, 0), (0, 1, 0)), affine((1, 0, math.nan), (0, 1, 0))]
)
def test_warp_refuses_a_singular_matrix(matrix: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="invertible"):
        random_masks(2).warp(matrix, SIZE)


# sampling: what a mask head learns


def boxes_around(count: int, seed: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(count, 2, generator=generator) * torch.tensor([W + 6.0, H + 6.0]) - 3
    half = torch.rand(count, 2, generator=generator) ** 2 * 14 + 0.3
    return torch.cat([centre - half, centre + half], dim=1)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize(("side", "ratio"), [(14, 2), (7, 0), (2, 0), (5, 3)])
def test_sampling_equals_roi_align_of_dense_masks(side: int, ratio: int, aligned: bool) -> None:
    masks = random_masks(9, soft=True)
    boxes, index = boxes_around(40), torch.arange(40) % 9
    found = masks.sample(boxes, side, index, ratio, aligned)
    rois = torch.cat([index[:, None].float(), boxes], dim=1)
    wanted = roi_align(dense_levels(masks)[:, None].float() / 255, rois, side, 1.0, ratio or -1, aligned)[:, 0]
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize("ratio", [2, 0])
def test_sampling_in_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch, ratio: int) -> None:
    masks, boxes = random_masks(9, soft=True), boxes_around(9)
    whole = masks.sample(boxes, 7, sampling_ratio=ratio)
    monkeypatch.setattr(reference_masks, "CHUNK", 50)
    torch.testing.assert_close(masks.sample(boxes, 7, sampling_ratio=ratio), whole, rtol=0, atol=1e-6)


def test_a_mask_seen_through_its_own_window_is_itself() -> None:
    level = torch.randint(0, 256, (6, 6), dtype=torch.uint8)
    masks = CroppedMasks.from_windows(torch.tensor([[4, 5, 10, 11]]), [level], SIZE)
    seen = masks.sample(torch.tensor([[4.0, 5, 10, 11]]), 6, sampling_ratio=1)
    torch.testing.assert_close(seen[0], level / 255)
    assert torch.equal(masks.sample(torch.tensor([[4.0, 5, 10, 11]]), 6, soft=False)[0], (level >= 128).float())


def test_sampling_nothing_and_empty_masks() -> None:
    masks = random_masks(3)
    assert masks.sample(torch.zeros(0, 4), 7, torch.zeros(0, dtype=torch.int64)).shape == (0, 7, 7)
    empty = CroppedMasks.from_windows(torch.zeros(2, 4), [torch.zeros(0, 0)] * 2, SIZE)
    assert not empty.sample(boxes_around(2), 7).any()
    mixed = CroppedMasks.cat([masks, empty])
    assert not mixed.sample(boxes_around(1), 7, torch.tensor([4])).any()


def test_sampling_needs_an_index_for_each_box() -> None:
    with pytest.raises(ValueError, match="index"):
        random_masks(3).sample(boxes_around(2), 7, torch.zeros(3, dtype=torch.int64))


# pasting


def pasted_pixel_by_pixel(probabilities: torch.Tensor, box: list[float], size: tuple[int, int]) -> torch.Tensor:
    """The definition: each pixel whose centre the box holds reads the S × S cells bilinearly."""
    side, (x1, y1, x2, y2) = len(probabilities), box
    level = torch.zeros(size)
    for i in range(size[0]):
        for j in range(size[1]):
            if x1 <= j + 0.5 < x2 and y1 <= i + 0.5 < y2:
                u = min(max((j + 0.5 - x1) / (x2 - x1) * side - 0.5, 0), side - 1)
                v = min(max((i + 0.5 - y1) / (y2 - y1) * side - 0.5, 0), side - 1)
                a, b = min(int(u), max(side - 2, 0)), min(int(v), max(side - 2, 0))
                rows = probabilities[[b, min(b + 1, side - 1)]][:, [a, min(a + 1, side - 1)]].double()
                level[i, j] = (
                    torch.tensor([1 - (v - b), v - b]).double() @ rows @ torch.tensor([1 - (u - a), u - a]).double()
                )
    return level * 255


@pytest.mark.parametrize("side", [1, 2, 7, 28])
def test_paste_equals_the_definition(side: int) -> None:
    boxes = boxes_around(8, seed=side)
    probabilities = torch.rand(8, side, side, generator=torch.Generator().manual_seed(0))
    masks = CroppedMasks(*paste_masks(probabilities, boxes, SIZE), SIZE)
    check_sound(masks)
    holds_a_centre = (((boxes[:, 2:] - 0.5).ceil() - (boxes[:, :2] - 0.5).ceil()) > 0).all(dim=1)
    for i in torch.nonzero(holds_a_centre).flatten().tolist():
        wanted = pasted_pixel_by_pixel(probabilities[i], boxes[i].tolist(), SIZE)
        assert (dense_levels(masks)[i].float() - wanted).abs().max() <= 0.51


def test_a_box_between_pixel_centres_gets_the_pixel_it_lies_on() -> None:
    boxes = torch.tensor([[4.6, 7.6, 5.4, 8.4], [4.6, 2.0, 5.2, 5.0], [W - 0.4, H - 0.4, W, H]])
    masks = CroppedMasks(*paste_masks(torch.ones(3, 28, 28), boxes, SIZE), SIZE)
    assert masks.boxes().tolist() == [[5, 8, 6, 9], [4, 2, 5, 5], [W - 1, H - 1, W, H]]


def test_paste_of_a_whole_pixel_box_fills_it() -> None:
    boxes = torch.tensor([[3.0, 4, 9, 15], [-5, -5, 4, 3], [0, 0, W, H], [40, 40, 50, 50]])
    masks = CroppedMasks(*paste_masks(torch.ones(4, 28, 28), boxes, SIZE), SIZE)
    check_sound(masks)
    assert masks.boxes().tolist() == [[3, 4, 9, 15], [0, 0, 4, 3], [0, 0, W, H], [0, 0, 0, 0]]
    assert masks.areas().tolist() == [66, 12, H * W, 0]


def test_one_half_is_inside() -> None:
    box = torch.tensor([[0.0, 0, 4, 4]])
    assert CroppedMasks(*paste_masks(torch.full((1, 7, 7), 0.5), box, SIZE), SIZE).areas().tolist() == [16]
    assert CroppedMasks(*paste_masks(torch.full((1, 7, 7), 0.49), box, SIZE), SIZE).areas().tolist() == [0]


def test_paste_of_nothing() -> None:
    assert len(CroppedMasks(*paste_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), SIZE), SIZE)) == 0


@pytest.mark.parametrize("scale", [1.0, 0.37, 2.6])
def test_sampled_masks_paste_back_onto_themselves(scale: float) -> None:
    """Targets and predictions share one frame: half a pixel of disagreement would show here."""
    y, x = torch.meshgrid(torch.arange(96) + 0.5, torch.arange(96) + 0.5, indexing="ij")
    coverage = (9 * scale - ((x - 47.2).square() + (y - 44.9).square()).sqrt()).clamp(0, 1)
    masks = CroppedMasks.from_dense(coverage[None])
    boxes = masks.boxes() + torch.tensor([-0.7, -1.2, 0.4, 0.9])
    again = CroppedMasks(*paste_masks(masks.sample(boxes, 28), boxes, masks.size), masks.size)
    assert float(again.iou(masks)[2]) > 0.96


# comparing


def dense_iou(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    a, b = first.flatten(1).double(), second.flatten(1).double()
    shared = a @ b.T
    return shared / (a.sum(1)[:, None] + b.sum(1) - shared).clamp(min=1)


@pytest.mark.parametrize("chunk", [None, 40])
def test_iou_equals_that_of_dense_masks(monkeypatch: pytest.MonkeyPatch, chunk: int | None) -> None:
    if chunk:
        monkeypatch.setattr(reference_masks, "CHUNK", chunk)
    first, second = random_masks(15, soft=True), random_masks(25, seed=1, soft=True)
    rows, columns, iou = first.iou(second)
    wanted = dense_iou(first.to_dense(), second.to_dense())
    assert torch.equal(torch.stack([rows, columns], dim=1), torch.nonzero(wanted))  # by row, then column
    torch.testing.assert_close(iou, wanted[rows, columns].float())


def test_iou_without_masks_or_overlap_has_no_pairs() -> None:
    nothing = CroppedMasks.empty(SIZE)
    for a, b in ((nothing, random_masks(3)), (random_masks(3), nothing), (nothing, nothing)):
        assert [len(part) for part in a.iou(b)] == [0, 0, 0]


# label images


def painted(masks: CroppedMasks, fraction: float) -> tuple[torch.Tensor, list[bool]]:
    """The definition on dense masks."""
    canvas, kept = torch.zeros(masks.size, dtype=torch.int32), []
    for mask in masks.to_dense():
        free = mask & (canvas == 0)
        kept.append(int(free.sum()) > fraction * int(mask.sum()))
        if kept[-1]:
            canvas[free] = sum(kept)
    return canvas, kept


@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.9, 1.0])
def test_label_image_paints_the_first_on_top_and_drops_the_hidden(fraction: float) -> None:
    masks = random_masks(40)
    labels, kept = masks.to_label_image(fraction)
    wanted, wanted_kept = painted(masks, fraction)
    assert labels.dtype == torch.int32 and torch.equal(labels, wanted) and kept.tolist() == wanted_kept


def test_a_mask_hidden_by_exactly_the_fraction_goes() -> None:
    windows = torch.tensor(
        [[0, 0, 5, 4], [4, 0, 14, 4], [0, 0, 5, 4]]
    )  # the second shows nine tenths, the third nothing
    levels = [torch.full((4, x2 - x1), 255, dtype=torch.uint8) for x1, _, x2, _ in windows.tolist()]
    masks = CroppedMasks.from_windows(windows, levels, SIZE)
    assert masks.to_label_image(0.9)[1].tolist() == [True, False, False]
    assert masks.to_label_image(0.89)[1].tolist() == [True, True, False]
    labels, kept = masks.to_label_image()
    assert kept.tolist() == [True, True, False] and labels[0, :15].tolist() == [1] * 5 + [2] * 9 + [0]


def test_label_image_of_nothing() -> None:
    labels, kept = label_image(CroppedMasks.empty(SIZE).parts, SIZE)
    assert not labels.any() and labels.shape == SIZE and kept.shape == (0,)


def test_label_image_there_and_back() -> None:
    labels = random_masks(30).to_label_image()[0]
    masks = CroppedMasks.from_label_image(labels)
    check_sound(masks)
    assert len(masks) == len(torch.unique(labels[labels > 0]))
    assert torch.equal(masks.to_label_image()[0] > 0, labels > 0)
    for number, mask in zip(torch.unique(labels[labels > 0]), masks.to_dense(), strict=True):
        assert torch.equal(mask, labels == number)


def test_masks_follow_the_ids_asked_for() -> None:
    labels = torch.tensor([[0, 7, 7, 0], [70000, 0, 7, 3], [-2, 3, 0, 0]], dtype=torch.int32)
    masks = CroppedMasks.from_label_image(labels, torch.tensor([70000, 5, 3, 0]))
    assert masks.areas().tolist() == [1, 0, 2, 0]
    assert masks.boxes().tolist() == [[0, 1, 1, 2], [0, 0, 0, 0], [1, 1, 4, 3], [0, 0, 0, 0]]
    assert CroppedMasks.from_label_image(labels).areas().tolist() == [2, 3, 1]
    assert len(masks_from_label_image(labels.long(), torch.zeros(0, dtype=torch.int64)).windows) == 0
