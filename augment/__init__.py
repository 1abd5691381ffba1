"""Changes of samples, image and objects moved as one: `transform(image, instances, generator)` gives both back.

Those of other libraries: `augment.ImgAug(…)`, `augment.TorchVision(…)` and `augment.Albumentations(…)`.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    # Not imported before they are asked for: settings are read without PyTorch.
    if name in ("Albumentations", "ImgAug", "TorchVision"):
        from augment.libraries import adapters

        return getattr(adapters, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
