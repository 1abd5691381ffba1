"""YOLO folders as Ultralytics, Roboflow, CVAT, Label Studio and labelImg write them, and what is wrong in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from readers_toy import check_sound, one_line

from datasets.config import DataConfig
from datasets.readers.plain_yaml import read_yaml
from datasets.readers.splitting import MissingSplit
from datasets.readers.yolo import Yolo, list_parts
from datasets.readers.yolo_labels import YoloObject
from datasets.recognition import recognize
from datasets.registry import open_dataset, parse_names
from datasets.splits import open_splits
from datasets.writing.discovery import open_parts
from maskrcnn.config import UserError

SIZE = (40, 80)  # H, W
BOX = "1 0.25 0.5 0.1 0.2"  # 16..24 x 16..24 px
POLYGON = "0 0.5 0.25 0.75 0.25 0.75 0.75 0.5 0.75"  # 40..60 x 10..30 px, with a rotated box's four points
TRIANGLE = "0 0.1 0.1 0.3 0.1 0.1 0.5"
NAMES = "names: [cell, debris]\n"


def write(root: Path, files: dict[str, str]) -> Path:
    """Write text files, and an image for each name that ends in .png or .jpg."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".png", ".jpg"):
            shade = np.random.default_rng(list(name.encode())).integers(0, 255, (*SIZE, 3), np.uint8)
            Image.fromarray(shade).save(path)
        else:
            path.write_text(text, encoding="utf-8")
    return root


def ultralytics(root: Path, labels: str = BOX, yaml: str = "") -> Path:
    files = {"data.yaml": yaml or f"path: ../datasets/cells\ntrain: images/train\nval: images/val\n{NAMES}"}
    for part in ("train", "val"):
        files |= {f"images/{part}/{part}1.png": "", f"labels/{part}/{part}1.txt": labels}
    return write(root, files)


# ---- lines


def test_boxes_and_polygons_are_in_pixels(tmp_path):
    data = Yolo(ultralytics(tmp_path, f"{BOX}\n\n{TRIANGLE}\r\n{POLYGON} \n"), "train")
    image, found = data[0]
    check_sound(data, image, found)
    assert found.boxes.tolist() == pytest.approx(torch.tensor([[16, 16, 24, 24], [8, 4, 24, 20], [40, 10, 60, 30]]))
    assert found.labels.tolist() == [2, 1, 1] and found.ids.tolist() == [1, 3, 4]
    assert data.class_names == ("cell", "debris") and data.category_ids == (0, 1)
    assert found.has_mask().tolist() == [False, True, True]
    assert found.masks.areas().tolist()[2] == 400 and 100 <= found.masks.areas()[1] <= 160
    assert data.counts["objects without a mask, used for boxes only"] == 1


def test_a_set_of_boxes_has_no_masks(tmp_path):
    data = Yolo(ultralytics(tmp_path, f"{BOX}\n{BOX} 0.93\n"), "train")
    assert not data.has_masks and data[0][1].masks is None and len(data[0][1]) == 2
    assert data.counts["boxes are followed by a sixth number (a score?), which is not used"] == 1


def test_rotated_boxes_are_polygons_and_said(tmp_path):
    data = Yolo(ultralytics(tmp_path, "0 0.5 0.2 0.6 0.5 0.5 0.8 0.4 0.5"), "train")
    assert data.counts["polygons all have four points, as rotated boxes (YOLO-OBB); they are read as polygons"] == 1
    assert data[0][1].boxes.tolist() == pytest.approx(torch.tensor([[32, 8, 48, 32]]))
    assert data[0][1].masks.areas().item() == pytest.approx(0.5 * 16 * 24, abs=16)
    mixed = Yolo(ultralytics(tmp_path / "mixed", f"{POLYGON}\n{TRIANGLE}"), "train")
    assert not any("rotated" in rule for rule in mixed.counts)


def test_key_points_are_left_out_and_said(tmp_path):
    yaml = f"train: images/train\nval: images/val\nkpt_shape: [2, 3]\n{NAMES}"
    data = Yolo(ultralytics(tmp_path, f"{BOX} 0.3 0.3 2 0.4 0.4 1", yaml), "train")
    assert not data.has_masks and data[0][1].boxes.tolist() == pytest.approx(torch.tensor([[16, 16, 24, 24]]))
    assert data.counts["objects with key points, of which only the boxes are read"] == 1


