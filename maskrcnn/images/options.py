"""Options of reading images, which hold within a block."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

from maskrcnn.images.config import MAX_MEGAPIXELS, ImageFilesConfig, StoredImagesConfig
from maskrcnn.images.selection import ALL, Selection, parse_selection


@dataclass(frozen=True)
class ImageOptions:
    """How image files are read.

    Attributes:
        max_megapixels: size limit of images that are decoded as a whole.
        channels: number of channels of every image; 0: 3 for gray and RGB, without alpha, and the file's for others.
        selection: channels, and planes of stacks, to read.
        pixel_size: size in µm to which images are rescaled after reading; 0: they are not.
    """

    max_megapixels: int = MAX_MEGAPIXELS
    channels: int = 0
    selection: Selection = ALL
    pixel_size: float = 0.0


@dataclass(frozen=True)
class SelectedFile(os.PathLike[str]):
    """Path of an image file, with the options by which it was read, so that the same planes are read again."""

    path: str
    options: ImageOptions

    def __fspath__(self) -> str:
        """Return the path."""
        return self.path

    def __str__(self) -> str:
        """Return the path, for messages."""
        return self.path


def make_image_options(files: StoredImagesConfig, channels: int = 0) -> ImageOptions:
    """Make the options of reading images.

    Raises:
        UserError: If the selection is invalid.
    """
    pixel_size = files.pixel_size if isinstance(files, ImageFilesConfig) else 0.0
    return ImageOptions(files.max_megapixels, channels, parse_selection(files.select), pixel_size)


_options: ContextVar[ImageOptions] = ContextVar("image_options", default=ImageOptions())  # noqa: B039 (frozen)


def get_image_options() -> ImageOptions:
    """Return the options that hold here."""
    return _options.get()


@contextmanager
def use_image_options(options: ImageOptions) -> Iterator[None]:
    """Read images by `options` within the block."""
    token = _options.set(options)
    try:
        yield
    finally:
        _options.reset(token)


@contextmanager
def limit_megapixels(limit: int) -> Iterator[None]:
    """Limit the size of images that are decoded as a whole within the block."""
    with use_image_options(replace(get_image_options(), max_megapixels=limit)):
        yield
