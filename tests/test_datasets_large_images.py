"""Windows of large images: what whole decoding gives, at the cost of what they touch, and one line for broken files."""

from __future__ import annotations

import logging
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from tiff_toy import HEIGHT, LAYOUTS, STRIPS, TILED, WIDTH, deflate, expected, picture, planes, write_layout, write_tiff

from maskrcnn.config import UserError
from maskrcnn.images import large
from maskrcnn.images.decoding import limit_megapixels
from maskrcnn.images.formats import tiff
from maskrcnn.images.large import LargeImage, open_pixels
from maskrcnn.images.reading import read_image
from maskrcnn.images.samples import MappedSamples


@pytest.fixture(scope="module", params=LAYOUTS)
def layout(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[LargeImage, torch.Tensor]:
    path = write_layout(tmp_path_factory.mktemp("layout"), request.param)
    image = open_pixels(path, cache_bytes=3000)
    request.addfinalizer(image.close)
    return image, expected(LAYOUTS[request.param][0])


def test_whole_windows_are_what_other_readers_decode(tmp_path: Path, layout: tuple[LargeImage, torch.Tensor]) -> None:
    image, whole = layout
    assert image.size == (HEIGHT, WIDTH)
    pixels = image.read(0, 0, HEIGHT, WIDTH)
    assert pixels.dtype == whole.dtype and pixels.is_contiguous()
    assert torch.equal(pixels, whole)


@pytest.mark.parametrize("name", [name for name, (*_, pillow) in LAYOUTS.items() if pillow])
def test_tiff_is_read_as_pillow_reads_it(tmp_path: Path, name: str) -> None:
    path = write_layout(tmp_path, name)
    with open_pixels(path) as image:
        assert torch.equal(image.read(0, 0, HEIGHT, WIDTH), read_image(path))


@st.composite
def windows(draw: st.DrawFn) -> tuple[int, int, int, int]:
    x, y = draw(st.integers(0, WIDTH - 1)), draw(st.integers(0, HEIGHT - 1))
    return x, y, draw(st.integers(1, HEIGHT - y)), draw(st.integers(1, WIDTH - x))


@settings(max_examples=25)
@given(window=windows())
def test_windows_are_parts_of_the_whole(
    layout: tuple[LargeImage, torch.Tensor], window: tuple[int, int, int, int]
) -> None:
    image, whole = layout
    x, y, height, width = window
    assert torch.equal(image.read(*window), whole[:, y : y + height, x : x + width])


@pytest.mark.parametrize("values", [picture(1), picture(3), picture(1, "uint16"), picture(3, "uint16")])
@pytest.mark.parametrize("arrange", [np.ascontiguousarray, np.asfortranarray, lambda values: values.astype(">u2")])
def test_numpy_files_are_read_by_window(
    tmp_path: Path, values: NDArray[Any], arrange: Callable[[NDArray[Any]], NDArray[Any]]
) -> None:
    np.save(tmp_path / "image.npy", arrange(values))
    with open_pixels(tmp_path / "image.npy") as image:
        assert image.size == (HEIGHT, WIDTH)
        assert torch.equal(image.read(5, 7, 50, 60).int(), expected(values)[:, 7:57, 5:65].int())


@pytest.mark.parametrize(
    ("suffix", "mode"), [("png", "RGBA"), ("jpg", "RGB"), ("bmp", "L"), ("png", "P"), ("gif", "P")]
)
def test_other_formats_are_read_whole_once(
    tmp_path: Path, suffix: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(picture()).convert(mode).save(path)
    whole = read_image(path)
    calls = []
    decode = large.decode
    monkeypatch.setattr(large, "decode", lambda path, image: calls.append(path) or decode(path, image))
    with open_pixels(path) as image:
        assert image.size == (HEIGHT, WIDTH) and not calls
        assert torch.equal(image.read(5, 7, 50, 60), whole[:, 7:57, 5:65])
        assert torch.equal(image.read(0, 0, HEIGHT, WIDTH), whole)
    assert calls == [path]


@pytest.mark.parametrize(
    "save",
    [
        {"compression": "tiff_lzw"},
        {"compression": "packbits"},
        {"compression": "jpeg"},
        {"tiffinfo": {274: 6}},  # lies on its side
    ],
)
def test_rare_kinds_of_tiff_are_read_as_pillow_reads_them(tmp_path: Path, save: dict[str, Any]) -> None:
    path = tmp_path / "image.tif"
    Image.fromarray(picture()).save(path, **save)
    whole = read_image(path)
    with open_pixels(path) as image:
        assert image.size == tuple(whole.shape[1:])
        assert torch.equal(image.read(3, 4, 60, 50), whole[:, 4:64, 3:53])


@pytest.mark.parametrize("mode", ["1", "P", "CMYK", "I", "YCbCr"])
def test_other_modes_of_tiff_are_read_as_pillow_reads_them(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "image.tif"
    compression = "jpeg" if mode == "YCbCr" else None  # Pillow before 13 cannot read its own without compression
    Image.fromarray(picture()).convert("L" if mode == "I" else "RGB").convert(mode).save(path, compression=compression)
    with open_pixels(path) as image:
        assert torch.equal(image.read(0, 0, HEIGHT, WIDTH), read_image(path))


def test_files_may_have_any_name(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", picture())
    (tmp_path / "a.npy").rename(tmp_path / "a.data")
    with open_pixels(str(tmp_path / "a.data")) as image:
        assert image.size == (HEIGHT, WIDTH)


# ---- what a window costs


def count_decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    decoded: list[int] = []
    decode = tiff.SegmentedSamples._decode

    def counted(self: tiff.SegmentedSamples, index: int) -> Any:
        decoded.append(index)
        return decode(self, index)

    monkeypatch.setattr(tiff.SegmentedSamples, "_decode", counted)
    return decoded


@pytest.mark.parametrize(
    ("how", "window", "touched"),
    [
        (TILED, (16, 32, 32, 16), [9]),
        (TILED, (15, 31, 2, 2), [0, 1, 8, 9]),
        (TILED, (WIDTH - 1, HEIGHT - 1, 1, 1), [23]),
        (STRIPS, (3, 7, 7, 1), [1]),
        (STRIPS, (3, 6, 9, 100), [0, 1, 2]),
        ({"planarconfig": "separate", **TILED}, (0, 0, 1, 1), [0, 24, 48]),
    ],
)
def test_only_what_a_window_touches_is_decoded_and_only_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: dict[str, Any],
    window: tuple[int, int, int, int],
    touched: list[int],
) -> None:
    values = planes(picture()) if "planarconfig" in how else picture()
    decoded = count_decoded(monkeypatch)
    with open_pixels(write_tiff(tmp_path / "image.tif", values, **deflate(**how))) as image:
        for _ in range(2):
            image.read(*window)
    assert decoded == touched


def test_what_is_kept_is_bounded_and_what_was_used_last_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tiff(tmp_path / "image.tif", picture(), **deflate(**TILED))
    decoded = count_decoded(monkeypatch)
    tile = 32 * 16 * 3
    with open_pixels(path, cache_bytes=2 * tile) as image:
        for column in (0, 1, 0, 2, 0, 1):
            image.read(16 * column, 0, 1, 1)
            assert isinstance(image.samples, tiff.SegmentedSamples) and image.samples._bytes <= 2 * tile
    assert decoded == [0, 1, 2, 1]


def test_a_large_image_is_never_whole_in_memory(tmp_path: Path) -> None:
    """40,000 x 40,000 zeros: tiles that the file does not hold, and two that it does."""
    path = tmp_path / "image.tif"
    held = {k: zlib.compress(np.full((256, 256, 3), value, np.uint8).tobytes()) for k, value in ((0, 0), (158, 7))}
    tiles = (held.get(k, b"") for k in range(157 * 157))
    tifffile.imwrite(
        path, tiles, shape=(40_000, 40_000, 3), dtype=np.uint8, tile=(256, 256), photometric="rgb", compression="zlib"
    )
    assert path.stat().st_size < 1 << 20
    with open_pixels(path) as image:
        assert image.size == (40_000, 40_000)
        window = image.read(255, 255, 300, 300)
        assert window[:, 1:257, 1:257].eq(7).all() and int(window.ne(0).sum()) == 3 * 256 * 256
        assert not image.read(39_000, 39_000, 1000, 1000).any()


def test_uncompressed_tiff_is_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_pixels(write_tiff(tmp_path / "image.tif", picture(), **STRIPS)) as image:
        assert isinstance(image.samples, MappedSamples)
        assert isinstance(image.samples.values, np.memmap)


# ---- errors


def error_of(path: Path) -> str:
    """What is said of a file of which every window is read."""
    with pytest.raises(UserError) as caught, open_pixels(path) as image:
        for y in range(0, image.size[0], 64):
            for x in range(0, image.size[1], 64):
                image.read(x, y, min(64, image.size[0] - y), min(64, image.size[1] - x))
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "window", [(-1, 0, 5, 5), (0, 0, 5, WIDTH + 1), (0, HEIGHT, 1, 1), (3, 3, 0, 5), (0, 0, 5, -1)]
)
def test_windows_outside_are_refused(tmp_path: Path, window: tuple[int, int, int, int]) -> None:
    Image.fromarray(picture()).save(tmp_path / "a.png")
    with open_pixels(tmp_path / "a.png") as image, pytest.raises(UserError, match=r"a\.png: window .* not inside"):
        image.read(*window)


def complex_tiff(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((9, 9), np.complex64))


def bomb(path: Path, side: int = 60_000) -> None:
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("a.png", lambda path: None, "no such image file"),
        ("a.png", lambda path: path.mkdir(), "cannot be read | directory"),
        ("a.png", lambda path: path.write_bytes(b""), "not a readable image"),
        ("a.png", lambda path: path.write_text("hello"), "not a readable image"),
        ("a.tif", lambda path: path.write_bytes(b"II*\0"), "not a readable image"),
        ("a.tif", lambda path: path.write_bytes(b"II+\0\x08\0\0\0"), "not a readable image"),
        ("a.npy", lambda path: path.write_bytes(b"\x93NUMPY"), "not a readable image"),
        ("a.npy", lambda path: np.save(path, np.zeros((4, 5, 36), np.uint8)), "[4, 5, 36] | [H, W, channels]"),
        ("a.npy", lambda path: np.save(path, np.zeros((4,), np.uint8)), "[4] | [H, W, channels]"),
        ("a.npy", lambda path: np.save(path, np.zeros((4, 5))), "float64 | uint8, uint16 or float32"),
        ("a.npy", lambda path: np.save(path, np.zeros((0, 5), np.uint8)), "has no pixels"),
        ("a.npy", lambda path: np.save(path, np.array([[{}]], object), allow_pickle=True), "not a readable image"),
        ("a.tif", complex_tiff, "its data type is complex64 | save uint8, uint16 or float32"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, name: str, make: Callable[[Path], Any], words: str) -> None:
    make(tmp_path / name)
    error = error_of(tmp_path / name)
    assert all(word in error for word in words.split(" | ")), error


def test_pillows_own_limit_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    Image.fromarray(picture()).save(tmp_path / "a.png")
    with open_pixels(tmp_path / "a.png") as image:
        assert torch.equal(image.read(0, 0, HEIGHT, WIDTH), expected(picture()))
    assert Image.MAX_IMAGE_PIXELS == 1000


@pytest.mark.parametrize("side", [60_000, 12_000])
def test_a_file_that_claims_more_than_it_holds_is_rejected_before_it_is_decoded(tmp_path: Path, side: int) -> None:
    bomb(tmp_path / "a.png", side)
    assert (tmp_path / "a.png").stat().st_size < 100
    for limit in (1, 100_000):
        with (
            limit_megapixels(limit),
            pytest.raises(UserError, match=rf"a\.png: claims an absurd size \({side} x {side}"),
        ):
            open_pixels(tmp_path / "a.png")


def test_the_limit_holds_for_what_is_decoded_whole_and_not_for_windows(tmp_path: Path) -> None:
    values = np.zeros((1000, 1500), np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", values)
    np.save(tmp_path / "a.npy", values)
    with limit_megapixels(1):
        with pytest.raises(UserError, match=r"1500 x 1000 pixels; more than 1 megapixels.*--max_megapixels"):
            read_image(tmp_path / "a.png")
        for name in ("a.tif", "a.npy"):
            with open_pixels(tmp_path / name) as image:
                assert image.read(0, 0, 5, 5).shape == (3, 5, 5)
    with limit_megapixels(2):
        assert read_image(tmp_path / "a.png").shape == (3, 1000, 1500)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png: is not a regular file"):
        open_pixels(tmp_path / "a.png")


def test_large_tiff_that_needs_imagecodecs_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tif"
    Image.new("RGB", (1500, 1000)).save(path, compression="tiff_lzw")
    monkeypatch.setattr(tiff.importlib.util, "find_spec", lambda name: None)
    with limit_megapixels(1):
        error = error_of(path)
        assert "LZW" in error and "pip install imagecodecs" in error and "deflate" in error
        Image.new("P", (1500, 1000)).save(path)
        assert "gray or RGB with 8 or 16 bits" in error_of(path)


@pytest.mark.parametrize("name", ["rgb strips", "rgb tiles, deflate", "planes, strips, deflate", "bigtiff, tiles"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.97])
def test_truncated_tiff_is_said(tmp_path: Path, name: str, share: float) -> None:
    path = write_layout(tmp_path, name)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert "truncated" in error_of(path) or "not a readable image" in error_of(path)


MUTATED = ("rgb strips", "rgb tiles, deflate", "planes, tiles, deflate", "grey 16 bits, big-endian, deflate")


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[bytes]]:
    folder = tmp_path_factory.mktemp("mutated")
    files = [write_layout(folder, name).read_bytes() for name in MUTATED]
    np.save(folder / "a.npy", picture())
    Image.fromarray(picture()).save(folder / "a.png")
    return folder, [*files, (folder / "a.npy").read_bytes(), (folder / "a.png").read_bytes()]


@settings(max_examples=300)
@given(data=st.data())
def test_broken_bytes_give_pixels_or_one_line(whole_files: tuple[Path, list[bytes]], data: st.DataObject) -> None:
    folder, files = whole_files
    contents = bytearray(data.draw(st.sampled_from(files)))
    # The tables of TIFF and the headers of the others, where one byte changes the most, lie at the front.
    places = st.one_of(st.integers(8, 500), st.integers(8, len(contents) - 1))
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=4)):
        contents[place] = value
    path = folder / "broken"
    path.write_bytes(contents)
    try:
        with open_pixels(path) as image:
            height, width = image.size
            for x, y in ((0, 0), (width // 2, height // 2), (width - 1, height - 1)):
                image.read(x, y, min(9, height - y), min(9, width - x))
    except UserError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)


def test_nothing_is_logged_of_a_broken_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_layout(tmp_path, "rgb strips")
    contents = bytearray(path.read_bytes())
    contents[10:200] = bytes(190)
    path.write_bytes(contents)
    error_of(path)
    assert not caplog.records and not logging.getLogger("tifffile").disabled


def test_libtiff_writes_nothing_beside_the_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(picture()).save(path, compression="tiff_lzw")
    contents = bytearray(path.read_bytes())
    contents[20:2000] = bytes(1980)
    path.write_bytes(contents)
    error_of(path)
    os.write(2, b"all is as before")
    assert capfd.readouterr() == ("", "all is as before")


def test_tiffs_of_other_types_and_stacks_are_refused_by_name(tmp_path: Path) -> None:
    for pixels, message in (
        (np.zeros((20, 30, 3), np.complex64), "its data type is complex64; save uint8, uint16 or float32"),
        (np.zeros((4, 20, 30, 3), np.uint8), r"is a stack of shape \[4, 20, 30\] \(IYX\); choose with --select"),
    ):
        tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb")
        with pytest.raises(UserError, match=message):
            open_pixels(tmp_path / "a.tif")