BAD_LINES = {
    "1 0.5 0.5 0.1": "has 4 numbers; a box has 5",
    "1 0.5 0.5 0.1 0.1 0.2 0.3 0.4": "has 8 numbers",
    "1 0.5 0.5 nan 0.1": "not finite",
    "1 0.5 inf 0.1 0.1": "not finite",
    "1 0.5 0.5 x 0.1": "'x' is not a number",
    "2 0.5 0.5 0.1 0.1": "unknown class 2 (classes: 0 to 1)",
    "-1 0.5 0.5 0.1 0.1": "unknown class -1 ",
    "0.5 0.5 0.5 0.1 0.1": "unknown class 0.5 ",
    "1 1.2 0.5 0.1 0.1": "1.2 is out of range: values are fractions of the image, from 0 to 1",
    "1 0.5 0.5 64 32": "64 is out of range",
    "0 0.1 0.1 -0.3 0.1 0.1 0.5": "-0.3 is out of range",
}


@pytest.mark.parametrize(("line", "words"), BAD_LINES.items())
def test_a_bad_line_is_named_or_skipped_and_counted(tmp_path, line, words):
    root = ultralytics(tmp_path, f"{BOX}\n{line}\n{POLYGON}\n")
    data = Yolo(root, "train")
    with pytest.raises(UserError) as error:
        data[0]
    text = one_line(error)
    assert text.startswith(f"{root.as_posix()}/labels/train/train1.txt:2: ") and words in text and "--skip_bad" in text
    skipping = Yolo(root, "train", skip_bad=True)
    assert skipping[0][1].ids.tolist() == [1, 3] and skipping.counts["invalid annotations skipped"] == 1
    skipping[0]
    assert skipping.counts["invalid annotations skipped"] == 1, "each image counts once"


def test_a_hundredth_beyond_the_image_is_clipped_and_counted(tmp_path):
    data = Yolo(ultralytics(tmp_path, "0 0.9 0.9 1.005 0.9 1.005 1.0\n1 0.95 0.5 0.1 0.1\n1 0.95 0.5 0.2 0.1"), "train")
    assert data[0][1].boxes[:, 2].tolist() == [80, 80, 80] and data.counts["boxes clipped to the image"] == 2


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.001, 1), st.floats(0.001, 1))
def test_the_rounding_of_six_decimals_never_leaves_the_image(x, y, width, height):
    width, height = min(width, 2 * x, 2 - 2 * x), min(height, 2 * y, 2 - 2 * y)
    values = np.array([float(f"{each:.6f}") for each in (x, y, width, height)])
    box = YoloObject(1, 0, values).to_box((3000, 4000))
    assert (box >= 0).all() and (box[:2] <= [4000, 3000]).all() and (box[2:] <= [4000, 3000]).all()


def test_empty_and_missing_label_files_are_backgrounds(tmp_path):
    root = ultralytics(tmp_path)
    write(
        root,
        {"images/train/a.png": "", "labels/train/a.txt": "\n", "images/train/b.png": "", "labels/train/c.txt": BOX},
    )
    data = Yolo(root, "train")
    assert data.image_names == ["a", "b", "train1"] and [len(data[k][1]) for k in range(3)] == [0, 0, 1]
    assert data.counts["of 3 images have no label file and are read without objects"] == 1
    assert data.counts["label files without an image left out"] == 1
    assert data.annotation_files(1) == [] and len(data.annotation_files(0)) == 1


def test_a_folder_of_images_alone_is_an_error(tmp_path):
    root = write(tmp_path, {"images/train/a.png": "", "data.yaml": f"train: images/train\n{NAMES}"})
    with pytest.raises(UserError, match="no image of 'train' has a label file, such as a.txt in .*images/train; add"):
        Yolo(root, "train")


# ---- layouts


