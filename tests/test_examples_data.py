"""Programs on data of several formats: joined, chosen from, with bad images, without masks, and of a user's own."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from programs_toy import call, fail, make_ellipses, make_nuclei, succeed

from datasets.joined import JoinedDataset
from examples.browse import main as browse
from examples.check_data import main as check_data
from examples.compare_heads import main as compare_heads
from examples.convert import main as convert
from examples.describe_data import main as describe
from examples.train import main as train
from maskrcnn.training.runlog import read_metrics
from workbench.config import load_config
from workbench.data import open_data
from workbench.output import make_picture_names

DATA_PAGE = Path(__file__).parents[1] / "docs/data.md"
BOXES = [(6, 8, 18, 19), (30, 5, 39, 17), (22, 40, 34, 50)]
SHORT = ("--num_epochs=1", "--eval_every_n_epochs=1")


def picture(path: Path, shade: int, tone: int = 20) -> None:
    """A dark image of 64 x 64 with bright rectangles, of which `shade` moves one."""
    pixels = np.full((64, 64, 3), tone + shade, np.uint8)
    for x1, y1, x2, y2 in BOXES:
        pixels[y1 : y2 + shade, x1 : x2 + shade] = 200
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def make_visdrone(root: Path) -> Path:
    for part, count in (("train", 4), ("val", 2)):
        folder = root / f"VisDrone2019-DET-{part}"
        for number in range(count):
            picture(folder / "images" / f"{number}.jpg", number, 30 if part == "train" else 40)
            rows = [f"{x1},{y1},{x2 - x1 + number},{y2 - y1 + number},1,4,0,0" for x1, y1, x2, y2 in BOXES]
            (folder / "annotations").mkdir(exist_ok=True)
            (folder / "annotations" / f"{number}.txt").write_text("\n".join([*rows, "60,60,9,9,1,4,0,0"]))
    return root


def make_coco(root: Path) -> Path:
    """Cats and dogs for training; the test file has the dogs first, and a cow."""
    for part, count, names in (("train", 3, ["cat", "dog"]), ("val", 2, ["dog", "cat", "cow"])):
        for number in range(count):
            picture(root / part / f"{number}.png", number, 50 if part == "train" else 60)
        images = [{"id": n, "file_name": f"{n}.png", "width": 64, "height": 64} for n in range(count)]
        annotations = []
        for image in range(count):
            for x1, y1, x2, y2 in ((a, b, c + image, d + image) for a, b, c, d in BOXES):
                outline = [[x1, y1, x2, y1, x2, y2, x1, y2]]
                entry = {"id": len(annotations) + 1, "image_id": image, "category_id": 1 + names.index("cat")}
                annotations.append({**entry, "segmentation": outline, "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0})
        categories = [{"id": n, "name": name} for n, name in enumerate(names, start=1)]
        (root / "annotations").mkdir(exist_ok=True)
        text = json.dumps({"images": images, "annotations": annotations, "categories": categories})
        (root / "annotations" / f"instances_{part}.json").write_text(text)
    return root


def make_labels(root: Path) -> Path:
    for number in range(4):
        picture(root / f"rgb_{number}.png", number, 70)
        labels = np.zeros((64, 64), np.uint16)
        for place, (x1, y1, x2, y2) in enumerate(BOXES, start=1):
            labels[y1 : y2 + number, x1 : x2 + number] = place
        Image.fromarray(labels).save(root / f"labels_{number}.png")
    return root


def say_paths(place: Path, **roots: Path | str) -> None:
    with (place / "smallobjects.toml").open("a") as file:
        file.write("[paths]\n" + "".join(f"{key} = {Path(root).as_posix()!r}\n" for key, root in roots.items()))


@pytest.fixture
def own_modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forgets what is imported from a working directory."""
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    before = set(sys.modules)
    yield
    sys.modules.pop("my_module", None)
    assert {name for name in set(sys.modules) - before if name.startswith("my_")} == set()


# ---- boxes only


