"""Searches images with a trained detector: `python -m examples.predict IMAGE_OR_FOLDER --weights=RUN --views=d4`."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from maskrcnn.command_line import SettingsCommand, click_options, format_flags, take_flags
from maskrcnn.config import UserError, flag_values, merge, option, read_toml, settings, to_dict, toml_values
from maskrcnn.text import escape, to_file_name
from maskrcnn.training.runs import find_run
from workbench.config import ExperimentConfig, load_config, resolve

if TYPE_CHECKING:
    from collections.abc import Callable

    from maskrcnn.images.large import LargeImage
    from maskrcnn.images.levels import Levels
    from maskrcnn.inference.prediction_log import PredictionLog
    from maskrcnn.model.detector import Detector
    from maskrcnn.structures.instances import Instances
    from maskrcnn.training.machine import Machine

LARGE = 1024  # longer side in pixels from which tiles are proposed
HUGE = 8000 * 8000  # pixels from which an image should not be looked at whole
OF_USE = (  # settings of an experiment that matter after training
    "device",
    "torch_threads",
    "amp",
    "plot_min_confidence",
    "mask_nms_thresh",
    "hide_progress_bar",
    "limit_size",
    "pre_nms_limit",
    "post_nms_rois_inference",
    "detection_max_instances",
    "detection_min_confidence",
    "detection_nms_threshold",
    "gray_levels",
    "max_megapixels",
)
_OTHER_FLAGS = [
    setting.flag
    for key, setting in settings(ExperimentConfig).items()
    if setting.flag and setting.flag not in OF_USE and not key.startswith("views.")
]


@dataclass(frozen=True)
class PredictConfig:
    """Detector and output."""

    weights: str | None = option(
        None, "a run (its folder, its name, or newest), or a .pt file of its weights", flag="weights"
    )
    output_dir: str = option("predictions", "folder that gets a new folder for each search", flag="output_dir")
    show_views: bool = option(False, "also draw each view with what is found in it", flag="show_views")
    resume: str | None = option(
        None, "folder of a search that was stopped: go on with the images that are left", flag="resume"
    )


@dataclass(frozen=True)
class Finder:
    """A trained detector in evaluation mode, ready to search."""

    detector: Detector
    machine: Machine
    config: ExperimentConfig
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    source: Path
    operating_threshold: float | None = None  # saved with the weights

    @property
    def head(self) -> str:
        """Return the name of the detector's head."""
        return self.detector.head

    @property
    def threshold(self) -> float:
        """Minimum score of the detections that are drawn, numbered in label images and counted."""
        from maskrcnn.evaluation.operating_point import DEFAULT_THRESHOLD

        given = self.config.output.min_score
        return next((each for each in (given, self.operating_threshold) if each is not None), DEFAULT_THRESHOLD)


@click.command(
    cls=SettingsCommand,
    common=(
        "weights",
        "views",
        "tile",
        "overlap",
        "merge",
        "plot_min_confidence",
        "detection_min_confidence",
        "detection_max_instances",
        "show_views",
        "device",
        "output_dir",
        "config",
    ),
    example="python -m examples.predict IMAGE_OR_FOLDER --weights=newest --views=d4",
)
@click.argument("image", metavar="IMAGE_OR_FOLDER")
@click_options(PredictConfig)
@click_options(ExperimentConfig, without=_OTHER_FLAGS)
@click.option("--config", metavar="FILE", help="TOML file whose settings win over those saved with the weights")
def main(image: str, **flags: Any) -> None:
    """Search an image, or all images of a folder, for what a trained detector knows.

    Views (--views=d4) and tiles (--tile=512) are merged into one answer. Images read by tile need not fit into memory:
    TIFF, and .npy files. The settings are those that were saved with the weights, unless given here.
    """
    given = {flag: value for flag, value in flags.items() if value is not None}
    own = take_flags(PredictConfig, given)
    program = merge(PredictConfig(), flag_values(PredictConfig, own))
    paths = list_images(Path(image))
    finder = load_finder(program.weights, given)
    levels = find_gray_levels(paths, finder.config)
    check(paths, finder, levels)
    from maskrcnn.model.limits import count_cuts, describe_cuts
    from maskrcnn.training.runlog import remove_if_empty

    log = open_log(paths, finder, program, Path(image), levels)
    folder = log.folder
    click.echo(about(finder))
    if log.done:
        click.echo(f"resumed: {len(log.done)} of {len(paths)} images are done")
    for note in [*threshold_notes(finder), *notes(Path(image), finder.config)]:
        click.echo(f"note: {escape(note)}")
    if levels is not None:
        low, high = (f"{level:g}" for level in levels)
        click.echo(
            f"note: the images have 16 bits, training had 8: the gray levels {low} to {high} are shown as black "
            f"to white, measured on these images (--gray_levels={low},{high})"
        )
    with remove_if_empty(folder), log.report_interruption(), count_cuts() as cuts:
        sizes = search_all(paths, finder, log, program.show_views, levels)
    if (cut := describe_cuts(cuts, finder.config.detector)) is not None:
        click.echo(f"note: {cut}")
    print_outputs(folder, finder, program.show_views, output_names(paths))
    kept = {flag: value for flag, value in own.items() if flag not in ("show_views", "resume")}
    click.echo(f"Next: {escape(what_next(image, kept | given, finder.config, sizes, program.show_views))}")


