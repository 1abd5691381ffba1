"""Physical pixel size, channel names and georeference that image files store."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from maskrcnn.config import UserError

MICROMETERS = {
    "m": 1e6, "meter": 1e6, "metre": 1e6, "cm": 1e4, "centimeter": 1e4, "mm": 1e3, "millimeter": 1e3, "inch": 25_400.0,
    "in": 25_400.0, "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0,
    "micrometre": 1.0, "nm": 1e-3, "nanometer": 1e-3, "pm": 1e-6, "å": 1e-4, "angstrom": 1e-4,
}  # fmt: skip
SCREEN_DPI = (1, 72, 96, 100, 150, 200, 300, 600, 1200)  # defaults of screens and printers, not measured
MAX_SCALE = 100.0  # a larger factor indicates a wrong unit
MAX_XML = 64 << 20  # bytes
_PROJECTED, _GEOGRAPHIC, _RASTER_TYPE = "ProjectedCSTypeGeoKey", "GeographicTypeGeoKey", "GTRasterTypeGeoKey"
_USER_DEFINED = 32_767
_POINT = 2


@dataclass(frozen=True)
class Georeference:
    """Map from pixels to world coordinates.

    Attributes:
        transform: a, b, c, d, e, f with world x = a·column + b·row + c and y = d·column + e·row + f, where pixel
            (row i, column j) covers [j, j + 1) × [i, i + 1), as in rasterio's `Affine`.
        crs: coordinate reference system such as "EPSG:32633"; None if the file has none.
    """

    transform: tuple[float, float, float, float, float, float]
    crs: str | None = None

    def to_world(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map points [N, 2] (x, y) in pixels to world coordinates."""
        a, b, c, d, e, f = self.transform
        moved: NDArray[np.float64] = points @ np.array([[a, d], [b, e]]) + np.array([c, f])
        return moved

    def check_crs(self, path: Path) -> str:
        """Return the coordinate reference system; raise a UserError if there is none."""
        if self.crs is None:
            raise UserError(
                f"{path}: has a georeference without a coordinate reference system, so world coordinates would be "
                "ambiguous; assign one (gdal_edit.py -a_srs EPSG:…), or write pixel coordinates"
            )
        return self.crs


@dataclass(frozen=True)
class ImageMetadata:
    """Metadata of an image file.

    Attributes:
        pixel_size: height and width of a pixel in µm.
        channel_names: names of the channels, if they have any.
        georeference: map to world coordinates.
    """

    pixel_size: tuple[float, float] | None = None
    channel_names: tuple[str, ...] = ()
    georeference: Georeference | None = None

    def describe(self) -> str:
        """Describe it in a few words; "" if there is nothing."""
        words = []
        if self.pixel_size is not None:
            height, width = self.pixel_size
            same = math.isclose(height, width, rel_tol=1e-3)
            words.append(f"pixels of {width:.4g} µm" if same else f"pixels of {width:.4g} x {height:.4g} µm")
        if self.channel_names:
            words.append(f"channels {', '.join(self.channel_names)}")
        if self.georeference is not None:
            words.append(self.georeference.crs or "georeference without a coordinate reference system")
        return ", ".join(words)


def make_pixel_size(height: float, width: float) -> tuple[float, float] | None:
    """Return a pixel size in µm; None if it is not positive and finite."""
    return (height, width) if all(0 < side < math.inf for side in (height, width)) else None


def compute_scale(stored: tuple[float, float] | None, wanted: float, where: str) -> tuple[float, float]:
    """Compute the factors (y, x) that rescale an image to pixels of `wanted` µm.

    Raises:
        UserError: If no pixel size is stored, or a factor is beyond 1/100 to 100; names the image `where`.
    """
    if stored is None:
        raise UserError(
            f"{where}: states no pixel size, so --pixel_size={wanted:g} cannot be applied; store it, or leave out the "
            "option"
        )
    y, x = (side / wanted for side in stored)
    if not all(1 / MAX_SCALE <= factor <= MAX_SCALE for factor in (y, x)):
        raise UserError(
            f"{where}: has pixels of {stored[1]:g} x {stored[0]:g} µm, which --pixel_size={wanted:g} would rescale by "
            f"{x:g}; check the unit"
        )
    return y, x


def to_micrometers(value: float, unit: str) -> float:
    """Convert a length; NaN for an unknown unit."""
    return value * MICROMETERS.get(unit.strip().lower(), math.nan)


# ---- OME


