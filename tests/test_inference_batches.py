"""Images of one list go through the detector in batches, with the results that each has alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from detector_toy import disks, toy_detector
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from maskrcnn.images import inputs, large
from maskrcnn.images.options import get_image_options
from maskrcnn.inference import prediction
from maskrcnn.inference.pipeline import WHOLE_IMAGE
from maskrcnn.inference.prediction import predict, predict_each
from maskrcnn.inference.predictor import Predictor
from maskrcnn.inference.views import flips, tiles, whole
from maskrcnn.model.detector import Detector
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.pixels import InMemory
from maskrcnn.training.machine import Machine

SIZES = [(48, 64), (64, 64), (33, 70), (64, 48), (48, 64), (20, 24), (64, 64)]
IMAGES = [disks(size, seed=seed)[0] for seed, size in enumerate(SIZES)]


def assert_identical(found: Sequence[Instances], expected: Sequence[Instances]) -> None:
    assert len(found) == len(expected) and sum(map(len, found)) > len(found)
    for one, other in zip(found, expected, strict=True):
        assert one.size == other.size
        for name in ("boxes", "labels", "scores"):
            assert torch.equal(one[name], other[name]), name
        assert (one.masks is None) == (other.masks is None)
        if one.masks is not None:
            assert all(torch.equal(a, b) for a, b in zip(one.masks.parts, other.masks.parts, strict=True))


@pytest.fixture(scope="module", params=["rpn", "mask_rcnn"])
def head(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("options", [{}, {"views": "flips"}, {"tile": 32, "overlap": 0.25}])
def test_a_list_is_predicted_as_its_images_one_by_one_bit_for_bit(
    head: str, options: dict[str, Any], amp: bool
) -> None:
    machine = Machine(torch.device("cpu"), amp, channels_last=True)
    model = Predictor(toy_detector(head, num_classes=2), device=machine)
    expected = [model.predict(image, batch_size=1, **options) for image in IMAGES]
    for batch_size in (1, 2, 3, 100):
        assert_identical(model.predict(IMAGES, batch_size=batch_size, **options), expected)
        assert_identical(list(model.predict_each(iter(IMAGES), batch_size=batch_size, **options)), expected)


def test_small_float32_maps_of_a_wide_detector_do_not_depend_on_the_batch() -> None:
    """oneDNN convolves maps of 8 x 8 with 256 channels in another order of sums for two images than for one."""
    from maskrcnn.model.config import DetectorConfig

    torch.manual_seed(0)
    detector = Detector(DetectorConfig(), 1, "faster_rcnn").eval()
    images = [disks((97, 97), seed=seed)[0] for seed in range(3)]
    assert_identical(detector(images), [detector([image])[0] for image in images])


class Recorder:
    """A detector that finds one object per image, of the size of its image, and remembers its calls."""

    def __init__(self) -> None:
        self.calls: list[list[tuple[int, int]]] = []

    def __call__(self, images: Sequence[Tensor]) -> list[Instances]:
        self.calls.append([(int(image.shape[1]), int(image.shape[2])) for image in images])
        boxes = [torch.tensor([[0.0, 0.0, image.shape[2], image.shape[1]]]) for image in images]
        return [
            Instances((int(image.shape[1]), int(image.shape[2])), box, torch.ones(1).long(), image[:, 0, 0][:1].float())
            for image, box in zip(images, boxes, strict=True)
        ]


def numbered(count: int, opened: list[int] | None = None) -> Iterator[tuple[Tensor, Any]]:
    for number in range(count):
        if opened is not None:
            opened.append(number)
        yield torch.full((3, 8, 8), number, dtype=torch.uint8), whole((8, 8))


@settings(max_examples=40)
@given(counts=st.lists(st.integers(1, 5), max_size=6), batch_size=st.integers(1, 7))
def test_batches_are_full_and_results_keep_their_order(counts: list[int], batch_size: int) -> None:
    detector = Recorder()
    images = [
        (torch.full((3, 8, 8), number, dtype=torch.uint8), whole((8, 8)) * count) for number, count in enumerate(counts)
    ]
    found = list(predict_each(detector, images, lambda layers: layers[0], batch_size))
    assert [float(each.scores[0]) for each in found] == list(range(len(counts)))
    total = sum(counts)
    assert [len(call) for call in detector.calls] == [batch_size] * (total // batch_size) + (
        [total % batch_size] if total % batch_size else []
    )


def test_a_generator_reads_one_batch_ahead_at_most() -> None:
    opened: list[int] = []
    results = predict_each(Recorder(), numbered(10, opened), batch_size=3)
    assert opened == []
    for number, found in enumerate(results):
        assert float(found.scores[0]) == number and len(opened) <= 3 * (number // 3 + 1)
    assert opened == list(range(10))


def test_large_images_are_not_collected_in_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction, "MAX_BATCH_PIXELS", 150)
    detector = Recorder()
    sizes = [(8, 8), (8, 8), (20, 20), (20, 20), (8, 8)]
    list(predict_each(detector, [(torch.zeros(3, *size), whole(size)) for size in sizes], batch_size=4))
    assert detector.calls == [[(8, 8), (8, 8)], [(20, 20)], [(20, 20)], [(8, 8)]]


def test_the_images_before_a_bad_one_are_returned() -> None:
    def images() -> Iterator[tuple[Tensor, Any]]:
        yield from numbered(4)
        raise ValueError("image 4 is broken")

    class Broken(InMemory):
        def read(self, x: int, y: int, height: int, width: int) -> Tensor:
            if x > 0:
                raise ValueError("image 4 is broken")
            return super().read(x, y, height, width)

    broken = Broken(torch.zeros(3, 8, 64, dtype=torch.uint8))
    sources: list[Callable[[], Any]] = [images, lambda: [*numbered(4), (broken, tiles((8, 64), 32, 0.1)), *numbered(1)]]
    for source in sources:
        found: list[Instances] = []
        with pytest.raises(ValueError, match="image 4 is broken"):
            found.extend(iter_into(found, predict_each(Recorder(), source(), batch_size=3)))
        assert [float(each.scores[0]) for each in found] == [0, 1, 2, 3]


def iter_into(found: list[Instances], results: Iterator[Instances]) -> list[Instances]:
    for each in results:
        found.append(each)
    return []


def test_errors_of_the_detector_are_raised_once() -> None:
    calls: list[int] = []

    def detector(images: Sequence[Tensor]) -> list[Instances]:
        calls.append(len(images))
        raise RuntimeError("no kernel")

    with pytest.raises(RuntimeError, match="no kernel"):
        list(predict_each(detector, numbered(5), batch_size=2))
    assert calls == [2]


def test_a_generator_that_waits_changes_no_options_of_its_caller(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    alpha = torch.cat([IMAGES[0], IMAGES[0][:1]])
    Image.fromarray(alpha.permute(1, 2, 0).numpy(), "RGBA").save(path)
    model = Predictor(toy_detector("rpn", image__channels=4), device="cpu")
    before = get_image_options()
    results = model.predict_each([path, path, alpha], batch_size=1)
    found = [next(results)]
    assert get_image_options() is before
    assert_identical([*found, *results], [model.predict(alpha)] * 3)


def test_one_image_is_a_list_of_one() -> None:
    model = Predictor(toy_detector(num_classes=2), device="cpu")
    image = IMAGES[0]
    one = predict(model.detector, image, flips(SIZES[0]), batch_size=3)
    assert_identical([one], list(predict_each(model.detector, [(image, flips(SIZES[0]))], batch_size=2)))
    assert model.views == WHOLE_IMAGE


# ---- opening of images


@pytest.mark.parametrize("suffix", ["tif", "png", "npy"])
def test_a_deep_image_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    values = (IMAGES[0][0].numpy().astype(np.uint16) * 40) + 1000
    path = tmp_path / f"deep.{suffix}"
    if suffix == "npy":
        np.save(path, values)
    elif suffix == "tif":
        tifffile.imwrite(path, values)
    else:
        Image.fromarray(values).save(path)
    levels = large.measure_levels([path])
    opened: list[Path] = []
    open_pixels = large.open_pixels

    def count(path: Path, *arguments: Any, **options: Any) -> large.LargeImage:
        opened.append(path)
        return open_pixels(path, *arguments, **options)

    monkeypatch.setattr(inputs, "open_pixels", count)
    monkeypatch.setattr(large, "open_pixels", count)
    with inputs.open_image(path) as pixels:
        assert pixels.levels == levels
    assert opened == [path]


def test_pixels_are_used_as_they_are_and_stay_open(tmp_path: Path) -> None:
    Image.fromarray(IMAGES[0].permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    model = Predictor(toy_detector(num_classes=2), device="cpu")
    with large.open_pixels(tmp_path / "a.png") as pixels:
        found = model.predict(pixels)
        assert torch.equal(pixels.read(0, 0, *pixels.size), IMAGES[0])
    assert_identical([found], [model.predict(IMAGES[0])])
    assert_identical(model.predict([InMemory(IMAGES[0]), tmp_path / "a.png"]), [found, found])