# ---- what is searched, and with what


def list_images(path: Path) -> list[Path]:
    """The file itself, or the image files of a folder, sorted by name; hidden ones and nested folders are left out.

    Raises:
        UserError: nothing there, or a folder without images.
    """
    from maskrcnn.images.large import SUFFIXES

    if not path.is_dir():
        if not path.is_file():
            raise UserError(f"{path}: no such image or folder")
        return [path]
    images = [each for each in path.iterdir() if each.suffix.lower() in SUFFIXES and each.name[0] != "."]
    images = sorted(each for each in images if each.is_file())
    if not images:
        raise UserError(f"{path}: no images in this folder ({', '.join(SUFFIXES)}); name the folder that they lie in")
    return images


def notes(path: Path, config: ExperimentConfig) -> list[str]:
    """What the user may not expect of a search: folders passed over, tiles much smaller than what was learned from."""
    found = []
    if path.is_dir():
        folders = sum(each.is_dir() and each.name[0] != "." for each in path.iterdir())
        found += [f"{path}: {folders} folder{'s' * (folders > 1)} in it passed over; search them apart"] * (folders > 0)
    side, views = min(config.augment.crop_size, default=0), config.views
    if views.tile and 2 * views.tile < side:
        found.append(
            f"tiles of {views.tile} px are less than half of the {side} px that the detector was trained on, and what "
            f"their borders cut looks like objects; --tile={side} has less of that"
        )
    return found


def threshold_notes(finder: Finder) -> list[str]:
    """A notice where the score threshold is neither given nor saved with the weights."""
    if finder.config.output.min_score is not None or finder.operating_threshold is not None:
        return []
    return [
        f"{finder.source} has no operating threshold (best F1 on validation images), so pictures, label images and "
        f"counts have scores ≥ {finder.threshold:g}; choose another with --plot_min_confidence"
    ]


def find_weights(name: str | None) -> Path:
    """The file of weights that a run's folder or name, or a path, stands for: the best, else the last.

    Raises:
        UserError: no name, or no such run.
    """
    output_dir = load_config().output.output_dir
    if name is None:
        raise UserError(
            f"--weights: which detector? Name a run (a folder in {output_dir}) or a .pt file of its weights"
        )
    if Path(name).suffix in (".pt", ".pth") or Path(name).is_file():
        return Path(name)
    weights = find_run(name, output_dir, "--weights") / "weights"
    return weights / "best.pt" if (weights / "best.pt").is_file() else weights / "last.pt"


def load_finder(weights: str | None, flags: Mapping[str, Any]) -> Finder:
    """The detector with its weights, and the settings saved with them, over which environment and flags win.

    The flag "config" is a TOML file, whose settings come between.

    Raises:
        UserError: no weights there, or of something else; settings that make no sense.
    """
    path, given = find_weights(weights), dict(flags)
    file = given.pop("config", None)
    over = {} if file is None else toml_values(ExperimentConfig, read_toml(file), file)
    from maskrcnn.inference.loading import read_threshold
    from maskrcnn.inference.pipeline import build_views
    from maskrcnn.model.config import HEADS
    from maskrcnn.model.detector import Detector
    from maskrcnn.training.checkpoint import load_checkpoint, load_weights
    from maskrcnn.training.machine import set_up_machine

    saved = load_checkpoint(path)
    names, head = saved.get("class_names"), saved.get("head")
    if not isinstance(saved.get("config"), dict) or not isinstance(names, list) or not names or head not in HEADS:
        raise UserError(f"{path} does not describe what it was trained as; give a .pt file from a run's weights folder")
    threshold = read_threshold(saved)
    config = resolve(
        saved["config"] if threshold is not None else _without_default(saved["config"]), path, given, over=over
    )
    plain = replace(config.detector, backbone=replace(config.detector.backbone, weights="none"))  # nothing is fetched
    detector = Detector(plain, len(names), head)
    load_weights(detector, saved["model"], path)
    machine = set_up_machine(config.training)
    machine.place(detector).eval()
    build_views(detector, config.views, (64, 64))  # raises the errors of invalid options now
    ids = saved.get("category_ids") or range(1, len(names) + 1)  # the default: runs from before they were saved
    classes = tuple(escape(str(name)) for name in names)
    return Finder(detector, machine, config, classes, tuple(map(int, ids)), path, threshold)


