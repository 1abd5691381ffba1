"""Counts of what readers dropped, clipped, ignored, split or renumbered, as lines for the user and a file of a run.

Some counts are known when a data set is opened, others only after its images are read. `preview` reads some images of
each split, so that the latter are also shown before training and not only after it.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets.interface import DetectionDataset, read_objects
from datasets.splits import collect_counts
from datasets.statistics import choose_evenly_spaced
from maskrcnn.config import UserError
from maskrcnn.files import write_text
from maskrcnn.text import format_count

PREVIEW_IMAGES = 200  # of each split at most
PREVIEW_SECONDS = 1.0  # for all splits together
FILE = "data.json"
_TOTAL = re.compile(r"^of ([\d,]+) ")
NAMES = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class Extent:
    """How much of a split was read: `images` of `total`, which hold `objects`."""

    images: int
    total: int
    objects: int


@dataclass(frozen=True)
class Preview:
    """What was known before and after the preview.

    Attributes:
        opening: counts by names of splits as from `collect_counts`, before any image was read.
        partial: how much was read of each split that was read in part.
    """

    opening: Mapping[str, Counter[str]] = field(default_factory=dict)
    partial: Mapping[str, Extent] = field(default_factory=dict)


def preview(splits: Mapping[str, DetectionDataset]) -> Preview:
    """Read at most `PREVIEW_IMAGES` images of each split, evenly spaced, for at most `PREVIEW_SECONDS` in all.

    Unreadable images are skipped here, because the error is raised when they are used.
    """
    opening, until, extents = collect_counts(splits), time.monotonic() + PREVIEW_SECONDS, {}
    # Small splits come first, so that the time that they leave over is available to the larger ones.
    for place, name in enumerate(sorted(splits, key=lambda name: len(splits[name]))):
        now = time.monotonic()
        extents[name] = _read_some(splits[name], now + (until - now) / (len(splits) - place))
    return Preview(opening, {name: extents[name] for name in splits if extents[name].images < extents[name].total})


def _read_some(dataset: DetectionDataset, until: float) -> Extent:
    images, objects = 0, 0
    places = choose_evenly_spaced(len(dataset), PREVIEW_IMAGES)
    # In order of the reversed bits, so that the images are spread over the split even if the time runs out.
    for number in sorted(range(len(places)), key=lambda number: f"{number:08b}"[::-1]):
        with suppress(UserError):
            objects += len(read_objects(dataset, places[number]))
        images += 1
        if time.monotonic() > until:
            break
    return Extent(images, len(dataset), objects)


def describe_notices(counts_by_names: Mapping[str, Mapping[str, int]], seen: Preview | None = None) -> Iterator[str]:
    """Iterate over the notices, one line per rule, with the total of all splits.

    Args:
        counts_by_names: counts by names of splits, as `collect_counts`.
        seen: lines about splits that were read in part report how many of their images were read.
    """
    seen = seen or Preview()
    found: dict[str, dict[str, tuple[int, str]]] = {}  # [rule without its total][names of splits] -> count, rule
    for names, counts in counts_by_names.items():
        for rule, count in counts.items():
            if count:
                found.setdefault(_TOTAL.sub("of N ", rule, count=1), {})[names] = count, rule
    for by_names in found.values():
        total = sum(count for count, _ in by_names.values())
        where = next(iter(by_names)) if len(by_names) == 1 else "all"
        parts = ", ".join(f"{count:,} {names}" for names, (count, _) in by_names.items())
        read = [text for names, (count, rule) in by_names.items() for text in _describe_read(seen, names, rule, count)]
        line = f"{where} images: {format_count(total, _add_totals([rule for _, rule in by_names.values()]))}"
        yield line + f" ({parts})" * (len(by_names) > 1) + f" (read so far: {', '.join(read)})" * bool(read)


def _add_totals(rules: Sequence[str]) -> str:
    """Combine rules that differ only in the total at their start, such as "of 12 objects", by adding the totals."""
    totals = [int(match[1].replace(",", "")) for rule in rules if (match := _TOTAL.match(rule))]
    return _TOTAL.sub(f"of {sum(totals):,} ", rules[0], count=1) if totals else rules[0]


def _describe_read(seen: Preview, names: str, rule: str, count: int) -> Iterator[str]:
    """Describe how much was read of the splits `names`, unless the count was known before any image was read."""
    if seen.opening.get(names, Counter())[rule] == count:
        return
    for name, each in seen.partial.items():
        if name in names.replace(",", "").split():
            yield f"{each.images:,} of {each.total:,} {name} images, {format_count(each.objects, 'objects')}"


def write_notices(
    folder: Path, splits: Mapping[str, DetectionDataset], seen: Preview
) -> Mapping[str, Mapping[str, int]]:
    """Write all counts to `data.json` of a run folder, and return them.

    If the run was resumed, the file exists already, and the higher of the old and new counts is kept: every image
    counts once, so counts can only grow as more images are read.
    """
    path = folder / FILE
    before = _read_notices(path)
    known = before.get("notices", {})
    notices = {names: Counter(known.get(names)) | counts for names, counts in collect_counts(splits).items()}
    read = {name: seen.partial[name].images if name in seen.partial else len(each) for name, each in splits.items()}
    contents = {
        "images": {name: len(each) for name, each in splits.items()},
        "images_read": {name: max(count, before.get("images_read", {}).get(name, 0)) for name, count in read.items()},
        "notices": {names: dict(counts) for names, counts in notices.items()},
    }
    write_text(path, json.dumps(contents, indent=2, ensure_ascii=False) + "\n")
    return notices


def _read_notices(path: Path) -> dict[str, Any]:
    """Read the file of a run folder; returns an empty dict if it does not exist or is invalid."""
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
        numbers = [
            *contents["images_read"].values(),
            *(n for each in contents["notices"].values() for n in each.values()),
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return contents if all(type(number) is int for number in numbers) else {}
