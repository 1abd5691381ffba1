"""COCO's instances files: pycocotools reads the same; broken files are named, whatever is wrong with them."""

import contextlib
import io
import json
import logging
import os
import pickle
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from datasets.readers import json_stream
from datasets.readers.coco import AiTod, Coco
from datasets.readers.json_stream import JsonStream
from datasets.readers.splitting import MissingSplit
from maskrcnn.config import UserError

SIZE = (40, 60)  # of all images here, H and W


def image_entry(number: int, name: str | None = None) -> dict[str, Any]:
    return {"id": number, "file_name": name or f"{number}.png", "height": SIZE[0], "width": SIZE[1]}


def square(x: float, y: float, side: float = 5) -> list[float]:
    return [x, y, x + side, y, x + side, y + side, x, y + side]


def annotation(number: int, image: int, **more: Any) -> dict[str, Any]:
    base = {"id": number, "image_id": image, "category_id": 3, "iscrowd": 0, "bbox": [2.0, 3, 5, 5]}
    return {**base, "segmentation": [square(2, 3)], **more}


def small() -> dict[str, Any]:
    """Two images with one and two objects, and one without."""
    return {
        "info": {"nested": [{"deep": [1, [2]]}]},
        "images": [image_entry(7), image_entry(5), image_entry(9)],
        "annotations": [annotation(1, 7), annotation(2, 5, category_id=90), annotation(3, 5)],
        "categories": [{"id": 90, "name": "cat"}, {"id": 3, "name": "dog", "supercategory": "x"}],
    }


