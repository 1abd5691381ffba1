"""COCO's run-length code against pycocotools."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from masks_toy import check_sound, random_masks, stacks
from pycocotools import mask as coco

from maskrcnn.structures.masks import CroppedMasks

pytestmark = pytest.mark.usefixtures("core")


def coco_codes(dense: np.ndarray) -> list[dict[str, object]]:
    codes = [coco.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in dense]
    return [{"size": list(code["size"]), "counts": code["counts"].decode()} for code in codes]


def plain_counts(mask: np.ndarray) -> list[int]:
    """Runs down the columns, background first."""
    flat = np.concatenate([[False], mask.T.ravel()])
    ends = np.flatnonzero(np.diff(flat)).tolist()
    return (
        np.diff([0, *ends, mask.size]).tolist() if not ends or ends[-1] != mask.size else np.diff([0, *ends]).tolist()
    )


@settings(max_examples=120)
@given(stacks())
def test_both_ways_equal_pycocotools(dense: np.ndarray) -> None:
    masks = CroppedMasks.from_dense(torch.from_numpy(dense))
    codes = coco_codes(dense)
    assert masks.to_rle() == codes
    for form in (codes, [{"size": c["size"], "counts": plain_counts(m)} for c, m in zip(codes, dense, strict=True)]):
        decoded = CroppedMasks.from_rle(form, dense.shape[1:])
        check_sound(decoded)
        assert np.array_equal(decoded.to_dense().numpy(), dense)


def corner_cases(height: int = 5, width: int = 4) -> np.ndarray:
    dense = np.zeros((7, height, width), dtype=bool)
    dense[1] = True  # full
    dense[2, -1, -1] = dense[3, 0, 0] = True  # last and first pixel alone
    dense[4, :, 1:] = True  # runs through columns to the last pixel
    dense[5, ::2, ::2] = True
    dense[6, :, :-1] = True
    return dense


def test_full_empty_and_last_pixel_masks() -> None:
    dense = corner_cases()
    assert CroppedMasks.from_dense(torch.from_numpy(dense)).to_rle() == coco_codes(dense)
    decoded = CroppedMasks.from_rle(coco_codes(dense), (5, 4))
    assert np.array_equal(decoded.to_dense().numpy(), dense)
    assert decoded.boxes()[:3].tolist() == [[0, 0, 0, 0], [0, 0, 4, 5], [3, 4, 4, 5]]


def test_long_runs_need_several_characters() -> None:
    dense = np.zeros((2, 700, 900), dtype=bool)
    dense[0, 3:691, 17:888] = True
    dense[1, 650, 880] = True
    masks = CroppedMasks.from_dense(torch.from_numpy(dense))
    assert masks.to_rle() == coco_codes(dense)
    assert torch.equal(CroppedMasks.from_rle(masks.to_rle(), (700, 900)).to_dense(), masks.to_dense())


def test_levels_below_one_half_are_outside() -> None:
    masks = random_masks(12, soft=True)
    assert masks.to_rle() == coco_codes(masks.to_dense().numpy())


def test_counts_as_pycocotools_gives_them_are_read() -> None:
    dense = corner_cases()
    codes = [coco.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in dense]
    assert isinstance(codes[0]["counts"], bytes)
    assert np.array_equal(CroppedMasks.from_rle(codes, (5, 4)).to_dense().numpy(), dense)


def test_runs_of_no_length_are_read() -> None:
    code = {"size": [2, 3], "counts": [0, 1, 0, 2, 3, 0]}
    assert CroppedMasks.from_rle([code], (2, 3)).areas().tolist() == [3]


@pytest.mark.parametrize(
    "counts",
    [
        "",
        "0",
        "\x00",
        "é",
        "PPP",
        "o" * 40,
        "2" * 30,
        [],
        [19],
        [21],
        [-1, 21],
        [10, -5, 15],
        [2**62] * 4 + [20],
        [3.5, "a"],
        None,
    ],
)
def test_broken_counts_are_refused_and_named(counts: object) -> None:
    good = {"size": [5, 4], "counts": [20]}
    with pytest.raises(ValueError, match="code 1 "):
        CroppedMasks.from_rle([good, {"size": [5, 4], "counts": counts}], (5, 4))


def test_a_code_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"code 0 is for size \[4, 5\]"):
        CroppedMasks.from_rle([{"size": [4, 5], "counts": [20]}], (5, 4))


def test_a_code_without_counts_is_refused() -> None:
    with pytest.raises(ValueError, match="code 0"):
        CroppedMasks.from_rle([{"size": [5, 4]}], (5, 4))


def test_no_masks_no_codes() -> None:
    assert CroppedMasks.empty((5, 4)).to_rle() == [] and len(CroppedMasks.from_rle([], (5, 4))) == 0
