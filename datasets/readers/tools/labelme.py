"""LabelMe: one JSON file per image, with polygons, rectangles, circles and masks.

Structure from LabelMe 3 to 5 (wkentaro/labelme, `label_file.py` and `utils/shape.py`).
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datasets.readers.tools.dataset import NOT_ANNOTATED, AnnotatedImage, Contents, survey
from datasets.readers.tools.files import (
    ImageFiles,
    contains,
    get_dict,
    get_list,
    get_name,
    get_size,
    name_images,
    read_bytes,
    read_json,
    recognize_content,
    walk,
)
from datasets.readers.tools.shapes import (
    MAX_BITMAP,
    NO_AREA,
    Annotation,
    Bitmap,
    Shape,
    make_ellipse,
    to_points,
)
from maskrcnn.config import UserError
from maskrcnn.text import describe_error

_MARKERS = (b'"shapes"', b'"imagePath"')
_IMAGE_PATH = re.compile(rb'"imagePath"\s*:\s*("(?:[^"\\]|\\.)*")')
_WITHOUT_AREA = ("line", "linestrip", "point", "points")
_OUTLINES = ("polygon", "oriented_rectangle", "rotation")


def recognize_labelme(root: Path) -> str | None:
    """Return the first file of LabelMe in a folder."""
    return recognize_content(root, (".json",), *_MARKERS)


def find_labelme(root: Path) -> Contents:
    """List the images that LabelMe annotated, with the names of the classes.

    The image of a file is `imagePath`, or else an image of its name, or else the one stored in the file.

    Raises:
        UserError: If there are no files of LabelMe.
    """
    images = ImageFiles(root)
    files = [path for path in walk(root, (".json",)) if _is_labelme(path, images)]
    if not files:
        raise UserError(f"{root}: has no JSON files of LabelMe; check --dataset_root")
    found = [_find_image(path, images) for path in files]
    names = name_images([image or path for image, path in zip(found, files, strict=True)], root)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        paths = [path for path, name in zip(files, names, strict=True) if name == twice]
        raise UserError(f"{paths[1]}: annotates the same image as {paths[0]}; remove one of them")

    def item(name: str, image: Path | None, path: Path) -> AnnotatedImage:
        return AnnotatedImage(name, image, (path,), lambda: read_labelme(path, embedded=image is None))

    listed = [item(*each) for each in zip(names, found, files, strict=True)]
    class_names, has_masks = survey(listed)
    unused = images.count_unused()
    return Contents(listed, class_names, has_masks, left_out={NOT_ANNOTATED: unused} if unused else {})


def _is_labelme(path: Path, images: ImageFiles) -> bool:
    """Whether a file is LabelMe's; a broken one is by its name, that of an image next to it."""
    found = images.find_by_stem(path.stem, path.parent)
    return contains(path, *_MARKERS) or (found is not None and found.parent == path.parent)


def _find_image(path: Path, images: ImageFiles) -> Path | None:
    name = _IMAGE_PATH.search(read_bytes(path))  # parsing the whole file would take far longer
    try:
        found = images.find(json.loads(name[1]), path.parent) if name else None
    except ValueError:  # raised again when the image is read
        found = None
    return found or images.find_by_stem(path.stem, path.parent)


def read_labelme(path: Path, embedded: bool = False) -> Annotation:
    """Read a file of LabelMe.

    Rectangles are boxes; circles, polygons and masks are masks. Shapes of one label and `group_id` are one object.
    Lines and points are dropped and counted.

    Args:
        path: the file.
        embedded: read the image that is stored in the file, too.

    Raises:
        UserError: If the file is not readable or not LabelMe's.
    """
    try:
        data = get_dict(read_json(path))
        shapes = get_list(data.get("shapes"), "shapes")
        annotation = Annotation(get_size(data.get("imageHeight"), data.get("imageWidth")))
        if embedded and data.get("imageData"):
            annotation.embedded = _decode_base64(data["imageData"])
    except ValueError as error:
        raise UserError(f"{path}: is not a file of LabelMe: {error}; check the data set") from error
    for number, shape in enumerate(shapes, start=1):
        try:
            _add(annotation, get_dict(shape), number)
        except ValueError as error:
            annotation.invalid.append(f"shape {number}: {error}")
    return annotation


def _add(annotation: Annotation, shape: dict[str, Any], number: int) -> None:
    kind = shape.get("shape_type") or "polygon"
    if kind in _WITHOUT_AREA:
        annotation.drop(NO_AREA)
        return
    group = shape.get("group_id")
    new = Shape(number, get_name(shape.get("label"), "label"), group=group if isinstance(group, int | str) else None)
    points = to_points(shape.get("points"))
    if kind in _OUTLINES:
        annotation.add_outlines(new, [points])
        return
    if kind in ("circle", "mask") and len(points) != 2:
        raise ValueError(f"a {str(kind)[:20]} must have 2 points, but has {len(points)}")
    if kind == "rectangle":
        if len(points) not in (2, 4):  # four corners in X-AnyLabeling
            raise ValueError(f"a rectangle must have 2 or 4 points, but has {len(points)}")
        low, high = points.min(axis=0), points.max(axis=0)
        annotation.shapes.append(Shape(number, new.name, box=(*low.tolist(), *high.tolist()), group=new.group))
    elif kind == "circle":
        radius = float(np.hypot(*(points[1] - points[0])))
        annotation.add_outlines(new, [make_ellipse(float(points[0, 0]), float(points[0, 1]), radius, radius)])
    elif kind == "mask":
        x, y = np.round(points[0]).astype(int).tolist()
        bitmap = Bitmap(x, y, decode_bitmap(_decode_base64(shape.get("mask"))))
        annotation.shapes.append(Shape(number, new.name, bitmaps=(bitmap,), group=new.group))
    else:
        raise ValueError(f"shape_type {str(kind)[:40]!r} is not supported")


def _decode_base64(text: Any) -> bytes:
    if not isinstance(text, str):
        raise ValueError("must be an image in base64")
    try:
        return base64.b64decode(text)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"is not valid base64 ({describe_error(error, 80)})") from error


def decode_bitmap(content: bytes) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Decode an image file as a mask bool [h, w]: where it is opaque if it has alpha, otherwise where it is not 0.

    Raises:
        ValueError: If it is not an image file, or too large.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.width * image.height > MAX_BITMAP:
                raise ValueError("its mask is too large")
            if image.mode in ("RGBA", "LA", "PA"):
                return np.asarray(image)[..., -1] > 0
            values = np.asarray(image)  # of a palette, the indices
            return np.asarray(values.any(axis=-1) if values.ndim == 3 else values > 0)
    except ValueError:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds for invalid files
        raise ValueError(f"its mask is not a valid image ({describe_error(error, 80)})") from error
