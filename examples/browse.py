"""Draw training samples: `python -m examples.browse --mosaic=1 --rot_range_mag=45`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from maskrcnn.command_line import SettingsCommand, click_options, format_flags, take_flags
from maskrcnn.config import flag_values, merge, option, settings
from maskrcnn.programs import format_command
from maskrcnn.text import format_count
from workbench.config import ExperimentConfig, config_option, format_arguments, load_config, take_path
from workbench.output import check_png, choose_picture
from workbench.trust import check_trust

if TYPE_CHECKING:
    from torch import Tensor

    from maskrcnn.plotting.samples import Panel
    from maskrcnn.structures.instances import Instances
    from workbench.data import Data

SPLITS = ("train", "test")
_OTHER_FLAGS = [
    setting.flag
    for key, setting in settings(ExperimentConfig).items()
    if setting.flag and not key.startswith(("data.", "reading.", "augment.")) and key != "training.seed"
]


@dataclass(frozen=True)
class BrowseConfig:
    """Sheet of samples."""

    num_samples: int = option(
        12,
        "number of samples, over several epochs if there are fewer images",
        flag="num_samples",
        minimum=1,
        maximum=200,
    )
    columns: int = option(4, "number of images per row", flag="columns", minimum=1)
    split: str = option("train", "training samples with augmentation, or test images", flag="split", choices=SPLITS)
    epoch: int = option(0, "first epoch, from 0", flag="epoch", minimum=0)
    output: str | None = option(
        None, "PNG file to write (default: samples.png in a new folder, reports/browse-DATA-N)", flag="output"
    )
    raw: bool = option(False, "also draw each image without augmentation", flag="raw")


class BrowsedSample(NamedTuple):
    """One sample and its original image; `epoch` is None for test images."""

    name: str
    epoch: int | None
    image: Tensor
    instances: Instances
    raw_image: Tensor
    raw_instances: Instances


@click.command(
    cls=SettingsCommand,
    common=(
        "num_samples",
        "split",
        "output",
        "raw",
        "dataset",
        "dataset_root",
        "subset",
        "fixed_size",
        "scale_u_range",
        "rot_range_mag",
        "mosaic",
        "copy_paste",
        "blur",
        "gaussian_noise",
        "seed",
        "config",
    ),
    example=format_command("browse", "--rot_range_mag=45", "--scale_u_range=0.8:1.25"),
)
@click.argument("path", required=False)
@click_options(BrowseConfig)
@click_options(ExperimentConfig, without=_OTHER_FLAGS)
@config_option
def main(path: str | None, **flags: Any) -> None:
    """Draw training samples of the data set at PATH (or --dataset) in one picture, as training uses them.

    The options and the seed are those of training.

    Masks are outlined in a different color per object, with boxes; ignored objects are gray. Test images (--split=test)
    are drawn as evaluation uses them.
    """
    given = {flag: value for flag, value in take_path(path, flags).items() if value is not None}
    own = take_flags(BrowseConfig, given)
    browse = merge(BrowseConfig(), flag_values(BrowseConfig, own))
    config = load_config(flags=given)
    check_trust(config.data.dataset, flags)
    check_png(browse.output, "output")
    from workbench.data import open_data, resolve_dataset

    config = resolve_dataset(config, click.echo)
    drawn = list(iterate_samples(open_data(config, click.echo), config, browse))
    with choose_picture(browse.output, "output", "browse", "samples.png", config) as picture:
        write_sheet(drawn, browse, picture, config.augment.min_visible_fraction)
    print_statistics(drawn, picture, config.training.seed)
    print_next_commands(given, own, drawn[-1].epoch)


def iterate_samples(data: Data, config: ExperimentConfig, browse: BrowseConfig) -> Iterator[BrowsedSample]:
    """Iterate over samples as the data loader makes them, in the order of the data set, epoch by epoch.

    Test images are the same in every epoch, and returned once.
    """
    from workbench.experiment import make_training_samples

    if browse.split == "test":
        for index in range(min(browse.num_samples, len(data.test))):
            yield BrowsedSample(data.test.image_names[index], None, *data.test[index], *data.test[index])
        return
    keyed = make_training_samples(config, data)
    keys = ((epoch, index) for epoch in itertools.count(browse.epoch) for index in range(len(keyed)))
    for epoch, index in itertools.islice(keys, browse.num_samples):
        image, instances, _ = keyed[epoch, index]
        number = index // keyed.crops_per_image
        yield BrowsedSample(data.train.image_names[number], epoch, image, instances, *data.train[number])


def write_sheet(
    drawn: Sequence[BrowsedSample], browse: BrowseConfig, picture: Path, min_visible_fraction: float
) -> None:
    """Write the picture of all samples with a legend."""
    from maskrcnn.plotting.predictions import save_picture
    from maskrcnn.plotting.samples import render_sheet

    pairs = browse.raw and browse.split == "train"
    panels = [panel for each in drawn for panel in make_panels(each, pairs)]
    columns = max(2, browse.columns // 2 * 2) if pairs else browse.columns
    why = f"marked in the data, cut to less than {min_visible_fraction:.0%}, or mirrored at an edge"
    legend = [(False, "object: outline of its mask, and its box"), (True, f"ignored in training: {why}")]
    save_picture(render_sheet(panels, columns, legend), picture)


def make_panels(drawn: BrowsedSample, pair: bool) -> list[Panel]:
    """Make the panel of a sample, preceded by its original if `pair`.

    Objects with the same id have the same color (objects of other images, in mosaics or pasted, may share it).
    """
    from maskrcnn.plotting.canvas import compute_display_gain, make_vivid_colors
    from maskrcnn.plotting.samples import Panel

    indices = {
        number: at for at, number in enumerate(dict.fromkeys(get_ids(drawn.raw_instances) + get_ids(drawn.instances)))
    }
    palette = make_vivid_colors(len(indices))
    gain = compute_display_gain(drawn.raw_image)  # use the gain of the original for the sample

    def panel(image: Tensor, instances: Instances, kind: str) -> Panel:
        return Panel(image, instances, drawn.name, kind, [palette[indices[each]] for each in get_ids(instances)], gain)

    sample = panel(drawn.image, drawn.instances, "" if drawn.epoch is None else f"epoch {drawn.epoch}")
    return [panel(drawn.raw_image, drawn.raw_instances, "original"), sample] if pair else [sample]


def get_ids(instances: Instances) -> list[int]:
    """Return the ids, or indices if there are none."""
    values: list[int] = list(range(len(instances))) if instances.ids is None else instances.ids.tolist()
    return values


def print_statistics(drawn: Sequence[BrowsedSample], picture: Path, seed: int) -> None:
    """Print what was written, and the numbers and sizes of objects before and after augmentation."""
    first, last = drawn[0].epoch, drawn[-1].epoch
    if first is None:
        count = format_count(len(drawn), "test images")
        click.echo(f"{picture}: {count} as used for evaluation, without augmentation")
        click.echo(summarize([each.instances for each in drawn]))
        return
    epochs = f"epoch {first}" if first == last else f"epochs {first} to {last}"
    click.echo(f"{picture}: {format_count(len(drawn), 'training samples')} ({epochs}, seed {seed})")
    click.echo(f"augmented  {summarize([each.instances for each in drawn])}")
    click.echo(f"original   {summarize([each.raw_instances for each in drawn])}")


def summarize(images: Sequence[Instances]) -> str:
    """Summarize the numbers of kept and ignored objects, and the sizes of the kept ones."""
    import torch

    from maskrcnn.ops.boxes import box_area

    sizes = torch.cat([box_area(each.boxes[~each.ignore]).sqrt() for each in images])
    ignored = sum(int(each.ignore.sum()) for each in images)
    spread = ""
    if len(sizes):
        spread = f"; sizes {sizes.min():.1f} to {sizes.max():.1f} px, median {sizes.median():.1f} (√ of the box area)"
    return f"{format_count(len(sizes), 'objects')} kept, {ignored:,} ignored{spread}"


def print_next_commands(given: Mapping[str, Any], own: Mapping[str, Any], last_epoch: int | None) -> None:
    """Print the next commands: training with the same options, and browsing the next epoch."""
    click.echo(f"Next: {format_command('train', *format_arguments(given))}")
    if last_epoch is not None:
        kept = {flag: value for flag, value in own.items() if flag != "epoch"}
        flags = [*format_arguments(given), *format_flags(kept), f"--epoch={last_epoch + 1}"]
        click.echo(f"      {format_command('browse', *flags)}")


if __name__ == "__main__":
    main()
