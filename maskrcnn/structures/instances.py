"""Objects of one image: boxes, labels, scores, and masks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from maskrcnn.structures.masks import CroppedMasks


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
    """

    size: tuple[int, int]
    boxes: Tensor
    labels: Tensor
    scores: Tensor | None = None
    masks: CroppedMasks | None = None
    ignore: Tensor = field(default=None)  # type: ignore[assignment]  # None ignores nothing
    ids: Tensor | None = None

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
        nothing = torch.zeros(len(masks), dtype=torch.bool, device=labels.device)
        return Instances(
            masks.size, masks.boxes(), labels, masks=masks, ignore=nothing if ignore is None else ignore, ids=ids
        )

    @staticmethod
    def cat(parts: Sequence["Instances"]) -> "Instances":
        """Concatenate the objects of several parts.

        Raises:
            ValueError: If the parts differ in image size or in which optional fields they have.
        """

        def join(name: str) -> Tensor | None:
            values = [getattr(part, name) for part in parts]
            if any(v is None for v in values) and any(v is not None for v in values):
                raise ValueError(f"cannot join instances with and without {name}")
            return None if values[0] is None else torch.cat(values)

        if len({tuple(part.size) for part in parts}) != 1:
            raise ValueError(f"instances must share one size, got {sorted({tuple(part.size) for part in parts})}")
        masks = [part.masks for part in parts]
        if any(m is None for m in masks) and any(m is not None for m in masks):
            raise ValueError("cannot join instances with and without masks")
        present = [m for m in masks if m is not None]
        return Instances(
            parts[0].size,
            torch.cat([part.boxes for part in parts]),
            torch.cat([part.labels for part in parts]),
            join("scores"),
            CroppedMasks.cat(present) if present else None,
            torch.cat([part.ignore for part in parts]),
            join("ids"),
        )

    def __len__(self) -> int:
        return len(self.boxes)

    def __repr__(self) -> str:
        given = [name for name in ("scores", "masks", "ids") if getattr(self, name) is not None]
        return f"Instances({len(self)} in {self.size[0]} x {self.size[1]}, {', '.join(['boxes', 'labels', *given])})"

    def __getitem__(self, index: int | slice | Tensor) -> "Instances":
        """Select objects by an index, a slice, or a bool or int tensor; always returns `Instances`."""
        at = torch.arange(len(self), device=self.boxes.device)[index].reshape(-1)
        return Instances(
            self.size,
            self.boxes[at],
            self.labels[at],
            None if self.scores is None else self.scores[at],
            None if self.masks is None else self.masks[at],
            self.ignore[at],
            None if self.ids is None else self.ids[at],
        )

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
        """
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
            torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device) if crowd is None else crowd.bool(),
        )

    def to_torchvision(self) -> dict[str, Tensor]:
        """Convert to a torchvision detection dict; masks become dense uint8 `[N, H, W]`."""
        result = {"boxes": self.boxes, "labels": self.labels, "iscrowd": self.ignore.long()}
        if self.scores is not None:
            result["scores"] = self.scores
        if self.masks is not None:
            result["masks"] = self.masks.to_dense().to(torch.uint8)
        return result
