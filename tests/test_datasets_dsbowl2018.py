"""The Data Science Bowl's test stages, whose nuclei are run lengths in a CSV, and splits by class of image."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from readers_toy import loads, mutations, one_line

from datasets.readers.dsbowl2018 import DSBowl2018
from maskrcnn.config import UserError

HEADER = "ImageId,EncodedPixels,Height,Width,Usage\n"
REAL = Path(__file__).parents[1] / ".." / "shared" / "data" / "dsbowl2018"


def runs_of(mask: np.ndarray) -> str:
    """Kaggle's code, pixel by pixel: numbered from 1 down the first column, then the next."""
    height, width = mask.shape
    inside = [x * height + y + 1 for x in range(width) for y in range(height) if mask[y, x]]
    starts = [pixel for pixel in inside if pixel - 1 not in inside]
    ends = [pixel for pixel in inside if pixel + 1 not in inside]
    return " ".join(f"{start} {end - start + 1}" for start, end in zip(starts, ends, strict=True))


def nuclei(size: tuple[int, int], count: int, seed: int) -> list[np.ndarray]:
    """Ragged masks, the first of which fills the last column to its end."""
    draw = np.random.default_rng(seed)
    masks = [draw.random(size) < 0.3 for _ in range(count)]
    masks[0][:, -1] = True
    return masks


def add_image(stage: Path, name: str, size: tuple[int, int], masks: list[np.ndarray] | None = None) -> None:
    (stage / name / "images").mkdir(parents=True)
    Image.new("RGBA", size[::-1], (10, 20, 30, 255)).save(stage / name / "images" / f"{name}.png")
    if masks is not None:
        (stage / name / "masks").mkdir()
    for index, mask in enumerate(masks or []):
        Image.fromarray(mask.astype(np.uint8) * 255).save(stage / name / "masks" / f"{index}.png")


MASKS = {"x": nuclei((12, 9), 3, 0), "y": nuclei((7, 15), 2, 1)}


def solution(usage: str = "Private") -> str:
    rows = [(name, runs_of(mask), *mask.shape, usage) for name, masks in MASKS.items() for mask in masks]
    return HEADER + "".join(",".join(map(str, row)) + "\n" for row in rows)


@pytest.fixture
def bowl(tmp_path: Path) -> Path:
    bowl = tmp_path / "bowl"
    for name in "abcdefgh":
        add_image(bowl / "stage1_train", name, (5, 6), [np.ones((5, 6), bool)])
    for stage in ("stage1_test", "stage2_test_final"):
        for name, masks in MASKS.items():
            add_image(bowl / stage, name, masks[0].shape)
    (bowl / "stage1_solution.csv").write_text(solution())
    extra = "ignored,1 1,5,5,Ignored\nv,,4,6,Public\n"
    (bowl / "stage2_solution_final.csv").write_text(solution("Public") + extra)
    add_image(bowl / "stage2_test_final", "ignored", (9, 9))
    add_image(bowl / "stage2_test_final", "v", (4, 6))
    return bowl


def check_solved(data: DSBowl2018, index: int, name: str) -> None:
    image, instances = data[index]
    assert data.image_names[index] == name and image.shape[1:] == MASKS[name][0].shape
    np.testing.assert_array_equal(instances.masks.to_dense().numpy(), MASKS[name])
    assert instances.ids.tolist() == list(range(1, len(MASKS[name]) + 1)) and set(instances.labels.tolist()) == {1}


def test_stage_1_is_tested_on_its_own_images(bowl):
    train, test = (DSBowl2018(bowl, split, variant="stage1") for split in ("train", "test"))
    assert train.image_names == list("abcdefgh") and train[0][1].boxes.tolist() == [[0, 0, 6, 5]]
    assert test.image_names == ["x", "y"] and test.image_ids == [0, 1] and test.has_masks and not test.counts
    check_solved(test, 0, "x")
    check_solved(test, 1, "y")
    check_solved(test, 1, "y")  # from memory
    assert DSBowl2018(bowl / "stage1_train", "test", variant="stage1").image_names == ["x", "y"]


def test_stage_2_leaves_out_what_was_ignored(bowl):
    test = DSBowl2018(bowl, "test", variant="stage2")
    assert test.image_names == ["v", "x", "y"] and test.image_ids == [1, 2, 3] and not test.counts
    check_solved(test, 1, "x")
    assert len(test[0][1]) == 0 and test[0][1].size == (4, 6)
    assert len(DSBowl2018(bowl, "train", variant="stage2")) == 8


