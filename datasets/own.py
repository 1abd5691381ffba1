"""A user's own data set: a class that is found by name and held to what every data set promises."""

import difflib
import importlib
import inspect
import operator
import os
import sys
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
from maskrcnn.structures.instances import Instances

_NEEDED = ("class_names", "__len__", "__getitem__")
_MOST_WORDS = 300  # characters of somebody else's error


def open_class(name: str, root: str | Path, split: str) -> "OwnData":
    """`MyData(root, split)` of `name`, my_module:MyData, where my_module may lie in the working directory.

    The class is asked for the splits that its attribute `splits` names, by default "train" and "test".

    Raises:
        UserError: whatever goes wrong in there.
    """
    check_split(split)
    found = _find(name)
    own = _texts(name, "splits", getattr(found, "splits", ("train", "test")))
    if strange := [each for each in own if each not in SPLITS]:
        raise UserError(f"{name}: splits names {strange[0]!r}; use some of {', '.join(SPLITS)}")
    if split not in own:
        raise MissingSplit(f"{name}: its splits are {', '.join(own)}; there is no '{split}'")
    return OwnData(name, _guarded(f"{name}({str(root)!r}, {split!r})", found, str(root), split))


class OwnData:
    """A user's data set with what it left out, and what it gives checked.

    It must have `class_names`, a length, and items (image, Instances), or (image, a dict as torchvision's detectors
    take it). Missing may be `has_masks` (then true), `category_ids` (then 1 to K), `image_ids`, `image_names`, `counts`
    and the instances' ids. Boxes that reach out of the image are clipped, those outside dropped, and counted.
    """

    def __init__(self, name: str, data: Any) -> None:
        self._name, self._data = name, data
        missing = [each for each in _NEEDED if not hasattr(data, each)]
        if missing:
            raise UserError(f"{name}: has no {', '.join(missing)}; a data set needs {', '.join(_NEEDED)}")
        count = _guarded(f"len({name})", len, data)
        if not count:
            raise UserError(f"{name}: gives no images; check --dataset_root and the split")
        self.class_names = _texts(name, "class_names", data.class_names)
        if not self.class_names or len(set(self.class_names)) < len(self.class_names):
            raise UserError(
                f"{name}: class_names holds '{', '.join(self.class_names)}'; it must hold different names, at least one"
            )
        self.category_ids = numbers = tuple(
            _numbers(getattr(data, "category_ids", range(1, len(self.class_names) + 1)))
        )
        if len(set(numbers)) < len(numbers) or len(numbers) != len(self.class_names):
            raise UserError(
                f"{name}: category_ids must be {len(self.class_names)} different whole numbers, one per class"
            )
        self.has_masks = bool(getattr(data, "has_masks", True))
        self.image_ids = ids = _numbers(getattr(data, "image_ids", range(count)))
        if len(set(ids)) < len(ids) or len(ids) != count:
            raise UserError(f"{name}: image_ids must be {count} different whole numbers, one an image")
        self.image_names = list(_texts(name, "image_names", getattr(data, "image_names", [str(each) for each in ids])))
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
        """UserError that names the image, for whatever goes wrong there and for what is no sample."""
        index = range(len(self))[index]
        where = f"{self._name}: image '{self.image_names[index]}'"
        sample = _guarded(where, self._data.__getitem__, index)
        if not isinstance(sample, tuple) or len(sample) != 2:
            raise UserError(f"{where}: must be a pair (image, Instances)")
        image, target = sample
        if not isinstance(image, Tensor) or image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
            raise UserError(f"{where}: must be uint8 [3, H, W], is {_description(image)}")
        size = (int(image.shape[1]), int(image.shape[2]))
        if isinstance(target, Mapping):
            target = _guarded(where, Instances.from_torchvision, target, size)
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
            raise UserError(f"{where}: has no masks; give them, or say has_masks = False")
        boxes, labels, count = target.boxes, target.labels, len(self.class_names)
        for what, found, wanted in (("boxes", boxes, torch.float32), ("labels", labels, torch.int64)):
            if found.dtype != wanted:
                raise UserError(f"{where}: {what} must be {wanted}, are {found.dtype}")
        sound = torch.isfinite(boxes).all(dim=1) & (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        if not sound.all():
            number = int((~sound).nonzero()[0])
            values = ", ".join(f"{value:g}" for value in boxes[number].tolist())
            raise UserError(f"{where}: box {number} is {values}; it must be x1, y1, x2, y2 with x1 < x2 and y1 < y2")
        if not 1 <= int(labels.min()) <= int(labels.max()) <= count:
            wrong = next(each for each in labels.tolist() if not 1 <= each <= count)
            raise UserError(f"{where}: has label {wrong}; use 1 to {count}, as in class_names")
        ids = torch.arange(1, len(target) + 1) if target.ids is None else target.ids
        target = replace(target, size=size, masks=target.masks if self.has_masks else None, ids=ids)
        inside, kept = clip_boxes(boxes.double().numpy(), size, tally, where)
        return replace(target[torch.from_numpy(kept)], boxes=torch.from_numpy(inside))


def _find(name: str) -> type[Any]:
    """The class of that name, checked before anything of it is called: a name may come from a file of somebody else."""
    module_name, _, class_name = name.partition(":")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise UserError(f"dataset {name}: importing {module_name} failed: {_words(error)}") from error
        raise UserError(
            f"unknown dataset '{name}': there is no {error.name}.py here nor a module of that name; put it into {here}"
        ) from error
    except Exception as error:
        raise UserError(f"dataset {name}: importing {module_name} failed: {_words(error)}") from error
    found = getattr(module, class_name, None)
    if found is None:
        near = difflib.get_close_matches(class_name, [each for each in vars(module) if each[0] != "_"], n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise UserError(
            f"dataset {name}: {getattr(module, '__file__', None) or module_name} has no class {class_name}{hint}"
        )
    if not isinstance(found, type):
        raise UserError(f"dataset {name}: is no class but {type(found).__name__}; name the class of the data set")
    missing = [each for each in _NEEDED if not _offers(found, each)]
    if missing:
        raise UserError(f"{name}: has no {', '.join(missing)}; a data set needs {', '.join(_NEEDED)}")
    return found


def _offers(found: type[Any], attribute: str) -> bool:
    """Whether a class has the attribute, declares it, or mentions it in a method, as `self.class_names = ...` does."""
    for each in found.__mro__[:-1]:
        methods = [value.__code__ for value in vars(each).values() if isinstance(value, FunctionType)]
        declared = inspect.get_annotations(each)
        if attribute in vars(each) or attribute in declared or any(attribute in code.co_names for code in methods):
            return True
    return False


def _guarded(where: str, call: Callable[..., Any], *arguments: Any) -> Any:
    """What a user's code gives; UserError that begins with `where`, for whatever it raises but its own UserError."""
    try:
        return call(*arguments)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{where}: {_words(error)}") from error


def _words(error: Exception) -> str:
    """An error, and the line of the user's code that it came from."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" ({Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno})" if trace is not None else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:_MOST_WORDS]}{where}"


def _numbers(values: Any) -> list[int]:
    """Whole numbers of any kind, NumPy's and PyTorch's too, as Python's; none at all where one is none."""
    try:
        values = list(values)
        return [] if any(isinstance(each, bool) for each in values) else [operator.index(each) for each in values]
    except TypeError:
        return []


def _texts(name: str, attribute: str, values: Any) -> tuple[str, ...]:
    if isinstance(values, str) or not all(isinstance(each, str) for each in _guarded(name, tuple, values)):
        raise UserError(f"{name}: {attribute} must be a list of texts")
    return tuple(values)


def _description(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
