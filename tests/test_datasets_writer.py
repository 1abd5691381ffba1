"""Data sets on disk: complete, checkable by other tools, and never written over anything else."""

import hashlib
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from datasets.synthetic import reference, writer
from datasets.synthetic._native import native
from datasets.synthetic.config import SceneConfig, update_config
from datasets.synthetic.recipes import Recipe
from datasets.synthetic.writer import create
from examples.create_ellipses import main
from maskrcnn.config import UserError

ROOT = Path(__file__).parents[1]
SMALL = update_config(SceneConfig(), width=96, height=80, n_groups=2, n_free=12)


def files_of(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return create(tmp_path_factory.mktemp("data") / "ellipses", Recipe(n_train=3, n_val=0, n_test=2, scene=SMALL))


def test_layout_and_recipe(made):
    assert set(files_of(made)) == {
        "dataset.toml",
        "manifest.json",
        *(f"{split}/annotations.json" for split in ("train", "test")),
        *(f"train/{kind}/00000{index}.png" for kind in ("images", "labels") for index in range(3)),
        *(f"test/{kind}/00000{index}.png" for kind in ("images", "labels") for index in range(2)),
    }
    recipe = tomllib.loads((made / "dataset.toml").read_text(encoding="utf-8"))
    assert (recipe["generator"], recipe["version"], recipe["n_train"], recipe["n_test"]) == ("scenes", 1, 3, 2)
    assert recipe["scene"]["width"] == 96 and recipe["scene"]["seed"] == 12345


def test_pycocotools_reads_the_annotations_as_the_label_images_say(made, capsys):
    coco = COCO(made / "train" / "annotations.json")
    assert coco.getImgIds() == [0, 1, 2]
    assert len({each["id"] for each in coco.dataset["annotations"]}) == len(coco.dataset["annotations"])
    for image in coco.dataset["images"]:
        labels = np.asarray(Image.open(made / "train" / "labels" / image["file_name"]))
        assert labels.dtype == np.uint16
        annotations = coco.loadAnns(coco.getAnnIds(image["id"], iscrowd=None))
        assert {each["instance"] for each in annotations} == set(np.unique(labels[labels > 0]).tolist())
        for each in annotations:
            mask = labels == each["instance"]
            np.testing.assert_array_equal(coco.annToMask(each), mask)
            assert each["area"] == mask.sum() == coco_mask.area(each["segmentation"])
            assert each["bbox"] == coco_mask.toBbox(each["segmentation"]).tolist()
            assert each["iscrowd"] == (each["area"] < SMALL.min_visible_pixels)
            assert each["factors"]["visible_pixels"] == each["area"]


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (7, 5), (64, 48), (300, 200)])
def test_run_length_codes_of_any_label_image_are_pycocotools(shape):
    rng = np.random.default_rng(shape)
    for largest in (1, 3, 65_535):
        labels = (rng.integers(0, largest + 1, shape) * (rng.random(shape) < 0.7)).astype(np.uint16)
        labels[: shape[0] // 2] = np.sort(labels[: shape[0] // 2], axis=0)
        numbers, _, counts = native(reference.describe_labels)(labels)
        assert numbers.tolist() == np.unique(labels[labels > 0]).tolist()
        for number, text in list(zip(numbers, counts, strict=True))[:50]:
            expected = coco_mask.encode(np.asfortranarray(labels == number).astype(np.uint8))["counts"].decode()
            assert text == expected
    assert native(reference.describe_labels)(np.zeros(shape, np.uint16))[2] == []


def test_hardly_visible_objects_are_crowds(tmp_path):
    crowded = update_config(SceneConfig(), width=40, height=40, n_groups=0, n_free=150, min_visible_pixels=20)
    root = create(tmp_path / "crowded", Recipe(n_train=1, n_val=0, n_test=0, scene=crowded))
    annotations = json.loads((root / "train" / "annotations.json").read_text())["annotations"]
    crowds = [each["iscrowd"] for each in annotations]
    assert 0 < sum(crowds) < len(crowds) < 150
    assert crowds == [int(each["area"] < 20) for each in annotations]


def test_manifest_holds_the_hashes_of_files_and_pixels(made):
    listed = json.loads((made / "manifest.json").read_text())["files"]
    files = files_of(made)
    assert set(listed) == set(files) - {"manifest.json"}
    for name, entry in listed.items():
        assert entry["sha256"] == hashlib.sha256(files[name]).hexdigest()
        if name.endswith(".png"):
            assert entry["pixels"] == hashlib.sha256(np.asarray(Image.open(made / name)).tobytes()).hexdigest()


def test_more_images_and_another_test_set_change_no_other_image(made, tmp_path):
    more = files_of(create(tmp_path / "more", Recipe(n_train=5, n_val=0, n_test=0, scene=SMALL)))
    assert not any(name.startswith("test") for name in more)
    for name, content in files_of(made).items():
        if name.startswith("train") and name.endswith(".png"):
            assert more[name] == content
    before = json.loads((made / "train" / "annotations.json").read_text())["annotations"]
    after = json.loads(more["train/annotations.json"])["annotations"]
    assert after[: len(before)] == before
    assert files_of(made)["train/images/000000.png"] != files_of(made)["test/images/000000.png"]


def test_two_processes_write_what_one_does(tmp_path):
    one = create(tmp_path / "one", Recipe(n_train=35, n_val=0, n_test=3, scene=SMALL), processes=1)
    seen: list[tuple[int, int]] = []
    two = create(
        tmp_path / "two",
        Recipe(n_train=35, n_val=0, n_test=3, scene=SMALL),
        progress=lambda *at: seen.append(at),
        processes=2,
    )
    assert files_of(one) == files_of(two)
    assert seen[-1] == (38, 38) and seen == sorted(seen)


def test_existing_data_is_replaced_only_when_asked_and_only_our_own(tmp_path):
    root = create(tmp_path / "data", Recipe(n_train=1, n_val=0, n_test=1, scene=SMALL))
    before = files_of(root)
    with pytest.raises(UserError, match="--overwrite"):
        create(root, Recipe(n_train=2, n_val=0, n_test=0, scene=SMALL))
    assert files_of(root) == before
    create(root, Recipe(n_train=2, n_val=0, n_test=0, scene=SMALL), overwrite=True)
    assert (root / "train" / "images" / "000001.png").exists() and not (root / "test").exists()
    (root / "train" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"train/notes\.txt"):
        create(root, Recipe(n_train=1, n_val=0, n_test=1, scene=SMALL), overwrite=True)
    foreign = tmp_path / "photos"
    foreign.mkdir()
    create(foreign, Recipe(n_train=1, n_val=0, n_test=0, scene=SMALL))  # an empty folder is fine
    stranger = tmp_path / "thesis"
    stranger.mkdir()
    (stranger / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="not created by this program"):
        create(stranger, Recipe(n_train=1, n_val=0, n_test=1, scene=SMALL), overwrite=True)
    assert (stranger / "thesis.tex").read_text() == "years of work"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "photos", "thesis"]


