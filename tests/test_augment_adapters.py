"""Others' augmenters as transforms: masks move with the image, randomness is the generator's, texts name them."""

import pickle
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from masks_toy import check_sound, dense_levels
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from augment.libraries.adapters import Albumentations, ImgAug, TorchVision, from_text
from maskrcnn.config import UserError
from maskrcnn.inference.prediction import predict
from maskrcnn.inference.torchvision import TorchVisionDetector
from maskrcnn.inference.views import flips, tiles
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks

pytestmark = [  # what the libraries have to say about themselves
    pytest.mark.filterwarnings("ignore:`estimate` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:RandomErasing.. is currently passing through"),
    pytest.mark.filterwarnings("ignore:Argument.s. 'often' are not valid"),
]
SIZE = (80, 112)
BACKGROUND = 10

# Those that move pixels, each at least sometimes.
GEOMETRIC = """
imgaug.Fliplr(1.0)
imgaug.Flipud(0.5)
imgaug.Rot90((1, 3))
imgaug.Rot90(1, keep_size=False)
imgaug.Affine(rotate=(-45, 45))
imgaug.Affine(rotate=(-45, 45), backend="skimage")
imgaug.Affine(scale={"x": (0.8, 1.2), "y": 1.1}, shear=(-10, 10))
imgaug.Affine(translate_px=(-9, 9), mode="edge")
imgaug.Affine(rotate=30, fit_output=True)
imgaug.PerspectiveTransform(scale=(0.02, 0.1))
imgaug.PerspectiveTransform(scale=0.1, keep_size=False)
imgaug.ElasticTransformation(alpha=20.0, sigma=4.0)
imgaug.PiecewiseAffine(scale=0.02)
imgaug.Crop(px=(0, 12))
imgaug.Crop(px=7, keep_size=False)
imgaug.CropAndPad(percent=(-0.1, 0.1))
imgaug.Pad(px=(0, 20), keep_size=False, pad_mode="constant", pad_cval=BACKGROUND)
imgaug.CropToFixedSize(60, 50)
imgaug.PadToFixedSize(150, 140)
imgaug.Resize(1.7)
imgaug.Resize({"height": 70, "width": 120}, interpolation="linear")
imgaug.Resize(0.7, interpolation="nearest")
imgaug.Jigsaw(nb_rows=4, nb_cols=4)
imgaug.ShearX((-20, 20))
imgaug.ScaleY((0.8, 1.3))
imgaug.WithPolarWarping(imgaug.Affine(rotate=10))
imgaug.Sequential([imgaug.Fliplr(0.5), imgaug.Affine(rotate=(-10, 10)), imgaug.GaussianBlur((0, 0.5))])
imgaug.SomeOf(2, [imgaug.Flipud(1.0), imgaug.Affine(rotate=10), imgaug.Crop(px=4)])
imgaug.Sometimes(0.5, imgaug.Affine(rotate=20))
torchvision.RandomHorizontalFlip(1.0)
torchvision.RandomVerticalFlip()
torchvision.RandomRotation(40, fill=114)
torchvision.RandomRotation([90, 90])
torchvision.RandomRotation((20, 40), expand=True)
torchvision.RandomAffine(30, (0.1, 0.1), (0.8, 1.2), 10, fill=90)
torchvision.RandomPerspective(0.4, 1.0)
torchvision.ElasticTransform(60.0, 5.0)
torchvision.RandomCrop((40, 50))
torchvision.RandomCrop((100, 120), pad_if_needed=True, fill=200)
torchvision.CenterCrop(90)
torchvision.RandomResizedCrop((90, 90))
torchvision.Resize((120, 100))
torchvision.Pad(7, fill=120)
torchvision.RandomZoomOut(p=1.0, side_range=(1.0, 1.5))
torchvision.Compose([torchvision.RandomIoUCrop(), torchvision.SanitizeBoundingBoxes(), torchvision.Resize(90)])
albumentations.HorizontalFlip(p=1)
albumentations.RandomRotate90(p=1)
albumentations.Transpose(p=1)
albumentations.Affine(rotate=(-30, 30), scale=(0.8, 1.2), p=1)
albumentations.Rotate(fill_mask=255, p=1)
albumentations.Rotate((30, 30), border_mode=4, p=1)
albumentations.SafeRotate(p=1)
albumentations.ElasticTransform(alpha=30, sigma=4, p=1)
albumentations.GridDistortion(p=1)
albumentations.Perspective(p=1)
albumentations.RandomCrop(50, 60, p=1)
albumentations.RandomResizedCrop((90, 90), p=1)
albumentations.PadIfNeeded(110, 150, p=1)
albumentations.PadIfNeeded(110, 150, border_mode=4, p=1)
albumentations.RandomGridShuffle(p=1)
albumentations.Resize(120, 100)
albumentations.Compose([albumentations.RandomRotate90(), albumentations.BBoxSafeRandomCrop()])
""".replace("BACKGROUND", str(BACKGROUND)).strip().splitlines()  # fmt: skip

