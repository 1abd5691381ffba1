"""Writer of synthetic data sets: images, label images, COCO annotations, the recipe and a manifest."""

import contextlib
import ctypes
import hashlib
import io
import itertools
import json
import multiprocessing
import os
import signal
import sys
import threading
import tomllib
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datasets.synthetic.annotations import annotate
from datasets.synthetic.config import SceneConfig
from datasets.synthetic.recipes import GENERATORS, VERSION, Recipe
from datasets.synthetic.rendering import render
from datasets.synthetic.scene import compose_scene
from maskrcnn.config import UserError, to_toml
from maskrcnn.files import atomic_folder
from maskrcnn.processes import block_interrupts, start_worker

Progress = Callable[[int, int], None]

_CHUNK = 16  # images per task
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # from malloc.h
_MIN_IMAGES_FOR_POOL = 64  # for fewer, starting processes takes longer than drawing
_PIXELS = "SHA-256 of the decoded pixels: rows top to bottom, channels last, uint8 or little-endian uint16"


@dataclass(frozen=True)
class WrittenImage:
    """A written image: its COCO entry, its annotations as JSON strings, and the hashes of its files by path."""

    image: dict[str, Any]
    annotations: list[str]
    files: dict[str, dict[str, str]]


def create(
    path: str | os.PathLike[str],
    recipe: Recipe,
    progress: Progress | None = None,
    overwrite: bool = False,
    processes: int | None = None,
    finish: Callable[[Path], None] = lambda folder: None,
) -> Path:
    """Create a data set at `path` and return its resolved path.

    The data set is written to a temporary folder that is then renamed, so `path` is never incomplete.

    Args:
        path: output folder.
        recipe: the recipe.
        progress: called with the number of finished images and of all images.
        overwrite: replace an existing data set that was created by this function.
        processes: number of processes. Default: one per core, at most 8. With more than one, the main script must be
            guarded by `if __name__ == "__main__"`, as for any use of spawned processes.
        finish: called with the folder when all images are written; files that it adds are part of the data set.

    Raises:
        UserError: If `path` exists and is not replaced, cannot be written, or the recipe has no images.
    """
    if min(recipe.counts.values()) < 0 or sum(recipe.counts.values()) == 0:
        counts = ", ".join(f"n_{split} {count}" for split, count in recipe.counts.items())
        raise UserError(f"{counts}: must not be negative, and at least one must be positive")
    with atomic_folder(path, overwrite, _find_mismatch, flag="--path") as building:
        _build(building, recipe, progress or (lambda done, total: None), processes, finish)
    return Path(path).resolve()


