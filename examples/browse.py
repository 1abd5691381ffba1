"""Draws what training is shown: `python -m examples.browse --mosaic=1 --rot_range_mag=45`."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from examples.command_line import SettingsCommand, as_typed, click_options
from examples.config import ExperimentConfig, config_option, load_config
from examples.trust import check_trust
from maskrcnn.config import UserError, flag_values, merge, option, settings

if TYPE_CHECKING:
    from torch import Tensor

    from examples.experiment import Data
    from maskrcnn.plotting.samples import Panel
    from maskrcnn.structures.instances import Instances

SPLITS = ("train", "test")
_OTHER_FLAGS = [
    setting.flag
    for key, setting in settings(ExperimentConfig).items()
    if setting.flag and not key.startswith(("data.", "reading.", "augment.")) and key != "training.seed"
]


@dataclass(frozen=True)
class BrowseConfig:
    """Pictures."""

    num_samples: int = option(
        12,
        "samples to draw; when all images are drawn, the next epoch follows",
        flag="num_samples",
        minimum=1,
        maximum=200,
    )
    columns: int = option(4, "pictures in a row", flag="columns", minimum=1)
    split: str = option(
        "train", "training images as augmented, or test images, which never are", flag="split", choices=SPLITS
    )
    epoch: int = option(0, "epoch, counted from 0, whose samples are drawn", flag="epoch", minimum=0)
    output: str = option("browse.png", "PNG file to write", flag="output")
    raw: bool = option(False, "draw each image without augmentation, too, on the left", flag="raw")


class Drawn(NamedTuple):
    """One sample and the image it was made from."""

    name: str
    epoch: int | None  # None: a test image
    image: Tensor
    instances: Instances
    raw_image: Tensor
    raw_instances: Instances


@click.command(
    cls=SettingsCommand,
    common=(
        "dataset",
        "dataset_root",
        "subset",
        "fixed_size",
        "scale_u_range",
        "rot_range_mag",
        "affine_std",
        "mosaic",
        "copy_paste",
        "light_scl_std",
        "blur",
        "gaussian_noise",
        "seed",
        "config",
    ),
    example="python -m examples.browse --rot_range_mag=45 --scale_u_range=0.8:1.25",
)
@click_options(BrowseConfig)
@click_options(ExperimentConfig, without=_OTHER_FLAGS)
@config_option
def main(**flags: Any) -> None:
    """Draw training samples in one picture, exactly as training with these settings and this seed is shown them.

    Each object is outlined in its own colour along the edge of its mask, with its box; those to ignore are grey. Test
    images (--split=test) are drawn as evaluation is shown them.
    """
    given = {flag: value for flag, value in flags.items() if value is not None}
    own = {flag: given.pop(flag) for flag in settings(BrowseConfig) if flag in given}
    browse = merge(BrowseConfig(), flag_values(BrowseConfig, own))
    config = load_config(flags=given)
    check_trust(config.data.dataset, flags)
    check_output(Path(browse.output))
    from examples.experiment import open_data

    drawn = list(samples(open_data(config, click.echo), config, browse))
    write_sheet(drawn, browse, config.augment.min_visible_fraction)
    say_figures(drawn, browse, config.training.seed)
    say_next(given, own, drawn[-1].epoch)


def check_output(path: Path) -> None:
    """UserError now for a picture that could not be written in the end."""
    if path.suffix.lower() != ".png":
        raise UserError(f"--output={path}: must end in .png")
    if not path.parent.is_dir():
        raise UserError(f"--output={path}: there is no folder {path.parent}; make it first, or choose another")
    if path.is_dir():
        raise UserError(f"--output={path}: is a folder; choose another name")


def samples(data: Data, config: ExperimentConfig, browse: BrowseConfig) -> Iterator[Drawn]:
    """What the loaders make, in the order of the data set; after the last image comes the next epoch's first.

    Test images are the same in every epoch, and drawn once.
    """
    from examples.experiment import training_samples

    if browse.split == "test":
        for index in range(min(browse.num_samples, len(data.test))):
            yield Drawn(data.test.image_names[index], None, *data.test[index], *data.test[index])
        return
    keyed = training_samples(config, data)
    keys = ((epoch, index) for epoch in itertools.count(browse.epoch) for index in range(len(keyed)))
    for epoch, index in itertools.islice(keys, browse.num_samples):
        image, instances, _ = keyed[epoch, index]
        number = index // keyed.crops_per_image
        yield Drawn(data.train.image_names[number], epoch, image, instances, *data.train[number])


def write_sheet(drawn: Sequence[Drawn], browse: BrowseConfig, min_visible_fraction: float) -> None:
    """The picture of all samples with a legend of what is ignored."""
    from maskrcnn.plotting.predictions import save_picture
    from maskrcnn.plotting.samples import render_sheet

    pairs = browse.raw and browse.split == "train"
    panels = [panel for each in drawn for panel in panels_of(each, pairs)]
    columns = max(2, browse.columns // 2 * 2) if pairs else browse.columns
    why = f"marked so in the data, cut to less than {min_visible_fraction:.0%}, or mirrored at an edge"
    legend = [(False, "an object: the edge of its mask, and its box"), (True, f"ignored in training: {why}")]
    save_picture(render_sheet(panels, columns, legend), browse.output)


def panels_of(drawn: Drawn, pair: bool) -> list[Panel]:
    """The sample, in a pair after its original; objects with the same id have the same colour (those of other images,
    in mosaics and pasted in, may share it with one of this image).
    """
    from maskrcnn.plotting.canvas import compute_display_gain, make_vivid_colors
    from maskrcnn.plotting.samples import Panel

    place = {
        number: at for at, number in enumerate(dict.fromkeys(numbers(drawn.raw_instances) + numbers(drawn.instances)))
    }
    palette = make_vivid_colors(len(place))
    gain = compute_display_gain(drawn.raw_image)  # a sample is shown brighter as much as its original

    def panel(image: Tensor, instances: Instances, kind: str) -> Panel:
        return Panel(image, instances, drawn.name, kind, [palette[place[each]] for each in numbers(instances)], gain)

    sample = panel(drawn.image, drawn.instances, "" if drawn.epoch is None else f"epoch {drawn.epoch}")
    return [panel(drawn.raw_image, drawn.raw_instances, "original"), sample] if pair else [sample]


def numbers(instances: Instances) -> list[int]:
    """The ids, or places in the list where there are none."""
    values: list[int] = list(range(len(instances))) if instances.ids is None else instances.ids.tolist()
    return values


def say_figures(drawn: Sequence[Drawn], browse: BrowseConfig, seed: int) -> None:
    """What was written, and how many objects of what sizes there are before and after."""
    first, last = drawn[0].epoch, drawn[-1].epoch
    if first is None:
        click.echo(f"{browse.output}: {len(drawn)} test images as evaluation is shown them, without augmentation")
        click.echo(summary([each.instances for each in drawn]))
        return
    epochs = f"epoch {first}" if first == last else f"epochs {first} to {last}"
    click.echo(f"{browse.output}: {len(drawn)} samples as training is shown them ({epochs}, seed {seed})")
    click.echo(f"augmented  {summary([each.instances for each in drawn])}")
    click.echo(f"original   {summary([each.raw_instances for each in drawn])}")


def summary(images: Sequence[Instances]) -> str:
    """Objects kept and ignored, and the sizes of those kept."""
    import torch

    from maskrcnn.ops.boxes import box_area

    sizes = torch.cat([box_area(each.boxes[~each.ignore]).sqrt() for each in images])
    ignored = sum(int(each.ignore.sum()) for each in images)
    spread = ""
    if len(sizes):
        spread = f"; sizes {sizes.min():.1f} to {sizes.max():.1f} px, median {sizes.median():.1f} (√ of the box's area)"
    return f"{len(sizes)} objects kept, {ignored} ignored{spread}"


def say_next(given: Mapping[str, Any], own: Mapping[str, Any], last_epoch: int | None) -> None:
    """What to type next: training with the same flags, and this with the next epoch."""
    click.echo(f"Next: {shlex.join(['python', 'example_smallobject_train.py', *as_typed(given)])}")
    if last_epoch is not None:
        kept = {flag: value for flag, value in own.items() if flag != "epoch"}
        flags = [*as_typed(given), *as_typed(kept), f"--epoch={last_epoch + 1}"]
        click.echo(f"      {shlex.join(['python', '-m', 'examples.browse', *flags])}")


if __name__ == "__main__":
    main()
