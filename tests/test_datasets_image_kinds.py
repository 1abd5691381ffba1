"""One picture in the kinds of files that tools write: training and prediction read the same pixels, or both refuse."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image

from maskrcnn.config import UserError
from maskrcnn.images.formats import tiff as tiff_format
from maskrcnn.images.large import open_pixels
from maskrcnn.images.reading import read_image

SIZE = (37, 53)
GRAY = np.random.default_rng(0).integers(0, 256, SIZE).astype(np.uint8)
COLOR = np.random.default_rng(1).integers(0, 256, (*SIZE, 3)).astype(np.uint8)
DEEP = GRAY.astype(np.uint16) * 16 + 9  # of a 12-bit camera
DEEP_COLOR = COLOR.astype(np.uint16) * 16 + 9
ALPHA = np.full((*SIZE, 1), 100, np.uint8)
Write = Callable[[Path], Any]


def tif(values: NDArray[Any], **how: Any) -> Write:
    return lambda path: tifffile.imwrite(path, values, **how)


def pil(image: Image.Image, **how: Any) -> Write:
    return lambda path: image.save(path, **how)


def png16(values: NDArray[np.uint16], kind: int, interlaced: bool = False) -> Write:
    """A PNG of 16 bits a channel, which Pillow does not write; `kind`: 2 RGB, 4 gray and alpha, 6 RGB and alpha."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    def rows(part: NDArray[np.uint16]) -> bytes:
        return b"".join(b"\0" + row.astype(">u2").tobytes() for row in part) if part.size else b""

    adam7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    passes = adam7 if interlaced else ((0, 0, 1, 1),)
    data = b"".join(rows(values[y::down, x::right]) for y, x, down, right in passes)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, kind, 0, 0, int(interlaced))
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def pyramid(path: Path) -> None:
    with tifffile.TiffWriter(path) as writer:
        writer.write(GRAY, subifds=0, tile=(32, 32))
        writer.write(GRAY[::2, ::2].copy(), subfiletype=1, tile=(32, 32))


