"""Trained detectors from files: a run's folder, a checkpoint, or exported weights."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from maskrcnn.config import UserError, flag_values, to_dict
from maskrcnn.files import atomic_write
from maskrcnn.images.levels import check_levels
from maskrcnn.images.selection import parse_selection
from maskrcnn.inference.config import InferenceConfig
from maskrcnn.inference.options import list_flags, resolve_options
from maskrcnn.inference.pipeline import build_views
from maskrcnn.inference.predictor import Predictor
from maskrcnn.model.config import HEADS, is_own_backbone
from maskrcnn.model.detector import Detector
from maskrcnn.text import escape
from maskrcnn.training.checkpoint import load_checkpoint, load_weights
from maskrcnn.training.machine import set_up_machine
from maskrcnn.training.runs import DEFAULT_RUNS, NEWEST, find_run

FORMAT = 1  # of the description of the weights; a file with a higher number was written by a newer version
SAFETENSORS = ".safetensors"


class SavedDetector(NamedTuple):
    """Contents of a file of weights.

    Attributes:
        source: the file.
        description: head, class_names, config, and perhaps category_ids, state and format.
        weights: tensors by name.
    """

    source: Path
    description: Mapping[str, Any]
    weights: Mapping[str, Tensor]

    @property
    def config(self) -> Mapping[str, Any]:
        """All options that the detector was trained with, as nested tables."""
        config: Mapping[str, Any] = self.description["config"]
        return config

    @property
    def operating_threshold(self) -> float | None:
        """Operating threshold of the evaluation that the file was saved after; None if there was none."""
        state = self.description.get("state")
        metrics = state.get("metrics") if isinstance(state, Mapping) else None
        threshold = metrics.get("operating_threshold") if isinstance(metrics, Mapping) else None
        return float(threshold) if isinstance(threshold, int | float) else None

    def resolve(self, *layers: Mapping[str, Any]) -> InferenceConfig:
        """Merge the saved options of inference and layers {dotted key: value}, which have precedence."""
        has_threshold = self.operating_threshold is not None
        return resolve_options(self.config, self.source, *layers, has_threshold=has_threshold)


def load(
    path: str | os.PathLike[str],
    device: str = "auto",
    runs: str | os.PathLike[str] = DEFAULT_RUNS,
    trust: bool = False,
    **options: Any,
) -> Predictor:
    """Load a trained detector with its class names and inference options.

    No options are taken from the command line, the environment or `smallobjects.toml`, and no code in the file is run.
    A backbone of your own, which the file names as module:Class, is imported only with `trust`.

    Args:
        path: the folder of a run, its name, "newest", a `.pt` file of its weights, or a `.safetensors` file of `save`.
            Of a run the best weights are taken, or the last if there are no best. A name is searched for in `runs`
            and in the folders that training wrote runs to before.
        device: auto, cpu, cuda, or the number of a GPU.
        runs: the folder of the runs.
        trust: whether to import and run the class of a backbone that the file names.
        **options: options of the command `predict` that replace the saved ones, such as
            `detection_min_confidence=0.2`, `views="d4"` or, for image files that are stacks, `select="z=max"`.

    Returns:
        The detector, ready to predict.

    Raises:
        ValueError: no run or file there; a file that is damaged, of another kind, or of a newer version; an unknown
            or invalid option.
    """
    unknown = set(options) - set(list_flags())
    if unknown:
        raise UserError(f"load has no option {', '.join(sorted(unknown))}; it has {', '.join(list_flags())}")
    saved = read_weights(find_weights(path, runs))
    process = {"training.device": device, "training.torch_threads": 0, "training.deterministic": False}
    return build_predictor(saved, saved.resolve(process, flag_values(InferenceConfig, options)), trust)


def save(predictor: Predictor, path: str | os.PathLike[str]) -> None:
    """Write weights, classes and options to a `.safetensors` file that `load` reads; needs the library safetensors.

    Raises:
        ValueError: another suffix, or a file that is not writable.
    """
    path = Path(path)
    if path.suffix != SAFETENSORS:
        raise UserError(f"{path}: the file's name must end in {SAFETENSORS}")
    about = {
        "format": FORMAT,
        "head": predictor.head,
        "class_names": predictor.class_names,
        "category_ids": predictor.category_ids,
        "config": {**predictor.config, "views": to_dict(predictor.views)},
        "state": {"metrics": {"operating_threshold": predictor.operating_threshold}},
    }
    weights = {name: value.detach().cpu().contiguous() for name, value in predictor.detector.state_dict().items()}
    try:
        with atomic_write(path) as beside:
            _safetensors().save_file(weights, beside, metadata={"smallobjects": json.dumps(about)})
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error


def find_weights(
    path: str | os.PathLike[str],
    runs: str | os.PathLike[str] = DEFAULT_RUNS,
    flag: str = "load",
    notify: Callable[[str], None] = print,
) -> Path:
    """Find the file of weights that a path, the name of a run, or "newest" means.

    Args:
        path: as in `load`.
        runs: the folder of the runs.
        flag: begins the message of an error about a name.
        notify: called with a line if a newer run has no weights.

    Raises:
        UserError: no such file or run.
    """
    file = Path(path).expanduser()
    if file.suffix in (".pt", ".pth", SAFETENSORS) or file.is_file():
        if not file.is_file():
            raise UserError(f"no weights at {file}: no such file; give a .pt file from a run's weights folder")
        return file
    if str(path) != NEWEST and file.is_dir() and not (file / "config.toml").is_file():
        raise UserError(f"{file}: is no folder of a run, it has no config.toml; give the folder that training printed")
    weights = find_run(str(file), str(runs), flag, notify) / "weights"
    best = weights / "best.pt"
    return best if best.is_file() else weights / "last.pt"


def read_weights(path: Path) -> SavedDetector:
    """Read a file of weights and check its description.

    Raises:
        UserError: If the file is damaged or of a newer version, or its description is incomplete.
    """
    if path.suffix == SAFETENSORS:
        saved = _read_safetensors(path)
    else:
        contents = load_checkpoint(path)
        saved = SavedDetector(path, contents, contents["model"])
    version = saved.description.get("format", FORMAT)
    if not isinstance(version, int) or version > FORMAT:
        raise UserError(
            f"{path}: was written by a newer version (format {version}, known: {FORMAT}); update smallobjects"
        )
    names, head, config = (saved.description.get(key) for key in ("class_names", "head", "config"))
    if not isinstance(config, dict) or not isinstance(names, list | tuple) or not names or head not in HEADS:
        raise UserError(f"{path} does not describe what it was trained as; give a .pt file from a run's weights folder")
    ids = saved.description.get("category_ids") or range(len(names))
    if len(ids) != len(names) or not all(isinstance(each, int) for each in ids):
        raise UserError(f"{path}: its category_ids are {list(ids)}, but there must be {len(names)} integers")
    if not all(isinstance(each, Tensor) for each in saved.weights.values()):
        raise UserError(f"{path}: its weights are not all tensors; give a .pt file from a run's weights folder")
    return saved


def build_predictor(saved: SavedDetector, options: InferenceConfig, trust: bool = False) -> Predictor:
    """Build the detector of a file with its weights.

    Args:
        saved: contents of the file.
        options: options of inference, see `SavedDetector.resolve`.
        trust: as in `load`.

    Raises:
        UserError: If the weights are of another architecture, a backbone is not trusted, an option does not fit, or
            there is no such device.
    """
    backbone = options.detector.backbone
    if is_own_backbone(backbone.name) and not trust:
        raise UserError(
            f"{saved.source}: names the backbone {backbone.name}, whose code would be run; review it, then load the "
            "file with trust=True (--trust)"
        )
    if options.detector.image.gray_levels:
        check_levels(options.detector.image.gray_levels)
    parse_selection(options.data.select)  # raises the error of an invalid selection now
    names = tuple(escape(str(name)) for name in saved.description["class_names"])
    plain = replace(options.detector, backbone=replace(backbone, weights="none"))  # nothing is downloaded
    detector = Detector(plain, len(names), saved.description["head"])
    load_weights(detector, saved.weights, saved.source)
    build_views(detector, options.views, (64, 64))  # raises the errors of invalid views now
    return Predictor(
        detector,
        names,
        tuple(int(each) for each in saved.description.get("category_ids") or ()),
        views=options.views,
        operating_threshold=saved.operating_threshold,
        config={**saved.config, **{name: to_dict(getattr(options, name)) for name in ("data", "detector", "views")}},
        device=set_up_machine(options.training),
    )


def _read_safetensors(path: Path) -> SavedDetector:
    library = _safetensors()
    try:
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("smallobjects", "{}"))
        if not isinstance(about, dict):
            raise TypeError(type(about))
        return SavedDetector(path, about, library.load_file(path))
    except Exception as error:  # the library promises no common type
        raise UserError(f"{path}: is damaged, or no file of weights") from error


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise UserError("files of .safetensors need the library safetensors: pip install safetensors") from error
    return safetensors.torch
