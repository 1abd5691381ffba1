"""Tables and GeoJSON that `predict` writes: read by pandas, geopandas and shapely, valid by RFC 7946 and for QuPath."""

from __future__ import annotations

import copy
import json
import math
import uuid
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from programs_toy import settle, succeed

from examples.predict import main as predict
from examples.train import main as train
from maskrcnn.exports import geojson
from maskrcnn.images.metadata import Georeference
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks

pd = pytest.importorskip("pandas")
gpd = pytest.importorskip("geopandas")
shapely = pytest.importorskip("shapely")

CLASSES = ("cell", "debris")
OBJECT_TYPES = {"annotation", "detection", "cell", "tile", "tma_core", "root"}
BITS = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(lambda size: arrays(bool, size))


@pytest.fixture(scope="module")
def predicted(tmp_path_factory: pytest.TempPathFactory, tiny_ellipses: Path) -> Path:
    """The output of `predict` with all detections of a detector that was trained briefly."""
    place = settle(tmp_path_factory.mktemp("tables"), tiny_ellipses)
    with chdir(place):
        succeed(train, "--num_epochs=1", "--head=mask_rcnn")
        options = ("--detection_min_confidence=0", "--plot_min_confidence=0", "--to=geojson,label_tiff")
        succeed(predict, "data/ellipses/test/images", "--run=newest", *options)
    return place / "predictions/images-1"


def read_collections(folder: Path) -> dict[str, Any]:
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.geojson"))}


# ---- tables


def test_pandas_reads_a_row_per_object_with_numbers(predicted):
    table = pd.read_csv(predicted / "objects.csv")
    measured = table.columns.drop(["image", "class"])
    assert len(table) > 20 and all(pd.api.types.is_numeric_dtype(table[name]) for name in measured)
    assert not table[measured.drop([name for name in measured if name.startswith("mean_")])].isna().any().any()
    for _, rows in table.groupby("image"):
        assert rows["number"].tolist() == list(range(1, len(rows) + 1))
        assert rows["score"].is_monotonic_decreasing and rows["score"].between(0, 1).all()
    np.testing.assert_allclose(table["equivalent_diameter"], np.sqrt(4 * table["area"] / np.pi), atol=2e-3)


def test_counts_are_those_of_the_objects(predicted):
    objects, counts = (pd.read_csv(predicted / f"{name}.csv").set_index("image") for name in ("objects", "counts"))
    grouped = objects.groupby("image")
    assert (counts["objects"] == grouped.size()).all() and (counts["hidden"] == grouped["hidden"].sum()).all()
    by_class = pd.crosstab(objects.index, objects["class"])
    for name in counts.columns.drop(["objects", "hidden"]):
        assert (counts[name] == by_class.get(name, 0)).all()


def test_numbers_of_label_images_are_rows_that_are_not_hidden(predicted):
    table = pd.read_csv(predicted / "objects.csv")
    for image, rows in table.groupby("image"):
        labels = tifffile.imread(predicted / f"{Path(image).stem}_labels.tif")
        numbers, pixels = np.unique(labels[labels > 0], return_counts=True)
        visible = rows[(rows["hidden"] == 0)].set_index("number")
        assert set(numbers) <= set(visible.index)
        assert (pixels <= visible.loc[numbers, "area"]).all()
        first = visible.index[0]  # on top of all others
        ys, xs = np.nonzero(labels == first)
        if len(xs) == visible.loc[first, "area"]:
            center = (visible.loc[first, "centroid_x"], visible.loc[first, "centroid_y"])
            np.testing.assert_allclose(center, (xs.mean() + 0.5, ys.mean() + 0.5), atol=1e-3)


