"""Data sheet of a synthetic data set: contents, options, and measured difficulty factors."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from datasets.readers.generated import Generated
from datasets.readers.json_stream import JsonStream
from datasets.synthetic.annotations import Factors
from datasets.synthetic.recipes import Recipe
from maskrcnn.config import differences
from maskrcnn.files import write_text
from maskrcnn.plotting.factors import get_factor_label, plot_factors
from maskrcnn.plotting.predictions import save_picture
from maskrcnn.plotting.samples import Panel, render_sheet
from maskrcnn.text import format_count

PICTURES = 6
MAX_OBJECTS = 20_000  # objects whose factors are plotted, so that memory is bounded


@dataclass
class SplitContents:
    """Contents of one split; `factors` has the values of its first objects by factor."""

    images: int
    class_names: tuple[str, ...]
    objects: Counter[str] = field(default_factory=Counter)
    ignored: int = 0
    factors: dict[str, list[float | None]] = field(default_factory=lambda: {name: [] for name in Factors.names()})

    def compute_medians(self) -> dict[str, float]:
        """Compute the median of each factor; NaN if there are no values."""
        seen = {name: [value for value in values if value is not None] for name, values in self.factors.items()}
        return {name: float(np.median(values)) if values else float("nan") for name, values in seen.items()}


def write_data_sheet(folder: Path, recipe: Recipe) -> None:
    """Write README.md and its pictures into the folder of an otherwise complete data set."""
    splits = {
        split: read_contents(folder / split / "annotations.json", count)
        for split, count in recipe.counts.items()
        if count
    }
    (folder / "sheet").mkdir()
    first = next(iter(splits))
    data = Generated(folder, first)
    panels = [Panel(*data[index], data.image_names[index]) for index in range(min(PICTURES, len(data)))]
    save_picture(render_sheet(panels, columns=3), folder / "sheet" / "samples.png")
    factors = {name: np.array(values, np.float64) for name, values in splits[first].factors.items()}
    plot_factors(factors, folder / "sheet" / "factors.png")
    write_text(folder / "README.md", format_data_sheet(recipe, splits, first, len(panels)))


def read_contents(annotations: Path, images: int) -> SplitContents:
    """Read counts and factors from the annotations of a split, one by one."""
    with JsonStream(annotations) as stream:
        names: dict[int, str] = {}
        contents = SplitContents(images, ())
        for entry in stream.entries(("categories", "annotations")):
            if entry.key == "categories":
                names[entry.value["id"]] = entry.value["name"]
                continue
            contents.objects[names[entry.value["category_id"]]] += 1
            contents.ignored += entry.value["iscrowd"]
            if len(contents.factors["size"]) < MAX_OBJECTS:
                for name, values in contents.factors.items():
                    values.append(entry.value["factors"][name])
    contents.class_names = tuple(names[number] for number in sorted(names))
    return contents


def format_data_sheet(recipe: Recipe, splits: dict[str, SplitContents], first: str, pictures: int) -> str:
    """Format the sheet in Markdown."""
    scene = recipe.scene
    classes = splits[first].class_names
    head = "| split | images | objects | ignored | " + " | ".join(classes) + " |"
    rows = [
        f"| {split} | {each.images:,} | {each.objects.total():,} | {each.ignored:,} | "
        + " | ".join(f"{each.objects[name]:,}" for name in classes)
        + " |"
        for split, each in splits.items()
    ]
    changes = differences(Recipe(), recipe)
    made = [f"- `{change.split(': ')[0]}`: {change.rpartition(' -> ')[2]}" for change in changes] or ["- all defaults"]
    drawn = len(splits[first].factors["size"])
    which = f"{'all' if drawn < MAX_OBJECTS else 'the first'} {format_count(drawn, 'objects')}"
    table = [_format_row(name, values) for name, values in splits[first].factors.items()]
    return "\n".join(
        [
            f"# {' and '.join(classes) if len(classes) < 3 else f'{len(classes)} classes of objects'}",
            "",
            f"Synthetic images of {scene.width} x {scene.height} pixels, with masks.",
            "",
            head,
            "|---" * (4 + len(classes)) + "|",
            *rows,
            "",
            f"![the first {format_count(pictures, 'images')} of {first}, objects outlined](sheet/samples.png)",
            "",
            "## Measured difficulty factors",
            "",
            f"Measured on the pixels of {which} of {first} (in pixels, degrees, and fractions):",
            "",
            "| factor | minimum | 5% | median | 95% | maximum |",
            "|---|--:|--:|--:|--:|--:|",
            *table,
            "",
            "![histograms of these factors](sheet/factors.png)",
            "",
            "## How it was created",
            "",
            f"By version {recipe.version} of the generator, from `dataset.toml`; differences from the defaults:",
            "",
            *made,
            "",
            "`{split}/images` contains the images, `{split}/labels` 16-bit images of object numbers, "
            "`{split}/annotations.json` COCO annotations of the visible masks, with each object's factors. "
            "`manifest.json` lists the SHA-256 of every file and of every image's pixels; "
            "`python -m examples.check_data FOLDER` verifies them.",
            "",
        ]
    )


def _format_row(name: str, values: list[float | None]) -> str:
    seen, name = [value for value in values if value is not None], get_factor_label(name)
    if not seen:
        return f"| {name} | | | | | |"
    numbers = np.percentile(seen, [0, 5, 50, 95, 100])
    return f"| {name} | " + " | ".join(f"{number:.4g}" for number in numbers) + " |"
