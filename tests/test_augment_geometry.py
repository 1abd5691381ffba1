"""Image, boxes and masks move as one, exactly."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from maskrcnn.structures.affine import (
    compose,
    compose_around_center,
    identity,
    mirror,
    rotation,
    scaling,
    translation,
    transposition,
)
from maskrcnn.structures.edges import Edges
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks
from maskrcnn.structures.warping import Sample, warp, warp_instances

MODES = ("constant", "reflect", "replicate")


def flip(image: Tensor, instances: Instances, horizontal: bool = False, vertical: bool = False) -> Sample:
    return warp(image, instances, mirror(instances.size, horizontal, vertical), instances.size)


def transpose(image: Tensor, instances: Instances) -> Sample:
    return warp(image, instances, transposition(), (instances.size[1], instances.size[0]))


def crop(
    image: Tensor,
    instances: Instances,
    x: int,
    y: int,
    height: int,
    width: int,
    mode: str = "constant",
    min_visible_fraction: float = 0.25,
) -> Sample:
    edges = Edges(mode, min_visible_fraction=min_visible_fraction)
    return warp(image, instances, translation(-x, -y), (height, width), edges)


def scene(height: int = 23, width: int = 31, count: int = 9, seed: int = 0) -> tuple[Tensor, Instances]:
    """An image whose red channel is the label image of its objects: what moves apart is seen at once."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.zeros(height, width, dtype=torch.int32)
    for number in range(1, count + 1):
        y, x = (int(torch.randint(length, (), generator=generator)) for length in (height, width))
        h, w = torch.randint(1, 8, (2,), generator=generator).tolist()
        labels[y : y + h, x : x + w] = number
    ids = labels.unique()[1:].long()
    masks = CroppedMasks.from_label_image(labels, ids)
    noise = torch.randint(256, (2, height, width), generator=generator, dtype=torch.uint8)
    image = torch.cat([labels[None].to(torch.uint8), noise])
    return image, Instances.from_masks(masks, torch.ones_like(ids), ids=ids)


def painted(instances: Instances) -> Tensor:
    """The label image of the objects that are not ignored only because they are mirrored or cut."""
    labels = torch.zeros(instances.size, dtype=torch.int32)
    assert instances.masks is not None and instances.ids is not None
    for mask, number in zip(instances.masks.to_dense(), instances.ids.tolist(), strict=True):
        labels[mask] = number
    return labels


def boxes_of_pixels(image: Tensor, ids: Tensor) -> Tensor:
    """Tight boxes of the pixels of each number in the red channel, float32 [N, 4]."""
    boxes = []
    for number in ids.tolist():
        rows, columns = torch.nonzero(image[0] == number, as_tuple=True)
        boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)


def assert_same(first: tuple[Tensor, Instances], second: tuple[Tensor, Instances]) -> None:
    (image_a, a), (image_b, b) = first, second
    assert image_a.dtype == image_b.dtype and torch.equal(image_a, image_b)
    assert tuple(a.size) == tuple(b.size)
    for name in ("boxes", "labels", "ignore", "ids", "scores"):
        x, y = getattr(a, name), getattr(b, name)
        assert (x is None) == (y is None) and (x is None or torch.equal(x, y)), name
    assert (a.masks is None) == (b.masks is None)
    if a.masks is not None and b.masks is not None:
        assert torch.equal(a.masks.to_dense(), b.masks.to_dense())


@pytest.mark.parametrize(("horizontal", "vertical"), [(True, False), (False, True), (True, True), (False, False)])
def test_flips_move_image_masks_and_boxes_alike_and_undo_themselves(horizontal: bool, vertical: bool) -> None:
    image, instances = scene()
    flipped_image, flipped = flip(image, instances, horizontal, vertical)
    axes = [axis for axis, wanted in ((2, horizontal), (1, vertical)) if wanted]
    assert torch.equal(flipped_image, image.flip(axes))
    assert torch.equal(painted(flipped), flipped_image[0].int())
    assert torch.equal(flipped.boxes, boxes_of_pixels(flipped_image, flipped.ids))
    assert_same(flip(flipped_image, flipped, horizontal, vertical), (image, instances))


