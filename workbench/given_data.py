"""Data sets that are given to `train` as Python objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor

from datasets.config import DataConfig
from datasets.custom import CustomDataset
from datasets.interface import DetectionDataset
from datasets.splits import Splits, draw_test_set
from maskrcnn.config import UserError
from maskrcnn.images.inputs import ImageLike, open_image
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.pixels import read_whole

SPLITS = ("train", "val", "test")


class Pairs:
    """Data set of pairs (image, `Instances`) in memory.

    A run on pairs is resumed with `train(pairs, resume=RUN)`, because the command cannot read them.

    Args:
        pairs: images `[3, H, W]`, or any that `Predictor.predict` takes, with their objects.
        class_names: name of each class; default "1", "2", … up to the highest label.
    """

    def __init__(self, pairs: Sequence[tuple[ImageLike, Instances]], class_names: Sequence[str] = ()) -> None:
        if isinstance(pairs, str):  # the command calls a class with the folder of the data and the split
            raise UserError("the run was trained on pairs in memory; resume it in Python: train(pairs, resume=RUN)")
        self._pairs = list(pairs)
        targets = [target for _, target in self._pairs]
        count = max((int(target.labels.max()) for target in targets if len(target)), default=1)
        self.class_names = tuple(class_names) or tuple(str(label) for label in range(1, count + 1))
        self.has_masks = all(target.masks is not None for target in targets if len(target))

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Instances]:
        image, target = self._pairs[index]
        if isinstance(image, Tensor):
            return image, target
        with open_image(image, as_stored=True, channels=0) as pixels:
            return read_whole(pixels), target


def name_data(data: Any) -> str:
    """Return the name of the class of a data set, module:Class, which is stored with the run."""
    first = next(iter(data.values()), None) if isinstance(data, Mapping) else data
    kind = Pairs if isinstance(first, list | tuple) else type(first)
    return f"{kind.__module__}:{kind.__name__}"


def make_splits(data: Any, config: DataConfig, class_names: Sequence[str] = ()) -> Splits:
    """Make the splits of a data set that is given as an object.

    Args:
        data: a data set, a list of pairs (image, `Instances`), or {"train": …, "val": …, "test": …} of these, of which
            "val" and "test" may be missing.
        config: how a missing test set is drawn.
        class_names: names of the classes of pairs.

    Raises:
        UserError: If a split is unknown, missing or empty, or no data set.
    """
    parts = dict(data) if isinstance(data, Mapping) else {"train": data}
    if "train" not in parts or (unknown := [name for name in parts if name not in SPLITS]):
        wrong = f"has no 'train', only {', '.join(map(str, parts))}" if "train" not in parts else f"has {unknown[0]!r}"
        raise UserError(f"data: {wrong}; give {', '.join(SPLITS)}, of which val and test may be left out")
    opened = {name: _open(part, f"data[{name!r}]", class_names) for name, part in parts.items() if part is not None}
    train, val, test = (opened.get(name) for name in SPLITS)
    assert train is not None
    return Splits(train, val, test) if test is not None else draw_test_set("the data", train, val, config)


def _open(part: Any, name: str, class_names: Sequence[str]) -> DetectionDataset:
    if isinstance(part, list | tuple):
        if wrong := [n for n, each in enumerate(part) if not _is_pair(each)]:
            raise UserError(f"{name}: element {wrong[0]} must be a pair (image, Instances)")
        part = Pairs(part, class_names)
    if type(part).__module__.startswith("datasets."):  # has been checked by its reader
        return cast(DetectionDataset, part)
    return cast(DetectionDataset, CustomDataset(name, part, "give at least one"))


def _is_pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and isinstance(value[1], Instances)
