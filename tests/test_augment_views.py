"""Views and tiles with a detector that is always right: what comes back must be the truth."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from ellipses_toy import scene
from oracle_toy import Oracle, Ramp, map_of
from torch import Tensor

from maskrcnn.config import UserError
from maskrcnn.inference.config import ViewsConfig
from maskrcnn.inference.merging.merges import MERGES, merge
from maskrcnn.inference.prediction import predict
from maskrcnn.inference.views import (
    View,
    affine,
    d4,
    expand_tiles,
    flips,
    gammas,
    make_views,
    rotations_by_90,
    scales,
    tiles,
    whole,
)
from maskrcnn.ops.boxes import box_iou
from maskrcnn.structures.affine import matrix, rotation
from maskrcnn.structures.edges import Edges
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks
from maskrcnn.structures.pixels import InMemory
from maskrcnn.structures.warping import warp_instances

SIZE = (300, 380)
VIEWS = {
    "flips": flips(SIZE),
    "quarter turns": rotations_by_90(SIZE),
    "d4": d4(SIZE),
    "tiles": tiles(SIZE, 128, 0.25),
    "tiles and image": tiles(SIZE, 128, 0.25) + whole(SIZE),
    "d4 of tiles": expand_tiles(tiles(SIZE, 160, 0.25), d4),
}
INEXACT = {
    "affine": affine(SIZE, 8),
    "scales": scales(SIZE, (0.75, 1, 1.5)),
    "enlarged tiles": tiles(SIZE, 160, 0.3, factor=1.7),
    "affine views of tiles": expand_tiles(tiles(SIZE, 160, 0.3), lambda size: affine(size, 3)),
}


def matched(found: Instances, truth: Instances) -> Tensor:
    """IoU of each true object with the detection that is its own, one to one; fails where the numbers differ."""
    assert len(found) == len(truth)
    if truth.masks is not None and found.masks is not None:
        rows, columns, iou = found.masks.iou(truth.masks)
    else:
        dense = box_iou(found.boxes, truth.boxes)
        rows, columns = torch.nonzero(dense, as_tuple=True)
        iou = dense[rows, columns]
    best, taken = torch.zeros(len(truth)), set()
    for k in torch.argsort(iou, descending=True).tolist():
        i, j = int(rows[k]), int(columns[k])
        if i not in taken and best[j] == 0:
            taken.add(i)
            best[j] = iou[k]
    return best


@pytest.fixture(scope="module")
def apart() -> Instances:
    return scene(120, SIZE, (6, 24), apart=True)


@pytest.fixture(scope="module")
def crowded() -> Instances:
    """Overlapping, in clumps, cut by the border."""
    return scene(250, SIZE, (6, 30), apart=False, seed=3)


@pytest.fixture(scope="module")
def hidden(crowded: Instances) -> Instances:
    """The same with what lies on top hiding what is below: some objects are in pieces."""
    labels, _ = crowded.masks.to_label_image()
    masks = CroppedMasks.from_label_image(labels)
    masks = masks[masks.areas() >= 4]
    return Instances.from_masks(masks, torch.ones(len(masks), dtype=torch.int64))


def every_merge(oracle: Oracle, views: list[View]) -> Iterator[tuple[str, Instances]]:
    """What each merge makes of an oracle's views, with its name; the views are looked at once."""

    def by_all(layers: Sequence[Instances]) -> Instances:
        merged.update({name: merge(name, layers) for name in MERGES})
        return merged["nms"]

    merged: dict[str, Instances] = {}
    alone = predict(oracle, Ramp(SIZE), views, by_all)
    yield from (merged or {"none": alone}).items()


@pytest.mark.parametrize("views", VIEWS)
@pytest.mark.parametrize("kind", ["apart", "crowded", "hidden"])
def test_right_detections_come_back_exactly(views: str, kind: str, request: pytest.FixtureRequest) -> None:
    truth = request.getfixturevalue(kind)
    for name, found in every_merge(Oracle(truth), VIEWS[views]):
        assert matched(found, truth).min() == 1
        assert name == "soft_nms" or torch.allclose(found.scores, torch.ones(len(found)))


@pytest.mark.parametrize("views", VIEWS)
def test_right_boxes_alone_come_back_exactly(views: str, apart: Instances) -> None:
    for _, found in every_merge(Oracle(apart, with_masks=False), VIEWS[views]):
        assert found.masks is None
        assert matched(found, replace(apart, masks=None)).min() > 0.999


