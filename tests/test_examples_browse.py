"""Browsing: the samples that training is shown, in one picture with their truth."""

from __future__ import annotations

import itertools
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from programs_toy import N_TEST, N_TRAIN, fail, make_nuclei, snapshot, succeed
from test_examples_bad_input import truncate
from test_examples_programs import ROOT, python

import maskrcnn.plotting.samples
from examples.browse import BrowseConfig, BrowsedSample, iterate_samples, make_panels
from examples.browse import main as browse
from maskrcnn.plotting import canvas
from maskrcnn.plotting.samples import Panel, render_objects, render_sheet
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks
from maskrcnn.training.loading import load_training_batches
from maskrcnn.training.runlog import RunLog
from workbench.config import load_config
from workbench.data import open_data, resolve_head
from workbench.experiment import Experiment

MIXED = {
    "mosaic": "0.5",
    "copy_paste": "5",
    "scale_u_range": "0.5:2",
    "rot_range_mag": "45",
    "img_pad_mode": "reflect",
    "seed": "3",
}
FLAGS = [f"--{flag}={value}" for flag, value in MIXED.items()]


def assert_same(image: torch.Tensor, instances: Instances, other_image: torch.Tensor, other: Instances) -> None:
    assert torch.equal(image, other_image)
    assert torch.equal(instances.boxes, other.boxes) and torch.equal(instances.ignore, other.ignore)
    assert torch.equal(instances.masks.data, other.masks.data)


# ---- the program


def test_one_picture_is_written_with_figures_and_what_to_type_next(workplace: Path) -> None:
    before = snapshot(workplace)
    lines = succeed(browse, "--num_samples=5", "--columns=3", *FLAGS)
    written = "reports/browse-ellipses-1/samples.png"
    assert lines[0] == f"{Path(written)}: 5 training samples (epoch 0, seed 3)"
    for line, name in zip(lines[1:3], ("augmented", "original"), strict=True):
        assert line.startswith(name) and " objects kept, " in line and " ignored; sizes " in line
    assert lines[2].startswith("original   50 objects kept, 0 ignored")
    assert lines[3].startswith("Next: python example_smallobject_train.py --")
    assert set(shlex.split(lines[3])[3:]) == set(FLAGS)
    assert set(snapshot(workplace)) - set(before) == {written}
    with Image.open(written) as sheet:
        assert sheet.format == "PNG" and sheet.width == 3 * (768 + 12) + 12 and 2 * 768 < sheet.height < 2 * 900


def test_what_to_type_next_can_be_typed(workplace: Path) -> None:
    lines = succeed(browse, "--num_samples=2", "--no-hflip", "--raw", "--output=a b.png", *FLAGS)
    program, *flags = shlex.split(lines[-1])[2:]
    assert program == "examples.browse" and {"--no-hflip", "--raw", "--output=a b.png", "--epoch=1"} <= set(flags)
    before = snapshot(workplace)["a b.png"]
    lines = succeed(browse, *flags)
    assert lines[0] == "a b.png: already exists and is replaced (--output)" and "epoch 1, seed 3" in lines[1]
    assert snapshot(workplace)["a b.png"] != before


def test_the_same_settings_draw_the_same_picture(workplace: Path) -> None:
    for flags in ([], ["--epoch=1"], ["--seed=1"]):
        succeed(browse, "--num_samples=1", "--output=first.png", *flags)
        succeed(browse, "--num_samples=1", "--output=second.png", *flags)
        files = snapshot(workplace)
        assert files["first.png"] == files["second.png"]
        (workplace / "second.png").rename(workplace / f"{len(files)}.png")
    pictures = [name for name in snapshot(workplace) if name.endswith(".png") and "/" not in name]
    assert len({snapshot(workplace)[name] for name in pictures}) == 3


