"""Create the data sets of a sweep: one factor takes several values, everything else stays the same."""

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
from maskrcnn.command_line import click_options
from maskrcnn.config import UserError, flag_values, merge, option, settings
from maskrcnn.programs import format_command
from maskrcnn.text import format_count
from workbench.synthetic import (
    SCENE_OPTIONS,
    CreateConfig,
    RecipeCommand,
    ScenesConfig,
    apply_flags,
    create_data_set,
    find_training_obstacle,
    load_base_recipe,
)

PRESET = "ellipses"  # default
SIZE = "size"  # sets min_diameter and max_diameter


@dataclass(frozen=True)
class SweepConfig:
    """Sweep."""

    factor: str = option("contrast", f"option of the scenes, or {SIZE}: one diameter for all objects", flag="factor")
    values: tuple[str, ...] = option((), "values of the factor", flag="values")


@click.command(
    cls=RecipeCommand,
    preset=PRESET,
    common=(
        "factor",
        "values",
        "preset",
        "scene",
        *SCENE_OPTIONS,
    ),
    example=format_command("sweep", "--factor=contrast", "--values=.05,.1,.2,.4"),
)
@click_options(SweepConfig)
@click_options(ScenesConfig)
@click_options(CreateConfig)
def main(factor: str | None, values: str | None, preset: str | None, scene: str | None, **flags: Any) -> None:
    """Create a data set for each value of one factor; image i shows the same scene in all of them.

    --factor=contrast --values=.05,.1,.2,.4 writes contrast=.05 and so on below --path. The other options are those of
    the preset or of --scene, as shown by --help, and the flags.
    """
    sweep = merge(SweepConfig(), flag_values(SweepConfig, {"factor": factor, "values": values}))
    if preset is not None and scene is not None:
        raise UserError(f"--preset={preset} and --scene={scene}: give one of them")
    start = merge(ScenesConfig(preset=PRESET), flag_values(ScenesConfig, {"preset": preset, "scene": scene}))
    recipes = make_sweep(apply_flags(flags, load_base_recipe(start)), sweep.factor, sweep.values)
    root = Path(flags["path"] or f"data/sweep-{sweep.factor}")
    folders = {value: root / f"{sweep.factor}={value}" for value in sweep.values}
    check_folder(root, folders.values())
    for (value, folder), recipe in zip(folders.items(), recipes, strict=True):
        create_data_set(str(folder), recipe, bool(flags["overwrite"]), title=f"Drawing {sweep.factor}={value}")
    write_overview(root, sweep, folders)
    counts = ", ".join(f"{count} {split}" for split, count in recipes[0].counts.items() if count)
    click.echo(f"{root}: {format_count(len(recipes), 'data sets')} of {counts} images; see {root / 'README.md'}")
    if obstacle := find_training_obstacle(recipes[-1]):
        click.echo(obstacle)
        return
    click.echo("Next: train on one of them and evaluate on the others, for example")
    dataset = shlex.quote(f"--dataset_root={folders[sweep.values[-1]]}")
    click.echo(f"      {format_command('train', '--dataset=shapes')} {dataset}")


def make_sweep(base: Recipe, factor: str, values: Sequence[str]) -> list[Recipe]:
    """Make the recipe of each value; everything else is the same in all of them.

    Distances that depend on the objects' sizes (from the edge, and in the layout "apart") are those of the largest
    objects of the sweep.

    Raises:
        UserError: If there are no values, a value is repeated or invalid, or the factor is unknown.
    """
    from datasets.synthetic.scene import compute_exclusion_radius, compute_margin

    known = [setting.flag for setting in settings(SceneConfig).values() if setting.flag and setting.flag != "seed"]
    if factor not in (*known, SIZE):
        raise UserError(f"--factor={factor}: unknown option of scenes; use {SIZE} or one of {', '.join(sorted(known))}")
    if not values or len(set(values)) < len(values):
        raise UserError(f"--values={','.join(values)}: list distinct values of {factor}, such as .05,.1,.2")
    names = ("min_diameter", "max_diameter") if factor == SIZE else (factor,)
    scenes = [_set_value(base.scene, factor, names, value) for value in values]
    room = min(scene.max_margin for scene in scenes)
    pinned = {"margin": min(max(map(compute_margin, scenes)), room)}
    pinned["exclusion_radius"] = max(map(compute_exclusion_radius, scenes))
    pinned = {name: value for name, value in pinned.items() if name != factor}
    if base.scene.layout.exclusion_radius:
        pinned.pop("exclusion_radius", None)
    return [replace(base, scene=update_config(scene, **pinned)) for scene in scenes]


def _set_value(scene: SceneConfig, factor: str, names: Sequence[str], value: str) -> SceneConfig:
    try:
        return update_config(scene, **dict.fromkeys(names, value))
    except UserError as error:
        raise UserError(f"--factor={factor} --values={value}: {error}") from error


def check_folder(root: Path, folders: Iterable[Path]) -> None:
    """Check that the folder does not contain another sweep, whose data sets would be left without an overview.

    Raises:
        UserError: If it does.
    """
    others = sorted(path.name for path in {path.parent for path in root.glob("*/dataset.toml")} - set(folders))
    if others:
        raise UserError(f"{root}: contains '{others[0]}' of another sweep; remove it, or choose another --path")


def write_overview(root: Path, sweep: SweepConfig, folders: dict[str, Path]) -> None:
    """Write README.md, with one image under each value and the measured factors, and sweep.json for programs."""
    from datasets.readers.generated import Generated
    from maskrcnn.files import write_text
    from maskrcnn.plotting.factors import get_factor_label
    from maskrcnn.plotting.predictions import save_picture
    from maskrcnn.plotting.samples import Panel, render_sheet
    from workbench.data_sheet import read_contents

    splits = {path.parent.name for path in next(iter(folders.values())).glob("*/annotations.json")}
    split = "train" if "train" in splits else min(splits)
    panels = []
    for value, folder in folders.items():
        image, objects = Generated(folder, split)[0]
        panels.append(Panel(image, objects, f"{sweep.factor}={value}", draw_objects=False))
    save_picture(render_sheet(panels, columns=min(4, len(panels))), root / "samples.png")
    contents = {value: read_contents(folder / split / "annotations.json", 0) for value, folder in folders.items()}
    columns = {value: {"objects": each.objects.total(), **each.compute_medians()} for value, each in contents.items()}
    names = list(next(iter(columns.values())))
    rows = [
        f"| {value} | " + " | ".join(f"{column[name]:.4g}" for name in names) + " |"
        for value, column in columns.items()
    ]
    asked = " (requested is the diameter; √area is .886 of it, plus `outline`)" * (sweep.factor == SIZE)
    lines = [
        f"# A sweep of {sweep.factor}",
        "",
        "Image i shows the same scene in every folder, except for this factor and its effects.",
        "",
        "![the first image under each value](samples.png)",
        "",
        f"Visible objects in `{split}`, and medians of the measured factors{asked}:",
        "",
        f"| requested {sweep.factor} | " + " | ".join(map(get_factor_label, names)) + " |",
        "|---" + "|--:" * len(names) + "|",
        *rows,
        "",
    ]
    write_text(root / "README.md", "\n".join(lines))
    card = {"factor": sweep.factor, "values": {value: folder.name for value, folder in folders.items()}}
    write_text(root / "sweep.json", json.dumps(card, indent=1) + "\n")


if __name__ == "__main__":
    main()
