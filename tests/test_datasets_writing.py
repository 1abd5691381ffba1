"""Writers of data sets: what the formats hold comes back, what they cannot hold is counted."""

from __future__ import annotations

import json
import weakref
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from datasets.config import DataConfig
from datasets.expressions import Expression
from datasets.readers.coco import Coco
from datasets.readers.cst import Cst
from datasets.readers.dsbowl2018 import DSBowl2018
from datasets.readers.label_images import LabelImages
from datasets.readers.splitting import MissingSplit
from datasets.readers.voc import Voc
from datasets.recognition import recognize_layout
from datasets.registry import parse_names
from datasets.splits import open_splits
from datasets.writing.conversion import BadImagesError, ImageSelection, convert, find_excluded
from datasets.writing.discovery import get_roles, open_parts
from datasets.writing.names import make_file_names, make_safe_name
from datasets.writing.voc import make_palette
from maskrcnn.config import UserError
from maskrcnn.files import atomic_folder
from maskrcnn.images.reading import read_image
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks

SIZE = (40, 48)
SHAPES = ("circle", "square", "triangle")
BIG, SMALL, FAR, HIDDEN = (4, 4, 20, 20), (8, 8, 14, 14), (30, 24, 42, 36), (9, 9, 12, 12)


def masks_of(windows, size=SIZE):
    dense = torch.zeros(len(windows), *size, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(dense, windows, strict=True):
        mask[y1:y2, x1:x2] = True
    return CroppedMasks.from_dense(dense) if windows else CroppedMasks.empty(size)


def with_masks(windows, labels=None, ignore=None, ids=None):
    labels = torch.tensor(labels or [1] * len(windows), dtype=torch.int64)
    ids = torch.tensor(ids or range(1, len(windows) + 1), dtype=torch.int64)
    flags = torch.tensor(ignore or [False] * len(windows)).bool()
    return Instances.from_masks(masks_of(windows), labels, flags, ids)


def with_boxes(boxes, labels=None, ignore=None):
    labels = torch.tensor(labels or [1] * len(boxes), dtype=torch.int64)
    flags = torch.tensor(ignore or [False] * len(boxes)).bool()
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Instances(SIZE, boxes, labels, ignore=flags, ids=torch.arange(1, len(boxes) + 1))


class Listed:
    """Images of noise with the given objects; None is an image that cannot be read."""

    def __init__(self, truths, class_names=("thing",), names=None, ids=None):
        self.truths, self.class_names, self.counts = truths, class_names, {}
        self.has_masks = any(each is not None and each.masks is not None for each in truths)
        self.image_names = list(names or (f"img-{i}" for i in range(len(truths))))
        self.image_ids = list(ids or range(len(truths)))

    def __len__(self):
        return len(self.truths)

    def __getitem__(self, index):
        if self.truths[index] is None:
            raise UserError(f"{self.image_names[index]}.png: is broken")
        noise = np.random.default_rng(index).integers(0, 256, (3, *SIZE), np.uint8)
        return torch.from_numpy(noise), self.truths[index]


def lost(done):
    return " | ".join(done.losses.lines())


def same_masks(found, wanted):
    return torch.equal(found.masks.to_dense(), wanted.masks.to_dense())


# ---- formats


def test_coco_holds_ids_names_classes_overlaps_and_what_to_ignore(tmp_path):
    truths = [with_masks([BIG, SMALL], [2, 1], [False, True], [70, 8]), with_masks([], []), with_masks([FAR], ids=[9])]
    data = Listed(truths, ("a", "b"), ids=[5, 0, 2**40])
    done = convert({"train": data}, tmp_path / "out", "coco")
    assert lost(done) == "" and done.images == {"train": 3} and done.objects == {"train": 3}
    read = Coco(tmp_path / "out", "train")
    assert (read.image_ids, read.image_names, read.class_names) == (data.image_ids, data.image_names, ("a", "b"))
    for i, truth in enumerate(truths):
        image, found = read[i]
        assert torch.equal(image, data[i][0]) and same_masks(found, truth)
        assert found.ids.tolist() == truth.ids.tolist() and found.labels.tolist() == truth.labels.tolist()
        assert found.ignore.tolist() == truth.ignore.tolist() and torch.equal(found.boxes, truth.boxes)


def test_coco_numbers_objects_anew_where_their_ids_are_of_the_image(tmp_path):
    done = convert({"train": Listed([with_masks([BIG, FAR])] * 2)}, tmp_path / "out", "coco")
    assert lost(done) == 'the ids of 2 objects, which are renumbered (old ids in "instance")'
    entries = json.loads((tmp_path / "out/annotations/instances_train.json").read_text())["annotations"]
    assert [(each["id"], each["instance"]) for each in entries] == [(1, 1), (2, 2), (3, 1), (4, 2)]


def test_coco_keeps_fractions_of_boxes(tmp_path):
    corners = np.random.default_rng(0).uniform(0, 20, (200, 4)).astype(np.float32)
    corners[:, 2:] += corners[:, :2]
    corners[0], corners[1] = (1, 2, 3, 4), (0.1, 0.2, 0.35, 0.4567)
    convert({"train": Listed([with_boxes(corners.tolist())])}, tmp_path / "out", "coco")
    read = Coco(tmp_path / "out", "train")
    assert not read.has_masks and read[0][1].boxes.numpy().tolist() == corners.tolist()
    entries = json.loads((tmp_path / "out/annotations/instances_train.json").read_text())["annotations"]
    assert entries[0]["bbox"] == [1, 2, 2, 2] and entries[0]["area"] == 4 and "segmentation" not in entries[0]
    assert entries[1]["bbox"] == [0.1, 0.2, 0.25, 0.2567]


def test_labels_hold_ids_and_put_small_objects_on_top(tmp_path):
    truth = with_masks([BIG, SMALL, FAR], [1, 2, 1], [False, False, True], [300, 7, 65_535])
    parts = {"train": Listed([truth], ("a", "b")), "test": Listed([with_masks([FAR], ids=[65_536])], ("a", "b"))}
    done = convert(parts, tmp_path / "out", "labels")
    for words in (
        "overlapped pixels of 1 object:",
        "ids of 1 object,",
        "class of 4 objects",
        "ignore flags of 1 object",
        "ids of 2 images",
    ):
        assert words in lost(done), words
    found = LabelImages(tmp_path / "out", "train")[0][1]
    assert found.ids.tolist() == [7, 300, 65_535]
    small, big, far = found.masks.to_dense()
    dense = truth.masks.to_dense()
    assert torch.equal(small, dense[1]) and torch.equal(big, dense[0] & ~dense[1]) and torch.equal(far, dense[2])
    assert LabelImages(tmp_path / "out", "test")[0][1].ids.tolist() == [1]


def test_an_object_wholly_hidden_is_said(tmp_path):
    done = convert({"train": Listed([with_masks([SMALL, SMALL])])}, tmp_path / "out", "labels")
    assert "1 object completely covered by smaller ones" in lost(done) and "overlapped pixels" not in lost(done)


@pytest.mark.parametrize(("to", "reader"), [("labels", LabelImages), ("dsb", DSBowl2018)])
def test_three_parts_are_read_back_as_three_splits(tmp_path, to, reader):
    masks = {"train": BIG, "val": SMALL, "test": FAR}
    parts = {part: Listed([with_masks([mask])], names=[f"in-{part}"]) for part, mask in masks.items()}
    done = convert(parts, tmp_path / "out", to)
    assert not any("part of" in line for line in done.losses.lines())
    for part in masks:
        data = reader(tmp_path / "out", part)
        assert data.image_names == [f"in-{part}"]
        assert torch.equal(data[0][1].boxes, parts[part][0][1].boxes)


def test_labels_of_one_part_lie_in_the_folder_itself(tmp_path):
    convert({"train": Listed([with_masks([BIG])])}, tmp_path / "out", "labels")
    assert len(LabelImages(tmp_path / "out", "train")) == 1
    with pytest.raises(MissingSplit, match="has no list 'test'"):
        LabelImages(tmp_path / "out", "test")


READER_OF = {"coco": "coco", "voc": "voc:2012-masks", "dsb": "dsbowl2018", "labels": "labels", "cst": "cst"}
UNTRAINABLE = {"coco", "voc", "cst"}  # whose files name a part "test" or "val" without training images


@pytest.mark.parametrize("to", READER_OF)
@pytest.mark.parametrize(
    "counts", [{"train": 6}, {"val": 6}, {"test": 6}, {"train": 6, "val": 2}, {"train": 6, "test": 2}]
)
def test_any_parts_with_training_images_can_be_trained_on(tmp_path, to, counts):
    parts = {
        part: Listed([with_masks([BIG])] * count, ("circle",), names=[f"{part}-{k}" for k in range(count)])
        for part, count in counts.items()
    }
    convert(parts, tmp_path / "out", to)
    if "train" not in counts and to in UNTRAINABLE:
        with pytest.raises(UserError, match="train"):
            open_splits(parse_names(READER_OF[to])[0], tmp_path / "out", DataConfig())
        return
    splits = open_splits(parse_names(READER_OF[to])[0], tmp_path / "out", DataConfig())
    opened = {name: getattr(splits, name) for name in ("train", "val", "test")}
    names = [name for each in opened.values() if each is not None for name in each.image_names]
    assert sorted(names) == sorted(name for part in parts.values() for name in part.image_names)
    assert len(splits.train) and len(splits.test)
    if "test" in counts and len(counts) > 1:
        assert list(splits.test.image_names) == parts["test"].image_names
    written = get_roles(READER_OF[to], counts)
    if "val" in counts and len(counts) > 1:
        assert list(opened[written["val"]].image_names) == parts["val"].image_names


def test_coco_of_an_object_without_a_mask_has_no_segmentation(tmp_path):
    both = with_masks([BIG, (0, 0, 0, 0)])
    both.boxes[1] = torch.tensor([2.0, 3, 9, 7])
    done = convert({"train": Listed([both])}, tmp_path / "out", "coco")
    assert "'segmentation' of 1 object, which have only a box: pycocotools evaluates boxes alone" in lost(done)
    path = tmp_path / "out/annotations/instances_train.json"
    entries = json.loads(path.read_text())["annotations"]
    assert ["segmentation" in each for each in entries] == [True, False] and entries[1]["area"] == 28
    _, found = Coco(tmp_path / "out", "train")[0]
    assert same_masks(found, both) and torch.equal(found.boxes, both.boxes) and not found.ignore.any()
    assert found.has_mask().tolist() == [True, False]
    truth = COCO(str(path))
    results = [{key: each[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9} for each in entries]
    evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
    evaluation.evaluate(), evaluation.accumulate(), evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)
    exported = both.to_coco()
    assert ["segmentation" in each for each in exported] == [True, False]


def test_dsb_holds_overlaps_and_parts(tmp_path):
    truth = with_masks([BIG, HIDDEN, SMALL, *[FAR] * 9])
    parts = {"train": Listed([truth], names=["x"]), "val": Listed([truth], names=["y"])}
    done = convert(parts | {"test": Listed([truth], ("nucleus",), names=["z"])}, tmp_path / "out", "dsb")
    assert "part of" not in lost(done) and "overlapped" not in lost(done) and "objects, which" not in lost(done)
    assert json.loads((tmp_path / "out/split.json").read_text()) == {"train": ["x"], "test": ["z"], "val": ["y"]}
    for split, name in (("train", "x"), ("test", "z")):
        data = DSBowl2018(tmp_path / "out", split)
        assert data.image_names == [name] and same_masks(data[0][1], truth)


def test_names_that_two_parts_share_are_told_apart_where_there_is_one_folder(tmp_path):
    parts = {"train": Listed([with_masks([BIG])], names=["a"]), "test": Listed([with_masks([FAR])], names=["A"])}
    done = convert(parts, tmp_path / "out", "dsb")
    assert "names of 2 images" in lost(done)
    assert DSBowl2018(tmp_path / "out", "test").image_names == ["test_A"]


def test_cst_holds_overlaps_to_the_pixel(tmp_path):
    speck, comb = (1, 1, 2, 2), [(x, 3, x + 1, 30) for x in range(20, 40, 2)]
    truth = with_masks([BIG, SMALL, speck, *comb], [1, 2, 3, *[1] * 10], [True, *[False] * 12])
    done = convert({"val": Listed([truth], ("triangle", "circle", "square"), names=["cst-3"])}, tmp_path / "out", "cst")
    assert "exact pixels of 1 image" in lost(done) and "the ignore flags of 1 object" in lost(done)
    data = Cst(tmp_path / "out", "val")
    image, found = data[0]
    assert data.image_names == ["cst-3"] and data.image_ids == [3] and same_masks(found, truth)
    assert [data.class_names[k - 1] for k in found.labels.tolist()[:3]] == ["triangle", "circle", "square"]
    assert image.shape == (3, *SIZE)


def test_voc_holds_masks_classes_and_difficult_objects(tmp_path):
    truth = with_masks([BIG, FAR], [2, 1], [False, True])
    done = convert({"train": Listed([truth], ("a<&", "b"))}, tmp_path / "out", "voc")
    assert lost(done) == "the ids of 1 image, which are identified by name"
    boxes, masks = Voc(tmp_path / "out", "train"), Voc(tmp_path / "out", "train", masks=True)
    assert boxes.class_names == ("a<&", "b") and boxes.image_names == ["img-0"]
    for data in (boxes, masks):
        found = data[0][1]
        assert found.labels.tolist() == [2, 1] and found.ignore.tolist() == [False, True]
        assert torch.equal(found.boxes, truth.boxes)
    assert same_masks(masks[0][1], truth)
    assert "<xmin>5</xmin><ymin>5</ymin><xmax>20</xmax>" in (tmp_path / "out/Annotations/img-0.xml").read_text()
    classes = np.asarray(Image.open(tmp_path / "out/SegmentationClass/img-0.png"))
    assert classes[5, 5] == 2 and classes[30, 35] == 1 and classes[0, 0] == 0


def test_voc_rounds_boxes_and_says_so(tmp_path):
    truth = with_boxes([(1.4, 2.6, 10, 11), (5.1, 5.1, 5.3, 5.2), (47.6, 39.7, 48, 40), (1, 2, 3, 4)])
    done = convert({"train": Listed([truth])}, tmp_path / "out", "voc")
    assert "exact boxes of 3 objects" in lost(done)
    found = Voc(tmp_path / "out", "train")[0][1].boxes.tolist()
    assert found == [[1, 3, 10, 11], [5, 5, 6, 6], [47, 39, 48, 40], [1, 2, 3, 4]]


def test_voc_says_which_masks_have_no_number_left(tmp_path):
    windows = [(x, y, x + 1, y + 1) for y in range(0, 20, 2) for x in range(0, 48, 2)] + [(0, 25, 48, 26)] * 17
    windows = windows[:240] + [(x, 30, x + 1, 31) for x in range(0, 34, 2)]
    done = convert({"train": Listed([with_masks(windows)])}, tmp_path / "out", "voc")
    assert len(windows) == 257 and "the masks of 3 objects beyond 254 per image" in lost(done)
    data = Voc(tmp_path / "out", "train", masks=True)
    assert len(data[0][1]) == 257 and int(data[0][1].has_mask().sum()) == 254
    assert (np.asarray(Image.open(tmp_path / "out/SegmentationObject/img-0.png")) == 255).sum() == 3


def test_the_palette_is_vocs():
    colors = np.array(make_palette()).reshape(256, 3)
    assert colors[[0, 1, 2, 3, 8, 255]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [128, 128, 0],
        [64, 0, 0],
        [224, 224, 192],
    ]
    assert len({tuple(color) for color in colors.tolist()}) == 256


@pytest.mark.parametrize("to", ["labels", "dsb", "cst"])
def test_boxes_only_are_refused_where_masks_must_be(tmp_path, to):
    with pytest.raises(UserError, match=f"--to={to}: stores masks, but this data has only boxes"):
        convert({"train": Listed([with_boxes([(1, 2, 3, 4)])])}, tmp_path / "out", to)
    assert not list(tmp_path.iterdir())


def test_cst_refuses_other_classes(tmp_path):
    with pytest.raises(UserError, match="supports only the classes circle, square, triangle, not 'cat'"):
        convert({"train": Listed([with_masks([BIG])], ("circle", "cat"))}, tmp_path / "out", "cst")


def test_classes_of_the_parts_are_joined_by_name(tmp_path):
    parts = {
        "train": Listed([with_masks([BIG, FAR], [1, 2])], ("a", "b")),
        "test": Listed([with_masks([BIG, FAR], [1, 2])], ("c", "a")),
    }
    convert(parts, tmp_path / "out", "coco")
    data = Coco(tmp_path / "out", "test")
    assert data.class_names == ("a", "b", "c") and data[0][1].labels.tolist() == [3, 1]


def test_parts_with_and_without_masks_become_boxes(tmp_path):
    parts = {"train": Listed([with_masks([BIG])]), "test": Listed([with_boxes([(1, 2, 3, 4)])])}
    done = convert(parts, tmp_path / "out", "coco")
    assert "the masks of 1 part:" in lost(done) and not Coco(tmp_path / "out", "train").has_masks


def test_objects_without_mask_and_box_are_left_out(tmp_path):
    truth = with_masks([BIG, (0, 0, 0, 0), FAR])
    for to, words in (("coco", "1 object with an empty mask and no box"), ("dsb", "1 object without a mask")):
        done = convert({"train": Listed([truth])}, tmp_path / to, to)
        assert words in lost(done) and done.objects["train"] == 2


def test_boxes_and_empty_masks_are_kept_where_the_format_holds_them(tmp_path):
    """Boxes a pixel wider than the mask, beside it, and of an object without a mask; label images hold extents."""
    truth = with_masks([BIG, (0, 0, 0, 0), FAR])
    boxes = truth.boxes + torch.tensor([[-1.0, 0, 2, 0], [7, 8, 9, 11], [0, 0, 0, 0]])
    parts = {"train": Listed([replace(truth, boxes=boxes)])}
    for to, reader in (("coco", Coco), ("voc", partial(Voc, masks=True))):
        done = convert(parts, tmp_path / to, to)
        found = reader(tmp_path / to, "train")[0][1]
        assert found.boxes.tolist() == boxes.tolist() and same_masks(found, truth) and "mask" not in lost(done)
    done = convert(parts, tmp_path / "labels", "labels")
    found = LabelImages(tmp_path / "labels", "train")[0][1]
    assert found.boxes.tolist() == truth.boxes[[0, 2]].tolist()
    assert "1 object without a mask" in lost(
        done
    ) and "the boxes of 1 object, which are replaced by the bounding boxes" in lost(done)


def test_the_image_file_itself_is_kept_where_a_reader_names_it(tmp_path):
    Image.fromarray(np.full((*SIZE, 3), 90, np.uint8)).save(tmp_path / "a.JPG", quality=30)
    data = Listed([with_masks([BIG])])
    data.image_file = lambda index: tmp_path / "a.JPG"
    for to, path in (("coco", "images/train/img-0.jpg"), ("voc", "JPEGImages/img-0.jpg"), ("dsb", None)):
        convert({"train": data}, tmp_path / to, to)
        if path is not None:
            assert (tmp_path / to / path).read_bytes() == (tmp_path / "a.JPG").read_bytes()
    assert (tmp_path / "dsb/stage1_train/img-0/images/img-0.png").is_file()
    assert len(Coco(tmp_path / "coco", "train")[0][1]) == 1


@pytest.mark.parametrize("to", ["labels", "coco", "voc", "dsb", "cst"])
def test_every_reader_names_the_files_of_its_images(tmp_path, to):
    truth = with_masks([BIG, SMALL])
    convert({"train": Listed([truth] * 3, ("circle",)), "test": Listed([truth], ("circle",))}, tmp_path / "a", to)
    (part,) = open_parts(tmp_path / "a", recognize_layout(tmp_path / "a"), ("train",)).values()
    assert len({part.image_file(index) for index in range(3)}) == 3
    for index in range(3):
        assert torch.equal(read_image(part.image_file(index)), part[index][0])
    convert({"train": part, "test": part}, tmp_path / "b", "coco")
    for index, name in enumerate(part.image_names):
        file = part.image_file(index)
        assert (tmp_path / f"b/images/train/{name}{file.suffix}").read_bytes() == file.read_bytes()


def test_an_image_that_does_not_lie_upright_is_written_anew(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)).save(
        tmp_path / "a.jpg", exif=exif
    )

    class Turned(Listed):
        def image_file(self, index):
            return tmp_path / "a.jpg"

        def __getitem__(self, index):
            return read_image(self.image_file(index)), self.truths[index]

    convert({"train": Turned([with_boxes([BIG])])}, tmp_path / "out", "coco")
    with Image.open(tmp_path / "out/images/train/img-0.png") as image:
        assert image.size == SIZE[::-1]
    assert torch.equal(Coco(tmp_path / "out", "train")[0][0], read_image(tmp_path / "a.jpg"))


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_are_kept_where_the_format_has_them(tmp_path, channels):
    for kind in ("images", "masks"):
        (tmp_path / "a" / kind).mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(33_000, 33_255, (*SIZE, channels)).astype(np.uint16).squeeze()
    for name in ("x", "y"):
        tifffile.imwrite(tmp_path / f"a/images/{name}.tif", pixels, photometric="rgb" if channels == 3 else None)
        Image.fromarray(np.eye(*SIZE, dtype=np.uint8)).save(tmp_path / f"a/masks/{name}.png")
    data = LabelImages(tmp_path / "a", "train")
    for to in ("voc", "dsb", "coco", "labels"):
        lost_bits = [words for words in lost(convert({"train": data}, tmp_path / to, to)) if "bits" in words]
        (part,) = open_parts(tmp_path / to, recognize_layout(tmp_path / to), ("train",)).values()
        assert torch.equal(part[0][0], data[0][0]) and not lost_bits
    circles = LabelImages(tmp_path / "a", "train", class_name="circle")
    assert "the lower 8 bits of 1 image with 16 bits: JPEG has 8" in lost(
        convert({"train": circles}, tmp_path / "cst", "cst")
    )


