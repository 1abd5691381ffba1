"""Ellipses drawn by coverage: areas, centroids and windows that are known exactly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets.synthetic.reference import SAMPLES
from datasets.synthetic.rendering import rasterize
from datasets.synthetic.shapes import ShapeCoverage, Shapes
from datasets.synthetic.streams import round_parameter


def ellipses(centers: np.ndarray, semi_axes: np.ndarray, angles: np.ndarray) -> Shapes:
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return Shapes(*(round_parameter(np.asarray(part, np.float64)) for part in (centers, semi_axes, directions)))


def random_ellipses(count: int, semi_axes: tuple[float, float]) -> Shapes:
    rng = np.random.default_rng(7)
    return ellipses(rng.uniform(20, 30, (count, 2)), np.tile(semi_axes, (count, 1)), rng.uniform(0, np.pi, count))


def moments(coverage: ShapeCoverage) -> tuple[np.ndarray, np.ndarray]:
    """Area in px, float [N], and centroid, float [N, 2], of the levels."""
    areas, centroids = [], []
    for index in range(len(coverage.windows)):
        rows, columns, levels = coverage.window(index)
        weight = levels / 255
        x, y = np.arange(columns.start, columns.stop) + 0.5, np.arange(rows.start, rows.stop) + 0.5
        areas.append(weight.sum())
        centroids.append([(weight * x).sum() / weight.sum(), (weight * y[:, None]).sum() / weight.sum()])
    return np.array(areas), np.array(centroids)


@pytest.mark.parametrize("semi_axes", [(1.5, 1.0), (1.0, 1.0), (4.0, 1.0), (8.0, 2.5), (16.0, 15.0)])
@pytest.mark.usefixtures("core")
def test_area_and_centroid_of_ellipses_are_the_analytic_ones(semi_axes):
    shapes = random_ellipses(400, semi_axes)
    areas, centroids = moments(rasterize(shapes, 50, 50))
    error = areas / (np.pi * semi_axes[0] * semi_axes[1]) - 1
    assert abs(error.mean()) < 0.002
    assert np.abs(error).max() < 0.02
    assert error.std() < 0.01
    assert np.abs(centroids - shapes.centers).max() < 0.03


@pytest.mark.usefixtures("core")
def test_a_pixel_is_inside_where_at_least_half_its_samples_are():
    halves = ellipses([[10.0, 10.0]], [[4.0, 4.0]], [0.0])
    coverage = rasterize(halves, 20, 20)
    rows, columns, levels = coverage.window(0)
    y, x = np.meshgrid(np.arange(20 * SAMPLES), np.arange(20 * SAMPLES), indexing="ij")
    distance = ((x + 0.5) / SAMPLES - 10) ** 2 + ((y + 0.5) / SAMPLES - 10) ** 2
    counts = (distance <= 16).reshape(20, SAMPLES, 20, SAMPLES).sum(axis=(1, 3))
    np.testing.assert_array_equal(levels >= 128, (counts * 2 >= SAMPLES**2)[rows, columns])
    np.testing.assert_array_equal(levels, ((counts * 255 + SAMPLES**2 // 2) // SAMPLES**2)[rows, columns])


@given(
    centre=st.tuples(st.floats(-30, 60), st.floats(-30, 60)),
    semi_axes=st.tuples(st.floats(0.01, 40), st.floats(0.01, 40)),
    angle=st.floats(0, 3.14),
)
def test_windows_stay_on_the_canvas_and_levels_match_every_sample(centre, semi_axes, angle):
    shapes = ellipses([centre], [semi_axes], np.array([angle]))
    coverage = rasterize(shapes, 23, 11)
    x1, y1, x2, y2 = coverage.windows[0].tolist()
    assert 0 <= x1 <= x2 <= 23 and 0 <= y1 <= y2 <= 11
    dense = np.zeros((11, 23), np.int64)
    rows, columns, levels = coverage.window(0)
    dense[rows, columns] = levels
    step = (np.arange(23 * SAMPLES) + 0.5) / SAMPLES
    dx, dy = step - shapes.centers[0, 0], step[: 11 * SAMPLES, None] - shapes.centers[0, 1]
    cosine, sine = shapes.directions[0]
    along, across = shapes.semi_axes[0]
    inside = ((dx * cosine + dy * sine) * across) ** 2 + ((dy * cosine - dx * sine) * along) ** 2 <= (
        along * across
    ) ** 2
    counts = inside.reshape(11, SAMPLES, 23, SAMPLES).sum(axis=(1, 3))
    assert np.abs(dense - counts * 255 / SAMPLES**2).max() < 3  # rounding may decide a sample or two on the edge


def test_levels_do_not_depend_on_the_other_objects_or_the_canvas():
    shapes = random_ellipses(30, (6.0, 2.0))
    together = rasterize(shapes, 50, 50)
    one = Shapes(shapes.centers[7:8], shapes.semi_axes[7:8], shapes.directions[7:8])
    np.testing.assert_array_equal(rasterize(one, 300, 40).window(0)[2], together.window(7)[2])


@pytest.mark.usefixtures("core")
def test_nothing_to_draw_and_nothing_on_the_canvas():
    nothing = ellipses(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0))
    assert rasterize(nothing, 5, 5).data.size == 0
    outside = ellipses([[-50.0, 2.0], [2.0, 2.0]], [[3.0, 2.0], [1.0, 1.0]], [0.0, 0.0])
    coverage = rasterize(outside, 5, 5)
    assert coverage.windows[0].tolist() == [0, 0, 0, 0]
    assert coverage.offsets.tolist()[:2] == [0, 0] and coverage.data.size > 0


def test_memory_follows_windows_not_objects_times_image():
    rng = np.random.default_rng(3)
    shapes = ellipses(rng.uniform(0, 4096, (5000, 2)), rng.uniform(2, 6, (5000, 2)), rng.uniform(0, 3, 5000))
    assert rasterize(shapes, 4096, 4096).data.nbytes < 5000 * 14 * 14
