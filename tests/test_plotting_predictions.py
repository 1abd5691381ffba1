"""Pictures of predictions: what is found, missed and false, for every head, also where there is next to nothing."""

import numpy as np
import pytest
import torch
from PIL import Image

from maskrcnn.plotting import canvas, predictions
from maskrcnn.plotting.matching import match_detections
from maskrcnn.plotting.predictions import GAP, render_detections, render_prediction, save_picture
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks

HEADS = ["rpn", "faster_rcnn", "mask_rcnn"]
SIZE = (64, 64)


def rectangles(corners, side=10, scores=None, ignore=None, labels=None, with_masks=True, size=SIZE):
    """Squares as Instances whose masks fill their boxes."""
    boxes = torch.tensor([[x, y, x + side, y + side] for x, y in corners], dtype=torch.float32).reshape(-1, 4)
    full = [torch.full((side, side), 255, dtype=torch.uint8) for _ in corners]
    return Instances(
        size,
        boxes,
        torch.ones(len(corners), dtype=torch.int64) if labels is None else torch.tensor(labels),
        None if scores is None else torch.tensor(scores, dtype=torch.float32),
        CroppedMasks.from_windows(boxes.int(), full, size) if with_masks else None,
        None if ignore is None else torch.tensor(ignore),
    )


IMAGE = torch.zeros(3, *SIZE, dtype=torch.uint8)
TWO = rectangles([(5, 5), (30, 30)])
FOUND = rectangles([(5, 5), (45, 5)], scores=[0.9, 0.8])  # one right, one false alarm; (30, 30) is missed


def has_color(picture, color):
    return bool((picture == np.asarray(color)).all(axis=2).any())


def halves(picture):
    """Left and right panel, without titles and legend."""
    middle = picture.shape[1] // 2
    return picture[40:-40, :middle], picture[40:-40, middle:]


@pytest.mark.parametrize("by_masks", [False, True])
def test_detections_find_truths_by_falling_score_once_each(by_masks):
    truth = rectangles([(5, 5), (30, 30), (50, 50)], ignore=[False, False, True])
    prediction = rectangles([(6, 5), (5, 5), (5, 30), (50, 51), (31, 30)], scores=[0.6, 0.7, 0.5, 0.4, 0.3])
    matches = match_detections(truth, prediction, by_masks=by_masks)
    assert matches.matched_target.tolist() == [-1, 0, -1, -1, 1]
    assert matches.matched_detection.tolist() == [1, 4, -1]
    assert matches.false_positives.tolist() == [True, False, True, False, False]
    assert matches.false_negatives.tolist() == [False, False, False]


def test_the_wrong_class_is_a_miss_and_a_false_alarm_unless_classes_do_not_count():
    prediction = rectangles([(5, 5)], scores=[0.9], labels=[2])
    truth = rectangles([(5, 5)])
    assert match_detections(truth, prediction).false_positives.tolist() == [True]
    assert match_detections(truth, prediction, class_agnostic=True).true_positives.tolist() == [True]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("size", "scale"), [((256, 256), 4), ((512, 512), 2), ((520, 696), 1), ((700, 1400), 1)])
def test_pictures_have_two_panels_enlarged_by_a_whole_factor(tmp_path, head, size, scale):
    path = tmp_path / "picture.png"
    truth, found = rectangles([(5, 5)], size=size), rectangles([(6, 5)], scores=[0.9], size=size)
    save_picture(render_prediction(torch.rand(3, *size), truth, found, head), path)
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.mode == "RGB"
        assert picture.width == 2 * size[1] * scale + 3 * GAP
        assert scale * size[0] < picture.height < scale * size[0] + 100
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("head", ["faster_rcnn", "mask_rcnn"])
def test_misses_are_red_and_false_alarms_yellow(head):
    left, right = halves(render_prediction(IMAGE, TWO, FOUND, head))
    assert has_color(left, canvas.RED) and has_color(right, canvas.RED)
    assert has_color(right, canvas.YELLOW) and not has_color(left, canvas.YELLOW)
    perfect = rectangles([(5, 5), (30, 30)], scores=[0.9, 0.8])
    for panel in halves(render_prediction(IMAGE, TWO, perfect, head)):
        assert not has_color(panel, canvas.RED) and not has_color(panel, canvas.YELLOW)


def test_an_object_and_its_detection_share_a_hue():
    swapped = rectangles([(30, 30), (5, 5)], scores=[0.9, 0.8])
    left, right = halves(render_prediction(IMAGE, TWO, swapped, "mask_rcnn"))
    for color in canvas.make_instance_colors(2):
        places = [np.argwhere((panel == np.asarray(color)).all(axis=2)).mean(axis=0) for panel in (left, right)]
        assert np.linalg.norm(places[0] - places[1]) < 20


