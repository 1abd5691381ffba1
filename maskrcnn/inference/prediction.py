"""Prediction from several views of an image: test-time augmentation and tiled inference in one.

detections = predict(detector, image, d4(size))
detections = predict(detector, pixels, tiles(size, 512) + whole(size), merge="nms")
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from maskrcnn.inference.merging.joining import join_tiles
from maskrcnn.inference.merging.merges import merge as merge_by_name
from maskrcnn.inference.views import View
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.pixels import InMemory, Pixels, is_channels_first

Detect = Callable[[Sequence[Tensor]], list[Instances]]
Merge = Callable[[Sequence[Instances]], Instances]
MAX_BATCH_PIXELS = 1 << 24  # pixels of the views of a batch; the default detector needs about 80 bytes for each


def predict(
    detector: Detect,
    image: Tensor | Pixels,
    views: Sequence[View],
    merge: str | Merge = "cluster",
    batch_size: int = 4,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Instances:
    """Run a detector on several views of an image, map the detections back to the image, and merge them.

    The tiles of a grid are merged first, so that objects cut by their borders are complete and counted once; a grid
    then counts as one view. Memory is bounded by a batch of views and the detections.

    Args:
        detector: takes a list of `[C, H, W]` images and returns `Instances` with scores for each: a `Detector` with any
            head, a torchvision model in `maskrcnn.inference.torchvision.TorchVisionDetector`, or any other callable.
        image: `[C, H, W]`, or `Pixels` that are read view by view.
        views: at least one view of an image of this size.
        merge: a name in `maskrcnn.inference.merging.merges.MERGES`, or a function of the detections per view; not
            called if there is only one view or one grid.
        batch_size: number of views per call of the detector, at least 1.
        device: device that images are moved to before they are passed to the detector.
        progress: called with the number of completed views and the total.

    Returns:
        Detections on the image, in descending order of score.

    Raises:
        ValueError: If there are no views, views are for another image size, the merge is unknown, or detections have no
            scores.
        TypeError: If the image or the detections have an unsupported type.
    """
    return next(predict_each(detector, [(image, views)], merge, batch_size, device, progress))


def predict_each(
    detector: Detect,
    images: Iterable[tuple[Tensor | Pixels, Sequence[View]]],
    merge: str | Merge = "cluster",
    batch_size: int = 4,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Instances]:
    """Run a detector on several views of each image, as `predict` does, in batches of the views of all images.

    The pixels of an image are read before the next image is taken, so it may be closed then. If an image raises an
    error, the detections of the images before are returned first. Memory is bounded by a batch of views, of at most
    `MAX_BATCH_PIXELS` unless a single view has more, and the detections of their images.

    Args:
        detector: see `predict`.
        images: each image with its views.
        merge: see `predict`.
        batch_size: number of views per call of the detector, at least 1.
        device: see `predict`.
        progress: called with the number of completed views of an image and their total.

    Yields:
        Detections on each image, in the order of the images, and in descending order of score.

    Raises:
        ValueError: see `predict`.
        TypeError: see `predict`.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    waiting: deque[_Layers] = deque()
    batch: list[tuple[_Layers, View, Tensor]] = []

    def run_batch() -> None:
        current, batch[:] = list(batch), []
        if not current:
            return
        results = detector([shown.to(device) for _, _, shown in current])
        _check_results(results, len(current))
        for (layers, view, _), detections in zip(current, results, strict=True):
            layers.add(view, detections)
            if progress is not None:
                progress(layers.done, layers.count)

    def take_finished() -> Iterator[Instances]:
        while waiting and waiting[0].done == waiting[0].count:
            yield waiting.popleft().merge(merge)

    try:
        for image, views in images:
            pixels = _as_pixels(image)
            _check_views(views, pixels.size)
            layers = _Layers(pixels.size, len(views))
            for number, view in enumerate(views):
                shown = view.show(pixels)
                if sum(each.shape[1:].numel() for _, _, each in batch) + shown.shape[1:].numel() > MAX_BATCH_PIXELS:
                    run_batch()
                if number == 0:
                    waiting.append(layers)
                batch.append((layers, view, shown))
                if len(batch) == batch_size:
                    run_batch()
            yield from take_finished()
    except Exception:
        unfinished = {id(each) for each in waiting if each.count > each.done + sum(of is each for of, _, _ in batch)}
        batch[:] = [each for each in batch if id(each[0]) not in unfinished]
        run_batch()
        yield from take_finished()
        raise
    run_batch()
    yield from take_finished()