def test_images_that_the_solution_does_not_name_are_counted(bowl):
    add_image(bowl / "stage1_test", "z", (3, 3))
    test = DSBowl2018(bowl, "test", variant="stage1")
    assert test.image_names == ["x", "y"]
    assert test.counts == {"images without a row in the solution file left out": 1}


def test_mask_files_serve_where_there_is_no_solution(bowl):
    (bowl / "stage1_solution.csv").unlink()
    for name, masks in MASKS.items():
        (bowl / "stage1_test" / name / "masks").mkdir()
        for index, mask in enumerate(masks):
            Image.fromarray(mask).save(bowl / "stage1_test" / name / "masks" / f"{index}.png")
    check_solved(DSBowl2018(bowl, "test", variant="stage1"), 0, "x")


def rows(*lines: str):
    return lambda bowl: (bowl / "stage1_solution.csv").write_text(HEADER + "".join(line + "\n" for line in lines))


Y = "y,1 1,7,15,Private"
BAD = [
    (rows("x,1 1 2,12,9,a", Y), "stage1_solution.csv:2: EncodedPixels has 3 numbers"),
    (rows("x,1 one,12,9,a", Y), "stage1_solution.csv:2: EncodedPixels is '1 one'"),
    (rows("x,-1 3,12,9,a", Y), "stage1_solution.csv:2: EncodedPixels is '-1 3'"),
    (rows(f"x,1 {'9' * 5000},12,9,a", Y), "stage1_solution.csv:2: EncodedPixels is '1 999"),
    (rows(Y, "x,0 3,12,9,a"), "stage1_solution.csv:3: the run of 3 pixels from 0 exceeds"),
    (rows("x,5 0,12,9,a"), "stage1_solution.csv:2: the run of 0 pixels from 5 exceeds"),
    (rows("x,107 3,12,9,a"), "stage1_solution.csv:2: the run of 3 pixels from 107 exceeds the image of 108"),
    (rows("x,1 3 3 1,12,9,a"), "stage1_solution.csv:2: two runs overlap at pixel 3"),
    (rows("x,20 3 1 30,12,9,a"), "stage1_solution.csv:2: two runs overlap at pixel 20"),
    (rows("x,1 1,12,9,a", "x,1 1,9,12,a"), "stage1_solution.csv:3: image 'x' is 12 x 9, but 9 x 12 in line 2"),
    (rows("x,1 1,0,9,a"), "stage1_solution.csv:2: Height is '0'"),
    (rows("x,1 1,12,1e99,a"), "stage1_solution.csv:2: Width is '1e99'"),
    (rows("x,1 1,12,nan,a"), "stage1_solution.csv:2: Width is 'nan'"),
    (rows("x,1 1,9,12,a"), "x.png: is 9 x 12, but 12 x 9 in line 2 of the solution file"),
    (rows("../a,1 1,9,12,a"), "stage1_solution.csv:2: lists image '../a', which is not in"),
    (rows("x,1 1,12,9,Ignored", "x,1 1,12,9,a"), "stage1_solution.csv:3: image 'x' is ignored in another row"),
    (rows("x,1 1,12,9"), "stage1_solution.csv:2: has 4 fields but the header 5"),
    (rows("x,1 1,12,9,ignored"), "stage1_solution.csv: has no scored image"),
    (lambda bowl: (bowl / "stage1_solution.csv").write_text("ImageId\n"), "csv:1: has no column 'EncodedPixels'"),
    (lambda bowl: (bowl / "stage1_solution.csv").write_text(HEADER + '"' + "1" * 200_000), "csv:2: is not valid CSV"),
    (lambda bowl: (bowl / "stage1_solution.csv").unlink(), "stage1_solution.csv: no such file"),
    (lambda bowl: (bowl / "stage1_test/x/images/x.png").unlink(), "stage1_test/x: has 0 images"),
    (lambda bowl: (bowl / "stage1_test").rename(bowl / "gone"), "has no folder stage1_test"),
]


@pytest.mark.parametrize(("spoil", "words"), BAD)
def test_broken_solutions_are_named(bowl, spoil, words):
    spoil(bowl)
    with pytest.raises(UserError) as error:
        DSBowl2018(bowl, "test", variant="stage1")[0]
    assert words in one_line(error)


