"""Access to the generator's native kernels; without them, the slower NumPy reference is used.

The library is loaded with ctypes, because the processes that write images start without PyTorch. Types and shapes are
checked here, and the contents of windows and offsets in the kernels, so that no argument can make a kernel access
memory outside its arrays.
"""

import ctypes
import itertools
import multiprocessing
import warnings
from collections.abc import Callable
from ctypes import POINTER, c_int64, c_void_p
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from datasets.synthetic.reference import RING
from datasets.synthetic.shapes import Floats, Ints, ShapeCoverage, Shapes

VERSION = 1  # of the signatures, as in csrc/bind_scenes.cpp

F = TypeVar("F", bound=Callable[..., Any])


class _Shapes(ctypes.Structure):
    """As in csrc/scenes/drawing.h."""

    _fields_ = [
        *((name, c_void_p) for name in ("centres", "semi_axes", "directions", "half_heights", "edges", "first_edges")),
        *((name, c_int64) for name in ("count", "num_edges")),
    ]


class _Coverage(ctypes.Structure):
    """As in csrc/scenes/painting.h."""

    _fields_ = [
        *((name, c_void_p) for name in ("windows", "offsets", "levels")),
        *((name, c_int64) for name in ("count", "num_levels", "height", "width")),
    ]


_ARGUMENTS: dict[str, list[Any]] = {
    "fill_windows": [POINTER(_Shapes), c_void_p, c_int64, c_void_p, c_int64, c_void_p, c_void_p],
    "paint_uint16": [POINTER(_Coverage), c_void_p, c_void_p, c_void_p, c_void_p],
    "paint_uint32": [POINTER(_Coverage), c_void_p, c_void_p, c_void_p, c_void_p],
    "measure_levels": [POINTER(_Coverage), c_void_p],
    "measure_pixels": [POINTER(_Coverage), c_void_p, c_void_p, c_void_p, c_int64, c_int64, c_void_p, c_void_p],
    "find_boxes": [c_void_p, c_int64, c_int64, c_void_p, c_void_p, c_int64],
    "encode_labels": [c_void_p, c_int64, c_int64, c_void_p, c_int64, c_void_p, c_int64, c_void_p, c_int64, c_void_p],
}


def find_library() -> Path | None:
    """Return the path of the library next to this file, if it exists."""
    candidates = (Path(__file__).parent / f"_scenes{suffix}" for suffix in (".so", ".abi3.so", ".pyd"))
    return next((path for path in candidates if path.exists()), None)


def load_library() -> ctypes.CDLL | None:
    """Load the kernels; if that fails, warn once and return None."""
    path = find_library()
    problem = "are not built"
    if path is not None:
        try:
            library = ctypes.CDLL(str(path))
            if library.scenes_version() == VERSION:
                for name, arguments in _ARGUMENTS.items():
                    getattr(library, name).argtypes = arguments
                    getattr(library, name).restype = c_int64
                return library
            problem = "are of another version"
        except (OSError, AttributeError) as error:
            problem = f"cannot be loaded ({error})"
    if multiprocessing.parent_process() is None:  # only once, not in every worker process
        hint = "run `pip install -e .` with a C++ compiler to build them"
        warnings.warn(f"the generator's kernels {problem}; using slower NumPy code: {hint}", stacklevel=2)
    return None


LIBRARY = load_library()


def native(definition: F) -> F:
    """Return the kernel with the name and signature of a reference function, or the reference if there is no kernel."""
    return definition if LIBRARY is None else cast(F, _KERNELS[definition.__name__])


def _fill_windows(shapes: Shapes, half_heights: Floats, windows: NDArray[np.int32]) -> tuple[NDArray[np.uint8], Floats]:
    count, (edges, owner) = len(shapes), shapes.edges()
    placed = (shapes.centers, shapes.semi_axes, shapes.directions, half_heights)
    centers, semi_axes, directions, half_heights = (np.ascontiguousarray(each, np.float64) for each in placed)
    first_edges = np.searchsorted(owner, np.arange(count + 1))
    areas = (windows[:, 2:].astype(np.int64) - windows[:, :2]).prod(axis=1)
    scratch = np.empty(int(areas.max(initial=0)) + 2, np.int32)
    levels, sizes = np.empty(int(areas.sum()), np.uint8), np.empty(count)
    drawn = _Shapes(
        _address(centers, np.float64, count, 2),
        _address(semi_axes, np.float64, count, 2),
        _address(directions, np.float64, count, 2),
        _address(half_heights, np.float64, count),
        _address(edges, np.float64, len(owner), 4),
        _address(first_edges, np.int64, count + 1),
        count,
        len(edges),
    )
    into = scratch.ctypes.data, len(scratch), levels.ctypes.data, sizes.ctypes.data
    _call("fill_windows", ctypes.byref(drawn), _address(windows, np.int32, count, 4), len(levels), *into)
    return levels, sizes


