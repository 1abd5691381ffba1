"""Names that a terminal, a markup language or a file system would act on: written out, and harmless everywhere."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image
from programs_toy import succeed

from examples.browse import main as browse
from examples.check_data import main as check_data
from examples.convert import main as convert
from examples.describe_data import main as describe
from examples.predict import main as predict
from examples.train import main as train
from maskrcnn.config import UserError
from maskrcnn.images.reading import read_image
from maskrcnn.inference.image_list import make_output_names
from maskrcnn.text import MAX_NAME_BYTES, escape, to_file_name
from workbench.output import make_picture_names

UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
CLASSES = ["[/]", "$\\foo{$", "${$", "c1\x9b2J", "abc\u202etxt.exe"]
IMAGES = ["[bold]", "$\\frac{$", "esc\x1b]0;title\x07", "c1\x9b", "bidi\u202egnp", "x" * 240, "ü" * 120]


def write_coco(root: Path) -> Path:
    """Image names with what readers of annotations take; class names with everything."""
    for part in ("train", "val"):
        (root / part).mkdir(parents=True)
        names = [name for name in IMAGES if not re.search(r"[\x00-\x1f\\]", name)]
        images = [{"id": n, "file_name": f"{name}.png", "width": 64, "height": 64} for n, name in enumerate(names)]
        annotations = []
        for image in images:
            pixels = np.full((64, 64, 3), 30, np.uint8)
            for number in range(5):
                x, y = 4 + 11 * number, 10 + 8 * (number % 3)
                pixels[y : y + 8, x : x + 8] = 200
                outline = [[x, y, x + 8, y, x + 8, y + 8, x, y + 8]]
                entry = {"image_id": image["id"], "category_id": number + 1, "bbox": [x, y, 8, 8], "iscrowd": 0}
                annotations.append(entry | {"id": len(annotations) + 1, "segmentation": outline, "area": 64})
            Image.fromarray(pixels).save(root / part / str(image["file_name"]))
        categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)]
        contents = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations").mkdir(exist_ok=True)
        (root / f"annotations/instances_{part}.json").write_text(json.dumps(contents))
    return root


def write_labels(root: Path) -> Path:
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for name in IMAGES:
        labels = np.zeros((64, 64), np.uint8)
        labels[8:20, 8:20], labels[30:40, 30:44] = 1, 2
        Image.fromarray(labels * 90 + 20).save(root / f"images/{name}.png")
        Image.fromarray(labels).save(root / f"masks/{name}.png")
    return root


def lines_of(program: click.Command, *arguments: str) -> list[str]:
    lines = succeed(program, *arguments)
    assert not [line for line in lines if UNSAFE.search(line)]
    return lines


TRAINING = ("--num_epochs=1", "--eval_every_n_epochs=1", "--head=faster_rcnn", "--fixed_size=64")


@pytest.mark.parametrize("kind", ["coco", "labels"])
def test_programs_survive_names_and_print_them_written_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    root = write_coco(tmp_path / "data") if kind == "coco" else write_labels(tmp_path / "data")
    data = (f"--dataset={kind}", f"--dataset_root={root}")
    lines_of(train, *data, *TRAINING, "--dry_run")
    lines_of(train, *data, *TRAINING)
    (run,) = (tmp_path / "runs").iterdir()
    assert not UNSAFE.search((run / "train.log").read_text().replace("\n", " "))
    pictures = [path.name for path in (run / "plots").rglob("*.png")]
    assert pictures and all(len(os.fsencode(name)) <= 255 and not UNSAFE.search(name) for name in pictures)
    described = lines_of(describe, *data)
    if kind == "coco":
        assert any("[/]" in line for line in described) and any("c1\\x9b2J" in line for line in described)
    lines_of(browse, *data, "--num_samples=2")
    lines_of(check_data, str(root), f"--dataset={kind}")
    lines_of(convert, str(root), f"--dataset={kind}", "--to=voc", f"--output={tmp_path / 'voc'}")
    images = root / ("val" if kind == "coco" else "images")
    lines_of(predict, str(images), f"--run={run}")
    results = next((tmp_path / "predictions").iterdir())
    assert len(list(results.glob("*.png"))) == len(list(images.glob("*.png")))


def test_errors_write_names_out(tmp_path: Path) -> None:
    path = tmp_path / "a\x1b[31m\u202e.png"
    path.write_text("no image")
    with pytest.raises(UserError) as caught:
        read_image(path)
    assert "\\x1b[31m\\u202e" in str(caught.value) and not UNSAFE.search(str(caught.value))


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("plain ü 漢字 🔬 [/] $", "plain ü 漢字 🔬 [/] $"),
        ("\x1b[31m", "\\x1b[31m"),
        ("\x9b\x85", "\\x9b\\x85"),
        ("a\u202eb\u2066", "a\\u202eb\\u2066"),
        ("\udc80", "\\udc80"),
        ("two\nlines\t", "two\\nlines\\t"),
    ],
)
def test_what_terminals_act_on_is_written_out_and_nothing_else(text: str, written: str) -> None:
    assert escape(text) == written and escape(written) == written
    assert str(UserError(text)) == (text if text.startswith("two") else written)


@pytest.mark.parametrize("name", ["a" * 199, "a" * 242, "ü" * 150, "漢" * 90, "x" * 5000])
def test_long_names_are_cut_and_stay_different(name: str) -> None:
    short = to_file_name(name)
    assert len(short.encode()) <= MAX_NAME_BYTES and short == to_file_name(name)
    assert (short == name) == (len(name.encode()) <= MAX_NAME_BYTES)
    assert to_file_name(f"{name}{'y' * 300}1") != to_file_name(f"{name}{'y' * 300}2")


def test_names_of_pictures_are_short_and_all_different(tmp_path: Path) -> None:
    names = ["a/b", "a:b", "A*b", *("n" * 250 + end for end in ("1", "2")), "\x1b", ""]
    found = make_picture_names(names)
    assert len({name.lower() for name in found}) == len(names)
    assert all(0 < len(name.encode()) <= 210 and "/" not in name and not UNSAFE.search(name) for name in found)
    assert make_picture_names(["plain", "with space"]) == ["plain", "with space"]
    (short,) = make_output_names([tmp_path / f"{'é' * 125}.png"])
    assert len(f"{short}_labels.tif".encode()) < 255


@pytest.mark.parametrize("flag", ["--dataset_root=~/data", "--dataset_root"])
def test_a_path_in_the_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str) -> None:
    write_labels(tmp_path / "data")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path / "data")
    arguments = [flag] if "=" in flag else [flag, "~/data"]
    assert any("classes object" in line for line in succeed(train, "--dataset=labels", *arguments, "--dry_run"))
    (tmp_path / "data/smallobjects.toml").write_text('[paths]\nlabels_root = "~/data"\n')
    assert any("classes object" in line for line in succeed(train, "--dataset=labels", "--dry_run"))
