"""COCO files as tools export them: kinds of segmentations, flags, ids, file names; what is doubtful is counted."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from pycocotools import mask as coco_mask

from datasets.config import ReadingConfig
from datasets.readers.coco import Coco
from datasets.recognition import recognize
from datasets.writing.discovery import open_parts
from maskrcnn.config import UserError

SIZE = (40, 60)
RING = [10.0, 8.0, 20.0, 8.0, 20.0, 16.0, 10.0, 16.0]
BOX = [10, 8, 10, 8]
INSIDE = np.zeros(SIZE, np.uint8, order="F")
INSIDE[8:16, 10:20] = 1
OBJECTS = "objects with"


def entry(number: int = 1, **more: Any) -> dict[str, Any]:
    base = {"id": number, "image_id": 1, "category_id": 1, "segmentation": [RING], "bbox": BOX, "iscrowd": 0}
    return {key: value for key, value in (base | more).items() if value != "missing"}


def write(root: Path, annotations: list[dict[str, Any]], name: str = "a.png", disk: str = "a.png", **more: Any) -> Path:
    image = root / disk
    image.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE[::-1], (9, 9, 9)).save(image)
    content = {
        "images": [{"id": 1, "file_name": name, "width": SIZE[1], "height": SIZE[0]}],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": annotations,
    }
    (root / "annotations.json").write_text(json.dumps(content | more))
    return root


def counted(data: Coco, words: str) -> int:
    return sum(count for rule, count in data.counts.items() if words in rule)


def run_lengths(mask: np.ndarray) -> list[int]:
    flat = np.concatenate([[0], mask.T.ravel().astype(np.int8), [2]])
    return np.diff([0, *np.flatnonzero(np.diff(flat))]).tolist()


# ---- segmentations

CODE = {"size": list(SIZE), "counts": coco_mask.encode(INSIDE)["counts"].decode()}
KINDS = {
    "rings": [RING],
    "a flat list": RING,
    "nested points": [[[x, y] for x, y in zip(RING[::2], RING[1::2], strict=True)]],
    "points without a ring": [[x, y] for x, y in zip(RING[::2], RING[1::2], strict=True)],
    "numbers in quotes": [[str(value) for value in RING]],
    "two corners": [[10, 8, 20, 16]],
    "two corners, the lower first": [[20, 16, 10, 8]],
    "two corners in quotes": [["10", "8", "20", "16"]],
    "an empty ring beside": [RING, []],
    "a point beside": [RING, [3, 4]],
    "two points beside": [[3, 4, 5, 6], RING],
    "a code": CODE,
    "counts without compression": {"size": list(SIZE), "counts": run_lengths(INSIDE)},
    "counts that were floats": {"size": list(SIZE), "counts": [float(each) for each in run_lengths(INSIDE)]},
    "a code in a list": [CODE],
    "codes in a list": [{"size": list(SIZE), "counts": run_lengths(INSIDE)}, CODE],
}


@pytest.mark.parametrize("kind", KINDS)
def test_one_mask_in_every_kind_of_segmentation(tmp_path, kind):
    found = Coco(write(tmp_path, [entry(segmentation=KINDS[kind])]), "train")[0][1]
    assert torch.equal(found.masks.to_dense()[0], torch.from_numpy(INSIDE.astype(bool)))
    assert found.boxes.tolist() == [[10, 8, 20, 16]] and not found.ignore.any()


@pytest.mark.parametrize(
    ("segmentation", "dropped"),
    [([[3, 4, 5, 6]], 1), ([[3, 4]], 1), ([[3, 4], [5, 6, 7, 8]], 2), ([[10, 8, 20, 8]], 1), ([3, 4], 1)],
)
def test_degenerate_outlines_are_dropped_and_the_object_keeps_its_box(tmp_path, segmentation, dropped):
    """Neither of the two points that are no corners of the box, nor a line, is an outline."""
    data = Coco(write(tmp_path, [entry(), entry(2, segmentation=segmentation)]), "train")
    found = data[0][1]
    assert found.ids.tolist() == [1, 2] and found.has_mask().tolist() == [True, False]
    assert found.boxes.tolist() == [[10, 8, 20, 16]] * 2
    assert counted(data, "fewer than three points") == dropped and counted(data, "used for boxes only") == 1


BROKEN = {
    "not a number": {"segmentation": [[float("nan"), *RING[1:]]]},
    "nothing for a number": {"segmentation": [[None, *RING[1:]]]},
    "an odd count": {"segmentation": [[*RING, 3.0]]},
    "a code of another size": {"segmentation": {"size": [60, 40], "counts": [2400]}},
    "a code that is too short": {"segmentation": {"size": list(SIZE), "counts": run_lengths(INSIDE)[:-1]}},
    "no such category": {"category_id": 99},
    "no such image": {"image_id": 77},
    "no box and no outline": {"bbox": None, "segmentation": []},
    "three numbers": {"bbox": [1, 2, 3]},
    "another flag": {"iscrowd": 3},
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_annotation_is_an_error_or_skipped_alone(tmp_path, kind):
    root = write(
        tmp_path, [entry(), entry(2, **({"bbox": [9, 8, 10, 8]} | BROKEN[kind])), entry(3, bbox=[11, 8, 10, 8])]
    )
    with pytest.raises(UserError, match=re.escape("annotations.json")) as error:
        Coco(root, "train")[0]
    assert "\n" not in str(error.value) and "annotation 2" in str(error.value)
    data = Coco(root, "train", skip_bad=True)
    assert data[0][1].ids.tolist() == [1, 3] and data[0][1].has_mask().all()
    assert data.counts == {"invalid annotations skipped": 1}


# ---- numbers, boxes and names


def test_numbers_in_quotes(tmp_path):
    """Ids, sizes and boxes."""
    content = [entry(image_id="1", category_id="1", id="7", bbox=["10", "8.0", "10", "8"], iscrowd="0")]
    images = [{"id": "1", "file_name": "a.png", "width": "60", "height": "40"}]
    data = Coco(write(tmp_path, content, images=images, categories=[{"id": "1", "name": 5}]), "train")
    assert data.image_ids == [1] and data.class_names == ("5",) and data.category_ids == (1,)
    assert data[0][1].ids.tolist() == [7] and data[0][1].boxes.tolist() == [[10, 8, 20, 16]] and not data.counts


@pytest.mark.parametrize(
    ("ids", "count"),
    [([0, 0, 0], 2), (["missing"] * 3, 3), ([5, "missing", 5], 2), (["3f-a", 4, 9], 1), ([4, None, 0], 1)],
)
def test_ids_of_annotations_that_repeat_or_are_missing_are_numbered_anew(tmp_path, ids, count):
    entries = [entry(number, bbox=[k, 8, 10, 8]) for k, number in enumerate(ids)]
    data = Coco(write(tmp_path, entries), "train")
    assert data[0][1].ids.tolist() == [1, 2, 3]
    assert counted(data, "of 3 annotation ids are missing or duplicated") == count


def test_doubtful_lists_are_counted(tmp_path):
    two = [{"id": k, "file_name": "a.png", "width": SIZE[1], "height": SIZE[0]} for k in (1, 2)]
    data = Coco(write(tmp_path, [entry(), entry(2), entry(3, image_id=2)], images=two), "train")
    assert counted(data, "of 2 images have the file of an image listed before") == 1
    assert counted(data, "of 3 objects repeat another one") == 1
    fractions = [entry(k, bbox=[0.1 * k, 0.2, 0.05, 0.1], segmentation=[]) for k in range(1, 4)]
    data = Coco(write(tmp_path / "b", fractions), "train")
    assert counted(data, "of 3 boxes are between 0 and 1") == 3
    assert not counted(Coco(write(tmp_path / "c", [entry()]), "train"), "of ")


def test_a_box_that_has_little_to_do_with_its_mask_is_counted(tmp_path):
    entries = [entry(), entry(2, bbox=[0, 0, 60, 40]), entry(3, bbox=[9, 8, 12, 9]), entry(4, bbox=[10.5, 8, 9, 8])]
    data = Coco(write(tmp_path, entries), "train")
    assert len(data[0][1]) == 4 and counted(data, "do not fit their mask") == 1


def test_labelmes_background_is_no_class(tmp_path):
    categories = [{"id": 0, "name": "_background_"}, {"id": 1, "name": "cell"}]
    data = Coco(write(tmp_path, [entry()], categories=categories), "train")
    assert data.class_names == ("cell",) and data.category_ids == (1,)


# ---- flags


@pytest.mark.parametrize("key", ["ignore", "iscrowd"])
@pytest.mark.parametrize("value", [True, 1, 1.0, "1", "true"])
def test_flags_in_every_form(tmp_path, key, value):
    entries = [entry(), entry(2, **{key: value}), entry(3, **{key: 0}), entry(4, **{key: None}), entry(5, uncertain=1)]
    data = Coco(write(tmp_path, entries), "train")
    assert data[0][1].ignore.tolist() == [False, True, False, False, False]
    assert counted(data, "of 5 objects are") == 1


def test_crowds_are_counted_and_can_be_objects(tmp_path):
    code = {"size": list(SIZE), "counts": run_lengths(INSIDE)}
    entries = [entry(k, iscrowd=k % 2, segmentation=code if k % 2 else [RING], bbox=[k, 8, 10, 8]) for k in range(1, 5)]
    entries.append(entry(9, iscrowd=1, ignore=1))
    data = Coco(write(tmp_path, entries), "train")
    assert data[0][1].ignore.tolist() == [True, False, True, False, True]
    assert data.counts["of 5 objects are ignored as crowds (use --crowds=objects to keep them)"] == 2
    taken = Coco(tmp_path, "train", reading=ReadingConfig(crowds="objects"))
    assert taken[0][1].ignore.tolist() == [False] * 4 + [True] and counted(taken, "kept, though crowds") == 2
    assert torch.equal(taken[0][1].masks.to_dense(), data[0][1].masks.to_dense())


# ---- file names

NAMES = {
    "as exported": ("images/1a-cell_01.png", "images/1a-cell_01.png"),
    "Windows": ("images\\1a-cell_01.png", "images/1a-cell_01.png"),
    "a project's number": ("images\\1/1a-cell_01.png", "images/1a-cell_01.png"),
    "media": ("..\\..\\label-studio\\media\\upload\\4\\1a-cell_01.png", "images/1a-cell_01.png"),
    "local files": ("/data/local-files/?d=set/cell_01.png", "images/cell_01.png"),
    "local files, encoded": ("/data/local-files/?d=set%2Fcell_01.png", "images/set/cell_01.png"),
    "an address": ("https://example.org/set/cell_01.png", "images/cell_01.png"),
    "an address with a query": ("https://example.org/set/cell_01.png?key=a", "images/cell_01.png"),
    "percent": ("images/1a-cell%20one.png", "images/1a-cell one.png"),
    "percent on the disk, too": ("images/1a-cell%20one.png", "images/1a-cell%20one.png"),
    "a drive": ("C:\\Users\\me\\set\\cell_01.png", "images/cell_01.png"),
    "a dot": ("./images/cell_01.png", "images/cell_01.png"),
    "a bucket": ("s3://bucket/set/cell_01.png", "images/cell_01.png"),
    "an absolute path": ("/home/me/cell_01.png", "images/deep/er/cell_01.png"),
}


@pytest.mark.parametrize("kind", NAMES)
def test_images_are_found_by_the_last_part_of_their_name(tmp_path, kind):
    name, disk = NAMES[kind]
    data = Coco(write(tmp_path, [entry()], name, disk), "train")
    assert data.image_file(0).resolve() == (tmp_path / disk).resolve() and len(data[0][1]) == 1
    direct = name.replace("\\", "/").removeprefix("./") == disk
    assert counted(data, "of 1 images are found by the last component") == (0 if direct else 1)


def test_other_folders_are_never_looked_at(tmp_path):
    root = write(tmp_path / "set", [entry()], "../secret.png", "images/a.png")
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "secret.png")
    with pytest.raises(UserError, match="points out of the data folder"):
        Coco(root, "train")


def test_what_is_not_unique_or_differs_in_case_is_said(tmp_path):
    root = write(tmp_path / "a", [entry()], "x/cell.png", "images/1/cell.png")
    Image.new("RGB", SIZE[::-1]).save(root / "images" / "cell.png")
    with pytest.raises(UserError, match=r"several files are named cell\.png.*--image_folder"):
        Coco(root, "train")
    assert Coco(root, "train", reading=ReadingConfig(image_folder=str(root / "images/1")))[0]
    root = write(tmp_path / "b", [entry()], "images/CELL_01.PNG", "images/cell_01.png")
    with pytest.raises(UserError, match=r"cell_01\.png exists: upper and lower case differ"):
        Coco(root, "train")


def test_the_folder_of_the_images_can_be_named(tmp_path):
    root = write(tmp_path / "a", [entry()], "a.png", "else/a.png")
    (root / "else").rename(tmp_path / "far")
    with pytest.raises(UserError, match="none of its 1 images"):
        Coco(root, "train")
    data = Coco(root, "train", reading=ReadingConfig(image_folder=str(tmp_path / "far")))
    assert data.image_file(0) == tmp_path / "far" / "a.png"


def test_label_studios_export_opens_as_it_is(tmp_path):
    write(tmp_path, [entry()], "images/a.png", "images/a.png")
    (tmp_path / "annotations.json").rename(tmp_path / "result.json")
    assert len(Coco(tmp_path, "train")[0][1]) == 1


# ---- programs


def test_convert_and_check_data_count_and_take_the_options(tmp_path):
    from examples.check_data import main as check_data
    from examples.convert import main as convert

    root = write(tmp_path / "a", [entry(iscrowd=1), entry(2, bbox=[11, 8, 10, 8])])
    result = CliRunner().invoke(convert, [str(root), "--to=coco", f"--output={tmp_path / 'b'}"])
    assert result.exit_code == 0 and "1 of 2 objects is ignored as crowds" in result.output, result.output
    result = CliRunner().invoke(convert, [str(root), "--to=coco", f"--output={tmp_path / 'c'}", "--crowds=objects"])
    assert result.exit_code == 0 and "1 of 2 objects is kept, though crowds" in result.output, result.output
    assert not Coco(tmp_path / "c", "train")[0][1].ignore.any() and Coco(tmp_path / "b", "train")[0][1].ignore.any()
    result = CliRunner().invoke(check_data, [str(root)])
    assert "1 of 2 objects is ignored as crowds" in result.output
    result = CliRunner().invoke(check_data, [str(root), "--crowds=objects"])
    assert "is kept, though crowds" in result.output


@pytest.mark.parametrize(
    ("file", "images"),
    [
        ("Annotations/{}.json", "Images"),
        ("Annotations/{}.json", "Images/{}"),
        ("annotations/tiny_set_{}.json", "{}"),
        ("mini_annotations/tiny_set_{}_all.json", "{}"),
    ],
)
def test_layouts_of_published_sets_are_recognized(tmp_path, file, images):
    for part in ("train", "test"):
        folder = tmp_path / images.format(part)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(folder / f"{part}.png")
        box = {"image_id": 1, "category_id": 1, "bbox": [2, 3, 4, 5], "iscrowd": False}
        marked = [{}, {"uncertain": True}, {"ignore": True}]
        contents = {
            "categories": [{"id": 1, "name": "person"}],
            "images": [{"id": 1, "file_name": f"{part}.png", "width": 30, "height": 20}],
            "annotations": [box | {"id": k, "bbox": [2 * k, 3, 4, 5]} | each for k, each in enumerate(marked)],
        }
        path = tmp_path / file.format(part)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(contents))
    assert recognize(tmp_path).name == "coco"
    for part in ("train", "test"):
        data = Coco(tmp_path, part)
        assert data.image_names == [part] and data[0][1].ignore.tolist() == [False, "tiny" in file, True]
    assert list(open_parts(tmp_path, "coco")) == ["train", "test"]