def test_transpose_moves_image_masks_and_boxes_alike_and_undoes_itself() -> None:
    image, instances = scene()
    moved_image, moved = transpose(image, instances)
    assert moved_image.shape == (3, 31, 23) and moved.size == (31, 23)
    assert torch.equal(moved_image, image.permute(0, 2, 1))
    assert torch.equal(painted(moved), moved_image[0].int())
    assert torch.equal(moved.boxes, boxes_of_pixels(moved_image, moved.ids))
    assert_same(transpose(moved_image, moved), (image, instances))


def test_flip_then_transpose_is_a_quarter_turn() -> None:
    image, instances = scene()
    turned_image, turned = transpose(*flip(image, instances, horizontal=True))
    assert torch.equal(turned_image, torch.rot90(image, dims=(1, 2)))
    assert torch.equal(painted(turned), turned_image[0].int())


@settings(max_examples=60)
@given(st.integers(-40, 40), st.integers(-40, 40), st.integers(1, 50), st.integers(1, 50), st.integers(0, 3))
def test_crop_moves_image_masks_and_boxes_alike(x: int, y: int, height: int, width: int, seed: int) -> None:
    image, instances = scene(seed=seed)
    window, inside = crop(image, instances, x, y, height, width)
    padded = np.pad(image.numpy(), ((0, 0), (100, 100), (100, 100)))
    assert np.array_equal(window.numpy(), padded[:, 100 + y : 100 + y + height, 100 + x : 100 + x + width])
    assert torch.equal(painted(inside), window[0].int())
    assert torch.equal(inside.boxes, boxes_of_pixels(window, inside.ids))
    assert inside.ids.tolist() == window[0].unique()[window[0].unique() > 0].tolist()


@settings(max_examples=60)
@given(st.integers(-60, 60), st.integers(-60, 60), st.integers(1, 80), st.integers(1, 80), st.integers(0, 2))
def test_mirrored_padding_shows_what_numpy_shows_and_its_objects_are_ignored(
    x: int, y: int, height: int, width: int, seed: int
) -> None:
    image, instances = scene(11, 7, count=3, seed=seed)
    window, inside = crop(image, instances, x, y, height, width, mode="reflect", min_visible_fraction=0.0)
    padded = np.pad(image.numpy(), ((0, 0), (200, 200), (200, 200)), mode="reflect")
    assert np.array_equal(window.numpy(), padded[:, 200 + y : 200 + y + height, 200 + x : 200 + x + width])
    assert torch.equal(painted(inside), window[0].int())
    _, proper = crop(image, instances, x, y, height, width, min_visible_fraction=0.0)
    assert not proper.ignore.any()
    assert inside.ignore.tolist() == [False] * len(proper) + [True] * (len(inside) - len(proper))
    assert torch.equal(inside[: len(proper)].boxes, proper.boxes)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((0, 2, 1, 5), [[10, 2, 11, 5], [24, 2, 25, 5]]),  # about its own line it is mirrored to where it is
        ((7, 0, 8, 1), [[3, 0, 4, 1], [17, 0, 18, 1], [31, 0, 32, 1]]),
        ((1, 2, 3, 5), [[8, 2, 10, 5], [11, 2, 13, 5], [22, 2, 24, 5], [25, 2, 27, 5]]),
    ],
)
def test_objects_in_an_edge_line_are_mirrored_about_the_other_edge_alone(
    box: tuple[int, int, int, int], expected: list[list[int]]
) -> None:
    instances = square(box, True, (7, 8))
    _, inside = crop(torch.zeros(3, 7, 8), instances, -10, 0, 7, 35, mode="reflect")
    assert sorted(inside.boxes.int().tolist()) == expected


