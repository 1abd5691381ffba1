"""Inference: test-time augmentation, tiles, merging of detections, and trained detectors from files."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maskrcnn.inference.torchvision import as_torchvision as as_torchvision

__all__ = ["as_torchvision"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'maskrcnn.inference' has no attribute {name!r}")
    return getattr(import_module("maskrcnn.inference.torchvision"), name)
