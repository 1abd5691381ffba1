"""Light, noise, negatives and blur: known answers and statistics."""

import math
import pickle

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.filters import gaussian
from torch import Tensor

from augment.config import AugmentConfig
from augment.photometric import GaussianNoise, RandomBlur, RandomInvert, RandomLight, apply_gaussian_blur
from augment.training import make_training_transform
from augment.transforms import Compose
from maskrcnn.structures.instances import Instances

ALL = [RandomLight(0.3, 0.2), GaussianNoise(0.2), RandomInvert(), RandomBlur(2.0)]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def changed(transform: object, image: Tensor, seed: int = 0) -> Tensor:
    """The image after the transform, whose objects must be those given."""
    instances = Instances.empty((image.shape[1], image.shape[2]))
    result, same = transform(image, instances, seeded(seed))
    assert same is instances
    return result


def grey(value: float, side: int = 8) -> Tensor:
    return torch.full((3, side, side), value)


# ---- what holds for each


@pytest.mark.parametrize("transform", ALL)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (20, 31)])
def test_images_keep_their_type_shape_and_range(transform: object, dtype: torch.dtype, size: tuple[int, int]) -> None:
    image = torch.randint(0, 256, (3, *size), generator=seeded(1), dtype=torch.uint8)
    image = image if dtype == torch.uint8 else image / 255
    before = image.clone()
    for seed in range(20):
        result = changed(transform, image, seed)
        assert result.dtype == dtype and result.shape == image.shape
        assert result.min() >= 0 and result.max() <= (255 if dtype == torch.uint8 else 1)
        assert torch.equal(result, changed(transform, image, seed)), "the same seed gives the same image"
    assert torch.equal(image, before), "what is given is not changed"


@pytest.mark.parametrize("transform", ALL)
def test_both_types_of_image_get_the_same_change(transform: object) -> None:
    image = torch.randint(0, 256, (3, 20, 31), generator=seeded(1), dtype=torch.uint8)
    for seed in range(20):
        bytes_, floats = changed(transform, image, seed), changed(transform, image / 255, seed)
        assert (bytes_ - floats * 255).abs().max() <= 0.501


@pytest.mark.parametrize("transform", ALL)
def test_images_of_any_number_of_channels_are_taken(transform: object) -> None:
    for channels in (1, 3, 5):
        assert changed(transform, torch.rand(channels, 6, 5, generator=seeded(0))).shape == (channels, 6, 5)


@pytest.mark.parametrize("transform", ALL)
def test_the_global_random_state_is_neither_used_nor_changed(transform: object) -> None:
    image = torch.rand(3, 9, 9, generator=seeded(0))
    torch.manual_seed(1)
    first, after = changed(transform, image), torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1)) and torch.equal(first, changed(transform, image))


@pytest.mark.parametrize("transform", [RandomLight(0, 0), GaussianNoise(0), RandomInvert(0), RandomBlur(0)])
def test_a_change_of_nothing_changes_nothing(transform: object) -> None:
    image = torch.randint(0, 256, (3, 20, 31), generator=seeded(1), dtype=torch.uint8)
    for seed in range(5):
        assert torch.equal(changed(transform, image, seed), image)
        assert torch.equal(changed(transform, image / 255, seed), image / 255)