def roboflow(root: Path, yaml: str = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n") -> Path:
    files = {"data.yaml": f"{yaml}nc: 2\n{NAMES}"}
    for part in ("train", "valid", "test"):
        files |= {f"{part}/images/{part}_1.jpg": "", f"{part}/labels/{part}_1.txt": TRIANGLE}
    return write(root, files)


CLASSES = {"classes.txt": "cell\ndebris\n"}


def yaml(text: str) -> dict[str, str]:
    return {"data.yaml": f"{text}\n{NAMES}"}


LAYOUTS = {  # text files, and the folders of images and labels of a part
    "ultralytics": (yaml("path: .\ntrain: images/train\nval: images/val"), "images/{}", "labels/{}"),
    "elsewhere": (yaml("path: /content/x\ntrain: images/train\nval: [images/val]"), "images/{}", "labels/{}"),
    "absolute": (yaml("train: C:\\data\\x\\train\\images\nval: /y/x/val/images"), "{}/images", "{}/labels"),
    "lists": (
        yaml("path: .\ntrain: train.txt\nval: val.txt")
        | {"train.txt": "./images/train/a.png\n", "val.txt": "/home/u/set/images/val/a.png\n"},
        "images/{}",
        "labels/{}",
    ),
    "no yaml": (CLASSES, "images/{}", "labels/{}"),
    "folders": (CLASSES, "{}/images", "{}/labels"),
    "flat": (CLASSES, "{}", "{}"),
    "darknet": (
        {
            "obj.data": "classes = 2\ntrain = data/train.txt\nvalid = data/val.txt\nnames = data/obj.names\n",
            "obj.names": "cell\ndebris\n",
            "train.txt": "data/obj_train_data/train/a.png\n",
            "val.txt": "data/obj_train_data/val/a.png",
        },
        "obj_train_data/{}",
        "obj_train_data/{}",
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_tools_are_recognized_and_read(tmp_path, layout):
    files, images, labels = LAYOUTS[layout]
    root = write(tmp_path, dict(files))
    for part in ("train", "val"):
        write(
            root,
            {
                f"{images.format(part)}/a.png": "",
                f"{labels.format(part)}/a.txt": f"{BOX}\n{TRIANGLE}" if part == "train" else BOX,
            },
        )
    assert recognize(root).name == "yolo" and list_parts(root) == ["train", "val"]
    train, test = (open_dataset("auto", root, split) for split in ("train", "test"))
    assert train.class_names == test.class_names == ("cell", "debris")
    assert len(train) == len(test) == 1 and len(train[0][1]) == 2 and len(test[0][1]) == 1
    with pytest.raises(MissingSplit, match="has no images for 'val', only train and val"):
        Yolo(root, "val")
    assert list(open_parts(root, "yolo")) == ["train", "val"]


def test_roboflows_three_parts_with_paths_from_a_folder_above(tmp_path):
    root = roboflow(tmp_path)
    assert [Yolo(root, split).image_names for split in ("train", "val", "test")] == [
        ["train_1"],
        ["valid_1"],
        ["test_1"],
    ]
    for path in sorted((root / "test").rglob("*.*")):
        path.unlink()
    for folder in ("test/images", "test/labels", "test"):
        (root / folder).rmdir()
    assert Yolo(root, "test").image_names == ["valid_1"], "a test set that is named, but was not exported"


@pytest.mark.parametrize("images", ["images/{}.png", "{}.png"])
def test_a_folder_without_parts_is_split(tmp_path, images):
    for name in "abcd":
        labels = images.replace("images", "labels").replace("png", "txt")
        write(tmp_path, {images.format(name): "", labels.format(name): BOX})
    assert recognize(tmp_path).name == "yolo"
    splits = open_splits(parse_names("yolo")[0], tmp_path, DataConfig())
    assert len(splits.train) == 3 and len(splits.test) == 1 and splits.train.class_names == ("0", "1")


def test_a_validation_set_that_is_the_training_set_is_none(tmp_path):
    root = ultralytics(tmp_path, yaml=f"train: images/train\nval: images/train\n{NAMES}")
    with pytest.raises(MissingSplit):
        Yolo(root, "test")


def test_lists_that_name_a_missing_image_and_folders_that_are_not_there(tmp_path):
    root = ultralytics(tmp_path, yaml=f"train: train.txt\n{NAMES}")
    write(root, {"train.txt": "images/train/train1.png\n../../../etc/x.png\n"})
    with pytest.raises(UserError, match=r"train.txt:2: image '../../../etc/x.png' is not in"):
        Yolo(root, "train")
    write(root, {"data.yaml": f"train: elsewhere/images\n{NAMES}"})
    with pytest.raises(UserError, match="data.yaml: 'train' is 'elsewhere/images', which is not in"):
        Yolo(root, "train")


def test_no_file_outside_the_folder_is_read(tmp_path):
    write(tmp_path, {"outside/images/x.png": "", "outside/labels/x.txt": BOX})
    root = ultralytics(tmp_path / "inside", yaml=f"train: ../outside/images\n{NAMES}")
    with pytest.raises(UserError, match="which is not in"):
        Yolo(root, "train")


# ---- names


@pytest.mark.parametrize(
    ("names", "expected", "ids"),
    [
        ("names:\n  0: cell\n  7: debris", ("cell", "debris"), (0, 7)),
        ("names: ['no', \"a: b\"]\nnc: 2", ("no", "a: b"), (0, 1)),
        ("nc: 3", ("0", "1", "2"), (0, 1, 2)),
        ("names:\n- cell\n- cell", ("cell",), (0,)),
    ],
)
def test_class_names_as_list_dict_or_numbers(tmp_path, names, expected, ids):
    data = Yolo(ultralytics(tmp_path, "0 0.5 0.5 0.1 0.1", f"train: images/train\nval: images/val\n{names}\n"), "train")
    assert data.class_names == expected and data.category_ids == ids and data[0][1].labels.tolist() == [1]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("names: [a, b]\nnc: 3", "'nc' is 3, but there are 2 names"),
        ("names: {a: b}", "class number is 'a'; it must be an integer from 0"),
        ("names: [[a]]", "name of class 0 is .*; it must be text"),
        ("nc: 99999999", "'nc' is '99999999'; it must be an integer"),
        ("names: &x [a]\nnc: *x", "anchors, aliases and tags are not supported"),
    ],
)
def test_invalid_class_names_name_the_file(tmp_path, names, words):
    with pytest.raises(UserError, match=f"data.yaml.*{words}"):
        Yolo(ultralytics(tmp_path, yaml=f"train: images/train\n{names}\n"), "train")


def test_splits_without_names_agree_on_classes_and_masks(tmp_path):
    root = write(tmp_path, {"images/train/a.png": "", "labels/train/a.txt": TRIANGLE, "images/val/a.png": ""})
    write(root, {"labels/val/a.txt": ""})
    train, test = Yolo(root, "train"), Yolo(root, "test")
    assert train.has_masks and test.has_masks and train.class_names == test.class_names == ("0",)
    write(root, {"labels/val/a.txt": BOX})
    assert Yolo(root, "train").class_names == Yolo(root, "test").class_names == ("0", "1")


def test_names_repeat_across_folders(tmp_path):
    root = ultralytics(tmp_path, yaml=f"train: images\n{NAMES}")
    write(root, {"images/val/train1.png": "", "labels/val/train1.txt": BOX})
    data = Yolo(root, "train")
    assert data.image_names == ["images/train/train1", "images/val/train1", "images/val/val1"]
    assert len(set(data.image_ids)) == 3 and all(len(data[k][1]) == 1 for k in range(3))


# ---- YAML


YAML_OF_TOOLS = """# Ultralytics
path: ../datasets/coco8 # root
val: [a, 'b c', "d, e"]
names:
    0: person
    1: 'it''s: x'
    2: o'brien
nested: {a: 1, "b": [x, {c: d}]}
multi: ['a',
   'b', # comment
   'c']
list:
- x
- - y
  - z
- k: v
  w: u
url: https://a.b/c
none:
download: |
  import os # x
  for a in b:
      c: d
end: "a\\n\\u00e9"
"""


def test_yaml_of_tools(tmp_path):
    (tmp_path / "a.yaml").write_text(YAML_OF_TOOLS)
    assert read_yaml(tmp_path / "a.yaml") == {
        "path": "../datasets/coco8",
        "val": ["a", "b c", "d, e"],
        "names": {"0": "person", "1": "it's: x", "2": "o'brien"},
        "nested": {"a": "1", "b": ["x", {"c": "d"}]},
        "multi": ["a", "b", "c"],
        "list": ["x", ["y", "z"], {"k": "v", "w": "u"}],
        "url": "https://a.b/c",
        "none": None,
        "download": "",
        "end": "a\né",
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb", ":2: is no 'key: value'"),
        ("a: 1\na: 2", ":2: has the key 'a' a second time"),
        ("a: [1, 2", ":1: has no closing ']'"),
        ("a: 'x", ":1: has text without a closing quote"),
        ("a: !!python/object x", ":1: has '!!python/object x': anchors, aliases and tags"),
        ("a:\n    b: 1\n  c: 2", ":3: is indented differently"),
        ("a: " + "[" * 50, "nested too deeply"),
        ("- 1\n- 2", "is not YAML with a key per line"),
        ("", "is not YAML with a key per line"),
    ],
)
def test_yaml_that_is_not_supported_names_the_line(tmp_path, text, words):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        read_yaml(tmp_path / "a.yaml")
    assert words in one_line(error)
