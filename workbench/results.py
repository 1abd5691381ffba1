"""Detections to evaluate: of finished runs, or of any COCO results files, with the ground truth of the same images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskrcnn.config import UserError
from maskrcnn.evaluation.coco_format import BOXES_FILE, MASKS_FILE
from maskrcnn.evaluation.coco_reading import AnnotatedImages, read_coco_results, read_coco_targets
from maskrcnn.programs import format_command
from maskrcnn.training.runlog import read_metrics
from maskrcnn.training.runs import find_run
from workbench.config import ExperimentConfig, load_config
from workbench.trust import check_trust

if TYPE_CHECKING:
    from maskrcnn.structures.instances import Instances


@dataclass
class Method:
    """Detections of one method: one result per seed.

    Attributes:
        name: name in tables.
        sources: the run or file of each result.
        results: detections by image id, of each seed.
        threshold: score threshold chosen on validation images; None if it has to be chosen on these images.
        class_agnostic: whether the detector does not distinguish classes (an RPN).
    """

    name: str
    sources: list[str] = field(default_factory=list)
    results: list[Mapping[int, Instances]] = field(default_factory=list)
    threshold: float | None = None
    class_agnostic: bool = False


def read_targets(config: ExperimentConfig, annotations: str | None, notify: Callable[[str], None]) -> AnnotatedImages:
    """Read the ground truth: of an annotation file, or of the test images of a data set."""
    if annotations is not None:
        return read_coco_targets(annotations)
    from datasets.interface import get_category_ids
    from workbench.data import open_data

    test = open_data(config, notify).test
    targets = {image_id: test[index][1] for index, image_id in enumerate(test.image_ids)}
    return AnnotatedImages(targets, test.class_names, get_category_ids(test))


def split_name(text: str) -> tuple[str | None, str]:
    """Split NAME=PATH; the name is None if there is only a path."""
    name, equals, path = text.partition("=")
    return (name, path) if equals and name and path else (None, text)


def find_runs(names: Sequence[str], output_dir: str, notify: Callable[[str], None]) -> dict[str, list[Path]]:
    """Find finished runs by method: NAME=RUN, or a run whose folder's name is the method.

    Raises:
        UserError: If there is no such run, or it has not finished.
    """
    found: dict[str, list[Path]] = {}
    for text in names:
        name, run = split_name(text)
        folder = find_run(run, output_dir, "RUN", notify)
        found.setdefault(name or folder.name, []).append(folder)
        if not (folder / "predictions" / BOXES_FILE).is_file() or _read_test_metrics(folder) is None:
            raise UserError(
                f"{folder}: did not finish, it has no predictions of its test images; continue it with "
                f"{format_command('train', f'--resume={folder}')}"
            )
    return found


def load_run_config(folder: Path, flags: Mapping[str, Any]) -> ExperimentConfig:
    """Load the options of a run, with those of the command line.

    Raises:
        UserError: If the run is of a version with other options.
    """
    try:
        config = load_config(folder / "config.toml", flags)
    except UserError as error:
        raise UserError(f"{folder}: was written by another version of smallobjects ({error})") from error
    check_trust(config.data.dataset, flags, config.detector.backbone.name)
    return config


def read_runs(
    runs: Mapping[str, Sequence[Path]], annotated: AnnotatedImages, heads: Mapping[Path, str]
) -> list[Method]:
    """Read the detections of runs on their test images.

    Raises:
        UserError: If they are of other images or categories than the ground truth.
    """
    methods = []
    for name, folders in runs.items():
        method = Method(name)
        thresholds = []
        for folder in folders:
            files = [folder / "predictions" / each for each in (BOXES_FILE, MASKS_FILE)]
            method.sources.append(str(folder))
            method.results.append(read_results([each for each in files if each.is_file()], annotated))
            method.class_agnostic |= heads[folder] == "rpn"
            thresholds.append((_read_test_metrics(folder) or {}).get("operating_threshold"))
        known = [each for each in thresholds if each is not None]
        method.threshold = sum(known) / len(known) if known else None
        methods.append(method)
    return methods


def read_files(files: Sequence[str], annotated: AnnotatedImages) -> list[Method]:
    """Read results files, NAME=FILE or FILE; several files of one name are seeds of one method."""
    methods: dict[str, Method] = {}
    for text in files:
        name, path = split_name(text)
        method = methods.setdefault(name or Path(path).stem, Method(name or Path(path).stem))
        method.sources.append(path)
        method.results.append(read_results([Path(path)], annotated))
    return list(methods.values())


def read_results(files: Sequence[Path], annotated: AnnotatedImages) -> Mapping[int, Instances]:
    """Read the boxes of detections from the first file, and their masks from the second, if there is one."""
    sizes = {image_id: target.size for image_id, target in annotated.targets.items()}
    found = read_coco_results(files[0], sizes, annotated.category_ids)
    if len(files) < 2:
        return found
    masked = read_coco_results(files[1], sizes, annotated.category_ids)
    for image_id, instances in masked.items():
        if len(instances) != len(found[image_id]):
            raise UserError(f"{files[1]}: has other detections of image {image_id} than {files[0]}; write both again")
    return {image_id: replace(each, masks=masked[image_id].masks) for image_id, each in found.items()}


def _read_test_metrics(folder: Path) -> dict[str, Any] | None:
    lines = [line for line in read_metrics(folder / "metrics.jsonl") if line.get("split") == "test"]
    return lines[-1] if lines else None
