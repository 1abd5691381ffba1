"""Random transforms: distribution, reproducibility, settings."""

import dataclasses
import pickle

import pytest
import torch
from torch import Generator, Tensor

from augment.config import AugmentConfig
from augment.training import make_training_transform
from augment.transforms import Compose, RandomCrop, RandomFlip
from maskrcnn.config import UserError, flag_values
from maskrcnn.structures.edges import Edges
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks


def sample(height: int, width: int) -> tuple[Tensor, Instances]:
    """Every pixel is an object of its own whose number the image shows."""
    numbers = torch.arange(1, height * width + 1, dtype=torch.int32).reshape(height, width)
    ids = numbers.flatten().long()
    instances = Instances.from_masks(CroppedMasks.from_label_image(numbers, ids), torch.ones_like(ids), ids=ids)
    return numbers.float().expand(3, -1, -1).clone(), instances


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shown(image: Tensor, instances: Instances) -> Tensor:
    """The image that the masks and ids say; equal to the image's channels where everything moved as one."""
    numbers = torch.zeros(instances.size)
    for mask, number in zip(instances.masks.to_dense(), instances.ids.tolist(), strict=True):
        numbers[mask] = number
    return numbers


@pytest.mark.parametrize("mode", ["constant", "reflect"])
@pytest.mark.parametrize("shape", [(9, 13), (3, 4), (40, 2)])
def test_masks_follow_the_image_through_crop_and_flips(shape: tuple[int, int], mode: str) -> None:
    image, instances = sample(*shape)
    transform = make_training_transform(AugmentConfig(crop_size=(8, 12), crop_border=2, pad_mode=mode))
    for seed in range(20):
        moved_image, moved = transform(image, instances, seeded(seed))
        assert tuple(moved_image.shape[1:]) == tuple(moved.size) and tuple(moved.size) in ((8, 12), (12, 8))
        assert torch.equal(shown(moved_image, moved), moved_image[0])


def test_same_generator_seed_gives_the_same_sample() -> None:
    image, instances = sample(20, 20)
    transform = make_training_transform(AugmentConfig(crop_size=(8,)))
    results = [transform(image, instances, seeded(seed)) for seed in (3, 3, 4)]
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1].boxes, results[1][1].boxes)
    assert not torch.equal(results[0][0], results[2][0])


def test_the_global_random_state_is_neither_used_nor_changed() -> None:
    image, instances = sample(20, 20)
    transform = make_training_transform(AugmentConfig(crop_size=(8,)))
    torch.manual_seed(1)
    first = transform(image, instances, seeded(0))[0]
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))
    assert torch.equal(first, transform(image, instances, seeded(0))[0])


def origins(image_length: int, size: int, border: int) -> set[int]:
    """Columns at which crops of one row began, read off the first pixel of the image that each of them shows."""
    image = torch.arange(1, image_length + 1, dtype=torch.float32).expand(1, 1, -1)
    crop, generator, found = RandomCrop((1, size), border), seeded(0), set()
    for _ in range(800):
        row = crop(image, Instances.empty((1, image_length)), generator)[0][0, 0]
        if row.any():  # else it lies above or below the image
            column = int(row.nonzero()[0])
            found.add(int(row[column]) - 1 - column)
    return found


@pytest.mark.parametrize(
    ("image_length", "size", "border", "expected"),
    [
        (10, 6, 0, range(0, 5)),
        (10, 6, 2, range(-2, 7)),
        (6, 6, 0, range(0, 1)),
        (6, 6, 3, range(-3, 4)),
        (4, 9, 0, range(-5, 1)),  # smaller than the window: whole, anywhere in it
        (4, 9, 1, range(-4, 0)),  # with a border that the window holds too
    ],
)
def test_windows_are_drawn_from_every_place_that_the_border_allows(
    image_length: int, size: int, border: int, expected: range
) -> None:
    assert origins(image_length, size, border) == set(expected)


