"""Augmenters of imgaug, torchvision and Albumentations as transforms of samples.

    ImgAug(iaa.Affine(rotate=(-45, 45)))
    TorchVision(v2.ColorJitter(brightness=0.3))
    Albumentations(A.RandomRotate90())
    from_text("imgaug.Sequential([imgaug.Fliplr(0.5), imgaug.GaussianBlur((0, 1.0))])")

Image, boxes and a field of coordinates go through the library together; masks are then looked up in the moved field
(`coordinates.py`), so they keep soft levels and cost no dense stack. Objects of which nothing is left are dropped;
labels, ignore and ids follow the others. Ground-truth boxes follow the moved masks where there are any, with the
margins that they had; other boxes are the library's own, clipped to the image. All randomness comes from the given
generator, the global states stay as they are. A library is imported when its first transform is made. Samples lie on
the CPU.

What else they do to a sample:

- All leave what they cut as it is, however little is left: `augment.geometry.Edges` do not reach here.
- *imgaug* works on uint8: float images are rounded to 1/255, unless nothing changes. Where it repeats or mirrors an
  image beyond its edge, the copies of objects that show there are not labelled. Jigsaw pads images but not masks
  (UserError) where its grid does not divide them. Boxes without masks cost 2 ms each in ElasticTransformation, which
  moves them point by point.
- *torchvision* refuses boxes, and so samples, in RandAugment and its like and in Pad by mirroring.
- *Albumentations* repeats objects where it mirrors the image or shuffles a grid: each piece is an object with the
  number of its original. Transforms that choose by what masks hold (MaskDropout, CropNonEmptyMaskIfExists) or change
  their outline (Morphological) see the field, not the objects: do not use them here.
- Boxes without masks are those of the turned or bent corners, so they are looser than those of masks. Nearest
  resizing, in imgaug and Albumentations, shifts image and masks by up to half a pixel of the smaller grid against
  boxes.
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

from augment.affine import map_margins
from augment.geometry import Sample, boxes_with_margins, check_sizes, margins_of
from augment.libraries.coordinates import coordinate_field, local_maps, move_masks
from augment.libraries.imports import augmenter_from_text, check_made_by, load
from augment.values import as_bytes, as_float
from maskrcnn.config import UserError
from maskrcnn.ops.reference_masks import window_pixels
from maskrcnn.structures.boxes import clip_boxes
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks


class _Moved(NamedTuple):
    """What a library gives back: image `[3, H, W]`, boxes `[M, 4]`, which objects they are, and the moved field."""

    image: Tensor
    boxes: Tensor
    kept: Tensor
    field: Tensor | None


# ---- the libraries


@dataclass(frozen=True)
class ImgAug:
    """A transform that is an imgaug augmenter (`pip install -e '.[imgaug]'`); equal only to itself, not to a copy.

    Raises UserError when imgaug is missing, or `augmenter` is none of its augmenters.
    """

    augmenter: Any

    def __post_init__(self) -> None:
        check_made_by("imgaug", self.augmenter)

    def __call__(self, image: Tensor, instances: Instances, generator: Generator) -> Sample:
        """Image `[3, H, W]` uint8 or float32 in [0, 1] and its objects, changed."""
        check_sizes(image, instances, channels=3)
        augmenter = copy.deepcopy(self.augmenter)  # the given one keeps its state
        augmenter.seed_(entropy=_draw_seed(generator))
        with_boxes = instances.masks is None or instances.scores is not None or self._drops_objects()
        pixels = image if image.dtype == torch.uint8 else as_bytes(image)
        batch = augmenter(**_imgaug_batch(pixels, instances, with_boxes), return_batch=True)
        moved = _from_array(batch.images_aug[0])
        if image.dtype != torch.uint8:  # an image left alone is not rounded either
            moved = image if torch.equal(moved, pixels) else as_float(moved)
        field = None if instances.masks is None else _from_array(batch.heatmaps_aug[0].arr_0to1)
        boxes, kept = instances.boxes, torch.arange(len(instances))
        if with_boxes:
            boxes, kept = _imgaug_boxes(batch.bounding_boxes_aug[0])
        return _finish(_Moved(moved, boxes, kept, field), instances)

    def _drops_objects(self) -> bool:
        """Whether it removes objects by their boxes; if not, those of objects with masks need not be moved."""
        parts = [self.augmenter, *self.augmenter.get_all_children(flat=True)]
        return any(type(part).__name__.startswith("RemoveCBAs") for part in parts)


def _imgaug_batch(pixels: Tensor, instances: Instances, with_boxes: bool) -> dict[str, Any]:
    bbs = importlib.import_module("imgaug.augmentables.bbs")
    heatmaps = importlib.import_module("imgaug.augmentables.heatmaps")
    array = _to_array(pixels)
    batch: dict[str, Any] = {"images": [array]}
    if instances.masks is not None:  # heatmaps are moved linearly, segmentation maps to the nearest pixel
        batch["heatmaps"] = [heatmaps.HeatmapsOnImage(_to_array(coordinate_field(instances.size)), array.shape)]
    if with_boxes:
        boxes = [bbs.BoundingBox(*box, label=str(i)) for i, box in enumerate(instances.boxes.tolist())]
        batch["bounding_boxes"] = [bbs.BoundingBoxesOnImage(boxes, array.shape)]
    return batch


def _imgaug_boxes(moved: Any) -> tuple[Tensor, Tensor]:
    boxes = torch.tensor([[box.x1, box.y1, box.x2, box.y2] for box in moved.bounding_boxes], dtype=torch.float32)
    return boxes.reshape(-1, 4), torch.tensor([int(box.label) for box in moved.bounding_boxes], dtype=torch.int64)


@dataclass(frozen=True)
class TorchVision:
    """A transform that is one of `torchvision.transforms.v2`; equal only to itself, not to a copy.

    Raises UserError when `transform` is none of them; those of `torchvision.transforms` know no masks.
    """

    transform: Any

    def __post_init__(self) -> None:
        check_made_by("torchvision", self.transform)

    def __call__(self, image: Tensor, instances: Instances, generator: Generator) -> Sample:
        """Image `[3, H, W]` uint8 or float32 in [0, 1] and its objects, changed."""
        check_sizes(image, instances, channels=3)
        seed = _draw_seed(generator)
        sample = _torchvision_sample(image, instances)
        with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
            torch.default_generator.manual_seed(seed)
            sample = self.transform(sample)
        field = None if instances.masks is None else sample["field"].as_subclass(Tensor)
        boxes = sample["boxes"]
        if getattr(boxes, "format", None) is not None:
            functional = importlib.import_module("torchvision.transforms.v2.functional")
            boxes = functional.convert_bounding_box_format(boxes, new_format="XYXY")
        return _finish(_Moved(sample["image"], boxes.as_subclass(Tensor), sample["labels"], field), instances)


def _torchvision_sample(image: Tensor, instances: Instances) -> dict[str, Any]:
    tv_tensors = importlib.import_module("torchvision.tv_tensors")
    boxes = tv_tensors.BoundingBoxes(instances.boxes.clone(), format="XYXY", canvas_size=instances.size)
    # What SanitizeBoundingBoxes removes from the boxes it also removes from "labels".
    sample = {"image": tv_tensors.Image(image.clone()), "boxes": boxes, "labels": torch.arange(len(instances))}
    if instances.masks is not None:
        sample["field"] = coordinate_field(instances.size).as_subclass(_soft_mask_type())
    return sample


@cache
def _soft_mask_type() -> Any:
    """A torchvision Mask that is moved linearly, to the nearest pixel being all that a Mask can, and never filled."""
    tv_tensors = importlib.import_module("torchvision.tv_tensors")
    functional = importlib.import_module("torchvision.transforms.v2.functional")

    def keep_all(mask: Any, valid: Any) -> Any:  # SanitizeBoundingBoxes takes it for a stack of one mask an object
        return mask

    soft_mask = type("SoftMask", (tv_tensors.Mask,), {"__getitem__": keep_all})
    functional.register_kernel("to_dtype", soft_mask)(lambda mask, *args, **kwargs: mask)
    for name in ("affine", "elastic", "pad", "perspective", "resize", "resized_crop", "rotate"):
        kernel = getattr(functional, f"{name}_image")
        functional.register_kernel(name, soft_mask)(_linear(kernel, tv_tensors.wrap))
    return soft_mask


def _linear(kernel: Callable[..., Tensor], wrap: Callable[..., Tensor]) -> Callable[..., Tensor]:
    from torchvision.transforms import InterpolationMode

    wanted = {
        "interpolation": InterpolationMode.BILINEAR,
        "antialias": False,
        "fill": None,
        "padding_mode": "constant",  # else a mask would hold its object and the mirror image of it
    }

    def run(mask: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        kwargs.update({name: value for name, value in wanted.items() if name in kwargs})
        return wrap(kernel(mask.as_subclass(Tensor), *args, **kwargs), like=mask)

    return run


@dataclass(frozen=True)
class Albumentations:
    """A transform that is one of Albumentations (`pip install albumentations`; not a dependency).

    The limits on boxes that the `bbox_params` of an `A.Compose` sets are kept; format and labels are ours.
    Raises UserError when Albumentations is missing, or `transform` is none of its transforms.
    """

    transform: Any

    def __post_init__(self) -> None:
        check_made_by("albumentations", self.transform)

    def __call__(self, image: Tensor, instances: Instances, generator: Generator) -> Sample:
        """Image `[3, H, W]` uint8 or float32 in [0, 1] and its objects, changed."""
        check_sizes(image, instances, channels=3)
        compose = _albumentations_compose(copy.deepcopy(self.transform))  # the given one keeps its state
        compose.set_random_seed(_draw_seed(generator))
        sample: dict[str, Any] = {"image": _to_array(image), "bboxes": instances.boxes.numpy().copy()}
        sample["numbers"] = np.arange(len(instances))
        if instances.masks is not None:
            sample["mask"] = _to_array(coordinate_field(instances.size))
        sample = compose(**sample)
        boxes = torch.from_numpy(np.asarray(sample["bboxes"], dtype=np.float32).reshape(-1, 4))
        kept = torch.from_numpy(np.asarray(sample["numbers"], dtype=np.int64))
        pixels = sample["image"]
        pixels = pixels if isinstance(pixels, Tensor) else _from_array(pixels)
        field = None if instances.masks is None else _from_array(np.asarray(sample["mask"]))
        return _finish(_Moved(pixels, boxes, kept, field), instances)


def _albumentations_compose(transform: Any) -> Any:
    """Around the transform: our boxes with its limits, and masks moved linearly."""
    library = load("albumentations")
    names = ("min_area", "min_visibility", "min_width", "min_height", "max_accept_ratio", "check_each_transform")
    given = getattr(transform, "processors", {}).get("bboxes")
    limits = {} if given is None else {name: getattr(given.params, name) for name in names}
    params = library.BboxParams("pascal_voc", ["numbers"], clip=True, filter_invalid_bboxes=True, **limits)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Got processor for bboxes")  # a transform of colours alone
        return library.Compose([transform], bbox_params=params, mask_interpolation=1)  # cv2.INTER_LINEAR


# ---- what they share


def _draw_seed(generator: Generator) -> int:
    return int(torch.randint(2**31 - 1, (), generator=generator))


def _to_array(pixels: Tensor) -> Any:
    """`[C, H, W]` as an array `[H, W, C]` of its own."""
    return np.array(pixels.permute(1, 2, 0).numpy(), order="C")


def _from_array(pixels: Any) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).contiguous()


def _finish(moved: _Moved, instances: Instances) -> Sample:
    """The sample that a library's results make; objects with nothing left are dropped."""
    image = _checked_image(moved.image)
    size = (int(image.shape[1]), int(image.shape[2]))
    kept = instances[moved.kept]
    boxes, masks = clip_boxes(moved.boxes.float(), size), None
    if kept.masks is not None and moved.field is not None:
        masks = _moved_masks(kept.masks, moved.field, size)
        if len(moved.kept.unique()) < len(moved.kept):  # mirrored copies: each has its box, but all have one mask
            masks = _cut_to_boxes(masks, boxes)
        if instances.scores is None:
            shrunk_away = kept.has_mask() & ~(masks.areas() > 0)
            boxes = torch.where(shrunk_away[:, None], 0.0, _follow_masks(kept, masks, moved.field, boxes))
    present = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    return image, replace(kept, size=size, boxes=boxes, masks=masks)[present]


