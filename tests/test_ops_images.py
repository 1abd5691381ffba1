"""Images under affine maps, against NumPy's padding, PyTorch's grid_sample and the masks' own warp."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from masks_toy import SIZE, dense_levels, random_masks
from torch import Tensor
from torch.nn import functional as F

from maskrcnn.ops import reference_images, reference_masks
from maskrcnn.ops.affine import choose_num_samples, invert
from maskrcnn.ops.images import BORDERS, warp_image

pytestmark = pytest.mark.usefixtures("core")

H, W = SIZE
GRID_SAMPLE = {"constant": "zeros", "reflect": "reflection", "replicate": "border"}
NUMPY = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}


def affine(*rows: tuple[float, float, float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def about_the_middle(angle: float, scale: float, size: tuple[int, int] = SIZE) -> Tensor:
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    x, y = size[1] / 2, size[0] / 2
    return affine((cos, -sin, x - cos * x + sin * y), (sin, cos, y - sin * x - cos * y))


def random_image(dtype: torch.dtype = torch.uint8, size: tuple[int, int] = SIZE, seed: int = 0) -> Tensor:
    image = torch.randint(0, 256, (3, *size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return image if dtype == torch.uint8 else image / 255


MOVES = {
    "stays": (affine((1, 0, 0), (0, 1, 0)), lambda image: image),
    "mirrored": (affine((-1, 0, W), (0, 1, 0)), lambda image: image.flip(2)),
    "upside down": (affine((1, 0, 0), (0, -1, H)), lambda image: image.flip(1)),
    "transposed": (affine((0, 1, 0), (1, 0, 0)), lambda image: image.transpose(1, 2)),
    "a quarter": (affine((0, -1, H), (1, 0, 0)), lambda image: image.rot90(-1, dims=(1, 2))),
    "a half": (affine((-1, 0, W), (0, -1, H)), lambda image: image.rot90(2, dims=(1, 2))),
    "three quarters": (affine((0, 1, 0), (-1, 0, W)), lambda image: image.rot90(1, dims=(1, 2))),
}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("move", MOVES)
def test_moves_by_whole_pixels_are_exact(move: str, border: str, dtype: torch.dtype) -> None:
    matrix, moved = MOVES[move]
    wanted = moved(random_image(dtype))
    found = warp_image(random_image(dtype), matrix, (wanted.shape[1], wanted.shape[2]), border)
    assert found.dtype == dtype and torch.equal(found, wanted)
    almost = matrix + torch.tensor([[1e-16, -1e-16, 0], [1e-16, 1e-16, 0]], dtype=torch.float64)  # as cos and sin give
    assert torch.allclose(warp_image(random_image(dtype), almost, (wanted.shape[1], wanted.shape[2]), border), wanted)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("size", [(23, 31), (1, 7), (6, 1), (2, 2)])
def test_what_lies_outside_is_as_numpy_pads(border: str, size: tuple[int, int]) -> None:
    image = random_image(size=size)
    shifted = warp_image(image, affine((1, 0, 40), (0, 1, 50)), (size[0] + 120, size[1] + 100), border)
    wanted = np.pad(image.numpy(), ((0, 0), (50, 70), (40, 60)), mode=NUMPY[border])  # type: ignore[call-overload]
    assert np.array_equal(shifted.numpy(), wanted)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize(("angle", "scale"), [(0.3, 1.0), (0.8, 0.7), (2.5, 2.0), (4.0, 0.3)])
def test_bilinear_samples_are_those_of_grid_sample(angle: float, scale: float, border: str, dtype: torch.dtype) -> None:
    matrix, image = about_the_middle(angle, scale), random_image(dtype)
    found = warp_image(image, matrix, (40, 300), border, samples=1)
    y, x = torch.meshgrid(torch.arange(40) + 0.5, torch.arange(300) + 0.5, indexing="ij")
    at = torch.stack([x, y, torch.ones_like(x)], dim=-1).double() @ invert(matrix).T - 0.5
    grid = at / (torch.tensor([W, H]) - 1) * 2 - 1  # corners aligned: reflections are about centres
    wanted = F.grid_sample(
        image[None].double(), grid[None], mode="bilinear", padding_mode=GRID_SAMPLE[border], align_corners=True
    )[0]
    tolerance = 0.51 if dtype == torch.uint8 else 1e-4
    assert (found - wanted).abs().max() <= tolerance


@pytest.mark.parametrize("samples", [None, 1, 2, 3])
@pytest.mark.parametrize(("angle", "scale"), [(0.3, 1.0), (1.0, 5.0), (2.0, 0.3), (3.0, 0.7), (0, 1), (math.pi, 1)])
def test_masks_and_an_image_of_their_levels_warp_alike(angle: float, scale: float, samples: int | None) -> None:
    """To the last bit, and windows hold all that is not 0."""
    from maskrcnn.ops.masks import warp_masks
    from maskrcnn.structures.masks import CroppedMasks

    masks, matrix, size = random_masks(20, soft=True), about_the_middle(angle, scale), (40, 50)
    warped = CroppedMasks(*warp_masks(masks.parts, matrix, size, samples), size)
    assert torch.equal(dense_levels(warped), warp_image(dense_levels(masks), matrix, size, samples=samples))


# several samples a pixel


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("samples", [2, 3, 5])
def test_samples_are_those_of_a_finer_image(samples: int, border: str) -> None:
    matrix, image = about_the_middle(0.4, 0.5), random_image(torch.float32)
    finer = torch.diag(torch.tensor([samples, samples], dtype=torch.float64)) @ matrix
    fine = warp_image(image, finer, (12 * samples, 17 * samples), border, samples=1)
    found = warp_image(image, matrix, (12, 17), border, samples)
    torch.testing.assert_close(found, F.avg_pool2d(fine, samples), rtol=0, atol=1e-5)


def test_shrinking_averages_what_single_samples_miss() -> None:
    stripes = torch.zeros(1, 64, 64, dtype=torch.uint8)
    stripes[:, :, 2::4] = stripes[:, :, 3::4] = 200
    matrix = affine((0.25, 0, 0), (0, 0.25, 0))
    assert choose_num_samples(matrix) == 4
    assert set(warp_image(stripes, matrix, (16, 16)).unique().tolist()) == {100}
    assert set(warp_image(stripes, matrix, (16, 16), samples=1).unique().tolist()) == {100}
    shifted = affine((0.25, 0, 0.25), (0, 0.25, 0.25))  # by a pixel: one sample sees a single stripe
    assert set(warp_image(stripes, shifted, (16, 16), samples=1)[0, 2, 1:].tolist()) == {0}
    assert set(warp_image(stripes, shifted, (16, 16))[0, 2, 1:].tolist()) == {100}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("samples", [1, 2, 7, 64])
def test_an_even_image_stays_even(samples: int, dtype: torch.dtype) -> None:
    image = torch.full((2, 9, 7), 255 if dtype == torch.uint8 else 0.3).to(dtype)
    found = warp_image(image, about_the_middle(0.3, 0.2, (9, 7)), (9, 7), "reflect", samples)
    assert torch.allclose(found.float(), image.float(), rtol=1e-4)


@pytest.mark.parametrize(
    ("matrix", "samples"),
    [
        (affine((1, 0, 9), (0, 1, -9)), 1),
        (affine((0, -3, 0), (3, 0, 0)), 1),
        (affine((1 / 1.5, 0, 0), (0, 1 / 1.5, 0)), 1),
        (affine((0.66, 0, 0), (0, 1, 0)), 2),
        (affine((0.5, 0, 0), (0, 0.5, 0)), 2),
        (affine((0, 0.5, 0), (0.3, 0, 0)), 4),
        (about_the_middle(1.1, 1 / 3), 3),
        (affine((1, 3, 0), (0, 1, 0)), 4),  # a shear: 3.3 along one diagonal
        (affine((1e-3, 0, 0), (0, 1, 0)), 16),
        (affine((0.5, 0, 0), (0, 0.5, 0)).float(), 2),
    ],
)
def test_samples_follow_what_a_new_pixel_spans(matrix: Tensor, samples: int) -> None:
    assert choose_num_samples(matrix) == samples


def test_the_span_is_the_largest_singular_value_of_the_way_back() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        matrix = torch.randn(2, 3, generator=generator, dtype=torch.float64) * 0.5
        span = float(torch.linalg.svdvals(torch.linalg.inv(matrix[:, :2]))[0])
        assert choose_num_samples(matrix) == (1 if span <= 1.5 else min(16, math.ceil(span)))


def test_the_way_back_is_the_inverse() -> None:
    matrix = torch.randn(2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    back = torch.linalg.inv(torch.cat([matrix, affine((0, 0, 1))]))[:2]
    torch.testing.assert_close(invert(matrix), back)
    assert invert(matrix.float()).dtype == torch.float64


# what cannot be, and what nearly cannot


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": torch.zeros(4, 4)}, r"image must be \[C, H, W\] with a pixel at least, got \[4, 4\]"),
        ({"image": torch.zeros(3, 0, 4)}, r"with a pixel at least, got \[3, 0, 4\]"),
        ({"image": torch.zeros(3, 4, 4).double()}, "image must be uint8, uint16 or float32, got torch.float64"),
        ({"matrix": torch.eye(3)}, r"matrix must be \[2, 3\], got \[3, 3\]"),
        ({"matrix": affine((1, 2, 0), (2, 4, 0))}, "matrix must be finite and invertible"),
        ({"matrix": affine((1, 0, math.nan), (0, 1, 0))}, "matrix must be finite and invertible"),
        ({"matrix": affine((1, 0, 0), (0, math.inf, 0))}, "matrix must be finite and invertible"),
        ({"border": "wrap"}, "border must be one of constant, reflect, replicate, got 'wrap'"),
        ({"size": (-1, 4)}, r"size must not be negative, got \(-1, 4\)"),
        ({"samples": 0}, "samples must be in 1..64, got 0"),
        ({"samples": 65}, "samples must be in 1..64, got 65"),
    ],
)
def test_arguments_that_cannot_be_are_named(changes: dict[str, object], message: str) -> None:
    arguments = {"image": torch.zeros(3, 4, 4), "matrix": affine((1, 0, 0), (0, 1, 0)), "size": (4, 4)} | changes
    with pytest.raises(ValueError, match=message):
        warp_image(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0)])
def test_an_image_without_new_pixels(size: tuple[int, int]) -> None:
    assert warp_image(random_image(), affine((1, 0, 0), (0, 1, 0)), size).shape == (3, *size)
    assert warp_image(random_image()[:0], affine((1, 0, 0), (0, 1, 0)), (4, 5)).shape == (0, 4, 5)


def test_an_image_that_is_not_contiguous() -> None:
    image = random_image()
    assert torch.equal(warp_image(image.transpose(1, 2), *TURN), warp_image(image.transpose(1, 2).contiguous(), *TURN))


TURN = (about_the_middle(0.5, 1.1), SIZE)


def test_coordinates_beyond_all_numbers_see_nothing_or_some_pixel() -> None:
    """The face refuses such matrices; the operation must not read what is not there."""
    image, numbers = random_image() + 1, (math.nan, math.inf, -math.inf, 1e300, -1e300, 1e18, -3e9)
    for at, number in product(range(6), numbers):
        matrix = torch.ones(6, dtype=torch.float64)
        matrix[at] = number
        for border in BORDERS.values():
            arguments = (matrix.view(2, 3), 5, 300, border, 1)
            found, wanted = (warp(image, *arguments) for warp in WARPS)
            assert torch.equal(found, wanted)
            assert border != BORDERS["constant"] or not found[:, 1:].any()


WARPS = (torch.ops.maskrcnn.warp_image, reference_images.warp_image)


def test_definitions_in_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    image = random_image()
    whole = reference_images.warp_image(image, invert(TURN[0]), *SIZE, 1, 2)
    monkeypatch.setattr(reference_images, "CHUNK", 500)
    monkeypatch.setattr(reference_masks, "CHUNK", 500)
    assert torch.equal(reference_images.warp_image(image, invert(TURN[0]), *SIZE, 1, 2), whole)
