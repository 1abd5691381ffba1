"""CroppedMasks: constructors, indexing, joining, errors; memory that follows the objects."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from masks_toy import SIZE, check_sound, dense_levels, random_masks, stacks
from pycocotools import mask as coco
from scipy.ndimage import binary_fill_holes
from skimage.measure import label as label_components

from maskrcnn.structures.masks import CroppedMasks

NAN = float("nan")


@given(stacks())
def test_dense_there_and_back(dense: np.ndarray) -> None:
    masks = CroppedMasks.from_dense(torch.from_numpy(dense))
    check_sound(masks)
    assert np.array_equal(masks.to_dense().numpy(), dense)
    assert masks.areas().tolist() == dense.sum(axis=(1, 2)).tolist()
    for mask, box in zip(dense, masks.boxes().tolist(), strict=True):
        y, x = np.nonzero(mask)
        assert box == ([x.min(), y.min(), x.max() + 1, y.max() + 1] if len(x) else [0, 0, 0, 0])


@pytest.mark.parametrize(
    ("value", "level"),
    [
        (torch.tensor(True), 255),
        (torch.tensor(1, dtype=torch.uint8), 255),
        (torch.tensor(0.25), 64),
        (torch.tensor(0.75), 191),
    ],
)
def test_dense_masks_of_any_kind_become_levels(value: torch.Tensor, level: int) -> None:
    masks = CroppedMasks.from_dense(value.expand(1, 2, 3))
    assert dense_levels(masks).flatten().tolist() == [level] * 6
    assert masks.areas().tolist() == [6 * (level >= 128)]


def test_boxes_are_of_the_pixels_inside_not_of_the_window() -> None:
    level = torch.tensor([[0, 127, 0], [128, 0, 0], [0, 0, 90]], dtype=torch.uint8)
    masks = CroppedMasks.from_windows(torch.tensor([[4, 5, 7, 8]]), [level], SIZE)
    assert masks.boxes().tolist() == [[4, 6, 5, 7]] and masks.boxes().dtype == torch.float32
    assert masks.areas().tolist() == [1]


def test_window_is_a_view_of_the_levels() -> None:
    masks = random_masks(9, soft=True)
    for i in range(9):
        x1, y1, x2, y2 = masks.windows[i].tolist()
        assert torch.equal(masks.window(i), dense_levels(masks)[i, y1:y2, x1:x2])
    masks.window(0)[0, 0] = 77
    assert masks.data[0] == 77


@pytest.mark.parametrize(
    "index",
    [
        0,
        -1,
        slice(2, 8),
        slice(None, None, 3),
        slice(0, 0),
        torch.tensor([5, 5, 0, 13]),
        torch.tensor([], dtype=torch.int64),
        torch.arange(14) % 3 == 0,
        torch.zeros(14, dtype=torch.bool),
        torch.tensor(4),
    ],
)
def test_indexing_picks_as_in_a_dense_stack(index: int | slice | torch.Tensor) -> None:
    masks = random_masks(14, soft=True)
    picked = masks[index]
    check_sound(picked)
    assert torch.equal(dense_levels(picked), dense_levels(masks)[index].reshape(-1, *SIZE))


@pytest.mark.parametrize("index", [14, -15])
def test_an_index_out_of_range_is_an_error(index: int) -> None:
    with pytest.raises(IndexError):
        random_masks(14)[index]


def test_masks_can_be_walked_through() -> None:
    assert [len(mask) for mask in random_masks(3)] == [1, 1, 1]


def test_cat_keeps_the_order() -> None:
    parts = [random_masks(5, seed=1), CroppedMasks.empty(SIZE), random_masks(3, seed=2)]
    joined = CroppedMasks.cat(parts)
    check_sound(joined)
    assert torch.equal(dense_levels(joined), torch.cat([dense_levels(part) for part in parts]))
    with pytest.raises(ValueError, match="one canvas"):
        CroppedMasks.cat([random_masks(1), random_masks(1, size=(9, 9))])


def test_moving_keeps_everything() -> None:
    masks = random_masks(4)
    moved = masks.to("cpu")
    assert moved.size == masks.size and torch.equal(moved.data, masks.data) and "4 on 23 x 31" in repr(moved)


def test_broken_windows_are_refused() -> None:
    with pytest.raises(ValueError, match="offsets"):
        CroppedMasks(torch.zeros(2, 4, dtype=torch.int32), torch.zeros(2), torch.zeros(0), SIZE)
    level = torch.ones(3, 5, dtype=torch.uint8)
    with pytest.raises(ValueError, match="levels 1"):
        CroppedMasks.from_windows(torch.tensor([[0, 0, 5, 3], [0, 0, 3, 5]]), [level, level], SIZE)
    with pytest.raises(ValueError, match="windows"):
        CroppedMasks.from_windows(torch.tensor([[0, 0, 5, 3]]), [level, level], SIZE)
    for window in ([-1, 0, 4, 3], [29, 0, 34, 3], [0, 21, 5, 24], [5, 0, 0, 3]):
        with pytest.raises(ValueError, match="window 0.* exceeds the canvas"):
            CroppedMasks.from_windows(torch.tensor([window]), [level], SIZE)


# polygons


def coco_polygons(polygons: list[list[list[float]]], size: tuple[int, int]) -> torch.Tensor:
    codes = [coco.merge(coco.frPyObjects(rings, *size)) for rings in polygons]
    return torch.from_numpy(np.stack([coco.decode(code) for code in codes])).bool()


ring = st.lists(st.floats(-8, 40), min_size=3, max_size=8).flatmap(
    lambda x: st.tuples(st.just(x), st.lists(st.floats(-8, 32), min_size=len(x), max_size=len(x)))
)


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # pycocotools under NumPy 2
@given(st.lists(st.lists(ring, min_size=1, max_size=2), min_size=1, max_size=3))
def test_polygons_are_filled_as_pycocotools_fills_them(shapes: list[list[tuple[list[float], list[float]]]]) -> None:
    polygons = [[np.stack(points, axis=1).ravel().tolist() for points in rings] for rings in shapes]
    masks = CroppedMasks.from_polygons(polygons, SIZE)
    check_sound(masks)
    assert torch.equal(masks.to_dense(), coco_polygons(polygons, SIZE))


@pytest.mark.parametrize("digits", [0, 1, 2])
def test_rounded_polygons_are_filled_as_pycocotools_fills_them(digits: int) -> None:
    rng = np.random.default_rng(digits)
    points = [rng.uniform(0, 1, 2) * SIZE[::-1] + rng.normal(0, 9, (rng.integers(3, 9), 2)) for _ in range(300)]
    polygons = [[each.round(digits).ravel().tolist()] for each in points]
    assert torch.equal(CroppedMasks.from_polygons(polygons, SIZE).to_dense(), coco_polygons(polygons, SIZE))


def test_a_rectangle_covers_its_pixels_and_nothing_more_is_stored() -> None:
    masks = CroppedMasks.from_polygons([[[3, 4, 9, 4, 9, 10, 3, 10]], [[50, 4, 59, 4, 59, 10]], []], SIZE)
    assert masks.boxes().tolist() == [[3, 4, 9, 10], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert len(masks.data) <= 8 * 8


@pytest.mark.parametrize("ring", [[0, 0, 5, 5], [0, 0, 5, 5, 5], [0, 0, 5, NAN, 5, 0], []])
def test_a_ring_of_too_few_points_is_refused(ring: list[float]) -> None:
    with pytest.raises(ValueError, match="polygon 1"):
        CroppedMasks.from_polygons([[[0, 0, 5, 5, 5, 0]], [[0, 0, 5, 5, 5, 0], ring]], SIZE)


# memory


def test_boxes_are_filled_to_whole_pixels_of_the_canvas() -> None:
    boxes = torch.tensor([[1.4, 2.6, 4.5, 6.2], [-3, -2, 2, 3], [5, 5, 5.2, 9], [40, 1, 50, 4], [3, 3, 1, 1]])
    masks = CroppedMasks.from_boxes(boxes, (8, 9))
    check_sound(masks)
    assert masks.boxes().tolist() == [[1, 3, 4, 6], [0, 0, 2, 3], *[[0.0] * 4] * 3]
    assert masks.areas().tolist() == [9, 6, 0, 0, 0]
    assert len(CroppedMasks.from_boxes(torch.zeros(0, 4), (8, 9))) == 0


def test_some_masks_are_exchanged_for_others() -> None:
    masks, others = random_masks(9, seed=1), random_masks(3, seed=2)
    at = torch.tensor([4, 0, 8])
    expected = dense_levels(masks)
    expected[at] = dense_levels(others)
    exchanged = masks.replace_at(at, others)
    check_sound(exchanged)
    assert torch.equal(dense_levels(exchanged), expected)


MANY = """
import math, resource, sys
import torch
from maskrcnn.ops.masks import paste_masks
from maskrcnn.structures.masks import CroppedMasks

