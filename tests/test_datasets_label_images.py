"""Label images in the layouts of StarDist, Cellpose and `rgb_*` with `labels_*`, of any depth."""

import json
import struct
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
import tifffile
from PIL import Image
from readers_toy import loads, mutations, one_line

from datasets.readers.label_files import read_numbers
from datasets.readers.label_images import LabelImages
from datasets.readers.splitting import MissingSplit
from maskrcnn.config import UserError

NUMBERS = np.zeros((20, 30), np.int64)
NUMBERS[2:6, 3:9], NUMBERS[4:9, 12:20], NUMBERS[15, 29] = 7, 2, 100
IDS, BOXES = [2, 7, 100], [[12, 4, 20, 9], [3, 2, 9, 6], [29, 15, 30, 16]]


def write_pair(image: Path, labels: Path, numbers: np.ndarray = NUMBERS) -> None:
    for path in (image, labels):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", numbers.shape[::-1], (9, 8, 7)).save(image)
    if labels.suffix == ".tif":
        tifffile.imwrite(labels, numbers.astype(np.uint16))
    else:
        Image.fromarray(numbers.astype(np.uint16)).save(labels)


def stardist(root: Path, labels: str = "masks") -> Path:
    for part, names in (("train", "ab"), ("test", "c")):
        for name in names:
            write_pair(root / part / "images" / f"{name}.tif", root / part / labels / f"{name}.tif")
    return root


def one_folder(root: Path, count: int = 8) -> Path:
    for number in range(count):
        write_pair(root / f"{number:03}.png", root / f"{number:03}_masks.png")
    return root


def check(data: LabelImages, index: int = 0) -> None:
    image, instances = data[index]
    assert image[:, 0, 0].tolist() == [9, 8, 7] and instances.boxes.tolist() == BOXES
    assert instances.ids.tolist() == IDS and instances.labels.tolist() == [1, 1, 1] and not instances.ignore.any()
    np.testing.assert_array_equal(instances.masks.to_dense().numpy(), np.array(IDS)[:, None, None] == NUMBERS)


@pytest.mark.parametrize(("labels", "test"), [("masks", "test"), ("labels", "val"), ("masks", "validation")])
def test_stardist_folders(tmp_path, labels, test):
    root = stardist(tmp_path, labels)
    (root / "test").rename(root / test)
    data = LabelImages(root, "train", class_name="cell")
    assert (data.image_names, data.image_ids, data.class_names) == (["a", "b"], [0, 1], ("cell",)) and data.has_masks
    check(data, 1)
    check(LabelImages(root, "test"))
    assert LabelImages(root, "test").image_names == ["c"] and not data.counts


@pytest.mark.parametrize(
    ("image", "labels", "name"),
    [
        ("000.png", "000_masks.png", "000"),
        ("000_img.jpg", "000_masks.tif", "000"),
        ("x_img.tif", "x_img_masks.png", "x_img"),
        ("y.bmp", "y_cp_masks.png", "y"),
        ("rgb_3.png", "labels_3.png", "3"),
    ],
)
def test_pairs_beside_each_other(tmp_path, image, labels, name):
    for part in ("train", "test"):
        write_pair(tmp_path / part / image.replace("jpg", "tif"), tmp_path / part / labels)
        (tmp_path / part / "000_seg.npy").write_bytes(b"\x80\x04never unpickled")
    data = LabelImages(tmp_path, "train")
    assert data.image_names == [name]
    check(data)


def test_what_cellpose_writes_beside_its_images_is_no_image(tmp_path):
    root = one_folder(tmp_path, 2)
    for ending in ("_cp_masks.png", "_flows.tif", "_outlines.png", "_cp_output.png"):
        Image.new("RGB", (3, 3)).save(root / f"000{ending}")
    names = LabelImages(root, "train").image_names + LabelImages(root, "test").image_names
    assert sorted(names) == ["000", "001"]
    check(LabelImages(root, "train"))


def test_one_folder_is_split_by_seed_or_file(tmp_path):
    root = one_folder(tmp_path / "data")
    train, test = (LabelImages(root, split) for split in ("train", "test"))
    assert len(test) == 2 and sorted(train.image_names + test.image_names) == [f"{n:03}" for n in range(8)]
    assert test.image_ids == [int(name) for name in test.image_names]
    assert len({tuple(LabelImages(root, "test", subsetseed=seed).image_names) for seed in range(9)}) > 3
    (root / "split.json").write_text(json.dumps({"train": ["001"], "test": ["000", "003"]}))
    assert LabelImages(root, "test").image_names == ["000", "003"]
    (tmp_path / "mine.json").write_text(json.dumps({"train": ["005"], "test": []}))
    assert LabelImages(root, "train", tmp_path / "mine.json").image_names == ["005"]
    rows = [f"{n:03}.png,{'purple' if n < 4 else 'white'},white\n" for n in range(8)]
    (tmp_path / "kinds.csv").write_text("filename,foreground,background\n" + "".join(rows))
    names = LabelImages(root, "test", tmp_path / "kinds.csv").image_names
    assert sorted(name < "004" for name in names) == [False, True]


