"""What a writer is given, image by image, and what it says of what its format cannot hold."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from maskrcnn.structures.instances import Instances


@dataclass(frozen=True)
class Sample:
    """An image, uint8 [3, H, W], with its objects.

    `name` is a file's name without suffix, fit for every system and like no other in its part. `file`: where the
    image came from, if that file holds nothing else.
    """

    name: str
    image_id: int
    image: Tensor
    instances: Instances
    file: Path | None = None


class Losses:
    """What a format could not hold: how often, by a sentence that has {n} where the number belongs."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, sentence: str, count: int = 1) -> None:
        if count:
            self.counts[sentence] += count

    def lines(self) -> Iterator[str]:
        for sentence, count in self.counts.items():
            for noun in ("image", "object", "part") if count == 1 else ():
                sentence = sentence.replace(f"{{n}} {noun}s", f"{{n}} {noun}")
            yield sentence.format(n=f"{count:,}")


class Writer:
    """Writes samples into a folder as they come; what it keeps open meanwhile is in `open_files`.

    With `one_folder`, the images of all parts lie in one folder, and their names must differ. Where boxes are not
    held (`holds_boxes`), samples come with objects that have a mask, and its extent as their box.
    """

    one_folder = False
    holds_boxes = False

    def __init__(self, root: Path, losses: Losses) -> None:
        self.root, self.losses = root, losses
        self.open_files = ExitStack()

    def add(self, part: str, sample: Sample) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        """Write what is known only when all samples are there."""
        raise NotImplementedError
