"""Instances: validation, indexing, joining, torchvision's form."""

import pytest
import torch
from masks_toy import SIZE, dense_levels, random_masks

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
