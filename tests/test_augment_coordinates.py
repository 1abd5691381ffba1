"""Masks moved by a field of coordinates, against the same geometry applied to dense masks."""

from collections.abc import Callable

import pytest
import torch
from masks_toy import check_sound, dense_levels, random_masks
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tv

from augment.libraries.coordinates import SCALE, make_coordinate_field, move_masks
from maskrcnn.structures.masks import CroppedMasks

Move = Callable[[Tensor], Tensor]


def rearranged(dense: Tensor) -> Tensor:
    """Quarters exchanged, as a puzzle does."""
    return dense.roll((35, 45), dims=(-2, -1))


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(
    "move",
    [
        lambda dense: dense.flip(-1),
        lambda dense: torch.rot90(dense, 1, (-2, -1)).contiguous(),
        lambda dense: dense[:, 11:50, 7:80],
        lambda dense: F.pad(dense, (3, 0, 9, 4)),
        lambda dense: dense[:, ::2, ::3],
        rearranged,
    ],
    ids=["flip", "turn", "crop", "pad", "thin out", "puzzle"],
)
def test_whole_pixel_moves_are_exact(move: Move, soft: bool) -> None:
    masks = random_masks(60, (70, 90), soft=soft)
    moved = move_masks(masks, move(make_coordinate_field(masks.size)))
    check_sound(moved)
    assert torch.equal(dense_levels(moved), move(dense_levels(masks)))


def affine(dense: Tensor) -> Tensor:
    size = {"angle": 20.0, "translate": [3.0, -4.0], "scale": 1.1, "shear": [3.0, 2.0]}
    return tv.affine(dense, **size, interpolation=tv.InterpolationMode.BILINEAR)


@pytest.mark.parametrize("move", [affine, lambda dense: tv.resize(dense, [50, 130], antialias=False)])
def test_levels_are_those_of_dense_masks_moved_linearly(move: Move) -> None:
    masks = random_masks(60, (70, 90), soft=True)
    moved = move_masks(masks, move(make_coordinate_field(masks.size)))
    check_sound(moved)
    difference = (dense_levels(moved) - move(dense_levels(masks).float())).abs()
    assert difference.max() < 2.5 and difference.mean() < 0.01


def test_one_level_is_not_smeared_over_a_seam() -> None:
    """Between two pieces of a puzzle, interpolation makes coordinates of places where neither has been."""
    masks = random_masks(200, (70, 90))
    field = affine(rearranged(make_coordinate_field(masks.size)))
    inside = dense_levels(move_masks(masks, field)) >= 128
    expected = affine(rearranged(dense_levels(masks).float())) > 126
    assert not (inside & ~expected).any()
    assert inside.sum() > 0.95 * expected.sum()  # what lies on the seams is lost


@pytest.mark.parametrize("value", [0.01, 0.3, SCALE, 1.0, 255.0, -1.0])
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (70, 90)])
def test_filled_places_show_no_mask(value: float, size: tuple[int, int]) -> None:
    masks = CroppedMasks.from_dense(torch.ones(1, *size))
    field = make_coordinate_field(size)
    field[:, :, : size[1] // 2 + 1] = value
    expected = torch.ones(1, *size, dtype=torch.bool)
    expected[:, :, : size[1] // 2 + 1] = False
    assert torch.equal(move_masks(masks, field).to_dense(), expected)


def test_averages_over_large_regions_keep_objects() -> None:
    masks = CroppedMasks.from_dense(torch.ones(1, 64, 96))
    small = F.avg_pool2d(make_coordinate_field((64, 96))[None], 8)[0]
    again = F.interpolate(small[None], scale_factor=8.0)[0]  # nothing but mixtures, in an image that did not shrink
    assert move_masks(masks, again).to_dense().all()


def test_many_masks_are_looked_up_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = random_masks(60, (70, 90), soft=True)
    field = affine(make_coordinate_field(masks.size))
    expected = dense_levels(move_masks(masks, field))
    monkeypatch.setattr("augment.libraries.coordinates.CHUNK_PIXELS", 50)
    assert torch.equal(dense_levels(move_masks(masks, field)), expected)


def test_no_masks_and_empty_masks_stay_so() -> None:
    assert len(move_masks(CroppedMasks.empty((5, 6)), make_coordinate_field((5, 6))[:, :3])) == 0
    moved = move_masks(CroppedMasks.from_dense(torch.zeros(2, 5, 6)), make_coordinate_field((5, 6)))
    assert len(moved) == 2 and moved.areas().tolist() == [0, 0]
