"""Files of annotation tools: each format is recognized, and its objects are those that were drawn."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from readers_toy import check_sound
from tools_toy import (
    HEIGHT,
    MASKS,
    SIZE,
    TOOLS,
    WIDTH,
    edit,
    labelme_shape,
)

from datasets.readers.splitting import MissingSplit
from datasets.readers.tools.formats import FORMATS, open_tool_dataset
from datasets.recognition import recognize, recognize_layout
from datasets.writing.conversion import convert
from datasets.writing.discovery import open_parts
from maskrcnn.config import UserError

# masks of the four objects, their class, and which are ignored; "" for a box without a mask
OBJECTS = {
    "labelme": (["l", "ring", "disk", ""], ["cell", "cell", "debris", "debris"]),
    "cvat": (["l", "ring", "disk", ""], ["cell", "cell", "debris", "debris"]),
    "via": (["l", "whole", "disk", ""], ["cell", "cell", "debris", "debris"]),
    "via-csv": (["l", "whole", "disk", ""], ["cell", "cell", "debris", "debris"]),
    "qupath": (["l", "ring", "disk", "box"], ["cell", "cell", "debris", "debris"]),
    "supervisely": (["l", "ring", "disk", ""], ["cell", "cell", "debris", "debris"]),
    "dota": (["whole", "box"], ["cell", "debris"]),
    "cityscapes": (["box", "disk", "l", "ring"], ["rider", "person", "car", "car"]),
    "panoptic": (["l", "ring", "disk", "box"], ["cell", "cell", "debris", "debris"]),
    "imagej": (["l", "ring", "disk", ""], ["group 1", "group 1", "group 2", "group 2"]),
}
IGNORED = {"dota": [1], "cityscapes": [0], "panoptic": [3]}


def make(kind, folder):
    if kind == "imagej":
        pytest.importorskip("roifile")
    TOOLS[kind](folder)
    return kind.partition("-")[0]


@pytest.mark.parametrize("kind", OBJECTS)
def test_objects_are_those_that_the_tool_drew(kind, tmp_path):
    name = make(kind, tmp_path)
    data = open_tool_dataset(name, tmp_path, "train")
    assert len(data) == 1
    image, objects = data[0]
    check_sound(data, image, objects)
    masks, classes = OBJECTS[kind]
    assert [data.class_names[label - 1] for label in objects.labels.tolist()] == classes
    assert objects.ignore.nonzero().flatten().tolist() == IGNORED.get(kind, [])
    drawn = objects.masks.to_dense().numpy()
    for mask, found, box in zip(masks, drawn, objects.boxes.tolist(), strict=True):
        if not mask:
            assert not found.any() and box == [28, 20, 36, 30]
        elif mask == "disk":  # the outline of a circle may round differently at a few pixels of its edge
            assert (found != MASKS["disk"]).sum() <= 6 and np.allclose(box, [5, 20, 15, 30], atol=1)
        else:
            assert (found == MASKS[mask]).all(), mask
            rows, columns = np.nonzero(found)
            assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize("kind", TOOLS)
def test_each_format_is_recognized_and_no_other(kind, tmp_path):
    name = make(kind, tmp_path)
    assert [each for each, tool in FORMATS.items() if tool.recognize(tmp_path)] == [name]
    assert recognize(tmp_path).name == name


@pytest.mark.parametrize("kind", [kind for kind in TOOLS if kind != "panoptic"])  # its own names are those of a split
def test_folders_of_one_name_are_splits(kind, tmp_path):
    for part in ("train", "val", "test"):
        (tmp_path / part).mkdir()
        name = make(kind, tmp_path / part)
    opened = [open_tool_dataset(name, tmp_path, part) for part in ("train", "val", "test")]
    assert [len(each) for each in opened] == [1, 1, 1]
    assert len({each.image_names[0] for each in opened}) == 3 and len({each.image_ids[0] for each in opened}) == 3
    assert len({each.class_names for each in opened}) == 1


def test_a_folder_without_splits_is_the_training_set(tmp_path):
    TOOLS["labelme"](tmp_path)
    assert open_tool_dataset("labelme", tmp_path, "train").counts["lines and points dropped, which have no area"] == 0
    for split in ("val", "test"):
        with pytest.raises(MissingSplit, match="has no folders for splits"):
            open_tool_dataset("labelme", tmp_path, split)


@pytest.mark.parametrize("kind", ["labelme", "cvat", "via", "via-csv", "qupath", "supervisely", "imagej"])
def test_lines_and_points_are_dropped_and_counted(kind, tmp_path):
    data = open_tool_dataset(make(kind, tmp_path), tmp_path, "train")
    assert len(data[0][1]) == 4
    assert data.counts["lines and points dropped, which have no area"] == 1


def test_points_are_boxes_of_a_given_size(tmp_path):
    from datasets.config import ReadingConfig

    TOOLS["points"](tmp_path)
    for variant in ("", "masks"):
        data = open_tool_dataset("points", tmp_path, "train", variant, ReadingConfig(point_size=4))
        image, objects = data[0]
        check_sound(data, image, objects)
        assert objects.boxes.tolist() == [[5, 4, 9, 8], [23, 6.5, 27, 10.5], [8, 23, 12, 27], [37, 33, 40, 36]]
        assert [data.class_names[label - 1] for label in objects.labels] == ["cell", "cell", "debris", "debris"]
        assert data.counts["boxes clipped to the image"] == 1
    assert not objects.masks.areas().any()


def test_masks_take_the_memory_of_their_windows(tmp_path):
    data = open_tool_dataset(make("labelme", tmp_path), tmp_path, "train")
    assert len(data[0][1].masks.data) < SIZE[0] * SIZE[1] / 2


def test_an_unknown_folder_names_what_is_missing(tmp_path):
    for name in FORMATS:
        if name == "imagej":
            pytest.importorskip("roifile")
        with pytest.raises(UserError, match="--dataset_root"):
            open_tool_dataset(name, tmp_path, "train")


# ---- bad input


def labelme_points(points):
    return lambda data: data["shapes"][0].update(points=points)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (labelme_points([[1, 2], [3, float("nan")], [5, 5]]), "shape 1: has a coordinate that is not finite"),
        (labelme_points([[1, 2], [3, "x"], [5, 5]]), "shape 1: has a coordinate that is not a number, 'x'"),
        (labelme_points("abc"), "shape 1: its points must be a list"),
        (lambda data: data["shapes"][2].update(points=[[1, 2]]), "shape 3: a circle must have 2 points, but has 1"),
        (
            lambda data: data["shapes"][2].update(points=[[1, 2], [1, 2]]),
            "shape 3: has a radius or center out of range",
        ),
        (lambda data: data["shapes"][0].update(shape_type="cube"), "shape 1: .*cube"),
        (lambda data: data["shapes"][0].update(label=" "), "shape 1: has no class: 'label' must be a name"),
        (lambda data: data["shapes"][1].update(mask="!"), "shape 2: .*(base64|not a valid image)"),
        (lambda data: data["shapes"][1].update(mask=None), "shape 2: must be an image in base64"),
        (lambda data: data["shapes"].insert(0, 3), "shape 1: must be a JSON object"),
    ],
)
def test_an_invalid_shape_is_named_or_skipped_and_counted(change, message, tmp_path):
    TOOLS["labelme"](tmp_path)
    edit(tmp_path / "a.json", change)
    with pytest.raises(UserError, match=f"a.json: {message}.*--skip_bad") as error:
        open_tool_dataset("labelme", tmp_path, "train")[0]
    assert "\n" not in str(error.value)
    data = open_tool_dataset("labelme", tmp_path, "train", skip_bad=True)
    assert len(data[0][1]) in (3, 4) and data.counts["invalid annotations skipped"] == 1


def test_polygons_of_two_points_cross_or_reach_out_are_counted(tmp_path):
    TOOLS["labelme"](tmp_path)
    eight, outside = [[1, 1], [9, 9], [9, 1], [1, 9]], [[50, 1], [60, 1], [60, 9]]
    more = [labelme_shape("cell", ring, "polygon") for ring in ([[1, 1], [2, 2]], eight, outside)]
    edit(tmp_path / "a.json", lambda data: data["shapes"].extend(more))
    data = open_tool_dataset("labelme", tmp_path, "train")
    assert len(data[0][1]) == 5
    assert data.counts == {
        "lines and points dropped, which have no area": 1,
        "polygons of fewer than three points dropped": 1,
        "self-intersecting outlines filled by the even-odd rule": 1,
        "outlines clipped to the image": 1,
        "objects without a mask, used for boxes only": 1,
        "objects with an empty mask and no box dropped": 1,
    }


@pytest.mark.parametrize("kind", [kind for kind in TOOLS if kind != "points"])  # a shorter table is a table
def test_a_file_that_is_cut_off_is_one_line_that_names_it(kind, tmp_path):
    pytest.importorskip("roifile")
    path = tmp_path / TOOLS[kind](tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(UserError) as error:
        open_tool_dataset(kind.partition("-")[0], tmp_path, "train")[0]
    assert path.name in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["labelme", "cvat", "supervisely", "cityscapes", "panoptic"])
def test_an_image_of_another_size_is_an_error(kind, tmp_path):
    TOOLS[kind](tmp_path)
    data = open_tool_dataset(kind, tmp_path, "train")
    Image.new("RGB", (WIDTH + 1, HEIGHT)).save(data.image_file(0))
    with pytest.raises(UserError, match=f"{WIDTH} x {HEIGHT}.*{WIDTH + 1} x {HEIGHT}"):
        data[0]


@pytest.mark.parametrize("kind", OBJECTS)
def test_each_format_is_converted_without_losing_objects(kind, tmp_path):
    name = make(kind, tmp_path / "data")
    before = open_parts(tmp_path / "data", recognize_layout(tmp_path / "data"))
    assert list(before) == ["train"] and recognize_layout(tmp_path / "data") == name
    convert(before, tmp_path / "coco", "coco")
    (old, expected), (new, found) = before["train"][0], open_parts(tmp_path / "coco", "coco")["train"][0]
    assert (old == new).all() and found.boxes.tolist() == expected.boxes.tolist()
    assert found.labels.tolist() == expected.labels.tolist() and found.ignore.tolist() == expected.ignore.tolist()
    assert (found.masks.to_dense() == expected.masks.to_dense()).all()