def test_runs_may_touch_come_in_any_order_and_reach_the_end(bowl):
    rows("x,105 4 1 2 3 1,12,9,a", Y)(bowl)
    (mask,) = DSBowl2018(bowl, "test", variant="stage1")[0][1].masks.to_dense().numpy()
    assert mask.T.ravel().nonzero()[0].tolist() == [0, 1, 2, 104, 105, 106, 107]


def test_unknown_variants_and_useless_split_files_are_refused(bowl):
    for options in ({"variant": "stage3"}, {"variant": "stage1", "split_file": "split.json"}):
        with pytest.raises(UserError) as error:
            DSBowl2018(bowl, "train", **options)
        assert one_line(error)


def test_no_change_of_a_solution_brings_another_error(bowl):
    path = bowl / "stage1_solution.csv"
    content, results = path.read_bytes(), []
    for changed in mutations(content, 300, seed=5):
        path.write_bytes(changed)
        results.append(loads(lambda: DSBowl2018(bowl, "test", variant="stage1")))
    assert 0 < sum(results) < len(results)


# ---- splits by class file

CLASSES = "filename,foreground,background\n" + "".join(
    f"{name}{suffix},{'purple' if name in 'abcd' else 'white'},{'white' if name in 'abcd' else 'black'}\n"
    for name, suffix in zip("abcdefghi", [".png", "", ".PNG"] * 3, strict=True)
)


def test_a_quarter_of_each_kind_of_image_is_for_the_test(bowl):
    (bowl / "classes.csv").write_text(CLASSES)  # names an image that is not there, as the full file does
    drawn = set()
    for seed in range(12):
        train, test = (DSBowl2018(bowl, split, subsetseed=seed) for split in ("train", "test"))
        assert sorted(train.image_names + test.image_names) == list("abcdefgh")
        assert [name in "abcd" for name in test.image_names] == [True, False]
        drawn.add(tuple(test.image_names))
    assert len(drawn) > 4
    (bowl / "mine.csv").write_text(CLASSES.replace("purple", "white").replace("white,white", "white,black"))
    assert len(DSBowl2018(bowl, "test", split_file=bowl / "mine.csv")) == 2
    (bowl / "split.json").write_text('{"train": ["a"], "test": ["b", "c"]}')
    assert DSBowl2018(bowl, "test").image_names == ["b", "c"]  # the list itself comes first


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "classes.csv:1: has no column 'filename'"),
        ("filename,foreground\n", "classes.csv:1: has no column 'background'"),
        (CLASSES + "a.png,white,black\n", "classes.csv:11: lists image 'a' a second time"),
        (CLASSES.replace("c.PNG", "zebra"), "classes.csv: has no row for 1 image of"),
        (CLASSES + "a.png\n", "classes.csv:11: has 1 fields"),
    ],
)
def test_broken_class_files_are_named(bowl, text, words):
    (bowl / "classes.csv").write_text(text)
    with pytest.raises(UserError) as error:
        DSBowl2018(bowl, "train")
    assert words in one_line(error)


def test_no_change_of_a_class_file_brings_another_error(bowl):
    path, results = bowl / "classes.csv", []
    for changed in mutations(CLASSES.encode(), 300, seed=6):
        path.write_bytes(changed)
        results.append(loads(lambda: DSBowl2018(bowl, "test")))
    assert 0 < sum(results) < len(results)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real images are not here")
def test_real_masks_come_back_from_run_lengths(tmp_path):
    train = DSBowl2018(REAL, "train", variant="stage1")
    assert len(train) == 148
    index = min(range(20), key=lambda place: len(train[place][1]))
    image, instances = train[index]
    name, masks = train.image_names[index], instances.masks.to_dense().numpy()
    add_image(tmp_path / "stage1_test", name, instances.size)
    lines = [f"{name},{runs_of(mask)},{mask.shape[0]},{mask.shape[1]},Public\n" for mask in masks]
    (tmp_path / "stage1_solution.csv").write_text(HEADER + "".join(lines))
    read = DSBowl2018(tmp_path, "test", variant="stage1")[0][1]
    assert torch.equal(read.boxes, instances.boxes) and torch.equal(read.masks.to_dense(), instances.masks.to_dense())
    assert image.shape[1:] == read.size
