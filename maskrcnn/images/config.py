"""Options of reading image files."""

from dataclasses import dataclass

from maskrcnn.config import option
from maskrcnn.images.options import MAX_MEGAPIXELS


@dataclass(frozen=True)
class ImageFilesConfig:
    """Image files."""

    max_megapixels: int = option(
        MAX_MEGAPIXELS,
        "max. size of an image that has to be decoded as a whole (megapixels); TIFF and .npy are read by window",
        flag="max_megapixels",
        minimum=1,
    )
