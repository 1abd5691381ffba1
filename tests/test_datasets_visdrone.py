"""VisDrone: eight numbers a line, of which some say that an object is to be ignored."""

import multiprocessing
from pathlib import Path

import pytest
import torch
from PIL import Image
from readers_toy import check_sound, loads, mutations, one_line
from torch.utils.data import DataLoader

from datasets.readers.visdrone import VisDrone
from maskrcnn.config import UserError
from maskrcnn.evaluation.coco import evaluate_coco
from maskrcnn.structures.instances import Instances

LINES = """\
10,20,30,15,1,4,0,1
3,4,5,6,0,0,0,0
1,2,8,9,1,11,0,0,
50,30,0,7,1,1,0,0
70,50,20,20,1,10,1,2,

12.5,8,4,4,0,2,0,0
"""


def write_part(root: Path, part: str, **texts: str) -> Path:
    folder = root / f"VisDrone2019-DET-{part}"
    for name in ("images", "annotations"):
        (folder / name).mkdir(parents=True)
    for name, text in texts.items():
        Image.new("RGB", (80, 60), (1, 2, 3)).save(folder / "images" / f"{name}.jpg")
        (folder / "annotations" / f"{name}.txt").write_text(text)
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_part(tmp_path, "train", a=LINES, b="")
    write_part(tmp_path, "val", c="0,0,80,60,1,9,0,0\r\n")
    write_part(tmp_path, "test-dev", d="1,1,2,2,1,1,0,0")
    return tmp_path


def test_lines_become_boxes_and_some_are_to_ignore(root):
    data = VisDrone(root, "train")
    assert (data.image_names, data.image_ids, data.has_masks, len(data.class_names)) == (["a", "b"], [0, 1], False, 10)
    for _ in range(2):
        image, instances = data[0]
    assert image.shape == (3, 60, 80) and instances.masks is None
    kept = [[10, 20, 40, 35], *[[3, 4, 8, 10]] * 10, *[[1, 2, 9, 11]] * 10, [70, 50, 80, 60], [12.5, 8, 16.5, 12]]
    assert instances.boxes.tolist() == kept
    assert instances.ids.tolist() == [1, *range(2, 72, 7), *range(3, 73, 7), 5, 7]
    assert instances.labels.tolist() == [4, *range(1, 11), *range(1, 11), 10, 2]
    assert data.class_names[3] == "car" and data.class_names[9] == "motor"
    assert instances.ignore.tolist() == [False, *[True] * 20, False, True]
    check_sound(data, image, instances)
    assert data.counts == {"inverted or empty boxes dropped": 1, "boxes clipped to the image": 1}
    assert len(data[1][1]) == 0 and data[1][1].boxes.shape == (0, 4) and data[1][1].ids.dtype == torch.int64


def test_a_region_that_is_ignored_excuses_detections_of_every_class(root):
    write("10,10,20,20,1,4,0,0\n40,10,30,40,0,0,0,0\n")(root / "VisDrone2019-DET-train")
    data = VisDrone(root, "train")
    boxes = torch.tensor([[10.0, 10, 30, 30], [42, 12, 52, 22], [45, 30, 60, 45]])
    found = Instances((60, 80), boxes, torch.tensor([4, 4, 9]), scores=torch.tensor([0.5, 0.9, 0.8]))
    figures = evaluate_coco({0: data[0][1]}, {0: found}, data.class_names)
    assert figures.ap == 1 and evaluate_coco({0: data[0][1]}, {0: found}, data.class_names, class_agnostic=True).ap == 1


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_what_loaders_in_other_processes_drop_is_counted_once(root, start):
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip("not on this system")
    data = VisDrone(root, "train")
    data[0]
    for _ in range(2):
        loader = DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context=start)
        assert [len(instances) for _, instances in loader] == [23, 0]
    assert data.counts == {"inverted or empty boxes dropped": 1, "boxes clipped to the image": 1}
    fresh = VisDrone(root, "train")
    list(DataLoader(fresh, batch_size=None, num_workers=2, multiprocessing_context=start))
    assert fresh.counts == data.counts