def test_a_failure_leaves_the_old_data_and_no_rubbish(tmp_path, monkeypatch):
    root = create(tmp_path / "data", Recipe(n_train=1, n_val=0, n_test=1, scene=SMALL))
    before = files_of(root)

    def full_disk(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "_write_chunk", full_disk)
    with pytest.raises(UserError, match="No space left on device"):
        create(root, Recipe(n_train=2, n_val=0, n_test=2, scene=SMALL), overwrite=True)
    monkeypatch.setattr(writer, "_write_chunk", lambda task: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        create(root, Recipe(n_train=2, n_val=0, n_test=2, scene=SMALL), overwrite=True)
    assert files_of(root) == before
    assert os.listdir(tmp_path) == ["data"]


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, list(arguments))
    return result.exit_code, result.output


def test_the_program_makes_data_where_the_configuration_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smallobjects.toml").write_text('[paths]\nellipses_root = "elsewhere"\n')
    code, output = run("--n_train=2", "--n-test", "1", "--width=64", "--height", "48", "--seed=7")
    assert code == 0 and "Next: python example_smallobject_train.py\n" in output
    recipe = tomllib.loads((tmp_path / "elsewhere" / "dataset.toml").read_text())
    assert (recipe["n_train"], recipe["n_test"]) == (2, 1)
    assert [recipe["scene"][name] for name in ("width", "height", "seed")] == [64, 48, 7]
    code, output = run("--n_train=1")
    assert code == 2 and "--overwrite" in output
    assert run("--n_train=1", "--n_test=1", "--overwrite")[0] == 0
    code, output = run("--path", "my data", "--n_train=1", "--n_test=1")
    assert code == 0 and "'--dataset_root=my data'" in output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--width=0"], "width"),
        (["--height=-5"], "height"),
        (["--width=many"], "width"),
        (["--width=90000", "--height=90000"], "pixels"),
        (["--seed=-1"], "seed"),
        (["--n_train=-1"], "n_train"),
        (["--n_train=0", "--n_val=0", "--n_test=0"], "n_train"),
        (["--path=file"], "file"),
        (["--path=file/below"], "cannot be"),
        (["--path=full", "--overwrite"], "not created by this program"),
        (["--n_trian=3"], "n_trian"),
    ],
)
def test_bad_input_gets_one_line_and_exit_code_2(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thing").write_text("x")
    code, output = run(*arguments)
    assert code == 2
    assert output.startswith("error: ") and output.count("\n") == 1 and words in output
    assert sorted(os.listdir(tmp_path)) == ["file", "full"]


def test_help_needs_no_pytorch():
    code = "import sys, runpy; sys.argv = ['create_ellipses.py', '--help']\n"
    code += "try: runpy.run_path('create_ellipses.py', run_name='__main__')\n"
    code += "except SystemExit as end: assert not end.code and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
