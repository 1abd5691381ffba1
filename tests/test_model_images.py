"""Standardising, resizing and padding images."""

import pytest
import torch
from detector_toy import squares

from maskrcnn.model.config import ImageConfig
from maskrcnn.model.images import (
    compute_input_size,
    group_by_padded_size,
    pad_images,
    prepare_image,
    resize_instances,
    standardize,
)


def noise(*size: int) -> torch.Tensor:
    return torch.rand(3, *size, generator=torch.Generator().manual_seed(0))


def test_std_gives_mean_zero_and_deviation_one() -> None:
    image = standardize(noise(9, 11) * 0.2 + 0.7, ImageConfig())
    assert float(image.mean().abs()) < 1e-5 and float(image.std(unbiased=False)) == pytest.approx(1, abs=1e-5)


def test_a_flat_image_stays_flat() -> None:
    assert not standardize(torch.full((3, 4, 4), 0.3), ImageConfig()).abs().gt(1e-5).any()


@pytest.mark.parametrize(
    ("how", "wanted"),
    [("none", 0.5), ("zerocentre", 0.0), ("zeromean", 0.0), ("imagenet", (0.5 - 0.485) / 0.229)],
)
def test_normalizations(how: str, wanted: float) -> None:
    config = ImageConfig(normalization=how)
    assert float(standardize(torch.full((3, 4, 4), 0.5), config)[0, 0, 0]) == pytest.approx(wanted, abs=1e-6)


def test_zeromean_is_by_channel() -> None:
    assert standardize(noise(5, 5), ImageConfig(normalization="zeromean")).mean(dim=(1, 2)).abs().max() < 1e-6


def test_uint8_and_float_are_prepared_alike() -> None:
    image = (noise(7, 9) * 255).to(torch.uint8)
    for how in ("std", "none", "imagenet"):
        config = ImageConfig(normalization=how)
        torch.testing.assert_close(prepare_image(image, config), prepare_image(image / 255, config))


@pytest.mark.parametrize(
    ("size", "resize", "limits", "wanted"),
    [
        ((480, 640), "none", (800, 1333), (480, 640)),
        ((480, 640), "minmax", (800, 1333), (800, 1066)),
        ((100, 640), "minmax", (800, 1333), (208, 1333)),
        ((640, 480), "minmax", (240, 1333), (320, 240)),
        ((480, 640), "square", (1, 1024), (768, 1024)),
        ((2, 4000), "square", (1, 100), (1, 100)),
    ],
)
def test_sizes_after_resizing(
    size: tuple[int, int], resize: str, limits: tuple[int, int], wanted: tuple[int, int]
) -> None:
    config = ImageConfig(resize=resize, min_size=limits[0], max_size=limits[1])
    assert compute_input_size(size, config) == wanted
    if size[0] * size[1] < 10**5:
        assert prepare_image(noise(*size), config).shape == (3, *wanted)


def test_resized_truths_keep_boxes_and_masks_together() -> None:
    truths = squares((20, 30), [[3, 4, 13, 16], [20, 0, 30, 20]])
    doubled = resize_instances(truths, (40, 60))
    assert doubled.size == (40, 60) and doubled.masks is not None
    assert doubled.boxes.tolist() == [[6, 8, 26, 32], [40, 0, 60, 40]] == doubled.masks.boxes().tolist()
    assert resize_instances(truths, (20, 30)) is truths
    stretched = resize_instances(truths, (20, 60))
    assert stretched.boxes[0].tolist() == [6, 4, 26, 16]


def test_padding_is_zero_at_right_and_bottom() -> None:
    batch = pad_images([torch.ones(3, 5, 9), torch.ones(3, 8, 3)], 4)
    assert batch.padded == (8, 12) and batch.sizes == [(5, 9), (8, 3)]
    assert batch.pixels.is_contiguous(memory_format=torch.channels_last)
    assert float(batch.pixels[0].sum()) == 3 * 5 * 9 and (batch.pixels[0, :, :5, :9] == 1).all()
    assert (batch.pixels[1, :, :8, :3] == 1).all() and float(batch.pixels[1].sum()) == 3 * 8 * 3


@pytest.mark.parametrize(("least", "wanted"), [(1, (16, 16)), (2, (32, 32))])
def test_padding_has_a_least_size(least: int, wanted: tuple[int, int]) -> None:
    assert pad_images([torch.ones(3, 5, 7)], 16, least).padded == wanted


def test_images_are_grouped_by_their_own_padded_size() -> None:
    images = [torch.ones(3, *size) for size in ((5, 9), (8, 12), (9, 9), (1, 10))]
    assert group_by_padded_size(images, 4) == [[0, 1], [2], [3]]
