"""Pictures of noise as TIFF in many layouts, and what readers must make of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray

HEIGHT, WIDTH = 83, 121
TILED: dict[str, Any] = {"tile": (32, 16)}
STRIPS: dict[str, Any] = {"rowsperstrip": 7}


def picture(channels: int = 3, kind: str = "uint8", seed: int = 0) -> NDArray[Any]:
    """[H, W] or [H, W, channels] of noise in all bits."""
    shape = (HEIGHT, WIDTH) if channels == 1 else (HEIGHT, WIDTH, channels)
    high = np.iinfo(kind).max + 1
    return np.random.default_rng(seed).integers(0, high, shape).astype(kind)


def planes(values: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def expected(values: NDArray[Any]) -> torch.Tensor:
    """What whole decoding makes of an array [H, W] or [H, W, channels]."""
    values = values[:, :, None] if values.ndim == 2 else values
    color = values[:, :, : 1 if values.shape[2] < 3 else 3]
    color = color.astype(color.dtype.newbyteorder("="))
    return torch.from_numpy(np.broadcast_to(color, (*color.shape[:2], 3)).transpose(2, 0, 1).copy())


def deflate(**more: Any) -> dict[str, Any]:
    return {"compression": "zlib", **more}


# name: (values, what tifffile writes, how, whether Pillow reads the same)
LAYOUTS: dict[str, tuple[NDArray[Any], Callable[[NDArray[Any]], NDArray[Any]], dict[str, Any], bool]] = {
    "rgb strips": (picture(), np.copy, STRIPS, True),
    "rgb one strip": (picture(), np.copy, {}, True),
    "rgb tiles": (picture(), np.copy, TILED, True),
    "rgb tiles, deflate": (picture(), np.copy, deflate(**TILED), True),
    "rgb tiles, deflate, predictor": (picture(), np.copy, deflate(predictor=2, **TILED), True),
    "rgb strips, deflate": (picture(), np.copy, deflate(**STRIPS), True),
    "rgb one strip, deflate": (picture(), np.copy, deflate(), True),
    "rgb tiles, lzma": (picture(), np.copy, {"compression": "lzma", **TILED}, False),
    "rgba tiles": (picture(4), np.copy, {"extrasamples": ["unassalpha"], **TILED}, True),
    "rgba without a word about alpha": (picture(4), np.copy, {"extrasamples": ["unspecified"], **TILED}, True),
    "grey strips": (picture(1), np.copy, STRIPS, True),
    "grey tiles, deflate": (picture(1), np.copy, deflate(**TILED), True),
    "grey and alpha": (picture(2), np.copy, {"extrasamples": ["unassalpha"], "planarconfig": "contig"}, True),
    "grey 16 bits": (picture(1, "uint16"), np.copy, STRIPS, True),
    "grey 16 bits, tiles, deflate": (picture(1, "uint16"), np.copy, deflate(predictor=2, **TILED), True),
    "grey 16 bits, big-endian": (picture(1, "uint16"), np.copy, {"byteorder": ">"}, True),
    "grey 16 bits, big-endian, deflate": (picture(1, "uint16"), np.copy, deflate(byteorder=">", **TILED), True),
    "grey 16 bits that need 8": (picture(1, "uint16") % 256, np.copy, deflate(**TILED), True),
    "rgb 16 bits": (picture(3, "uint16"), np.copy, TILED, True),
    "planes": (picture(), planes, {"planarconfig": "separate"}, True),
    "planes, tiles, deflate": (picture(), planes, deflate(planarconfig="separate", **TILED), True),
    "planes, strips, deflate": (picture(), planes, deflate(planarconfig="separate", **STRIPS), True),
    "planes, 16 bits, alpha": (
        picture(4, "uint16"),
        planes,
        deflate(planarconfig="separate", extrasamples=["unassalpha"], **TILED),
        False,
    ),
    "bigtiff, tiles": (picture(), np.copy, {"bigtiff": True, **TILED}, True),
    "bigtiff, strips, deflate": (picture(), np.copy, deflate(bigtiff=True, **STRIPS), True),
    "bigtiff, big-endian": (picture(1, "uint16"), np.copy, {"bigtiff": True, "byteorder": ">"}, False),
}


def write_tiff(path: Path, values: NDArray[Any], **how: Any) -> Path:
    """An image by tifffile, grey or RGB."""
    colour = values.ndim == 3 and (3 in (values.shape[0], values.shape[2]) or 4 in (values.shape[0], values.shape[2]))
    tifffile.imwrite(path, values, photometric="rgb" if colour else "minisblack", **how)
    return path


def write_layout(folder: Path, name: str) -> Path:
    values, arrange, how, _ = LAYOUTS[name]
    return write_tiff(folder / "image.tif", arrange(values), **how)
