"""Splits: those of the data, of a file, and those that are drawn."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from programs_toy import SCENES, make_nuclei

from datasets.config import DataConfig
from datasets.joined import JoinedDataset
from datasets.readers.coco import Coco
from datasets.readers.splitting import draw_places
from datasets.registry import parse_names
from datasets.selection import Subset
from datasets.splits import Splits, find_originals, group_identical_images, hold_out, open_splits
from datasets.synthetic.recipes import Recipe
from datasets.synthetic.writer import create
from maskrcnn.config import UserError
from maskrcnn.structures.instances import Instances

SPLITS = ("train", "val", "test")


def names_of(splits: Splits) -> dict[str, list[str]]:
    found = {split: getattr(splits, split) for split in SPLITS}
    return {split: list(dataset.image_names) for split, dataset in found.items() if dataset is not None}


def open_named(name: str, root: Path, **settings: Any) -> Splits:
    return open_splits(parse_names(name)[0], root, DataConfig(**settings))


def write_picture(path: Path, shade: int) -> None:
    pixels = np.full((32, 32, 3), 20, np.uint8)
    pixels[5:15, 6:18] = 100 + shade
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_coco(folder: Path, file: str, count: int) -> None:
    """Images beside or in `images`, of which the last two are copies of each other."""
    images = [{"id": n, "file_name": f"{n}.png", "width": 32, "height": 32} for n in range(count)]
    for n in range(count):
        place = "images" if file.startswith("annotations/") else Path(file).parent
        write_picture(folder / place / f"{n}.png", min(n, count - 2))
    box: dict[str, Any] = {"category_id": 1, "bbox": [6, 5, 12, 10], "iscrowd": 0, "area": 120}
    box["segmentation"] = [[6, 5, 18, 5, 18, 15, 6, 15]]
    annotations = [{"id": n + 1, "image_id": n, **box} for n in range(count)]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (folder / file).write_text(json.dumps(content))


# ---- drawing


@given(
    st.lists(st.text(min_size=1), min_size=1, max_size=40, unique=True),
    st.floats(0.01, 0.9),
    st.integers(0, 2**32),
    st.randoms(),
)
def test_drawing_depends_on_the_names_alone_and_keeps_groups_whole(names, fraction, seed, random):
    groups = [random.randrange(5) for _ in names]
    drawn = {names[place] for place in draw_places(names, fraction, seed, groups)}
    order = list(range(len(names)))
    random.shuffle(order)
    again = draw_places([names[i] for i in order], fraction, seed, [groups[i] for i in order])
    assert {names[order[place]] for place in again} == drawn
    inside = {group for name, group in zip(names, groups, strict=True) if name in drawn}
    outside = {group for name, group in zip(names, groups, strict=True) if name not in drawn}
    assert not inside & outside and outside
    assert bool(drawn) == (len(set(groups)) > 1)


def test_the_fraction_is_drawn_and_another_seed_or_key_draws_others():
    names = [f"image-{number}" for number in range(1000)]
    ways = [(1, ""), (2, ""), (1, "validation/")]
    drawn = [set(draw_places(names, 0.15, seed, key=key)) for seed, key in ways]
    assert [len(each) for each in drawn] == [150] * 3
    assert all(5 < len(drawn[0] & drawn[other]) < 50 for other in (1, 2)), "as many as chance has in common"
    more = set(draw_places([*names, "new"], 0.15, 1))
    assert len(more ^ drawn[0]) <= 2


# ---- what the data has


def test_generated_data_has_validation_images_of_its_own(tmp_path):
    create(tmp_path / "with", Recipe(n_train=4, n_val=2, n_test=3, scene=SCENES), processes=1)
    create(tmp_path / "without", Recipe(n_train=4, n_val=0, n_test=3, scene=SCENES), processes=1)
    with_val, without = (open_named("ellipses", tmp_path / each) for each in ("with", "without"))
    assert [len(names) for names in names_of(with_val).values()] == [4, 2, 3] and not with_val.notes
    assert without.val is None
    for split in ("train", "test"):
        for a, b in zip(getattr(with_val, split), getattr(without, split), strict=True):
            assert torch.equal(a[0], b[0]), "validation images change no others"
    first = [getattr(with_val, split)[0][0] for split in SPLITS]
    assert not any(torch.equal(first[1], first[other]) for other in (0, 2))
    (tmp_path / "recipe.toml").write_text((tmp_path / "with/dataset.toml").read_text())
    drawn = open_named(f"synthetic:{tmp_path / 'recipe.toml'}", tmp_path)
    assert torch.equal(drawn.val[1][0], with_val.val[1][0])


@pytest.mark.parametrize(
    ("files", "sizes"),
    [
        (("train/_annotations.coco.json", "valid/_annotations.coco.json", "test/_annotations.coco.json"), (6, 4, 5)),
        (("annotations/instances_train2017.json", "", "annotations/instances_val2017.json"), (6, None, 5)),
        (("train/annotations.json", "", "val/annotations.json"), (6, None, 5)),
        (("annotations/train.json", "annotations/val.json", "annotations/test.json"), (6, 4, 5)),
    ],
)
def test_the_val_part_of_coco_validates_where_there_is_a_test_part_too(tmp_path, files, sizes):
    for file, size in zip(files, (6, 4, 5), strict=True):
        if file:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            write_coco(tmp_path, file, size)
    splits = open_named("coco", tmp_path)
    assert tuple(None if each is None else len(each) for each in (splits.train, splits.val, splits.test)) == sizes


def write_voc(root: Path, count: int, **lists: range) -> Path:
    for n in range(count):
        write_picture(root / "JPEGImages" / f"{n}.png", n)
        (root / "Annotations").mkdir(exist_ok=True)
        (root / "Annotations" / f"{n}.xml").write_text("<annotation></annotation>")
    for name, numbers in lists.items():
        (root / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
        (root / f"ImageSets/Main/{name}.txt").write_text("\n".join(map(str, numbers)))
    return root


@pytest.mark.parametrize(
    ("lists", "sizes"),
    [
        ({"train": range(5), "val": range(5, 8), "test": range(8, 12)}, (5, 3, 4)),
        ({"train": range(5), "val": range(5, 12)}, (5, None, 7)),
        ({"trainval": range(8), "val": range(5, 8), "test": range(8, 12)}, (8, None, 4)),
        ({"default": range(12)}, (9, None, 3)),
        ({"trainval": range(8)}, (6, None, 2)),
        ({}, (9, None, 3)),
    ],
)
def test_voc_with_all_lists_some_one_or_none(tmp_path, lists, sizes):
    splits = open_named("voc", write_voc(tmp_path / "VOC2012", 12, **lists))
    assert tuple(None if each is None else len(each) for each in (splits.train, splits.val, splits.test)) == sizes
    assert bool(splits.notes) == (len(lists) < 2)


def test_label_images_with_three_folders_and_a_list_of_three(tmp_path):
    for part, count in (("train", 4), ("val", 2), ("test", 3)):
        for n in range(count):
            write_picture(tmp_path / f"{part}/images/{part}{n}.png", n)
            (tmp_path / part / "labels").mkdir(exist_ok=True)
            Image.fromarray(np.eye(32, dtype=np.uint8)).save(tmp_path / f"{part}/labels/{part}{n}.png")
    assert [len(names) for names in names_of(open_named("labels", tmp_path)).values()] == [4, 2, 3]
    listed = {"train": ["test0", "val1"], "val": ["train3"], "test": ["train0"]}
    (tmp_path / "mine.json").write_text(json.dumps(listed))
    assert names_of(open_named("labels", tmp_path, split_file=str(tmp_path / "mine.json"))) == listed | {
        "train": ["test0", "val1"]
    }


# ---- what is drawn


def test_one_coco_file_is_split_by_image_seed_and_fraction(tmp_path):
    write_coco(tmp_path, "annotations.json", 12)
    splits = open_named("coco", tmp_path)
    names = names_of(splits)
    assert len(names["test"]) in (3, 4) and sorted(names["train"] + names["test"]) == sorted(map(str, range(12)))
    assert splits.notes == [
        f"coco has no test set: {len(names['test'])} of 12 images are drawn for it "
        "(--test_fraction=0.25, --subsetseed=12345)"
    ]
    assert names_of(open_named("coco", tmp_path)) == names
    for seed in range(20):  # 10 and 11 are copies of one picture
        drawn = names_of(open_named("coco", tmp_path, split_seed=seed))
        assert ("10" in drawn["test"]) == ("11" in drawn["test"])
    assert len({tuple(names_of(open_named("coco", tmp_path, split_seed=seed))["test"]) for seed in range(9)}) > 5
    assert len(open_named("coco", tmp_path, test_fraction=0.5).test) in (6, 7)


def test_a_test_set_that_the_reader_draws_is_announced_too(tmp_path):
    note = "has no test set: 1 of 4 images is drawn for it (--test_fraction=0.25, --subsetseed=12345)"
    bowl = make_nuclei(tmp_path / "bowl")
    assert open_named("dsbowl2018", bowl).notes == [f"dsbowl2018 {note}"]
    for number in range(4):
        write_picture(tmp_path / f"labels/images/{number}.png", 9 * number)
        write_picture(tmp_path / f"labels/masks/{number}.png", 1)
    assert open_named("labels", tmp_path / "labels").notes == [f"labels {note}"]
    (tmp_path / "labels/split.json").write_text(json.dumps({"train": ["0", "1", "2"], "test": ["3"]}))
    assert open_named("labels", tmp_path / "labels").notes == []


def test_a_split_file_serves_any_data(tmp_path):
    write_coco(tmp_path, "annotations.json", 6)
    file = tmp_path / "split.json"
    file.write_text(json.dumps({"train": ["4", "0"], "val": ["1"], "test": ["5", "2"]}))
    splits = open_named("coco", tmp_path, split_file=str(file))
    assert names_of(splits) == {"train": ["0", "4"], "val": ["1"], "test": ["2", "5"]}
    create(tmp_path / "made", Recipe(n_train=3, n_val=1, n_test=2, scene=SCENES), processes=1)
    names = {"train": ["test-000001", "000002"], "test": ["train-000000"]}  # 000002 is in no other part
    file.write_text(json.dumps(names))
    splits = open_named("ellipses", tmp_path / "made", split_file=str(file))
    assert names_of(splits) == {"train": ["000002", "test-000001"], "test": ["train-000000"]}
    plain = open_named("ellipses", tmp_path / "made")
    assert torch.equal(splits.train[1][0], plain.test[1][0]) and torch.equal(splits.test[0][0], plain.train[0][0])
    bowl = make_nuclei(tmp_path / "bowl")
    file.write_text(json.dumps({"train": ["nucleus-0", "nucleus-3"], "val": ["nucleus-1"], "test": ["nucleus-2"]}))
    assert [*map(len, names_of(open_named("dsbowl2018", bowl, split_file=str(file))).values())] == [2, 1, 1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"train": ["0"], "test": ["7"]}', "lists image '7', which is not in"),
        ('{"train": ["0", "1"], "val": ["1"], "test": ["2"]}', "image '1' is in both train and val"),
        ('{"train": ["0"], "test": []}', "has no image for 'test'"),
        ('{"train": ["0"]}', "the split has no image for 'test'"),
        ('{"test": ["0"]}', "has no list 'train'"),
        ("[", "is not valid JSON"),
    ],
)
def test_bad_split_files_are_named(tmp_path, text, words):
    write_coco(tmp_path, "annotations.json", 5)
    (tmp_path / "split.json").write_text(text)
    with pytest.raises(UserError) as error:
        open_named("coco", tmp_path, split_file=str(tmp_path / "split.json"))
    assert words in str(error.value) and "split.json" in str(error.value)


def test_one_image_cannot_be_split(tmp_path):
    write_coco(tmp_path, "annotations.json", 2)  # two copies of one picture
    with pytest.raises(UserError, match="has no test set, and one image cannot be split"):
        open_named("coco", tmp_path)


# ---- validation


class Plain:
    """Images without files."""

    class_names = ("thing",)
    has_masks = False
    counts: dict[str, int] = {}  # noqa: RUF012

    def __init__(self, count: int) -> None:
        self.image_ids = list(range(count))
        self.image_names = [f"n{number}" for number in range(count)]

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Instances]:
        return torch.zeros(3, 4, 4, dtype=torch.uint8), Instances.empty((4, 4))


def test_held_out_images_leave_training_in_its_order_and_follow_their_names():
    train, held = hold_out(Plain(100), 0.15, 7)
    assert len(held) == 15 and train.image_ids == sorted(train.image_ids)
    assert sorted(train.image_ids + held.image_ids) == list(range(100))
    some = Subset(Plain(100), range(0, 100, 2))
    held_of_some = hold_out(some, 0.3, 7)[1]
    assert len(held_of_some) == 15 and len(set(held_of_some.image_names) & set(held.image_names)) >= 5, "by name"
    assert hold_out(Plain(100), 0, 7)[1] is None and hold_out(Plain(1), 0.5, 7)[1] is None
    only = hold_out(Plain(100), 0.15, 7, [number < 20 for number in range(100)])[1]
    assert len(only) == 3 and max(only.image_ids) < 20


def test_copies_are_one_image_in_joined_data_too(tmp_path):
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        write_coco(tmp_path / place, "annotations.json", 7)
    shutil.copyfile(tmp_path / "a/0.png", tmp_path / "b/3.png")
    both = JoinedDataset([Coco(tmp_path / "a", "train"), Coco(tmp_path / "b", "train")], ["a", "b"])
    groups = group_identical_images(both)
    pairs = {(i, j) for i in range(14) for j in range(i) if groups[i] == groups[j]}
    same = {(i, j) for i in range(14) for j in range(i) if torch.equal(both[i][0], both[j][0])}
    assert pairs == same and (10, 0) in pairs
    for seed in range(10):
        train, held = hold_out(both, 0.3, seed)
        assert not any(torch.equal(a[0], b[0]) for a in train for b in held)


def test_copies_of_test_images_are_found_among_training_images(tmp_path):
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        write_coco(tmp_path / place, "annotations.json", 7)
    train, test = Coco(tmp_path / "a", "train"), Subset(Coco(tmp_path / "b", "train"), [1, 6])
    shutil.copyfile(tmp_path / "a/2.png", tmp_path / "b/1.png")
    assert find_originals(train, [test]) == [0, 1, 3, 4], "2 is 1 of the other; 5 and 6 are copies of its 6"
    with pytest.raises(UserError, match="all training images are copies"):
        find_originals(Subset(train, [2, 5]), [test])


CLASS = """
import torch
from maskrcnn.structures.instances import Instances


