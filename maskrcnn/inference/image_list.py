"""Image files of a program: which there are, whether they are readable, and the names of their output files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from maskrcnn.config import UserError
from maskrcnn.images.formats.ome_zarr import is_zarr
from maskrcnn.images.large import SUFFIXES, ZARR_SUFFIX, open_pixels
from maskrcnn.images.levels import Levels
from maskrcnn.text import to_file_name


def list_images(path: Path) -> list[Path]:
    """Return the file itself, or the image files of a folder, sorted by name, without hidden files and subfolders.

    Raises:
        UserError: If there is no such file or folder, or the folder has no images.
    """
    if is_zarr(path) or path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{path}: no such image or folder")
    images = sorted(each for each in path.iterdir() if each.name[0] != "." and _is_image(each))
    if not images:
        raise UserError(f"{path}: no images in this folder ({', '.join(SUFFIXES)}); give the folder of the images")
    return images


def _is_image(path: Path) -> bool:
    if path.suffix.lower() == ZARR_SUFFIX:
        return is_zarr(path)
    return path.suffix.lower() in SUFFIXES and path.is_file()


def read_sizes(paths: Sequence[Path], levels: Levels | None) -> Iterator[tuple[Path, tuple[int, int] | UserError]]:
    """Yield each file with the size (H, W) of its image, or the error of a file that is not a readable image."""
    for path in paths:
        try:
            with open_pixels(path, levels=levels) as pixels:
                pixels.read(0, 0, 1, 1)  # the header may be right and the pixels broken
                yield path, pixels.size
        except UserError as error:
            yield path, error


def make_output_names(paths: Sequence[Path]) -> list[str]:
    """Return the start of each image's output files: its name without the suffix, or with it if files would clash."""
    endings = (".png", "_labels.png", "_labels.tif", "_views.png")
    written = Counter(f"{path.stem}{ending}".lower() for path in paths for ending in endings)
    clash = any(count > 1 for count in written.values())
    return [to_file_name(path.name if clash else path.stem) for path in paths]
