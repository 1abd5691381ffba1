"""Searching images with a trained detector, whole, in views and by tile, from the command line."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from programs_toy import N_TEST, call, fail, settle, snapshot, succeed
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from examples.predict import main as predict
from examples.train import main as train
from maskrcnn.config import UserError
from maskrcnn.evaluation.coco_format import BOXES_FILE, MASKS_FILE, to_coco_results
from maskrcnn.images.large import LargeImage
from maskrcnn.inference import detection_files, pipeline
from maskrcnn.inference.config import ViewsConfig
from maskrcnn.inference.exports import COUNTS, OBJECTS
from maskrcnn.inference.image_list import make_output_names
from maskrcnn.inference.job import Job, PredictConfig, prepare
from maskrcnn.inference.loading import load
from maskrcnn.inference.program import list_notes
from maskrcnn.model.config import HEADS
from maskrcnn.training.checkpoint import load_checkpoint, save_checkpoint
from maskrcnn.training.loading import KeyedSamples
from maskrcnn.training.runs import recall_folders
from workbench.config import load_config
from workbench.evaluation import predict as predict_samples

IMAGES = "data/ellipses/test/images"
FEW = "--plot_min_confidence=0.05"  # what a detector of two short epochs finds scores little


class Trained(NamedTuple):
    """A working directory with a run of this head."""

    head: str
    place: Path

    @property
    def run(self) -> str:
        return f"ellipses-{self.head}-1"


@pytest.fixture(scope="module", params=HEADS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_ellipses: Path) -> Trained:
    place = settle(tmp_path_factory.mktemp(request.param), tiny_ellipses)
    with chdir(place):
        succeed(train, f"--head={request.param}", "--num_epochs=2")
    return Trained(request.param, place)


@pytest.fixture
def there(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> Trained:
    """`trained`, in its working directory, without what other tests wrote."""
    monkeypatch.chdir(trained.place)
    shutil.rmtree("predictions", ignore_errors=True)
    return trained


@pytest.fixture(scope="module")
def masks_place(tmp_path_factory: pytest.TempPathFactory, tiny_ellipses: Path) -> Path:
    place = settle(tmp_path_factory.mktemp("masks"), tiny_ellipses)
    with chdir(place):
        succeed(train, "--num_epochs=1")
    return place


@pytest.fixture
def place(masks_place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a run of a Mask R-CNN, `runs/ellipses-mask_rcnn-1`."""
    shutil.copytree(masks_place, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


RUN = "--run=ellipses-mask_rcnn-1"


def load_job(run: str, flags: dict[str, Any]) -> Job:
    return prepare(Path(IMAGES), PredictConfig(run=run), flags)


def read_json(path: str | Path) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def test_help_answers_without_heavy_imports() -> None:
    code = (
        "import sys; sys.argv = ['predict', '--help']\n"
        "from examples.predict import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    heavy = {'torch', 'torchvision', 'numpy', 'matplotlib', 'PIL'} & set(sys.modules)\n"
        "    assert not heavy, heavy\n"
    )
    root = Path(__file__).parent.parent
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert "IMAGE_OR_FOLDER" in result.stdout and "--seed" not in result.stdout
    for flag in ("run", "output_dir", "to", "skip_bad", "views", "tile", "merge", "device", "plot_min_confidence"):
        assert f" --{flag} " in result.stdout, flag


# ---- what is written


def test_other_formats_and_tables_have_the_objects_of_the_label_images(place: Path) -> None:
    formats = "--to=geojson,label_tiff,coco,yolo,labelme"
    lines = succeed(predict, IMAGES, RUN, "--detection_min_confidence=0", "--plot_min_confidence=.05", formats)
    folder = Path("predictions/images-1")
    outputs = {line[:13].strip(): line[13:] for line in lines[-8:]}
    assert f"{folder / 'NAME_labels.png'} and .tif (" in outputs["Labels"] and "objects.csv" in outputs["Tables"]
    assert outputs["GeoJSON"] == str(folder / "NAME.geojson") and outputs["LabelMe"] == str(folder / "NAME.json")
    assert outputs["YOLO"] == f"{folder / 'labels' / 'NAME.txt'}, classes.txt"
    with (folder / OBJECTS).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with (folder / COUNTS).open(encoding="utf-8", newline="") as file:
        counts = list(csv.DictReader(file))
    assert len(counts) == N_TEST and rows
    for count in counts:
        of_image = [row for row in rows if row["image"] == count["image"]]
        stem = folder / Path(count["image"]).stem
        assert [int(row["number"]) for row in of_image] == list(range(1, int(count["objects"]) + 1))
        scores = [float(row["score"]) for row in of_image]
        assert scores == sorted(scores, reverse=True) and min(scores, default=1) >= 0.05
        labels = tifffile.imread(f"{stem}_labels.tif")
        with Image.open(f"{stem}_labels.png") as image:
            assert (np.asarray(image) == labels).all()
        visible = set(np.unique(labels).tolist()) - {0}
        assert {int(row["number"]) for row in of_image if row["hidden"] == "1"}.isdisjoint(visible)
        assert sum(row["hidden"] == "1" for row in of_image) == int(count["hidden"])
        features = read_json(f"{stem}.geojson")["features"]
        hidden = [each["properties"].get("hidden", False) for each in features]
        assert hidden == [row["hidden"] == "1" for row in of_image]
        assert [each["properties"]["number"] for each in features] == list(range(1, len(of_image) + 1))
        with_scores = [each["properties"]["measurements"]["Score"] for each in features]
        assert with_scores == pytest.approx(scores, abs=1e-5)
        assert len((folder / f"labels/{stem.name}.txt").read_text().splitlines()) == len(of_image)
        document = read_json(f"{stem}.json")
        assert (folder / document["imagePath"]).resolve() == Path(IMAGES, count["image"]).resolve()
    for row in rows:
        box = [float(row[name]) for name in ("x1", "y1", "x2", "y2")]
        assert box[0] <= float(row["centroid_x"]) <= box[2] or row["hidden"] == "1"
        assert 0 <= float(row["mean_1"]) <= 255 and float(row["area"]) > 0


def test_a_limit_that_cut_likely_objects_is_named_and_can_be_raised(place: Path) -> None:
    def note(*flags: str) -> list[str]:
        found = succeed(predict, f"{IMAGES}/000000.png", RUN, "--detection_min_confidence=0", *flags)
        return [line for line in found if line.startswith("note: limit")]

    (line,) = note("--detection_max_instances=2", "--limit_size=64")
    assert "--detection_max_instances (2 per 64² px) cut" in line
    assert " in 1 image or tile; " in line or line.count(" in 1 image or tile") > 1
    assert not note("--detection_max_instances=1000", "--pre_nms_limit=10000", "--post_nms_rois_inference=1000")


@pytest.mark.parametrize(
    "flags",
    ["", "--views=d4", "--tile=32 --overlap=.3 --full_image --merge=nms", "--views=affine:2+scales:.5,2 --merge=wbf"],
)
def test_a_folder_is_searched_with_every_head(there: Trained, flags: str) -> None:
    before = snapshot(there.place)
    lines = succeed(predict, IMAGES, f"--run={there.run}", FEW, *flags.split())
    written = {path.name for path in Path("predictions/images-1").iterdir()}
    names = [f"{image:06d}" for image in range(N_TEST)]
    labels = {f"{name}_labels.png" for name in names} if there.head == "mask_rcnn" else set()
    results = {BOXES_FILE, MASKS_FILE} if there.head == "mask_rcnn" else {BOXES_FILE}
    assert written == {f"{name}.png" for name in names} | labels | results | {"images.json", OBJECTS, COUNTS}
    assert before.items() <= snapshot(there.place).items()
    assert any("boxes, and label images need" in line for line in lines) == (there.head != "mask_rcnn")
    assert_readable_by_pycocotools(Path("predictions/images-1"), there.head)
    with Image.open("predictions/images-1/000000.png") as picture:
        picture.load()
        assert picture.width >= 64 * 12


def assert_readable_by_pycocotools(folder: Path, head: str) -> None:
    images = COCO(folder / "images.json")
    found = images.loadRes(str(folder / BOXES_FILE))
    assert images.getImgIds() == list(range(1, N_TEST + 1))
    assert [each["file_name"] for each in images.loadImgs([1, 2, 3])] == ["000000.png", "000001.png", "000002.png"]
    assert {(each["height"], each["width"]) for each in images.loadImgs([1, 2, 3])} == {(64, 64)}
    results = found.loadAnns(found.getAnnIds())
    assert results and all(0 <= each["score"] <= 1 for each in results)
    assert {each["category_id"] for each in results} == {1} == set(images.getCatIds())
    assert images.loadCats([1])[0]["name"] == ("object" if head == "rpn" else "ellipse")
    assert all("segmentation" not in each for each in read_json(folder / BOXES_FILE))
    assert (folder / MASKS_FILE).exists() == (head == "mask_rcnn")
    if head == "mask_rcnn":
        entries = read_json(folder / MASKS_FILE)
        assert len(entries) == len(results) and all("segmentation" in each and "bbox" not in each for each in entries)
        images.loadRes(str(folder / MASKS_FILE))


def test_looking_once_finds_what_evaluation_found(there: Trained) -> None:
    """The weights of the last epoch, and the detections that the run wrote after it."""
    weights = f"runs/{there.run}/weights/last.pt"
    succeed(predict, IMAGES, f"--run={weights}")
    written = read_json(f"runs/{there.run}/predictions/coco_boxes.json")
    truth = COCO(there.place / "data/ellipses/test/annotations.json")
    number = {each["id"]: 1 + int(Path(each["file_name"]).stem) for each in truth.loadImgs(truth.getImgIds())}
    here = read_json("predictions/images-1/coco_boxes.json")

    def summary(results: list[Any], numbers: Callable[[int], int]) -> list[Any]:
        return sorted((numbers(each["image_id"]), -each["score"], each["bbox"]) for each in results)

    for one, other in zip(summary(here, lambda k: k), summary(written, number.__getitem__), strict=True):
        assert one[0] == other[0]
        assert one[1] == pytest.approx(other[1], abs=1e-5) and one[2] == pytest.approx(other[2], abs=1e-3)


def test_label_images_hold_the_detections_that_stay_visible(place: Path) -> None:
    succeed(predict, IMAGES, RUN, FEW, "--mask_nms_thresh=.5")
    shown = 0
    for number in range(1, N_TEST + 1):
        labels = np.asarray(Image.open(f"predictions/images-1/{number - 1:06d}_labels.png")).astype(np.int64)
        found = [each for each in read_json("predictions/images-1/coco_masks.json") if each["image_id"] == number]
        found = sorted((each for each in found if each["score"] >= 0.05), key=lambda each: -each["score"])
        expected, count = np.zeros((64, 64), np.int64), 0
        for place_of, each in enumerate(found, start=1):  # its row in objects.csv
            mask = coco_mask.decode(each["segmentation"]).astype(bool)
            free = mask & (expected == 0)
            if mask.any() and free.sum() > 0.5 * mask.sum():
                count += 1
                expected[free] = place_of
        assert np.array_equal(labels, expected)
        shown += count
    assert shown


def test_one_image_gets_a_new_folder_each_time(place: Path) -> None:
    for number in (1, 2):
        lines = succeed(predict, f"{IMAGES}/000001.png", RUN, "--output_dir=out", FEW)
        assert (place / f"out/000001-{number}/000001.png").is_file()
        assert any(Path(line.split()[-1]) == Path(f"out/000001-{number}/000001.png") for line in lines)
    assert not (place / "predictions").exists()


def test_the_last_line_can_be_typed(place: Path) -> None:
    typed = ["--device=cpu", FEW]
    image = f"{IMAGES}/000001.png"
    kinds = []
    for _ in range(2):
        line = succeed(predict, image, RUN, *typed)[-1]
        command = shlex.split(line.removeprefix("Next: "))
        assert command[:3] == ["smallobjects", "predict", image] and RUN in command
        typed = [flag for flag in command[3:] if flag != RUN]
        kinds.append(" ".join(typed))
    assert "--views=d4 --show_views" in kinds[0]
    assert "--merge=wbf" in kinds[1]


def test_images_whose_names_clash_keep_their_suffixes() -> None:
    assert make_output_names([Path("a/b.png"), Path("a/c.tif")]) == ["b", "c"]
    assert make_output_names([Path("a/b.png"), Path("a/b.tif")]) == ["b.png", "b.tif"]
    assert make_output_names([Path("a/b.png"), Path("a/b_labels.png")]) == ["b.png", "b_labels.png"]
    assert make_output_names([Path("a/b.png"), Path("a/B.jpg"), Path("a/c.png")]) == ["b.png", "B.jpg", "c.png"]


def test_only_image_files_of_the_folder_itself_are_searched(place: Path) -> None:
    folder = place / "mixed"
    (folder / "nested").mkdir(parents=True)
    values = np.asarray(Image.open(f"{IMAGES}/000000.png").convert("RGB"))
    Image.fromarray(values).save(folder / "nested/d.png")
    Image.fromarray(values).save(folder / ".hidden.png")
    Image.fromarray(values).save(folder / "c.JPG", quality=95)
    tifffile.imwrite(folder / "b.tif", values, tile=(16, 16), compression="zlib", photometric="rgb")
    np.save(folder / "a.npy", values)
    (folder / "notes.txt").write_text("no image")
    succeed(predict, "mixed", RUN, FEW)
    images = read_json("predictions/mixed-1/images.json")["images"]
    assert [(each["id"], each["file_name"]) for each in images] == [(1, "a.npy"), (2, "b.tif"), (3, "c.JPG")]
    results = read_json("predictions/mixed-1/coco_boxes.json")
    one, other = ([{**each, "image_id": 0} for each in results if each["image_id"] == k] for k in (1, 2))
    assert one and one == other


# ---- views


@pytest.mark.parametrize(("flags", "panels"), [("--views=flips", 8), ("--tile=32 --overlap=0", 8)])
def test_views_are_shown_with_what_is_found_in_them(there: Trained, flags: str, panels: int) -> None:
    succeed(predict, f"{IMAGES}/000000.png", f"--run={there.run}", "--show_views", FEW, *flags.split())
    with Image.open("predictions/000000-1/000000_views.png") as sheet:
        sheet.load()
        assert sheet.width > 4 * 300 and sheet.height > panels // 4 * 300


def test_a_sheet_of_many_views_shows_the_first(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(
        detection_files, "render_sheet", lambda panels, **_: seen.extend(panels) or np.zeros((9, 9, 3), "u1")
    )
    succeed(predict, f"{IMAGES}/000000.png", RUN, "--show_views", "--tile=32", "--overlap=.8", FEW)
    assert len(seen) == 2 * detection_files.MAX_VIEWS
    assert "as the detector sees it" in seen[0].kind and "mapped back" in seen[1].kind
    for shown, back in zip(seen[::2], seen[1::2], strict=True):
        assert tuple(shown.image.shape[1:]) == (32, 32) and tuple(shown.image.shape[1:]) != back.image.shape[1:]
        assert len(back.instances) <= len(shown.instances) and set(back.colors) <= set(shown.colors)


def test_options_of_the_run_are_used_unless_given(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line overrides the environment, which overrides a TOML file, which overrides what was saved."""
    name = RUN.partition("=")[2]
    saved = load_config("runs/ellipses-mask_rcnn-1/config.toml", environ={})
    options = load_job(name, {}).options
    assert (options.detector, options.views, options.training.device) == (saved.detector, saved.views, "cpu")
    assert (options.output.min_score, options.data.max_megapixels) == (None, saved.data.max_megapixels)
    with_flags = load_job(name, {"views": "d4", "tile": "64"}).options
    assert (with_flags.views.views, with_flags.views.tile) == ("d4", 64)
    (place / "mine.toml").write_text('[views]\nviews = "flips"\ntile = 64\n')
    assert load_job(name, {"config": "mine.toml", "views": "d4"}).options == with_flags
    monkeypatch.setenv("SMALLOBJECTS_VIEWS", "rot90")
    assert load_job(name, {"config": "mine.toml"}).options.views == replace(with_flags.views, views="rot90")
    assert load_job(name, {"config": "mine.toml", "views": "d4"}).options == with_flags


def test_old_names_of_options_are_read(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "old.toml").write_text("[output]\nmask_nms_thresh = 0.5\n[detector.box]\nmin_confidence = 0.25\n")
    options = load_job("newest", {"config": "old.toml"}).options
    assert (options.output.min_visible_fraction, options.detector.box.min_score) == (0.5, 0.25)
    notices = capsys.readouterr().err
    assert "old.toml: output.mask_nms_thresh is now output.min_visible_fraction" in notices


def test_options_that_predict_does_not_have_are_named(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "mine.toml").write_text(
        '[views]\nviews = "flips"\n[augment]\nhflip = false\n[data]\ndataset = "coco"\n[training]\nseed = 3\n'
    )
    monkeypatch.setenv("SMALLOBJECTS_LEARNING_RATE", "0.1")
    assert load_job("newest", {"config": "mine.toml"}).options.views.views == "flips"
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "note: not options of predict, ignored: augment, data.dataset, training.seed in mine.toml; "
        "SMALLOBJECTS_LEARNING_RATE"
    )
    (place / "wrong.toml").write_text('[views]\nview = "flips"\n')
    assert "wrong.toml: unknown key 'views.view'; did you mean 'views'?" in fail(
        predict, IMAGES, RUN, "--config=wrong.toml"
    )


@pytest.mark.parametrize("run", ["runs/ellipses-mask_rcnn-1", "newest", "copy.pt"])
def test_a_run_may_be_named_in_many_ways(place: Path, run: str) -> None:
    best = place / "runs/ellipses-mask_rcnn-1/weights/best.pt"
    shutil.copy(best, place / "copy.pt")
    job = load_job(run, {})
    assert job.saved.source.read_bytes() == best.read_bytes()
    predictor = job.predictor
    assert (predictor.head, predictor.class_names, predictor.detector.training) == ("mask_rcnn", ("ellipse",), False)


def test_the_program_predicts_as_python_does(place: Path) -> None:
    """`maskrcnn.load` with the same options has the same detections, bit for bit, and so have tiles."""
    for number, options in enumerate(({}, {"views": "flips", "tile": 32, "detection_min_confidence": 0.1}), start=1):
        succeed(predict, IMAGES, RUN, *(f"--{name}={value}" for name, value in options.items()))
        model = load("ellipses-mask_rcnn-1", device="cpu", **options)
        paths = sorted(Path(IMAGES).iterdir())
        entries = [entry for k, path in enumerate(paths, 1) for entry in model.predict(path).to_coco(k)]
        boxes = [{key: value for key, value in each.items() if key != "segmentation"} for each in entries]
        assert read_json(f"predictions/images-{number}/coco_boxes.json") == boxes
        with_masks = [{key: value for key, value in each.items() if key != "bbox"} for each in entries]
        assert read_json(f"predictions/images-{number}/coco_masks.json") == json.loads(json.dumps(with_masks))


def test_the_former_name_of_run_is_accepted(place: Path) -> None:
    image = f"{IMAGES}/000000.png"
    lines = succeed(predict, image, "--weights=ellipses-mask_rcnn-1", FEW)
    assert lines[0] == succeed(predict, image, RUN, FEW)[0] and "--run=ellipses-mask_rcnn-1" in lines[-1]
    assert "--weights" not in call(predict, "--help-all").output


@pytest.mark.parametrize("name", ["best", "last"])
def test_pictures_labels_and_counts_use_the_threshold_saved_with_the_weights(place: Path, name: str) -> None:
    weights = place / f"runs/ellipses-mask_rcnn-1/weights/{name}.pt"
    lines = (place / "runs/ellipses-mask_rcnn-1/metrics.jsonl").read_text().splitlines()
    measured = [line["operating_threshold"] for line in map(json.loads, lines) if "operating_threshold" in line]
    assert load_job(str(weights), {}).threshold == measured[0]
    contents = torch.load(weights, weights_only=True)
    contents["state"]["metrics"]["operating_threshold"] = threshold = 0.0
    save_checkpoint(weights, contents)
    job = load_job(str(weights), {})
    assert job.threshold == threshold and not list_notes(job, Path("a.png"))
    first, last = run_on_one(f"--run={weights}")
    assert "score ≥ 0 (best F1 on validation images)" in first
    found = read_json("predictions/000000-1/coco_boxes.json")
    assert f"{len(found)} detections ≥ 0" in last
    assert load_job(str(weights), {"plot_min_confidence": "0.99"}).threshold == 0.99
    above, *_ = run_on_one(f"--run={weights}", "--plot_min_confidence=0.99")
    assert "score ≥ 0.99" in above and "best F1" not in above


def run_on_one(*flags: str) -> list[str]:
    """The line about the detector, and the one of the image."""
    lines = succeed(predict, f"{IMAGES}/000000.png", *flags)
    return [lines[0], next(line for line in lines if line.startswith("000000.png: "))]


@pytest.mark.parametrize("given", ["", "0.5", "0.3"])
def test_weights_without_an_operating_threshold_use_one_half_with_a_notice(place: Path, given: str) -> None:
    weights = place / "runs/ellipses-mask_rcnn-1/weights/best.pt"
    contents = torch.load(weights, weights_only=True)
    del contents["state"]["metrics"]["operating_threshold"]
    del contents["config"]["output"]["min_score"]
    contents["config"]["output"]["plot_min_confidence"] = 0.5  # the former name and default
    save_checkpoint(weights, contents)
    flags = [f"--plot_min_confidence={given}"] if given else []
    lines = succeed(predict, f"{IMAGES}/000000.png", f"--run={weights}", *flags)
    notes = [line for line in lines if line.startswith("note: ") and "has no operating threshold" in line]
    assert len(notes) == (not given)
    assert f"score ≥ {given or 0.5}" in lines[0]


def test_a_run_without_best_weights_gives_its_last(place: Path) -> None:
    (place / "runs/ellipses-mask_rcnn-1/weights/best.pt").unlink()
    assert load_job("ellipses-mask_rcnn-1", {}).saved.source.name == "last.pt"


# ---- large images


def test_a_large_image_is_read_by_tile_and_drawn_smaller(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.asarray(Image.open(f"{IMAGES}/000000.png").convert("RGB"))
    many = np.tile(values, (4, 5, 1))[:250, :311]
    tifffile.imwrite("large.tif", many, tile=(32, 32), compression="zlib", photometric="rgb")
    monkeypatch.setattr(detection_files, "MAX_PICTURE_SIDE", 100)
    monkeypatch.setattr(detection_files, "_ROWS", 32)
    monkeypatch.setattr(detection_files, "_COLUMNS", 64)
    largest, read = 0, LargeImage.read

    def watched(self: LargeImage, x: int, y: int, height: int, width: int) -> torch.Tensor:
        nonlocal largest
        largest = max(largest, height, width)
        return read(self, x, y, height, width)

    monkeypatch.setattr(LargeImage, "read", watched)
    lines = succeed(predict, "large.tif", RUN, "--tile=64", FEW)
    assert largest <= 64 + 4, "a tile and its margin"
    assert any(line.startswith("large.tif: 311 x 250, 30 views, ") for line in lines)
    with Image.open("predictions/large-1/large.png") as picture:
        assert picture.width < 78 * 12 + 100
    with Image.open("predictions/large-1/large_labels.png") as labels:
        assert labels.size == (311, 250)


# ---- evaluation by views, in training


def test_evaluation_looks_through_views_and_tiles(there: Trained) -> None:
    from workbench.data import open_data

    model = load_job(there.run, {}).predictor
    samples = KeyedSamples(open_data(load_config(f"runs/{there.run}/config.toml")).test)
    how = (model.detector, samples, model.machine, 1)
    once = to_coco_results(predict_samples(*how))
    assert once == to_coco_results(predict_samples(*how, ViewsConfig()))
    assert once == to_coco_results(predict_samples(*how, ViewsConfig(views="scales:1")))
    for views in (ViewsConfig(views="d4"), ViewsConfig(tile=32), ViewsConfig(views="flips")):
        found = predict_samples(*how, views)
        assert list(found) == samples.image_ids
        for each in found.values():
            assert (each.masks is not None) == (there.head == "mask_rcnn") and each.size == (64, 64)
        assert to_coco_results(found) != once


def test_training_evaluates_by_views_and_goes_on_with_others(place: Path) -> None:
    shutil.rmtree("runs")
    succeed(train, "--head=rpn", "--num_epochs=1", "--views=flips", "--merge_on=boxes")
    assert load_config("runs/ellipses-rpn-1/config.toml", environ={}).views.views == "flips"
    assert recall_folders()[0][0] == place / "runs", "so that --run=newest finds it from anywhere"
    succeed(train, "--resume", "--views=none", "--tile=32")


# ---- mistakes


def spoil_weights(place: Path, **changes: Any) -> None:
    contents = {key: value for key, value in load_checkpoint(place / "copy.pt").items() if key not in changes}
    save_checkpoint(place / "copy.pt", contents | {k: v for k, v in changes.items() if v is not None})


@pytest.mark.parametrize(
    ("image", "flags", "words"),
    [
        ("nothing.png", RUN, "nothing.png: no such image or folder"),
        ("data", RUN, "data: no images in this folder"),
        ("smallobjects.toml", RUN, "smallobjects.toml: not a readable image"),
        (IMAGES, "", "--run: which detector? | runs"),
        (IMAGES, "--run=nothing", "--run=nothing: no run there | runs"),
        (IMAGES, "--run=nothing.pt", "no weights at nothing.pt"),
        (IMAGES, f"--run={IMAGES}/000000.png", "000000.png is damaged or not a checkpoint"),
        (IMAGES, f"{RUN} --views=flip", "views: unknown view 'flip': did you mean 'flips'?"),
        (IMAGES, f"{RUN} --tile=32 --overlap=1", "overlap | below 1"),
        (IMAGES, f"{RUN} --tile=31", "tile | at least 32 pixels"),
        (IMAGES, f"{RUN} --views=scales:1e9", "view x1e+09 | does not fit into memory | smaller scales"),
        (IMAGES, f"{RUN} --tile=32 --tile_scales=1e6", "more than 1000000 tiles | smaller scales"),
        (IMAGES, f"{RUN} --merge=nsm", "--merge = 'nsm' | did you mean 'nms'?"),
        (IMAGES, f"{RUN} --view_batch_size=0", "--view_batch_size = 0"),
        (IMAGES, f"{RUN} --device=tpu", "--device=tpu: unknown device"),
        (IMAGES, f"{RUN} --output_dir=smallobjects.toml", "cannot write to smallobjects.toml | --output_dir"),
        (IMAGES, f"{RUN} --head=rpn", "No such option | --head"),
        (IMAGES, f"{RUN} --config=absent.toml", "absent.toml: cannot be read"),
        (IMAGES, f"{RUN} another", "unexpected extra argument"),
        ("", "", "IMAGE_OR_FOLDER"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(place: Path, image: str, flags: str, words: str) -> None:
    before = snapshot(place)
    error = fail(predict, *filter(None, [image]), *flags.split())
    assert all(word in error for word in words.split(" | ")), error
    assert snapshot(place) == before and not any(Path("predictions").glob("*"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"config": None}, "copy.pt does not describe what it was trained as"),
        ({"class_names": []}, "copy.pt does not describe what it was trained as"),
        ({"head": "yolo"}, "copy.pt does not describe what it was trained as"),
        ({"config": {"detector": {"bx": {}}}}, "copy.pt: unknown key 'detector.bx'; did you mean 'box'?"),
        ({"head": "faster_rcnn"}, "copy.pt has another architecture | mask_head"),
    ],
)
def test_weights_of_something_else(place: Path, changes: dict[str, Any], words: str) -> None:
    shutil.copy(place / "runs/ellipses-mask_rcnn-1/weights/best.pt", place / "copy.pt")
    spoil_weights(place, **changes)
    error = fail(predict, IMAGES, "--run=copy.pt")
    assert all(word in error for word in words.split(" | ")), error


def test_a_broken_image_in_a_folder_is_named_before_any_is_searched(place: Path) -> None:
    path = place / IMAGES / "000002.png"
    path.write_bytes(path.read_bytes()[:100])
    error = fail(predict, IMAGES, RUN)
    assert "000002.png: not a readable image" in error
    assert error.endswith("; check or remove it, or use --skip_bad to leave it out")
    assert not any(Path("predictions").glob("*"))


def test_skip_bad_leaves_out_broken_images_and_lists_them(place: Path) -> None:
    Path("mixed").mkdir()
    for name in "ace":
        shutil.copy(f"{IMAGES}/000000.png", f"mixed/{name}.png")
    breaking_tiff("mixed/b.tif")  # found out when its last tile is read
    Path("mixed/d.png").write_bytes(Path("mixed/c.png").read_bytes()[:100])
    lines = succeed(predict, "mixed", RUN, FEW, "--skip_bad")
    start = next(k for k, line in enumerate(lines) if line.startswith("Left out"))
    assert lines[start] == "Left out     2 unreadable images of 5 (--skip_bad), check or remove:"
    assert not any("check or remove it" in line for line in lines)
    assert "d.png: not a readable image" in lines[start + 1] and "b.tif: not a readable image" in lines[start + 2]
    images = read_json("predictions/mixed-1/images.json")["images"]
    assert [(each["id"], each["file_name"]) for each in images] == [(1, "a.png"), (3, "c.png"), (5, "e.png")]
    assert not Path("predictions/mixed-1/predictions.jsonl").exists()
    assert "--skip_bad" in lines[-1] and "d.png" in fail(predict, "mixed", RUN, FEW)
    assert "--skip_bad" not in fail(predict, "mixed/d.png", RUN, FEW), "there is no other image"


def test_skip_bad_does_not_hide_that_nothing_is_readable(place: Path) -> None:
    Path("broken").mkdir()
    for name in "ab":
        Path(f"broken/{name}.png").write_text("no image")
    error = fail(predict, "broken", RUN, "--skip_bad")
    assert "none of the 2 images is readable: broken/a.png: not a readable image" in error.replace("\\", "/")
    assert not any(Path("predictions").glob("*"))


def breaking_tiff(path: str) -> None:
    """Its first pixels can be read, its last cannot."""
    values = np.zeros((128, 128, 3), np.uint8)
    tifffile.imwrite(path, values, tile=(64, 64), compression="zlib", photometric="rgb")
    with tifffile.TiffFile(path) as tiff:
        last = tiff.pages.first.dataoffsets[-1]
    with open(path, "r+b") as file:
        file.seek(last)
        file.write(bytes(9))


def test_what_was_found_before_an_image_fails_is_kept(place: Path) -> None:
    Path("mixed").mkdir()
    shutil.copy(f"{IMAGES}/000000.png", "mixed/a.png")
    breaking_tiff("mixed/b.tif")
    assert "b.tif: not a readable image" in fail(predict, "mixed", RUN, FEW)
    images = read_json("predictions/mixed-1/images.json")["images"]
    assert [each["file_name"] for each in images] == ["a.png"]
    assert {each["image_id"] for each in read_json("predictions/mixed-1/coco_boxes.json")} == {1}


def test_views_that_one_of_several_images_cannot_have_are_told_first(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "MAX_TILES", 30)
    Path("mixed").mkdir()
    shutil.copy(f"{IMAGES}/000000.png", "mixed/a.png")
    np.save("mixed/b.npy", np.zeros((300, 300, 3), np.uint8))
    assert "more than 30 tiles for an image of 300 x 300" in fail(predict, "mixed", RUN, "--tile=32")
    assert not any(Path("predictions").glob("*"))


@pytest.mark.parametrize(("settings", "words"), [({"overlap": 1.0}, "below 1"), ({"tile_scales": ()}, "tile_scales")])
def test_tiles_that_cannot_be_are_told_as_such_of_images_of_any_size(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        pipeline.build_views(torch.nn.Identity(), ViewsConfig(tile=64, **settings), (2000, 2000))


def test_views_that_memory_cannot_hold_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system would end the process without a word."""
    monkeypatch.setattr(pipeline, "_free_memory", lambda detector: 1 << 30)
    with pytest.raises(UserError, match=r"view x100 of 6400 x 6400 pixels does not fit .*--tile=512.*smaller scales"):
        pipeline.build_views(torch.nn.Identity(), ViewsConfig(views="scales:1,100"), (64, 64))
    assert pipeline.build_views(torch.nn.Identity(), ViewsConfig(views="scales:1,10"), (64, 64))


def test_free_memory_is_known_or_without_limit() -> None:
    assert pipeline._free_memory(torch.nn.Identity()) > 1 << 24


def test_what_a_search_leaves_out_or_does_badly_is_said(place: Path) -> None:
    (place / "some/nested").mkdir(parents=True)
    for name in ("some/a.png", "some/nested/b.png"):
        Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(name)
    lines = succeed(predict, "some", RUN, FEW)
    assert "note: some: 1 subfolder left out; predict each of them separately" in lines
    weights = "runs/ellipses-mask_rcnn-1/weights/best.pt"
    assert list_notes(load_job(weights, {"tile": "32"}), place / "some/a.png") == []
    contents = load_checkpoint(weights)
    contents["config"]["augment"]["crop_size"] = [256]
    save_checkpoint(weights, contents)
    (note,) = list_notes(load_job(weights, {"tile": "32"}), place / "some/a.png")
    assert "tiles of 32 px are less than half of the 256 px" in note and "--tile=256" in note


def test_memory_that_runs_out_over_a_picture_is_one_line(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(detection_files, "write_picture", too_large)
    assert "000000.png: out of memory" in fail(predict, f"{IMAGES}/000000.png", RUN)


def test_the_label_image_is_named_as_it_was_written(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection_files, "MAX_PNG_LABEL", -1)
    lines = succeed(predict, f"{IMAGES}/000000.png", RUN, FEW)
    (line,) = (line for line in lines if line.startswith("Labels"))
    assert "000000_labels.tif " in line and Path("predictions/000000-1/000000_labels.tif").is_file()


def test_a_detector_keeps_its_mode_whatever_happens(place: Path) -> None:
    predictor = load_job(RUN.partition("=")[2], {}).predictor
    predictor.detector.train()
    with pytest.raises(AttributeError):
        predict_samples(predictor.detector, None, predictor.machine, 1)
    assert predictor.detector.training


def test_an_image_that_breaks_on_the_way_is_one_line(place: Path) -> None:
    breaking_tiff("a.tif")
    assert "a.tif: not a readable image" in fail(predict, "a.tif", RUN, "--tile=64")
    assert not any(Path("predictions").glob("*"))