PALETTE = np.stack([np.arange(256), np.arange(256)[::-1], np.arange(256) // 2]).astype(np.uint16) * 257
SHOWN = np.ascontiguousarray((PALETTE // 257).T[GRAY]).astype(np.uint8)
DEEP_ALPHA = np.dstack([DEEP_COLOR, np.full(SIZE, 7, np.uint16)])

READ: dict[str, tuple[Write, NDArray[Any]]] = {
    "gray.png": (pil(Image.fromarray(GRAY)), GRAY),
    "gray and alpha.png": (pil(Image.fromarray(np.dstack([GRAY, ALPHA]), "LA")), GRAY),
    "rgb.png": (pil(Image.fromarray(COLOR)), COLOR),
    "rgba.png": (pil(Image.fromarray(np.dstack([COLOR, ALPHA]))), COLOR),
    "bilevel.png": (pil(Image.fromarray(GRAY > 128)), np.where(GRAY > 128, 255, 0).astype(np.uint8)),
    "gray 16.png": (pil(Image.fromarray(DEEP)), DEEP),
    "rgb 16.png": (png16(DEEP_COLOR, 2), DEEP_COLOR),
    "rgb 16 interlaced.png": (png16(DEEP_COLOR, 2, interlaced=True), DEEP_COLOR),
    "rgba 16.png": (png16(DEEP_ALPHA, 6), DEEP_COLOR),
    "gray and alpha 16.png": (png16(np.dstack([DEEP, DEEP]), 4), DEEP),
    "gray 16 dark.png": (pil(Image.fromarray(GRAY.astype(np.uint16))), GRAY.astype(np.uint16)),
    "rgb.jp2": (pil(Image.fromarray(COLOR), irreversible=False), COLOR),
    "gray 16.jp2": (pil(Image.fromarray(DEEP), irreversible=False), DEEP),
    "a.bmp": (pil(Image.fromarray(COLOR)), COLOR),
    "a.pgm": (pil(Image.fromarray(GRAY)), GRAY),
    "lossless.webp": (pil(Image.fromarray(COLOR), lossless=True), COLOR),
    "gray.tif": (tif(GRAY), GRAY),
    "white is zero.tif": (tif(255 - GRAY, photometric="miniswhite"), GRAY),
    "white is zero 16.tif": (tif(65_535 - DEEP, photometric="miniswhite"), DEEP),
    "white is zero 16 deflate.tif": (tif(65_535 - DEEP, photometric="miniswhite", compression="zlib"), DEEP),
    "rgb.tif": (tif(COLOR, photometric="rgb"), COLOR),
    "rgba.tif": (tif(np.dstack([COLOR, ALPHA]), photometric="rgb", extrasamples=["unassalpha"]), COLOR),
    "planar.tif": (tif(COLOR.transpose(2, 0, 1).copy(), photometric="rgb", planarconfig="separate"), COLOR),
    "rgb 12 of 16.tif": (tif(DEEP_COLOR, photometric="rgb"), DEEP_COLOR),
    "rgb 16 deflate.tif": (tif(DEEP_COLOR, photometric="rgb", compression="zlib", predictor=2), DEEP_COLOR),
    "gray 16 big-endian.tif": (tif(DEEP, byteorder=">", tile=(16, 16)), DEEP),
    "bigtiff 16.tif": (tif(DEEP, bigtiff=True, compression="zlib"), DEEP),
    "lzw.tif": (pil(Image.fromarray(COLOR), compression="tiff_lzw"), COLOR),
    "gray 16 lzw.tif": (pil(Image.fromarray(DEEP), compression="tiff_lzw"), DEEP),
    "int16.tif": (tif(DEEP.astype(np.int16)), DEEP),
    "uint32.tif": (tif(DEEP.astype(np.uint32)), DEEP),
    "ome.ome.tif": (tif(GRAY, metadata={"axes": "YX"}), GRAY),
    "imagej.tif": (tif(DEEP, imagej=True), DEEP),
    "composite.tif": (tif(COLOR.transpose(2, 0, 1).copy(), imagej=True, metadata={"axes": "CYX"}), COLOR),
    "int32.tif": (tif(DEEP.astype(np.int32), tile=(16, 16)), DEEP),
    "float64.tif": (tif(GRAY / 7), (GRAY / 7).astype(np.float32)),
    "pyramid.tif": (pyramid, GRAY),
    "palette.tif": (tif(GRAY, photometric="palette", colormap=PALETTE), SHOWN),
    "float.tif": (tif(GRAY.astype(np.float32) * 100 - 7), GRAY.astype(np.float32) * 100 - 7),
    "two channels.tif": (
        tif(np.dstack([GRAY, 255 - GRAY]), photometric="minisblack", planarconfig="contig"),
        np.dstack([GRAY, 255 - GRAY]),
    ),
    "five channels 16.tif": (
        tif(np.dstack([DEEP_COLOR, DEEP, 9 * DEEP]), photometric="minisblack", planarconfig="contig"),
        np.dstack([DEEP_COLOR, DEEP, 9 * DEEP]),
    ),
    "four.tif": (
        tif(np.dstack([COLOR, GRAY]), photometric="minisblack", planarconfig="contig"),
        np.dstack([COLOR, GRAY]),
    ),
    "a.npy": (lambda path: np.save(path, DEEP_COLOR), DEEP_COLOR),
}
REFUSED: dict[str, tuple[Write, str]] = {
    "stack.tif": (tif(np.stack([GRAY] * 4), photometric="minisblack"), r"stack of shape \[4, 37, 53\] \(IYX\)"),
    "nan.tif": (tif(np.where(GRAY == 7, np.nan, GRAY).astype(np.float32)), "NaN and 0 infinite"),
    "complex.tif": (tif(GRAY.astype(np.complex64)), "complex64"),
    "negative.tif": (tif(GRAY.astype(np.int16) - 100), "negative pixel values"),
    "large.tif": (tif(GRAY.astype(np.uint32) * 1000), "above 16 bits"),
    "deep.ppm": (
        lambda path: path.write_bytes(b"P6\n53 37\n65535\n" + DEEP_COLOR.astype(">u2").tobytes()),
        "more than 8 bits",
    ),
    "animation.gif": (
        pil(Image.fromarray(GRAY), save_all=True, append_images=[Image.fromarray(255 - GRAY)]),
        "is an animation",
    ),
}


@pytest.mark.parametrize("name", READ)
def test_the_pixels_that_were_written_are_read_whole_and_by_window(tmp_path: Path, name: str) -> None:
    write, values = READ[name]
    write(tmp_path / name)
    values = values if values.ndim == 3 else np.repeat(values[:, :, None], 3, axis=2)
    whole = read_image(tmp_path / name)
    assert str(whole.dtype) == f"torch.{values.dtype}"
    np.testing.assert_array_equal(whole.permute(1, 2, 0).numpy(), values)
    with open_pixels(tmp_path / name) as image:
        assert image.is_deep == (values.dtype != np.uint8) and image.size == SIZE
        window = image.read(5, 7, 20, 30)
        assert window.dtype == whole.dtype and torch.equal(window.int(), whole[:, 7:27, 5:35].int())


@pytest.mark.parametrize("name", REFUSED)
def test_what_one_reader_refuses_the_other_refuses_in_the_same_words(tmp_path: Path, name: str) -> None:
    write, words = REFUSED[name]
    write(tmp_path / name)
    with pytest.raises(UserError, match=words) as by_training:
        read_image(tmp_path / name)
    with pytest.raises(UserError) as by_prediction, open_pixels(tmp_path / name) as image:
        image.read(0, 0, *SIZE)
    assert str(by_training.value) == str(by_prediction.value) and "\n" not in str(by_training.value)


def test_colors_of_16_bits_are_never_cut_to_8_by_a_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow decodes LZW, of 16-bit colors the upper 8 bits."""
    monkeypatch.setattr(tiff_format.importlib.util, "find_spec", lambda name: None)  # as without imagecodecs
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, DEEP_COLOR, photometric="rgb")
    contents = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages.first.tags["Compression"]
    contents[tag.valueoffset : tag.valueoffset + 2] = struct.pack("<H", 5)
    path.write_bytes(contents)
    with pytest.raises(UserError, match="more than 8 bits"):
        read_image(path)
