"""Results do not depend on PyTorch's default dtype."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import detector_toy
import ops_toy
import pytest
import torch
from detector_toy import HEADS, disks, one_class, toy_detector
from ops_toy import DEFINITIONS
from torch.utils import _pytree as pytree

from augment.config import AugmentConfig
from augment.training import make_training_transform
from maskrcnn.model.coverage import compute_best_ious, resize_targets
from maskrcnn.model.proposal import propose_anchors
from maskrcnn.ops import boxes, matching, pooling
from maskrcnn.ops.types import AnchorLevel
from maskrcnn.structures.boxes import assign_levels, clip_boxes, decode_boxes, encode_boxes, enlarge_boxes, scale_boxes
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks

DTYPES = [torch.float16, torch.bfloat16, torch.float64]


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def assert_same(compute: Callable[[], Any], dtype: torch.dtype) -> None:
    """To the last bit, and of the same types, as under float32."""
    wanted = pytree.tree_leaves(compute())
    with default_dtype(dtype):
        found = pytree.tree_leaves(compute())
    assert len(found) == len(wanted)
    for got, expected in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.usefixtures("core")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", sorted(DEFINITIONS))
def test_operations(name: str, dtype: torch.dtype) -> None:
    from maskrcnn.ops._native import native

    operation = native(DEFINITIONS[name], torch.device("cpu"))
    for arguments in ops_toy.draws(name, 8):
        assert_same(lambda arguments=arguments: operation(*arguments), dtype)


LEVELS = [
    AnchorLevel((4.0, 4.0), (2.0, 2.0), torch.tensor([[7.3, 11.7], [12.1, 9.9]]), 120, 150),
    AnchorLevel((8.4, 8.6), (4.2, 4.3), torch.tensor([[20.3, 21.7], [32.1, 19.9]]), 60, 75),
]
GENERATOR = torch.Generator().manual_seed(0)
CORNERS = torch.rand(300, 2, generator=GENERATOR) * 600
BOXES = torch.cat([CORNERS, CORNERS + 1 + 20 * torch.rand(300, 2, generator=GENERATOR)], dim=1)
IMAGES = torch.zeros(300, dtype=torch.int64)
MAPS = [torch.randn(1, 3, 150, 150, generator=GENERATOR), torch.randn(1, 3, 75, 75, generator=GENERATOR)]
MAP = torch.tensor([[0.9, 0.2, 3], [-0.1, 1.1, 2]], dtype=torch.float64)
MASKS = CroppedMasks.from_dense(torch.rand(4, 301, 407, generator=GENERATOR) > 0.999)
FUNCTIONS: dict[str, Callable[[], Any]] = {
    "match_anchors": lambda: matching.match_anchors(LEVELS, BOXES, 0.3, "all"),
    "all_anchors": lambda: matching.all_anchors(LEVELS),
    "anchors_at": lambda: matching.anchors_at(LEVELS[1], torch.arange(120 * 75)),
    "covered": lambda: matching.covered(BOXES, BOXES * 0.9),
    "box_iou": lambda: boxes.box_iou(BOXES, BOXES.flip(0)),
    "box_iou of integers": lambda: boxes.box_iou(BOXES.long(), BOXES.long().flip(0)),
    "box_area of halves": lambda: boxes.box_area(BOXES.half()),
    "roi_align": lambda: pooling.roi_align(MAPS, BOXES, IMAGES, IMAGES, [4.3, 8.6], 7, 0),
    "crop_and_resize": lambda: pooling.crop_and_resize(MAPS[0], BOXES / 600, IMAGES, 7),
    "encode and decode": lambda: decode_boxes(
        encode_boxes(BOXES, BOXES.flip(0), (10.0, 10.0, 5.3, 5.3)), BOXES.flip(0), (10.0, 10.0, 5.3, 5.3)
    ),
    "clip, scale, enlarge": lambda: enlarge_boxes(scale_boxes(clip_boxes(BOXES, (301, 407)), 1.1, 0.7), 1.3, 1.7),
    "assign_levels": lambda: assign_levels(BOXES, 28.3, 1, [1, 2, 3]),
    "masks resized": lambda: MASKS.resize((170, 333)).parts,
    "masks warped": lambda: MASKS.warp(MAP, (301, 407)).parts,
    "masks of boxes": lambda: CroppedMasks.from_boxes(BOXES, (301, 407)).parts,
    "masks seen through boxes": lambda: MASKS.sample(BOXES[:4], 14),
    "empty instances": lambda: Instances.empty((3, 4)).boxes,
}


@pytest.mark.usefixtures("core")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str, dtype: torch.dtype) -> None:
    assert_same(FUNCTIONS[name], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_anchors_that_data_asks_for(dtype: torch.dtype) -> None:
    sizes = torch.tensor([[601, 499]]).expand(300, 2)

    def propose() -> Any:
        objects = resize_targets(BOXES.clamp(max=499), sizes, detector_toy.TOY.image)
        config = propose_anchors(objects, detector_toy.TOY, max_anchors=2)
        return compute_best_ious(objects, config), torch.tensor(config.rpn.anchor_sizes, dtype=torch.float64)

    assert_same(propose, dtype)


SCENES = [disks((96, 128), seed=seed) for seed in range(2)]
PICTURES, TARGETS = [image for image, _ in SCENES], [one_class(targets) for _, targets in SCENES]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head", HEADS)
def test_training_step_and_detection(head: str, dtype: torch.dtype) -> None:
    """Of a detector that is built, trained by one step and used under the default dtype."""

    def train_and_detect() -> Any:
        detector = toy_detector(head, box__min_score=0.0, rpn__pre_nms_top_n_inference=100)
        optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-3)
        torch.manual_seed(1)
        losses = detector(PICTURES, TARGETS)
        sum(losses.values()).backward()
        optimizer.step()
        found = detector(PICTURES)
        masks = [each.masks.parts for each in found if each.masks is not None]
        return losses, dict(detector.state_dict()), [(each.boxes, each.labels, each.scores) for each in found], masks

    assert_same(train_and_detect, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_augmentation(dtype: torch.dtype) -> None:
    transform = make_training_transform(AugmentConfig(), Scenes())

    def augment() -> Any:
        samples = []
        for seed in range(8):
            image, targets = transform(*SCENES[seed % 2], torch.Generator().manual_seed(seed))
            samples.append((image, targets.boxes, targets.masks and targets.masks.parts, targets.ignore))
        return samples

    assert_same(augment, dtype)


class Scenes:
    def __len__(self) -> int:
        return len(SCENES)

    def __getitem__(self, index: int) -> Any:
        return SCENES[index]
