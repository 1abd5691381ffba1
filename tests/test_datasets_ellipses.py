"""Scenes of ellipses: the same on every machine, one factor apart from the next, and like those they descend from."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from skimage.measure import label

from datasets.synthetic.annotations import measure_factors
from datasets.synthetic.config import SceneConfig, update_config
from datasets.synthetic.rendering import render
from datasets.synthetic.scene import compose_scene
from datasets.synthetic.streams import ImageStreams
from datasets.synthetic.writer import hash_pixels
from maskrcnn.config import UserError

ROOT = Path(__file__).parents[1]
DEFAULT = SceneConfig()
# Pinned: a change here is a new VERSION of the generator.
IMAGE_HASH = "8c5efb68a0f70fce040303312c9b624d520a0124a9b1246ade8261c625580c10"
LABELS_HASH = "1a02b4c0c7e2008b4903476b9a1b702217487abecd5a93157716ce0e19a69a60"

PRINT_HASHES = """
from datasets.synthetic.config import SceneConfig, update_config
from datasets.synthetic.scene import compose_scene
from datasets.synthetic.rendering import render
from datasets.synthetic.writer import hash_pixels
for image in range(20):
    rendering = render(compose_scene(SceneConfig(), "train", image))
    print(hash_pixels(rendering.image), hash_pixels(rendering.labels))
