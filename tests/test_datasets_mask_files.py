"""Masks of one file each: what is inside is what was drawn, whatever the file does to its levels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from datasets.readers.mask_files import read_masks

SIZE = (64, 96)


def discs() -> list[NDArray[np.bool_]]:
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    centres = ((12.3, 20.1, 5.2), (40.7, 30.2, 4.6), (70.5, 44.4, 6.6), (30.2, 52.1, 2.1))
    return [(x - cx) ** 2 + (y - cy) ** 2 <= radius**2 for cx, cy, radius in centres]


def areas(paths: list[Path], threshold: int | None = None) -> list[int]:
    return read_masks(paths, SIZE, threshold)[0].areas().tolist()


@pytest.mark.parametrize(
    ("suffix", "mode", "save"),
    [
        ("jpg", "L", {"quality": 75}),
        ("jpg", "L", {"quality": 95}),
        ("jpg", "L", {"quality": 50}),
        ("jpg", "RGB", {"quality": 75}),
        ("tif", "L", {"compression": "jpeg"}),
        ("webp", "RGB", {"quality": 80}),
        ("png", "L", {}),
    ],
)
def test_masks_have_the_area_that_was_drawn_in_lossy_files_too(
    tmp_path: Path, suffix: str, mode: str, save: dict[str, Any]
) -> None:
    paths = [tmp_path / f"{number}.{suffix}" for number in range(len(discs()))]
    for path, mask in zip(paths, discs(), strict=True):
        Image.fromarray(mask.astype(np.uint8) * 255).convert(mode).save(path, **save)
    assert areas(paths) == [int(mask.sum()) for mask in discs()]


@pytest.mark.parametrize("level", [1, 7, 128, 255])
def test_masks_of_any_level_are_whole_in_lossless_files(tmp_path: Path, level: int) -> None:
    Image.fromarray(discs()[0].astype(np.uint8) * level).save(tmp_path / "a.png")
    Image.fromarray(discs()[0].astype(np.uint16) * level).save(tmp_path / "b.png")
    assert areas([tmp_path / "a.png", tmp_path / "b.png"]) == 2 * [int(discs()[0].sum())]


def test_an_empty_jpeg_is_no_mask(tmp_path: Path) -> None:
    Image.new("L", SIZE[::-1]).save(tmp_path / "a.jpg")
    assert areas([tmp_path / "a.jpg"]) == []


@pytest.mark.parametrize("values", [discs()[1], discs()[1].astype(np.uint8) * 255, discs()[1].astype(np.uint8)])
def test_white_is_zero_says_how_a_mask_is_shown_not_what_it_holds(tmp_path: Path, values: NDArray[Any]) -> None:
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="miniswhite")
    tifffile.imwrite(tmp_path / "b.tif", values, photometric="minisblack")
    assert areas([tmp_path / "a.tif", tmp_path / "b.tif"]) == 2 * [int(discs()[1].sum())]
