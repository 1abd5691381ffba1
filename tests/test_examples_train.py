"""The training program from end to end, in miniature."""

from __future__ import annotations

import json
import math
from contextlib import chdir
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image
from programs_toy import N_TEST, N_TRAIN, N_VAL, fail, settle, snapshot, succeed
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from datasets.readers.generated import Generated
from examples.train import main
from maskrcnn.model.config import HEADS
from maskrcnn.training.checkpoint import load_checkpoint
from maskrcnn.training.runlog import read_metrics
from workbench.config import load_config

LOSSES = {
    "rpn": {"loss_objectness", "loss_rpn_box_reg"},
    "faster_rcnn": {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"},
    "mask_rcnn": {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask"},
}


class Finished(NamedTuple):
    """A run that ended well: its head, its working directory and folder, and what it printed."""

    head: str
    place: Path
    run: Path
    lines: list[str]


@pytest.fixture(scope="module", params=HEADS)
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_ellipses: Path) -> Finished:
    head = request.param
    place = settle(tmp_path_factory.mktemp(head), tiny_ellipses)
    with chdir(place):
        lines = succeed(main, "--dataset=ellipses", f"--head={head}")
    return Finished(head, place, place / "runs" / f"ellipses-{head}-1", lines)


def test_a_run_leaves_what_the_readme_lists(finished: Finished) -> None:
    left = set(snapshot(finished.run))
    events = {name for name in left if name.startswith("tensorboard/events")}
    curves = {f"plots/{name}.png" for name in ("losses", "ap", "precision_recall", "sizes")}
    pictures = {f"plots/epoch-0002/{image:06d}.png" for image in range(N_VAL)}
    pictures |= {f"plots/test/{image:06d}.png" for image in range(N_TEST)}
    assert len(events) == 1
    assert left - events - curves - pictures == {
        "config.toml",
        "data.json",
        "environment.json",
        "metrics.jsonl",
        "train.log",
        "weights/best.pt",
        "weights/last.pt",
        *(
            f"predictions/{folder}coco_{kind}.json"
            for folder in ("", "validation/")
            for kind in ("boxes", "masks")
            if kind == "boxes" or finished.head == "mask_rcnn"
        ),
    }
    assert curves | pictures < left
    for name in curves | pictures:
        with Image.open(finished.run / name) as picture:
            picture.load()
            assert min(picture.size) >= 64, name


def test_the_last_lines_say_where_things_are_and_what_to_type(finished: Finished) -> None:
    run = Path("runs", f"ellipses-{finished.head}-1")
    *_, weights, pictures, predictions, first, second, third, fourth = finished.lines
    assert weights.split(maxsplit=1) == ["Weights", f"{run / 'weights' / 'best.pt'}, last.pt"]
    assert pictures.split() == ["Pictures", str(run / "plots")]
    also = [", coco_masks.json"] if finished.head == "mask_rcnn" else [""]
    assert predictions.split(maxsplit=1) == ["Predictions", f"{run / 'predictions' / 'coco_boxes.json'}{also[0]}"]
    assert first == f"Next: python -m examples.predict IMAGE_OR_FOLDER --run={run}"
    assert second.strip() == f"python -m examples.evaluate {run}"
    assert third.strip() == "tensorboard --logdir runs"
    assert fourth.strip() == f"python -m examples.compare_heads --config={run / 'config.toml'}"
    headline = next(line for line in finished.lines if line.startswith("Test images: "))
    assert ("mask_ap " in headline) == (finished.head == "mask_rcnn") and "box_ap " in headline
    assert "count_error " in headline and "f1 " in headline
    legend = next(line.strip() for line in finished.lines if "count_error: mean absolute difference" in line)
    measured = [json.loads(line) for line in (finished.run / "metrics.jsonl").read_text().splitlines()]
    threshold = next(line["operating_threshold"] for line in measured if "operating_threshold" in line)
    assert legend.startswith(f"at score ≥ {threshold:.3g} (operating threshold, the best F1 on validation images)")
    counts = [len(Generated(finished.place / "data/ellipses", "test")[i][1]) for i in range(N_TEST)]
    assert legend.endswith(f"of the counts per image of {sum(counts) / N_TEST:.1f} objects on average")
    assert headline.endswith("(weights of epoch 2, the only one that was evaluated)")


def test_tensorboard_has_the_options_and_the_final_metrics(finished: Finished) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    events = EventAccumulator(str(finished.run / "tensorboard"))
    events.Reload()
    contents = {tag: HParamsPluginData.FromString(data) for tag, data in events.PluginTagToContent("hparams").items()}
    (started,) = (each.session_start_info for each in contents.values() if each.HasField("session_start_info"))
    (about,) = (each.experiment for each in contents.values() if each.HasField("experiment"))
    values = {name: value.ListFields()[0][1] if value.ListFields() else None for name, value in started.hparams.items()}
    assert values["head"] == finished.head and values["learning_rate"] == 3e-3 and values["fixed_size"] == "64"
    assert values["hflip"] == "on" and "output_dir" not in values
    tags = {each.name.tag for each in about.metric_infos}
    assert tags and tags <= set(events.Tags()["scalars"]) and "test/box_ap" in tags


def test_a_given_score_threshold_is_used_instead_of_the_best(workplace: Path) -> None:
    lines = succeed(main, "--num_epochs=1", "--plot_min_confidence=0.3", "--head=faster_rcnn")
    measured = [json.loads(line) for line in Path("runs/ellipses-faster_rcnn-1/metrics.jsonl").read_text().splitlines()]
    assert {line["operating_threshold"] for line in measured if "operating_threshold" in line} == {0.3}
    assert any(line.strip().startswith("at score ≥ 0.3 (--plot_min_confidence)") for line in lines)


def test_an_epoch_is_one_readable_line_that_the_log_keeps(finished: Finished) -> None:
    epochs = [line for line in finished.lines if line.startswith("epoch ")]
    assert [line.split()[1] for line in epochs] == ["1/2", "2/2"]
    log = (finished.run / "train.log").read_text(encoding="utf-8")
    assert all(f"  {line}\n" in log for line in epochs)


def test_figures_are_json_lines_with_the_losses_of_the_head(finished: Finished) -> None:
    lines = [json.loads(line) for line in (finished.run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    by_kind = {line["kind"]: line for line in lines}
    assert set(by_kind) >= {"train", "validation", "evaluation"}
    splits = [line["split"] for line in lines if line["kind"] == "evaluation"]
    assert splits == ["validation", "test"] and by_kind["validation"]["split"] == "validation"
    for kind in ("train", "validation"):
        assert {name for name in by_kind[kind] if name.startswith("loss_")} == LOSSES[finished.head]
        assert all(math.isfinite(by_kind[kind][name]) for name in LOSSES[finished.head])
    assert by_kind["evaluation"]["epoch"] == 2
    assert by_kind["evaluation"]["step"] == 2 * N_TRAIN // 2
    environment = json.loads((finished.run / "environment.json").read_text(encoding="utf-8"))
    assert {"command", "packages", "cpus"} <= set(environment)


def test_the_saved_configuration_is_the_one_that_ran(finished: Finished) -> None:
    config = load_config(finished.run / "config.toml", environ={})
    assert config.head == finished.head
    with chdir(finished.place):
        assert config == load_config(flags={"head": finished.head, "dataset": "ellipses"}, environ={})


def test_pycocotools_reads_the_results_and_finds_the_same_ap(finished: Finished) -> None:
    last = [line for line in read_metrics(finished.run / "metrics.jsonl") if line["kind"] == "evaluation"][-1]
    truths = COCO(finished.place / "data/ellipses/test/annotations.json")
    for kind, figure, name in (("bbox", "box_ap", "coco_boxes.json"), ("segm", "mask_ap", "coco_masks.json")):
        if figure in last:
            results = json.loads((finished.run / "predictions" / name).read_text(encoding="utf-8"))
            assert results and {each["image_id"] for each in results} <= set(truths.getImgIds())
            assert ap(truths, truths.loadRes(results), kind) == pytest.approx(last[figure], abs=1e-6)


def ap(truths: COCO, found: COCO, kind: str) -> float:
    """With all detections counted."""
    evaluation = COCOeval(truths, found, kind)
    evaluation.params.maxDets = [1, 100, 1000]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    return float(precision[precision > -1].mean())


# ---- what the flags change


@pytest.mark.parametrize(
    ("flags", "epochs"),
    [
        ("--eval_every_n_epochs=2", {2, 3}),
        ("--prediction_every_n_epochs=-1 --eval_every_n_epochs=1", {1, 2, 3}),
        ("--prediction_every_n_epochs=2 --eval_every_n_epochs=-1", {2, 3}),
        ("--prediction-every-n-epochs=1", {1, 2, 3}),
        ("--prediction_every_n_epochs=10", {3}),
        ("--prediction_every_n_epochs=0 --eval_every_n_epochs=1", {3}),
    ],
)
def test_pictures_appear_when_asked_for_and_after_the_last_epoch(workplace: Path, flags: str, epochs: set[int]) -> None:
    lines = succeed(main, "--head=rpn", "--num_epochs=3", "--plot_dir=my pictures", *flags.split())
    folders = {path.name for path in (workplace / "my pictures").iterdir() if path.is_dir()}
    assert folders == {"test"} | {f"epoch-{epoch:04d}" for epoch in epochs}
    counts = {name: len(list((workplace / "my pictures" / name).iterdir())) for name in folders}
    assert counts == {name: N_TEST if name == "test" else N_VAL for name in folders}
    assert (workplace / "my pictures/losses.png").is_file()
    assert not (workplace / "runs/ellipses-rpn-1/plots").exists()
    assert any(line.split(maxsplit=1) == ["Pictures", "my pictures"] for line in lines)


def test_weights_predictions_and_log_also_go_where_flags_say(workplace: Path) -> None:
    flags = ["--predictions-dir=found", "--model_file=new/best.pt", "--log_file=logs/a.txt"]
    lines = succeed(main, "--head=rpn", "--dataset_root=data/ellipses", *flags)
    run = workplace / "runs/ellipses-rpn-1"
    assert (workplace / "found/coco_boxes.json").is_file() and not (run / "predictions").exists()
    assert (workplace / "new/best.pt").read_bytes() == (run / "weights/best.pt").read_bytes()
    assert (workplace / "logs/a.txt").read_text() == (run / "train.log").read_text()
    assert lines[-1].strip() == f"python -m examples.compare_heads --config={Path('runs/ellipses-rpn-1/config.toml')}"


def test_each_run_gets_a_folder_of_its_own(workplace: Path) -> None:
    succeed(main, "--head=rpn", "--output_dir=here", "--num_epochs=1")
    before = snapshot(workplace)
    succeed(main, "--head=rpn", "--output_dir=here", "--num_epochs=1")
    assert {path.name for path in (workplace / "here").iterdir()} == {"ellipses-rpn-1", "ellipses-rpn-2"}
    assert before.items() <= snapshot(workplace).items()


@pytest.mark.parametrize("head", HEADS)
def test_a_dry_run_says_what_it_takes_and_leaves_nothing(workplace: Path, head: str) -> None:
    before = snapshot(workplace)
    text = "\n".join(succeed(main, "--dry_run", f"--head={head}"))
    assert "width = 16" in text and f'head = "{head}"' in text
    assert "features     stride 4: [2, 16, 16, 16]" in text
    assert f"data         {N_TRAIN} training, {N_VAL} validation and {N_TEST} test images" in text
    assert {line.split()[1].rstrip(":") for line in text.splitlines() if line.startswith("loss ")} == LOSSES[head]
    assert all(word in text for word in ("parameters   all: ", "peak memory ", " MiB"))
    assert snapshot(workplace) == before and not (workplace / "runs").exists()


@pytest.mark.parametrize("flags", [("--views=flipz",), ("--tile=4", "--overlap=3"), ("--views=scales",)])
def test_a_dry_run_checks_the_options_of_views(workplace: Path, flags: tuple[str, ...]) -> None:
    error = fail(main, *flags)
    assert fail(main, *flags, "--dry_run") == error


def test_training_starts_from_given_weights(finished: Finished) -> None:
    source = finished.run / "weights/best.pt"
    with chdir(finished.place):
        flags = [f"--head={finished.head}", "--num_epochs=1", "--learning_rate=0", "--weight_decay=0"]
        succeed(main, f"--start_from={source}", "--output_dir=again", *flags)
    weights = load_checkpoint(source)["model"]
    after = load_checkpoint(finished.place / f"again/ellipses-{finished.head}-1/weights/last.pt")["model"]
    for name, value in weights.items():
        assert value.equal(after[name]) or "running" in name or "tracked" in name, name


def test_a_run_that_has_ended_says_again_what_it_found(finished: Finished) -> None:
    weights = snapshot(finished.run / "weights")
    with chdir(finished.place):
        lines = succeed(main, f"--resume={finished.run.name}")
    assert lines[-5:] == finished.lines[-5:]
    assert snapshot(finished.run / "weights") == weights


def test_crops_of_an_image_are_steps_of_an_epoch(workplace: Path) -> None:
    succeed(main, "--head=rpn", "--num_epochs=1", "--crops_per_image=3")
    last = read_metrics(workplace / "runs/ellipses-rpn-1/metrics.jsonl")[-1]
    assert (last["epoch"], last["step"]) == (1, 3 * N_TRAIN // 2)
    assert load_checkpoint(workplace / "runs/ellipses-rpn-1/weights/last.pt")["num_images"] == N_TRAIN