@pytest.mark.parametrize("views", INEXACT)
@pytest.mark.parametrize("is_apart", [True, False])
def test_right_detections_come_back_from_views_that_resample(views: str, is_apart: bool) -> None:
    truth = scene(60, SIZE, (12, 24), apart=is_apart, seed=5, most_iou=0.3)
    truth = truth[truth.masks.areas() >= 100]  # those that the border leaves enough of
    for _, found in every_merge(Oracle(truth), INEXACT[views]):
        assert matched(found, truth).min() >= 0.9


def test_round_objects_keep_their_boxes_without_masks_at_any_angle() -> None:
    truth = scene(40, SIZE, (16, 16), apart=True)
    for name, found in every_merge(Oracle(truth, with_masks=False), affine(SIZE, 6, shear=0)):
        assert matched(found, replace(truth, masks=None)).min() >= 0.85, name


@pytest.mark.parametrize("tile", [64, 96])
def test_objects_larger_than_the_overlap_are_joined(tile: int) -> None:
    """Of up to 150 px: seen whole by no tile, in several pieces of three and more tiles."""
    truth = scene(30, SIZE, (8, 150), apart=True, seed=9)
    views = tiles(SIZE, tile, 0.1)
    assert (truth.boxes[:, 2:] - truth.boxes[:, :2]).amax(dim=1).gt(tile).sum() >= 3
    found = predict(Oracle(truth), Ramp(SIZE), views)
    assert matched(found, truth).min() == 1


def test_five_thousand_objects_in_a_large_image() -> None:
    size = (4096, 4096)
    truth = scene(5000, size, (6, 30), apart=False, seed=1)
    assert len(truth) > 4900
    found = predict(Oracle(truth), Ramp(size), tiles(size, 512, 0.1))
    assert matched(found, truth).min() == 1


def test_a_view_that_misses_an_object_lowers_its_score(apart: Instances) -> None:
    oracle = Oracle(apart)

    def blind_once(images: list[Tensor]) -> list[Instances]:
        return [found if k else found[:-1] for k, found in enumerate(oracle(images))]

    found = predict(blind_once, Ramp(SIZE), flips(SIZE), "cluster")
    assert sorted(found.scores.tolist())[:2] == pytest.approx([0.75, 1.0])


def test_only_what_a_view_shows_is_read() -> None:
    class Counting(Ramp):
        def read(self, x: int, y: int, height: int, width: int) -> Tensor:
            assert max(height, width) <= self.most
            return super().read(x, y, height, width)

    for factor, most in ((1, 64), (0.5, 2 * 64 + 4)):
        Counting.most = most
        for view in tiles((1000, 900), 64, 0.2, factor):
            assert view.show(Counting((1000, 900))).shape == (3, 64, 64)


@pytest.mark.parametrize(("length", "tile", "overlap"), [(10, 16, 0.2), (16, 16, 0.0), (100, 16, 0.25), (97, 33, 0.9)])
def test_tiles_cover_the_image_and_overlap_enough(length: int, tile: int, overlap: float) -> None:
    windows = sorted({view.window((length, length))[::2] for view in tiles((length, length), tile, overlap)})
    assert windows[0][0] == 0 and windows[-1][1] == length
    for (_, end), (start, _) in itertools.pairwise(windows):
        assert end - start >= overlap * tile


@pytest.mark.parametrize("factor", [0.3, 0.7, 1, 1.7])
@pytest.mark.parametrize("length", [182, 200, 331])
def test_what_tiles_stand_for_overlaps_at_any_scale(length: int, factor: float) -> None:
    windows = sorted({view.tile[::2] for view in tiles((length, length), 64, 0, factor)})
    assert len(windows) > 1 or length * factor <= 64
    assert all(end - start >= 4 for (_, end), (start, _) in itertools.pairwise(windows))


@pytest.mark.parametrize("factor", [0.7, 1, 1.7])
def test_objects_across_the_borders_of_tiles_of_no_overlap_are_one(factor: float) -> None:
    for at in range(30, 100, 6):
        dense = torch.zeros(1, 192, 192, dtype=torch.bool)
        dense[:, at : at + 20, at : at + 20] = True
        truth = Instances.from_masks(CroppedMasks.from_dense(dense), torch.tensor([1]))
        found = predict(Oracle(truth), Ramp(truth.size), tiles(truth.size, 64, 0, factor))
        assert matched(found, truth).min() > 0.8


