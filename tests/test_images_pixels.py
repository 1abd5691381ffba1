"""Pixels keep type, depth and channels from the file to the detector's normalization."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from augment.config import AugmentConfig
from augment.photometric import GaussianNoise, OnLevels, RandomBlur, RandomInvert, RandomLight
from augment.training import make_training_transform
from datasets.deep_images import check_same_kind
from datasets.readers.label_images import LabelImages
from maskrcnn.config import UserError
from maskrcnn.images.levels import measure_image_levels
from maskrcnn.images.options import ImageOptions, use_image_options
from maskrcnn.images.reading import read_image
from maskrcnn.inference.views import gammas, rotations_by_90, tiles
from maskrcnn.model.config import ImageConfig
from maskrcnn.model.images import check_values, prepare_image
from maskrcnn.plotting.canvas import describe_display, to_picture
from maskrcnn.structures.affine import rotation
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.pixels import InMemory, from_unit, match_dtype, to_unit
from maskrcnn.structures.warping import warp
from maskrcnn.training.loading import KeyedSamples
from workbench.config import ExperimentConfig
from workbench.data import open_data

SIZE = (48, 64)
DTYPES = [torch.uint8, torch.uint16, torch.float32]
LEVELS = (1990.0, 2030.0)


def make_image(channels: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Noise between the levels (uint8: over the full range)."""
    rng = np.random.default_rng(seed)
    shape = (channels, *SIZE)
    if dtype == torch.uint8:
        return torch.from_numpy(rng.integers(0, 256, shape).astype(np.uint8))
    values = rng.uniform(1995, 2025, shape)
    return torch.from_numpy(values.round().astype(np.uint16) if dtype == torch.uint16 else values.astype(np.float32))


def make_objects() -> Instances:
    return Instances(SIZE, torch.tensor([[4.0, 5, 20, 18]]), torch.tensor([1]))


EVERYTHING = AugmentConfig(
    crop_size=(32,),
    rotation_degrees=30.0,
    hflip=True,
    brightness_factor_std=0.1,
    brightness_offset_std=0.1,
    blur_sigma=0.7,
    noise_std=0.05,
    mosaic=0.5,
    copy_paste=2,
)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_augmentation_keeps_type_channels_and_range(dtype: torch.dtype, channels: int) -> None:
    source = [(make_image(channels, dtype, seed), make_objects()) for seed in range(3)]
    levels = None if dtype == torch.uint8 else LEVELS
    transform = make_training_transform(EVERYTHING, source, levels)
    for seed in range(6):
        image, _ = transform(*source[seed % 3], torch.Generator().manual_seed(seed))
        assert image.dtype == dtype and image.shape == (channels, 32, 32)
        if levels is not None:  # light and noise work between the levels, not over 65,535
            inside = image.float()[image.float() > 0]  # 0 is the border
            assert inside.quantile(0.02) >= LEVELS[0] - 1 and inside.quantile(0.98) <= LEVELS[1] + 1
            assert inside.std() > 2


@pytest.mark.parametrize("step", [RandomLight(), GaussianNoise(), RandomBlur(2.0), RandomInvert(1.0)])
def test_a_change_of_deep_pixels_is_that_of_the_same_image_between_0_and_1(step: Any) -> None:
    image, objects = make_image(3, torch.uint16), make_objects()
    changed, _ = OnLevels(step, LEVELS)(image, objects, torch.Generator().manual_seed(1))
    expected, _ = step(to_unit(image, LEVELS), objects, torch.Generator().manual_seed(1))
    difference = (to_unit(changed, LEVELS) - expected).abs().max()
    assert changed.dtype == torch.uint16 and difference <= 0.5 / (LEVELS[1] - LEVELS[0]) + 1e-4
    assert not torch.equal(changed, image)


@given(st.integers(0, 65_535), st.floats(0, 60_000), st.floats(1, 5000))
def test_values_survive_the_way_to_0_and_1_and_back(value: int, low: float, span: float) -> None:
    for levels in (None, (low, low + span)):
        for dtype, stored in ((torch.uint16, value), (torch.uint8, value % 256), (torch.float32, value / 7)):
            image = torch.full((1, 1, 1), stored).to(dtype)
            back = from_unit(to_unit(image, levels), dtype, levels)
            assert back.dtype == dtype and abs(float(back) - float(image)) <= (0 if dtype != torch.float32 else 0.02)


