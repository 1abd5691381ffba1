"""The whole augmentation of training samples: objects' colours stay with their masks through all of it."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from mixing_toy import assert_same, assert_sound, colour_of, coloured, seeded
from scipy.ndimage import binary_erosion
from torch import Tensor

from augment.config import AugmentConfig
from augment.training import make_training_transform
from maskrcnn.config import UserError
from maskrcnn.structures.edges import PAD_MODES
from maskrcnn.structures.warping import Sample
from maskrcnn.training.loading import KeyedSamples, load_training_batches

GEOMETRY = AugmentConfig(
    mosaic=0.7,
    copy_paste=6,
    scale_range=(0.8, 1.3),
    scale_x_range=(0.9, 1.1),
    scale_y_range=(0.9, 1.1),
    match_sizes=(16.0, 20.0),
    crop_size=(80, 90),
    object_crop_fraction=0.5,
    rotation_degrees=180.0,
    affine_std=0.08,
)
LIGHT = replace(
    GEOMETRY, brightness_factor_std=0.1, brightness_offset_std=0.03, invert="random", blur_sigma=0.7, noise_std=0.05
)


class Source(list):
    """Samples as a data set."""

    image_ids = property(lambda self: list(range(len(self))))
    image_names = property(lambda self: [str(index) for index in range(len(self))])


@pytest.fixture(scope="module")
def source() -> Source:
    return Source(coloured(index) for index in range(6))


def interiors(sample: Sample, depth: int) -> tuple[Tensor, Tensor]:
    """Mean colour `[K, 3]` of each object farther than `depth` pixels from its edge, and the colour it should be."""
    image, moved = sample
    found, expected = [], []
    for mask, number in zip(moved.masks.to_dense(), moved.ids.tolist(), strict=True):
        inside = torch.from_numpy(binary_erosion(np.pad(mask, 1), iterations=depth)[1:-1, 1:-1].copy())
        if inside.sum() >= 8:
            found.append(image[:, inside].float().mean(dim=1))
            expected.append(colour_of(number))
    return torch.stack(found or [torch.zeros(3)])[: len(found)], torch.stack(expected or [torch.zeros(3)])[: len(found)]


@pytest.mark.parametrize("pad_mode", PAD_MODES)
def test_colours_stay_with_their_masks_through_every_change(pad_mode: str, source: Source) -> None:
    transform, checked = make_training_transform(replace(GEOMETRY, pad_mode=pad_mode), source), 0
    for seed in range(50):
        sample = transform(*source[seed % 6], seeded(seed))
        assert_sound(sample)
        found, expected = interiors(sample, depth=4)  # pasted edges blend over 2 px, enlarged, and pixels are bilinear
        assert torch.allclose(found, expected, atol=0.01), f"seed {seed}"
        checked += len(found)
    assert checked > 200


def test_colours_stay_with_their_masks_under_light_and_noise_too(source: Source) -> None:
    """Light and negatives map all colours of an image by one straight line, about which noise averages out."""
    transform, checked = make_training_transform(LIGHT, source), 0
    for seed in range(50):
        found, expected = interiors(transform(*source[seed % 6], seeded(seed)), depth=5)
        checked += len(found)
        if len(found) >= 3:
            one = torch.stack([expected.flatten(), torch.ones(expected.numel())], dim=1)
            line = torch.linalg.lstsq(one, found.flatten()[:, None]).solution
            assert (one @ line - found.flatten()[:, None]).abs().max() < 0.06, f"seed {seed}"
    assert checked > 100


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_every_change_together_gives_sound_samples(dtype: torch.dtype, source: Source) -> None:
    scale = 255 if dtype == torch.uint8 else 1
    own = [((image * scale).round() if dtype == torch.uint8 else image, truth) for image, truth in source]
    own = [(image.to(dtype), truth) for image, truth in own]
    transform = make_training_transform(replace(LIGHT, pad_mode="reflect"), own)
    for seed in range(12):
        sample = image, _ = transform(*own[seed % 6], seeded(seed))
        assert_sound(sample)
        assert image.dtype == dtype and image.min() >= 0 and image.max() <= scale
        assert_same(sample, transform(*own[seed % 6], seeded(seed)))


def test_samples_are_the_same_whatever_the_number_of_loaders(source: Source) -> None:
    samples = KeyedSamples(source, make_training_transform(LIGHT, source), seed=3)
    none, two = (list(itertools.islice(load_training_batches(samples, 2, 0, loaders), 5)) for loaders in (0, 2))
    for first, second in zip(none, two, strict=True):
        assert first.ids == second.ids
        for one, other in zip(zip(*first[:2], strict=True), zip(*second[:2], strict=True), strict=True):
            assert_same(one, other)


def test_a_mosaic_without_other_images_is_a_user_error() -> None:
    with pytest.raises(UserError, match="mosaic"):
        make_training_transform(AugmentConfig(mosaic=1.0))