def test_data_of_boxes_trains_the_heads_without_masks(workplace: Path) -> None:
    say_paths(workplace, visdrone_root=make_visdrone(workplace / "drone"))
    lines = succeed(train, "--dataset=visdrone", "--head=rpn", "--num_threads=2", *SHORT)  # counted by the loaders
    assert "inverted or empty boxes dropped" not in "\n".join(lines)
    clipped = "all images: 6 boxes clipped to the image (4 training and validation, 2 test)"
    assert lines.count(clipped) == 1  # not repeated at the end, when nothing has been added
    started = next(number for number, line in enumerate(lines) if line.startswith("rpn ("))
    assert clipped in lines[:started]
    run = workplace / "runs/visdrone-rpn-1"
    stored = json.loads((run / "data.json").read_text())
    assert stored["images_read"] == stored["images"] and sum(stored["images"].values()) == 6
    assert stored["notices"]["training and validation"] == {"boxes clipped to the image": 4}
    assert (run / "train.log").read_text().count(clipped) == 2
    succeed(train, "--dataset=visdrone:val", "--head=faster_rcnn", *SHORT)
    runs = workplace / "runs"
    assert {path.name for path in runs.iterdir()} == {"visdrone-rpn-1", "visdrone-val-faster_rcnn-1"}
    for name, metric in (("visdrone-rpn-1", "ar_100"), ("visdrone-val-faster_rcnn-1", "count_error")):
        (found,) = (line for line in read_metrics(runs / name / "metrics.jsonl") if line.get("split") == "test")
        assert 0 <= found["box_ap"] <= 1 and metric in found and not any(key.startswith("mask") for key in found)
        assert (runs / name / "plots/test/1.png").is_file() and (runs / name / "plots/sizes.png").is_file()


def test_every_program_shows_the_same_notices(workplace: Path) -> None:
    root = make_visdrone(workplace / "drone")
    say_paths(workplace, visdrone_root=root)
    flags = ("--dataset=visdrone", "--val_fraction=0")
    wanted = ["all images: 6 boxes clipped to the image (4 training, 2 test)"]
    for lines in (
        succeed(train, *flags, "--head=rpn", "--dry_run"),
        succeed(describe, *flags),
        succeed(convert, str(root), "--dataset=visdrone", "--to=coco", "--output=coco"),
        succeed(check_data, str(root), "--dataset=visdrone"),
    ):
        assert [line for line in lines if "clipped" in line] == wanted


def test_data_without_any_object_is_refused_or_said(workplace: Path) -> None:
    root = make_visdrone(workplace / "drone")
    say_paths(workplace, visdrone_root=root)
    flags = ("--dataset=visdrone", "--head=rpn")
    for path in root.glob("VisDrone2019-DET-val/annotations/*.txt"):
        path.write_text("")
    lines = succeed(train, *flags, *SHORT)
    assert "none of the 2 test images has an object that is not ignored: AP and recall cannot be measured" in lines
    for path in root.glob("VisDrone2019-DET-train/annotations/*.txt"):
        path.write_text("6,8,12,11,0,4,0,0")  # score 0: to ignore
    shutil.rmtree(workplace / "runs")
    for program, options in ((train, flags), (train, (*flags, "--dry_run")), (compare_heads, flags[:1])):
        error = fail(program, *options)
        assert "none of the 3 training images has an object that is not ignored" in error
    assert not (workplace / "runs").exists()


def test_a_dry_run_reads_images_of_both_splits(workplace: Path) -> None:
    assert any(line.startswith("test image   000000: [3, 64, 64], ") for line in succeed(train, "--dry_run"))
    for split, number in (("test", "000000"), ("train", "000000")):
        path = workplace / f"data/ellipses/{split}/images/{number}.png"
        whole = path.read_bytes()
        path.write_bytes(b"")
        assert f"{split}/images/{number}.png: not a readable" in fail(train, "--dry_run").replace("\\", "/")
        path.write_bytes(whole)