def test_a_change_of_values_leaves_objects_where_they_are() -> None:
    image = torch.full((3, 4, 5), 51, dtype=torch.uint8)
    shown = gammas((4, 5), [2.0])[0].show(InMemory(image))
    assert torch.allclose(shown, torch.tensor(0.04))


def test_settings_make_the_views_they_name() -> None:
    names = [view.name for view in make_views(ViewsConfig(views="flips + scales:0.5,1"), SIZE)]
    assert names == ["image", "hflip", "vflip", "hvflip", "x0.5"]
    assert len(make_views(ViewsConfig(views="affine:8"), SIZE)) == 8
    assert len(make_views(ViewsConfig(), SIZE)) == 1
    views = make_views(ViewsConfig(views="d4", tile=128, tile_scales=(1.0, 0.5), full_image=True), SIZE)
    assert len(views) == (12 + 4) * 8 + 8
    assert len({view.grid for view in views}) == 2 * 8 + 1


def test_what_shows_the_same_is_looked_at_once_and_nothing_else() -> None:
    def names(views: str) -> list[str]:
        return [view.name for view in make_views(ViewsConfig(views=views), SIZE)]

    assert len(names("d4+rot90")) == len(names("rot90 + flips + d4")) == 8
    assert len(set(names("affine:4+affine:8"))) == 4 + 8 - 1
    assert len(make_views(ViewsConfig(tile=128, tile_scales=(1.0, 1.0)), SIZE)) == 12


def test_grids_of_different_overlap_are_merged_and_not_joined(apart: Instances) -> None:
    layers = []

    def by_all(found: Sequence[Instances]) -> Instances:
        layers.extend(found)
        return merge("nms", found)

    predict(Oracle(apart), Ramp(SIZE), tiles(SIZE, 128, 0.1) + tiles(SIZE, 128, 0.3), by_all)
    assert len(layers) == 2


@pytest.mark.parametrize("views", [whole, lambda size: tiles(size, 128), d4], ids=["whole", "tiles", "d4"])
def test_views_without_detections_need_neither_scores_nor_masks(apart: Instances, views: object) -> None:
    """torchvision's and other detectors leave them out where they find nothing."""
    truth = apart[:1]

    def detect(images: Sequence[Tensor]) -> list[Instances]:
        return [each if len(each) else Instances.empty(each.size) for each in Oracle(truth)(images)]

    assert matched(predict(detect, Ramp(SIZE), views(SIZE), "nms"), truth).min() == 1
    nothing = predict(lambda images: [Instances.empty(SIZE)] * len(images), Ramp(SIZE), whole(SIZE))
    assert len(nothing) == 0 and nothing.scores is not None


@pytest.mark.parametrize("views", [whole, d4, flips, lambda size: tiles(size, 128)], ids=["whole", "d4", "flips", "t"])
def test_detections_whose_masks_are_empty_are_merged_and_get_one_pixel(views: object) -> None:
    size = (200, 200)
    windows = torch.tensor([[90, 96, 105, 104], [20, 20, 36, 30]], dtype=torch.int32)
    masks = CroppedMasks.from_windows(windows, [torch.full((8, 15), 90), torch.full((10, 16), 90)], size)
    truth = Instances(size, windows.float(), torch.tensor([1, 1]), masks=masks)

    def detect(images: Sequence[Tensor]) -> list[Instances]:
        every = []
        for image in images:
            shown = (int(image.shape[1]), int(image.shape[2]))
            each = replace(truth, scores=torch.ones(2))
            every.append(warp_instances(each, map_of(image), shown, Edges(cut="keep")))
        return every

    for name in MERGES:
        found = predict(detect, Ramp(size), views(size), name)
        assert matched(replace(found, masks=None), replace(truth, masks=None)).min() == 1, name
        assert found.masks.areas().tolist() == [1, 1]