def test_geometries_have_the_areas_and_centroids_of_the_table(predicted):
    table = pd.read_csv(predicted / "objects.csv")
    for image, rows in table.groupby("image"):
        frame = gpd.read_file(predicted / f"{Path(image).stem}.geojson").set_crs(None, allow_override=True)  # pixels
        assert frame["number"].tolist() == rows["number"].tolist() and frame.is_valid.all()
        assert set(frame.geom_type) <= {"Polygon", "MultiPolygon"}
        np.testing.assert_allclose(frame.area, rows["area"], atol=1e-3)
        np.testing.assert_allclose(frame.centroid.x, rows["centroid_x"], atol=1e-3)
        np.testing.assert_allclose(frame.centroid.y, rows["centroid_y"], atol=1e-3)
        names = [_parse(each)["name"] for each in frame["classification"]]
        scores = [_parse(each)["Score"] for each in frame["measurements"]]
        assert names == rows["class"].tolist()
        np.testing.assert_allclose(scores, rows["score"], atol=1e-6)


def _parse(value: Any) -> dict[str, Any]:
    return json.loads(value) if isinstance(value, str) else value


def test_geopandas_reads_world_coordinates_with_their_reference_system(tmp_path):
    masks = CroppedMasks.from_dense(torch.ones(1, 4, 5, dtype=torch.bool))
    found = Instances((4, 5), masks.boxes(), torch.tensor([1]), torch.tensor([0.5]), masks)
    collection = geojson.make_feature_collection(found, CLASSES, "a.tif")
    world = geojson.to_world(collection, Georeference((2.0, 0.0, 500_000.0, 0.0, -2.0, 5_000_000.0), "EPSG:32633"))
    assert find_faults({name: value for name, value in world.items() if name != "crs"}) == []
    (tmp_path / "a.geojson").write_text(json.dumps(world))
    frame = gpd.read_file(tmp_path / "a.geojson")
    assert frame.crs.to_epsg() == 32633 and frame.area.item() == 80
    assert frame.total_bounds.tolist() == [500_000, 4_999_992, 500_010, 5_000_000]


# ---- GeoJSON


def find_faults(collection: Any) -> list[str]:
    """Check a FeatureCollection of polygons by RFC 7946, sections 3.1.6, 3.2 and 3.3, and the fields of QuPath."""
    faults = []
    if collection.get("type") != "FeatureCollection" or not isinstance(collection.get("features"), list):
        return ["no FeatureCollection with a list of features (3.3)"]
    if {"coordinates", "geometries", "geometry", "properties"} & collection.keys():
        faults.append("members of other types (7.1)")
    ids = [feature.get("id") for feature in collection["features"]]
    if len(set(ids)) < len(ids):
        faults.append("ids are not unique")
    for feature in collection["features"]:
        if feature.get("type") != "Feature" or not {"geometry", "properties"} <= feature.keys():
            faults.append("no Feature with geometry and properties (3.2)")
            continue
        faults += _find_faults_of_geometry(feature["geometry"]) + _find_faults_of_qupath(feature)
    return faults


def _find_faults_of_geometry(geometry: Any) -> list[str]:
    if set(geometry) - {"bbox"} != {"type", "coordinates"} or geometry["type"] not in ("Polygon", "MultiPolygon"):
        return ["no Polygon or MultiPolygon (3.1.6, 3.1.7)"]
    faults = []
    for rings in [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]:
        for place, ring in enumerate(rings):
            numbers = [value for position in ring for value in position]
            if any(type(value) not in (int, float) or not math.isfinite(value) for value in numbers):
                faults.append("a position that is not of finite numbers (3.1.1)")
            elif any(len(position) != 2 for position in ring):
                faults.append("a position of more or less than two numbers (3.1.1)")
            elif len(ring) < 4 or ring[0] != ring[-1]:
                faults.append("a ring that is not closed, or of fewer than four positions (3.1.6)")
            elif shapely.LinearRing(ring).is_ccw != (place == 0):
                faults.append("a ring that does not follow the right-hand rule (3.1.6)")
    if not faults and not shapely.geometry.shape(geometry).is_valid:
        faults.append(f"invalid: {shapely.is_valid_reason(shapely.geometry.shape(geometry))}")
    return faults


