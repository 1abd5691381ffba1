"""ImageJ: regions of interest (ROIs) in `.roi` files, or in `.zip` files as the ROI manager saves them.

The library `roifile` reads the files; ImageJ's `RoiDecoder` defines them.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from datasets.readers.tools.dataset import NOT_ANNOTATED, AnnotatedImage, Contents, survey
from datasets.readers.tools.files import ImageFiles, name_images, read_bytes, walk
from datasets.readers.tools.shapes import NO_AREA, Annotation, Points, Shape, join_holes, make_ellipse, to_outline
from maskrcnn.config import UserError
from maskrcnn.text import describe_error

NO_CLASS = "object"
_OUTLINES = ("POLYGON", "FREEHAND", "TRACED")
_WITHOUT_AREA = ("LINE", "FREELINE", "POLYLINE", "ANGLE", "POINT", "NOROI")
_ENDINGS = ("_rois", "-rois", "_roi", "-roi", "_roiset", "-roiset", " rois", " roiset")
MAX_ROI = 1 << 26  # bytes of one ROI


def recognize_imagej(root: Path) -> str | None:
    """Return the first file with ROIs in a folder."""
    return next((path.relative_to(root).as_posix() for path in walk(root, (".roi", ".zip")) if _has_rois(path)), None)


def _has_rois(path: Path, if_broken: bool = False) -> bool:
    if path.suffix.lower() == ".roi":
        return True
    try:
        with zipfile.ZipFile(path) as file:
            return any(name.lower().endswith(".roi") for name in file.namelist())
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return if_broken


def find_imagej(root: Path) -> Contents:
    """List the images with a file of ROIs: `NAME.zip`, `NAME_ROIs.zip` or `NAME.roi`; or `RoiSet.zip` by one image.

    Classes are ImageJ's groups of ROIs, "group 1" and so on, or "object" where ROIs have none.

    Raises:
        UserError: If there are none, an image is missing, or `roifile` is not installed.
    """
    _import_roifile(root)
    files = [path for path in walk(root, (".roi", ".zip")) if _has_rois(path, if_broken=True)]
    if not files:
        raise UserError(f"{root}: has no .zip or .roi files of ImageJ; check --dataset_root")
    images = ImageFiles(root)
    by_image: dict[Path, list[Path]] = {}
    for path in files:
        by_image.setdefault(_find_image(path, images), []).append(path)

    def item(name: str, image: Path) -> AnnotatedImage:
        paths = tuple(by_image[image])
        return AnnotatedImage(name, image, paths, lambda: read_rois(paths))

    listed = [item(name, image) for name, image in zip(name_images(list(by_image), root), by_image, strict=True)]
    class_names, has_masks = survey(listed)
    unused = images.count_unused()
    return Contents(listed, class_names, has_masks, left_out={NOT_ANNOTATED: unused} if unused else {})


def _find_image(path: Path, images: ImageFiles) -> Path:
    stem = path.stem
    ending = next((each for each in _ENDINGS if stem.lower().endswith(each)), "")
    for name in (stem, stem[: len(stem) - len(ending)]):
        found = images.find(name, path.parent) or images.find_by_stem(name, path.parent)
        if found is not None:
            return found
    beside = [each for each in images.paths if each.parent == path.parent]
    if len(beside) != 1:
        raise UserError(f"{path}: belongs to no image; name it as the image, such as image_ROIs.zip for image.tif")
    images.used.add(beside[0])
    return beside[0]


def _import_roifile(where: Path) -> Any:
    try:
        import roifile
    except ImportError as error:
        raise UserError(f"{where}: ROIs of ImageJ need the library roifile; run: pip install roifile") from error
    return roifile


def read_rois(paths: tuple[Path, ...]) -> Annotation:
    """Read files of ROIs: polygons, freehand, traced and composite ones, ovals, and rectangles, which are boxes.

    Composite ROIs are filled by the even-odd rule. Lines, angles and points are dropped and counted.

    Raises:
        UserError: If a file is not readable.
    """
    annotation, number = Annotation(), 0
    for path in paths:
        for name, content in _read_members(path):
            number += 1
            try:
                roi = _import_roifile(path).ImagejRoi.frombytes(content)
                _add(annotation, roi, number)
            except UserError:
                raise
            except Exception as error:  # the library raises many kinds for invalid files
                reason = describe_error(error)
                annotation.invalid.append(f"ROI {number} ({name[:60]!r}) is invalid ({reason})")
    return annotation


def _read_members(path: Path) -> list[tuple[str, bytes]]:
    if path.suffix.lower() == ".roi":
        return [(path.name, read_bytes(path))]
    try:
        with zipfile.ZipFile(path) as file:
            members = [each for each in file.infolist() if each.filename.lower().endswith(".roi")]
            if any(each.file_size > MAX_ROI for each in members):
                raise UserError(f"{path}: has a ROI of more than {MAX_ROI >> 20} MiB; check the file")
            return [(each.filename, file.read(each)) for each in members]
    except UserError:
        raise
    except Exception as error:  # zipfile raises many kinds for invalid files
        reason = describe_error(error)
        raise UserError(f"{path}: is not a readable ZIP file ({reason}); check the file") from error


def _add(annotation: Annotation, roi: Any, number: int) -> None:
    kind = roi.roitype.name
    group = int(getattr(roi, "group", 0))
    new = Shape(number, f"group {group}" if group else NO_CLASS)
    if roi.composite:
        rings = [_to_ring(ring) for ring in roi.path2coords(roi.multi_coordinates)]
        rings = [ring for ring in rings if len(ring) >= 3]
        annotation.add_outlines(new, [join_holes(rings)] if rings else [np.zeros((0, 2))])
    elif kind in _WITHOUT_AREA:
        annotation.drop(NO_AREA)
    elif kind in _OUTLINES:
        annotation.add_outlines(new, [_to_ring(roi.coordinates())])
    elif kind in ("RECT", "OVAL"):
        x1, y1, x2, y2 = (float(each) for each in (roi.left, roi.top, roi.right, roi.bottom))
        if roi.subpixelrect:
            x1, y1, x2, y2 = roi.xd, roi.yd, roi.xd + roi.widthd, roi.yd + roi.heightd
        if kind == "RECT":
            annotation.shapes.append(Shape(number, new.name, box=(x1, y1, x2, y2)))
        else:
            annotation.add_outlines(new, [make_ellipse((x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1) / 2, (y2 - y1) / 2)])
    else:
        raise ValueError(f"a ROI of type {kind} is not supported")


def _to_ring(coordinates: Any) -> Points:
    points = np.asarray(coordinates, np.float64).reshape(-1, 2)
    ring = to_outline(points[:, 0].tolist(), points[:, 1].tolist())
    return ring[:-1] if len(ring) > 1 and (ring[0] == ring[-1]).all() else ring
