"""Selection of images of a data set by an expression, and of those that can be read."""

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from datasets.expressions import Expression, ExpressionError
from datasets.interface import DetectionDataset, get_category_ids
from maskrcnn.config import UserError
from maskrcnn.structures.instances import Instances
from maskrcnn.text import escape

MAX_LISTED_NAMES = 3
ProgressWrapper = Callable[[Sequence[int]], Iterable[int]]
"""Wraps a sequence to show the progress of iterating over it."""


class Subset:
    """Images of a data set at some indices; ids and names are kept."""

    def __init__(self, dataset: DetectionDataset, places: Sequence[int]) -> None:
        self.dataset, self._places = dataset, list(places)
        self.class_names, self.has_masks = dataset.class_names, dataset.has_masks
        self.category_ids = get_category_ids(dataset)
        ids, names = dataset.image_ids, dataset.image_names
        self.image_ids, self.image_names = [ids[i] for i in self._places], [names[i] for i in self._places]

    @property
    def places(self) -> Sequence[int]:
        """Indices of the images in the underlying data set."""
        return self._places

    @property
    def counts(self) -> Mapping[str, int]:
        """Number of dropped or corrected annotations so far, by rule."""
        return self.dataset.counts

    def __len__(self) -> int:
        return len(self._places)

    def origin(self, index: int) -> tuple[DetectionDataset, int]:
        """Return the underlying data set, and the index of an image in it."""
        return self.dataset, self._places[index]

    def __getitem__(self, index: int) -> tuple[Tensor, Instances]:
        return self.dataset[self._places[index]]

    def read_by_window(self, index: int) -> tuple[Any, Instances]:
        """Read an image like `[index]`, but leave a large one open if the data set supports it (`DeepImages`)."""
        read: Callable[[int], tuple[Any, Instances]] = self.dataset.__getitem__
        return getattr(self.dataset, "read_by_window", read)(self._places[index])  # type: ignore[no-any-return]


@dataclass(frozen=True)
class BadImages:
    """Names of unreadable images, and why."""

    names: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.names)

    def lines(self) -> Iterator[str]:
        """Yield one line per kind of error, the most frequent first: number of images, names, and the first error."""
        groups: dict[str, list[int]] = {}
        for place, reason in enumerate(self.reasons):
            groups.setdefault(_normalize_reason(reason), []).append(place)
        for places in sorted(groups.values(), key=len, reverse=True):
            example = self.reasons[places[0]]
            if len(places) == 1:
                yield f"{escape(self.names[places[0]])}: {example}"
                continue
            names = [escape(self.names[place]) for place in places[:MAX_LISTED_NAMES]]
            more = f" and {len(places) - len(names)} more" if len(places) > len(names) else ""
            yield f"{len(places)} like {', '.join(names)}{more}: {example}"


def make_cached_reader(dataset: DetectionDataset, index: int) -> Callable[[], tuple[Tensor, Instances]]:
    """Return a function that reads an image at its first call and then returns it again."""
    return functools.cache(lambda: dataset[index])


def make_variables(
    index: int, image_id: int, name: str, read: Callable[[], tuple[Tensor, Instances]]
) -> dict[str, Callable[[], Any]]:
    """Return the variables of expressions for an image; it is read only for those that require it."""
    return {
        "index": lambda: index,
        "id": lambda: image_id,
        "name": lambda: name,
        "num_objects": lambda: int((~read()[1].ignore).sum()),
        "height": lambda: read()[1].size[0],
        "width": lambda: read()[1].size[1],
    }


def select_images(
    dataset: DetectionDataset, expression: Expression | None, skip_bad: bool, over: ProgressWrapper = iter
) -> tuple[DetectionDataset, BadImages]:
    """Select the images for which an expression holds.

    Args:
        dataset: the data set.
        expression: condition on an image. Default: all images.
        skip_bad: read all images, and leave out unreadable ones.
        over: shows progress if images are read.

    Returns:
        The selected images, and the unreadable ones.

    Raises:
        UserError: If an image cannot be read and is not skipped, the expression is invalid, or no image is left.
    """
    bad, kept, places = BadImages(), [], range(len(dataset))
    ids, names = dataset.image_ids, dataset.image_names
    reads = skip_bad or (expression is not None and expression.reads)
    for index in over(places) if reads else places:
        read = make_cached_reader(dataset, index)
        try:
            if expression is None or expression.holds(make_variables(index, ids[index], names[index], read)):
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
        example = f", such as: {bad.reasons[0]}" if bad else ""
        raise UserError(f"--skip_bad leaves none of the {len(dataset)} images{example}")
    return (dataset if len(kept) == len(dataset) else Subset(dataset, kept)), bad


def _normalize_reason(reason: str) -> str:
    """Remove the file, numbers and text in brackets or quotes, which differ between images with the same error."""
    words = reason.partition(": ")[2] or reason
    return re.sub(r"\(.*?\)|'.*?'|\S*[/\\]\S*|\d+", "…", words)