def _find_faults_of_qupath(feature: Any) -> list[str]:
    """Check the fields that QuPath documents (Exporting annotations, GeoJSON)."""
    faults, properties = [], feature["properties"]
    try:
        uuid.UUID(feature["id"])
    except (KeyError, ValueError, AttributeError):
        faults.append("'id' is no UUID")
    if properties.get("objectType") not in OBJECT_TYPES:
        faults.append("'objectType' is none of QuPath's")
    kind = properties.get("classification")
    if not isinstance(kind, dict) or not isinstance(kind.get("name"), str) or not kind["name"]:
        faults.append("'classification' has no name")
    elif not (len(kind["color"]) == 3 and all(type(value) is int and 0 <= value <= 255 for value in kind["color"])):
        faults.append("'color' is not three bytes")
    if not isinstance(properties.get("isLocked", False), bool):
        faults.append("'isLocked' is not true or false")
    measurements = properties.get("measurements", {})
    if not isinstance(measurements, dict) or not all(type(value) in (int, float) for value in measurements.values()):
        faults.append("'measurements' are not numbers by name")
    return faults


def test_predictions_follow_rfc_7946_and_qupath(predicted):
    collections = read_collections(predicted)
    assert len(collections) == 3 and all(each["features"] for each in collections.values())
    for name, collection in collections.items():
        assert find_faults(collection) == [], name
        assert "crs" not in collection  # removed from GeoJSON by RFC 7946, section 4
        assert {each["properties"]["objectType"] for each in collection["features"]} == {"detection"}


@given(st.lists(BITS, min_size=1, max_size=3), st.booleans())
def test_any_masks_follow_rfc_7946_and_qupath(bits, has_scores):
    dense = torch.zeros(len(bits), 16, 16, dtype=torch.bool)
    for mask, each in zip(dense, bits, strict=True):
        mask[2 : 2 + each.shape[0], 3 : 3 + each.shape[1]] = torch.from_numpy(each)
    masks = CroppedMasks.from_dense(dense)
    boxes = masks.boxes()
    boxes[masks.areas() == 0] = torch.tensor([1.25, 2, 3, 4.5])  # an object without a mask is its box
    scores = torch.linspace(1, 0, len(bits)) if has_scores else None
    found = Instances((16, 16), boxes, torch.ones(len(bits), dtype=torch.int64), scores, masks)
    collection = json.loads(json.dumps(geojson.make_feature_collection(found, CLASSES, "é.tif")))
    assert find_faults(collection) == []
    areas = [shapely.geometry.shape(each["geometry"]).area for each in collection["features"]]
    np.testing.assert_allclose(areas, found.areas().numpy())


def _reverse(feature: Any) -> None:
    feature["geometry"]["coordinates"][0].reverse()


def _open(feature: Any) -> None:
    feature["geometry"]["coordinates"][0].pop()


def _cross(feature: Any) -> None:
    feature["geometry"]["coordinates"] = [[[0, 0], [4, 0], [0, 5], [4, 4], [0, 0]]]


def _empty(feature: Any) -> None:
    feature["geometry"]["coordinates"][0][0] = [float("nan"), 0]


def _rename(feature: Any) -> None:
    feature["properties"]["objectType"] = "PathDetectionObject"


def _color(feature: Any) -> None:
    feature["properties"]["classification"]["color"] = [0, 0, 256]


@pytest.mark.parametrize("break_it", [_reverse, _open, _cross, _empty, _rename, _color])
def test_the_check_sees_faults(break_it):
    masks = CroppedMasks.from_dense(torch.ones(1, 4, 5, dtype=torch.bool))
    found = Instances((4, 5), masks.boxes(), torch.tensor([1]), torch.tensor([0.5]), masks)
    collection = geojson.make_feature_collection(found, CLASSES, "a.tif")
    assert find_faults(collection) == []
    broken = copy.deepcopy(collection)
    break_it(broken["features"][0])
    assert find_faults(broken)
