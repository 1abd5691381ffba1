"""The forms in which each annotation tool writes its files, and where it puts the images."""

from __future__ import annotations

import gzip
import json
import os
import sys
import time
import zipfile

import numpy as np
import pytest
from PIL import Image
from tools_toy import (
    HEIGHT,
    MASKS,
    SIZE,
    TOOLS,
    WIDTH,
    close,
    edit,
    feature,
    named,
    paint,
    to_base64,
    write_image,
)

from datasets.readers.tools.formats import FORMATS, open_tool_dataset
from datasets.readers.tools.shapes import make_rectangle
from datasets.recognition import recognize
from datasets.writing.conversion import convert
from datasets.writing.discovery import open_parts
from maskrcnn.config import UserError


def test_labelme_reads_the_image_in_the_file(tmp_path):
    TOOLS["labelme"](tmp_path)
    expected = open_tool_dataset("labelme", tmp_path, "train")[0][0]
    content = to_base64((tmp_path / "a.png").read_bytes())
    edit(tmp_path / "a.json", lambda data: data.update(imageData=content))
    (tmp_path / "a.png").unlink()
    data = open_tool_dataset("labelme", tmp_path, "train")
    assert (data[0][0] == expected).all() and len(data[0][1]) == 4
    assert data.image_file(0) == tmp_path / "a.json"  # the file whose change a resumed run must notice
    edit(tmp_path / "a.json", lambda data: data.update(imageData=content[: len(content) // 2]))
    with pytest.raises(UserError, match="image stored in the file is invalid|base64"):
        open_tool_dataset("labelme", tmp_path, "train")[0]
    edit(tmp_path / "a.json", lambda data: data.update(imageData=None))
    with pytest.raises(UserError, match="its image is missing"):
        open_tool_dataset("labelme", tmp_path, "train")[0]


@pytest.mark.parametrize(
    "name", ["../images/a.png", "..\\images\\a.png", "C:\\Users\\me\\a.png", "/home/me/pictures/a.png", "a.png"]
)
def test_labelme_finds_images_in_other_folders(name, tmp_path):
    TOOLS["labelme"](tmp_path)
    for folder, file in (("images", "a.png"), ("labels", "a.json")):
        (tmp_path / folder).mkdir()
        (tmp_path / file).rename(tmp_path / folder / file)
    edit(tmp_path / "labels" / "a.json", lambda data: data.update(imagePath=name))
    data = open_tool_dataset("labelme", tmp_path, "train")
    assert data.image_file(0) == tmp_path / "images" / "a.png" and len(data[0][1]) == 4


def test_labelme_never_leaves_the_folder(tmp_path):
    inside = tmp_path / "data"
    inside.mkdir()
    TOOLS["labelme"](inside)
    (inside / "a.png").rename(tmp_path / "b.png")
    edit(inside / "a.json", lambda data: data.update(imagePath="../b.png"))
    with pytest.raises(UserError, match="its image is missing"):
        open_tool_dataset("labelme", inside, "train")[0]


def test_labelme_joins_the_shapes_of_a_group(tmp_path):
    TOOLS["labelme"](tmp_path)

    def change(data):
        for shape in data["shapes"][:2]:
            shape["group_id"] = 3

    edit(tmp_path / "a.json", change)
    objects = open_tool_dataset("labelme", tmp_path, "train")[0][1]
    assert len(objects) == 3 and (objects.masks.to_dense()[0].numpy() == (MASKS["l"] | MASKS["ring"])).all()


def test_images_without_annotation_file_are_left_out_and_counted(tmp_path):
    TOOLS["labelme"](tmp_path)
    for number in range(3):
        write_image(tmp_path / f"other_{number}.png")
    data = open_tool_dataset("labelme", tmp_path, "train")
    assert len(data) == 1 and data.counts == {"images without an annotation file left out": 3}


def test_cvat_turns_boxes_and_ellipses_clockwise_in_degrees(tmp_path):
    path = tmp_path / TOOLS["cvat"](tmp_path)
    path.write_text(path.read_text().replace('ybr="30.00"', 'ybr="30.00" rotation="90.0"'))
    objects = open_tool_dataset("cvat", tmp_path, "train")[0][1]
    assert (objects.masks.to_dense()[3].numpy() == paint((27, 21, 37, 29))).all()


def test_cvat_groups_join_and_0_is_no_group(tmp_path):
    path = tmp_path / TOOLS["cvat"](tmp_path)
    original = path.read_text()
    for group, count in (("0", 4), ("5", 3)):
        path.write_text(original.replace('label="cell"', f'label="cell" group_id="{group}"'))
        assert len(open_tool_dataset("cvat", tmp_path, "train")[0][1]) == count


def test_cvat_reads_the_frames_of_a_video(tmp_path):
    for frame in range(4):
        write_image(tmp_path / "images" / f"frame_{frame:06d}.png")
    boxes = [(0, 0, (2, 2, 8, 9)), (1, 0, (3, 2, 9, 9)), (2, 1, (3, 2, 9, 9))]  # frame, outside
    lines = "".join(
        f'<box frame="{frame}" keyframe="1" outside="{outside}" occluded="0" xtl="{x1}" ytl="{y1}" xbr="{x2}" '
        f'ybr="{y2}" z_order="0"></box>'
        for frame, outside, (x1, y1, x2, y2) in boxes
    )
    size = f"<original_size><width>{WIDTH}</width><height>{HEIGHT}</height></original_size>"
    (tmp_path / "annotations.xml").write_text(
        f"<annotations><version>1.1</version><meta><task><mode>interpolation</mode><labels><label><name>cell</name>"
        f'</label></labels>{size}</task></meta><track id="0" label="cell" source="manual">{lines}</track></annotations>'
    )
    data = open_tool_dataset("cvat", tmp_path, "train")
    assert data.image_names == [f"images/frame_{frame:06d}" for frame in range(4)] and not data.has_masks
    assert [objects.boxes.tolist() for _, objects in data] == [[[2, 2, 8, 9]], [[3, 2, 9, 9]], [], []]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('xtl="28.00"', 'xtl="nan"', "line 10: box has a coordinate that is not finite"),
        ('xtl="28.00"', "", "line 10: box has no xtl"),
        ('xtl="28.00"', 'xtl="a"', "line 10: box could not convert"),
        ('height="8"', 'height="7"', "line 7: mask has run lengths that do not fit"),
        ('height="8"', 'height="0"', "line 7: mask has a window of 10 x 0 pixels"),
        ('points="20.00,5.00;', 'points="20.00;', "line 6: polygon has points that are not x,y"),
        ('rx="5"', 'rx="-5"', "line 9: ellipse has a radius"),
    ],
)
def test_cvat_names_the_line_of_an_invalid_shape(old, new, message, tmp_path):
    path = tmp_path / TOOLS["cvat"](tmp_path)
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new))
    with pytest.raises(UserError, match=f"annotations.xml: {message}"):
        open_tool_dataset("cvat", tmp_path, "train")[0]
    data = open_tool_dataset("cvat", tmp_path, "train", skip_bad=True)
    assert len(data[0][1]) == 3 and data.counts["invalid annotations skipped"] == 1


