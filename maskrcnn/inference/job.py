"""A call of `predict`: its options, the detector, the images, and the output folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from maskrcnn.config import UserError, flag_values, option, to_dict
from maskrcnn.inference.config import InferenceConfig
from maskrcnn.inference.options import get_runs_folder, read_layers
from maskrcnn.text import to_file_name

if TYPE_CHECKING:
    from maskrcnn.images.levels import Levels
    from maskrcnn.inference.loading import SavedDetector
    from maskrcnn.inference.prediction_log import PredictionLog
    from maskrcnn.inference.predictor import Predictor

FORMATS = ("geojson", "geojson_world", "label_tiff", "coco", "yolo", "labelme")


@dataclass(frozen=True)
class PredictConfig:
    """Detector and output."""

    run: str | None = option(
        None,
        "a run (its folder, its name, or newest), or a .pt or .safetensors file of its weights",
        flag="run",
        old_flag="weights",
    )
    output_dir: str = option("predictions", "folder in which each call creates a new folder", flag="output_dir")
    to: tuple[str, ...] = option(
        (),
        "additional formats of detections above the minimum score: QuPath's GeoJSON (or in world coordinates), label "
        "images as TIFF, COCO (always written), YOLO, LabelMe",
        flag="to",
        choices=FORMATS,
    )
    show_views: bool = option(False, "also draw each view with its detections", flag="show_views")
    skip_bad: bool = option(False, "leave out unreadable images, and list them at the end", flag="skip_bad")
    resume: str | None = option(
        None, "output folder of a call that was stopped: continue with the other images", flag="resume"
    )


@dataclass(frozen=True)
class Job:
    """A trained detector with its options, and the images to predict.

    Attributes:
        predictor: the detector.
        saved: contents of its file.
        options: options of inference.
        program: options of this program.
        paths: image files.
        levels: gray levels of images with more than 8 bits, measured on them if the detector has none of its own.
        bad: errors of images that are left out, by name.
    """

    predictor: Predictor
    saved: SavedDetector
    options: InferenceConfig
    program: PredictConfig
    paths: Sequence[Path]
    levels: Levels | None = None
    bad: dict[str, str] = field(default_factory=dict)

    @property
    def threshold(self) -> float:
        """Minimum score of detections in pictures, label images and counts."""
        from maskrcnn.evaluation.operating_point import DEFAULT_THRESHOLD

        thresholds = (self.options.output.min_score, self.predictor.operating_threshold, DEFAULT_THRESHOLD)
        return next(each for each in thresholds if each is not None)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the labels; an RPN does not distinguish classes."""
        return ("object",) if self.predictor.head == "rpn" else self.predictor.class_names

    @property
    def names(self) -> list[str]:
        """Start of the names of each image's output files."""
        from maskrcnn.inference.image_list import make_output_names

        return make_output_names(self.paths)


# ---- preparation


def prepare(image: Path, program: PredictConfig, flags: Mapping[str, Any]) -> Job:
    """Find the images, and load the detector with its options: flags over environment over TOML over saved ones.

    Raises:
        UserError: If there are no images or no detector, or an option is invalid.
    """
    from maskrcnn.inference.image_list import list_images
    from maskrcnn.inference.loading import build_predictor, find_weights, read_weights

    given = dict(flags)
    trust, file = bool(given.pop("trust", False)), given.pop("config", None)
    paths = list_images(image)
    runs = get_runs_folder()
    if program.run is None:
        raise UserError(f"--run: which detector? Name a run (a folder in {runs}), newest, or a .pt file of its weights")
    layers = [*read_layers(file, show_notice), flag_values(InferenceConfig, given)]
    saved = read_weights(find_weights(program.run, runs, "--run", click.echo))
    options = saved.resolve(*layers)
    return Job(build_predictor(saved, options, trust), saved, options, program, paths)


def show_notice(line: str) -> None:
    """Print a notice about options to stderr."""
    click.echo(f"note: {line}", err=True)


def check_images(job: Job) -> Job:
    """Return the job with its gray levels and, with `--skip_bad`, without unreadable images.

    Raises:
        UserError: For an unreadable image without `--skip_bad`, and an image that cannot have the views.
    """
    from maskrcnn.images.large import measure_levels
    from maskrcnn.inference.exports import get_georeference
    from maskrcnn.inference.image_list import read_sizes
    from maskrcnn.inference.pipeline import build_views

    for path in job.paths if "geojson_world" in job.program.to else ():
        try:
            get_georeference(path)
        except UserError as error:
            leave_out(job, path, error)
    has_levels = bool(job.options.detector.image.gray_levels)
    job = replace(job, levels=None if has_levels else measure_levels(job.paths))
    if len(job.paths) == 1 and not job.program.skip_bad:
        return job
    sizes = set()
    for path, size in read_sizes(job.paths, job.levels):
        if isinstance(size, UserError):
            leave_out(job, path, size)
        else:
            sizes.add(size)
    if not sizes:
        raise UserError(f"none of the {len(job.paths)} images is readable: {next(iter(job.bad.values()))}")
    for size in sizes:
        build_views(job.predictor.detector, job.options.views, size)
    return job


def leave_out(job: Job, path: Path, error: UserError) -> None:
    """Remember an unreadable image to leave out; without `--skip_bad`, raises an error that names the option."""
    if not job.program.skip_bad:
        raise UserError(f"{error}, or use --skip_bad to leave it out") if len(job.paths) > 1 else error
    job.bad[path.name] = str(error)


def open_log(job: Job, image: Path) -> PredictionLog:
    """Open the log in a new output folder, or with `--resume` the one of a call that was stopped."""
    from maskrcnn.inference.prediction_log import PredictionLog, hash_file, read_log
    from maskrcnn.training.runlog import create_run

    ids, options = job.predictor.category_ids[: len(job.class_names)], job.options
    settings: dict[str, Any] = {"views": to_dict(options.views), "detector": to_dict(options.detector)}
    settings |= {"weights": hash_file(job.saved.source), "gray_levels": job.levels, "threshold": job.threshold}
    if job.program.resume is not None:
        return read_log(Path(job.program.resume), settings, ids)
    stem = image.resolve().name if image.is_dir() else image.stem
    return PredictionLog(create_run(job.program.output_dir, to_file_name(stem)), settings, ids)
