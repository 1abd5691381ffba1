"""Instances: validation, indexing, joining, torchvision's form."""

import base64
import copy
import io
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from masks_toy import SIZE, dense_levels, random_masks
from PIL import Image

from maskrcnn.config import UserError
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks


def make(count: int = 6, masks: bool = True, scores: bool = True, ids: bool = True, seed: int = 0) -> Instances:
    cropped = random_masks(count, seed=seed)
    return Instances(
        SIZE,
        cropped.boxes(),
        torch.arange(count) % 3 + 1,
        torch.linspace(1, 0, count) if scores else None,
        cropped if masks else None,
        torch.arange(count) % 4 == 3,
        torch.arange(count) + 100 if ids else None,
    )


def assert_same(found: Instances, wanted: Instances) -> None:
    assert found.size == wanted.size
    for name in ("boxes", "labels", "scores", "ignore", "ids"):
        got, expected = getattr(found, name), getattr(wanted, name)
        assert (got is None) == (expected is None), name
        if expected is not None:
            torch.testing.assert_close(got, expected, rtol=0, atol=0)
    assert (found.masks is None) == (wanted.masks is None)
    if found.masks is not None and wanted.masks is not None:
        assert torch.equal(dense_levels(found.masks), dense_levels(wanted.masks))


def test_nothing_is_ignored_unless_said() -> None:
    assert Instances(SIZE, torch.zeros(2, 4), torch.ones(2).long()).ignore.tolist() == [False, False]


@pytest.mark.parametrize("with_masks", [True, False])
def test_empty_has_no_objects(with_masks: bool) -> None:
    empty = Instances.empty(SIZE, with_masks)
    assert len(empty) == 0 and empty.boxes.shape == (0, 4) and (empty.masks is not None) == with_masks
    assert len(empty[torch.zeros(0, dtype=torch.bool)]) == 0


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("boxes", torch.zeros(6, 5), r"boxes must be \[N, 4\]"),
        ("boxes", torch.zeros(4), r"boxes must be \[N, 4\]"),
        ("labels", torch.ones(5), r"labels must be \[6\]"),
        ("scores", torch.ones(6, 1), r"scores must be \[6\]"),
        ("ignore", torch.zeros(7).bool(), r"ignore must be \[6\]"),
        ("ids", torch.zeros(0), r"ids must be \[6\]"),
        ("masks", random_masks(5), "5 masks"),
        ("masks", random_masks(6, size=(9, 9)), "do not belong"),
    ],
)
def test_fields_that_do_not_belong_together_are_refused(field: str, value: object, message: str) -> None:
    whole = make()
    fields = {name: getattr(whole, name) for name in ("size", "boxes", "labels", "scores", "masks", "ignore", "ids")}
    with pytest.raises(ValueError, match=message):
        Instances(**{**fields, field: value})


def test_boxes_come_from_masks() -> None:
    masks = random_masks(8)
    truths = Instances.from_masks(masks, torch.ones(8).long(), ids=torch.arange(8))
    assert torch.equal(truths.boxes, masks.boxes()) and not truths.ignore.any() and truths.ids is not None


@pytest.mark.parametrize(
    ("index", "places"),
    [
        (2, [2]),
        (-1, [5]),
        (slice(1, 4), [1, 2, 3]),
        (slice(4, 1), []),
        (torch.tensor([3, 0, 3]), [3, 0, 3]),
        (torch.tensor([True, False, False, True, False, False]), [0, 3]),
        (torch.tensor(1), [1]),
    ],
)
def test_indexing_takes_all_fields_along(index: int | slice | torch.Tensor, places: list[int]) -> None:
    whole = make()
    picked = whole[index]
    assert isinstance(picked, Instances) and picked.ids is not None and picked.masks is not None
    assert (picked.ids - 100).tolist() == places
    assert torch.equal(picked.boxes, whole.boxes[places]) and torch.equal(picked.ignore, whole.ignore[places])
    assert torch.equal(picked.boxes, picked.masks.boxes())


