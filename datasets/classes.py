"""Selection and mapping of classes: `--classes`, `--map_classes` and `--one_class`."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from datasets.checks import TallyByImage
from datasets.config import ReadingConfig
from datasets.interface import DetectionDataset, get_category_ids
from maskrcnn.config import UserError
from maskrcnn.structures.instances import Instances

ONE_CLASS = "object"
LEFT_OUT = "objects of classes that are not selected left out"


@dataclass(frozen=True)
class ClassMap:
    """What becomes of the classes: first they are renamed by `new_names`, then those in `selected` are kept."""

    new_names: Mapping[str, str]
    selected: tuple[str, ...]
    one_class: bool

    @staticmethod
    def parse(reading: ReadingConfig) -> ClassMap:
        """Parse the options; raise a UserError if `map_classes` is invalid."""
        new_names: dict[str, str] = {}
        for rule in reading.map_classes:
            sources, equals, target = rule.rpartition("=")
            names = [name.strip() for name in sources.split("|")]
            if not equals or not target.strip() or not all(names):
                raise UserError(f"--map_classes={rule}: write OLD=NEW or OLD|OLD=NEW, several separated by commas")
            for name in names:
                if new_names.setdefault(name, target.strip()) != target.strip():
                    raise UserError(f"--map_classes: class {name!r} is mapped twice; remove one")
        return ClassMap(new_names, tuple(reading.classes), reading.one_class)

    def __bool__(self) -> bool:
        return bool(self.new_names or self.selected or self.one_class)

    def rename(self, name: str) -> str | None:
        """Return the new name of a class; None if its objects are left out."""
        name = self.new_names.get(name, name)
        if self.selected and name not in self.selected:
            return None
        return ONE_CLASS if self.one_class else name

    def check(self, datasets: Iterable[DetectionDataset]) -> None:
        """Raise a UserError if an option names a class that is in none of the data sets."""
        known = {name for dataset in datasets for name in getattr(dataset, "original_class_names", dataset.class_names)}
        self._check_names("map_classes", self.new_names, known)
        self._check_names("classes", self.selected, {self.new_names.get(name, name) for name in known})

    def _check_names(self, flag: str, names: Iterable[str], known: set[str]) -> None:
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                there = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(sorted(known)[:20])}"
                raise UserError(f"--{flag}: the data has no class {name!r}; {there}")


class MappedClasses:
    """A data set with renamed, joined or fewer classes; objects of other classes are left out and counted.

    A class keeps the category id of the first class that it is made of.
    """

    def __init__(self, dataset: DetectionDataset, classes: ClassMap) -> None:
        self.dataset = dataset
        self.original_class_names = dataset.class_names
        names = [classes.rename(name) for name in dataset.class_names]
        ids: dict[str, int] = {}
        for name, number in zip(names, get_category_ids(dataset), strict=True):
            if name is not None:
                ids.setdefault(name, number)
        self.class_names, self.category_ids = tuple(ids), tuple(ids.values())
        if classes.one_class:
            self.category_ids = (1,) * len(ids)
        places = {name: label for label, name in enumerate(self.class_names, start=1)}
        self._labels = torch.tensor([0, *(0 if name is None else places[name] for name in names)])
        self.has_masks = dataset.has_masks
        self.image_ids, self.image_names = dataset.image_ids, dataset.image_names
        self._tallies = TallyByImage(len(dataset))

    @property
    def counts(self) -> Counter[str]:
        """Number of dropped or corrected annotations so far, by rule."""
        return Counter(self.dataset.counts) + self._tallies.counts

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "dataset":  # not yet there when it is unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)  # such as image_file, which not all data sets have

    def __getitem__(self, index: int) -> tuple[Tensor, Instances]:
        image, instances = self.dataset[index]
        labels = self._labels[instances.labels]
        kept = labels > 0
        number = range(len(self))[index]
        self._tallies.of(number).add(LEFT_OUT, f"image {self.image_names[number]}", int((~kept).sum()))
        return image, replace(instances, labels=labels)[kept]


def map_classes(dataset: DetectionDataset, reading: ReadingConfig) -> DetectionDataset:
    """Return the data set with the classes that the options ask for."""
    classes = ClassMap.parse(reading)
    return MappedClasses(dataset, classes) if classes else dataset