"""


def hashes_in_new_process(disabled: str) -> str:
    environment = {**os.environ, "NPY_DISABLE_CPU_FEATURES": disabled, "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-W", "ignore", "-c", PRINT_HASHES]
    return subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout


@pytest.mark.usefixtures("core")
def test_pixels_are_the_pinned_ones():
    rendering = render(compose_scene(DEFAULT, "train", 3))
    assert hash_pixels(rendering.image) == IMAGE_HASH
    assert hash_pixels(rendering.labels) == LABELS_HASH


def test_pixels_do_not_depend_on_what_the_cpu_can_do():
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

    found = [feature for feature in __cpu_dispatch__ if __cpu_features__.get(feature)]
    if not found:
        pytest.skip("this NumPy uses no optional CPU features here")
    assert hashes_in_new_process(" ".join(found)) == hashes_in_new_process("")


def test_uniforms_are_keyed_by_all_four_and_keep_their_prefix():
    draws = ImageStreams(1, "train", 2).uniforms("size", 5)
    np.testing.assert_array_equal(ImageStreams(1, "train", 2).uniforms("size", 9)[:5], draws)
    others = [
        ImageStreams(2, "train", 2).uniforms("size", 5),
        ImageStreams(1, "test", 2).uniforms("size", 5),
        ImageStreams(1, "train", 3).uniforms("size", 5),
        ImageStreams(1, "train", 2).uniforms("angle", 5),
    ]
    for other in others:
        assert not np.isin(other, draws).any()
    many = ImageStreams(0, "train", 0).uniforms("size", 100_000)
    assert many.min() >= 0 and many.max() < 1
    assert abs(many.mean() - 0.5) < 0.005 and abs(many.var() - 1 / 12) < 0.002


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"min_colour": 200}, ("centers", "semi_axes", "directions")),
        ({"max_aspect": 2.5}, ("directions",)),
        ({"group_angle_jitter": 30.0}, ("semi_axes",)),
        ({"group_position_jitter": 0.5}, ("semi_axes", "directions")),
    ],
)
def test_changing_one_factor_leaves_the_others(change, same):
    before, after = compose_scene(DEFAULT, "train", 0), compose_scene(update_config(DEFAULT, **change), "train", 0)
    for name in ("centers", "semi_axes", "directions"):
        equal = np.array_equal(getattr(before.shapes, name), getattr(after.shapes, name))
        assert equal or name not in same
    free = slice(28, None)
    np.testing.assert_array_equal(before.shapes.centers[free], after.shapes.centers[free])


def test_more_free_ellipses_keep_those_that_were_there():
    before, after = compose_scene(DEFAULT, "train", 0), compose_scene(update_config(DEFAULT, n_free=30), "train", 0)
    np.testing.assert_array_equal(after.shapes.centers[:48], before.shapes.centers)
    np.testing.assert_array_equal(after.colors[:48], before.colors)


@pytest.mark.parametrize(("width", "height"), [(512, 128), (128, 512), (256, 256)])
def test_groups_lie_inside_images_that_are_not_square(width, height):
    for image in range(30):
        shapes = compose_scene(update_config(DEFAULT, width=width, height=height), "train", image).shapes
        extents = shapes.half_extents()
        low, high = (shapes.centers - extents)[:28], (shapes.centers + extents)[:28]
        assert low.min() > -1e-4 and (high < np.array([width, height]) + 1e-4).all()
        assert np.abs(shapes.centers[:, 0] - width / 2).max() > width / 6  # and spread over it


def test_scenes_have_the_figures_of_britefury():
    sides, areas, pieces = [], [], 0
    for image in range(60):
        labels = render(compose_scene(DEFAULT, "train", image)).labels
        for number in np.unique(labels[labels > 0]):
            rows, columns = np.nonzero(labels == number)
            window = labels[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] == number
            sides += window.shape
            areas.append(len(rows))
            pieces += label(window, connectivity=2).max() > 1
    assert len(areas) / 60 == pytest.approx(47.5, abs=0.6)
    np.testing.assert_allclose(np.percentile(sides, [1, 5, 50, 95, 99]), [6, 8, 15, 25, 29], atol=1.1)
    assert np.median(areas) == pytest.approx(137, rel=0.05)
    assert pieces / len(areas) == pytest.approx(0.037, abs=0.012)


@pytest.mark.usefixtures("core")
def test_later_objects_hide_earlier_ones_and_factors_are_measured():
    scene = compose_scene(update_config(DEFAULT, n_groups=0, n_free=2), "train", 0)
    shapes = replace(
        scene.shapes,
        centers=np.array([[50.0, 50.0], [50.0, 50.0]]),
        semi_axes=np.array([[10.0, 8.0], [4.0, 4.0]]),
        directions=np.array([[1.0, 0.0], [0.0, 1.0]]),
    )
    scene = replace(scene, shapes=shapes, colors=np.array([[200, 200, 200], [100, 100, 100]], np.uint8))
    rendering = render(scene)
    assert rendering.labels[50, 50] == 2 and rendering.labels[50, 43] == 1 and rendering.labels[10, 10] == 0
    assert rendering.image[50, 50].tolist() == [100] * 3 and rendering.image[50, 43].tolist() == [200] * 3
    factors = measure_factors(scene, rendering)
    np.testing.assert_allclose(factors.size, np.sqrt(np.pi * np.array([80.0, 16.0])), rtol=0.01)
    np.testing.assert_allclose(factors.aspect, [1.25, 1], atol=0.01)
    assert factors.angle[0] == pytest.approx(0, abs=0.5)
    np.testing.assert_allclose(factors.overlap, [0.2, 1], atol=0.01)
    np.testing.assert_allclose(factors.truncation, 0, atol=1e-6)
    np.testing.assert_allclose(factors.distance, 0, atol=1e-6)
    np.testing.assert_allclose(factors.visible_fraction, [0.8, 1], atol=0.03)
    assert factors.visible_pixels.tolist() == [(rendering.labels == 1).sum(), (rendering.labels == 2).sum()]
    assert factors.contrast[0] > 0.3 and factors.contrast[1] < 0  # darker than what surrounds it


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 300), (3, 2), (17, 40)])
def test_tiny_images_work(width, height):
    config = update_config(DEFAULT, width=width, height=height)
    scene = compose_scene(config, "train", 0)
    rendering = render(scene)
    assert rendering.image.shape == (height, width, 3)
    assert measure_factors(scene, rendering).visible_pixels.sum() == (rendering.labels > 0).sum()


@pytest.mark.parametrize(
    "change", [{"n_groups": 0}, {"n_free": 0}, {"n_objects_per_group": 0}, {"n_objects_per_group": 1}]
)
def test_scenes_without_groups_members_or_free_ones(change):
    config = update_config(DEFAULT, **change)
    assert len(compose_scene(config, "train", 0).shapes) == config.num_objects


@pytest.mark.parametrize(
    "change",
    [
        {"width": 0},
        {"height": -3},
        {"width": 100_000, "height": 100_000},
        {"min_diameter": 20.0},
        {"min_diameter": 0.0, "max_diameter": 0.0},
        {"min_colour": 255, "max_colour": 3},
        {"n_free": 70_000},
        {"max_aspect": 1.5},
    ],
)
def test_settings_that_make_no_scene_are_refused(change):
    with pytest.raises(UserError) as error:
        update_config(DEFAULT, **change)
    assert "\n" not in str(error.value)


def test_seeds_beyond_64_bits_are_refused():
    with pytest.raises(UserError, match="seed"):
        compose_scene(update_config(DEFAULT, seed=2**64), "train", 0)
