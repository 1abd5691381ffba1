"""2018 Data Science Bowl (Kaggle): one folder per image, with one mask file per nucleus."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from datasets.checks import TalliedImages, Tally, TallyByImage, format_size
from datasets.readers.dsbowl_solution import Solution, read_solution
from datasets.readers.folders import list_files, list_folders
from datasets.readers.mask_files import read_masks
from datasets.readers.splitting import TEST_FRACTION, MissingSplit, check_split, choose_split, is_drawn, split_images
from datasets.readers.tables import quote
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
class _Record:
    """An image: its index in the folder, name, file, and nuclei as mask files or from the solution file."""

    number: int
    name: str
    image: Path
    masks: list[Path]
    solution: Solution | None = None


class DSBowl2018(TalliedImages):
    """One split of `stage1_train/<id>/images/<id>.png` and `stage1_train/<id>/masks/*`, or a test stage.

    Overlapping masks are kept as they are; empty ones are dropped and counted. Instance ids number the mask files
    sorted by name, or the rows of an image in the solution file, from 1. Decoded images and masks are cached in memory,
    because an image can have 300 mask files.
    """

    has_ids = False  # files have none
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
        """Open the split.

        The variant "s1_train_val" splits `stage1_train` according to `split_file`, or else `split.json` or
        `classes.csv` next to it, or else at random. A CSV file (columns filename, foreground, background) stratifies
        the random split by class. Only a JSON file can list images for "val". The variants "stage1" and "stage2" train
        on all of `stage1_train`. "stage1" tests on `stage1_test` with `stage1_solution.csv`; "stage2" tests on the
        scored images of `stage2_test_final` with `stage2_solution_final.csv`. Without a solution file, the test stage
        needs mask files.

        Args:
            root: folder that contains `stage1_train`, or that folder itself.
            split: "train", "val" or "test".
            split_file: JSON or CSV file of the split.
            subsetseed: random seed of the split.
            cache_mb: memory for decoded images and masks, in MiB.
            variant: one of `VARIANTS`.
            test_fraction: fraction of the images drawn for the test split; 0: none is drawn.

        Raises:
            UserError: If a folder, the images or the split do not exist, images and masks do not match, or a split or
                solution file is invalid or lists an unknown image.
        """
        check_split(split)
        if variant not in VARIANTS:
            raise UserError(f"variant '{variant}' of dsbowl2018 is unknown: use one of {', '.join(VARIANTS)}")
        if variant in _TESTS and split_file is not None:
            raise UserError(f"--split_file {split_file}: {variant} has its own test images; use {VARIANTS[0]}")
        if variant in _TESTS and split == "val":
            raise MissingSplit(f"{root}: {variant} of dsbowl2018 has no split 'val'")
        self.is_drawn = False
        opening = Tally()
        self._solutions: list[Path] = []
        if variant in _TESTS and split == "test":
            self._entries = _test_entries(Path(root), *_TESTS[variant], opening)
            if any(entry.solution is not None for entry in self._entries):
                folder, name = _TESTS[variant]
                self._solutions = [_find_stage(Path(root), folder).parent / name]
        else:
            stage = _find_stage(Path(root), _TRAIN)
            numbers = _number_folders(stage)
            parts = {"train": list(numbers)}
            if variant not in _TESTS:
                self.is_drawn = is_drawn(stage.parent, split_file)
                parts = split_images(numbers, stage, stage.parent, split_file, subsetseed, test_fraction)
            names = choose_split(parts, split, stage)
            self._entries = [_with_masks(stage / name, numbers[name]) for name in names]
        self.image_ids = [entry.number for entry in self._entries]  # indexes in the folder
        self.image_names = [entry.name for entry in self._entries]  # Kaggle's ids
        self._tallies = TallyByImage(len(self._entries), opening)
        self._cache: dict[int, tuple[Tensor, CroppedMasks, Tensor]] = {}
        self._room = cache_mb * 2**20

    def image_file(self, index: int) -> Path:
        """Return the path of the image file."""
        return self._entries[index].image

    def annotation_files(self, index: int) -> list[Path]:
        """Return the paths of the files that the objects of an image are read from."""
        return [*self._entries[index].masks, *self._solutions]

    def __getitem__(self, index: int) -> tuple[Tensor, Instances]:
        """Read an image and its nuclei.

        Returns:
            Image [C, H, W], uint8, uint16 or float32, and its instances.

        Raises:
            UserError: If a file is unreadable or a mask differs in size from the image.
        """
        image, masks, ids = self._cache[index] if index in self._cache else self._read(index)
        return image.clone(), Instances.from_masks(masks, torch.ones_like(ids), ids=ids)

    def _read(self, index: int) -> tuple[Tensor, CroppedMasks, Tensor]:
        entry = self._entries[index]
        image = read_image(entry.image, whole=True)  # because it is cached
        shape = (int(image.shape[1]), int(image.shape[2]))
        if entry.solution is None:
            masks, ids = read_masks(entry.masks, shape)
            self._tallies.of(index).add("empty masks dropped", entry.name, len(entry.masks) - len(ids))
        elif entry.solution.size != shape:
            here, there = format_size(shape), format_size(entry.solution.size)
            raise UserError(f"{entry.image}: is {here}, but {there} in line {entry.solution.line} of the solution file")
        else:
            masks, ids = entry.solution.masks()
        size = image.numel() + masks.data.numel() + 40 * len(ids)
        if size <= self._room:
            self._room -= size
            self._cache[index] = image, masks, ids
        return image, masks, ids


def _find_stage(root: Path, stage: str) -> Path:
    """Return the folder of a stage in `root`, or next to it if `root` is `stage1_train` itself."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; set --dataset_root to the folder that contains {stage}")
    if (root / stage).is_dir():
        return root / stage
    if root.name == _TRAIN and (root.parent / stage).is_dir():
        return root.parent / stage
    raise UserError(f"{root}: has no folder {stage}; set --dataset_root to the folder that contains it")


