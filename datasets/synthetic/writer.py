"""Writes a synthetic data set: images, labels, COCO annotations, its recipe and a manifest; whole or not at all."""

import contextlib
import hashlib
import itertools
import json
import multiprocessing
import os
import secrets
import shutil
import signal
import threading
import tomllib
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datasets.synthetic.annotations import annotate
from datasets.synthetic.config import EllipsesConfig
from datasets.synthetic.ellipses import ellipse_scene
from datasets.synthetic.scene import measure, render
from maskrcnn.config import UserError, option, to_toml

GENERATOR = "ellipses"
VERSION = 1  # goes up whenever the same recipe would give other pixels
CLASS_NAMES = ("ellipse",)
Progress = Callable[[int, int], None]

_CHUNK = 16  # images a task
_MIN_IMAGES_FOR_POOL = 64  # below, starting processes takes longer than drawing
_PIXELS = "SHA-256 of the decoded pixels: rows top to bottom, uint8 RGB for images, little-endian uint16 for labels"


@dataclass(frozen=True)
class Recipe:
    """How this data set was made; the same recipe gives the same pixels."""

    generator: str = option(GENERATOR, "the program's name for this kind of data")
    version: int = option(VERSION, "version of the generator")
    n_train: int = option(128, "training images", minimum=0)
    n_test: int = option(32, "test images", minimum=0)
    ellipses: EllipsesConfig = field(default_factory=EllipsesConfig)


@dataclass(frozen=True)
class Written:
    """What one image left: its COCO entry, its annotations as JSON texts, and the hashes of its files by path."""

    image: dict[str, Any]
    annotations: list[str]
    files: dict[str, dict[str, str]]


def create(
    path: str | os.PathLike[str],
    config: EllipsesConfig | None = None,
    n_train: int = 128,
    n_test: int = 32,
    progress: Progress | None = None,
    overwrite: bool = False,
    processes: int | None = None,
) -> Path:
    """Make the data set at ``path`` and return its resolved path.

    It is built in a folder beside and renamed as a whole, so ``path`` holds all of it or what was there before.
    ``progress`` is called with (images done, images in all). ``processes``: default one for each core, at most 8; more
    than one needs the caller's script to guard its main part with ``if __name__ == "__main__"``, as spawning does.

    Raises:
        UserError: there is something at ``path`` (without ``overwrite``), or something that is not such a data set
            (with it); the folder cannot be written; no images asked for.
    """
    recipe = Recipe(n_train=n_train, n_test=n_test, ellipses=config or EllipsesConfig())
    if min(n_train, n_test) < 0 or n_train + n_test == 0:
        raise UserError(f"n_train {n_train} and n_test {n_test}: neither may be negative and one must be above 0")
    final = Path(path).resolve()
    check_target(final, overwrite)
    building = final.with_name(f".{final.name}.{secrets.token_hex(4)}")
    try:
        building.mkdir(parents=True)
        _build(building, recipe, progress or (lambda done, total: None), processes)
        _move_into_place(building, final)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); choose another --path") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return final


def check_target(path: Path, overwrite: bool) -> None:
    """UserError unless a data set may be put at ``path``: only what is wholly such a data set is ever replaced."""
    try:
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            return
        if not path.is_dir():
            raise UserError(f"{path}: is a file, not a folder; choose another --path")
        if not overwrite:
            raise UserError(f"{path}: already exists; --overwrite replaces it, --path chooses another place")
        if stranger := _find_stranger(path):
            raise UserError(f"{path}: is not replaced, because {stranger}; choose another --path")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); choose another --path") from error


