"""Augmentation of training samples: `transform(image, instances, generator)` returns a changed image and its objects.

Augmenters of other libraries are wrapped by `augment.ImgAug(…)`, `augment.TorchVision(…)`, and
`augment.Albumentations(…)`.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    # Imported lazily, so that options can be read without importing PyTorch.
    if name in ("Albumentations", "ImgAug", "TorchVision"):
        from augment.libraries import adapters

        return getattr(adapters, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
