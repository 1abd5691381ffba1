"""Stored indexes of large COCO files: the same data with and without, and never used for another state of the file."""

from __future__ import annotations

import dataclasses
import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from datasets.readers import coco_cache, stored_index
from datasets.readers.coco import Coco
from datasets.readers.coco_cache import open_index
from datasets.readers.coco_index import CocoIndex, read_index
from maskrcnn.config import UserError

LONG_AGO = 1_600_000_000
CATEGORIES = [{"id": 9, "name": "Zelle é"}, {"id": 3, "name": "other"}, {"id": 5, "name": "other"}]
IMAGES = [
    {"id": 7, "file_name": "a.png", "height": 20, "width": 30},
    {"id": 2, "file_name": "../b.jpg"},
    {"id": 2**62, "file_name": "ü/c.PNG", "height": 20, "width": 30},
]
ANNOTATIONS = [
    {"id": 1, "image_id": 2**62, "category_id": 9, "bbox": [1, 2, 3.5, 4], "segmentation": [[1, 2, 4, 2, 4, 6]]},
    {"id": 2, "image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4], "iscrowd": 1},
    {"id": 3, "image_id": 7, "category_id": 5, "segmentation": [[1, 2, 4, 2, 4, 6]], "ignore": 1},
    {"id": 3, "image_id": 7, "category_id": 5, "bbox": [1, 2, 3, 4]},
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(stored_index, "MIN_SIZE", 0)
    return tmp_path / "cache/smallobjects/indexes"


def write(path: Path, annotations: list[dict] | None = None, **other: object) -> Path:
    content = {"images": IMAGES, "categories": CATEGORIES, "annotations": annotations or ANNOTATIONS, **other}
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return settle(path)


def settle(path: Path, seconds: int = LONG_AGO) -> Path:
    os.utime(path, (seconds, seconds))
    return path


def assert_equal(found: CocoIndex, wanted: CocoIndex) -> None:
    for field in dataclasses.fields(CocoIndex):
        mine, other = getattr(found, field.name), getattr(wanted, field.name)
        assert type(mine) is type(other), field.name
        if isinstance(other, np.ndarray):
            assert mine.dtype == other.dtype, field.name
            np.testing.assert_array_equal(mine, other, field.name)
        else:
            assert mine == other, field.name


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are read as a whole from now on."""
    paths: list[Path] = []

    def count(path: Path, skip_bad: bool = False) -> CocoIndex:
        paths.append(path)
        return read_index(path, skip_bad)

    monkeypatch.setattr(coco_cache, "read_index", count)
    return paths


def test_a_stored_index_equals_the_file(tmp_path, streamed):
    path = write(tmp_path / "a.json")
    wanted = read_index(path)
    assert_equal(open_index(path), wanted)
    assert_equal(open_index(path), wanted)
    assert streamed == [path]
    assert wanted.outside and wanted.counts.total() and np.isnan(wanted.boxes).any()  # what is compared is there


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_index_comes_back(tmp_path, data):
    numbers, coordinate = st.integers(-(2**63), 2**63 - 1), st.floats(-1e300, 1e300)
    text = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "Zs"]), min_size=1, max_size=6)
    images = data.draw(st.lists(st.tuples(numbers, text), min_size=1, max_size=5, unique_by=lambda each: each[0]))
    classes = data.draw(st.dictionaries(numbers, text, min_size=1, max_size=3))
    boxes = data.draw(st.lists(st.tuples(coordinate, coordinate, coordinate, coordinate), max_size=8))
    draw = random.Random(len(boxes))
    annotations = [
        {"id": draw.randrange(9), "image_id": draw.choice(images)[0], "category_id": draw.choice([*classes]), "bbox": b}
        for b in boxes
    ]
    content = {
        "images": [{"id": number, "file_name": name} for number, name in images],
        "categories": [{"id": number, "name": name} for number, name in classes.items()],
        "annotations": annotations,
    }
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    settle(path)
    wanted = read_index(path)
    assert_equal(open_index(path), wanted)
    assert_equal(open_index(path), wanted)


def test_samples_are_the_same_with_a_stored_index(tmp_path, streamed):
    images = [{**image, "file_name": f"{k}.png", "height": 20, "width": 30} for k, image in enumerate(IMAGES)]
    for image in images:
        Image.new("L", (30, 20)).save(tmp_path / image["file_name"])
    write(tmp_path / "annotations.json", images=images)
    first, second = (Coco(tmp_path, "train") for _ in range(2))
    assert len(streamed) == 1
    assert first.counts == second.counts and first.image_names == second.image_names
    for (image, wanted), (again, found) in zip(first, second, strict=True):
        assert torch.equal(image, again) and torch.equal(wanted.boxes, found.boxes)
        assert torch.equal(wanted.masks.to_dense(), found.masks.to_dense())
        assert torch.equal(wanted.ignore, found.ignore) and torch.equal(wanted.ids, found.ids)


def test_options_and_paths_have_their_own_indexes(tmp_path, streamed, cache):
    unknown = {"id": 8, "image_id": 99, "category_id": 9, "bbox": [1, 2, 3, 4]}
    path = write(tmp_path / "a.json", [*ANNOTATIONS, unknown])
    assert len(open_index(path, skip_bad=True).ids) == len(ANNOTATIONS)
    with pytest.raises(UserError, match="image_id 99 does not exist"):
        open_index(path)
    with pytest.raises(UserError, match="image_id 99 does not exist"):  # errors are not stored
        open_index(path)
    other = write(tmp_path / "tiny_set_a.json", [{**ANNOTATIONS[1], "uncertain": 1}])
    os.link(other, tmp_path / "b.json")
    for _ in range(2):
        assert open_index(other).ignore.all() and not open_index(tmp_path / "b.json").ignore.any()
    assert len(streamed) == 5 and len(list(cache.iterdir())) == 3


def change_a_digit(path: Path) -> None:
    """Keep size and time: seen in the head of the file."""
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("3.5", "6.5"), encoding="utf-8")
    settle(path)


def touch(path: Path) -> None:
    change_a_digit(path)
    settle(path, LONG_AGO + 1)


def append(path: Path) -> None:
    write(path, [*ANNOTATIONS, {**ANNOTATIONS[0], "id": 77}])


def replace_by_older(path: Path) -> None:
    settle(write(path, ANNOTATIONS[:2]), LONG_AGO - 1000)


@pytest.mark.parametrize("change", [change_a_digit, touch, append, replace_by_older])
def test_a_changed_file_is_read_again_and_replaces_its_index(tmp_path, streamed, cache, change: Callable):
    path = write(tmp_path / "a.json")
    before = open_index(path)
    change(path)
    found = open_index(path)
    assert_equal(found, read_index(path))
    assert not np.array_equal(found.boxes, before.boxes)
    assert_equal(open_index(path), found)
    assert len(streamed) == 2 and len(list(cache.iterdir())) == 1


def test_a_change_at_the_end_of_a_long_file_is_seen(tmp_path, streamed):
    many = [{**ANNOTATIONS[1], "id": k} for k in range(5000)]
    path = write(tmp_path / "a.json", [*many, ANNOTATIONS[0]])
    assert path.stat().st_size > 4 << 16
    open_index(path)
    change_a_digit(path)
    assert open_index(path).boxes[-1, 2] == 6.5


def test_another_version_of_the_reader_does_not_use_the_index(tmp_path, streamed, monkeypatch):
    path = write(tmp_path / "a.json")
    open_index(path)
    changed = tmp_path / "reader.py"
    changed.write_text("# a newer reader")
    monkeypatch.setattr(coco_cache, "_SOURCES", (*coco_cache._SOURCES[1:], str(changed)))
    open_index(path)
    assert len(streamed) == 2


def test_new_and_small_files_have_no_index(tmp_path, cache, monkeypatch):
    path = write(tmp_path / "a.json")
    os.utime(path)  # may change again within the same time stamp
    open_index(path)
    settle(path)
    monkeypatch.setattr(stored_index, "MIN_SIZE", path.stat().st_size + 1)
    open_index(path)
    assert not cache.exists()


def test_a_file_that_changes_while_it_is_read_has_no_index(tmp_path, cache, monkeypatch):
    path = write(tmp_path / "a.json")

    def read_and_change(path: Path, skip_bad: bool = False) -> CocoIndex:
        index = read_index(path, skip_bad)
        append(path)
        return index

    monkeypatch.setattr(coco_cache, "read_index", read_and_change)
    open_index(path)
    assert not cache.exists()


# ---- damaged indexes


def store(path: Path, cache: Path) -> tuple[CocoIndex, Path]:
    wanted = open_index(path)
    return wanted, next(iter(cache.iterdir()))


def test_a_damaged_byte_never_changes_the_data(tmp_path, cache):
    path = write(tmp_path / "a.json")
    wanted, file = store(path, cache)
    content, draw = file.read_bytes(), random.Random(0)
    for _ in range(300):
        place = draw.randrange(len(content))
        file.write_bytes(content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :])
        assert_equal(open_index(path), wanted)
        assert_equal(open_index(path), wanted)


@pytest.mark.parametrize("length", [0, 1, 100, -1, -100])
def test_a_truncated_index_is_built_again(tmp_path, cache, streamed, length):
    path = write(tmp_path / "a.json")
    wanted, file = store(path, cache)
    content = file.read_bytes()
    file.write_bytes(content[:length])
    assert_equal(open_index(path), wanted)
    assert len(streamed) == 2
    assert_equal(open_index(path), wanted)
    assert len(streamed) == 2


class Harmful:
    """Pickled, it would write a file."""

    def __reduce__(self) -> tuple[Callable, tuple]:
        return os.mkdir, ("unpickled",)


def edit(file: Path, **changes: object) -> None:
    with np.load(file) as archive:
        arrays = {name: archive[name] for name in archive.files}
    for name, value in changes.items():
        if value is None:
            del arrays[name]
        else:
            arrays[name] = value(arrays[name])
    with file.open("wb") as opened:
        np.savez(opened, **arrays)


@pytest.mark.parametrize(
    "changes",
    [
        {"boxes": None},
        {"facts": None},
        {"facts": lambda _: np.frombuffer(b"[]", np.uint8)},
        {"facts": lambda _: np.frombuffer(b"{}", np.uint8)},
        {"boxes": lambda boxes: boxes[:-1]},
        {"ids": lambda ids: ids[0]},
        {"boxes": lambda boxes: boxes.astype(np.float32)},
        {"labels": lambda labels: labels + 5},
        {"starts": lambda starts: starts[::-1].copy()},
        {"starts": lambda starts: starts + 1},
        {"offsets": lambda offsets: offsets + 2**40},
        {"lengths": lambda lengths: -lengths},
        {"image_ids": lambda ids: ids[:0]},
        {"sizes": lambda sizes: np.array([[Harmful(), 1]] * len(sizes), object)},
        {"facts": lambda facts: np.frombuffer(facts.tobytes().replace(b"names", b"games"), np.uint8)},
        {"facts": lambda facts: np.frombuffer(facts.tobytes().replace(b'"a"', b"123"), np.uint8)},
        {"facts": lambda facts: np.frombuffer(facts.tobytes().replace(b'"names": [', b'"names": 5, "a": ['), np.uint8)},
        {"facts": lambda facts: np.frombuffer(facts.tobytes().replace(b'ids": [3', b'ids": [3.5'), np.uint8)},
        {"facts": lambda facts: np.frombuffer(facts.tobytes().replace(b'"counts": {', b'"other": {'), np.uint8)},
    ],
    ids=str,
)
def test_an_index_of_another_kind_is_built_again(tmp_path, cache, streamed, monkeypatch, changes):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "a.json")
    wanted, file = store(path, cache)
    edit(file, **changes)
    assert_equal(open_index(path), wanted)
    assert len(streamed) == 2 and not Path("unpickled").exists()


# ---- cache folder


def test_without_a_writable_cache_folder_files_open_all_the_same(tmp_path, streamed, monkeypatch, caplog):
    path = write(tmp_path / "a.json")
    monkeypatch.setenv("XDG_CACHE_HOME", str(path))  # a file, below which no folder can be made
    caplog.set_level("INFO", "datasets")
    assert_equal(open_index(path), read_index(path))
    assert "index cannot be stored" in caplog.text
    read_only = tmp_path / "read_only"
    read_only.mkdir(mode=0o500)
    monkeypatch.setenv("XDG_CACHE_HOME", str(read_only))
    assert_equal(open_index(path), read_index(path))


def test_an_index_that_cannot_be_updated_is_still_not_used_when_it_is_old(tmp_path, cache, monkeypatch):
    path = write(tmp_path / "a.json")
    open_index(path)

    def fail(*_: object, **__: object) -> None:
        raise PermissionError(13, "read-only")

    monkeypatch.setattr(np, "savez", fail)
    append(path)
    assert len(open_index(path).ids) == len(ANNOTATIONS) + 1
    assert [file.suffix for file in cache.iterdir()] == [".npz"]


def test_nothing_is_written_to_the_data_set(tmp_path, cache):
    folder = tmp_path / "data"
    folder.mkdir()
    path = write(folder / "a.json")
    open_index(path)
    assert [each.name for each in folder.iterdir()] == ["a.json"]
    assert cache.stat().st_mode & 0o077 == 0 or os.name == "nt"


def test_indexes_unused_for_the_longest_time_are_removed(tmp_path, cache, streamed, monkeypatch):
    paths = [write(tmp_path / f"{k}.json") for k in range(4)]
    files = []
    for path in paths[:3]:
        open_index(path)
        files += [file for file in cache.iterdir() if file not in files]
    for k, file in enumerate(files):
        settle(file, LONG_AGO + k)
    open_index(paths[0])  # now the second was not used for the longest time
    monkeypatch.setattr(stored_index, "MAX_TOTAL", 3 * files[0].stat().st_size + 100)
    open_index(paths[3])
    assert len(list(cache.iterdir())) == 3 and not files[1].exists()
    monkeypatch.setattr(stored_index, "MAX_TOTAL", 0)
    open_index(paths[1])
    assert len(list(cache.iterdir())) == 1  # the newest stays


@pytest.mark.skipif(os.name == "nt", reason="the default folder is another one")
def test_a_relative_cache_home_is_ignored(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert stored_index.find_cache_folder().is_relative_to(tmp_path)
