"""Programs that make and check data: create_shapes, sweep_data, check_data, and the sheets they leave."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from programs_toy import call, fail, make_ellipses, make_nuclei, snapshot, succeed

from datasets.readers.cst import Cst
from datasets.readers.generated import Generated
from datasets.synthetic.recipes import PRESETS, read_recipe
from examples.check_data import main as check_data
from examples.convert import main as convert
from examples.create_ellipses import main as create_ellipses
from examples.create_shapes import main as create_shapes
from examples.sweep_data import main as sweep_data
from maskrcnn.config import UserError
from workbench.config import load_config
from workbench.data import open_data

FEW = ("--n_train=2", "--n_val=0", "--n_test=1")
SMALL = (*FEW, "--width=64", "--height=48", "--n_groups=0", "--n_free=6")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check_fails(*arguments: str) -> tuple[list[str], str]:
    """What is listed, and the error."""
    result = call(check_data, *arguments)
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1
    return result.stdout.splitlines(), result.stderr


# ---- create_shapes, and the sheet


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_made_as_they_are_and_check_out(here: Path, preset: str) -> None:
    lines = succeed(create_shapes, f"--preset={preset}", *FEW, "--path=made", "--max_box_iou=0.5")
    scene = PRESETS[preset]().scene
    recipe = read_recipe("made/dataset.toml")
    assert recipe.counts == {"train": 2, "val": 0, "test": 1} and recipe.scene.layout.max_box_iou == 0.5
    assert recipe.scene.objects == scene.objects and recipe.scene.degradation == scene.degradation
    assert lines[0].startswith("made: 2 training and 1 test images, ")
    assert any("examples.convert made --to=cst" in line for line in lines) == (preset == "cst")
    assert succeed(check_data, "made")[-1] == "made: unchanged and readable, nothing looks wrong"


def test_a_data_sheet_says_what_is_there(here: Path) -> None:
    succeed(create_shapes, *SMALL, "--shapes=star,ring", "--layout=uniform", "--path=made")
    text = Path("made/README.md").read_text(encoding="utf-8")
    assert text.startswith("# star and ring\n") and "64 x 48 pixels" in text
    for split, count in (("train", 2), ("test", 1)):
        data = json.loads(Path("made", split, "annotations.json").read_text())
        of_class = [sum(each["category_id"] == k for each in data["annotations"]) for k in (1, 2)]
        ignored = sum(each["iscrowd"] for each in data["annotations"])
        row = f"| {split} | {count} | {sum(of_class)} | {ignored} | {of_class[0]} | {of_class[1]} |"
        assert row in text.splitlines()
    for name in re.findall(r"\]\((.*?)\)", text):
        with Image.open(Path("made", name)) as picture:
            assert min(picture.size) > 300
    listed = json.loads(Path("made/manifest.json").read_text())["files"].keys()
    assert listed == snapshot(here / "made").keys() - {"manifest.json"}


def test_cst_is_also_written_as_cst(here: Path) -> None:
    flags = ("--preset=cst", *FEW, "--width=128", "--height=128", "--n_free=3", "--max_diameter=30", "--path=made")
    lines = succeed(create_shapes, *flags, "--also=cst")
    assert "      python example_smallobject_train.py --dataset=cst --dataset_root=made-cst" in lines
    for split, count in (("train", 2), ("test", 1)):
        made, written = Generated("made", split), Cst("made-cst", split)
        assert len(made) == len(written) == count
        for (image, truth), (other, found) in ((made[i], written[i]) for i in range(count)):
            assert torch.equal(truth.masks.to_dense(), found.masks.to_dense())
            classes = [
                [data.class_names[k - 1] for k in each.labels] for data, each in ((made, truth), (written, found))
            ]
            assert classes[0] == classes[1] and len(classes[0]) > 0
            assert (image.float() - other.float()).abs().mean() < 3, "JPEG"
    assert "made-cst: read as --dataset=cst (found annotation/anno-test.csv)" in succeed(check_data, "made-cst")
    before = snapshot(here)
    assert "--also=cst: made-cst already exists" in fail(create_shapes, *flags[:-1], "--path=made", "--also=cst")
    assert "--also=cst: supports circle, square, triangle only" in fail(create_shapes, *SMALL, "--path=b", "--also=cst")
    assert snapshot(here) == before


def test_help_shows_the_values_of_the_preset() -> None:
    def default_of(program, flag: str, *arguments: str) -> str:
        text = " ".join(" ".join(succeed(program, *arguments, "--help")).split())
        return re.search(rf"--{flag} .*?\[default: (.*?)\]", text)[1]

    assert default_of(create_shapes, "n_train") == "128" and default_of(create_shapes, "n_free") == "20"
    assert default_of(create_shapes, "n_train", "--preset=matterport") == "500"
    assert default_of(create_shapes, "max_diameter", "--preset", "cst") == "64.0"
    assert default_of(sweep_data, "preset") == "ellipses" and default_of(sweep_data, "n_groups") == "4"
    assert default_of(sweep_data, "n_groups", "--preset=nuclei") == "0"


@pytest.mark.parametrize(
    ("flags", "note"),
    [
        ("--max_diameter=90 --layout=uniform", "larger than the image of 64 x 48"),
        ("--n_free=0", "contain no objects"),
    ],
)
def test_what_may_not_be_meant_is_noted(here: Path, flags: str, note: str) -> None:
    lines = succeed(create_shapes, *SMALL, *flags.split(), "--path=made")
    assert lines[0].startswith("note: ") and note in lines[0]


def test_images_that_the_preset_adds_are_said(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("examples.create_shapes.create_data_set", lambda *arguments: None)
    lines = succeed(create_shapes, "--preset=cst", "--n_train=2", "--n_test=1", "--path=made")
    assert lines[0] == "note: 100 validation images are also created; --n_val=0 leaves them out"
    assert lines[1].startswith("made: 2 training, 100 validation and 1 test images, 512 x 512")
    assert not succeed(create_shapes, "--preset=cst", "--path=made")[0].startswith("note")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--margin=200", "margin 200 leaves too little | at most a quarter | 12"),
        ("--shapes=glyph --letters=Aか", "letters | 'か' | font"),
        ("--layout=apart --n_free=500", "layout apart | of 500 objects fit into"),
        ("--shape_shares=1,2", "shape_shares 1,2 | one number per shape"),
        ("--preset=cst --scene=a.toml", "give one of them"),
        ("--also=vok", "did you mean 'voc'?"),
    ],
)
def test_what_cannot_be_met_is_refused(here: Path, flags: str, words: str) -> None:
    error = fail(create_shapes, *SMALL, "--path=made", *flags.split())
    assert all(word in error for word in words.split(" | ")), error
    assert not list(here.iterdir())


# ---- sweeps


def test_a_sweep_shows_the_same_scenes(here: Path) -> None:
    lines = succeed(sweep_data, *SMALL, "--factor=contrast", "--values=.2,.8", "--path=sweep")
    assert lines[-1].endswith("--dataset_root=sweep/contrast=.8")
    weak, strong = (snapshot(here / f"sweep/contrast={value}") for value in (".2", ".8"))
    drawn = [name for name in weak if "/labels/" in name]
    assert len(drawn) == 3 and all(weak[name] == strong[name] for name in drawn)
    images = [name for name in weak if "/images/" in name]
    assert len(images) == 3 and all(weak[name] != strong[name] for name in images)
    overview = json.loads(Path("sweep/sweep.json").read_text())
    assert overview == {"factor": "contrast", "values": {".2": "contrast=.2", ".8": "contrast=.8"}}
    text = Path("sweep/README.md").read_text(encoding="utf-8")
    assert re.search(r"^\| \.2 \|.*\n\| \.8 \|", text, re.M) and Path("sweep/samples.png").is_file()
    assert "sweep: is a sweep of data sets; name one of them, such as sweep/contrast=.8" in fail(
        convert, "sweep", "--to=coco", "--output=x"
    )
    assert "| requested contrast |" in text and "| measured contrast |" in text and "| contrast |" not in text


@pytest.mark.parametrize(
    ("counts", "trains"),
    [
        ((2, 0, 0), True),
        ((1, 0, 1), True),
        ((4, 2, 0), True),
        ((1, 1, 0), False),
        ((0, 2, 2), False),
        ((0, 0, 3), False),
    ],
)
def test_training_is_recommended_where_it_is_possible(here: Path, counts: tuple[int, ...], trains: bool) -> None:
    flags = [f"--n_{split}={count}" for split, count in zip(("train", "val", "test"), counts, strict=True)]
    small = ("--width=64", "--height=48", "--n_groups=0", "--n_free=3")
    for number, (program, more) in enumerate(
        ((create_ellipses, ()), (create_shapes, ("--layout=uniform",)), (sweep_data, ("--values=.5",)))
    ):
        lines = succeed(program, *flags, *small, *more, f"--path=made{number}")
        assert any(line.startswith("Next: ") for line in lines) == trains, lines
        assert (
            trains
            or lines[-1] == f"Training needs training and test images: n_train is {counts[0]}, n_test {counts[2]}"
        )
        folder = "made2/contrast=.5" if program is sweep_data else f"made{number}"
        config = load_config(flags={"dataset_root": folder})
        if trains:
            assert len(open_data(config, lambda line: None).train) > 0
        else:
            with pytest.raises(UserError):
                open_data(config, lambda line: None)
    lines = succeed(create_ellipses, "--n_train=2", "--n_groups=0", "--n_free=0", "--path=void")
    assert lines[-1] == "Training is impossible: the images contain no objects"


def test_a_sweep_of_sizes_moves_no_object(here: Path) -> None:
    flags = ("--n_free=3", "--shapes=circle", "--factor=size", "--values=4,9", "--path=sweep")
    succeed(sweep_data, *SMALL, *flags)
    small, large = (Generated(f"sweep/size={value}", "train")[0][1] for value in (4, 9))
    middles = [(each.boxes[:, :2] + each.boxes[:, 2:]) / 2 for each in (small, large)]
    assert len(small) == len(large) == 3 and (middles[0] - middles[1]).abs().max() <= 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--values=.1", "--factor=contrst | unknown option of scenes"),
        ("--factor=seed --values=1,2", "--factor=seed"),
        ("--factor=contrast", "--values=: list distinct values of contrast"),
        ("--factor=contrast --values=.1,.1", "list distinct values"),
        ("--factor=contrast --values=.1,2", "--factor=contrast --values=2: | at most 1"),
        ("--factor=psf --values=soft", "--factor=psf --values=soft: | expected a number"),
        ("--factor=margin --values=5,60", "--factor=margin --values=60: margin 60 leaves too little"),
    ],
)
def test_bad_sweeps_are_refused(here: Path, flags: str, words: str) -> None:
    given = flags.split() if "--factor" in flags else ["--factor=contrst", flags]
    error = fail(sweep_data, *SMALL, "--path=sweep", *given)
    assert all(word in error for word in words.split(" | ")), error
    assert not list(here.iterdir())


def test_a_sweep_leaves_no_other_behind(here: Path) -> None:
    flags = ("--n_free=3", "--path=sweep")
    lines = succeed(sweep_data, *SMALL, *flags, "--factor=n_free", "--values=1,2")
    assert not any("note: " in line for line in lines)
    assert re.search(r"^\| 1 \| 2 \|.*\n\| 2 \| 4 \|", Path("sweep/README.md").read_text(encoding="utf-8"), re.M)
    assert "sweep: contains 'n_free=1' of another sweep" in fail(
        sweep_data, *SMALL, *flags, "--factor=contrast", "--values=.1,.2"
    )
    assert sorted(path.name for path in Path("sweep").glob("*=*")) == ["n_free=1", "n_free=2"]


def test_objects_that_must_hide_each_other_are_noted(here: Path) -> None:
    lines = succeed(create_shapes, *SMALL, "--layout=uniform", "--n_free=500", "--path=full")
    assert any(line.startswith("note: the areas of the objects sum to ") for line in lines)


# ---- check_data


def flip(path: Path) -> None:
    """One bit of one pixel."""
    with Image.open(path) as image:
        pixels = np.array(image)
    pixels.flat[pixels.size // 2] ^= 1
    Image.fromarray(pixels).save(path)


def edit_box(path: Path) -> None:
    data = json.loads(path.read_text())
    data["annotations"][0]["bbox"][0] += 1
    path.write_text(json.dumps(data))


def store_anew(path: Path) -> None:
    with Image.open(path) as image:
        image.load()
        image.save(path, compress_level=1)


@pytest.mark.parametrize(
    ("spoil", "problems"),
    [
        (lambda root: flip(root / "train/images/000001.png"), ["000001.png: was modified (pixels differ)"]),
        (lambda root: flip(root / "train/labels/000001.png"), ["000001.png: was modified (pixels differ)"]),
        (
            lambda root: store_anew(root / "test/images/000000.png"),
            ["000000.png: was saved again with the same"],
        ),
        (lambda root: (root / "test/labels/000002.png").unlink(), ["000002.png: is missing"]),
        (lambda root: (root / "test/images/000002.png").unlink(), ["000002.png: is missing"]),
        (lambda root: (root / "test/more.txt").touch(), ["more.txt: is not in the manifest"]),
        (lambda root: (root / "test/images/000000.png").write_bytes(b"x"), ["000000.png: not a readable image"]),
        (
            lambda root: edit_box(root / "test/annotations.json"),
            ["annotations.json: was modified", "000000.png: the box of object"],
        ),
        (
            lambda root: (root / "test/annotations.json").write_text("{"),
            ["annotations.json: was modified", "annotations.json:1: "],
        ),
    ],
)
def test_every_change_of_made_data_is_listed_once(here: Path, tiny_ellipses: Path, spoil, problems: list[str]) -> None:
    shutil.copytree(tiny_ellipses, "made")
    spoil(Path("made"))
    lines, error = check_fails("made")
    assert lines[0] == "made: created by this project; compared with its manifest"
    assert len(lines) == 1 + len(problems) and all(p in line for p, line in zip(problems, lines[1:], strict=True)), (
        lines
    )
    assert f"made: {len(problems)} problem" in error


def test_data_without_its_manifest_is_only_read_when_told(here: Path, tiny_ellipses: Path) -> None:
    shutil.copytree(tiny_ellipses, "made")
    Path("made/manifest.json").unlink()
    assert "made/manifest.json: is missing" in fail(check_data, "made").replace("\\", "/")
    assert succeed(check_data, "made", "--dataset=shapes")[-1] == "made: readable, nothing looks wrong"


def test_all_problems_of_other_data_are_listed_under_its_kind(here: Path, tiny_ellipses: Path) -> None:
    succeed(convert, str(tiny_ellipses), "--to=coco", "--output=coco")
    assert succeed(check_data, "coco") == [
        "coco: read as --dataset=coco (found annotations/instances_train.json)",
        "coco: readable, nothing looks wrong",
    ]
    spoiled = sorted(Path("coco").rglob("*.png"))[:4]
    for path in spoiled:
        path.write_bytes(b"")
    lines, error = check_fails("coco")
    assert {line.partition(": ")[0] for line in lines[1:]} == set(map(str, spoiled)) and len(lines) == 5
    assert "coco: 4 problems" in error
    for path in Path("coco/annotations").iterdir():
        path.write_text("[]")
    lines, _ = check_fails("coco")
    assert len(lines) == 4 and all("annotations" in line for line in lines[1:])


def test_a_missing_file_of_voc_is_named_itself(here: Path, tiny_ellipses: Path) -> None:
    succeed(convert, str(tiny_ellipses), "--to=voc", "--output=voc")
    first = Path("voc/ImageSets/Main/test.txt").read_text().split()[0]
    xml, masks = Path(f"voc/Annotations/{first}.xml"), Path(f"voc/SegmentationObject/{first}.png")
    masks.rename("kept.png")
    lines, _ = check_fails("voc")
    assert (
        lines[0] == "voc: read as --dataset=voc (found Annotations)"
        and len(lines) == 2
        and lines[1].startswith(f"{masks}: ")
    )
    Path("kept.png").rename(masks)
    xml.unlink()
    for arguments in (("voc",), ("voc", "--dataset=voc:2012-masks"), ("voc", "--dataset=voc")):
        lines, _ = check_fails(*arguments)
        assert len(lines) == 2 and lines[1].startswith(f"{xml}: "), lines


def test_objects_without_an_anchor_are_noted_and_the_data_is_not_wrong(here: Path) -> None:
    (here / "labels/images").mkdir(parents=True)
    (here / "labels/masks").mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 48), np.uint8)
        mask = np.zeros((40, 48), np.uint8)
        mask[5:7, 5:7], mask[20:22, 30:32] = 1, 2
        Image.fromarray(pixels).save(here / f"labels/images/{number}.png")
        Image.fromarray(mask).save(here / f"labels/masks/{number}.png")
    lines = succeed(check_data, "labels")
    assert [line.partition(": 8 of")[0] for line in lines if " match no anchor" in line] == ["note: training images"]
    assert lines[-1] == "labels: readable, nothing looks wrong"


def test_counts_and_empty_parts_are_noted(here: Path) -> None:
    make_nuclei(here / "bowl")
    (here / "bowl/split.json").write_text('{"train": ["nucleus-1", "nucleus-2"], "test": ["nucleus-0"]}')
    for path in (here / "bowl/stage1_train/nucleus-0/masks").iterdir():
        Image.new("L", (48, 40)).save(path)
    lines = succeed(check_data, "bowl")
    assert (
        lines[0] == "bowl: read as --dataset=dsbowl2018 (found stage1_train)"
        and "all images: 6 empty masks dropped (2 training, 4 test)" in lines
    )
    assert any(line.startswith("looks wrong: test images: no image holds an object, so these images") for line in lines)
    wrong = [line for line in lines if line.startswith("looks wrong: ")]
    what = "1 thing looks" if len(wrong) == 1 else f"{len(wrong)} things look"
    assert lines[-1] == f"bowl: readable, but {what} wrong"
    (here / "void").mkdir()
    assert "void: has no files; name the folder of the images" in fail(check_data, "void")
    (here / "void/images").mkdir()
    assert "void: has no files; name the folder of the images" in fail(check_data, "void")
    for number in range(6):
        (here / f"void/images/{number}.txt").touch()
    assert "void: the format is unknown (it contains images); set --dataset" in fail(check_data, "void")
    assert "(it contains 0.txt, 1.txt, 2.txt, 3.txt and 2 more)" in fail(check_data, "void/images")
    error = fail(check_data, ".")
    assert "contains data sets in subfolders; name one of them, such as bowl" in error


def test_every_data_set_of_a_sweep_is_checked(here: Path) -> None:
    for value in (1, 2, 3):
        make_ellipses(here / f"sweep/psf={value}")
    names = {str(value): f"psf={value}" for value in (1, 2, 3)}
    Path("sweep/sweep.json").write_text(json.dumps({"factor": "psf", "values": names}))
    assert succeed(check_data, "sweep")[0] == "sweep: a sweep of 3 data sets"
    flip(Path("sweep/psf=3/train/images/000000.png"))
    shutil.rmtree("sweep/psf=1")
    lines, error = check_fails("sweep")
    assert any("psf=1" in line and "no such folder" in line for line in lines)
    assert any("psf=3" in line and "pixels differ" in line for line in lines)
    assert "sweep: 2 problems" in error
    Path("sweep/sweep.json").write_text("{}")
    assert "sweep.json: is not as sweep_data writes it" in fail(check_data, "sweep")