def test_detections_below_the_threshold_are_left_out():
    low = rectangles([(5, 5), (45, 5)], scores=[0.9, 0.3])
    _, right = halves(render_prediction(IMAGE, TWO, low, "mask_rcnn"))
    assert not has_color(right, canvas.YELLOW)
    _, right = halves(render_prediction(IMAGE, TWO, low, "mask_rcnn", score_threshold=0.2))
    assert has_color(right, canvas.YELLOW)


def test_proposals_are_coloured_by_score_and_only_the_best_are_drawn():
    proposals = rectangles([(5, 5), (30, 30), (45, 5)], scores=[0.3, 0.2, 0.1])
    best, worst = (253, 231, 37), (59, 82, 139)
    _, right = halves(render_prediction(IMAGE, TWO, proposals, "rpn"))
    assert has_color(right, best) and has_color(right, worst)
    left, _ = halves(render_prediction(IMAGE, TWO[:1], proposals, "rpn", max_proposals=1))
    assert not has_color(left, canvas.RED)


NOTHING = Instances(SIZE, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
DOTS = rectangles([(0, 0), (63, 63), (20, 20)], side=1, scores=[0.9, 0.8, 0.7])
EMPTY_MASK = Instances(
    SIZE,
    torch.tensor([[8.0, 8, 8, 8]]),
    torch.ones(1, dtype=torch.int64),
    torch.ones(1),
    CroppedMasks.from_windows(torch.zeros(1, 4), [torch.zeros(0, 0, dtype=torch.uint8)], SIZE),
)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    ("truth", "prediction", "missed", "false_positives"),
    [
        (Instances.empty(SIZE), NOTHING, 0, 0),
        (Instances.empty(SIZE, with_masks=True), FOUND, 0, 2),
        (TWO, NOTHING, 2, 0),
        (TWO, Instances.empty(SIZE), 2, 0),
        (rectangles([(5, 5)], ignore=[True]), FOUND, 0, 1),
        (rectangles([(5, 5)], with_masks=False), rectangles([(5, 5)], scores=[0.9], with_masks=False), 0, 0),
        (rectangles([(5, 5)], with_masks=False), FOUND, 0, 1),
        (DOTS, DOTS, 0, 0),
        (rectangles([(0, 0), (63, 63)], side=1), NOTHING, 2, 0),
        (EMPTY_MASK, EMPTY_MASK, None, None),  # a box without area matches nothing, and ignored masks are not missed
    ],
)
def test_next_to_nothing_is_drawn_too(head, truth, prediction, missed, false_positives, monkeypatch):
    titles = []
    compose = predictions._compose
    monkeypatch.setattr(
        predictions, "_compose", lambda panels, words, legend: titles.extend(words) or compose(panels, words, legend)
    )
    picture = render_prediction(IMAGE.float(), truth, prediction, head, class_names=("a", "b"))
    left, right = halves(picture)
    assert picture.dtype == np.uint8 and left.shape == right.shape
    if missed is None:
        return
    assert f"{missed} missed" in titles[0]
    assert has_color(left, canvas.RED) == (missed > 0)
    if head != "rpn":
        assert f" {false_positives} false positive" in titles[1]
        assert has_color(right, canvas.YELLOW) == (false_positives > 0)


@pytest.mark.parametrize(("size", "scale"), [((1, 1), 12), ((7, 300), 3), ((300, 7), 3)])
def test_odd_sizes_are_drawn(size, scale):
    truth = rectangles([(0, 0)], side=1, size=size)
    picture = render_prediction(np.zeros((3, *size), np.uint8), truth, truth, "mask_rcnn")
    column = max(size[1] * scale, 400)  # of a panel and its title
    assert picture.shape[1] == 2 * column + 3 * GAP
    (hue,) = canvas.make_instance_colors(1)
    bar = (picture.shape[0] - size[0] * scale) // 2  # title above, legend below
    for place in range(2):
        x = GAP + place * (column + GAP) + (column - size[1] * scale) // 2
        panel = picture[bar : bar + size[0] * scale, x : x + size[1] * scale]
        drawn = np.argwhere((panel == np.asarray(hue)).all(axis=2))
        assert drawn.min(axis=0).tolist() == [0, 0] and drawn.max(axis=0).tolist() == [scale - 1, scale - 1]


