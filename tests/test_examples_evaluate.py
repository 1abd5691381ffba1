"""The program that evaluates runs and results files: figures, pictures, sentences, and bad input."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from evaluation_toy import NAMES, detect, drop, make_grid, make_random, mislabel
from PIL import Image
from programs_toy import fail, snapshot, succeed

from examples.evaluate import main as evaluate
from examples.train import main as train
from maskrcnn.evaluation.coco import evaluate_coco, evaluate_coco_files
from maskrcnn.evaluation.coco_format import to_coco_dataset, to_coco_results
from maskrcnn.evaluation.coco_reading import read_coco_results, read_coco_targets

IDS = (7, 3)
FEW = "--replicates=20"


def write(path: Path, contents: Any) -> Path:
    path.write_text(json.dumps(contents))
    return path


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ground annotated, a mediocre detector, an oracle, and an oracle that misses some objects."""
    monkeypatch.chdir(tmp_path)
    targets, found = make_random(num_images=4)
    oracle = {i: detect(target) for i, target in targets.items()}
    fewer = {i: drop(each, list(range(0, len(each), 4))) for i, each in oracle.items()}
    write(tmp_path / "annotations.json", to_coco_dataset(targets, NAMES, category_ids=IDS))
    for name, each in (("found", found), ("oracle", oracle), ("fewer", fewer)):
        write(tmp_path / f"{name}.json", to_coco_results(each, category_ids=IDS))
    return tmp_path


def read_figures(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("evaluations/*/evaluation.json")
    return json.loads(path.read_text())


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_files_that_are_read_score_like_what_was_written(files: Path, kind: str) -> None:
    targets, found = make_random(num_images=4)
    annotated = read_coco_targets("annotations.json")
    assert (annotated.class_names, annotated.category_ids) == (NAMES[::-1], (3, 7))
    results = read_coco_results(
        "found.json", {i: each.size for i, each in annotated.targets.items()}, annotated.category_ids
    )
    expected = evaluate_coco(targets, found, NAMES, kind)  # type: ignore[arg-type]
    assert evaluate_coco(annotated.targets, results, annotated.class_names, kind).ap == pytest.approx(
        expected.ap, abs=1e-9
    )  # type: ignore[arg-type]


def test_polygons_run_length_codes_and_boxes_are_read_together(tmp_path: Path) -> None:
    square = {"image_id": 1, "category_id": 1, "bbox": [2, 2, 4, 4]}
    codes = [[[2, 2, 6, 2, 6, 6, 2, 6]], {"size": [10, 10], "counts": [22, 4, 6, 4, 6, 4, 6, 4, 44]}, None]
    annotations = [square | {"id": n, "segmentation": code} for n, code in enumerate(codes, 1)]
    images, categories = [{"id": 1, "height": 10, "width": 10}], [{"id": 1, "name": "a"}]
    path = write(tmp_path / "t.json", {"images": images, "annotations": annotations, "categories": categories})
    masks = read_coco_targets(path).targets[1].masks
    assert masks is not None and masks.areas().tolist() == [16, 16, 0]
    assert masks.boxes()[:2].tolist() == [[2, 2, 6, 6]] * 2


def test_results_file_gets_a_table_pictures_and_figures(files: Path) -> None:
    lines = succeed(evaluate, "--results=mine=found.json", "--annotations=annotations.json", FEW)
    assert any(re.search(r"AP50 .*0\.\d{3} ± 0\.\d{3}", line) for line in lines)
    assert any("over 5 images only: with fewer than 2 seeds" in line for line in lines)
    assert any("there are no others" in line for line in lines)
    assert lines[-1].startswith("Next: python -m examples.evaluate --results=mine=found.json --results=OTHER=FILE")
    assert "--annotations=annotations.json" in lines[-1]
    figures = read_figures(files)["methods"]["mine"]
    box, mask = evaluate_coco_files(
        json.loads(Path("annotations.json").read_text()), json.loads(Path("found.json").read_text())
    )
    assert mask is not None
    for kind, theirs in (("box", box), ("mask", mask)):
        assert figures["intervals"][kind]["AP"]["value"] == pytest.approx(theirs.ap, abs=1e-9)
        assert figures["intervals"][kind]["AP 8-16 px"]["value"] == pytest.approx(
            theirs.average_precision(size="tiny"), abs=1e-9
        )
        assert figures["first_seed"][kind]["ar"] == pytest.approx(theirs.ar, abs=1e-9)
    pictures = list(files.glob("evaluations/*/*.png"))
    assert len(pictures) == 6 and all(Image.open(path).width > 600 for path in pictures)


def test_better_of_two_is_named_with_an_interval(files: Path) -> None:
    arguments = ["--results=good=oracle.json", "--results=bad=found.json", "--annotations=annotations.json", FEW]
    lines = succeed(evaluate, *arguments)
    assert any(
        re.match(r"good beats bad by 0\.\d{3} ± 0\.\d{3} box AP \(95% interval over 5 images", line) for line in lines
    )
    assert any(line.startswith("good beats bad") and "mask AP" in line for line in lines)
    figures = read_figures(files)
    difference = figures["differences"]["good - bad"]["box"]["AP"]
    values = [figures["methods"][name]["intervals"]["box"]["AP"]["value"] for name in ("good", "bad")]
    assert difference["value"] == pytest.approx(values[0] - values[1])


def test_same_results_do_not_differ(files: Path) -> None:
    arguments = ["--results=a=found.json", "--results=b=found.json", "--annotations=annotations.json", FEW]
    assert any("a and b do not differ clearly: +0.000 ± 0.000 box AP" in line for line in succeed(evaluate, *arguments))


def test_files_of_one_name_are_seeds(files: Path) -> None:
    arguments = ["--results=a=oracle.json", "--results=a=fewer.json", "--annotations=annotations.json", FEW]
    assert any("over 2 seeds and 5 images" in line for line in succeed(evaluate, *arguments))
    interval = read_figures(files)["methods"]["a"]["intervals"]["box"]["AP"]
    assert len(interval["seeds"]) == 2 and interval["value"] == pytest.approx(sum(interval["seeds"]) / 2)


def test_sizes_and_distance_of_ones_own(files: Path) -> None:
    arguments = ("--results=a=oracle.json", "--annotations=annotations.json", FEW, "--sizes=0,4", "--match=distance:2")
    lines = succeed(evaluate, *arguments)
    assert any("AP 0-4 px" in line for line in lines) and any("AP above 4 px" in line for line in lines)
    assert any("centers ≤ 2 px" in line and "1.000" in line for line in lines)


def spoil(entry: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    return {**entry, key: value}


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("score", float("nan"), "entry 2 | score nan | finite"),
        ("score", None, "entry 2 | finite scores"),
        ("image_id", 999, "entry 2 is of image 999, which the ground truth does not have"),
        ("category_id", 1, "entry 2 has category_id 1 | it has 3, 7"),
        ("bbox", [1, 2, "x", 4], "image 5 | x"),
        ("segmentation", {"size": [1, 1], "counts": [1]}, "image 5 | run-length code 2"),
    ],
)
def test_bad_results_are_one_line(files: Path, key: str, value: Any, words: str) -> None:
    entries = json.loads(Path("found.json").read_text())
    entries[2][key] = value
    write(files / "bad.json", entries)
    before = snapshot(files)
    error = fail(evaluate, "--results=bad.json", "--annotations=annotations.json", FEW)
    assert all(word in error for word in ("bad.json", *words.split(" | "))), error
    assert snapshot(files) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--results=found.json"], "of which images"),
        (["--results=missing.json", "--annotations=annotations.json"], "missing.json: cannot be read"),
        (["--results=annotations.json", "--annotations=annotations.json"], "no COCO results file"),
        (["--results=found.json", "--annotations=found.json"], "no COCO annotation file"),
        (["--results=found.json", "--annotations=annotations.json", "--sizes=8,4"], "--sizes=8,4"),
        (["--results=found.json", "--annotations=annotations.json", "--match=iou"], "--match=iou"),
        (["some", "--results=found.json", "--annotations=annotations.json"], "not both"),
        (["--annotations=annotations.json"], "a run knows its data"),
        ([], "no run with weights"),
        (["nowhere"], "RUN=nowhere: no run there"),
    ],
)
def test_bad_arguments_are_one_line(
    files: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(files / "home"))  # no run of another test is remembered
    assert words in fail(evaluate, *arguments)


