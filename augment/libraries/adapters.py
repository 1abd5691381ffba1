"""Augmenters of imgaug, torchvision, and Albumentations as transforms of samples.

    ImgAug(iaa.Affine(rotate=(-45, 45)))
    TorchVision(v2.ColorJitter(brightness=0.3))
    Albumentations(A.RandomRotate90())
    from_text("imgaug.Sequential([imgaug.Fliplr(0.5), imgaug.GaussianBlur((0, 1.0))])")

Image, boxes, and a field of coordinates are passed to the library together; masks are then sampled from the transformed
field (`coordinates.py`), so they keep soft levels and need no dense stack. Objects with nothing left are dropped;
labels, ignore flags, and ids are kept. Ground-truth boxes of objects with masks follow the transformed masks and keep
their margins; other boxes are the library's, clipped to the image. All randomness comes from the given generator;
global random states are unchanged. A library is imported when its first transform is created. Samples must be on the
CPU.

Limitations:

- No library treats truncated objects: `maskrcnn.structures.warping.Edges` does not apply.
- *imgaug* works on uint8: float images are rounded to 1/255 unless nothing changes. Copies of objects in an image that
  is repeated or mirrored beyond its edge are not labeled. Jigsaw pads images but not masks (`UserError`) if its grid
  does not divide them. ElasticTransformation takes 2 ms per box without a mask, as it moves boxes point by point.
- *torchvision* does not support boxes, and so samples, in RandAugment and similar transforms, and in Pad with
  reflection.
- *Albumentations* duplicates objects when it mirrors the image or shuffles a grid: each piece is an object with the id
  of its original. Transforms that depend on the contents of masks (MaskDropout, CropNonEmptyMaskIfExists) or change
  their outlines (Morphological) see the field, not the objects: do not use them.
- Boxes without masks are the bounding boxes of the transformed corners, so they are looser than those from masks.
  Nearest-neighbor resizing, in imgaug and Albumentations, shifts image and masks by up to half a pixel of the smaller
  grid relative to boxes.
"""

import copy
import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from augment.libraries.coordinates import estimate_local_maps, make_coordinate_field, move_masks
from augment.libraries.imports import check_augmenter_type, import_library, parse_augmenter
from maskrcnn.config import UserError
from maskrcnn.ops.windows import window_pixels
from maskrcnn.structures.affine import map_margins
from maskrcnn.structures.boxes import clip_boxes
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks
from maskrcnn.structures.pixels import to_float, to_uint8
from maskrcnn.structures.warping import Sample, add_margins, check_sizes, compute_margins


class _Augmented(NamedTuple):
    """Result of a library: image `[C, H, W]`, boxes `[M, 4]`, indices of the kept objects, transformed field."""

    image: Tensor
    boxes: Tensor
    kept: Tensor
    field: Tensor | None


# ---- the libraries


@dataclass(frozen=True)
class ImgAug:
    """Transform by an imgaug augmenter (`pip install -e '.[imgaug]'`); equal only to itself.

    Args:
        augmenter: an `imgaug.augmenters.Augmenter`.

    Raises:
        UserError: If imgaug is not installed, or `augmenter` is not one of its augmenters.
    """

    augmenter: Any

    def __post_init__(self) -> None:
        check_augmenter_type("imgaug", self.augmenter)

    def __call__(self, image: Tensor, instances: Instances, generator: Generator) -> Sample:
        """Transform an image `[C, H, W]`, uint8 or float32 in [0, 1], and its objects."""
        check_sizes(image, instances)
        augmenter = copy.deepcopy(self.augmenter)  # so that the original keeps its state
        augmenter.seed_(entropy=_draw_seed(generator))
        with_boxes = instances.masks is None or instances.scores is not None or self._drops_objects()
        pixels = image if image.dtype == torch.uint8 else to_uint8(image)
        batch = augmenter(**_make_imgaug_batch(pixels, instances, with_boxes), return_batch=True)
        moved = _from_array(batch.images_aug[0])
        if image.dtype != torch.uint8:  # do not round an unchanged image
            moved = image if torch.equal(moved, pixels) else to_float(moved)
        field = None if instances.masks is None else _from_array(batch.heatmaps_aug[0].arr_0to1)
        boxes, kept = instances.boxes, torch.arange(len(instances))
        if with_boxes:
            boxes, kept = _read_imgaug_boxes(batch.bounding_boxes_aug[0])
        return _finish(_Augmented(moved, boxes, kept, field), instances, len(image))

    def _drops_objects(self) -> bool:
        """Return whether the augmenter removes objects by their boxes; if not, objects with masks need no boxes."""
        parts = [self.augmenter, *self.augmenter.get_all_children(flat=True)]
        return any(type(part).__name__.startswith("RemoveCBAs") for part in parts)