def peak():
    value = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return value / (2**20 if sys.platform == "darwin" else 2**10)

def step(name):
    print(name, round(peak() - start))

torch.set_num_threads(1)
size, count = (4096, 4096), 5000
generator = torch.Generator().manual_seed(0)
centre = torch.rand(count, 2, generator=generator) * 4096
half = 2 + torch.rand(count, 2, generator=generator) * 9
boxes = torch.cat([centre - half, centre + half], dim=1)
probabilities = torch.rand(count, 28, 28, generator=generator)
tiny = CroppedMasks(*paste_masks(probabilities[:1], boxes[:1], size), size)
tiny.sample(boxes[:1], 28), tiny.to_label_image(), tiny.iou(tiny), tiny.from_rle(tiny.to_rle(), size)
start = peak()
masks = CroppedMasks(*paste_masks(probabilities, boxes, size), size)
assert len(masks) == count
step("paste")
masks.sample(boxes, 28)
step("sample")
masks.iou(masks)
step("iou")
codes = masks.to_rle()
assert len(CroppedMasks.from_rle(codes, size)) == count
step("rle")
labels, kept = masks.to_label_image(0.5)
step("label image")
assert len(CroppedMasks.from_label_image(labels)) == int(kept.sum())
step("masks of a label image")
masks[torch.randperm(count, generator=generator)][kept].boxes()
step("index")
turn = torch.tensor([[math.cos(0.3), -math.sin(0.3), 400], [math.sin(0.3), math.cos(0.3), -400]])
masks.warp(turn, size), masks.resize((2048, 2048)), masks.crop(100, 100, 2000, 2000), masks.flip(True)
step("geometry")
CroppedMasks.cat([masks, masks]).areas()
masks.sample(torch.tensor([[0.0, 0, 2048, 4096]]), 28, torch.tensor([7]))
step("sample all")
print(peak() - start)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no ru_maxrss")
def test_five_thousand_objects_in_a_large_image_need_little_memory() -> None:
    """Dense, as bytes, they would be 84 GB; their windows hold about a million pixels."""
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", MANY], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) < 400, done.stdout


