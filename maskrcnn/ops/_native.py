"""Loads the native core: `torch.ops.maskrcnn.*`. Where it is missing the plain PyTorch definitions serve."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

import torch

from maskrcnn.ops import _registration

VERSION = 1  # of the operations' signatures; csrc/bind_cpu.cpp states it too
LIBRARIES = {"cpu": "_cpu", "cuda": "_cuda"}  # by device; that for the CPU defines the operations

F = TypeVar("F", bound=Callable[..., object])


def find_library(device: str) -> Path | None:
    """The library built for a device type, beside this file."""
    found = (Path(__file__).parent / (LIBRARIES[device] + suffix) for suffix in (".so", ".abi3.so", ".pyd"))
    return next((path for path in found if path.exists()), None)


def load() -> frozenset[str]:
    """Device types whose kernels are loaded; warns once where there is none for the CPU."""
    path, way_out = find_library("cpu"), "run `pip install -e .` with a C++ compiler to build it"
    if path is None:
        warnings.warn(f"the native core is not built, plain PyTorch serves, slower: {way_out}", stacklevel=2)
        return frozenset()
    torch.ops.load_library(path)
    if torch.ops.maskrcnn.version() != VERSION:
        warnings.warn(f"the native core in {path} is of another version and not used: {way_out}", stacklevel=2)
        return frozenset()
    _registration.register()
    cuda = find_library("cuda")
    if cuda is None or not torch.cuda.is_available():
        return frozenset({"cpu"})
    torch.ops.load_library(cuda)
    return frozenset(LIBRARIES)


LOADED = load()


def native(definition: F, device: torch.device) -> F:
    """The native operation of the definition's name and signature, or the definition where there is none."""
    if device.type not in LOADED:
        return definition
    return cast(F, getattr(torch.ops.maskrcnn, definition.__name__))
