"""The names that `import maskrcnn` offers: loading, predicting, converting and evaluating."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from detector_toy import TOY, disks, toy_detector
from PIL import Image

import maskrcnn
from maskrcnn.config import merge as merge_options
from maskrcnn.config import to_dict
from maskrcnn.inference.config import ViewsConfig
from maskrcnn.inference.loading import save
from maskrcnn.inference.pipeline import bind_detector, build_merge
from maskrcnn.inference.prediction import predict as predict_views
from maskrcnn.inference.predictor import Predictor
from maskrcnn.inference.views import make_views
from maskrcnn.plotting import predictions
from maskrcnn.structures.instances import Instances
from maskrcnn.training.checkpoint import save_checkpoint

SIZE = (48, 64)
PUBLIC = {"CroppedMasks", "Detector", "DetectorConfig", "Instances", "Predictor", "evaluate", "load"}


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(toy_detector(num_classes=2), ("cell", "debris"), (7, 9), operating_threshold=0.6, device="cpu")


@pytest.fixture
def run(tmp_path: Path, predictor: Predictor) -> Path:
    """A run folder as training leaves it, with the best weights only."""
    folder = tmp_path / "runs" / "toy-1"
    (folder / "weights").mkdir(parents=True)
    (folder / "config.toml").write_text("")
    contents = {
        "model": predictor.detector.state_dict(),
        "head": "mask_rcnn",
        "class_names": ["cell", "debris"],
        "category_ids": [7, 9],
        "config": {"detector": to_dict(TOY), "views": to_dict(ViewsConfig(views="flips")), "data": {}},
        "state": {"metrics": {"operating_threshold": 0.25}},
    }
    save_checkpoint(folder / "weights" / "best.pt", contents)
    return folder


def same(a: Instances, b: Instances) -> bool:
    return torch.equal(a.boxes, b.boxes) and torch.equal(a.labels, b.labels) and torch.equal(a.scores, b.scores)


def image() -> torch.Tensor:
    return disks(SIZE)[0]


# ---- the surface


def test_the_public_names_and_no_others_are_offered() -> None:
    assert set(maskrcnn.__all__) == PUBLIC
    assert all(hasattr(maskrcnn, name) for name in PUBLIC)
    with pytest.raises(AttributeError, match="has no attribute 'lod'"):
        maskrcnn.lod  # noqa: B018


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, maskrcnn; sys.exit(str({'torch', 'numpy', 'matplotlib', 'PIL'} & set(sys.modules) or ''))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stderr.strip() == ""


# ---- loading


@pytest.mark.parametrize("how", ["folder", "name", "newest", "file"])
def test_a_run_is_loaded_by_folder_name_newest_or_file(how: str, run: Path, predictor: Predictor) -> None:
    path = {"folder": run, "name": "toy-1", "newest": "newest", "file": run / "weights/best.pt"}[how]
    loaded = maskrcnn.load(path, device="cpu", runs=run.parent)
    assert (loaded.class_names, loaded.category_ids, loaded.head) == (("cell", "debris"), (7, 9), "mask_rcnn")
    assert loaded.views == ViewsConfig(views="flips") and loaded.operating_threshold == 0.25
    assert same(loaded.predict(image(), views="none"), predictor.predict(image()))


def test_environment_and_options_files_have_no_influence(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SMALLOBJECTS_DETECTION_MIN_CONFIDENCE", "0.99")
    Path("smallobjects.toml").write_text("[views]\nviews = 'd4'\n")
    loaded = maskrcnn.load(run, device="cpu")
    assert loaded.detector.config.box.min_score == TOY.box.min_score and loaded.views.views == "flips"


def test_safetensors_hold_everything(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    loaded = maskrcnn.load(run, device="cpu")
    save(loaded, tmp_path / "toy.safetensors")
    again = maskrcnn.load(tmp_path / "toy.safetensors", device="cpu")
    assert (again.class_names, again.category_ids, again.views) == (loaded.class_names, (7, 9), loaded.views)
    assert again.operating_threshold == 0.25 and same(again.predict(image()), loaded.predict(image()))


def test_what_is_no_trained_detector_is_named(run: Path, tmp_path: Path) -> None:
    weights = run / "weights/best.pt"
    contents = torch.load(weights, weights_only=True)
    bad: dict[str, tuple[Any, str]] = {}
    bad["nothing"] = (tmp_path / "absent.pt", "no such file")
    (tmp_path / "empty").mkdir()
    bad["no run"] = (tmp_path / "empty", "is no folder of a run")
    (tmp_path / "cut.pt").write_bytes(weights.read_bytes()[:5000])
    bad["truncated"] = (tmp_path / "cut.pt", "damaged|not a checkpoint")
    (tmp_path / "text.pt").write_text("hello")
    bad["text"] = (tmp_path / "text.pt", "damaged|not a checkpoint")
    torch.save({"weights": [1]}, tmp_path / "other.pt")
    bad["foreign"] = (tmp_path / "other.pt", "contains no model")
    save_checkpoint(tmp_path / "newer.pt", contents | {"format": 2})
    bad["newer"] = (tmp_path / "newer.pt", "newer version")
    save_checkpoint(tmp_path / "bare.pt", {"model": contents["model"]})
    bad["undescribed"] = (tmp_path / "bare.pt", "does not describe what it was trained as")
    for path, message in bad.values():
        with pytest.raises(ValueError, match=message):
            maskrcnn.load(path, device="cpu")


# ---- predicting


def forms(pixels: torch.Tensor, folder: Path) -> dict[str, Any]:
    array = pixels.permute(1, 2, 0).numpy()
    Image.fromarray(array).save(folder / "image.png")
    alpha = np.dstack([array, np.full(array.shape[:2], 255, np.uint8)])
    return {
        "path": folder / "image.png",
        "text": str(folder / "image.png"),
        "PIL": Image.fromarray(array),
        "HWC": array,
        "RGBA": alpha,
        "not contiguous": np.asfortranarray(array),
        "float32": pixels.float() / 255,
        "float64 HWC": array.astype(np.float64) / 255,
    }


def test_every_form_of_an_image_gives_the_same(predictor: Predictor, tmp_path: Path) -> None:
    expected = predictor.predict(image())
    assert len(expected) > 3 and torch.equal(expected.scores, expected.scores.sort(descending=True).values)
    for form, value in forms(image(), tmp_path).items():
        found = predictor.predict(value)
        assert len(found) == len(expected), form
        torch.testing.assert_close(found.boxes, expected.boxes, rtol=0, atol=1e-3)


def test_gray_images_are_repeated(predictor: Predictor) -> None:
    gray = image()[0]
    expected = predictor.predict(gray.expand(3, -1, -1))
    for form in (gray.numpy(), gray.numpy()[:, :, None], Image.fromarray(gray.numpy())):
        assert same(predictor.predict(form), expected)


def test_values_of_16_bits_are_not_cut(predictor: Predictor) -> None:
    deep = image().numpy().transpose(1, 2, 0).astype(np.uint16) * 16 + 1000  # 12 bits at an offset
    expected = predictor.predict(image())
    found = predictor.predict(deep)
    assert abs(len(found) - len(expected)) <= 2 and len(found) > 3


def test_lists_and_generators_give_what_single_images_give(predictor: Predictor) -> None:
    images = [disks(SIZE, seed=seed)[0] for seed in range(3)]
    expected = [predictor.predict(each) for each in images]
    calls: list[tuple[int, int]] = []
    found = predictor.predict(images, progress=lambda done, total: calls.append((done, total)))
    assert all(map(same, found, expected)) and calls == [(1, 3), (2, 3), (3, 3)]
    assert all(map(same, predictor.predict_each(iter(images)), expected))


def test_options_of_a_call_win_over_those_saved(predictor: Predictor) -> None:
    steps: list[tuple[int, int]] = []
    predictor.predict(image(), views="d4", batch_size=8, progress=lambda done, total: steps.append((done, total)))
    assert steps[-1] == (8, 8)
    all_found = predictor.predict(image())
    median = float(all_found.scores.median())
    assert len(predictor.predict(image(), min_score=median)) == int((all_found.scores >= median).sum())
    assert len(predictor.predict(image(), tile=32, overlap=0.25, merge="nms")) > 0


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((3, 40, 50), np.uint8), r"NumPy images must be \[H, W\], or .* got \[3, 40, 50\]; transpose"),
        (np.zeros((40, 50, 2), np.uint8), r"with 1, 3 or 4 channels, got \[40, 50, 2\]"),
        (np.zeros((40, 50), np.int32), "must be uint8, uint16 or float in .* got int32"),
        (np.zeros((40, 50), bool), "got bool"),
        (np.full((40, 50), 200.0), "float images must be in .* this one is in .200, 200.; divide it by 255"),
        (np.full((40, 50), np.nan), "not finite"),
        (np.zeros((0, 50), np.uint8), "has no pixels"),
        (torch.zeros(1, 40, 50), r"an image must be \[3, H, W\], got \[1, 40, 50\]"),
        (torch.zeros(3, 40, 50, dtype=torch.int64), "got int64"),
        ("absent.png", "absent.png: no such image file"),
        (17, "must be a path, a PIL image, a NumPy array or a tensor, not builtins.int"),
        ([], "the list is empty"),
    ],
)
def test_what_is_no_image_is_named(bad: Any, message: str, predictor: Predictor) -> None:
    with pytest.raises(ValueError, match=message):
        predictor.predict(bad)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": "d5"}, "unknown view 'd5'"),
        ({"merge": "best"}, "merge.*must be one of"),
        ({"tile": 32, "overlap": 1.5}, "overlap"),
    ],
)
def test_unknown_views_and_merges_are_named(options: dict[str, Any], message: str, predictor: Predictor) -> None:
    with pytest.raises(ValueError, match=message):
        predictor.predict(image(), **options)


def test_names_must_be_those_of_the_classes() -> None:
    with pytest.raises(ValueError, match="the detector has 2 classes, but there are 1 class_names"):
        Predictor(toy_detector(num_classes=2), ("cell",), device="cpu")


# ---- what comes back


def test_detections_convert_to_what_others_read(predictor: Predictor, tmp_path: Path) -> None:
    found = predictor.predict(image())
    assert repr(found).startswith(f"Instances({len(found)} objects, 48 × 64, scores ") and "masks" in repr(found)
    kept = found.above(0.5)
    assert len(kept) == int((found.scores >= 0.5).sum())
    shuffled = found[torch.randperm(len(found), generator=torch.Generator().manual_seed(0))]
    assert torch.equal(shuffled.sorted_by_score().scores, found.scores)
    assert found["boxes"] is found.boxes
    with pytest.raises(KeyError, match="have no field 'box'"):
        found["box"]
    labels = found.to_label_image()
    assert labels.shape == SIZE and labels.max() <= len(found)
    entries = found.to_coco(image_id=5, category_ids=predictor.category_ids)
    assert {entry["image_id"] for entry in entries} == {5} and {entry["category_id"] for entry in entries} <= {7, 9}
    json.dumps(entries)
    target = found.to_torchvision()
    assert target["masks"].dtype == torch.float32 and target["masks"].shape == (len(found), 1, *SIZE)
    assert torch.equal(target["masks"][:, 0] > 0.5, found.masks.to_dense())
    arrays = found.to_numpy()
    assert arrays["boxes"].shape == (len(found), 4) and arrays["masks"].shape == (len(found), *SIZE)
    picture = found.plot(tmp_path / "found.png", min_score=0.05)
    assert picture.size[0] > 64 and Image.open(tmp_path / "found.png").size == picture.size
    assert "<img" in found._repr_html_()


def test_detections_carry_the_category_ids_of_the_data(predictor: Predictor) -> None:
    found = predictor.predict(image())
    assert set(found.labels.tolist()) == {1, 2}
    numbers = {1: 7, 2: 9}
    for each in (found, found[3:], found.above(0.5), found.to("cpu"), Instances.cat([found[:4], found[4:]])):
        assert [entry["category_id"] for entry in each.to_coco()] == [numbers[k] for k in each.labels.tolist()]
    assert [entry["category_id"] for entry in found.to_coco(category_ids=(0, 3))] == [
        {1: 0, 2: 3}[label] for label in found.labels.tolist()
    ]
    plain = replace(found, category_ids=None)
    assert [entry["category_id"] for entry in plain.to_coco()] == found.labels.tolist()


def test_a_label_without_a_category_id_is_named(predictor: Predictor) -> None:
    from maskrcnn.evaluation.coco_format import to_coco_dataset, to_coco_results

    found = predictor.predict(image())
    message = "label 2 has no category id: category_ids has 1"
    with pytest.raises(ValueError, match=message):
        found.to_coco(category_ids=[7])
    with pytest.raises(ValueError, match=message):
        to_coco_results({1: found}, category_ids=[7])
    with pytest.raises(ValueError, match=message):
        to_coco_dataset({1: found}, ("cell",))
    with pytest.raises(ValueError, match="2 class names, but 1 category_ids"):
        to_coco_dataset({1: found}, ("cell", "debris"), category_ids=[7])
    with pytest.raises(ValueError, match="label 0 has no category id"):
        replace(found, labels=found.labels * 0).to_coco()


@pytest.mark.parametrize("options", [{"views": "d4"}, {"tile": 32, "overlap": 0.5}, {"views": "flips", "merge": "wbf"}])
@pytest.mark.parametrize("minimum", [0.05, 0.34])
def test_merged_scores_below_the_minimum_confidence_are_left_out(options: dict[str, Any], minimum: float) -> None:
    """A detection that only some views or tiles have gets a lower score, below that of each."""
    model = Predictor(toy_detector(num_classes=2, box__min_score=minimum), device="cpu")
    config, detect = merge_options(ViewsConfig(), options), bind_detector(model.detector, model.machine)
    everything = predict_views(detect, image(), make_views(config, SIZE, 8), build_merge(config))
    kept = everything[everything.scores > minimum]
    found = model.predict(image(), **options)
    assert len(found) == len(kept) and torch.equal(found.scores, kept.scores)
    assert (len(found) < len(everything)) == (minimum == 0.34)


def test_plots_need_an_image_of_the_same_size(predictor: Predictor) -> None:
    found = predictor.predict(image())
    with pytest.raises(ValueError, match="do not know their image"):
        replace(found, source=None).plot()
    with pytest.raises(ValueError, match="the image is .40, 40., but the detections are for .48, 64."):
        found.plot(image=torch.zeros(3, 40, 40))


def test_plots_draw_all_detections_that_are_given(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    titles: list[str] = []
    compose = predictions._compose
    monkeypatch.setattr(
        predictions, "_compose", lambda panels, words, legend: titles.extend(words) or compose(panels, words, legend)
    )
    found = predictor.predict(image())
    low = replace(found[:3], scores=torch.tensor([0.4, 0.3, 0.2]))
    drawn = np.asarray(low.above(0.25).plot())
    assert not np.array_equal(drawn, np.asarray(low[:0].plot()))
    low.plot(min_score=0.35)
    low[:1].plot(class_names=("cell", "debris"))
    heads = [title.partition("  ·  ")[0] for title in titles]
    one = "Mask R-CNN: 1 detection"
    assert heads == ["Mask R-CNN: 2 detections", "Mask R-CNN: 0 detections", f"{one} ≥ 0.35", one]


@pytest.mark.parametrize(("name", "kind"), [("a.png", "PNG"), ("a.JPG", "JPEG"), ("a.tif", "TIFF"), ("a.webp", "WEBP")])
def test_a_plot_has_the_format_of_its_suffix(predictor: Predictor, tmp_path: Path, name: str, kind: str) -> None:
    picture = predictor.predict(image()).plot(tmp_path / name)
    with Image.open(tmp_path / name) as written:
        assert (written.format, written.size) == (kind, picture.size)


def test_a_plot_that_cannot_be_written_is_one_line(predictor: Predictor, tmp_path: Path) -> None:
    found = predictor.predict(image())
    suffixes = ".png, .jpg, .jpeg, .tif, .tiff, .webp"
    for name in ("found.xyz", "found"):
        with pytest.raises(ValueError, match=f"{name}: unknown suffix of a picture; use one of {suffixes}$"):
            found.plot(tmp_path / name)
    path = tmp_path / "nodir" / "found.png"
    with pytest.raises(ValueError) as caught:
        found.plot(str(path))
    assert str(caught.value) == f"{path}: there is no folder {path.parent}; create it, or choose another"
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ValueError, match=r"folder.png: cannot be written \(Is a directory\)$"):
        found.plot(tmp_path / "folder.png")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


# ---- options of reading images


def test_options_of_reading_files_are_applied_and_plots_show_the_same_planes(run: Path, tmp_path: Path) -> None:
    gray = image()[0].numpy()
    stack = np.stack([gray // 4, gray, gray // 2])
    tifffile.imwrite(tmp_path / "z.tif", stack, metadata={"axes": "ZYX"}, photometric="minisblack")
    plain = maskrcnn.load(run, device="cpu")
    with pytest.raises(
        ValueError, match=r'is a stack of shape .* or "z=0" \(in Python, load\(\.\.\., select="z=max"\)\)$'
    ):
        plain.predict(tmp_path / "z.tif")
    for select, plane in (("z=max", gray), ("z=2 c=0", gray // 2), ("z=0", gray // 4)):
        model = maskrcnn.load(run, device="cpu", select=select)
        found, expected = model.predict(tmp_path / "z.tif"), plain.predict(plane)
        assert same(found, expected) and same(next(model.predict_each([str(tmp_path / "z.tif")])), expected)
        assert np.array_equal(np.asarray(found.plot()), np.asarray(expected.plot()))
        assert model.config["data"]["select"] == select
    (kept,) = torch.load(dump([found], tmp_path / "found.pt"), weights_only=True)
    assert kept.source == str(tmp_path / "z.tif")


def dump(value: Any, path: Path) -> Path:
    torch.save(value, path)
    return path


def test_sizes_of_pixels_and_megapixels_of_load_are_applied(run: Path, tmp_path: Path) -> None:
    gray = image()[0].numpy()
    sizes = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    tifffile.imwrite(tmp_path / "a.ome.tif", gray, metadata={"axes": "YX", **sizes}, photometric="minisblack")
    plain = maskrcnn.load(run, device="cpu", views="none")
    assert same(
        maskrcnn.load(run, device="cpu", views="none", pixel_size=0.5).predict(tmp_path / "a.ome.tif"),
        plain.predict(gray),
    )
    seen: list[tuple[int, ...]] = []
    model = maskrcnn.load(run, device="cpu", views="none", pixel_size=0.25)
    model.detector.register_forward_pre_hook(lambda _, inputs: seen.extend(tuple(each.shape) for each in inputs[0]))
    model.predict(tmp_path / "a.ome.tif")
    assert seen == [(3, 2 * SIZE[0], 2 * SIZE[1])]
    Image.fromarray(np.zeros((1001, 1000), np.uint8)).save(tmp_path / "large.png")
    with pytest.raises(ValueError, match="more than 1 megapixels"):
        maskrcnn.load(run, device="cpu", max_megapixels=1).predict(tmp_path / "large.png")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"select": "q=9"}, '--select="q=9": cannot read q=9'),
        ({"select": "z=first"}, '--select="z=first": cannot read z=first'),
        ({"pixel_size": -1}, "pixel_size = -1.0: must be at least 0"),
        ({"gray_levels": (9, 3)}, "--gray_levels=9.*: give two numbers"),
        ({"gray_levels": "5"}, "--gray_levels=5.*: give two numbers"),
        ({"max_megapixels": 0}, "max_megapixels = 0: must be at least 1"),
    ],
)
def test_options_of_reading_are_checked_when_loading(options: dict[str, Any], message: str, run: Path) -> None:
    with pytest.raises(ValueError, match=message):
        maskrcnn.load(run, device="cpu", **options)


def test_gray_levels_of_load_are_applied(run: Path) -> None:
    values = image()[0].numpy()
    deep = values.astype(np.uint16) * 16
    model = maskrcnn.load(run, device="cpu", gray_levels=(0, 16 * 255))
    expected = maskrcnn.load(run, device="cpu").predict(values)
    assert model.detector.config.image.levels == (0, 16 * 255)
    assert torch.allclose(model.predict(deep).scores, expected.scores, atol=1e-4)


# ---- 16 bits in pictures


@pytest.mark.parametrize("how", ["array", "tensor", "pillow", "file"])
def test_plots_of_16_bits_are_stretched_and_name_the_gray_values(
    how: str, predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles: list[str] = []
    compose = predictions._compose
    monkeypatch.setattr(
        predictions, "_compose", lambda panels, words, legend: titles.extend(words) or compose(panels, words, legend)
    )
    values = image()[0].numpy().astype(np.uint16) + 1000  # of 65,535
    tifffile.imwrite(tmp_path / "deep.tif", values, photometric="minisblack")
    given = {
        "array": values,
        "tensor": torch.from_numpy(values)[None].expand(3, -1, -1),
        "pillow": Image.fromarray(values),
        "file": tmp_path / "deep.tif",
    }[how]
    found = predictor.predict(given)[:0]
    bright, white = np.asarray(found.plot()), np.asarray(found.plot(image=values))
    low, high = np.percentile(values, (0.1, 99.9))
    assert np.array_equal(bright, white) and bright[40:-40].mean() > 40
    assert titles[0] == f"Mask R-CNN: 0 detections  ·  contrast stretched: {low:.0f} to {high:.0f}"


# ---- evaluation


def test_evaluation_of_lists_equals_that_of_coco_files(predictor: Predictor, tmp_path: Path) -> None:
    from maskrcnn.evaluation.coco_format import to_coco_dataset

    pairs = [disks(SIZE, seed=seed) for seed in range(4)]
    targets = [truth for _, truth in pairs]
    perfect = [replace(truth, scores=torch.linspace(1, 0.5, len(truth))) for truth in targets]
    assert maskrcnn.evaluate(targets, perfect)["mask_ap"] == pytest.approx(1.0)
    noisy = [replace(each, boxes=each.boxes + 1, masks=each.masks.crop(-1, -1, *SIZE)) for each in perfect]
    summary = maskrcnn.evaluate(targets, noisy)
    assert 0 < summary["box_ap"] < 1 and "AP50" in str(summary) and "masks" in str(summary)
    truth = to_coco_dataset(dict(enumerate(targets, 1)), ("1",))
    entries = [entry for number, each in enumerate(noisy, 1) for entry in each.to_coco(number)]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "results.json").write_text(json.dumps(entries))
    of_files = maskrcnn.evaluate(tmp_path / "truth.json", tmp_path / "results.json")
    for name in ("box_ap", "mask_ap", "box_ap50", "mask_ap_very_tiny"):
        if name in summary.metrics:
            assert of_files[name] == pytest.approx(summary[name], abs=1e-9), name


@pytest.mark.parametrize("segmentation", [None, []])
def test_objects_of_a_file_without_a_mask_are_ignored_for_masks_only(segmentation: Any, tmp_path: Path) -> None:
    from maskrcnn.evaluation.coco_format import to_coco_dataset

    targets = disks(SIZE)[1]
    dataset = to_coco_dataset({1: targets}, ("1",))
    bare = dataset["annotations"][0]
    del bare["segmentation"]
    if segmentation is not None:
        bare["segmentation"] = segmentation
    perfect = replace(targets, scores=torch.ones(len(targets))).to_coco()
    (tmp_path / "truth.json").write_text(json.dumps(dataset))
    for results, expected in ((perfect, (1.0, 1.0)), (perfect[1:], (0.8, 1.0))):  # with and without that object
        (tmp_path / "results.json").write_text(json.dumps(results))
        summary = maskrcnn.evaluate(tmp_path / "truth.json", tmp_path / "results.json")
        assert (summary["box_ar"], summary["mask_ar"]) == pytest.approx(expected)


def test_evaluation_names_what_does_not_fit(tmp_path: Path) -> None:
    truth = disks(SIZE)[1]
    found = replace(truth, scores=torch.ones(len(truth)))
    with pytest.raises(ValueError, match="there are 2 targets but 1 prediction;"):
        maskrcnn.evaluate([truth, truth], [found])
    with pytest.raises(ValueError, match="has no scores"):
        maskrcnn.evaluate([truth], [truth])
    with pytest.raises(ValueError, match="image 0: targets are of size"):
        maskrcnn.evaluate([truth], [disks((40, 40))[1]])
    with pytest.raises(ValueError, match="both be lists"):
        maskrcnn.evaluate([truth], "results.json")
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "b.json").write_text("[]")
    with pytest.raises(ValueError, match="annotations: are not COCO's"):
        maskrcnn.evaluate(tmp_path / "a.json", tmp_path / "b.json")