@pytest.mark.parametrize(
    ("files", "name"),
    [
        (["annotations/aitod_trainval_v1.json"], "aitod"),
        (["annotations/aitodv2_trainval.json", "annotations/aitodv2_test.json"], "aitod:v2"),
        (["VisDrone2018-DET-val/images/a.jpg"], "visdrone"),
    ],
)
def test_layouts_are_recognised_by_what_only_they_have(tmp_path, files, name):
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert recognize_layout(tmp_path) == name


def test_both_versions_of_aitod_are_told_apart(tmp_path):
    for name in ("aitod_test_v1.json", "aitodv2_test.json"):
        (tmp_path / name).touch()
    with pytest.raises(
        UserError,
        match="could be aitod .aitod_test_v1.json. or aitod:v2 .aitodv2_test.json.; choose one",
    ):
        recognize_layout(tmp_path)


def test_parts_of_voc_are_found_by_lists_that_begin_with_a_mark(tmp_path):
    convert({"train": Listed([with_boxes([BIG])]), "val": Listed([with_boxes([BIG])])}, tmp_path / "a", "voc")
    for path in (tmp_path / "a/ImageSets/Main").iterdir():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert list(open_parts(tmp_path / "a", "voc")) == ["train", "val"]


# ---- which images


def test_exclude_file_names_images_by_id_by_name_and_by_file(tmp_path):
    listed = [with_masks([BIG])] * 5
    parts = {
        "train": Listed(listed, names=["a", "b", "7", "d.v2", "e"], ids=[10, 11, 12, 13, 7]),
        "test": Listed(listed[:1], names=["a"], ids=[99]),
    }
    (tmp_path / "ids.txt").write_text("\ufeff11\r\n\n 7 \nd.v2.JPG\n99\nnobody\n123456789012345678901234\n")
    excluded, strange = find_excluded(parts, tmp_path / "ids.txt")
    assert excluded == {"train": [1, 2, 3], "test": [0]} and strange == 2  # "7" is a name, and so no id
    done = convert(parts, tmp_path / "out", "coco", ImageSelection(excluded))
    assert done.images == {"train": 2} and Coco(tmp_path / "out", "train").image_names == ["a", "e"]