@pytest.mark.parametrize(
    "kind", ["uint8", "uint16", "int16", "uint32", "int32", "int64", "uint64", "float32", "float64"]
)
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiff_labels_of_every_depth(tmp_path, kind, compression):
    tifffile.imwrite(tmp_path / "labels.tif", NUMBERS.astype(kind), compression=compression)
    np.testing.assert_array_equal(read_numbers(tmp_path / "labels.tif").numpy(), NUMBERS)


@pytest.mark.parametrize("mode", ["L", "I;16", "P"])
def test_png_labels(tmp_path, mode):
    image = Image.fromarray(NUMBERS.astype(np.uint16 if mode == "I;16" else np.uint8))
    if mode == "P":
        image.putpalette(list(range(0, 255, 3)) * 9)
        assert image.mode == "P"
    image.save(tmp_path / "labels.png")
    np.testing.assert_array_equal(read_numbers(tmp_path / "labels.png").numpy(), NUMBERS)


def test_numbers_beyond_16_bits_are_objects(tmp_path):
    numbers = np.where(NUMBERS == 7, 2**31 - 1, NUMBERS).astype(np.int32)
    root = one_folder(tmp_path)
    for path in root.glob("*_masks.png"):
        path.unlink()
        tifffile.imwrite(path.with_suffix(".tif"), numbers)
    _, instances = LabelImages(root, "train")[0]
    assert instances.ids.tolist() == [2, 100, 2**31 - 1] and instances.boxes[2].tolist() == BOXES[1]