def write(folder: Path, content: Any, images: bool = True) -> Path:
    """`content`, as JSON unless it is text or bytes already, with grey images beside."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "annotations.json"
    content = content if isinstance(content, str | bytes) else json.dumps(content)
    path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
    for number in (7, 5, 9) if images else ():
        Image.new("L", SIZE[::-1], number).save(folder / f"{number}.png")
    return path


def message(error: pytest.ExceptionInfo[UserError]) -> str:
    text = str(error.value)
    assert "\n" not in text and text.isprintable()
    return text.replace("\\", "/")


# ---- the same as pycocotools


def random_annotation(rng: np.random.Generator, number: int) -> dict[str, Any]:
    kind, decimals = rng.integers(4), int(rng.integers(0, 4))
    height, width = SIZE
    x, y, w, h = rng.integers(0, [width, height, width, height]) // 2
    entry = annotation(number, int(rng.choice([7, 5])), category_id=int(rng.choice([3, 90])))
    if kind < 2:
        middle = rng.uniform(-3, [width + 3, height + 3])
        points = [middle + rng.normal(0, 9, (rng.integers(3, 9), 2)) for _ in range(kind + 1)]
        return {**entry, "segmentation": [each.ravel().round(decimals).tolist() for each in points]}
    mask = np.zeros(SIZE, np.uint8, order="F")
    mask[y : y + h + 1, x : x + w + 1] = rng.random((h + 1, w + 1)) < 0.8
    code = coco_mask.encode(mask)
    if kind == 2:
        return {**entry, "segmentation": {"size": list(SIZE), "counts": code["counts"].decode()}}
    flat = np.concatenate([[0], mask.T.ravel(), [2]])
    ends = np.flatnonzero(np.diff(flat))
    return {**entry, "iscrowd": 1, "segmentation": {"size": list(SIZE), "counts": np.diff([0, *ends]).tolist()}}


@pytest.mark.parametrize("seed", range(6))
def test_masks_labels_crowds_and_ids_are_those_of_pycocotools(tmp_path, seed):
    rng = np.random.default_rng(seed)
    content = small()
    content["annotations"] = [random_annotation(rng, int(n)) for n in rng.permutation(80)]
    path = write(tmp_path, content)
    data = Coco(tmp_path, "train")
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = COCO(str(path))
    assert data.image_ids == theirs.getImgIds() and data.image_names == ["7", "5", "9"] and data.has_masks
    numbers = sorted(theirs.getCatIds())
    assert data.class_names == tuple(each["name"] for each in theirs.loadCats(numbers)) == ("dog", "cat")
    for index, image_id in enumerate(data.image_ids):
        image, instances = data[index]
        assert image.dtype == torch.uint8 and image.shape == (3, *SIZE) and image[0, 0, 0] == image_id
        expected = theirs.imgToAnns[image_id]
        assert instances.ids.tolist() == [each["id"] for each in expected]
        assert [numbers[label - 1] for label in instances.labels] == [each["category_id"] for each in expected]
        assert instances.ignore.tolist() == [bool(each["iscrowd"]) for each in expected]
        masks = [theirs.annToMask(each) for each in expected]
        for mine, mask in zip(instances.masks.to_dense().numpy(), masks, strict=True):
            np.testing.assert_array_equal(mine, mask)
        for box, each in zip(instances.boxes.tolist(), expected, strict=True):
            x, y, width, height = each["bbox"]
            assert box == [x, y, x + width, y + height]
    assert len(data[2][1]) == 0 and data[2][1].masks is not None


# ---- reading as a stream

LISTS = ("images", "annotations", "categories")
texts = st.text(st.characters(), max_size=6)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=3))


def entries(path: Path) -> dict[str, list[Any]]:
    """The lists, each entry's place checked against the file."""
    found: dict[str, list[Any]] = {}
    raw = path.read_bytes()
    with JsonStream(path) as stream:
        for key, value, offset, length in stream.entries(LISTS):
            found.setdefault(key, []).append(value)
            assert json.loads(raw[offset : offset + length]) == value
    return found


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(st.sampled_from(LISTS), st.lists(values, min_size=1, max_size=5)),
    st.dictionaries(texts.filter(lambda key: key not in LISTS), values, max_size=3),
    st.integers(1, 30),
    st.sampled_from([None, 0, 3, "\t \r"]),
    st.booleans(),
    st.randoms(),
)
def test_any_object_in_any_order_and_pieces_is_read_as_json_does(
    tmp_path, lists, others, chunk, indent, ascii_only, order
):
    members = [*lists.items(), *others.items()]
    order.shuffle(members)
    path = tmp_path / "any.json"
    text = json.dumps(dict(members), indent=indent, ensure_ascii=ascii_only)
    try:
        path.write_bytes(b"\xef\xbb\xbf" * (chunk % 2) + text.encode())
    except UnicodeEncodeError:
        return  # half a surrogate pair cannot stand in a file, but as an escape
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "CHUNK", chunk)
        expected = {key: value for key, value in json.loads(text).items() if key in lists}
        assert entries(path) == expected


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 1000])
def test_numbers_and_words_cut_anywhere_are_whole(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    path = tmp_path / "cut.json"
    text = r'{"images":[-12.5e+3,1E2,0.25 ,-Infinity,true,null,"\u00e9é\ud83d\ude00\"\\",1234567890123456789012]}'
    path.write_text(text, encoding="utf-8")
    assert entries(path)["images"] == json.loads(text)["images"]


def test_memory_follows_the_numbers_not_the_text(tmp_path):
    content = small()
    long = {"size": list(SIZE), "counts": "x" * 9000}
    content["annotations"] = [annotation(number, 7, segmentation=long) for number in range(1500)]
    content["licenses"] = [["x" * 1000] * 1000] * 2
    path = write(tmp_path, content)
    size = path.stat().st_size
    del content
    Coco(tmp_path, "train")
    tracemalloc.start()
    data = Coco(tmp_path, "train")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size > 12e6 and peak < 7e6
    assert len(pickle.dumps(data)) < 150_000


def test_a_copy_in_another_process_reads_the_same(tmp_path):
    write(tmp_path, small())
    data = Coco(tmp_path, "train")
    copy = pickle.loads(pickle.dumps(data))
    for index in range(3):
        mine, theirs = data[index][1], copy[index][1]
        assert torch.equal(mine.masks.data, theirs.masks.data) and torch.equal(mine.ids, theirs.ids)


def test_names_in_any_writing(tmp_path):
    content = small()
    content["images"][0]["file_name"] = "sub folder/фото \u202f№ 😀.v2.PNG"
    content["categories"][0]["name"] = "Katze “é”"
    for number, ascii_only in enumerate((True, False)):
        folder = tmp_path / str(number)
        write(folder, json.dumps(content, ensure_ascii=ascii_only))
        path = folder / "sub folder" / "фото \u202f№ 😀.v2.PNG"
        path.parent.mkdir()
        Image.new("L", SIZE[::-1]).save(path)
        data = Coco(folder, "train")
        assert data.image_names[0] == "sub folder/фото \u202f№ 😀.v2" and data.class_names[1] == "Katze “é”"
        assert len(data[0][1]) == 1


@pytest.mark.parametrize(("listed", "stored"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_that_unicode_writes_in_two_ways_are_one(tmp_path, caplog, listed, stored):
    content = small()
    content["images"][0]["file_name"] = f"sub/{normalize(listed, 'é7.png')}"
    write(tmp_path, content)
    (tmp_path / "sub").mkdir()
    Image.new("L", SIZE[::-1], 7).save(tmp_path / "sub" / normalize(stored, "é7.png"))
    assert len(Coco(tmp_path, "train")[0][1]) == 1 and "not there" not in caplog.text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_what_other_tools_write(tmp_path, encoding):
    """Ids that were floats in a table, sizes of 0, lists that are there but empty, the file names of Windows."""
    content = small()
    content["images"][0] |= {"id": 7.0, "width": 0, "height": 0.0, "file_name": "sub\\7.PNG"}
    content["annotations"][0] |= {"image_id": 7.0, "category_id": 3.0, "iscrowd": False}
    content["annotations"][1] |= {"segmentation": [[]], "bbox": [2.0, 3.0, 5.5, 5]}
    write(tmp_path, json.dumps(content, indent=1).replace("\n", "\r\n").encode(encoding))
    (tmp_path / "sub").mkdir()
    (tmp_path / "7.png").rename(tmp_path / "sub" / "7.PNG")
    data = Coco(tmp_path, "train")
    assert data.image_ids == [7, 5, 9] and data[0][1].labels.tolist() == [1]
    assert data[1][1].ignore.tolist() == [False, False] and data[1][1].has_mask().tolist() == [False, True]
    assert data.counts["objects without a mask, used for boxes only"] == 1
    for each in content["annotations"]:
        each["segmentation"] = [[]]
    write(tmp_path, content, images=False)
    data = Coco(tmp_path, "train")
    assert not data.has_masks and data[1][1].boxes.tolist() == [[2, 3, 7.5, 8], [2, 3, 7, 8]]


# ---- doubtful objects


def test_objects_without_mask_or_area_are_counted(tmp_path, caplog):
    content = small()
    content["annotations"] = [
        annotation(1, 7, segmentation=[square(70, 50)]),
        annotation(2, 7, segmentation=[], bbox=[10.5, 20.25, 3, 4]),
        annotation(3, 7, segmentation=None, bbox=[1, 2, -3, 4]),
        annotation(4, 7, bbox=None),
        annotation(5, 7, segmentation=[], bbox=[55, 35, 10, 10], iscrowd=None),
    ]
    write(tmp_path, content)
    data = Coco(tmp_path, "train")
    with caplog.at_level(logging.WARNING, logger="datasets"):
        instances = data[0][1]
    assert instances.ids.tolist() == [1, 2, 4, 5] and not instances.ignore.any()
    assert instances.boxes.tolist() == [[2, 3, 7, 8], [10.5, 20.25, 13.5, 24.25], [2, 3, 7, 8], [55, 35, 60, 40]]
    assert instances.masks.areas().tolist() == [0, 0, 25, 0]
    counts = {rule: count for rule, count in data.counts.items() if count}
    assert counts == {
        "inverted or empty boxes dropped": 1,
        "boxes clipped to the image": 1,
        "objects without a mask, used for boxes only": 3,
        "objects with an empty mask and no box dropped": 1,
    }
    assert all("image 7" in record.getMessage() for record in caplog.records) and len(caplog.records) == 4


def test_boxes_only(tmp_path):
    content = small()
    for number, box in enumerate([[1, 2, 3.5, 4], [float("nan"), 0, 1, 1], [1e308, 0, 1e308, 5]]):
        content["annotations"][number] = annotation(number, 7, bbox=box, iscrowd=number == 0)
        del content["annotations"][number]["segmentation"]
    write(tmp_path, content)
    data = Coco(tmp_path, "train")
    instances = data[0][1]
    assert not data.has_masks and instances.masks is None
    assert instances.boxes.tolist() == [[1, 2, 4.5, 6]] and instances.boxes.dtype == torch.float32
    assert instances.ignore.tolist() == [True] and instances.ids.tolist() == [0]
    assert len(data[1][1]) == 0 and sum(data.counts.values()) == 3  # with the crowd


def test_masks_can_be_left_out(tmp_path):
    content = small()
    write(tmp_path, content)
    data = Coco(tmp_path, "train", masks=False)
    assert not data.has_masks and data[0][1].boxes.tolist() == [[2, 3, 7, 8]]
    content["annotations"][1]["bbox"] = None
    write(tmp_path, content)
    with pytest.raises(UserError, match="annotation 2: has no 'bbox'"):
        Coco(tmp_path, "train", masks=False)


def test_categories_of_one_name_are_one_class(tmp_path):
    content = small()
    content["categories"].append({"id": 0, "name": "cat"})
    write(tmp_path, content)
    data = Coco(tmp_path, "train")
    assert data.class_names == ("cat", "dog") and data[1][1].labels.tolist() == [1, 2]


WRONG_OUTLINES = [
    ("text", "'segmentation' must be"),
    (7, "'segmentation' must be"),
    ([[1, 2, 3, 4, 5, True]], "finite numbers"),
    ([[1, 2, 3, 4, 5, 6, 7]], "an odd count"),
    ([[[1, 2], [3, 4], [5]]], "finite numbers"),
    ([["1", "2", "3", "4", "5", "x"]], "finite numbers"),
    ([["1", "2", "3", "4", "5", "nan"]], "finite numbers"),
    ([[1, 2, 3, 4, 5, None]], "finite numbers"),
    ([[1, 2, [3, 4], 5, 6, 7]], "finite numbers"),
    ([square(1, 1), {}], "must be [40, 60]"),
    ([{"counts": "1"}], "must be [40, 60]"),
    ([[1, 2, 3, 4, 5, float("nan")]], "finite numbers"),
    ([[1, 2, 3, 4, 5, 10**400]], "finite numbers"),
    ([[1, 2, 3, 4, 1e9, 5]], "more than 2000000 pixels"),
    ([[-1e300, 2, 1e300, 4, 5, 9]], "more than 2000000 pixels"),
    ([[2e9, 2e9, 2e9 + 1, 2e9, 2e9, 2e9 + 1]], "more than 2000000 pixels"),
    ([[0, 0, 60_000, 1] * 50], "coordinates or a length of more than"),
    ({"counts": "1"}, "must be [40, 60]"),
    ({"size": [60, 40], "counts": [2400]}, "must be [40, 60]"),
    ({"size": 40, "counts": [2400]}, "must be [40, 60]"),
    ({"size": [40, 60]}, "does not cover"),
    ({"size": [40, 60], "counts": [2399]}, "does not cover"),
    ({"size": [40, 60], "counts": [1, -1, 2400]}, "does not cover"),
    ({"size": [40, 60], "counts": [2**63, 2**63]}, "does not cover"),
    ({"size": [40, 60], "counts": [2400.5]}, "does not cover"),
    ({"size": [40, 60], "counts": "é"}, "does not cover"),
    ({"size": [40, 60], "counts": {"a": 1}}, "does not cover"),
    ({"size": [40, 60], "counts": [[2400]]}, "does not cover"),
]


@pytest.mark.parametrize(("segmentation", "words"), WRONG_OUTLINES)
def test_a_wrong_outline_fails_its_own_image_only(tmp_path, segmentation, words):
    content = small()
    good = {"size": list(SIZE), "counts": [2400]}
    content["annotations"] += [annotation(10, 5, segmentation=good), annotation(11, 5, segmentation=segmentation)]
    write(tmp_path, content)
    data = Coco(tmp_path, "train")
    assert len(data[0][1]) == 1 and len(data[2][1]) == 0
    with pytest.raises(UserError) as error:
        data[1]
    assert words in message(error) and "annotations.json: annotation 11: " in message(error)


def test_an_image_of_another_size_than_said(tmp_path):
    content = small()
    content["images"][1] |= {"width": 61.0}
    del content["images"][2]["width"]
    write(tmp_path, content)
    data = Coco(tmp_path, "train")
    assert data[0] and data[2]
    with pytest.raises(UserError) as error:
        data[1]
    assert "image 5 is 61 x 40, but" in message(error) and "5.png is 60 x 40" in message(error)


def test_missing_images_are_named(tmp_path, caplog):
    write(tmp_path, small())
    (tmp_path / "5.png").unlink()
    with caplog.at_level(logging.WARNING, logger="datasets"):
        data = Coco(tmp_path, "train")
    assert "1 of 3 images are missing: 5.png" in caplog.text
    assert data[0] and data[2]
    with pytest.raises(UserError, match=r"5\.png: no such image"):
        data[1]
    for number in (7, 9):
        (tmp_path / f"{number}.png").unlink()
    with pytest.raises(UserError, match=r"none of its 3 images \(7\.png, …\)"):
        Coco(tmp_path, "train")


def test_a_file_that_changes_while_it_is_read(tmp_path):
    path = write(tmp_path, small())
    data = Coco(tmp_path, "train")
    status = path.stat()
    text = path.read_text()
    path.write_text(" " + text)
    with pytest.raises(UserError, match=r"annotations\.json: has changed"):
        data[0]
    path.write_text(text.replace("segmentation", 'segmenta"ion'))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(UserError, match=r"annotations\.json: has changed"):
        data[0]
    path.unlink()
    with pytest.raises(UserError, match=r"annotations\.json: cannot be read"):
        data[0]


@pytest.mark.parametrize("index", [3, -4])
def test_only_so_many_images(tmp_path, index):
    write(tmp_path, small())
    data = Coco(tmp_path, "train")
    assert len(data) == 3 and data[-1][0][0, 0, 0] == 9
    with pytest.raises(IndexError):
        data[index]


# ---- broken files

BROKEN = [
    ("", ":1: "),
    ("   \n \n", ":3: "),
    ("[1]", ":1: "),
    ("nul", ":1: "),
    ('{"images"', ":1: "),
    ('{"images": 7}', "'images' must be a list"),
    ('{"images": {"a": 1}}', "'images' must be a list"),
    ('{"images": [],\n\n x}', ":3: "),
    ('{"images": [\n{"id": 1,\n"file_name": }]}', ":3: "),
    ('{"images": [{"id": 1, "file_name": "a"}\n {"id": 2}]}', ":2: "),
    ('{"images": [], 7: 8}', "double quotes"),
    ('{"images" []}', "expecting ':'"),
    ('{"images": [], "images": []}', "twice"),
    ('{"images": [], }', ":1: "),
    ('{"images": [1,]}', ":1: "),
    ('{"info": [[1, 2}]}', ":1: "),
    ('{"info": {"a" 1}}', "expecting ':'"),
    ('{"info": "x\x00y"}', "control character"),
    ('{"info": ' + "[" * 100_000, "nested"),
    ('{"info": ' + "1" * 10_000 + "}", "digits"),
    ('{"info": 1.}', ":1: "),
    ('{"info": "never ends', "Unterminated"),
    (b'{"info": "\xff\xfe"}', "not UTF-8"),
    (b'{"info": "\xed\xa0\x80"}', "not UTF-8"),
    ('{"images": []}'.encode("utf-16"), ":1: "),
    (json.dumps(small()) + "\n{}", ":2: "),
    ("{}", "has no list 'categories'"),
    ('{"images": [], "categories": []}', "no list 'annotations'"),
    ('{"images": [], "categories": [], "annotations": []}', "lists no images"),
]


@pytest.mark.parametrize("chunk", [3, 1 << 20])
@pytest.mark.parametrize(("content", "words"), BROKEN)
def test_broken_json_is_named_by_file_and_line(tmp_path, monkeypatch, content, words, chunk):
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    write(tmp_path, content, images=False)
    with pytest.raises(UserError) as error:
        Coco(tmp_path, "train")
    text = message(error)
    assert "annotations.json" in text and words in text.split("annotations.json", 1)[1]


def test_a_broken_file_is_not_taken_into_memory_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "MAX_ENTRY", 1 << 21)
    write(tmp_path, '{"info": "' + "x" * 9_000_000 + '"}', images=False)
    with pytest.raises(UserError, match="more than 2 MiB"):
        Coco(tmp_path, "train")


def put(key: str, at: int, **more: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content[key][at].update(more)


WRONG = [
    (put("images", 0, id="a7"), "image at byte"),
    (put("images", 0, id=True), "'id' must be"),
    (put("images", 0, id=2**63), "image 9223372036854775808: 'id' must be"),
    (put("images", 0, file_name=None), "image 7: 'file_name'"),
    (put("images", 0, file_name="a\nb.png"), "image 7: 'file_name'"),
    (put("images", 0, file_name="\ud800.png"), "image 7: 'file_name'"),
    (put("images", 0, file_name=""), "image 7: file name '' points out"),
    (put("images", 0, file_name="."), "points out"),
    (put("images", 0, file_name="../8.png"), "image 7: file name '../8.png' points out"),
    (put("images", 0, file_name="a/../../8.png"), "points out"),
    (put("images", 0, file_name="..\\8.png"), "points out"),
    (put("images", 0, file_name="/etc/passwd"), "points out"),
    (put("images", 0, file_name="C:\\8.png"), "points out"),
    (put("images", 0, height=-1), "image 7: 'height'"),
    (put("images", 0, width="60 px"), "image 7: 'width'"),
    (put("images", 0, width=float("nan")), "image 7: 'width'"),
    (put("images", 0, width=float("inf")), "image 7: 'width'"),
    (put("images", 0, width=60.5), "image 7: 'width'"),
    (put("images", 0, id=5), "image 5 appears twice"),
    (put("annotations", 0, image_id=8), "annotation 1: image_id 8 does not exist"),
    (put("annotations", 0, image_id="7.png"), "annotation 1: 'image_id'"),
    (put("annotations", 0, category_id=4), "annotation 1: category_id 4 does not exist"),
    (put("annotations", 0, category_id=3.5), "annotation 1: 'category_id'"),
    (put("annotations", 0, category_id=1e300), "annotation 1: 'category_id'"),
    (put("annotations", 0, category_id=float("inf")), "annotation 1: 'category_id'"),
    (put("annotations", 0, iscrowd=2), "annotation 1: 'iscrowd'"),
    (put("annotations", 0, iscrowd=[]), "annotation 1: 'iscrowd'"),
    (put("annotations", 0, bbox=[1, 2, 3]), "annotation 1: 'bbox'"),
    (put("annotations", 0, bbox="1234"), "annotation 1: 'bbox'"),
    (put("annotations", 0, bbox={}), "annotation 1: 'bbox'"),
    (put("annotations", 0, bbox=[1, 2, 3, "4 px"]), "annotation 1: 'bbox'"),
    (put("annotations", 0, bbox=[1, 2, 3, 10**400]), "annotation 1: 'bbox'"),
    (put("annotations", 0, bbox=None, segmentation=None), "annotation 1: has neither"),
    (put("categories", 0, id=3), "category 3: this id appears twice"),
    (put("categories", 0, name=None), "category 90: 'name'"),
    (put("categories", 0, id=1.5), "category at byte"),
    (lambda content: content["images"].append(7), "image at byte"),
    (lambda content: content["categories"].clear(), "annotation 1: category_id 3 does not exist"),
]


@pytest.mark.parametrize(("spoil", "words"), WRONG)
def test_wrong_values_are_named_by_file_and_object(tmp_path, spoil, words):
    content = small()
    spoil(content)
    write(tmp_path, content)
    with pytest.raises(UserError) as error:
        Coco(tmp_path, "train")
    text = message(error)
    assert "annotations.json" in text and words.replace("\\", "/") in text.split("annotations.json", 1)[1]


# ---- layouts


def put_set(annotations: Path, images: Path, name: str) -> None:
    """A set whose one class is called `name`."""
    content = small()
    content["categories"] = [{"id": 3, "name": name}, {"id": 90, "name": "cat"}]
    written = write(images, content)
    annotations.parent.mkdir(parents=True, exist_ok=True)
    written.replace(annotations)


LAYOUTS = [
    ("train", "annotations/instances_train2017.json", "train2017"),
    ("test", "annotations/instances_val2017.json", "val2017"),
    ("test", "annotations/instances_val2014.json", "images/val2014"),
    ("train", "train/annotations.json", "train/images"),
    ("test", "test/annotations.json", "test/images"),
    ("test", "val/annotations.json", "val"),
    ("test", "valid/_annotations.coco.json", "valid"),
    ("train", "train/_annotations.coco.json", "train"),
    ("train", "annotations/instances_train.json", "images/train"),
    ("test", "annotations/val.json", "val"),
    ("train", "annotations.json", "images"),
    ("train", "_annotations.coco.json", "."),
    ("train", "annotations/instances_default.json", "images/default"),
]


@pytest.mark.parametrize(("split", "annotations", "images"), LAYOUTS)
def test_layouts_are_found(tmp_path, split, annotations, images):
    (tmp_path / "images").mkdir()
    put_set(tmp_path / annotations, tmp_path / images, "it")
    data = Coco(tmp_path, split)
    assert data.class_names[0] == "it" and all(data[index] for index in range(3))
    with pytest.raises(UserError) as error:
        Coco(tmp_path, "test" if split == "train" else "train")
    assert "; put th" in message(error)
    with pytest.raises(MissingSplit):
        Coco(tmp_path, "val")
    with pytest.raises(UserError, match="split 'validate' is unknown"):
        Coco(tmp_path, "validate")


@pytest.mark.parametrize(
    ("annotations", "folder"),
    [
        ("annotations/instances_train2017.json", "train2017"),
        ("annotations/instances_train2017.json", "images/train2017"),
        ("annotations/train.json", "images/train"),
        ("train/annotations.json", "train"),
    ],
)
def test_file_names_may_begin_with_the_folder(tmp_path, annotations, folder):
    for begin in (folder, folder.removeprefix("images/")):
        content = small()
        for image in content["images"]:
            image["file_name"] = f"{begin}/{image['file_name']}"
        written = write(tmp_path / folder, content)
        (tmp_path / annotations).parent.mkdir(parents=True, exist_ok=True)
        written.replace(tmp_path / annotations)
        assert [image[0, 0, 0] for image, _ in map(Coco(tmp_path, "train").__getitem__, range(3))] == [7, 5, 9]


def test_both_splits_are_of_one_year(tmp_path):
    for part in ("train2017", "val2014", "train2014"):
        put_set(tmp_path / "annotations" / f"instances_{part}.json", tmp_path / part, part)
    assert Coco(tmp_path, "train").class_names[0] == "train2017"
    assert Coco(tmp_path, "train", year=2014).class_names[0] == "train2014"
    assert Coco(tmp_path, "test", year=2014).class_names[0] == "val2014"
    with pytest.raises(UserError, match="instances_val2017"):
        Coco(tmp_path, "test")


def test_files_can_be_named(tmp_path):
    put_set(tmp_path / "a" / "mine.json", tmp_path / "b", "mine")
    for annotations, images in (("a/mine.json", "b"), (tmp_path / "a/mine.json", str(tmp_path / "b"))):
        assert Coco(tmp_path, "test", annotations=annotations, images=images).class_names[0] == "mine"
    with pytest.raises(UserError, match="none of its 3 images"):
        Coco(tmp_path, "test", annotations="a/mine.json", images="nowhere")
    with pytest.raises(UserError, match=r"absent\.json: cannot be read"):
        Coco(tmp_path, "test", annotations="a/absent.json")
    with pytest.raises(UserError, match="missing: no such folder"):
        Coco(tmp_path / "missing", "train")


@pytest.mark.parametrize("images", ["images/{}", "{}/images", "{}"])
def test_aitod_has_boxes_only(tmp_path, images):
    for part, name in (("trainval", "aitod_{}_v1.json"), ("test", "aitod_{}_v1.json"), ("test", "aitodv2_{}.json")):
        put_set(tmp_path / "annotations" / name.format(part), tmp_path / images.format(part), part + name[5:7])
    train, test = AiTod(tmp_path, "train"), AiTod(tmp_path, "test")
    assert (train.class_names[0], test.class_names[0]) == ("trainval_{", "test_{")
    assert not train.has_masks and train[0][1].masks is None and train[0][1].boxes.tolist() == [[2, 3, 7, 8]]
    assert AiTod(tmp_path, "test", version=2).class_names[0] == "testv2"
    for options in ({"version": 2}, {"part": "val"}, {"version": 3}):
        with pytest.raises(UserError):
            AiTod(tmp_path, "train", **options)


# ---- mutated files

STRANGE = [None, True, -1, 2**70, 1e400, float("nan"), "", "x", "../7.png", "\x00", [], {}, [[]], [[[1]]], {"size": 5}]


def places(value: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    for key in range(len(value)) if isinstance(value, list) else list(value):
        found.append((value, key))
        if isinstance(value[key], list | dict):
            places(value[key], found)
    return found


def mutated(rng: random.Random, content: dict[str, Any]) -> bytes:
    content = json.loads(json.dumps(content))
    if rng.random() < 0.5:
        for _ in range(rng.randint(1, 3)):
            holder, key = rng.choice(places(content, []))
            change = rng.randrange(3)
            if change == 0:
                holder[key] = rng.choice(STRANGE)
            elif change == 1:
                other, at = rng.choice(places(content, []))
                holder[key] = json.loads(json.dumps(other[at]))
            else:
                del holder[key]
        return json.dumps(content).encode()
    raw = bytearray(json.dumps(content, indent=rng.choice([None, 1])).encode())
    for _ in range(rng.randint(1, 4)):
        at, change = rng.randrange(len(raw)), rng.randrange(4)
        if change == 0:
            raw[at] = rng.randrange(256)
        elif change == 1:
            del raw[at : at + rng.choice([1, 1, 2, 20])]
        elif change == 2:
            raw[at:at] = bytes(rng.choice(b'0123456789{}[]",:.-eE\\\x00\xff') for _ in range(rng.randint(1, 3)))
        else:
            raw[at:at] = raw[rng.randrange(len(raw)) :][:40]
    return bytes(raw)


def test_mutated_files_are_refused_or_read(tmp_path):
    rng = random.Random(5)
    content = small()
    code = {"size": list(SIZE), "counts": [5, 3, 2392]}
    text = {"size": list(SIZE), "counts": coco_mask.encode(np.asfortranarray(np.eye(*SIZE, dtype=np.uint8)))["counts"]}
    text["counts"] = text["counts"].decode()
    content["annotations"] += [annotation(4, 7, segmentation=code, iscrowd=1), annotation(5, 9, segmentation=text)]
    content["annotations"] += [annotation(6, 9, segmentation=[])]
    write(tmp_path, content)
    refused = failed = read = 0
    logging.getLogger("datasets").disabled = True
    for _ in range(600):
        write(tmp_path, mutated(rng, content), images=False)
        try:
            data = Coco(tmp_path, "train", masks=rng.random() < 0.8)
        except UserError as error:
            assert "\n" not in str(error) and "annotations.json" in str(error)
            refused += 1
            continue
        for index in range(len(data)):
            try:
                image, instances = data[index]
                assert image.shape[1:] == instances.size and len(instances.ids) == len(instances)
                assert (instances.labels >= 1).all() and (instances.labels <= len(data.class_names)).all()
                read += 1
            except UserError as error:
                assert "\n" not in str(error)
                failed += 1
    logging.getLogger("datasets").disabled = False
    assert refused > 150 and failed > 30 and read > 200