@pytest.mark.parametrize(
    ("text", "error"), [("", "is empty"), ("nobody\n", "matches no image"), (None, "cannot be read")]
)
def test_exclude_files_that_make_no_sense(tmp_path, text, error):
    if text is not None:
        (tmp_path / "ids.txt").write_text(text)
    with pytest.raises(UserError, match=error):
        find_excluded({"train": Listed([with_masks([BIG])])}, tmp_path / "ids.txt")


def test_subsets_by_expression(tmp_path):
    truths = [with_masks([BIG]), None, with_masks([BIG, FAR]), with_masks([FAR, BIG])]
    choice = ImageSelection(subset=Expression("index != 1 and num_objects > 1 and id < 3"))
    assert convert({"train": Listed(truths)}, tmp_path / "out", "coco", choice).images == {"train": 1}
    with pytest.raises(UserError, match="no image is left"):
        convert({"train": Listed(truths)}, tmp_path / "no", "coco", ImageSelection(subset=Expression("id > 9")))


def test_bad_images_are_all_named_and_nothing_is_left_behind(tmp_path):
    data = Listed([with_masks([BIG]), None, with_masks([FAR]), None])
    with pytest.raises(BadImagesError, match="2 images cannot be read, such as: img-1.png: is broken; fix") as error:
        convert({"train": data}, tmp_path / "out", "coco")
    assert error.value.bad.names == ["img-1", "img-3"] and not list(tmp_path.iterdir())
    done = convert({"train": data}, tmp_path / "out", "coco", ImageSelection(skip_bad=True))
    assert done.images == {"train": 2} and done.bad.reasons == ["img-1.png: is broken", "img-3.png: is broken"]
    with pytest.raises(UserError, match="no image is left to write, such as: img-0.png: is broken"):
        convert({"train": Listed([None])}, tmp_path / "none", "coco", ImageSelection(skip_bad=True))


