"""Custom data sets: a user's class, imported by name, whose samples are validated."""

import inspect
import operator
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from datasets.checks import Tally, TallyByImage, clip_boxes, format_size
from datasets.readers.splitting import SPLITS, MissingSplit, check_split
from maskrcnn.config import UserError
from maskrcnn.extensions import describe_error, import_class
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.pixels import is_channels_first

_DTYPES = (torch.uint8, torch.uint16, torch.float32)
_REQUIRED = ("class_names", "__len__", "__getitem__")


def open_custom(name: str, root: str | Path, split: str) -> "CustomDataset":
    """Open a custom data set as `MyData(root, split)`.

    The attribute `splits` of the class lists its splits, by default "train" and "test".

    Args:
        name: my_module:MyData, where my_module may be in the working directory.
        root: folder of the data set.
        split: "train", "val" or "test".

    Raises:
        UserError: If importing or opening the data set fails.
        MissingSplit: If the class does not have this split.
    """
    check_split(split)
    found = _find_class(name)
    own = _to_strings(name, "splits", getattr(found, "splits", ("train", "test")))
    if strange := [each for each in own if each not in SPLITS]:
        raise UserError(f"{name}: splits names {strange[0]!r}; use some of {', '.join(SPLITS)}")
    if split not in own:
        raise MissingSplit(f"{name}: its splits are {', '.join(own)}; there is no '{split}'")
    return CustomDataset(name, _call(f"{name}({str(root)!r}, {split!r})", found, str(root), split))


