"""Readers: what is on the disk arrives as instances, and what is wrong with it is said in one line."""

import json
import logging
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from datasets.readers.dsbowl2018 import DSBowl2018
from datasets.readers.generated import Generated
from datasets.readers.splitting import draw_split
from datasets.registry import open_dataset
from datasets.synthetic.config import SceneConfig, update_config
from datasets.synthetic.recipes import Recipe
from datasets.synthetic.writer import create
from maskrcnn.config import UserError
from maskrcnn.images.large import open_pixels
from maskrcnn.images.reading import read_image, read_labels

REAL = Path(__file__).parents[1] / ".." / "shared" / "data" / "dsbowl2018"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the real images are not here")


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- image files


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("RGB", (1, 2, 3), [1, 2, 3]),
        ("RGBA", (1, 2, 3, 0), [1, 2, 3]),
        ("L", 7, [7, 7, 7]),
        ("LA", (7, 0), [7, 7, 7]),
        ("1", 1, [255, 255, 255]),
        ("I;16", 0x1234, [0x1234, 0x1234, 0x1234]),
        ("I;16", 200, [200, 200, 200]),
    ],
)
def test_images_of_every_mode_become_rgb_of_their_depth(tmp_path, mode, value, expected):
    Image.new(mode, (4, 3), value).save(tmp_path / "image.png")
    image = read_image(tmp_path / "image.png")
    assert image.dtype == (torch.uint16 if mode == "I;16" else torch.uint8) and image.shape == (3, 3, 4)
    assert image[:, 1, 2].tolist() == expected


@pytest.mark.parametrize("values", [[0, 255], [15, 256], [100, 4095], [4095, 4096], [33_000, 33_001], [255, 65_535]])
@pytest.mark.parametrize("name", ["image.png", "image.tif"])
def test_images_of_16_bits_keep_their_values(tmp_path, values, name):
    Image.fromarray(np.array([values], np.uint16)).save(tmp_path / name)
    assert read_image(tmp_path / name)[:, 0].tolist() == [values] * 3
    with open_pixels(tmp_path / name) as image:
        assert image.is_deep and image.read(0, 0, 1, 2)[:, 0].tolist() == [values] * 3


def test_images_beyond_16_bits_and_of_negative_values_are_rejected(tmp_path):
    Image.fromarray(np.array([[5, 65_535, 256]], np.int32)).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif")[0].tolist() == [[5, 65_535, 256]]
    for values, words in (
        ([0, 65_536], "has pixel values up to 65536"),
        ([-5, 3], r"has negative pixel values \(down to -5\)"),
    ):
        Image.fromarray(np.array([values], np.int32)).save(tmp_path / "a.tif")
        with pytest.raises(UserError, match=rf"a\.tif: {words}"):
            read_image(tmp_path / "a.tif")


PICTURE = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)


@pytest.mark.parametrize("turned", range(10))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif", "a.tif deflate", "grey a.png", "grey a.tif"])
def test_images_are_turned_as_exif_says(tmp_path, turned, name):
    path = tmp_path / name.split()[-1 if "grey" in name else 0]
    picture = PICTURE[:, :, 0].astype(np.uint16) * 257 if "grey" in name else PICTURE
    if path.suffix == ".tif":
        orientation = [(274, "H", 1, turned, True)]
        tifffile.imwrite(path, picture, extratags=orientation, compression="zlib" if "deflate" in name else None)
    else:
        exif = Image.Exif()
        exif[0x0112] = turned
        Image.fromarray(picture).save(path, exif=exif)
    Image.fromarray(picture).save(tmp_path / f"upright{path.suffix}")
    expected = read_image(tmp_path / f"upright{path.suffix}").numpy()
    expected = expected[:, :, ::-1] if turned in (2, 3, 7, 8) else expected  # right to left
    expected = expected[:, ::-1] if turned in (3, 4, 6, 7) else expected  # upside down
    expected = expected.transpose(0, 2, 1) if turned in (5, 6, 7, 8) else expected
    np.testing.assert_array_equal(read_image(path).numpy(), expected)
    with open_pixels(path) as image:
        assert image.size == expected.shape[1:]
        np.testing.assert_array_equal(image.read(0, 0, *image.size).numpy(), expected)


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x09"])
def test_a_broken_exif_header_is_passed_over(tmp_path, exif):
    Image.fromarray(PICTURE).save(tmp_path / "a.png", exif=exif)
    assert torch.equal(read_image(tmp_path / "a.png"), torch.from_numpy(PICTURE).permute(2, 0, 1))


def test_labels_may_have_gaps_and_use_all_16_bits(tmp_path):
    numbers = np.array([[0, 3], [65_535, 900]], np.uint16)
    Image.fromarray(numbers).save(tmp_path / "labels.png")
    assert read_labels(tmp_path / "labels.png").tolist() == numbers.tolist()
    Image.fromarray(numbers.astype(np.uint8)).save(tmp_path / "labels.png")
    assert read_labels(tmp_path / "labels.png").tolist() == numbers.astype(np.uint8).tolist()