def test_a_mask_head_is_refused_at_once(workplace: Path) -> None:
    root = make_visdrone(workplace / "drone")
    for path in root.rglob("*.jpg"):
        path.write_text("no image, and never read")
    say_paths(workplace, visdrone_root=root)
    words = "--head=mask_rcnn needs masks, and visdrone has boxes only; use --head=faster_rcnn or --head=rpn"
    for flags in ((), ("--skip_bad",), ("--dry_run",)):
        assert words in fail(train, "--head=mask_rcnn", "--dataset=visdrone", *flags)
    assert words in fail(train, "--head=mask_rcnn", "--dataset=ellipses+visdrone")
    assert not (workplace / "runs").exists()


def test_without_a_head_boxes_train_a_box_head_and_masks_a_mask_head(workplace: Path) -> None:
    root = make_visdrone(workplace / "drone")
    lines = succeed(train, "--dataset=visdrone", f"--dataset_root={root}", *SHORT)
    assert "the data has boxes only, so --head=faster_rcnn is trained (--head=mask_rcnn needs masks)" in lines
    succeed(train, *SHORT)
    assert sorted(path.name for path in (workplace / "runs").iterdir()) == [
        "ellipses-mask_rcnn-1",
        "visdrone-faster_rcnn-1",
    ]


def test_other_programs_take_boxes(workplace: Path) -> None:
    say_paths(workplace, visdrone_root=make_visdrone(workplace / "drone"))
    succeed(browse, "--dataset=visdrone", "--num_samples=2")
    succeed(describe, "--dataset=visdrone")
    lines = succeed(compare_heads, "--dataset=visdrone", *SHORT)
    assert "visdrone has boxes only: mask_rcnn is left out" in lines
    assert (workplace / "runs/visdrone-heads-1/heads.png").is_file()
    assert len(list((workplace / "runs/visdrone-heads-1").glob("visdrone-*"))) == 2


# ---- joined


def test_joined_sets_train_with_masks(workplace: Path) -> None:
    say_paths(workplace, coco_root=make_coco(workplace / "coco"), labels_root=make_labels(workplace / "labels"))
    lines = succeed(train, "--dataset=coco+labels", "--val_fraction=0", *SHORT)
    assert lines[0] == "classes of test images alone, which nothing is trained on: cow"
    assert any("on coco+labels: 6 training and 3 test images" in line for line in lines)
    data = open_data(load_config(flags={"dataset": "coco+labels", "val_fraction": "0"}))
    assert data.class_names == data.test.class_names == ("cat", "dog", "object", "cow") and data.has_masks
    assert data.train[0][1].labels.tolist() == data.test[0][1].labels.tolist() == [1, 1, 1], "dogs are first there"
    assert data.train[5][1].labels.tolist() == [3, 3, 3]
    run = workplace / "runs/coco+labels-mask_rcnn-1"
    assert len(list((run / "plots/epoch-0001").glob("*.png"))) == 3


def test_an_image_that_another_set_tests_on_is_not_trained_on(workplace: Path) -> None:
    root = make_coco(workplace / "coco")
    say_paths(workplace, coco_root=root, visdrone_root=make_visdrone(workplace / "drone"))
    for part, name in (("train", "0"), ("val", "1")):
        path = workplace / f"drone/VisDrone2019-DET-{part}/images/{name}.jpg"
        shutil.copyfile(path, root / "val" / f"{name}.png")
    said: list[str] = []
    data = open_data(load_config(flags={"dataset": "coco+visdrone", "val_fraction": "0.5"}), said.append)
    assert "1 training image with a copy among the validation or test images is left out" in said
    assert len(data.train) + len(data.validation) == 3 + 4 - 1 and len(data.test) == 2 + 2
    pixels = [data.test[index][0] for index in range(len(data.test))]
    for split in (data.train, data.validation):
        assert not any(torch.equal(split[index][0], each) for index in range(len(split)) for each in pixels)


def test_classes_of_the_test_images_follow_those_of_training(workplace: Path) -> None:
    say_paths(workplace, coco_root=make_coco(workplace / "coco"))
    data = open_data(load_config(flags={"dataset": "coco"}))
    assert data.test.class_names == ("cat", "dog", "cow") and isinstance(data.test.origin(0)[0], JoinedDataset)
    assert data.test[1][1].labels.tolist() == [1, 1, 1] and data.test.image_names == ["0", "1"]


