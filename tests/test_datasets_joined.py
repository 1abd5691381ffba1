"""Several data sets as one, and some of a set's images."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from readers_toy import check_sound, one_line

from datasets.expressions import Expression
from datasets.joined import JoinedDataset, join_class_names
from datasets.selection import BadImages, Subset, select_images
from maskrcnn.config import UserError
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks


class Toy:
    """Image i has i objects, each of the class after the one before, and its place as its grey level."""

    def __init__(self, classes, ids, names=None, has_masks=True, bad=()):
        self.class_names, self.image_ids, self.has_masks, self.bad = tuple(classes), ids, has_masks, bad
        self.image_names = names or [f"{each:03d}" for each in ids]
        self.counts, self.read = {"boxes dropped": 1}, []

    def __len__(self):
        return len(self.image_ids)

    def __getitem__(self, index):
        self.read.append(index)
        if index in self.bad:
            raise UserError(f"folder/{index}.png: is {index} x 7 but (its image '{index}') is 9; fix it")
        labels = torch.arange(index) % len(self.class_names) + 1
        corners = torch.arange(index).float()[:, None] * torch.tensor([2.0, 0, 2, 0]) + torch.tensor([0.0, 0, 2, 3])
        masks = CroppedMasks.from_windows(corners.int(), [torch.full((3, 2), 255, dtype=torch.uint8)] * index, (8, 20))
        image = torch.full((3, 8, 20), index, dtype=torch.uint8)
        ids = torch.arange(index) + 10
        ignore = torch.arange(index) == 3
        if self.has_masks:
            return image, Instances.from_masks(masks, labels, ignore, ids)
        return image, Instances((8, 20), corners, labels, ignore=ignore, ids=ids)


# ---- joined


def test_classes_are_joined_by_name_in_the_order_of_their_appearance():
    a, b = Toy(["cat", "dog"], [0, 1, 2, 3]), Toy(["dog", "cow"], [7, 8, 9])
    data = JoinedDataset([a, b], ["a", "b"])
    assert data.class_names == join_class_names([a, b]) == ("cat", "dog", "cow")
    assert len(data) == 7 and data.image_ids == [0, 1, 2, 3, 7, 8, 9] and data.has_masks
    assert data.image_names == ["000", "001", "002", "003", "007", "008", "009"]
    assert data[3][1].labels.tolist() == [1, 2, 1] and data[6][1].labels.tolist() == [2, 3]
    assert data[6][1].ids.tolist() == [10, 11] and data[6][0][0, 0, 0] == 2 and torch.equal(data[-1][0], data[6][0])
    assert data.counts == Counter({"boxes dropped": 2})
    for index in range(7):
        check_sound(data, *data[index])
    with pytest.raises(IndexError):
        data[7]


def test_ids_and_names_that_clash():
    parts = [Toy("x", [3, 5]), Toy("x", [1, 5]), Toy("x", [20, 2]), Toy("x", [4, 30])]
    data = JoinedDataset(parts, ["a", "b", "c", "d"])
    assert data.image_ids == [3, 5, 6, 10, 20, 2, 4, 30], "a part moves as one, and only if it must"
    assert data.image_names == ["003", "a-005", "001", "b-005", "020", "002", "004", "030"]


def test_masks_only_if_all_have_them():
    parts = [Toy("x", [0, 1]), Toy("x", [2, 3], has_masks=False)]
    data = JoinedDataset(parts, ["a", "b"])
    assert not data.has_masks and data[1][1].masks is None and data[1][1].boxes.tolist() == [[0, 0, 2, 3]]
    alone = JoinedDataset(parts[:1], ["a"], ("w", "x"), with_masks=False)
    assert not alone.has_masks and alone[1][1].masks is None and alone[1][1].labels.tolist() == [2]


# ---- chosen


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("some.txt").write_text("101\n\n  103.png \n-7\n")
    Path("empty.txt").write_text("\n")
    Path("binary.txt").write_bytes(b"\xff\xfe\x00")
    return tmp_path


@pytest.mark.usefixtures("listed")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("index % 2 == 0", [0, 2, 4]),
        (" not (index % 2 == 0)\n and 1 < index < 5 ", [3]),
        ("index in [0, 4] or id == 102", [0, 2, 4]),
        ("id in ids('some.txt')", [1]),
        ("not (name in ids('some.txt'))", [0, 2, 4]),
        ("id not in ids('some.txt') and index > 0", [2, 3, 4]),
        ("like(name, '10[2-3]') or name == '100'", [0, 2, 3]),
        ("'04' in name", [4]),
        ("index * 2 - 1 + -1 >= 4", [3, 4]),
        ("num_objects > 1", [2, 3, 4]),
        ("num_objects == 3", [3, 4]),  # one of four is to ignore
        ("width == 20 and height == 8 and index < 2", [0, 1]),
        ("True and index < 1.5", [0, 1]),
    ],
)
def test_expressions_choose_images(text, expected):
    toy = Toy("x", [100, 101, 102, 103, 104])
    chosen, bad = select_images(toy, Expression(text), False)
    assert [int(chosen[i][0][0, 0, 0]) for i in range(len(chosen))] == expected and not len(bad)
    assert chosen.image_ids == [100 + each for each in expected]
    assert chosen.image_names == [str(each) for each in chosen.image_ids]
    assert (chosen.class_names, chosen.has_masks, chosen.counts) == (("x",), True, toy.counts)


@pytest.mark.parametrize(("text", "read"), [("index < 2", []), ("num_objects < 2", [0, 1, 2]), (None, [])])
def test_images_are_read_only_where_that_is_asked_for(text, read):
    toy, seen = Toy("x", [1, 2, 3]), []

    def over(places):
        seen.extend(places)
        return places

    chosen, _ = select_images(toy, text and Expression(text), False, over)
    assert toy.read == read and seen == read and isinstance(chosen, Subset if text else Toy)
    toy.read.clear()
    select_images(toy, Expression("index == 1 and num_objects == 1"), False)
    assert toy.read == [1]


@pytest.mark.usefixtures("listed")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("indx == 0", "'indx' at character 1 is an unknown name; did you mean 'index'?"),
        ("id == 0 and zebra", "'zebra' at character 13 is an unknown name; use index"),
        ("index ==", "cannot be read"),
        ("", "cannot be read"),
        ("index = 3", "cannot be read"),
        ("index\0 == 3", "cannot be read"),
        ("(" * 2000 + "index" + ")" * 2000, "cannot be read"),
        ("not " * 2000 + "True", ""),
        ("1" + "+1" * 4000 + " == 2", ""),
        ("1" * 6000 + " == index", "cannot be read"),
        ("index == " + " " * 20_000 + "1", "more than 10000 characters"),
        ("index % 2", "is 0, neither true nor false"),
        ("index", "is 0, neither true nor false"),
        ("index and True", "'index' at character 1 is the number 0, neither true nor false"),
        ("not name", "'name' at character 5 is the string '000'"),
        ("name > 5", "'name > 5' at character 1 compares the string '000' with the number 5"),
        ("id == '5'", "compares the number 0 with the string '5'"),
        ("id == [5]", "compares the number 0 with a list"),
        ("True == 1", "compares true or false with the number 1"),
        ("name + 'a' == 'b'", "'name' at character 1 is the string '000', not a number"),
        ("name % 3 == 'b'", "not a number"),
        ("index % 0 == 1", "'index % 0' at character 1 cannot be computed"),
        ("index in 5", "needs a list on the right"),
        ("[1] in [1]", "needs a single value on the left"),
        ("index is 0", "is not understood"),
        ("index ** 9 == 0", "'index ** 9' at character 1 is not understood"),
        ("~index == 0", "is not understood"),
        ("index == None", "'None' at character 10 is not understood"),
        ("index.real == 0", "'index.real' at character 1 is not understood"),
        ("name[0] == '0'", "is not understood"),
        ("[i for i in [1]] == 1", "is not understood"),
        ("(lambda: True)()", "is not understood"),
        ("f'{index}' == '0'", "is not understood"),
        ("__import__('os') == 1", "the functions are ids"),
        ("open('some.txt') == 1", "the functions are ids"),
        ("id in ids(name)", "the functions are ids"),
        ("id in ids('some.txt', 'b')", "the functions are ids"),
        ("like(name, 5)", "the functions are ids"),
        ("id in ids('none.txt')", "none.txt: cannot be read"),
        ("id in ids('a\\0b')", "cannot be read"),
        ("id in ids('empty.txt')", "lists no images"),
        ("id in ids('binary.txt')", "not UTF-8"),
        ("index > 5", "--subset=index > 5: holds for none of the 2 images"),
    ],
)
def test_expressions_that_make_no_sense_say_where(text, words):
    toy = Toy("x", [0, 1])
    with pytest.raises(UserError) as error:
        select_images(toy, Expression(text), True)
        assert not words, "some are fine for one Python and too deep for another"
        raise UserError("--subset")
    assert words in one_line(error) and "--subset" in str(error.value)


# ---- bad images


def test_bad_images_are_left_out_and_grouped():
    toy = Toy("x", [0, 1, 2, 3, 4, 5, 6], bad=(1, 2, 4, 5, 6))
    with pytest.raises(UserError, match="folder/1.png"):
        select_images(toy, Expression("num_objects >= 0"), False)
    assert select_images(toy, None, False)[0] is toy
    chosen, bad = select_images(toy, None, True)
    assert chosen.image_ids == [0, 3] and len(bad) == 5
    (line,) = bad.lines()
    assert line.startswith("5 like 001, 002, 004 and 2 more: folder/1.png: is 1 x 7")
    chosen, bad = select_images(toy, Expression("index < 3 and num_objects >= 0"), True)
    assert chosen.image_ids == [0] and bad.names == ["001", "002"]
    with pytest.raises(UserError, match="leaves none of the 7 images, such as: folder/1.png"):
        select_images(toy, Expression("index == 1"), True)


def test_different_reasons_are_different_groups():
    bad = BadImages(
        ["a", "b", "c"], ["x/a.png: no such image file", "x/b.xml: is broken", "x/c.png: no such image file"]
    )
    assert list(bad.lines()) == ["2 like a, c: x/a.png: no such image file", "b: x/b.xml: is broken"]
