"""Random geometric transforms: what they draw, and that those that follow one another resample once."""

import math

import pytest
import torch
from ellipses_toy import Ellipse, scene, truth_of
from torch import Tensor

from augment.config import AugmentConfig
from augment.training import make_training_transform
from augment.transforms import (
    Compose,
    Frame,
    Geometric,
    MatchSizes,
    RandomAffine,
    RandomCrop,
    RandomFlip,
    RandomRotation,
    RandomScale,
    Warp,
)
from maskrcnn.config import UserError
from maskrcnn.structures.affine import area_factor, compose_around_center, identity, map_points, rotation, translation
from maskrcnn.structures.edges import Edges
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.warping import warp

SIZE = (60, 80)
EVERYTHING = AugmentConfig(
    scale_range=(0.7, 1.4),
    scale_x_range=(0.9, 1.1),
    scale_y_range=(0.9, 1.1),
    crop_size=(48, 56),
    rotation_degrees=45,
    affine_std=0.1,
    brightness_factor_std=0.1,
    brightness_offset_std=0.1,
    blur_sigma=0.5,
    noise_std=0.05,
    invert="random",
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draws(transform: object, count: int = 200, boxes: Tensor | None = None) -> list[Tensor]:
    generator = seeded(0)
    frame = Frame(SIZE, torch.zeros(0, 4) if boxes is None else boxes)
    return [transform.draw(frame, generator).matrix for _ in range(count)]


def painted_sample(seed: int = 0) -> tuple[Tensor, Instances]:
    """Objects that do not touch, each painted in its own grey."""
    truth = scene(12, SIZE, (8, 14), apart=True, seed=seed)
    image = torch.zeros(3, *SIZE)
    for k, (mask, _) in enumerate(zip(truth.masks.to_dense(), range(len(truth)), strict=True)):
        image[:, mask] = (k + 2) / (len(truth) + 2)
    return image, truth


def test_steps_that_follow_one_another_resample_once() -> None:
    """Sixteen turns of 22.5 degrees are no turn at all; sixteen resamplings would be a blur."""
    image, truth = painted_sample()

    class Turn(Geometric):
        def draw(self, frame: Frame, generator: torch.Generator) -> Warp:
            return Warp(compose_around_center(rotation(22.5), frame.size), frame.size)

    turned, moved = Compose(tuple(Turn() for _ in range(16)))(image, truth, seeded(0))
    assert (turned - image).abs().max() < 1e-5
    assert torch.equal(moved.masks.to_dense(), truth.masks.to_dense())


def test_a_rotation_after_a_crop_shows_what_the_crop_left_out() -> None:
    image = torch.ones(3, 60, 60)
    steps = Compose((RandomCrop((20, 20)), RandomRotation(45)))
    for seed in range(30):
        shown, _ = steps(image, Instances.empty((60, 60)), seeded(seed))
        if (shown > 0.99).all():
            return
    pytest.fail("every turned crop has black corners")


def test_scales_are_drawn_uniformly_in_their_logarithm() -> None:
    logs = torch.tensor([math.log(float(m[0, 0])) for m in draws(RandomScale((0.5, 2.0)), 500)])
    assert logs.abs().max() <= math.log(2) + 1e-9
    assert abs(float(logs.mean())) < 0.06 and abs(float(logs.std()) - math.log(4) / math.sqrt(12)) < 0.03


def test_both_axes_scale_alike_unless_they_have_ranges_of_their_own() -> None:
    assert all(float(m[0, 0]) == float(m[1, 1]) for m in draws(RandomScale((0.5, 2.0)), 20))
    assert all(float(m[0, 0]) == 1 != float(m[1, 1]) for m in draws(RandomScale(y=(1.5, 2.0)), 20))
    assert RandomScale((2.0, 2.0)).draw(Frame(SIZE, torch.zeros(0, 4)), seeded(0)).size == (120, 160)


def test_rotations_keep_the_centre_and_stay_in_range() -> None:
    centre = torch.tensor([[40.0, 30.0]])
    angles = []
    for m in draws(RandomRotation(30)):
        assert torch.allclose(map_points(m, centre), centre.double())
        angles.append(math.degrees(math.atan2(float(m[1, 0]), float(m[0, 0]))))
    assert -30 <= min(angles) < -25 and 25 < max(angles) <= 30


def test_affine_jitter_keeps_the_centre_and_inverts() -> None:
    centre = torch.tensor([[40.0, 30.0]])
    for m in draws(RandomAffine(0.5)):
        assert torch.allclose(map_points(m, centre), centre.double())
        assert 0.25 <= area_factor(m) <= 4


def test_sizes_are_matched_to_those_asked_for() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 20, 20]])
    factors = {round(float(m[0, 0]), 6) for m in draws(MatchSizes((5.0, 40.0)), 200, boxes)}
    assert factors == {0.5, 0.25, 4.0, 2.0}
    assert {float(m[0, 0]) for m in draws(MatchSizes((5.0,)), 5)} == {1.0}, "no objects: nothing to match"
    assert {float(m[0, 0]) for m in draws(MatchSizes((1000.0,), (0.5, 2.0)), 5, boxes)} == {2.0}


