"""Converted data sets in the formats of annotation tools: read again they are the same, and what is lost is counted."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from programs_toy import fail, succeed
from test_datasets_writing import BIG, FAR, SIZE, SMALL, Listed, lost, with_boxes, with_masks

from datasets.readers.yolo import Yolo
from datasets.recognition import recognize
from datasets.registry import open_dataset
from datasets.writing.conversion import convert
from examples.convert import main
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks

READERS = {"yolo": "yolo", "roboflow": "yolo", "labelme": "labelme", "geojson": "qupath", "coco": "coco"}
BITS = st.tuples(st.integers(1, 8), st.integers(1, 8)).flatmap(lambda size: arrays(bool, size))


@pytest.mark.parametrize("to", READERS)
def test_three_parts_come_back_with_masks_classes_and_pixels(tmp_path, to):
    listed = {part: [with_masks([BIG, FAR], [2, 1]), with_masks([SMALL], [1])] for part in ("train", "val", "test")}
    parts = {part: Listed(each, ("round", "other")) for part, each in listed.items()}
    done = convert(parts, tmp_path / "out", to)
    assert recognize(tmp_path / "out").name == READERS[to]
    for split, wanted in listed.items():
        data = open_dataset("auto", tmp_path / "out", split)
        assert len(data) == 2 and data.has_masks and sorted(data.class_names) == ["other", "round"]
        for index, each in enumerate(wanted):
            image, found = data[index]
            assert torch.equal(image, parts[split][index][0])
            assert torch.equal(found.masks.to_dense(), each.masks.to_dense())
            assert torch.allclose(found.boxes, each.boxes, atol=1e-4)
            names = [data.class_names[k - 1] for k in found.labels.tolist()]
            assert names == [("round", "other")[k - 1] for k in each.labels.tolist()]
    assert to == "coco" or "the ids of 6 images, which are identified by name" in lost(done)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(BITS, min_size=1, max_size=4), st.sampled_from(["yolo", "labelme", "geojson"]), st.randoms())
def test_any_masks_come_back(bits, to, draw):
    dense = torch.zeros(len(bits) + 1, *SIZE, dtype=torch.bool)
    dense[0, 1:3, 1:3] = True
    for mask, each in zip(dense[1:], bits, strict=True):
        y, x = draw.randrange(SIZE[0] - 8), draw.randrange(SIZE[1] - 8)
        mask[y : y + each.shape[0], x : x + each.shape[1]] = torch.from_numpy(each)
    masks = CroppedMasks.from_dense(dense)
    drawn = masks.areas() > 0
    wanted = Instances.from_masks(masks, torch.ones(len(masks), dtype=torch.int64))[drawn]
    with tempfile.TemporaryDirectory() as folder:
        convert({"train": Listed([wanted])}, Path(folder) / "out", to)
        found = open_dataset("auto", Path(folder) / "out", "train")[0][1]
    assert torch.equal(found.masks.to_dense(), wanted.masks.to_dense())
    assert torch.allclose(found.boxes, wanted.boxes, atol=1e-4)


@pytest.mark.parametrize("to", ["yolo", "roboflow", "labelme"])
def test_boxes_come_back(tmp_path, to):
    boxes = [(4.25, 4.5, 20, 20), (0, 0, SIZE[1], SIZE[0])]
    convert({"train": Listed([with_boxes(boxes)]), "val": Listed([with_boxes(boxes[:1])])}, tmp_path / "out", to)
    for split, count in (("train", 2), ("test", 1)):
        data = open_dataset("auto", tmp_path / "out", split)
        assert not data.has_masks
        assert torch.allclose(data[0][1].boxes, torch.tensor(boxes[:count]), atol=1e-4)


def test_what_yolo_cannot_hold_is_counted(tmp_path):
    ring = with_masks([BIG, SMALL], ignore=[False, True], ids=[7, 9])
    dense = ring.masks.to_dense()
    dense[0, 10:12, 10:12] = False
    masks = CroppedMasks.from_dense(dense)
    moved = Instances(
        SIZE, masks.boxes() + torch.tensor([0, 0, 0.5, 0]), ring.labels, None, masks, ring.ignore, ring.ids
    )
    text = lost(convert({"train": Listed([moved])}, tmp_path / "out", "yolo"))
    assert "the outlines of 1 object of several parts or with holes" in text
    assert "the marks of 1 ignored object" in text and "the boxes of 2 objects" in text
    assert "the ids of 2 objects" in text


def test_class_names_of_any_kind_are_kept_in_yaml(tmp_path):
    names = ("no", "a: b", 'c"d', "é, #1", "[x]", "\\n", "- y", "1.10", "'")
    labels = list(range(1, len(names) + 1))
    boxes = with_boxes([(k, k, k + 5, k + 5) for k in labels], labels)
    convert({"train": Listed([boxes], names)}, tmp_path / "out", "yolo")
    assert Yolo(tmp_path / "out", "train").class_names == names


def test_label_studio_gets_tasks_images_and_an_interface(tmp_path):
    parts = {"train": Listed([with_masks([BIG]), with_masks([SMALL])], ("a<b",)), "test": Listed([with_boxes([FAR])])}
    parts["test"].has_masks = True
    parts["test"].truths = [with_masks([FAR])]
    convert(parts, tmp_path / "out", "label_studio")
    tasks = json.loads((tmp_path / "out/tasks.json").read_text(encoding="utf-8"))
    assert len(tasks) == 3
    for task in tasks:
        name = task["data"]["image"].partition("?d=")[2]
        assert (tmp_path / "out" / name).is_file() and len(task["predictions"][0]["result"]) == 1
    assert '<Label value="a&lt;b"/>' in (tmp_path / "out/labeling_interface.xml").read_text(encoding="utf-8")


def test_convert_names_the_next_command(tmp_path, tiny_ellipses, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = succeed(main, str(tiny_ellipses), "--to=roboflow", "--output=a")
    assert lines[-1] == "Next: python example_smallobject_train.py --dataset=yolo --dataset_root=a"
    lines = succeed(main, "a", "--to=label_studio", "--output=b")
    assert lines[0].startswith("a: yolo with 6 training, 2 validation and 3 test images")
    assert lines[-1].startswith("Next: import b/tasks.json into Label Studio")
    assert "yolo, roboflow, labelme" in fail(main, "a", "--output=c")
