"""Objects of one image: boxes, labels, scores, and masks."""

import base64
import html
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib import import_module
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from maskrcnn.config import UserError
from maskrcnn.structures.categories import to_category_ids
from maskrcnn.structures.edges import MIN_VISIBLE_FRACTION
from maskrcnn.structures.masks import CroppedMasks
from maskrcnn.text import format_count


@dataclass(eq=False, repr=False)
class Instances:
    """N objects of one image, either ground truth or predictions.

    Attributes:
        size: size of the image (H, W).
        boxes: float32 `[N, 4]`, xyxy in continuous pixel coordinates. Ground-truth boxes are read from the annotation
            file if it has boxes, so they may differ from the extent of the mask.
        labels: int64 `[N]`, starting at 1; 0 is the background and is never stored.
        scores: float32 `[N]` for predictions, None for ground truth.
        masks: `CroppedMasks` on a canvas of `size`. Box metrics count an object with an empty mask; mask metrics
            ignore it.
        ignore: bool `[N]`. An ignored object is never a target, and priors inside it are never negatives.
        ids: int64 `[N]`, annotation ids, which every geometric transform keeps.
        source: the image (a path, an array, …) in which a `Predictor` has detected them, for `plot`.
        category_ids: the data's ids of labels 1, 2, …, which a `Predictor` sets and `to_coco` writes.
    """

    size: tuple[int, int]
    boxes: Tensor
    labels: Tensor
    scores: Tensor | None = None
    masks: CroppedMasks | None = None
    ignore: Tensor = field(default=None)  # type: ignore[assignment]  # None ignores nothing
    ids: Tensor | None = None
    source: Any = None
    category_ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        count = len(self.boxes)
        if self.ignore is None:
            self.ignore = torch.zeros(count, dtype=torch.bool, device=self.boxes.device)
        if self.boxes.ndim != 2 or self.boxes.shape[1] != 4:
            raise ValueError(f"boxes must be [N, 4], got {list(self.boxes.shape)}")
        for name in ("labels", "scores", "ignore", "ids"):
            values = getattr(self, name)
            if values is not None and values.shape != (count,):
                raise ValueError(f"{name} must be [{count}] like boxes, got {list(values.shape)}")
        if self.masks is not None and (len(self.masks) != count or self.masks.size != tuple(self.size)):
            raise ValueError(
                f"{len(self.masks)} masks on a canvas of {self.masks.size} "
                f"do not belong to {count} boxes in an image of {tuple(self.size)}"
            )

    @staticmethod
    def empty(size: tuple[int, int], with_masks: bool = False) -> "Instances":
        """Return `Instances` without objects for an image of `size` (H, W)."""
        masks = CroppedMasks.empty(size) if with_masks else None
        return Instances(size, torch.zeros(0, 4, dtype=torch.float32), torch.zeros(0, dtype=torch.int64), masks=masks)

    @staticmethod
    def from_masks(
        masks: CroppedMasks, labels: Tensor, ignore: Tensor | None = None, ids: Tensor | None = None
    ) -> "Instances":
        """Create ground truth whose boxes are the tight boxes of its masks."""
        return Instances(masks.size, masks.boxes(), labels, None, masks, ignore, ids)  # type: ignore[arg-type]

    @staticmethod
    def cat(parts: Sequence["Instances"]) -> "Instances":
        """Concatenate the objects of several parts.

        Raises:
            ValueError: If the parts differ in image size or in which optional fields they have.
        """

        def join(name: str, cat: Any = torch.cat) -> Any:
            values = [getattr(part, name) for part in parts]
            if any(v is None for v in values) and any(v is not None for v in values):
                raise ValueError(f"cannot join instances with and without {name}")
            return None if values[0] is None else cat(values)

        if len({tuple(part.size) for part in parts}) != 1:
            raise ValueError(f"instances must share one size, got {sorted({tuple(part.size) for part in parts})}")
        return Instances(
            parts[0].size,
            torch.cat([part.boxes for part in parts]),
            torch.cat([part.labels for part in parts]),
            join("scores"),
            join("masks", CroppedMasks.cat),
            torch.cat([part.ignore for part in parts]),
            join("ids"),
            parts[0].source,
            parts[0].category_ids,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled or saved with `torch.save`: a source in memory is left out, a path becomes text."""
        source = os.fspath(self.source) if isinstance(self.source, str | os.PathLike) else None
        return {**self.__dict__, "size": tuple(map(int, self.size)), "source": source}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore and check instances that were pickled, or saved with `torch.save`."""
        self.__dict__.update(state)
        self.__post_init__()

    def __copy__(self) -> "Instances":
        return replace(self)

    def __len__(self) -> int:
        return len(self.boxes)

    def __repr__(self) -> str:
        height, width = self.size
        parts = [format_count(len(self), "objects"), f"{height} × {width}"]
        if self.scores is not None and len(self):
            parts.append(f"scores {float(self.scores.max()):.2f} … {float(self.scores.min()):.2f}")
        parts += [name for name in ("masks", "ids") if getattr(self, name) is not None]
        return f"Instances({', '.join(parts)})"

    def _repr_png_(self) -> bytes | None:
        """Show the detections drawn on their image where a notebook shows pictures."""
        if self.source is None or self.scores is None:
            return None
        png = io.BytesIO()
        self.plot().save(png, format="PNG")
        return png.getvalue()

    def _repr_html_(self) -> str:
        """Show the detections drawn on their image in a notebook."""
        text = f"<code>{html.escape(repr(self))}</code>"
        png = self._repr_png_()
        return text if png is None else f'{text}<br><img src="data:image/png;base64,{base64.b64encode(png).decode()}">'

    @overload
    def __getitem__(self, index: str) -> Any: ...

    @overload
    def __getitem__(self, index: int | slice | Tensor) -> "Instances": ...

    def __getitem__(self, index: int | slice | Tensor | str) -> Any:
        """Select objects by an index, a slice, or a bool or int tensor; always returns `Instances`.

        A string selects a field, such as `instances["boxes"]`.

        Raises:
            KeyError: If there is no such field.
        """
        if isinstance(index, str):
            names = [each.name for each in fields(self)]
            if index not in names:
                raise KeyError(f"Instances have no field {index!r}; they have {', '.join(names)}")
            return getattr(self, index)
        at = torch.arange(len(self), device=self.boxes.device)[index].reshape(-1)
        return Instances(
            self.size,
            self.boxes[at],
            self.labels[at],
            None if self.scores is None else self.scores[at],
            None if self.masks is None else self.masks[at],
            self.ignore[at],
            None if self.ids is None else self.ids[at],
            self.source,
            self.category_ids,
        )

    def sorted_by_score(self) -> "Instances":
        """Sort in descending order of score; equal scores keep their order.

        Raises:
            ValueError: If there are no scores.
        """
        return self[torch.argsort(self._scores(), descending=True, stable=True)]

    def above(self, min_score: float) -> "Instances":
        """Select detections with a score of at least `min_score`, sorted by score."""
        order = torch.argsort(self._scores(), descending=True, stable=True)
        return self[order[self._scores()[order] >= min_score]]

    def _scores(self) -> Tensor:
        if self.scores is None:
            raise ValueError("these instances have no scores; only predictions have")
        return self.scores

    def cpu(self) -> "Instances":
        """Move all tensors to the CPU."""
        return self.to("cpu")

    def to(self, device: torch.device | str) -> "Instances":
        """Move all tensors to a device."""
        moved = {
            name: value.to(device)
            for name in ("boxes", "labels", "scores", "masks", "ignore", "ids")
            if (value := getattr(self, name)) is not None
        }
        return replace(self, **moved)

    def has_mask(self) -> Tensor:
        """Return whether the mask of each object has any pixels, bool `[N]`."""
        if self.masks is None:
            return torch.zeros(len(self), dtype=torch.bool, device=self.boxes.device)
        return self.masks.areas() > 0

    def areas(self) -> Tensor:
        """Return the area of each mask in pixels, or of the box if the mask is empty or missing; float64 `[N]`."""
        areas = (self.boxes[:, 2:] - self.boxes[:, :2]).double().prod(dim=1)
        return areas if self.masks is None else torch.where(self.has_mask(), self.masks.areas().double(), areas)

    def ignore_empty_masks(self) -> "Instances":
        """Mark ground truth with an empty mask as ignored, for mask metrics.

        Each such object gets a mask of all pixels that its box touches, so that a detection there counts neither as a
        true nor as a false positive.
        """
        if self.masks is None or bool((drawn := self.has_mask()).all()):
            return self
        empty = torch.nonzero(~drawn).flatten()
        boxes = self.boxes[empty]
        touched = torch.cat([boxes[:, :2].floor(), boxes[:, 2:].ceil()], dim=1)
        masks = self.masks.replace_at(empty, CroppedMasks.from_boxes(touched, self.size))
        return replace(self, masks=masks, ignore=self.ignore | ~drawn)

    @staticmethod
    def from_torchvision(target: Mapping[str, Tensor], size: tuple[int, int]) -> "Instances":
        """Convert a torchvision detection dict.

        Args:
            target: `boxes` and `labels`, and optionally `scores`, `masks` (`[N, H, W]` or `[N, 1, H, W]`), and
                `iscrowd`.
            size: size of the image (H, W).

        Raises:
            UserError: If `boxes` or `labels` are missing.
        """
        for name in ("boxes", "labels"):
            if name not in target:
                raise UserError(f"a target has no {name!r}, only {', '.join(map(repr, target)) or 'nothing'}")
        masks = target.get("masks")
        if masks is not None and masks.ndim == 4:
            masks = masks[:, 0]
        boxes = target["boxes"].float().reshape(-1, 4)
        crowd = target.get("iscrowd")
        return Instances(
            size,
            boxes,
            target["labels"].long(),
            target.get("scores"),
            None if masks is None else CroppedMasks.from_dense(masks),
            None if crowd is None else crowd.bool(),  # type: ignore[arg-type]
        )

    def to_torchvision(self) -> dict[str, Tensor]:
        """Convert to a torchvision detection dict.

        Returns:
            `boxes`, `labels`, `iscrowd`, and `scores` and `masks` if present. As in torchvision, masks of targets are
            dense uint8 `[N, H, W]` and those of predictions probabilities, float32 `[N, 1, H, W]`.
        """
        result = {"boxes": self.boxes, "labels": self.labels, "iscrowd": self.ignore.long()}
        if self.scores is not None:
            result["scores"] = self.scores
        if self.masks is not None:
            dense = self.masks.to_dense().to(torch.uint8) if self.scores is None else self.masks.to_probabilities()
            result["masks"] = dense
        return result

    def to_numpy(self) -> dict[str, NDArray[Any]]:
        """Convert to NumPy arrays by field; masks become a bool array `[N, H, W]`."""
        names = ("boxes", "labels", "scores", "ignore", "ids")
        arrays = {name: value.cpu().numpy() for name in names if (value := getattr(self, name)) is not None}
        if self.masks is not None:
            arrays["masks"] = self.masks.to_dense().cpu().numpy()
        return arrays

    numpy = to_numpy

    def to_label_image(self, min_visible_fraction: float = MIN_VISIBLE_FRACTION) -> NDArray[np.int32]:
        """Number the pixels by object, in the order of the objects, from 1; earlier objects are on top.

        Args:
            min_visible_fraction: objects of which less than this fraction stays visible are left out, as in the
                command `predict` (`--mask_nms_thresh`): they are mostly second detections of the same object.

        Returns:
            int32 `[H, W]`, 0 for background.

        Raises:
            ValueError: If there are no masks.
        """
        if self.masks is None:
            raise ValueError("these instances have no masks; a label image needs the masks of mask_rcnn")
        labels: NDArray[np.int32] = self.masks.to_label_image(min_visible_fraction)[0].cpu().numpy()
        return labels

    def to_coco(self, image_id: int = 1, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """Convert to entries of a COCO results file, or of annotations if there are no scores.

        An annotation of an object without a mask has no `segmentation`.

        Args:
            image_id: the number of the image.
            category_ids: the id of label 1, 2, …; default: `self.category_ids`, that is, for the result of a
                `Predictor` those of the data that it was trained on, and else the labels.

        Raises:
            ValueError: If there is a label without an id.
        """
        boxes = self.boxes.detach().to("cpu", torch.float64)
        rows = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).tolist()
        ids = to_category_ids(self.labels, self.category_ids if category_ids is None else category_ids)
        entries: list[dict[str, Any]] = [
            {"image_id": image_id, "category_id": each, "bbox": row} for each, row in zip(ids, rows, strict=True)
        ]
        codes: Sequence[Any] = () if self.masks is None else self.masks.to_rle()
        if self.scores is None:
            codes = [
                code if drawn else None for code, drawn in zip(codes, self.has_mask().tolist(), strict=bool(codes))
            ]
        for name, values in (
            ("segmentation", codes or None),
            ("score", None if self.scores is None else self.scores.tolist()),
            ("iscrowd", self.ignore.long().tolist() if self.scores is None else None),
            ("area", self.areas().tolist() if self.scores is None else None),
        ):
            for entry, value in zip(entries, values or (), strict=values is not None):
                if value is not None:
                    entry[name] = value
        return entries

    def to_supervision(self) -> Any:
        """Convert to `supervision.Detections`; needs the library supervision."""
        supervision = _import_library("supervision", "to_supervision")
        arrays = self.cpu().to_numpy()
        return supervision.Detections(
            xyxy=arrays["boxes"],
            mask=arrays.get("masks"),
            confidence=arrays.get("scores"),
            class_id=arrays["labels"],
        )

    def to_pandas(self) -> Any:
        """Convert to a `pandas.DataFrame` with one row per object; needs the library pandas."""
        pandas = _import_library("pandas", "to_pandas")
        x1, y1, x2, y2 = self.boxes.cpu().unbind(1)
        columns = {"x1": x1, "y1": y1, "x2": x2, "y2": y2, "label": self.labels, "score": self.scores}
        columns |= {"area": self.areas(), "ignore": self.ignore, "id": self.ids}
        return pandas.DataFrame({name: value.cpu().numpy() for name, value in columns.items() if value is not None})

    def plot(
        self,
        path: str | os.PathLike[str] | None = None,
        image: Any = None,
        min_score: float | None = None,
        class_names: Sequence[str] | None = None,
    ) -> Image.Image:
        """Draw the detections on their image.

        Args:
            path: PNG, JPEG, TIFF or WebP file to write; default: none.
            image: the image, as `maskrcnn.Predictor.predict` takes it; default: the one they were detected in.
            min_score: minimum score of the detections that are drawn; default: all are drawn.
            class_names: names of labels 1 to K.

        Returns:
            The picture, which notebooks show and `.show()` opens.

        Raises:
            ValueError: If there is no image, there are no scores, or the file cannot be written.
        """
        from maskrcnn.plotting.detections import plot_detections

        return plot_detections(self, self.source if image is None else image, path, min_score, class_names)

    def show(self, **options: Any) -> None:
        """Draw the detections on their image, and open the picture in a window; options as in `plot`."""
        self.plot(**options).show()


def _import_library(name: str, method: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(f"{method} needs the library {name}: pip install {name}") from error


torch.serialization.add_safe_globals([Instances])  # torch.load(..., weights_only=True) reads saved lists
