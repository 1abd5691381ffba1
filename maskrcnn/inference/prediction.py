"""Prediction from several views of an image: test-time augmentation and tiled inference in one.

detections = predict(detector, image, d4(size))
detections = predict(detector, pixels, tiles(size, 512) + whole(size), merge="nms")
"""

from collections.abc import Callable, Iterator, Sequence
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
    if not views:
        raise ValueError("views: at least one view is needed")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    pixels = _as_pixels(image)
    _check_sizes(views, pixels.size)
    layers: dict[str, list[tuple[View, Instances]]] = {}
    for done, (view, detections) in enumerate(
        _iterate_detections(detector, pixels, views, batch_size, device), start=1
    ):
        layers.setdefault(view.grid or f"view {done}", []).append((view, detections))
        if progress is not None:
            progress(done, len(views))
    merged = [_merge_tiles(layer) for layer in layers.values()]
    if len(merged) == 1:
        return _fill_empty_masks(merged[0])
    return _fill_empty_masks(merge_by_name(merge, merged) if isinstance(merge, str) else merge(merged))


def _fill_empty_masks(found: Instances) -> Instances:
    """Give each mask that is empty after mapping and merging its best pixel."""
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


def _check_sizes(views: Sequence[View], size: tuple[int, int]) -> None:
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


def _iterate_detections(
    detector: Detect, pixels: Pixels, views: Sequence[View], batch_size: int, device: torch.device | str
) -> Iterator[tuple[View, Instances]]:
    """Yield each view with its detections, mapped back to the image."""
    for start in range(0, len(views), batch_size):
        batch = views[start : start + batch_size]
        results = detector([view.show(pixels).to(device) for view in batch])
        _check_results(results, len(batch))
        for view, detections in zip(batch, results, strict=True):
            if detections.scores is None and len(detections):
                raise ValueError(f"detections in view {view.name} have no scores")
            yield view, view.restore(detections.to("cpu"), pixels.size)


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
