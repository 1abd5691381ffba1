"""Images with ground truth and predictions side by side, for each of the three heads."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from maskrcnn.config import UserError
from maskrcnn.files import atomic_write
from maskrcnn.plotting import canvas
from maskrcnn.plotting.canvas import BACKGROUND, GRAY, GREEN, RED, WHITE, YELLOW, Color, Picture
from maskrcnn.plotting.matching import DetectionMatches, match_detections
from maskrcnn.structures.instances import Instances
from maskrcnn.text import format_count

Head = str  # "rpn", "faster_rcnn" or "mask_rcnn"

HEAD_NAMES = {"rpn": "RPN", "faster_rcnn": "Faster R-CNN", "mask_rcnn": "Mask R-CNN"}
PANEL_SIDE = 1024  # small images are enlarged by an integer factor to about this size (px)
GAP = 12
PICTURE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".tiff": "TIFF", ".webp": "WEBP"}
_MIN_TITLE = 9  # text height of titles that are too long (px)
_LABEL = 13  # text height of scores (px)
_MAX_LABELS = 64  # scores are shown if there are at most this many detections
_MAX_CLASSES = 12  # classes in a legend
_MIN_MARK_SIZE = 14.0


@dataclass(frozen=True)
class _Overlay:
    """Image and what to draw on it."""

    ground: Picture
    scale: int
    targets: Instances
    shown: Instances
    matches: DetectionMatches
    by_masks: bool
    class_names: Sequence[str] | None

    def boxes(self, instances: Instances) -> NDArray[np.float32]:
        """Return boxes in pixels of the panel, float32 `[N, 4]`."""
        return instances.boxes.detach().cpu().numpy().astype(np.float32) * self.scale

    @property
    def line(self) -> int:
        """Line width in pixels."""
        return 2 if self.scale >= 3 else 1


def render_prediction(
    image: torch.Tensor | NDArray[np.generic],
    targets: Instances,
    detections: Instances,
    head: Head,
    score_threshold: float = 0.5,
    class_names: Sequence[str] | None = None,
    max_proposals: int = 100,
) -> Picture:
    """Render ground truth on the left and predictions on the right, with counts above and a legend below.

    An object and its detection share a hue, false negatives are red, false positives yellow, ignored objects gray.
    Matches are at IoU .5 (of masks for Mask R-CNN), in descending order of score. Scores are shown if there is enough
    room. The RPN's best proposals are shown in colors by score, whatever the threshold. Dark images are brightened.

    Args:
        image: [C, H, W], uint8, uint16 or float; more than 8 bits are contrast-stretched, as the title notes.
        targets: objects of the image.
        detections: detections or proposals.
        head: "rpn", "faster_rcnn", or "mask_rcnn".
        score_threshold: minimum score of detections.
        class_names: names of the classes 1…K.
        max_proposals: maximum number of proposals; twice the number of objects if that is more.

    Returns:
        uint8 [H', W', 3].
    """
    scale = _compute_scale(image.shape[-2:])
    by_masks = head == "mask_rcnn" and targets.masks is not None and detections.masks is not None
    if by_masks:
        targets = targets.ignore_empty_masks()
    shown = _select_shown(detections, score_threshold, max(max_proposals, 2 * len(targets)) if head == "rpn" else None)
    matches = match_detections(targets, shown, by_masks=by_masks, class_agnostic=head == "rpn")
    ground = canvas.dim(canvas.brighten(canvas.to_picture(image, scale)), color=0.35 if by_masks else 0.8)
    overlay = _Overlay(ground, scale, targets, shown, matches, by_masks, class_names)
    if head == "rpn":
        right, legend = _draw_proposal_panel(overlay), _make_proposal_legend(overlay)
    elif by_masks:
        right, legend = _draw_mask_panel(overlay), [_SAME_HUE, *_MARKS]
    else:
        right, legend = _draw_box_panel(overlay), [(GREEN, "true positive"), *_MARKS]
    left = _draw_target_masks(overlay) if by_masks else _draw_target_boxes(overlay, WHITE if head == "rpn" else GREEN)
    titles = _make_titles(overlay, head, len(detections), score_threshold, canvas.describe_display(image))
    return _compose((left, right), titles, legend)


def render_detections(
    image: torch.Tensor | NDArray[np.generic],
    detections: Instances,
    head: Head,
    score_threshold: float | None = 0.5,
    class_names: Sequence[str] | None = None,
    title: str = "",
) -> Picture:
    """Render the detections in an image without ground truth, with the count above and a legend below.

    As the right half of `render_prediction`, but each detection has its own hue (masks), the hue of its class (boxes),
    or that of its score (RPN, whose proposals must also reach `score_threshold`).

    Args:
        image: [C, H, W], uint8, uint16 or float; more than 8 bits are contrast-stretched, as the title notes.
        detections: detections or proposals.
        head: "rpn", "faster_rcnn", or "mask_rcnn".
        score_threshold: minimum score; None: all are shown, and the count is without a threshold.
        class_names: names of the classes 1…K.
        title: text added to the count.

    Returns:
        uint8 [H', W', 3].
    """
    scale = _compute_scale(image.shape[-2:])
    by_masks = head == "mask_rcnn" and detections.masks is not None
    shown, no_targets = (
        _select_shown(detections, -math.inf if score_threshold is None else score_threshold, None),
        Instances.empty(detections.size, with_masks=True),
    )
    ground = canvas.dim(canvas.brighten(canvas.to_picture(image, scale)), color=0.35 if by_masks else 0.8)
    matches, names = match_detections(no_targets, shown), None if head == "rpn" else class_names
    overlay = _Overlay(ground, scale, no_targets, shown, matches, by_masks, names)
    colors = _choose_detection_colors(overlay, head)
    picture = _draw_detections(overlay, colors)
    count = format_count(len(shown), "proposals" if head == "rpn" else "detections")
    count += "" if score_threshold is None else f" ≥ {score_threshold:.3g}"
    parts = [f"{HEAD_NAMES[head]}: {count}", title, canvas.describe_display(image)]
    words = "  ·  ".join(filter(None, parts))
    if head != "rpn":
        picture = _draw_scores(picture, overlay, colors)
        words += "  ·  too many or too small for scores" * (len(shown) > 0 and not _has_room_for_scores(overlay))
    return _compose((picture,), (words,), _make_detection_legend(overlay, head))


def _compute_scale(size: Sequence[int]) -> int:
    """Compute the integer factor by which an image of `size` (H, W) is enlarged."""
    return int(np.clip(round(PANEL_SIDE / max(size)), 1, 12))


def save_picture(picture: Picture, path: str | os.PathLike[str]) -> None:
    """Write a picture, uint8 [H, W, 3], in the format of the file's suffix, complete or not at all.

    Raises:
        UserError: As `check_picture_path`.
    """
    check_picture_path(path)
    kind = PICTURE_FORMATS[Path(path).suffix.lower()]
    with atomic_write(path) as beside:
        Image.fromarray(picture).save(beside, format=kind, **({"compress_level": 4} if kind == "PNG" else {}))


def check_picture_path(path: str | os.PathLike[str]) -> None:
    """Raise `UserError` for a path with an unknown suffix, or in a folder that does not exist."""
    path = Path(path)
    if path.suffix.lower() not in PICTURE_FORMATS:
        raise UserError(f"{path}: unknown suffix of a picture; use one of {', '.join(PICTURE_FORMATS)}")
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}; create it, or choose another")


def _select_shown(detections: Instances, score_threshold: float, max_count: int | None) -> Instances:
    """Select the detections above the threshold, or the best `max_count` whatever their score, sorted by score."""
    if detections.scores is None:
        return detections
    scores = detections.scores.detach()
    order = torch.argsort(scores, descending=True, stable=True)
    order = order[scores[order] >= score_threshold] if max_count is None else order[:max_count]
    return detections[order]


def _draw_target_masks(overlay: _Overlay) -> Picture:
    picture = overlay.ground.copy()
    targets, matches = overlay.targets, overlay.matches
    assert targets.masks is not None
    colors = canvas.make_instance_colors(len(targets))
    for index in range(len(targets)):
        color = GRAY if matches.ignored_targets[index] else RED if matches.false_negatives[index] else colors[index]
        canvas.draw_mask(picture, targets.masks, index, color, overlay.scale, edge=overlay.line)
    _frame_objects(picture, overlay, targets, matches.false_negatives, RED)
    return picture


def _draw_mask_panel(overlay: _Overlay) -> Picture:
    picture = overlay.ground.copy()
    shown, matches = overlay.shown, overlay.matches
    assert shown.masks is not None and overlay.targets.masks is not None
    colors = _match_colors(overlay, canvas.make_instance_colors(len(overlay.targets)))
    for index in reversed(range(len(shown))):  # highest score on top
        canvas.draw_mask(picture, shown.masks, index, colors[index], overlay.scale, edge=overlay.line)
    for index in np.flatnonzero(matches.false_negatives).tolist():
        canvas.draw_mask(picture, overlay.targets.masks, index, RED, overlay.scale, fill=0, edge=overlay.line)
    if len(shown) <= _MAX_LABELS:
        for box, color in zip(overlay.boxes(shown), colors, strict=True):
            canvas.draw_box(picture, box, color, opacity=0.6)
    _frame_objects(picture, overlay, shown, matches.false_positives, YELLOW)
    return _draw_scores(picture, overlay, colors)


def _draw_detections(overlay: _Overlay, colors: Sequence[Color]) -> Picture:
    """Draw detections: masks, or boxes if there are no masks or nothing is left of a downscaled mask."""
    picture, masks = overlay.ground.copy(), overlay.shown.masks if overlay.by_masks else None
    areas = np.zeros(len(overlay.shown)) if masks is None else masks.areas().numpy()
    boxes = overlay.boxes(overlay.shown)
    for index in reversed(range(len(overlay.shown))):  # highest score on top
        if masks is not None and areas[index]:
            canvas.draw_mask(picture, masks, index, colors[index], overlay.scale, edge=overlay.line)
        else:
            canvas.draw_box(picture, boxes[index], colors[index], overlay.line)
    return picture


def _choose_detection_colors(overlay: _Overlay, head: Head) -> list[Color]:
    if head == "rpn":
        return _map_scores_to_colors(_get_scores(overlay.shown))
    if overlay.by_masks:
        return canvas.make_instance_colors(len(overlay.shown))
    palette = _make_class_colors(overlay)
    return [palette[min(label, len(palette)) - 1] for label in overlay.shown.labels.tolist()]


def _make_class_colors(overlay: _Overlay) -> list[Color]:
    """Make one color per class."""
    count = len(overlay.class_names or ())
    return canvas.make_instance_colors(count) if count > 1 else [GREEN]


def _draw_target_boxes(overlay: _Overlay, color: Color) -> Picture:
    picture = overlay.ground.copy()
    matches = overlay.matches
    for index, box in enumerate(overlay.boxes(overlay.targets)):
        canvas.draw_box(picture, box, GRAY if matches.ignored_targets[index] else color, overlay.line)
    _frame_objects(picture, overlay, overlay.targets, matches.false_negatives, RED)
    return picture


def _draw_box_panel(overlay: _Overlay) -> Picture:
    picture = overlay.ground.copy()
    colors = _match_colors(overlay, [GREEN] * len(overlay.targets))
    for box, color in reversed(list(zip(overlay.boxes(overlay.shown), colors, strict=True))):
        canvas.draw_box(picture, box, color, overlay.line)
    _frame_objects(picture, overlay, overlay.shown, overlay.matches.false_positives, YELLOW)
    _frame_objects(picture, overlay, overlay.targets, overlay.matches.false_negatives, RED, dash=4)
    return _draw_scores(picture, overlay, colors)


def _draw_proposal_panel(overlay: _Overlay) -> Picture:
    picture = overlay.ground.copy()
    boxes, colors = overlay.boxes(overlay.shown), _map_scores_to_colors(_get_scores(overlay.shown))
    for box, color in reversed(list(zip(boxes, colors, strict=True))):
        canvas.draw_box(picture, box, color, overlay.line)
    _frame_objects(picture, overlay, overlay.targets, overlay.matches.false_negatives, RED, dash=4)
    return picture


def _match_colors(overlay: _Overlay, target_colors: Sequence[Color]) -> list[Color]:
    """Color each detection like its ground truth, yellow if it is a false positive, gray if it is ignored."""
    matches = overlay.matches
    return [
        target_colors[index] if index >= 0 else GRAY if ignored else YELLOW
        for index, ignored in zip(matches.matched_target.tolist(), matches.ignored_detections.tolist(), strict=True)
    ]


def _frame_objects(
    picture: Picture, overlay: _Overlay, instances: Instances, chosen: NDArray[np.bool_], color: Color, dash: int = 0
) -> None:
    """Draw frames around the chosen objects, off their outlines and large enough to be visible for a single pixel."""
    for box in overlay.boxes(instances)[chosen]:
        frame = canvas.expand_box(box, overlay.line + 1 if overlay.by_masks else 0, _MIN_MARK_SIZE)
        canvas.draw_box(picture, frame, color, overlay.line + (not overlay.by_masks), dash=dash)


def _draw_scores(picture: Picture, overlay: _Overlay, colors: Sequence[Color]) -> Picture:
    """Write scores (and the classes, if there are several) above the boxes, unless there is too little room."""
    if not _has_room_for_scores(overlay):
        return picture
    boxes, labels = overlay.boxes(overlay.shown), []
    for box, score, label, color in zip(
        boxes, _get_scores(overlay.shown), overlay.shown.labels.tolist(), colors, strict=True
    ):
        text = f"{score:.2f}".removeprefix("0")
        if overlay.class_names is not None and len(overlay.class_names) > 1:
            text = f"{overlay.class_names[label - 1]} {text}"
        labels.append((text, float(box[0] + box[2]) / 2, float(box[1]), canvas.lighten(color)))
    return canvas.write_labels(picture, labels[::-1], _LABEL)


def _has_room_for_scores(overlay: _Overlay) -> bool:
    boxes = overlay.boxes(overlay.shown)
    return 0 < len(boxes) <= _MAX_LABELS and bool(np.median(boxes[:, 2:] - boxes[:, :2]) >= 1.5 * _LABEL)


def _get_scores(instances: Instances) -> NDArray[np.float32]:
    return np.zeros(0, np.float32) if instances.scores is None else instances.scores.detach().cpu().numpy()


def _map_scores_to_colors(scores: NDArray[np.float32]) -> list[Color]:
    """Map scores to colors, from blue for the lowest score over green to yellow for the highest."""
    low, high = (float(scores.min()), float(scores.max())) if len(scores) else (0.0, 1.0)
    positions = (scores - low) / max(high - low, 1e-6)
    rgb = matplotlib.colormaps["viridis"](0.25 + 0.75 * positions)[:, :3]
    return [(int(r), int(g), int(b)) for r, g, b in np.round(255 * rgb)]


_SAME_HUE = (None, "same hue: object and its detection")
_MARKS = [(RED, "missed"), (YELLOW, "false positive"), (GRAY, "ignored")]
Legend = Sequence[tuple[Color | None, str]]


def _make_detection_legend(overlay: _Overlay, head: Head) -> Legend:
    if head == "rpn":
        return _make_score_legend(overlay)
    if overlay.by_masks:
        return [(None, "each detection has its own hue")]
    colors, names = _make_class_colors(overlay), overlay.class_names or ()
    return list(zip(colors, names, strict=True))[:_MAX_CLASSES] if len(colors) > 1 else [(GREEN, "detection")]


def _make_proposal_legend(overlay: _Overlay) -> Legend:
    return [*_make_score_legend(overlay), (WHITE, "detected"), (RED, "missed")]


def _make_score_legend(overlay: _Overlay) -> Legend:
    entries: list[tuple[Color | None, str]] = []
    scores = _get_scores(overlay.shown)
    if len(scores):
        steps = np.linspace(scores.max(), scores.min(), 4).astype(np.float32)
        # The best proposals of a trained RPN have scores close to 1: use as many digits as needed to distinguish them.
        digits = next((n for n in (2, 3, 4) if len({f"{s:.{n}f}" for s in steps}) == len(steps)), 4)
        entries = [
            (c, f"score {s:.{digits}f}") for c, s in zip(_map_scores_to_colors(steps), steps.tolist(), strict=True)
        ]
    return entries


def _make_titles(
    overlay: _Overlay, head: Head, num_detections: int, score_threshold: float, display: str
) -> tuple[str, str]:
    matches = overlay.matches
    counted = int((~matches.ignored_targets).sum())
    missed = int(matches.false_negatives.sum())
    ignored = [int(each.sum()) for each in (matches.ignored_targets, matches.ignored_detections)]
    not_counted = [f", {count} ignored" * bool(count) for count in ignored]
    objects = f"{format_count(counted, 'objects')}, {missed:,} missed{not_counted[0]}"
    left = f"Ground truth: {objects}{f'  ·  {display}' if display else ''}"
    if head == "rpn":
        detected = format_count(counted - missed, "objects")
        return left, f"RPN: best {len(overlay.shown):,} of {num_detections:,} proposals, {detected} detected"
    true_positives, num_false_positives = int(matches.true_positives.sum()), int(matches.false_positives.sum())
    correct = f"{true_positives} correct ({'mask' if overlay.by_masks else 'box'} IoU ≥ .5)"
    wrong = format_count(num_false_positives, "false positives")
    shown = f"{format_count(len(overlay.shown), 'detections')} ≥ {score_threshold:.3g}"
    return left, f"{HEAD_NAMES[head]}: {shown}, {correct}, {wrong}{not_counted[1]}"


def _compose(panels: Sequence[Picture], titles: Sequence[str], legend: Legend) -> Picture:
    """Arrange panels of equal size side by side, with titles above and the legend below."""
    height, width = panels[0].shape[:2]
    column = max(width, 400)
    size = int(np.clip(column // 44, 12, 22))
    bar = 2 * size
    sheet = Image.new("RGB", (len(panels) * (column + GAP) + GAP, height + 2 * bar), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for place, (panel, title) in enumerate(zip(panels, titles, strict=True)):
        x = GAP + place * (column + GAP)
        sheet.paste(Image.fromarray(panel), (x + (column - width) // 2, bar))
        fitting = size
        while fitting > _MIN_TITLE and draw.textlength(title, font=canvas.load_font(fitting)) > column:
            fitting -= 1
        draw.text((x, bar // 2), title, fill=WHITE, font=canvas.load_font(fitting), anchor="lm")
    x, y = float(GAP), height + bar + bar // 2
    for color, text in legend:
        if color is not None:
            draw.rectangle((x, y - size // 2, x + size, y + size // 2), fill=color)
            x += 1.5 * size
        draw.text((x, y), text, fill=WHITE, font=canvas.load_font(size - 2), anchor="lm")
        x += draw.textlength(text, font=canvas.load_font(size - 2)) + 1.5 * size
    return np.asarray(sheet)
