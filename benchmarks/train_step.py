"""Compare a training step of the default Mask R-CNN with our operations and with torchvision's, on the same samples.

The latter is the same network with torchvision's RoIAlign per level, its batched NMS, a dense IoU matrix for matching,
and full-image masks for the targets. `python -m benchmarks.train_step`
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import click
import torch
from torch import Tensor
from torchvision import ops as tv

from benchmarks.quality import write_results
from benchmarks.time_to_quality import make_detector
from datasets.registry import open_dataset
from datasets.synthetic.config import SceneConfig, update_config
from datasets.synthetic.recipes import Recipe
from datasets.synthetic.writer import create
from maskrcnn.ops.matching import all_anchors
from maskrcnn.ops.types import Matches
from maskrcnn.ops.windows import window_pixels
from maskrcnn.structures.masks import CroppedMasks
from maskrcnn.training.config import TrainingConfig
from maskrcnn.training.loading import KeyedSamples, load_training_batches
from maskrcnn.training.machine import set_up_machine


def match_boxes(priors: Tensor, targets: Tensor, min_iou: float = 0.0, forced: str | None = None) -> Matches:
    """Match priors to targets with a dense IoU matrix."""
    if len(targets) == 0:
        nothing = torch.zeros(len(priors), device=priors.device)
        return Matches(nothing.long() - 1, nothing, nothing.bool())
    ious = tv.box_iou(targets, priors)
    iou, index = ious.max(dim=0)
    forced_matches = torch.zeros(len(priors), dtype=torch.bool, device=priors.device)
    if forced is not None:
        best = ious.max(dim=1, keepdim=True).values
        forced_matches = ((ious >= best * (1 - 1e-5)) & (best > 0)).any(dim=0)
    unmatched = (iou < min_iou) & ~forced_matches
    return Matches(index.masked_fill(unmatched, -1), iou.masked_fill(unmatched, 0.0), forced_matches)


def match_anchors(levels: Sequence[Any], targets: Tensor, min_iou: float = 0.0, forced: str | None = None) -> Matches:
    """Match anchors to targets with a dense IoU matrix."""
    return match_boxes(all_anchors(levels), targets, min_iou, forced)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, groups: Tensor | None = None) -> Tensor:
    """Suppress boxes with torchvision's batched NMS."""
    groups = torch.zeros_like(scores, dtype=torch.int64) if groups is None else groups
    return tv.batched_nms(boxes.float(), scores.float(), groups, iou_threshold)


def roi_align(
    features: Sequence[Tensor],
    boxes: Tensor,
    images: Tensor,
    levels: Tensor,
    strides: Sequence[float],
    output_size: int,
    sampling_ratio: int = 0,
    aligned: bool = True,
) -> Tensor:
    """Pool RoIs with torchvision's RoIAlign, level by level."""
    rois = torch.cat([images[:, None].to(boxes), boxes], dim=1)
    result = features[0].new_zeros(len(boxes), features[0].shape[1], output_size, output_size, dtype=torch.float32)
    for level, (feature, stride) in enumerate(zip(features, strides, strict=True)):
        here = torch.nonzero(levels == level).flatten()
        pooled = tv.roi_align(feature.float(), rois[here], output_size, 1 / stride, sampling_ratio or -1, aligned)
        result[here] = pooled
    return result.to(features[0].dtype)


def sample(
    masks: CroppedMasks,
    boxes: Tensor,
    output_size: int,
    index: Tensor,
    sampling_ratio: int = 0,
    aligned: bool = True,
    soft: bool = True,
) -> Tensor:
    """Sample mask targets from dense full-image masks."""
    dense = torch.zeros(len(masks), 1, *masks.size, device=boxes.device)
    owner, x, y = window_pixels(masks.windows)
    dense[owner, 0, y, x] = masks.data / 255
    rois = torch.cat([index[:, None].to(boxes), boxes], dim=1)
    targets: Tensor = tv.roi_align(dense, rois, output_size, 1.0, sampling_ratio or -1, aligned)[:, 0]
    return targets if soft else (targets >= 0.5).float()


@contextmanager
def torchvision_operations() -> Iterator[None]:
    """Replace our operations by torchvision's."""
    with ExitStack() as stack:
        for target, function in (
            ("maskrcnn.model.assign.match_boxes", match_boxes),
            ("maskrcnn.model.assign.match_anchors", match_anchors),
            ("maskrcnn.model.rpn.nms", nms),
            ("maskrcnn.model.box_head.nms", nms),
            ("maskrcnn.model.box_head.roi_align", roi_align),
            ("maskrcnn.structures.masks.CroppedMasks.sample", sample),
        ):
            stack.enter_context(patch(target, function))
        yield


@contextmanager
def our_operations() -> Iterator[None]:
    """Keep our operations."""
    yield


OPERATIONS = {"ours": our_operations, "torchvision": torchvision_operations}


@click.command()
@click.option("--steps", default=30, help="number of timed steps of each, alternating")
@click.option("--batch_size", default=2)
@click.option("--side", default=256, help="side of the square images (px)")
@click.option("--groups", default=4, help="groups of 7 ellipses per image, in addition to 20 free ellipses")
def main(steps: int, batch_size: int, side: int, groups: int) -> None:
    """Time training steps with both sets of operations."""
    config = TrainingConfig()
    machine = set_up_machine(config)
    detector = make_detector()
    machine.place(detector).train()
    with tempfile.TemporaryDirectory() as folder:
        scene = update_config(SceneConfig(), width=side, height=side, n_groups=groups)
        create(f"{folder}/ellipses", Recipe(n_train=4 * batch_size, n_test=1, scene=scene))
        samples = KeyedSamples(open_dataset("ellipses", f"{folder}/ellipses", "train"))
        batches = [
            batch.to(machine.device)
            for batch, _ in zip(load_training_batches(samples, batch_size), range(4), strict=False)
        ]

        def step(operations: str, number: int) -> tuple[float, list[float]]:
            batch = batches[number % len(batches)]
            torch.manual_seed(number)
            with OPERATIONS[operations]():
                start = time.perf_counter()
                with machine.autocast():
                    losses = detector.losses(batch.images, batch.instances)
                torch.stack([value.float() for value in losses.values()]).sum().backward()
                seconds = time.perf_counter() - start
            detector.zero_grad()
            return seconds, [value.item() for value in losses.values()]

        times: dict[str, list[float]] = {operations: [] for operations in OPERATIONS}
        max_difference = 0.0
        for number in range(-3, steps):
            results = {operations: step(operations, number % steps) for operations in OPERATIONS}
            ours, theirs = (results[operations][1] for operations in OPERATIONS)
            max_difference = max(max_difference, *(abs(a - b) for a, b in zip(ours, theirs, strict=True)))
            if number >= 0:
                for operations in OPERATIONS:
                    times[operations].append(results[operations][0])
    medians = {operations: statistics.median(values) for operations, values in times.items()}
    ratio = medians["torchvision"] / medians["ours"]
    print(
        "  ".join(f"{operations} {seconds * 1e3:.1f} ms" for operations, seconds in medians.items())
        + f"  ratio {ratio:.2f}"
    )
    print(f"maximum difference of losses {max_difference:.1e}")
    path = write_results(
        "train_step",
        " ".join(["python -m benchmarks.train_step", *sys.argv[1:]]),
        {"seconds": medians, "ratio": ratio, "losses_apart": max_difference},
    )
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