class _Layers:
    """Detections in the views of one image; the tiles of a grid are one layer, and so is any other view."""

    def __init__(self, size: tuple[int, int], count: int) -> None:
        self.size, self.count, self.done = size, count, 0
        self._found: dict[str, list[tuple[View, Instances]]] = {}

    def add(self, view: View, detections: Instances) -> None:
        """Add the detections in the next view, mapped back to the image."""
        if detections.scores is None and len(detections):
            raise ValueError(f"detections in view {view.name} have no scores")
        self.done += 1
        restored = view.restore(detections.to("cpu"), self.size)
        self._found.setdefault(view.grid or f"view {self.done}", []).append((view, restored))

    def merge(self, merge: str | Merge) -> Instances:
        """Merge the tiles of each grid, and then the layers; masks that are empty get their best pixel."""
        merged = [_merge_tiles(layer) for layer in self._found.values()]
        if len(merged) == 1:
            found = merged[0]
        else:
            found = merge_by_name(merge, merged) if isinstance(merge, str) else merge(merged)
        return found if found.masks is None else replace(found, masks=found.masks.fill_empty(found.boxes))


def _as_pixels(image: Tensor | Pixels) -> Pixels:
    if isinstance(image, Tensor):
        if not is_channels_first(image):
            raise ValueError(f"image must be [C, H, W], got {list(image.shape)}")
        return InMemory(image)
    if not hasattr(image, "read"):
        raise TypeError(
            f"image must be a tensor [C, H, W] or maskrcnn.structures.pixels.Pixels, got {_describe_type(image)}"
            + ("; torch.from_numpy(image).permute(2, 0, 1) converts [H, W, 3]" * isinstance(image, np.ndarray))
        )
    return image


def _check_views(views: Sequence[View], size: tuple[int, int]) -> None:
    if not views:
        raise ValueError("views: at least one view is needed")
    for view in views:
        if view.image_size is not None and tuple(view.image_size) != tuple(size):
            (height, width), (rows, columns) = view.image_size, size
            raise ValueError(f"views are for an image of {height} x {width}, this one is {rows} x {columns} (H x W)")


def _check_results(results: object, count: int) -> None:
    """Check that a detector returned one `Instances` per image.

    Raises:
        TypeError: If the type of the result or of an element is wrong.
        ValueError: If the number of elements is wrong.
    """
    expected = "the detector must return a list with one Instances for each image"
    if not isinstance(results, Sequence):
        raise TypeError(f"{expected}, got {_describe_type(results)}")
    for result in results:
        if not isinstance(result, Instances):
            hint = "; wrap a torchvision model in maskrcnn.inference.torchvision.TorchVisionDetector"
            hint *= isinstance(result, dict)
            raise TypeError(f"{expected}, got a list with {_describe_type(result)}{hint}")
    if len(results) != count:
        raise ValueError(f"{expected}, got {len(results)} for {count}")


def _describe_type(value: object) -> str:
    return "None" if value is None else f"{type(value).__module__}.{type(value).__name__}".removeprefix("builtins.")


def _merge_tiles(layer: Sequence[tuple[View, Instances]]) -> Instances:
    """Merge the tiles of one grid, or sort the detections of a single view."""
    view, detections = layer[0]
    if view.tile is None:
        return _sort_by_score(detections)
    return join_tiles(
        [detections for _, detections in layer], torch.tensor([view.tile for view, _ in layer], dtype=torch.int32)
    )


def _sort_by_score(detections: Instances) -> Instances:
    if detections.scores is None:  # no detections
        return replace(detections, scores=torch.zeros(0, dtype=torch.float32))
    return detections.sorted_by_score()