def test_test_images_are_shown_without_augmentation(workplace: Path) -> None:
    lines = succeed(browse, "--split=test", "--num_samples=100", "--raw", "--mosaic=1")
    written = Path("reports/browse-ellipses-1/samples.png")
    assert lines[0] == f"{written}: {N_TEST} test images as used for evaluation, without augmentation"
    assert lines[1].startswith("30 objects kept, 0 ignored") and len(lines) == 3
    with Image.open(written) as sheet:
        assert sheet.width == N_TEST * (768 + 12) + 12


def test_nuclei_of_their_own_size_are_drawn(workplace: Path) -> None:
    root = make_nuclei(workplace / "bowl")
    flags = ("--dataset=dsbowl2018", f"--dataset_root={root}", "--fixed_size=0", "--raw")
    lines = succeed(browse, *flags)
    assert any("epochs 0 to 5" in line for line in lines), "two images, after one is held out for validation"


def test_settings_come_from_the_file_too(workplace: Path) -> None:
    (workplace / "smallobjects.toml").write_text("[augment]\ncrop_size = [32]\n", encoding="utf-8")
    (drawn,) = iterate_samples(open_data(load_config()), load_config(), BrowseConfig(num_samples=1))
    assert drawn.instances.size == (32, 32)


def test_settings_of_another_file_are_taken_and_passed_on(workplace: Path) -> None:
    Path("mine.toml").write_text("[augment]\ncrop_size = [32]\n", encoding="utf-8")
    lines = succeed(browse, "--config=mine.toml", "--num_samples=1", "--raw")
    assert sum("--config=mine.toml" in line for line in lines) == 2
    assert "absent.toml: cannot be read" in fail(browse, "--config=absent.toml")


def test_help_answers_without_heavy_imports() -> None:
    code = (
        "import runpy, sys\n"
        "sys.argv = ['examples/browse.py', '--help']\n"
        "try:\n"
        "    runpy.run_path('examples/browse.py', run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    heavy = {'torch', 'torchvision', 'numpy', 'matplotlib', 'PIL'} & set(sys.modules)\n"
        "    sys.exit(f'imports {heavy}' if heavy else end.code)\n"
    )
    result = python("-c", code, cwd=ROOT)
    assert (result.returncode, result.stderr) == (0, "")
    assert all(flag in result.stdout for flag in ("--num_samples", "--mosaic", "--dataset", "--seed", "--raw"))
    assert not any(flag in result.stdout for flag in ("--head", "--num_epochs", "--output_dir", "--num_threads"))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--dataset=elipses", "unknown dataset 'elipses' | did you mean 'ellipses'?"),
        ("--dataset_root=nowhere", "nowhere | no such folder"),
        ("--num_samples=0", "--num_samples | at least 1"),
        ("--num_samples=1000", "--num_samples | at most 200"),
        ("--num_samples=many", "--num_samples | a whole number"),
        ("--columns=0", "--columns | at least 1"),
        ("--epoch=-1", "--epoch | at least 0"),
        ("--split=tset", "--split | did you mean 'test'?"),
        ("--output=missing/browse.png", "missing/browse.png | there is no folder missing"),
        ("--output=browse.jpg", "browse.jpg | must end in .png"),
        ("--output=browse", "browse | must end in .png"),
        ("--output=folder.png", "folder.png | is a folder"),
        ("--mosaic=2", "--mosaic | at most 1"),
        ("--match_sizes=0", "--match_sizes | at least"),
        ("--fixed_size=1,2,3", "fixed_size"),
        ("--img_pad_mode=reflct", "--img_pad_mode | did you mean 'reflect'?"),
        ("--head=rpn", "--head"),
    ],
)
def test_mistakes_are_one_line_and_leave_all_as_it_was(workplace: Path, flags: str, words: str) -> None:
    (workplace / "folder.png").mkdir()
    (workplace / "browse.png").write_bytes(b"old")
    before = snapshot(workplace)
    error = fail(browse, *flags.split())
    assert all(word in error for word in words.split(" | ")), error
    assert snapshot(workplace) == before