def test_types_are_matched_by_their_full_range() -> None:
    deep = torch.tensor([[[0, 257, 65_535]]], dtype=torch.int32).to(torch.uint16)
    flat = match_dtype(deep, torch.zeros(1, dtype=torch.uint8))
    assert flat.tolist() == [[[0, 1, 255]]] and match_dtype(flat, deep).tolist() == deep.tolist()


@pytest.mark.parametrize("dtype", DTYPES)
def test_views_and_tiles_are_made_of_stored_values(dtype: torch.dtype) -> None:
    image = make_image(4, dtype)
    pixels = InMemory(image)
    for view in [*rotations_by_90(SIZE), *tiles(SIZE, 32)]:
        shown = view.show(pixels)
        assert shown.dtype == dtype and len(shown) == 4
        assert set(shown.unique().tolist()) <= set(image.unique().tolist())
    turned = rotations_by_90(SIZE)[1].show(pixels)
    turned, image = turned.double(), image.double()  # PyTorch 2.11 cannot flip uint16
    assert torch.equal(turned.flip(1).transpose(1, 2), image) or torch.equal(turned.flip(2).transpose(1, 2), image)


def test_gamma_works_between_the_gray_levels() -> None:
    image = make_image(1, torch.uint16)
    (view,) = gammas(SIZE, [0.5], LEVELS)
    shown = view.show(InMemory(image))
    expected = to_unit(image, LEVELS) ** 0.5 * 40 + 1990
    assert shown.dtype == torch.uint16 and (shown.float() - expected).abs().max() <= 0.51


def test_warping_interpolates_16_bits() -> None:
    image = make_image(2, torch.uint16)
    warped, _ = warp(image, Instances.empty(SIZE), rotation(20), SIZE)
    exact, _ = warp(image.float(), Instances.empty(SIZE), rotation(20), SIZE)
    assert warped.dtype == torch.uint16 and torch.equal(warped.float(), exact.round())


@pytest.mark.parametrize("dtype", [torch.uint16, torch.float32])
@pytest.mark.parametrize("how", ["std", "zerocentre", "none"])
def test_the_detector_sees_stored_values_between_its_gray_levels(dtype: torch.dtype, how: str) -> None:
    image = make_image(3, dtype)
    config = ImageConfig(normalization=how, gray_levels=LEVELS)
    unit = to_unit(image, LEVELS)
    torch.testing.assert_close(prepare_image(image, config), prepare_image(unit, ImageConfig(normalization=how)))
    flat = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)
    assert torch.equal(prepare_image(flat, config), prepare_image(flat, ImageConfig(normalization=how)))


def test_floats_outside_the_gray_levels_are_rejected() -> None:
    check_values(make_image(3, torch.float32), LEVELS)
    with pytest.raises(UserError, match=r"0 to 1, are all outside the gray levels of the detector, 1990 to 2030"):
        check_values(torch.rand(3, 9, 9).round(), LEVELS)
    with pytest.raises(UserError, match="NaN"):
        check_values(torch.full((3, 9, 9), float("nan")), LEVELS)


# ---- channels


def write_channels(path: Path, channels: int, dtype: str = "uint8") -> NDArray[Any]:
    values = np.random.default_rng(channels).integers(0, 255, (*SIZE, channels)).astype(dtype)
    kind, layout = ("rgb" if channels == 3 else "minisblack"), ("contig" if channels > 1 else None)
    tifffile.imwrite(path, values if channels > 1 else values[:, :, 0], photometric=kind, planarconfig=layout)
    return values


@pytest.mark.parametrize(
    ("stored", "wanted", "read"), [(1, 0, 3), (2, 0, 2), (3, 0, 3), (5, 0, 5), (1, 1, 1), (5, 5, 5)]
)
def test_gray_is_repeated_and_other_channels_are_the_files(tmp_path: Path, stored: int, wanted: int, read: int) -> None:
    values = write_channels(tmp_path / "a.tif", stored)
    with use_image_options(ImageOptions(channels=wanted)):
        image = read_image(tmp_path / "a.tif")
    assert image.shape == (read, *SIZE)
    for number, channel in enumerate(image.numpy()):
        np.testing.assert_array_equal(channel, values[:, :, min(number, stored - 1)])


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_alpha_is_a_channel_only_if_four_are_asked_for(tmp_path: Path, name: str) -> None:
    values = np.random.default_rng(0).integers(0, 255, (*SIZE, 4)).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / name)
    np.testing.assert_array_equal(read_image(tmp_path / name).permute(1, 2, 0).numpy(), values[:, :, :3])
    with use_image_options(ImageOptions(channels=4)):
        np.testing.assert_array_equal(read_image(tmp_path / name).permute(1, 2, 0).numpy(), values)


