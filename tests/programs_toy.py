"""Programs in miniature: a narrow detector, a few images of 64 x 64, and what a call left behind."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner, Result
from PIL import Image

from datasets.synthetic.config import SceneConfig, update_config
from datasets.synthetic.recipes import Recipe
from datasets.synthetic.writer import create
from maskrcnn.config import old_keys
from workbench.config import ExperimentConfig

SCENES = update_config(SceneConfig(), width=64, height=64, n_groups=1, n_objects_per_group=4, n_free=6)
N_TRAIN, N_VAL, N_TEST = 6, 2, 3
SETTINGS = """
[augment]
crop_size = [64]
crop_border = 4
[detector.backbone]
width = 16
fpn_channels = 16
[detector.rpn]
anchors_per_image = 32
pre_nms_top_n_inference = 60
post_nms_top_n_training = 40
post_nms_top_n_inference = 40
[detector.box]
widths = [32]
rois_per_image = 16
[detector.mask]
channels = 8
depth = 1
rois_per_image = 6
[training]
num_epochs = 2
device = "cpu"
torch_threads = 1
"""


def make_ellipses(path: Path) -> Path:
    return create(path, Recipe(n_train=N_TRAIN, n_val=N_VAL, n_test=N_TEST, scene=SCENES), processes=1)


def settle(folder: Path, ellipses: Path) -> Path:
    """Make the folder a place where the programs run: settings, and a copy of the ellipses where they are expected."""
    (folder / "smallobjects.toml").write_text(SETTINGS, encoding="utf-8")
    shutil.copytree(ellipses, folder / "data" / "ellipses")
    return folder


def make_nuclei(root: Path, count: int = 4) -> Path:
    """Kaggle's folders: RGBA images of 48 x 40 with three masks each, two of which overlap, and one that is empty."""
    for number in range(count):
        folder = root / "stage1_train" / f"nucleus-{number}"
        (folder / "images").mkdir(parents=True)
        (folder / "masks").mkdir()
        image = Image.new("RGBA", (48, 40), (0, 0, 0, 255))
        windows = [(5 + number, 5, 17 + number, 17), (12 + number, 10, 24 + number, 22), (30, 24, 42, 36)]
        for name, window in zip("abc", windows, strict=True):
            mask = Image.new("L", (48, 40))
            mask.paste(255, window)
            mask.save(folder / "masks" / f"{name}.png")
            image.paste((90, 200, 160, 255), window)
        Image.new("L", (48, 40)).save(folder / "masks" / "empty.png")
        image.save(folder / "images" / f"{folder.name}.png")
    return root


def with_old_keys(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the nested tables of an experiment with the keys of the previous version."""
    old = {current: key for key, current in old_keys(ExperimentConfig).items()}

    def rename(table: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        return {
            old.get(prefix + name, name).rpartition(".")[2]: rename(value, f"{prefix}{name}.")
            if isinstance(value, Mapping)
            else value
            for name, value in table.items()
        }

    return rename(tables, "")


def call(program: click.Command, *arguments: str) -> Result:
    """Run a program in this process; whatever would be a traceback for the user is raised here."""
    return CliRunner().invoke(program, arguments, catch_exceptions=False)


def succeed(program: click.Command, *arguments: str) -> list[str]:
    """The lines of a call that must end well."""
    result = call(program, *arguments)
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def fail(program: click.Command, *arguments: str) -> str:
    """The error of a call that must end with 2, which is one line on stderr."""
    result = call(program, *arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ") and result.stderr.endswith("\n"), result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr
    return result.stderr.strip()


def snapshot(folder: Path) -> dict[str, str]:
    """A hash of each file in a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
