"""Outlines, bitmaps and boxes: holes, parts, crossings, and what reaches out of the image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.checks import Tally
from datasets.readers.tools.shapes import (
    Annotation,
    Bitmap,
    Shape,
    draw_masks,
    expand_regions,
    find_crossing,
    join_holes,
    make_ellipse,
    make_rectangle,
    merge_groups,
    rotate,
    to_points,
)

SIZE = (30, 40)
coordinates = st.integers(-10, 150).map(lambda value: value / 4)
points = st.tuples(coordinates, coordinates)
rings = st.lists(points, min_size=3, max_size=9, unique=True).map(lambda each: np.array(each, np.float64))


def fill(*outlines: np.ndarray, size: tuple[int, int] = SIZE) -> np.ndarray:
    return draw_masks([Shape(1, "a", tuple(outlines))], size, Tally(), "file").to_dense().numpy()[0]


@settings(max_examples=300, deadline=None)
@given(st.lists(rings, min_size=1, max_size=4))
def test_joined_rings_are_filled_by_the_even_odd_rule(several):
    expected = np.logical_xor.reduce([fill(ring) for ring in several])
    assert (fill(join_holes(several)) == expected).all()


@settings(max_examples=100, deadline=None)
@given(st.lists(rings, min_size=1, max_size=4))
def test_several_outlines_of_an_object_are_joined(several):
    assert (fill(*several) == np.logical_or.reduce([fill(ring) for ring in several])).all()


def test_a_hole_is_outside_and_an_island_in_it_inside():
    outer, hole, island = (make_rectangle(box) for box in ((2, 3, 30, 25), (6, 6, 24, 20), (10, 10, 12, 13)))
    mask = fill(join_holes([outer, hole, island]))
    assert mask.sum() == 28 * 22 - 18 * 14 + 2 * 3
    assert mask[4, 3] and not mask[8, 8] and mask[11, 11]


def test_what_a_crossing_outline_encloses_twice_is_outside():
    pentagram = np.array([[15, 1], [24, 27], [1, 11], [29, 11], [6, 27]], np.float64)
    mask, tally = draw_masks([Shape(1, "a", (pentagram,))], SIZE, counts := Tally(), "file"), counts
    dense = mask.to_dense()[0]
    assert not dense[15, 15] and dense[5, 15]  # center and tip
    assert tally.counts["self-intersecting outlines filled by the even-odd rule"] == 1


def cross_naively(ring: np.ndarray) -> bool:
    def side(p, q, r):
        return np.sign((q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0]))

    sides = list(zip(ring, np.roll(ring, -1, axis=0), strict=True))
    return any(
        side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0
        for place, (a, b) in enumerate(sides)
        for c, d in sides[place + 1 :]
    )


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(points, max_size=8).map(lambda each: np.array(each, np.float64).reshape(-1, 2)), max_size=5))
def test_crossings_are_those_of_a_plain_loop_over_all_pairs(several):
    assert find_crossing(several).tolist() == [cross_naively(ring) for ring in several]


def test_crossings_of_long_outlines_are_found_in_pieces(monkeypatch):
    monkeypatch.setattr("datasets.readers.tools.shapes._PAIRS_AT_ONCE", 7)
    eight = np.array([[0, 0], [9, 9], [9, 0], [0, 9]], np.float64)
    circle = make_ellipse(50, 50, 40, 30)
    assert find_crossing([circle, eight, circle, eight + 5]).tolist() == [False, True, False, True]
    assert find_crossing([]).tolist() == [] and find_crossing([np.zeros((0, 2))]).tolist() == [False]


@pytest.mark.parametrize(("radius_x", "radius_y", "angle"), [(9, 5, 0.0), (9, 5, 0.7), (4, 11, -1.2), (2, 2, 0.0)])
def test_ellipses_are_filled_where_their_equation_says(radius_x, radius_y, angle):
    x, y = 19.3, 14.6
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    along = (columns - x) * np.cos(angle) + (rows - y) * np.sin(angle)
    across = (rows - y) * np.cos(angle) - (columns - x) * np.sin(angle)
    value = np.hypot(along / radius_x, across / radius_y)
    mask = fill(make_ellipse(x, y, radius_x, radius_y, angle))
    near = np.abs(value - 1) * min(radius_x, radius_y) < 0.35  # COCO's rasterization rounds to fifths of a pixel
    assert (mask == (value < 1))[~near].all()
    assert abs(mask.sum() / (np.pi * radius_x * radius_y) - 1) < 0.13


def test_a_scribble_of_many_sides_is_compared_in_part(monkeypatch):
    monkeypatch.setattr("datasets.readers.tools.shapes._MAX_PAIRS", 1000)
    monkeypatch.setattr("datasets.readers.tools.shapes._PAIRS_AT_ONCE", 300)
    turn = np.arange(4001) * 2.0  # radians: nearly all sides cross
    assert find_crossing([np.stack([20 + 9 * np.cos(turn), 15 + 9 * np.sin(turn)], axis=1)]).tolist() == [True]


def test_rotation_by_90_degrees_is_clockwise_on_screen():
    turned = rotate(np.array([[12.0, 10.0]]), np.pi / 2, (10, 10))
    assert np.allclose(turned, [[10, 12]])


@pytest.mark.parametrize("radii", [(0, 3), (3, -1), (np.nan, 3), (np.inf, 3), (1e7, 3)])
def test_impossible_ellipses_are_rejected(radii):
    with pytest.raises(ValueError, match="radius|finite"):
        make_ellipse(5, 5, *radii)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1, 2], [3, float("nan")]], "not finite"),
        ([[1, 2], [3, float("inf")]], "not finite"),
        ([[1, 2], [3, 10**400]], "out of range"),
        ([[1, 2], [3, "4"]], "not a number, '4'"),
        ([[1, 2], [3, None]], "not a number"),
        ([[1, 2], [3]], "must be a list of"),
        ("1 2", "must be a list of"),
        (None, "must be a list of"),
        ([[0, 0], [1e9, 0]], "more than 2,000,000 pixels"),
        ([[0, 0], [1_500_000, 0], [0, 0], [1_500_000, 1]], "more than 2,000,000 pixels"),
    ],
)
def test_invalid_points_are_rejected(values, message):
    with pytest.raises(ValueError, match=message):
        to_points(values)


def test_further_coordinates_of_points_are_dropped():
    assert to_points([[1, 2, 9], [3, 4, 9]]).tolist() == [[1, 2], [3, 4]]


def test_outlines_of_fewer_than_three_points_are_counted():
    annotation = Annotation()
    annotation.add_outlines(Shape(1, "a"), [np.zeros((2, 2)), make_rectangle((0, 0, 4, 4))])
    annotation.add_outlines(Shape(2, "a"), [np.zeros((1, 2))])
    assert [shape.number for shape in annotation.shapes] == [1] and len(annotation.shapes[0].outlines) == 1
    assert annotation.dropped == {"polygons of fewer than three points dropped": 2}


def test_bitmaps_are_pasted_and_clipped():
    inside = np.ones((4, 5), bool)
    places = [(2, 3), (-2, -1), (38, 28), (50, 50), (-9, 3)]
    tally = Tally()
    masks = draw_masks([Shape(1, "a", bitmaps=(Bitmap(x, y, inside),)) for x, y in places], SIZE, tally, "file")
    assert masks.areas().tolist() == [20, 9, 4, 0, 0]
    assert masks.boxes()[1].tolist() == [0, 0, 3, 3] and masks.boxes()[2].tolist() == [38, 28, 40, 30]
    assert tally.counts["outlines clipped to the image"] == 4


def test_outlines_that_reach_out_are_clipped_and_counted():
    boxes = [(1, 1, 5, 5), (-4, 1, 3, 5), (36, 26, 44, 33), (50, 50, 60, 60)]
    tally = Tally()
    masks = draw_masks([Shape(1, "a", (make_rectangle(box),)) for box in boxes], SIZE, tally, "file")
    assert masks.areas().tolist() == [16, 12, 16, 0]
    assert tally.counts["outlines clipped to the image"] == 3


def test_shapes_of_a_group_and_class_are_one_object():
    square, other = make_rectangle((1, 1, 4, 4)), make_rectangle((10, 1, 13, 4))
    dot = Bitmap(20, 2, np.ones((2, 2), bool))
    shapes = [
        Shape(1, "a", (square,), group=7),
        Shape(2, "b", (other,), group=7),
        Shape(3, "a", bitmaps=(dot,), group=7),
        Shape(4, "a", (other,), group=7),
        Shape(5, "a", (square,)),
        Shape(6, "a", (square,)),
    ]
    merged = merge_groups(shapes)
    assert [(shape.number, shape.name) for shape in merged] == [(1, "a"), (2, "b"), (5, "a"), (6, "a")]
    masks = draw_masks(merged, SIZE, Tally(), "file")
    assert masks.areas().tolist() == [9 + 4 + 9, 9, 9, 9]
    assert masks.boxes()[0].tolist() == [1, 1, 22, 4]


def test_grouped_boxes_enclose_each_other_and_join_an_outline():
    boxes = [Shape(1, "a", box=(1, 2, 4, 5), group=1), Shape(2, "a", box=(3, 1, 9, 4), group=1)]
    assert merge_groups(boxes)[0].box == (1, 1, 9, 5)
    mixed = merge_groups([*boxes, Shape(3, "a", (make_rectangle((20, 20, 22, 22)),), group=1)])
    assert mixed[0].box is None and draw_masks(mixed, SIZE, Tally(), "file").areas().tolist() == [32 + 4]


def test_a_region_of_any_class_becomes_one_ignored_object_per_class():
    shapes = [Shape(1, "b"), Shape(4, "", ignore=True)]
    expanded = expand_regions(shapes, ("a", "b"))
    assert [(each.number, each.name, each.ignore) for each in expanded] == [
        (1, "b", False),
        (4, "a", True),
        (8, "b", True),
    ]