# ---- names


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("a/b\\c", "a_b_c"),
        ("../../etc", "_.._.._etc"),
        (".hidden", "_.hidden"),
        ("con", "_con"),
        ("LPT1.x", "_LPT1.x"),
        ("a:b*?", "a_b__"),
        ("end. ", "end"),
        (" ", "image"),
        ("a\nb\0", "a_b_"),
        ("\udcff", "_"),
        ("e\u0301", "é"),
        ("v1.2", "v1.2"),
        ("ж" * 100, "ж" * 60),
    ],
)
def test_safe_names(name, safe):
    assert make_safe_name(name) == safe


def test_names_differ_after_being_made_safe():
    names = {"train": ["a/b", "a:b", "A_B", "a_b_2"], "test": ["a_b"]}
    assert make_file_names(names, one_folder=False) == {"train": ["a_b", "a_b_3", "A_B_4", "a_b_2"], "test": ["a_b"]}
    together = [name.casefold() for each in make_file_names(names, one_folder=True).values() for name in each]
    assert len(set(together)) == 5


@pytest.mark.parametrize("to", ["coco", "voc", "dsb", "labels", "cst"])
def test_strange_names_come_out_readable(tmp_path, to):
    names = ["a/b", "a\\b", ".x", "CON", "ü 1", "p.q", "<&>", 'say "hi", you']
    done = convert({"train": Listed([with_masks([BIG])] * 8, ("circle",), names)}, tmp_path / "out", to)
    openers = {"coco": Coco, "voc": Voc, "dsb": DSBowl2018, "labels": LabelImages, "cst": Cst}
    data = openers[to](tmp_path / "out", "train")
    assert len(data) == 8 and "ü 1" in data.image_names and "names of 6 images" in lost(done)
    assert all(len(data[i][1]) == 1 for i in range(8))


