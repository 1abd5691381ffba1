"""Opening of the configured data sets, with notes on what was left out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import track

from datasets.classes import ClassMap
from datasets.deep_images import DeepImages
from datasets.expressions import Expression
from datasets.interface import DetectionDataset, get_category_ids, read_objects
from datasets.joined import JoinedDataset, join_class_names
from datasets.notices import NAMES, Preview, describe_notices, preview
from datasets.recognition import recognize
from datasets.registry import AUTO, ELLIPSES, FORMATS, SYNTHETIC, DatasetName, parse_names
from datasets.selection import BadImages, ProgressWrapper, Subset, select_images
from datasets.splits import Splits, collect_counts, find_originals, hold_out, list_readers, open_splits
from maskrcnn.config import UserError
from maskrcnn.files import finish_exchange
from maskrcnn.images.levels import Levels
from maskrcnn.images.options import make_image_options
from maskrcnn.model.config import ImageConfig
from maskrcnn.programs import format_command
from maskrcnn.text import format_count
from workbench.config import AUTO_HEAD, CONFIG_FILE, ExperimentConfig
from workbench.data_images import Notify, examine_images

SKIP_BAD = "use --skip_bad to leave it out"


class Data(NamedTuple):
    """The splits of a data set, with the same classes.

    The validation set selects the weights, and the test set is used once, at the end. If there is no validation set,
    `validation` is `test`. `bad` has the images left out by --skip_bad.
    """

    train: DetectionDataset
    validation: DetectionDataset
    test: DetectionDataset
    bad: Mapping[str, BadImages] = {}  # never modified
    gray_levels: Levels | None = None  # of images with more than 8 bits
    channels: int = 3  # of every image
    seen: Preview = Preview()  # what was read when the data was opened
    shown: Sequence[str] = ()  # notices that were shown then

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names in the order of the labels."""
        return self.train.class_names

    @property
    def category_ids(self) -> tuple[int, ...]:
        """Category ids of the classes in the test set, with which predictions are compared."""
        return get_category_ids(self.test)

    @property
    def has_masks(self) -> bool:
        """Whether the training images have masks."""
        return self.train.has_masks

    @property
    def validates_on_test(self) -> bool:
        """Whether the test images also select the weights."""
        return self.validation is self.test

    def splits(self) -> dict[str, DetectionDataset]:
        """Return the splits by name, without a validation set that is the test set."""
        found = {"training": self.train, "validation": self.validation, "test": self.test}
        return {name: dataset for name, dataset in found.items() if name != "validation" or not self.validates_on_test}

    def counted(self) -> str:
        """Describe the number of images of each split."""
        *others, last = (f"{len(dataset):,} {name}" for name, dataset in self.splits().items())
        return f"{', '.join(others)} and {last} images"

    def notes(
        self, seen: Preview | None = None, counts: Mapping[str, Mapping[str, int]] | None = None
    ) -> Iterator[str]:
        """Yield what was left out, dropped or clipped, one line per kind (see `datasets.notices.describe_notices`)."""
        for name, bad in self.bad.items():
            if len(bad):
                yield f"--skip_bad left out {format_count(len(bad), f'{name} images')}:"
                yield from (f"    {line}" for line in bad.lines())
        yield from describe_notices(collect_counts(self.splits()) if counts is None else counts, seen)

    def seen_with_tests(self) -> Preview:
        """Return what has been read once all test and validation images have been read."""
        return replace(
            self.seen, partial={name: each for name, each in self.seen.partial.items() if name == "training"}
        )


def resolve_dataset(config: ExperimentConfig, notify: Notify = print) -> ExperimentConfig:
    """Return the configuration with the recognized format in place of `--dataset=auto`.

    Without `--dataset_root`, it is the default data set of ellipses.

    Raises:
        UserError: If the folder does not exist, or matches no format or several.
    """
    root = config.data.dataset_root
    if config.data.dataset != AUTO:
        return config
    if root is None:
        return replace(config, data=replace(config.data, dataset=ELLIPSES))
    finish_exchange(root)
    found = recognize(Path(root))
    notify(f"{root}: read as --dataset={found.name} (found {found.reason})")
    return replace(config, data=replace(config.data, dataset=found.name))


def resolve_head(config: ExperimentConfig, data: Data, notify: Notify = print) -> ExperimentConfig:
    """Return the configuration with the head that the data allows in place of `--head=auto`."""
    if config.head != AUTO_HEAD:
        return config
    if not data.has_masks:
        notify("the data has boxes only, so --head=faster_rcnn is trained (--head=mask_rcnn needs masks)")
    return replace(config, head="mask_rcnn" if data.has_masks else "faster_rcnn")