def _find_mismatch(path: Path) -> str | None:
    """Return the reason why a folder is not a data set created by this program; None if it is."""
    try:
        recipe = tomllib.loads((path / "dataset.toml").read_text(encoding="utf-8"))
        listed = set(json.loads((path / "manifest.json").read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return "it has no readable dataset.toml and manifest.json, so it was not created by this program"
    if recipe.get("generator") not in GENERATORS:
        return f"its dataset.toml was written by another generator: {recipe.get('generator')!r}"
    for folder, _, names in os.walk(path):
        for name in names:
            relative = (Path(folder) / name).relative_to(path).as_posix()
            if relative not in listed and relative != "manifest.json":
                return f"it also contains {relative}, which is not part of the data set"
    return None


def _build(
    root: Path, recipe: Recipe, progress: Progress, processes: int | None, finish: Callable[[Path], None]
) -> None:
    total, files = sum(recipe.counts.values()), {}
    tasks = [
        (str(root), split, start, min(start + _CHUNK, count), recipe.scene)
        for split, count in recipe.counts.items()
        for start in range(0, count, _CHUNK)
    ]
    for split in dict.fromkeys(task[1] for task in tasks):
        for kind in ("images", "labels"):
            (root / split / kind).mkdir(parents=True)
    if processes is None:
        processes = 1 if total < _MIN_IMAGES_FOR_POOL else min(os.cpu_count() or 1, 8)
    done = 0
    with contextlib.ExitStack() as stack:
        writers: dict[str, _AnnotationFile] = {}
        for task, chunk in zip(tasks, _run_tasks(tasks, processes), strict=True):
            split = task[1]
            if split not in writers:
                path = root / split / "annotations.json"
                writers[split] = stack.enter_context(_AnnotationFile(path, recipe.scene.objects.class_names))
            for written in chunk:
                writers[split].add(written)
                files.update(written.files)
            done += len(chunk)
            progress(done, total)
    _write_text(root / "dataset.toml", to_toml(recipe))
    finish(root)
    others = sorted(path for path in root.rglob("*") if path.is_file())
    for name in (path.relative_to(root).as_posix() for path in others):
        if name not in files:
            files[name] = {"sha256": hash_file(root / name)}
    manifest = {"sha256": "SHA-256 of the file", "pixels": _PIXELS, "files": dict(sorted(files.items()))}
    _write_text(root / "manifest.json", json.dumps(manifest, indent=0) + "\n")


Task = tuple[str, str, int, int, SceneConfig]


def _run_tasks(tasks: list[Task], processes: int) -> Iterator[list[WrittenImage]]:
    """Yield results in the order of the tasks; only a few tasks are pending at a time, to limit memory."""
    if processes <= 1:
        yield from map(_write_chunk, tasks)
        return
    # Processes are spawned, because forking a process with PyTorch's threads can deadlock.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(processes, len(tasks)), mp_context=context, initializer=_start_process)
    waiting: deque[Future[list[WrittenImage]]] = deque()
    rest = iter(tasks)
    with _defer_interrupts() as raise_interrupt:
        try:
            while True:
                raise_interrupt()
                more = itertools.islice(rest, 2 * processes - len(waiting))
                with block_interrupts():  # the first call starts the processes
                    waiting.extend(pool.submit(_write_chunk, task) for task in more)
                if not waiting:
                    return
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise_interrupt()  # the signal may also have ended the processes
            raise UserError("a process that draws images died (out of memory?); create smaller images") from error
        finally:
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _defer_interrupts() -> Iterator[Callable[[], None]]:
    """Defer Ctrl-C and SIGTERM until the yielded function is called, because interrupting the pool could deadlock."""
    received: list[int] = []

    def raise_interrupt() -> None:
        if received:
            raise KeyboardInterrupt if received[0] == signal.SIGINT else SystemExit(128 + received[0])

    if threading.current_thread() is not threading.main_thread():
        yield raise_interrupt
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {each: signal.signal(each, lambda number, frame: received.append(number)) for each in numbers}
    try:
        yield raise_interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _start_process() -> None:
    """Start a worker that, on Linux, does not return freed memory to the system, which saves a quarter of the time."""
    start_worker()
    with contextlib.suppress(OSError, AttributeError):  # other systems, and C libraries without mallopt
        keep = ctypes.CDLL(None if sys.platform == "linux" else "none").mallopt
        keep(_M_MMAP_THRESHOLD, 2**26)
        keep(_M_TRIM_THRESHOLD, 2**28)


def _write_chunk(task: Task) -> list[WrittenImage]:
    root, split, start, stop, config = task
    return [_write_image(Path(root), split, index, config) for index in range(start, stop)]


def _write_image(root: Path, split: str, index: int, config: SceneConfig) -> WrittenImage:
    scene = compose_scene(config, split, index)
    rendering = render(scene)
    files = {}
    for kind, pixels in (("images", rendering.image), ("labels", rendering.labels)):
        content, suffix = _encode(pixels)
        name = f"{index:06d}{suffix}"
        (root / split / kind / name).write_bytes(content)
        hashes = {"sha256": hashlib.sha256(content).hexdigest(), "pixels": hash_pixels(pixels)}
        files[f"{split}/{kind}/{name}"] = hashes
    annotations = annotate(scene, rendering, index)
    name = next(iter(files)).rpartition("/")[2]
    entry = {"id": index, "file_name": name, "width": config.width, "height": config.height}
    return WrittenImage(entry, [json.dumps(each, separators=(",", ":")) for each in annotations], files)


def _encode(pixels: NDArray[Any]) -> tuple[memoryview, str]:
    """Encode an image as PNG, or as TIFF if Pillow's PNG cannot store it; return the content and the suffix."""
    buffer = io.BytesIO()
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if channels == 1 or (channels == 3 and pixels.dtype == np.uint8):
        flat = pixels.reshape(pixels.shape[:2]) if channels == 1 else pixels
        Image.fromarray(flat).save(buffer, format="PNG", compress_level=1, compress_type=zlib.Z_RLE)
        return buffer.getbuffer(), ".png"
    import tifffile  # takes a tenth of a second to import

    kind = "rgb" if channels == 3 else "minisblack"
    tifffile.imwrite(buffer, pixels, photometric=kind, planarconfig="contig", compression="zlib", metadata=None)
    return buffer.getbuffer(), ".tif"


def hash_pixels(pixels: NDArray[Any]) -> str:
    """Return the SHA-256 of decoded pixels, uint8 or uint16 [H, W] or [H, W, C], as row-major little-endian bytes."""
    little = pixels.astype(pixels.dtype.newbyteorder("<"), copy=False)
    return hashlib.sha256(np.ascontiguousarray(little).data).hexdigest()


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


class _AnnotationFile:
    """COCO annotations of a split, written image by image, so that they are not kept in memory."""

    def __init__(self, path: Path, class_names: tuple[str, ...]) -> None:
        self._path = path
        self._categories = [{"id": number, "name": name} for number, name in enumerate(class_names, start=1)]
        self._images: list[dict[str, Any]] = []
        self._file: TextIO

    def __enter__(self) -> "_AnnotationFile":
        self._file = self._path.open("w", encoding="utf-8", newline="\n")
        self._file.write(f'{{"info":{{"generator":"{GENERATORS[0]}","version":{VERSION}}},\n')
        self._file.write(f'"categories":{json.dumps(self._categories)},\n"annotations":[')
        self._separator = "\n"
        return self

    def add(self, written: WrittenImage) -> None:
        """Add an image and its annotations."""
        self._images.append(written.image)
        for text in written.annotations:
            self._file.write(self._separator + text)
            self._separator = ",\n"

    def __exit__(self, *failure: object) -> None:
        entries = ",\n".join(json.dumps(entry) for entry in self._images)
        self._file.write(f'\n],\n"images":[\n{entries}\n]}}\n')
        self._file.close()
