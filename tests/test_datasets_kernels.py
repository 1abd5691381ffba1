"""The generator's kernels against their NumPy definitions: equal to the last bit, and never outside their arrays."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.synthetic import _native, reference
from datasets.synthetic.annotations import annotate
from datasets.synthetic.config import SHAPES, SceneConfig, update_config
from datasets.synthetic.recipes import PRESETS
from datasets.synthetic.rendering import rasterize, render
from datasets.synthetic.scene import compose_scene
from datasets.synthetic.shapes import Outline, ShapeCoverage, Shapes, make_outline
from datasets.synthetic.streams import round_parameter
from datasets.synthetic.writer import hash_pixels

FREE = update_config(SceneConfig(), n_groups=0, n_free=40, width=90, height=70)
SCENES = {
    **{name: make().scene for name, make in PRESETS.items()},
    "all shapes, whole masks": update_config(FREE, shapes=SHAPES, whole_masks=True),
    "clutter and distractors": update_config(FREE, background="clutter", n_distractors=9),
    "noise behind": update_config(FREE, background="noise", contrast=0.4),
    "degraded": update_config(FREE, psf=1.2, noise=0.05, downsample=2),
    "truncated": update_config(FREE, margin=0.0, max_diameter=60.0, shapes=SHAPES),
    "a pixel each": update_config(FREE, min_diameter=0.3, max_diameter=1.0, outline=0.0),
    "larger than the canvas": update_config(FREE, min_diameter=60.0, max_diameter=400.0, n_free=9, shapes=SHAPES),
    "nothing": update_config(FREE, n_free=0),
    "one pixel": update_config(SceneConfig(), width=1, height=1),
}


def assert_equal(found: Any, wanted: Any) -> None:
    """Arrays to the last bit, with their types; tuples of them, lists."""
    if isinstance(wanted, tuple):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_equal(one, other)
    elif isinstance(wanted, np.ndarray):
        assert found.dtype == wanted.dtype and found.shape == wanted.shape
        assert np.ascontiguousarray(found).tobytes() == np.ascontiguousarray(wanted).tobytes()
    else:
        assert found == wanted


def both(definition: Callable[..., Any], *arguments: Any) -> Any:
    """What a kernel gives, which is what its definition gives."""
    assert _native.LIBRARY is not None
    result = _native.native(definition)(*arguments)
    assert_equal(result, definition(*arguments))
    return result


@st.composite
def shapes(draw: st.DrawFn) -> Shapes:
    """Up to nine shapes, near a canvas of some tens of pixels or far from it: ellipses, and outlines that cross
    themselves or lie flat among those of the generator."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.integers(0, 9))
    reach = draw(st.sampled_from([0.02, 1.0, 6.0, 30.0, 300.0]))
    centers, semi_axes = rng.uniform(-20, 70, (count, 2)), rng.uniform(0.001, reach, (count, 2))
    angles = rng.uniform(0, 2 * np.pi, count) * draw(st.sampled_from([0, 1]))
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    if draw(st.booleans()):  # on the samples themselves, where ties decide
        centers, semi_axes = np.rint(centers * 32) / 32, np.ceil(semi_axes * 32) / 32
    outlines: tuple[Outline | None, ...] = ()
    if draw(st.booleans()):
        kinds = rng.integers(0, len(SHAPES) + 1, count).tolist()
        outlines = tuple(
            make_outline(SHAPES[kind], FREE.objects, rng.random(12)) if kind < len(SHAPES) else scribble(rng)
            for kind in kinds
        )
    parameters = (round_parameter(each) for each in (centers, semi_axes, directions))
    return Shapes(*parameters, outlines)


def scribble(rng: np.random.Generator) -> Outline:
    """A closed polygon through a few points, on whole numbers or not."""
    points = rng.uniform(-2, 2, (int(rng.integers(3, 8)), 2))
    points = round_parameter(points) if rng.random() < 0.5 else np.rint(points)
    return Outline(np.concatenate([points, np.roll(points, -1, axis=0)], axis=1))


canvases = st.tuples(st.integers(1, 60), st.integers(1, 50))


def test_the_kernels_are_built_and_loaded() -> None:
    assert _native.LIBRARY is not None


@settings(max_examples=200)
@given(drawn=shapes(), canvas=canvases)
def test_levels_areas_and_moments_are_those_of_the_definitions(drawn: Shapes, canvas: tuple[int, int]) -> None:
    coverage = rasterize(drawn, *canvas)
    both(reference.fill_windows, drawn, drawn.half_extents()[:, 1], coverage.windows)
    both(reference.measure_levels, coverage)


@settings(max_examples=200)
@given(drawn=shapes(), canvas=canvases, seed=st.integers(0, 99), fine=st.booleans())
def test_pixels_and_sums_over_them_are_those_of_the_definitions(
    drawn: Shapes, canvas: tuple[int, int], seed: int, fine: bool
) -> None:
    (width, height), rng = canvas, np.random.default_rng(seed)
    coverage, exact, most = rasterize(drawn, *canvas), np.uint32 if fine else np.uint16, 255 * 256 if fine else 255
    before = rng.integers(0, most + 1, (height, width, 3)).astype(exact), np.zeros((height, width), np.uint16)
    colours = rng.integers(0, most + 1, (len(drawn), 3)).astype(exact)
    numbers = np.where(rng.random(len(drawn)) < 0.8, np.arange(len(drawn)) + 1, 0).astype(np.uint16)
    found, wanted = tuple(map(np.copy, before)), tuple(map(np.copy, before))
    _native.native(reference.paint)(*found, coverage, colours, numbers)
    reference.paint(*wanted, coverage, colours, numbers)
    assert_equal(found, wanted)
    image, labels = (found[0] // (256 if fine else 1)).astype(np.uint8), found[1]
    both(reference.measure_pixels, image, labels, coverage, rng.permutation(len(drawn)))


@settings(max_examples=200)
@given(canvas=canvases, largest=st.sampled_from([0, 1, 3, 40, 65_535]), seed=st.integers(0, 99), filled=st.booleans())
def test_boxes_and_codes_of_labels_are_those_of_the_definition(
    canvas: tuple[int, int], largest: int, seed: int, filled: bool
) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, largest + 1, canvas[::-1]).astype(np.uint16)
    both(reference.describe_labels, np.sort(labels, axis=seed % 2) if filled else labels)


