"""Some of a data set's images: those that an expression names, and those that can be read."""

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from datasets.expressions import Expression, ExpressionError
from datasets.interface import DetectionDataset, category_ids_of
from maskrcnn.config import UserError
from maskrcnn.structures.instances import Instances
from maskrcnn.text import escape

NAMES_SAID = 3
Over = Callable[[Sequence[int]], Iterable[int]]
"""What a long pass over images is shown with: it gives back what it is given, one by one."""


class Chosen:
    """The images of a data set at some places; all else is as it was, ids and names too."""

    def __init__(self, dataset: DetectionDataset, places: Sequence[int]) -> None:
        self.dataset, self._places = dataset, list(places)
        self.class_names, self.has_masks = dataset.class_names, dataset.has_masks
        self.category_ids = category_ids_of(dataset)
        ids, names = dataset.image_ids, dataset.image_names
        self.image_ids, self.image_names = [ids[i] for i in self._places], [names[i] for i in self._places]

    @property
    def places(self) -> Sequence[int]:
        """Where the images are in the data set that they were chosen from."""
        return self._places

    @property
    def counts(self) -> Mapping[str, int]:
        """Number of dropped or corrected annotations so far, by rule."""
        return self.dataset.counts

    def __len__(self) -> int:
        return len(self._places)

    def origin(self, index: int) -> tuple[DetectionDataset, int]:
        """The data set that an image was chosen from, and its place there."""
        return self.dataset, self._places[index]

    def __getitem__(self, index: int) -> tuple[Tensor, Instances]:
        return self.dataset[self._places[index]]

    def read_by_window(self, index: int) -> tuple[Any, Instances]:
        """As `[index]`, but a large image may be left open, where the data set offers it (`DeepImages`)."""
        read: Callable[[int], tuple[Any, Instances]] = self.dataset.__getitem__
        return getattr(self.dataset, "read_by_window", read)(self._places[index])  # type: ignore[no-any-return]


@dataclass(frozen=True)
class BadImages:
    """Names of images that cannot be read, and why."""

    names: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.names)

    def lines(self) -> Iterator[str]:
        """One line for each kind of reason, the most frequent first: how often, why the first, which."""
        groups: dict[str, list[int]] = {}
        for place, reason in enumerate(self.reasons):
            groups.setdefault(_kind(reason), []).append(place)
        for places in sorted(groups.values(), key=len, reverse=True):
            names = [escape(self.names[place]) for place in places[:NAMES_SAID]]
            more = f" and {len(places) - len(names)} more" if len(places) > len(names) else ""
            yield f"{len(places)} like {', '.join(names)}{more}: {self.reasons[places[0]]}"


def read_once(dataset: DetectionDataset, index: int) -> Callable[[], tuple[Tensor, Instances]]:
    """Reads an image when it is first called, and once. UserError for a bad image."""
    return functools.cache(lambda: dataset[index])


def values_of(
    index: int, image_id: int, name: str, read: Callable[[], tuple[Tensor, Instances]]
) -> dict[str, Callable[[], Any]]:
    """What an expression may ask of an image; it is read only for what is in it."""
    return {
        "index": lambda: index,
        "id": lambda: image_id,
        "name": lambda: name,
        "num_objects": lambda: int((~read()[1].ignore).sum()),
        "height": lambda: read()[1].size[0],
        "width": lambda: read()[1].size[1],
    }


def choose(
    dataset: DetectionDataset, expression: Expression | None, skip_bad: bool, over: Over = iter
) -> tuple[DetectionDataset, BadImages]:
    """The images for which the expression holds, and, with `skip_bad`, that can be read; and those that cannot.

    Images are read only where the expression asks for what is in them, or to find the bad ones. `over` shows the
    progress of that.

    Raises:
        UserError: a bad image without `skip_bad`; an expression that makes no sense; no images left.
    """
    bad, kept, places = BadImages(), [], range(len(dataset))
    ids, names = dataset.image_ids, dataset.image_names
    reads = skip_bad or (expression is not None and expression.reads)
    for index in over(places) if reads else places:
        read = read_once(dataset, index)
        try:
            if expression is None or expression.holds(values_of(index, ids[index], names[index], read)):
                if skip_bad:
                    read()
                kept.append(index)
        except ExpressionError:
            raise
        except UserError as error:
            if not skip_bad:
                raise
            bad.names.append(names[index])
            bad.reasons.append(str(error))
    if expression is not None and not kept and not bad:
        raise UserError(f"{expression.flag}={expression.text}: holds for none of the {len(dataset)} images")
    if not kept:
        why = f", such as: {bad.reasons[0]}" if bad else ""
        raise UserError(f"--skip_bad leaves none of the {len(dataset)} images{why}")
    return (dataset if len(kept) == len(dataset) else Chosen(dataset, kept)), bad


def _kind(reason: str) -> str:
    """A reason without the file, the numbers and what is in brackets or quotes, which differ from image to image."""
    words = reason.partition(": ")[2] or reason
    return re.sub(r"\(.*?\)|'.*?'|\S*[/\\]\S*|\d+", "…", words)