# Those that leave every pixel where it is.
STANDING = """
imgaug.Fliplr(0.0)
imgaug.Identity()
imgaug.GaussianBlur(1.0)
imgaug.AdditiveGaussianNoise(scale=10)
imgaug.Add((-20, 20))
imgaug.Multiply((0.8, 1.2), per_channel=True)
imgaug.LinearContrast((0.6, 1.4))
imgaug.CoarseDropout(0.1, size_percent=0.1)
imgaug.MotionBlur(k=5)
torchvision.ColorJitter(brightness=0.3, hue=0.1)
torchvision.GaussianBlur(3)
torchvision.RandomHorizontalFlip(0.0)
torchvision.RandomErasing(1.0)
torchvision.Grayscale()
torchvision.ToPureTensor()
torchvision.ConvertBoundingBoxFormat("CXCYWH")
albumentations.HorizontalFlip(p=0)
albumentations.GaussianBlur(p=1)
albumentations.ColorJitter(p=1)
albumentations.Compose([albumentations.GaussNoise(), albumentations.ToTensorV2()])
""".strip().splitlines()


def named(text: str) -> ImgAug | TorchVision | Albumentations:
    """As `from_text`; a test of a library that is not there is skipped."""
    pytest.importorskip(text.split(".")[0])
    return from_text(text)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scene() -> tuple[Tensor, Instances, Tensor]:
    """Twenty ellipses of 16 x 12 pixels on a dark image, and their colours by id, no two of them alike."""
    image = torch.full((3, *SIZE), BACKGROUND, dtype=torch.uint8)
    numbers = torch.zeros(SIZE, dtype=torch.int32)
    y, x = torch.meshgrid(torch.arange(SIZE[0]) + 0.5, torch.arange(SIZE[1]) + 0.5, indexing="ij")
    steps = torch.tensor([90, 170, 250], dtype=torch.uint8)
    colours = torch.cartesian_prod(steps, steps, steps)
    colours = colours[(colours != colours[:, :1]).any(dim=1)][:20]  # greys are blends of each other with the background
    for k, colour in enumerate(colours):
        inside = ((y - 10 - 20 * (k // 5)) / 6) ** 2 + ((x - 11.2 - 22.4 * (k % 5)) / 8) ** 2 < 1
        image[:, inside] = colour[:, None]
        numbers[inside] = k + 1
    ids = torch.arange(1, 21)
    masks = CroppedMasks.from_label_image(numbers, ids)
    return image, Instances.from_masks(masks, ids % 3 + 1, ids % 2 == 0, ids), colours


def check_follows(image: Tensor, moved: Instances, colours: Tensor) -> None:
    """Every mask shows its object's colour, and what shows it, where it shows, is in masks of the object."""
    check_sound(moved.masks)
    assert tuple(image.shape) == (3, *moved.size) and image.dtype == torch.uint8
    assert torch.equal(moved.boxes, moved.masks.boxes())
    assert torch.equal(moved.labels, moved.ids % 3 + 1) and torch.equal(moved.ignore, moved.ids % 2 == 0)
    levels = dense_levels(moved.masks)
    for number in moved.ids.unique():
        own = levels[moved.ids == number].amax(dim=0)
        colour = colours[number - 1].float()[:, None]
        core = image[:, own >= 254].float()
        if core.shape[1] >= 10:
            assert (core.mean(dim=1, keepdim=True) - colour).abs().max() < 25
        shown = (image.float() - colour[:, None]).abs().amax(dim=0) < 5
        if core.shape[1] >= 30:
            assert (own[shown] >= 128).float().mean() > 0.9


@pytest.mark.parametrize("text", GEOMETRIC)
def test_masks_move_with_the_image(text: str) -> None:
    transform = named(text)
    image, instances, colours = scene()
    for seed in range(2):
        moved_image, moved = transform(image, instances, seeded(seed))
        assert len(moved) >= 5
        check_follows(moved_image, moved, colours)


@pytest.mark.parametrize("text", STANDING)
def test_masks_come_back_as_they_were_where_nothing_moves(text: str) -> None:
    image, instances, _ = scene()
    moved_image, moved = named(text)(image, instances, seeded(0))
    assert moved_image.shape == image.shape
    for name in ("windows", "offsets", "data"):
        assert torch.equal(getattr(moved.masks, name), getattr(instances.masks, name))
    for name in ("boxes", "labels", "ignore", "ids"):
        assert torch.equal(getattr(moved, name), getattr(instances, name))


@pytest.mark.parametrize(
    ("text", "move"),
    [
        ("imgaug.Fliplr(1.0)", lambda dense: dense.flip(-1)),
        ("imgaug.Rot90(1, keep_size=False)", lambda dense: dense.rot90(-1, (-2, -1))),
        ("imgaug.Affine(rotate=180)", lambda dense: dense.flip(-1, -2)),
        ("imgaug.Affine(translate_px={'x': 5, 'y': 3})", lambda dense: nn.functional.pad(dense, (5, -5, 3, -3))),
        ("torchvision.RandomHorizontalFlip(1)", lambda dense: dense.flip(-1)),
        ("torchvision.RandomRotation((90, 90), expand=True)", lambda dense: dense.rot90(1, (-2, -1))),
        ("torchvision.RandomRotation((180, 180))", lambda dense: dense.flip(-1, -2)),
        ("albumentations.HorizontalFlip(p=1)", lambda dense: dense.flip(-1)),
        ("albumentations.Transpose(p=1)", lambda dense: dense.transpose(-1, -2)),
        ("albumentations.Affine(translate_px=(5, 5), p=1)", lambda dense: nn.functional.pad(dense, (5, -5, 5, -5))),
    ],
)
def test_whole_pixel_moves_are_exact(text: str, move: Any) -> None:
    image, instances, _ = scene()
    moved_image, moved = named(text)(image, instances, seeded(0))
    if "ranslate" not in text:  # where nothing comes in from outside
        assert torch.equal(moved_image, move(image))
    assert torch.equal(dense_levels(moved.masks), move(dense_levels(instances.masks)))


@pytest.mark.parametrize(
    "text",
    [
        "imgaug.Flipud(1.0)",
        "imgaug.Rot90(3, keep_size=False)",
        "imgaug.Affine(translate_px=6)",
        "imgaug.Affine(scale=0.6)",
        "imgaug.Resize(1.5)",
        "imgaug.Affine(rotate=180)",
        "torchvision.RandomVerticalFlip(1.0)",
        "torchvision.RandomRotation((270, 270), expand=True)",
        "torchvision.RandomAffine(0, scale=(0.6, 0.6))",
        "torchvision.Resize((120, 200))",
        "albumentations.RandomRotate90(p=1)",
        "albumentations.Affine(scale=(0.6, 0.6), p=1)",
        "albumentations.Resize(120, 200)",
    ],
)
def test_boxes_of_masks_and_of_the_library_agree(text: str) -> None:
    transform = named(text)
    image, instances, _ = scene()
    moved_image, moved = transform(image, instances, seeded(0))
    bare_image, bare = transform(image, replace(instances, masks=None), seeded(0))
    assert torch.equal(moved_image, bare_image)
    assert bare.masks is None and torch.equal(bare.ids, moved.ids)
    assert (bare.boxes - moved.boxes).abs().max() <= 1


@pytest.mark.parametrize(
    "text",
    [
        "imgaug.Affine(rotate=(-10, 10))",
        "torchvision.RandomAffine(10)",
        "albumentations.Rotate(10, p=1)",
    ],
)
def test_predictions_keep_scores_and_the_boxes_of_the_library(text: str) -> None:
    transform = named(text)
    image, instances, _ = scene()
    found = replace(instances, scores=torch.linspace(0, 1, 20))
    _, moved = transform(image, found, seeded(3))
    _, bare = transform(image, replace(found, masks=None), seeded(3))
    assert torch.equal(moved.boxes, bare.boxes) and not torch.equal(moved.boxes, moved.masks.boxes())
    assert torch.equal(moved.scores, found.scores[moved.ids - 1])


@pytest.mark.parametrize(
    "text",
    [
        "imgaug.Sequential([imgaug.Affine(rotate=(-40, 40)), imgaug.AdditiveGaussianNoise(scale=9)])",
        "torchvision.Compose([torchvision.RandomAffine(40), torchvision.ColorJitter(0.5)])",
        "albumentations.Compose([albumentations.Affine(rotate=(-40, 40)), albumentations.GaussNoise(p=1)])",
    ],
)
def test_all_randomness_is_the_generators(text: str) -> None:
    transform = named(text)
    image, instances, _ = scene()
    given_image, given_masks = image.clone(), instances.masks.data.clone()
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    generator = seeded(5)
    first, again, copied = (each(image, instances, seeded(5)) for each in (transform, transform, from_text(text)))
    drawn = [transform(image, instances, generator)[0] for _ in range(4)]
    after = torch.get_rng_state(), np.random.get_state()[1], random.getstate()
    assert torch.equal(before[0], after[0]) and (before[1] == after[1]).all() and before[2] == after[2]
    for other in (again, copied):
        assert torch.equal(first[0], other[0]) and torch.equal(first[1].masks.data, other[1].masks.data)
    assert torch.equal(first[0], drawn[0]) and not any(torch.equal(drawn[0], each) for each in drawn[1:])
    assert torch.equal(image, given_image) and torch.equal(instances.masks.data, given_masks)


def test_the_global_state_of_imgaug_is_neither_used_nor_changed() -> None:
    library = pytest.importorskip("imgaug")
    image, instances, _ = scene()
    transform = from_text("imgaug.Sequential([imgaug.Affine(rotate=(-40, 40)), imgaug.Fliplr(0.5)])")
    results = []
    for seed in (1, 2):
        library.seed(seed)
        before = str(library.random.get_global_rng().state)
        results.append(transform(image, instances, seeded(0))[0])
        assert str(library.random.get_global_rng().state) == before
    assert torch.equal(*results)


@pytest.mark.parametrize(
    "text",
    [
        "imgaug.Affine(rotate=(20, 40), scale=0.9)",
        "imgaug.PerspectiveTransform(0.1, keep_size=False)",
        "imgaug.ElasticTransformation(20.0, 4.0)",
        "imgaug.CropAndPad(px=(-9, 9), keep_size=False)",
    ],
)
def test_masks_are_those_that_imgaug_makes_of_dense_ones(text: str) -> None:
    library = pytest.importorskip("imgaug")
    image, instances, _ = scene()
    transform = named(text)
    _, moved = transform(image, instances, seeded(4))
    same = transform.augmenter.deepcopy()
    same.seed_(entropy=int(torch.randint(2**31 - 1, (), generator=seeded(4))))
    dense = dense_levels(instances.masks).permute(1, 2, 0).float().numpy() / 255
    heatmap = library.HeatmapsOnImage(dense, (*SIZE, 3))
    batch = same(images=[image.permute(1, 2, 0).numpy()], heatmaps=[heatmap], return_batch=True)
    expected = torch.from_numpy(batch.heatmaps_aug[0].arr_0to1).permute(2, 0, 1)[moved.ids - 1]
    inside, expected = moved.masks.to_dense(), expected >= 0.5
    assert (inside & expected).sum() > 0.97 * (inside | expected).sum()


EACH = ["imgaug.Affine(rotate=10)", "torchvision.RandomAffine(10)", "albumentations.Rotate(10, p=1)"]


@pytest.mark.parametrize("text", EACH)
@pytest.mark.parametrize("with_masks", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (7, 1), (20, 30)])
def test_images_without_objects_and_of_one_pixel(text: str, with_masks: bool, size: tuple[int, int]) -> None:
    image = torch.full((3, *size), 99, dtype=torch.uint8)
    moved_image, moved = named(text)(image, Instances.empty(size, with_masks), seeded(0))
    assert tuple(moved_image.shape) == (3, *moved.size) and len(moved) == 0 and (moved.masks is None) != with_masks
    whole = Instances.from_masks(CroppedMasks.from_dense(torch.ones(1, *size)), torch.ones(1, dtype=torch.int64))
    moved = named(text)(image, whole if with_masks else replace(whole, masks=None), seeded(0))[1]
    assert len(moved) == 1 and (moved.boxes[:, 2:] <= torch.tensor([size[1], size[0]])).all()


@pytest.mark.parametrize("text", [*EACH, "torchvision.Identity()", "imgaug.Fliplr(0.0)"])
def test_float_images_stay_float(text: str) -> None:
    image, instances, _ = scene()
    image = image / 255 + 0.0007  # between two levels of uint8
    moved_image, moved = named(text)(image, instances, seeded(0))
    assert moved_image.dtype == torch.float32 and moved_image.min() >= 0 and moved_image.max() <= 1
    core = dense_levels(moved.masks[0])[0] >= 254
    expected = image[:, dense_levels(instances.masks[int(moved.ids[0]) - 1])[0] > 0].mean(dim=1)
    assert (moved_image[:, core].mean(dim=1) - expected).abs().max() < 0.05
    if text in ("torchvision.Identity()", "imgaug.Fliplr(0.0)"):
        assert torch.equal(moved_image, image)


@pytest.mark.parametrize(
    ("text", "fewest", "most"),
    [
        ("imgaug.Sequential([imgaug.Affine(translate_px=20), imgaug.RemoveCBAsByOutOfImageFraction(0.3)])", 12, 12),
        ("imgaug.CropToFixedSize(30, 20)", 1, 8),
        ("torchvision.SanitizeBoundingBoxes(min_size=100)", 0, 0),
        ("torchvision.CenterCrop((30, 40))", 2, 6),
        ("albumentations.CenterCrop(30, 40)", 2, 6),
    ],
)
def test_objects_that_leave_are_dropped(text: str, fewest: int, most: int) -> None:
    image, instances, colours = scene()
    moved_image, moved = named(text)(image, instances, seeded(0))
    assert fewest <= len(moved) <= most
    check_follows(moved_image, moved, colours)
    assert moved.masks.areas().bool().all()


@pytest.mark.parametrize("count", [1, 3, 4])
def test_sanitizing_takes_the_field_for_no_stack_of_masks(count: int) -> None:
    """Four objects are as many as the field has channels."""
    image, instances, colours = scene()
    kept = instances[:count]
    moved_image, moved = from_text("torchvision.SanitizeBoundingBoxes()")(image, kept, seeded(0))
    assert len(moved) == count
    check_follows(moved_image, moved, colours)


def test_dtypes_and_fills_meant_for_masks_do_not_reach_the_field() -> None:
    image, instances, colours = scene()
    fills = {tv_tensors.Image: 100, tv_tensors.Mask: 7}
    dtypes = {tv_tensors.Mask: torch.int64, tv_tensors.TVTensor: torch.int64, "others": None}
    transform = TorchVision(v2.Compose([v2.ToDtype(dtypes), v2.RandomAffine(20, fill=fills), v2.Pad(5, fill=fills)]))
    check_follows(*transform(image, instances, seeded(0)), colours)


def test_limits_on_boxes_that_a_compose_sets_are_kept() -> None:
    library = pytest.importorskip("albumentations")
    image, instances, _ = scene()
    limits = library.BboxParams("coco", label_fields=["category"], min_visibility=0.9)
    strict = Albumentations(library.Compose([library.CenterCrop(50, 60)], bbox_params=limits))
    loose = Albumentations(library.Compose([library.CenterCrop(50, 60)]))
    counts = [len(each(image, instances, seeded(0))[1]) for each in (strict, loose)]
    assert 0 < counts[0] < counts[1]


def test_mirrored_copies_are_objects_of_their_own() -> None:
    image, instances, _ = scene()
    transform = named("albumentations.PadIfNeeded(120, 152, border_mode=2, p=1)")
    _, moved = transform(image, instances, seeded(0))
    _, bare = transform(image, replace(instances, masks=None), seeded(0))
    assert len(moved) == len(bare) > 20 and torch.allclose(moved.boxes, bare.boxes)
    assert moved.masks.areas().max() == instances.masks.areas().max()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("torchvision.Normalize([0.5, 0.5, 0.5], [0.1, 0.1, 0.1])", "remove normalization"),
        ("albumentations.Normalize()", "remove normalization"),
        ("torchvision.ToPILImage()", r"not \[3, H, W\]"),
        ("imgaug.Jigsaw(3, 3)", "cannot be used with masks"),
    ],
)
def test_what_is_no_sample_any_more_is_refused(text: str, message: str) -> None:
    image, instances, _ = scene()
    with pytest.raises(UserError, match=message):
        named(text)(image.float() / 255, instances, seeded(0))