def test_walking_through_ends() -> None:
    assert [int(one.labels) for one in make(4)] == [1, 2, 3, 1]
    with pytest.raises(IndexError):
        make(4)[4]


def test_cat_joins_what_indexing_took_apart() -> None:
    whole = make()
    assert_same(Instances.cat([whole[:2], whole[2:2], whole[2:]]), whole)


@pytest.mark.parametrize("field", ["scores", "masks", "ids"])
def test_cat_refuses_parts_with_and_without_a_field(field: str) -> None:
    with pytest.raises(ValueError, match=f"without {field}"):
        Instances.cat([make(), make(**{field: False})])


def test_cat_refuses_images_of_two_sizes_and_nothing() -> None:
    with pytest.raises(ValueError, match="one size"):
        Instances.cat([Instances.empty((3, 4)), Instances.empty((4, 3))])
    with pytest.raises(ValueError, match="one size"):
        Instances.cat([])


def test_moving_keeps_every_field() -> None:
    assert_same(make().to("cpu"), make())
    assert_same(make(masks=False, scores=False, ids=False).to("cpu"), make(masks=False, scores=False, ids=False))


@pytest.mark.parametrize("scores", [False, True])
def test_torchvision_there_and_back(scores: bool) -> None:
    """Targets have masks `[N, H, W]`; predictions have probabilities `[N, 1, H, W]`, as torchvision's models do."""
    whole = make(ids=False, scores=scores)
    target = whole.to_torchvision()
    shape, dtype = ((6, 1, *SIZE), torch.float32) if scores else ((6, *SIZE), torch.uint8)
    assert target["masks"].shape == shape and target["masks"].dtype == dtype
    assert target["iscrowd"].tolist() == whole.ignore.long().tolist()
    assert_same(Instances.from_torchvision(target, SIZE), whole)
    if not scores:  # some libraries keep a dimension of channels
        target["masks"] = target["masks"][:, None].float()
        assert_same(Instances.from_torchvision(target, SIZE), whole)


def test_torchvision_boxes_alone() -> None:
    target = {"boxes": torch.tensor([[1, 2, 3, 4]]), "labels": torch.tensor([2], dtype=torch.int32)}
    truths = Instances.from_torchvision(target, SIZE)
    assert truths.boxes.dtype == torch.float32 and truths.labels.dtype == torch.int64 and truths.masks is None
    assert set(truths.to_torchvision()) == {"boxes", "labels", "iscrowd"}


def test_torchvision_without_objects() -> None:
    target = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0), "masks": torch.zeros(0, *SIZE, dtype=torch.uint8)}
    truths = Instances.from_torchvision(target, SIZE)
    assert len(truths) == 0 and isinstance(truths.masks, CroppedMasks)


# ---- in files and notebooks


def copy_through_file(found: object, path: Path) -> object:
    torch.save(found, path)
    return torch.load(path, weights_only=True)


def test_saved_lists_are_read_without_running_code(tmp_path: Path) -> None:
    saved = [make(), make(masks=False, scores=False, ids=False), Instances.empty((3, 4), with_masks=True)]
    saved[0].masks.areas()  # areas are cached
    loaded = copy_through_file(saved, tmp_path / "found.pt")
    assert isinstance(loaded, list)
    for got, wanted in zip(loaded, saved, strict=True):
        assert_same(got, wanted)


@pytest.mark.parametrize(
    ("source", "kept"),
    [
        ("a.png", "a.png"),
        (Path("b") / "c.tif", str(Path("b") / "c.tif")),
        (None, None),
        (np.zeros((4, 5, 3), np.uint8), None),
        (torch.zeros(3, 4, 5), None),
        (Image.new("RGB", (5, 4)), None),
    ],
)
def test_a_path_is_saved_and_an_image_is_not(tmp_path: Path, source: object, kept: object) -> None:
    found = replace(make(), source=source, category_ids=(7, 9, 11))
    (loaded,) = copy_through_file([found], tmp_path / "found.pt")
    assert loaded.source == kept and loaded.category_ids == (7, 9, 11) and found.source is source
    assert_same(loaded, found)
    assert copy.copy(found).source is source
    assert_same(pickle.loads(pickle.dumps(found)), found)