@pytest.mark.parametrize("mode", MODES)
def test_window_inside_the_image_is_the_same_for_every_padding(mode: str) -> None:
    image, instances = scene()
    assert_same(crop(image, instances, 0, 0, 23, 31, mode=mode), (image, instances))
    assert_same(crop(image, instances, 3, 2, 12, 20, mode=mode), crop(image, instances, 3, 2, 12, 20))


def test_replicated_padding_shows_what_numpy_shows_without_objects_there() -> None:
    image, instances = scene()
    window, inside = crop(image, instances, -50, -3, 40, 120, mode="replicate")
    padded = np.pad(image.numpy(), ((0, 0), (3, 14), (50, 39)), mode="edge")
    assert np.array_equal(window.numpy(), padded)
    assert torch.equal(painted(inside)[3:26, 50:81], image[0].int())
    assert int((painted(inside) > 0).sum()) == int((image[0] > 0).sum())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_image_of_one_pixel_fills_or_stands_in_a_larger_window(mode: str, dtype: torch.dtype) -> None:
    image = torch.ones(3, 1, 1, dtype=dtype)
    masks = CroppedMasks.from_dense(torch.ones(1, 1, 1, dtype=torch.bool))
    instances = Instances.from_masks(masks, torch.tensor([1]))
    window, inside = crop(image, instances, -2, -1, 4, 5, mode=mode)
    assert window.dtype == dtype
    assert window.sum() == (3 if mode == "constant" else 60)
    assert inside.boxes.tolist() == [[2, 1, 3, 2]]


def square(box: tuple[int, int, int, int], with_masks: bool, size: tuple[int, int] = (40, 40)) -> Instances:
    x1, y1, x2, y2 = box
    dense = torch.zeros(1, *size, dtype=torch.bool)
    dense[0, y1:y2, x1:x2] = True
    truth = Instances.from_masks(CroppedMasks.from_dense(dense), torch.tensor([2]), ids=torch.tensor([77]))
    return truth if with_masks else Instances(size, truth.boxes, truth.labels, ids=truth.ids)


@pytest.mark.parametrize("with_masks", [True, False])
@pytest.mark.parametrize(
    ("x", "boxes", "ignored"),
    [(10, [[0, 5, 10, 15]], False), (12, [[0, 5, 8, 15]], False), (18, [[0, 5, 2, 15]], True), (20, [], None)],
)
def test_cut_objects_keep_their_ids_and_mostly_cut_ones_are_ignored(
    with_masks: bool, x: int, boxes: list[list[int]], ignored: bool | None
) -> None:
    instances = square((10, 5, 20, 15), with_masks)
    _, inside = crop(torch.zeros(3, 40, 40), instances, x, 0, 40, 40, min_visible_fraction=0.25)
    assert inside.boxes.tolist() == boxes
    assert inside.ignore.tolist() == ([] if ignored is None else [ignored])
    assert inside.ids.tolist() == [77] * len(boxes) and inside.labels.tolist() == [2] * len(boxes)
    assert not instances.ignore.any(), "the given sample was changed"


def test_objects_to_ignore_stay_ignored() -> None:
    instances = square((10, 5, 20, 15), with_masks=True)
    instances.ignore = torch.tensor([True])
    for _, moved in (
        crop(torch.zeros(3, 40, 40), instances, 5, 0, 40, 40),
        flip(torch.zeros(3, 40, 40), instances, vertical=True),
        transpose(torch.zeros(3, 40, 40), instances),
    ):
        assert moved.ignore.tolist() == [True]


