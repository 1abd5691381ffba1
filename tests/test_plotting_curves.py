"""Curves and bars are written for full, partial and empty runs."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from maskrcnn.plotting import curves
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


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved, as they are drawn."""
    found = []
    original = curves.save_figure

    def save(figure, path):
        original(figure, path)
        found.append(figure)

    monkeypatch.setattr(curves, "save_figure", save)
    return found


def make_run(epochs):
    rows = [{"kind": "train", "epoch": n, "loss": 1 / n, "loss_mask": 0.5 / n} for n in range(1, epochs + 1)]
    rows += [
        {"kind": "evaluation", "split": "validation", "epoch": n, "box_ap": 0.1 * n, "box_ap_tiny": 0.1}
        for n in range(1, epochs + 1)
    ]
    return [*rows, {"kind": "evaluation", "split": "test", "epoch": 1, "box_ap": 0.2, "box_ap_very_tiny": 0.0}]


def legend_labels(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


@pytest.mark.parametrize("epochs", [1, 2, 3, 40])
@pytest.mark.parametrize("plot", [plot_losses, plot_ap])
def test_epochs_are_whole_numbers_and_no_legend_covers_a_panel(tmp_path, figures, plot, epochs):
    plot(make_run(epochs), tmp_path / "plot.png", f"ellipses, rpn, {epochs} epochs, seed 3")
    (figure,) = figures
    assert figure.get_suptitle() == f"ellipses, rpn, {epochs} epochs, seed 3"
    for axes in figure.axes:
        low, high = axes.get_xlim()
        ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert ticks and all(float(tick).is_integer() for tick in ticks)
        assert axes.get_legend().get_window_extent().x0 >= axes.get_window_extent().x1 - 1


def test_the_legend_names_sizes_that_only_test_images_have_and_the_crosses(tmp_path, figures):
    plot_ap(make_run(3), tmp_path / "plot.png")
    overall, by_size = figures[0].axes
    assert legend_labels(overall) == ["box AP", "test images"]
    assert legend_labels(by_size) == ["< 8 px", "8–16 px", "test images"]
    plot_ap([row for row in make_run(3) if row.get("split") != "test"], tmp_path / "plot.png")
    assert legend_labels(figures[1].axes[0]) == ["box AP"]


def test_the_legend_of_the_heads_is_apart_from_title_and_panels(tmp_path, figures):
    rows = [{"head": head, "box_ap": 0.5, "ar_100": 0.4, "parameters": 10} for head in ("rpn", "mask_rcnn")]
    plot_heads(rows, tmp_path / "plot.png", "ellipses, 2 epochs, seed 0")
    (figure,) = figures
    assert isinstance(figure, Figure)
    (legend,) = figure.legends
    extent = legend.get_window_extent()
    assert not any(extent.overlaps(axes.get_window_extent()) for axes in figure.axes)
    assert not extent.overlaps(figure._suptitle.get_window_extent())
