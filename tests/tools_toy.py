"""One image with known objects, annotated in the format of each annotation tool."""

from __future__ import annotations

import base64
import io
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 36, 40
SIZE = (HEIGHT, WIDTH)
L_SHAPE = [[20, 5], [30, 5], [30, 9], [24, 9], [24, 15], [20, 15]]  # class "cell"
RING, HOLE = [[2, 2], [12, 2], [12, 10], [2, 10]], [[4, 4], [7, 4], [7, 7], [4, 7]]  # class "cell"
CIRCLE = (10, 25, 5)  # x, y, radius; class "debris"
BOX = (28, 20, 36, 30)  # class "debris"


def paint(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Boxes x1 y1 x2 y2 as a mask bool [H, W]."""
    mask = np.zeros(SIZE, bool)
    for x1, y1, x2, y2 in boxes:
        mask[y1:y2, x1:x2] = True
    return mask


def disk(x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


MASKS = {
    "l": paint((20, 5, 30, 9), (20, 9, 24, 15)),
    "ring": paint((2, 2, 12, 10)) & ~paint((4, 4, 7, 7)),
    "whole": paint((2, 2, 12, 10)),
    "disk": disk(*CIRCLE),
    "box": paint(BOX),
}


def write_image(path: Path) -> None:
    pixels = np.random.default_rng(0).integers(40, 60, (*SIZE, 3), dtype=np.uint8)
    for name in ("l", "ring", "disk", "box"):
        pixels[MASKS[name]] += 140
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def encode_png(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


def to_base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def write_json(path: Path, data: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1))
    return path.name


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    """Change the data of a JSON file."""
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def labelme_shape(label: str, points: list[Any], kind: str, **more: Any) -> dict[str, Any]:
    fields = {"label": label, "points": points, "group_id": None, "description": "", "shape_type": kind, "flags": {}}
    return {**fields, "mask": None, **more}


def labelme(root: Path) -> str:
    write_image(root / "a.png")
    ring = MASKS["ring"][2:10, 2:12].astype(np.uint8) * 255
    shapes = [
        labelme_shape("cell", L_SHAPE, "polygon"),
        labelme_shape("cell", [[2, 2], [11, 9]], "mask", mask=to_base64(encode_png(ring))),
        labelme_shape("debris", [[10, 25], [13, 29]], "circle"),
        labelme_shape("debris", [[36, 30], [28, 20]], "rectangle"),
        labelme_shape("scratch", [[1, 1], [5, 5]], "linestrip"),
    ]
    data = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": "a.png", "imageData": None}
    return write_json(root / "a.json", data | {"imageHeight": HEIGHT, "imageWidth": WIDTH})


def encode_runs(mask: np.ndarray) -> str:
    """Run lengths row by row, of which the first is outside."""
    flat = np.concatenate([[0], mask.ravel().astype(int), [2]])
    changes = np.flatnonzero(np.diff(flat))
    return ", ".join(map(str, np.diff([0, *changes]).tolist()))


def cvat(root: Path) -> str:
    write_image(root / "images" / "a.png")
    points = ";".join(f"{x:.2f},{y:.2f}" for x, y in L_SHAPE)
    common = 'source="manual" occluded="0" z_order="0"'
    x, y, radius = CIRCLE
    labels = "".join(f"<label><name>{name}</name><attributes></attributes></label>" for name in ("cell", "debris"))
    (root / "annotations.xml").write_text(f"""<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><id>7</id><name>toy</name><size>1</size><mode>annotation</mode><labels>{labels}</labels></task></meta>
  <image id="0" name="a.png" width="{WIDTH}" height="{HEIGHT}">
    <polygon label="cell" {common} points="{points}"></polygon>
    <mask label="cell" {common} rle="{encode_runs(MASKS["ring"][2:10, 2:12])}" left="2" top="2" width="10" height="8">
    </mask>
    <ellipse label="debris" {common} cx="{x}" cy="{y}" rx="{radius}" ry="{radius}"></ellipse>
    <box label="debris" {common.replace("0", "1", 1)} xtl="28.00" ytl="20.00" xbr="36.00" ybr="30.00"></box>
    <points label="cell" {common} points="3.5,4.0;5,6"></points>
  </image>
</annotations>
""")
    return "annotations.xml"


def via_regions() -> list[dict[str, Any]]:
    shapes = [
        {"name": "polygon", "all_points_x": [x for x, _ in L_SHAPE], "all_points_y": [y for _, y in L_SHAPE]},
        {"name": "polygon", "all_points_x": [x for x, _ in RING], "all_points_y": [y for _, y in RING]},
        {"name": "circle", "cx": 10, "cy": 25, "r": 5},
        {"name": "rect", "x": 28, "y": 20, "width": 8, "height": 10},
        {"name": "point", "cx": 3, "cy": 3},
    ]
    classes = ["cell", "cell", "debris", "debris", "cell"]
    return [
        {"shape_attributes": shape, "region_attributes": {"class": name, "remark": ""}}
        for shape, name in zip(shapes, classes, strict=True)
    ]


def via(root: Path) -> str:
    write_image(root / "a.png")
    images = {"a.png123": {"filename": "a.png", "size": 123, "regions": via_regions(), "file_attributes": {}}}
    settings = {"ui": {}, "core": {}, "project": {"name": "toy"}}
    return write_json(root / "project.json", {"_via_settings": settings, "_via_img_metadata": images})


def via_csv(root: Path) -> str:
    write_image(root / "a.png")
    regions = via_regions()
    lines = ["filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"]
    for number, region in enumerate(regions):
        fields = ["{}", str(len(regions)), str(number), *(json.dumps(each) for each in region.values())]
        lines.append(",".join(["a.png", "123", *('"' + each.replace('"', '""') + '"' for each in fields)]))
    (root / "via.csv").write_text("\n".join(lines) + "\n")
    return "via.csv"


def close(ring: list[list[int]]) -> list[list[int]]:
    return [*ring, ring[0]]


def feature(geometry: Any, kind: str = "annotation", **properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "id": "0-1", "geometry": geometry, "properties": {"objectType": kind, **properties}}


def named(name: str) -> dict[str, Any]:
    return {"classification": {"name": name, "color": [200, 0, 0]}}


def qupath(root: Path) -> str:
    write_image(root / "a.png")
    x, y, radius = CIRCLE
    turn = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    circle = np.stack([x + radius * np.cos(turn), y + radius * np.sin(turn)], axis=1).round(3).tolist()
    x1, y1, x2, y2 = BOX
    halves = [[(x1, y1), (x2, y1), (x2, 25), (x1, 25)], [(x1, 25), (x2, 25), (x2, y2), (x1, y2)]]
    features = [
        feature({"type": "Polygon", "coordinates": [close(L_SHAPE)]}, **named("cell")),
        feature({"type": "Polygon", "coordinates": [close(RING), close(HOLE)]}, **named("cell")),
        feature({"type": "Polygon", "coordinates": [close(circle)]}, **named("debris")),
        feature({"type": "MultiPolygon", "coordinates": [[close(half)] for half in halves]}, **named("debris")),
        feature({"type": "Point", "coordinates": [3, 4]}, **named("cell")),
    ]
    return write_json(root / "a.geojson", {"type": "FeatureCollection", "features": features})


def supervisely(root: Path) -> str:
    write_image(root / "ds0" / "img" / "a.png")
    titles = [{"title": name, "shape": "any", "color": "#FF0000"} for name in ("cell", "debris")]
    write_json(root / "meta.json", {"classes": titles, "tags": []})
    box = MASKS["disk"][20:30, 5:15]
    data = to_base64(zlib.compress(encode_png(box.astype(np.uint8))))
    shift = lambda ring: [[x - 0.5, y - 0.5] for x, y in ring]  # noqa: E731  # coordinates are numbers of pixels

    def outline(title: str, exterior: Any, interior: Any, kind: str) -> dict[str, Any]:
        return {"classTitle": title, "geometryType": kind, "points": {"exterior": exterior, "interior": interior}}

    objects = [
        outline("cell", shift(L_SHAPE), [], "polygon"),
        outline("cell", shift(RING), [shift(HOLE)], "polygon"),
        {"classTitle": "debris", "geometryType": "bitmap", "bitmap": {"data": data, "origin": [5, 20]}},
        outline("debris", [[28, 20], [35, 29]], [], "rectangle"),
        outline("cell", [[1, 1], [3, 3]], [], "line"),
    ]
    size = {"height": HEIGHT, "width": WIDTH}
    write_json(root / "ds0" / "ann" / "a.png.json", {"description": "", "tags": [], "size": size, "objects": objects})
    return "ds0/ann/a.png.json"


def dota(root: Path) -> str:
    write_image(root / "images" / "a.png")
    folder = root / "labelTxt"
    folder.mkdir()
    lines = ["imagesource:GoogleEarth", "gsd:0.146", "2 2 12 2 12 10 2 10 cell 0", "28.0 20 36 20 36 30 28 30 debris 1"]
    (folder / "a.txt").write_text("\n".join(lines) + "\n")
    return "labelTxt/a.txt"


def cityscapes(root: Path) -> str:
    write_image(root / "leftImg8bit" / "train" / "bonn" / "bonn_0_0_leftImg8bit.png")
    numbers = np.full(SIZE, 7, np.uint16)
    for number, name in ((26_000, "l"), (26_001, "ring"), (24_000, "disk"), (25, "box")):
        numbers[MASKS[name]] = number
    path = root / "gtFine" / "train" / "bonn" / "bonn_0_0_gtFine_instanceIds.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(numbers).save(path)
    return path.relative_to(root).as_posix()


def panoptic(root: Path) -> str:
    write_image(root / "train2017" / "a.png")
    ids = np.full(SIZE, 9, np.int64)
    for number, name in ((70_000, "l"), (300, "ring"), (2, "disk"), (1_000_000, "box")):
        ids[MASKS[name]] = number
    folder = root / "annotations" / "panoptic_train2017"
    folder.mkdir(parents=True)
    colors = np.stack([ids % 256, ids // 256 % 256, ids // 65_536], axis=2).astype(np.uint8)
    (folder / "a.png").write_bytes(encode_png(colors))
    segment = lambda number, kind, crowd=0: {"id": number, "category_id": kind, "iscrowd": crowd, "area": 1}  # noqa: E731
    segments = [segment(70_000, 18), segment(300, 18), segment(2, 44), segment(1_000_000, 44, 1), segment(9, 100)]
    data = {
        "images": [{"id": 5, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}],
        "annotations": [{"image_id": 5, "file_name": "a.png", "segments_info": segments}],
        "categories": [
            {"id": 44, "name": "debris", "isthing": 1},
            {"id": 18, "name": "cell", "isthing": 1},
            {"id": 100, "name": "sky", "isthing": 0},
        ],
    }
    write_json(folder.with_suffix(".json"), data)
    return "annotations/panoptic_train2017.json"


def points(root: Path) -> str:
    write_image(root / "a.png")
    (root / "a.csv").write_text("x,y,class\n7,6,cell\n25,8.5,cell\n10,25,debris\n39,35,debris\n")
    return "a.csv"


def imagej(root: Path) -> str:
    import roifile

    write_image(root / "a.png")
    ring = [0.0, 2, 2, 1, 12, 2, 1, 12, 10, 1, 2, 10, 4, 0, 4, 4, 1, 7, 4, 1, 7, 7, 1, 4, 7, 4]
    x, y, radius = CIRCLE
    kinds = roifile.ROI_TYPE

    def framed(kind: Any, box: tuple[int, int, int, int], group: int) -> Any:
        return roifile.ImagejRoi(roitype=kind, left=box[0], top=box[1], right=box[2], bottom=box[3], group=group)

    composite = framed(kinds.RECT, (2, 2, 12, 10), 1)
    composite.multi_coordinates = np.array(ring, np.float32)
    composite.shape_roi_size = len(ring)
    polygon = roifile.ImagejRoi.frompoints(np.array(L_SHAPE))
    polygon.group = 1
    rois = [
        polygon,
        composite,
        framed(kinds.OVAL, (x - radius, y - radius, x + radius, y + radius), 2),
        framed(kinds.RECT, BOX, 2),
        roifile.ImagejRoi.frompoints([[3, 4], [5, 6]]),
    ]
    rois[4].roitype = kinds.POLYLINE
    for number, roi in enumerate(rois):
        roi.name = f"{number:04d}"
    roifile.roiwrite(root / "a_ROIs.zip", rois, mode="w")
    return "a_ROIs.zip"


TOOLS: dict[str, Callable[[Path], str]] = {
    "labelme": labelme,
    "cvat": cvat,
    "via": via,
    "via-csv": via_csv,
    "qupath": qupath,
    "supervisely": supervisely,
    "dota": dota,
    "cityscapes": cityscapes,
    "panoptic": panoptic,
    "points": points,
    "imagej": imagej,
}
