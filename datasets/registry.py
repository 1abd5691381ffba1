"""Registry of data sets by name. Importing it needs neither PyTorch nor NumPy; opening a data set does."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from datasets.config import ReadingConfig
from maskrcnn.config import UserError
from maskrcnn.text import escape

if TYPE_CHECKING:
    from datasets.interface import DetectionDataset

SYNTHETIC = "synthetic"
ELLIPSES = "ellipses"  # the default data set
AUTO = "auto"  # recognized from the files in the folder; see `datasets.recognition`
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


@dataclass(frozen=True)
class OpenRequest:
    """Arguments for opening a data set; `variant` is the part of the name after the colon, "" without one."""

    root: str | Path
    split: str
    variant: str = ""
    split_file: str | Path | None = None
    subsetseed: int = 12345
    cache_mb: int = 1024
    reading: ReadingConfig = field(default_factory=ReadingConfig)
    skip_bad: bool = False
    test_fraction: float = 0.25


@dataclass(frozen=True)
class DatasetFormat:
    """A data set format.

    Attributes:
        path_key: key of its folder in [paths].
        open: function that opens a data set.
        variants: allowed variants after a colon.
        takes_split_file: whether the reader splits the images according to a split file.
    """

    path_key: str
    open: Callable[[OpenRequest], DetectionDataset]
    variants: tuple[str, ...] = ()
    takes_split_file: bool = False


@dataclass(frozen=True)
class DatasetName:
    """A parsed data set name.

    Attributes:
        text: the name as given.
        name: a key of `FORMATS`, `synthetic`, `auto`, or a class as module:Class.
        rest: the variant, the file of the recipe, or the folder given for a class.
    """

    text: str
    name: str
    rest: str = ""

    @property
    def is_class(self) -> bool:
        """Whether this is a custom class."""
        return ":" in self.name

    @property
    def path_key(self) -> str | None:
        """Key of the folder in [paths]; None if it has none."""
        return FORMATS[self.name].path_key if self.name in FORMATS else None

    @property
    def short(self) -> str:
        """Short name for files and images."""
        if self.name == SYNTHETIC:
            return f"{SYNTHETIC}-{_to_file_name(Path(self.rest).stem)}"
        return _to_file_name(self.name.partition(":")[2] if self.is_class else self.text)


def parse_names(text: str) -> list[DatasetName]:
    """Parse data sets joined as `a+b`. A `+` inside a path is part of the path, unless a data set name follows.

    Raises:
        UserError: If a name is unknown, missing or given twice.
    """
    parts = _split(text)
    if len(parts) > 1 and not all(part.strip() for part in parts):
        raise UserError(f"--dataset={text}: a name is missing beside '+'; join data sets as coco+voc, or leave it out")
    named = [_parse_one(part.strip()) for part in parts]
    if len(named) > 1 and AUTO in (each.name for each in named):
        raise UserError(f"--dataset={text}: {AUTO} recognizes a single data set; name the formats that are joined")
    for place, each in enumerate(named):
        if each in named[:place]:
            raise UserError(f"--dataset={text}: lists {each.text} twice")
    return named


def _split(text: str) -> list[str]:
    first, *others = text.split("+")
    parts = [first]
    for part in others:
        base, colon, rest = part.strip().partition(":")
        is_named = base in FORMATS or (colon and (base == SYNTHETIC or _is_class(base, rest.partition(":")[0])))
        if is_named or not part.strip() or not _takes_more(parts[-1]):
            parts.append(part)
        else:
            parts[-1] += f"+{part}"
    return parts


def _takes_more(part: str) -> bool:
    """Return whether the text ends in a path that may continue: a recipe without its suffix, or a class's folder."""
    base, _, rest = part.strip().partition(":")
    return not rest.endswith(".toml") if base == SYNTHETIC else ":" in rest


def _is_class(module: str, name: str) -> bool:
    return module not in FORMATS and bool(_DOTTED.fullmatch(module)) and name.isidentifier()


def short_name(text: str) -> str:
    """Return a short name of the data set `text` that can be part of a folder name."""
    return "+".join(each.short for each in parse_names(text))[:80]