def test_all_eight_orientations_come_equally_often() -> None:
    image, instances = sample(2, 2)
    generator = seeded(0)
    counts: dict[tuple[float, ...], int] = {}
    for _ in range(800):
        turned = tuple(RandomFlip()(image, instances, generator)[0][0].flatten().tolist())
        counts[turned] = counts.get(turned, 0) + 1
    assert len(counts) == 8 and min(counts.values()) > 60


@pytest.mark.parametrize(
    ("flips", "expected"),
    [
        (RandomFlip(True, False, False), {(1, 2, 3, 4), (2, 1, 4, 3)}),
        (RandomFlip(False, True, False), {(1, 2, 3, 4), (3, 4, 1, 2)}),
        (RandomFlip(False, False, True), {(1, 2, 3, 4), (1, 3, 2, 4)}),
        (RandomFlip(False, False, False), {(1, 2, 3, 4)}),
    ],
)
def test_each_flip_can_be_turned_off(flips: RandomFlip, expected: set[tuple[int, ...]]) -> None:
    image, instances = sample(2, 2)
    generator = seeded(0)
    assert {tuple(flips(image, instances, generator)[0][0].int().flatten().tolist()) for _ in range(60)} == expected


def test_settings_make_the_transform_they_name() -> None:
    config = AugmentConfig(crop_size=(64, 96), crop_border=5, pad_mode="reflect", vflip=False)
    assert make_training_transform(config) == Compose(
        (RandomCrop((64, 96), 5), RandomFlip(True, False, True)), Edges("reflect", "ignore", 0.25)
    )
    assert make_training_transform(AugmentConfig(crop_size=(32,))).transforms[0] == RandomCrop((32, 32), 16)


def test_size_zero_and_no_flips_leave_the_sample_alone() -> None:
    config = AugmentConfig(crop_size=(0,), hflip=False, vflip=False, transpose=False)
    image, instances = sample(5, 7)
    moved_image, moved = make_training_transform(config)(image, instances, seeded(0))
    assert moved_image is image and moved is instances


@pytest.mark.parametrize("fixed_size", [(), (1, 2, 3), (64, 0), (-1,)])
def test_sizes_that_are_none_are_refused(fixed_size: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="fixed_size"):
        make_training_transform(AugmentConfig(crop_size=fixed_size))


@pytest.mark.parametrize(
    "arguments",
    [{"size": (0, 5)}, {"size": (5,)}, {"size": (5, 5), "border": -1}, {"size": (5, 5), "object_crop_fraction": 2}],
)
def test_crops_that_cannot_be_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="crop"):
        RandomCrop(**arguments)


def test_transforms_are_frozen_and_travel_to_workers() -> None:
    transform = make_training_transform(AugmentConfig())
    assert pickle.loads(pickle.dumps(transform)) == transform
    with pytest.raises(dataclasses.FrozenInstanceError):
        transform.transforms[0].border = 3


def test_a_transform_that_returns_no_sample_is_named() -> None:
    def brighter(image: Tensor, instances: Instances, generator: Generator) -> Tensor:
        return image

    with pytest.raises(TypeError, match=r"transform brighter must return \(image, instances\).*got Tensor"):
        Compose((brighter,))(torch.zeros(3, 8, 8), Instances.empty((8, 8)), Generator())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (AugmentConfig(scale_x_range=(2.0, 1.0)), r"^scale_x_range: \(2.0, 1.0\) is not a range"),
        (AugmentConfig(crop_size=(1,)), "fixed_size: crops of 1 pixels contain no object; use at least 8"),
        (AugmentConfig(library_transforms=("torchvision.ColorJitter(",)), "never closed; write a call such as imgaug"),
    ],
)
def test_settings_that_make_no_sense_are_said_by_their_own_name(config: AugmentConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_training_transform(config)


@pytest.mark.parametrize("flag", ["blur", "gaussian_noise", "affine_std", "light_scl_std", "light_off_std"])
def test_settings_beyond_all_sense_are_refused(flag: str) -> None:
    """A blur of 1e9 px asks for all memory there is."""
    with pytest.raises(UserError, match=f"--{flag} = .* must be at most"):
        flag_values(AugmentConfig, {flag: "1e9"})