@pytest.mark.parametrize("shape", [(3, 80, 111), (1, 80, 111), (80, 112)])
def test_images_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="does not fit instances of size"):
        from_text("torchvision.Identity()")(torch.zeros(shape), scene()[1], seeded(0))


@pytest.mark.parametrize("text", ["imgaug.Affine(rotate=(-9, 9))", "torchvision.RandomAffine(9)", EACH[2]])
def test_transforms_travel_to_workers(text: str) -> None:
    image, instances, _ = scene()
    transform = named(text)
    travelled = pickle.loads(pickle.dumps(transform))
    results = [each(image, instances, seeded(1)) for each in (transform, travelled)]
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1].boxes, results[1][1].boxes)


@pytest.mark.parametrize("kind", [ImgAug, TorchVision, Albumentations])
@pytest.mark.parametrize("augmenter", [3, None, "Fliplr", nn.Identity()])
def test_what_is_no_augmenter_is_refused(kind: Any, augmenter: Any) -> None:
    with pytest.raises(UserError, match=r"is not an? |pip install") as error:
        kind(augmenter)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "invalid syntax"),
        ("torchvision.ColorJitter(", "never closed"),
        ("torchvision.ColorJitter", "not a call such as"),
        ("ColorJitter()", "not a call such as"),
        ("torchvision.transforms.ColorJitter()", "not a call such as"),
        ("(lambda: 3)()", "not a call such as"),
        ("torchvision.Identity()()", "not a call such as"),
        ("kornia.RandomAffine()", 'unknown library "kornia", one of imgaug, torchvision, albumentations'),
        ("torchvision.ColourJitter()", 'no augmenter "ColourJitter", did you mean ColorJitter?'),
        ("torchvision.Transform()", 'no augmenter "Transform"'),
        ("torchvision.functional()", 'no augmenter "functional"'),
        ("torchvision.InterpolationMode(1)", 'no augmenter "InterpolationMode"'),
        ("torchvision.__import__('os')", 'no augmenter "__import__"'),
        ("torchvision._transform()", 'no augmenter "_transform"'),
        ("torchvision.ColorJitter(brightness='much')", "torchvision.ColorJitter: brightness=much should be"),
        ("torchvision.RandomCrop()", "missing 1 required positional argument"),
        ("torchvision.RandomCrop(1, colour=2)", "unexpected keyword argument 'colour'"),
        ("torchvision.RandomCrop(size)", '"size" is not a number'),
        ("torchvision.RandomCrop(2 ** 9)", r'"2 ** 9" is not a number'),
        ("torchvision.RandomCrop(*[3])", r'"*[3]" is not a number'),
        ("torchvision.RandomCrop(**{'size': 3})", r"** is not supported"),
        ("torchvision.RandomCrop(b'3')", "is not a number"),
        ("torchvision.RandomCrop(3j)", "is not a number"),
        ("torchvision.RandomCrop({3: 4, **x})", "is not a number"),
        ("torchvision.RandomCrop(size=[i for i in (1, 2)])", "is not a number"),
        ("torchvision.Compose([__import__('os').system('true')])", "not a call such as"),
        ("torchvision.Compose([kornia.Flip()])", 'unknown library "kornia"'),
        ("torchvision.Compose([imgaug.Fliplr()])", "imgaug.Fliplr cannot be part of one of torchvision"),
        ("imgaug.Flipr(1)", "did you mean Flipud|did you mean Fliplr"),
        ("imgaug.Augmenter()", 'no augmenter "Augmenter"'),
        ("imgaug.Affine(rotate='far')", "imgaug.Affine: Expected"),
        ("imgaug.Sequential([3])", "imgaug.Sequential: Expected"),
        ("albumentations.Rotate(limit='far')", "albumentations.Rotate: 2 validation errors"),
        ("albumentations.HorizontalFlip(often=1)", "albumentations.HorizontalFlip: unknown argument often"),
        ("albumentations.BasicTransform()", 'no augmenter "BasicTransform"'),
    ],
)
def test_texts_that_name_no_augmenter_are_refused(text: str, message: str) -> None:
    if text.startswith(("imgaug", "albumentations")):
        pytest.importorskip(text.split(".")[0])
    with pytest.raises(UserError) as error:
        from_text(text)
    assert any(part in str(error.value) for part in message.split("|")), str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_arguments_of_every_kind_arrive() -> None:
    crop = from_text(" torchvision.RandomCrop((4, 5), padding=[1, 2], pad_if_needed=True, fill={'others': -1.5}) ")
    assert crop.transform.size == (4, 5) and crop.transform.padding == [1, 1, 2, 2]
    assert crop.transform.pad_if_needed is True and crop.transform.fill == {"others": -1.5}
    nested = from_text(
        "torchvision.Compose([torchvision.Identity(), torchvision.RandomApply([torchvision.Resize(9)])])"
    )
    assert isinstance(nested.transform.transforms[1].transforms[0], v2.Resize)