def test_boxes_of_predictions_are_moved_not_derived_from_masks() -> None:
    truth = square((10, 5, 20, 15), with_masks=True)
    loose = torch.tensor([[9.25, 4.5, 21.0, 16.0]])
    predicted = Instances(truth.size, loose, truth.labels, torch.tensor([0.5]), truth.masks)
    image = torch.zeros(3, 40, 40)
    assert flip(image, predicted, horizontal=True)[1].boxes.tolist() == [[19.0, 4.5, 30.75, 16.0]]
    assert transpose(image, predicted)[1].boxes.tolist() == [[4.5, 9.25, 16.0, 21.0]]
    cut = crop(image, predicted, 12, 0, 10, 40)[1]
    assert cut.boxes.tolist() == [[0, 4.5, 9.0, 10.0]] and cut.scores.tolist() == [0.5]


def test_masks_without_a_pixel_inside_get_none() -> None:
    """As uncertain predictions have them."""
    masks = CroppedMasks.from_windows(torch.tensor([[3, 4, 9, 8]]), [torch.full((4, 6), 100)], (20, 20))
    predicted = Instances((20, 20), masks.windows.float(), torch.tensor([1]), torch.tensor([0.5]), masks)
    for map_ in (identity(), transposition(), rotation(30), scaling(0.3, 0.3)):
        moved = warp_instances(predicted, map_, (20, 20))
        assert len(moved) == 1 and moved.masks.areas().tolist() == [0]


@pytest.mark.parametrize("factor", [0.3, 0.1, 0.04])
def test_truths_that_shrink_to_nothing_are_left_out(factor: float) -> None:
    generator = torch.Generator().manual_seed(0)
    corner = torch.randint(0, 199, (60, 2), generator=generator)
    windows = torch.cat([corner, corner + 1], dim=1).int()
    masks = CroppedMasks.from_windows(windows, [torch.full((1, 1), 255)] * 60, (200, 200))
    truth = Instances.from_masks(masks, torch.ones(60).long())
    moved = warp_instances(truth, scaling(factor, factor), (round(200 * factor),) * 2)
    assert (moved.masks.areas() > 0).all() and torch.equal(moved.boxes, moved.masks.boxes())
    assert len(moved) > 50 or factor < 0.1


def test_truths_whose_boxes_are_tighter_than_their_masks_are_seen_by_their_masks() -> None:
    truth = square((10, 5, 20, 15), with_masks=True)
    truth.boxes = torch.tensor([[10.0, 5, 14, 9]])
    _, inside = crop(torch.zeros(3, 40, 40), truth, 15, 0, 40, 25)
    assert inside.boxes.tolist() == [[0, 5, 5, 15]] and inside.ignore.tolist() == [False]


@pytest.mark.parametrize("with_masks", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_images_without_objects_move_too(mode: str, with_masks: bool) -> None:
    empty = Instances.empty((6, 9), with_masks)
    image = torch.rand(3, 6, 9)
    for moved_image, moved in (
        crop(image, empty, -4, 2, 16, 5, mode=mode),
        flip(image, empty, True, True),
        transpose(image, empty),
    ):
        assert len(moved) == 0 and tuple(moved.size) == tuple(moved_image.shape[1:])
        assert (moved.masks is not None) == with_masks


def test_crop_owns_its_memory() -> None:
    image, instances = scene()
    for mode in MODES:
        window, _ = crop(image, instances, 0, 0, 5, 31, mode=mode)
        assert window.untyped_storage().nbytes() == window.numel()
        window.zero_()
    assert image.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"height": 0}, r"size .*\(0, 5\)"),
        ({"width": -3}, r"size .*\(5, -3\)"),
        ({"mode": "mirror"}, '"mirror"'),
        ({"image": torch.zeros(3, 31, 23)}, "shape .3, 31, 23. does not fit"),
        ({"image": torch.zeros(23, 31)}, "does not fit"),
    ],
)
def test_crops_that_cannot_be_are_refused(arguments: dict[str, object], message: str) -> None:
    image, instances = scene()
    call = {"image": image, "instances": instances, "x": 0, "y": 0, "height": 5, "width": 5} | arguments
    with pytest.raises(ValueError, match=message):
        crop(**call)


