"""Coding, clipping and levels of boxes."""

import math

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops.poolers import LevelMapper

from maskrcnn.structures.boxes import (
    assign_levels,
    clip_boxes,
    decode_boxes,
    encode_boxes,
    enlarge_boxes,
    scale_boxes,
)

ONES, TENS = (1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)


def boxes(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 200
    return torch.cat([corner, corner + 0.5 + torch.rand(count, 2, generator=generator) * 40], dim=1)


@pytest.mark.parametrize("weights", [ONES, TENS])
def test_coding_equals_torchvision(weights: tuple[float, ...]) -> None:
    priors, truths = boxes(50, 0), boxes(50, 1)
    coder = BoxCoder(weights)
    deltas = encode_boxes(truths, priors, weights)
    torch.testing.assert_close(deltas, coder.encode_single(truths, priors), rtol=1e-4, atol=1e-5)
    wild = torch.randn(50, 4, generator=torch.Generator().manual_seed(2)) * 8
    torch.testing.assert_close(
        decode_boxes(wild, priors, weights), coder.decode_single(wild, priors), rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize("weights", [ONES, TENS])
def test_decoding_undoes_encoding(weights: tuple[float, ...]) -> None:
    priors, truths = boxes(50, 0), boxes(50, 1)
    again = decode_boxes(encode_boxes(truths, priors, weights), priors, weights)
    torch.testing.assert_close(again, truths, rtol=0, atol=1e-3)


def test_decoding_broadcasts_priors_over_classes() -> None:
    priors, deltas = boxes(7, 0), torch.randn(7, 3, 4)
    found = decode_boxes(deltas, priors[:, None], TENS)
    assert torch.equal(found[:, 1], decode_boxes(deltas[:, 1], priors, TENS))


def test_decoding_is_float32_and_finite_whatever_the_deltas() -> None:
    prior = torch.tensor([[1000.0, 1000, 1010, 1010]])
    found = decode_boxes(torch.tensor([[0, 0, 100, 0]], dtype=torch.bfloat16), prior, ONES)
    assert found.dtype == torch.float32
    assert float(found[0, 2] - found[0, 0]) == pytest.approx(10 * 1000 / 16, rel=1e-5)


def test_encoding_a_box_without_extent_stays_finite() -> None:
    assert torch.isfinite(encode_boxes(torch.zeros(1, 4), torch.zeros(1, 4), ONES)).all()


def test_clipping_keeps_boxes_in_the_image() -> None:
    wild = torch.tensor([[-3.0, -4, 50, 60], [12, 3, 14, 9], [40, 40, 50, 50]])
    assert clip_boxes(wild, (20, 30)).tolist() == [[0, 0, 30, 20], [12, 3, 14, 9], [30, 20, 30, 20]]
    assert clip_boxes(wild.expand(2, 3, 4), (20, 30)).shape == (2, 3, 4)


def test_scaling_takes_x_and_y_apart() -> None:
    assert scale_boxes(torch.tensor([[1.0, 2, 3, 4]]), 2, 10).tolist() == [[2, 20, 6, 40]]


@pytest.mark.parametrize(
    ("scale", "border", "wanted"),
    [
        (1.0, 0.0, [10, 20, 14, 40]),
        (1.5, 0.0, [9, 15, 15, 45]),
        (1.0, 4.0, [6, 16, 18, 44]),
        (1.5, 4.0, [6, 15, 18, 45]),
    ],
)
def test_enlarging_is_by_the_factor_and_at_least_the_border(scale: float, border: float, wanted: list[int]) -> None:
    assert enlarge_boxes(torch.tensor([[10.0, 20, 14, 40]]), scale, border).tolist() == [wanted]


def test_levels_equal_torchvision() -> None:
    sides = torch.cat([torch.logspace(0, 3.2, 400), torch.tensor([111.99999, 112, 224, 448])])
    squares = torch.stack([torch.zeros_like(sides), torch.zeros_like(sides), sides, sides], dim=1)
    wanted = LevelMapper(2, 5)([squares])
    assert torch.equal(assign_levels(squares, 224.0, 4, [2, 3, 4, 5]), wanted)


def test_levels_are_held_within_the_pyramid() -> None:
    sides = torch.tensor([0.0, 1, 27.9, 28, 56, 112, 1e4])
    squares = torch.stack([torch.zeros(7), torch.zeros(7), sides, sides], dim=1)
    assert assign_levels(squares, 28.0, 1, [1, 2, 3]).tolist() == [0, 0, 0, 0, 1, 2, 2]
    assert math.log2(28 / 28.0) == 0  # an RoI of the canonical size pools from the canonical level