def test_boxes_beyond_the_image_are_clipped():
    boxes = torch.tensor([[-50.0, -50, 500, 500], [70, 70, 90, 90], [-9, -9, -3, -3]])
    prediction = Instances(SIZE, boxes, torch.ones(3, dtype=torch.int64), torch.ones(3))
    picture = render_prediction(IMAGE, TWO, prediction, "faster_rcnn")
    side = 64 * 12
    bar = (picture.shape[0] - side) // 2
    panel = picture[bar : bar + side, -GAP - side : -GAP]
    yellow = (panel == np.asarray(canvas.YELLOW)).all(axis=2)
    edges = (yellow[0], yellow[-1], yellow[:, 0], yellow[:, -1])
    assert all(edge[60:-60].all() for edge in edges)  # scores are written over the corners
    margins = picture[bar : bar + side].copy()
    margins[:, -GAP - side : -GAP] = 0
    assert not has_color(margins, canvas.YELLOW)


def test_neighbouring_hues_differ():
    colors = np.asarray(canvas.make_instance_colors(50), dtype=float)
    assert np.abs(np.diff(colors, axis=0)).sum(axis=1).min() > 80


# ---- detections without truth


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("scores", [[0.9, 0.8], [0.9, 0.3], []])
def test_detections_alone_make_one_panel(head, scores):
    found = rectangles([(5, 5), (45, 5)][: len(scores)], scores=scores, with_masks=head == "mask_rcnn")
    picture = render_detections(IMAGE, found, head, title="seen by tile")
    assert picture.shape[1] == 64 * 12 + 2 * GAP and picture.dtype == np.uint8
    panel = picture[40:-40, GAP:-GAP]
    assert [bool(half.any()) for half in np.array_split(panel, 2, axis=1)] == [0.9 in scores, 0.8 in scores]


def test_detections_alone_have_hues_of_their_own_or_of_their_class():
    found = rectangles([(5, 5), (45, 5)], scores=[0.9, 0.8])
    masks = render_detections(IMAGE, found, "mask_rcnn")
    assert all(has_color(masks, color) for color in canvas.make_instance_colors(2))
    found = rectangles([(5, 5), (45, 5)], scores=[0.9, 0.8], labels=[1, 2], with_masks=False)
    boxes = render_detections(IMAGE, found, "faster_rcnn", class_names=["cell", "nucleus"])
    assert all(has_color(boxes, color) for color in canvas.make_instance_colors(2))
    assert has_color(render_detections(IMAGE, found, "faster_rcnn", class_names=["cell"]), canvas.GREEN)


def test_a_mask_of_which_nothing_is_left_is_still_seen():
    found = rectangles([(5, 5)], scores=[0.9])
    found.masks = CroppedMasks(torch.zeros(1, 4).int(), torch.zeros(2).long(), torch.zeros(0).to(torch.uint8), SIZE)
    assert has_color(render_detections(IMAGE, found, "mask_rcnn"), canvas.make_instance_colors(1)[0])


@pytest.mark.parametrize(("count", "is_said"), [(3, False), (65, True), (0, False)])
def test_scores_that_are_left_out_are_said_to_be(count, is_said, monkeypatch):
    titles = []
    monkeypatch.setattr(
        predictions, "_compose", lambda pictures, words, legend: titles.extend(words) or np.stack(pictures)[0]
    )
    found = rectangles([(k % 50, k // 2) for k in range(count)], scores=[0.9] * count)
    render_detections(IMAGE, found, "mask_rcnn")
    assert ["too many or too small for scores" in title for title in titles] == [is_said]


def test_titles_count_what_is_ignored_and_one_thing_in_the_singular(monkeypatch):
    titles = []
    compose = predictions._compose
    monkeypatch.setattr(
        predictions, "_compose", lambda panels, words, legend: titles.extend(words) or compose(panels, words, legend)
    )
    boxes = torch.tensor([[2.0, 2, 12, 12], [30, 30, 40, 40]])
    ones = torch.ones(2, dtype=torch.int64)
    targets = Instances((64, 64), boxes, ones, ignore=torch.tensor([False, True]))
    found = Instances((64, 64), boxes, ones, torch.tensor([0.9, 0.8]))
    render_prediction(np.zeros((3, 64, 64), np.uint8), targets, found, "faster_rcnn")
    assert titles == [
        "Ground truth: 1 object, 0 missed, 1 ignored",
        "Faster R-CNN: 2 detections ≥ 0.5, 1 correct (box IoU ≥ .5), 0 false positives, 1 ignored",
    ]
    titles.clear()
    render_prediction(np.zeros((3, 64, 64), np.uint8), targets[:0], found[:1], "faster_rcnn")
    assert titles == [
        "Ground truth: 0 objects, 0 missed",
        "Faster R-CNN: 1 detection ≥ 0.5, 0 correct (box IoU ≥ .5), 1 false positive",
    ]