def open_dataset(
    name: str,
    root: str | Path,
    split: str,
    split_file: str | Path | None = None,
    subsetseed: int = 12345,
    cache_mb: int = 1024,
    reading: ReadingConfig | None = None,
    skip_bad: bool = False,
    test_fraction: float = 0.25,
) -> DetectionDataset:
    """Open a split of one data set.

    Args:
        name: name of the data set; "auto" to recognize it from the files.
        root: its folder; not used for `synthetic:FILE`.
        split: "train", "val" or "test".
        split_file: JSON or CSV file of the split.
        subsetseed: random seed of the split.
        cache_mb: memory for decoded masks, in MiB.
        reading: options for reading annotations.
        skip_bad: leave out invalid annotations, and count them.
        test_fraction: fraction of the images drawn for the test split.

    Raises:
        UserError: If the name or split is unknown, a folder is missing or empty, or the data set does not support an
            option.
        MissingSplit: If the data set does not have this split; see `datasets.splits.open_splits`.
    """
    if name == AUTO:
        from datasets.recognition import recognize

        name = recognize(Path(root)).name
    named = _parse_one(name)
    if split_file is not None and not (named.name in FORMATS and FORMATS[named.name].takes_split_file):
        raise UserError(f"--split_file {split_file}: data set '{named.text}' has its own train and test folders")
    reading = reading or ReadingConfig()
    if named.name == SYNTHETIC:
        from datasets.synthetic.on_the_fly import OnTheFly

        return finish(OnTheFly(named.rest, split), reading)
    if named.is_class:
        from datasets.custom import open_custom

        return finish(open_custom(named.name, named.rest or root, split), reading)
    request = OpenRequest(root, split, named.rest, split_file, subsetseed, cache_mb, reading, skip_bad, test_fraction)
    return finish(FORMATS[named.name].open(request), reading)


def finish(dataset: DetectionDataset, reading: ReadingConfig) -> DetectionDataset:
    """Return an opened data set with its classes mapped, and control characters in their names escaped."""
    from datasets.classes import map_classes

    names = tuple(escape(name) for name in dataset.class_names)
    if names != tuple(dataset.class_names):
        dataset.class_names = names
    return map_classes(dataset, reading)


def _parse_one(text: str) -> DatasetName:
    if text == AUTO:
        return DatasetName(text, AUTO)
    base, _, rest = text.partition(":")
    if base in FORMATS and rest in ("", *FORMATS[base].variants):
        return DatasetName(text, base, rest)
    if base == SYNTHETIC:
        if not rest:
            raise UserError(f"dataset '{text}' needs the TOML file of a recipe: {SYNTHETIC}:FILE.toml")
        if Path(rest).is_dir():
            raise UserError(_explain_folder(text, Path(rest)))
        return DatasetName(text, base, rest)
    name, _, folder = rest.partition(":")
    if _is_class(base, name):
        return DatasetName(text, f"{base}:{name}", folder)
    raise UserError(f"unknown dataset '{text}': {_suggest(text)}")


def _explain_folder(text: str, folder: Path) -> str:
    """Return the error message for a folder given instead of a recipe file."""
    if (folder / "dataset.toml").is_file():
        return (
            f"dataset '{text}': is a folder; {text.rstrip('/')}/dataset.toml draws its images anew, "
            f"--dataset=shapes --dataset_root={folder} reads them"
        )
    return f"dataset '{text}': is a folder; name the TOML file of a recipe, {SYNTHETIC}:FILE.toml"


def _suggest(text: str) -> str:
    variants = [f"{base}:{variant}" for base, source in FORMATS.items() for variant in source.variants]
    near = difflib.get_close_matches(text.lower(), [AUTO, *FORMATS, SYNTHETIC, *variants], n=1)
    base = text.partition(":")[0]
    if near and not (base in FORMATS and near[0] == base):
        return f"did you mean '{near[0]}'?"
    own = [variant for variant in variants if variant.startswith(f"{base}:")]
    if base in FORMATS:
        return f"use {' or '.join([base, *own])}"
    return f"use one of {', '.join(FORMATS)}, {AUTO}, {SYNTHETIC}:FILE.toml, or your own class, my_module:MyData"


