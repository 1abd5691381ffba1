"""Crops of large images: only what they show is read, and it is what the whole image shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from augment.config import AugmentConfig
from augment.training import make_training_transform
from datasets.deep_images import DeepImages
from datasets.readers.label_images import LabelImages
from maskrcnn.images import reading
from maskrcnn.images.large import LargeImage
from maskrcnn.structures.affine import compose, rotation, scaling, translation
from maskrcnn.structures.edges import Edges
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.warping import warp
from maskrcnn.training.loading import KeyedSamples

HEIGHT, WIDTH = 70, 90


class Windowed:
    """An image that keeps the windows that were read of it."""

    def __init__(self, image: Tensor) -> None:
        self.image = image
        self.size = (int(image.shape[1]), int(image.shape[2]))
        self.windows: list[tuple[int, int, int, int]] = []

    def read(self, x: int, y: int, height: int, width: int) -> Tensor:
        assert 0 <= x < x + width <= self.size[1] and 0 <= y < y + height <= self.size[0]
        self.windows.append((x, y, height, width))
        return self.image[:, y : y + height, x : x + width]


@settings(max_examples=150, deadline=None)
@given(
    st.integers(-120, 160),
    st.integers(-120, 160),
    st.integers(1, 60),
    st.integers(1, 60),
    st.sampled_from([0.0, 90.0, 31.0, -45.0]),
    st.sampled_from([1.0, 0.5, 2.3]),
    st.sampled_from(["constant", "replicate", "reflect"]),
)
def test_a_crop_of_a_window_is_that_of_the_whole_image(
    x: int, y: int, height: int, width: int, degrees: float, scale: float, pad_mode: str
) -> None:
    image = torch.rand(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(x + 7 * y))
    matrix = compose(compose(translation(-x, -y), rotation(degrees)), scaling(scale, scale))
    nothing, edges = Instances.empty((HEIGHT, WIDTH)), Edges(pad_mode)
    whole, _ = warp(image, nothing, matrix, (height, width), edges)
    part, _ = warp(Windowed(image), nothing, matrix, (height, width), edges)
    torch.testing.assert_close(part, whole, atol=1e-4, rtol=0)


def test_a_crop_inside_reads_little_more_than_it_shows() -> None:
    image = Windowed(torch.zeros(3, 1000, 2000))
    for matrix, area in ((translation(-700, -300), 64 * 64), (rotation(45), 2 * 64 * 64)):
        turned = compose(translation(-700, -300), matrix) if area > 64 * 64 else matrix
        warp(image, Instances.empty((1000, 2000)), turned, (64, 64))
        _, _, height, width = image.windows[-1]
        assert height * width <= 1.3 * area


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LabelImages:
    """Deep and 8-bit images, tiled, which count as large here."""
    monkeypatch.setattr(reading, "MIN_WINDOWED_PIXELS", 10_000)
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for number in range(4):
        values = rng.integers(0, 256, (300, 400, 3)).astype(np.uint16 if number % 2 else np.uint8)
        tifffile.imwrite(
            tmp_path / f"images/{number}.tif", values, photometric="rgb", tile=(64, 64), compression="zlib"
        )
        labels = np.zeros((300, 400), np.uint8)
        for place in range(12):
            top, left = 20 + 90 * (place // 4), 15 + 100 * (place % 4)
            labels[top : top + 9, left : left + 9] = place + 1
        tifffile.imwrite(tmp_path / f"masks/{number}.tif", labels)
    return LabelImages(tmp_path, "train")


@pytest.mark.parametrize(
    "options", [{}, {"rotation_degrees": 45.0}, {"blur_sigma": 1.0, "brightness_factor_std": 0.2}, {"mosaic": 1.0}]
)
def test_training_crops_of_large_images_are_those_of_whole_ones(
    large: LabelImages, monkeypatch: pytest.MonkeyPatch, options: dict[str, float]
) -> None:
    data = DeepImages(large, (0.0, 255.0))
    config = AugmentConfig(crop_size=(64,), **options)  # type: ignore[arg-type]
    samples = KeyedSamples(data, make_training_transform(config, data), seed=3)
    sizes: list[int] = []
    read = LargeImage.read

    def counted(self: LargeImage, x: int, y: int, height: int, width: int) -> Tensor:
        sizes.append(height * width)
        return read(self, x, y, height, width)

    monkeypatch.setattr(LargeImage, "read", counted)
    by_window = [samples[epoch, index] for epoch in range(2) for index in range(len(samples))]
    if "mosaic" not in options:
        assert max(sizes) < 0.15 * 300 * 400
    monkeypatch.setattr(reading, "MIN_WINDOWED_PIXELS", 10**9)
    whole = [samples[epoch, index] for epoch in range(2) for index in range(len(samples))]
    for (image, instances, image_id), (expected, objects, expected_id) in zip(by_window, whole, strict=True):
        assert image_id == expected_id and image.dtype == expected.dtype and torch.equal(instances.boxes, objects.boxes)
        step = 1.5 if image.dtype == torch.uint16 else 1.0  # of rounding
        torch.testing.assert_close(image.float(), expected.float(), atol=step, rtol=0)
        assert (image.float() - expected.float()).abs().mean() < 0.01 * step


def test_evaluation_and_other_readers_get_whole_images(large: LabelImages) -> None:
    data = DeepImages(large, (0.0, 255.0))
    for index in range(len(data)):
        assert isinstance(data[index][0], Tensor) and data[index][0].shape == (3, 300, 400)
        image, _ = data.read_by_window(index)
        assert isinstance(image, LargeImage) and image.shape == (3, 300, 400)
        window = image.read(10, 20, 30, 40)
        assert torch.equal(window, data[index][0][:, 20:50, 10:50])
    assert isinstance(KeyedSamples(data)[0, 0].image, Tensor)
