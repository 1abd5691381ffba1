"""Curves and bars are written for full, partial and empty runs."""

import numpy as np
import pytest
import torch
from PIL import Image

from maskrcnn.plotting.curves import (
    _average_by_epoch,
    _collect_sizes,
    plot_ap,
    plot_detected_sizes,
    plot_heads,
    plot_losses,
    plot_precision_recall,
)
from maskrcnn.structures.instances import Instances

METRICS = [
    {"kind": "train", "epoch": 1, "step": 1, "loss": 3.0, "loss_mask": 2.0, "loss_objectness": 1.0},
    {"kind": "train", "epoch": 1, "step": 2, "loss": 1.0, "loss_mask": 0.5, "loss_objectness": 0.5},
    {"kind": "train", "epoch": 2, "step": 3, "loss": float("nan"), "loss_mask": None},
    {"kind": "validation", "epoch": 1, "loss": 2.0, "loss_mask": 1.5},
    {"kind": "evaluation", "epoch": 1, "box_ap": 0.3, "mask_ap": 0.2, "mask_ap_tiny": 0.1},
]
CURVES = {"box": {0.5: (np.linspace(0, 1, 101), np.linspace(1, 0, 101))}, "mask": {}}
ROWS = [
    {"head": "rpn", "box_ap": 0.4, "mask_ap": None, "ar_100": 0.5, "parameters": 2_000_000},
    {"head": "mask_rcnn", "box_ap": 0.5, "mask_ap": 0.4, "box_ap_tiny": 0.3, "train_seconds": 100.0},
]


def instances(boxes, scores=None, ignore=None):
    count = len(boxes)
    return Instances(
        (64, 64),
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.ones(count, dtype=torch.int64),
        None if scores is None else torch.tensor(scores),
        ignore=None if ignore is None else torch.tensor(ignore),
    )


TRUTHS = {1: instances([[0, 0, 4, 4], [20, 20, 36, 36], [40, 40, 60, 60]], ignore=[False, False, True])}
FOUND = {1: instances([[20, 20, 36, 37], [0, 0, 4, 4]], scores=[0.9, 0.2])}


@pytest.mark.parametrize(
    ("plot", "arguments"),
    [
        (plot_losses, (METRICS,)),
        (plot_losses, ([],)),
        (plot_ap, (METRICS,)),
        (plot_ap, (METRICS[:3],)),
        (plot_precision_recall, (CURVES,)),
        (plot_precision_recall, ({},)),
        (plot_detected_sizes, (TRUTHS, FOUND)),
        (plot_detected_sizes, (TRUTHS, {})),
        (plot_detected_sizes, ({1: instances([])}, {})),
        (plot_heads, (ROWS,)),
        (plot_heads, (ROWS[:1],)),
        (plot_heads, ([{"head": "rpn", "parameters": 3}],)),
        (plot_heads, ([{"head": "rpn"}],)),
        (plot_heads, ([],)),
    ],
)
def test_every_plot_is_a_png_and_leaves_nothing_else(tmp_path, plot, arguments):
    path = tmp_path / "plot.png"
    plot(*arguments, path)
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.width >= 600 and picture.height >= 400
    assert list(tmp_path.iterdir()) == [path]


def test_losses_are_averaged_over_the_steps_of_an_epoch_and_what_is_not_finite_left_out():
    assert _average_by_epoch(METRICS, "train", "loss") == ([1], [2.0])
    assert _average_by_epoch(METRICS, "validation", "loss_mask") == ([1], [1.5])


def test_sizes_found_and_missed_leave_out_ignored_truths_and_low_scores():
    sizes, found = _collect_sizes(TRUTHS, FOUND, 0.5, False, False)
    assert sizes.tolist() == [4, 16]
    assert found.tolist() == [False, True]
    assert _collect_sizes(TRUTHS, FOUND, 0.1, False, False)[1].tolist() == [True, True]