def test_masks_go_where_one_set_has_none(workplace: Path) -> None:
    say_paths(workplace, visdrone_root=make_visdrone(workplace / "drone"))
    lines = succeed(train, "--dataset=ellipses+visdrone", "--head=faster_rcnn", *SHORT)
    assert lines[0] == "visdrone has boxes only: all masks are left out"
    assert any("9 training, 3 validation and 5 test images" in line for line in lines)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--dataset=ellipses+coco --dataset_root=data", "--dataset_root=data | several data sets | [paths]"),
        ("--dataset=labels+dsbowl2018 --split_file=a.json", "--split_file=a.json | several"),
        ("--dataset=ellipses+cst", "where is cst? Give cst_root in [paths] of smallobjects.toml"),
        ("--dataset=cst", "where is cst? Give --dataset_root=FOLDER, or cst_root"),
        ("--dataset=ellipses+elipses", "did you mean 'ellipses'?"),
        ("--dataset=voc --dataset_root=data", "data: has no VOC2012"),
        ("--dataset=synthetic:none.toml", "none.toml | cannot be read"),
        ("--dataset=synthetic:smallobjects.toml", "smallobjects.toml | unknown key"),
        ("--dataset=synthetic:a.toml --dataset_root=data", "needs no folder"),
        ("--dataset=my_absent:MyData", "my_absent:MyData | my_absent.py"),
        ("--subset=indx<3", "--subset | 'indx' at character 1 | did you mean 'index'?"),
        ("--test_subset=index>100", "--test_subset=index>100: holds for none of the 3 images"),
    ],
)
@pytest.mark.usefixtures("own_modules")
def test_what_cannot_be_opened(workplace: Path, flags: str, words: str) -> None:
    error = fail(train, *flags.split())
    assert all(word in error for word in words.split(" | ")), error
    assert not (workplace / "runs").exists()


def test_voc_says_which_variant_has_masks(workplace: Path) -> None:
    folder = workplace / "VOC2007"
    for name in ("a", "b"):
        picture(folder / "JPEGImages" / f"{name}.jpg", 0)
        (folder / "Annotations").mkdir(exist_ok=True)
        (folder / "Annotations" / f"{name}.xml").write_text("<annotation></annotation>")
    (folder / "ImageSets/Main").mkdir(parents=True)
    for name, split in (("a", "train"), ("b", "val")):
        (folder / "ImageSets/Main" / f"{split}.txt").write_text(name)
    error = fail(train, "--head=mask_rcnn", "--dataset=voc:2007", f"--dataset_root={workplace}")
    assert error.endswith("use --head=faster_rcnn or --head=rpn, or voc:2007-masks")


# ---- synthetic, and a user's own


def test_recipes_need_nothing_on_disk(workplace: Path) -> None:
    text = (make_ellipses(workplace / "made") / "dataset.toml").read_text()
    shutil.rmtree(workplace / "data")
    Path("dense.toml").write_text(text)
    lines = succeed(train, "--dataset=synthetic:dense.toml", "--head=rpn", *SHORT)
    assert any("6 training, 2 validation and 3 test images" in line for line in lines)
    assert (workplace / "runs/synthetic-dense-rpn-1/weights/best.pt").is_file()


@pytest.mark.usefixtures("own_modules")
def test_the_class_of_the_documentation_trains(workplace: Path) -> None:
    section = DATA_PAGE.read_text(encoding="utf-8").split("## Your own data")[1]
    code, settings = (re.search(rf"```{kind}\n(.*?)```", section, re.S)[1] for kind in ("python", "toml"))
    assert len([line for line in code[code.index("class ") :].splitlines() if line.strip()]) <= 20
    Path("my_module.py").write_text(code)
    with Path("smallobjects.toml").open("a") as file:
        file.write(settings)
    for split, count in (("train", 3), ("test", 2)):
        for number in range(count):
            path = workplace / "my_folder" / split / f"{number}.png"
            picture(path, 0)
            rows = [(*box, 1 + place % 2) for place, box in enumerate(BOXES)][: 3 * (number < 2)]
            path.with_suffix(".csv").write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    lines = succeed(train, "--head=faster_rcnn", "--trust", *SHORT)
    assert any("on my_module:MyData: 2 training, 1 validation and 2 test images" in line for line in lines)
    assert (workplace / "runs/MyData-faster_rcnn-1/plots/test/1.png").is_file()
    assert "my_module:MyData has boxes only" in fail(train, "--head=mask_rcnn")
    (workplace / "my_folder/test/1.csv").write_text("1,2,3\n")
    assert "my_module:MyData: image '1': RuntimeError" in fail(train, "--head=rpn")


