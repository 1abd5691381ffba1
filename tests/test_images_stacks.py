"""Stacks: the axes of ImageJ, OME-TIFF and plain pages, and what `--select` makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from programs_toy import fail, succeed

from examples.check_data import main as check_data
from examples.convert import main as convert
from maskrcnn.config import UserError
from maskrcnn.images.large import open_pixels
from maskrcnn.images.options import ImageOptions, use_image_options
from maskrcnn.images.reading import read_image
from maskrcnn.images.selection import Selection, Stack, parse_selection

SIZE = (37, 53)
T, Z, C = 2, 4, 3
VALUES = np.random.default_rng(0).integers(0, 4096, (T, Z, C, *SIZE)).astype(np.uint16)

# name: (how tifffile writes it, its axes)
WRITERS: dict[str, dict[str, Any]] = {
    "imagej": {"imagej": True, "metadata": {"axes": "TZCYX"}},
    "ome": {"ome": True, "metadata": {"axes": "TZCYX"}},
    "ome-deflate-tiles": {"ome": True, "metadata": {"axes": "TZCYX"}, "compression": "zlib", "tile": (16, 32)},
    "ome-big-endian": {"ome": True, "metadata": {"axes": "TZCYX"}, "byteorder": ">"},
    "bigtiff-deflate-strips": {
        "ome": True,
        "metadata": {"axes": "TZCYX"},
        "bigtiff": True,
        "compression": "zlib",
        "rowsperstrip": 7,
        "predictor": 2,
    },
}


def write(path: Path, values: NDArray[Any], how: dict[str, Any]) -> Path:
    tifffile.imwrite(path, values, photometric="minisblack", **how)
    return path


def read(path: Path, select: str, **options: Any) -> NDArray[Any]:
    with use_image_options(ImageOptions(selection=parse_selection(select), **options)):
        return read_image(path).numpy()


def expect(select: str) -> NDArray[Any]:
    """Known answer by NumPy."""
    selection, values = parse_selection(select), VALUES.astype(np.float64)
    for axis in (1, 0):  # z, then t
        how = selection.planes["tz"[axis]]
        values = (
            np.take(values, [how], axis) if isinstance(how, int) else getattr(values, how)(axis=axis, keepdims=True)
        )
        values = np.rint(values)
    channels = values[0, 0]
    return channels if selection.channels is None else channels[list(selection.channels)]


@pytest.mark.parametrize("select", ["z=0 t=1", "z=max t=0", "c=2,0 z=mean t=1", "z=max t=mean", "c=1,2 z=3 t=max"])
@pytest.mark.parametrize("writer", WRITERS)
def test_the_selected_planes_are_read_whole_and_by_window(tmp_path: Path, writer: str, select: str) -> None:
    path, expected = write(tmp_path / "a.tif", VALUES, WRITERS[writer]), expect(select)
    found = read(path, select)
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, expected)
    with use_image_options(ImageOptions(selection=parse_selection(select))), open_pixels(path) as image:
        assert image.is_by_window and image.shape == expected.shape
        np.testing.assert_array_equal(image.read(7, 5, 20, 30).numpy(), expected[:, 5:25, 7:37])


@pytest.mark.parametrize("writer", WRITERS)
def test_one_selected_channel_is_gray(tmp_path: Path, writer: str) -> None:
    path = write(tmp_path / "a.tif", VALUES, WRITERS[writer])
    found = read(path, "c=1 z=0 t=0")
    np.testing.assert_array_equal(found, np.stack([VALUES[0, 0, 1]] * 3))
    np.testing.assert_array_equal(read(path, "c=1 z=0 t=0", channels=1), VALUES[0, 0, 1:2])


@pytest.mark.parametrize("how", [{"imagej": True}, {"ome": True}])
def test_the_most_common_files_of_microscopes(tmp_path: Path, how: dict[str, Any]) -> None:
    """CYX is read as it is; ZYX needs a selection."""
    path = write(tmp_path / "cyx.tif", VALUES[0, 0], {**how, "metadata": {"axes": "CYX"}})
    np.testing.assert_array_equal(read(path, ""), VALUES[0, 0])
    path = write(tmp_path / "zyx.tif", VALUES[0, :, 0], {**how, "metadata": {"axes": "ZYX"}})
    np.testing.assert_array_equal(read(path, "z=max")[0], VALUES[0, :, 0].max(axis=0))
    with pytest.raises(UserError) as caught:
        read(path, "")
    shape = 'is a stack of shape [4, 37, 53] (ZYX); choose with --select "z=max", "z=mean" or "z=0"'
    assert str(caught.value) == f'{path}: {shape} (in Python, load(..., select="z=max"))'


def test_pages_without_a_name_are_what_the_selection_says(tmp_path: Path) -> None:
    path = write(tmp_path / "pages.tif", VALUES[0, :, 0], {})
    np.testing.assert_array_equal(read(path, "z=mean")[0], np.rint(VALUES[0, :, 0].mean(axis=0)))
    np.testing.assert_array_equal(read(path, "t=3")[0], VALUES[0, 3, 0])
    np.testing.assert_array_equal(read(path, "c=3,1"), VALUES[0, [3, 1], 0])
    with pytest.raises(
        UserError, match=r'stack of shape \[4, 37, 53\] \(IYX\); choose .*"c=0,1" if the pages are chann'
    ):
        read(path, "")


def test_pages_of_colors(tmp_path: Path) -> None:
    colors = np.random.default_rng(1).integers(0, 256, (4, *SIZE, 3)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", colors, photometric="rgb")
    np.testing.assert_array_equal(read(tmp_path / "a.tif", "z=max"), colors.max(axis=0).transpose(2, 0, 1))
    np.testing.assert_array_equal(read(tmp_path / "a.tif", "z=1 c=2,0"), colors[1].transpose(2, 0, 1)[[2, 0]])


def test_float_stacks_and_their_mean_stay_float(tmp_path: Path) -> None:
    values = np.random.default_rng(2).normal(0, 100, (4, *SIZE)).astype(np.float32)
    path = write(tmp_path / "a.tif", values, {"imagej": True, "metadata": {"axes": "ZYX"}})
    found = read(path, "z=mean")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0], values.mean(axis=0), rtol=1e-5, atol=1e-4)


def test_channels_are_selected_in_flat_files(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", VALUES[0, 0].transpose(1, 2, 0))
    np.testing.assert_array_equal(read(tmp_path / "a.npy", "c=2,1 z=max t=0"), VALUES[0, 0, [2, 1]])


@pytest.mark.parametrize(
    ("select", "words"),
    [
        ("z=4 t=0", "--select z=4: it has 4 planes, numbered from 0"),
        ("z=0 t=2", "--select t=2: it has 2 time points, numbered from 0"),
        ("z=0 t=0 c=3", "--select c=3: it has 3 channels, numbered from 0"),
        ("z=0", 'choose with --select "t=max", "t=mean" or "t=0"'),
        ("c=0", "stack of shape [2, 4, 3, 37, 53] (TZCYX)"),
    ],
)
def test_what_cannot_be_selected_is_named(tmp_path: Path, select: str, words: str) -> None:
    path = write(tmp_path / "a.tif", VALUES, WRITERS["imagej"])
    with pytest.raises(UserError) as caught:
        read(path, select)
    assert words in str(caught.value) and str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_planes_of_a_flat_image(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", VALUES[0, 0, 0])
    assert read(tmp_path / "a.npy", "z=mean t=0").shape == (3, *SIZE)
    with pytest.raises(UserError, match=r"a.npy: --select z=1: it has one plane$"):
        read(tmp_path / "a.npy", "z=1")
    with pytest.raises(UserError, match=r"a.npy: --select c=1: it has one channel$"):
        read(tmp_path / "a.npy", "c=1")


@pytest.mark.parametrize("text", ["z", "z=", "z=min", "z=-1", "c=max", "c=0,", "q=1", "z=1 z=2", "z=1,t=2", "c=0 c=1"])
def test_selections_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--select=.*cannot read .*as in \"c=0,1 z=max t=0\""):
        parse_selection(text)


@given(
    st.permutations("tzc"),
    st.lists(st.integers(2, 4), min_size=3, max_size=3),
    st.integers(0, 1),
    st.sampled_from([0, 1, "max"]),
)
def test_planes_of_any_order_of_axes(axes: list[str], lengths: list[int], t: int, z: int | str) -> None:
    stack = Stack("".join(axes), tuple(lengths), Selection(None, {"t": t, "z": z}), "a")
    numbers = np.arange(np.prod(lengths)).reshape(lengths)
    moved = numbers.transpose([axes.index(axis) for axis in "ctz"])
    for channel, planes in zip(moved, stack.find_planes(), strict=True):
        assert planes.tolist() == channel[t : t + 1, slice(None) if z == "max" else slice(int(z), int(z) + 1)].tolist()


def test_only_the_selected_planes_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from maskrcnn.images.formats import tiff

    opened: list[int] = []
    whole = tiff._open_plane

    def counted(*arguments: Any) -> Any:
        opened.append(arguments[-1])
        return whole(*arguments)

    monkeypatch.setattr(tiff, "_open_plane", counted)
    path = write(tmp_path / "a.tif", VALUES, WRITERS["ome-deflate-tiles"])
    read(path, "c=2 z=1 t=1")
    assert set(opened) == {1 * Z * C + 1 * C + 2}


def test_other_files_that_ome_names_are_not_opened(tmp_path: Path) -> None:
    """OME-TIFF may store its planes in several files; only the one that is named is read."""
    inside = tmp_path / "inside"
    inside.mkdir()
    tifffile.imwrite(tmp_path / "b.ome.tif", VALUES[0, :2, 0], ome=True, metadata={"axes": "ZYX"})
    xml = tifffile.TiffFile(tmp_path / "b.ome.tif").ome_metadata
    assert xml is not None
    named = xml.replace('<TiffData IFD="0"', '<TiffData FirstZ="0" IFD="0"')
    tifffile.imwrite(inside / "a.ome.tif", VALUES[0, 0, 0], description=named, metadata=None)
    try:
        read(inside / "a.ome.tif", "z=max")
    except UserError as error:
        assert "\n" not in str(error)


def test_programs_convert_and_check_the_selected_planes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    labels = np.zeros(SIZE, np.uint8)
    labels[5:20, 5:20] = 1
    for kind in ("images", "masks"):
        (tmp_path / "data" / kind).mkdir(parents=True)
    for number in range(4):
        write(tmp_path / f"data/images/{number}.tif", VALUES, WRITERS["ome"])
        tifffile.imwrite(tmp_path / f"data/masks/{number}.tif", labels)
    assert "is a stack of shape" in fail(convert, "data", "--to=coco", "--output=a")
    succeed(convert, "data", "--to=coco", "--output=a", "--select=c=1 z=max t=0")
    written = next((tmp_path / "a").rglob("*.png"))  # one channel of 16 bits
    np.testing.assert_array_equal(read_image(written)[0].numpy(), VALUES[0, :, 1].max(axis=0))
    assert "4 problems" in fail(check_data, "data", "--dataset=labels")
    succeed(check_data, "data", "--dataset=labels", "--select=z=0 t=0")