def _without_default(tables: Mapping[str, Any]) -> Mapping[str, Any]:
    """Tables of a checkpoint from before operating thresholds, which hold the former default of output.min_score."""
    output = tables.get("output")
    if not isinstance(output, Mapping) or output.get("plot_min_confidence") != 0.5:
        return tables
    return {**tables, "output": {name: value for name, value in output.items() if name != "plot_min_confidence"}}


def find_gray_levels(paths: Sequence[Path], config: ExperimentConfig) -> Levels | None:
    """The gray levels of images with more than 8 bits, measured on these images; None if the detector has its own."""
    from maskrcnn.images.large import measure_levels
    from maskrcnn.images.options import use_image_options
    from workbench.data import check_gray_levels, make_image_options

    given = config.detector.image.gray_levels
    if given:
        check_gray_levels(given)
        return None
    with use_image_options(make_image_options(config)):
        return measure_levels(paths)


def check(paths: Sequence[Path], finder: Finder, levels: Levels | None = None) -> None:
    """UserError now, not after hours, for one of several unreadable images or looked at as was asked for."""
    from maskrcnn.images.large import open_pixels
    from maskrcnn.images.options import use_image_options
    from maskrcnn.inference.pipeline import build_views
    from workbench.data import make_image_options

    sizes = set()
    for path in paths if len(paths) > 1 else ():
        with use_image_options(make_image_options(finder.config)), open_pixels(path, levels=levels) as pixels:
            pixels.read(0, 0, 1, 1)
            sizes.add(pixels.size)
    for size in sizes:
        build_views(finder.detector, finder.config.views, size)


def about(finder: Finder) -> str:
    """What is searched with, in a line."""
    precision = "bfloat16" if finder.machine.amp else "float32"
    origin = ""
    if finder.config.output.min_score is None and finder.operating_threshold is not None:
        origin = " (best F1 on validation images)"
    return (
        f"{finder.head} of {finder.source} on {finder.machine.device}, {precision}; {how_it_looks(finder.config)}; "
        f"score ≥ {finder.threshold:.3g}{origin}"
    )


def how_it_looks(config: ExperimentConfig) -> str:
    """Views and tiles in a few words."""
    views = config.views
    words = [] if views.views == "none" else [f"views {views.views}"]
    if views.tile:
        scales = "" if views.tile_scales == (1.0,) else f" at scales {', '.join(f'{s:g}' for s in views.tile_scales)}"
        words.append(f"tiles of {views.tile} px{scales}{' and the whole image' if views.full_image else ''}")
    return ", ".join(words) or "as it is"


# ---- the search


def search_all(
    paths: Sequence[Path], finder: Finder, log: PredictionLog, show_views: bool, levels: Levels | None = None
) -> list[tuple[int, int]]:
    """Search every image that the log does not hold yet and write what is found; the sizes of the images.

    Where one fails, what was found in those before it is written.
    """
    from maskrcnn.images.large import open_pixels
    from maskrcnn.images.options import use_image_options
    from workbench.data import make_image_options

    try:
        for number, (path, name) in enumerate(zip(paths, output_names(paths), strict=True), start=1):
            if path.name in log.done:
                continue
            with use_image_options(make_image_options(finder.config)), open_pixels(path, levels=levels) as pixels:
                place = f"{number}/{len(paths)}"
                log.add(path.name, search_one(pixels, finder, log.folder / name, show_views, place))
    finally:
        if log.done:
            class_names = ("object",) if finder.head == "rpn" else finder.class_names
            log.write_results([path.name for path in paths], class_names, finder.head == "mask_rcnn")
    log.remove()
    return [log.sizes[path.name] for path in paths]


def open_log(
    paths: Sequence[Path], finder: Finder, program: PredictConfig, image: Path, levels: Levels | None
) -> PredictionLog:
    """The log of a new search in a folder of its own, or, with `--resume`, of one that was stopped."""
    from maskrcnn.inference.prediction_log import PredictionLog, hash_file, read_log
    from maskrcnn.training.runlog import create_run

    ids = finder.category_ids[:1] if finder.head == "rpn" else finder.category_ids
    config, weights = finder.config, hash_file(finder.source)
    settings: dict[str, Any] = {"views": to_dict(config.views), "detector": to_dict(config.detector)}
    settings |= {"weights": weights, "gray_levels": levels, "threshold": finder.threshold}
    if program.resume is not None:
        return read_log(Path(program.resume), settings, ids)
    stem = image.resolve().name if image.is_dir() else image.stem
    return PredictionLog(create_run(program.output_dir, to_file_name(stem)), settings, ids)