@pytest.mark.parametrize("transform", ALL)
def test_transforms_are_compared_by_value_and_travel_to_workers(transform: object) -> None:
    assert pickle.loads(pickle.dumps(transform)) == transform


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: RandomLight(-0.1, 0), "scale_std"),
        (lambda: RandomLight(0, -0.1), "offset_std"),
        (lambda: RandomLight(math.nan, 0), "scale_std"),
        (lambda: GaussianNoise(-1), "std"),
        (lambda: GaussianNoise(math.inf), "std"),
        (lambda: RandomInvert(-0.1), "probability"),
        (lambda: RandomInvert(1.1), "probability"),
        (lambda: RandomInvert(math.nan), "probability"),
        (lambda: RandomBlur(-1), "max_sigma"),
        (lambda: RandomBlur(math.inf), "max_sigma"),
    ],
)
def test_arguments_that_make_no_sense_are_named(make, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        make()


def test_settings_make_the_transforms_they_name() -> None:
    config = AugmentConfig(
        brightness_factor_std=0.1, brightness_offset_std=0.2, invert="random", blur_sigma=1.5, noise_std=0.3
    )
    transforms = make_training_transform(config).transforms
    assert transforms[-4:] == (RandomLight(0.1, 0.2), RandomInvert(), RandomBlur(1.5), GaussianNoise(0.3))
    assert not {type(each) for each in make_training_transform(AugmentConfig()).transforms} & {
        type(each) for each in ALL
    }


# ---- light


def test_light_is_one_factor_and_one_offset_for_the_whole_image() -> None:
    image = torch.rand(3, 9, 7, generator=seeded(0)) * 0.2 + 0.4
    for seed in range(20):
        result = changed(RandomLight(0.1, 0.05), image, seed)
        slope = (result[1, 2, 3] - result[0, 0, 0]) / (image[1, 2, 3] - image[0, 0, 0])
        assert torch.allclose(result - result[0, 0, 0], slope * (image - image[0, 0, 0]), atol=1e-5)


def test_light_has_the_deviations_asked_for() -> None:
    """Of two greys, 0.4 and 0.6, the mean and the difference tell offset and factor."""
    image = torch.cat([grey(0.4, 1), grey(0.6, 1)], dim=2)
    pairs = torch.stack([changed(RandomLight(0.15, 0.05), image, seed)[0, 0] for seed in range(2000)])
    factors = (pairs[:, 1] - pairs[:, 0]) / 0.2
    offsets = pairs.mean(dim=1) - 0.5 * factors
    assert abs(factors.mean() - 1) < 0.015 and abs(factors.std() - 0.15) < 0.012
    assert abs(offsets.mean()) < 0.005 and abs(offsets.std() - 0.05) < 0.004
    assert abs(np.corrcoef(factors, offsets)[0, 1]) < 0.1


def test_light_never_makes_a_negative() -> None:
    image = torch.linspace(0, 1, 11).expand(1, 1, -1)
    for seed in range(100):
        assert (changed(RandomLight(5.0, 0.3), image, seed).diff() >= 0).all()


# ---- noise


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_noise_has_the_deviation_asked_for_and_is_independent(dtype: torch.dtype) -> None:
    scale = 255 if dtype == torch.uint8 else 1
    image = (grey(0.5, 128) * scale).to(dtype)
    noise = (changed(GaussianNoise(0.1), image).double() - image.double()) / scale
    assert abs(noise.mean()) < 0.002 and abs(noise.std() - 0.1) < 0.002
    assert abs(float((noise**4).mean() / noise.var() ** 2) - 3) < 0.15
    for one, other in ((noise[0], noise[1]), (noise[:, 1:], noise[:, :-1]), (noise[..., 1:], noise[..., :-1])):
        assert abs(np.corrcoef(one.flatten(), other.flatten())[0, 1]) < 0.02


# ---- negatives


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_inverting_twice_is_the_identity(dtype: torch.dtype) -> None:
    image = torch.arange(256).to(torch.uint8).reshape(1, 16, 16)
    image = image if dtype == torch.uint8 else image / 255
    once = changed(RandomInvert(1.0), image)
    if dtype == torch.uint8:
        assert torch.equal(once, 255 - image)
        assert torch.equal(changed(RandomInvert(1.0), once), image)
    else:
        assert torch.equal(once, 1 - image)
        assert torch.allclose(changed(RandomInvert(1.0), once), image, atol=1e-7)


@pytest.mark.parametrize("probability", [0.0, 0.3, 0.5, 1.0])
def test_negatives_come_as_often_as_asked_for(probability: float) -> None:
    share = sum(float(changed(RandomInvert(probability), grey(0.2, 1), seed)[0, 0, 0]) > 0.5 for seed in range(1000))
    assert abs(share / 1000 - probability) < 0.05 and (probability % 1 or share == 1000 * probability)


# ---- blur


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.5, 0.8, 1.0, 1.7, 3.0])
@pytest.mark.parametrize("kind", ["noise", "squares"])
def test_blur_is_a_gaussian(sigma: float, kind: str) -> None:
    image = torch.rand(3, 40, 50, generator=seeded(0))
    if kind == "squares":
        image = torch.zeros(3, 40, 50)
        image[:, 10:22, 5:15], image[:, :, 30:] = 1.0, 0.7
    for plane, expected in zip(apply_gaussian_blur(image, sigma).numpy(), image.numpy(), strict=True):
        np.testing.assert_allclose(plane, gaussian_filter(expected, sigma, mode="nearest"), atol=1e-5)
        np.testing.assert_allclose(plane, gaussian(expected, sigma, mode="nearest"), atol=1e-5)