def _follow_masks(before: Instances, masks: CroppedMasks, field: Tensor, others: Tensor) -> Tensor:
    """Boxes of the moved masks with their margins, as `augment.geometry` has them; `others` where a mask was empty."""
    margins = margins_of(before)
    if margins.any():
        margins = map_margins(local_maps(field, masks, before.size), margins)
    return boxes_with_margins(masks, margins, others)


def _moved_masks(masks: CroppedMasks, field: Tensor, size: tuple[int, int]) -> CroppedMasks:
    """Masks in an image of the new size; those given where the field is as it was."""
    height, width = field.shape[1:]
    if (height, width) != size:
        raise UserError(
            f"the augmenter left an image of {size[0]} x {size[1]} but masks of {height} x {width} pixels: "
            "it cannot be used with masks"
        )
    if (height, width) == masks.size and torch.equal(field, coordinate_field(masks.size)):
        return masks
    return move_masks(masks, field)


def _cut_to_boxes(masks: CroppedMasks, boxes: Tensor) -> CroppedMasks:
    owner, x, y = window_pixels(masks.windows)
    x1, y1, x2, y2 = boxes[owner].unbind(1)
    inside = (x + 1 > x1) & (x < x2) & (y + 1 > y1) & (y < y2)
    return replace(masks, data=masks.data * inside)