def _paint(
    canvas: NDArray[Any],
    labels: NDArray[np.uint16],
    coverage: ShapeCoverage,
    colors: NDArray[Any],
    numbers: NDArray[np.uint16],
) -> None:
    (height, width), count = labels.shape, len(coverage.windows)
    if canvas.dtype not in (np.uint16, np.uint32):
        raise ValueError(f"expected a canvas of uint16 or uint32, got {canvas.dtype}")
    _call(
        f"paint_{canvas.dtype.name}",
        _pass_coverage(coverage, height, width),
        _address(colors, canvas.dtype, count, 3),
        _address(numbers, np.uint16, count),
        _address(canvas, canvas.dtype, height, width, 3),
        _address(labels, np.uint16, height, width),
    )


def _measure_levels(coverage: ShapeCoverage) -> Floats:
    result = np.empty((len(coverage.windows), 6))
    anywhere = np.iinfo(np.int32).max
    _call("measure_levels", _pass_coverage(coverage, anywhere, anywhere), result.ctypes.data)
    return result


def _measure_pixels(image: NDArray[np.uint8], labels: NDArray[np.uint16], coverage: ShapeCoverage, which: Ints) -> Ints:
    height, width = labels.shape
    visited, result = np.zeros((height, width), np.uint8), np.empty((len(which), 9), np.int64)
    _call(
        "measure_pixels",
        _pass_coverage(coverage, height, width),
        _address(image, np.uint8, height, width, 3),
        _address(labels, np.uint16, height, width),
        _address(which, np.int64, len(which)),
        len(which),
        RING,
        visited.ctypes.data,
        result.ctypes.data,
    )
    return result


def _describe_labels(labels: NDArray[np.uint16]) -> tuple[Ints, Ints, list[str]]:
    height, width = labels.shape
    image = _address(labels, np.uint16, height, width), height, width
    count = int(labels.max(initial=0)) + 1
    boxes, begins, ends = np.empty((count, 4), np.int32), np.empty(count, np.int64), np.empty(count, np.int64)
    num_runs = _call("find_boxes", *image, boxes.ctypes.data, begins.ctypes.data, count)
    numbers, runs = np.flatnonzero(boxes[:, 2]), np.empty((num_runs, 2), np.int64)
    # Two numbers per run and one for the rest of the canvas, with at most 7 characters each up to 2**34 pixels.
    text = np.empty(7 * (2 * num_runs + len(numbers)), np.uint8)
    places = begins.ctypes.data, count, runs.ctypes.data, num_runs
    length = _call("encode_labels", *image, *places, text.ctypes.data, len(text), ends.ctypes.data)
    letters, last = text[:length].tobytes().decode("ascii"), [0, *ends[numbers].tolist()]
    return numbers, boxes[numbers].astype(np.int64), [letters[a:b] for a, b in itertools.pairwise(last)]


_KERNELS: dict[str, Callable[..., Any]] = {
    "fill_windows": _fill_windows,
    "paint": _paint,
    "measure_levels": _measure_levels,
    "measure_pixels": _measure_pixels,
    "describe_labels": _describe_labels,
}


def _pass_coverage(coverage: ShapeCoverage, height: int, width: int) -> Any:
    """Make the C struct of a coverage on a canvas."""
    count, num_levels = len(coverage.windows), len(coverage.data)
    windows, offsets = _address(coverage.windows, np.int32, count, 4), _address(coverage.offsets, np.int64, count + 1)
    levels = _address(coverage.data, np.uint8, num_levels)
    return ctypes.byref(_Coverage(windows, offsets, levels, count, num_levels, height, width))


def _address(array: NDArray[Any], dtype: Any, *shape: int) -> int:
    """Return the address of an array's data after checking dtype, shape, and contiguity.

    Raises:
        ValueError: If the array is not as expected.
    """
    if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
        expected, candidates = f"{np.dtype(dtype)} {list(shape)}", f"{array.dtype} {list(array.shape)}"
        raise ValueError(f"expected a contiguous array of {expected}, got {candidates}, strides {array.strides}")
    return array.ctypes.data


def _call(name: str, *arguments: Any) -> int:
    result: int = getattr(LIBRARY, name)(*arguments)
    if result < 0:
        raise ValueError(f"{name}: the arrays are inconsistent")
    return result
