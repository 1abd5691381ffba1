"""The data sheet of a synthetic data set: what is in it, how it was made, what its objects came to be."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from datasets.readers.generated import Generated
from datasets.readers.json_stream import JsonStream
from datasets.synthetic.factors import Factors
from datasets.synthetic.recipes import Recipe
from maskrcnn.config import differences
from maskrcnn.files import write_text
from maskrcnn.plotting.factors import plot_factors
from maskrcnn.plotting.predictions import save_picture
from maskrcnn.plotting.samples import Panel, render_sheet

PICTURES = 6
MOST_OBJECTS = 20_000  # whose factors are drawn, so that memory does not grow with the data


@dataclass
class Contents:
    """What one split holds. ``factors``: those of its first objects, by name."""

    images: int
    class_names: tuple[str, ...]
    objects: Counter[str] = field(default_factory=Counter)
    ignored: int = 0
    factors: dict[str, list[float | None]] = field(default_factory=lambda: {name: [] for name in Factors.names()})

    def medians(self) -> dict[str, float]:
        """Of each factor; nan where none was measured."""
        seen = {name: [value for value in values if value is not None] for name, values in self.factors.items()}
        return {name: float(np.median(values)) if values else float("nan") for name, values in seen.items()}


def write_data_sheet(folder: Path, recipe: Recipe) -> None:
    """Write README.md and its pictures into the folder of a data set that is otherwise complete."""
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
    write_text(folder / "README.md", sheet_text(recipe, splits, first, len(panels)))


def read_contents(annotations: Path, images: int) -> Contents:
    """Counts and factors from a split's annotations, read one by one."""
    with JsonStream(annotations) as stream:
        names: dict[int, str] = {}
        contents = Contents(images, ())
        for entry in stream.entries(("categories", "annotations")):
            if entry.key == "categories":
                names[entry.value["id"]] = entry.value["name"]
                continue
            contents.objects[names[entry.value["category_id"]]] += 1
            contents.ignored += entry.value["iscrowd"]
            if len(contents.factors["size"]) < MOST_OBJECTS:
                for name, values in contents.factors.items():
                    values.append(entry.value["factors"][name])
    contents.class_names = tuple(names[number] for number in sorted(names))
    return contents


def sheet_text(recipe: Recipe, splits: dict[str, Contents], first: str, pictures: int) -> str:
    """The sheet in Markdown."""
    scene = recipe.scene
    classes = splits[first].class_names
    head = "| split | images | objects | to ignore | " + " | ".join(classes) + " |"
    rows = [
        f"| {split} | {each.images:,} | {each.objects.total():,} | {each.ignored:,} | "
        + " | ".join(f"{each.objects[name]:,}" for name in classes)
        + " |"
        for split, each in splits.items()
    ]
    changes = differences(Recipe(), recipe)
    made = [f"- `{change.split(': ')[0]}`: {change.rpartition(' -> ')[2]}" for change in changes] or ["- all defaults"]
    drawn = len(splits[first].factors["size"])
    table = [_row(name, values) for name, values in splits[first].factors.items()]
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
            f"![the first {pictures} images of {first}, objects outlined](sheet/samples.png)",
            "",
            "## What the objects came to be",
            "",
            f"Measured on the pixels of {'all' if drawn < MOST_OBJECTS else 'the first'} {drawn:,} objects of {first} "
            "(in pixels, degrees and shares):",
            "",
            "| factor | least | 5% | median | 95% | most |",
            "|---|--:|--:|--:|--:|--:|",
            *table,
            "",
            "![histograms of these factors](sheet/factors.png)",
            "",
            "## How it was made",
            "",
            f"By version {recipe.version} of the generator, from `dataset.toml`; what differs from the defaults:",
            "",
            *made,
            "",
            "`{split}/images` holds the images, `{split}/labels` 16-bit images of object numbers, "
            "`{split}/annotations.json` COCO's annotations of what is visible, with each object's factors. "
            "`manifest.json` lists the SHA-256 of every file and of every image's pixels; "
            "`python -m examples.check_data FOLDER` compares.",
            "",
        ]
    )


def _row(name: str, values: list[float | None]) -> str:
    seen = [value for value in values if value is not None]
    if not seen:
        return f"| {name} | | | | | |"
    numbers = np.percentile(seen, [0, 5, 50, 95, 100])
    return f"| {name} | " + " | ".join(f"{number:.4g}" for number in numbers) + " |"