def _find_stranger(path: Path) -> str | None:
    """Why a folder is not (only) a data set of this program, or None."""
    try:
        recipe = tomllib.loads((path / "dataset.toml").read_text(encoding="utf-8"))
        listed = set(json.loads((path / "manifest.json").read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return "it has no readable dataset.toml and manifest.json, so it was not made by this program"
    if recipe.get("generator") != GENERATOR:
        return f"its dataset.toml names another generator: {recipe.get('generator')!r}"
    for folder, _, names in os.walk(path):
        for name in names:
            relative = (Path(folder) / name).relative_to(path).as_posix()
            if relative not in listed and relative != "manifest.json":
                return f"it also holds {relative}, which is not part of the data set"
    return None


def _move_into_place(building: Path, final: Path) -> None:
    """Rename; what was there goes last, and comes back when the renaming fails."""
    if not final.exists():
        building.rename(final)
        return
    old = building.with_name(building.name + ".old")
    final.rename(old)
    try:
        building.rename(final)
    except OSError:
        old.rename(final)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _build(root: Path, recipe: Recipe, progress: Progress, processes: int | None) -> None:
    total, files = recipe.n_train + recipe.n_test, {}
    tasks = [
        (str(root), split, start, min(start + _CHUNK, count), recipe.ellipses)
        for split, count in (("train", recipe.n_train), ("test", recipe.n_test))
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
        for task, chunk in zip(tasks, _run(tasks, processes), strict=True):
            split = task[1]
            if split not in writers:
                writers[split] = stack.enter_context(_AnnotationFile(root / split / "annotations.json"))
            for written in chunk:
                writers[split].add(written)
                files.update(written.files)
            done += len(chunk)
            progress(done, total)
    _write_text(root / "dataset.toml", to_toml(recipe))
    for name in ("dataset.toml", *(f"{split}/annotations.json" for split in writers)):
        files[name] = {"sha256": _hash_file(root / name)}
    manifest = {"sha256": "SHA-256 of the file", "pixels": _PIXELS, "files": dict(sorted(files.items()))}
    _write_text(root / "manifest.json", json.dumps(manifest, indent=0) + "\n")


Task = tuple[str, str, int, int, EllipsesConfig]


def _run(tasks: list[Task], processes: int) -> Iterator[list[Written]]:
    """Results in the order of the tasks; only a few tasks wait at a time, so memory does not grow with the images."""
    if processes <= 1:
        yield from map(_write_chunk, tasks)
        return
    # Spawned everywhere: a fork of a process with PyTorch's threads can hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(processes, len(tasks)), mp_context=context, initializer=_leave_interrupts)
    waiting: deque[Future[list[Written]]] = deque()
    rest = iter(tasks)
    with _interrupts_held_back() as raise_interrupt:
        try:
            while True:
                raise_interrupt()
                more = itertools.islice(rest, 2 * processes - len(waiting))
                waiting.extend(pool.submit(_write_chunk, task) for task in more)
                if not waiting:
                    return
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise_interrupt()  # Ctrl-C may have hit a process that had only begun
            raise UserError("a process that draws images ended early (out of memory?); make smaller images") from error
        finally:
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[Callable[[], None]]:
    """Ctrl-C is raised where the function given is called: amid the pool's own work it can leave the pool hanging."""
    pressed = threading.Event()

    def raise_interrupt() -> None:
        if pressed.is_set():
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield raise_interrupt
        return
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.set())
    try:
        yield raise_interrupt
    finally:
        signal.signal(signal.SIGINT, before)


def _leave_interrupts() -> None:
    """Ctrl-C is the parent's to handle; a child would only print a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _write_chunk(task: Task) -> list[Written]:
    root, split, start, stop, config = task
    return [_write_image(Path(root), split, index, config) for index in range(start, stop)]


def _write_image(root: Path, split: str, index: int, config: EllipsesConfig) -> Written:
    scene = ellipse_scene(config, split, index)
    rendering = render(scene)
    name, files = f"{index:06d}.png", {}
    for kind, pixels in (("images", rendering.image), ("labels", rendering.labels)):
        path = root / split / kind / name
        Image.fromarray(pixels).save(path, compress_level=1, compress_type=zlib.Z_RLE)
        files[f"{split}/{kind}/{name}"] = {"sha256": _hash_file(path), "pixels": hash_pixels(pixels)}
    annotations = annotate(rendering.labels, measure(scene, rendering), index, config.min_visible_pixels)
    entry = {"id": index, "file_name": name, "width": config.width, "height": config.height}
    return Written(entry, [json.dumps(each, separators=(",", ":")) for each in annotations], files)


def hash_pixels(pixels: NDArray[Any]) -> str:
    """SHA-256 of decoded pixels, as in the manifest: uint8 [H, W, 3] or uint16 [H, W], row-major, little-endian."""
    little = pixels.astype(pixels.dtype.newbyteorder("<"), copy=False)
    return hashlib.sha256(np.ascontiguousarray(little).data).hexdigest()


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


class _AnnotationFile:
    """COCO's JSON of a split, written as the images come, so that memory holds no split's annotations."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._images: list[dict[str, Any]] = []
        self._file: TextIO

    def __enter__(self) -> "_AnnotationFile":
        self._file = self._path.open("w", encoding="utf-8", newline="\n")
        categories = [{"id": number, "name": name} for number, name in enumerate(CLASS_NAMES, start=1)]
        self._file.write(f'{{"info":{{"generator":"{GENERATOR}","version":{VERSION}}},\n')
        self._file.write(f'"categories":{json.dumps(categories)},\n"annotations":[')
        self._separator = "\n"
        return self

    def add(self, written: Written) -> None:
        self._images.append(written.image)
        for text in written.annotations:
            self._file.write(self._separator + text)
            self._separator = ",\n"

    def __exit__(self, *failure: object) -> None:
        entries = ",\n".join(json.dumps(entry) for entry in self._images)
        self._file.write(f'\n],\n"images":[\n{entries}\n]}}\n')
        self._file.close()