class MyData:
    class_names = ("thing",)
    has_masks = False

    def __init__(self, root, split):
        self.image_names = [f"image-{number}" for number in range(8)]
        self.shade = {"train": 1, "val": 2, "test": 3}[split] if root == "three" else 1

    def __len__(self):
        return len(self.image_names)

    def __getitem__(self, index):
        boxes = torch.tensor([[1.0, 1.0, 5.0, 5.0]])
        image = torch.full((3, 8, 8), self.shade + index, dtype=torch.uint8)
        return image, Instances((8, 8), boxes, torch.ones(1).long())


class OnlyTrain(MyData):
    splits = ("train",)


class Three(MyData):
    splits = ("train", "val", "test")


class Wrong(MyData):
    splits = ("train", "dev")
"""


def test_a_class_says_which_splits_it_has_and_one_that_ignores_them_is_split(tmp_path, monkeypatch):
    (tmp_path / "some_sets.py").write_text(CLASS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    splits = open_named("some_sets:Three", "three")
    assert [int(each[0][0][0, 0, 0]) for each in (splits.train, splits.val, splits.test)] == [1, 2, 3]
    for name, lines in (("OnlyTrain", 1), ("MyData", 2)):
        splits = open_named(f"some_sets:{name}", ".")
        assert (len(splits.train), splits.val, len(splits.test), len(splits.notes)) == (6, None, 2, lines)
        assert not set(splits.train.image_names) & set(splits.test.image_names)
    assert "MyData gives the same images for 'train' and 'test'" in splits.notes[0]
    assert open_named("some_sets:MyData", "three").notes == [], "the same names, but other images"
    with pytest.raises(UserError, match="splits names 'dev'; use some of train, val, test"):
        open_named("some_sets:Wrong", ".")
