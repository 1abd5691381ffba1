"""PASCAL VOC: boxes from 1 and inclusive, masks by object number, and everything that XML can get wrong."""

import logging
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
from PIL import Image
from readers_toy import loads, mutations, one_line

from datasets.readers.voc import CLASS_NAMES, Voc
from maskrcnn.config import UserError

SIZE = (30, 40)  # H, W
OBJECT = (
    "<object><name>{name}</name><pose>Left</pose><difficult>{difficult}</difficult>"
    "<bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox>"
    "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part></object>"
)


def an_object(*box: object, name: str = "cat", difficult: object = 0) -> str:
    return OBJECT.format(*box, name=name, difficult=difficult)


def xml(*objects: str, size: tuple[int, int] = SIZE) -> str:
    head = f"<size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>"
    return "<annotation>\n<filename>any.jpg</filename>\n" + "\n".join([head, *objects]) + "\n</annotation>\n"


def write_set(folder: Path, name: str, images: list[str], kind: str = "Main") -> None:
    (folder / "ImageSets" / kind).mkdir(parents=True, exist_ok=True)
    (folder / "ImageSets" / kind / f"{name}.txt").write_text("".join(f"{image}\n" for image in images))


def write_image(folder: Path, name: str, annotation: str, suffix: str = ".jpg") -> None:
    for part in ("Annotations", "JPEGImages", "SegmentationObject"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "Annotations" / f"{name}.xml").write_text(annotation)
    Image.new("RGB", SIZE[::-1], (200, 10, 10)).save(folder / "JPEGImages" / f"{name}{suffix}")