def search_one(pixels: LargeImage, finder: Finder, stem: Path, show_views: bool, place: str) -> Instances:
    """What is found in one image, of which pictures are written: `stem` is the start of their names."""
    from maskrcnn.inference.detection_files import write_views
    from maskrcnn.inference.pipeline import bind_detector, build_views, convert_memory_errors, predict_image

    pixels.read(0, 0, 1, 1)  # an image that lies about its size is found out before its views are made
    config, (height, width) = finder.config, pixels.size
    if config.views.tile == 0 and height * width > HUGE:
        click.echo(f"{escape(pixels.path.name)} is looked at whole; --tile=512 needs far less memory")
    views = build_views(finder.detector, config.views, pixels.size)
    with convert_memory_errors(str(pixels.path)):
        with progress(f"{escape(pixels.path.name)} ({place})", config) as advance:
            found = predict_image(finder.detector, pixels, views, config.views, finder.machine, progress=advance)
        words = write_findings(stem, pixels, found, finder)
        if show_views:
            path, detect = stem.with_name(f"{stem.name}_views.png"), bind_detector(finder.detector, finder.machine)
            write_views(path, pixels, views, detect, finder.threshold, finder.machine.device)
    click.echo(f"{escape(pixels.path.name)}: {width} x {height}, {len(views)} view{'s' * (len(views) > 1)}, {words}")
    return found


def write_findings(stem: Path, pixels: LargeImage, found: Instances, finder: Finder) -> str:
    """The picture and, with masks, the label image; in words, what they hold."""
    from maskrcnn.inference.detection_files import write_labels, write_picture

    threshold, path = finder.threshold, stem.with_name(f"{stem.name}.png")
    looked = f"{escape(pixels.path.name)}, {how_it_looks(finder.config)}"
    write_picture(path, pixels, found, finder.head, threshold, finder.class_names, looked)
    what = "proposals" if finder.head == "rpn" else "detections"
    words = f"{len(found.above(threshold))} {what} ≥ {threshold:.3g}"
    if found.masks is None:
        return words
    labels, count = write_labels(stem, found, threshold, finder.config.output.min_visible_fraction)
    return f"{words}, {count} in {labels.name}"


@contextmanager
def progress(label: str, config: ExperimentConfig) -> Iterator[Callable[[int, int], None]]:
    """A bar of the views that are done; where the output is no terminal, nothing."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    hidden = config.output.hide_progress_bar or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden, redirect_stdout=False) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


# ---- output


def output_names(paths: Sequence[Path]) -> list[str]:
    """For each image the start of its files' names: its own without suffix, or with it where files would clash."""
    endings = (".png", "_labels.png", "_labels.tif", "_views.png")
    written = Counter(f"{path.stem}{ending}".lower() for path in paths for ending in endings)
    clash = any(count > 1 for count in written.values())
    return [to_file_name(path.name if clash else path.stem) for path in paths]


def print_outputs(folder: Path, finder: Finder, show_views: bool, names: Sequence[str]) -> None:
    """The files, one kind a line."""
    name = names[0] if len(names) == 1 else "NAME"
    click.echo(f"Pictures     {folder / f'{name}.png'}")
    if finder.head == "mask_rcnn":
        kinds = sorted({path.suffix for path in folder.glob("*_labels.*")})  # TIFF where there are very many objects
        click.echo(f"Labels       {folder / f'{name}_labels'}{' or '.join(kinds)} (pixels numbered by object)")
    else:
        click.echo(f"Labels       none: {finder.head} finds boxes, and label images need the masks of mask_rcnn")
    if show_views:
        click.echo(f"Views        {folder / f'{name}_views.png'}")
    masks = ", coco_masks.json" if finder.head == "mask_rcnn" else ""
    click.echo(f"Predictions  {folder / 'coco_boxes.json'}{masks}, images.json")


def what_next(
    image: str, typed: Mapping[str, Any], config: ExperimentConfig, sizes: Sequence[tuple[int, int]], show_views: bool
) -> str:
    """The same with tiles or views, then a look at the views, then another merge."""
    more: dict[str, Any] = {"show_views": True}
    if config.views.views == "none" and config.views.tile == 0:
        large = max(max(size) for size in sizes) > LARGE
        more = {"tile": 512} if large else {"views": "d4", "show_views": True}
    elif show_views:
        more = {"merge": "nms" if config.views.merge == "wbf" else "wbf"}
    flags = format_flags({**typed, **more})
    return shlex.join(["python", "-m", "examples.predict", image, *flags])


if __name__ == "__main__":
    main()
