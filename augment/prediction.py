"""Detection in several views of an image: test-time augmentation and slices in one.

found = predict(detector, image, d4(size))
found = predict(detector, pixels, tiles(size, 512) + whole(size), merge="nms")
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from augment.merging.joining import join_tiles
from augment.merging.merges import merge as merged_by_name
from augment.views import InMemory, Pixels, View
from maskrcnn.structures.instances import Instances

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
    """What `detector` finds in an image seen through `views`, brought back to the image and merged into one.

    Tiles of a grid are joined first, so that objects cut by their borders are whole and counted once; a grid then
    counts as one view. Memory is bounded by a batch of views and the detections.

    detector: takes a list of `[3, H, W]` images and returns `Instances` with scores for each. Ours with any head,
        torchvision's in `augment.libraries.detectors.TorchVisionDetector`, or any other.
    image: `[3, H, W]`, or `Pixels` that are read by view.
    merge: a name in `augment.merging.merges.MERGES`, or a function of the views' detections; not called where there is
        one view alone, or one grid.
    batch_size: views that the detector is shown at a time, at least 1.
    device: where images are sent before they are shown to the detector.
    progress: called with the number of views done and of all.

    Raises ValueError without views, for views of an image of another size, an unknown merge, and detections without
    scores, unless there are none; TypeError for an image or detections of another kind.
    """
    if not views:
        raise ValueError("views: at least one view is needed")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    pixels = _as_pixels(image)
    _check_sizes(views, pixels.size)
    layers: dict[str, list[tuple[View, Instances]]] = {}
    for done, (view, found) in enumerate(_restored(detector, pixels, views, batch_size, device), start=1):
        layers.setdefault(view.grid or f"view {done}", []).append((view, found))
        if progress is not None:
            progress(done, len(views))
    joined = [_joined(layer) for layer in layers.values()]
    if len(joined) == 1:
        return joined[0]
    return merged_by_name(merge, joined) if isinstance(merge, str) else merge(joined)


def _as_pixels(image: Tensor | Pixels) -> Pixels:
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != 3:
            raise ValueError(f"image must be [3, H, W], got {list(image.shape)}")
        return InMemory(image)
    if not hasattr(image, "read"):
        raise TypeError(
            f"image must be a tensor [3, H, W] or be read by window (augment.views.Pixels), got {_kind(image)}"
            + ("; torch.from_numpy(image).permute(2, 0, 1) makes one of [H, W, 3]" * isinstance(image, np.ndarray))
        )
    return image


def _check_sizes(views: Sequence[View], size: tuple[int, int]) -> None:
    for view in views:
        if view.image_size is not None and tuple(view.image_size) != tuple(size):
            (height, width), (rows, columns) = view.image_size, size
            raise ValueError(f"views are for an image of {height} x {width}, this one is {rows} x {columns} (H x W)")


def _check_results(results: object, count: int) -> None:
    """TypeError or ValueError unless a detector gave one `Instances` an image."""
    expected = "the detector must return a list with one Instances for each image"
    if not isinstance(results, Sequence):
        raise TypeError(f"{expected}, got {_kind(results)}")
    for result in results:
        if not isinstance(result, Instances):
            hint = "; torchvision's go into augment.libraries.detectors.TorchVisionDetector" * isinstance(result, dict)
            raise TypeError(f"{expected}, got a list with {_kind(result)}{hint}")
    if len(results) != count:
        raise ValueError(f"{expected}, got {len(results)} for {count}")


def _kind(value: object) -> str:
    return "None" if value is None else f"{type(value).__module__}.{type(value).__name__}".removeprefix("builtins.")


def _restored(
    detector: Detect, pixels: Pixels, views: Sequence[View], batch_size: int, device: torch.device | str
) -> Iterator[tuple[View, Instances]]:
    for start in range(0, len(views), batch_size):
        batch = views[start : start + batch_size]
        results = detector([view.show(pixels).to(device) for view in batch])
        _check_results(results, len(batch))
        for view, found in zip(batch, results, strict=True):
            if found.scores is None and len(found):
                raise ValueError(f"detections in view {view.name} have no scores")
            yield view, view.restore(found.to("cpu"), pixels.size)


def _joined(layer: Sequence[tuple[View, Instances]]) -> Instances:
    view, found = layer[0]
    if view.tile is None:
        return _by_score(found)
    return join_tiles([found for _, found in layer], torch.tensor([view.tile for view, _ in layer], dtype=torch.int32))


def _by_score(found: Instances) -> Instances:
    if found.scores is None:  # there are none
        return replace(found, scores=torch.zeros(0))
    return found[torch.argsort(found.scores, descending=True, stable=True)]
