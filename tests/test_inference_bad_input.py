"""Files that are no detector and inputs that are no image: one clear error in Python, one line and exit code 2."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detector_toy import TOY, toy_detector
from PIL import Image
from programs_toy import fail

from maskrcnn.config import to_dict
from maskrcnn.inference.config import ViewsConfig
from maskrcnn.inference.loading import load
from maskrcnn.inference.predictor import Predictor
from maskrcnn.inference.program import main as predict
from maskrcnn.training.checkpoint import save_checkpoint


class Code:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


@pytest.fixture(scope="module")
def contents() -> dict[str, Any]:
    return {
        "model": toy_detector("faster_rcnn", num_classes=2).state_dict(),
        "head": "faster_rcnn",
        "class_names": ["cell", "debris"],
        "category_ids": [7, 9],
        "config": {"detector": to_dict(TOY), "views": to_dict(ViewsConfig()), "data": {}},
        "state": {"metrics": {"operating_threshold": 0.25}},
    }


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, contents: dict[str, Any]) -> Path:
    monkeypatch.chdir(tmp_path)
    save_checkpoint("good.pt", contents)
    Image.effect_noise((40, 30), 50).save("a.png")
    return tmp_path


FILES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "truncated": (lambda _: Path("good.pt").read_bytes()[:9000], "is damaged or not a checkpoint"),
    "empty": (lambda _: b"", "is damaged or not a checkpoint"),
    "text": (lambda _: b"hello", "is damaged or not a checkpoint"),
    "pickled": (lambda _: pickle.dumps({"model": {"a": 1}}), "is damaged or not a checkpoint"),
    "code": (lambda _: pickle.dumps({"model": Code()}), "is damaged or not a checkpoint"),
    "torch code": (lambda _: {"model": Code()}, "is damaged or not a checkpoint"),
    "module": (lambda _: torch.nn.Linear(2, 2), "is damaged or not a checkpoint"),
    "foreign": (lambda _: {"weights": [1]}, "contains no model of this project"),
    "undescribed": (lambda c: {"model": c["model"]}, "does not describe what it was trained as"),
    "newer": (lambda c: {**c, "format": 2}, r"written by a newer version \(format 2, known: 1\); update"),
    "other classes": (lambda c: {**c, "class_names": ["a"], "category_ids": [1]}, "has another architecture"),
    "text ids": (lambda c: {**c, "category_ids": ["x", "y"]}, r"category_ids are \['x', 'y'\], but there must be 2"),
    "few ids": (lambda c: {**c, "category_ids": [1]}, r"category_ids are \[1\], but there must be 2 integers"),
    "no tables": (lambda c: {**c, "config": {"detector": 5}}, "detector = 5: is a section"),
    "numbers": (lambda c: {**c, "model": dict.fromkeys(c["model"], 5)}, "weights are not all tensors"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_no_detector_is_named(kind: str, place: Path, contents: dict[str, Any]) -> None:
    make, message = FILES[kind]
    value = make(contents)
    Path("bad.pt").write_bytes(value) if isinstance(value, bytes) else torch.save(value, "bad.pt")
    with pytest.raises(ValueError, match=message) as raised:
        load("bad.pt", device="cpu")
    assert "bad.pt" in str(raised.value) and "\n" not in str(raised.value)
    assert fail(predict, "a.png", "--run=bad.pt") == f"error: {raised.value}"
    assert not Path("executed").exists() and not Path("predictions").exists()


def test_a_run_that_is_none_is_named(place: Path) -> None:
    Path("folder").mkdir()
    Path("fresh").mkdir()
    Path("fresh/config.toml").write_text("")
    Path("runs/ellipses-mask_rcnn-1").mkdir(parents=True)
    Path("runs/ellipses-mask_rcnn-1/config.toml").write_text("")
    for name, message in (
        ("elipses-mask_rcnn-1", "no run there (a folder with config.toml); did you mean 'ellipses-mask_rcnn-1'?"),
        ("newets", "no run there (a folder with config.toml); did you mean 'newest'?"),
        ("folder", "folder: is no folder of a run, it has no config.toml"),
        ("absent", "absent: no run there"),
        ("absent.pt", "no weights at absent.pt"),
        ("absent.safetensors", "no weights at absent.safetensors"),
        ("fresh", "no weights at fresh/weights/last.pt"),
        ("a.png", "a.png is damaged or not a checkpoint"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            load(name, device="cpu")
        assert message in fail(predict, "a.png", f"--run={name}").replace("\\", "/")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("text.png", b"hello", "not a readable image, broken or truncated (cannot identify image file)"),
        ("empty.png", b"", "not a readable image"),
        ("nan.npy", np.full((9, 9), np.nan, np.float32), "NaN"),
        ("infinite.npy", np.full((9, 9, 3), np.inf, np.float32), "infinite"),
        ("first.npy", np.zeros((3, 40, 50), np.uint8), "shape"),
        ("zero.npy", np.zeros((0, 5, 3), np.uint8), "no pixels"),
        ("long.npy", np.zeros((5, 5), np.int64), "int64"),
        ("objects.npy", np.array([{}], dtype=object), "not a readable image"),
    ],
)
def test_a_file_that_is_no_image_is_named(place: Path, name: str, content: Any, message: str) -> None:
    Path(name).write_bytes(content) if isinstance(content, bytes) else np.save(name, content)
    model = load("good.pt", device="cpu")
    for image in (name, Path(name), [Path(name)]):
        with pytest.raises(ValueError, match=re.escape(message)) as raised:
            model.predict(image)
        assert name in str(raised.value)
    error = fail(predict, name, "--run=good.pt")
    assert name in error and message in error and not any(Path("predictions").glob("*"))


def test_folders_without_images_and_folders_in_python_are_named(place: Path) -> None:
    Path("empty").mkdir()
    assert "empty: no images in this folder" in fail(predict, "empty", "--run=good.pt")
    with pytest.raises(ValueError, match=r"empty: is a folder; give its image files, such as sorted\(Path\('empty'\)"):
        load("good.pt", device="cpu").predict("empty")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.new("F", (5, 4), 300.0), r"float images must be in \[0, 1\], this one is in \[300, 300\]"),
        (Image.new("I", (5, 4), 70_000), "got int32"),
        (Image.new("I", (5, 4), -1), "got int32"),
        (Image.new("RGB", (0, 0)), "has no pixels"),
        (torch.full((3, 9, 9), 2.0), r"this one is in \[2, 2\]; divide it by 255"),
        (-np.ones((9, 9)), r"this one is in \[-1, -1\]"),
        (torch.full((3, 9, 9), float("nan")), "not finite"),
        (np.zeros((9, 9, 3), complex), "got complex128"),
        (b"bytes", "not builtins.bytes"),
        (None, "not builtins.NoneType"),
    ],
)
def test_what_is_no_image_in_memory_is_named_with_its_place_in_the_list(image: Any, message: str) -> None:
    model = Predictor(toy_detector("rpn"), device="cpu")
    good = torch.zeros(3, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match=f"^image: .*{message}"):
        model.predict(image)
    with pytest.raises(ValueError, match=f"^image 1: .*{message}"):
        model.predict([good, image])


def test_values_of_images_of_pillow_with_more_than_8_bits_are_kept() -> None:
    model = Predictor(toy_detector("rpn", num_classes=1), device="cpu")
    values = (np.random.default_rng(0).integers(0, 4000, (40, 50))).astype(np.int32)
    as_int, as_numpy = Image.fromarray(values), values.astype(np.uint16)
    assert as_int.mode == "I" and torch.equal(model.predict(as_int).scores, model.predict(as_numpy).scores)
    unit = (values / 4000).astype(np.float32)
    assert torch.equal(model.predict(Image.fromarray(unit)).scores, model.predict(unit).scores)


@pytest.mark.parametrize(
    ("options", "flag", "message"),
    [
        ({"views": "d5"}, "--views=d5", "unknown view 'd5'"),
        ({"views": "affine:x"}, "--views=affine:x", "needs numbers"),
        ({"merge": "best"}, "--merge=best", "must be one of nms"),
        ({"tile": -1}, "--tile=-1", "must be at least 0"),
        ({"tile": 64, "overlap": 2.0}, "--tile=64 --overlap=2", "below 1"),
        ({"batch_size": 0}, "--view_batch_size=0", "must be at least 1"),
    ],
)
def test_an_option_that_cannot_be_used_is_named(place: Path, options: dict[str, Any], flag: str, message: str) -> None:
    model = load("good.pt", device="cpu")
    for call in (lambda: model.predict("a.png", **options), lambda: list(model.predict_each(["a.png"], **options))):
        with pytest.raises(ValueError, match=message):
            call()
    assert message in fail(predict, "a.png", "--run=good.pt", *flag.split())


def test_unknown_options_of_load_are_named(place: Path) -> None:
    with pytest.raises(ValueError, match="load has no option vews"):
        load("good.pt", device="cpu", vews="d4")
    with pytest.raises(ValueError, match="detection_min_confidence = 3.0: must be at most 1"):
        load("good.pt", device="cpu", detection_min_confidence=3)
    model = load("good.pt", device="cpu", detection_min_confidence=0.2, views="flips")
    assert (model.detector.config.box.min_score, model.views.views) == (0.2, "flips")
    assert model.config["detector"]["box"]["min_score"] == 0.2 and model.config["views"]["views"] == "flips"
