"""Indexes of large COCO files, stored in the cache folder and read from there."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from datasets.readers import coco_index, coco_segmentation, json_stream
from datasets.readers.coco_index import CocoIndex, find_outside, read_index
from datasets.readers.json_stream import FileStamp
from datasets.readers.stored_index import IndexKey, StoredIndex, load_index, make_key, save_index

_SOURCES = (__file__, coco_index.__file__, coco_segmentation.__file__, json_stream.__file__)
_PER_IMAGE: dict[str, tuple[Any, tuple[int, ...]]] = {"image_ids": (np.int64, ()), "sizes": (np.int64, (2,))}
_PER_ANNOTATION: dict[str, tuple[Any, tuple[int, ...]]] = {  # dtype and shape of an entry
    "ids": (np.int64, ()),
    "labels": (np.int32, ()),
    "crowd": (np.bool_, ()),
    "ignore": (np.bool_, ()),
    "boxes": (np.float64, (4,)),
    "outlined": (np.bool_, ()),
    "offsets": (np.int64, ()),
    "lengths": (np.int64, ()),
}
_TEXTS = ("class_names", "names", "suffixes")


def open_index(path: Path, skip_bad: bool = False) -> CocoIndex:
    """Read the annotations from the stored index of the file, or else from the file, and store the index.

    Args:
        path: the JSON file.
        skip_bad: leave out invalid annotations, and count them.

    Raises:
        UserError: As `read_index`.
    """
    options = {"skip_bad": skip_bad}
    key = make_key(path, options, _SOURCES)
    stored = None if key is None else load_index(key, ["starts", *_PER_IMAGE, *_PER_ANNOTATION])
    if key is not None and stored is not None and _is_consistent(stored, key):
        return _from_stored(path, key, stored)
    index = read_index(path, skip_bad)
    if key is not None and key == make_key(path, options, _SOURCES):  # the file has not changed while it was read
        save_index(key, _to_stored(index))
    return index


def _to_stored(index: CocoIndex) -> StoredIndex:
    arrays = {name: getattr(index, name) for name in ("starts", "sizes", *_PER_ANNOTATION)}
    arrays["image_ids"] = np.array(index.image_ids, np.int64)
    facts = {name: list(getattr(index, name)) for name in (*_TEXTS, "category_ids")}
    return StoredIndex(arrays, {**facts, "counts": dict(index.counts)})


def _from_stored(path: Path, key: IndexKey, stored: StoredIndex) -> CocoIndex:
    arrays, facts = stored
    image_ids, names = arrays["image_ids"].tolist(), facts["names"]
    known = {suffix: suffix for suffix in facts["suffixes"]}  # one object per suffix
    suffixes = [known[suffix] for suffix in facts["suffixes"]]
    return CocoIndex(
        path=path,
        stamp=FileStamp(key.size, key.modified),
        class_names=tuple(facts["class_names"]),
        category_ids=tuple(facts["category_ids"]),
        image_ids=image_ids,
        names=names,
        suffixes=suffixes,
        sizes=arrays["sizes"],
        starts=arrays["starts"],
        outside=find_outside(path, image_ids, names, suffixes),
        counts=Counter(facts["counts"]),
        **{name: arrays[name] for name in _PER_ANNOTATION},
    )


def _is_consistent(stored: StoredIndex, key: IndexKey) -> bool:
    """Whether an index has the arrays and facts of a COCO index, with lengths and values that agree."""
    arrays, facts = stored
    wanted = [(facts.get(name), str) for name in _TEXTS] + [(facts.get("category_ids"), int)]
    if not all(isinstance(each, list) and all(isinstance(value, kind) for value in each) for each, kind in wanted):
        return False
    num_images, num_classes, num_annotations = len(facts["names"]), len(facts["class_names"]), arrays["ids"].size
    shapes = {name: (dtype, (num_images, *shape)) for name, (dtype, shape) in _PER_IMAGE.items()}
    shapes |= {name: (dtype, (num_annotations, *shape)) for name, (dtype, shape) in _PER_ANNOTATION.items()}
    shapes["starts"] = (np.int64, (num_images + 1,))
    if any(arrays[name].dtype != dtype or arrays[name].shape != shape for name, (dtype, shape) in shapes.items()):
        return False
    starts, labels, ends = arrays["starts"], arrays["labels"], arrays["offsets"] + arrays["lengths"]
    return bool(
        num_images == len(facts["suffixes"])
        and num_classes == len(facts["category_ids"])
        and isinstance(facts.get("counts"), dict)
        and starts[0] == 0
        and starts[-1] == num_annotations
        and (np.diff(starts) >= 0).all()
        and ((labels >= 1) & (labels <= num_classes)).all()
        and ((arrays["offsets"] >= 0) & (arrays["lengths"] > 0) & (ends <= key.size)).all()
    )