def test_broken_images_are_named_and_the_old_picture_stays(workplace: Path) -> None:
    (workplace / "browse.png").write_bytes(b"old")
    flags = ("--output=browse.png",)
    truncate(workplace / "data/ellipses/train/images/000001.png")
    before = snapshot(workplace)
    for given in (flags, ()):
        error = fail(browse, *given)
        assert "000001.png" in error and error.endswith(", or use --skip_bad to leave it out")
        assert snapshot(workplace) == before and not list(workplace.glob("reports/*"))
    succeed(browse, "--num_samples=1")


# ---- what is drawn


def test_samples_are_those_that_training_is_shown(workplace: Path) -> None:
    config = load_config(flags=MIXED)
    data = open_data(config)
    config = resolve_head(config, data)
    log = RunLog(workplace / "runs", console=lambda line: None, tensorboard=False)
    experiment = Experiment(config, log, data, lambda training: None)
    batches = itertools.islice(load_training_batches(experiment.samples, 2), N_TRAIN)  # two epochs, two images a batch
    shown: dict[tuple[int, str], tuple[torch.Tensor, Instances]] = {}
    for step, batch in enumerate(batches):
        for name, *sample in zip(experiment.samples.names(batch.ids), batch.images, batch.instances, strict=True):
            shown[step * 2 // N_TRAIN, name] = (sample[0], sample[1])
    drawn = list(iterate_samples(data, config, BrowseConfig(num_samples=2 * N_TRAIN)))
    assert [each.name for each in drawn] == 2 * data.train.image_names
    assert {(each.epoch, each.name) for each in drawn} == set(shown)
    for each in drawn:
        assert_same(each.image, each.instances, *shown[each.epoch, each.name])
        assert_same(each.raw_image, each.raw_instances, *data.train[data.train.image_names.index(each.name)])


def squares(*corners: tuple[int, int], side: int = 6, size: tuple[int, int] = (20, 30), first: int = 0) -> Instances:
    windows = torch.tensor([[x, y, x + side, y + side] for x, y in corners], dtype=torch.int32).reshape(-1, 4)
    masks = CroppedMasks.from_windows(windows, [torch.full((side, side), 255)] * len(corners), size)
    ids = torch.arange(first, first + len(corners))
    return Instances.from_masks(masks, torch.ones_like(ids), ids=ids)


IMAGE = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def has_color(picture: np.ndarray, color: canvas.Color) -> np.ndarray:
    """Where the picture has this very colour."""
    return (picture == np.asarray(color)).all(axis=2)


def test_an_object_has_one_colour_in_original_and_sample() -> None:
    raw, moved = squares((1, 1), (12, 3), (20, 9)), squares((3, 3), first=2)
    moved = Instances.cat([moved, squares((14, 2), first=7)])  # 7: of another image
    original, sample = make_panels(BrowsedSample("name", 0, IMAGE, moved, IMAGE, raw), pair=True)
    assert original.colors[2] == sample.colors[0]
    assert len({*original.colors, *sample.colors}) == 4
    without = [replace(each, ids=None) for each in (raw, moved)]
    assert len(make_panels(BrowsedSample("name", 0, IMAGE, without[1], IMAGE, without[0]), pair=False)[0].colors) == 2


@pytest.mark.parametrize("scale", [1, 2, 3, 7])
def test_outlines_and_boxes_lie_exactly_at_the_objects(scale: int) -> None:
    picture = render_objects(Panel(IMAGE, squares((4, 5), (21, 0)), colors=[canvas.RED, canvas.GREEN]), scale)
    plain = canvas.to_picture(IMAGE, scale)
    inside = np.zeros(plain.shape[:2], bool)
    for (x, y), color in (((4, 5), canvas.RED), ((21, 0), canvas.GREEN)):
        area = (slice(y * scale, (y + 6) * scale), slice(x * scale, (x + 6) * scale))
        inside[area] = True
        rows, columns = np.nonzero(has_color(picture, color))
        assert (rows.min(), rows.max() + 1) == (area[0].start, area[0].stop)
        assert (columns.min(), columns.max() + 1) == (area[1].start, area[1].stop)
    assert (picture[~inside] == plain[~inside]).all()


def test_outlines_follow_masks_and_not_boxes() -> None:
    disk = torch.zeros(1, 20, 30)
    rows, columns = torch.meshgrid(torch.arange(20), torch.arange(30), indexing="ij")
    disk[0] = (rows - 9) ** 2 + (columns - 14) ** 2 <= 49
    truth = Instances.from_masks(CroppedMasks.from_dense(disk), torch.ones(1, dtype=torch.int64))
    lines = has_color(render_objects(Panel(IMAGE, truth, colors=[canvas.RED]), 3), canvas.RED)
    assert lines[:, 14 * 3 + 1].nonzero()[0].tolist() == [2 * 3, 17 * 3 - 1], "top and bottom of the disk"
    row = lines[3 * 3 + 1].nonzero()[0]  # here the disk reaches from 11 to 17
    assert row.tolist() == [7 * 3, 11 * 3, 18 * 3 - 1, 22 * 3 - 1], "box, mask, mask, box"


def test_objects_to_ignore_are_grey_and_dashed() -> None:
    truth = replace(squares((4, 5), (18, 5)), ignore=torch.tensor([True, False]), masks=None)
    picture = render_objects(Panel(torch.zeros(3, 20, 30), truth, colors=[canvas.RED, canvas.GREEN]), 3)
    assert not has_color(picture, canvas.RED).any()
    top, whole = has_color(picture, canvas.LIGHT_GRAY)[15, 12:30], has_color(picture, canvas.GREEN)[15, 54:72]
    assert whole.all() and 0.3 < top.mean() < 0.7


def test_dark_images_are_brightened_but_never_more_than_their_originals() -> None:
    dark, light = torch.full((3, 20, 30), 0.2), torch.full((3, 20, 30), 0.8)
    nothing = Instances.empty((20, 30), with_masks=True)
    for image, original, expected in ((dark, dark, 1), (dark / 2, dark, 0.5), (dark, light, 0.2), (light, dark, 1)):
        (panel,) = make_panels(BrowsedSample("name", 0, image, nothing, original, nothing), pair=False)
        assert abs(render_objects(panel, 1).mean() / 255 - expected) < 0.02


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (300, 7), (900, 2000)])
def test_odd_sizes_and_samples_without_objects_are_drawn(size: tuple[int, int]) -> None:
    image = torch.zeros(3, *size, dtype=torch.uint8)
    dot = squares((0, 0), side=1, size=size)
    panels = [Panel(image, Instances.empty(size)), Panel(image, dot, "name " * 90, "kind"), Panel(IMAGE, squares())]
    sheet = render_sheet(panels, 2, [(False, "text " * 50), (True, "more " * 50)])
    assert sheet.dtype == np.uint8 and sheet.shape[2] == 3


@pytest.mark.parametrize(("side", "cell"), [(64, 768), (256, 768), (300, 600), (512, 512), (900, 900), (4000, 1536)])
def test_images_of_one_size_fill_their_cells(side: int, cell: int) -> None:
    panels = [Panel(np.zeros((3, side, side), np.uint8), Instances.empty((side, side)))] * 2
    gap = maskrcnn.plotting.samples._GAP
    assert render_sheet(panels, 2).shape[1] == 2 * (cell + gap) + gap


def test_many_samples_share_the_room_of_one_sheet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maskrcnn.plotting.samples, "MAX_PIXELS", 4_000_000)
    panels = [Panel(torch.zeros(1, 600, 600, dtype=torch.uint8), Instances.empty((600, 600)))] * 50
    height, width, _ = render_sheet(panels, 10).shape
    assert 2_000_000 < height * width < 4_400_000