PIECES = ["imgaug.", "torchvision.", "albumentations.", "Pad", "Compose", "Fliplr", "_x", "None", "lambda", "\ud800"]
PIECES += [*"()[]{},-=p*:3.#'\"\\ \n\0"]


@settings(max_examples=300)
@given(st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=12).map("".join)))
@example("(" * 500)
@example("torchvision.Pad(" + "-" * 20_000 + "1)")
@example("torchvision.Pad(" + "[" * 150 + "]" * 150 + ")")
@example("a" + ".b" * 20_000)
@example("torchvision.Pad(" + "1+" * 20_000 + "1)")
@example("torchvision.Pad(" + "9" * 10_000 + ")")
@example("torchvision." + "x" * 100_000 + "()")
def test_garbage_never_raises_anything_but_user_errors(text: str) -> None:
    try:
        from_text(text)
    except UserError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("library", "module", "hint"),
    [
        ("imgaug", "imgaug.augmenters", r"pip install -e '\.\[imgaug\]'"),
        ("albumentations", "albumentations", "pip install albumentations"),
    ],
)
def test_a_missing_library_is_named_with_the_way_to_it(
    library: str, module: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=f"{library} cannot be imported.*{hint}$"):
        from_text(f"{library}.Rotate(90)")


def test_no_library_is_imported_before_it_is_asked_for() -> None:
    code = (
        "import sys, augment.libraries.adapters; "
        "print([m for m in ('imgaug', 'albumentations', 'torchvision.transforms.v2', 'cv2') if m in sys.modules])"
    )
    root = Path(__file__).parents[1]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


