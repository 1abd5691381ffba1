"""A resumed run compares its data with those that it was trained on, and names what differs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training_toy import ToyImages, toy_training

from datasets.readers.coco import Coco
from datasets.readers.generated import Generated
from datasets.readers.label_images import LabelImages
from datasets.selection import Subset
from maskrcnn.config import UserError
from maskrcnn.structures.instances import Instances
from maskrcnn.training import identity
from maskrcnn.training.checkpoint import load_checkpoint, save_checkpoint
from maskrcnn.training.identity import check_same_data, identify


def through_a_checkpoint(value: Any, folder: Path) -> Any:
    save_checkpoint(folder / "a.pt", {"model": {}, "data": value})
    return load_checkpoint(folder / "a.pt")["data"]


class Named(ToyImages):
    """Toy images whose fields can be set."""

    def __init__(self, **fields: Any) -> None:
        super().__init__()
        for name, value in fields.items():
            setattr(self, name, value)


CLASSES = ("scratch", "dent")
NAMES = [f"toy-{index}.png" for index in range(7)]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"class_names": CLASSES[::-1]}, r"the classes were \[scratch, dent\] and are now \[dent, scratch\]"),
        ({"class_names": CLASSES[:1]}, r"the classes were \[scratch, dent\] and are now \[scratch\]"),
        ({"image_names": [*NAMES[:3], "b", *NAMES[4:]]}, "number 4 was 'toy-3.png' and is now 'b'"),
        ({"image_names": [NAMES[1], NAMES[0], *NAMES[2:]]}, "number 1 was 'toy-0.png' and is now 'toy-1.png'"),
        ({"image_ids": [100, 101, 102, 103, 9, 105, 106]}, "'toy-4.png' had the id 104 and has now 9"),
        ({"image_names": NAMES[:6], "image_ids": list(range(100, 106))}, "there were 7 and are now 6 .*'toy-6.png'"),
    ],
)
def test_the_first_difference_is_named(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    saved = through_a_checkpoint({"training": identify(Named(class_names=CLASSES))}, tmp_path)
    check_same_data(saved, {"training": identify(Named(class_names=CLASSES))}, "last.pt")
    with pytest.raises(UserError, match=f"cannot resume last.pt .*training images, {message}") as caught:
        check_same_data(saved, {"training": identify(Named(**({"class_names": CLASSES} | fields)))}, "last.pt")
    assert "\n" not in str(caught.value)


def test_a_part_that_is_gone_is_named(tmp_path: Path) -> None:
    saved = {"training": identify(ToyImages()), "validation": identify(ToyImages(2))}
    with pytest.raises(UserError, match="of its validation images, there are none now"):
        check_same_data(saved, {"training": identify(ToyImages())}, "last.pt")


class Shifted(ToyImages):
    """One box of one image is somewhere else."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Instances]:
        image, instances = super().__getitem__(index)
        if index == 5:
            instances.boxes[1] += 0.5
        return image, instances


