"""Thousands of broken annotation files: a clear error or sound data, and never a look outside the data's folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tifffile
from PIL import Image
from readers_toy import loads, mutations
from tools_toy import MASKS, TOOLS, write_image

from datasets.expressions import Expression
from datasets.readers.coco import Coco
from datasets.readers.cst import Cst
from datasets.readers.dsbowl2018 import DSBowl2018
from datasets.readers.generated import Generated
from datasets.readers.label_images import LabelImages
from datasets.readers.tools.formats import open_tool_dataset
from datasets.readers.visdrone import VisDrone
from datasets.readers.voc import Voc
from datasets.readers.yolo import Yolo
from datasets.synthetic.config import SceneConfig, update_config
from datasets.synthetic.recipes import Recipe, read_recipe
from datasets.synthetic.writer import create
from datasets.writing.conversion import convert
from maskrcnn.config import UserError, to_toml


class Format(NamedTuple):
    """A data set, the file in it that is changed, and how it is opened."""

    folder: Path
    file: str
    open: Callable[[Path], Any]


def converted(folder: Path, to: str) -> Path:
    """Three shapes on an image in each split, as another format."""
    scene = update_config(
        SceneConfig(), width=40, height=36, n_groups=0, n_free=3, shapes=("circle", "square", "triangle")
    )
    made = create(folder / "made", Recipe(n_train=1, n_val=0, n_test=1, scene=scene), processes=1)
    if to == "made":
        return made
    parts = {split: Generated(made, split) for split in ("train", "test")}
    convert(parts, folder / to, to)
    return folder / to


def visdrone(folder: Path) -> Path:
    root = converted(folder, "labels")
    part = folder / "VisDrone2019-DET-train"
    (part / "annotations").mkdir(parents=True)
    (part / "images").mkdir()
    (part / "images" / "a.png").write_bytes(next((root / "train" / "images").glob("*.png")).read_bytes())
    (part / "annotations" / "a.txt").write_text("3,4,10,9,1,4,0,0\n20,20,15,12,1,1,0,1,\n1,1,4,4,0,0,0,0\n")
    return folder


def solution(folder: Path) -> Path:
    root = converted(folder, "dsb")
    name = sorted(path.name for path in (root / "stage1_train").iterdir())[0]
    images = root / "stage1_test" / name / "images"
    images.mkdir(parents=True)
    (images / f"{name}.png").write_bytes((root / "stage1_train" / name / "images" / f"{name}.png").read_bytes())
    header = "ImageId,EncodedPixels,Height,Width,Usage\n"
    (root / "stage1_solution.csv").write_text(f"{header}{name},1 5 40 6,36,40,Public\n{name},300 9,36,40,Private\n")
    return root


def yolo(folder: Path) -> Path:
    root = folder / "yolo"
    for part in ("images", "labels"):
        (root / part / "train").mkdir(parents=True)
    image = next((converted(folder, "labels") / "train" / "images").glob("*.png"))
    (root / "images/train/a.png").write_bytes(image.read_bytes())
    lines = ("0 0.5 0.5 0.25 0.125", "1 0.1 0.1 0.3 0.1 0.3 0.3", "1 0.5 0.6 0.8 0.6 0.8 0.9 0.5 0.9 0.45 0.7")
    (root / "labels/train/a.txt").write_text("\n".join(lines))
    (root / "data.yaml").write_text("path: ../yolo # here\ntrain: images/train\nnc: 2\nnames:\n  0: a\n  1: 'b c'\n")
    return root


def one(folder: Path, pattern: str) -> str:
    return sorted(folder.glob(pattern))[0].relative_to(folder).as_posix()


def unusual_labels(folder: Path, kind: str) -> Format:
    """Three objects in a label image in color, or on a page each."""
    masks = np.stack([MASKS[name] for name in ("l", "ring", "disk")])
    (folder / "masks").mkdir()
    for number in (0, 1):  # one of them is the test set
        write_image(folder / "images" / f"{number}.png")
        if kind == "label-colors":
            Image.fromarray(np.moveaxis(masks, 0, 2) * np.uint8(200)).save(folder / f"masks/{number}.png")
        else:
            tifffile.imwrite(folder / f"masks/{number}.tif", masks * np.uint8(255), photometric="minisblack")
    (folder / "split.json").write_text('{"train": ["0"], "test": ["1"]}')
    return Format(folder, one(folder, "masks/0.*"), lambda root: LabelImages(root, "train"))


def make(kind: str, folder: Path) -> Format:
    if kind in TOOLS:
        if kind == "imagej":
            pytest.importorskip("roifile")
        name = kind.partition("-")[0]
        return Format(folder, TOOLS[kind](folder), lambda root: open_tool_dataset(name, root, "train"))
    if kind == "made":
        return Format(converted(folder, kind), "train/annotations.json", lambda root: Generated(root, "train"))
    if kind == "coco":
        root = converted(folder, kind)
        return Format(root, one(root, "annotations/*train*.json"), lambda root: Coco(root, "train"))
    if kind in ("voc", "voc-list"):
        root = converted(folder, "voc")
        file = one(root, "Annotations/*train*.xml") if kind == "voc" else "ImageSets/Segmentation/train.txt"
        return Format(root, file, lambda root: Voc(root, "train", masks=True))
    if kind == "cst":
        return Format(converted(folder, kind), "annotation/anno-train.csv", lambda root: Cst(root, "train"))
    if kind == "visdrone":
        file = "VisDrone2019-DET-train/annotations/a.txt"
        return Format(visdrone(folder), file, lambda root: VisDrone(root, "train"))
    if kind in ("yolo", "yolo-config"):
        file = "labels/train/a.txt" if kind == "yolo" else "data.yaml"
        return Format(yolo(folder), file, lambda root: Yolo(root, "train"))
    if kind == "dsb-split":
        return Format(converted(folder, "dsb"), "split.json", lambda root: DSBowl2018(root, "train"))
    if kind == "dsb-solution":
        opener = lambda root: DSBowl2018(root, "test", variant="stage1")  # noqa: E731
        return Format(solution(folder), "stage1_solution.csv", opener)
    if kind in ("label-colors", "label-pages"):
        return unusual_labels(folder, kind)
    root = converted(folder, "labels")
    return Format(root, one(root, "train/masks/*.png"), lambda root: LabelImages(root, "train"))


KINDS = (
    "made",
    "coco",
    "yolo",
    "yolo-config",
    "voc",
    "voc-list",
    "cst",
    "visdrone",
    "dsb-split",
    "dsb-solution",
    "labels",
    "label-colors",
    "label-pages",
)
_opened: list[str] = []
_watching = False


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching and event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        _opened.append(os.path.abspath(os.fsdecode(arguments[0])))


sys.addaudithook(_watch)


def strangers(folder: Path) -> list[str]:
    """Files opened while watching that are neither the data's nor Python's own."""
    own = (
        str(folder.resolve()),
        sys.prefix,
        sys.base_prefix,
        str(Path(__file__).parents[1]),
        "/dev/",
        "/proc/",
        "/sys/",
    )
    return [path for path in _opened if not path.startswith(own)]


def fuzz(kind: str, folder: Path, count: int, seed: int) -> None:
    global _watching
    case = make(kind, folder)
    path = case.folder / case.file
    content, results = path.read_bytes(), []
    assert loads(lambda: case.open(case.folder))
    _opened.clear()
    for number, broken in enumerate(mutations(content, count, seed)):
        path.write_bytes(broken)
        _watching = True
        try:
            results.append(loads(lambda: case.open(case.folder)))
        except BaseException as error:
            raise AssertionError(f"change {number} of {case.file}: {error!r}") from error
        finally:
            _watching = False
        assert not strangers(folder), f"change {number} of {case.file} reads {strangers(folder)[0]}"
        _opened.clear()
    assert 0 < sum(results) < len(results)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_broken_annotations_are_refused_or_read_and_nothing_else_is(kind, tmp_path):
    fuzz(kind, tmp_path, count=2000, seed=11)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("kind", TOOLS)
def test_broken_files_of_tools_are_refused_or_read_and_nothing_else_is(kind, tmp_path):
    fuzz(kind, tmp_path, count=500, seed=15)


@pytest.mark.slow
@pytest.mark.parametrize("kind", TOOLS)
def test_twenty_thousand_broken_files_of_tools(kind, tmp_path):
    fuzz(kind, tmp_path, count=20_000, seed=16)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_hundred_thousand_broken_annotations(kind, tmp_path):
    fuzz(kind, tmp_path, count=100_000, seed=12)


def test_broken_recipes_are_refused_or_read(tmp_path):
    path, results = tmp_path / "recipe.toml", []
    for broken in mutations(to_toml(Recipe(), comments=False).encode(), 2000, seed=13):
        path.write_bytes(broken)
        try:
            results.append(read_recipe(path).scene.width > 0)
        except UserError as error:
            assert "\n" not in str(error)
            results.append(False)
    assert 0 < sum(results) < len(results)


def test_broken_expressions_are_refused_or_read():
    text, results = b"index % 4 == 0 and (like(name, 'a*') or id in ids('list.txt')) and num_objects > 10", []
    for broken in mutations(text, 2000, seed=14):
        try:
            results.append(bool(Expression(broken.decode("utf-8", "replace"))))
        except UserError as error:
            assert "\n" not in str(error)
            results.append(False)
    assert 0 < sum(results) < len(results)
