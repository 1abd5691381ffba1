"""Detection of small objects: RPN, Faster R-CNN and Mask R-CNN on one core.

>>> import maskrcnn
>>> model = maskrcnn.load("runs/ellipses-mask_rcnn-1")
>>> found = model.predict("image.tif")

The names of `__all__` are imported when they are first used, so that `import maskrcnn` takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maskrcnn.evaluation.summary import evaluate as evaluate
    from maskrcnn.inference.loading import load as load
    from maskrcnn.inference.predictor import Predictor as Predictor
    from maskrcnn.model.config import DetectorConfig as DetectorConfig
    from maskrcnn.model.detector import Detector as Detector
    from maskrcnn.structures.instances import Instances as Instances
    from maskrcnn.structures.masks import CroppedMasks as CroppedMasks

_MODULES = {
    "load": "maskrcnn.inference.loading",
    "Predictor": "maskrcnn.inference.predictor",
    "Detector": "maskrcnn.model.detector",
    "DetectorConfig": "maskrcnn.model.config",
    "Instances": "maskrcnn.structures.instances",
    "CroppedMasks": "maskrcnn.structures.masks",
    "evaluate": "maskrcnn.evaluation.summary",
}
__all__ = ["CroppedMasks", "Detector", "DetectorConfig", "Instances", "Predictor", "evaluate", "load"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'maskrcnn' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
