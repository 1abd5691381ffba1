"""Loads the native core: `torch.ops.maskrcnn.*`. Where it is missing the plain PyTorch definitions serve."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

import torch

from maskrcnn.ops import _registration

VERSION = 3  # of the operations' signatures; csrc/bind_cpu.cpp states it too
LIBRARIES = {"cpu": "_cpu", "cuda": "_cuda"}  # by device; that for the CPU defines the operations

WAY_OUT = "run `pip install -e .` with a C++ compiler to build it"

F = TypeVar("F", bound=Callable[..., object])


def find_library(device: str) -> Path | None:
    """The library built for a device type, beside this file."""
    found = (Path(__file__).parent / (LIBRARIES[device] + suffix) for suffix in (".so", ".abi3.so", ".pyd"))
    return next((path for path in found if path.exists()), None)


def load() -> frozenset[str]:
    """Device types whose kernels are loaded; warns once of what is missing."""
    problem = _load("cpu")
    if problem is None and torch.ops.maskrcnn.version() != VERSION:
        problem = "is of another version"
    if problem is not None:
        warnings.warn(f"the native core {problem}; plain PyTorch serves, slower: {WAY_OUT}", stacklevel=3)
        return frozenset()
    _registration.register()
    if not torch.cuda.is_available():
        return frozenset({"cpu"})
    problem = _load("cuda")
    if problem is not None:
        text = f"the native core for CUDA {problem}; plain PyTorch serves on GPUs, slower: {WAY_OUT}, nvcc on PATH"
        warnings.warn(text, stacklevel=3)
        return frozenset({"cpu"})
    return frozenset(LIBRARIES)


def _load(device: str) -> str | None:
    """What went wrong, if anything."""
    path = find_library(device)
    if path is None:
        return "is not built"
    try:
        torch.ops.load_library(path)
    except OSError as error:
        return f"cannot be loaded ({error})"
    return None


LOADED = load()


def native(definition: F, device: torch.device) -> F:
    """The native operation of the definition's name and signature, or the definition where there is none."""
    if device.type not in LOADED:
        return definition
    return cast(F, getattr(torch.ops.maskrcnn, definition.__name__))