def _to_file_name(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text).strip("-.") or "data"


# ---- formats; readers are imported only when a data set is opened


def _generated(request: OpenRequest) -> DetectionDataset:
    from datasets.readers.generated import Generated

    return Generated(request.root, request.split)


def _coco(request: OpenRequest) -> DetectionDataset:
    from datasets.readers.coco import Coco

    year = int(request.variant) if request.variant else None
    return Coco(request.root, request.split, year=year, reading=request.reading, skip_bad=request.skip_bad)


def _voc(request: OpenRequest) -> DetectionDataset:
    from datasets.readers.voc import Voc

    year, _, masks = (request.variant or "2012").partition("-")
    return Voc(request.root, request.split, year, masks=bool(masks), counts_from=request.reading.voc_first_pixel)


def _dsbowl2018(request: OpenRequest) -> DetectionDataset:
    from datasets.readers.dsbowl2018 import VARIANTS, DSBowl2018

    options = (request.split_file, request.subsetseed, request.cache_mb)
    return DSBowl2018(request.root, request.split, *options, request.variant or VARIANTS[0], request.test_fraction)


def _labels(request: OpenRequest) -> DetectionDataset:
    from datasets.readers.label_images import LabelImages

    options = (request.split_file, request.subsetseed)
    return LabelImages(
        request.root, request.split, *options, test_fraction=request.test_fraction, reading=request.reading
    )


def _cst(request: OpenRequest) -> DetectionDataset:
    from datasets.readers.cst import Cst

    return Cst(request.root, request.split)


def _aitod(request: OpenRequest) -> DetectionDataset:
    from datasets.readers.coco import AiTod

    version = 2 if request.variant == "v2" else 1
    return AiTod(request.root, request.split, version, reading=request.reading, skip_bad=request.skip_bad)


def _visdrone(request: OpenRequest) -> DetectionDataset:
    from datasets.readers.visdrone import VisDrone

    return VisDrone(request.root, request.split, request.variant or "val")


def _yolo(request: OpenRequest) -> DetectionDataset:
    from datasets.readers.yolo import Yolo

    return Yolo(request.root, request.split, request.skip_bad)


def _tool(name: str) -> Callable[[OpenRequest], DetectionDataset]:
    """Return the function that opens the data of an annotation tool."""

    def open_tool(request: OpenRequest) -> DetectionDataset:
        from datasets.readers.tools.formats import open_tool_dataset

        options = (request.variant, request.reading, request.skip_bad)
        return open_tool_dataset(name, Path(request.root), request.split, *options)

    return open_tool


_TOOLS = {
    "labelme": (),
    "cvat": (),
    "via": (),
    "qupath": ("nuclei",),
    "imagej": (),
    "supervisely": (),
    "dota": (),
    "cityscapes": (),
    "panoptic": (),
    "points": ("masks",),
}
FORMATS = {
    ELLIPSES: DatasetFormat("ellipses_root", _generated),
    "shapes": DatasetFormat("shapes_root", _generated),
    "coco": DatasetFormat("coco_root", _coco, ("2017", "2014")),
    "voc": DatasetFormat("voc_root", _voc, ("2012", "2007", "2012-masks", "2007-masks")),
    "yolo": DatasetFormat("yolo_root", _yolo),
    "dsbowl2018": DatasetFormat("kaggle_dsbowl2018_root", _dsbowl2018, ("s1_train_val", "stage1", "stage2"), True),
    "labels": DatasetFormat("labels_root", _labels, takes_split_file=True),
    "cst": DatasetFormat("cst_root", _cst),
    "aitod": DatasetFormat("aitod_root", _aitod, ("v1", "v2")),
    "visdrone": DatasetFormat("visdrone_root", _visdrone, ("val", "test-dev")),
} | {name: DatasetFormat("tools_root", _tool(name), variants) for name, variants in _TOOLS.items()}
