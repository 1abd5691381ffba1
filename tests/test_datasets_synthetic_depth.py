"""Synthetic images of more than 8 bits and any number of channels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.readers.generated import Generated
from datasets.synthetic.config import SceneConfig, update_config
from datasets.synthetic.on_the_fly import OnTheFly
from datasets.synthetic.recipes import Recipe
from datasets.synthetic.rendering import render
from datasets.synthetic.scene import compose_scene
from datasets.synthetic.verification import check_annotations, compare_file, read_manifest
from datasets.synthetic.writer import create
from maskrcnn.config import UserError
from maskrcnn.images.options import ImageOptions, use_image_options

SMALL = update_config(SceneConfig(), width=80, height=64, n_groups=1, n_objects_per_group=3, n_free=4)
LOW = {  # 8 of 4,096 levels on a background of half the range, noise of 2 levels
    "bit_depth": 12,
    "channels": 1,
    "min_colour": 254,
    "max_colour": 254,
    "min_background": 127,
    "max_background": 127,
    "contrast": 8 / 4095 * 255 / 127,
    "noise": 2 / 4095,
    "n_groups": 0,
    "n_free": 12,
    "width": 200,
    "height": 200,
}


def draw(config: SceneConfig, index: int = 0) -> np.ndarray:
    return render(compose_scene(config, "train", index)).image


@pytest.mark.parametrize("options", [{}, {"noise": 0.1}, {"background": "gradient", "psf": 1.0}, {"grey": True}])
@pytest.mark.parametrize("bits", [10, 12, 16])
def test_deep_images_are_the_same_scene_in_finer_steps(bits: int, options: dict[str, object]) -> None:
    flat, deep = (draw(update_config(SMALL, bit_depth=each, **options)) for each in (8, bits))
    assert deep.dtype == np.uint16 and deep.shape == flat.shape and deep.max() <= 2**bits - 1
    scaled = deep * (255 / (2**bits - 1))
    assert np.abs(scaled - flat).max() <= 1.01  # each rounds by itself, blending and degrading
    assert np.abs(scaled - flat).mean() < 0.3
    if options and not options.get("grey"):
        assert len(np.unique(deep)) > 1.5 * len(np.unique(flat))


def test_a_contrast_of_8_of_4096_levels() -> None:
    scene = compose_scene(update_config(SceneConfig(), **LOW), "train", 0)
    rendering = render(scene)
    image = rendering.image[:, :, 0].astype(np.float64)
    inside, outside = image[rendering.labels > 0], image[rendering.labels == 0]
    assert inside.mean() - outside.mean() == pytest.approx(8, abs=0.6)  # edges are blended
    assert outside.std() == pytest.approx(2, abs=0.2) and outside.mean() == pytest.approx(127 / 255 * 4095, abs=0.5)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("options", [{}, {"noise": 0.05, "background": "clutter"}, {"bit_depth": 12}])
def test_channels(channels: int, options: dict[str, object]) -> None:
    config = update_config(SMALL, channels=channels, **options)
    rendering = render(compose_scene(config, "train", 0))
    assert rendering.image.shape == (64, 80, channels)
    rgb = render(compose_scene(update_config(config, channels=3), "train", 0))
    np.testing.assert_array_equal(rendering.labels, rgb.labels)  # the objects do not depend on the channels
    if channels > 1:  # each channel has colors of its own
        assert np.abs(np.diff(rendering.image.astype(int), axis=2)).max(axis=(0, 1)).min() > 0


def test_gray_has_equal_channels() -> None:
    image = draw(update_config(SMALL, channels=5, grey=True, noise=0.1))
    assert (image == image[:, :, :1]).all() and image.std() > 5


@pytest.mark.parametrize(
    ("options", "suffix"),
    [
        ({"channels": 1}, ".png"),
        ({"channels": 1, "bit_depth": 12}, ".png"),
        ({"channels": 3, "bit_depth": 16}, ".tif"),
        ({"channels": 5}, ".tif"),
    ],
)
def test_written_images_are_those_that_are_drawn(tmp_path: Path, options: dict[str, int], suffix: str) -> None:
    recipe = Recipe(n_train=2, n_val=0, n_test=1, scene=update_config(SMALL, **options))
    root = create(tmp_path / "data", recipe, processes=1)
    drawn, read = OnTheFly(recipe, "train"), Generated(root, "train")
    assert {path.suffix for path in (root / "train" / "images").iterdir()} == {suffix}
    for index in range(2):
        with use_image_options(ImageOptions(channels=options["channels"])):
            image, instances = read[index]
        expected, objects = drawn[index]
        assert image.dtype == expected.dtype and torch.equal(image.int(), expected.int())
        assert torch.equal(instances.boxes, objects.boxes)
    assert list(filter(None, check_annotations(root, "train"))) == []
    files = read_manifest(root)
    assert all(compare_file(root, name, hashes) is None for name, hashes in files.items())
    name = next(name for name in files if name.startswith("train/images/"))
    content = bytearray((root / name).read_bytes())
    (root / name).write_bytes(content + b"\0")  # another file with the same pixels
    assert str(compare_file(root, name, files[name])).endswith("was saved again with the same pixels")


def test_contrast_and_snr_are_measured_in_fractions_of_the_depth(tmp_path: Path) -> None:
    recipe = Recipe(n_train=1, n_val=0, n_test=0, scene=update_config(SceneConfig(), **LOW))
    root = create(tmp_path / "data", recipe, processes=1)
    annotations = json.loads((root / "train/annotations.json").read_text())["annotations"]
    snr = np.median([each["factors"]["snr"] for each in annotations])
    assert snr == pytest.approx(4, abs=0.6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"jpeg": 80, "bit_depth": 12}, "jpeg 80 needs 8 bits"),
        ({"jpeg": 80, "channels": 4}, "jpeg 80 needs 8 bits and 1 or 3 channels, not 8 and 4"),
        ({"background": "pictures", "pictures": "x", "channels": 4}, "background pictures has 1 or 3 channels, not 4"),
        ({"bit_depth": 17}, "bit_depth"),
        ({"channels": 0}, "channels"),
    ],
)
def test_options_that_do_not_fit_are_named(options: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        update_config(SceneConfig(), **options)