def write_masks(folder: Path, name: str, numbers: np.ndarray) -> None:
    """A palette image with VOC's white border colour at 255."""
    image = Image.fromarray(numbers.astype(np.uint8), "L").convert("P")
    image.putdata(numbers.astype(np.uint8).ravel().tolist())
    image.putpalette([value for index in range(256) for value in (index, 255 - index, 7 * index % 256)])
    image.save(folder / "SegmentationObject" / f"{name}.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "VOCdevkit" / "VOC2012"
    two = xml(an_object(5, 7, 12, 20), an_object("1.5", 2, 40, 30, name="tvmonitor", difficult=1))
    write_image(folder, "2007_000032", two)
    write_image(folder, "2008_000001", xml(), suffix=".png")
    write_image(folder, "2009_000007", xml(an_object(1, 1, 1, 1, name="person")))
    numbers = np.zeros(SIZE, np.uint8)
    numbers[6:20, 4:12], numbers[5, 4:12], numbers[25:28, 30:33] = 1, 255, 2
    write_masks(folder, "2007_000032", numbers)
    write_masks(folder, "2008_000001", numbers * 0)
    for kind in ("Main", "Segmentation"):
        write_set(folder, "train", ["2007_000032", "2008_000001"], kind)
        write_set(folder, "val", ["2009_000007"], kind)
    return folder


def test_boxes_end_after_their_last_pixel(folder):
    data = Voc(folder.parents[1], "train")
    assert data.class_names == CLASS_NAMES and len(CLASS_NAMES) == 20 and not data.has_masks
    assert data.image_names == ["2007_000032", "2008_000001"] and data.image_ids == [2007000032, 2008000001]
    image, instances = data[0]
    assert image.shape == (3, *SIZE) and instances.masks is None
    assert instances.boxes.tolist() == [[4, 6, 12, 20], [0.5, 1, 40, 30]]
    assert instances.labels.tolist() == [8, 20] and instances.ids.tolist() == [1, 2]
    assert instances.ignore.tolist() == [False, True] and not data.counts
    assert len(data[1][1]) == 0 and data[1][0].shape == (3, *SIZE)
    assert Voc(folder, "test")[0][1].boxes.tolist() == [[0, 0, 1, 1]]


def test_difficult_objects_can_be_kept(folder):
    assert Voc(folder, "train", keep_difficult=True)[0][1].ignore.tolist() == [False, False]


def test_masks_are_the_objects_of_the_same_number_without_the_border(folder):
    data = Voc(folder.parent, "train", masks=True)
    _, instances = data[0]
    dense = instances.masks.to_dense().numpy()
    expected = np.zeros((2, *SIZE), bool)
    expected[0, 6:20, 4:12], expected[1, 25:28, 30:33] = True, True
    np.testing.assert_array_equal(dense, expected)
    assert data.has_masks and instances.boxes.tolist() == [[4, 6, 12, 20], [0.5, 1, 40, 30]]  # the file's
    assert instances.labels.tolist() == [8, 20] and instances.ignore.tolist() == [False, True]
    assert len(data[1][1]) == 0


def test_an_object_without_pixels_keeps_its_box_and_is_counted_once(folder, caplog):
    write_masks(folder, "2007_000032", np.where(np.arange(40) < 9, 2, 0) + np.zeros((30, 1), int))
    data = Voc(folder, "train", masks=True)
    with caplog.at_level(logging.WARNING, logger="datasets"):
        assert [data[0][1].ids.tolist() for _ in range(3)] == [[1, 2]] * 3
    assert data.counts["objects without a mask, used for boxes only"] == 1
    instances = data[0][1]
    assert instances.has_mask().tolist() == [False, True] and instances.boxes[0].tolist() == [4, 6, 12, 20]


def test_an_object_with_a_broken_box_takes_the_extent_of_its_mask(folder):
    text = xml(an_object(12, 7, 5, 20), an_object(2, 2, 40, 30, name="tvmonitor"))
    (folder / "Annotations" / "2007_000032.xml").write_text(text)
    instances = Voc(folder, "train", masks=True)[0][1]
    assert instances.boxes.tolist() == [[4, 6, 12, 20], [1, 1, 40, 30]] and instances.ids.tolist() == [1, 2]


def test_boxes_are_clipped_or_dropped_by_the_common_rule(folder):
    bad = [(0, 1, 5, 5), (30, 20, 60, 60), (9, 9, 3, 12), (100, 100, 120, 120), ("nan", 1, 2, 3), (2, 2, "1e999", 9)]
    (folder / "Annotations" / "2007_000032.xml").write_text(xml(*(an_object(*box) for box in bad)))
    data = Voc(folder, "train", counts_from="1")
    assert data[0][1].boxes.tolist() == [[0, 0, 5, 5], [29, 19, 40, 30]] and data[0][1].ids.tolist() == [1, 2]
    assert data.counts == {
        "boxes clipped to the image": 2,
        "inverted or empty boxes dropped": 1,
        "boxes outside the image dropped": 1,
        "boxes that are not finite dropped": 2,
    }


def test_own_classes_and_names(folder):
    for path, name in (("2007_000032", "zebra"), ("2009_000007", "ant")):
        (folder / "Annotations" / f"{path}.xml").write_text(xml(an_object(1, 1, 3, 3, name=name)))
    (folder / "labels.txt").write_text("zebra\n\n ant \n")
    assert Voc(folder, "train").class_names == ("zebra", "ant") and Voc(folder, "test")[0][1].labels.tolist() == [2]
    given = Voc(folder, "test", class_names=["ant", "zebra"])
    assert given.class_names == ("ant", "zebra") and given[0][1].labels.tolist() == [1]


def test_2007_trains_on_trainval_if_its_test_is_annotated(folder):
    old = folder.rename(folder.with_name("VOC2007"))
    write_set(old, "trainval", ["2007_000032", "2009_000007"])
    write_set(old, "test", ["000001"])
    for root, year in ((old.parents[1], "2007"), (old.parent, "2007"), (old, "2012")):
        assert len(Voc(root, "train", year)) == 2 and Voc(root, "test", year).image_names == ["2009_000007"]
    write_image(old, "000001", xml())
    assert Voc(old, "train").image_names == ["2007_000032", "2009_000007"]
    assert Voc(old, "test").image_ids == [1]
    assert Voc(old, "train", image_set="train").image_names == ["2007_000032", "2008_000001"]


def test_a_test_list_that_is_annotated_goes_before_val(folder):
    write_set(folder, "test", ["2007_000032", "000001"])
    assert Voc(folder, "test").image_names == ["2007_000032", "000001"]
    write_set(folder, "test", ["000001"])  # which has no XML, as PASCAL's own of 2012
    assert Voc(folder, "test").image_names == ["2009_000007"]


def test_names_without_numbers_and_lists_of_one_test(folder):
    write_image(folder, "first", xml())
    write_set(folder, "train", ["first", "2007_000032"])
    (folder / "ImageSets/Main/val.txt").rename(folder / "ImageSets/Main/test.txt")
    assert Voc(folder, "train").image_ids == [0, 1] and Voc(folder, "test").image_names == ["2009_000007"]


@pytest.mark.parametrize("image", ["2007_000032.JPG", "2007_000032.PNG"])
def test_what_other_tools_write(folder, image):
    """Capitals, sizes of 0, name spaces, comments, the lines and marks of Windows; floats were seen above."""
    text = xml(an_object(5, 7, 12, 20), size=(0, 0)).replace("cat", "c<!-- a comment -->at")
    text = text.replace("<annotation>", "<annotation verified='yes' xmlns='http://example.org'>").replace("\n", "\r\n")
    (folder / XML).write_bytes(b"\xef\xbb\xbf" + text.encode())
    write_set(folder, "train", ["2007_000032"])
    path = folder / "ImageSets/Main/train.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    (folder / "JPEGImages/2007_000032.jpg").rename(folder / "JPEGImages" / image)
    data = Voc(folder, "train")
    assert data[0][1].boxes.tolist() == [[4, 6, 12, 20]] and data[0][1].labels.tolist() == [8]
    assert data.image_file(0) == folder / "JPEGImages" / image


@pytest.mark.parametrize(("listed", "stored"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_that_unicode_writes_in_two_ways_are_one(folder, listed, stored):
    name = normalize(stored, "é")
    write_image(folder, name, xml(an_object(1, 1, 3, 3)))
    write_masks(folder, name, np.ones(SIZE))
    for kind in ("Main", "Segmentation"):
        (folder / "ImageSets" / kind / "train.txt").write_text(normalize(listed, "é"), encoding="utf-8")
    for masks in (False, True):
        assert len(Voc(folder, "train", masks=masks)[0][1]) == 1


def rename_lists(folder: Path) -> None:
    """Lists of images by class alone."""
    for path in list(folder.glob("*.txt")):
        path.rename(path.with_name(f"cat_{path.name}"))


def put(name: str, text: str | bytes):
    content = text if isinstance(text, bytes) else text.encode()
    return lambda folder: (folder / name).write_bytes(content)


XML = "Annotations/2007_000032.xml"
BAD = [
    (put(XML, xml(an_object(1, 1, 2, 2, name="zebra"))), "2007_000032.xml:4: object 1 has class 'zebra'"),
    (put(XML, xml(an_object("two", 1, 2, 2))), "2007_000032.xml:4: xmin of object 1 is 'two'"),
    (put(XML, xml(an_object(1, "", 2, 2))), "2007_000032.xml:4: object 1 has no <ymin>"),
    (put(XML, xml("<object><name>cat</name></object>")), "2007_000032.xml:4: object 1 has no <bndbox>"),
    (put(XML, xml("<object></object>")), "2007_000032.xml:4: object 1 has no <name>"),
    (put(XML, xml(an_object(1, 1, 2, 2, difficult="very"))), "2007_000032.xml:4: difficult of object 1 is 'very'"),
    (put(XML, xml(size=(30, 41))), "<size> is 41 x 30 but the image is 40 x 30"),
    (put(XML, xml(size=(0, 40))), "<size> is 40 x 0 but the image is 40 x 30"),
    (put(XML, xml(size=(-1, 40))), "2007_000032.xml:3: height is '-1'; it must be an integer from 0 to"),
    (put(XML, "<annotation><size><width>4</width></size></annotation>"), "2007_000032.xml:1: <size> has no <height>"),
    (put(XML, xml()[:-15]), "2007_000032.xml:3: is not valid XML (no element found)"),
    (put(XML, "<annotation>\n<a></b>\n</annotation>"), "2007_000032.xml:2: is not valid XML (mismatched tag)"),
    (put(XML, ""), "2007_000032.xml:1: is not valid XML"),
    (put(XML, "<html/>"), "2007_000032.xml:1: is not a VOC annotation but <html>"),
    (put(XML, b"<annotation>\n\xff</annotation>"), "2007_000032.xml:2: is not valid XML (not well-formed"),
    (put(XML, "<?xml version='1.0' encoding='utf-7'?>\n<annotation/>"), "2007_000032.xml:1: is not valid XML"),
    (put(XML, "<?xml version='1.0' encoding='no-such'?>\n<annotation/>"), "2007_000032.xml:1: is not valid XML"),
    (
        put(XML, "\n<!DOCTYPE a [<!ENTITY b 'bb'>]>\n<annotation>&b;</annotation>"),
        "2007_000032.xml:2: document type",
    ),
    (put(XML, "\ufeff<!DOCTYPE annotation><annotation/>".encode("utf-16-le")), "2007_000032.xml:1: document type decl"),
    (put(XML, "<annotation>" + "<a>" * 10**5 + "</a>" * 10**5 + "</annotation>"), "nested more than 50 levels deep"),
    (lambda folder: (folder / XML).unlink(), "2007_000032.xml: no such annotation file"),
    (lambda folder: (folder / "JPEGImages/2007_000032.jpg").unlink(), "2007_000032.jpg: no such image file"),
    (put("ImageSets/Main/train.txt", ""), "train.txt: lists no images"),
    (put("ImageSets/Main/train.txt", "a\nb\n\na\n"), "train.txt:4: image 'a' appears twice, first on line 1"),
    (put("ImageSets/Main/train.txt", "a\n../b\n"), "train.txt:2: file name '../b' points out"),
    (put("ImageSets/Main/train.txt", "/etc/passwd\n"), "train.txt:1: file name '/etc/passwd' points out"),
    (put("ImageSets/Main/train.txt", b"a\nb\xff\n"), "train.txt:2: is not UTF-8"),
    (put("ImageSets/Main/train.txt", "x" * 300), "cannot be read"),
    (put("labels.txt", "\n"), "labels.txt: is empty"),
    (put("classes.txt", "a\nb\na\n"), "classes.txt:3: class 'a' appears twice"),
    (lambda folder: rename_lists(folder / "ImageSets/Main"), "ImageSets/Main: has neither"),
    (lambda folder: (folder / "Annotations").rename(folder / "elsewhere"), "has no VOC2012 with Annotations"),
    (lambda folder: folder.rename(folder.with_name("VOC2010")), "no VOC2012 with Annotations, but VOC2010"),
]


@pytest.mark.parametrize(("spoil", "words"), BAD)
def test_broken_boxes_are_named(folder, spoil, words):
    spoil(folder)
    with pytest.raises(UserError) as error:
        Voc(folder.parents[1], "train")[0]
    assert words in one_line(error)


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        (np.full(SIZE, 3), "has pixels of object 3 but its XML file lists 2 objects"),
        (np.ones((30, 41)), "2007_000032.png: is 41 x 30 but its image is 40 x 30"),
    ],
)
def test_broken_masks_are_named(folder, numbers, words):
    write_masks(folder, "2007_000032", numbers)
    with pytest.raises(UserError) as error:
        Voc(folder, "train", masks=True)[0]
    assert words in one_line(error)
    assert len(Voc(folder, "train", masks=True)[1][1]) == 0  # others stay readable


def test_colours_and_missing_files_instead_of_masks_are_named(folder):
    path = folder / "SegmentationObject" / "2007_000032.png"
    Image.new("RGB", SIZE[::-1]).save(path)
    with pytest.raises(UserError, match="2007_000032.png.*one channel"):
        Voc(folder, "train", masks=True)[0]
    path.unlink()
    with pytest.raises(UserError, match="2007_000032.png.*no such"):
        Voc(folder, "train", masks=True)[0]


def test_unknown_splits_lists_and_folders(folder, tmp_path):
    for options in (
        {"split": "val"},
        {"image_set": "zebra"},
        {"image_set": "../Main/train"},
        {"root": tmp_path / "no"},
    ):
        with pytest.raises(UserError) as error:
            Voc(**{"root": folder, "split": "train", **options})
        assert one_line(error)


@pytest.mark.parametrize("file", [XML, "ImageSets/Main/train.txt"])
def test_no_change_of_a_file_brings_another_error(folder, file):
    content = (folder / file).read_bytes()
    results = []
    for number, changed in enumerate(mutations(content, 300, seed=1)):
        (folder / file).write_bytes(changed)
        results.append(loads(lambda masks=bool(number % 2): Voc(folder, "train", masks=masks and file == XML)))
    assert not all(results) and (any(results) or file != XML)  # hardly a change of a list leaves names that are there
