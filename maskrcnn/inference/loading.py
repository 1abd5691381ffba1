"""Trained detectors from files: a run's folder, a checkpoint, or exported weights."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from maskrcnn.config import UserError, from_dict
from maskrcnn.files import atomic_write
from maskrcnn.inference.config import ViewsConfig
from maskrcnn.inference.predictor import Predictor
from maskrcnn.model.config import HEADS, DetectorConfig, is_own_backbone
from maskrcnn.model.detector import Detector
from maskrcnn.text import escape
from maskrcnn.training.checkpoint import load_checkpoint, load_weights
from maskrcnn.training.runs import NEWEST, find_run

FORMAT = 1  # of the description of the weights; a file with a higher number was written by a newer version
SAFETENSORS = ".safetensors"


def load(
    path: str | os.PathLike[str],
    device: str = "auto",
    runs: str | os.PathLike[str] = "runs",
    trust: bool = False,
) -> Predictor:
    """Load a trained detector with its class names and inference options.

    Nothing is taken from the command line, the environment or `smallobjects.toml`, and no code in the file is run. A
    backbone of your own, which the file names as module:Class, is imported only with `trust`.

    Args:
        path: the folder of a run, its name in `runs`, "newest", a `.pt` file of its weights, or a `.safetensors` file
            of `save`. Of a run the best weights are taken, or the last if there are no best.
        device: auto, cpu, cuda, or the number of a GPU.
        runs: the folder of the runs.
        trust: whether to import and run the class of a backbone that the file names.

    Returns:
        The detector, ready to predict.

    Raises:
        ValueError: no run or file there; a file that is damaged, of another kind, or of a newer version.
    """
    file = find_weights(path, runs)
    if file.suffix == SAFETENSORS:
        saved, weights = _read_safetensors(file)
    else:
        saved = load_checkpoint(file)
        weights = saved["model"]
    return build_predictor(saved, weights, file, device, trust)


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
        "config": predictor.config,
        "state": {"metrics": {"operating_threshold": predictor.operating_threshold}},
    }
    weights = {name: value.detach().cpu().contiguous() for name, value in predictor.detector.state_dict().items()}
    try:
        with atomic_write(path) as beside:
            _safetensors().save_file(weights, beside, metadata={"smallobjects": json.dumps(about)})
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error


def find_weights(path: str | os.PathLike[str], runs: str | os.PathLike[str] = "runs") -> Path:
    """Find the file of weights that a path, the name of a run, or "newest" means.

    Raises:
        UserError: no such file or run.
    """
    file = Path(path).expanduser()
    if file.suffix in (".pt", ".pth", SAFETENSORS) or file.is_file():
        if not file.is_file():
            raise UserError(f"{file}: no such file")
        return file
    if str(path) != NEWEST and file.is_dir() and not (file / "config.toml").is_file():
        raise UserError(f"{file}: is no folder of a run, it has no config.toml; give the folder that training printed")
    weights = find_run(str(file), str(runs), "load") / "weights"
    best = weights / "best.pt"
    return best if best.is_file() else weights / "last.pt"


def build_predictor(
    saved: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    source: Path,
    device: str = "auto",
    trust: bool = False,
) -> Predictor:
    """Build the detector that a file describes, with its weights.

    Args:
        saved: the file's description: head, class_names, config, and perhaps category_ids, state and format.
        weights: tensors by name.
        source: the file, for errors.
        device: as in `load`.
        trust: as in `load`.

    Raises:
        UserError: a description that is incomplete or of a newer version, weights of another architecture.
    """
    version = saved.get("format", FORMAT)
    if not isinstance(version, int) or version > FORMAT:
        raise UserError(
            f"{source}: was written by a newer version (format {version}, known: {FORMAT}); update smallobjects"
        )
    names, head, config = saved.get("class_names"), saved.get("head"), saved.get("config")
    if not isinstance(config, dict) or not isinstance(names, list | tuple) or not names or head not in HEADS:
        raise UserError(
            f"{source}: does not describe what it was trained as; give a .pt file from a run's weights folder"
        )
    detector_config = from_dict(DetectorConfig, config.get("detector", {}), f"{source}: detector")
    name = detector_config.backbone.name
    if is_own_backbone(name) and not trust:
        raise UserError(
            f"{source}: names the backbone {name}, whose code would be run; review it, then load the file with "
            "trust=True"
        )
    plain = replace(detector_config, backbone=replace(detector_config.backbone, weights="none"))  # nothing is fetched
    detector = Detector(plain, len(names), head)
    load_weights(detector, weights, source)
    return Predictor(
        detector,
        tuple(escape(str(name)) for name in names),
        tuple(int(each) for each in saved.get("category_ids") or ()),
        views=from_dict(ViewsConfig, config.get("views", {}), f"{source}: views"),
        operating_threshold=read_threshold(saved),
        config=config,
        device=device,
    )


def read_threshold(saved: Mapping[str, Any]) -> float | None:
    """Return the operating threshold of the evaluation that a checkpoint was saved after; None if there was none."""
    state = saved.get("state")
    metrics = state.get("metrics") if isinstance(state, Mapping) else None
    threshold = metrics.get("operating_threshold") if isinstance(metrics, Mapping) else None
    return float(threshold) if isinstance(threshold, int | float) else None


def _read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    library = _safetensors()
    try:
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("smallobjects", "{}"))
        return about, library.load_file(path)
    except Exception as error:  # the library promises no common type
        raise UserError(f"{path}: is damaged, or no file of weights") from error


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise UserError("files of .safetensors need the library safetensors: pip install safetensors") from error
    return safetensors.torch
