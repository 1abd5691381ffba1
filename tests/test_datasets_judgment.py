"""Each rule trips on data made for it, and not on a neighbor that is meant as it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from datasets.checks import RULES
from datasets.judgment import Concern, find_repeated_images, judge
from datasets.readers.label_images import LabelImages
from datasets.survey import Survey, count_levels, count_pieces
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks
from workbench.judgment import find_unmatched_objects, judge_splits

SIZE = (64, 100)
NOISE = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, *SIZE), np.uint8))


def draw(*boxes: Sequence[int]) -> Tensor:
    """A mask bool [H, W] of filled boxes."""
    mask = torch.zeros(SIZE, dtype=torch.bool)
    for x1, y1, x2, y2 in boxes:
        mask[y1:y2, x1:x2] = True
    return mask


def survey_boxes(*images: Sequence[Sequence[float]], ignore: int = 0, counts: dict[str, int] | None = None) -> Survey:
    """Images of noise with boxes, of which in each image the first `ignore` are ignored."""
    survey = Survey()
    for number, boxes in enumerate(images):
        found = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        is_ignored = torch.arange(len(found)) < ignore
        labels = torch.ones(len(found), dtype=torch.int64)
        survey.add(f"image-{number}", NOISE, Instances(SIZE, found, labels, ignore=is_ignored))
    survey.counts = counts or {}
    return survey


def survey_masks(*images: Sequence[Tensor], ignore: int = 0) -> Survey:
    survey = Survey()
    for number, masks in enumerate(images):
        found = CroppedMasks.from_dense(torch.stack(list(masks)))
        labels, is_ignored = torch.ones(len(masks), dtype=torch.int64), torch.arange(len(masks)) < ignore
        survey.add(f"image-{number}", NOISE, Instances.from_masks(found, labels, ignore=is_ignored))
    return survey


def survey_levels(*images: Tensor) -> Survey:
    survey = Survey()
    for number, image in enumerate(images):
        survey.add(f"image-{number}", image, Instances(SIZE, torch.tensor([[1.0, 1, 9, 9]]), torch.tensor([1])))
    return survey


def found_in(survey: Survey) -> dict[str, Concern]:
    return {concern.rule: concern for concern in judge(survey)}


CELL = [10, 10, 22, 22]
COLUMN = [[10.0 * x, 5.0, 10.0 * x + 8, 13.0] for x in range(9)]


def test_ordinary_data_looks_right() -> None:
    assert found_in(survey_boxes(COLUMN, [CELL])) == {}
    assert found_in(survey_masks([draw(CELL), draw([40, 40, 44, 44])], [draw(CELL)])) == {}
    assert found_in(Survey()) == {}  # nothing could be read, which is said elsewhere


def test_an_object_that_covers_most_of_its_image() -> None:
    concern = found_in(survey_masks([draw(CELL)], [draw(CELL), draw([0, 0, 88, 64])]))["covering object"]
    assert concern.describe() == "the largest object covers 88% of its image (image image-1, object 2)"
    assert "background" in concern.advice
    assert set(found_in(survey_boxes([[0, 0, 100, 40], CELL]))) == {"covering object"}
    assert found_in(survey_boxes([[0, 0, 100, 31], CELL])) == {}
    frame = draw([0, 0, 100, 64]) & ~draw([5, 5, 95, 59])  # its box covers all, its pixels do not
    assert found_in(survey_masks([frame])) == {}


def test_boxes_below_a_pixel() -> None:
    fractions = [[0.1, 0.2, 0.4, 0.5], [0.6, 0.5, 0.9, 0.8]]
    concern = found_in(survey_boxes(fractions))["tiny boxes"]
    assert concern.describe() == "2 of 2 boxes are below 1 px (image image-0, object 1)" and "pixels" in concern.advice
    assert found_in(survey_boxes([CELL], fractions))["tiny boxes"].text == "2 of 3 boxes are below 1 px"
    assert "tiny boxes" not in found_in(survey_boxes(COLUMN, fractions))
    assert "tiny boxes" not in found_in(survey_boxes([[3, 3, 4, 4], [9, 9, 10, 10]]))  # objects of one pixel
    assert "tiny boxes" not in found_in(survey_boxes([[3.5, 3, 3.9, 20]]))  # a line


def test_one_label_in_many_pieces() -> None:
    semantic = draw(*([8 * x, 8 * y, 8 * x + 4, 8 * y + 4] for x in range(5) for y in range(4)))
    concern = found_in(survey_masks([draw(CELL)], [semantic]))["labels in pieces"]
    assert concern.describe() == "1 of 2 objects is in 4 pieces or more, one in 20 (image image-1, object 1)"
    many = [draw([x, 1, x + 2, 3]) for x in range(0, 90, 3)]
    assert set(found_in(survey_masks([*many, semantic]))) == {"labels in pieces"}  # one is enough
    occluded = draw([1, 20, 9, 30], [11, 20, 19, 30], [21, 20, 29, 30], [31, 20, 39, 30])
    assert found_in(survey_masks([*many, occluded])) == {}
    assert set(found_in(survey_masks([*many[:5], occluded]))) == {"labels in pieces"}
    assert found_in(survey_masks([draw([1, 1, 5, 5], [5, 5, 9, 9])])) == {}  # touching at a corner: one piece


def test_a_crowd_may_cover_much_and_be_in_pieces() -> None:
    crowd = draw(*([8 * x, 0, 8 * x + 6, 64] for x in range(12)))
    alone = [draw([x, 1, x + 2, 3]) for x in range(3, 27, 3)]
    assert set(found_in(survey_masks([crowd, *alone]))) == {"covering object", "labels in pieces"}
    assert found_in(survey_masks([crowd, *alone], ignore=1)) == {}


def test_half_of_the_objects_are_crowds() -> None:
    concern = found_in(survey_boxes(COLUMN[:4], COLUMN[4:8], ignore=2))["crowds"]
    assert concern.describe().startswith("4 of 8 objects are ignored (crowds") and "--crowds=objects" in concern.advice
    assert "crowds" not in found_in(survey_boxes(COLUMN[:5], ignore=2))
    assert "of no use for training" in found_in(survey_boxes(COLUMN[:2], ignore=2))["crowds"].text


def test_no_objects_at_all() -> None:
    assert set(found_in(survey_boxes([], []))) == {"no objects"}
    assert found_in(survey_boxes([], [CELL])) == {}


def test_boxes_that_do_not_fit_their_masks() -> None:
    rule = "boxes that do not fit their mask"
    assert rule in RULES
    assert found_in(survey_boxes(COLUMN, counts={rule: 2}))["unfitting boxes"].text.startswith("2 of 9 boxes")
    assert found_in(survey_boxes(COLUMN, [CELL], counts={rule: 1})) == {}


def test_objects_that_are_there_twice() -> None:
    concern = found_in(survey_boxes(COLUMN, [*COLUMN, COLUMN[4]]))["repeated objects"]
    assert concern.describe().startswith("1 of 19 objects repeats another") and "image-1, object 5" in concern.where
    assert found_in(survey_boxes(COLUMN, COLUMN)) == {}  # of different images


def test_images_of_few_gray_levels() -> None:
    flat = (NOISE // 20).to(torch.uint8)  # 0 to 12
    concern = found_in(survey_levels(NOISE, flat))["few gray levels"]
    assert concern.describe() == "1 of 2 images has fewer than 16 gray levels (image image-1 has 13)"
    assert found_in(survey_levels(NOISE, NOISE // 16)) == {}
    assert found_in(survey_levels(*[NOISE] * 10, torch.zeros_like(NOISE))) == {}  # an empty image among many
    deep = NOISE.to(torch.int32)
    assert found_in(survey_levels((deep + 33_038).to(torch.uint16))) == {}
    assert set(found_in(survey_levels((deep // 64 + 33_038).to(torch.uint16)))) == {"few gray levels"}
    assert set(found_in(survey_levels(flat.float() / 12))) == {"few gray levels"}


def test_boxes_that_start_at_0_in_voc() -> None:
    rule = "annotation files count pixels from 0: all boxes are read so (see --voc_from)"
    concern = found_in(survey_boxes([CELL], counts={rule: 4}))["boxes from 0"]
    assert "in 4 annotation files" in concern.text and "--voc_from=1" in concern.advice
    assert found_in(survey_boxes([CELL], counts={rule: 0, "boxes clipped to the image": 7})) == {}


def test_many_objects_were_dropped() -> None:
    concern = found_in(survey_boxes(COLUMN, counts={"inverted or empty boxes dropped": 3}))["dropped objects"]
    assert concern.describe() == "3 of 12 objects were dropped (3 inverted or empty boxes dropped)"
    assert found_in(survey_boxes(COLUMN, counts={"inverted or empty boxes dropped": 1})) == {}
    assert found_in(survey_boxes(COLUMN, counts={"boxes clipped to the image": 9})) == {}


@pytest.mark.parametrize(
    ("boxes", "unmatched"),
    [
        ([[10 + 9 * k, 10, 12 + 9 * k, 12] for k in range(4)], "4 of 4"),  # 2 px
        ([*COLUMN[:8], [90, 40, 93, 43]], "1 of 9"),
        ([[5, 5, 95, 8], [5, 20, 95, 23]], "2 of 2"),  # long lines
        (COLUMN, None),
        ([], None),
    ],
)
def test_objects_that_no_anchor_can_match(boxes: list[list[float]], unmatched: str | None) -> None:
    concern = find_unmatched_objects(survey_boxes(boxes), "coco", "data/my set")
    if unmatched is None:
        assert concern is None
        return
    assert concern is not None and concern.is_note and concern.text.startswith(f"{unmatched} objects match")
    assert "examples.describe_data --write_config=anchors.toml --dataset=coco '--dataset_root=data/my set'" in (
        concern.advice
    )


def make_labels(root: Path, *values: int) -> LabelImages:
    root.mkdir(exist_ok=True, parents=True)
    for number, value in enumerate(values):
        Image.fromarray(np.full((20, 20, 3), value, np.uint8)).save(root / f"{number}_img.png")
        labels = np.zeros((20, 20), np.uint8)
        labels[3:9, 3:9], labels[12:18, 3:9] = 1, 2
        Image.fromarray(labels).save(root / f"{number}_masks.png")
    (root / "split.json").write_text(
        f'{{"train": {[str(n) for n in range(len(values))]}, "test": []}}'.replace("'", '"')
    )
    return LabelImages(root, "train")


def test_the_same_image_under_several_ids(tmp_path: Path) -> None:
    different, copies = make_labels(tmp_path / "a", 1, 2, 3), make_labels(tmp_path / "b", 4, 5, 4)
    assert find_repeated_images({"train": different}) is None
    concern = find_repeated_images({"train": copies})
    assert concern is not None and concern.text == "1 of 3 images is identical to an image with another id"
    assert concern.where == f"{tmp_path / 'b' / '0_img.png'}: train 0 and train 2" and "apart" not in concern.advice
    across = find_repeated_images({"train": different, "test": make_labels(tmp_path / "c", 3, 9)})
    assert across is not None and across.where.endswith("train 2 and test 0")
    assert "keep training and test images apart" in across.advice
    ((where, found),) = judge_splits({"train": copies}, {}, "labels", "data")
    assert (where, found.rule) == ("images", "repeated images")


@given(st.lists(st.integers(0, 11), min_size=1, max_size=12, unique=True))
def test_pieces_and_levels_are_counted(places: list[int]) -> None:
    """Dots three pixels apart are pieces; values of one channel are levels."""
    mask, image = torch.zeros(9, 12, dtype=torch.bool), np.zeros((3, 9, 12), np.uint8)
    for number, place in enumerate(places, start=1):
        y, x = divmod(place, 4)
        mask[3 * y, 3 * x] = True
        image[1, 3 * y, 3 * x] = number
    assert count_pieces(CroppedMasks.from_dense(mask[None])) == [len(places)]
    for each in (image, image.astype(np.uint16) * 300, image.astype(np.float32)):
        assert count_levels(each) == len(places) + 1
