"""Describing data: tables, one picture, and settings that training takes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from programs_toy import fail, make_nuclei, snapshot, succeed

from examples.describe_data import main as describe
from examples.train import main as train
from maskrcnn.config import read_toml
from maskrcnn.plotting.data_picture import AnchorFigures, DataFigures, plot_data
from workbench import data_tables
from workbench.config import ExperimentConfig, load_config

FIGURES = DataFigures(
    np.array([5.0, 9, 30]),
    np.array([1.0, 2, 0.1]),
    np.array([0, 0.4, 0.4]),
    np.array([3.0]),
    np.array([50.0]),
    {"a": 3},
)


def test_no_header_of_a_table_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    head = ["", *(f"{name}\nIoU .5" for name in ("validation", "generalization", "x" * 30))]
    data_tables.print_table("Title", head, [["first", *["1,234 (100.0%)"] * 3], ["second", *["9" * 60] * 3]])
    text = capsys.readouterr().out
    assert "…" not in text and text.count("9") == 180


def test_tables_a_picture_and_what_to_type_next(workplace: Path) -> None:
    before = snapshot(workplace)
    lines = succeed(describe)
    text = "\n".join(lines)
    for title in ("Images and objects", "Sizes and shapes", "Objects by size", "Classes", "Limits"):
        assert title in text
    assert "│ ellipse " in text and "present: stride 4: 12; stride 8: 24" in text and "proposed: stride" in text
    assert max(map(len, lines)) <= 100
    written = "reports/describe-ellipses-1/data.png"
    assert lines[-2] == f"Wrote {Path(written)}"
    assert lines[-1] == "Next: python -m examples.describe_data --write_config=anchors.toml"
    assert set(snapshot(workplace)) - set(before) == {written}
    with Image.open(written) as picture:
        assert picture.width > 1500


def test_no_picture_is_replaced_silently(workplace: Path) -> None:
    quick = ("--max_images=1",)
    shutil.copytree("data/ellipses", "my data")
    for _ in range(2):
        succeed(describe, "my data", *quick)
    assert {path.name for path in Path("reports").iterdir()} == {"describe-my data-1", "describe-my data-2"}
    lines = succeed(describe, *quick, "--picture=mine.png")
    assert "Wrote mine.png" in lines and not any("replaced" in line for line in lines)
    assert "mine.png: already exists and is replaced (--picture)" in succeed(describe, *quick, "--picture=mine.png")
    assert len(list(Path("reports").iterdir())) == 2


def test_a_failed_description_leaves_no_folder(workplace: Path) -> None:
    for path in (workplace / "data/ellipses/test/labels").iterdir():
        path.write_bytes(b"broken")
    before = snapshot(workplace)
    assert "labels" in fail(describe)
    assert snapshot(workplace) == before and not list(workplace.glob("reports/*"))


def test_written_settings_are_what_training_takes(workplace: Path) -> None:
    lines = succeed(describe, "--dataset=ellipses", "--write_config=found.toml", "--finest_stride=2", "--max_anchors=4")
    assert lines[-1] == "Next: python example_smallobject_train.py --config=found.toml"
    written, plain = load_config(flags={"config": "found.toml"}), load_config()
    rpn = written.detector.rpn
    assert written.detector.backbone.finest_stride == 2 and len(rpn.anchor_sizes[0]) * len(rpn.anchor_ratios) <= 4
    assert written.data.dataset == "ellipses" and "paths" not in read_toml("found.toml")
    assert written.detector.backbone.width == plain.detector.backbone.width == 16  # of smallobjects.toml, kept
    dry = "\n".join(succeed(train, "--config=found.toml", "--dry_run"))
    assert "finest_stride = 2" in dry and "loss_mask" in dry


def test_settings_of_another_file_are_kept(workplace: Path) -> None:
    Path("mine.toml").write_text('head = "rpn"\n[training]\nnum_epochs = 3\n')
    succeed(describe, "--config=mine.toml", "--write_config=both.toml", "--max_images=2")
    both = load_config(flags={"config": "both.toml", "num_epochs": "4"})
    assert both.head == "rpn" and both.training.num_epochs == 4
    assert load_config(flags={"config": "both.toml"}).training.num_epochs == 3


def test_own_settings_are_never_overwritten(workplace: Path) -> None:
    before = snapshot(workplace)
    assert "smallobjects.toml: already exists" in fail(describe, "--write_config=smallobjects.toml")
    assert snapshot(workplace) == before
    Path("smallobjects.toml").unlink()
    lines = succeed(describe, "--write_config=smallobjects.toml", "--max_images=2")
    assert lines[-1] == "Next: python example_smallobject_train.py"
    assert load_config() != ExperimentConfig()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--write_config=a.txt"], "must end in .toml"),
        (["--write_config=no/a.toml"], "there is no folder no"),
        (["--picture=a.jpg"], "must end in .png"),
        (["--max_images=0"], "at least 1"),
        (["--coverage=2"], "at most 1"),
        (["--finest_stride=3"], "must be one of auto, 2, 4"),
        (["--config=absent.toml"], "absent.toml: cannot be read"),
        (["--dataset=elipses"], "did you mean"),
    ],
)
def test_mistakes_are_said_in_one_line(workplace: Path, flags: list[str], message: str) -> None:
    before = snapshot(workplace)
    assert message in fail(describe, *flags)
    assert snapshot(workplace) == before


def test_unknown_keys_of_a_config_file_name_it(workplace: Path) -> None:
    Path("mine.toml").write_text("[training]\nepochs = 3\n")
    assert "mine.toml: unknown key 'training.epochs'" in fail(train, "--config=mine.toml")


def test_a_resumed_run_keeps_its_own_settings(workplace: Path) -> None:
    succeed(train, "--head=rpn", "--num_epochs=1", "--hide_progress_bar")
    Path("mine.toml").write_text("[training]\nnum_epochs = 3\n")
    assert "remove --config" in fail(train, "--resume", "--config=mine.toml")


def test_dropped_masks_are_counted(workplace: Path, tmp_path: Path) -> None:
    root = make_nuclei(tmp_path / "nuclei")
    text = "\n".join(succeed(describe, "--dataset=dsbowl2018", f"--dataset_root={root}"))
    assert "│ nucleus " in text and "mask area" in text and "empty" in text


def test_many_images_are_sampled_and_the_number_said(workplace: Path) -> None:
    text = "\n".join(succeed(describe, "--max_images=2"))
    assert "6 (2 read)" in text and "3 (2 read)" in text


@pytest.mark.parametrize("number", [0, 1])
def test_no_and_one_object_are_described(workplace: Path, number: int) -> None:
    shutil.rmtree("data/ellipses")
    for split in ("train", "test"):
        folder = Path("data/nuclei/stage1_train") / split
        (folder / "images").mkdir(parents=True)
        (folder / "masks").mkdir()
        Image.new("RGB", (48, 40)).save(folder / "images" / f"{split}.png")
        mask = Image.new("L", (48, 40))
        mask.paste(255 * number, (10, 10, 22, 16))
        mask.save(folder / "masks" / "a.png")
    flags = ["--dataset=dsbowl2018", "--dataset_root=data/nuclei", "--write_config=found.toml"]
    if number:
        assert any("100.0%" in line for line in succeed(describe, *flags))
    else:
        assert "as there are no training objects" in fail(describe, *flags)
    assert Path("reports/describe-nuclei-1/data.png").is_file() and Path("found.toml").is_file() == bool(number)


@pytest.mark.parametrize("splits", [{}, {"train": FIGURES}, {"train": FIGURES, "test": FIGURES}])
@pytest.mark.parametrize("with_anchors", [False, True])
def test_picture_of_any_splits(tmp_path: Path, splits: dict, with_anchors: bool) -> None:
    ious = np.array([0.2, 0.6, 0.8])
    anchors = [AnchorFigures(name, {4: [4.0], 8: [9.0]}, [1.0], ious) for name in ("present", "proposed")]
    plot_data(splits, anchors if with_anchors and splits else [], tmp_path / "a.png", "toys")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.height > 700


def test_picture_of_many_classes_and_no_objects(tmp_path: Path) -> None:
    nothing = np.zeros(0)
    many = {f"class {'x' * number}": number for number in range(40)}
    figures = DataFigures(nothing, nothing, nothing, np.zeros(2), np.zeros(2), many)
    plot_data({"train": figures}, [], tmp_path / "a.png")
    assert (tmp_path / "a.png").is_file()
