"""The 2018 Data Science Bowl in Kaggle's folders: one image, and one file for each nucleus."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from datasets.checks import Tally, TallyByImage, in_words
from datasets.readers.dsbowl_solution import Solution, read_solution
from datasets.readers.folders import files_in, folders_in
from datasets.readers.mask_files import read_masks
from datasets.readers.splitting import TEST_FRACTION, EmptySplit, MissingSplit, check_split, split_images
from datasets.readers.tables import quoted
from maskrcnn.config import UserError
from maskrcnn.images.reading import read_image
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks

VARIANTS = ("s1_train_val", "stage1", "stage2")
_TRAIN = "stage1_train"
_TESTS = {
    "stage1": ("stage1_test", "stage1_solution.csv"),
    "stage2": ("stage2_test_final", "stage2_solution_final.csv"),
}


@dataclass(frozen=True)
class _Entry:
    """An image: its number among all of the folder's, its id, its file, and its nuclei as files or as solution."""

    number: int
    name: str
    image: Path
    masks: list[Path]
    solution: Solution | None = None


class DSBowl2018:
    """One split of ``stage1_train/<id>/images/<id>.png`` and ``stage1_train/<id>/masks/*``, or of a test stage.

    Masks that overlap are kept as they are; empty ones are dropped and counted. Instance ids count the mask files by
    name, or an image's rows in the solution file, from 1. What is decoded stays in memory, up to ``cache_mb``: an
    image can have 300 files.
    """

    class_names: tuple[str, ...] = ("nucleus",)
    has_masks = True

    def __init__(
        self,
        root: str | Path,
        split: str,
        split_file: str | Path | None = None,
        subsetseed: int = 12345,
        cache_mb: int = 1024,
        variant: str = VARIANTS[0],
        test_fraction: float = TEST_FRACTION,
    ) -> None:
        """``root`` holds ``stage1_train`` or is that folder.

        ``variant`` "s1_train_val" splits ``stage1_train`` by ``split_file``, else by ``split.json`` or ``classes.csv``
        beside it; else ``subsetseed`` draws ``test_fraction`` of the images for the test split. A CSV file (columns
        filename, foreground, background) has that share drawn from each kind of image. Only a JSON file can list
        images for "val". "stage1" and "stage2" train on all of
        ``stage1_train``; they test on ``stage1_test`` with ``stage1_solution.csv``, and on the images that counted of
        ``stage2_test_final`` with ``stage2_solution_final.csv``. Without such a file, a test stage needs mask files.

        Raises:
            UserError: no such folder, images or split; an image without masks or masks without image; a split or
                solution file that is broken or names an image that is not there.
        """
        check_split(split)
        if variant not in VARIANTS:
            raise UserError(f"variant '{variant}' of dsbowl2018 is unknown: use one of {', '.join(VARIANTS)}")
        if variant in _TESTS and split_file is not None:
            raise UserError(f"--split_file {split_file}: {variant} has its own test images; use {VARIANTS[0]}")
        if variant in _TESTS and split == "val":
            raise MissingSplit(f"{root}: {variant} of dsbowl2018 has no part 'val'")
        opening = Tally()
        self._solutions: list[Path] = []
        if variant in _TESTS and split == "test":
            self._entries = _test_entries(Path(root), *_TESTS[variant], opening)
            if any(entry.solution is not None for entry in self._entries):
                folder, name = _TESTS[variant]
                self._solutions = [_find_stage(Path(root), folder).parent / name]
        else:
            stage = _find_stage(Path(root), _TRAIN)
            numbers = _folders(stage)
            parts = {"train": list(numbers)}
            if variant not in _TESTS:
                parts = split_images(numbers, stage, stage.parent, split_file, subsetseed, test_fraction)
            names = parts[split]
            if not names:
                raise EmptySplit(f"{stage}: the split leaves no image for '{split}'")
            self._entries = [_with_masks(stage / name, numbers[name]) for name in names]
        self._tallies = TallyByImage(len(self._entries), opening)
        self._cache: dict[int, tuple[Tensor, CroppedMasks, Tensor]] = {}
        self._room = cache_mb * 2**20

    @property
    def image_ids(self) -> list[int]:
        return [entry.number for entry in self._entries]

    @property
    def image_names(self) -> list[str]:
        return [entry.name for entry in self._entries]

    @property
    def counts(self) -> Counter[str]:
        return self._tallies.counts

    def __len__(self) -> int:
        return len(self._entries)

    def image_file(self, index: int) -> Path:
        """The file of an image."""
        return self._entries[index].image

    def annotation_files(self, index: int) -> list[Path]:
        """The files from which the objects of an image are read."""
        return [*self._entries[index].masks, *self._solutions]

    def __getitem__(self, index: int) -> tuple[Tensor, Instances]:
        """Image uint8 [3, H, W] and its nuclei. UserError for an unreadable file or sizes that differ."""
        image, masks, ids = self._cache[index] if index in self._cache else self._read(index)
        return image.clone(), Instances.from_masks(masks, torch.ones_like(ids), ids=ids)

    def _read(self, index: int) -> tuple[Tensor, CroppedMasks, Tensor]:
        entry = self._entries[index]
        image = read_image(entry.image, whole=True)  # it is kept
        shape = (int(image.shape[1]), int(image.shape[2]))
        if entry.solution is None:
            masks, ids = read_masks(entry.masks, shape)
            self._tallies.of(index).add("empty masks dropped", entry.name, len(entry.masks) - len(ids))
        elif entry.solution.size != shape:
            here, there = in_words(shape), in_words(entry.solution.size)
            raise UserError(f"{entry.image}: is {here} but line {entry.solution.line} of its solution says {there}")
        else:
            masks, ids = entry.solution.masks()
        size = image.numel() + masks.data.numel() + 40 * len(ids)
        if size <= self._room:
            self._room -= size
            self._cache[index] = image, masks, ids
        return image, masks, ids


