"""Label images as people have them: the same eight objects from each kind of file, with a word where it is unusual."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from datasets.config import ReadingConfig
from datasets.readers.label_images import LabelImages
from datasets.readers.label_kinds import LabelKind, find_kind
from datasets.recognition import recognize
from maskrcnn.config import UserError

SIZE = (64, 96)
BINARY = "label images of one value read as masks, split into connected components"
BACKGROUND = "label images read with a background other than 0"
BORDER = "label images whose border of 255 is not read as an object"
COVERS = "images mostly covered by one object"
COLORS = "label images in color, read as numbers R + 256 G + 65,536 B"
SPLIT = "pieces of objects made objects of their own (--split_components)"
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


# ---- numbers of any type, colors, pieces, pages


def read(root: Path, **reading: Any) -> tuple[LabelImages, list[int], list[int]]:
    """The data, and the numbers and areas of the objects on its first image."""
    data = LabelImages(root, "train", reading=ReadingConfig(**reading))
    instances = data[0][1]
    assert instances.ids is not None and instances.masks is not None
    return data, instances.ids.tolist(), instances.masks.areas().tolist()


@pytest.mark.parametrize("kind", ["uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32"])
def test_integers_of_any_type_and_whole_floats_are_read(tmp_path: Path, kind: str) -> None:
    step = 13 if "8" in kind else 4000 if "16" in kind else 250_000_000
    step = 400_000_000 if kind == "uint32" else 10**13 if "64" in kind else step  # beyond int32
    labels = (LABELS.astype(np.uint64) * np.uint64(step)).astype(kind)
    data, ids, areas = read(write_set(tmp_path, labels))
    assert ids == [step * number for number in range(1, 9)] and sorted(areas) == AREAS and not data.counts


def test_more_than_65535_objects_are_read(tmp_path: Path) -> None:
    labels = np.zeros((300, 600), np.int32)
    labels[:, ::2] = np.arange(1, 90_001).reshape(300, 300)
    _, ids, areas = read(write_set(tmp_path, labels, count=2))
    assert ids == list(range(1, 90_001)) and set(areas) == {1}


def colored(numbers: NDArray[Any]) -> NDArray[np.uint8]:
    return np.stack([numbers % 256, numbers // 256 % 256, numbers // 65_536], axis=2).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_ids_coded_as_colors_are_read_with_a_word(tmp_path: Path, suffix: str) -> None:
    numbers = LABELS.astype(np.int64) * 1_000_003
    data, ids, areas = read(write_set(tmp_path, colored(numbers), suffix))
    assert ids == [1_000_003 * number for number in range(1, 9)] and sorted(areas) == AREAS
    assert data.counts == {COLORS: 1}


def test_gray_stored_as_color_is_gray(tmp_path: Path) -> None:
    data, ids, areas = read(write_set(tmp_path, np.repeat(LABELS[:, :, None], 3, axis=2), "png"))
    assert ids == list(range(1, 9)) and sorted(areas) == AREAS and not data.counts


def test_transparent_pixels_and_white_around_colors_are_background(tmp_path: Path) -> None:
    colors = colored(LABELS.astype(np.int64) * 70_001)
    alpha = np.concatenate([np.where(INSIDE[:, :, None], colors, 77), INSIDE[:, :, None] * np.uint8(255)], axis=2)
    _, _, areas = read(write_set(tmp_path / "alpha", alpha.astype(np.uint8), "png"))
    assert sorted(areas) == AREAS
    white = np.where(INSIDE[:, :, None], colors, 255).astype(np.uint8)
    data, _, areas = read(write_set(tmp_path / "white", white, "png"))
    assert sorted(areas) == AREAS and data.counts[BACKGROUND] == len(data)


def test_a_background_of_minus_1_leaves_0_to_the_objects(tmp_path: Path) -> None:
    data, ids, areas = read(write_set(tmp_path, LABELS.astype(np.int16) - 1))
    assert ids == list(range(1, 9)) and sorted(areas) == AREAS and data.counts == {BACKGROUND: 3}


def test_a_given_background_wins_over_the_detected_one(tmp_path: Path) -> None:
    labels = np.where(INSIDE, LABELS, 200).astype(np.uint8)
    root = write_set(tmp_path, labels, "png")
    assert read(root)[1] == [*range(1, 9), 200]
    data, ids, _ = read(root, label_background=200)
    assert ids == list(range(1, 9)) and data.counts[BACKGROUND] == 3
    assert read(root, label_background=8)[1] == [*range(1, 8), 200]


def test_minus_1_beside_another_background_is_out_of_range(tmp_path: Path) -> None:
    labels = LABELS.astype(np.int16)
    labels[0, 0] = -1
    with pytest.raises(UserError, match="0.tif: has instance numbers out of range"):
        read(write_set(tmp_path, labels))


def test_disjoint_objects_are_kept_or_split(tmp_path: Path) -> None:
    pairs = np.where(INSIDE, (LABELS + 1) // 2, 0).astype(np.uint8)
    root = write_set(tmp_path, pairs, "png")
    kept, ids, areas = read(root)
    assert ids == [1, 2, 3, 4] and sum(areas) == sum(AREAS) and not kept.counts
    split, ids, areas = read(root, split_components=True)
    assert ids == list(range(1, 9)) and sorted(areas) == AREAS and split.counts == {SPLIT: 4}
    touching = np.zeros((9, 9), np.uint8)
    touching[2:4, 2:4], touching[4:6, 4:6], touching[2:4, 4:6] = 1, 1, 2  # corners touch; another object between
    assert read(write_set(tmp_path / "b", touching, "png"), split_components=True)[2] == [8, 4]


@pytest.mark.parametrize("how", [{}, {"imagej": True}, {"compression": "zlib"}, {"bigtiff": True}])
@pytest.mark.parametrize("value", [1, 255])
def test_each_page_of_a_stack_is_the_mask_of_an_object(tmp_path: Path, value: int, how: dict[str, Any]) -> None:
    pages = np.stack([(number == LABELS) * np.uint8(value) for number in range(1, 9)])
    pages[3] = 0
    pages[4, 2:9, 2:9] = value  # objects may overlap
    root = write_set(tmp_path, LABELS, count=4)
    for path in (root / "masks").iterdir():
        tifffile.imwrite(path, pages, photometric="minisblack", **how)
    data, ids, areas = read(root)
    assert ids == [1, 2, 3, 5, 6, 7, 8] and areas == [(pages[number - 1] > 0).sum() for number in ids]
    assert data.counts == {"empty masks dropped": 1}


def test_a_stack_that_is_cut_off_is_one_line(tmp_path: Path) -> None:
    root = write_set(tmp_path, LABELS, count=2)
    pages = np.repeat(INSIDE[None], 6, axis=0) * np.uint8(255)
    for path in (root / "masks").iterdir():
        tifffile.imwrite(path, pages, photometric="minisblack", compression="zlib")
        path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(UserError) as error:
        read(root)
    assert "\n" not in str(error.value) and ".tif" in str(error.value)


def test_cellpose_files_are_not_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle, "load", None)
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "a.png")
    np.save(tmp_path / "a_seg.npy", np.array({"masks": LABELS}, dtype=object), allow_pickle=True)
    assert recognize(tmp_path).name == "labels"
    with pytest.raises(UserError, match="a_seg.npy: is a Python pickle.*_cp_masks.png or .tif.*cellpose.io.save_masks"):
        read(tmp_path)
    for suffix in ("png", "tif"):
        Image.fromarray(LABELS).save(tmp_path / f"a_cp_masks.{suffix}")
        data = LabelImages(tmp_path, "train", split_file=split_of(tmp_path))
        assert data[0][1].ids is not None and data[0][1].ids.tolist() == list(range(1, 9))
        (tmp_path / f"a_cp_masks.{suffix}").unlink()


def split_of(root: Path) -> Path:
    path = root / "split.json"
    path.write_text('{"train": ["a"], "test": []}')
    return path


@pytest.mark.parametrize("folders", [("images", "labels"), ("images", "masks"), ("", "")])
@pytest.mark.parametrize("ending", ["-labelled", "_mask", "_masks", ""])
def test_tiles_of_qupath_with_an_ending_and_a_region_in_their_names(
    tmp_path: Path, folders: tuple[str, str], ending: str
) -> None:
    if not folders[0] and ending in ("", "_mask"):
        return
    for name in ("a [x=0,y=0,w=96,h=64]", "a [x=96,y=0,w=96,h=64]"):
        for folder, suffix, pixels in zip(folders, ("", ending), (np.zeros((*SIZE, 3), np.uint8), LABELS), strict=True):
            (tmp_path / folder).mkdir(exist_ok=True)
            tifffile.imwrite(tmp_path / folder / f"{name}{suffix}.tif", pixels)
    assert recognize(tmp_path).name == "labels"
    data, ids, _ = read(tmp_path)
    assert ids == list(range(1, 9)) and data.image_names[0].startswith("a [x=")


def test_two_label_images_of_one_image_are_an_error(tmp_path: Path) -> None:
    root = write_set(tmp_path, LABELS, "png")
    (root / "masks/0.png").rename(root / "masks/0_mask.png")
    (root / "masks/1.png").rename(root / "masks/0-labelled.png")
    with pytest.raises(UserError, match="is for the same image as 0-labelled.png; remove one"):
        read(root)
