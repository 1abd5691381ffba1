"""Truth and prediction side by side, for each of the three heads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from maskrcnn.files import written_beside
from maskrcnn.plotting import canvas
from maskrcnn.plotting.canvas import BACKGROUND, GREEN, GREY, RED, WHITE, YELLOW, Colour, Picture
from maskrcnn.plotting.matching import Matches, match_detections
from maskrcnn.structures.instances import Instances

Head = str  # "rpn", "faster_rcnn" or "mask_rcnn"

HEAD_NAMES = {"rpn": "RPN", "faster_rcnn": "Faster R-CNN", "mask_rcnn": "Mask R-CNN"}
PANEL_SIDE = 1024  # small images are enlarged by a whole factor to about this many pixels
GAP = 12
_LABEL = 13  # px: height of the scores that are written
_MOST_LABELS = 64  # scores are written for at most so many detections
_MOST_CLASSES = 12  # in a legend
_SMALLEST_MARK = 14.0


@dataclass(frozen=True)
class _Scene:
    """One image with what is to be drawn on it."""

    ground: Picture
    scale: int
    truth: Instances
    shown: Instances
    matches: Matches
    by_masks: bool
    class_names: Sequence[str] | None

    def boxes(self, instances: Instances) -> NDArray[np.float32]:
        """float32 [N, 4] in pixels of the panel."""
        return instances.boxes.detach().cpu().numpy().astype(np.float32) * self.scale

    @property
    def line(self) -> int:
        """Width of lines in pixels."""
        return 2 if self.scale >= 3 else 1


def plot_prediction(
    image: torch.Tensor | NDArray[np.generic],
    truth: Instances,
    prediction: Instances,
    path: str | os.PathLike[str],
    head: Head,
    score_threshold: float = 0.5,
    class_names: Sequence[str] | None = None,
) -> None:
    """Write the picture of ``render_prediction`` as PNG, complete or not at all."""
    save_picture(render_prediction(image, truth, prediction, head, score_threshold, class_names), path)


def render_prediction(
    image: torch.Tensor | NDArray[np.generic],
    truth: Instances,
    prediction: Instances,
    head: Head,
    score_threshold: float = 0.5,
    class_names: Sequence[str] | None = None,
    max_proposals: int = 100,
) -> Picture:
    """Truth on the left, prediction on the right, uint8 [H', W', 3], with counts above and a legend below.

    ``image`` is [3, H, W], uint8 or float in [0, 1]. Detections scoring at least ``score_threshold`` are matched to
    truths by falling score at IoU .5 (of masks for Mask R-CNN): an object and its detection share a hue, missed truths
    are red, false alarms yellow, truths to ignore grey. Scores are written where they can be read. The RPN's best
    proposals (``max_proposals``, or twice the truths if these are more) are coloured by score whatever the threshold.
    Dark images are brightened.
    """
    scale = _enlargement(image.shape[-2:])
    by_masks = head == "mask_rcnn" and truth.masks is not None and prediction.masks is not None
    shown = _shown(prediction, score_threshold, max(max_proposals, 2 * len(truth)) if head == "rpn" else None)
    matches = match_detections(truth, shown, by_masks=by_masks, class_agnostic=head == "rpn")
    ground = canvas.dimmed(canvas.brightened(canvas.to_picture(image, scale)), colour=0.35 if by_masks else 0.8)
    scene = _Scene(ground, scale, truth, shown, matches, by_masks, class_names)
    if head == "rpn":
        right, legend = _proposal_panel(scene), _proposal_legend(scene)
    elif by_masks:
        right, legend = _mask_panel(scene), [_SAME_HUE, *_MARKS]
    else:
        right, legend = _box_panel(scene), [(GREEN, "found"), *_MARKS]
    left = _true_masks(scene) if by_masks else _true_boxes(scene, WHITE if head == "rpn" else GREEN)
    return _compose((left, right), _titles(scene, head, len(prediction), score_threshold), legend)


def render_detections(
    image: torch.Tensor | NDArray[np.generic],
    prediction: Instances,
    head: Head,
    score_threshold: float = 0.5,
    class_names: Sequence[str] | None = None,
    title: str = "",
) -> Picture:
    """What was found in an image without truth, uint8 [H', W', 3], with the count above and a legend below.

    As the right half of ``render_prediction``, but every detection has a hue of its own (masks), that of its class
    (boxes), or that of its score (the RPN, whose proposals must reach ``score_threshold`` here, too). ``title`` is
    added to the count.
    """
    scale = _enlargement(image.shape[-2:])
    by_masks = head == "mask_rcnn" and prediction.masks is not None
    shown, nothing = _shown(prediction, score_threshold, None), Instances.empty(prediction.size, with_masks=True)
    ground = canvas.dimmed(canvas.brightened(canvas.to_picture(image, scale)), colour=0.35 if by_masks else 0.8)
    matches, names = match_detections(nothing, shown), None if head == "rpn" else class_names
    scene = _Scene(ground, scale, nothing, shown, matches, by_masks, names)
    colours = _own_colours(scene, head)
    picture = _drawn(scene, colours)
    what = "proposals" if head == "rpn" else "detections"
    words = f"{HEAD_NAMES[head]}: {len(shown)} {what} ≥ {score_threshold:g}{f'  ·  {title}' if title else ''}"
    if head != "rpn":
        picture = _with_scores(picture, scene, colours)
        words += "  ·  too many or too small for scores" * (len(shown) > 0 and not _has_room_for_scores(scene))
    return _compose((picture,), (words,), _own_legend(scene, head))


def _enlargement(size: Sequence[int]) -> int:
    """The whole factor by which an image of ``size`` (H, W) is enlarged."""
    return int(np.clip(round(PANEL_SIDE / max(size)), 1, 12))


def contact_sheet(
    pictures: Sequence[Picture], path: str | os.PathLike[str], columns: int = 2, width: int = 2400
) -> None:
    """Write several pictures as one PNG of ``width`` pixels, in rows of ``columns``, complete or not at all."""
    if not pictures:
        return
    cell = width // columns
    images = [Image.fromarray(picture) for picture in pictures]
    images = [image.resize((cell, max(1, round(image.height * cell / image.width)))) for image in images]
    rows = [images[start : start + columns] for start in range(0, len(images), columns)]
    heights = [max(image.height for image in row) for row in rows]
    sheet = Image.new("RGB", (width, sum(heights)), BACKGROUND)
    for row, top in zip(rows, np.cumsum([0, *heights[:-1]]).tolist(), strict=True):
        for column, image in enumerate(row):
            sheet.paste(image, (column * cell, top))
    save_picture(np.asarray(sheet), path)


def save_picture(picture: Picture, path: str | os.PathLike[str]) -> None:
    """Write a picture uint8 [H, W, 3] as PNG, complete or not at all."""
    with written_beside(path) as beside:
        Image.fromarray(picture).save(beside, format="PNG", compress_level=4)


def _shown(prediction: Instances, score_threshold: float, most: int | None) -> Instances:
    """Detections above the threshold, or the ``most`` best whatever their score, by falling score."""
    if prediction.scores is None:
        return prediction
    scores = prediction.scores.detach()
    order = torch.argsort(scores, descending=True, stable=True)
    order = order[scores[order] >= score_threshold] if most is None else order[:most]
    return prediction[order]


def _true_masks(scene: _Scene) -> Picture:
    picture = scene.ground.copy()
    truth, matches = scene.truth, scene.matches
    assert truth.masks is not None
    colours = canvas.instance_colours(len(truth))
    for index in range(len(truth)):
        colour = GREY if matches.ignored[index] else RED if matches.missed[index] else colours[index]
        canvas.draw_mask(picture, truth.masks, index, colour, scene.scale, edge=scene.line)
    _mark(picture, scene, truth, matches.missed, RED)
    return picture


def _mask_panel(scene: _Scene) -> Picture:
    picture = scene.ground.copy()
    shown, matches = scene.shown, scene.matches
    assert shown.masks is not None and scene.truth.masks is not None
    colours = _detection_colours(scene, canvas.instance_colours(len(scene.truth)))
    for index in reversed(range(len(shown))):  # the best on top
        canvas.draw_mask(picture, shown.masks, index, colours[index], scene.scale, edge=scene.line)
    for index in np.flatnonzero(matches.missed).tolist():
        canvas.draw_mask(picture, scene.truth.masks, index, RED, scene.scale, fill=0, edge=scene.line)
    if len(shown) <= _MOST_LABELS:
        for box, colour in zip(scene.boxes(shown), colours, strict=True):
            canvas.draw_box(picture, box, colour, opacity=0.6)
    _mark(picture, scene, shown, matches.false_alarms, YELLOW)
    return _with_scores(picture, scene, colours)


def _drawn(scene: _Scene, colours: Sequence[Colour]) -> Picture:
    """The detections in these colours: masks, or boxes where there are none or nothing is left of a reduced one."""
    picture, masks = scene.ground.copy(), scene.shown.masks if scene.by_masks else None
    areas = np.zeros(len(scene.shown)) if masks is None else masks.areas().numpy()
    boxes = scene.boxes(scene.shown)
    for index in reversed(range(len(scene.shown))):  # the best on top
        if masks is not None and areas[index]:
            canvas.draw_mask(picture, masks, index, colours[index], scene.scale, edge=scene.line)
        else:
            canvas.draw_box(picture, boxes[index], colours[index], scene.line)
    return picture


def _own_colours(scene: _Scene, head: Head) -> list[Colour]:
    if head == "rpn":
        return _score_colours(_scores(scene.shown))
    if scene.by_masks:
        return canvas.instance_colours(len(scene.shown))
    palette = _class_colours(scene)
    return [palette[min(label, len(palette)) - 1] for label in scene.shown.labels.tolist()]


def _class_colours(scene: _Scene) -> list[Colour]:
    """One for each class."""
    count = len(scene.class_names or ())
    return canvas.instance_colours(count) if count > 1 else [GREEN]


def _true_boxes(scene: _Scene, found: Colour) -> Picture:
    picture = scene.ground.copy()
    matches = scene.matches
    for index, box in enumerate(scene.boxes(scene.truth)):
        canvas.draw_box(picture, box, GREY if matches.ignored[index] else found, scene.line)
    _mark(picture, scene, scene.truth, matches.missed, RED)
    return picture


def _box_panel(scene: _Scene) -> Picture:
    picture = scene.ground.copy()
    colours = _detection_colours(scene, [GREEN] * len(scene.truth))
    for box, colour in reversed(list(zip(scene.boxes(scene.shown), colours, strict=True))):
        canvas.draw_box(picture, box, colour, scene.line)
    _mark(picture, scene, scene.shown, scene.matches.false_alarms, YELLOW)
    _mark(picture, scene, scene.truth, scene.matches.missed, RED, dash=4)
    return _with_scores(picture, scene, colours)


def _proposal_panel(scene: _Scene) -> Picture:
    picture = scene.ground.copy()
    boxes, colours = scene.boxes(scene.shown), _score_colours(_scores(scene.shown))
    for box, colour in reversed(list(zip(boxes, colours, strict=True))):
        canvas.draw_box(picture, box, colour, scene.line)
    _mark(picture, scene, scene.truth, scene.matches.missed, RED, dash=4)
    return picture


def _detection_colours(scene: _Scene, truth_colours: Sequence[Colour]) -> list[Colour]:
    """Each detection in the colour of the truth that it found, yellow without one, grey where truths are ignored."""
    pairs = zip(scene.matches.truth_of.tolist(), scene.matches.excused.tolist(), strict=True)
    return [truth_colours[found] if found >= 0 else GREY if excused else YELLOW for found, excused in pairs]


def _mark(
    picture: Picture, scene: _Scene, instances: Instances, chosen: NDArray[np.bool_], colour: Colour, dash: int = 0
) -> None:
    """Frame the chosen objects, away from an outline if there is one, and so that even one pixel is found."""
    for box in scene.boxes(instances)[chosen]:
        frame = canvas.grown(box, scene.line + 1 if scene.by_masks else 0, _SMALLEST_MARK)
        canvas.draw_box(picture, frame, colour, scene.line + (not scene.by_masks), dash=dash)


def _with_scores(picture: Picture, scene: _Scene, colours: Sequence[Colour]) -> Picture:
    """Scores (and classes, where there are several) above the boxes, unless they would hide more than they say."""
    if not _has_room_for_scores(scene):
        return picture
    boxes, labels = scene.boxes(scene.shown), []
    for box, score, label, colour in zip(
        boxes, _scores(scene.shown), scene.shown.labels.tolist(), colours, strict=True
    ):
        text = f"{score:.2f}".removeprefix("0")
        if scene.class_names is not None and len(scene.class_names) > 1:
            text = f"{scene.class_names[label - 1]} {text}"
        labels.append((text, float(box[0] + box[2]) / 2, float(box[1]), canvas.paler(colour)))
    return canvas.write_labels(picture, labels[::-1], _LABEL)


def _has_room_for_scores(scene: _Scene) -> bool:
    boxes = scene.boxes(scene.shown)
    return 0 < len(boxes) <= _MOST_LABELS and bool(np.median(boxes[:, 2:] - boxes[:, :2]) >= 1.5 * _LABEL)


def _scores(instances: Instances) -> NDArray[np.float32]:
    return np.zeros(0, np.float32) if instances.scores is None else instances.scores.detach().cpu().numpy()


def _score_colours(scores: NDArray[np.float32]) -> list[Colour]:
    """Blue for the lowest score shown, over green, to yellow for the highest."""
    low, high = (float(scores.min()), float(scores.max())) if len(scores) else (0.0, 1.0)
    shares = (scores - low) / max(high - low, 1e-6)
    rgb = matplotlib.colormaps["viridis"](0.25 + 0.75 * shares)[:, :3]
    return [(int(r), int(g), int(b)) for r, g, b in np.round(255 * rgb)]


_SAME_HUE = (None, "same hue: object and its detection")
_MARKS = [(RED, "missed"), (YELLOW, "false alarm"), (GREY, "ignored")]
Legend = Sequence[tuple[Colour | None, str]]


def _own_legend(scene: _Scene, head: Head) -> Legend:
    if head == "rpn":
        return _score_legend(scene)
    if scene.by_masks:
        return [(None, "each detection has a hue of its own")]
    colours, names = _class_colours(scene), scene.class_names or ()
    return list(zip(colours, names, strict=True))[:_MOST_CLASSES] if len(colours) > 1 else [(GREEN, "detection")]


def _proposal_legend(scene: _Scene) -> Legend:
    return [*_score_legend(scene), (WHITE, "object found"), (RED, "missed")]


def _score_legend(scene: _Scene) -> Legend:
    entries: list[tuple[Colour | None, str]] = []
    scores = _scores(scene.shown)
    if len(scores):
        steps = np.linspace(scores.max(), scores.min(), 4).astype(np.float32)
        # An RPN that has learnt gives its best proposals scores close to 1: as many digits as tell them apart.
        digits = next((n for n in (2, 3, 4) if len({f"{s:.{n}f}" for s in steps}) == len(steps)), 4)
        entries = [(c, f"score {s:.{digits}f}") for c, s in zip(_score_colours(steps), steps.tolist(), strict=True)]
    return entries


def _titles(scene: _Scene, head: Head, num_predicted: int, score_threshold: float) -> tuple[str, str]:
    matches = scene.matches
    counted = int((~matches.ignored).sum())
    missed = int(matches.missed.sum())
    left = f"Truth: {counted} objects, {missed} missed"
    if head == "rpn":
        right = f"RPN: best {len(scene.shown)} of {num_predicted} proposals, {counted - missed} objects found"
        return left, right
    hits, alarms = int(matches.hits.sum()), int(matches.false_alarms.sum())
    name = HEAD_NAMES[head]
    return left, f"{name}: {len(scene.shown)} detections ≥ {score_threshold:g}, {hits} right, {alarms} false alarms"


def _compose(panels: Sequence[Picture], titles: Sequence[str], legend: Legend) -> Picture:
    """The panels, of one size, side by side under their titles and over the legend."""
    height, width = panels[0].shape[:2]
    column = max(width, 400)
    size = int(np.clip(column // 44, 12, 22))
    bar = 2 * size
    sheet = Image.new("RGB", (len(panels) * (column + GAP) + GAP, height + 2 * bar), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for place, (panel, title) in enumerate(zip(panels, titles, strict=True)):
        x = GAP + place * (column + GAP)
        sheet.paste(Image.fromarray(panel), (x + (column - width) // 2, bar))
        draw.text((x, bar // 2), title, fill=WHITE, font=canvas.font(size), anchor="lm")
    x, y = float(GAP), height + bar + bar // 2
    for colour, text in legend:
        if colour is not None:
            draw.rectangle((x, y - size // 2, x + size, y + size // 2), fill=colour)
            x += 1.5 * size
        draw.text((x, y), text, fill=WHITE, font=canvas.font(size - 2), anchor="lm")
        x += draw.textlength(text, font=canvas.font(size - 2)) + 1.5 * size
    return np.asarray(sheet)
