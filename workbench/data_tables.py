"""Tables of `examples.describe_data`: statistics of a data set and the proposal for it, 100 columns wide."""

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
from datasets.judgment import describe_rare_classes
from datasets.statistics import Objects
from maskrcnn.evaluation.coco import SIZE_RANGES
from maskrcnn.model.coverage import compute_strides, count_anchors_per_location

if TYPE_CHECKING:
    from maskrcnn.model.config import DetectorConfig
    from maskrcnn.model.proposal import Crowding
    from workbench.anchor_fit import AnchorSet

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
MAX_CLASSES = 20  # lines of the table of classes


def read_with_progress(name: str, dataset: DetectionDataset, max_images: int) -> Objects:
    """Read the objects of a split, with a progress bar on a terminal."""
    console = Console()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"reading {name} images", total=min(len(dataset), max_images))
        return st.read_objects(dataset, max_images, lambda: bar.advance(task))


def print_table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table with right-aligned columns after the first."""
    table = Table(title=title, title_justify="left")
    for number, name in enumerate(head):
        table.add_column(
            name, justify="right" if number else "left", no_wrap=not number, overflow="fold" if number else "ellipsis"
        )
    for row in rows:
        table.add_row(*row)
    Console(width=WIDTH, highlight=False, markup=False, emoji=False).print(table)


# ---- statistics


def print_images(found: Mapping[str, Objects], splits: Mapping[str, DetectionDataset]) -> None:
    """Print images, objects, and crowding of each split."""
    columns = [_summarize_split(each, len(splits[name])) for name, each in found.items()]
    rows = [[label, *(column[label] for column in columns)] for label in (columns[0] if columns else ())]
    print_table("Images and objects", ["", *found], rows)


def _summarize_split(found: Objects, num_images: int) -> dict[str, str]:
    objects = found.targets()
    read = len(found.sizes)
    overlaps = st.compute_max_overlaps(objects)
    distances = st.compute_nearest_distances(objects)
    return {
        "images": f"{num_images:,}" + (f" ({read:,} read)" if read < num_images else ""),
        "width × height": _format_sizes(found.sizes),
        "objects": f"{len(objects):,}",
        "ignored objects": f"{len(found) - len(objects):,}",
        "objects per image: min, 50%, 95%, max": _format_percentiles(st.count_per_image(objects), (0, 50, 95, 100)),
        "objects per megapixel: 5%, 50%, 95%": _format_percentiles(st.compute_densities(objects), (5, 50, 95)),
        "nearest center (px): 5%, 50%, 95%": _format_percentiles(distances[np.isfinite(distances)], (5, 50, 95)),
        "box IoU with another above .3, .5": f"{_format_fraction(overlaps > 0.3)}, {_format_fraction(overlaps > 0.5)}",
        "touching the image border": _format_fraction(st.find_border_objects(objects)),
    }


def _format_sizes(sizes: np.ndarray) -> str:
    """Format the most frequent sizes, or their range if there are many."""
    known = Counter((int(width), int(height)) for height, width in sizes)
    if len(known) > 8:
        (h1, w1), (h2, w2) = sizes.min(axis=0), sizes.max(axis=0)
        return f"{w1} to {w2} × {h1} to {h2}"
    return ", ".join(f"{width}×{height} ({count})" for (width, height), count in known.most_common())


def print_objects(objects: Mapping[str, Objects], class_names: Sequence[str]) -> None:
    """Print percentiles of sizes and shapes, numbers by size bins of AI-TOD and COCO, and classes."""
    rows = {}
    for name, each in objects.items():
        rows[f"{name}: √ box area (px)"] = st.compute_box_sizes(each)
        if len(masks := st.compute_mask_sizes(each)):
            rows[f"{name}: √ mask area (px)"] = masks
        rows[f"{name}: height / width"] = st.compute_aspects(each)
    head = ["", "min", *(f"{p}%" for p in PERCENTILES[1:-1]), "max"]
    print_table(
        "Sizes and shapes", head, ([name, *_format_cells(values, PERCENTILES)] for name, values in rows.items())
    )
    sized = {name: values for name, values in rows.items() if "√" in name}
    print_table(
        "Objects by size", ["", *BINS.values()], ([name, *_count_by_bin(values)] for name, values in sized.items())
    )
    counts = {name: st.count_per_class(each, len(class_names)) for name, each in objects.items()}
    print_table("Classes", ["", *objects], _make_class_rows(counts, class_names))
    for name, each in objects.items():
        if (rare := describe_rare_classes(each, class_names)) is not None:
            print(f"{name}: {rare}")


def _count_by_bin(sizes: np.ndarray) -> list[str]:
    areas = sizes**2
    limits = [SIZE_RANGES[name] for name in BINS]
    return [f"{((low <= areas) & (areas < high)).sum():,}" for low, high in limits]


def _make_class_rows(counts: Mapping[str, np.ndarray], class_names: Sequence[str]) -> list[list[str]]:
    total = sum(counts.values(), np.zeros(len(class_names), np.int64))
    order = np.argsort(-total, kind="stable")
    shown, others = order[:MAX_CLASSES], order[MAX_CLASSES:]
    groups = [(class_names[index], np.array([index])) for index in shown]
    groups += [(f"{len(others)} others", others)] if len(others) else []
    return [
        [
            name,
            *(f"{of[group].sum():,} ({_format_percent(of[group].sum() / max(of.sum(), 1))})" for of in counts.values()),
        ]
        for name, group in groups
    ]


# ---- proposal


def print_anchors(sets: Sequence[AnchorSet], coverage: float) -> None:
    """Print the fractions of objects matched by anchors, and the anchors."""
    splits = ["val" if name == "validation" else name for name in sets[0].ious]  # in narrow columns
    head = ["", "anchors per\nlocation", "strides", *(f"{name}\nIoU {at}" for name in splits for at in (".5", ".7"))]
    print_table("Objects matched by the best anchor of their image", head, [_make_anchor_row(each) for each in sets])
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
        print(f"No {sets[-1].name} anchors match {_format_percent(coverage)} of the training objects at IoU .5.")


def _make_anchor_row(each: AnchorSet) -> list[str]:
    shares = [_format_fraction(ious >= at) for ious in each.ious.values() for at in (0.5, 0.7)]
    strides = " ".join(str(stride) for stride in compute_strides(each.detector.backbone))
    return [each.name, str(count_anchors_per_location(each.detector)), strides, *shares]


def print_limits(present: DetectorConfig, proposed: DetectorConfig, keys: Sequence[str], crowd: Crowding) -> None:
    """Print present and proposed top-k limits."""
    from workbench.anchor_fit import get_option

    per = f" or per {present.limit_size}² px" if present.limit_size else ""
    title = (
        f"Limits (at most {crowd.fullest} objects per image{per}; around an object in a training sample: "
        f"median {crowd.typical}, 99% {crowd.crop})"
    )
    rows = [[key, f"{get_option(present, key):,}", f"{get_option(proposed, key):,}"] for key in keys]
    print_table(title, ["", "present", "proposed"], rows)


# ---- cells


def _format_percentiles(values: np.ndarray, which: Sequence[int]) -> str:
    return ", ".join(_format_cells(values, which))


def _format_cells(values: np.ndarray, which: Sequence[int]) -> list[str]:
    return [_format_number(value) for value in np.percentile(values, which)] if len(values) else ["-"] * len(which)


def _format_number(value: Any) -> str:
    return f"{value:,.0f}" if value >= 100 or value == round(value) else f"{value:.3g}"


def _format_fraction(flags: np.ndarray) -> str:
    return _format_percent(flags.mean()) if len(flags) else "-"


def _format_percent(share: float) -> str:
    return f"{100 * share:.1f}%"