def _make_imgaug_batch(pixels: Tensor, instances: Instances, with_boxes: bool) -> dict[str, Any]:
    bbs = importlib.import_module("imgaug.augmentables.bbs")
    heatmaps = importlib.import_module("imgaug.augmentables.heatmaps")
    array = _to_array(pixels)
    batch: dict[str, Any] = {"images": [array]}
    if instances.masks is not None:  # heatmaps are interpolated linearly, segmentation maps are not
        batch["heatmaps"] = [heatmaps.HeatmapsOnImage(_to_array(make_coordinate_field(instances.size)), array.shape)]
    if with_boxes:
        boxes = [bbs.BoundingBox(*box, label=str(i)) for i, box in enumerate(instances.boxes.tolist())]
        batch["bounding_boxes"] = [bbs.BoundingBoxesOnImage(boxes, array.shape)]
    return batch


def _read_imgaug_boxes(moved: Any) -> tuple[Tensor, Tensor]:
    boxes = torch.tensor([[box.x1, box.y1, box.x2, box.y2] for box in moved.bounding_boxes], dtype=torch.float32)
    return boxes.reshape(-1, 4), torch.tensor([int(box.label) for box in moved.bounding_boxes], dtype=torch.int64)


@dataclass(frozen=True)
class TorchVision:
    """Transform by a transform of `torchvision.transforms.v2`; equal only to itself.

    Args:
        transform: a `torchvision.transforms.v2.Transform`; those of `torchvision.transforms` do not support masks.

    Raises:
        UserError: If `transform` is of another type.
    """

    transform: Any

    def __post_init__(self) -> None:
        check_augmenter_type("torchvision", self.transform)

    def __call__(self, image: Tensor, instances: Instances, generator: Generator) -> Sample:
        """Transform an image `[C, H, W]`, uint8 or float32 in [0, 1], and its objects."""
        check_sizes(image, instances)
        seed = _draw_seed(generator)
        sample = _make_torchvision_sample(image, instances)
        with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
            torch.default_generator.manual_seed(seed)
            sample = self.transform(sample)
        field = None if instances.masks is None else sample["field"].as_subclass(Tensor)
        boxes = sample["boxes"]
        if getattr(boxes, "format", None) is not None:
            functional = importlib.import_module("torchvision.transforms.v2.functional")
            boxes = functional.convert_bounding_box_format(boxes, new_format="XYXY")
        return _finish(
            _Augmented(sample["image"], boxes.as_subclass(Tensor), sample["labels"], field), instances, len(image)
        )


def _make_torchvision_sample(image: Tensor, instances: Instances) -> dict[str, Any]:
    tv_tensors = importlib.import_module("torchvision.tv_tensors")
    boxes = tv_tensors.BoundingBoxes(instances.boxes.clone(), format="XYXY", canvas_size=instances.size)
    # SanitizeBoundingBoxes removes the same entries from the boxes and from "labels".
    sample = {"image": tv_tensors.Image(image.clone()), "boxes": boxes, "labels": torch.arange(len(instances))}
    if instances.masks is not None:
        sample["field"] = make_coordinate_field(instances.size).as_subclass(_make_soft_mask_type())
    return sample


