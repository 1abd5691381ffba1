"""Anchors of a pyramid."""

import math

import pytest
import torch

from maskrcnn.config import UserError
from maskrcnn.model.anchors import check_anchors, make_anchor_levels, make_base_sizes
from maskrcnn.model.config import RPNConfig
from maskrcnn.ops.matching import all_anchors

CONFIG = RPNConfig(anchor_sizes=((8.0,), (16.0,)), anchor_ratios=(0.5, 1.0, 2.0))


def test_sizes_keep_their_area_and_ratios_are_height_by_width() -> None:
    sizes = make_base_sizes([8.0, 11.0], [0.5, 1.0, 2.0], rounded=False)
    assert sizes.prod(dim=1).tolist() == pytest.approx([64, 121] * 3, rel=1e-5)
    assert (sizes[:, 1] / sizes[:, 0]).tolist() == pytest.approx([0.5, 0.5, 1, 1, 2, 2], rel=1e-5)


def test_anchors_are_not_rounded_unless_asked() -> None:
    assert make_base_sizes([8.0], [0.5], rounded=False).tolist()[0] == pytest.approx(
        [8 * math.sqrt(2), 8 / math.sqrt(2)]
    )
    assert make_base_sizes([8.0], [0.5], rounded=True).tolist() == [[12.0, 6.0]]


def test_anchors_stand_on_the_centres_of_their_cells() -> None:
    maps = [torch.zeros(1, 1, 4, 6), torch.zeros(1, 1, 2, 3)]
    levels = make_anchor_levels(CONFIG, maps, [4, 8], (16, 24))
    anchors = all_anchors(levels)
    assert anchors.shape == ((4 * 6 + 2 * 3) * 3, 4)
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    torch.testing.assert_close(centres[1], torch.tensor([2.0, 2.0]))
    torch.testing.assert_close(centres[3 * (6 * 1 + 2) + 1], torch.tensor([10.0, 6.0]))
    torch.testing.assert_close(centres[3 * 24 + 1], torch.tensor([4.0, 4.0]))
    torch.testing.assert_close(anchors[1], torch.tensor([-2.0, -2.0, 6.0, 6.0]))


def test_a_strided_rpn_keeps_anchors_on_the_cells_it_stands_on() -> None:
    config = RPNConfig(anchor_sizes=((8.0,),), anchor_ratios=(1.0,), anchor_stride=2)
    (level,) = make_anchor_levels(config, [torch.zeros(1, 1, 3, 3)], [8], (24, 24))
    assert level.stride == (8.0, 8.0) and level.offset == (2.0, 2.0)


def test_strides_from_the_size_follow_torchvision() -> None:
    config = RPNConfig(anchor_sizes=((8.0,),), anchor_offset=0.0, round_anchors=True, stride_from_size=True)
    (level,) = make_anchor_levels(config, [torch.zeros(1, 1, 5, 7)], [8], (44, 50))
    assert level.stride == (8.0, 7.0) and level.offset == (0.0, 0.0)


@pytest.mark.parametrize("sizes", [((8.0,),), ((8.0,), (16.0,), (32.0,)), ((8.0,), (16.0, 20.0)), ((), ()), ()])
def test_sizes_must_fit_the_levels(sizes: tuple[tuple[float, ...], ...]) -> None:
    with pytest.raises(UserError, match="anchor_sizes"):
        check_anchors(RPNConfig(anchor_sizes=sizes), 2)


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_sizes_and_ratios_must_be_positive(value: float) -> None:
    with pytest.raises(UserError, match="anchor_sizes"):
        check_anchors(RPNConfig(anchor_sizes=((8.0,), (value,))), 2)
    with pytest.raises(UserError, match="anchor_ratios"):
        check_anchors(RPNConfig(anchor_sizes=((8.0,), (9.0,)), anchor_ratios=(1.0, value)), 2)
    with pytest.raises(UserError, match="anchor_ratios"):
        check_anchors(RPNConfig(anchor_sizes=((8.0,), (9.0,)), anchor_ratios=()), 2)
