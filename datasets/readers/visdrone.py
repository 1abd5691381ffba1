"""VisDrone-DET: small objects seen from drones, with boxes in one text file per image."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datasets.checks import TalliedImages, TallyByImage, clip_boxes
from datasets.readers.folders import check_pairs, index_by_stem, list_files
from datasets.readers.splitting import MissingSplit, check_split
from datasets.readers.tables import parse_number, quote, read_lines
from maskrcnn.config import UserError
from maskrcnn.images.reading import read_image
from maskrcnn.structures.instances import Instances
from maskrcnn.text import format_count

TEST_PARTS = ("val", "test-dev")
FIELDS = ("x", "y", "w", "h", "score", "category", "truncation", "occlusion")
REGION, OTHERS = 0, 11  # categories that are not classes: regions that were not annotated, and other vehicles


class VisDrone(TalliedImages):
    """One part of `VisDrone2019-DET-<part>/images/*.jpg` with `annotations/*.txt`.

    Ignored regions, "others" and boxes with score 0 are marked as ignored. The first two have no class: each becomes
    one ignored object per class, so that detections of any class in it are ignored. Instance ids are line numbers; for
    class k of such an object, k - 1 times the number of the last line is added.
    """

    has_ids = False  # files have none
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
        """Open the split.

        Args:
            root: folder that contains the folders of the parts, or the folder of the requested part.
            split: "train", "val" or "test".
            test_part: part that serves as "test": "val", on which most papers report, or "test-dev"; with the latter
                the part "val" is the split "val".

        Raises:
            UserError: If a folder, split or part does not exist, there are no images, or images and annotations do not
                match.
        """
        check_split(split)
        if test_part not in TEST_PARTS:
            raise UserError(f"part '{test_part}' of VisDrone is unknown: use one of {', '.join(TEST_PARTS)}")
        part = test_part if split == "test" else split
        if split == "val" and (test_part == "val" or not (Path(root) / f"VisDrone2019-DET-{part}").is_dir()):
            raise MissingSplit(f"{root}: there is no part 'val' other than the test set, {test_part}")
        folder = _find_part(Path(root), part)
        images = index_by_stem(list_files(folder / "images"))
        annotations = index_by_stem(list_files(folder / "annotations", (".txt",)))
        check_pairs(images, annotations, "annotations")
        if not images:
            raise UserError(f"{folder}: has no images; unpack the data set again")
        self._images = list(images.values())
        self._annotations = [annotations[name] for name in images]
        self._tallies = TallyByImage(len(images))
        self.image_names = list(images)
        self.image_ids = list(range(len(images)))

    def image_file(self, index: int) -> Path:
        """Return the path of the image file."""
        return self._images[index]

    def annotation_files(self, index: int) -> list[Path]:
        """Return the paths of the files that the objects of an image are read from."""
        return [self._annotations[index]]

    def __getitem__(self, index: int) -> tuple[Tensor, Instances]:
        """Read an image and its boxes.

        Returns:
            Image [C, H, W], uint8, uint16 or float32, and its instances.

        Raises:
            UserError: If a file is unreadable or invalid.
        """
        path = self._annotations[index]
        ids, rows = _read_rows(path)
        image = read_image(self._images[index])
        size = (int(image.shape[1]), int(image.shape[2]))
        with np.errstate(invalid="ignore", over="ignore"):  # such values are dropped or clipped
            xyxy = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1)
            boxes, kept = clip_boxes(xyxy, size, self._tallies.of(index), str(path))
        score, category = rows[kept, 4], rows[kept, 5].astype(np.int64)
        no_class = (category == REGION) | (category == OTHERS)
        row, copy = _repeat_rows(np.where(no_class, len(self.class_names), 1))
        return image, Instances(
            size,
            torch.from_numpy(boxes[row]),
            torch.from_numpy(np.where(no_class[row], copy + 1, category[row])),
            ignore=torch.from_numpy((no_class | (score == 0))[row]),
            ids=torch.from_numpy(ids[kept][row] + copy * ids.max(initial=0)),
        )


def _find_part(root: Path, part: str) -> Path:
    """Return the folder of a part in `root`, which may itself be that part."""
    if not root.is_dir():
        raise UserError(
            f"{root}: no such folder; set --dataset_root to the folder that contains VisDrone2019-DET-{part}"
        )
    if root.name.endswith(f"-DET-{part}"):
        return root
    for folder in [*sorted(root.glob(f"VisDrone*-DET-{part}"), reverse=True), root / part]:
        if (folder / "images").is_dir():
            return folder
    there = ", ".join(sorted(path.name for path in root.glob("VisDrone*-DET-*"))[:5])
    but = f" (but {there})" if there else ""
    raise UserError(f"{root}: has no folder VisDrone2019-DET-{part} with images{but}; unpack that part there")


def _repeat_rows(counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Repeat each index `counts` times; return the indices, and the number of each repetition from 0."""
    place = np.repeat(np.arange(len(counts)), counts)
    return place, np.arange(len(place)) - np.repeat(np.cumsum(counts) - counts, counts)


def _read_rows(path: Path) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Read the annotations of an image: line numbers int64 [N], and the values of `FIELDS` float64 [N, 8]."""
    ids: list[int] = []
    rows: list[list[float]] = []
    for line, text in read_lines(path):
        where, words = f"{path}:{line}", text.rstrip(", ").split(",")
        if len(words) != len(FIELDS):
            count = format_count(len(words), "numbers")
            raise UserError(f"{where}: has {count}; {len(FIELDS)} are expected: {','.join(FIELDS)}")
        row = [parse_number(word, where, field) for word, field in zip(words, FIELDS, strict=True)]
        if row[5] not in range(OTHERS + 1):
            raise UserError(f"{where}: category is {quote(words[5])}; it must be 0 to {OTHERS}")
        ids.append(line)
        rows.append(row)
    return np.array(ids, np.int64), np.array(rows, np.float64).reshape(-1, len(FIELDS))