# ---- empty masks


def test_an_empty_mask_gets_its_best_pixel() -> None:
    windows = torch.tensor([[2, 3, 5, 5], [1, 1, 3, 3], [0, 0, 0, 0], [4, 4, 6, 6]])
    faint = torch.tensor([[0, 90, 10], [127, 0, 127]])
    levels = [faint, torch.tensor([[200, 0], [0, 50]]), torch.zeros(0, 0), torch.zeros(2, 2)]
    masks = CroppedMasks.from_windows(windows, levels, (8, 10))
    boxes = torch.tensor([[2.0, 3, 5, 5], [1, 1, 3, 3], [6.2, 2.9, 7.4, 5.3], [30.0, 3, 40, 9]])
    filled = masks.fill_empty(boxes)
    assert filled.areas().tolist() == [1, 1, 1, 1]
    inside = [torch.nonzero(each)[0].tolist() for each in filled.to_dense()]
    assert inside == [[4, 2], [1, 1], [4, 6], [6, 9]]  # the first of the highest; unchanged; center; on the canvas
    assert filled.window(0).tolist() == [[0, 90, 10], [128, 0, 127]] and filled.window(1).tolist() == levels[1].tolist()
    assert masks.areas().tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("count", [0, 7])
def test_masks_that_are_not_empty_are_not_copied(count: int) -> None:
    masks = random_masks(count)
    masks = masks[masks.areas() > 0]
    assert masks.fill_empty(torch.zeros(len(masks), 4)) is masks


@given(st.integers(0, 2**31))
def test_filling_changes_empty_masks_alone(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    parts = [random_masks(5, seed=seed % 1000)]
    faint = replace(
        parts[0], data=(parts[0].data.float() * torch.rand(len(parts[0].data), generator=generator)).byte() // 2
    )
    masks = CroppedMasks.cat([parts[0], faint])
    boxes = torch.rand(len(masks), 4, generator=generator) * 60 - 10
    filled = masks.fill_empty(boxes)
    had = masks.areas() > 0
    assert torch.equal(filled.areas(), torch.where(had, masks.areas(), 1))
    assert torch.equal(dense_levels(filled)[had], dense_levels(masks)[had])


# ---- polygons


@given(stacks())
def test_polygons_are_the_parts_of_the_masks_with_their_holes_filled(dense: np.ndarray) -> None:
    masks = CroppedMasks.from_dense(torch.from_numpy(dense))
    polygons = masks.to_polygons()
    filled = CroppedMasks.from_polygons(polygons, masks.size).to_dense().numpy()
    for rings, mask, shown in zip(polygons, dense, filled, strict=True):
        parts = label_components(mask, connectivity=1)
        wanted = [binary_fill_holes(parts == part) for part in range(1, parts.max(initial=0) + 1)]
        assert np.array_equal(shown, np.any(wanted, axis=0) if wanted else mask)
        assert len(rings) == len(wanted) and all(len(ring) >= 8 for ring in rings)


def test_polygons_of_known_shapes() -> None:
    dense = torch.zeros(5, 6, 8, dtype=torch.bool)
    dense[0, 2, 3] = True
    dense[1, 1:3, 2:6] = True
    dense[2, 1, 1] = dense[2, 2, 2] = True  # touch at a corner
    dense[3, 1:4, 1:4] = True
    dense[3, 2, 2] = False  # a hole
    polygons = CroppedMasks.from_dense(dense).to_polygons()
    assert polygons[0] == [[3, 2, 4, 2, 4, 3, 3, 3]]
    assert polygons[1] == [[2, 1, 6, 1, 6, 3, 2, 3]]
    assert polygons[2] == [[1, 1, 2, 1, 2, 2, 1, 2], [2, 2, 3, 2, 3, 3, 2, 3]]
    assert polygons[3] == [[1, 1, 4, 1, 4, 4, 1, 4]]
    assert polygons[4] == []
    assert CroppedMasks.empty((4, 4)).to_polygons() == []