def bomb(path: Path, width: int = 60_000, height: int = 60_000) -> None:
    """A PNG of a few bytes that claims to be huge."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def truncated(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (90, 90), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:4000])


def flipped(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (90, 90), np.uint8)
    Image.fromarray(noise).save(path)
    content = bytearray(path.read_bytes())
    content[300:340] = bytes(40)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (bomb, "absurd size"),
        (lambda path: bomb(path, 10_000, 9_000), "absurd size"),  # here Pillow by itself only warns
        (truncated, "truncated"),
        (flipped, "broken"),
        (lambda path: path.write_bytes(b""), "not a readable image"),
        (lambda path: path.write_text("hello"), "not a readable image"),
        (lambda path: path.mkdir(), "bad.png: "),
        (os.mkfifo, "is not a regular file"),
        (lambda path: None, "no such image file"),
    ],
)
@pytest.mark.parametrize("read", [read_image, read_labels])
def test_files_that_are_no_images_are_named(tmp_path, spoil, words, read):
    spoil(tmp_path / "bad.png")
    with pytest.raises(UserError) as error:
        read(tmp_path / "bad.png")
    assert "bad.png" in one_line(error) and words in one_line(error)


def test_labels_that_are_colours_or_beyond_16_bits_are_refused(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "colour.png")
    with pytest.raises(UserError, match=r"colour\.png.*one channel"):
        read_labels(tmp_path / "colour.png")
    Image.fromarray(np.array([[0, 65_536]], np.int32)).save(tmp_path / "many.tiff")
    with pytest.raises(UserError, match=r"many\.tiff.*65536.*65535"):
        read_labels(tmp_path / "many.tiff")


# ---- ellipses


@pytest.fixture
def root(tmp_path: Path) -> Path:
    crowded = update_config(SceneConfig(), width=64, height=48, n_groups=1, n_free=25, min_visible_pixels=12)
    return create(tmp_path / "data", Recipe(n_train=2, n_val=0, n_test=1, scene=crowded))


def test_ellipses_arrive_as_written(root):
    data = open_dataset("ellipses", root, "train")
    assert (len(data), data.class_names, data.image_ids, data.image_names) == (
        2,
        ("ellipse",),
        [0, 1],
        ["000000", "000001"],
    )
    written = json.loads((root / "train" / "annotations.json").read_text())["annotations"]
    for index in range(2):
        image, instances = data[index]
        assert image.dtype == torch.uint8 and image.shape == (3, 48, 64) and instances.size == (48, 64)
        mine = [each for each in written if each["image_id"] == index]
        assert instances.ids.tolist() == [each["instance"] for each in mine]
        assert instances.masks.areas().tolist() == [each["area"] for each in mine]
        assert instances.ignore.tolist() == [bool(each["iscrowd"]) for each in mine]
        assert instances.ignore.any() and instances.labels.tolist() == [1] * len(mine)
        xywh = torch.cat([instances.boxes[:, :2], instances.boxes[:, 2:] - instances.boxes[:, :2]], dim=1)
        assert xywh.tolist() == [each["bbox"] for each in mine]
        labels = read_labels(root / "train" / "labels" / f"00000{index}.png")
        dense = instances.masks.to_dense()
        for number, mask in zip(instances.ids, dense, strict=True):
            assert torch.equal(mask, labels == number)


def test_label_numbers_with_gaps_and_images_without_objects(root):
    path = root / "test" / "labels" / "000000.png"
    labels = np.zeros((48, 64), np.uint16)
    labels[5:9, 7:9], labels[20, 30] = 65_535, 12
    Image.fromarray(labels).save(path)
    _, instances = Generated(root, "test")[0]
    assert instances.ids.tolist() == [12, 65_535]
    assert instances.boxes.tolist() == [[30, 20, 31, 21], [7, 5, 9, 9]]
    Image.fromarray(labels * 0).save(path)
    _, instances = Generated(root, "test")[0]
    assert len(instances) == 0 and len(instances.masks) == 0


def remove_images(root: Path) -> None:
    for path in (root / "train").glob("*/*.png"):
        path.unlink()


BAD_ELLIPSES = [
    (lambda root: (root / "train/labels/000001.png").unlink(), "images/000001.png"),
    (lambda root: (root / "train/images/000000.png").unlink(), "labels/000000.png"),
    (lambda root: Image.new("I;16", (9, 9)).save(root / "train/labels/000000.png"), "9 x 9"),
    (lambda root: truncated(root / "train/images/000000.png"), "images/000000.png"),
    (lambda root: bomb(root / "train/images/000000.png"), "images/000000.png"),
    (lambda root: (root / "train/labels/000000.png").write_bytes(b""), "labels/000000.png"),
    (lambda root: (root / "train/annotations.json").unlink(), "annotations.json"),
    (lambda root: (root / "train/annotations.json").write_text("{\n\nx}"), "annotations.json:3"),
    (lambda root: (root / "train/annotations.json").write_text("[1]"), "annotations.json"),
    (lambda root: (root / "train/annotations.json").write_bytes(b"\xff\xfe"), "annotations.json"),
    (remove_images, "has no images"),
    (lambda root: (root / "train").rename(root / "elsewhere"), "no such folder"),
]


@pytest.mark.parametrize(("spoil", "words"), BAD_ELLIPSES)
def test_broken_ellipses_are_named(root, spoil, words):
    spoil(root)
    with pytest.raises(UserError) as error:
        list(map(Generated(root, "train").__getitem__, range(2)))
    assert words in one_line(error).replace("\\", "/")


# ---- nuclei


def add_image(stage: Path, name: str, masks: list[np.ndarray], size: tuple[int, int] = (20, 30)) -> None:
    (stage / name / "images").mkdir(parents=True)
    (stage / name / "masks").mkdir()
    Image.new("RGBA", size[::-1], (10, 20, 30, 255)).save(stage / name / "images" / f"{name}.png")
    for index, mask in enumerate(masks):
        Image.fromarray(mask.astype(np.uint8) * 255).save(stage / name / "masks" / f"{index}.png")


def rectangle(y1: int, y2: int, x1: int, x2: int, size: tuple[int, int] = (20, 30)) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[y1:y2, x1:x2] = True
    return mask


@pytest.fixture
def bowl(tmp_path: Path) -> Path:
    stage = tmp_path / "bowl" / "stage1_train"
    empty = rectangle(0, 0, 0, 0)
    add_image(stage, "a", [rectangle(2, 6, 3, 9), empty, rectangle(4, 8, 5, 12)])
    for name in "bcdefgh":
        add_image(stage, name, [rectangle(0, 1, 0, 1)])
    return stage.parent


@pytest.mark.parametrize("suffix", [".tif", ".bmp"])
def test_masks_may_be_files_of_any_kind(bowl, suffix):
    for path in list((bowl / "stage1_train/a/masks").iterdir()):
        Image.open(path).save(path.with_suffix(suffix))
        path.unlink()
    (bowl / "split.json").write_text('{"train": ["a"], "test": []}')
    assert DSBowl2018(bowl, "train")[0][1].boxes.tolist() == [[3, 2, 9, 6], [5, 4, 12, 8]]


def test_nuclei_keep_overlaps_and_drop_empty_masks_with_a_word(bowl, caplog):
    (bowl / "split.json").write_text('{"train": ["a", "c"], "test": ["b"]}')
    data = DSBowl2018(bowl, "train")
    assert (data.image_names, data.image_ids, data.class_names) == (["a", "c"], [0, 2], ("nucleus",))
    with caplog.at_level(logging.WARNING, logger="datasets"):
        image, instances = data[0]
        data[0]
    assert [record.getMessage() for record in caplog.records] == [
        "a: empty masks dropped (first of its kind; others are only counted)"
    ]
    assert data.counts == {"empty masks dropped": 1} and data.has_masks
    assert image[:, 0, 0].tolist() == [10, 20, 30] and image.shape == (3, 20, 30)
    assert instances.boxes.tolist() == [[3, 2, 9, 6], [5, 4, 12, 8]]
    assert instances.ids.tolist() == [1, 3] and instances.labels.tolist() == [1, 1] and not instances.ignore.any()
    dense = instances.masks.to_dense().numpy()
    np.testing.assert_array_equal(dense, [rectangle(2, 6, 3, 9), rectangle(4, 8, 5, 12)])
    assert (dense.sum(axis=0) == 2).any()


@pytest.mark.parametrize("cache_mb", [0, 64])
def test_nuclei_are_the_same_from_memory_and_from_disk(bowl, cache_mb):
    data = DSBowl2018(bowl, "train", cache_mb=cache_mb)
    first, second = data[0], data[0]
    first[0].zero_()  # a caller may write into what it gets
    assert second[0].any() and data[0][0].any()
    assert torch.equal(first[1].masks.data, second[1].masks.data)


def test_the_split_comes_from_a_file_else_from_the_seed(bowl):
    drawn = {split: DSBowl2018(bowl, split).image_names for split in ("train", "test")}
    assert len(drawn["test"]) == 2 and sorted(drawn["train"] + drawn["test"]) == list("abcdefgh")
    assert DSBowl2018(bowl / "stage1_train", "test").image_names == drawn["test"]
    others = {tuple(DSBowl2018(bowl, "test", subsetseed=seed).image_names) for seed in range(9)}
    assert len(others) > 3
    (bowl / "split.json").write_text('{"train": ["h"], "test": ["b"]}')
    assert DSBowl2018(bowl, "train").image_names == ["h"]
    (bowl / "mine.json").write_text('{"train": ["c", "a"], "test": []}')
    assert DSBowl2018(bowl, "train", split_file=bowl / "mine.json").image_names == ["a", "c"]


def test_drawn_splits_do_not_depend_on_order_and_hardly_on_added_names():
    names = [f"image{number}" for number in range(200)]
    split = draw_split(names, 12345)
    assert draw_split(names[::-1], 12345) == split and len(split["test"]) == 50
    more = draw_split([*names, "new"], 12345)
    assert len(set(split["test"]) ^ set(more["test"])) <= 2
    assert draw_split(["only"], 1) == {"train": ["only"], "val": [], "test": []}


def write_split(text: str) -> Callable[[Path], int]:
    return lambda bowl: (bowl / "split.json").write_text(text)


BAD_BOWLS = [
    (lambda bowl: Image.new("L", (5, 5), 255).save(bowl / "stage1_train/a/masks/0.png"), "masks/0.png"),
    (lambda bowl: truncated(bowl / "stage1_train/a/masks/0.png"), "masks/0.png"),
    (lambda bowl: (bowl / "stage1_train/a/images/a.png").write_text(""), "images/a.png"),
    (lambda bowl: (bowl / "stage1_train/a/images/a.png").unlink(), "stage1_train/a"),
    (lambda bowl: (bowl / "stage1_train/a/masks").rename(bowl / "gone"), "no folder 'masks'"),
    (lambda bowl: (bowl / "stage1_train").rename(bowl / "stage9"), "stage1_train"),
    (write_split("{"), "split.json:1"),
    (write_split('{"test": ["a"]}'), "'train'"),
    (write_split('{"train": ["a"], "test": [7]}'), "'test'"),
    (write_split('{"train": ["a", "zebra"], "test": []}'), "zebra"),
    (write_split('{"train": ["a"], "test": ["a"]}'), "both"),
    (write_split('{"train": [], "test": ["a"]}'), "no image for 'train'"),
    (write_split('{"train": ["../bowl"], "test": ["a"]}'), "../bowl"),
]


@pytest.mark.parametrize(("spoil", "words"), BAD_BOWLS)
def test_broken_bowls_are_named(bowl, spoil, words):
    (bowl / "split.json").write_text('{"train": ["a"], "test": ["b"]}')
    spoil(bowl)
    with pytest.raises(UserError) as error:
        DSBowl2018(bowl, "train")[0]
    assert words in one_line(error).replace("\\", "/")


@needs_real
def test_the_real_images():
    train, test = (open_dataset("dsbowl2018:s1_train_val", REAL, split) for split in ("train", "test"))
    assert (len(train), len(test)) == (109, 39)
    assert not set(train.image_ids) & set(test.image_ids)
    for index in (0, 5, 20):
        image, instances = test[index]
        folder = REAL / "stage1_train" / test.image_names[index] / "masks"
        files = [np.asarray(Image.open(path).convert("L")) > 0 for path in sorted(folder.glob("*.png"))]
        assert image.shape[1:] == files[0].shape == instances.size
        assert instances.masks.areas().tolist() == [int(file.sum()) for file in files if file.any()]
        for place in (0, len(instances) - 1):
            assert torch.equal(instances.masks[place].to_dense()[0], torch.from_numpy(files[instances.ids[place] - 1]))


# ---- by name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("elipses", "did you mean 'ellipses'"),
        ("DSBowl2018", "did you mean 'dsbowl2018'"),
        ("dsbowl2018:s1_train", "did you mean 'dsbowl2018:s1_train_val'"),
        ("mnist", "use one of ellipses, shapes, coco"),
        ("", "use one of"),
    ],
)
def test_unknown_names_get_the_nearest(tmp_path, name, words):
    with pytest.raises(UserError) as error:
        open_dataset(name, tmp_path, "train")
    assert words in one_line(error)


@pytest.mark.parametrize("name", ["ellipses", "dsbowl2018"])
def test_missing_and_empty_folders_and_unknown_splits(tmp_path, name):
    (tmp_path / "stage1_train").mkdir()
    (tmp_path / "train" / "images").mkdir(parents=True)
    (tmp_path / "train" / "labels").mkdir()
    for root, split in ((tmp_path / "missing", "train"), (tmp_path, "train"), (tmp_path, "validate")):
        with pytest.raises(UserError) as error:
            open_dataset(name, root, split)
        assert one_line(error)


def test_a_split_file_that_would_not_be_used_is_refused(root):
    with pytest.raises(UserError, match="split_file"):
        open_dataset("ellipses", root, "train", split_file="split.json")
