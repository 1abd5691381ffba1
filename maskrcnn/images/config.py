"""Options of reading image files."""

from dataclasses import dataclass

from maskrcnn.config import option

MAX_MEGAPIXELS = 256  # default size limit of images that are decoded as a whole


@dataclass(frozen=True)
class StoredImagesConfig:
    """Image files, whose pixels are read as stored."""

    max_megapixels: int = option(
        MAX_MEGAPIXELS,
        "max. size of an image that has to be decoded as a whole (megapixels); TIFF and .npy are read by window",
        flag="max_megapixels",
        minimum=1,
    )
    select: str = option(
        "",
        'channels to read, and planes of stacks, such as "c=0,1 z=max t=0" (numbers from 0; z and t also max or mean)',
        flag="select",
    )


@dataclass(frozen=True)
class ImageFilesConfig(StoredImagesConfig):
    """Image files."""

    pixel_size: float = option(
        0.0,
        "rescale images to pixels of this size (µm), in training and prediction; the files must state theirs (0: no)",
        flag="pixel_size",
        minimum=0,
    )
