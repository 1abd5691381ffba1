"""CST: one row an object, and masks that JPEG has blurred."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from readers_toy import loads, mutations, one_line

from datasets.readers.cst import Cst
from maskrcnn.config import UserError

SIZE = (48, 64)
HEADER = "image_id,object_id,class,bbox,mask_path\n"
RECTANGLES = {"cst-9-0": (8, 24, 16, 40), "cst-9-1": (24, 40, 32, 56), "cst-10-0": (0, 16, 0, 16)}  # y1 y2 x1 x2
LETTERS = {"cst-9-0": "t", "cst-9-1": "c", "cst-10-0": "s"}


def mask_of(name: str) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    y1, y2, x1, x2 = RECTANGLES[name]
    mask[y1:y2, x1:x2] = True
    return mask


def row(name: str) -> str:
    image, (y1, y2, x1, x2) = name.rpartition("-")[0], RECTANGLES[name]
    return f"{image},{name},{LETTERS[name]},{x1 - 5} {y1 - 5} {x2 + 5} {y2 + 5},{image}/masks/{name}.jpg\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "cst-dataset"
    (root / "annotation").mkdir(parents=True)
    for name in RECTANGLES:
        folder = root / "train" / name.rpartition("-")[0]
        (folder / "masks").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE[::-1], (255, 255, 255)).save(folder / f"{folder.name}.jpg")
        grey = mask_of(name).astype(np.uint8) * 255
        Image.fromarray(np.repeat(grey[:, :, None], 3, axis=2)).save(folder / "masks" / f"{name}.jpg", quality=60)
    (root / "annotation" / "anno-train.csv").write_text(HEADER + "".join(map(row, RECTANGLES)))
    return root


def test_masks_are_sharp_again_and_give_the_boxes(root):
    data = Cst(root, "train")
    assert data.image_names == ["cst-9", "cst-10"] and data.image_ids == [9, 10]
    assert data.class_names == ("circle", "square", "triangle") and data.has_masks
    image, instances = data[0]
    assert image.shape == (3, *SIZE) and instances.labels.tolist() == [3, 1] and instances.ids.tolist() == [1, 2]
    np.testing.assert_array_equal(instances.masks.to_dense().numpy(), [mask_of("cst-9-0"), mask_of("cst-9-1")])
    assert instances.boxes.tolist() == [[16, 8, 40, 24], [32, 24, 56, 40]] and not instances.ignore.any()
    assert Cst(root.parent, "train")[1][1].labels.tolist() == [2]


def test_greys_below_128_are_outside_and_empty_masks_counted(root):
    greys = np.zeros(SIZE, np.uint8)
    greys[:, :16], greys[:, 16:32], greys[:, 32:48] = 120, 136, 255
    Image.fromarray(greys).save(root / "train/cst-9/masks/cst-9-0.jpg", quality=100)
    Image.new("L", SIZE[::-1], 100).save(root / "train/cst-9/masks/cst-9-1.jpg")
    data = Cst(root, "train")
    for _ in range(2):
        instances = data[0][1]
    assert instances.boxes.tolist() == [[16, 0, 48, 48]] and instances.ids.tolist() == [1]
    assert data.counts == {"empty masks dropped": 1} and instances.labels.tolist() == [3]


def test_folders_without_rows_are_images_without_objects(root):
    (root / "annotation/anno-train.csv").write_text(HEADER + row("cst-10-0"))
    data = Cst(root, "train")
    assert data.image_names == ["cst-9", "cst-10"] and len(data[0][1]) == 0 and len(data[1][1]) == 1


@pytest.mark.parametrize("split", ["val", "test"])
def test_all_three_splits(root, split):
    (root / "train").rename(root / split)
    (root / "annotation/anno-train.csv").rename(root / f"annotation/anno-{split}.csv")
    assert len(Cst(root, split)[0][1]) == 2
    with pytest.raises(UserError, match="anno-train.csv"):
        Cst(root, "train")


def table(text: str | bytes):
    content = text if isinstance(text, bytes) else text.encode()
    return lambda root: (root / "annotation/anno-train.csv").write_bytes(content)


GOOD = row("cst-9-0")
BAD = [
    (table(""), "anno-train.csv:1: has no column 'image_id'"),
    (table("image_id,object_id,bbox,mask_path\n"), "anno-train.csv:1: has no column 'class'"),
    (table("class," + HEADER), "anno-train.csv:1: has more than one column 'class'"),
    (table(HEADER + GOOD + GOOD), "anno-train.csv:3: object 'cst-9-0' appears twice, first on line 2"),
    (table(HEADER + GOOD.replace(",t,", ",x,")), "anno-train.csv:2: class of object 'cst-9-0' is 'x'; use c, s or t"),
    (table(HEADER + GOOD[:20] + "\n"), "anno-train.csv:2: has 4 fields but the header 5"),
    (table(HEADER + GOOD.replace(" ", ",")), "anno-train.csv:2: has 8 fields"),
    (table(HEADER + GOOD.replace(" 3 ", " ")), "anno-train.csv:2: bbox is '11 45 29'"),
    (table(HEADER + GOOD.replace(" 3 ", " z ")), "anno-train.csv:2: bbox is 'z', not a number"),
    (table(HEADER + GOOD.replace(" 3 ", " 99 ")), "anno-train.csv:2: bbox '11 99 45 29' is inverted"),
    (table(HEADER + GOOD.replace("cst-9/masks", "../../masks")), "anno-train.csv:2: file name '../../masks"),
    (table(HEADER + GOOD.replace("cst-9/masks", "/masks")), "anno-train.csv:2: file name '/masks"),
    (table(HEADER + GOOD.replace("cst-9/masks", "C:/masks")), "anno-train.csv:2: file name 'C:/masks"),
    (table(HEADER + GOOD.replace("cst-9,", "..,", 1)), "anno-train.csv:2: file name '..' points out"),
    (table(HEADER + GOOD.replace("cst-9,", ",", 1)), "anno-train.csv:2: file name '' points out"),
    (table(HEADER + "\n" + GOOD.replace("cst-9-0", "zebra")), "zebra.jpg: no such image"),
    (table(HEADER + GOOD.replace(",cst-9/", ',"cst-9/') + 'x"\n'), "anno-train.csv:3: a field spans several lines"),
    (table((HEADER + GOOD).encode() + b"\xff"), "anno-train.csv:3: is not UTF-8"),
    (table(HEADER + '"' + "x" * 200_000), "anno-train.csv:2: is not valid CSV (field larger"),
    (lambda root: (root / "annotation/anno-train.csv").unlink(), "anno-train.csv: cannot be read"),
    (lambda root: (root / "annotation").rename(root / "gone"), "has no folder 'annotation'"),
    (lambda root: (root / "train").rename(root / "gone"), "train: cannot list folder"),
    (lambda root: (root / "train/cst-9/cst-9.jpg").unlink(), "cst-9.jpg: no such image file"),
    (lambda root: (root / "train/cst-9/masks/cst-9-1.jpg").unlink(), "cst-9-1.jpg: no such image file"),
    (lambda root: Image.new("L", (5, 4)).save(root / "train/cst-9/masks/cst-9-1.jpg"), "is 5 x 4 but its image is 64"),
]


@pytest.mark.parametrize(("spoil", "words"), BAD)
def test_broken_sets_are_named(root, spoil, words):
    spoil(root)
    with pytest.raises(UserError) as error:
        Cst(root, "train")[0]
    assert words in one_line(error)


def test_unknown_splits_and_folders(root, tmp_path):
    for folder, split in ((root, "trainval"), (tmp_path / "no", "train")):
        with pytest.raises(UserError) as error:
            Cst(folder, split)
        assert one_line(error)


def test_no_change_of_a_file_brings_another_error(root):
    path = root / "annotation" / "anno-train.csv"
    content, results = path.read_bytes(), []
    for changed in mutations(content, 300, seed=3):
        path.write_bytes(changed)
        results.append(loads(lambda: Cst(root, "train")))
    assert 0 < sum(results) < len(results)
