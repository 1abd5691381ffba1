"""Outlines of masks are exact, and objects in the formats of other tools are the same objects."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask
from scipy import ndimage

from maskrcnn.config import UserError
from maskrcnn.exports import geojson, label_studio, labelme, yolo
from maskrcnn.exports.tables import COLUMNS, MICROMETER_COLUMNS, make_rows, number_pixels, write_table
from maskrcnn.inference.exports import Table, get_georeference, make_table, write_exports, write_tables
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks
from maskrcnn.structures.outlines import join_rings, trace_outlines

NAMES = ("cell", "debris")
BITS = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(lambda size: arrays(bool, size))
RING = np.ones((5, 6), bool)
RING[2, 2:4] = False
CORNERS = np.eye(3, dtype=bool)


def fill(rings, size):
    codes = coco_mask.frPyObjects([np.asarray(ring, float).ravel().tolist() for ring in rings], *size)
    return coco_mask.decode(coco_mask.merge(codes)).astype(bool)


def area(ring):
    x, y = np.asarray(ring).T
    return (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2


@given(BITS)
def test_outlines_fill_to_the_mask_with_its_holes_and_parts(mask):
    polygons = trace_outlines(mask)
    drawn = np.zeros_like(mask)
    for outer, *holes in polygons:
        part = fill([outer], mask.shape)
        for hole in holes:
            part &= ~fill([hole], mask.shape)
        drawn |= part
        assert area(outer) > 0 and all(area(hole) < 0 for hole in holes), "RFC 7946: counterclockwise, then clockwise"
    assert (drawn == mask).all() and len(polygons) == ndimage.label(mask)[1]
    assert sum(area(ring) for polygon in polygons for ring in polygon) == mask.sum()


@given(BITS)
def test_no_ring_passes_a_corner_twice(mask):
    rings = [ring for polygon in trace_outlines(mask) for ring in polygon]
    assert all(len(np.unique(ring, axis=0)) == len(ring) for ring in rings)


def test_a_hole_that_is_open_at_a_corner_is_a_hole():
    mask = np.ones((3, 3), bool)
    mask[0, 0] = mask[1, 1] = False
    ((outer, hole),) = trace_outlines(mask)
    assert (area(outer), area(hole)) == (8, -1)
    assert sorted(hole.tolist()) == [[1, 1], [1, 2], [2, 1], [2, 2]]


@given(BITS.filter(np.any))
def test_joined_rings_fill_to_the_same_mask(mask):
    assert (fill([join_rings(trace_outlines(mask))], mask.shape) == mask).all()


def test_a_ring_has_a_hole_and_pixels_that_touch_at_corners_are_parts():
    ((outer, hole),) = trace_outlines(RING)
    assert outer.tolist() == [[0, 0], [6, 0], [6, 5], [0, 5]] and area(hole) == -2
    assert [area(polygon[0]) for polygon in trace_outlines(CORNERS)] == [1, 1, 1]


def objects(scores=None) -> Instances:
    """A ring, three pixels in a row of corners, and a box without a mask; on 40 x 48 pixels."""
    dense = torch.zeros(3, 40, 48, dtype=torch.bool)
    dense[0, 3:8, 10:16] = torch.from_numpy(RING)
    dense[1, 20:23, 30:33] = torch.from_numpy(CORNERS)
    masks = CroppedMasks.from_dense(dense)
    boxes = masks.boxes()
    boxes[2] = torch.tensor([1.5, 2.0, 4.0, 6.25])
    return Instances((40, 48), boxes, torch.tensor([1, 2, 2]), None if scores is None else torch.tensor(scores), masks)


def test_geojson_has_the_fields_of_qupath_and_rings_of_rfc_7946():
    collection = geojson.make_feature_collection(objects([0.9, 0.5, 0.25]), NAMES, "a.tif")
    assert json.loads(json.dumps(collection)) == collection and collection["type"] == "FeatureCollection"
    ring, corners, box = collection["features"]
    assert ring["geometry"]["type"] == "Polygon" and len(ring["geometry"]["coordinates"]) == 2
    assert corners["geometry"]["type"] == "MultiPolygon" and len(corners["geometry"]["coordinates"]) == 3
    assert box["geometry"]["coordinates"] == [[[1.5, 2.0], [4.0, 2.0], [4.0, 6.25], [1.5, 6.25], [1.5, 2.0]]]
    for feature in collection["features"]:
        polygons = feature["geometry"]["coordinates"]
        for rings in [polygons] if feature["geometry"]["type"] == "Polygon" else polygons:
            assert all(each[0] == each[-1] and len(each) >= 4 for each in rings)
            assert [area(each[:-1]) > 0 for each in rings] == [True] + [False] * (len(rings) - 1)
    assert ring["properties"]["objectType"] == "detection" and ring["properties"]["classification"]["name"] == "cell"
    assert ring["properties"]["measurements"]["Score"] == pytest.approx(0.9)
    assert [each["properties"]["number"] for each in collection["features"]] == [1, 2, 3]
    ids = [each["id"] for each in collection["features"]]
    assert len(set(ids)) == 3 and ids == [
        each["id"] for each in geojson.make_feature_collection(objects(), NAMES, "a.tif")["features"]
    ]
    assert geojson.make_feature_collection(objects(), NAMES)["features"][0]["properties"]["objectType"] == "annotation"


def test_labelme_holds_parts_as_a_group_and_holes_as_a_mask():
    document = labelme.make_document(objects([0.9, 0.5, 0.25]), NAMES, "a.png")
    kinds = [(each["shape_type"], each["label"], each["group_id"]) for each in document["shapes"]]
    assert kinds == [("mask", "cell", None), *[("polygon", "debris", 2)] * 3, ("rectangle", "debris", None)]
    assert document["shapes"][-1]["points"] == [[1.5, 2.0], [4.0, 6.25]] and document["imageHeight"] == 40
    assert document["shapes"][0]["score"] == pytest.approx(0.9)


def test_yolo_lines_are_fractions_and_boxes_have_scores():
    lines = yolo.make_lines(objects([0.9, 0.5, 0.25]), with_scores=True)
    numbers = [list(map(float, line.split())) for line in lines]
    assert [each[0] for each in numbers] == [0, 1, 1] and all(len(each) % 2 == 1 for each in numbers[:2])
    assert numbers[2][1:] == pytest.approx([2.75 / 48, 4.125 / 40, 2.5 / 48, 4.25 / 40, 0.25], abs=1e-6)
    assert all(0 <= value <= 1 for each in numbers for value in each[1:])


def test_label_studio_takes_percent():
    task = label_studio.make_task(objects([0.9, 0.5, 0.25]), NAMES, "/data/a.png")
    ring, _, box = task["predictions"][0]["result"]
    assert ring["type"] == "polygonlabels" and ring["value"]["polygonlabels"] == ["cell"]
    points = np.array(ring["value"]["points"]) * [48 / 100, 40 / 100]
    assert (fill([points], (40, 48)) == objects().masks.to_dense()[0].numpy()).all()
    assert box["value"]["x"] == pytest.approx(150 / 48) and box["value"]["rectanglelabels"] == ["debris"]
    assert box["original_width"] == 48 and task["predictions"][0]["score"] == pytest.approx(0.55)


# ---- tables


def test_rows_of_the_table_are_the_numbers_of_the_label_image():
    dense = torch.zeros(4, 20, 30, dtype=torch.bool)
    dense[0, 2:10, 2:10] = dense[1, 3:8, 3:8] = dense[2, 12:16, 20:24] = True
    masks = CroppedMasks.from_dense(dense)
    boxes = masks.boxes()
    boxes[3] = torch.tensor([1.0, 1.0, 3.0, 4.0])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6])
    found = Instances((20, 30), boxes, torch.tensor([1, 2, 2, 1]), scores, masks)
    labels, hidden = number_pixels(found)
    assert np.unique(labels).tolist() == [0, 1, 3] and hidden.tolist() == [False, True, False, False]
    image = torch.arange(20 * 30, dtype=torch.float32).reshape(1, 20, 30).repeat(2, 1, 1)
    image[1] *= 2
    rows = list(make_rows(found, NAMES, "a", hidden, lambda x, y, h, w: image[:, y : y + h, x : x + w]))
    assert [row["number"] for row in rows] == [1, 2, 3, 4] and [row["hidden"] for row in rows] == [0, 1, 0, 0]
    for row in rows[:1] + rows[2:3]:
        inside = labels == row["number"]
        ys, xs = np.nonzero(inside)
        assert (row["centroid_x"], row["centroid_y"]) == (xs.mean() + 0.5, ys.mean() + 0.5)
        assert row["area"] == inside.sum() and row["mean_1"] == image[0].numpy()[inside].mean()
        assert row["mean_2"] == 2 * row["mean_1"]
        assert row["equivalent_diameter"] == pytest.approx(2 * np.sqrt(inside.sum() / np.pi), abs=1e-3)
    assert (rows[3]["area"], rows[3]["centroid_x"], rows[3]["centroid_y"]) == (6, 2, 2.5)
    assert rows[3]["mean_1"] == image[0, 1:4, 1:3].mean()


def test_tables_are_csv_with_every_column(tmp_path):
    found = objects([0.9, 0.5, 0.25])
    write_table(tmp_path / "objects.csv", make_rows(found, ("a,b", 'c"d'), "é 1"))
    with (tmp_path / "objects.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["a,b", 'c"d', 'c"d'] and rows[0]["image"] == "é 1"
    assert [float(row["score"]) for row in rows] == pytest.approx([0.9, 0.5, 0.25])
    write_tables(tmp_path, {"a": Table((), list(make_rows(found, NAMES, "a"))), "b": Table((), [])}, NAMES)
    assert (tmp_path / "counts.csv").read_text().split() == [
        "image,objects,hidden,cell,debris",
        "a,3,0,1,2",
        "b,0,0,0,0",
    ]
    assert len((tmp_path / "objects.csv").read_text().splitlines()) == 4


def test_images_without_objects_have_a_header(tmp_path):
    write_table(tmp_path / "objects.csv", [], COLUMNS)
    assert (tmp_path / "objects.csv").read_text().strip() == ",".join(COLUMNS)
    empty = Instances.empty((4, 4), with_masks=True)
    assert geojson.make_feature_collection(empty, NAMES)["features"] == [] and yolo.make_lines(empty) == []
    assert labelme.make_document(empty, NAMES, "a")["shapes"] == []
    assert label_studio.make_task(empty, NAMES, "a")["predictions"][0]["result"] == []


@pytest.mark.parametrize(
    ("name", "shape", "columns"),
    [
        ("gray.tif", (40, 48), ["mean_1"]),
        ("rgb.tif", (40, 48, 3), ["mean_1", "mean_2", "mean_3"]),
        ("five.tif", (5, 40, 48), [f"mean_{k}" for k in range(1, 6)]),
        ("micrometers.ome.tif", (40, 48), ["mean_1", *MICROMETER_COLUMNS]),
    ],
)
def test_the_columns_do_not_depend_on_the_objects(tmp_path, name, shape, columns):
    axes = {"metadata": {"axes": "YX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}} if "micro" in name else {}
    axes = {"metadata": {"axes": "CYX"}, "imagej": True} if "five" in name else axes
    tifffile.imwrite(
        tmp_path / name, np.full(shape, 7, np.uint16), photometric="rgb" if "rgb" in name else None, **axes
    )
    headers = []
    for found in (objects([0.9, 0.5, 0.25]), objects([0.9, 0.5, 0.25])[:0], Instances.empty((40, 48))):
        table = make_table(tmp_path / name, found, NAMES, 0.0)
        write_tables(tmp_path, {name: table}, NAMES)
        headers.append((tmp_path / "objects.csv").read_text().splitlines()[0].split(","))
        assert all(row["mean_1"] == 7 for row in table.rows)
    assert headers == [[*COLUMNS, *columns]] * 3


def test_hidden_objects_are_marked_in_geojson(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((40, 48), np.uint8))
    found = objects([0.9, 0.5, 0.25])
    twice = Instances.cat([found, replace(found, scores=found.scores / 10)])
    write_exports(tmp_path / "a", tmp_path / "a.tif", twice, NAMES, ("geojson",), 0.0)
    features = json.loads((tmp_path / "a.geojson").read_text(encoding="utf-8"))["features"]
    rows = make_table(tmp_path / "a.tif", twice, NAMES, 0.0).rows
    assert [each["properties"].get("hidden") for each in features] == [
        {1: True, 0: None}[row["hidden"]] for row in rows
    ]
    assert [row["hidden"] for row in rows] == [0, 0, 0, 1, 1, 0], "the last has no mask"


@settings(deadline=None)
@given(st.lists(BITS, min_size=1, max_size=4), st.randoms())
def test_each_format_gives_its_masks_again(bits, draw):
    dense = torch.zeros(len(bits), 24, 24, dtype=torch.bool)
    for mask, each in zip(dense, bits, strict=True):
        y, x = draw.randrange(15), draw.randrange(15)
        mask[y : y + each.shape[0], x : x + each.shape[1]] = torch.from_numpy(each)
    masks = CroppedMasks.from_dense(dense)
    found = Instances.from_masks(masks, torch.ones(len(bits), dtype=torch.int64))[masks.areas() > 0]
    for line, mask in zip(yolo.make_lines(found), dense[masks.areas() > 0], strict=True):
        points = np.array(line.split()[1:], float).reshape(-1, 2) * 24
        assert (fill([points], (24, 24)) == mask.numpy()).all()


def test_the_table_is_in_micrometers_too_where_the_file_states_a_pixel_size(tmp_path):
    values = np.arange(40 * 48, dtype=np.uint16).reshape(40, 48)
    sizes = {"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 250, "PhysicalSizeYUnit": "nm"}
    tifffile.imwrite(tmp_path / "a.ome.tif", values, metadata={"axes": "YX", **sizes})
    tifffile.imwrite(tmp_path / "b.tif", values)
    tables = {
        name: make_table(tmp_path / name, objects([0.9, 0.5, 0.25]), NAMES, 0.0) for name in ("b.tif", "a.ome.tif")
    }
    unknown, known = (table.rows for table in tables.values())
    assert [(row["centroid_x_um"], row["centroid_y_um"]) for row in known] == [
        (6.5, 1.375),
        (15.75, 5.375),
        (1.375, 1.0312),
    ]
    assert [row["area_um2"] for row in known] == [28 / 8, 3 / 8, round(2.5 * 4.25 / 8, 4)]
    assert known[0]["equivalent_diameter_um"] == round(np.sqrt(4 * 3.5 / np.pi), 4)
    assert [{name: row[name] for name in unknown[0]} for row in known] == [
        {**row, "image": "a.ome.tif"} for row in unknown
    ]
    write_tables(tmp_path, tables, NAMES)
    with (tmp_path / "objects.csv").open(encoding="utf-8", newline="") as file:
        assert [row["area_um2"] for row in csv.DictReader(file)] == ["", "", "", "3.5", "0.375", "1.3281"]


@pytest.mark.parametrize("code, name", [(32633, "urn:ogc:def:crs:EPSG::32633"), (4326, None)])
def test_world_coordinates_are_those_of_the_geotiff(tmp_path, code, name):
    keys = (1, 1, 0, 2, 1025, 0, 1, 1, 3072 if code > 9999 else 2048, 0, 1, code)
    tags = [
        (33550, "d", 3, (0.5, 0.25, 0.0)),
        (33922, "d", 6, (0, 0, 0, 500.0, 80.0, 0)),
        (34735, "H", len(keys), keys),
    ]
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((40, 48), np.uint8), extratags=[(*tag, True) for tag in tags])
    write_exports(tmp_path / "a", tmp_path / "a.tif", objects([0.9, 0.5, 0.25]), NAMES, ("geojson_world",), 0.0)
    world = json.loads((tmp_path / "a_world.geojson").read_text(encoding="utf-8"))
    assert world.get("crs", {}).get("properties", {}).get("name") == name
    pixels = geojson.make_feature_collection(objects([0.9, 0.5, 0.25]), NAMES, "a.tif")
    assert [each["properties"] for each in world["features"]] == [each["properties"] for each in pixels["features"]]
    ring, corners, box = (each["geometry"]["coordinates"] for each in world["features"])
    assert [area(each[:-1]) for each in ring] == [30 / 8, -2 / 8] and len(corners) == 3
    assert box == [
        [[x, y] for x, y in [(500.75, 79.5), (500.75, 78.4375), (502, 78.4375), (502, 79.5), (500.75, 79.5)]]
    ]


def test_world_coordinates_need_a_georeference_with_a_reference_system(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((40, 48), np.uint8))
    with pytest.raises(UserError, match="a.tif: has no georeference; write pixel coordinates with --to=geojson"):
        get_georeference(tmp_path / "a.tif")
    tags = [(33550, "d", 3, (0.5, 0.25, 0.0)), (33922, "d", 6, (0, 0, 0, 500.0, 80.0, 0))]
    keys = (34735, "H", 8, (1, 1, 0, 1, 1025, 0, 1, 1))
    tifffile.imwrite(
        tmp_path / "b.tif", np.zeros((40, 48), np.uint8), extratags=[(*tag, True) for tag in [*tags, keys]]
    )
    with pytest.raises(UserError, match="b.tif: has a georeference without a coordinate reference system"):
        get_georeference(tmp_path / "b.tif")
