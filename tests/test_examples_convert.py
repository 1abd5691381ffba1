"""The program that converts: round trips through the real readers, other tools' reading, and what it says."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from programs_toy import fail, make_nuclei, snapshot, succeed
from pycocotools.coco import COCO

from datasets.config import DataConfig
from datasets.readers.coco import Coco
from datasets.readers.cst import Cst
from datasets.readers.dsbowl2018 import DSBowl2018
from datasets.readers.generated import Generated
from datasets.readers.label_images import LabelImages
from datasets.readers.voc import Voc
from datasets.registry import parse_names
from datasets.splits import open_splits
from datasets.synthetic.config import SceneConfig, update_config
from datasets.synthetic.recipes import Recipe
from datasets.synthetic.writer import create
from examples.check_data import main as check_data
from examples.convert import main
from workbench.config import load_config
from workbench.data import open_data


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scene = update_config(
        SceneConfig(),
        shapes=("circle", "square", "triangle"),
        width=80,
        height=64,
        n_groups=0,
        n_free=12,
        min_visible_pixels=90,
    )
    return create(tmp_path_factory.mktemp("data") / "shapes", Recipe(n_train=3, n_val=2, n_test=2, scene=scene))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pycoco(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def same(first, second, classes=True):
    """Whether two data sets hold the same images and objects, in the same order."""
    assert len(first) == len(second) > 0
    for i in range(len(first)):
        (image, truth), (other, found) = first[i], second[i]
        assert torch.equal(image, other) and torch.equal(truth.boxes, found.boxes)
        if truth.masks is not None and found.masks is not None:
            assert torch.equal(truth.masks.to_dense(), found.masks.to_dense())
        if classes:
            names = [[data.class_names[k - 1] for k in each.labels] for data, each in ((first, truth), (second, found))]
            assert names[0] == names[1]


def check_areas(root: Path, part: str, data):
    """pycocotools reads the same masks, areas, boxes and crowds as our reader gives."""
    coco = pycoco(root / "annotations" / f"instances_{part}.json")
    assert sorted(coco.getImgIds()) == sorted(data.image_ids)
    for i, image_id in enumerate(data.image_ids):
        entries, truth = coco.loadAnns(coco.getAnnIds(imgIds=[image_id])), data[i][1]
        assert [each["area"] for each in entries] == truth.masks.areas().tolist()
        assert [each["iscrowd"] for each in entries] == truth.ignore.int().tolist()
        assert [coco.annToMask(each).sum() for each in entries] == truth.masks.areas().tolist()
        boxes = [[x, y, x + w, y + h] for x, y, w, h in (each["bbox"] for each in entries)]
        assert boxes == truth.boxes.tolist()


def test_ellipses_to_coco_to_labels_to_dsb_to_coco(here, tiny_ellipses):
    succeed(main, str(tiny_ellipses), "--to=coco", "--output=a")
    lines = succeed(main, "a", "--to=labels", "--output=b")
    assert "Not stored by labels: the class of 109 objects: all are 'object'" in lines
    succeed(main, "b", "--to=dsb", "--output=c")
    succeed(main, "c", "--to=coco", "--output=d")
    for part in ("train", "test"):
        ellipses = Generated(tiny_ellipses, part)
        first, last = Coco("a", part), Coco("d", part)
        same(ellipses, first)
        assert first.image_ids == ellipses.image_ids and first.image_names == ellipses.image_names
        for data in (LabelImages("b", part), DSBowl2018("c", part), last):
            same(ellipses, data, classes=False)
        check_areas(Path("a"), part, first)
        check_areas(Path("d"), part, last)


def test_shapes_of_several_classes_to_coco_to_voc_to_coco(here, shapes):
    succeed(main, str(shapes), "--to=coco", "--output=a")
    assert "Next: python example_smallobject_train.py --dataset=voc:2012-masks --dataset_root=b" in succeed(
        main, "a", "--to=voc", "--output=b"
    )
    lines = succeed(main, "b", "--to=coco", "--output=c")
    assert lines[0] == "b: voc with 3 training, 2 validation and 2 test images"
    for part in ("train", "val", "test"):
        source = Generated(shapes, part)
        first, last = (Coco(root, "train", annotations=f"annotations/instances_{part}.json") for root in "ac")
        voc = Voc("b", "train", masks=True, image_set=part)
        for data in (first, voc, last):
            same(source, data)
            flags = [[each[1].ignore.tolist() for each in (d[i] for i in range(len(d)))] for d in (source, data)]
            assert flags[0] == flags[1] and any(map(any, flags[0]))
        check_areas(Path("c"), part, last)


def test_shapes_to_cst_to_coco_to_cst(here, shapes):
    lines = succeed(main, str(shapes), "--to=cst", "--output=a")
    assert "Not stored by cst: the exact pixels of 7 images: JPEG, quality 95" in lines
    succeed(main, "a", "--to=coco", "--output=b")
    for part in ("train", "val", "test"):
        source, cst = Generated(shapes, part), Cst("a", part)
        coco = Coco("b", "train", annotations=f"annotations/instances_{part}.json")
        same(cst, coco)
        for i in range(len(source)):
            truth, found = source[i][1], coco[i][1]
            assert torch.equal(truth.masks.to_dense(), found.masks.to_dense())
            assert (source[i][0].int() - cst[i][0].int()).abs().float().mean() < 4
        check_areas(Path("b"), part, coco)


def test_boxes_only_coco_to_voc_and_back(here):
    (here / "src" / "images" / "train").mkdir(parents=True)
    Image.new("L", (50, 40), 90).save(here / "src/images/train/a.png")
    boxes = [[1, 2, 10, 11], [3.25, 4, 5, 5]]
    annotations = [
        {"id": k + 1, "image_id": 3, "category_id": 7, "bbox": box, "iscrowd": k} for k, box in enumerate(boxes)
    ]
    data = {"images": [{"id": 3, "file_name": "a.png"}], "categories": [{"id": 7, "name": "x"}]}
    (here / "src" / "annotations").mkdir()
    (here / "src/annotations/instances_train.json").write_text(json.dumps(data | {"annotations": annotations}))
    lines = succeed(main, "src", "--to=voc", "--output=voc")
    assert "Not stored by voc: the exact boxes of 1 object, which are rounded to whole pixels" in lines
    assert lines[-1] == "The output has one image: training needs at least one training and one test image"
    succeed(main, "voc", "--to=coco", "--output=back")
    found = Coco("back", "train")[0][1]
    assert found.boxes.tolist() == [[1, 2, 11, 13], [3, 4, 8, 9]] and found.ignore.tolist() == [False, True]
    coco = pycoco(Path("back/annotations/instances_train.json"))
    assert [each["area"] for each in coco.loadAnns(coco.getAnnIds())] == [110, 25]
    assert "this data has only boxes" in fail(main, "src", "--to=labels", "--output=no")


def test_overlaps_are_lost_in_labels_alone_and_said(here):
    make_nuclei(here / "nuclei")
    assert not any("overlapped" in line for line in succeed(main, "nuclei", "--to=coco", "--output=coco"))
    lines = succeed(main, "nuclei", "--to=labels", "--output=labels")
    assert "Not stored by labels: the overlapped pixels of 4 objects: a pixel has one label" in lines
    assert "training images: 4 empty masks dropped" in lines
    source, labels = (
        kind(folder, "train", test_fraction=0) for kind, folder in ((DSBowl2018, "nuclei"), (LabelImages, "labels"))
    )
    same(source, Coco("coco", "train"))
    assert len(source) == len(labels) == 4
    for i in range(len(source)):
        union, found = (data[i][1].masks.to_dense().any(dim=0) for data in (source, labels))
        assert torch.equal(union, found)


@pytest.mark.parametrize("to", ["coco", "voc", "dsb", "yolo", "labelme", "geojson", "labels"])
def test_ids_are_lost_only_if_the_files_have_some(here, to):
    make_nuclei(here / "nuclei")
    succeed(main, "nuclei", f"--to={to}", f"--output={to}")
    for source in ("nuclei", to):
        lines = succeed(main, source, "--to=coco", f"--output={source}-coco")
        assert not any("which are renumbered" in line for line in lines)
        lines = succeed(main, source, "--to=labels", f"--output={source}-labels")
        assert any("Not stored by labels: the ids" in line for line in lines) == (source == "coco")
    lines = succeed(main, "nuclei-coco", "--to=yolo", "--output=again")
    assert "Not stored by yolo: the ids of 4 images, which are identified by name" in lines
    assert (
        "Not stored by yolo: the ids of 9 objects, which are renumbered" in lines
    )  # those of the first image are kept


@pytest.mark.parametrize("to", ["coco", "voc", "dsb", "labels", "yolo"])
def test_images_without_a_split_stay_one_part_in_every_format(here, to):
    """What is written is the same whether the reader draws a test set, as of label images, or the program does."""
    make_nuclei(here / "nuclei")
    succeed(main, "nuclei", "--to=labels", "--output=labels")
    for source in ("nuclei", "labels"):
        lines = succeed(main, source, f"--to={to}", f"--output={source}-again")
        assert lines[0].endswith("with 4 training images")
        assert any(line.startswith(f"{source}-again: 4 training images with 12 objects") for line in lines)
    (here / "nuclei/split.json").write_text('{"train": ["nucleus-1", "nucleus-2", "nucleus-3"], "test": ["nucleus-0"]}')
    assert succeed(main, "nuclei", "--to=coco", "--output=a")[0].endswith("with 3 training and 1 test images")


def test_training_data_without_another_sets_images(here, tiny_ellipses):
    """How COCO's training images minus REFER's validation and test images are taken."""
    succeed(main, str(tiny_ellipses), "--to=coco", "--output=a")
    (here / "refer.txt").write_text("1\n000004.jpg\n77\n")
    lines = succeed(main, "a", "--to=coco", "--output=b", "--exclude_ids=refer.txt", "--parts=train")
    assert "refer.txt: leaves out 2 training images (1 line in it without an image)" in lines
    assert Coco("b", "train").image_ids == [0, 2, 3, 5]
    succeed(
        main,
        "a",
        "--to=coco",
        "--output=c",
        "--subset=not (id in ids('refer.txt') or name in ids('refer.txt')) and index % 2 == 0",
    )
    assert Coco("c", "train").image_ids == [0, 2]


def test_bad_images_are_listed(here, tiny_ellipses):
    shutil.copytree(tiny_ellipses, "data")
    for name in ("000001", "000003"):
        (here / "data/train/images" / f"{name}.png").write_bytes(b"no image")
    before = snapshot(here)
    assert "2 images cannot be read" in fail(main, "data", "--to=coco", "--output=out")
    assert snapshot(here) == before
    lines = succeed(main, "data", "--to=coco", "--output=out", "--skip_bad")
    bad = [line.replace("\\", "/") for line in lines if line.startswith("Bad: ")]
    assert len(bad) == 2 and all("000001" in bad[0] or "000003" in each for each in bad)
    assert "Left out, because unreadable: 2 images" in lines and len(Coco("out", "train")) == 4


def test_layouts_are_recognised_and_others_named(here, tiny_ellipses):
    assert succeed(main, str(tiny_ellipses), "--to=coco", "--output=coco")[0].endswith(
        ": ellipses with 6 training, 2 validation and 3 test images"
    )
    for to, name in (("voc", "voc"), ("dsb", "dsbowl2018"), ("labels", "labels")):
        succeed(main, "coco", f"--to={to}", f"--output={to}")
        assert succeed(main, to, "--to=coco", f"--output=from-{to}")[0].startswith(f"{to}: {name} with 6 training")
    shutil.copytree("coco/annotations", "labels/annotations")
    assert (
        "could be coco (annotations/instances_train.json) or labels (train/masks); choose one, such as --dataset=coco"
        in fail(main, "labels", "--to=voc", "--output=x")
    )
    succeed(main, "labels", "--to=voc", "--output=x", "--dataset=labels")


def test_vocs_few_masks_are_passed_over_with_a_word(here, tiny_ellipses, caplog):
    succeed(main, str(tiny_ellipses), "--to=voc", "--output=data/VOCdevkit/VOC2012")
    lists = here / "data/VOCdevkit/VOC2012/ImageSets/Segmentation"
    (lists / "train.txt").write_text("".join((lists / "train.txt").read_text().splitlines(True)[:2]))
    succeed(main, "data", "--to=coco", "--output=boxes")
    assert "--dataset=voc:2012-masks takes these images alone" in caplog.text
    assert not Coco("boxes", "train").has_masks and len(Coco("boxes", "train")) == 6
    succeed(main, "data", "--dataset=voc:2012-masks", "--to=coco", "--output=masks")
    assert Coco("masks", "train").has_masks and len(Coco("masks", "train")) == 2


def test_a_users_own_class_is_a_source(here, monkeypatch):
    (here / "folder").mkdir()
    (here / "my_convertible.py").write_text(
        "import torch\n"
        "from maskrcnn.structures.instances import Instances\n"
        "class Mine:\n"
        "    class_names, has_masks = ('a',), False\n"
        "    def __init__(self, root, split): self.image_ids, self.image_names = [4], [split + '/x']\n"
        "    def __len__(self): return 1\n"
        "    def __getitem__(self, index):\n"
        "        boxes = torch.tensor([[1.0, 2.0, 5.0, 6.0]])\n"
        "        return torch.zeros(3, 20, 30, dtype=torch.uint8), Instances((20, 30), boxes, torch.tensor([1]))\n"
    )
    lines = succeed(main, "folder", "--dataset=my_convertible:Mine", "--to=coco", "--output=out")
    assert any(
        line.startswith("Not stored by coco: the names of 2 images, which are changed, such as train/x to train_x")
        for line in lines
    )
    assert lines[-1].endswith("--dataset=coco --dataset_root=out --head=faster_rcnn")
    data = Coco("out", "test")
    assert data.image_names == ["test_x"] and data.image_ids == [4]


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        ((), "--to=FORMAT is missing"),
        (("--to=coco",), "--output=FOLDER is missing"),
        (
            ("--to=yolov9", "--output=o"),
            "must be one of coco, voc, dsb, labels, cst, yolo, roboflow, labelme, geojson, label_studio",
        ),
        (("--to=coco", "--output=src"), "is or contains the source"),
        (("--to=coco", "--output=."), "is or contains the source"),
        (("--to=cst", "--output=o"), "supports only the classes circle, square, triangle, not 'ellipse'"),
        (("--to=coco", "--output=o", "--parts=val"), "has no part 'val'; use train, test"),
        (("--to=coco", "--output=o", "--dataset=voc"), "has no VOC2012"),
        (("--to=coco", "--output=o", "--dataset=coko"), "did you mean 'coco'?"),
        (("--to=coco", "--output=o", "--dataset=coco+voc"), "only one data set can be read"),
        (("--to=coco", "--output=o", "--exclude_ids=none.txt"), "none.txt: cannot be read"),
        (("--to=coco", "--output=o", "--subset=index +"), "--subset"),
        (("--to=coco", "--output=o", "--subset=index > 99"), "no image is left"),
        (("--to=coco", "--output=taken"), "taken: already exists; --overwrite replaces it"),
        (("--to=coco", "--output=taken", "--overwrite"), "taken: is not replaced, because it has no conversion.json"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(here, tiny_ellipses, flags, error):
    shutil.copytree(tiny_ellipses, "src", ignore=shutil.ignore_patterns("val"))
    (here / "taken").mkdir()
    (here / "taken/thing").write_text("")
    before = snapshot(here)
    assert error in fail(main, "src", *flags).replace(os.sep, "/")
    assert snapshot(here) == before


def test_the_same_call_gives_the_same_files(here, tiny_ellipses):
    for to in ("coco", "voc", "dsb", "labels"):
        first, second = (f"{to}-{k}" for k in (1, 2))
        for output in (first, second):
            succeed(main, str(tiny_ellipses), f"--to={to}", f"--output={output}")
        assert snapshot(Path(first)) == snapshot(Path(second))
        succeed(main, str(tiny_ellipses), f"--to={to}", f"--output={first}", "--overwrite")
        assert snapshot(Path(first)) == snapshot(Path(second))


def test_programs_call_a_part_what_training_uses_it_for(here, shapes):
    succeed(main, str(shapes), "--to=coco", "--output=three")
    succeed(main, str(shapes), "--to=coco", "--output=two", "--parts=train,val")
    three, two = "3 training, 2 validation and 2 test images", "3 training and 2 test images"
    for folder, counts in (("three", three), ("two", two)):
        data = open_data(load_config(flags={"dataset_root": folder, "val_fraction": "0"}), lambda line: None)
        assert data.counted() == counts
        for to in ("coco", "cst", "dsb", "voc"):
            lines = succeed(main, folder, f"--to={to}", f"--output={folder}-{to}")
            assert lines[0].endswith(counts) and f"{folder}-{to}: {counts} with " in "".join(lines)
        read = open_splits(parse_names("cst")[0], Path(f"{folder}-cst"), DataConfig())
        assert len(read.test) == 2 and (read.val is None) == (folder == "two")
    annotations = here / "two/annotations/instances_val.json"
    annotations.write_text(annotations.read_text().replace('"iscrowd":0', '"iscrowd":1'))
    said = [line for line in succeed(check_data, "two") if " images: " in line]
    assert any("test images: " in line for line in said) and not any("validation" in line for line in said), said