@pytest.mark.parametrize("name", SCENES)
def test_images_and_annotations_are_the_same_without_the_kernels(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def made() -> list[str]:
        texts = []
        for image in range(3):
            scene = compose_scene(SCENES[name], "train", image)
            rendering = render(scene)
            hashes = hash_pixels(rendering.image), hash_pixels(rendering.labels)
            texts.append(json.dumps([hashes, annotate(scene, rendering, image)]))
        return texts

    by_kernels = made()
    monkeypatch.setattr(_native, "LIBRARY", None)
    assert made() == by_kernels


@pytest.fixture
def coverage() -> ShapeCoverage:
    """Two ellipses on 9 x 8 pixels."""
    centers, semi_axes = np.array([[3.0, 3.0], [5.0, 5.0]]), np.array([[2.0, 1.5], [2.0, 2.0]])
    return rasterize(Shapes(centers, semi_axes, np.array([[1.0, 0.0], [0.0, 1.0]])), 9, 8)


def paint(coverage: ShapeCoverage, **changes: Any) -> None:
    arguments = {
        "canvas": np.zeros((8, 9, 3), np.uint16),
        "labels": np.zeros((8, 9), np.uint16),
        "colors": np.zeros((2, 3), np.uint16),
        "numbers": np.ones(2, np.uint16),
    }
    _native.native(reference.paint)(coverage=coverage, **(arguments | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"canvas": np.zeros((8, 9, 3), np.float32)},
        {"canvas": np.zeros((8, 9, 4), np.uint16)},
        {"canvas": np.zeros((3, 9, 8), np.uint16).T},
        {"labels": np.zeros((8, 9), np.uint8)},
        {"labels": np.zeros((6, 9), np.uint16), "canvas": np.zeros((6, 9, 3), np.uint16)},
        {"labels": np.zeros((8, 6), np.uint16), "canvas": np.zeros((8, 6, 3), np.uint16)},
        {"colors": np.zeros((1, 3), np.uint16)},
        {"colors": np.zeros((2, 3), np.uint32)},
        {"numbers": np.zeros(3, np.uint16)},
    ],
)
def test_arrays_that_no_kernel_takes_are_refused(coverage: ShapeCoverage, changes: dict[str, Any]) -> None:
    paint(coverage)
    with pytest.raises(ValueError):
        paint(coverage, **changes)


def test_windows_that_do_not_fit_are_refused(coverage: ShapeCoverage) -> None:
    for broken in (
        replace(coverage, windows=coverage.windows - np.array([9, 0, 9, 0], np.int32)),
        replace(coverage, windows=coverage.windows + np.array([0, 0, 0, 1], np.int32)),
        replace(coverage, windows=coverage.windows[:, [2, 1, 0, 3]].copy()),
        replace(coverage, windows=coverage.windows.astype(np.int64)),
        replace(coverage, offsets=coverage.offsets + 1),
        replace(coverage, offsets=coverage.offsets[:-1]),
        replace(coverage, data=coverage.data[:-1]),
    ):
        with pytest.raises(ValueError):
            paint(broken)
    image, labels = np.zeros((8, 9, 3), np.uint8), np.zeros((8, 9), np.uint16)
    for which in (np.array([2]), np.array([-1]), np.array([0], np.int32)):
        with pytest.raises(ValueError):
            _native.native(reference.measure_pixels)(image, labels, coverage, which)


def test_strange_parameters_leave_no_array() -> None:
    for strange in (np.nan, np.inf, -np.inf, 1e300, -1e300, 1e18):
        drawn = Shapes(np.full((1, 2), strange), np.full((1, 2), 3.0), np.array([[1.0, 0.0]]))
        windows = np.array([[0, 0, 4, 5]], np.int32)
        levels, _ = _native.native(reference.fill_windows)(drawn, np.full(1, 3.0), windows)
        assert levels.shape == (20,)


def test_missing_kernels_are_said_once_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_native, "find_library", lambda: None)
    with pytest.warns(UserWarning, match="kernels are not built; using slower NumPy code: run `pip install"):
        assert _native.load_library() is None
    broken = tmp_path / "_scenes.so"
    broken.write_bytes(b"no library")
    monkeypatch.setattr(_native, "find_library", lambda: broken)
    with pytest.warns(UserWarning, match="kernels cannot be loaded"):
        assert _native.load_library() is None
    monkeypatch.undo()
    monkeypatch.setattr(_native, "VERSION", 0)
    with pytest.warns(UserWarning, match="kernels are of another version"):
        assert _native.load_library() is None


def test_drawing_loads_no_pytorch() -> None:
    code = "import sys, datasets.synthetic.writer\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=True)
