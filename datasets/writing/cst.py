"""Writer of the CST layout: a CSV file per part, images and masks as JPEG files."""

import csv
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TextIO

import numpy as np
from PIL import Image

from datasets.readers.cst import CLASS_LETTERS, COLUMNS, MASK_THRESHOLD, Cst
from datasets.writing.images import to_full_mask
from datasets.writing.labels import count_flag_losses, require_masks
from datasets.writing.sample import Losses, Sample, Writer
from maskrcnn.config import UserError
from maskrcnn.structures.masks import CroppedMasks

QUALITY = 95
_MARGIN = 5  # pixels by which boxes in CST files are larger on each side
_LETTERS = dict(zip(Cst.class_names, CLASS_LETTERS, strict=True))


class CstWriter(Writer):
    """Writes `annotation/anno-<part>.csv`, `<part>/<name>/<name>.jpg` and `<part>/<name>/masks/<name>-<k>.jpg`.

    Masks are kept exactly, including overlaps. The objects of each image are numbered from 1.
    """

    def __init__(self, root: Path, class_names: Sequence[str], has_masks: bool, losses: Losses) -> None:
        require_masks(has_masks, "cst")
        if strange := [name for name in class_names if name not in _LETTERS]:
            raise UserError(
                f"--to=cst: supports only the classes {', '.join(_LETTERS)}, not '{strange[0]}'; use --to=coco"
            )
        self._letters = [_LETTERS[name] for name in class_names]
        super().__init__(root, losses)
        self._tables: dict[str, TextIO] = {}

    def add(self, part: str, sample: Sample) -> None:
        """Write the image, its masks and its rows of the CSV file."""
        folder = self.root / part / sample.name
        (folder / "masks").mkdir(parents=True)
        picture = folder / f"{sample.name}.jpg"
        if sample.file is not None and sample.file.suffix.lower() == picture.suffix:
            picture.write_bytes(sample.file.read_bytes())
        else:
            pixels = sample.image.permute(1, 2, 0).numpy()
            if pixels.dtype == np.uint16:
                pixels = (pixels >> 8).astype(np.uint8)
                self.losses.add("the lower 8 bits of {n} images with 16 bits: JPEG has 8")
            Image.fromarray(pixels).save(picture, quality=QUALITY, subsampling=0)
            self.losses.add(f"the exact pixels of {{n}} images: JPEG, quality {QUALITY}")
        self._write_objects(part, folder / "masks", sample)
        count_flag_losses(sample, self.losses)

    def _write_objects(self, part: str, folder: Path, sample: Sample) -> None:
        instances, masks = sample.instances, sample.instances.masks
        assert masks is not None
        rows = csv.writer(self._table(part), lineterminator="\n")
        boxes, labels = instances.boxes.round().int().tolist(), instances.labels.tolist()
        for place, ((x1, y1, x2, y2), label) in enumerate(zip(boxes, labels, strict=True)):
            name = f"{sample.name}-{place}"
            (folder / f"{name}.jpg").write_bytes(_encode_jpeg(masks, place))
            box = f"{x1 - _MARGIN} {y1 - _MARGIN} {x2 + _MARGIN} {y2 + _MARGIN}"
            rows.writerow([sample.name, name, self._letters[label - 1], box, f"{sample.name}/masks/{name}.jpg"])
        numbers = np.arange(1, len(masks) + 1)
        renumbered = 0 if instances.ids is None else int((instances.ids.numpy() != numbers).sum())
        self.losses.add_renumbered(renumbered)

    def _table(self, part: str) -> TextIO:
        if part not in self._tables:
            (self.root / "annotation").mkdir(exist_ok=True)
            path = self.root / "annotation" / f"anno-{part}.csv"
            self._tables[part] = self.open_files.enter_context(path.open("w", encoding="utf-8", newline=""))
            self._tables[part].write(",".join(COLUMNS) + "\n")
        return self._tables[part]

    def finish(self) -> None:
        """Do nothing: all files are written by `add`."""


def _encode_jpeg(masks: CroppedMasks, place: int) -> bytes:
    """Encode a mask so that thresholding the decoded JPEG restores it exactly."""
    canvas = to_full_mask(masks, place)
    for quality in (QUALITY, 100):
        file = BytesIO()
        Image.fromarray(canvas).save(file, "JPEG", quality=quality)
        with Image.open(file) as read:
            if np.array_equal(np.asarray(read) >= MASK_THRESHOLD, canvas > 0):
                break
    return file.getvalue()
