"""A search of a folder that is stopped: what was found is on the disk, and the search goes on with what is left."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from programs_toy import call, fail, settle, succeed
from pycocotools.coco import COCO

from examples.predict import main as predict
from examples.train import main as train
from maskrcnn.config import read_toml
from maskrcnn.inference import program
from maskrcnn.inference.prediction_log import LOG_FILE
from maskrcnn.plotting import predictions
from maskrcnn.text import format_count

IMAGES = "data/ellipses/test/images"
RUN = "--run=ellipses-mask_rcnn-1"
FEW = "--plot_min_confidence=0.05"
COUNT = 5


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_ellipses: Path) -> Path:
    place = settle(tmp_path_factory.mktemp("resumed"), tiny_ellipses)
    with chdir(place):
        succeed(train, "--num_epochs=1")
        Path("many").mkdir()
        source = sorted(Path(IMAGES).glob("*.png"))
        for number in range(COUNT):
            with Image.open(source[number % len(source)]) as image:
                image.rotate(90 * number).save(f"many/{number}.png")
    return place


@pytest.fixture
def place(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(trained, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


def results(folder: str) -> dict[str, Any]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def stop_at(count: int, error: Callable[[], BaseException], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ends the search before image `count`; the names of all that were searched, also afterwards."""
    predict_file, searched = program.predict_file, []

    def stopped(pixels: Any, *arguments: Any) -> Any:
        if len(searched) == count:
            searched.append("stopped")
            raise error()
        searched.append(pixels.path.name)
        return predict_file(pixels, *arguments)

    monkeypatch.setattr(program, "predict_file", stopped)
    return searched


@pytest.mark.parametrize("count", [1, 3])
def test_a_search_that_was_stopped_goes_on_and_ends_with_the_same_files(
    place: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    succeed(predict, "many", RUN, FEW)
    searched = stop_at(count, KeyboardInterrupt, monkeypatch)
    result = call(predict, "many", RUN, FEW)
    assert result.exit_code == 130 and f"{format_count(count, 'images are done')}; continue with" in result.output
    assert "--resume=predictions/many-2" in result.output
    partial = COCO("predictions/many-2/images.json")
    assert len(partial.getImgIds()) == count
    partial.loadRes("predictions/many-2/coco_boxes.json")
    lines = succeed(predict, "many", RUN, FEW, "--resume=predictions/many-2")
    assert f"resumed: {format_count(count, f'of {COUNT} images are done')}" in lines
    assert searched == [*(f"{n}.png" for n in range(count)), "stopped", *(f"{n}.png" for n in range(count, COUNT))]
    assert results("predictions/many-1") == results("predictions/many-2")
    assert not Path(f"predictions/many-2/{LOG_FILE}").exists()


def test_a_line_that_was_cut_by_a_kill_is_searched_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    succeed(predict, "many", RUN, FEW)
    stop_at(2, KeyboardInterrupt, monkeypatch)
    call(predict, "many", RUN, FEW)
    log = Path("predictions/many-2") / LOG_FILE
    whole = log.read_bytes()
    for kept in (len(whole) - 1, len(whole) - 40):
        log.write_bytes(whole[:kept])
        for path in Path("predictions/many-2").glob("*.json"):  # a kill with -9 writes no results
            path.unlink()
        lines = succeed(predict, "many", RUN, FEW, "--resume=predictions/many-2")
        assert f"resumed: 1 of {COUNT} images is done" in lines
        assert results("predictions/many-1") == results("predictions/many-2")


def test_a_search_goes_on_with_its_own_settings_only(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_at(1, KeyboardInterrupt, monkeypatch)
    call(predict, "many", RUN)
    error = fail(predict, "many", RUN, "--views=d4", "--resume=predictions/many-1")
    assert "was started with other settings (views)" in error
    error = fail(predict, "many", RUN, "--detection_max_instances=3", "--resume=predictions/many-1")
    assert "was started with other settings (detector)" in error
    error = fail(predict, "many", RUN, FEW, "--resume=predictions/many-1")
    assert "was started with other settings (threshold)" in error
    shutil.copyfile("many/0.png", "many/00.png")  # one more image, before the one that is done
    succeed(predict, "many", RUN, "--resume=predictions/many-1")
    images = json.loads(Path("predictions/many-1/images.json").read_text())["images"]
    names = [(each["id"], each["file_name"]) for each in images]
    assert sorted(names) == list(enumerate(sorted(path.name for path in Path("many").iterdir()), start=1))
    assert "no stopped prediction" in fail(predict, "many", RUN, "--resume=predictions/many-1")


def test_images_of_16_bits_are_searched_by_the_gray_levels_of_training(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("images", "masks"):
        Path("deep", kind).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(4):
        labels = np.zeros((64, 64), np.uint8)
        labels[8 + number : 20, 8:20], labels[30:40, 30:44] = 1, 2
        values = (33_000 + 150 * (labels > 0) + rng.normal(0, 20, labels.shape)).round().astype(np.uint16)
        values[0, 0] = 65_535  # saturated
        tifffile.imwrite(f"deep/images/{number}.tif", values)
        tifffile.imwrite(f"deep/masks/{number}.tif", labels)
    lines = succeed(train, "--dataset=labels", "--dataset_root=deep", "--num_epochs=1", "--head=rpn", "--fixed_size=64")
    assert any("images of more than 8 bits: the gray levels 32" in line for line in lines)
    low, high = read_toml("runs/labels-rpn-1/config.toml")["detector"]["image"]["gray_levels"]
    assert 32_800 < low < 32_960 and 33_200 < high < 33_400
    lines = succeed(predict, "deep/images", "--run=labels-rpn-1")
    assert not any("gray levels" in line for line in lines)
    titles: list[str] = []
    compose = predictions._compose
    monkeypatch.setattr(
        predictions, "_compose", lambda panels, words, legend: titles.extend(words) or compose(panels, words, legend)
    )
    lines = succeed(predict, "deep/images", RUN)
    assert any("note: the images have 16 bits, training had 8: the gray levels 32" in line for line in lines)
    with Image.open("predictions/images-1/0.png") as image:
        shown = np.asarray(image.convert("L"), dtype=np.float64)
    assert shown.std() > 20  # it is no flat gray
    assert "contrast stretched: 32" in titles[-1]
