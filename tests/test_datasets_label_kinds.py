"""Label images as people have them: the same eight objects from each kind of file, with a word where it is unusual."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from datasets.readers.label_images import LabelImages
from datasets.readers.label_kinds import LabelKind, find_kind
from maskrcnn.config import UserError

SIZE = (64, 96)
BINARY = "label images of one value read as masks, split into connected components"
BACKGROUND = "label images read with a background other than 0"
BORDER = "label images whose border of 255 is not read as an object"
COVERS = "images mostly covered by one object"
PIECES = "numbers in many pieces (classes instead of objects?) in a sample of the label images"


def numbered() -> NDArray[np.uint8]:
    """Eight discs, numbered 1 to 8."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    labels = np.zeros(SIZE, np.uint8)
    for number in range(8):
        row, column = divmod(number, 4)
        inside = (x - 12.3 - 23 * column) ** 2 + (y - 15.1 - 32 * row) ** 2 <= (3 + 0.5 * number) ** 2
        labels[inside] = number + 1
    return labels


LABELS = numbered()
INSIDE = LABELS > 0
AREAS = sorted(np.bincount(LABELS.ravel())[1:].tolist())


def write_set(root: Path, labels: NDArray[Any], suffix: str = "tif", count: int = 4, **how: Any) -> Path:
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", labels.shape[1::-1], (9, 9, 9)).save(root / f"images/{number}.png")
        path = root / f"masks/{number}.{suffix}"
        if suffix == "tif":
            tifffile.imwrite(path, labels, **how)
        else:
            Image.fromarray(labels).save(path, **how)
    return root


def with_background(number: int) -> NDArray[np.uint8]:
    return np.where(INSIDE, LABELS + (number == 1), number).astype(np.uint8)


def with_border() -> NDArray[np.uint8]:
    near = sum(np.roll(INSIDE, shift, axis) for axis in (0, 1) for shift in (-1, 1)) > 0
    return np.where(near & ~INSIDE, 255, LABELS).astype(np.uint8)


PALETTE = np.random.default_rng(0).integers(0, 65_535, (3, 256)).astype(np.uint16)


@pytest.mark.parametrize(
    ("labels", "how"),
    [
        (LABELS, {"photometric": "minisblack"}),
        (LABELS, {"photometric": "miniswhite"}),
        (LABELS.astype(np.uint16), {"photometric": "miniswhite"}),
        (LABELS.astype(np.uint32), {"photometric": "miniswhite"}),
        (LABELS, {"photometric": "miniswhite", "compression": "zlib"}),
        (LABELS.astype(np.float16), {}),
        (LABELS, {"photometric": "palette", "colormap": PALETTE}),
        (LABELS.astype(np.uint16), {"photometric": "palette", "colormap": np.repeat(PALETTE, 256, axis=1)}),
        (LABELS.astype(np.uint16), {"imagej": True}),
        (LABELS.astype(">i4"), {"byteorder": ">", "tile": (16, 16)}),
    ],
)
def test_numbers_are_read_as_they_are_stored(tmp_path: Path, labels: NDArray[Any], how: dict[str, Any]) -> None:
    data = LabelImages(write_set(tmp_path, labels, **how), "train")
    instances = data[0][1]
    assert instances.ids is not None and instances.masks is not None
    assert instances.ids.tolist() == [1, 2, 3, 4, 5, 6, 7, 8] and not data.counts
    assert sorted(instances.masks.areas().tolist()) == AREAS


