"""Broken image files by chance: pixels or an error of one line that names the file, and no look at other files."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from maskrcnn.config import UserError
from maskrcnn.images.large import open_pixels
from maskrcnn.images.options import ImageOptions, use_image_options
from maskrcnn.images.selection import parse_selection

SIZE = (22, 31)
GRAY = np.random.default_rng(0).integers(0, 256, SIZE).astype(np.uint8)
COLOR = np.random.default_rng(1).integers(0, 256, (*SIZE, 3)).astype(np.uint8)
DEEP = GRAY.astype(np.uint16) * 16
STACK = np.random.default_rng(2).integers(0, 4096, (2, 3, 2, *SIZE)).astype(np.uint16)
AXES: dict[str, Any] = {"metadata": {"axes": "TZCYX"}, "photometric": "minisblack"}
GEO = [
    (33550, "d", 3, (0.5, 0.5, 0.0), True),
    (33922, "d", 6, (0.0, 0.0, 0.0, 5e5, 4e6, 0.0), True),
    (34735, "H", 8, (1, 1, 0, 1, 3072, 0, 1, 32633), True),
]
Write = Callable[[Path], Any]


def tif(values: Any, **how: Any) -> Write:
    return lambda path: tifffile.imwrite(path, values, **how)


def pil(values: Any, kind: str, **how: Any) -> Write:
    return lambda path: Image.fromarray(values).save(path, format=kind, **how)


# name: (how it is written, which plane is read)
FORMATS: dict[str, tuple[Write, str]] = {
    "png 1": (pil(GRAY > 128, "PNG"), ""),
    "png 8": (pil(COLOR, "PNG"), ""),
    "png 16": (pil(DEEP, "PNG"), ""),
    "jpeg": (pil(COLOR, "JPEG"), ""),
    "webp": (pil(COLOR, "WEBP", lossless=True), ""),
    "jpeg 2000": (pil(COLOR, "JPEG2000"), ""),
    "bmp": (pil(COLOR, "BMP"), ""),
    "gif": (pil(GRAY, "GIF"), ""),
    "tiff strips": (tif(COLOR, photometric="rgb", rowsperstrip=5), ""),
    "tiff tiles deflate": (tif(DEEP, tile=(16, 16), compression="zlib", predictor=2), ""),
    "tiff planes": (tif(COLOR.transpose(2, 0, 1).copy(), photometric="rgb", planarconfig="separate"), "c=0"),
    "tiff five channels": (tif(np.dstack([COLOR, GRAY, GRAY]), photometric="minisblack", planarconfig="contig"), ""),
    "tiff bigtiff": (tif(DEEP, bigtiff=True, byteorder=">", compression="zlib"), ""),
    "tiff lzw": (pil(COLOR, "TIFF", compression="tiff_lzw"), ""),
    "tiff jpeg": (pil(COLOR, "TIFF", compression="jpeg"), ""),
    "tiff float": (tif(GRAY.astype(np.float32), rowsperstrip=4), ""),
    "tiff int32": (tif(GRAY.astype(np.int32), tile=(16, 16)), ""),
    "tiff pages": (tif(np.stack([GRAY] * 3), photometric="minisblack"), "z=max"),
    "imagej": (
        tif(STACK, imagej=True, resolution=(4.0, 4.0), **{**AXES, "metadata": {"axes": "TZCYX", "unit": "um"}}),
        "z=mean t=1",
    ),
    "ome-tiff": (tif(STACK, ome=True, **AXES), "c=1 z=max t=0"),
    "ome-tiff tiles": (tif(STACK, ome=True, tile=(16, 16), compression="zlib", **AXES), "z=0 t=0"),
    "geotiff": (tif(DEEP, photometric="minisblack", metadata=None, extratags=GEO), ""),
    "npy": (lambda path: np.save(path.with_suffix(".npy"), DEEP) or path.with_suffix(".npy").rename(path), ""),
}


def mutate(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Yield versions with one to four changes, most of them in the headers: bits, bytes, cuts, and copies of parts."""
    draw = random.Random(seed)
    for _ in range(count):
        changed = bytearray(content)
        for _ in range(draw.randint(1, 4)):
            if not changed:
                break
            place = draw.randrange(min(len(changed), 600) if draw.random() < 0.6 else len(changed))
            length = draw.choice((1, 1, 2, 4, 8, 40))
            match draw.randrange(6):
                case 0:
                    changed[place] ^= 1 << draw.randrange(8)
                case 1:
                    changed[place] = draw.choice((0, 1, 2, 127, 128, 255, draw.randrange(256)))
                case 2:
                    changed[place : place + 4] = draw.choice(
                        (b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\0\0\xff\x7f")
                    )
                case 3:
                    del changed[place : place + length]
                case 4:
                    changed[place:place] = changed[place : place + length]
                case _:
                    del changed[max(8, place) :]
        yield bytes(changed)


def reads(path: Path, select: str) -> bool:
    """Whether a file can be read; if not, the error must be one line that names it."""
    try:
        options = ImageOptions(max_megapixels=4, selection=parse_selection(select))
        with use_image_options(options), open_pixels(path) as image:
            assert image.metadata.describe() is not None
            (height, width), channels = image.size, image.shape[0]
            for x, y in ((0, 0), (width // 2, height // 2), (width - 1, height - 1)):
                window = image.read(x, y, min(9, height - y), min(9, width - x))
                assert window.shape == (channels, min(9, height - y), min(9, width - x))
                assert window.dtype in (torch.uint8, torch.uint16, torch.float32)
    except UserError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
        return False
    return True


def fuzz(name: str, folder: Path, count: int, seed: int) -> None:
    write, select = FORMATS[name]
    path = folder / "image"
    write(path)
    content = path.read_bytes()
    assert reads(path, select)
    results = []
    for number, broken in enumerate(mutate(content, count, seed)):
        path.write_bytes(broken)
        try:
            results.append(reads(path, select))
        except BaseException as error:
            raise AssertionError(f"change {number} of {name}: {error!r}") from error
    assert 0 < sum(results) < len(results)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FORMATS)
def test_five_hundred_broken_images(name: str, tmp_path: Path) -> None:
    fuzz(name, tmp_path, count=500, seed=1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FORMATS)
def test_twenty_thousand_broken_images(name: str, tmp_path: Path) -> None:
    fuzz(name, tmp_path, count=20_000, seed=2)
