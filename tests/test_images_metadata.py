"""Pixel size, channel names and georeference that files store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

from datasets.deep_images import DeepImages
from datasets.readers.label_images import LabelImages
from maskrcnn.config import UserError
from maskrcnn.images.large import open_pixels
from maskrcnn.images.metadata import Georeference, ImageMetadata, compute_scale, read_ome
from maskrcnn.images.options import ImageOptions, use_image_options
from maskrcnn.inference.config import ViewsConfig
from maskrcnn.inference.pipeline import build_views, find_scale
from maskrcnn.inference.prediction import predict
from maskrcnn.structures.instances import Instances

PIXELS = np.zeros((20, 30), np.uint16)


def read(path: Path) -> ImageMetadata:
    with open_pixels(path) as image:
        return image.metadata


@pytest.mark.parametrize(
    ("how", "size"),
    [
        ({"ome": True, "metadata": {"axes": "YX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5}}, (0.5, 0.25)),
        (
            {"ome": True, "metadata": {"axes": "YX", "PhysicalSizeX": 65, "PhysicalSizeY": 65,
             "PhysicalSizeXUnit": "nm", "PhysicalSizeYUnit": "nm"}},
            (0.065, 0.065),
        ),
        ({"imagej": True, "resolution": (4.0, 2.0), "metadata": {"unit": "um"}}, (0.5, 0.25)),
        ({"imagej": True, "resolution": (1000, 1000), "metadata": {"unit": "mm"}}, (1.0, 1.0)),
        ({"imagej": True, "resolution": (4.0, 4.0), "metadata": {"unit": "\\u00B5m"}}, (0.25, 0.25)),
        ({"imagej": True, "metadata": {"unit": "pixel"}}, None),
        ({"resolution": (20_000, 10_000), "resolutionunit": "CENTIMETER"}, (1.0, 0.5)),
        ({"resolution": (50_800, 50_800), "resolutionunit": "INCH"}, (0.5, 0.5)),
        ({"resolution": (300, 300), "resolutionunit": "INCH"}, None),  # of a printer
        ({"resolution": (118.11, 118.11), "resolutionunit": "CENTIMETER"}, None),  # 300 dpi
        ({"resolution": (1, 1), "resolutionunit": "NONE"}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_pixel_sizes_in_micrometers(tmp_path: Path, how: dict[str, Any], size: tuple[float, float] | None) -> None:
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, photometric="minisblack", **how)
    found = read(tmp_path / "a.tif").pixel_size
    assert found == (None if size is None else pytest.approx(size, rel=1e-4))


def test_names_of_channels(tmp_path: Path) -> None:
    metadata = {"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP"]}}
    tifffile.imwrite(tmp_path / "a.tif", np.stack([PIXELS] * 2), ome=True, photometric="minisblack", metadata=metadata)
    found = read(tmp_path / "a.tif")
    assert found.channel_names == ("DAPI", "GFP") and found.describe() == "channels DAPI, GFP"


@pytest.mark.parametrize(
    "xml", ["", "<a", "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "<OME/>", "<OME><Pixels PhysicalSizeX='x'/></OME>"]
)
def test_invalid_xml_says_nothing(xml: str) -> None:
    assert read_ome(xml) == ImageMetadata()


# ---- georeference


def write_geotiff(path: Path, keys: list[int], tags: list[tuple[int, str, int, Any, bool]]) -> Path:
    directory = (34735, "H", len(keys) + 4, (1, 1, 0, len(keys) // 4, *keys), True)
    tifffile.imwrite(path, PIXELS, photometric="minisblack", metadata=None, extratags=[*tags, directory])
    return path


SCALE = (33550, "d", 3, (0.5, 0.5, 0.0), True)
TIE = (33922, "d", 6, (0.0, 0.0, 0.0, 500_000.0, 4_600_000.0, 0.0), True)
UTM = [3072, 0, 1, 32633]  # ProjectedCSTypeGeoKey


def test_a_georeference_maps_pixels_to_the_world(tmp_path: Path) -> None:
    found = read(write_geotiff(tmp_path / "a.tif", [1025, 0, 1, 1, *UTM], [SCALE, TIE])).georeference
    assert found == Georeference((0.5, 0, 500_000, 0, -0.5, 4_600_000), "EPSG:32633")
    corners = found.to_world(np.array([[0.0, 0], [30, 20]]))
    np.testing.assert_array_equal(corners, [[500_000, 4_600_000], [500_015, 4_599_990]])


def test_maps_of_pixel_centers_are_shifted_by_half_a_pixel(tmp_path: Path) -> None:
    found = read(write_geotiff(tmp_path / "a.tif", [1025, 0, 1, 2, *UTM], [SCALE, TIE])).georeference
    assert found is not None and found.transform == (0.5, 0, 499_999.75, 0, -0.5, 4_600_000.25)


def test_a_matrix_and_a_geographic_system(tmp_path: Path) -> None:
    matrix = (34264, "d", 16, (0.1, 0.2, 0, 7, 0.3, -0.4, 0, 8, *[0] * 7, 1), True)
    found = read(write_geotiff(tmp_path / "a.tif", [2048, 0, 1, 4326], [matrix])).georeference
    assert found == Georeference((0.1, 0.2, 7, 0.3, -0.4, 8), "EPSG:4326")


@pytest.mark.parametrize("keys", [[1025, 0, 1, 1], [3072, 0, 1, 32767]])
def test_a_georeference_without_projection_is_named(tmp_path: Path, keys: list[int]) -> None:
    path = write_geotiff(tmp_path / "a.tif", keys, [SCALE, TIE])
    found = read(path)
    assert found.georeference is not None and found.georeference.crs is None
    assert found.describe() == "georeference without a coordinate reference system"
    with pytest.raises(UserError, match=r"a\.tif: has a georeference without a coordinate reference system"):
        found.georeference.check_crs(path)


@pytest.mark.parametrize("tags", [[SCALE], [TIE], [(33550, "d", 3, (0.0, 0.5, 0.0), True), TIE]])
def test_tags_that_define_no_map(tmp_path: Path, tags: list[Any]) -> None:
    assert read(write_geotiff(tmp_path / "a.tif", UTM, tags)).georeference is None


# ---- rescaling


def write_scaled(root: Path, sizes: list[float]) -> Path:
    """Images of one scene, a disk of 8 µm, with pixels of several sizes."""
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for number, size in enumerate(sizes):
        side = round(40 / size)
        y, x = (np.mgrid[:side, :side] + 0.5) * size
        disk = (x - 20) ** 2 + (y - 16) ** 2 <= 16
        values = np.where(disk, 3000, 1000).astype(np.uint16)
        metadata = {"axes": "YX", "PhysicalSizeX": size, "PhysicalSizeY": size}
        tifffile.imwrite(root / f"images/{number}.ome.tif", values, ome=True, metadata=metadata)
        tifffile.imwrite(root / f"masks/{number}.ome.tif", disk.astype(np.uint8))
    return root


def test_training_images_are_rescaled_to_one_pixel_size(tmp_path: Path) -> None:
    data = DeepImages(
        LabelImages(write_scaled(tmp_path, [0.5, 1.0, 0.25, 0.5]), "train"), options=ImageOptions(pixel_size=0.5)
    )
    for index in range(len(data)):
        image, instances = data[index]
        assert image.shape == (3, 80, 80) and image.dtype == torch.uint16 and instances.size == (80, 80)
        np.testing.assert_allclose(instances.boxes[0], [32, 24, 48, 40], atol=1.1)
        assert instances.masks is not None
        assert int(instances.masks.areas()[0]) == pytest.approx(np.pi * 8**2, rel=0.12)


class Threshold:
    """Finds what is bright, with the box of it in the view that it is shown."""

    training = False

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def train(self, mode: bool = True) -> None:
        pass

    def __call__(self, images: list[torch.Tensor]) -> list[Instances]:
        found = []
        for image in images:
            self.shapes.append(tuple(image.shape))
            bright = (image[0].float() > 2000).numpy()
            rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
            box = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1] if len(rows) else [0, 0, 1, 1]
            score = torch.tensor([0.9 if len(rows) else 0.0])
            size = (image.shape[1], image.shape[2])
            found.append(Instances(size, torch.tensor([box], dtype=torch.float32), torch.tensor([1]), score))
        return found


@pytest.mark.parametrize("tile", [0, 48])
@pytest.mark.parametrize("size", [0.25, 0.5, 1.0])
def test_prediction_shows_the_detector_the_pixel_size_of_training(tmp_path: Path, size: float, tile: int) -> None:
    path = write_scaled(tmp_path, [size]) / "images/0.ome.tif"
    detector, config = Threshold(), ViewsConfig(tile=tile, overlap=0.4)
    with use_image_options(ImageOptions(pixel_size=0.5)), open_pixels(path) as pixels:
        views = build_views(detector, config, pixels.size, find_scale(pixels))
        found = predict(detector, pixels, views)
    assert set(detector.shapes) == {(3, tile or 80, tile or 80)}  # 40 µm
    best = found.boxes[found.scores.argmax()] if found.scores is not None else None
    np.testing.assert_allclose(best * size, [16, 12, 24, 20], atol=1.3)  # µm


def test_a_file_without_pixel_size_is_named(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", PIXELS)
    with (
        use_image_options(ImageOptions(pixel_size=0.5)),
        open_pixels(tmp_path / "a.tif") as pixels,
        pytest.raises(UserError, match=r"a\.tif: states no pixel size, so --pixel_size=0\.5 cannot be applied"),
    ):
        find_scale(pixels)
    with pytest.raises(UserError, match=r"which --pixel_size=0\.001 would rescale by 500; check the unit"):
        compute_scale((0.5, 0.5), 0.001, "a.tif")