@pytest.mark.gpu
@pytest.mark.parametrize("mode", MODES)
def test_samples_are_warped_on_the_gpu_as_on_the_cpu(mode: str) -> None:
    image, instances = scene(60, 80, count=40)
    map_ = compose_around_center(rotation(33), (60, 80))
    expected, there = warp(image, instances, map_, (60, 80), Edges(mode))
    shown, moved = warp(image.cuda(), instances.to("cuda"), map_, (60, 80), Edges(mode))
    assert shown.is_cuda and torch.equal(shown.cpu(), expected)
    assert_same((expected, moved.to("cpu")), (expected, there))


def discs(count: int = 40, size: int = 200, seed: int = 0, ratio: float = 1.0) -> Instances:
    """Discs of radius 3 to 6, or upright ellipses `ratio` times as high, with masks and the masks' boxes."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij")
    radius = 3 + 3 * torch.rand(count, generator=generator)
    centre = 60 + (size - 120) * torch.rand(count, 2, generator=generator)
    inside = torch.stack(
        [((x - cx) / r) ** 2 + ((y - cy) / (ratio * r)) ** 2 <= 1 for (cx, cy), r in zip(centre, radius, strict=True)]
    )
    masks = CroppedMasks.from_dense(inside)
    return Instances.from_masks(masks, torch.ones(count, dtype=torch.int64))


def paired_ious(a: Tensor, b: Tensor) -> Tensor:
    shared = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    areas = [(each[:, 2:] - each[:, :2]).prod(1) for each in (a, b)]
    return shared / (areas[0] + areas[1] - shared)


@pytest.mark.parametrize("shear", [0.0, 0.2])
@pytest.mark.parametrize("ratio", [1.0, 1.5])
def test_boxes_without_masks_stay_those_of_round_objects_under_rotation(ratio: float, shear: float) -> None:
    whole = discs(ratio=ratio)
    bare = Instances(whole.size, whole.boxes, whole.labels)
    ious, growth = [], []
    for degrees in range(-45, 46, 9):
        linear = compose(rotation(degrees), torch.tensor([[1, shear, 0], [0, 1, 0]], dtype=torch.float64))
        matrix = compose_around_center(linear, whole.size)
        with_masks, without = (warp_instances(each, matrix, whole.size).boxes for each in (whole, bare))
        ious.append(paired_ious(with_masks, without).mean())
        growth.append((without[:, 2:] - without[:, :2]).mean() / (with_masks[:, 2:] - with_masks[:, :2]).mean())
    assert torch.stack(ious).mean() >= 0.9 and min(ious) >= 0.85
    assert all(abs(each - 1) < 0.05 for each in growth)


def test_a_box_without_mask_keeps_its_size_through_a_full_turn_in_steps() -> None:
    bare = Instances((200, 200), torch.tensor([[90.5, 96, 100, 105.5]]), torch.ones(1, dtype=torch.int64))
    turned = bare
    for _ in range(12):
        turned = warp_instances(turned, compose_around_center(rotation(30), (200, 200)), (200, 200))
    assert torch.allclose(turned.boxes, bare.boxes, atol=1e-3)


def test_boxes_on_whole_pixels_stay_on_whole_pixels_and_never_vanish_under_rotation() -> None:
    corner = torch.randint(40, 150, (60, 2), generator=torch.Generator().manual_seed(0))
    boxes = torch.cat([corner, corner + torch.tensor([[1, 1], [1, 3], [4, 2]]).repeat(20, 1)], dim=1).float()
    bare = Instances((200, 200), boxes, torch.ones(60, dtype=torch.int64))
    for degrees in (7, 31, 45, 80):
        turned = warp_instances(bare, compose_around_center(rotation(degrees), (200, 200)), (200, 200)).boxes
        assert len(turned) == 60 and torch.equal(turned, turned.round())
        assert (turned[:, 2:] - turned[:, :2]).min() >= 1