def _number_folders(stage: Path) -> dict[str, int]:
    """Number the image folders, sorted by name, from 0."""
    names = list_folders(stage)
    if not names:
        raise UserError(f"{stage}: has no images; it should contain a folder per image")
    return {name: number for number, name in enumerate(names)}


def _test_entries(root: Path, stage_name: str, file_name: str, tally: Tally) -> list[_Record]:
    stage = _find_stage(root, stage_name)
    numbers, path = _number_folders(stage), stage.parent / file_name
    if not path.is_file():
        if not any((stage / name / "masks").is_dir() for name in numbers):
            raise UserError(f"{path}: no such file, and {stage} has no masks; put Kaggle's solution file there")
        return [_with_masks(stage / name, number) for name, number in numbers.items()]
    solutions = read_solution(path)
    for name, solution in solutions.items():
        if solution is not None and name not in numbers:
            raise UserError(f"{path}:{solution.line}: lists image {quote(name)}, which is not in {stage}")
    chosen = {name: solution for name in numbers if (solution := solutions.get(name)) is not None}
    if not chosen:
        raise UserError(f"{path}: has no scored image")
    missing = [name for name in numbers if name not in solutions]
    tally.add("images without a row in the solution file left out", f"{path}: {missing[:1]}", len(missing))
    return [_Record(numbers[name], name, _only_image(stage / name), [], each) for name, each in chosen.items()]


def _with_masks(folder: Path, number: int) -> _Record:
    image = _only_image(folder)
    if not (folder / "masks").is_dir():
        raise UserError(f"{folder}: image without labels: there is no folder 'masks'")
    return _Record(number, folder.name, image, list_files(folder / "masks"))


def _only_image(folder: Path) -> Path:
    images = list_files(folder / "images") if (folder / "images").is_dir() else []
    if len(images) != 1:
        raise UserError(f"{folder}: has {len(images)} images in images/; it must have one")
    return images[0]
