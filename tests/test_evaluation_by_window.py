"""Evaluation of large images: they are searched in tiles and never read as a whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from detector_toy import toy_detector
from PIL import Image
from programs_toy import succeed

from datasets.deep_images import DeepImages
from datasets.readers.label_images import LabelImages
from examples.train import main as train
from maskrcnn.images.large import LargeImage
from maskrcnn.inference.config import ViewsConfig
from maskrcnn.structures.instances import Instances
from maskrcnn.training.config import TrainingConfig
from maskrcnn.training.loading import KeyedSamples
from maskrcnn.training.machine import set_up_machine
from workbench import evaluation
from workbench.evaluation import EvaluationSet, find_window, predict

HEIGHT, WIDTH = 150, 210


def write_images(root: Path) -> Path:
    """Four training and four test images, TIFF with label images: bright squares on noise."""
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        (root / split / "images").mkdir(parents=True)
        (root / split / "labels").mkdir()
        for number in range(4):
            values = generator.integers(0, 60, (HEIGHT, WIDTH, 3), np.uint8)
            labels = np.zeros((HEIGHT, WIDTH), np.uint8)
            for label, (y, x) in enumerate(generator.integers(0, 130, (8, 2)), start=1):
                values[y : y + 12, x : x + 12] = 200
                labels[y : y + 12, x : x + 12] = label
            Image.fromarray(values).save(root / split / "images" / f"{number}.tif")
            Image.fromarray(labels).save(root / split / "labels" / f"{number}.png")
    return root


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of more than 20,000 pixels are large, and tiles are of 64 pixels."""
    monkeypatch.setattr("maskrcnn.images.reading.MIN_WINDOWED_PIXELS", 20_000)
    monkeypatch.setattr(evaluation, "SIDE", 64)


@pytest.fixture
def largest_window(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of pixels that are read at once from files read by window."""
    found: list[int] = []
    original = LargeImage.read

    def read(self: LargeImage, x: int, y: int, height: int, width: int) -> torch.Tensor:
        found.append(height * width)
        return original(self, x, y, height, width)

    monkeypatch.setattr(LargeImage, "read", read)
    return found


def equal(a: Instances, b: Instances) -> bool:
    assert a.scores is not None and b.scores is not None
    return torch.equal(a.boxes, b.boxes) and torch.equal(a.scores, b.scores) and torch.equal(a.labels, b.labels)


def test_large_images_give_the_detections_of_tiles_of_the_whole(
    tmp_path: Path, small_limits: None, largest_window: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = DeepImages(LabelImages(write_images(tmp_path), "test"))
    detector, machine = (
        toy_detector("mask_rcnn", box__min_score=0.0).eval(),
        set_up_machine(TrainingConfig(device="cpu")),
    )
    by_window = predict(detector, KeyedSamples(dataset), machine, 2)
    assert max(largest_window) <= 64 * 64
    given = predict(detector, KeyedSamples(dataset), machine, 2, ViewsConfig(tile=64))
    monkeypatch.setattr("maskrcnn.images.reading.MIN_WINDOWED_PIXELS", 1 << 25)
    whole = predict(detector, KeyedSamples(dataset), machine, 2, ViewsConfig(tile=64))
    assert max(largest_window) == HEIGHT * WIDTH
    assert list(by_window) == list(whole) == dataset.image_ids
    assert sum(len(each) for each in whole.values()) > 0
    assert all(equal(by_window[key], whole[key]) and equal(given[key], whole[key]) for key in whole)


def test_small_images_beside_large_ones_are_searched_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_images(tmp_path)
    for path in (root / "test/images/1.tif", root / "test/labels/1.png"):
        Image.fromarray(np.asarray(Image.open(path))[:60, :60]).save(path)
    dataset = DeepImages(LabelImages(root, "test"))
    detector, machine = toy_detector("rpn").eval(), set_up_machine(TrainingConfig(device="cpu"))
    plain = predict(detector, KeyedSamples(dataset), machine, 3)
    monkeypatch.setattr("maskrcnn.images.reading.MIN_WINDOWED_PIXELS", 20_000)
    monkeypatch.setattr(evaluation, "SIDE", 64)
    mixed = predict(detector, KeyedSamples(dataset), machine, 3)
    small = dataset.image_ids[1]
    assert list(mixed) == dataset.image_ids and equal(mixed[small], plain[small])
    assert not all(equal(mixed[key], plain[key]) for key in plain)


def test_ground_truth_is_read_without_pixels_and_pictures_show_a_window_with_objects(
    tmp_path: Path, small_limits: None, largest_window: list[int]
) -> None:
    dataset = DeepImages(LabelImages(write_images(tmp_path), "test"))
    images = EvaluationSet.read("test", dataset)
    assert not largest_window and images.large == set(dataset.image_ids)
    assert [len(target) for target in images.targets.values()] == [len(dataset[i][1]) for i in range(4)]
    largest_window.clear()
    found = {image_id: target for image_id, target in images.targets.items()}
    for image, target, detections in images.read_pictures(found):
        assert image.shape == (3, 64, 64) and target.size == detections.size == (64, 64)
        assert len(target) == len(detections) > 0
        x1, y1, x2, y2 = target.boxes[0].round().int().tolist()
        assert image[:, y1:y2, x1:x2].float().mean() > 150
    assert max(largest_window) <= 70 * 70


def test_the_window_is_inside_the_image_whatever_the_objects() -> None:
    for box in ([0.0, 0, 4, 4], [5000.0, 2990, 5010, 3000], [2000.0, 1500, 2100, 1600]):
        objects = Instances((3000, 5010), torch.tensor([box]), torch.ones(1, dtype=torch.int64))
        matrix, size = find_window(objects)
        x, y = (-matrix[:, 2]).tolist()
        assert size == (1024, 1024) and 0 <= x <= 5010 - 1024 and 0 <= y <= 3000 - 1024
        assert x <= box[0] and box[2] <= x + 1024 and y <= box[1] and box[3] <= y + 1024
    matrix, size = find_window(Instances.empty((500, 5000)))
    assert size == (500, 1024) and float(-matrix[1, 2]) == 0


def test_training_on_large_images_reads_no_image_as_a_whole(
    workplace: Path, small_limits: None, largest_window: list[int]
) -> None:
    root = write_images(workplace / "large")
    flags = ("--dataset=labels", f"--dataset_root={root}", "--num_epochs=1", "--fixed_size=64", "--head=faster_rcnn")
    succeed(train, *flags, "--val_fraction=0.5")
    read = sorted(largest_window)
    assert read and read[-1] <= 110 * 110  # crops with their border
    with Image.open(workplace / "runs/labels-faster_rcnn-1/plots/test/0.png") as picture:
        picture.load()
