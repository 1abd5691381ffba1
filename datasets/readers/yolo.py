"""YOLO data sets: text files of boxes and polygons, as Ultralytics, Roboflow, CVAT, Label Studio and labelImg write."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datasets.checks import TalliedImages, Tally, TallyByImage, clip_boxes, reconcile_boxes
from datasets.readers.coco_segmentation import check_lengths
from datasets.readers.folders import derive_image_ids
from datasets.readers.splitting import MissingSplit, check_split
from datasets.readers.yolo_files import YoloFiles, find_label_folder, list_label_names
from datasets.readers.yolo_labels import Scan, YoloObject, read_objects, scan_files
from maskrcnn.config import UserError
from maskrcnn.images.reading import read_image
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks


class Yolo(TalliedImages):
    """One split of a YOLO data set.

    Class numbers are the category ids. The box of a polygon is its extent. There are masks if the split has a polygon;
    a box among polygons is an object without a mask. Object ids are the line numbers.
    """

    has_ids = False  # files have none

    def __init__(self, root: str | Path, split: str, skip_bad: bool = False, part: str | None = None) -> None:
        """Open the split.

        The images are those that `data.yaml` (or another YAML file with `train` and `names`) or `obj.data` names, or
        else those in `images/train` or `train/images`, or all in `images` or the folder itself, which serve as "train"
        only. Labels are in `labels` in place of `images`, or next to the images. "test" is `test`, or else `val`;
        "val" is `val`, unless that is the test set.

        Args:
            root: folder of the data set.
            split: "train", "val" or "test".
            skip_bad: leave out invalid lines, and count them.
            part: part to read instead, by its own name: "train", "val" or "test".

        Raises:
            UserError: If files are missing, the configuration is invalid, or no image has labels.
            MissingSplit: If there are no images for this split.
        """
        check_split(split)
        root = Path(root)
        if not root.is_dir():
            raise UserError(f"{root}: no such folder; set --dataset_root to the folder of data.yaml")
        files = YoloFiles.find(root)
        part = part or _choose_part(files, split)
        self._skip_bad, self._has_key_points = skip_bad, files.has_key_points
        self._images = files.list_images(part)
        if not self._images:
            where = ", ".join(map(str, files.parts[part]))
            raise UserError(f"{where}: has no images; set --dataset_root to the folder of data.yaml, or of images/")
        opening = Tally()
        self._labels = _find_labels(root, self._images, opening)
        labeled = [path for path in self._labels if path is not None]
        scan = scan_files(labeled)
        if not labeled and part == "train":
            raise UserError(
                f"{root}: no image of '{part}' has a label file, such as {self._images[0].with_suffix('.txt').name} in "
                f"{find_label_folder(root, self._images[0].parent)}; add the labels"
            )
        _count_kinds(scan, self._has_key_points, opening)
        whole = scan if scan.objects and files.classes is not None else _scan_all(root, files)
        self.has_masks = bool((scan if scan.objects else whole).polygons) and not self._has_key_points
        self._classes = files.classes or {k: str(k) for k in range(whole.highest_class + 1)}
        self.class_names = tuple(dict.fromkeys(self._classes[k] for k in sorted(self._classes)))
        label_of = {name: label for label, name in enumerate(self.class_names, start=1)}
        self._label_of = {number: label_of[name] for number, name in self._classes.items()}
        first_of = {name: number for number, name in sorted(self._classes.items(), reverse=True)}
        self.category_ids = tuple(first_of[name] for name in self.class_names)
        self.image_names = _name_images(root, self._images)
        self.image_ids = derive_image_ids(self.image_names)
        self._tallies = TallyByImage(len(self._images), opening)

    def image_file(self, index: int) -> Path:
        """Return the path of the image file."""
        return self._images[index]

    def annotation_files(self, index: int) -> list[Path]:
        """Return the paths of the files that the objects of an image are read from."""
        path = self._labels[index]
        return [] if path is None else [path]

    def __getitem__(self, index: int) -> tuple[Tensor, Instances]:
        """Read an image and its objects.

        Returns:
            Image [C, H, W], uint8, uint16 or float32, and its instances.

        Raises:
            UserError: If a file is unreadable, or a line is invalid.
        """
        number = range(len(self))[index]
        image, path = read_image(self._images[number]), self._labels[number]
        size = (int(image.shape[1]), int(image.shape[2]))
        tally = self._tallies.of(number)
        objects: list[YoloObject] = []
        if path is not None:
            objects, skipped = read_objects(path, self._classes, self._has_key_points, self._skip_bad)
            tally.add("invalid annotations skipped", str(path), skipped)
        return image, self._make_instances(objects, size, tally, str(path))

    def _make_instances(self, objects: list[YoloObject], size: tuple[int, int], tally: Tally, where: str) -> Instances:
        boxes = np.array([each.to_box(size) for each in objects], np.float64).reshape(-1, 4)
        masks = None
        if self.has_masks:
            masks = _draw_polygons(objects, size, where)
            boxes, kept = reconcile_boxes(boxes, masks, tally, where)  # type: ignore[assignment]
            boxes, masks = boxes[kept], masks[torch.from_numpy(kept)]
        else:
            boxes, kept = clip_boxes(boxes, size, tally, where)  # type: ignore[assignment]
        places = kept.nonzero()[0].tolist()
        labels = torch.tensor([self._label_of[objects[k].number] for k in places], dtype=torch.int64)
        ids = torch.tensor([objects[k].line for k in places], dtype=torch.int64)
        return Instances(size, torch.from_numpy(boxes).float(), labels, masks=masks, ids=ids)


def _draw_polygons(objects: list[YoloObject], size: tuple[int, int], where: str) -> CroppedMasks:
    rings = [each.to_ring(size).ravel() for each in objects]
    for each, ring in zip(objects, rings, strict=True):
        try:
            if len(ring):
                check_lengths([ring])
        except ValueError as error:
            raise UserError(f"{where}:{each.line}: {error}; fix the line") from error
    return CroppedMasks.from_polygons([[ring.tolist()] * bool(len(ring)) for ring in rings], size)


def list_parts(root: Path) -> list[str]:
    """List the parts that a data set has by its own names, of "train", "val" and "test"."""
    return list(YoloFiles.find(root).parts)


def _choose_part(files: YoloFiles, split: str) -> str:
    parts = files.parts
    wanted = {"train": ("train",), "val": ("val",) * ("test" in parts), "test": ("test", "val")}[split]
    part = next((part for part in wanted if part in parts), None)
    if part is not None:
        return part
    where, there = files.config_file or files.root, " and ".join(parts)
    message = f"{where}: has no images for '{split}', only {there}; add them"
    raise (UserError if split == "train" else MissingSplit)(message)


def _find_labels(root: Path, images: list[Path], opening: Tally) -> list[Path | None]:
    """Find the label file of each image, or None; count images without labels and label files without an image."""
    folders: dict[Path, tuple[Path, set[str]]] = {}
    alone: dict[Path, set[str]] = {}
    found: list[Path | None] = []
    for image in images:
        if image.parent not in folders:
            folder = find_label_folder(root, image.parent)
            folders[image.parent] = folder, list_label_names(folder)
            alone.setdefault(folder, set(folders[image.parent][1]))
        folder, names = folders[image.parent]
        found.append(folder / f"{image.stem}.txt" if image.stem in names else None)
        alone[folder].discard(image.stem)
    missing = found.count(None)
    opening.add(f"of {len(images):,} images have no label file and are read without objects", str(root), missing)
    extra = sum(len(names) for folder, names in alone.items() if folder not in folders)
    opening.add("label files without an image left out", str(root), extra)
    return found


def _count_kinds(scan: Scan, has_key_points: bool, opening: Tally) -> None:
    if has_key_points:
        opening.counts["objects with key points, of which only the boxes are read"] = scan.objects
        return
    if scan.polygons and scan.rotated == scan.polygons:
        rule = "polygons all have four points, as rotated boxes (YOLO-OBB); they are read as polygons"
        opening.counts[rule] = scan.rotated
    opening.counts["boxes are followed by a sixth number (a score?), which is not used"] = scan.scored


def _scan_all(root: Path, files: YoloFiles) -> Scan:
    """Scan the labels of all parts, so that all splits have the same classes and masks."""
    paths = (path for part in files.parts for path in _find_labels(root, files.list_images(part), Tally()))
    return scan_files(path for path in paths if path is not None)


def _name_images(root: Path, images: list[Path]) -> list[str]:
    """Name images by their files without suffix, with folders where that is ambiguous."""
    names = [path.stem for path in images]
    counts: NDArray[np.int64] | Counter[str] = Counter(names)
    if len(counts) == len(names):
        return names
    return list(_add_folders(root, images))


def _add_folders(root: Path, images: list[Path]) -> Iterator[str]:
    used: set[str] = set()
    for path in images:
        name = path.relative_to(root).with_suffix("").as_posix()
        if name in used:
            raise UserError(f"{path}: differs from another image only in suffix; keep one of them")
        used.add(name)
        yield name