@cache
def _make_soft_mask_type() -> Any:
    """Create a torchvision Mask type with linear interpolation, where Mask has only nearest, and without filling."""
    tv_tensors = importlib.import_module("torchvision.tv_tensors")
    functional = importlib.import_module("torchvision.transforms.v2.functional")

    def keep_all(mask: Any, valid: Any) -> Any:  # SanitizeBoundingBoxes expects one mask per object
        return mask

    soft_mask = type("SoftMask", (tv_tensors.Mask,), {"__getitem__": keep_all})
    functional.register_kernel("to_dtype", soft_mask)(lambda mask, *args, **kwargs: mask)
    for name in ("affine", "elastic", "pad", "perspective", "resize", "resized_crop", "rotate"):
        kernel = getattr(functional, f"{name}_image")
        functional.register_kernel(name, soft_mask)(_force_bilinear(kernel, tv_tensors.wrap))
    return soft_mask


def _force_bilinear(kernel: Callable[..., Tensor], wrap: Callable[..., Tensor]) -> Callable[..., Tensor]:
    from torchvision.transforms import InterpolationMode

    wanted = {
        "interpolation": InterpolationMode.BILINEAR,
        "antialias": False,
        "fill": None,
        "padding_mode": "constant",  # otherwise masks would include mirror images of their objects
    }

    def run(mask: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        kwargs.update({name: value for name, value in wanted.items() if name in kwargs})
        return wrap(kernel(mask.as_subclass(Tensor), *args, **kwargs), like=mask)

    return run


@dataclass(frozen=True)
class Albumentations:
    """Transform by an Albumentations transform (`pip install albumentations`; not a dependency).

    The limits on boxes in the `bbox_params` of an `A.Compose` are kept; its format and label fields are replaced.

    Args:
        transform: an Albumentations transform or composition.

    Raises:
        UserError: If Albumentations is not installed, or `transform` is not one of its transforms.
    """

    transform: Any

    def __post_init__(self) -> None:
        check_augmenter_type("albumentations", self.transform)

    def __call__(self, image: Tensor, instances: Instances, generator: Generator) -> Sample:
        """Transform an image `[C, H, W]`, uint8 or float32 in [0, 1], and its objects."""
        check_sizes(image, instances)
        compose = _make_albumentations_compose(copy.deepcopy(self.transform))  # so that the original keeps its state
        compose.set_random_seed(_draw_seed(generator))
        sample: dict[str, Any] = {"image": _to_array(image), "bboxes": instances.boxes.numpy().copy()}
        sample["numbers"] = np.arange(len(instances))
        if instances.masks is not None:
            sample["mask"] = _to_array(make_coordinate_field(instances.size))
        sample = compose(**sample)
        boxes = torch.from_numpy(np.asarray(sample["bboxes"], dtype=np.float32).reshape(-1, 4))
        kept = torch.from_numpy(np.asarray(sample["numbers"], dtype=np.int64))
        pixels = sample["image"]
        pixels = pixels if isinstance(pixels, Tensor) else _from_array(pixels)
        field = None if instances.masks is None else _from_array(np.asarray(sample["mask"]))
        return _finish(_Augmented(pixels, boxes, kept, field), instances, len(image))


def _make_albumentations_compose(transform: Any) -> Any:
    """Wrap a transform in a composition with our box format, its own box limits, and linear interpolation of masks."""
    library = import_library("albumentations")
    names = ("min_area", "min_visibility", "min_width", "min_height", "max_accept_ratio", "check_each_transform")
    given = getattr(transform, "processors", {}).get("bboxes")
    limits = {} if given is None else {name: getattr(given.params, name) for name in names}
    params = library.BboxParams("pascal_voc", ["numbers"], clip=True, filter_invalid_bboxes=True, **limits)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Got processor for bboxes")  # pixel-level transforms
        return library.Compose([transform], bbox_params=params, mask_interpolation=1)  # cv2.INTER_LINEAR


# ---- shared


def _draw_seed(generator: Generator) -> int:
    return int(torch.randint(2**31 - 1, (), generator=generator))


def _to_array(pixels: Tensor) -> Any:
    """Convert `[C, H, W]` to a new array `[H, W, C]`."""
    return np.array(pixels.permute(1, 2, 0).numpy(), order="C")


def _from_array(pixels: Any) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).contiguous()