@pytest.mark.parametrize(("images", "labels"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_names_that_unicode_writes_in_two_ways_are_one(tmp_path, images, labels):
    for name in ("é1", "é2"):
        files = [f"{normalize(form, name)}.PNG" for form in (images, labels)]
        write_pair(tmp_path / "images" / files[0], tmp_path / "masks" / files[1])
    data = LabelImages(tmp_path, "train")
    check(data)
    names = data.image_names + LabelImages(tmp_path, "test").image_names
    assert sorted(names) == ["é1", "é2"]
    for form in ("NFC", "NFD"):
        listed = {"train": [normalize(form, "é2")], "test": []}
        (tmp_path / "split.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(listed).encode())
        assert LabelImages(tmp_path, "train").image_names == ["é2"]


@pytest.mark.parametrize("kind", ["int32", "uint32", "float32"])
def test_bigtiff_labels(tmp_path, kind):
    tifffile.imwrite(tmp_path / "labels.TIF", NUMBERS.astype(kind), bigtiff=True)
    np.testing.assert_array_equal(read_numbers(tmp_path / "labels.TIF").numpy(), NUMBERS)


def labelled(values: np.ndarray, **how):
    return lambda root: tifffile.imwrite(root / "train/masks/a.tif", values, **how)


def stack(part: str):
    return lambda root: tifffile.imwrite(
        root / f"train/{part}/a.tif", np.zeros((3, 20, 30), np.uint16), photometric="minisblack"
    )


def gray_with_alpha(root: Path) -> None:
    (root / "train/masks/a.tif").unlink()
    Image.new("LA", (30, 20)).save(root / "train/masks/a.png")


def imagej(root: Path) -> None:
    description = "ImageJ=1.53t\nimages=4\nslices=4\n"
    tifffile.imwrite(root / "train/images/a.tif", NUMBERS.astype(np.uint8), description=description, metadata=None)


BAD = [
    (labelled(NUMBERS.astype(np.float32) + 0.5), "masks/a.tif: instance numbers must be integers"),
    (labelled(np.where(NUMBERS > 0, np.nan, 0).astype(np.float32)), "masks/a.tif: instance numbers must be integers"),
    (labelled(NUMBERS.astype(np.float32) * 1e17), "masks/a.tif: has instance numbers out of range"),
    (labelled(-NUMBERS.astype(np.int32)), "masks/a.tif: has instance numbers out of range"),
    (labelled(NUMBERS * 10**17), "masks/a.tif: has instance numbers out of range"),
    (labelled(NUMBERS[:9].astype(np.uint8)), "masks/a.tif: is 30 x 9 but its image is 30 x 20"),
    (gray_with_alpha, "masks/a.png: labels must have one channel of instance numbers"),
    (labelled(np.stack([NUMBERS, NUMBERS])), "masks/a.tif: page 1 has several numbers; a file of several pages must"),
    (labelled(np.zeros((4, 9, 30), np.uint8)), "masks/a.tif: is 30 x 9 but its image is 30 x 20"),
    (stack("images"), "images/a.tif: is a stack of shape"),
    (imagej, "images/a.tif: is truncated: it has 1 of its 4 planes"),
    (lambda root: (root / "train/masks/a.tif").write_bytes(b"II*\0"), "masks/a.tif: not a readable image"),
    (lambda root: (root / "train/masks/a.tif").write_bytes(b""), "masks/a.tif: not a readable image"),
    (lambda root: (root / "train/masks/a.tif").unlink(), "images/a.tif: image has no labels of that name"),
    (lambda root: (root / "train/images/a.tif").unlink(), "masks/a.tif: labels have no image of that name"),
    (lambda root: Image.new("L", (3, 3)).save(root / "train/masks/a.png"), "differs from a.png only in suff"),
    (lambda root: (root / "train/labels").mkdir(), "train: has both masks and labels"),
    (lambda root: (root / "train").rename(root / "elsewhere"), "has test but no folder train"),
    (lambda root: (root / "train/masks").rename(root / "train/other"), "train: has no images with labels"),
]


@pytest.mark.parametrize(("spoil", "words"), BAD)
def test_broken_sets_are_named(tmp_path, spoil, words):
    spoil(stardist(tmp_path))
    with pytest.raises(UserError) as error:
        LabelImages(tmp_path, "train")[0]
    assert words in one_line(error)


def test_a_set_without_a_test_folder_says_so_where_that_is_asked_for(tmp_path):
    root = stardist(tmp_path)
    (root / "test").rename(root / "elsewhere")
    assert len(LabelImages(root, "train")) > 0
    with pytest.raises(MissingSplit, match="has train but no folder for 'test'"):
        LabelImages(root, "test")


def test_labels_that_jpeg_has_blurred_are_refused(tmp_path):
    write_pair(tmp_path / "train/images/a.png", tmp_path / "train/masks/a.tif")
    (tmp_path / "train/masks/a.tif").unlink()
    (tmp_path / "test").mkdir()
    Image.fromarray(NUMBERS.astype(np.uint8)).save(tmp_path / "train/masks/a.jpg")
    with pytest.raises(UserError, match=r"a\.jpg: JPEG alters instance numbers"):
        LabelImages(tmp_path, "train")[0]


FLAT = [
    (lambda root: (root / "000_masks.png").unlink(), "000.png: image has no labels"),
    (lambda root: (root / "000.png").unlink(), "000_masks.png: labels have no image"),
    (lambda root: Image.new("L", (3, 3)).save(root / "000_img.png"), "000 and 000_img both match"),
    (lambda root: (root / "split.json").write_text("[]"), "split.json: has no list 'train'"),
    (lambda root: (root / "split.json").write_text('{"train": ["009"], "test": []}'), "lists image '009'"),
    (lambda root: (root / "classes.csv").write_text("filename\n"), "classes.csv:1: has no column 'foreground'"),
    (lambda root: (root / "classes.csv").write_text("filename,foreground,background\n"), "no row for 8 images"),
    (lambda root: [path.unlink() for path in root.glob("*.png")], "has no images with labels"),
]


@pytest.mark.parametrize(("spoil", "words"), FLAT)
def test_broken_folders_are_named(tmp_path, spoil, words):
    spoil(one_folder(tmp_path))
    with pytest.raises(UserError) as error:
        LabelImages(tmp_path, "train")
    assert words in one_line(error)


def test_unknown_splits_and_folders_and_useless_split_files(tmp_path):
    stardist(tmp_path)
    for options in ({"split": "val"}, {"root": tmp_path / "no"}, {"split_file": "split.json"}):
        with pytest.raises(UserError) as error:
            LabelImages(**{"root": tmp_path, "split": "train", **options})
        assert one_line(error)


@pytest.mark.parametrize("kind", ["tif 16", "tif 64", "png"])
def test_no_change_of_a_label_file_brings_another_error(tmp_path, kind):
    root = one_folder(tmp_path, 2)
    name = LabelImages(root, "train").image_names[0]
    path = root / f"{name}_masks.png"
    if kind != "png":
        path.unlink()
        path = path.with_suffix(".tif")
        tifffile.imwrite(path, NUMBERS.astype(np.int64 if kind == "tif 64" else np.uint16), compression="zlib")
    content, results = path.read_bytes(), []
    for changed in mutations(content, 300, seed=4):
        path.write_bytes(changed)
        results.append(loads(lambda: LabelImages(root, "train")))
    assert 0 < sum(results) < len(results)


def test_a_tiff_that_claims_to_be_huge_is_refused(tmp_path):
    root = stardist(tmp_path)
    tifffile.imwrite(root / "train/masks/a.tif", NUMBERS)
    content = bytearray((root / "train/masks/a.tif").read_bytes())
    for tag in (256, 257):  # width and height, of type 4 or 3 and count 1
        at = content.index(struct.pack("<H", tag), 8)
        content[at : at + 12] = struct.pack("<HHII", tag, 4, 1, 60_000)
    (root / "train/masks/a.tif").write_bytes(content)
    with pytest.raises(UserError, match="masks/a.tif|masks.a.tif"):
        LabelImages(root, "train")[0]