def test_a_new_process_reads_a_saved_list(tmp_path: Path) -> None:
    torch.save([make()], tmp_path / "found.pt")
    code = f"import torch, maskrcnn; maskrcnn.Instances; print(torch.load({str(tmp_path / 'found.pt')!r}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "6 objects" in result.stdout


def test_a_saved_list_with_fields_that_do_not_belong_together_is_rejected(tmp_path: Path) -> None:
    broken, masks = make(), random_masks(6)
    broken.labels = torch.ones(5).long()
    with pytest.raises(ValueError, match=r"labels must be \[6\]"):
        copy_through_file(broken, tmp_path / "a.pt")
    masks.__dict__["offsets"] = torch.zeros(3).long()
    with pytest.raises(ValueError, match="offsets"):
        copy_through_file(masks, tmp_path / "b.pt")


def test_string_indexing_gives_the_field_or_names_the_fields() -> None:
    whole = make()
    assert whole["boxes"] is whole.boxes and whole["masks"] is whole.masks and whole["size"] == SIZE
    with pytest.raises(KeyError, match="no field 'bbox'; they have size, boxes, labels, scores, masks, ignore, ids"):
        whole["bbox"]


def test_numpy_arrays_and_table_have_the_values_of_the_fields() -> None:
    whole = make()
    arrays = whole.cpu().numpy()
    assert arrays.keys() == whole.to_numpy().keys() == {"boxes", "labels", "scores", "ignore", "ids", "masks"}
    assert np.array_equal(arrays["masks"], whole.masks.to_dense().numpy()) and arrays["masks"].dtype == bool
    for name in ("boxes", "labels", "scores", "ignore", "ids"):
        assert np.array_equal(arrays[name], whole[name].numpy())
    table = pytest.importorskip("pandas") and whole.to_pandas()
    assert table["score"].tolist() == whole.scores.tolist() and table["area"].tolist() == whole.areas().tolist()
    assert table[["x1", "y1", "x2", "y2"]].to_numpy().tolist() == whole.boxes.tolist()


@pytest.mark.parametrize("library", ["pandas", "supervision"])
def test_a_library_that_is_missing_is_named_with_its_installation(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    message = f"^to_{library} needs the library {library}: pip install {library}$"
    with pytest.raises(ValueError, match=message):
        getattr(make(), f"to_{library}")()


def test_notebooks_and_show_draw_the_detections_on_their_image(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.zeros(3, *SIZE, dtype=torch.uint8)
    found = replace(make(), source=image)
    png = found._repr_png_()
    assert png is not None
    with Image.open(io.BytesIO(png)) as picture:
        assert np.array_equal(np.asarray(picture), np.asarray(found.plot())) and np.asarray(picture).max() > 0
    assert base64.b64encode(png).decode() in found._repr_html_()
    assert make()._repr_png_() is None and "img" not in make()._repr_html_()
    shown: list[Image.Image] = []
    monkeypatch.setattr(Image.Image, "show", lambda self: shown.append(self))
    make().show(image=image, min_score=0.9)
    assert np.array_equal(np.asarray(shown[0]), np.asarray(make().plot(image=image, min_score=0.9)))


@pytest.mark.parametrize(
    ("target", "message"),
    [({}, "no 'boxes', only nothing"), ({"boxes": torch.zeros(0, 4), "bbox": 1}, "no 'labels', only 'boxes', 'bbox'")],
)
def test_a_target_without_boxes_or_labels_says_what_it_has(target: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Instances.from_torchvision(target, SIZE)