def _find_stage(root: Path, stage: str) -> Path:
    """The folder of a stage, in ``root`` or, if this is a stage itself, beside it."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give the one that holds {stage} as --dataset_root")
    if (root / stage).is_dir():
        return root / stage
    if root.name == _TRAIN and (root.parent / stage).is_dir():
        return root.parent / stage
    raise UserError(f"{root}: holds no folder {stage}; give the one that does as --dataset_root")


def _folders(stage: Path) -> dict[str, int]:
    """Names of the images' folders, and their numbers."""
    names = folders_in(stage)
    if not names:
        raise UserError(f"{stage}: holds no images; it should have a folder for each")
    return {name: number for number, name in enumerate(names)}


def _test_entries(root: Path, stage_name: str, file_name: str, tally: Tally) -> list[_Entry]:
    stage = _find_stage(root, stage_name)
    numbers, path = _folders(stage), stage.parent / file_name
    if not path.is_file():
        if not any((stage / name / "masks").is_dir() for name in numbers):
            raise UserError(f"{path}: no such file, and {stage} has no masks; put Kaggle's solution file there")
        return [_with_masks(stage / name, number) for name, number in numbers.items()]
    solutions = read_solution(path)
    for name, solution in solutions.items():
        if solution is not None and name not in numbers:
            raise UserError(f"{path}:{solution.line}: names image {quoted(name)}, which is not in {stage}")
    chosen = {name: solution for name in numbers if (solution := solutions.get(name)) is not None}
    if not chosen:
        raise UserError(f"{path}: holds no image that counts")
    missing = [name for name in numbers if name not in solutions]
    tally.add("images without a row in the solution file left out", f"{path}: {missing[:1]}", len(missing))
    return [_Entry(numbers[name], name, _only_image(stage / name), [], each) for name, each in chosen.items()]


def _with_masks(folder: Path, number: int) -> _Entry:
    image = _only_image(folder)
    if not (folder / "masks").is_dir():
        raise UserError(f"{folder}: image without labels: there is no folder masks")
    return _Entry(number, folder.name, image, files_in(folder / "masks"))


def _only_image(folder: Path) -> Path:
    images = files_in(folder / "images") if (folder / "images").is_dir() else []
    if len(images) != 1:
        raise UserError(f"{folder}: has {len(images)} images in images/; it must have one")
    return images[0]
