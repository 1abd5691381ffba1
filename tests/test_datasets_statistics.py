"""What is counted of a data set, and what is proposed for it, against slow definitions."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import datasets.statistics as statistics
from datasets.statistics import (
    Objects,
    choose_evenly_spaced,
    compute_aspects,
    compute_box_sizes,
    compute_densities,
    compute_mask_sizes,
    compute_max_overlaps,
    compute_nearest_distances,
    count_in_crops,
    count_per_class,
    count_per_image,
    find_border_objects,
    read_objects,
)
from maskrcnn.config import UserError
from maskrcnn.model.anchors import make_anchor_levels
from maskrcnn.model.config import BackboneConfig, DetectorConfig, ImageConfig, RPNConfig
from maskrcnn.model.coverage import (
    TargetBoxes,
    compute_best_ious,
    compute_matched_fraction,
    compute_strides,
    count_anchors_per_location,
    resize_targets,
)
from maskrcnn.model.detector import Detector
from maskrcnn.model.presets import get_preset
from maskrcnn.model.proposal import Crowding, propose_anchors, propose_limits
from maskrcnn.ops.boxes import box_iou
from maskrcnn.ops.matching import all_anchors
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks


class Toy:
    """A data set in memory: masks that fill their boxes in the first image, boxes only in the others."""

    class_names = ("dot", "bar")

    def __init__(self, images: list[tuple[tuple[int, int], list[list[float]]]]) -> None:
        self.images, self.read = images, []

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Instances]:
        self.read.append(index)
        size, boxes = self.images[index]
        tensor = torch.tensor(boxes).reshape(-1, 4)
        masks = None
        if index == 0:
            windows = tensor.int()
            filled = [torch.full((int(y2 - y1), int(x2 - x1)), 255, dtype=torch.uint8) for x1, y1, x2, y2 in windows]
            masks = CroppedMasks.from_windows(windows, filled, size)
        labels = torch.arange(len(boxes)) % 2 + 1
        ignore = torch.tensor([box[0] == 1.0 for box in boxes], dtype=torch.bool)
        return torch.zeros(3, *size, dtype=torch.uint8), Instances(size, tensor, labels, masks=masks, ignore=ignore)


def objects_of(*images: tuple[tuple[int, int], list[list[float]]]) -> Objects:
    return read_objects(Toy(list(images)), 100)


def random_objects(seed: int, number: int, images: int = 3) -> Objects:
    random = np.random.default_rng(seed)
    made = []
    for _ in range(images):
        corner, side = random.uniform(2, 90, (number, 2)), random.uniform(1, 30, (number, 2))
        made.append(((128, 128), np.concatenate([corner, corner + side], axis=1).tolist()))
    return objects_of(((10, 10), []), *made)


# ---- what is counted


def test_figures_of_a_known_set() -> None:
    objects = objects_of(
        ((20, 50), [[0, 2, 4, 10], [8, 2, 12, 10], [1, 1, 5, 5]]), ((10, 10), []), ((40, 25), [[5, 30, 15, 40]])
    )
    assert len(objects) == 4 and len(objects.targets()) == 3
    kept = objects.targets()
    np.testing.assert_allclose(compute_box_sizes(kept), [32**0.5, 32**0.5, 10])
    np.testing.assert_allclose(compute_mask_sizes(kept), [32**0.5, 32**0.5])
    np.testing.assert_allclose(compute_aspects(kept), [2, 2, 1])
    assert count_per_image(kept).tolist() == [2, 0, 1]
    np.testing.assert_allclose(compute_densities(kept), [2000, 0, 1000])
    assert find_border_objects(kept).tolist() == [True, False, True]
    assert compute_nearest_distances(kept).tolist() == [8, 8, np.inf]
    assert compute_max_overlaps(kept).tolist() == [0, 0, 0]
    assert count_per_class(kept, 3).tolist() == [2, 1, 0]
    assert count_in_crops(kept, (10, 10)).tolist() == [1, 1, 1] and count_in_crops(kept, (10, 16)).tolist() == [2, 2, 1]


@pytest.mark.parametrize("images", [[], [((8, 8), [])], [((8, 8), [[2, 2, 4, 5]])]])
def test_no_and_single_objects_have_figures(images: list) -> None:
    objects = objects_of(*images).targets()
    for figures in (
        compute_box_sizes,
        compute_aspects,
        compute_nearest_distances,
        compute_max_overlaps,
        find_border_objects,
        compute_mask_sizes,
    ):
        assert figures(objects).shape[0] <= 1
    assert len(count_per_image(objects)) == len(compute_densities(objects)) == len(images)
    assert count_in_crops(objects, (0, 0)).sum() == len(objects)


@pytest.mark.parametrize("at_once", [1, 40, 1 << 20])
def test_neighbours_are_those_of_all_pairs(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "_CHUNK_PAIRS", at_once)
    objects = random_objects(1, 40)
    overlaps, distances, around = (
        compute_max_overlaps(objects),
        compute_nearest_distances(objects),
        count_in_crops(objects, (30, 50)),
    )
    for group in objects.groups():
        boxes, centers = torch.from_numpy(objects.boxes[group]), objects.centers[group]
        iou = box_iou(boxes, boxes).fill_diagonal_(0)
        np.testing.assert_allclose(overlaps[group], iou.amax(dim=1) if len(boxes) else [], atol=1e-5)
        apart = np.abs(centers[:, None] - centers[None])
        np.testing.assert_array_equal(around[group], (apart <= [25, 15]).all(axis=2).sum(axis=1))
        between = np.linalg.norm(apart, axis=2)
        np.fill_diagonal(between, np.inf)
        np.testing.assert_allclose(distances[group], between.min(axis=1) if len(boxes) else [])


def test_crowds_are_counted_without_all_pairs() -> None:
    random = np.random.default_rng(0)
    corner = random.uniform(0, 4000, (20_000, 2)).astype(np.float32)
    nothing = np.zeros(20_000)
    boxes = np.concatenate([corner, corner + 10], axis=1)
    objects = Objects(
        boxes, nothing, nothing.astype(int) + 1, nothing > 0, nothing.astype(int), np.array([[4010, 4010]])
    )
    assert 0 < compute_max_overlaps(objects).mean() < 0.5
    assert compute_nearest_distances(objects).max() < 200


def test_images_are_read_evenly_and_once() -> None:
    toy, seen = Toy([((8, 8), [[2.0, 2.0, 4.0, 4.0]])] * 10), []
    objects = read_objects(toy, 4, lambda: seen.append(1))
    assert toy.read == choose_evenly_spaced(10, 4) == [0, 2, 5, 7] and len(seen) == len(objects.sizes) == 4
    assert choose_evenly_spaced(3, 100) == [0, 1, 2] and choose_evenly_spaced(0, 5) == []


# ---- what anchors match


def every_iou(boxes: torch.Tensor, size: tuple[int, int], config: DetectorConfig) -> torch.Tensor:
    """The best IoU over all anchors that the network has for an image of this size."""
    detector = Detector(config, 1, "rpn").eval()
    seen = resize_targets(boxes, torch.tensor([size]).expand(len(boxes), 2), config.image)
    with torch.no_grad():
        batch = detector._batch(detector._prepare([torch.zeros(3, *size)]))
        output = detector.rpn(detector.backbone(batch.pixels), batch.padded)
    return box_iou(seen.boxes, all_anchors(output.levels)).amax(dim=1)


TINY = BackboneConfig(width=16, fpn_channels=8)
CONFIGS = {
    "default": DetectorConfig(backbone=TINY),
    "fine": DetectorConfig(backbone=dataclasses.replace(TINY, finest_stride=2)),
    "strided": DetectorConfig(backbone=TINY, rpn=RPNConfig(anchor_stride=2)),
    "torchvision": DetectorConfig(
        backbone=TINY,
        image=ImageConfig(resize="minmax", min_size=90, max_size=130, pad_multiple=32),
        rpn=RPNConfig(round_anchors=True, stride_from_size=True, anchor_offset=0.0),
    ),
    "square": DetectorConfig(backbone=TINY, image=ImageConfig(resize="square", max_size=100)),
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("size", [(64, 64), (45, 97), (7, 130)])
def test_best_anchor_is_the_best_of_all(name: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    corner, side = torch.rand(60, 2) * torch.tensor([size[1], size[0]]), torch.rand(60, 2) * 60 + 1
    boxes = torch.cat([corner - side / 2, corner + side / 2], dim=1)
    config = CONFIGS[name]
    targets = resize_targets(boxes, torch.tensor([size]).expand(60, 2), config.image)
    torch.testing.assert_close(compute_best_ious(targets, config), every_iou(boxes, size, config), atol=1e-5, rtol=1e-5)


def test_strides_are_those_of_the_backbone() -> None:
    for levels, pool in itertools.product((1, 2, 4), (False, True)):
        backbone = dataclasses.replace(TINY, num_levels=levels, pool_level=pool)
        maps = tuple((8.0,) for _ in range(levels + pool))
        detector = Detector(DetectorConfig(backbone=backbone, rpn=RPNConfig(anchor_sizes=maps)), 1, "rpn")
        assert detector.backbone.strides == compute_strides(backbone)


def test_anchors_of_another_number_of_levels_are_refused() -> None:
    config = DetectorConfig(backbone=dataclasses.replace(TINY, num_levels=4))
    with pytest.raises(UserError, match="anchor_sizes must list"):
        compute_best_ious(TargetBoxes(torch.zeros(0, 4), torch.zeros(0, 2, dtype=torch.int64)), config)


# ---- what is proposed


def make_targets(sides: torch.Tensor, size: int = 512) -> TargetBoxes:
    torch.manual_seed(1)
    corner = torch.rand(len(sides), 2) * (size - sides).clamp(min=0)
    return TargetBoxes(torch.cat([corner, corner + sides], dim=1), torch.full((len(sides), 2), size))


def spread(low: float, high: float, number: int = 400) -> torch.Tensor:
    torch.manual_seed(0)
    sizes = torch.exp(torch.empty(number, 1).uniform_(np.log(low), np.log(high)))
    root = torch.exp(torch.empty(number, 1).uniform_(-0.3, 0.3))
    return torch.cat([sizes * root, sizes / root], dim=1)


@pytest.mark.parametrize(
    ("sides", "finest"),
    [(spread(12, 60), 4), (spread(5, 12), 2), (spread(30, 500), 4), (torch.full((50, 2), 12.0), 4)],
)
def test_few_anchors_match_what_is_wanted(sides: torch.Tensor, finest: int) -> None:
    targets = make_targets(sides)
    config = propose_anchors(targets, DetectorConfig())
    sizes = list(itertools.chain(*config.rpn.anchor_sizes))
    assert compute_matched_fraction(compute_best_ious(targets, config), 0.5) >= 0.95
    assert count_anchors_per_location(config) <= 9 and config.backbone.finest_stride == finest
    assert sizes == sorted(set(sizes)) and list(config.rpn.anchor_ratios) == sorted(set(config.rpn.anchor_ratios))
    assert config.box.canonical_size == 14 * finest and 2**config.box.canonical_level == finest
    Detector(dataclasses.replace(config, backbone=dataclasses.replace(config.backbone, width=16)), 1, "rpn")


@pytest.mark.parametrize(("small", "finest"), [(10, 4), (30, 2)])
def test_many_small_objects_ask_for_a_fine_stride(small: int, finest: int) -> None:
    sides = torch.cat([torch.full((small, 2), 7.5), spread(12, 30, number=390)])
    config = propose_anchors(make_targets(sides), DetectorConfig())
    assert (
        config.backbone.finest_stride == finest
        and compute_matched_fraction(compute_best_ious(make_targets(sides), config), 0.5) >= 0.95
    )
    coarse = propose_anchors(make_targets(sides), DetectorConfig(), finest_strides=(4,))
    assert coarse.backbone.finest_stride == 4


def test_wide_objects_get_wide_anchors() -> None:
    config = propose_anchors(make_targets(torch.tensor([[60.0, 10.0]]).repeat(100, 1)), DetectorConfig())
    assert count_anchors_per_location(config) == 1 and config.rpn.anchor_ratios[0] == pytest.approx(1 / 6, rel=0.3)


def test_large_objects_get_coarse_levels() -> None:
    large = propose_anchors(make_targets(spread(20, 1500), 2048), DetectorConfig())
    assert compute_strides(large.backbone)[-1] >= 16 and large.rpn.anchor_sizes[-1][-1] > 500


def test_what_cannot_be_matched_gets_the_best_there_is() -> None:
    targets = make_targets(torch.full((200, 2), 1.0))
    config = propose_anchors(targets, DetectorConfig(), max_anchors=2)
    assert (
        config.backbone.finest_stride == 2 and compute_matched_fraction(compute_best_ious(targets, config), 0.5) < 0.95
    )
    with pytest.raises(ValueError, match="targets must contain at least one box"):
        propose_anchors(TargetBoxes(torch.zeros(0, 4), torch.zeros(0, 2, dtype=torch.int64)), DetectorConfig())


@settings(max_examples=10)
@given(st.integers(0, 1000), st.integers(1, 12), st.floats(0.5, 300), st.sampled_from(["small", "torchvision"]))
def test_any_objects_get_a_detector_that_can_be_built(seed: int, number: int, largest: float, name: str) -> None:
    torch.manual_seed(seed)
    targets = make_targets(torch.rand(number, 2) * largest + 0.01)
    config = propose_anchors(targets, get_preset(name), max_anchors=3)
    assert 0 <= compute_matched_fraction(compute_best_ious(targets, config), 0.5) <= 1
    assert count_anchors_per_location(config) <= 3 and len(config.rpn.anchor_sizes) == len(
        compute_strides(config.backbone)
    )
    maps = [torch.zeros(1, 1, 512 // s, 512 // s) for s in compute_strides(config.backbone)]
    make_anchor_levels(config.rpn, maps, compute_strides(config.backbone), (512, 512))


def test_limits_follow_the_fullest_image() -> None:
    few = propose_limits(DetectorConfig(), Crowding(1, 1, 1))
    many = propose_limits(DetectorConfig(), Crowding(5000, 300, 80))
    assert few.box.max_detections == 100 and few.rpn.pre_nms_top_n_inference == 500 and few.box.rois_per_image == 64
    assert many.box.max_detections == 10_000 and many.rpn.post_nms_top_n_inference == 15_000
    assert many.rpn.pre_nms_top_n_inference == 40_000 and many.rpn.post_nms_top_n_training == 1200
    assert many.rpn.anchors_per_image == 1200 and many.box.rois_per_image == 400
