"""Detection in whole images, or in views and tiles whose detections are merged."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from maskrcnn.config import UserError
from maskrcnn.images.large import LargeImage
from maskrcnn.images.metadata import compute_scale
from maskrcnn.images.options import get_image_options
from maskrcnn.inference.config import ViewsConfig
from maskrcnn.inference.merging.merges import merge
from maskrcnn.inference.prediction import Merge, predict_each
from maskrcnn.inference.views import View, make_views, rescale_views, tile_step
from maskrcnn.model.detector import Detector
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.pixels import Pixels
from maskrcnn.training.machine import Machine

WHOLE_IMAGE = ViewsConfig()
MAX_TILES = 1_000_000
BYTES_PER_PIXEL = 80  # measured: memory of the default detector on a CPU per pixel of a view
_CGROUP = ("max", "current")
MAX_VIEW_PIXELS = 1 << 30  # pixels; the first layer of the detector would need 100 GB


class Detects(Protocol):
    """Interface of a detector, ours or an adapter of another."""

    training: bool

    def train(self, mode: bool = True) -> Any:
        """Set training or evaluation mode."""
        ...

    def __call__(self, images: Sequence[Tensor]) -> Any:
        """Detect objects in each image `[C, H, W]`; returns `list[Instances]` with scores."""
        ...


def run_detector(detector: Detects, images: Sequence[Tensor], proposals_only: bool = False) -> list[Instances]:
    """Detect objects in each image, or compute the proposals of the first stage if `proposals_only`.

    Calls the module itself, so that wrappers such as EMA and DistributedDataParallel work.
    """
    found: list[Instances] = detector(images, **({"proposals_only": True} if proposals_only else {}))
    return found


def is_plain(config: ViewsConfig) -> bool:
    """Return whether the detector runs once on the unchanged image."""
    return config.views == "none" and config.tile == 0


def build_views(
    detector: Detects, config: ViewsConfig, size: tuple[int, int], scale: tuple[float, float] = (1.0, 1.0)
) -> list[View]:
    """Build the views of an image of `size` (H, W) for a detector, scaled by the factors `scale` (y, x).

    Raises:
        UserError: If an option is invalid, or results in too many tiles or too large a view for this image.
    """
    if scale != (1.0, 1.0):
        height, width = (max(1, round(side * each)) for side, each in zip(size, scale, strict=True))
        return rescale_views(build_views(detector, config, (height, width)), size, scale)
    bare = _unwrap(detector)
    stride = max(bare.strides) if isinstance(bare, Detector) else 1
    if config.tile and _count_tiles(config, size) > MAX_TILES:
        raise UserError(
            f"tile, overlap and tile_scales give more than {MAX_TILES} tiles for an image of {size[0]} x {size[1]} "
            "pixels; choose larger tiles, less overlap or smaller scales"
        )
    views = make_views(config, size, stride, bare.config.image.levels if isinstance(bare, Detector) else None)
    largest = max(views, key=lambda view: view.size[0] * view.size[1])
    height, width = largest.size
    if height * width > min(MAX_VIEW_PIXELS, _free_memory(detector) // BYTES_PER_PIXEL):
        raise UserError(
            f"view {largest.name} of {height} x {width} pixels does not fit into memory; use tiles (--tile=512)"
            + (", or choose smaller scales" if "scales" in config.views else "")
        )
    return views


def find_scale(pixels: Pixels) -> tuple[float, float]:
    """Find the factors (y, x) by which `ImageOptions.pixel_size` scales an image file; 1 for images in memory.

    Raises:
        UserError: If the file states no pixel size.
    """
    wanted = get_image_options().pixel_size
    if not wanted or not isinstance(pixels, LargeImage):
        return 1.0, 1.0
    return compute_scale(pixels.metadata.pixel_size, wanted, str(pixels.path))


def _unwrap(detector: Detects) -> Detects:
    """Return the detector inside wrappers such as DistributedDataParallel and AveragedModel."""
    while not isinstance(detector, Detector) and hasattr(detector, "module"):
        detector = detector.module
    return detector


def _free_memory(detector: Detects) -> int:
    """Return the free memory in bytes; `sys.maxsize` if it is unknown, or on GPUs, where running out is an error."""
    bare = _unwrap(detector)
    if isinstance(bare, Detector) and next(bare.parameters()).device.type != "cpu":
        return sys.maxsize
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):  # not a Linux machine
        return sys.maxsize
    with suppress(OSError, ValueError):  # limit of a container; "max" if there is none
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text(encoding="ascii")) for name in _CGROUP)
        free = min(free, max(0, limit - used))
    return free


def _count_tiles(config: ViewsConfig, size: tuple[int, int]) -> float:
    """Estimate the number of tiles; raises UserError if the overlap is invalid."""
    try:
        steps = [(factor, tile_step(config.tile, config.overlap, factor)) for factor in config.tile_scales]
    except ValueError as error:
        raise UserError(str(error)) from error
    return sum((1 + size[0] * factor / step) * (1 + size[1] * factor / step) for factor, step in steps)


def bind_detector(detector: Detects, machine: Machine, proposals_only: bool = False) -> Callable[..., list[Instances]]:
    """Return a function that detects objects in images on the device of the machine."""

    def detect(images: Sequence[Tensor]) -> list[Instances]:
        with machine.autocast():
            return run_detector(detector, images, proposals_only)

    return detect


def build_merge(config: ViewsConfig) -> Merge:
    """Return the function that merges the detections of several views."""
    on = "boxes" if config.merge_on == "boxes" else None  # None uses masks if there are any
    return functools.partial(merge, config.merge, threshold=config.merge_threshold, on=on)


def predict_image(
    detector: Detects,
    image: Tensor | Pixels,
    views: Sequence[View],
    config: ViewsConfig,
    machine: Machine,
    proposals_only: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Instances:
    """Detect objects in an image.

    Args:
        detector: detector in evaluation mode.
        image: `[C, H, W]` or `Pixels`.
        views: views of the image.
        config: options.
        machine: device and precision.
        proposals_only: whether to return the proposals of the first stage.
        progress: called with the numbers of finished views and of all views.

    Returns:
        Detections on the CPU.
    """
    return next(predict_images(detector, [(image, views)], config, machine, proposals_only, progress))


def predict_images(
    detector: Detects,
    images: Iterable[tuple[Tensor | Pixels, Sequence[View]]],
    config: ViewsConfig,
    machine: Machine,
    proposals_only: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Instances]:
    """Detect objects in images, given with their views, in batches; see `predict_image` and `predict_each`."""
    detect = bind_detector(detector, machine, proposals_only)
    for found in predict_each(detect, images, build_merge(config), config.view_batch_size, machine.device, progress):
        yield found if proposals_only else drop_unlikely(found, detector)


def drop_unlikely(found: Instances, detector: Detects) -> Instances:
    """Drop detections whose score is not above the detector's `min_confidence`: merging lowers scores."""
    bare = _unwrap(detector)
    if found.scores is None or not isinstance(bare, Detector) or bare.box_head is None:
        return found
    likely = found.scores > bare.config.box.min_score
    return found if bool(likely.all()) else found[likely]


@contextmanager
def convert_memory_errors(name: str) -> Iterator[None]:
    """Raise UserError, which begins with `name`, if memory runs out in the context."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "alloc" not in str(error) and "out of memory" not in str(error):
            raise
        advice = "use tiles (--tile=512), or process fewer views at a time (--view_batch_size=1)"
        raise UserError(f"{name}: out of memory; {advice}") from error
