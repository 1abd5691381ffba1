"""Whatever is wrong with what the user gives: one line on stderr, exit code 2, and all files as they were."""

from __future__ import annotations

import shutil
import struct
import sys
import urllib.error
import zlib
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from PIL import Image
from programs_toy import SETTINGS, fail, make_nuclei, settle, snapshot, succeed

from examples.compare_heads import main as compare_heads
from examples.create_ellipses import main as create_ellipses
from examples.train import main as train

Spoil = Callable[[Path], Any]
DATA = "data/ellipses"
KINDS = ("images", "labels")
IMAGE = f"{DATA}/test/images/000001.png"
LABELS = f"{DATA}/test/labels/000001.png"
TRAINING_IMAGE = f"{DATA}/train/images/000001.png"


def assert_refused(
    place: Path, words: str, *arguments: str, program: click.Command = train, started: bool = False
) -> None:
    """The program ends with one line that holds all words; nothing that was there changed, and no run is left.

    Words are separated by " | ". `started`: what is wrong shows only when the run is under way.
    """
    before = snapshot(place)
    error = fail(program, *arguments)
    assert all(word in error for word in words.split(" | ")), error
    after = snapshot(place)
    assert before.items() <= after.items()
    runs = list((place / "runs").glob("*"))
    assert bool(runs) == started and (started or after == before)