class CustomDataset:
    """A user's data set with validated samples and defaults for optional attributes.

    The data set must have `class_names`, a length, and items (image, `Instances`) or (image, target dict as for
    torchvision's detectors). Optional are `has_masks` (default true), `category_ids` (default 1 to K), `image_ids`,
    `image_names`, `counts` and the ids of the instances. Boxes that exceed the image are clipped, those outside are
    dropped; both are counted.
    """

    def __init__(self, name: str, data: Any, advice: str = "check --dataset_root and the split") -> None:
        """Validate a data set.

        Args:
            name: its name in errors.
            data: the user's data set.
            advice: what to do if it is empty.

        Raises:
            UserError: If an attribute is missing or invalid, or there are no images.
        """
        self._name, self._data = name, data
        missing = [each for each in _REQUIRED if not hasattr(data, each)]
        if missing:
            raise UserError(f"{name}: has no {', '.join(missing)}; a data set needs {', '.join(_REQUIRED)}")
        count = _call(f"len({name})", len, data)
        if not count:
            raise UserError(f"{name}: has no images; {advice}")
        self.class_names = _to_strings(name, "class_names", data.class_names)
        if not self.class_names or len(set(self.class_names)) < len(self.class_names):
            raise UserError(
                f"{name}: class_names is '{', '.join(self.class_names)}'; it must be one or more unique names"
            )
        self.category_ids = numbers = tuple(
            _to_integers(getattr(data, "category_ids", range(1, len(self.class_names) + 1)))
        )
        if len(set(numbers)) < len(numbers) or len(numbers) != len(self.class_names):
            raise UserError(f"{name}: category_ids must be {len(self.class_names)} unique integers, one per class")
        self.has_masks = bool(getattr(data, "has_masks", True))
        self.image_ids = ids = _to_integers(getattr(data, "image_ids", range(count)))
        if len(set(ids)) < len(ids) or len(ids) != count:
            raise UserError(f"{name}: image_ids must be {count} unique integers, one per image")
        self.image_names = list(
            _to_strings(name, "image_names", getattr(data, "image_names", [str(each) for each in ids]))
        )
        if len(self.image_names) != count:
            raise UserError(f"{name}: has {count} images but {len(self.image_names)} image_names")
        self._tallies = TallyByImage(count)

    @property
    def counts(self) -> Mapping[str, int]:
        """Number of dropped or corrected annotations so far, by rule."""
        return self._tallies.counts + Counter(getattr(self._data, "counts", {}))

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> tuple[Tensor, Instances]:
        """Read and validate an image and its objects.

        Returns:
            Image [C, H, W], uint8, uint16 or float32, and its instances.

        Raises:
            UserError: If reading fails or the sample is invalid.
        """
        index = range(len(self))[index]
        where = f"{self._name}: image '{self.image_names[index]}'"
        sample = _call(where, self._data.__getitem__, index)
        if not isinstance(sample, tuple) or len(sample) != 2:
            raise UserError(f"{where}: must be a pair (image, Instances)")
        image, target = sample
        if not isinstance(image, Tensor) or image.dtype not in _DTYPES or not is_channels_first(image):
            raise UserError(f"{where}: must be uint8, uint16 or float32 [C, H, W], is {_describe(image)}")
        size = (int(image.shape[1]), int(image.shape[2]))
        if isinstance(target, Mapping):
            target = _convert(where, target, size)
        return image, self._checked(where, target, size, self._tallies.of(index))

    def _checked(self, where: str, target: Any, size: tuple[int, int], tally: Tally) -> Instances:
        if not isinstance(target, Instances):
            raise UserError(f"{where}: its objects must be Instances, not {type(target).__name__}")
        if tuple(target.size) != size:
            raise UserError(
                f"{where}: is {format_size(size)} but its objects are in an image of {format_size(target.size)}"
            )
        if not len(target):
            return replace(Instances.empty(size, self.has_masks), ids=torch.zeros(0, dtype=torch.int64))
        if self.has_masks and target.masks is None:
            raise UserError(f"{where}: has no masks; add them, or set has_masks = False")
        boxes, labels, count = target.boxes, target.labels, len(self.class_names)
        for what, found, wanted in (("boxes", boxes, torch.float32), ("labels", labels, torch.int64)):
            if found.dtype != wanted:
                raise UserError(f"{where}: {what} must be {wanted}, are {found.dtype}")
        valid = torch.isfinite(boxes).all(dim=1) & (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        if not valid.all():
            number = int((~valid).nonzero()[0])
            values = ", ".join(f"{value:g}" for value in boxes[number].tolist())
            raise UserError(f"{where}: box {number} is {values}; it must be x1, y1, x2, y2 with x1 < x2 and y1 < y2")
        if not 1 <= int(labels.min()) <= int(labels.max()) <= count:
            wrong = next(each for each in labels.tolist() if not 1 <= each <= count)
            raise UserError(f"{where}: has label {wrong}; use 1 to {count}, as in class_names")
        ids = torch.arange(1, len(target) + 1) if target.ids is None else target.ids
        target = replace(target, size=size, masks=target.masks if self.has_masks else None, ids=ids)
        inside, kept = clip_boxes(boxes.double().numpy(), size, tally, where)
        return replace(target[torch.from_numpy(kept)], boxes=torch.from_numpy(inside))


def _convert(where: str, target: Mapping[str, Any], size: tuple[int, int]) -> Instances:
    """Convert a target of torchvision's kind; errors begin with `where`."""
    try:
        return Instances.from_torchvision(target, size)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    except Exception as error:
        raise UserError(f"{where}: {describe_error(error)}") from error


def _find_class(name: str) -> type[Any]:
    """Import the class and check its attributes before calling it: the name may come from an untrusted file."""
    found = import_class(name, "dataset")
    missing = [each for each in _REQUIRED if not _has_attribute(found, each)]
    if missing:
        raise UserError(f"{name}: has no {', '.join(missing)}; a data set needs {', '.join(_REQUIRED)}")
    return found


def _has_attribute(found: type[Any], attribute: str) -> bool:
    """Return whether a class has or declares the attribute, or uses it in a method (`self.class_names = ...`)."""
    for each in found.__mro__[:-1]:
        methods = [value.__code__ for value in vars(each).values() if isinstance(value, FunctionType)]
        declared = inspect.get_annotations(each)
        if attribute in vars(each) or attribute in declared or any(attribute in code.co_names for code in methods):
            return True
    return False


def _call(where: str, call: Callable[..., Any], *arguments: Any) -> Any:
    """Call a user's code, and convert any exception to a UserError that begins with `where`."""
    try:
        return call(*arguments)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{where}: {describe_error(error)}") from error


def _to_integers(values: Any) -> list[int]:
    """Convert integers of any kind, such as NumPy's or PyTorch's, to int; return an empty list if one is invalid."""
    try:
        values = list(values)
        return [] if any(isinstance(each, bool) for each in values) else [operator.index(each) for each in values]
    except TypeError:
        return []


def _to_strings(name: str, attribute: str, values: Any) -> tuple[str, ...]:
    if isinstance(values, str) or not all(isinstance(each, str) for each in _call(name, tuple, values)):
        raise UserError(f"{name}: {attribute} must be a list of strings")
    return tuple(values)


def _describe(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