def read_ome(xml: str) -> ImageMetadata:
    """Read pixel size and channel names of the first image of OME-XML; empty metadata if the XML is invalid."""
    if len(xml) > MAX_XML or "<!" in re.sub(r"<!--.*?-->", "", xml, flags=re.DOTALL):  # no entities
        return ImageMetadata()
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return ImageMetadata()
    pixels = next((each for each in root.iter() if each.tag.endswith("}Pixels") or each.tag == "Pixels"), None)
    if pixels is None:
        return ImageMetadata()
    height, width = (
        to_micrometers(_to_number(pixels.get(f"PhysicalSize{axis}")), pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        for axis in "YX"
    )
    channels = [each for each in pixels if each.tag.rpartition("}")[2] == "Channel"]
    names = tuple(each.get("Name", "") for each in channels)
    return ImageMetadata(make_pixel_size(height, width), names if any(names) else ())


def _to_number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


# ---- TIFF


def read_tiff_metadata(path: Path) -> ImageMetadata:
    """Read the metadata of a TIFF file: OME-XML, ImageJ's, GeoTIFF's, or the resolution of the page."""
    import tifffile

    with tifffile.TiffFile(path, _multifile=False) as tiff:
        page: Any = tiff.pages.first
        if tiff.is_ome and tiff.ome_metadata:
            return read_ome(tiff.ome_metadata)
        if tiff.is_imagej:
            return ImageMetadata(_read_imagej_size(tiff.imagej_metadata or {}, page))
        if tiff.is_geotiff:
            return ImageMetadata(georeference=read_georeference(page.tags, page.geotiff_tags))
        return ImageMetadata(_read_resolution(page))


def _read_ratios(page: Any) -> tuple[float, float]:
    """Return the pixels per unit in y and x; NaN where there are none."""
    ratios = []
    for tag in ("YResolution", "XResolution"):
        value = page.tags.valueof(tag)
        numerator, denominator = value if isinstance(value, tuple) and len(value) == 2 else (0, 0)
        ratios.append(numerator / denominator if numerator and denominator else math.nan)
    return ratios[0], ratios[1]


def _read_imagej_size(metadata: Mapping[str, Any], page: Any) -> tuple[float, float] | None:
    unit = str(metadata.get("unit", "")).replace("\\u00B5", "µ")
    y, x = _read_ratios(page)
    return make_pixel_size(to_micrometers(1 / y, unit), to_micrometers(1 / x, unit))


def _read_resolution(page: Any) -> tuple[float, float] | None:
    """Return the pixel size from the TIFF resolution, except for values that are typical of screens and printers."""
    unit = {2: "inch", 3: "cm"}.get(int(page.tags.valueof("ResolutionUnit", 1)))
    y, x = _read_ratios(page)
    if unit is None or math.isnan(y + x):
        return None
    dpi = x if unit == "inch" else x * 2.54
    if any(math.isclose(dpi, each, rel_tol=0.01) for each in SCREEN_DPI):
        return None
    return make_pixel_size(to_micrometers(1 / y, unit), to_micrometers(1 / x, unit))


def read_georeference(tags: Any, keys: Mapping[str, Any]) -> Georeference | None:
    """Return the georeference of GeoTIFF tags (OGC GeoTIFF 1.1, section 7); None if they define no map.

    Args:
        tags: the tags of a page, by number.
        keys: geographic keys by name, as tifffile reads them.
    """
    scale, tie, matrix = (_to_floats(tags.valueof(number)) for number in (33550, 33922, 34264))
    if len(matrix) == 16:
        transform = (matrix[0], matrix[1], matrix[3], matrix[4], matrix[5], matrix[7])
    elif len(scale) >= 2 and len(tie) >= 6:
        transform = (scale[0], 0.0, tie[3] - tie[0] * scale[0], 0.0, -scale[1], tie[4] + tie[1] * scale[1])
    else:
        return None
    a, b, c, d, e, f = transform
    if not all(map(math.isfinite, transform)) or a * e - b * d == 0:
        return None
    if int(keys.get(_RASTER_TYPE, 1)) == _POINT:  # the map refers to pixel centers
        c, f = c - (a + b) / 2, f - (d + e) / 2
    codes = [int(keys[key]) for key in (_PROJECTED, _GEOGRAPHIC) if 0 < int(keys.get(key, 0)) < _USER_DEFINED]
    return Georeference((a, b, c, d, e, f), f"EPSG:{codes[0]}" if codes else None)


def _to_floats(value: Any) -> Sequence[float]:
    return [float(each) for each in value] if isinstance(value, tuple) else []
