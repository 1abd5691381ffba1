"""Category ids of the data travel with the data set, the checkpoint, the results and converted data."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from programs_toy import SETTINGS, succeed
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from datasets.custom import CustomDataset
from datasets.interface import get_category_ids
from datasets.joined import JoinedDataset
from datasets.readers.coco import Coco
from datasets.selection import Subset
from datasets.writing.conversion import convert
from maskrcnn.config import UserError
from maskrcnn.evaluation.coco import evaluate_coco
from maskrcnn.evaluation.coco_format import write_coco_results
from maskrcnn.structures.instances import Instances

SIZE = (64, 64)
NAMES = ("small", "large", "other")


def write_set(root: Path, part: str, ids: tuple[int, ...], names: tuple[str, ...] = NAMES, images: int = 3) -> Path:
    """Images with an object of each class, in COCO's layout with the category ids given; returns the JSON file."""
    rng = np.random.default_rng(len(part))
    folder = root / "images" / part
    folder.mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    annotations = []
    for image in range(images):
        pixels = rng.integers(0, 60, (*SIZE, 3), np.uint8)
        for row, number in enumerate(ids):
            x, y, side = int(rng.integers(2, 40)), 3 + 14 * row, 5 + 3 * row
            pixels[y : y + side, x : x + side] = 200
            outline = [[x, y, x, y + side, x + side, y + side, x + side, y]]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": number,
                    "segmentation": outline,
                    "bbox": [x, y, side, side],
                    "area": side * side,
                    "iscrowd": 0,
                }
            )
        Image.fromarray(pixels).save(folder / f"{image}.png")
    content = {
        "images": [{"id": k, "file_name": f"{k}.png", "width": SIZE[1], "height": SIZE[0]} for k in range(images)],
        "categories": [{"id": number, "name": name} for number, name in zip(ids, names, strict=True)],
        "annotations": annotations,
    }
    path = root / "annotations" / f"instances_{part}.json"
    path.write_text(json.dumps(content))
    return path


def judged(path: Path, results: Path, kind: str) -> float:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        evaluator = COCOeval(truth, truth.loadRes(str(results)), kind)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return float(evaluator.stats[0])


@pytest.mark.parametrize("ids", [(0, 1, 2), (17, 44, 3), (5, -2, 90)])
def test_ap_against_the_users_file_is_the_one_reported(tmp_path, ids):
    """Zero-based ids, gaps, any order; detections with some classes exchanged, so that ids matter."""
    path = write_set(tmp_path, "train", ids)
    data = Coco(tmp_path, "train")
    assert dict(zip(data.class_names, data.category_ids, strict=True)) == dict(zip(NAMES, ids, strict=True))
    truths = {image_id: data[i][1] for i, image_id in enumerate(data.image_ids)}
    found = {}
    for number, truth in truths.items():
        scores = torch.linspace(0.9, 0.5, len(truth))
        labels = truth.labels.roll(1) if number == 0 else truth.labels
        found[number] = replace(truth, scores=scores, labels=labels)
    results = write_coco_results(tmp_path, found, data.category_ids)
    for kind, file, their_kind in zip(("box", "mask"), results, ("bbox", "segm"), strict=True):
        mine = evaluate_coco(truths, found, data.class_names, kind).ap
        assert 0.1 < mine < 0.99 and judged(path, file, their_kind) == pytest.approx(mine, abs=1e-9)


def test_convert_keeps_category_ids(tmp_path):
    write_set(tmp_path / "a", "train", (17, 44, 3))
    data = Coco(tmp_path / "a", "train")
    done = convert({"train": data}, tmp_path / "b", "coco")
    again = Coco(tmp_path / "b", "train")
    assert again.class_names == data.class_names and again.category_ids == data.category_ids == (3, 17, 44)
    assert all(torch.equal(again[i][1].labels, data[i][1].labels) for i in range(len(data)))
    assert not done.losses.counts
    done = convert({"train": data}, tmp_path / "c", "voc")
    assert "the category ids of 3 classes" in " ".join(done.losses.lines())


def test_parts_of_a_data_set_keep_theirs_and_chosen_images_too(tmp_path):
    write_set(tmp_path, "train", (0, 1), NAMES[:2])
    data = Coco(tmp_path, "train")
    assert get_category_ids(Subset(data, [1])) == (0, 1)


def test_joined_classes_keep_the_first_id_and_others_get_free_ones(tmp_path):
    write_set(tmp_path / "a", "train", (3, 7), ("small", "large"))
    write_set(tmp_path / "b", "train", (7, 3, 9), ("other", "small", "more"))
    joined = JoinedDataset([Coco(tmp_path / each, "train") for each in "ab"], ["a", "b"])
    ids = dict(zip(joined.class_names, joined.category_ids, strict=True))
    assert ids == {"small": 3, "large": 7, "more": 9, "other": 10}


def test_categories_that_share_a_name_have_the_lowest_id(tmp_path):
    write_set(tmp_path, "train", (8, 2, 5), ("cell", "cell", "other"))
    data = Coco(tmp_path, "train")
    assert data.class_names == ("cell", "other") and data.category_ids == (2, 5)


class Mine:
    class_names = ("a", "b")

    def __init__(self, ids=None):
        if ids is not None:
            self.category_ids = ids

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return torch.zeros(3, 8, 8, dtype=torch.uint8), Instances.empty((8, 8), with_masks=True)


def test_a_class_of_the_users_may_have_ids():
    assert CustomDataset("mine:Mine", Mine()).category_ids == (1, 2)
    assert CustomDataset("mine:Mine", Mine([0, 4])).category_ids == (0, 4)
    for ids in ([1, 1], [1], ["x", "y"]):
        with pytest.raises(UserError, match="category_ids must be 2 unique integers"):
            CustomDataset("mine:Mine", Mine(ids))


def test_a_run_writes_the_ids_of_the_data(tmp_path, monkeypatch):
    """Training, its checkpoint, and prediction with it."""
    from examples.predict import main as predict
    from examples.train import main as train

    for part in ("train", "val"):
        write_set(tmp_path / "data", part, (0, 17, 44))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smallobjects.toml").write_text(SETTINGS)
    succeed(train, "--dataset=coco", "--dataset_root=data", "--head=faster_rcnn", "--num_epochs=1")
    (run,) = (tmp_path / "runs").iterdir()
    saved = torch.load(run / "weights" / "last.pt", weights_only=True)
    assert saved["category_ids"] == [0, 17, 44] and saved["class_names"] == list(NAMES)
    results = json.loads((run / "predictions" / "coco_boxes.json").read_text())
    assert results and {each["category_id"] for each in results} <= {0, 17, 44}
    judged(tmp_path / "data/annotations/instances_val.json", run / "predictions" / "coco_boxes.json", "bbox")
    succeed(predict, "data/images/val", f"--run={run}")
    (folder,) = (tmp_path / "predictions").iterdir()
    images = json.loads((folder / "images.json").read_text())
    assert [each["id"] for each in images["categories"]] == [0, 17, 44]
    assert {each["category_id"] for each in json.loads((folder / "coco_boxes.json").read_text())} <= {0, 17, 44}