@pytest.mark.parametrize("shape", ["list", "feature", "old", "gzip"])
def test_qupath_forms_of_a_file(shape, tmp_path):
    path = tmp_path / TOOLS["qupath"](tmp_path)
    data = json.loads(path.read_text())
    if shape == "feature":
        path.write_text(json.dumps(data["features"][1]))
    elif shape == "list":
        path.write_text(json.dumps(data["features"]))
    elif shape == "old":  # QuPath 0.2: the kind is the id
        for each in data["features"]:
            del each["properties"]["objectType"]
            each["id"] = "PathAnnotationObject"
        path.write_text(json.dumps(data["features"]))
    else:
        (tmp_path / "a.geojson.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    objects = open_tool_dataset("qupath", tmp_path, "train")[0][1]
    assert len(objects) == (1 if shape == "feature" else 4)
    assert (objects.masks.to_dense()[0 if shape == "feature" else 1].numpy() == MASKS["ring"]).all()


def test_qupath_takes_cells_or_their_nuclei_and_leaves_out_annotations_around_them(tmp_path):
    TOOLS["qupath"](tmp_path)
    square = lambda *box: {"type": "Polygon", "coordinates": [close(make_rectangle(box).tolist())]}  # noqa: E731
    cell = feature(square(5, 5, 15, 15), "cell", classification={"names": ["Tumor", "Positive"]})
    cell["nucleusGeometry"] = square(8, 8, 12, 12)
    around = feature(square(0, 0, 40, 36), **named("Region*"))
    parent = feature(square(0, 0, 40, 36), **named("Tumor"))
    ignored = feature(square(20, 20, 30, 30), "detection", **named("Ignore*"))
    edit(tmp_path / "a.geojson", lambda data: data.update(features=[around, parent, cell, ignored]))
    for variant, box in (("", [5, 5, 15, 15]), ("nuclei", [8, 8, 12, 12])):
        data = open_tool_dataset("qupath", tmp_path, "train", variant)
        _, objects = data[0]
        assert data.class_names == ("Tumor: Positive",)
        assert objects.boxes.tolist() == [box, [20, 20, 30, 30]] and objects.ignore.tolist() == [False, True]
        assert data.counts == {"annotations around detections left out": 2}


def test_qupath_regions_that_it_does_not_count_are_left_out(tmp_path):
    path = tmp_path / TOOLS["qupath"](tmp_path)
    path.write_text(path.read_text().replace('"name": "debris"', '"name": "Stroma*"'))
    data = open_tool_dataset("qupath", tmp_path, "train")
    assert len(data[0][1]) == 2 and data.class_names == ("cell",)
    assert data.counts["tiles, TMA cores and regions of interest left out"] == 2


def test_qupath_names_the_feature_that_is_invalid(tmp_path):
    path = tmp_path / TOOLS["qupath"](tmp_path)
    edit(path, lambda data: data["features"][2]["geometry"].update(type="Curve"))
    with pytest.raises(UserError, match="a.geojson: feature 3: geometry of type 'Curve' is not supported"):
        open_tool_dataset("qupath", tmp_path, "train")[0]


def test_via_reads_version_1_and_annotations_alone(tmp_path):
    path = tmp_path / TOOLS["via"](tmp_path)

    def change(data):
        images = data.pop("_via_img_metadata")
        data.clear()
        for image in images.values():
            image["regions"] = {str(number): region for number, region in enumerate(image["regions"])}
        data.update(images)

    edit(path, change)
    assert len(open_tool_dataset("via", tmp_path, "train")[0][1]) == 4


def test_via_reads_checkboxes_and_regions_without_class(tmp_path):
    path = tmp_path / TOOLS["via"](tmp_path)

    def change(data):
        regions = data["_via_img_metadata"]["a.png123"]["regions"]
        for region in regions:
            region["region_attributes"] = {"kind": {region["region_attributes"]["class"]: True}}
        regions[0]["region_attributes"] = {}

    edit(path, change)
    data = open_tool_dataset("via", tmp_path, "train")
    assert [data.class_names[label - 1] for label in data[0][1].labels] == ["object", "cell", "debris", "debris"]


def test_supervisely_keeps_the_classes_of_the_project(tmp_path):
    TOOLS["supervisely"](tmp_path)
    edit(tmp_path / "meta.json", lambda data: data["classes"].insert(0, {"title": "unused", "shape": "bitmap"}))
    assert open_tool_dataset("supervisely", tmp_path, "train").class_names == ("unused", "cell", "debris")


def test_dota_reads_oriented_boxes_and_names_invalid_lines(tmp_path):
    path = tmp_path / TOOLS["dota"](tmp_path)
    with path.open("a") as file:
        file.write("20 5 30 15 20 25 10 15 plane 0\n1 2 3 plane 0\n")
    with pytest.raises(UserError, match="a.txt: line 6: has 5 fields"):
        open_tool_dataset("dota", tmp_path, "train")[0]
    objects = open_tool_dataset("dota", tmp_path, "train", skip_bad=True)[0][1]
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    distance = np.abs(columns - 20) + np.abs(rows - 15)
    diamond = objects.masks.to_dense()[2].numpy()
    assert (diamond == (distance < 10))[np.abs(distance - 10) > 0.6].all() and objects.ids.tolist() == [3, 4, 5]


def test_cityscapes_leaves_out_a_test_set_without_objects(tmp_path):
    path = tmp_path / TOOLS["cityscapes"](tmp_path)
    for part in ("val", "test"):
        write_image(tmp_path / "leftImg8bit" / part / "ulm" / "ulm_0_0_leftImg8bit.png")
        copy = tmp_path / "gtFine" / part / "ulm" / "ulm_0_0_gtFine_instanceIds.png"
        copy.parent.mkdir(parents=True)
        if part == "val":
            copy.write_bytes(path.read_bytes())
        else:
            Image.new("L", (WIDTH, HEIGHT), 1).save(copy)
    assert open_tool_dataset("cityscapes", tmp_path, "test").image_names == ["leftImg8bit/val/ulm/ulm_0_0"]
    data = open_tool_dataset("cityscapes", tmp_path, "train")
    assert data.class_names[2] == "car" and data.category_ids[2] == 26


def test_cityscapes_reads_the_classes_of_other_tools(tmp_path):
    path = tmp_path / TOOLS["cityscapes"](tmp_path)
    (tmp_path / "label_colors.txt").write_text("0 0 0 background\n20 30 40 cell\n50 60 70 big debris\n")
    numbers = np.zeros(SIZE, np.uint16)
    numbers[MASKS["l"]], numbers[MASKS["disk"]] = 1001, 2001
    Image.fromarray(numbers).save(path)
    data = open_tool_dataset("cityscapes", tmp_path, "train")
    assert data.class_names == ("cell", "big debris") and data[0][1].labels.tolist() == [1, 2]
    numbers[MASKS["box"]] = 9001
    Image.fromarray(numbers).save(path)
    with pytest.raises(UserError, match="number 9001: class 9 is unknown"):
        open_tool_dataset("cityscapes", tmp_path, "train")[0]


def test_panoptic_names_segments_without_pixels(tmp_path):
    path = tmp_path / TOOLS["panoptic"](tmp_path)
    edit(path, lambda data: data["annotations"][0]["segments_info"][0].update(id=12))
    with pytest.raises(UserError, match="segment 1: has id 12, which no pixel"):
        open_tool_dataset("panoptic", tmp_path, "train")[0]


def test_points_of_one_file_for_all_images(tmp_path):
    for name in ("a", "b", "c"):
        write_image(tmp_path / "images" / f"{name}.png")
    (tmp_path / "points.csv").write_text("image,x,y\na.png,5,6\nb.png,7,8\na.png,9,10\nc.png,,\n")
    data = open_tool_dataset("points", tmp_path, "train")
    assert [len(objects) for _, objects in data] == [2, 1, 0] and data.class_names == ("object",)
    (tmp_path / "points.csv").write_text("image,x,y\na.png,5,nan\n")
    with pytest.raises(UserError, match="points.csv: line 2: has a coordinate that is not finite"):
        open_tool_dataset("points", tmp_path, "train")
    (tmp_path / "points.csv").write_text("image,x,y\nz.png,5,6\n")
    with pytest.raises(UserError, match="points.csv:2: image 'z.png' is missing"):
        open_tool_dataset("points", tmp_path, "train")


def test_imagej_names_the_invalid_roi_and_the_missing_library(tmp_path, monkeypatch):
    pytest.importorskip("roifile")
    path = tmp_path / TOOLS["imagej"](tmp_path)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("broken.roi", b"Iout" + bytes(9))
    data = open_tool_dataset("imagej", tmp_path, "train")
    with pytest.raises(UserError, match=r"ROI 6 \('broken.roi'\) is invalid"):
        data[0]
    monkeypatch.setitem(sys.modules, "roifile", None)
    with pytest.raises(UserError, match="pip install roifile"):
        open_tool_dataset("imagej", tmp_path, "train")


def test_what_was_found_is_read_again_once_a_file_changes(tmp_path, monkeypatch):
    path = tmp_path / TOOLS["via"](tmp_path)
    calls = []
    via = FORMATS["via"]
    monkeypatch.setitem(FORMATS, "via", via._replace(find=lambda *options: calls.append(1) or via.find(*options)))
    monkeypatch.setattr("datasets.readers.tools.formats.SETTLED_NS", 0)
    old = time.time() - 100
    for file in (path, tmp_path / "a.png"):
        os.utime(file, (old, old))
    for _ in range(3):
        assert len(open_tool_dataset("via", tmp_path, "train")[0][1]) == 4
    assert len(calls) == 1
    edit(path, lambda data: data["_via_img_metadata"]["a.png123"]["regions"].pop(0))
    assert len(open_tool_dataset("via", tmp_path, "train")[0][1]) == 3 and len(calls) == 2
    monkeypatch.undo()  # a file that is this new may change again within the resolution of its time
    path.write_text(path.read_text().replace('"x": 28', '"x": 26'))
    open_tool_dataset("via", tmp_path, "train")
    path.write_text(path.read_text().replace('"x": 26', '"x": 27'))
    assert open_tool_dataset("via", tmp_path, "train")[0][1].boxes[2].tolist() == [27, 20, 35, 30]


@pytest.mark.parametrize("name", ["project.json", "annotations.json"])
def test_via_is_recognized_whatever_the_name(name, tmp_path):
    (tmp_path / TOOLS["via"](tmp_path)).rename(tmp_path / name)
    assert recognize(tmp_path).name == "via"


def test_points_of_napari_and_of_imagej(tmp_path):
    write_image(tmp_path / "a.png")
    for header, row in (("index,axis-0,axis-1", "0,7,5"), (" ,Area,Mean,Min,Max,X,Y,Ch,Slice", "1,0,9,9,9,5,7,1,1")):
        (tmp_path / "a.csv").write_text(f"{header}\n{row}\n")
        assert recognize(tmp_path).name == "points"
        assert open_tool_dataset("points", tmp_path, "train")[0][1].boxes.tolist() == [[0, 1, 11, 13]]
    (tmp_path / "a.csv").write_text("x,y,width,height\n1,2,3,4\n")
    with pytest.raises(UserError, match="the format is unknown"):
        recognize(tmp_path)
    TOOLS["labelme"](tmp_path)
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    assert recognize(tmp_path).name == "labelme"


@pytest.mark.parametrize("kind", ["via", "labelme"])
def test_names_that_are_too_long_are_missing_images(kind, tmp_path):
    path = tmp_path / TOOLS[kind](tmp_path)
    path.write_text(path.read_text().replace('"a.png"', f'"{"x" * 5000}.png"'))
    if kind == "labelme":  # the image of the file's name is taken
        assert len(open_tool_dataset(kind, tmp_path, "train")[0][1]) == 4
    else:
        with pytest.raises(UserError, match="x+.* is missing"):
            open_tool_dataset(kind, tmp_path, "train")


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path):
    root, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    root.mkdir()
    TOOLS["labelme"](elsewhere)
    (root / "linked").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(root)
    data = open_tool_dataset("labelme", root, "train")
    assert data.image_names == ["linked/a"] and len(data[0][1]) == 4


def test_an_image_in_the_file_is_converted(tmp_path):
    root = tmp_path / "data"
    TOOLS["labelme"](root)
    edit(root / "a.json", lambda data: data.update(imageData=to_base64((root / "a.png").read_bytes())))
    (root / "a.png").unlink()
    parts = open_parts(root, "labelme")
    for to in ("coco", "labels"):
        convert(parts, tmp_path / to, to)
        assert (open_parts(tmp_path / to, to)["train"][0][0] == parts["train"][0][0]).all()


def test_supervisely_reads_alpha_masks_and_files_without_types(tmp_path):
    path = tmp_path / TOOLS["supervisely"](tmp_path)

    def change(data):
        data["objects"][2]["geometryType"] = "alpha_mask"
        del data["objects"][0]["geometryType"]

    expected = open_tool_dataset("supervisely", tmp_path, "train")[0][1].masks.to_dense()
    edit(path, change)
    assert (open_tool_dataset("supervisely", tmp_path, "train")[0][1].masks.to_dense() == expected).all()
