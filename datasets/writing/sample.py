"""Base class of writers, the samples they write, and counts of what their formats cannot store."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from maskrcnn.structures.instances import Instances
from maskrcnn.text import format_count


@dataclass(frozen=True)
class Sample:
    """An image with its objects.

    Attributes:
        name: file name without suffix, valid on every operating system and unique in its part.
        image_id: id of the image.
        image: [C, H, W], uint8, uint16 or float32.
        instances: objects in the image.
        file: file of the image, if it can be copied.
    """

    name: str
    image_id: int
    image: Tensor
    instances: Instances
    file: Path | None = None


class Losses:
    """Counts of what a format cannot store, by a description with a placeholder {n} for the count.

    Attributes:
        counts: counts by description.
        examples: the first example of some descriptions.
        has_ids: whether the source states ids of images and objects, which can be lost.
    """

    def __init__(self, has_ids: bool = True) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self.has_ids = has_ids

    def add(self, description: str, count: int = 1, example: str = "") -> None:
        """Add to the count of a description."""
        if count:
            self.counts[description] += count
            self.examples.setdefault(description, example)

    def add_renumbered(self, count: int, note: str = "") -> None:
        """Add the number of objects whose ids are not kept."""
        if self.has_ids:
            self.add(f"the ids of {{n}} objects, which are renumbered{note}", count)

    def add_named_image(self) -> None:
        """Add an image whose id is not kept."""
        self.add("the ids of {n} images, which are identified by name", int(self.has_ids))

    def lines(self) -> Iterator[str]:
        """Yield the descriptions with their counts."""
        for description, count in self.counts.items():
            before, _, counted = description.partition("{n} ")
            noun, comma, rest = counted.partition(",")  # what follows a comma agrees with what is before the count
            example = self.examples.get(description, "")
            yield before + format_count(count, noun) + comma + rest + f", such as {example}" * bool(example)


class Writer:
    """Base class of writers, which write samples one by one.

    Attributes:
        one_folder: whether the images of all parts are written to one folder, so that their names must be unique.
        holds_boxes: whether the format stores boxes; otherwise all objects have a mask, with its extent as their box.
        open_files: files that are open until all samples are written.
    """

    one_folder = False
    holds_boxes = False

    def __init__(self, root: Path, losses: Losses) -> None:
        self.root, self.losses = root, losses
        self.open_files = ExitStack()

    def add(self, part: str, sample: Sample) -> None:
        """Write a sample."""
        raise NotImplementedError

    def finish(self) -> None:
        """Write the files that require all samples."""
        raise NotImplementedError