def test_images_of_one_pixel_and_no_objects_pass_through_every_view() -> None:
    def blind(images: Sequence[Tensor]) -> list[Instances]:
        empty = [Instances.empty((int(image.shape[1]), int(image.shape[2])), with_masks=True) for image in images]
        return [replace(each, scores=torch.zeros(0)) for each in empty]

    for views in (d4((1, 1)), affine((1, 1), 3), tiles((1, 1), 32), scales((1, 1), (0.1, 3))):
        assert len(predict(blind, torch.ones(3, 1, 1), views)) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: View("flat", matrix([[1, 1, 0], [1, 1, 0]]), (4, 4)), "flat is not invertible"),
        (lambda: View("far", matrix([[1, float("nan"), 0], [0, 1, 0]]), (4, 4)), "far is not invertible"),
        (lambda: View("none", rotation(0), (0, 4)), "none: size"),
        (lambda: tiles(SIZE, 64, 1.0), "overlap"),
        (lambda: tiles(SIZE, 64, -0.1), "overlap"),
        (lambda: tiles(SIZE, 16, 0.2, stride=32), "tile must be at least 32"),
        (lambda: tiles(SIZE, 0), "tile must be at least 1"),
        (lambda: tiles(SIZE, 64, 0.2, factor=0), "scales"),
        (lambda: scales(SIZE, [-1]), "scales"),
        (lambda: affine(SIZE, 0), "affine"),
        (lambda: gammas(SIZE, [0]), "gammas"),
        (lambda: predict(Oracle(Instances.empty(SIZE)), Ramp(SIZE), []), "views"),
        (lambda: predict(Oracle(Instances.empty(SIZE)), Ramp(SIZE), flips(SIZE), "melt"), "melt"),
        (lambda: predict(Oracle(Instances.empty(SIZE)), Ramp(SIZE), flips(SIZE), batch_size=0), "batch_size"),
        (lambda: predict(lambda images: [scene(1, SIZE, (9, 9), apart=True)], Ramp(SIZE), whole(SIZE)), "scores"),
        (lambda: affine(SIZE, 2, scale=0), "scale above 0"),
    ],
)
def test_views_that_cannot_be_are_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"views": "flip"}, "did you mean 'flips'"),
        ({"views": "spiral"}, "unknown view 'spiral'"),
        ({"views": "affine:x"}, "needs numbers"),
        ({"views": "affine:1.5"}, "whole number"),
        ({"views": "affine"}, "needs numbers"),
        ({"views": "d4:3"}, "unknown view 'd4:3'"),
        ({"views": "scales:0"}, "scales"),
        ({"views": ""}, "a name is missing"),
        ({"views": "d4+"}, "a name is missing"),
        ({"views": "gamma:0"}, "^views: gammas"),
        ({"overlap": 1.0}, "overlap"),
        ({"full_image": True}, "full_image: requires tiles"),
        ({"tile_scales": (1.0, 2.0)}, "tile_scales: requires tiles"),
        ({"tile": 16}, "tile must be at least 32"),
        ({"tile": 64, "overlap": 1.0}, "overlap"),
        ({"tile": 64, "tile_scales": ()}, "tile_scales"),
    ],
)
def test_settings_that_name_no_views_are_refused_in_one_line(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        make_views(ViewsConfig(**settings), SIZE, stride=32)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("make", [d4, rotations_by_90, lambda size: tiles(size, 64), lambda size: scales(size, [0.5])])
def test_views_of_an_image_of_another_size_are_refused(make: Callable[[tuple[int, int]], list[View]]) -> None:
    """They would show a part of it, silently."""
    with pytest.raises(ValueError, match="views are for an image of 100 x 90, this one is 256 x 250"):
        predict(lambda images: [], torch.zeros(3, 256, 250), make((100, 90)))


@pytest.mark.parametrize(
    ("results", "kind", "message"),
    [
        (None, TypeError, "must return a list with one Instances for each image, got None"),
        ([{"boxes": torch.zeros(0, 4)}], TypeError, "a list with dict; .*TorchVisionDetector"),
        ([], ValueError, "got 0 for 1"),
    ],
)
def test_what_a_detector_must_return_is_said(results: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        predict(lambda images: results, torch.zeros(3, 8, 8), whole((8, 8)))


@pytest.mark.parametrize(
    ("image", "kind", "message"),
    [
        (torch.zeros(8, 8, 3), ValueError, r"image must be \[C, H, W\], got \[8, 8, 3\]"),
        (torch.zeros(8, 8, 3).numpy(), TypeError, r"got numpy.ndarray; torch.from_numpy\(image\).permute"),
        ("image.png", TypeError, "got str$"),
    ],
)
def test_what_an_image_must_be_is_said(image: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        predict(lambda images: [], image, whole((8, 8)))