def open_data(
    config: ExperimentConfig, notify: Notify = print, head: str | None = None, given: Splits | None = None
) -> Data:
    """Open the configured data; the default data set of ellipses is created if it does not exist.

    Args:
        config: options of the experiment.
        notify: called with messages.
        head: stages of the detector, to check that the data has the masks it needs.
        given: the splits of the data set, if it is already open.

    Raises:
        UserError: If the data set is unknown, missing, empty or invalid, an expression is invalid, or masks are
            missing.
    """
    config = resolve_dataset(config, notify)
    data = config.data
    named = parse_names(data.dataset)
    expressions = {
        split: Expression(text, flag)
        for split, flag, text in (("train", "--subset", data.subset), ("test", "--test_subset", data.test_subset))
        if text is not None
    }
    if len(named) > 1:
        _check_single_options(config)
    opened = (
        [open_splits(each, _get_root(config, each, notify), data, config.reading) for each in named]
        if given is None
        else [given]
    )
    ClassMap.parse(config.reading).check(
        reader for each in opened for part in each.parts for reader in list_readers(part)
    )
    boxes_only = [
        each for each, splits in zip(named, opened, strict=True) if not all(part.has_masks for part in splits.parts)
    ]
    if head is not None:
        check_head(head, boxes_only)
    options = make_image_options(data, config.detector.image.channels)
    if options.channels == ImageConfig.channels:  # the default: those of the data
        options = replace(options, channels=0)
    whole = {
        split: DeepImages(dataset, options=options, hint="" if data.skip_bad else SKIP_BAD)
        for split, dataset in _join_data(named, opened, boxes_only, notify).items()
    }
    levels, first = examine_images(config, named, opened, whole, notify)
    chosen, bad = _choose_images(config, whole, expressions, notify)
    for line in (note for each in opened for note in each.notes):
        notify(line)
    has_val = [each.val is not None for each in opened for _ in range(len(each.train))]
    if chosen["train"] is not whole["train"]:
        assert isinstance(chosen["train"], Subset)
        has_val = [has_val[place] for place in chosen["train"].places]
    if len(named) > 1:  # one set's training images may be another's test images
        kept = find_originals(chosen["train"], [dataset for split, dataset in chosen.items() if split != "train"])
        if copies := len(chosen["train"]) - len(kept):
            what = "training images with a copy among the validation or test images are left out"
            notify(format_count(copies, what))
            has_val = [has_val[place] for place in kept]
            chosen["train"] = Subset(chosen["train"], kept)
    validated = Data(
        *_choose_validation(config, chosen, has_val, notify), chosen["test"], bad, levels, first[1] if first else 3
    )
    if get_category_ids(validated.train) != validated.category_ids:
        numbers = [", ".join(map(str, get_category_ids(each))) for each in (validated.train, validated.test)]
        notify(f"category ids of the classes differ: {numbers[0]} (training), {numbers[1]} (test, used in predictions)")
    seen = Preview() if data.skip_bad else preview(validated.splits())  # --skip_bad has read all images
    shown = list(validated.notes(seen))
    for line in shown:
        notify(line)
    return validated._replace(seen=seen, shown=shown)


def _choose_images(
    config: ExperimentConfig,
    whole: Mapping[str, DetectionDataset],
    expressions: Mapping[str, Expression],
    notify: Notify,
) -> tuple[dict[str, DetectionDataset], dict[str, BadImages]]:
    """Return the images of each split that expressions and --skip_bad choose, and those left out, by name."""
    chosen, bad = {}, {}
    for split, dataset in whole.items():
        over = _make_wrapper(config, NAMES[split], notify)
        expression = expressions.get(split)
        chosen[split], bad[NAMES[split]] = select_images(dataset, expression, config.data.skip_bad, over)
        if expression is not None:
            notify(f"{NAMES[split]} images: {len(chosen[split]):,} of {len(dataset):,} chosen")
    return chosen, bad


def _choose_validation(
    config: ExperimentConfig, chosen: Mapping[str, DetectionDataset], has_val: Sequence[bool], notify: Notify
) -> tuple[DetectionDataset, DetectionDataset]:
    """Return training and validation images: existing validation sets, and images held out where there is none.

    `has_val` is true for training images of data sets that have a validation set.
    """
    train, own, fraction = chosen["train"], chosen.get("val"), config.data.val_fraction
    kept, held = hold_out(train, fraction, config.data.split_seed, [not each for each in has_val])
    if held is not None:
        notify(
            format_count(len(held), f"of {len(train):,} training images are held out for validation")
            + f" (--val_fraction={fraction:g}, --subsetseed={config.data.split_seed})"
        )
    if own is not None and held is not None:
        return kept, JoinedDataset([own, held], ["val", "train"], train.class_names, train.has_masks)
    if (validation := own or held) is not None:
        return kept, validation
    why = "--val_fraction=0" if not fraction else "too few training images to hold one out"
    notify(f"the test images serve as validation, too ({why}): their own figures choose the best weights")
    return train, chosen["test"]


def set_image_options(config: ExperimentConfig, data: Data) -> ExperimentConfig:
    """Return the configuration with the channels and gray levels of its data, which are saved with a run."""
    image = replace(config.detector.image, channels=data.channels, gray_levels=data.gray_levels or ())
    return replace(config, detector=replace(config.detector, image=image))


