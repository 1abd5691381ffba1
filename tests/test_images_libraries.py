"""Formats that need a library: compressed TIFF (imagecodecs), OME-Zarr (zarr), files of microscopes (bioio)."""

from __future__ import annotations

import builtins
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from maskrcnn.config import UserError
from maskrcnn.images.formats import microscopy
from maskrcnn.images.large import open_pixels
from maskrcnn.images.options import ImageOptions, use_image_options
from maskrcnn.images.reading import read_image
from maskrcnn.images.selection import parse_selection
from maskrcnn.inference.image_list import list_images

SIZE = (70, 90)
VALUES = np.random.default_rng(0).integers(0, 4096, (2, 3, 2, *SIZE)).astype(np.uint16)  # TZCYX


def read(path: Path, select: str = "") -> Any:
    with use_image_options(ImageOptions(selection=parse_selection(select))):
        whole = read_image(path)
        with open_pixels(path) as image:
            assert image.is_by_window
            np.testing.assert_array_equal(image.read(11, 7, 40, 50).numpy(), whole[:, 7:47, 11:61].numpy())
    return whole.numpy()


# ---- TIFF by imagecodecs


@pytest.mark.parametrize("compression", ["lzw", "zstd", "packbits", "lerc", "jpeg2000"])
@pytest.mark.parametrize("layout", [{"tile": (32, 32)}, {"rowsperstrip": 9}])
def test_lossless_compressions_of_16_bits(tmp_path: Path, compression: str, layout: dict[str, Any]) -> None:
    pytest.importorskip("imagecodecs")
    level = {"level": 0} if compression == "jpeg2000" else None
    values = VALUES[0, 0, 0]
    tifffile.imwrite(tmp_path / "a.tif", values, compression=compression, compressionargs=level, **layout)
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), np.stack([values] * 3))


def test_stacks_with_lzw(tmp_path: Path) -> None:
    pytest.importorskip("imagecodecs")
    how = {"compression": "lzw", "predictor": 2, "ome": True, "metadata": {"axes": "TZCYX"}}
    tifffile.imwrite(tmp_path / "a.tif", VALUES, photometric="minisblack", **how)
    np.testing.assert_array_equal(read(tmp_path / "a.tif", "z=max t=1"), VALUES[1].max(axis=0))


@pytest.mark.parametrize("writer", ["tifffile", "pillow"])
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_in_tiff(tmp_path: Path, writer: str, channels: int) -> None:
    pytest.importorskip("imagecodecs")
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    smooth = np.stack([y * 3, x * 2, y + x], axis=-1).astype(np.uint8)
    values = smooth if channels == 3 else smooth[..., 0]
    if writer == "pillow":
        Image.fromarray(values).save(tmp_path / "a.tif", compression="jpeg", quality=95)
    else:
        kind = "rgb" if channels == 3 else "minisblack"
        tifffile.imwrite(tmp_path / "a.tif", values, photometric=kind, compression="jpeg", tile=(32, 32))
    found = read(tmp_path / "a.tif").transpose(1, 2, 0)
    expected = values if channels == 3 else np.stack([values] * 3, axis=-1)
    assert np.abs(found.astype(int) - expected).mean() < 3


def test_jpeg_2000_colors_of_16_bits_are_refused(tmp_path: Path) -> None:
    """Pillow would read the upper 8 bits."""
    imagecodecs = pytest.importorskip("imagecodecs")
    colors = np.stack([VALUES[0, 0, 0]] * 3, axis=-1) * 16
    (tmp_path / "a.jp2").write_bytes(imagecodecs.jpeg2k_encode(colors, level=0))
    with pytest.raises(UserError, match=r"a\.jp2: has colors of more than 8 bits, of which only 8 would be read"):
        read_image(tmp_path / "a.jp2")


# ---- OME-Zarr


