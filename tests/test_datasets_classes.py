"""Selecting, renaming and joining classes: the same labels for every program, and what is left out is counted."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from test_datasets_yolo import write

from datasets.classes import LEFT_OUT
from datasets.config import ReadingConfig
from datasets.judgment import find_rare_classes
from datasets.readers.yolo import Yolo
from datasets.registry import open_dataset
from datasets.survey import Survey
from datasets.writing.discovery import open_parts
from maskrcnn.config import UserError, flag_values
from workbench.config import load_config
from workbench.data import open_data

LINES = [f"{k} {0.1 + 0.2 * k:.1f} 0.5 0.1 0.2" for k in range(4)]


@pytest.fixture
def street(tmp_path) -> Path:
    names = "names: [car, truck, person, dog]\n"
    files = {"data.yaml": f"train: images/train\nval: images/val\n{names}"}
    for part in ("train", "val"):
        files |= {f"images/{part}/{part}{k}.png": "" for k in range(3)}
        files |= {f"labels/{part}/{part}{k}.txt": "\n".join(LINES) for k in range(3)}
    return write(tmp_path, files)


def reading(**flags: str) -> ReadingConfig:
    return ReadingConfig(**flag_values(ReadingConfig, flags))


def test_selected_classes_keep_their_ids_and_the_others_are_counted(street):
    data = open_dataset("yolo", street, "train", reading=reading(classes="dog,truck"))
    assert data.class_names == ("truck", "dog") and data.category_ids == (1, 3)
    for _ in range(2):
        assert data[0][1].labels.tolist() == [1, 2] and data[0][1].ids.tolist() == [2, 4]
    assert data.counts[LEFT_OUT] == 2, "each image counts once"
    assert data.image_file(0).name == "train0.png"


def test_classes_are_joined_before_they_are_selected(street):
    data = open_dataset("yolo", street, "train", reading=reading(map_classes="car|truck=vehicle,dog=animal"))
    assert data.class_names == ("vehicle", "person", "animal") and data.category_ids == (0, 2, 3)
    assert data[0][1].labels.tolist() == [1, 1, 2, 3]
    data = open_dataset("yolo", street, "train", reading=reading(map_classes="car|truck=vehicle", classes="vehicle"))
    assert data.class_names == ("vehicle",) and data[0][1].labels.tolist() == [1, 1]


def test_one_class(street):
    data = open_dataset("yolo", street, "train", reading=reading(one_class="true", classes="car,dog"))
    assert data.class_names == ("object",) and data.category_ids == (1,) and data[0][1].labels.tolist() == [1, 1]


def test_a_mapped_data_set_travels_to_other_processes(street):
    data = open_dataset("yolo", street, "train", reading=reading(classes="dog"))
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(copy[0][1].boxes, data[0][1].boxes) and copy.class_names == ("dog",)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"classes": "dgo"}, "--classes: the data has no class 'dgo'; did you mean 'dog'?"),
        ({"classes": "vehicle"}, "--classes: the data has no class 'vehicle'; it has car, dog, person, truck"),
        ({"map_classes": "cat=animal"}, "--map_classes: the data has no class 'cat'; did you mean 'car'?"),
        ({"map_classes": "car"}, "--map_classes=car: write OLD=NEW"),
        ({"map_classes": "car=a,car=b"}, "class 'car' is mapped twice"),
    ],
)
def test_unknown_classes_and_rules_are_named(street, flags, words):
    config = {"dataset_root": str(street), "val_fraction": "0", **flags}
    with pytest.raises(UserError) as error:
        open_data(load_config(flags=config, environ={}), lambda line: None)
    assert words in str(error.value)
    with pytest.raises(UserError):
        open_parts(street, "yolo", reading=reading(**flags))


def test_training_and_conversion_see_the_same_classes(street):
    flags = {"dataset_root": str(street), "classes": "car,dog", "map_classes": "truck=car", "val_fraction": "0"}
    lines: list[str] = []
    data = open_data(load_config(flags=flags, environ={}), lines.append)
    parts = open_parts(street, "yolo", reading=reading(classes="car,dog", map_classes="truck=car"))
    assert data.class_names == parts["train"].class_names == ("car", "dog")
    assert data.train[0][1].labels.tolist() == parts["train"][0][1].labels.tolist() == [1, 1, 2]
    assert any(LEFT_OUT in line for line in lines)


def test_rare_classes_are_named_where_there_are_many_objects(tmp_path):
    files = {"data.yaml": "train: images\nnames: [many, few, none]\n"}
    files |= {f"images/{k}.png": "" for k in range(3)}
    files |= {f"labels/{k}.txt": "\n".join(["0 0.5 0.5 0.1 0.2"] * 40 + ["1 0.3 0.3 0.1 0.1"]) for k in range(3)}
    data = Yolo(write(tmp_path, files), "train")
    survey = Survey(data.class_names)
    survey.add("0", *data[0])
    assert find_rare_classes(survey) is None, "41 objects are few"
    survey = Survey(data.class_names)
    for index in range(3):
        survey.add(str(index), *data[index])
    concern = find_rare_classes(survey)
    assert concern is not None and concern.text == "2 of 3 classes have fewer than 10 objects: none (0), few (3)"
