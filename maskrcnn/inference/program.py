"""Program that detects objects in image files: `smallobjects predict IMAGE_OR_FOLDER --run=newest --views=d4`."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from maskrcnn.command_line import SettingsCommand, click_options, format_flags, take_flags
from maskrcnn.config import UserError, flag_values, merge
from maskrcnn.inference.config import InferenceConfig
from maskrcnn.inference.job import Job, PredictConfig, check_images, leave_out, open_log, prepare
from maskrcnn.inference.options import list_flags
from maskrcnn.text import escape, format_count

if TYPE_CHECKING:
    from maskrcnn.images.large import LargeImage
    from maskrcnn.inference.prediction_log import PredictionLog
    from maskrcnn.structures.instances import Instances

PROGRAM = "smallobjects predict"
LARGE = 1024  # longer side in pixels from which tiles are proposed
HUGE = 8000 * 8000  # pixels from which tiles should be used


@click.command(
    cls=SettingsCommand,
    common=(
        "run",
        "views",
        "tile",
        "overlap",
        "merge",
        "plot_min_confidence",
        "detection_min_confidence",
        "detection_max_instances",
        "to",
        "skip_bad",
        "device",
        "output_dir",
        "config",
    ),
    example=f"{PROGRAM} IMAGE_OR_FOLDER --run=newest --views=d4",
)
@click.argument("image", metavar="IMAGE_OR_FOLDER")
@click_options(PredictConfig)
@click_options(InferenceConfig, without=list_flags(used=False))
@click.option("--config", metavar="FILE", help="TOML file whose options override those saved with the detector")
@click.option("--trust", is_flag=True, default=None, help="run the code of a backbone of your own")
def main(image: str, **flags: Any) -> None:
    """Detect objects in an image, or in all images of a folder, with a trained detector.

    Detections in views (--views=d4) and tiles (--tile=512) are merged. TIFF and .npy files are read by tile, so they
    need not fit into memory. Options are those saved with the detector, unless they are given here.
    """
    given = {flag: value for flag, value in flags.items() if value is not None}
    typed = dict(given)
    own = take_flags(PredictConfig, given)
    job = prepare(Path(image), merge(PredictConfig(), flag_values(PredictConfig, own)), given)
    from maskrcnn.images.options import make_image_options, use_image_options
    from maskrcnn.model.limits import count_cuts, describe_cuts
    from maskrcnn.training.runlog import remove_if_empty

    with use_image_options(make_image_options(job.options.data, job.options.detector.image.channels)):
        job = check_images(job)
        log = open_log(job, Path(image))
        click.echo(describe_detector(job))
        if log.done:
            click.echo(f"resumed: {format_count(len(log.done), f'of {len(job.paths):,} images are')} done")
        for note in list_notes(job, Path(image)):
            click.echo(f"note: {escape(note)}")
        with remove_if_empty(log.folder), log.report_interruption(), count_cuts() as cuts:
            sizes = predict_images(job, log)
    if (cut := describe_cuts(cuts, job.options.detector)) is not None:
        click.echo(f"note: {cut}")
    print_outputs(job, log.folder)
    print_bad(job)
    click.echo(f"Next: {escape(format_next_command(job, image, typed, sizes))}")


# ---- prediction


def predict_images(job: Job, log: PredictionLog) -> list[tuple[int, int]]:
    """Predict each image that is not in the log, and write output files; return the sizes of the images.

    After an error, the detections in the images that were processed before are still written.
    """
    from maskrcnn.images.large import open_pixels
    from maskrcnn.inference.exports import write_exports

    try:
        for number, (path, name) in enumerate(zip(job.paths, job.names, strict=True), start=1):
            if path.name in log.done or path.name in job.bad:
                continue
            try:
                with open_pixels(path, levels=job.levels) as pixels:
                    found = predict_file(pixels, job, log.folder / name, f"{number}/{len(job.paths)}")
                fraction, shown = job.options.output.min_visible_fraction, found.above(job.threshold)
                table = write_exports(log.folder / name, path, shown, job.class_names, job.program.to, fraction)
            except UserError as error:
                leave_out(job, path, error)
            else:
                log.add(path.name, found, table)
    finally:
        if log.done:
            log.write_results([path.name for path in job.paths], job.class_names, job.predictor.head == "mask_rcnn")
    log.remove()
    return list(log.sizes.values())


def predict_file(pixels: LargeImage, job: Job, stem: Path, position: str) -> Instances:
    """Predict one image and write its files, whose names start with `stem`; return the detections."""
    from maskrcnn.inference.detection_files import write_views
    from maskrcnn.inference.pipeline import bind_detector, build_views, convert_memory_errors, find_scale

    pixels.read(0, 0, 1, 1)  # fails before the views are built if the size in the header is wrong
    predictor, name, (height, width) = job.predictor, escape(pixels.path.name), pixels.size
    if predictor.views.tile == 0 and height * width > HUGE:
        click.echo(f"{name} is processed as a whole; --tile=512 needs far less memory")
    views = build_views(predictor.detector, predictor.views, pixels.size, find_scale(pixels))
    with convert_memory_errors(str(pixels.path)):
        with show_progress(f"{name} ({position})", job.options) as advance:
            found = predictor.predict(pixels, progress=advance)
        counts = write_detections(stem, pixels, found, job)
        if job.program.show_views:
            detect = bind_detector(predictor.detector, predictor.machine)
            sheet = stem.with_name(f"{stem.name}_views.png")
            write_views(sheet, pixels, views, detect, job.threshold, predictor.machine.device)
    stated = "".join(f", {words}" for words in [pixels.metadata.describe()] if words)
    click.echo(f"{name}: {width} x {height}{stated}, {format_count(len(views), 'views')}, {counts}")
    return found


def write_detections(stem: Path, pixels: LargeImage, found: Instances, job: Job) -> str:
    """Write the picture and, if there are masks, the label image; return their counts in words."""
    from maskrcnn.inference.detection_files import write_labels, write_picture

    head, threshold = job.predictor.head, job.threshold
    title = f"{escape(pixels.path.name)}, {describe_views(job.options)}"
    write_picture(stem.with_name(f"{stem.name}.png"), pixels, found, head, threshold, job.class_names, title)
    count = len(found.above(threshold))
    words = f"{format_count(count, 'proposals' if head == 'rpn' else 'detections')} ≥ {threshold:.3g}"
    if found.masks is None:
        return words
    labels, painted = write_labels(stem, found, threshold, job.options.output.min_visible_fraction)
    hidden = f" ({count - painted} hidden)" if painted < count else ""
    return f"{words}, {painted} in {labels.name}{hidden}"


@contextmanager
def show_progress(label: str, options: InferenceConfig) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar of the views if the output is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    hidden = options.output.hide_progress_bar or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden, redirect_stdout=False) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


# ---- messages


def describe_detector(job: Job) -> str:
    """Describe the detector, its device and options in one line."""
    machine = job.predictor.machine
    is_saved = job.options.output.min_score is None and job.predictor.operating_threshold is not None
    return (
        f"{job.predictor.head} of {job.saved.source} on {machine.device}, {'bfloat16' if machine.amp else 'float32'}; "
        f"{describe_views(job.options)}; score ≥ {job.threshold:.3g}{' (best F1 on validation images)' * is_saved}"
    )


def describe_views(options: InferenceConfig) -> str:
    """Describe views and tiles in a few words."""
    views = options.views
    words = [] if views.views == "none" else [f"views {views.views}"]
    if views.tile:
        scales = "" if views.tile_scales == (1.0,) else f" at scales {', '.join(f'{s:g}' for s in views.tile_scales)}"
        words.append(f"tiles of {views.tile} px{scales}{' and the whole image' if views.full_image else ''}")
    return ", ".join(words) or "whole images"


def list_notes(job: Job, image: Path) -> list[str]:
    """List notes on unexpected conditions: no threshold, subfolders, tiles that are too small, and gray levels."""
    notes = []
    if job.options.output.min_score is None and job.predictor.operating_threshold is None:
        notes.append(
            f"{job.saved.source} has no operating threshold (best F1 on validation images), so pictures, label images "
            f"and counts include scores ≥ {job.threshold:g}; choose another threshold with --plot_min_confidence"
        )
    folders = sum(each.is_dir() and each.name[0] != "." for each in image.iterdir()) if image.is_dir() else 0
    if folders:
        notes.append(f"{image}: {format_count(folders, 'subfolders')} left out; predict each of them separately")
    side, tile = get_training_size(job.saved.config), job.options.views.tile
    if tile and 2 * tile < side:
        notes.append(
            f"tiles of {tile} px are less than half of the {side} px that the detector was trained on, and objects cut "
            f"by their borders cause false positives; use --tile={side} for fewer of them"
        )
    if job.levels is not None:
        low, high = (f"{level:g}" for level in job.levels)
        notes.append(
            f"the images have 16 bits, training had 8: the gray levels {low} to {high} are shown as black to white, "
            f"measured on these images (--gray_levels={low},{high})"
        )
    return notes


def get_training_size(config: Mapping[str, Any]) -> int:
    """Return the smaller side of the crops that a detector was trained on, from its saved options; 0 if unknown."""
    augment = config.get("augment")
    sizes = [augment.get(name) for name in ("crop_size", "fixed_size")] if isinstance(augment, Mapping) else []
    return min(next(filter(None, sizes), (0,)))


def print_outputs(job: Job, folder: Path) -> None:
    """Print the output files, one line per kind."""
    from maskrcnn.inference.exports import FILES

    head, names = job.predictor.head, job.names
    name = names[0] if len(names) == 1 else "NAME"
    click.echo(f"Pictures     {folder / f'{name}.png'}")
    if head == "mask_rcnn":
        kinds = sorted({path.suffix for path in folder.glob("*_labels.*")})  # TIFF if there are very many objects
        between = " and " if "label_tiff" in job.program.to else " or "
        click.echo(
            f"Labels       {folder / f'{name}_labels'}{between.join(kinds)} (pixels numbered by object; hidden: below "
            f"{job.options.output.min_visible_fraction:.0%} visible, --mask_nms_thresh)"
        )
    else:
        click.echo(f"Labels       none: {head} predicts boxes, and label images need the masks of mask_rcnn")
    if job.program.show_views:
        click.echo(f"Views        {folder / f'{name}_views.png'}")
    masks = ", coco_masks.json" if head == "mask_rcnn" else ""
    click.echo(f"Predictions  {folder / 'coco_boxes.json'}{masks}, images.json")
    for title, files in (FILES[each] for each in dict.fromkeys(job.program.to) if each in FILES):
        click.echo(f"{title:13}{folder / files.format(name=name)}")
    click.echo(f"Tables       {folder / 'objects.csv'} (number: that in the label image), counts.csv")


def print_bad(job: Job) -> None:
    """Print which images were left out by `--skip_bad`."""
    if job.bad:
        count = format_count(len(job.bad), "unreadable images")
        click.echo(f"Left out     {count} of {len(job.paths)} (--skip_bad), check or remove:")
        for error in job.bad.values():
            click.echo(f"    {error.removesuffix('; check or remove it')}")


def format_next_command(job: Job, image: str, typed: Mapping[str, Any], sizes: Sequence[tuple[int, int]]) -> str:
    """Format a command that uses tiles or views; after that one that shows the views, then one with another merge."""
    views = job.options.views
    more: dict[str, Any] = {"show_views": True}
    if views.views == "none" and views.tile == 0:
        is_large = max(max(size) for size in sizes) > LARGE
        more = {"tile": 512} if is_large else {"views": "d4", "show_views": True}
    elif job.program.show_views:
        more = {"merge": "nms" if views.merge == "wbf" else "wbf"}
    kept = {flag: value for flag, value in typed.items() if flag not in ("show_views", "resume")}
    return shlex.join([*PROGRAM.split(), image, *format_flags({"run": job.program.run} | kept | more)])


if __name__ == "__main__":
    main()