def test_crops_that_favour_small_objects_hold_them_more_often() -> None:
    boxes = torch.tensor([[2.0, 2, 5, 5], [40, 20, 79, 59]])
    held = {0.0: 0, 1.0: 0}
    for share in held:
        for m in draws(RandomCrop((20, 20), object_crop_fraction=share), 300, boxes):
            x, y = map_points(m, torch.tensor([[3.5, 3.5]]))[0].tolist()
            held[share] += 0 <= x < 20 and 0 <= y < 20
    assert held[1.0] > 3 * held[0.0] > 0


def seen_frames(instances: Instances, *before: object) -> list[Tensor]:
    """The boxes that a transform after others is drawn for."""
    frames = []

    class Watching(Geometric):
        def draw(self, frame: Frame, generator: torch.Generator) -> Warp:
            frames.append(frame.boxes)
            return Warp(identity(), frame.size)

    Compose((*before, Watching()))(torch.zeros(3, *SIZE), instances, seeded(0))
    return frames


def test_objects_to_ignore_and_off_the_canvas_steer_nothing() -> None:
    boxes = torch.tensor([[2.0, 2, 6, 6], [4, 4, 24, 24], [50, 40, 58, 48]])
    instances = Instances(SIZE, boxes, torch.ones(3).long(), ignore=torch.tensor([False, True, False]))
    assert seen_frames(instances)[0].tolist() == [[2, 2, 6, 6], [50, 40, 58, 48]]

    class LowerRight(Geometric):
        def draw(self, frame: Frame, generator: torch.Generator) -> Warp:
            return Warp(translation(-40, -30), (30, 40))

    assert seen_frames(instances, LowerRight())[0].tolist() == [[10, 10, 18, 18]]


def test_crops_that_favour_objects_stay_within_the_border() -> None:
    boxes = torch.tensor([[0.0, 0, 2, 2]])
    for m in draws(RandomCrop((20, 20), border=3, object_crop_fraction=1.0), 100, boxes):
        assert -3 <= -float(m[0, 2]) <= 63 and -3 <= -float(m[1, 2]) <= 43


@pytest.mark.parametrize(("cut", "count", "ignored"), [("ignore", 2, [False, True]), ("keep", 2, [False, False])])
def test_objects_cut_by_the_border_are_kept_or_ignored(cut: str, count: int, ignored: list[bool]) -> None:
    truth = truth_of([Ellipse.of(10, 10, 6, 6, 0), Ellipse.of(30, 10, 6, 6, 0)], SIZE)
    edges = Edges(cut=cut, min_visible_fraction=0.4)
    _, moved = warp(torch.zeros(3, *SIZE), truth, translation(0, 0), (60, 29), edges)
    assert moved.ids.tolist() == [0, 1][:count] and moved.ignore.tolist() == ignored


def test_objects_cut_by_the_border_are_dropped() -> None:
    truth = truth_of([Ellipse.of(10, 10, 6, 6, 0), Ellipse.of(30, 10, 6, 6, 0)], SIZE)
    _, moved = warp(
        torch.zeros(3, *SIZE), truth, translation(0, 0), (60, 29), Edges(cut="drop", min_visible_fraction=0.4)
    )
    assert moved.ids.tolist() == [0]


