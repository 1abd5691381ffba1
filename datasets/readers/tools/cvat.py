"""CVAT XML 1.1, for images and for video: boxes, polygons, ellipses and masks of all images in one file.

Structure from CVAT's documentation ("XML annotation format").
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from datasets.checks import resolve_inside
from datasets.readers.tables import quote
from datasets.readers.tools.dataset import NOT_ANNOTATED, AnnotatedImage, Contents, survey_shapes
from datasets.readers.tools.files import ImageFiles, find_containing, name_images, recognize_content
from datasets.readers.tools.shapes import (
    MAX_BITMAP,
    NO_AREA,
    Annotation,
    Bitmap,
    Shape,
    make_ellipse,
    rotate,
    to_numbers,
    to_outline,
)
from datasets.readers.xml_tree import Element, parse_xml
from maskrcnn.config import UserError

_MARKER = b"<annotations"
_WITHOUT_AREA = ("polyline", "points", "cuboid", "skeleton")
_SHAPES = ("box", "polygon", "ellipse", "mask", *_WITHOUT_AREA)
_NUMBER = re.compile(r"(\d+)$")


def recognize_cvat(root: Path) -> str | None:
    """Return the first XML file of CVAT in a folder."""
    return recognize_content(root, (".xml",), _MARKER)


def find_cvat(root: Path) -> Contents:
    """List the images of the XML files of CVAT, with the labels of the task or project as classes.

    Raises:
        UserError: If there is no such file, it is invalid, or an image is missing.
    """
    files = find_containing(root, (".xml",), _MARKER)
    if not files:
        raise UserError(f"{root}: has no XML files of CVAT; check --dataset_root")
    images = ImageFiles(root)
    listed: list[tuple[Path, Path, Annotation]] = []
    labels: dict[str, None] = {}
    for path in files:
        tree = parse_xml(path)
        if tree.tag != "annotations":
            raise UserError(f"{path}:{tree.line}: is not a file of CVAT but <{tree.tag[:60]}>; check the data set")
        labels |= dict.fromkeys(_list_labels(tree))
        listed += [(path, image, annotation) for image, annotation in _read_images(path, tree, images)]
    used = survey_shapes(shape for _, _, annotation in listed for shape in annotation.shapes)
    names = name_images([image for _, image, _ in listed], root)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{files[-1]}: image {quote(twice)} is annotated twice; remove one of them")

    def item(name: str, path: Path, image: Path, annotation: Annotation) -> AnnotatedImage:
        return AnnotatedImage(name, image, (path,), lambda: annotation)

    unused = images.count_unused()
    return Contents(
        [item(name, *each) for name, each in zip(names, listed, strict=True)],
        tuple(labels) + tuple(sorted(used.names - labels.keys())),
        used.has_masks,
        left_out={NOT_ANNOTATED: unused} if unused else {},
    )


def _list_labels(tree: Element) -> Iterator[str]:
    """Yield the names of the labels of the task, project or job; of skeletons, those of the whole."""
    for job in (tree.find("meta") or tree).children:
        for label in (job.find("labels") or Element("", 0)).children:
            name, parent = label.find("name"), label.find("parent")
            if name is not None and name.text.strip() and not (parent is not None and parent.text.strip()):
                yield name.text.strip()


def _read_images(path: Path, tree: Element, images: ImageFiles) -> Iterator[tuple[Path, Annotation]]:
    """Yield the image and the annotation of each <image>, or of each frame of the <track>s."""
    for element in tree.children:
        if element.tag == "image":
            yield _find(path, element, images), _read_image(path, element)
    tracks = [element for element in tree.children if element.tag == "track"]
    if tracks:
        yield from _read_frames(path, tree, tracks, images)


def _find(path: Path, element: Element, images: ImageFiles) -> Path:
    name, where = element.attributes.get("name", ""), f"{path}:{element.line}"
    resolve_inside(path.parent, name, where)
    subset = element.attributes.get("subset", "")
    folders = [path.parent / "images" / subset, path.parent / "images", path.parent]
    for folder in folders if not Path(subset).is_absolute() and ".." not in subset else folders[1:]:
        if (found := images.find(name, folder)) is not None:
            return found
    raise UserError(f"{where}: image {quote(name)} is missing; export the task with its images, or put it in images/")


def _read_image(path: Path, element: Element) -> Annotation:
    annotation = Annotation(_read_size(path, element))
    for number, shape in enumerate((each for each in element.children if each.tag in _SHAPES), start=1):
        _try_add(annotation, path, shape, number, shape.attributes.get("label", ""))
    return annotation


def _read_size(path: Path, element: Element) -> tuple[int, int] | None:
    sides = [element.attributes.get(key, "") for key in ("height", "width")]
    if not any(sides):
        return None
    if not all(side.isdecimal() and len(side) < 10 for side in sides):
        raise UserError(f"{path}:{element.line}: size {' x '.join(map(quote, sides[::-1]))} is invalid; fix the file")
    return int(sides[0]), int(sides[1])


def _read_frames(
    path: Path, tree: Element, tracks: list[Element], images: ImageFiles
) -> Iterator[tuple[Path, Annotation]]:
    """Yield the frames with an image, named by the number of the frame, as `frame_000012.png`."""
    by_frame: dict[int, Annotation] = {}
    size = _read_original_size(tree)
    for number, track in enumerate(tracks, start=1):
        group = _get_group(track)
        for shape in (each for each in track.children if each.tag in _SHAPES):
            given = shape.attributes.get("frame", "")
            if not given.isdecimal() or len(given) > 9:
                raise UserError(f"{path}:{shape.line}: frame {quote(given)} is not a number; fix the file")
            annotation = by_frame.setdefault(int(given), Annotation(size))
            if shape.attributes.get("outside") != "1":
                _try_add(annotation, path, shape, number, track.attributes.get("label", ""), group)
    files: dict[int, list[Path]] = {}
    for image in images.paths:
        if match := _NUMBER.search(image.stem):
            files.setdefault(int(match[1]), []).append(image)
    for frame in sorted(set(files) | set(by_frame)):
        found = files.get(frame, [])
        if len(found) == 1:
            images.used.add(found[0])
            yield found[0], by_frame.get(frame, Annotation(size))
        elif frame in by_frame:
            state = "has several images" if found else "has no image"
            raise UserError(f"{path}: frame {frame} {state}; export the task with its images, as frame_{frame:06d}.png")


def _walk(element: Element | None) -> Iterator[Element]:
    if element is not None:
        yield element
        for child in element.children:
            yield from _walk(child)


def _read_original_size(tree: Element) -> tuple[int, int] | None:
    element = next((each for each in _walk(tree.find("meta")) if each.tag == "original_size"), Element("", 0))
    sides = [(element.find(key) or Element("", 0)).text.strip() for key in ("height", "width")]
    return (int(sides[0]), int(sides[1])) if all(side.isdecimal() and len(side) < 10 for side in sides) else None


# ---- shapes


def _try_add(
    annotation: Annotation, path: Path, shape: Element, number: int, label: str, group: str | None = None
) -> None:
    try:
        if not label.strip():
            raise ValueError("has no label")
        new = Shape(number, label.strip(), group=group if group is not None else _get_group(shape))
        _add(annotation, shape, new)
    except ValueError as error:
        annotation.invalid.append(f"line {shape.line}: {shape.tag} {error}")


def _get_group(element: Element) -> str | None:
    """Return the number of the group; 0 is none."""
    group = element.attributes.get("group_id", "0")
    return None if group in ("", "0") else group


def _add(annotation: Annotation, shape: Element, new: Shape) -> None:
    if shape.tag in _WITHOUT_AREA:
        annotation.drop(NO_AREA)
        return
    angle = np.radians(_get_numbers(shape, "rotation")[0]) if "rotation" in shape.attributes else 0.0
    if shape.tag == "box":
        x1, y1, x2, y2 = _get_numbers(shape, "xtl", "ytl", "xbr", "ybr")
        if angle % (2 * np.pi):
            corners = to_outline([x1, x2, x2, x1], [y1, y1, y2, y2])
            annotation.add_outlines(new, [rotate(corners, angle, ((x1 + x2) / 2, (y1 + y2) / 2))])
        else:
            annotation.shapes.append(replace(new, box=(x1, y1, x2, y2)))
    elif shape.tag == "ellipse":
        x, y, radius_x, radius_y = _get_numbers(shape, "cx", "cy", "rx", "ry")
        annotation.add_outlines(new, [make_ellipse(x, y, radius_x, radius_y, angle)])
    elif shape.tag == "mask":
        annotation.shapes.append(replace(new, bitmaps=(_read_mask(shape),)))
    else:
        points = [[float(number) for number in point.split(",")] for point in _get(shape, "points").split(";") if point]
        if not all(len(point) == 2 for point in points):
            raise ValueError("has points that are not x,y")
        annotation.add_outlines(new, [to_outline([x for x, _ in points], [y for _, y in points])])


def _get(element: Element, key: str) -> str:
    if key not in element.attributes:
        raise ValueError(f"has no {key}")
    return element.attributes[key]


def _get_numbers(element: Element, *keys: str) -> list[float]:
    return to_numbers([float(_get(element, key)) for key in keys])


def _read_mask(shape: Element) -> Bitmap:
    """Read a mask: run lengths inside a window, row by row, of which the first is outside."""
    x, y, width, height = (int(_get(shape, key)) for key in ("left", "top", "width", "height"))
    if not (0 < width * height <= MAX_BITMAP and width > 0):
        raise ValueError(f"has a window of {width} x {height} pixels")
    runs = np.array([int(run) for run in _get(shape, "rle").split(",")], np.float64)
    if (runs < 0).any() or runs.sum() > width * height:
        raise ValueError("has run lengths that do not fit its window")
    inside = np.zeros(width * height, bool)
    ends = np.cumsum(runs).astype(np.int64)
    inside[: ends[-1]] = np.repeat(np.arange(len(runs)) % 2 == 1, runs.astype(np.int64))
    return Bitmap(x, y, inside.reshape(height, width))