def check_objects(data: Data, notify: Notify) -> None:
    """Check that each split has objects, by reading images until the first object.

    Raises:
        UserError: If no training image has an object that is not ignored, or an image cannot be read.
    """
    for name, dataset in data.splits().items():
        if any(bool((~read_objects(dataset, index).ignore).any()) for index in range(len(dataset))):
            continue
        if name == "training":
            raise UserError(
                f"none of the {len(dataset)} training images has an object that is not ignored; check the annotations, "
                "or choose other data"
                + "; or use --crowds=objects to keep crowds as objects"
                * any("ignored as crowds" in rule for rule in dataset.counts)
            )
        notify(
            f"none of the {len(dataset)} {name} images has an object that is not ignored: AP and recall cannot be "
            "measured" + (", so the validation loss selects the best weights" if name == "validation" else "")
        )


def check_head(head: str, boxes_only: Sequence[DatasetName]) -> None:
    """Raise a UserError for Mask R-CNN if some of the data has no masks."""
    if head != "mask_rcnn" or not boxes_only:
        return
    names = " and ".join(each.text for each in boxes_only)
    other = [f"{each.name}:{variant}" for each in boxes_only for variant in _list_mask_variants(each)]
    raise UserError(
        f"--head=mask_rcnn needs masks, and {names} has boxes only; use --head=faster_rcnn or --head=rpn"
        + (f", or {', '.join(other)}" if other else "")
    )


def _list_mask_variants(named: DatasetName) -> list[str]:
    variants = FORMATS[named.name].variants if named.name in FORMATS else ()
    return [each for each in variants if each.endswith("-masks") and each.startswith(named.rest or variants[0])]


def _check_single_options(config: ExperimentConfig) -> None:
    data = config.data
    if data.dataset_root is not None:
        raise UserError(
            f"--dataset_root={data.dataset_root}: is one folder, and --dataset={data.dataset} names several data sets; "
            f"give each its own in [paths] of {CONFIG_FILE}"
        )
    if data.split_file is not None:
        raise UserError(f"--split_file={data.split_file}: splits one data set; {data.dataset} names several")


def _get_root(config: ExperimentConfig, named: DatasetName, notify: Notify) -> str:
    """Return the folder of one data set; raise a UserError if it is not configured."""
    given = config.data.dataset_root
    if named.is_class:
        if given is not None and named.rest:
            raise UserError(f"--dataset_root={given}: {named.text} names a folder, too; leave one of them out")
        return named.rest or given or "."
    if named.name == SYNTHETIC:
        if given is not None:
            raise UserError(f"--dataset_root={given}: {named.text} needs no folder, it is drawn; leave this out")
        return "."
    key = named.path_key
    assert key is not None
    root = given or getattr(config.paths, key)
    if root is None:
        flag = "Give --dataset_root=FOLDER, or" if "+" not in config.data.dataset else "Give"
        raise UserError(f"where is {named.text}? {flag} {key} in [paths] of {CONFIG_FILE}")
    finish_exchange(root)
    if named.name == "ellipses" and given is None and not Path(root).exists():
        from datasets.synthetic.recipes import Recipe
        from workbench.synthetic import create_data_set

        notify(f"No ellipses at {root}: making them, as {format_command('ellipses')} does")
        create_data_set(root, Recipe())
    return os.fspath(root)


def _join_data(
    named: Sequence[DatasetName], opened: Sequence[Splits], boxes_only: Sequence[DatasetName], notify: Notify
) -> dict[str, DetectionDataset]:
    """Join the data sets of each split, with the same classes; report what joining leaves out."""
    found = {
        split: {
            one.text: part
            for one, splits in zip(named, opened, strict=True)
            if (part := getattr(splits, split)) is not None
        }
        for split in ("train", "test", "val")
    }
    classes = {split: join_class_names(parts.values()) for split, parts in found.items()}
    class_names = tuple(dict.fromkeys(name for names in classes.values() for name in names))
    if unseen := [name for name in class_names if name not in classes["train"]]:
        where = " and ".join(NAMES[split] for split in ("val", "test") if set(unseen) & set(classes[split]))
        notify(f"classes of {where} images alone, which nothing is trained on: {', '.join(unseen)}")
    with_masks = not boxes_only
    if boxes_only and any(part.has_masks for parts in found.values() for part in parts.values()):
        notify(f"{' and '.join(each.text for each in boxes_only)} has boxes only: all masks are left out")
    whole: dict[str, DetectionDataset] = {}
    for split, parts in found.items():
        others = [part for other in found.values() for part in other.values()]
        for part in parts.values():
            plain = len(parts) == 1 and part.class_names == class_names and part.has_masks == with_masks
            names = [one.short for one in named if one.text in parts]
            whole[split] = (
                part if plain else JoinedDataset(list(parts.values()), names, class_names, with_masks, others)
            )
    return whole


def _make_wrapper(config: ExperimentConfig, what: str, notify: Notify) -> ProgressWrapper:
    """Return a wrapper that shows a progress bar over all images on a terminal."""

    def over(places: Sequence[int]) -> Iterator[int]:
        notify(f"reading {format_count(len(places), f'{what} images')}")
        console = Console(stderr=True)
        hidden = config.output.hide_progress_bar or not console.is_terminal
        yield from track(places, f"{what} images", console=console, transient=True, disable=hidden)

    return over
