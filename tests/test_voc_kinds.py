"""VOC files as tools export them: boxes from 0 or from 1, classes of CVAT's label map."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from datasets.readers.splitting import MissingSplit
from datasets.readers.voc import CLASS_NAMES, Voc
from datasets.writing.conversion import convert
from maskrcnn.config import UserError

NAME = CLASS_NAMES[0]
CVAT = "<source><database>Unknown</database>\n<annotation>Unknown</annotation><image>Unknown</image></source>"
LABEL_STUDIO = "<source><database>MyDatabase</database></source><owner><name>Label Studio</name></owner>"
ROBOFLOW = "<source><database>roboflow.com</database></source>"
PASCAL = "<source><database>The VOC2007 Database</database><annotation>PASCAL VOC2007</annotation></source>"
LABEL_IMG = "<source><database>Unknown</database></source>"
ZERO_BASED = "count pixels from 0"


def write(folder: Path, boxes: list[list[tuple[object, ...]]], source: str = "", name: str = NAME) -> Path:
    """Two images of 128 x 64, in train.txt and val.txt; `boxes` of each."""
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    for image, part, rows in zip("ab", ("train", "val"), boxes, strict=True):
        Image.new("L", (128, 64)).save(folder / "JPEGImages" / f"{image}.png")
        objects = "".join(
            f"<object><name>{name}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax>"
            "</bndbox></object>"
            for a, b, c, d in rows
        )
        (folder / "Annotations" / f"{image}.xml").write_text(f"<annotation>{source}{objects}</annotation>")
        (folder / "ImageSets/Main" / f"{part}.txt").write_text(f"{image}\n")
    return folder


def counted(data: Voc) -> int:
    return sum(count for rule, count in data.counts.items() if ZERO_BASED in rule)


INNER = [[(20, 10, 24, 14)], [(5, 5, 8, 9)]]


@pytest.mark.parametrize("source", [CVAT, LABEL_STUDIO, ROBOFLOW])
def test_tools_that_count_from_zero_are_known(tmp_path, source):
    data = Voc(write(tmp_path, INNER, source), "train")
    assert data[0][1].boxes.tolist() == [[20, 10, 24, 14]] and counted(data) == 1


@pytest.mark.parametrize("source", ["", LABEL_IMG])
def test_without_a_zero_or_such_a_tool_boxes_are_from_one(tmp_path, source):
    data = Voc(write(tmp_path, INNER, source), "train")
    assert data[0][1].boxes.tolist() == [[19, 9, 24, 14]] and counted(data) == 0


@pytest.mark.parametrize("zero", [0, "0.0", "0.25", " 0 "])
def test_a_zero_anywhere_tells_for_all_images(tmp_path, zero):
    """Sizes of 3 to 16 px, as in an export; the zero is in the other part."""
    sizes = (3, 4, 6, 8, 12, 16)
    boxes = [(20 * k + 1, 10, 20 * k + 1 + size, 10 + size) for k, size in enumerate(sizes)]
    data = Voc(write(tmp_path, [boxes, [(7, zero, 9, 4)]]), "train")
    assert data[0][1].boxes.tolist() == [list(map(float, box)) for box in boxes]
    assert counted(data) == 0 and counted(Voc(tmp_path, "val", image_set="val")) == 1  # each counts its own files


def test_pascals_own_boxes_are_from_one_whatever_they_hold(tmp_path):
    data = Voc(write(tmp_path, [[(20, 0, 24, 14)], INNER[1]], PASCAL), "train")
    assert data[0][1].boxes.tolist() == [[19, 0, 24, 14]] and counted(data) == 0


@pytest.mark.parametrize(("first", "box"), [("0", [20, 10, 24, 14]), ("1", [19, 9, 24, 14])])
def test_the_first_pixel_can_be_said(tmp_path, first, box):
    for source in ("", CVAT):
        data = Voc(write(tmp_path / (source[1:4] or "none"), INNER, source), "train", counts_from=first)
        assert data[0][1].boxes.tolist() == [box] and counted(data) == 0


def test_converted_boxes_are_read_as_they_were(tmp_path):
    """What is written from 1 has no zero."""
    data = Voc(write(tmp_path / "a", [[(0, 0, 4, 5)], INNER[1]]), "train")
    convert({"train": data}, tmp_path / "b", "voc")
    again = Voc(tmp_path / "b", "train")
    with pytest.raises(MissingSplit):
        Voc(tmp_path / "b", "test")
    assert again[0][1].boxes.tolist() == data[0][1].boxes.tolist() == [[0, 0, 4, 5]] and counted(again) == 0


def test_cvats_label_map_names_the_classes(tmp_path):
    write(tmp_path, INNER, CVAT, "live")
    with pytest.raises(UserError, match="'live', not among the 20 classes"):
        Voc(tmp_path, "train")[0]
    text = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ndead:128,0,0::\nlive:0,128,0::\n"
    (tmp_path / "labelmap.txt").write_text(text)
    data = Voc(tmp_path, "train")
    assert data.class_names == ("dead", "live") and data[0][1].labels.tolist() == [2]
