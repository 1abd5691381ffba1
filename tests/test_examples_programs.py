"""Help, making data, other data, and heads compared: the programs as a user types them, in miniature."""

from __future__ import annotations

import csv
import functools
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from programs_toy import N_TRAIN, SCENES, fail, make_nuclei, snapshot, succeed

import datasets.synthetic.recipes
from datasets.readers.generated import Generated
from datasets.synthetic.recipes import Recipe
from examples.compare_heads import main as compare_heads
from examples.create_ellipses import main as create_ellipses
from examples.train import main as train
from maskrcnn.model.config import HEADS
from workbench.config import load_config

ROOT = Path(__file__).parent.parent
PROGRAMS = ("create_ellipses.py", "example_smallobject_train.py", "examples/compare_heads.py")


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_answers_without_heavy_imports(program: str) -> None:
    code = (
        "import runpy, sys\n"
        f"sys.argv = [{program!r}, '--help']\n"
        "try:\n"
        f"    runpy.run_path({program!r}, run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    heavy = {'torch', 'torchvision', 'numpy', 'matplotlib', 'PIL'} & set(sys.modules)\n"
        "    sys.exit(f'imports {heavy}' if heavy else end.code)\n"
    )
    result = python("-c", code, cwd=ROOT)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("Usage: ") and "--seed INTEGER" in result.stdout


def test_the_two_commands_as_typed(tmp_path: Path, workplace: Path) -> None:
    data = tmp_path / "my data"
    flags = (
        "--n_train=2",
        "--n_val=1",
        "--n_test=1",
        "--width=64",
        "--height=48",
        "--n_groups=1",
        "--n_free=6",
        "--seed=5",
    )
    made = python(str(ROOT / PROGRAMS[0]), f"--path={data}", *flags, cwd=workplace)
    assert (made.returncode, made.stderr) == (0, "")
    assert (
        made.stdout.splitlines()[0]
        == f"{data}: 2 training, 1 validation and 1 test images, 64 x 48; see {data / 'README.md'}"
    )
    assert made.stdout.splitlines()[1] == f"Next: python example_smallobject_train.py '--dataset_root={data}'"
    run = python(str(ROOT / PROGRAMS[1]), f"--dataset_root={data}", "--head=rpn", "--num_epochs=1", cwd=workplace)
    assert run.returncode == 0 and "Traceback" not in run.stderr
    assert run.stdout.splitlines()[-4].startswith("Next: ")


# ---- ellipses


def test_ellipses_are_made_once_and_replaced_only_when_told(workplace: Path) -> None:
    flags = ("--path=new", "--n_train=2", "--n_test=1", "--width=64", "--height=64")
    succeed(create_ellipses, *flags)
    before = snapshot(workplace)
    assert "--overwrite" in fail(create_ellipses, *flags, "--seed=1")
    assert snapshot(workplace) == before
    succeed(create_ellipses, *flags, "--overwrite")
    assert snapshot(workplace) == before, "the same seed gives the same files"
    succeed(create_ellipses, *flags, "--overwrite", "--seed=1")
    assert snapshot(workplace) != before


