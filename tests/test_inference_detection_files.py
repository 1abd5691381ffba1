"""What a search writes of one image: label images of many objects, reduced pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from maskrcnn.images.large import open_pixels
from maskrcnn.inference import detection_files
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks
from maskrcnn.structures.pixels import InMemory


def test_more_objects_than_16_bits_can_number_become_tiff(tmp_path: Path) -> None:
    side, count = 300, 70_000
    places = torch.arange(count)
    x, y = (places % side).int(), (places // side).int()
    windows = torch.stack([x, y, x + 1, y + 1], dim=1)
    masks = CroppedMasks(windows, torch.arange(count + 1), torch.full((count,), 255, dtype=torch.uint8), (side, side))
    found = Instances((side, side), windows.float(), torch.ones(count).long(), torch.linspace(1, 0.6, count), masks)
    path, kept = detection_files.write_labels(tmp_path / "many", found, 0.5, 0.9)
    assert (path.name, kept) == ("many_labels.tif", count)
    labels = tifffile.imread(path)
    assert labels.dtype == np.int32 and labels.ravel()[:count].tolist() == list(range(1, count + 1))
    path, kept = detection_files.write_labels(tmp_path / "few", found, 0.99, 0.9)
    assert path.name == "few_labels.png" and Image.open(path).mode == "I;16" and 0 < kept < 65_536


def test_small_objects_are_seen_in_reduced_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Instances] = []
    monkeypatch.setattr(detection_files, "MAX_PICTURE_SIDE", 100)
    monkeypatch.setattr(detection_files, "render_detections", lambda image, found, *_: shown.append(found))
    monkeypatch.setattr(detection_files, "save_picture", lambda *_: None)
    corner = torch.arange(40)[:, None] * torch.tensor([9, 8]) + 1
    windows = torch.cat([corner, corner + 2], dim=1).int()
    masks = CroppedMasks.from_windows(windows, [torch.full((2, 2), 255)] * 40, (400, 400))
    found = Instances((400, 400), windows.float(), torch.ones(40).long(), torch.ones(40), masks)
    pixels = InMemory(torch.zeros(3, 400, 400, dtype=torch.uint8))
    detection_files.write_picture(tmp_path / "a.png", pixels, found, "mask_rcnn", 0.5, ("object",), "")
    assert (shown[0].masks.areas() > 0).tolist() == [True] * 40


@pytest.mark.parametrize("factor", [1, 2, 3, 7])
def test_reduced_images_are_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: int) -> None:
    monkeypatch.setattr(detection_files, "_ROWS", 10)
    monkeypatch.setattr(detection_files, "_COLUMNS", 15)
    values = np.random.default_rng(0).integers(0, 256, (41, 53, 3)).astype(np.uint8)
    np.save(tmp_path / "a.npy", values)
    with open_pixels(tmp_path / "a.npy") as pixels:
        image = detection_files.reduce_image(pixels, factor).numpy()
    assert image.shape == (3, -(-41 // factor), -(-53 // factor))
    for row in range(image.shape[1]):
        for column in range(image.shape[2]):
            part = values[row * factor : (row + 1) * factor, column * factor : (column + 1) * factor]
            assert np.abs(part.mean(axis=(0, 1)) - image[:, row, column]).max() <= 0.501