def test_the_test_split_is_val_or_test_dev(root):
    assert VisDrone(root, "test").image_names == ["c"] and VisDrone(root, "test")[0][1].labels.tolist() == [9]
    assert VisDrone(root, "test", test_part="test-dev").image_names == ["d"]
    assert VisDrone(root / "VisDrone2019-DET-val", "test").image_names == ["c"]
    (root / "VisDrone2019-DET-train").rename(root / "VisDrone2018-DET-train")
    assert len(VisDrone(root, "train")) == 2
    (root / "VisDrone2018-DET-train").rename(root / "train")
    assert len(VisDrone(root, "train")) == 2


@pytest.mark.filterwarnings("error")
def test_numbers_that_are_too_large_for_float32(root):
    write("1,1,1e300,9,1,1,0,0\n1e999,1,-1e999,9,1,1,0,0\n")(root / "VisDrone2019-DET-train")
    data = VisDrone(root, "train")
    assert data[0][1].boxes.tolist() == [[1, 1, 80, 10]]
    assert data.counts == {"boxes clipped to the image": 1, "boxes that are not finite dropped": 1}


def write(text: str | bytes):
    content = text if isinstance(text, bytes) else text.encode()
    return lambda folder: (folder / "annotations/a.txt").write_bytes(content)


BAD = [
    (write("1,2,3,4,1,4,0,0\n1,2,3,4,1,4,0\n"), "a.txt:2: has 7 numbers; 8 are expected"),
    (write("1,2,3,4,1,4,0,0,0,,\n"), "a.txt:1: has 9 numbers"),
    (write("\n1,2,x,4,1,4,0,0"), "a.txt:2: w is 'x', not a number"),
    (write("1,2,,4,1,4,0,0"), "a.txt:1: w is '', not a number"),
    (write("1,2,3,4,1,12,0,0"), "a.txt:1: category is '12'; it must be 0 to 11"),
    (write("1,2,3,4,1,1.5,0,0"), "a.txt:1: category is '1.5'"),
    (write("1,2,3,4,1,nan,0,0"), "a.txt:1: category is 'nan'"),
    (write("<html>\n"), "a.txt:1: has 1 number;"),
    (write("1,2,3,4\0,1,1,0,0"), "a.txt:1: h is '4/x00'"),
    (write(b"1,2,3,4,1,1,0,0\n\xff"), "a.txt:2: is not UTF-8"),
    (lambda folder: (folder / "annotations/a.txt").unlink(), "images/a.jpg: image has no annotations of that name"),
    (lambda folder: (folder / "images/a.jpg").unlink(), "annotations/a.txt: annotations have no image of that name"),
    (lambda folder: (folder / "images/a.jpg").write_bytes(b"no"), "images/a.jpg: not a readable image"),
    (lambda folder: Image.new("L", (3, 3)).save(folder / "images/a.png"), "differs from a.jpg only in suffix"),
    (lambda folder: (folder / "annotations").rename(folder / "gone"), "annotations: cannot list folder"),
    (
        lambda folder: folder.rename(folder.with_name("other")),
        "has no folder VisDrone2019-DET-train with images (but",
    ),
]


@pytest.mark.parametrize(("spoil", "words"), BAD)
def test_broken_sets_are_named(root, spoil, words):
    spoil(root / "VisDrone2019-DET-train")
    with pytest.raises(UserError) as error:
        VisDrone(root, "train")[0]
    assert words in one_line(error)


def test_unknown_splits_parts_and_folders(root, tmp_path):
    for options in ({"split": "val"}, {"test_part": "test"}, {"root": tmp_path / "no"}, {"root": tmp_path / "images"}):
        with pytest.raises(UserError) as error:
            VisDrone(**{"root": root, "split": "train", **options})
        assert one_line(error)
    with pytest.raises(UserError, match="no folder VisDrone2019-DET-val"):  # never the training images again
        VisDrone(root / "VisDrone2019-DET-train", "test")


@pytest.mark.filterwarnings("error")
def test_no_change_of_a_file_brings_another_error(root):
    path = root / "VisDrone2019-DET-train" / "annotations" / "a.txt"
    content, results = path.read_bytes(), []
    for changed in mutations(content, 300, seed=2):
        path.write_bytes(changed)
        results.append(loads(lambda: VisDrone(root, "train")))
    assert 0 < sum(results) < len(results)