class Twin(nn.Module):
    """A detection model that finds what it is told to, and notes what it was given."""

    def __init__(self, found: list[dict[str, Tensor]]) -> None:
        super().__init__()
        self.found, self.frozen, self.given = found, nn.BatchNorm2d(3).eval(), []
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        self.given = [*self.given, *images]
        assert not self.training and not torch.is_grad_enabled()
        return [{**each, "scores": each["scores"] * self.weight} for each in self.found]


def found(count: int, height: int, width: int) -> dict[str, Tensor]:
    masks = torch.rand(count, 1, height, width, generator=seeded(count))
    masks[:, :, : height // 2] = 0
    boxes = torch.tensor([[0.0, height // 2, width, height]]).expand(count, 4)
    return {"boxes": boxes, "labels": torch.arange(1, count + 1), "scores": torch.rand(count), "masks": masks}


def test_detections_of_a_torchvision_model_become_instances() -> None:
    model = Twin([found(70, 12, 17), found(0, 9, 5)])
    images = [torch.full((3, 12, 17), 51, dtype=torch.uint8), torch.rand(3, 9, 5)]
    first, second = TorchVisionDetector(model)(images)
    assert first.size == (12, 17) and second.size == (9, 5) and len(second) == 0 and len(second.masks) == 0
    levels = dense_levels(first.masks)
    assert torch.equal(levels, (model.found[0]["masks"][:, 0] * 255).round().to(torch.uint8))
    assert (first.masks.windows[:, 1] >= 6).all()  # no wider than what is there
    for name in ("boxes", "labels", "scores"):
        assert torch.equal(getattr(first, name), model.found[0][name])
    assert not first.scores.requires_grad
    assert torch.allclose(model.given[0], torch.tensor(0.2)) and torch.equal(model.given[1], images[1])


def test_a_model_is_left_in_the_modes_it_was_in() -> None:
    model = Twin([found(2, 4, 4)])
    assert model.training and not model.frozen.training
    detector = TorchVisionDetector(model)
    detector([torch.rand(3, 4, 4)])
    assert model.training and not model.frozen.training
    with pytest.raises(ValueError):  # more images than results
        detector([torch.rand(3, 4, 4)] * 2)
    assert model.training and detector([]) == []


def test_a_model_of_torchvision_detects() -> None:
    from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

    torch.manual_seed(0)
    model = fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=3, box_score_thresh=0.0, min_size=64, max_size=96
    )
    images = [torch.randint(0, 256, (3, 60, 90), dtype=torch.uint8), torch.rand(3, 50, 40)]
    for image, instances in zip(images, TorchVisionDetector(model)(images), strict=True):
        assert instances.size == tuple(image.shape[1:]) and instances.masks is None and len(instances) > 0
        assert instances.scores.dtype == instances.boxes.dtype == torch.float32 and instances.labels.min() >= 1
    assert model.training


def test_a_model_of_torchvision_is_shown_views_and_tiles() -> None:
    from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

    torch.manual_seed(0)
    model = fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=3, box_score_thresh=0.3, min_size=64, max_size=96
    )
    image = torch.rand(3, 60, 90)
    for views in (flips((60, 90)), tiles((60, 90), 48)):
        merged = predict(TorchVisionDetector(model), image, views)
        assert merged.size == (60, 90) and (merged.scores.diff() <= 0).all()
