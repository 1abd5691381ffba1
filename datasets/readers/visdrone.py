"""VisDrone-DET: small objects seen from drones, as boxes in a text file for each image."""

from collections import Counter
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datasets.checks import TallyByImage, usable_boxes
from datasets.readers.folders import by_stem, check_pairs, files_in
from datasets.readers.splitting import MissingSplit, check_split
from datasets.readers.tables import number_in, quoted, read_lines
from maskrcnn.config import UserError
from maskrcnn.images.reading import read_image
from maskrcnn.structures.instances import Instances

TEST_PARTS = ("val", "test-dev")
FIELDS = ("x", "y", "w", "h", "score", "category", "truncation", "occlusion")
REGION, OTHERS = 0, 11  # categories that are no classes: regions that were not annotated, and other vehicles


class VisDrone:
    """One part of ``VisDrone2019-DET-<part>/images/*.jpg`` with ``annotations/*.txt``.

    Ignored regions, "others" and boxes of score 0 are to ``ignore``. The first two have no class: each becomes one
    object of every class, so that it excuses detections of any. Ids are line numbers; of such an object for class k,
    k - 1 times the last line's number is added.
    """

    class_names: tuple[str, ...] = (
        "pedestrian",
        "people",
        "bicycle",
        "car",
        "van",
        "truck",
        "tricycle",
        "awning-tricycle",
        "bus",
        "motor",
    )
    has_masks = False

    def __init__(self, root: str | Path, split: str, test_part: str = TEST_PARTS[0]) -> None:
        """``root`` holds the folders of the parts, or is the one asked for.

        The split "test" is the part ``test_part``: "val", which most papers report, or "test-dev"; with the latter the
        part "val" is the split "val".

        Raises:
            UserError: no such folder, split or part, no images, an image without annotations or the other way round.
        """
        check_split(split)
        if test_part not in TEST_PARTS:
            raise UserError(f"part '{test_part}' of VisDrone is unknown: use one of {', '.join(TEST_PARTS)}")
        part = test_part if split == "test" else split
        if split == "val" and (test_part == "val" or not (Path(root) / f"VisDrone2019-DET-{part}").is_dir()):
            raise MissingSplit(f"{root}: there is no part 'val' beside the test images, {test_part}")
        folder = _find_part(Path(root), part)
        images = by_stem(files_in(folder / "images"))
        annotations = by_stem(files_in(folder / "annotations", (".txt",)))
        check_pairs(images, annotations, "annotations")
        if not images:
            raise UserError(f"{folder}: holds no images; unpack the data set again")
        self._images = list(images.values())
        self._annotations = [annotations[name] for name in images]
        self._tallies = TallyByImage(len(images))
        self.image_names = list(images)
        self.image_ids = list(range(len(images)))

    @property
    def counts(self) -> Counter[str]:
        return self._tallies.counts

    def __len__(self) -> int:
        return len(self._images)

    def image_file(self, index: int) -> Path:
        """The file of an image."""
        return self._images[index]

    def annotation_files(self, index: int) -> list[Path]:
        """The files from which the objects of an image are read."""
        return [self._annotations[index]]

    def __getitem__(self, index: int) -> tuple[Tensor, Instances]:
        """Image uint8 [3, H, W] and its boxes. UserError for an unreadable file."""
        path = self._annotations[index]
        ids, rows = _read_rows(path)
        image = read_image(self._images[index])
        size = (int(image.shape[1]), int(image.shape[2]))
        with np.errstate(invalid="ignore", over="ignore"):  # of numbers that are dropped or clipped
            xyxy = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1)
            boxes, kept = usable_boxes(xyxy, size, self._tallies.of(index), str(path))
        score, category = rows[kept, 4], rows[kept, 5].astype(np.int64)
        no_class = (category == REGION) | (category == OTHERS)
        row, copy = _repeated(np.where(no_class, len(self.class_names), 1))
        return image, Instances(
            size,
            torch.from_numpy(boxes[row]),
            torch.from_numpy(np.where(no_class[row], copy + 1, category[row])),
            ignore=torch.from_numpy((no_class | (score == 0))[row]),
            ids=torch.from_numpy(ids[kept][row] + copy * ids.max(initial=0)),
        )


def _find_part(root: Path, part: str) -> Path:
    """The folder of a part in ``root``, which may itself be that part. No other folder is taken for two parts."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give the one that holds VisDrone2019-DET-{part} as --dataset_root")
    if root.name.endswith(f"-DET-{part}"):
        return root
    for folder in [*sorted(root.glob(f"VisDrone*-DET-{part}"), reverse=True), root / part]:
        if (folder / "images").is_dir():
            return folder
    there = ", ".join(sorted(path.name for path in root.glob("VisDrone*-DET-*"))[:5])
    but = f" (but {there})" if there else ""
    raise UserError(f"{root}: holds no folder VisDrone2019-DET-{part} with images{but}; unpack that part there")


def _repeated(counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Each place as often as ``counts`` says, and which of its repetitions it is, from 0."""
    place = np.repeat(np.arange(len(counts)), counts)
    return place, np.arange(len(place)) - np.repeat(np.cumsum(counts) - counts, counts)


def _read_rows(path: Path) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Line numbers [N], and the numbers of ``FIELDS`` [N, 8]."""
    ids: list[int] = []
    rows: list[list[float]] = []
    for line, text in read_lines(path):
        where, words = f"{path}:{line}", text.rstrip(", ").split(",")
        if len(words) != len(FIELDS):
            count = f"{len(words)} number{'s' * (len(words) != 1)}"
            raise UserError(f"{where}: has {count}; there must be {len(FIELDS)}: {','.join(FIELDS)}")
        row = [number_in(word, where, field) for word, field in zip(words, FIELDS, strict=True)]
        if row[5] not in range(OTHERS + 1):
            raise UserError(f"{where}: category is {quoted(words[5])}; it must be 0 to {OTHERS}")
        ids.append(line)
        rows.append(row)
    return np.array(ids, np.int64), np.array(rows, np.float64).reshape(-1, len(FIELDS))
