"""16 bits end to end: train on 16-bit synthetic nuclei, predict on an OME-TIFF by tiles."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from programs_toy import SETTINGS, fail, succeed
from torch import Tensor

import maskrcnn
from datasets.synthetic.config import SceneConfig, update_config
from datasets.synthetic.recipes import Recipe
from datasets.synthetic.rendering import render
from datasets.synthetic.scene import compose_scene
from datasets.synthetic.writer import create
from examples.predict import main as predict
from examples.train import main as train
from maskrcnn.images.large import LargeImage
from maskrcnn.model.detector import Detector

NUCLEI = update_config(
    SceneConfig(), width=64, height=64, n_groups=0, n_free=8, grey=True, channels=1, bit_depth=16,
    min_background=20, max_background=22, min_colour=24, max_colour=28, noise=0.001,
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A detector of one channel, trained on 16-bit gray images."""
    place = tmp_path_factory.mktemp("deep")
    with chdir(place):
        Path("smallobjects.toml").write_text(SETTINGS)
        create("nuclei", Recipe(n_train=6, n_val=2, n_test=2, scene=NUCLEI), processes=1)
        lines = succeed(train, "--dataset=ellipses", "--dataset_root=nuclei", "--num_epochs=2", "--channels=1")
        assert any("images of more than 8 bits: the gray levels" in line for line in lines)
        yield place


def make_slide() -> np.ndarray:
    """Two channels and three planes of 150 x 200, the second channel's best plane with nuclei."""
    scene = update_config(NUCLEI, width=200, height=150, n_free=60)
    nuclei = render(compose_scene(scene, "test", 7)).image[:, :, 0]
    stack = np.full((3, 2, 150, 200), 21 * 257, np.uint16)
    stack[1, 1] = nuclei
    return stack


def test_an_ome_tiff_is_predicted_by_tiles(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = make_slide()
    metadata = {"axes": "ZCYX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25}
    with chdir(trained):
        how = {"ome": True, "tile": (32, 32), "compression": "zlib", "photometric": "minisblack"}
        tifffile.imwrite("slide.ome.tif", stack, metadata=metadata, **how)  # type: ignore[arg-type]
        run, select = "--run=ellipses-mask_rcnn-1", "--select=c=1 z=max"
        message = fail(predict, "slide.ome.tif", run)
        assert "slide.ome.tif: is a stack of shape [3, 2, 150, 200] (ZCYX); choose with --select" in message
        seen: list[Tensor] = []
        whole = Detector.forward

        def watched(self: Detector, images: list[Tensor], *arguments: object, **options: object) -> object:
            seen.extend(images)
            return whole(self, images, *arguments, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(Detector, "forward", watched)
        largest, read = 0, LargeImage.read

        def counted(self: LargeImage, x: int, y: int, height: int, width: int) -> Tensor:
            nonlocal largest
            largest = max(largest, height * width)
            return read(self, x, y, height, width)

        monkeypatch.setattr(LargeImage, "read", counted)
        model = maskrcnn.load("ellipses-mask_rcnn-1", device="cpu")
        lines = succeed(predict, "slide.ome.tif", run, select, "--tile=64", "--plot_min_confidence=0.01")
        assert any("200 x 150, pixels of 0.25 µm" in line for line in lines)
        assert {(image.dtype, len(image)) for image in seen} == {(torch.uint16, 1)}  # as stored
        plane = stack[1, 1]
        tiles = {tuple(image.shape[1:]) for image in seen}
        assert tiles == {(64, 64)} and all(int(image.int().max()) <= int(plane.max()) for image in seen)
        with Image.open(next(Path("predictions").glob("slide*/*.png"))) as image:
            assert np.asarray(image.convert("L"), np.float64).std() > 15  # stretched, not black
        in_memory = model.predict(plane[:, :, None], tile=64)
        counts = len(in_memory.above(0.01))
        assert any(f"{counts} detection" in line for line in lines)


def test_a_detector_of_one_channel_rejects_others_with_one_line(trained: Path) -> None:
    with chdir(trained):
        Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save("color.png")
        message = fail(predict, "color.png", "--run=ellipses-mask_rcnn-1")
        assert "color.png: has 3 channels, and 1 are needed" in message
        model = maskrcnn.load("ellipses-mask_rcnn-1", device="cpu")
        with pytest.raises(ValueError, match=r"NumPy images must be \[H, W\], or \[H, W, C\] with 1 channel, got"):
            model.predict(np.zeros((64, 64, 3), np.uint8))


def test_the_run_stores_gray_levels_and_channels(trained: Path) -> None:
    with chdir(trained):
        model = maskrcnn.load("ellipses-mask_rcnn-1", device="cpu")
    image = model.detector.config.image
    assert image.channels == 1 and image.levels is not None
    assert 18 * 257 < image.levels[0] < 22 * 257 and 27 * 257 < image.levels[1] < 31 * 257
