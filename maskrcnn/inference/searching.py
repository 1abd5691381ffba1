"""Images searched for objects as `[views]` says: whole, or in views and tiles whose findings are merged."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from maskrcnn.config import UserError
from maskrcnn.inference.config import ViewsConfig
from maskrcnn.inference.merging.merges import merge
from maskrcnn.inference.prediction import Merge, predict
from maskrcnn.inference.views import View, make_views, tile_step
from maskrcnn.model.detector import Detector
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.pixels import Pixels
from maskrcnn.training.machine import Machine

AS_IT_IS = ViewsConfig()
MOST_TILES = 1_000_000
BYTES_A_PIXEL = 80  # measured: what the default detector takes, on a CPU, for each more of a view
_CGROUP = ("max", "current")
LARGEST_VIEW = 1 << 30  # pixels: the detector's first layer alone would need a hundred GB


class Detects(Protocol):
    """What a search asks of a detector: ours, or another's in an adapter."""

    training: bool

    def train(self, mode: bool = True) -> Any:
        """Sets training or evaluation mode."""
        ...

    def __call__(self, images: Sequence[Tensor]) -> Any:
        """The detections of each image `[3, H, W]`, `list[Instances]` with scores."""
        ...


def find(detector: Detects, images: Sequence[Tensor], proposals_only: bool = False) -> list[Instances]:
    """The detections of each image; `proposals_only`: of the first stage alone.

    Calls the module itself, so that wrappers (EMA, DistributedDataParallel) take part.
    """
    found: list[Instances] = detector(images, **({"proposals_only": True} if proposals_only else {}))
    return found


def is_plain(config: ViewsConfig) -> bool:
    """Whether images are looked at once, as they are."""
    return config.views == "none" and config.tile == 0


def views_of(detector: Detects, config: ViewsConfig, size: tuple[int, int]) -> list[View]:
    """The views of an image of `size` (H, W) for this detector.

    Raises:
        UserError: a setting that makes no sense, or with this image asks for too many tiles or too large a view.
    """
    bare = _unwrap(detector)
    stride = max(bare.strides) if isinstance(bare, Detector) else 1
    if config.tile and _count_tiles(config, size) > MOST_TILES:
        raise UserError(
            f"tile, overlap and tile_scales ask for more than {MOST_TILES} tiles of an image of {size[0]} x {size[1]} "
            "pixels; choose larger tiles, less overlap or smaller scales"
        )
    views = make_views(config, size, stride)
    largest = max(views, key=lambda view: view.size[0] * view.size[1])
    height, width = largest.size
    if height * width > min(LARGEST_VIEW, _free_memory(detector) // BYTES_A_PIXEL):
        raise UserError(
            f"view {largest.name} of {height} x {width} pixels does not fit into memory; look at tiles (--tile=512)"
            + (", or choose smaller scales" if "scales" in config.views else "")
        )
    return views


def _unwrap(detector: Detects) -> Detects:
    """The detector inside wrappers such as DistributedDataParallel and AveragedModel."""
    while not isinstance(detector, Detector) and hasattr(detector, "module"):
        detector = detector.module
    return detector


def _free_memory(detector: Detects) -> int:
    """Bytes that a view may take; very many where that is not known, or where memory that runs out is an error."""
    bare = _unwrap(detector)
    if isinstance(bare, Detector) and next(bare.parameters()).device.type != "cpu":
        return sys.maxsize
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):  # not a Linux machine
        return sys.maxsize
    with suppress(OSError, ValueError):  # what a container may use; "max" where that is not limited
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text(encoding="ascii")) for name in _CGROUP)
        free = min(free, max(0, limit - used))
    return free


def _count_tiles(config: ViewsConfig, size: tuple[int, int]) -> float:
    """About how many tiles there will be. UserError for an overlap that cannot be."""
    try:
        steps = [(factor, tile_step(config.tile, config.overlap, factor)) for factor in config.tile_scales]
    except ValueError as error:
        raise UserError(str(error)) from error
    return sum((1 + size[0] * factor / step) * (1 + size[1] * factor / step) for factor, step in steps)


def detection(detector: Detects, machine: Machine, proposals_only: bool = False) -> Callable[..., list[Instances]]:
    """The detector as a function of images on the machine's device."""

    def detect(images: Sequence[Tensor]) -> list[Instances]:
        with machine.autocast():
            return find(detector, images, proposals_only)

    return detect


def merging(config: ViewsConfig) -> Merge:
    """What makes one of the detections of several views."""
    on = "boxes" if config.merge_on == "boxes" else None  # None: masks where there are any
    return functools.partial(merge, config.merge, threshold=config.merge_threshold, on=on)


def search(
    detector: Detects,
    image: Tensor | Pixels,
    views: Sequence[View],
    config: ViewsConfig,
    machine: Machine,
    proposals_only: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Instances:
    """What the detector, in evaluation mode, finds in an image `[3, H, W]` or its pixels, on the CPU."""
    return predict(
        detection(detector, machine, proposals_only),
        image,
        views,
        merging(config),
        config.view_batch_size,
        machine.device,
        progress,
    )


@contextmanager
def memory_errors(name: str) -> Iterator[None]:
    """Memory that runs out in the block as a UserError that begins with `name`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "alloc" not in str(error) and "out of memory" not in str(error):
            raise
        way_out = "look at tiles (--tile=512), or at fewer views at a time (--view_batch_size=1)"
        raise UserError(f"{name}: memory runs out; {way_out}") from error