def test_ellipses_go_where_the_settings_say(workplace: Path) -> None:
    (workplace / "smallobjects.toml").write_text('[paths]\nellipses_root = "there"\n')
    lines = succeed(create_ellipses, "--n_train=1", "--n_test=1", "--width=32", "--height=32")
    assert lines[-1] == "Next: python example_smallobject_train.py"
    assert len(Generated(workplace / "there", "test")) == 1


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made on the way is small."""
    few = functools.partial(Recipe, n_train=2, n_val=1, n_test=1, scene=SCENES)
    monkeypatch.setattr(datasets.synthetic.recipes, "Recipe", few)


@pytest.mark.usefixtures("few")
def test_ellipses_are_made_on_the_way_only_at_the_configured_path(workplace: Path) -> None:
    (workplace / "data/ellipses").rename(workplace / "data/others")
    assert f"{Path('data/ellipses')}: no such folder" in fail(train, "--dataset_root=data/ellipses", "--head=rpn")
    assert not (workplace / "data/ellipses").exists()
    lines = succeed(train, "--head=rpn", "--num_epochs=1")
    assert lines[0].startswith("No ellipses at data/ellipses: making them")
    assert any("2 training, 1 validation and 1 test images" in line for line in lines)
    before = snapshot(workplace / "data")
    assert not any("making them" in line for line in succeed(train, "--head=rpn", "--num_epochs=1"))
    assert snapshot(workplace / "data") == before


def test_labels_with_gaps_between_their_numbers_train(workplace: Path) -> None:
    path = workplace / "data/ellipses/train/labels/000000.png"
    labels = np.array(Image.open(path)).astype(np.uint16)
    labels[labels == labels.max()] = 65_535
    Image.fromarray(labels).save(path)
    succeed(train, "--head=mask_rcnn", "--num_epochs=1")


# ---- nuclei


def test_nuclei_train_and_empty_masks_are_counted_aloud(workplace: Path) -> None:
    root = make_nuclei(workplace / "bowl")
    lines = succeed(train, "--dataset=dsbowl2018", f"--dataset_root={root}", "--num_epochs=1")
    assert any("dsbowl2018: 2 training, 1 validation and 1 test images" in line for line in lines)
    config = load_config(shlex.split(lines[-1])[-1].removeprefix("--config="), environ={})
    assert (config.data.dataset, config.data.dataset_root) == ("dsbowl2018", str(root))
    assert "all images: 4 empty masks dropped (3 training and validation, 1 test)" in lines
    assert (workplace / "runs/dsbowl2018-mask_rcnn-1/weights/best.pt").is_file()


def test_overlapping_nuclei_are_kept_and_the_path_may_stand_in_the_settings(workplace: Path) -> None:
    root = make_nuclei(workplace / "bowl")
    (root / "split.json").write_text(json.dumps({"train": ["nucleus-2"], "test": ["nucleus-0", "nucleus-1"]}))
    with (workplace / "smallobjects.toml").open("a") as file:
        file.write('[paths]\nkaggle_dsbowl2018_root = "bowl"\n')
    flags = ("--dataset=dsbowl2018:s1_train_val", "--dry_run", "--fixed_size=0")
    result = python(str(ROOT / PROGRAMS[1]), *flags, cwd=workplace)
    assert result.returncode == 0, result.stderr
    assert "data         1 training and 2 test images, classes nucleus" in result.stdout
    assert re.search(r"image        nucleus-2: \[3, (40, 48|48, 40)\], 3 objects\n", result.stdout)
    said = ["nucleus-2: empty masks dropped (first of its kind; others are only counted)"]
    assert result.stderr.splitlines() == said  # once, although the test images have some, too


# ---- heads compared


def test_heads_are_compared_in_a_table_a_file_and_a_picture(workplace: Path) -> None:
    text = "\n".join(succeed(compare_heads, "--num_epochs=1", "--seed=3"))
    folder = workplace / "runs/ellipses-heads-1"
    assert {path.name for path in folder.iterdir()} == {"heads.csv", "heads.png", *(f"ellipses-{h}-1" for h in HEADS)}
    assert "Heads compared: ellipses, 1 epoch, seed 3" in text
    assert "heads.csv" in text.splitlines()[-1] and "examples.compare_heads" not in text
    with (folder / "heads.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["head"] for row in rows] == list(HEADS)
    assert [int(row["parameters"]) for row in rows] == sorted(int(row["parameters"]) for row in rows)
    for row in rows:
        assert re.search(rf"│ {row['head']} ", text)
        assert (row["data"], row["seed"], row["epochs"], row["steps"]) == ("ellipses", "3", "1", "3")
        for name in ("box_ap", "box_ap50", "box_ap_8-16px", "ar_100", "train_seconds", "inference_ms"):
            assert float(row[name]) >= 0, name
        assert bool(row["mask_ap"]) == (row["head"] == "mask_rcnn")
    with Image.open(folder / "heads.png") as picture:
        picture.load()
    budgets = {load_config(folder / f"ellipses-{head}-1/config.toml", environ={}).training for head in HEADS}
    assert [(budget.num_epochs, budget.seed) for budget in budgets] == [(1, 3)]


def test_a_comparison_has_no_flags_of_a_single_head(workplace: Path) -> None:
    for flag in ("--head=rpn", "--start_from=a.pt", "--model_file=a.pt", "--plot_dir=plots", "--resume"):
        assert flag.split("=")[0] in fail(compare_heads, flag)


def test_a_comparison_without_data_leaves_no_folder(workplace: Path) -> None:
    assert "nowhere: no such folder" in fail(compare_heads, "--dataset_root=nowhere")
    assert not list((workplace / "runs").glob("*"))
    assert len(list((workplace / "data/ellipses/train/images").iterdir())) == N_TRAIN


@pytest.mark.parametrize("columns", [80, 100])
@pytest.mark.parametrize(
    "program",
    [*PROGRAMS[:2], *sorted(f"examples/{path.name}" for path in ROOT.glob("examples/*.py") if path.stem != "__init__")],
)
def test_help_fits_one_screen_and_all_options_are_one_flag_away(program: str, columns: int) -> None:
    names = ("PYTHONPATH", "COLUMNS")
    environment = {**os.environ, **dict(zip(names, (str(ROOT), str(columns)), strict=True))}

    def lines(flag: str) -> list[str]:
        command = [sys.executable, program, flag]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=600)
        assert (result.returncode, result.stderr) == (0, "")
        return result.stdout.splitlines()

    short = lines("--help")
    assert len(short) <= 45
    example = next(line for line in short if "Example: " in line)  # is not wrapped, so that it can be copied
    assert max(len(line) for line in short if line != example) <= columns and len(example) <= 100
    assert any(line.strip().startswith(("Example: python ", "Example: smallobjects ")) for line in short)
    if "--help-all" in short[-1]:
        count = int(re.search(r"All (\d+) options", short[-1])[1])
        options = itertools.dropwhile(lambda line: "Example:" not in line, lines("--help-all"))
        named = {line.split()[0].rstrip(",") for line in options if line.startswith("  --")}
        shown = [line for line in short if line.startswith("  --")]
        assert len(named) == count > len(shown) > 5
