"""Measure the time of confidence intervals: mask AP by size, 1,000 replicates of 500 images with 2,000 detections each.

`python -m benchmarks.intervals` prints the seconds taken to compute the overlaps of the masks, and those taken by all
replicates including matching.
"""

from __future__ import annotations

import sys
import time

import click
import numpy as np
import torch

from maskrcnn.evaluation.coco import IOU_THRESHOLDS, SIZE_RANGES
from maskrcnn.evaluation.matching import measure_average_precision
from maskrcnn.evaluation.overlaps import find_overlaps
from maskrcnn.evaluation.resampling import draw_image_weights, resample_average_precision
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks

SIZES = ("all", "very_tiny", "tiny", "aitod_small", "aitod_medium")
SIDE = 640  # of the images
OBJECTS = 400  # per image


def make_image(seed: int, num_detections: int) -> tuple[Instances, Instances]:
    """Make objects of 3 to 48 px, and detections: moved ones with high scores, and false positives."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    sides = 3 + 45 * rand(OBJECTS, 1) ** 3
    corners = rand(OBJECTS, 2) * (SIDE - sides)
    boxes = torch.cat([corners, corners + sides], dim=1).round()
    again = torch.randint(OBJECTS, (num_detections,), generator=generator)
    moved = (boxes[again] + 0.4 * sides[again] * torch.randn(num_detections, 4, generator=generator) * 0.4).round()
    moved[num_detections // 2 :, :] += 200 * (rand(num_detections - num_detections // 2, 1) - 0.5).round()
    moved = moved.clamp(0, SIDE)
    moved[:, 2:] = torch.maximum(moved[:, 2:], moved[:, :2] + 1)
    scores = (rand(num_detections) * torch.linspace(1, 0.3, num_detections)).float()
    size, labels = (SIDE + 1, SIDE + 1), torch.ones(num_detections, dtype=torch.int64)
    targets = Instances(size, boxes, labels[:OBJECTS], masks=CroppedMasks.from_boxes(boxes, size))
    return targets, Instances(size, moved, labels, scores, CroppedMasks.from_boxes(moved, size))


@click.command()
@click.option("--num_images", default=500, help="images")
@click.option("--num_detections", default=2000, help="detections per image")
@click.option("--replicates", default=1000, help="replicates of the bootstrap")
def main(num_images: int, num_detections: int, replicates: int) -> None:
    """Measure the time of resampled mask AP by size."""
    from benchmarks.quality import write_results

    made = [make_image(seed, num_detections) for seed in range(num_images)]
    targets, found = ({i: pair[part] for i, pair in enumerate(made)} for part in (0, 1))
    start = time.perf_counter()
    overlaps = find_overlaps(targets, found, ("object",), "mask")
    figures: dict[str, object] = {"overlaps_seconds": time.perf_counter() - start, "pairs": len(overlaps.iou)}
    weights = draw_image_weights(num_images, replicates)
    weights[0] = 1
    start, used = time.perf_counter(), time.process_time()
    values = {size: resample_average_precision(overlaps, weights, IOU_THRESHOLDS, SIZE_RANGES[size]) for size in SIZES}
    figures["replicates_seconds"] = time.perf_counter() - start
    figures["replicates_cpu_seconds"] = time.process_time() - used  # the machine may be busy with something else
    for size, each in values.items():
        exact = measure_average_precision(overlaps, IOU_THRESHOLDS, SIZE_RANGES[size])
        assert exact is not None
        figures[size] = {"ap": exact, "std": float(np.nanstd(each[1:])), "joined_minus_exact": float(each[0]) - exact}
    for name, value in figures.items():
        print(f"{name}: {value}")
    command = " ".join(["python -m benchmarks.intervals", *sys.argv[1:]])
    print(f"wrote {write_results('intervals', command, figures)}")


if __name__ == "__main__":
    main()