def test_an_inverted_tiff_that_pillow_alone_decodes_is_read_as_stored(tmp_path: Path) -> None:
    image = Image.fromarray(255 - LABELS)  # Pillow inverts it when it saves it as white-is-zero
    for path in write_set(tmp_path, LABELS).glob("masks/*.tif"):
        image.save(path, compression="tiff_lzw", tiffinfo={262: 0})
    _, instances = LabelImages(tmp_path, "train")[0]
    assert instances.ids is not None and instances.ids.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(
    ("labels", "suffix", "how"),
    [
        (INSIDE * np.uint8(255), "png", {}),
        (INSIDE.astype(np.uint8), "png", {}),
        (INSIDE, "png", {}),
        (INSIDE, "tif", {}),
        (INSIDE * np.uint8(255), "tif", {"photometric": "miniswhite"}),
        (INSIDE * np.uint16(65_535), "tif", {}),
        (np.where(INSIDE, 2, 1).astype(np.uint8), "png", {}),
    ],
)
def test_masks_of_one_value_become_connected_pieces_with_a_word(
    tmp_path: Path, labels: NDArray[Any], suffix: str, how: dict[str, Any]
) -> None:
    data = LabelImages(write_set(tmp_path, labels, suffix, **how), "train")
    instances = data[0][1]
    assert instances.masks is not None and sorted(instances.masks.areas().tolist()) == AREAS
    assert data.counts[BINARY] == len(data) and not data.counts[COVERS]


@pytest.mark.parametrize("number", [1, 255])
def test_another_background_than_0_is_recognized(tmp_path: Path, number: int) -> None:
    data = LabelImages(write_set(tmp_path, with_background(number), "png"), "train")
    instances = data[0][1]
    assert instances.masks is not None and sorted(instances.masks.areas().tolist()) == AREAS
    assert data.counts == {BACKGROUND: 3}


def test_a_border_of_255_around_objects_is_no_object(tmp_path: Path) -> None:
    data = LabelImages(write_set(tmp_path, with_border(), "png"), "train")
    instances = data[0][1]
    assert instances.ids is not None and instances.ids.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert data.counts == {BORDER: 1}


def test_the_object_with_number_255_is_one_where_it_touches_no_other(tmp_path: Path) -> None:
    labels = np.where(LABELS == 8, 255, LABELS).astype(np.uint8)
    data = LabelImages(write_set(tmp_path, labels, "png"), "train")
    assert data[0][1].ids.tolist() == [1, 2, 3, 4, 5, 6, 7, 255] and not data.counts  # type: ignore[union-attr]


def test_an_object_that_covers_most_of_its_image_is_counted(tmp_path: Path) -> None:
    inverted = np.where(INSIDE, 0, 3).astype(np.uint8)
    inverted[:2, :2] = 5
    data = LabelImages(write_set(tmp_path, inverted, "png"), "train")
    assert len(data[0][1]) == 2 and data.counts == {COVERS: 1}


def test_classes_instead_of_objects_are_counted(tmp_path: Path) -> None:
    classes = np.where(INSIDE, 1 + LABELS % 2, 0).astype(np.uint8)
    data = LabelImages(write_set(tmp_path, classes, "png"), "train")
    assert len(data[0][1]) == 2 and data.counts == {PIECES: 6}


@pytest.mark.parametrize(
    ("samples", "kind"),
    [
        ([], LabelKind()),
        ([np.zeros((4, 4), np.uint8)], LabelKind()),
        ([np.ones((4, 4), np.uint8)], LabelKind()),  # one object that fills its image
        ([LABELS, INSIDE.astype(np.uint8)], LabelKind()),  # numbered elsewhere
        ([(LABELS == 3).astype(np.uint8)], LabelKind()),  # one object: its number stays
        ([np.arange(1, 17, dtype=np.uint8).reshape(4, 4)], LabelKind()),  # crowded: 1 is an object
        ([with_background(1), LABELS], LabelKind()),
        ([INSIDE.astype(np.uint8), np.zeros(SIZE, np.uint8)], LabelKind(is_binary=True)),
    ],
)
def test_a_kind_is_that_of_all_label_images_looked_at(samples: list[NDArray[Any]], kind: LabelKind) -> None:
    assert find_kind(samples) == kind


@pytest.mark.parametrize("layout", ["{part}/images|{part}/labels", "images/{part}|labels/{part}", "images|labels"])
def test_yolo_folders_are_named_as_such(tmp_path: Path, layout: str) -> None:
    for part in ("train", "val"):
        images, labels = (tmp_path / each for each in layout.format(part=part).split("|"))
        for folder in (images, labels):
            folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9)).save(images / f"{part}.png")
        (labels / f"{part}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    with pytest.raises(UserError, match=r"\.txt: .*YOLO format.*--dataset=yolo"):
        LabelImages(tmp_path, "train")