def _finish(moved: _Augmented, instances: Instances, channels: int) -> Sample:
    """Build the sample from a library's result; drop objects with nothing left."""
    image = _validate_image(moved.image, channels)
    size = (int(image.shape[1]), int(image.shape[2]))
    kept = instances[moved.kept]
    boxes, masks = clip_boxes(moved.boxes.float(), size), None
    if kept.masks is not None and moved.field is not None:
        masks = _move_masks(kept.masks, moved.field, size)
        if len(moved.kept.unique()) < len(moved.kept):  # mirrored copies have separate boxes but share a mask
            masks = _crop_to_boxes(masks, boxes)
        if instances.scores is None:
            shrunk_away = kept.has_mask() & ~(masks.areas() > 0)
            boxes = torch.where(shrunk_away[:, None], 0.0, _follow_masks(kept, masks, moved.field, boxes))
    present = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    return image, replace(kept, size=size, boxes=boxes, masks=masks)[present]


def _follow_masks(before: Instances, masks: CroppedMasks, field: Tensor, others: Tensor) -> Tensor:
    """Return the boxes of the transformed masks plus their margins, and `others` for empty masks."""
    margins = compute_margins(before)
    if margins.any():
        margins = map_margins(estimate_local_maps(field, masks, before.size), margins)
    return add_margins(masks, margins, others)


def _move_masks(masks: CroppedMasks, field: Tensor, size: tuple[int, int]) -> CroppedMasks:
    """Transform masks to an image of the new size; unchanged if the field is unchanged."""
    height, width = field.shape[1:]
    if (height, width) != size:
        raise UserError(
            f"the augmenter returned an image of {size[0]} x {size[1]} but masks of {height} x {width} pixels: "
            "it cannot be used with masks"
        )
    if (height, width) == masks.size and torch.equal(field, make_coordinate_field(masks.size)):
        return masks
    return move_masks(masks, field)


def _crop_to_boxes(masks: CroppedMasks, boxes: Tensor) -> CroppedMasks:
    owner, x, y = window_pixels(masks.windows)
    x1, y1, x2, y2 = boxes[owner].unbind(1)
    inside = (x + 1 > x1) & (x < x2) & (y + 1 > y1) & (y < y2)
    return replace(masks, data=masks.data * inside)


def _validate_image(image: Any, channels: int) -> Tensor:
    """Return an image `[channels, H, W]`, uint8 or float32 in [0, 1]; one channel is repeated."""
    if not isinstance(image, Tensor) or image.ndim != 3 or image.shape[0] not in (1, channels):
        got = getattr(image, "shape", type(image).__name__)
        raise UserError(f"the augmenter returned {got}, not [{channels}, H, W]")
    image = image.as_subclass(Tensor).expand(channels, -1, -1).contiguous()
    if image.dtype == torch.uint8:
        return image
    low, high = image.aminmax()
    if low < -0.5 or high > 1.5:  # more than interpolation overshoots
        raise UserError(
            f"the augmenter returned values in {float(low):.2f}..{float(high):.2f}, not [0, 1]: "
            "remove normalization, the detector normalizes images"
        )
    return image.float().clamp(0, 1)


# ---- from text


def from_text(text: str) -> ImgAug | TorchVision | Albumentations:
    """Create a transform from text such as `torchvision.ColorJitter(brightness=0.3)`.

    The text is a call of a class of imgaug, torchvision (transforms.v2), or albumentations; arguments are numbers,
    strings, True, False, None, tuples, lists, and dicts of these, and calls of the same library. Nothing is evaluated.

    Args:
        text: the call.

    Returns:
        The transform.

    Raises:
        UserError: If the text is not such a call, the library or class does not exist, or the class rejects the
            arguments (includes its message); one line.
    """
    library, augmenter = parse_augmenter(text)
    return _TRANSFORMS[library](augmenter)


_TRANSFORMS: dict[str, type[ImgAug] | type[TorchVision] | type[Albumentations]] = {
    "imgaug": ImgAug,
    "torchvision": TorchVision,
    "albumentations": Albumentations,
}