# ---- places


def test_what_is_there_is_replaced_only_if_it_was_made_here_and_is_untouched(tmp_path):
    data, out = {"train": Listed([with_masks([BIG])])}, tmp_path / "out"
    convert(data, out, "coco")
    with pytest.raises(UserError, match="already exists; --overwrite replaces it"):
        convert(data, out, "labels")
    convert(data, out, "labels", overwrite=True)
    assert recognize_layout(out) == "labels"
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="files have been added or removed since it was written"):
        convert(data, out, "coco", overwrite=True)
    (out / "conversion.json").unlink()
    with pytest.raises(UserError, match="has no conversion.json of this program"):
        convert(data, out, "coco", overwrite=True)
    assert (out / "notes.txt").read_text() == "mine" and [path.name for path in tmp_path.iterdir()] == ["out"]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file, not a folder"):
        convert(data, tmp_path / "file", "coco", overwrite=True)


def test_an_end_in_the_middle_leaves_what_was_there(tmp_path):
    data, out = Listed([with_masks([BIG])] * 2), tmp_path / "out"
    convert({"train": data}, out, "coco")

    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert({"train": data}, out, "labels", overwrite=True, progress=stop)
    assert recognize_layout(out) == "coco" and [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_disk_that_says_no_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match="cannot be written|cannot be read"),
        atomic_folder(tmp_path / "file" / "out", False, lambda path: None),
    ):
        raise AssertionError("must not begin")


def test_recognising_what_is_ambiguous_or_unknown(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        recognize_layout(tmp_path / "none")
    with pytest.raises(UserError, match="has no files; name the folder of the images and their annotations"):
        recognize_layout(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(
        UserError, match=r"the format is unknown \(it contains notes.txt\); set --dataset.*coco: annotations"
    ):
        recognize_layout(tmp_path)
    (tmp_path / "notes.txt").unlink()
    for name in ("images", "masks", "annotations"):
        (tmp_path / name).mkdir()
    (tmp_path / "annotations.json").write_text("{}")
    (tmp_path / "masks" / "a.png").touch()
    with pytest.raises(UserError, match="could be coco .annotations.json. or labels .masks.; choose one"):
        recognize_layout(tmp_path)


def test_memory_holds_few_images_at_a_time(tmp_path):
    alive: list[weakref.ref] = []
    most = 0

    class Watched(Listed):
        def __getitem__(self, index):
            nonlocal most
            image, instances = super().__getitem__(index)
            most = max(most, sum(each() is not None for each in alive))
            alive.append(weakref.ref(image))
            return image, instances

    convert({"train": Watched([with_masks([BIG])] * 20)}, tmp_path / "out", "labels")
    assert len(alive) == 20 and most <= 2
