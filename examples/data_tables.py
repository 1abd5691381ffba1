"""Tables of `examples.describe_data`: what a data set is like and what is proposed for it, 100 columns wide."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from datasets import statistics as st
from datasets.interface import DetectionDataset
from datasets.statistics import Objects
from maskrcnn.evaluation.coco import SIZE_RANGES
from maskrcnn.model.coverage import compute_strides, count_anchors_per_location

if TYPE_CHECKING:
    from examples.describe_data import AnchorSet
    from maskrcnn.model.config import DetectorConfig
    from maskrcnn.model.proposal import Crowding

WIDTH = 100
PERCENTILES = (0, 1, 5, 25, 50, 75, 95, 99, 100)
BINS = {
    "very_tiny": "very tiny\n< 8 px",
    "tiny": "tiny\n8–16",
    "aitod_small": "small\n16–32",
    "aitod_medium": "medium\n> 32",
    "small": "COCO small\n< 32 px",
    "medium": "COCO medium\n32–96",
    "large": "COCO large\n> 96",
}
MOST_CLASSES = 20  # lines


def read(name: str, dataset: DetectionDataset, at_most: int) -> Objects:
    """The objects of a split, with a bar where the output is a terminal."""
    console = Console()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"reading {name} images", total=min(len(dataset), at_most))
        return st.read_objects(dataset, at_most, lambda: bar.advance(task))


def show(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(title=title, title_justify="left")
    for number, name in enumerate(head):
        table.add_column(name, justify="right" if number else "left", no_wrap=not number, overflow="ellipsis")
    for row in rows:
        table.add_row(*row)
    Console(width=WIDTH, highlight=False, markup=False, emoji=False).print(table)


# ---- what there is


def say_images(found: Mapping[str, Objects], splits: Mapping[str, DetectionDataset]) -> None:
    """Images, objects and crowding of each split."""
    columns = [_of_split(each, len(splits[name])) for name, each in found.items()]
    rows = [[label, *(column[label] for column in columns)] for label in (columns[0] if columns else ())]
    show("Images and objects", ["", *found], rows)
    for name, dataset in splits.items():
        for rule, count in getattr(dataset, "counts", {}).items():
            print(f"{name}: {count} {rule}")


def _of_split(found: Objects, num_images: int) -> dict[str, str]:
    objects = found.targets()
    read = len(found.sizes)
    overlaps = st.compute_max_overlaps(objects)
    distances = st.compute_nearest_distances(objects)
    return {
        "images": f"{num_images:,}" + (f" ({read:,} of them read)" if read < num_images else ""),
        "width × height": _sizes(found.sizes),
        "objects": f"{len(objects):,}",
        "ignored, besides": f"{len(found) - len(objects):,}",
        "objects an image: least, 50%, 95%, most": _percentiles(st.count_per_image(objects), (0, 50, 95, 100)),
        "objects a megapixel: 5%, 50%, 95%": _percentiles(st.compute_densities(objects), (5, 50, 95)),
        "nearest centre (px): 5%, 50%, 95%": _percentiles(distances[np.isfinite(distances)], (5, 50, 95)),
        "box IoU with another above .3, .5": f"{_share(overlaps > 0.3)}, {_share(overlaps > 0.5)}",
        "at the border of the image": _share(st.find_border_objects(objects)),
    }


def _sizes(sizes: np.ndarray) -> str:
    """The most frequent sizes, or their range where there are many."""
    known = Counter((int(width), int(height)) for height, width in sizes)
    if len(known) > 8:
        (h1, w1), (h2, w2) = sizes.min(axis=0), sizes.max(axis=0)
        return f"{w1} to {w2} × {h1} to {h2}"
    return ", ".join(f"{width}×{height} ({count})" for (width, height), count in known.most_common())


def say_objects(objects: Mapping[str, Objects], class_names: Sequence[str]) -> None:
    """Sizes and shapes as percentiles, sizes in the bins of AI-TOD and COCO, classes."""
    rows = {}
    for name, each in objects.items():
        rows[f"{name}: √ box area (px)"] = st.compute_box_sizes(each)
        if len(masks := st.compute_mask_sizes(each)):
            rows[f"{name}: √ mask area (px)"] = masks
        rows[f"{name}: height / width"] = st.compute_aspects(each)
    head = ["", "min", *(f"{p}%" for p in PERCENTILES[1:-1]), "max"]
    show("Sizes and shapes", head, ([name, *_cells(values, PERCENTILES)] for name, values in rows.items()))
    sized = {name: values for name, values in rows.items() if "√" in name}
    show("Objects by size", ["", *BINS.values()], ([name, *_binned(values)] for name, values in sized.items()))
    counts = {name: st.count_per_class(each, len(class_names)) for name, each in objects.items()}
    show("Classes", ["", *objects], _classes(counts, class_names))


def _binned(sizes: np.ndarray) -> list[str]:
    areas = sizes**2
    limits = [SIZE_RANGES[name] for name in BINS]
    return [f"{((low <= areas) & (areas < high)).sum():,}" for low, high in limits]


def _classes(counts: Mapping[str, np.ndarray], class_names: Sequence[str]) -> list[list[str]]:
    total = sum(counts.values(), np.zeros(len(class_names), np.int64))
    order = np.argsort(-total, kind="stable")
    shown, others = order[:MOST_CLASSES], order[MOST_CLASSES:]
    groups = [(class_names[index], np.array([index])) for index in shown]
    groups += [(f"{len(others)} others", others)] if len(others) else []
    return [
        [name, *(f"{of[group].sum():,} ({_percent(of[group].sum() / max(of.sum(), 1))})" for of in counts.values())]
        for name, group in groups
    ]


# ---- what is proposed


def say_anchors(sets: Sequence[AnchorSet], coverage: float) -> None:
    """Shares of the truths that anchors match, and which anchors these are."""
    splits = list(sets[0].ious)
    head = ["", "anchors a\nlocation", "strides", *(f"{name}\nIoU {at}" for name in splits for at in (".5", ".7"))]
    show("Objects matched by the best anchor of their image", head, [_anchor_row(each) for each in sets])
    for each in sets:
        rpn = each.detector.rpn
        levels = zip(compute_strides(each.detector.backbone), rpn.anchor_sizes, strict=True)
        sizes = "; ".join(
            f"stride {stride}: {' '.join(f'{size:g}' for size in of_level)}" for stride, of_level in levels
        )
        ratios = ", ".join(f"{ratio:g}" for ratio in rpn.anchor_ratios)
        print(f"{each.name}: {sizes}\n    height / width {ratios}")
    resize = sets[0].detector.image.resize
    if resize != "none":
        print(f"Anchors are in pixels of the resized images (resize = {resize}).")
    matched = (sets[-1].ious["train"] >= 0.5).mean()
    if matched < coverage:
        print(f"No {sets[-1].name} anchors match {_percent(coverage)} of the training objects at IoU .5.")


def _anchor_row(each: AnchorSet) -> list[str]:
    shares = [_share(ious >= at) for ious in each.ious.values() for at in (0.5, 0.7)]
    strides = " ".join(str(stride) for stride in compute_strides(each.detector.backbone))
    return [each.name, str(count_anchors_per_location(each.detector)), strides, *shares]


def say_limits(present: DetectorConfig, proposed: DetectorConfig, keys: Sequence[str], crowd: Crowding) -> None:
    """Top-k limits, present and proposed."""
    from examples.describe_data import get

    per = f" or per {present.limit_size}² px" if present.limit_size else ""
    title = (
        f"Limits (at most {crowd.fullest} objects per image{per}; around an object in a training sample: "
        f"median {crowd.typical}, 99% {crowd.crop})"
    )
    rows = [[key, f"{get(present, key):,}", f"{get(proposed, key):,}"] for key in keys]
    show(title, ["", "present", "proposed"], rows)


# ---- cells


def _percentiles(values: np.ndarray, which: Sequence[int]) -> str:
    return ", ".join(_cells(values, which))


def _cells(values: np.ndarray, which: Sequence[int]) -> list[str]:
    return [_number(value) for value in np.percentile(values, which)] if len(values) else ["-"] * len(which)


def _number(value: Any) -> str:
    return f"{value:,.0f}" if value >= 100 or value == round(value) else f"{value:.3g}"


def _share(flags: np.ndarray) -> str:
    return _percent(flags.mean()) if len(flags) else "-"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"