# ---- subsets


def test_subsets_are_said_and_kept_for_the_run(workplace: Path) -> None:
    Path("test.txt").write_text("0\n2\n")
    flags = ("--subset=index % 2 == 0 and num_objects > 0", "--test_subset=id in ids('test.txt')", "--head=rpn")
    lines = succeed(train, *flags, *SHORT)
    assert lines[:3] == [
        "reading 6 training images",
        "training images: 3 of 6 chosen",
        "test images: 2 of 3 chosen",
    ]
    data = load_config(lines[-1].rpartition("--config=")[2], environ={}).data  # of the command that comes next
    assert data.subset is not None and "num_objects > 0" in data.subset and data.test_subset == "id in ids('test.txt')"
    pictures = workplace / "runs/ellipses-rpn-1/plots/test"
    assert sorted(path.name for path in pictures.iterdir()) == ["000000.png", "000002.png"]
    error = fail(train, "--resume", "--subset=index < 3")
    assert "cannot resume" in error and "data.subset" in error
    assert "data.dataset" in fail(train, "--resume", "--dataset=synthetic:data/ellipses/dataset.toml")
    succeed(train, "--resume", f"--dataset_root={workplace / 'data/ellipses'}")


# ---- bad images


def test_bad_images_are_left_out_and_said(workplace: Path) -> None:
    (workplace / "data/ellipses/train/images/000001.png").write_bytes(b"broken")
    (workplace / "data/ellipses/train/images/000003.png").write_bytes(b"broken, too")
    Image.new("L", (8, 9)).save(workplace / "data/ellipses/test/labels/000000.png")
    assert "000000.png: is 8 x 9" in fail(train, "--head=rpn")
    lines = succeed(train, "--head=rpn", "--skip_bad", *SHORT)
    said = [line for line in lines if "--skip_bad left out" in line or (line.startswith("    ") and ".png" in line)]
    assert len(said) == 4, "when the data is opened, not once more at the end"
    assert said[0] == "--skip_bad left out 2 training images:"
    assert said[1].startswith("    2 like 000001, 000003: ") and "not a readable image" in said[1]
    assert said[2] == "--skip_bad left out 1 test image:"
    assert said[3].startswith("    000000: ") and "is 8 x 9 but its image is 64 x 64" in said[3]
    assert any("4 training, 2 validation and 2 test images" in line for line in lines)
    assert load_config(lines[-1].rpartition("--config=")[2], environ={}).data.skip_bad
    log = (workplace / "runs/ellipses-rpn-1/train.log").read_text(encoding="utf-8")
    assert log.count("--skip_bad left out 2 training images:") == 2
    succeed(browse, "--skip_bad", "--num_samples=1")


def test_all_images_bad(workplace: Path) -> None:
    make_nuclei(workplace / "bowl")
    for path in (workplace / "bowl").rglob("images/*.png"):
        path.write_bytes(b"")
    flags = ("--dataset=dsbowl2018", f"--dataset_root={workplace / 'bowl'}", "--skip_bad")
    assert "--skip_bad leaves none of the 3 images, such as: " in fail(train, *flags)
    assert call(describe, *flags).exit_code == 2


def test_names_of_pictures_are_files_and_different() -> None:
    names = ["a", "A", "b/a", "b\\a", "c.v2", "c.v1", "a-2", "", "x:y"]
    assert make_picture_names(names) == ["a", "A-1", "b-a", "b-a-1", "c.v2", "c.v1", "a-2", "image", "x-y"]