class Random(ToyImages):
    """Objects are drawn whenever an image is read."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Instances]:
        image, instances = super().__getitem__(index)
        return image, Instances(instances.size, instances.boxes + torch.rand(()), instances.labels)


def test_objects_are_compared_where_no_files_are_named(tmp_path: Path) -> None:
    training = toy_training(tmp_path)
    training.save()
    toy_training(tmp_path).resume()
    training.samples.dataset = Shifted()
    with pytest.raises(UserError, match="the annotations have changed"):
        check_same_data(training.data, {"training": identify(Shifted())}, "last.pt")
    check_same_data({"training": identify(Random())}, {"training": identify(Random())}, "last.pt")


def make_coco(root: Path) -> Path:
    shutil.rmtree(root, ignore_errors=True)
    (root / "images").mkdir(parents=True)
    from PIL import Image

    for number in range(3):
        Image.new("RGB", (32, 24), (number, 0, 0)).save(root / "images" / f"{number}.png")
    data = {
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "images": [{"id": n, "file_name": f"{n}.png", "width": 32, "height": 24} for n in range(3)],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "bbox": [2, 3, 8, 9], "iscrowd": 0} for n in range(3)
        ],
    }
    (root / "annotations.json").write_text(json.dumps(data))
    return root


def edit(root: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    data = json.loads((root / "annotations.json").read_text())
    change(data)
    (root / "annotations.json").write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda data: data["categories"].reverse() or [c.update(id=3 - c["id"]) for c in data["categories"]],
            "classes",
        ),
        (lambda data: data["annotations"][1].update(bbox=[2, 3, 8, 10]), "the annotations have changed"),
        (lambda data: data["annotations"][2].update(category_id=2), "the annotations have changed"),
        (lambda data: data["images"].pop(), "there were 3 and are now 2"),
    ],
)
def test_a_changed_coco_file_is_found(tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    saved = {"training": identify(Coco(make_coco(tmp_path / "data"), "train"))}
    check_same_data(saved, {"training": identify(Coco(make_coco(tmp_path / "moved"), "train"))}, "last.pt")
    if message.startswith("there were"):
        edit(tmp_path / "data", lambda data: data["annotations"].pop())
    edit(tmp_path / "data", change)
    with pytest.raises(UserError, match=message):
        check_same_data(saved, {"training": identify(Coco(tmp_path / "data", "train"))}, "last.pt")


def test_only_chosen_images_are_compared(tmp_path: Path, tiny_ellipses: Path) -> None:
    shutil.copytree(tiny_ellipses, tmp_path / "data")
    saved = {"training": identify(Subset(Generated(tmp_path / "data", "train"), [1, 3]))}

    def change(kind: str, number: int) -> dict[str, Any]:
        path = tmp_path / "data/train" / kind / f"00000{number}.png"
        path.write_bytes(path.read_bytes() + b"\0")
        return {"training": identify(Subset(Generated(tmp_path / "data", "train"), [1, 3]))}

    for kind in ("images", "labels"):
        assert check_same_data(saved, change(kind, 2), "last.pt") == []
    notices = check_same_data(saved, change("images", 3), "last.pt")
    assert notices == ["training images: some of the files have changed since the run was saved"]
    with pytest.raises(UserError, match="the annotations have changed"):
        check_same_data(saved, change("labels", 3), "last.pt")
    other = {"training": identify(Subset(Generated(tiny_ellipses, "train"), [1, 2]))}
    with pytest.raises(UserError, match="number 2 was '000003' and is now '000002'"):
        check_same_data(saved, other, "last.pt")


def test_very_many_files_are_sampled_evenly(
    tmp_path: Path, tiny_ellipses: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    original = Path.open

    def recorded(self: Path, *arguments: Any, **options: Any) -> Any:
        opened.append(self.name)
        return original(self, *arguments, **options)

    data = Generated(tiny_ellipses, "train")
    monkeypatch.setattr(identity, "MAX_IMAGE_FILES", 3)
    monkeypatch.setattr(identity, "MAX_ANNOTATION_FILES", 1)
    monkeypatch.setattr(Path, "open", recorded)
    identify(data)
    assert opened == ["000000.png", "000002.png", "000004.png", "annotations.json"]


def test_label_images_are_read_as_annotations(tmp_path: Path, tiny_ellipses: Path) -> None:
    for part in ("train", "test"):
        shutil.copytree(tiny_ellipses / part / "images", tmp_path / part / "images")
        shutil.copytree(tiny_ellipses / part / "labels", tmp_path / part / "masks")
    data = LabelImages(tmp_path, "train")
    assert data.annotation_files(1) == [tmp_path / "train/masks/000001.png"]
    saved = identify(data)
    os.replace(tmp_path / "train/masks/000001.png", tmp_path / "train/masks/000002.png")
    shutil.copy(tmp_path / "train/masks/000002.png", tmp_path / "train/masks/000001.png")
    now = identify(LabelImages(tmp_path, "train"))
    assert saved["images"] == now["images"] and saved["annotations"] != now["annotations"]
