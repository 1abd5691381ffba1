"""Images of any number of channels and bits: normalization, the first convolution, and what is rejected."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from detector_toy import HEADS, TOY, disks, one_class, toy_detector
from hypothesis import given
from hypothesis import strategies as st
from programs_toy import succeed
from test_model_backbones import STANDARD, Weights
from torch import Tensor
from torch.nn import functional as F
from torchvision import models

import maskrcnn
from examples.train import main as train
from maskrcnn.config import UserError, merge
from maskrcnn.model import backbones
from maskrcnn.model.backbones import Backbone, adapt_first_conv
from maskrcnn.model.config import STANDARDIZATIONS, ImageConfig
from maskrcnn.model.detector import Detector
from maskrcnn.model.images import IMAGENET_MEAN, IMAGENET_STD, measure_statistics, prepare_image
from maskrcnn.training.checkpoint import load_weights

SIZE = (64, 96)


def make_image(channels: int, dtype: torch.dtype = torch.uint8, seed: int = 0) -> Tensor:
    """Disks in channels of different contrast."""
    image = disks(SIZE, seed=seed)[0][1].float() / 255
    stack = torch.stack([0.1 * number + image / (number + 1) for number in range(channels)]).clamp(0, 1)
    full = {torch.uint8: 255, torch.uint16: 65_535}.get(dtype)
    return stack if full is None else (stack * full).round().to(torch.int32).to(dtype)


def normalize(image: Tensor, how: str, **options: object) -> np.ndarray:
    config = merge(ImageConfig(), {"normalization": how, "channels": len(image), **options})
    return prepare_image(image, config).double().numpy()


# ---- normalization


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
def test_each_normalization_is_that_of_numpy(channels: int, dtype: torch.dtype) -> None:
    image = make_image(channels, dtype)
    x = image.double().numpy() / {torch.uint8: 255, torch.uint16: 65_535}.get(dtype, 1)
    axes, shape = (1, 2), (channels, 1, 1)
    centered = x - x.mean(axes, keepdims=True)
    low, high = (np.percentile(x, p, axis=axes, keepdims=True, method="nearest") for p in (1, 99.8))
    mean, std = tuple(0.1 + 0.1 * c for c in range(channels)), tuple(0.2 + 0.1 * c for c in range(channels))
    imagenet = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ([0.449] * channels, [0.226] * channels)
    wanted = {
        "none": x,
        "zerocentre": 2 * x - 1,
        "zeromean": centered,
        "std": centered / centered.std(),
        "image": centered / centered.std(axes, keepdims=True),
        "percentile": (x - low) / (high - low),
        "dataset": (x - np.reshape(mean, shape)) / np.reshape(std, shape),
        "imagenet": (x - np.reshape(imagenet[0], shape)) / np.reshape(imagenet[1], shape),
    }
    assert set(wanted) == set(STANDARDIZATIONS)
    for how, values in wanted.items():
        options = {"mean": mean, "std": std} if how == "dataset" else {}
        np.testing.assert_allclose(normalize(image, how, **options), values, atol=2e-4, err_msg=how)


@pytest.mark.parametrize("how", ["std", "image", "percentile"])
def test_low_contrast_of_16_bits_is_stretched_as_high_contrast_is(how: str) -> None:
    """8 levels of 4,096 are a 20th of a level of 8 bits."""
    pattern = torch.randint(0, 9, (2, 32, 32), generator=torch.Generator().manual_seed(0))
    low = (2000 * 16 + 16 * pattern).to(torch.int32).to(torch.uint16)
    high = (4000 * pattern).to(torch.int32).to(torch.uint16)
    np.testing.assert_allclose(normalize(low, how), normalize(high, how), atol=2e-3)


@pytest.mark.parametrize("how", ["std", "image", "percentile"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_noise_below_one_gray_level_is_not_amplified(how: str, dtype: torch.dtype) -> None:
    image = torch.full((1, 64, 64), 7, dtype=torch.int32)
    image[0, 0, 0] = 8  # one pixel that differs by one level
    assert np.abs(normalize(image.to(dtype), how)).max() <= 1.01


@given(st.integers(1, 5), st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4))
def test_statistics_are_of_all_pixels(channels: int, sizes: list[tuple[int, int]]) -> None:
    generator = torch.Generator().manual_seed(channels)
    images = [torch.randint(0, 256, (channels, *size), generator=generator).to(torch.uint8) for size in sizes]
    mean, std = measure_statistics(images)
    values = np.concatenate([image.double().flatten(1).numpy() for image in images], axis=1) / 255
    np.testing.assert_allclose(mean, values.mean(1), atol=1e-12)
    np.testing.assert_allclose(std, np.maximum(values.std(1), 1 / 65_535), atol=1e-7)


def test_statistics_of_dtypes_agree_and_normalize_their_own_images() -> None:
    by_dtype = [
        measure_statistics([make_image(2, each, seed) for seed in range(3)]) for each in (torch.uint16, torch.float32)
    ]
    np.testing.assert_allclose(by_dtype[0], by_dtype[1], atol=1e-5)
    mean, std = by_dtype[0]
    images = [normalize(make_image(2, torch.uint16, seed), "dataset", mean=mean, std=std) for seed in range(3)]
    together = np.concatenate([image.reshape(2, -1) for image in images], axis=1)
    np.testing.assert_allclose(together.mean(1), 0, atol=1e-4)
    np.testing.assert_allclose(together.std(1), 1, atol=1e-4)


def test_statistics_of_unequal_or_no_images_are_an_error() -> None:
    with pytest.raises(UserError, match="image 1 has 1 channels, but image 0 has 3"):
        measure_statistics([make_image(3), make_image(1)])
    with pytest.raises(UserError, match="no images"):
        measure_statistics([])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"detector.image.mean has 0 values, but the images have 2 channels; .*measure_statistics"),
        ({"mean": (0.1, 0.2), "std": (0.1,)}, "detector.image.std has 1 values"),
        ({"mean": (0.1, 0.2, 0.3), "std": (0.1, 0.2)}, "detector.image.mean has 3 values"),
        ({"mean": (0.1, 0.2), "std": (0.1, 0.0)}, "std = .*above 0"),
    ],
)
def test_statistics_that_do_not_fit_the_channels_are_an_error(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        toy_detector(
            "rpn", image__channels=2, image__normalization="dataset", **{f"image__{k}": v for k, v in options.items()}
        )


# ---- detectors


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
def test_a_detector_of_any_channels_learns_and_detects(head: str, channels: int, dtype: torch.dtype) -> None:
    detector = toy_detector(head, image__channels=channels, box__min_score=0.0)
    images = [make_image(channels, dtype, seed) for seed in range(2)]
    targets = [one_class(disks(SIZE, seed=seed)[1]) for seed in range(2)]
    sum(detector(images, targets).values()).backward()
    gradient = detector.backbone.body.conv1.weight.grad
    assert gradient.shape[1] == channels and (gradient.abs().amax(dim=(0, 2, 3)) > 0).all()
    assert all(len(found) > 0 for found in detector(images))


@pytest.mark.parametrize(("built", "given_"), [(3, 1), (3, 4), (1, 3), (2, 3)])
def test_images_of_another_number_of_channels_are_rejected_in_one_line(built: int, given_: int) -> None:
    detector = toy_detector("rpn", image__channels=built)
    images, targets = [make_image(built), make_image(given_)], [one_class(disks(SIZE)[1])] * 2
    message = rf"^image 1: an image must be \[{built}, H, W\], got \[{given_}, 64, 96\].*built for {built} channels"
    for arguments in ((images,), (images, targets)):
        with pytest.raises(UserError, match=message) as error:
            detector(*arguments)
        assert "\n" not in str(error.value)


# ---- pretrained weights


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_adapted_weights_respond_to_gray_images_as_before(channels: int) -> None:
    weight = torch.randn(8, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    gray = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    adapted = adapt_first_conv(weight, channels)
    assert adapted.shape == (8, channels, 7, 7)
    wanted = F.conv2d(gray.expand(-1, 3, -1, -1), weight)
    torch.testing.assert_close(F.conv2d(gray.expand(-1, channels, -1, -1), adapted), wanted, rtol=1e-4, atol=1e-4)


def test_weights_for_rgb_are_not_changed() -> None:
    weight = torch.randn(8, 3, 7, 7)
    assert adapt_first_conv(weight, 3) is weight


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_imagenet_weights_are_loaded_for_any_channels(monkeypatch: pytest.MonkeyPatch, channels: int) -> None:
    state = models.resnet18(weights=None).state_dict()
    monkeypatch.setattr(backbones.models, "get_model_weights", lambda name: Weights(dict(state)))
    loaded = Backbone(STANDARD, channels).body.state_dict()
    assert torch.equal(loaded["conv1.weight"], adapt_first_conv(state["conv1.weight"], channels))
    assert torch.equal(loaded["layer3.1.conv2.weight"], state["layer3.1.conv2.weight"])


# ---- runs


def test_a_run_stores_the_statistics_of_its_training_images(workplace: Path) -> None:
    lines = succeed(train, "--dataset=ellipses", "--head=rpn", "--standardisation=dataset", "--num_epochs=1")
    assert any(line.startswith("normalization measured on 6 training images: mean 0.") for line in lines)
    run = next((workplace / "runs").iterdir())
    stored = tomllib.loads((run / "config.toml").read_text())["detector"]["image"]
    predictor = maskrcnn.load(run)
    image = predictor.detector.config.image
    assert (list(image.mean), list(image.std)) == (stored["mean"], stored["std"])
    assert len(image.std) == 3 and 0.01 < min(image.std) < max(image.std) < 0.5
    succeed(train, f"--resume={run}", "--num_epochs=1")


def test_a_checkpoint_of_other_channels_names_the_layer() -> None:
    one, three = toy_detector("rpn", image__channels=1), Detector(TOY, 1, "rpn")
    with pytest.raises(UserError, match=r"conv1.weight is \[16, 1, 3, 3\] there and \[16, 3, 3, 3\]"):
        load_weights(three, one.state_dict(), "w.pt")
