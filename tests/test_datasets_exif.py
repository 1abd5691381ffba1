"""Pictures that EXIF turns: annotations of the image as shown are read; of the image as stored, the error says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datasets.readers.coco import Coco
from datasets.readers.voc import Voc
from maskrcnn.config import UserError

SHOWN, STORED = (64, 96), (96, 64)  # width, height
TALL = [10, 70, 12, 20]  # x y w h: fits the image as shown only
WIDE = [70, 10, 20, 12]  # as stored only
BOTH = [10, 10, 20, 12]


def save_picture(path: Path, orientation: int = 6) -> None:
    shown = np.full((96, 64, 3), 60, np.uint8)
    for x, y, w, h in (TALL, BOTH):
        shown[y : y + h, x : x + w] = 190
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.rot90(shown, 1 if orientation == 6 else -1)).save(path, exif=exif, quality=98)


def coco(root: Path, size: tuple[int, int] | None, boxes: list[list[int]], orientation: int = 6) -> Coco:
    (root / "images").mkdir(parents=True)
    save_picture(root / "images/p.jpg", orientation)
    stated = {} if size is None else {"width": size[0], "height": size[1]}
    objects: list[dict[str, Any]] = [
        {"id": number, "image_id": 1, "category_id": 1, "bbox": box, "area": 9, "iscrowd": 0}
        for number, box in enumerate(boxes, start=1)
    ]
    contents = {
        "images": [{"id": 1, "file_name": "p.jpg", **stated}],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": objects,
    }
    (root / "annotations.json").write_text(json.dumps(contents))
    return Coco(root, "train")


@pytest.mark.parametrize("orientation", [6, 8])
@pytest.mark.parametrize("size", [SHOWN, None])
def test_annotations_of_the_image_as_shown_are_read(
    tmp_path: Path, size: tuple[int, int] | None, orientation: int
) -> None:
    data = coco(tmp_path, size, [TALL, BOTH], orientation)
    image, instances = data[0]
    assert image.shape == (3, 96, 64) and len(instances) == 2 and not data.counts
    for x1, y1, x2, y2 in instances.boxes.int().tolist():
        assert image[0, y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].float().mean() > 180


@pytest.mark.parametrize(
    ("size", "boxes"),
    [(STORED, [TALL, BOTH]), (STORED, [WIDE]), (STORED, [BOTH]), (None, [WIDE, BOTH]), (SHOWN, [WIDE])],
)
def test_what_was_made_for_the_image_as_stored_is_an_error_that_names_exif_and_both_sizes(
    tmp_path: Path, size: tuple[int, int] | None, boxes: list[list[int]]
) -> None:
    data = coco(tmp_path, size, boxes)
    with pytest.raises(
        UserError, match=r"p\.jpg.*stored as 96 x 64, shown as 64 x 96 because of its EXIF orientation"
    ) as caught:
        data[0]
    assert "annotations.json" in str(caught.value) and "\n" not in str(caught.value)


def test_boxes_that_fit_neither_are_dropped_and_counted_as_ever(tmp_path: Path) -> None:
    data = coco(tmp_path, None, [[200, 200, 9, 9], BOTH])
    assert len(data[0][1]) == 1 and data.counts == {"boxes outside the image dropped": 1}


def test_pascal_voc_says_it_too(tmp_path: Path) -> None:
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    for part in ("train", "val"):
        (tmp_path / f"ImageSets/Main/{part}.txt").write_text(f"{part}\n")
        save_picture(tmp_path / f"JPEGImages/{part}.jpg")
        (tmp_path / f"Annotations/{part}.xml").write_text(
            "<annotation><size><width>96</width><height>64</height><depth>3</depth></size><object><name>cat</name>"
            "<bndbox><xmin>3</xmin><ymin>3</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"
        )
    with pytest.raises(UserError, match=r"train\.xml.*stored as 96 x 64, shown as 64 x 96"):
        Voc(tmp_path, "train")[0]