def test_mislabeled_objects_are_in_the_confusion_matrix_and_the_error_types(files: Path) -> None:
    targets = {3: make_grid(num_classes=2), 4: make_grid()}
    wrong = {i: mislabel(detect(target), [0, 7]) for i, target in targets.items()}
    write(files / "grid.json", to_coco_dataset(targets, NAMES, category_ids=IDS))
    write(files / "wrong.json", to_coco_results(wrong, category_ids=IDS))
    succeed(evaluate, "--results=w=wrong.json", "--annotations=grid.json", FEW)
    figures = read_figures(files)["methods"]["w"]["first_seed"]["box"]
    assert {name: n for name, n in figures["errors"]["counts"].items() if n} == {"classification": 4}
    matrix = figures["confusion"]
    assert matrix[0][1] + matrix[1][0] == 4


def test_runs_are_evaluated_and_compared(workplace: Path) -> None:
    for seed in (1, 2):
        succeed(train, "--num_epochs=1", "--eval_every_n_epochs=1", f"--seed={seed}")
    lines = succeed(evaluate, FEW)
    assert any("best F1 on validation images" in line for line in lines)
    (path,) = workplace.glob("evaluations/*/evaluation.json")
    metrics = [
        json.loads(line) for line in (workplace / "runs/ellipses-mask_rcnn-2/metrics.jsonl").read_text().splitlines()
    ]
    tested = next(line for line in metrics if line.get("split") == "test")
    figures = json.loads(path.read_text())["methods"]["ellipses-mask_rcnn-2"]
    for kind in ("box", "mask"):
        assert figures["intervals"][kind]["AP50"]["value"] == pytest.approx(tested[f"{kind}_ap50"], abs=1e-6)
        assert figures["first_seed"]["mask"]["f1"] == pytest.approx(tested["f1"], abs=1e-6)
    both = [f"m=runs/ellipses-mask_rcnn-{number}" for number in (1, 2)]
    assert any("over 2 seeds and 3 images" in line for line in succeed(evaluate, *both, FEW))
    run = workplace / "runs/ellipses-mask_rcnn-2"
    shutil.rmtree(run / "predictions")
    assert "did not finish" in fail(evaluate, "ellipses-mask_rcnn-2", FEW)
    config = workplace / "runs/ellipses-mask_rcnn-1/config.toml"
    config.write_text(config.read_text() + "\n[unknown]\nkey = 1\n")
    assert "another version" in fail(evaluate, "ellipses-mask_rcnn-1", FEW)