@pytest.mark.parametrize("sigma", [0.4, 1.0, 2.5])
def test_blur_keeps_the_mean_and_flat_areas(sigma: float) -> None:
    image = torch.full((1, 60, 60), 0.25)
    assert torch.allclose(apply_gaussian_blur(image, sigma), image, atol=1e-6)
    image[:, 20:40, 25:35] = torch.rand(1, 20, 10, generator=seeded(0))
    result = apply_gaussian_blur(image, sigma)
    assert abs(float(result.double().mean() - image.double().mean())) < 1e-6
    assert image.min() <= result.min() + 1e-6 and result.max() <= image.max() + 1e-6


def test_blur_widens_a_point_by_its_sigma_in_both_directions() -> None:
    image = torch.zeros(1, 41, 41)
    image[0, 20, 20] = 1
    spread = apply_gaussian_blur(image, 2.0)[0].double()
    at = torch.arange(41, dtype=torch.float64) - 20
    for axis in (0, 1):
        assert math.isclose(float((spread.sum(dim=axis) * at**2).sum()), 4.0, rel_tol=0.05)
    assert torch.allclose(spread, spread.T) and torch.allclose(spread, spread.flip(0))


def test_blur_larger_than_the_image_is_its_mean_in_the_limit() -> None:
    image = torch.tensor([[[0.0, 1.0]]])
    assert (apply_gaussian_blur(image, 50.0) - 0.5).abs().max() < 0.02
    assert torch.equal(apply_gaussian_blur(torch.tensor([[[0.3]]]), 5.0).round(decimals=5), torch.tensor([[[0.3]]]))


def test_sigmas_are_drawn_from_zero_to_the_largest() -> None:
    """The peak of a blurred point, 1 / (2 π σ²), tells σ."""
    image = torch.zeros(1, 21, 21)
    image[0, 10, 10] = 1
    peaks = torch.stack([changed(RandomBlur(2.0), image, seed)[0, 10, 10] for seed in range(300)])
    sigmas = (2 * math.pi * peaks).rsqrt()
    wide = sigmas[sigmas > 0.6]  # a narrower one is not told by its peak
    assert sigmas.max() <= 2.02 and abs(float((sigmas > 1.0).float().mean()) - 0.5) < 0.08
    assert abs(float(wide.mean()) - 1.3) < 0.07


def test_changes_follow_one_another() -> None:
    image = torch.randint(0, 256, (3, 20, 31), generator=seeded(1), dtype=torch.uint8)
    generator, expected, instances = seeded(5), image, Instances.empty((20, 31))
    for transform in ALL:
        expected, _ = transform(expected, instances, generator)
    assert torch.equal(changed(Compose(tuple(ALL)), image, 5), expected)