def _checked_image(image: Any) -> Tensor:
    """`[3, H, W]`, uint8 or float32 in [0, 1]; an image in grey gets three channels."""
    if not isinstance(image, Tensor) or image.ndim != 3 or image.shape[0] not in (1, 3):
        raise UserError(f"the augmenter left {getattr(image, 'shape', type(image).__name__)}, no image [3, H, W]")
    image = image.as_subclass(Tensor).expand(3, -1, -1).contiguous()
    if image.dtype == torch.uint8:
        return image
    low, high = image.aminmax()
    if low < -0.5 or high > 1.5:  # beyond what interpolation overshoots
        raise UserError(
            f"the augmenter left values in {float(low):.2f}..{float(high):.2f}, not [0, 1]: "
            "leave normalising out, the detector does it"
        )
    return image.float().clamp(0, 1)


# ---- by name


def from_text(text: str) -> ImgAug | TorchVision | Albumentations:
    """The transform that a text such as `torchvision.ColorJitter(brightness=0.3)` names.

    A call of a class of imgaug, torchvision (transforms.v2) or albumentations; its arguments are numbers, texts, True,
    False, None, tuples, lists and dicts of such, and calls of the same library. Nothing is evaluated.

    Raises UserError, one line: text that is no such call, a library or class that is not there, or arguments that the
    class refuses, with its own words.
    """
    library, augmenter = augmenter_from_text(text)
    return _TRANSFORMS[library](augmenter)


_TRANSFORMS: dict[str, type[ImgAug] | type[TorchVision] | type[Albumentations]] = {
    "imgaug": ImgAug,
    "torchvision": TorchVision,
    "albumentations": Albumentations,
}
