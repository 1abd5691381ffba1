"""A trained detector behind one method: images in, `Instances` out."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, overload

import torch

from maskrcnn.config import UserError, merge
from maskrcnn.images.config import MAX_MEGAPIXELS
from maskrcnn.images.inputs import ImageLike, open_image
from maskrcnn.images.levels import Levels
from maskrcnn.images.options import ImageOptions, SelectedFile, get_image_options, use_image_options
from maskrcnn.images.selection import ALL, parse_selection
from maskrcnn.inference.config import ViewsConfig
from maskrcnn.inference.pipeline import (
    build_views,
    convert_memory_errors,
    find_scale,
    predict_image,
    predict_images,
)
from maskrcnn.inference.views import View
from maskrcnn.model.detector import Detector
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.pixels import Pixels
from maskrcnn.text import format_count
from maskrcnn.training.config import TrainingConfig
from maskrcnn.training.machine import Machine, set_up_machine

Progress = Callable[[int, int], None]


class Predictor:
    """A trained detector in evaluation mode, with the options that it was saved with.

    `maskrcnn.load` makes one from a file; any `Detector` can be wrapped, too.

    Attributes:
        detector: the model.
        class_names: the name of label k + 1 is `class_names[k]`.
        category_ids: the data's number of each class, for COCO files.
        config: all saved options as nested dictionaries; empty if there are none.
        views: test-time augmentation and tiles that are used unless `predict` is given others.
        operating_threshold: minimum score with the best F1 on the validation images; None if unknown.
    """

    def __init__(
        self,
        detector: Detector,
        class_names: Sequence[str] = (),
        category_ids: Sequence[int] = (),
        *,
        views: ViewsConfig | None = None,
        operating_threshold: float | None = None,
        gray_levels: Levels | None = None,
        config: Mapping[str, Any] | None = None,
        device: str | torch.device | Machine = "auto",
    ) -> None:
        """Wrap a detector.

        Args:
            detector: is moved to the device and set to evaluation mode.
            class_names: one per class; default "1", "2", …
            category_ids: one per class; default 1 to K.
            views: see `maskrcnn.inference.config.ViewsConfig`; default: each image as it is.
            operating_threshold: minimum score of detections that count, if known.
            gray_levels: the values of images with more than 8 bits that become 0 and 1, if the detector has none of
                its own; default: measured per image.
            config: all options that the detector was trained with.
            device: auto, cpu, cuda, or the number of a GPU; or a `Machine`, which also sets the precision.

        Raises:
            ValueError: the numbers of names or ids are not that of the classes; no such device.
        """
        count = detector.num_classes
        self.detector = detector
        self.class_names = tuple(class_names) or tuple(str(label) for label in range(1, count + 1))
        self.category_ids = tuple(category_ids) or tuple(range(1, count + 1))
        if not len(self.class_names) == len(self.category_ids) == count:
            raise UserError(
                f"the detector has {format_count(count, 'classes')}, but there are {len(self.class_names)} class_names "
                f"and {len(self.category_ids)} category_ids"
            )
        self.views = views or ViewsConfig()
        self.operating_threshold = operating_threshold
        self.gray_levels = detector.config.image.levels or gray_levels
        self.config = dict(config or {})
        self.machine: Machine
        self.to(device)

    def __repr__(self) -> str:
        """Name the head, the classes and the device."""
        names = ", ".join(self.class_names[:5]) + ", …" * (len(self.class_names) > 5)
        return (
            f"Predictor({self.head}, {format_count(len(self.class_names), 'classes')}: {names}; {self.machine.device})"
        )

    @property
    def head(self) -> str:
        """Which stages the detector has: "rpn", "faster_rcnn" or "mask_rcnn"."""
        return self.detector.head

    def to(self, device: str | torch.device | Machine) -> Predictor:
        """Move the detector to a device, in place.

        Raises:
            ValueError: no such device.
        """
        self.machine = device if isinstance(device, Machine) else set_up_machine(TrainingConfig(device=str(device)))
        self.machine.place(self.detector).eval()
        return self

    @overload
    def predict(
        self,
        image: ImageLike,
        *,
        views: str | None = ...,
        tile: int | None = ...,
        overlap: float | None = ...,
        merge: str | None = ...,
        min_score: float | None = ...,
        batch_size: int | None = ...,
        progress: Progress | None = ...,
    ) -> Instances: ...

    @overload
    def predict(
        self,
        image: list[ImageLike] | tuple[ImageLike, ...],
        *,
        views: str | None = ...,
        tile: int | None = ...,
        overlap: float | None = ...,
        merge: str | None = ...,
        min_score: float | None = ...,
        batch_size: int | None = ...,
        progress: Progress | None = ...,
    ) -> list[Instances]: ...

    def predict(
        self,
        image: ImageLike | list[ImageLike] | tuple[ImageLike, ...],
        *,
        views: str | None = None,
        tile: int | None = None,
        overlap: float | None = None,
        merge: str | None = None,
        min_score: float | None = None,
        batch_size: int | None = None,
        progress: Progress | None = None,
    ) -> Instances | list[Instances]:
        """Detect the objects of an image, or of each image of a list.

        Args:
            image: a path, a PIL image, a NumPy array `[H, W]` or `[H, W, C]` (C = 1, 3 or 4; uint8, uint16, or float in
                [0, 1]), a tensor `[C, H, W]` of the same types, or a list of these. RGB. Floats are values as stored
                where the detector has gray levels. TIFF and `.npy` files are read tile by tile where tiles are asked
                for.
            views: test-time augmentation: "none", "flips", "rot90", "d4", "affine:8", "scales:0.75,1,1.5",
                "gamma:0.7,1.4", joined by "+".
            tile: side of tiles in pixels, for large images; 0: whole images.
            overlap: minimum overlap of tiles, as a fraction of a tile.
            merge: how detections of several views are merged: "cluster", "wbf", "nmm", "nms" or "soft_nms".
            min_score: leave out detections with lower scores; default: keep all, as evaluation needs them.
                `operating_threshold` is a good choice for counting and pictures.
            batch_size: number of images of a list, or of views, per call of the detector. On a CPU the result for an
                image does not depend on it, nor on the other images, to the last bit.
            progress: called with the number of views (of an image) or images (of a list) that are done, and of all.

        Returns:
            Detections sorted by score, on the CPU, with the data's category ids; a list of them for a list of images.

        Raises:
            ValueError: an unreadable image, or of another kind, shape or range; an unknown view or merge; an
                empty list; too little memory.
        """
        given = {"views": views, "tile": tile, "overlap": overlap, "merge": merge, "view_batch_size": batch_size}
        config = self._views(given)
        if isinstance(image, list | tuple):
            if not image:
                raise ValueError("images: the list is empty; give at least one image")
            return list(self._predict_each(image, config, min_score, progress, len(image)))
        return self._predict_one(image, config, min_score, progress)

    def predict_each(
        self, images: Iterable[ImageLike], min_score: float | None = None, **options: Any
    ) -> Iterator[Instances]:
        """Detect the objects of many images; only the views of one batch are in memory at a time.

        Args:
            images: as in `predict`; a folder's images are `sorted(Path(folder).glob("*.png"))`.
            min_score: as in `predict`.
            **options: views, tile, overlap, merge and batch_size as in `predict`.

        Yields:
            The detections of each image, sorted by score, on the CPU.
        """
        unknown = set(options) - {"views", "tile", "overlap", "merge", "batch_size"}
        if unknown:
            raise TypeError(f"predict_each has no option {', '.join(sorted(unknown))}")
        size = options.pop("batch_size", None)
        return self._predict_each(images, self._views(options | {"view_batch_size": size}), min_score)

    def _views(self, given: Mapping[str, Any]) -> ViewsConfig:
        return merge(self.views, {name: value for name, value in given.items() if value is not None})

    def _image_options(self) -> ImageOptions:
        """Return the options that hold here, with those of the detector in place of defaults."""
        options, saved = get_image_options(), self.config.get("data") or {}
        if options.max_megapixels == MAX_MEGAPIXELS:
            options = replace(options, max_megapixels=int(saved.get("max_megapixels", MAX_MEGAPIXELS)))
        if options.selection is ALL:
            options = replace(options, selection=parse_selection(saved.get("select", "")))
        return replace(options, pixel_size=options.pixel_size or float(saved.get("pixel_size", 0.0)))

    def _predict_each(
        self,
        images: Iterable[ImageLike],
        config: ViewsConfig,
        min_score: float | None,
        progress: Progress | None = None,
        total: int = 0,
    ) -> Iterator[Instances]:
        sources: deque[ImageLike] = deque()

        def open_each() -> Iterator[tuple[Pixels, Sequence[View]]]:
            for number, image in enumerate(images):
                with self._open(image, f"image {number}", config) as opened:
                    sources.append(image)
                    yield opened

        with convert_memory_errors("images"):
            results = predict_images(self.detector, open_each(), config, self.machine)
            for done, found in enumerate(results, start=1):
                yield self._describe(found, sources.popleft(), min_score)
                if progress is not None:
                    progress(done, total)

    def _predict_one(
        self, image: ImageLike, config: ViewsConfig, min_score: float | None, progress: Progress | None = None
    ) -> Instances:
        name = str(image) if isinstance(image, str | os.PathLike) else "image"
        with self._open(image, name, config) as (pixels, views), convert_memory_errors(name):
            found = predict_image(self.detector, pixels, views, config, self.machine, progress=progress)
        return self._describe(found, image, min_score)

    @contextmanager
    def _open(self, image: ImageLike, name: str, config: ViewsConfig) -> Iterator[tuple[Pixels, list[View]]]:
        """Open an image as the detector needs it, and build its views."""
        expected = self.detector.config.image
        with ExitStack() as stack:
            with use_image_options(self._image_options()):  # not while a generator waits for its caller
                opened = open_image(image, self.gray_levels, name, expected.levels is not None, expected.channels)
                pixels = stack.enter_context(opened)
                views = build_views(self.detector, config, pixels.size, find_scale(pixels))
            yield pixels, views

    def _describe(self, found: Instances, source: ImageLike, min_score: float | None) -> Instances:
        """Return detections with their image and category ids, with at least `min_score`."""
        if isinstance(source, str | os.PathLike):
            options = self._image_options()
            source = str(source) if options.selection is ALL else SelectedFile(os.fspath(source), options)
        found = replace(found, source=source, category_ids=self.category_ids)
        return found if min_score is None else found.above(min_score)
