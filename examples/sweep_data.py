"""Makes the data sets of a sweep: one factor takes several values, the rest of every image stays as it is."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from datasets.synthetic.config import SceneConfig, update_config
from datasets.synthetic.recipes import Recipe
from examples.command_line import click_options
from examples.creating import CreateConfig, RecipeCommand, ScenesConfig, base_recipe, make, recipe_of
from maskrcnn.config import UserError, flag_values, merge, option, settings

PRESET = "ellipses"  # unless given
SIZE = "size"  # smallest and largest diameter at once


@dataclass(frozen=True)
class SweepConfig:
    """Sweep."""

    factor: str = option("contrast", f"a setting of the scenes, or {SIZE}: all objects of one diameter", flag="factor")
    values: tuple[str, ...] = option((), "its values", flag="values")


@click.command(
    cls=RecipeCommand,
    preset=PRESET,
    common=(
        "factor",
        "values",
        "preset",
        "scene",
        "path",
        "n_train",
        "n_val",
        "n_test",
        "width",
        "height",
        "n_groups",
        "n_objects_per_group",
        "n_free",
        "min_diameter",
        "max_diameter",
        "contrast",
        "noise",
        "psf",
        "seed",
        "overwrite",
    ),
    example="python -m examples.sweep_data --factor=contrast --values=.05,.1,.2,.4",
)
@click_options(SweepConfig)
@click_options(ScenesConfig)
@click_options(CreateConfig)
def main(factor: str | None, values: str | None, preset: str | None, scene: str | None, **flags: Any) -> None:
    """Make a data set for each value of one factor, paired: image i shows the same scene in all of them.

    --factor=contrast --values=.05,.1,.2,.4 writes contrast=.05 and so on below --path. The other settings are those of
    the preset or of --scene, which --help shows, and of the flags.
    """
    sweep = merge(SweepConfig(), flag_values(SweepConfig, {"factor": factor, "values": values}))
    if preset is not None and scene is not None:
        raise UserError(f"--preset={preset} and --scene={scene}: give one of them")
    start = merge(ScenesConfig(preset=PRESET), flag_values(ScenesConfig, {"preset": preset, "scene": scene}))
    recipes = sweep_of(recipe_of(flags, base_recipe(start)), sweep.factor, sweep.values)
    root = Path(flags["path"] or f"data/sweep-{sweep.factor}")
    folders = {value: root / f"{sweep.factor}={value}" for value in sweep.values}
    check_room(root, folders.values())
    for (value, folder), recipe in zip(folders.items(), recipes, strict=True):
        make(str(folder), recipe, bool(flags["overwrite"]), title=f"Drawing {sweep.factor}={value}")
    write_overview(root, sweep, folders)
    counts = ", ".join(f"{count} {split}" for split, count in recipes[0].counts.items() if count)
    click.echo(f"{root}: {len(recipes)} data sets of {counts} images; see {root / 'README.md'}")
    click.echo("Next: train on one and look at the others, for example")
    dataset = shlex.quote(f"--dataset_root={folders[sweep.values[-1]]}")
    click.echo(f"      python example_smallobject_train.py --dataset=shapes {dataset}")


def sweep_of(base: Recipe, factor: str, values: Sequence[str]) -> list[Recipe]:
    """The recipe of each value. What is drawn besides is the same in all of them.

    Distances that follow from the objects' sizes (from the edge, and between those that lie apart) are those of the
    largest objects of the sweep.

    Raises:
        UserError: no values, one given twice, a factor that is none, or a value that is none of it.
    """
    from datasets.synthetic.scene import compute_exclusion_radius, compute_margin

    known = [setting.flag for setting in settings(SceneConfig).values() if setting.flag and setting.flag != "seed"]
    if factor not in (*known, SIZE):
        raise UserError(f"--factor={factor}: is no setting of a scene; use {SIZE} or one of {', '.join(sorted(known))}")
    if not values or len(set(values)) < len(values):
        raise UserError(f"--values={','.join(values)}: give the values of {factor}, each once, such as .05,.1,.2")
    names = ("min_diameter", "max_diameter") if factor == SIZE else (factor,)
    scenes = [_with_value(base.scene, factor, names, value) for value in values]
    room = min(scene.max_margin for scene in scenes)
    pinned = {"margin": min(max(map(compute_margin, scenes)), room)}
    pinned["exclusion_radius"] = max(map(compute_exclusion_radius, scenes))
    pinned = {name: value for name, value in pinned.items() if name != factor}
    if base.scene.layout.exclusion_radius:
        pinned.pop("exclusion_radius", None)
    return [replace(base, scene=update_config(scene, **pinned)) for scene in scenes]


def _with_value(scene: SceneConfig, factor: str, names: Sequence[str], value: str) -> SceneConfig:
    try:
        return update_config(scene, **dict.fromkeys(names, value))
    except UserError as error:
        raise UserError(f"--factor={factor} --values={value}: {error}") from error


def check_room(root: Path, folders: Iterable[Path]) -> None:
    """UserError where another sweep lies, whose data sets would be left behind without an overview."""
    others = sorted(path.name for path in {path.parent for path in root.glob("*/dataset.toml")} - set(folders))
    if others:
        raise UserError(f"{root}: holds '{others[0]}' of another sweep; remove it, or choose another --path")


def write_overview(root: Path, sweep: SweepConfig, folders: dict[str, Path]) -> None:
    """README.md with the same image under each value and what was measured, and sweep.json for programs."""
    from datasets.readers.generated import Generated
    from examples.data_sheet import read_contents
    from maskrcnn.files import write_text
    from maskrcnn.plotting.predictions import save_picture
    from maskrcnn.plotting.samples import Panel, render_sheet

    splits = {path.parent.name for path in next(iter(folders.values())).glob("*/annotations.json")}
    split = "train" if "train" in splits else min(splits)
    panels = []
    for value, folder in folders.items():
        image, truth = Generated(folder, split)[0]
        panels.append(Panel(image, truth, f"{sweep.factor}={value}", draw_objects=False))
    save_picture(render_sheet(panels, columns=min(4, len(panels))), root / "samples.png")
    contents = {value: read_contents(folder / split / "annotations.json", 0) for value, folder in folders.items()}
    columns = {value: {"objects": each.objects.total(), **each.medians()} for value, each in contents.items()}
    names = list(next(iter(columns.values())))
    rows = [
        f"| {value} | " + " | ".join(f"{column[name]:.4g}" for name in names) + " |"
        for value, column in columns.items()
    ]
    asked = " (asked for is the diameter, of which √area is .886; `outline` adds to it)" * (sweep.factor == SIZE)
    lines = [
        f"# A sweep of {sweep.factor}",
        "",
        "Image i shows the same scene in every folder, but for this factor and what follows from it.",
        "",
        "![the first image under each value](samples.png)",
        "",
        f"Objects seen in `{split}`, and medians of what they came to be{asked}:",
        "",
        f"| {sweep.factor} asked for | " + " | ".join(names) + " |",
        "|---" + "|--:" * len(names) + "|",
        *rows,
        "",
    ]
    write_text(root / "README.md", "\n".join(lines))
    card = {"factor": sweep.factor, "values": {value: folder.name for value, folder in folders.items()}}
    write_text(root / "sweep.json", json.dumps(card, indent=1) + "\n")


if __name__ == "__main__":
    main()