def test_whole_objects_are_not_taken_for_cut_however_they_are_scaled() -> None:
    """Resampling changes areas by a few pixels: that must not count as cut."""
    _, truth = painted_sample()
    edges = Edges(cut="drop", min_visible_fraction=1.0)
    steps = Compose((RandomScale((0.6, 1.5)), RandomCrop((200, 200), border=60), RandomRotation(180)), edges)
    for seed in range(20):
        _, moved = steps(torch.zeros(3, *SIZE), truth, seeded(seed))
        assert len(moved) == len(truth)


def test_masks_and_boxes_follow_the_image_through_everything() -> None:
    """The mean grey under every mask stays that of its object."""
    config = AugmentConfig(
        crop_size=(48, 56), scale_range=(0.7, 1.4), rotation_degrees=180, affine_std=0.1, pad_mode="reflect"
    )
    transform = make_training_transform(config)
    image, truth = painted_sample()
    for seed in range(40):
        shown, moved = transform(image, truth, seeded(seed))
        assert torch.allclose(moved.boxes, moved.masks.boxes())
        for mask, number in zip(moved.masks.to_dense(), moved.ids.tolist(), strict=True):
            if int(mask.sum()) < 20:
                continue
            grey = (truth.ids.tolist().index(number) + 2) / (len(truth) + 2)
            assert float(shown[0][mask].median()) == pytest.approx(grey, abs=0.02)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_every_flag_together_gives_valid_samples(dtype: torch.dtype) -> None:
    image, truth = painted_sample()
    image = image if dtype.is_floating_point else (image * 255).to(dtype)
    transform = make_training_transform(EVERYTHING, [(image, truth)])
    for seed in range(30):
        shown, moved = transform(image, truth, seeded(seed))
        assert shown.dtype == dtype and tuple(shown.shape[1:]) == tuple(moved.size)
        assert shown.min() >= 0 and shown.max() <= (1 if dtype.is_floating_point else 255)
        assert (moved.boxes[:, 2:] > moved.boxes[:, :2]).all()
        again = transform(image, truth, seeded(seed))
        assert torch.equal(again[0], shown) and torch.equal(again[1].boxes, moved.boxes)


def test_an_augmentation_that_leaves_nothing_is_a_valid_sample() -> None:
    truth = truth_of([Ellipse.of(2, 2, 1.5, 1.5, 0)], SIZE)
    transform = Compose((RandomCrop((5, 5)), RandomRotation(10), RandomFlip()))
    counts = {len(transform(torch.zeros(3, *SIZE), truth, seeded(seed))[1]) for seed in range(40)}
    assert 0 in counts


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomScale((2.0, 1.0)), "uniform"),
        (lambda: RandomScale(x=(0.0, 1.0)), "x"),
        (lambda: RandomScale(y=(1.0,)), "y"),
        (lambda: RandomScale((1.0, math.inf)), "uniform"),
        (lambda: MatchSizes(()), "sizes"),
        (lambda: MatchSizes((0.0,)), "sizes"),
        (lambda: MatchSizes((1.0,), (2.0, 1.0)), "limits"),
        (lambda: RandomRotation(-1), "degrees"),
        (lambda: RandomRotation(math.nan), "degrees"),
        (lambda: RandomAffine(-0.1), "std"),
        (lambda: RandomAffine(math.inf), "std"),
        (lambda: Edges("mirror"), "padding mode"),
        (lambda: Edges(cut="shrink"), "cut"),
        (lambda: Edges(min_visible_fraction=1.5), "min_visible_fraction"),
    ],
)
def test_transforms_that_cannot_be_are_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale_range": (1.2, 0.8)}, "scale_u_range"),
        ({"scale_x_range": (0.5,)}, "scale_x_range"),
        ({"mosaic": 1.0}, "mosaic"),
        ({"noise_std": math.inf}, "gaussian_noise"),
        ({"blur_sigma": math.inf}, "blur"),
        ({"affine_std": math.inf}, "affine_std"),
        ({"match_sizes": (math.inf,)}, "match_sizes"),
        ({"brightness_factor_std": math.inf}, "light_scl_std"),
        ({"copy_paste": 3, "copy_paste_feather": 200.0}, "copy_paste"),
        ({"library_transforms": ("imgaug",)}, "imgaug"),
    ],
)
def test_settings_that_make_no_sense_are_refused_in_one_line(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        make_training_transform(AugmentConfig(**settings))
    assert "\n" not in str(error.value)
