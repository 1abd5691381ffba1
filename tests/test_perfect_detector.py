"""A perfect detector has AP 1: a file's own annotations as detections, through every reader, writer and evaluation.

Objects of 1 to 64 px: boxes of their own beside masks, parts of pixels, overlaps, empty masks, objects to ignore, any
category ids. The detections are parsed here from the files, not by the readers; pycocotools judges beside
`evaluate_coco`.
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from datasets.custom import CustomDataset
from datasets.interface import DetectionDataset, get_category_ids
from datasets.joined import JoinedDataset
from datasets.readers.coco import AiTod, Coco
from datasets.readers.cst import Cst
from datasets.readers.dsbowl2018 import DSBowl2018
from datasets.readers.generated import Generated
from datasets.readers.label_images import LabelImages
from datasets.readers.visdrone import VisDrone
from datasets.readers.voc import Voc
from datasets.synthetic.config import SceneConfig, update_config
from datasets.synthetic.on_the_fly import OnTheFly
from datasets.synthetic.recipes import Recipe
from datasets.synthetic.writer import create
from datasets.writing.conversion import convert
from maskrcnn.config import to_toml
from maskrcnn.evaluation.coco import evaluate_coco
from maskrcnn.evaluation.coco_format import to_coco_dataset, write_coco_results
from maskrcnn.evaluation.figures import evaluate
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks

CLASSES = ("circle", "square", "triangle")
IMAGES = 2
Objects = dict[int, Instances]


class Toy:
    """Images of noise with given objects."""

    def __init__(self, objects: list[Instances], category_ids: tuple[int, ...] = (1, 2, 3), has_masks: bool = True):
        self.class_names, self.category_ids, self.has_masks = CLASSES, category_ids, has_masks
        self._objects = objects
        self.image_ids = [5 * k for k in range(len(objects))]
        self.image_names = [f"image-{k}" for k in range(len(objects))]
        self.counts: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._objects)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Instances]:
        noise = torch.randint(0, 256, (3, *self._objects[index].size), generator=torch.Generator().manual_seed(index))
        return noise.to(torch.uint8), self._objects[index]


# ---- what is drawn


@st.composite
def one_image(draw: st.DrawFn) -> Instances:
    size = (draw(st.integers(8, 80)), draw(st.integers(8, 80)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(0, 6))
    boxes, windows, levels, ignore = [], [], [], []
    for _ in range(count):
        sides = [min(int(draw(st.integers(1, 64))), limit) for limit in size]
        top, left = (draw(st.integers(0, limit - side)) for side, limit in zip(sides, size, strict=True))
        shape = draw(st.sampled_from(["full", "ragged", "empty", "point"]))
        mask = np.ones(sides, bool)
        if shape == "ragged":
            mask = rng.random(sides) < 0.6
        elif shape == "point":
            mask = np.zeros(sides, bool)
            mask[rng.integers(sides[0]), rng.integers(sides[1])] = True
        elif shape == "empty":
            mask = np.zeros(sides, bool)
        margins = np.array(draw(st.tuples(*[st.sampled_from([0, 0, 0.25, -0.25, 1])] * 4)))
        box = np.array([left, top, left + sides[1], top + sides[0]], np.float64) + margins * [-1, -1, 1, 1]
        box = box.clip(0, [size[1], size[0]] * 2)
        boxes.append(box.tolist())
        windows.append([left, top, left + sides[1], top + sides[0]])
        levels.append(torch.from_numpy(mask.astype(np.uint8) * 255))
        ignore.append(draw(st.sampled_from([False, False, False, True])))
    return Instances(
        size,
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.from_numpy(rng.integers(1, len(CLASSES) + 1, count)),
        masks=CroppedMasks.from_windows(torch.tensor(windows, dtype=torch.int32).reshape(-1, 4), levels, size),
        ignore=torch.tensor(ignore, dtype=torch.bool),
        ids=torch.arange(1, count + 1),
    )


scenes = st.lists(one_image(), min_size=IMAGES, max_size=IMAGES)
category_ids = st.lists(st.integers(0, 500), min_size=3, max_size=3, unique=True).map(tuple)
few = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))


# ---- what is judged


def find_targets(data: DetectionDataset) -> Objects:
    return {number: data[index][1] for index, number in enumerate(data.image_ids)}


def scored(objects: Mapping[int, Instances]) -> Objects:
    """As detections, some of the same score."""
    rng = np.random.default_rng(len(objects))
    return {
        number: replace(
            each,
            scores=torch.from_numpy(rng.choice([0.9, 0.7, 0.3], len(each)).astype(np.float32)),
            ignore=torch.zeros(len(each), dtype=torch.bool),
        )
        for number, each in objects.items()
    }


def assert_perfect(data: DetectionDataset, own: Mapping[int, Instances] | None = None) -> None:
    """`own`: the annotations as they were parsed here; default: as they are read."""
    truths = find_targets(data)
    found = scored(truths if own is None else own)
    kinds = ("box", "mask") if data.has_masks else ("box",)
    for kind in kinds:
        judged = {i: each.ignore_empty_masks() if kind == "mask" else each for i, each in truths.items()}
        counting = any(bool((~each.ignore).any()) for each in judged.values())
        ap = evaluate_coco(truths, found, data.class_names, kind).ap
        assert ap == (pytest.approx(1) if counting else None), kind
        if counting:
            assert judge(judged, found, data, kind) == pytest.approx(1), kind
    metrics = evaluate(truths, found, data.class_names, "mask_rcnn" if data.has_masks else "faster_rcnn").metrics
    assert all(metrics.get(f"{kind}_ap", 1) == pytest.approx(1) for kind in kinds)


def judge(truths: Objects, found: Objects, data: DetectionDataset, kind: str) -> float:
    """AP by pycocotools from the files that are written, with all detections counted."""
    ids = get_category_ids(data)
    if kind == "mask":  # it takes a detection without a mask for a false positive, whatever is there
        found = {i: each[each.has_mask()] for i, each in found.items()}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        file = Path(folder, "truth.json")
        file.write_text(json.dumps(to_coco_dataset(truths, data.class_names, category_ids=ids)))
        results = write_coco_results(folder, found, ids)[kind == "mask"]
        return coco_ap(COCO(str(file)), results, kind)


def coco_ap(truth: COCO, results: Path, kind: str) -> float:
    evaluator = COCOeval(truth, truth.loadRes(str(results)), "segm" if kind == "mask" else "bbox")
    evaluator.params.maxDets = [1, 100, 100_000]
    evaluator.evaluate()
    evaluator.accumulate()
    precision = evaluator.eval["precision"][:, :, :, 0, -1]
    return float(precision[precision > -1].mean())


# ---- the files' own annotations


def own_coco(data: Coco, file: Path) -> Objects:
    content = json.loads(file.read_text())
    with contextlib.redirect_stdout(io.StringIO()):
        reader = COCO(str(file))
    labels = {number: label for label, number in enumerate(data.category_ids, start=1)}
    found = {}
    for image in content["images"]:
        size = (image["height"], image["width"])
        entries = [each for each in content["annotations"] if each["image_id"] == image["id"]]
        corners = [[x, y, x + w, y + h] for x, y, w, h in (each["bbox"] for each in entries)]
        masks = None
        if data.has_masks:
            dense = np.zeros((len(entries), *size), bool)
            for place, each in enumerate(entries):
                if "segmentation" in each:  # else it has no mask
                    dense[place] = reader.annToMask(each)
            masks = CroppedMasks.from_dense(torch.from_numpy(dense))
        found[image["id"]] = instances_of(size, corners, [labels[each["category_id"]] for each in entries], masks)
    return found


def own_voc(data: Voc, root: Path) -> Objects:
    found = {}
    for number, name in zip(data.image_ids, data.image_names, strict=True):
        tree = ElementTree.parse(root / "Annotations" / f"{name}.xml")
        size = tuple(int(tree.findtext(f"size/{side}", "")) for side in ("height", "width"))
        objects = tree.findall("object")
        corners = [
            [float(each.findtext(f"bndbox/{key}", "")) for key in ("xmin", "ymin", "xmax", "ymax")] for each in objects
        ]
        boxes = [[x1 - 1, y1 - 1, x2, y2] for x1, y1, x2, y2 in corners]
        masks = None
        if data.has_masks:
            labels = np.asarray(Image.open(root / "SegmentationObject" / f"{name}.png"))
            dense = np.stack([labels == k + 1 for k in range(len(objects))]) if objects else np.zeros((0, *size), bool)
            masks = CroppedMasks.from_dense(torch.from_numpy(dense))
        names = [data.class_names.index(each.findtext("name", "")) + 1 for each in objects]
        found[number] = instances_of(size, boxes, names, masks)
    return found


def instances_of(size: Any, boxes: list[list[float]], labels: list[int], masks: CroppedMasks | None) -> Instances:
    boxes_ = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Instances(size, boxes_, torch.tensor(labels, dtype=torch.int64), masks=masks)


# ---- the readers, the writers, and each after the other

OPENERS = {
    "coco": lambda root: Coco(root, "train"),
    "voc": lambda root: Voc(root, "train", masks=True),
    "dsb": lambda root: DSBowl2018(root, "train"),
    "labels": lambda root: LabelImages(root, "train"),
    "cst": lambda root: Cst(root, "train"),
}


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def written(data: DetectionDataset, to: str, root: Path) -> DetectionDataset:
    """Converted and read again."""
    convert({"train": data}, root, to)
    if to == "voc":
        return Voc(root, "train", masks=data.has_masks)
    return OPENERS[to](root)


def own_annotations(data: DetectionDataset, root: Path) -> Objects | None:
    if isinstance(data, Coco):
        return own_coco(data, root / "annotations" / "instances_train.json")
    return own_voc(data, root) if isinstance(data, Voc) else None


@few
@given(scenes, category_ids, st.booleans())
def test_a_users_own_class_and_joined_data(objects, ids, has_masks):
    if not has_masks:
        objects = [replace(each, masks=None) for each in objects]
    data = CustomDataset("toy:Toy", Toy(objects, ids, has_masks))
    assert_perfect(data)
    assert_perfect(JoinedDataset([data, Toy(objects[::-1], (7, 8, 9), has_masks)], ["a", "b"]))


@pytest.mark.parametrize("to", OPENERS)
@few
@given(scenes, category_ids)
def test_what_is_written_with_masks_and_read_again(to, objects, ids):
    with folder() as root:
        data = written(Toy(objects, ids), to, root)
        assert_perfect(data, own_annotations(data, root))


@pytest.mark.parametrize("to", ["coco", "voc"])
@few
@given(scenes, category_ids)
def test_what_is_written_with_boxes_alone(to, objects, ids):
    with folder() as root:
        data = written(Toy([replace(each, masks=None) for each in objects], ids, False), to, root)
        assert_perfect(data, own_annotations(data, root))


@pytest.mark.parametrize(("first", "second"), [("coco", "voc"), ("voc", "coco"), ("labels", "dsb"), ("dsb", "labels")])
@settings(few, max_examples=4)
@given(scenes)
def test_one_conversion_after_another(first, second, objects):
    with folder() as root:
        data = written(written(Toy(objects), first, root / "a"), second, root / "b")
        assert_perfect(data, own_annotations(data, root / "b"))


@few
@given(scenes, category_ids)
def test_coco_converted_holds_what_was_given(objects, ids):
    """The given objects as detections; and pycocotools with the converted file itself."""
    with folder() as root:
        given_ = Toy(objects, ids)
        data = written(given_, "coco", root)
        labels = torch.tensor([0, *(data.class_names.index(name) + 1 for name in CLASSES)])  # in the order of ids
        own = {number: replace(each, labels=labels[each.labels]) for number, each in find_targets(given_).items()}
        assert_perfect(data, own)
        counting = [~each.ignore for each in objects]
        if any(bool(each.any()) for each in counting):
            with contextlib.redirect_stdout(io.StringIO()):
                truth = COCO(str(root / "annotations" / "instances_train.json"))
                results = write_coco_results(root, scored(find_targets(data)), data.category_ids)
                assert coco_ap(truth, results[0], "box") == pytest.approx(1)
                if all(bool(each.has_mask().all()) for each in objects):
                    assert coco_ap(truth, results[1], "mask") == pytest.approx(1)


@few
@given(scenes, category_ids)
def test_aitod_and_visdrone(objects, ids):
    boxes = [replace(each, masks=None) for each in objects]
    with folder() as root:
        convert({"train": Toy(boxes, ids, False)}, root, "coco")
        file = root / "annotations" / "aitod_train_v1.json"
        (root / "annotations" / "instances_train.json").rename(file)
        data = AiTod(root, "train")
        assert_perfect(data, own_coco(data, file))
    with folder() as root:
        part = root / "VisDrone2019-DET-train"
        own: Objects = {}
        for place, each in enumerate(boxes):
            for kind in ("images", "annotations"):
                (part / kind).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", each.size[::-1]).save(part / "images" / f"{place}.jpg")
            low, high = each.boxes[:, :2].floor().int(), each.boxes[:, 2:].ceil().int()
            rows = [
                f"{x},{y},{x2 - x},{y2 - y},{int(not ignored)},{label},0,0\n"
                for (x, y), (x2, y2), label, ignored in zip(
                    low.tolist(), high.tolist(), each.labels.tolist(), each.ignore.tolist(), strict=True
                )
            ]
            (part / "annotations" / f"{place}.txt").write_text("".join([*rows, "1,1,4,4,0,0,0,0\n"]))
            own[place] = replace(each, boxes=torch.cat([low, high], dim=1).float())
        data = VisDrone(root, "train")
        assert_perfect(data, own)
        assert_perfect(written(data, "coco", root / "coco"))


@pytest.mark.parametrize("diameters", [(1.0, 3.0), (4.0, 12.0), (32.0, 64.0)])
def test_generated_data_of_every_size(tmp_path, diameters):
    sizes = {"min_diameter": diameters[0], "max_diameter": diameters[1]}
    scene = update_config(SceneConfig(), width=96, height=80, n_groups=0, n_free=8, shapes=CLASSES, **sizes)
    recipe = Recipe(n_train=2, n_val=0, n_test=1, scene=scene)
    root = create(tmp_path / "made", recipe, processes=1)
    data = Generated(root, "train")
    assert_perfect(data)
    (tmp_path / "dataset.toml").write_text(to_toml(recipe))
    assert_perfect(OnTheFly(str(tmp_path / "dataset.toml"), "train"))
    for to in OPENERS:
        again = written(data, to, tmp_path / to)
        assert_perfect(again, own_annotations(again, tmp_path / to))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(root / "train" / "annotations.json"))
        results = write_coco_results(tmp_path, scored(find_targets(data)), get_category_ids(data))
        assert coco_ap(truth, results[0], "box") == coco_ap(truth, results[1], "mask") == pytest.approx(1)
