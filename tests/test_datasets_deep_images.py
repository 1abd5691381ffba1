"""Images of 16 bits: contrast and noise arrive as they were stored, on one scale for a whole data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray

from datasets.deep_images import RULE, DeepImages
from datasets.readers.label_images import LabelImages
from maskrcnn.images.large import measure_levels
from maskrcnn.images.levels import Levels, combine_ranges, measure_range, scale_levels
from maskrcnn.images.reading import read_image
from maskrcnn.structures.affine import rotation
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.warping import warp

SIZE = (64, 96)


def spots() -> NDArray[np.bool_]:
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    return ((x % 24 - 12) ** 2 + (y % 20 - 10) ** 2) <= 9


def scene(ground: float, contrast: float, noise: float, seed: int = 0) -> NDArray[np.uint16]:
    values = ground + contrast * spots() + np.random.default_rng(seed).normal(0, noise, SIZE)
    return values.clip(0, 65_535).round().astype(np.uint16)


def contrast_to_noise(values: NDArray[np.floating]) -> float:
    inside = spots()
    inside[:2] = False
    outside = ~spots()
    outside[:2] = False
    noise = np.sqrt((values[inside].var() + values[outside].var()) / 2)
    return float(abs(values[inside].mean() - values[outside].mean()) / noise)


CAMERAS = [
    (100, 60, 8),  # sCMOS
    (3900, 250, 40),  # 14 bits
    (33_000, 150, 20),  # offset
    (32_068, 120, 25),  # CT, 32,768 + HU
    (20_000, 30_000, 900),
]


@pytest.mark.parametrize(("ground", "contrast", "noise"), CAMERAS)
@pytest.mark.parametrize("hot", [None, 65_535, 4096])
def test_contrast_to_noise_is_that_which_was_stored(
    tmp_path: Path, ground: int, contrast: int, noise: int, hot: int | None
) -> None:
    values = scene(ground, contrast, noise)
    if hot is not None:
        values[0, 0] = hot
    tifffile.imwrite(tmp_path / "a.tif", values)
    stored, image = contrast_to_noise(values.astype(np.float64)), read_image(tmp_path / "a.tif")
    assert contrast_to_noise(image[0].numpy().astype(np.float64)) == pytest.approx(stored, rel=1e-6)
    levels = measure_levels([tmp_path / "a.tif"])
    assert levels is not None
    shown = scale_levels(image, levels)
    assert shown.dtype == torch.float32 and shown.min() >= 0 and shown.max() <= 1
    assert contrast_to_noise(shown[0].numpy().astype(np.float64)) == pytest.approx(stored, rel=0.02)
    gray = shown[0].numpy()[2:]
    assert gray[spots()[2:]].mean() - gray[~spots()[2:]].mean() > 0.3  # and it uses the range


def test_one_saturated_pixel_changes_the_scale_of_no_image(tmp_path: Path) -> None:
    for number in range(4):
        tifffile.imwrite(tmp_path / f"{number}.tif", scene(100, 60, 8, number))
    paths = sorted(tmp_path.glob("*.tif"))
    before = measure_levels(paths)
    for value in (4095, 4096, 65_535):
        values = scene(100, 60, 8, 0)
        values[0, 0] = value
        tifffile.imwrite(paths[0], values)
        assert measure_levels(paths) == before


def test_images_of_one_camera_are_shown_on_one_scale(tmp_path: Path) -> None:
    bright, dark = scene(1000, 3000, 10, 0), scene(1000, 300, 10, 1)
    for name, values in (("a", bright), ("b", dark)):
        tifffile.imwrite(tmp_path / f"{name}.tif", values)
    levels = measure_levels([tmp_path / "a.tif", tmp_path / "b.tif"])
    assert levels is not None
    shown = [scale_levels(read_image(tmp_path / f"{name}.tif"), levels)[0].numpy() for name in "ab"]
    contrasts = [each[spots()].mean() - each[~spots()].mean() for each in shown]
    assert contrasts[0] / contrasts[1] == pytest.approx(10, rel=0.01)


def test_ranges_leave_a_few_values_out_and_combine_to_levels_with_a_margin() -> None:
    values = np.full((100, 100), 500, np.uint16)
    values[0, :4], values[1, :4] = 65_535, 0
    assert measure_range(values) == (500, 500)
    values[0, 4], values[1, 4] = 900, 100
    assert measure_range(values) == (100, 900)
    assert measure_range(np.array([[7]], np.uint16)) == (7, 7)
    assert combine_ranges([]) is None and combine_ranges([(100, 900), (300, 1100)]) == (0, 1200)
    assert combine_ranges([(65_000, 65_535)]) == (64_946, 65_535) and combine_ranges([(500, 500)]) == (499, 501)


def labeled(root: Path, images: list[NDArray[np.uint16]]) -> LabelImages:
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for number, values in enumerate(images):
        tifffile.imwrite(root / f"images/{number}.tif", values)
        tifffile.imwrite(root / f"masks/{number}.tif", np.where(spots(), 7, 0).astype(np.uint8))
    return LabelImages(root, "train", subsetseed=1)


@pytest.mark.parametrize(("levels", "expected"), [((0.0, 4000.0), {}), ((150.0, 4000.0), {RULE: 3}), (None, {})])
def test_a_data_set_has_its_images_as_stored_and_counts_what_the_levels_clip(
    tmp_path: Path, levels: Levels | None, expected: dict[str, int]
) -> None:
    dataset = labeled(tmp_path, [scene(100, 60, 8, seed) for seed in range(4)])
    data = DeepImages(dataset, levels)
    for index in range(len(data)):
        image, instances = data[index]
        assert image.dtype == torch.uint16
        np.testing.assert_array_equal(image.numpy(), dataset[index][0].numpy())
        assert len(instances) == len(dataset[index][1])
    assert {rule: count for rule, count in data.counts.items() if rule == RULE} == expected
    assert data.image_names == dataset.image_names and data.class_names == dataset.class_names


def test_images_of_8_bits_stay_as_they_are(tmp_path: Path) -> None:
    dataset = labeled(tmp_path, [scene(100, 60, 8).astype(np.uint8) for _ in range(4)])  # type: ignore[misc]
    data = DeepImages(dataset, (50.0, 60.0))
    assert torch.equal(data[0][0], dataset[0][0]) and data[0][0].dtype == torch.uint8 and not data.counts[RULE]
    assert measure_levels([dataset.image_file(0)]) is None


def test_augmentation_takes_16_bits_at_their_full_range(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", scene(33_000, 150, 20))
    image = read_image(tmp_path / "a.tif")
    warped, _ = warp(image, Instances.empty(SIZE), rotation(0), SIZE)
    assert warped.dtype == torch.uint16
    np.testing.assert_array_equal(warped.numpy(), image.numpy())
