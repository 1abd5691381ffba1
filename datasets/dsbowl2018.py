"""The 2018 Data Science Bowl in Kaggle's folders: one image and one PNG for each nucleus."""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets.images import list_images, opened, read_image
from maskrcnn.config import UserError
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks

SPLITS = ("train", "test")
TEST_SHARE = 0.25  # of the images, where no file gives the split
_STAGE = "stage1_train"
_log = logging.getLogger("datasets")


@dataclass(frozen=True)
class _Entry:
    """An image: its number among all of the folder's, its id, its file and those of its masks."""

    number: int
    name: str
    image: Path
    masks: list[Path]


class DSBowl2018:
    """One split of ``stage1_train/<id>/images/<id>.png`` and ``stage1_train/<id>/masks/*.png``.

    Masks that overlap are kept as they are; empty ones are dropped, counted and said once an image. Instance ids
    count the mask files by name from 1. What is decoded stays in memory, up to ``cache_mb``: an image can have 300
    files.
    """

    class_names: tuple[str, ...] = ("nucleus",)

    def __init__(
        self,
        root: str | Path,
        split: str,
        split_file: str | Path | None = None,
        subsetseed: int = 12345,
        cache_mb: int = 1024,
    ) -> None:
        """``root`` holds ``stage1_train`` or is that folder. The split comes from ``split_file``, else from
        ``split.json`` beside ``stage1_train``; else ``subsetseed`` draws a quarter of the images for the test split.

        Raises:
            UserError: no such folder, images or split; an image without masks or masks without image; a split file
                that is broken or names an image that is not there.
        """
        if split not in SPLITS:
            raise UserError(f"split '{split}' is unknown: use one of {', '.join(SPLITS)}")
        self._stage = _find_stage(Path(root))
        folders = sorted(path for path in self._stage.iterdir() if path.is_dir() and path.name[0] != ".")
        if not folders:
            raise UserError(f"{self._stage}: holds no images; it should have a folder for each")
        numbers = {folder.name: number for number, folder in enumerate(folders)}
        chosen = _split_names(self._stage, numbers, split_file, subsetseed)[split]
        if not chosen:
            raise UserError(f"{self._stage}: the split leaves no image for '{split}'")
        self._entries = [_find_files(self._stage / name, numbers[name]) for name in chosen]
        self._cache: dict[int, tuple[Tensor, CroppedMasks, Tensor]] = {}
        self._room = cache_mb * 2**20
        self._empty: dict[str, int] = {}

    @property
    def image_ids(self) -> list[int]:
        return [entry.number for entry in self._entries]

    @property
    def image_names(self) -> list[str]:
        return [entry.name for entry in self._entries]

    @property
    def num_empty_masks(self) -> int:
        """Empty masks dropped so far, in the images read so far."""
        return sum(self._empty.values())

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> tuple[Tensor, Instances]:
        """Image uint8 [3, H, W] and its nuclei. UserError for an unreadable file or sizes that differ."""
        image, masks, ids = self._cache[index] if index in self._cache else self._read(index)
        return image.clone(), Instances.from_masks(masks, torch.ones_like(ids), ids=ids)

    def _read(self, index: int) -> tuple[Tensor, CroppedMasks, Tensor]:
        entry = self._entries[index]
        image = read_image(entry.image)
        masks, ids = read_masks(entry.masks, (int(image.shape[1]), int(image.shape[2])))
        if (empty := len(entry.masks) - len(ids)) and entry.name not in self._empty:
            self._empty[entry.name] = empty
            _log.warning("%s: %d of %d masks are empty and dropped", entry.name, empty, len(entry.masks))
        size = image.numel() + masks.data.numel() + 40 * len(ids)
        if size <= self._room:
            self._room -= size
            self._cache[index] = image, masks, ids
        return image, masks, ids


def read_masks(paths: list[Path], size: tuple[int, int]) -> tuple[CroppedMasks, Tensor]:
    """Masks from one image file each (inside where not 0) on a canvas ``size`` (H, W), each cut to its bounding window.

    Returns the masks that are not empty and their places in ``paths`` counted from 1, int64 [N]. Only one decoded file
    is in memory at a time. UserError for an unreadable file or another size.
    """
    windows, levels, ids = [], [], []
    for number, path in enumerate(paths, start=1):
        with opened(path) as file:
            if (file.height, file.width) != size:
                raise UserError(f"{path}: is {file.width} x {file.height} but its image is {size[1]} x {size[0]}")
            mask = file if file.mode in ("L", "1") else file.convert("RGB").convert("L")
            window = mask.getbbox()
            if window is not None:
                inside = np.asarray(mask.crop(window)) > 0
                windows.append(window)
                levels.append(torch.from_numpy(inside.astype(np.uint8) * 255))
                ids.append(number)
    boxes = torch.tensor(windows, dtype=torch.int32).reshape(-1, 4)
    return CroppedMasks.from_windows(boxes, levels, size), torch.tensor(ids, dtype=torch.int64)


def _find_stage(root: Path) -> Path:
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give the one that holds {_STAGE} as --dataset_root")
    if (root / _STAGE).is_dir():
        return root / _STAGE
    if root.name == _STAGE:
        return root
    raise UserError(f"{root}: holds no folder {_STAGE}; give the one that does as --dataset_root")


def _find_files(folder: Path, number: int) -> _Entry:
    images = list_images(folder / "images") if (folder / "images").is_dir() else []
    if len(images) != 1:
        raise UserError(f"{folder}: has {len(images)} images in images/; it must have one")
    if not (folder / "masks").is_dir():
        raise UserError(f"{folder}: image without labels: there is no folder masks")
    return _Entry(number, folder.name, images[0], list_images(folder / "masks"))


def _split_names(
    stage: Path, known: dict[str, int], split_file: str | Path | None, subsetseed: int
) -> dict[str, list[str]]:
    beside = stage.parent / "split.json"
    if split_file is None and not beside.is_file():
        return draw_split(list(known), subsetseed)
    path = Path(split_file) if split_file is not None else beside
    split = _read_split(path)
    for name in split["train"] + split["test"]:
        if name not in known:
            raise UserError(f"{path}: names image '{name}', which is not in {stage}")
    if both := set(split["train"]) & set(split["test"]):
        raise UserError(f"{path}: image '{min(both)}' is in both train and test")
    return split


def _read_split(path: Path) -> dict[str, list[str]]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check --split_file") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: is not valid JSON ({error.msg})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not valid JSON ({error})") from error
    split = {}
    for key in SPLITS:
        names = data.get(key) if isinstance(data, dict) else None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"{path}: has no list '{key}' of image names")
        split[key] = sorted(set(names))
    return split


def draw_split(names: list[str], seed: int) -> dict[str, list[str]]:
    """A quarter of ``names`` (at least one of two or more) for the test split, by a hash of seed and name.

    The order of the names does not matter, and adding some hardly moves others.
    """
    ordered = sorted(names, key=lambda name: hashlib.blake2b(f"{seed}/{name}".encode()).digest())
    count = max(1, round(len(names) * TEST_SHARE)) if len(names) > 1 else 0
    return {"train": sorted(ordered[count:]), "test": sorted(ordered[:count])}
