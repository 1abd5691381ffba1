"""Data sets by name. Importing this needs neither PyTorch nor NumPy; opening a data set does."""

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
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


@dataclass(frozen=True)
class Request:
    """What a data set is opened with; `variant` is what was said after the colon, "" for a bare name."""

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
class Source:
    """A kind of data set: its key in [paths], what may stand after a colon, and whether it is split by our files."""

    path_key: str
    open: Callable[[Request], DetectionDataset]
    variants: tuple[str, ...] = ()
    takes_split_file: bool = False


@dataclass(frozen=True)
class Named:
    """One data set as it was named: `name` is a key of `SOURCES`, `synthetic`, or a class as module:Class.

    `rest` is the variant, the recipe's file, or the folder that was given for a class.
    """

    text: str
    name: str
    rest: str = ""

    @property
    def is_class(self) -> bool:
        return ":" in self.name

    @property
    def path_key(self) -> str | None:
        return SOURCES[self.name].path_key if self.name in SOURCES else None

    @property
    def short(self) -> str:
        """For names of files and images."""
        if self.name == SYNTHETIC:
            return f"{SYNTHETIC}-{_plain(Path(self.rest).stem)}"
        return _plain(self.name.partition(":")[2] if self.is_class else self.text)


def parse(text: str) -> list[Named]:
    """The data sets that `a+b` names, in that order. A `+` in a path joins only what has a data set's form.

    Raises:
        UserError: an unknown name, with the nearest; a data set that is named twice; a name that is left out.
    """
    parts = _split(text)
    if len(parts) > 1 and not all(part.strip() for part in parts):
        raise UserError(f"--dataset={text}: a name is missing beside '+'; join data sets as coco+voc, or leave it out")
    named = [_parse_one(part.strip()) for part in parts]
    for place, each in enumerate(named):
        if each in named[:place]:
            raise UserError(f"--dataset={text}: names {each.text} twice")
    return named


def _split(text: str) -> list[str]:
    first, *others = text.split("+")
    parts = [first]
    for part in others:
        base, colon, rest = part.strip().partition(":")
        is_named = base in SOURCES or (colon and (base == SYNTHETIC or _is_class(base, rest.partition(":")[0])))
        if is_named or not part.strip() or not _takes_more(parts[-1]):
            parts.append(part)
        else:
            parts[-1] += f"+{part}"
    return parts


def _takes_more(part: str) -> bool:
    """Whether it ends in a path that may go on: that of a recipe before its suffix, or the folder for a class."""
    base, _, rest = part.strip().partition(":")
    return not rest.endswith(".toml") if base == SYNTHETIC else ":" in rest


def _is_class(module: str, name: str) -> bool:
    return module not in SOURCES and bool(_DOTTED.fullmatch(module)) and name.isidentifier()


def short_name(text: str) -> str:
    """What a run on the data set `text` is called, fit for a folder's name."""
    return "+".join(each.short for each in parse(text))[:80]


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
    """The `split` ("train", "val" or "test") of one data set in the folder `root`; `synthetic:FILE` needs no root.

    Raises:
        UserError: unknown name or split; a missing or empty folder; an option that this data set has no use for.
        MissingSplit: the data has no such split; see `datasets.splits.open_splits`.
    """
    named = _parse_one(name)
    if split_file is not None and not (named.name in SOURCES and SOURCES[named.name].takes_split_file):
        raise UserError(f"--split_file {split_file}: data set '{named.text}' has its own train and test folders")
    if named.name == SYNTHETIC:
        from datasets.synthetic.on_the_fly import OnTheFly

        return _with_printable_classes(OnTheFly(named.rest, split))
    if named.is_class:
        from datasets.own import open_class

        return _with_printable_classes(open_class(named.name, named.rest or root, split))
    reading = reading or ReadingConfig()
    request = Request(root, split, named.rest, split_file, subsetseed, cache_mb, reading, skip_bad, test_fraction)
    return _with_printable_classes(SOURCES[named.name].open(request))


def _with_printable_classes(dataset: DetectionDataset) -> DetectionDataset:
    """The data set, with class names in which no character acts on a terminal."""
    names = tuple(escape(name) for name in dataset.class_names)
    if names != tuple(dataset.class_names):
        dataset.class_names = names
    return dataset


