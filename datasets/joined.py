"""Concatenation of data sets; classes are joined by name."""

import itertools
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from datasets.interface import DetectionDataset, get_category_ids
from maskrcnn.structures.instances import Instances


def join_class_names(parts: Iterable[DetectionDataset]) -> tuple[str, ...]:
    """Return the names of all classes, in order of first appearance."""
    return tuple(dict.fromkeys(name for part in parts for name in part.class_names))


def join_category_ids(parts: Sequence[DetectionDataset], class_names: Sequence[str]) -> tuple[int, ...]:
    """Return category ids for classes that are joined by name.

    A class keeps the id of the first part that has it. If that id already belongs to another class, or no part has the
    class, it gets the next number above all ids of all parts.
    """
    numbered = [pair for part in parts for pair in zip(part.class_names, get_category_ids(part), strict=True)]
    free = itertools.count(max((number for _, number in numbered), default=0) + 1)
    ids: dict[str, int] = {}
    for name, number in numbered:
        if name not in ids:
            ids[name] = next(free) if number in ids.values() else number
    return tuple(ids[name] if name in ids else next(free) for name in class_names)


class JoinedDataset:
    """The images of all parts, one part after the other, with one list of classes.

    If an image id of a part is already in a previous part, all ids of that part are shifted above the highest one.
    Image names that are in several parts are prefixed with the name of their part. There are masks only if all parts
    have them.
    """

    def __init__(
        self,
        parts: Sequence[DetectionDataset],
        part_names: Sequence[str],
        class_names: tuple[str, ...] | None = None,
        with_masks: bool = True,
        others: Sequence[DetectionDataset] = (),
    ) -> None:
        """Concatenate data sets.

        Args:
            parts: the data sets.
            part_names: their names.
            class_names: class names in the order of the labels. Default: `join_class_names`.
            with_masks: keep masks, if all parts have them.
            others: other data sets whose category ids are taken into account.
        """
        self.parts = list(parts)
        self.class_names = class_names or join_class_names(parts)
        self.category_ids = join_category_ids([*parts, *others], self.class_names)
        self.has_masks = with_masks and all(part.has_masks for part in parts)
        places = {name: label for label, name in enumerate(self.class_names, start=1)}
        self._labels = [torch.tensor([0, *(places[name] for name in part.class_names)]) for part in parts]
        self._ends = list(itertools.accumulate(len(part) for part in parts))
        self.image_ids = _join_ids([list(part.image_ids) for part in parts])
        self.image_names = _join_names([list(part.image_names) for part in parts], part_names)

    @property
    def counts(self) -> Counter[str]:
        """Number of dropped or corrected annotations so far, by rule."""
        return sum((Counter(part.counts) for part in self.parts), Counter[str]())

    def __len__(self) -> int:
        return self._ends[-1]

    def origin(self, index: int) -> tuple[DetectionDataset, int]:
        """Return the part that contains an image, and the index of the image in it."""
        number = bisect_right(self._ends, index)
        return self.parts[number], index - self._ends[number] + len(self.parts[number])

    def __getitem__(self, index: int) -> tuple[Tensor, Instances]:
        """Image [C, H, W] and its instances with labels from the joined list. UserError as in its part."""
        index = range(len(self))[index]
        number = bisect_right(self._ends, index)
        part, place = self.origin(index)
        image, instances = part[place]
        masks = instances.masks if self.has_masks else None
        return image, replace(instances, labels=self._labels[number][instances.labels], masks=masks)


def _join_ids(parts: list[list[int]]) -> list[int]:
    joined: list[int] = []
    taken: set[int] = set()
    for ids in parts:
        shift = 1 + max(taken) - min(ids) if not taken.isdisjoint(ids) else 0
        joined += [each + shift for each in ids]
        taken.update(joined[len(joined) - len(ids) :])
    return joined


def _join_names(parts: list[list[str]], part_names: Sequence[str]) -> list[str]:
    counts = Counter(name for names in parts for name in set(names))
    return [
        f"{part_name}-{name}" if counts[name] > 1 else name
        for part_name, names in zip(part_names, parts, strict=True)
        for name in names
    ]