def write_zarr(path: Path, version: str, values: np.ndarray, axes: str, path_of_level: str = "0") -> Path:
    """A group as ome-zarr-py and napari write it, with two levels."""
    zarr = pytest.importorskip("zarr")
    group = zarr.create_group(path, zarr_format=2 if version == "0.4" else 3)
    for level, array in enumerate((values, values[..., ::2, ::2])):
        chunks = (*(1,) * (array.ndim - 2), 32, 32)
        group.create_array(str(level), shape=array.shape, dtype=array.dtype, chunks=chunks)[:] = array
    kinds = {"t": "time", "c": "channel"}
    described = [{"name": axis, "type": kinds.get(axis, "space")} for axis in axes]
    for each in described:
        if each["type"] == "space":
            each["unit"] = "micrometer"
    scale = [{"t": 1.0, "c": 1.0, "z": 2.0, "y": 0.5, "x": 0.25}[axis] for axis in axes]
    levels = [
        {"path": name, "coordinateTransformations": [{"type": "scale", "scale": scale}]}
        for name in (path_of_level, "1")
    ]
    attributes = {
        "multiscales": [{"axes": described, "datasets": levels, "version": version}],
        "omero": {"channels": [{"label": "DAPI"}, {"label": "GFP"}]},
    }
    group.attrs.update(attributes if version == "0.4" else {"ome": attributes})
    return path


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr(tmp_path: Path, version: str) -> None:
    path = write_zarr(tmp_path / "a.zarr", version, VALUES, "tczyx".replace("cz", "zc"))
    np.testing.assert_array_equal(read(path, "z=max t=1"), VALUES[1].max(axis=0))
    np.testing.assert_array_equal(read(path, "c=1 z=0 t=0")[0], VALUES[0, 0, 1])
    with use_image_options(ImageOptions(selection=parse_selection("z=0 t=0"))), open_pixels(path) as image:
        assert image.metadata.pixel_size == (0.5, 0.25) and image.metadata.channel_names == ("DAPI", "GFP")
    with pytest.raises(UserError, match=r"a\.zarr: is a stack of shape \[2, 3, 2, 70, 90\] \(TZCYX\); choose with"):
        read_image(path)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64", "int32"])
def test_ome_zarr_of_two_and_three_dimensions(tmp_path: Path, dtype: str) -> None:
    values = VALUES[0, 0].astype(dtype) if dtype != "uint8" else (VALUES[0, 0] >> 4).astype(dtype)
    np.testing.assert_array_equal(read(write_zarr(tmp_path / "cyx.zarr", "0.5", values, "cyx")), values)
    flat = read(write_zarr(tmp_path / "yx.zarr", "0.4", values[0], "yx"))
    np.testing.assert_array_equal(flat, np.stack([values[0]] * 3))


def test_zarr_folders_are_images_of_a_folder(tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "a.zarr", "0.5", VALUES[0, 0], "cyx")
    (tmp_path / "b.zarr").mkdir()
    tifffile.imwrite(tmp_path / "c.tif", VALUES[0, 0, 0])
    assert list_images(tmp_path) == [path, tmp_path / "c.tif"] and list_images(path) == [path]


def test_levels_outside_the_folder_and_groups_without_an_image(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    path = write_zarr(tmp_path / "a.zarr", "0.5", VALUES[0, 0], "cyx", path_of_level="../b.zarr/0")
    shutil.copytree(path, tmp_path / "b.zarr")
    with pytest.raises(UserError, match="outside the folder"):
        read_image(path)
    plate = zarr.create_group(tmp_path / "plate.zarr")
    plate.create_group("A1")
    with pytest.raises(UserError, match=r"is no OME-Zarr image .*; name an image in it: A1"):
        read_image(tmp_path / "plate.zarr")


# ---- microscopes


def test_bioio_reads_what_it_can_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CZI, ND2 and LIF cannot be written here; the way through bioio is tried on OME-TIFF."""
    pytest.importorskip("bioio")
    pytest.importorskip("bioio_ome_tiff")
    monkeypatch.setattr(microscopy, "SUFFIXES", (".tiff",))
    metadata = {"axes": "TZCYX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5, "Channel": {"Name": ["DAPI", "GFP"]}}
    path = tmp_path / "a.ome.tiff"
    tifffile.imwrite(path, VALUES, ome=True, photometric="minisblack", metadata=metadata)
    np.testing.assert_array_equal(read(path, "z=max t=1"), VALUES[1].max(axis=0))
    np.testing.assert_array_equal(read(path, "c=1 z=2 t=0")[0], VALUES[0, 2, 1])
    with use_image_options(ImageOptions(selection=parse_selection("z=0 t=0"))), open_pixels(path) as image:
        assert image.metadata.pixel_size == (0.5, 0.25) and image.metadata.channel_names == ("DAPI", "GFP")


# ---- without the libraries


@pytest.mark.parametrize(
    ("name", "library", "words"),
    [
        (
            "a.czi",
            "bioio",
            "needs the library bioio and its plug-in: pip install bioio bioio-czi, bioio-nd2, bioio-lif",
        ),
        ("a.zarr", "zarr", "OME-Zarr needs the library zarr: pip install zarr"),
    ],
)
def test_a_missing_library_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, library: str, words: str
) -> None:
    original = builtins.__import__

    def without(wanted: str, *arguments: Any, **options: Any) -> Any:
        if wanted.partition(".")[0] == library:
            raise ImportError(wanted)
        return original(wanted, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    path = tmp_path / name
    if name.endswith("zarr"):
        path.mkdir()
        (path / "zarr.json").write_text("{}")
    else:
        path.write_bytes(b"ZISRAWFILE")
    with pytest.raises(UserError) as caught:
        read_image(path)
    assert str(caught.value) == f"{path}: {words}"