def _parse_one(text: str) -> Named:
    base, _, rest = text.partition(":")
    if base in SOURCES and rest in ("", *SOURCES[base].variants):
        return Named(text, base, rest)
    if base == SYNTHETIC:
        if not rest:
            raise UserError(f"dataset '{text}' needs the TOML file of a recipe: {SYNTHETIC}:FILE.toml")
        if Path(rest).is_dir():
            raise UserError(_of_folder(text, Path(rest)))
        return Named(text, base, rest)
    name, _, folder = rest.partition(":")
    if _is_class(base, name):
        return Named(text, f"{base}:{name}", folder)
    raise UserError(f"unknown dataset '{text}': {_hint(text)}")


def _of_folder(text: str, folder: Path) -> str:
    """What to say where a folder is given for a recipe's file."""
    if (folder / "dataset.toml").is_file():
        return (
            f"dataset '{text}': is a folder; {text.rstrip('/')}/dataset.toml draws its images anew, "
            f"--dataset=shapes --dataset_root={folder} reads them"
        )
    return f"dataset '{text}': is a folder; name the TOML file of a recipe, {SYNTHETIC}:FILE.toml"


def _hint(text: str) -> str:
    variants = [f"{base}:{variant}" for base, source in SOURCES.items() for variant in source.variants]
    near = difflib.get_close_matches(text.lower(), [*SOURCES, SYNTHETIC, *variants], n=1)
    base = text.partition(":")[0]
    if near and not (base in SOURCES and near[0] == base):
        return f"did you mean '{near[0]}'?"
    own = [variant for variant in variants if variant.startswith(f"{base}:")]
    if base in SOURCES:
        return f"use {' or '.join([base, *own])}"
    return f"use one of {', '.join(SOURCES)}, {SYNTHETIC}:FILE.toml, or a class of yours, my_module:MyData"


def _plain(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text).strip("-.") or "data"


# ---- the table: imports wait until a data set is opened


def _generated(request: Request) -> DetectionDataset:
    from datasets.readers.generated import Generated

    return Generated(request.root, request.split)


def _coco(request: Request) -> DetectionDataset:
    from datasets.readers.coco import Coco

    year = int(request.variant) if request.variant else None
    return Coco(request.root, request.split, year=year, reading=request.reading, skip_bad=request.skip_bad)


def _voc(request: Request) -> DetectionDataset:
    from datasets.readers.voc import Voc

    year, _, masks = (request.variant or "2012").partition("-")
    return Voc(request.root, request.split, year, masks=bool(masks), counts_from=request.reading.voc_from)


def _dsbowl2018(request: Request) -> DetectionDataset:
    from datasets.readers.dsbowl2018 import VARIANTS, DSBowl2018

    options = (request.split_file, request.subsetseed, request.cache_mb)
    return DSBowl2018(request.root, request.split, *options, request.variant or VARIANTS[0], request.test_fraction)


def _labels(request: Request) -> DetectionDataset:
    from datasets.readers.label_images import LabelImages

    options = (request.split_file, request.subsetseed)
    return LabelImages(request.root, request.split, *options, test_fraction=request.test_fraction)


def _cst(request: Request) -> DetectionDataset:
    from datasets.readers.cst import Cst

    return Cst(request.root, request.split)


def _aitod(request: Request) -> DetectionDataset:
    from datasets.readers.coco import AiTod

    version = 2 if request.variant == "v2" else 1
    return AiTod(request.root, request.split, version, reading=request.reading, skip_bad=request.skip_bad)


def _visdrone(request: Request) -> DetectionDataset:
    from datasets.readers.visdrone import VisDrone

    return VisDrone(request.root, request.split, request.variant or "val")


SOURCES = {
    "ellipses": Source("ellipses_root", _generated),
    "shapes": Source("shapes_root", _generated),
    "coco": Source("coco_root", _coco, ("2017", "2014")),
    "voc": Source("voc_root", _voc, ("2012", "2007", "2012-masks", "2007-masks")),
    "dsbowl2018": Source("kaggle_dsbowl2018_root", _dsbowl2018, ("s1_train_val", "stage1", "stage2"), True),
    "labels": Source("labels_root", _labels, takes_split_file=True),
    "cst": Source("cst_root", _cst),
    "aitod": Source("aitod_root", _aitod, ("v1", "v2")),
    "visdrone": Source("visdrone_root", _visdrone, ("val", "test-dev")),
}