# ---- data sets


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def bomb(path: Path) -> None:
    """A few bytes that claim to be 3.6 thousand million pixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def shrink(path: Path) -> None:
    Image.new("L", (8, 9)).save(path)


def above_16_bits(path: Path) -> None:
    Image.fromarray(np.full((64, 64), 65_536, np.int32)).save(path, format="TIFF")


def empty(folder: Path) -> Path:
    shutil.rmtree(folder)
    folder.mkdir()
    return folder


def nothing(place: Path) -> None:
    """All is as it should be; the flags are what is wrong."""


@pytest.mark.parametrize(
    ("spoil", "flags", "words"),
    [
        (nothing, "--dataset_root=nowhere", "nowhere | no such folder | create_ellipses.py"),
        (lambda place: (place / "void").mkdir(), "--dataset_root=void", "void: | has no files"),
        (nothing, "--dataset_root=smallobjects.toml", "smallobjects.toml | no such folder"),
        (lambda place: empty(place / DATA), "", "ellipses | no such folder"),
        (lambda place: [empty(place / DATA / "train" / kind) for kind in KINDS], "", "no images"),
        (lambda place: (place / LABELS).unlink(), "", "000001.png | image has no labels of that name"),
        (lambda place: (place / IMAGE).unlink(), "", "000001.png | labels have no image of that name"),
        (lambda place: shrink(place / LABELS), "", "000001.png | is 8 x 9 but its image is 64 x 64"),
        (lambda place: (place / IMAGE).write_bytes(b""), "", "000001.png | not a readable image"),
        (lambda place: (place / IMAGE).write_text("hello"), "", "000001.png | not a readable image"),
        (lambda place: truncate(place / IMAGE), "", "000001.png | truncated"),
        (lambda place: bomb(place / IMAGE), "", "000001.png | claims an absurd size"),
        (lambda place: bomb(place / LABELS), "", "000001.png | claims an absurd size"),
        (lambda place: above_16_bits(place / LABELS), "", "000001.png | 65536 | 1 to 65535"),
        (lambda place: (place / DATA / "test/annotations.json").unlink(), "", "annotations.json: cannot be read"),
        (nothing, "--split_file=smallobjects.toml", "smallobjects.toml:2 | is not valid JSON"),
        (nothing, "--dataset=elipses", "unknown dataset 'elipses' | did you mean 'ellipses'?"),
        (nothing, "--dataset=mnist", "unknown dataset 'mnist' | use one of ellipses, shapes, coco"),
    ],
)
def test_ellipses(workplace: Path, spoil: Spoil, flags: str, words: str) -> None:
    spoil(workplace)
    assert_refused(workplace, words, "--head=rpn", *flags.split())


@pytest.mark.parametrize(("spoil", "loaders"), [(truncate, 0), (bomb, 0), (truncate, 1)])
def test_training_images_that_are_met_on_the_way(workplace: Path, spoil: Spoil, loaders: int) -> None:
    whole = (workplace / TRAINING_IMAGE).read_bytes()
    spoil(workplace / TRAINING_IMAGE)
    assert_refused(workplace, "000001.png", "--head=rpn", f"--num_threads={loaders}", started=True)
    (workplace / TRAINING_IMAGE).write_bytes(whole)
    succeed(train, "--resume")


NUCLEUS = "bowl/stage1_train/nucleus-0"
MASK = f"{NUCLEUS}/masks/a.png"


@pytest.mark.parametrize(
    ("spoil", "flags", "words"),
    [
        (nothing, "", "where is dsbowl2018? | --dataset_root | kaggle_dsbowl2018_root"),
        (nothing, "--dataset_root=nowhere", "nowhere | no such folder"),
        (nothing, "--dataset_root=data", "data | no folder stage1_train"),
        (lambda place: empty(place / "bowl/stage1_train"), "--dataset_root=bowl", "stage1_train | no images"),
        (lambda place: shutil.rmtree(place / NUCLEUS / "masks"), "--dataset_root=bowl", "nucleus-0 | without labels"),
        (lambda place: empty(place / NUCLEUS / "images"), "--dataset_root=bowl", "nucleus-0 | has 0 images"),
        (lambda place: shrink(place / MASK), "--dataset_root=bowl", "a.png | is 8 x 9 but its image is 48 x 40"),
        (lambda place: truncate(place / MASK), "--dataset_root=bowl", "a.png | not a readable image"),
        (lambda place: bomb(place / MASK), "--dataset_root=bowl", "a.png | claims an absurd size"),
        (
            lambda place: (place / "bowl/split.json").write_text('{"train": ["other"], "test": ["nucleus-0"]}'),
            "--dataset_root=bowl",
            "split.json | lists image 'other'",
        ),
        (nothing, "--dataset_root=bowl --split_file=nothing.json", "nothing.json | cannot be read"),
        (nothing, "--dataset=dsbowl2018:s1_train --dataset_root=bowl", "did you mean 'dsbowl2018:s1_train_val'?"),
    ],
)
def test_nuclei(workplace: Path, spoil: Spoil, flags: str, words: str) -> None:
    make_nuclei(workplace / "bowl")
    (workplace / "bowl/split.json").write_text('{"train": ["nucleus-1", "nucleus-2"], "test": ["nucleus-0"]}')
    spoil(workplace)
    assert_refused(workplace, words, "--dataset=dsbowl2018", "--head=rpn", *flags.split())


# ---- settings


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[training]\nlearing_rate = 1", "unknown key 'training.learing_rate' | did you mean 'learning_rate'?"),
        ("[trainig]\nseed = 1", "unknown key 'trainig' | did you mean 'training'?"),
        ('[training]\nlearning_rate = "fast"', "training.learning_rate = 'fast' | expected a number"),
        ("[training]\nbatch_size = 2.5", "training.batch_size = 2.5 | expected a whole number"),
        ("[training]\nbatch_size = 0", "training.batch_size = 0 | at least 1"),
        ("[training]\nseed = 9223372036854775808", "training.seed | at most"),
        ("[detector.box]\ncoder_weights = [1, 2, 3]", "detector.box.coder_weights | a list of 4 numbers"),
        ("[detector.rpn]\nanchor_sizes = [[8], [16]]", "anchor_sizes | each of the 4 levels"),
        ("[detector.mask]\nmask_size = 7", "mask_size must be even"),
        ("[augment]\npad_mode = 'mirror'", "augment.pad_mode = 'mirror' | one of constant, reflect, replicate"),
        ("training = 3", "training = 3 | section"),
        ("[training", "not valid TOML"),
        ("[augment]\nrotation_degrees = 450", "augment.rotation_degrees = 450.0 | at most 180"),
        ("[views]\nmerge = 'nsm'", "views.merge = 'nsm' | did you mean 'nms'?"),
    ],
)
def test_settings_of_the_file(workplace: Path, text: str, words: str) -> None:
    (workplace / "smallobjects.toml").write_text(text)
    source = "" if "mask_size" in text or "anchor_sizes" in text else "smallobjects.toml: | "  # found by the detector
    assert_refused(workplace, source + words)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--lerning_rate=1", "--lerning_rate | --learning_rate"),
        ("--learning_rate=fast", "--learning_rate = 'fast' | expected a number"),
        ("--detection_min_confidence=2", "--detection_min_confidence = 2.0 | at most 1"),
        ("--num_epochs", "--num_epochs"),
        ("--hflip=maybe", "--hflip"),
        ("rpn", "rpn: no such folder"),
        ("data more", "unexpected extra argument | more"),
        ("--head=mask", "--head = 'mask' | rpn, faster_rcnn, mask_rcnn | did you mean 'mask_rcnn'?"),
        ("--backbone=resnet19", "--backbone = 'resnet19' | did you mean 'resnet18'?"),
        ("--backbone=unet5_wn", "unet5_wn is not available yet"),
        ("--preset=torchvison", "--preset = 'torchvison' | did you mean 'torchvision'?"),
        ("--fixed_size=1,2,3", "fixed_size | height and width"),
        ("--device=tpu", "--device=tpu | unknown device"),
        ("--device=0,1", "several GPUs"),
        ("--best_metric=mask_app", "best_metric | no metric 'mask_app' | mask_ap50"),
        ("--gaussian_noise=-1", "--gaussian_noise = -1.0 | at least 0"),
        ("--views=flip", "views | unknown view 'flip' | did you mean 'flips'?"),
        ("--views=scales:large", "views | 'scales:large' needs numbers"),
        ("--tile=64 --overlap=1", "overlap | below 1"),
        ("--tile=16", "tile | at least 32 pixels | stride"),
        ("--crops_per_image=0", "--crops_per_image = 0 | at least 1"),
    ],
)
def test_flags(workplace: Path, flags: str, words: str) -> None:
    assert_refused(workplace, words, *flags.split())


def test_environment(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMALLOBJECTS_LERNING_RATE", "1")
    assert_refused(workplace, "SMALLOBJECTS_LERNING_RATE | did you mean 'SMALLOBJECTS_LEARNING_RATE'?")


def test_a_loss_that_is_not_finite_names_images_and_leaves_the_run(workplace: Path) -> None:
    words = "not finite in epoch 1, step | loss_objectness | images of the batch: 00000 | --learning_rate"
    assert_refused(workplace, words, "--head=rpn", "--learning_rate=1e30", started=True)


# ---- weights


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_ellipses: Path) -> Path:
    """Weights of a Faster R-CNN."""
    place = settle(tmp_path_factory.mktemp("trained"), tiny_ellipses)
    with chdir(place):
        succeed(train, "--head=faster_rcnn", "--num_epochs=1")
    return place / "runs/ellipses-faster_rcnn-1/weights/best.pt"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--head=mask_rcnn", "another architecture | layer mask_head."),
        ("--head=rpn", "another architecture | no layer box_head."),
        ("--head=faster_rcnn --backbone=resnet34", "another architecture | layer backbone.body.layer1.2.conv1.weight"),
        ("--head=faster_rcnn --preset=britefury", "another architecture | layer backbone.body."),
    ],
)
def test_weights_of_another_architecture(workplace: Path, trained: Path, flags: str, words: str) -> None:
    shutil.copy(trained, workplace / "weights.pt")
    assert_refused(workplace, f"weights.pt | {words}", "--start_from=weights.pt", *flags.split())


@pytest.mark.parametrize(
    ("name", "spoil", "words"),
    [
        ("none.pt", nothing, "no weights at none.pt"),
        ("none.pth", nothing, "none.pth | cannot be read"),
        ("half.pt", lambda path: path.write_bytes(b"PK\x03\x04half"), "half.pt is damaged"),
        ("text.pt", lambda path: path.write_text("hello"), "text.pt is damaged or not a checkpoint"),
        ("text.pth", lambda path: path.write_text("hello"), "text.pth: is not a file of weights, or is damaged"),
        ("bytes.pt", lambda path: path.write_bytes(b"\x80\xcd\x85"), "bytes.pt is damaged"),
        ("bytes.pth", lambda path: path.write_bytes(b"\x80\xcd\x85"), "bytes.pth: is not a file of weights"),
        ("code.pt", lambda path: torch.save({"model": nothing}, path), "code.pt is damaged or not a checkpoint"),
        ("other.pt", lambda path: torch.save({"weights": torch.zeros(1)}, path), "other.pt contains no model"),
        ("folder.pt", lambda path: path.mkdir(), "no weights at folder.pt"),
        ("empty.pth", lambda path: torch.save({}, path), "empty.pth | layer"),
    ],
)
def test_files_that_are_no_weights(workplace: Path, name: str, spoil: Spoil, words: str) -> None:
    spoil(workplace / name)
    assert_refused(workplace, words, f"--start_from={name}")


def test_imagenet_weights_that_cannot_be_fetched(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def urlopen(*args: Any, **kwargs: Any) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "urlopen", urlopen)
    monkeypatch.setenv("TORCH_HOME", str(workplace / "hub"))
    settings = SETTINGS.replace("width = 16", 'width = 64\nstem = "conv7"')
    (workplace / "smallobjects.toml").write_text(settings)
    assert_refused(workplace, "cannot download ImageNet weights of resnet18 | no network", "--pretrained=imagenet")


# ---- places that cannot be written; a file where a folder should be stops even those who may write everywhere


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--output_dir=smallobjects.toml", "cannot write to smallobjects.toml | --output_dir"),
        ("--output_dir=smallobjects.toml/runs", "cannot write to | --output_dir"),
        ("--plot_dir=smallobjects.toml", "cannot create the folder smallobjects.toml"),
        ("--predictions_dir=smallobjects.toml/deep", "cannot create the folder | smallobjects.toml"),
        ("--model_file=data", "cannot write data: it is a folder"),
        pytest.param(
            "--model_file=/dev/null",
            "/dev/null: is a device or a pipe",
            marks=pytest.mark.skipif(sys.platform == "win32", reason="no device files"),
        ),
        ("--model_file=smallobjects.toml/best.pt", "cannot create the folder smallobjects.toml"),
        ("--log_file=data", "cannot write data: it is a folder"),
    ],
)
def test_places_are_tried_before_training(workplace: Path, flags: str, words: str) -> None:
    assert_refused(workplace, words, "--num_epochs=1000", flags)


def test_a_disk_that_says_no_on_the_way_is_one_line_too(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device", "000000.png")

    monkeypatch.setattr("workbench.experiment.save_picture", full)
    assert_refused(workplace, "No space left on device | 000000.png", "--head=rpn", started=True)


# ---- the other programs


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("", "ellipses: already exists | --overwrite"),
        ("--path=smallobjects.toml", "smallobjects.toml: is a file"),
        ("--path=smallobjects.toml/new", "cannot be written"),
        ("--path=data --overwrite", "is not replaced, because"),
        ("--n_train=-1", "--n_train = -1 | at least 0"),
        ("--path=new --n_train=0 --n_val=0 --n_test=0", "one must be positive"),
        ("--path=new --width=100000 --height=100000", "100000 x 100000 | make it smaller"),
        ("--seed=x", "--seed = 'x' | expected a whole number"),
        ("--pth=new", "--pth | --path"),
    ],
)
def test_making_ellipses(workplace: Path, flags: str, words: str) -> None:
    assert_refused(workplace, words, *flags.split(), program=create_ellipses)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--dataset_root=nowhere", "nowhere | no such folder"),
        ("--output_dir=smallobjects.toml", "cannot write to smallobjects.toml"),
        ("--best_metric=speed", "no metric 'speed'"),
        ("--num_epochs=no", "--num_epochs = 'no'"),
    ],
)
def test_comparing_heads(workplace: Path, flags: str, words: str) -> None:
    assert_refused(workplace, words, flags, program=compare_heads)
