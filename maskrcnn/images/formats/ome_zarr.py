"""OME-Zarr 0.4 and 0.5 (NGFF), by the library zarr (extra `zarr`).

Of a pyramid, the first and largest level is read. Source: https://ngff.openmicroscopy.org/0.5/.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maskrcnn.config import UserError
from maskrcnn.images.formats.arrays import open_array
from maskrcnn.images.metadata import ImageMetadata, make_pixel_size, to_micrometers
from maskrcnn.images.samples import Samples

_MARKS = ("zarr.json", ".zgroup", ".zattrs", ".zarray")


def is_zarr(path: Path) -> bool:
    """Return whether a folder is a Zarr group or array."""
    return path.is_dir() and any((path / name).is_file() for name in _MARKS)


def open_zarr(path: Path) -> Samples:
    """Open the first image of an OME-Zarr folder.

    Raises:
        UserError: If the library is missing, or the folder is no OME-Zarr image.
    """
    group, image = _open_image(path)
    level = image["datasets"][0]["path"]
    if not isinstance(level, str) or level.startswith("/") or ".." in level.split("/"):
        raise UserError(f"{path}: its first level is located at {level!r}, outside the folder; check or remove it")
    return open_array(path, group[level], "".join(_read_axes(image)))


def read_zarr_metadata(path: Path) -> ImageMetadata:
    """Read pixel size and channel names."""
    group, image = _open_image(path)
    axes = _read_axes(image)
    scale = next((each["scale"] for each in _list_transforms(image) if each.get("type") == "scale"), None)
    units = [axis.get("unit", "") if isinstance(axis, Mapping) else "" for axis in image["axes"]]
    size = None
    if scale is not None and len(scale) == len(axes):
        y, x = (to_micrometers(float(scale[axes.index(axis)]), units[axes.index(axis)]) for axis in "yx")
        size = make_pixel_size(y, x)
    channels = _read_attributes(group).get("omero", {}).get("channels", [])
    names = tuple(str(each.get("label", "")) for each in channels if isinstance(each, Mapping))
    return ImageMetadata(size, names if any(names) else ())


def _list_transforms(image: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(image["datasets"][0].get("coordinateTransformations", []))


def _read_axes(image: Mapping[str, Any]) -> list[str]:
    """Return the names of the axes; of version 0.3 and before, which name none, TCZYX."""
    return [str(axis["name"] if isinstance(axis, Mapping) else axis) for axis in image.get("axes", "tczyx")]


def _read_attributes(group: Any) -> Mapping[str, Any]:
    attributes = dict(group.attrs)
    nested = attributes.get("ome")  # since version 0.5
    return nested if isinstance(nested, Mapping) else attributes


def _open_image(path: Path) -> tuple[Any, Mapping[str, Any]]:
    """Open the group, and return it and the description of its first image."""
    try:
        import zarr
    except ImportError as error:
        raise UserError(f"{path}: OME-Zarr needs the library zarr: pip install zarr") from error
    group = zarr.open_group(path, mode="r")
    images = _read_attributes(group).get("multiscales")
    if not isinstance(images, list) or not images:
        inside = ", ".join(sorted(name for name, _ in group.groups())[:5])
        hint = f"; name an image in it: {inside}" if inside else ""
        raise UserError(f"{path}: is no OME-Zarr image (it has no multiscales){hint}")
    return group, images[0]
