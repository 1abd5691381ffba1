"""Files of microscopes (CZI, ND2, LIF) by the library bioio (extra `microscopy`). Of several scenes, the first is read.

Tried on OME-TIFF only: no CZI, ND2 or LIF file could be written for a test.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maskrcnn.config import UserError
from maskrcnn.images.formats.arrays import open_array
from maskrcnn.images.metadata import ImageMetadata, make_pixel_size
from maskrcnn.images.samples import Samples

SUFFIXES = (".czi", ".nd2", ".lif")


def open_microscopy(path: Path) -> Samples:
    """Open the first scene of a microscope's file.

    Raises:
        UserError: If the library or its plug-in for the format is missing.
    """
    image = _open_image(path)
    axes = image.dims.order
    if axes.endswith("S"):  # colors
        raise UserError(f"{path}: has colors; save it as OME-TIFF")
    return open_array(path, _Computed(image.dask_data), axes)


def read_microscopy_metadata(path: Path) -> ImageMetadata:
    """Read pixel size and channel names."""
    image = _open_image(path)
    size = image.physical_pixel_sizes
    names = tuple(str(name) for name in image.channel_names or ())
    return ImageMetadata(make_pixel_size(size.Y or 0.0, size.X or 0.0), names)


class _Computed:
    """A Dask array whose windows are computed when they are read."""

    def __init__(self, array: Any) -> None:
        self._array, self.shape, self.dtype = array, tuple(array.shape), array.dtype

    def __getitem__(self, index: tuple[Any, ...]) -> Any:
        return self._array[index].compute()


def _open_image(path: Path) -> Any:
    try:
        from bioio import BioImage
    except ImportError as error:
        plugins = ", ".join(f"bioio-{suffix[1:]}" for suffix in SUFFIXES)
        raise UserError(f"{path}: needs the library bioio and its plug-in: pip install bioio {plugins}") from error
    return BioImage(path)
