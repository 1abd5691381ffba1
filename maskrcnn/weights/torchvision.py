"""Weights of torchvision's Mask R-CNN and Faster R-CNN with ResNet-50-FPN."""

import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from maskrcnn.config import UserError
from maskrcnn.files import check_archive
from maskrcnn.model.detector import Detector
from maskrcnn.text import format_count
from maskrcnn.weights.classes import match_classes

# torchvision's name → our name; the names of the backbone are the same. The published files are older than the current
# names of torchvision and use `rpn.head.conv`, `mask_fcn1` to `mask_fcn4`, and `inner_blocks.0.weight`.
RENAMES = (
    (r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)", r"\1.0.\2"),
    (r"rpn\.head\.conv\.(\d+)\.0\.(.+)", r"rpn.convs.\1.\2"),
    (r"rpn\.head\.conv\.(weight|bias)", r"rpn.convs.0.\1"),
    (r"rpn\.head\.cls_logits\.(.+)", r"rpn.objectness.\1"),
    (r"rpn\.head\.bbox_pred\.(.+)", r"rpn.deltas.\1"),
    (r"roi_heads\.box_head\.fc6\.(.+)", r"box_head.layers.0.\1"),
    (r"roi_heads\.box_head\.fc7\.(.+)", r"box_head.layers.1.\1"),
    (r"roi_heads\.box_predictor\.cls_score\.(.+)", r"box_head.classes.\1"),
    (r"roi_heads\.box_predictor\.bbox_pred\.(.+)", r"box_head.deltas.\1"),
    (r"roi_heads\.mask_head\.(\d+)\.0\.(.+)", r"mask_head.convs.\1.0.\2"),
    (r"roi_heads\.mask_head\.mask_fcn(\d+)\.(.+)", lambda m: f"mask_head.convs.{int(m[1]) - 1}.0.{m[2]}"),
    (r"roi_heads\.mask_predictor\.conv5_mask\.(.+)", r"mask_head.upsample.\1"),
    (r"roi_heads\.mask_predictor\.mask_fcn_logits\.(.+)", r"mask_head.logits.\1"),
)
COUNTER = "num_batches_tracked"  # only in ordinary batch normalization; results do not depend on it


def load_torchvision(
    detector: Detector, source: str | Path | Mapping[str, Tensor], class_names: Sequence[str] | None = None
) -> str | None:
    """Load weights of torchvision's model to a detector of the preset `torchvision`.

    Args:
        detector: detector with the head "mask_rcnn" for `maskrcnn_resnet50_fpn` or "faster_rcnn" for
            `fasterrcnn_resnet50_fpn`, and the same number of classes (torchvision counts the background, the detector
            does not) unless `class_names` are given.
        source: state dict, or path of a file with one, which is loaded without executing code from it.
        class_names: names of the detector's classes. If they differ from those of the weights, layers that depend on
            the classes are matched by name (weights with 90 classes are assumed to be for COCO) or left out.

    Returns:
        A line about what was matched and left out; None if all layers were loaded.

    Raises:
        UserError: If the file cannot be read, or a layer differs; names the first one in the order of the network.
    """
    where = "the state dict" if isinstance(source, Mapping) else str(source)
    state = source if isinstance(source, Mapping) else _read(Path(source))
    loaded = {rename(name): value for name, value in state.items() if not name.endswith(COUNTER)}
    own = detector.state_dict()
    note = None
    if class_names is not None:
        loaded, note = match_classes(own, loaded, _coco_names(loaded), class_names)
    _check({rename(name): name for name in state}, loaded, detector, where)
    counters = {rename(name): value for name, value in state.items() if name.endswith(COUNTER)}
    kept = {name: counters.get(name, value) for name, value in own.items() if name.endswith(COUNTER)}
    detector.load_state_dict({**loaded, **kept})
    return note


def _coco_names(loaded: Mapping[str, Tensor]) -> Sequence[str] | None:
    """Return the names of COCO's 90 category ids, including gaps, if the weights have 90 classes."""
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

    names: list[str] = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"][1:]
    return names if len(loaded.get("box_head.classes.bias", ())) == len(names) + 1 else None


def rename(name: str) -> str:
    """Convert torchvision's name of a parameter or buffer to ours; other names are unchanged."""
    for pattern, replacement in RENAMES:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    return name


def _read(path: Path) -> Mapping[str, Tensor]:
    if zipfile.is_zipfile(path):  # files of early versions of torchvision are not ZIP files
        check_archive(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # torch.load warns about unknown magic bytes
            state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # invalid files can raise any error
        raise UserError(f"{path}: is not a file of weights, or is damaged") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path}: is not a state dict of tensors; save model.state_dict()")
    return state


def _check(names: Mapping[str, str], loaded: Mapping[str, Tensor], detector: Detector, where: str) -> None:
    """Raise UserError for the first layer that differs; `names` maps our names to those of torchvision."""
    own = {name: value for name, value in detector.state_dict().items() if not name.endswith(COUNTER)}
    for name in [*own, *loaded]:
        if name not in own or name not in loaded or own[name].shape != loaded[name].shape:
            sides = (f"{_shape(loaded, name)} in {where}", f"{_shape(own, name)} in the detector")
            raise UserError(
                f"layer {names.get(name, name)} is {' and '.join(sides)}; these weights fit the preset 'torchvision' "
                f"with the head and the number of classes they were trained for{_trained_for(loaded)}"
            )


def _shape(state: Mapping[str, Tensor], name: str) -> str:
    return str(list(state[name].shape)) if name in state else "missing"


def _trained_for(loaded: Mapping[str, Tensor]) -> str:
    """Describe the head and the number of classes of the weights."""
    if "box_head.classes.bias" not in loaded:
        return ""
    head = "mask_rcnn" if "mask_head.logits.bias" in loaded else "faster_rcnn"
    return f": {head}, {format_count(len(loaded['box_head.classes.bias']) - 1, 'classes')} without the background"