def test_files_with_other_channels_than_asked_for_are_named(tmp_path: Path) -> None:
    write_channels(tmp_path / "a.tif", 3)
    with use_image_options(ImageOptions(channels=1)), pytest.raises(UserError, match=r"a\.tif: has 3 channels, and 1 "):
        read_image(tmp_path / "a.tif")


def write_data(root: Path, channels: list[int], dtypes: list[str] | None = None) -> Path:
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    labels = np.zeros(SIZE, np.uint8)
    labels[5:20, 5:20] = 1
    for number, count in enumerate(channels):
        write_channels(root / "images" / f"{number:03}.tif", count, (dtypes or ["uint8"] * len(channels))[number])
        tifffile.imwrite(root / "masks" / f"{number:03}.tif", labels)
    return root


def test_a_data_set_with_mixed_channels_is_an_error_that_names_two_images(tmp_path: Path) -> None:
    root = write_data(tmp_path, [3, 3, 2, 3, 3, 3])
    with pytest.raises(UserError) as caught:
        open_data(open_config(root), notify=lambda line: None)
    message = str(caught.value)
    assert "002.tif" in message and "has 2 channels" in message and message.count(".tif") == 2 and "\n" not in message


def test_mixed_channels_are_found_however_late_the_image_is_read(tmp_path: Path) -> None:
    """The headers of a sample only are checked at first."""
    root = write_data(tmp_path, [3] * 200)
    late = root / "images" / "101.tif"
    data = open_data(open_config(root), notify=lambda line: None)
    write_channels(late, 4)
    with pytest.raises(UserError, match=r"101.*has 4 channels, but .* has 3"):
        [part[index] for part in data.splits().values() for index in range(len(part))]


def test_integers_and_floats_are_not_mixed(tmp_path: Path) -> None:
    write_channels(tmp_path / "a.tif", 1, "uint16")
    write_channels(tmp_path / "b.tif", 1, "float32")
    with pytest.raises(UserError, match=r"b\.tif: has floating-point pixels, but .*a\.tif: has integer pixels"):
        check_same_kind([tmp_path / "a.tif", tmp_path / "b.tif"])


def open_config(root: Path, **options: Any) -> ExperimentConfig:
    from dataclasses import replace

    config = ExperimentConfig()
    return replace(config, data=replace(config.data, dataset="labels", dataset_root=str(root), **options))


def test_training_samples_of_a_data_set_are_as_stored(tmp_path: Path) -> None:
    root = write_data(tmp_path, [5] * 8, ["uint16"] * 8)
    data = open_data(open_config(root), notify=lambda line: None)
    assert data.channels == 5 and data.gray_levels is not None
    sample = KeyedSamples(data.train)[0, 0]
    stored = LabelImages(root, "train")
    assert sample.image.dtype == torch.uint16 and sample.image.shape == (5, *SIZE)
    assert any(torch.equal(sample.image.int(), stored[i][0].int()) for i in range(len(stored)))


def test_levels_of_images_in_memory() -> None:
    assert measure_image_levels([make_image(3, torch.uint8)]) is None
    assert measure_image_levels([torch.rand(3, 9, 9)]) is None  # in [0, 1] already
    deep, floats = (measure_image_levels([make_image(3, dtype)]) for dtype in (torch.uint16, torch.float32))
    assert deep is not None and floats is not None
    assert deep == pytest.approx(floats, abs=1.5) and 1985 < deep[0] < 1995 < 2025 < deep[1] < 2035


# ---- plots


def test_deep_images_are_stretched_for_display_and_the_title_says_so() -> None:
    image = make_image(3, torch.uint16)
    assert describe_display(image) == "contrast stretched: 1995 to 2025"
    picture = to_picture(image)
    assert picture.std() > 60 and picture.min() == 0 and picture.max() == 255
    assert describe_display(make_image(3, torch.uint8)) == describe_display(torch.rand(3, 8, 8)) == ""


@pytest.mark.parametrize(("channels", "words"), [(1, ""), (2, "channels 1 to 2 of 2"), (5, "channels 1 to 3 of 5")])
def test_pictures_show_the_first_channels(channels: int, words: str) -> None:
    image = make_image(channels, torch.uint8)
    picture = to_picture(image)
    assert describe_display(image) == words and picture.shape == (*SIZE, 3)
    for number in range(3):
        shown = image[0] if channels == 1 else image[number] if number < channels else torch.zeros(SIZE)
        np.testing.assert_array_equal(picture[:, :, number], shown.numpy())
